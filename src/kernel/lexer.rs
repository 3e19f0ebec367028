//! The one lexer for C++ sources: for code that needs lexemes and lines, and no syntax tree.
//!
//! The device layer uses [`lex`] to find forbidden words and declarations before a compiler runs. The reader of model replies
//! uses [`CodeLines`] to find the end of a code block. Both read comments and literals through the same function, so they agree
//! on where code starts and ends. Never fails, whatever the text; evaluates no directive and expands no macro.

use std::ops::Range;

/// The prefixes of raw string literals.
const RAW_PREFIXES: [&str; 5] = ["R", "LR", "uR", "UR", "u8R"];

/// The longest delimiter that C++ allows in a raw string literal, in bytes.
const MAX_RAW_DELIMITER: usize = 16;

/// One lexeme of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lexeme {
    pub kind: LexemeKind,
    /// In bytes.
    pub range: Range<usize>,
    /// The line where the lexeme starts, counted from 1.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LexemeKind {
    /// Identifiers and keywords.
    Identifier,
    Number,
    /// String and character literals.
    Literal,
    /// A whole preprocessor line, with its continuation lines.
    Directive,
    /// One character of punctuation.
    Symbol,
}

/// The lexemes of a source, in order. Comments and white space are left out.
pub(crate) fn lex(source: &str) -> Vec<Lexeme> {
    let mut lexemes = Vec::new();
    let (mut at, mut line, mut is_line_start) = (0, 1, true);
    while at < source.len() {
        let span = Span::at(source, at, is_line_start);
        let kind = match span.kind {
            SpanKind::Newline => {
                is_line_start = true;
                None
            }
            SpanKind::Space | SpanKind::Comment { .. } => None,
            SpanKind::Identifier => Some(LexemeKind::Identifier),
            SpanKind::Number => Some(LexemeKind::Number),
            SpanKind::Literal { .. } => Some(LexemeKind::Literal),
            SpanKind::Directive => Some(LexemeKind::Directive),
            SpanKind::Symbol => Some(LexemeKind::Symbol),
        };
        if let Some(kind) = kind {
            is_line_start = false;
            lexemes.push(Lexeme {
                kind,
                range: at..span.end,
                line,
            });
        }
        line += count_newlines(&source[at..span.end]);
        at = span.end;
    }
    lexemes
}

/// Reads a source line by line, and knows where the next line starts: in code, in a comment, or in a raw string literal.
/// A directive counts as code.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodeLines {
    state: LineState,
    brace_depth: i64,
    has_nested_comment: bool,
}

/// Where a line starts.
#[derive(Clone, Debug, Default, PartialEq)]
enum LineState {
    #[default]
    Code,
    Comment,
    /// A raw string literal, and the text that ends it.
    RawLiteral(String),
}

impl CodeLines {
    /// Reads one line, given without its line break.
    pub(crate) fn read(&mut self, line: &str) {
        self.has_nested_comment = false;
        let mut at = 0;
        while at < line.len() {
            at = match &self.state {
                LineState::Code => self.read_code(line, at),
                LineState::Comment => self.read_comment(line, at),
                LineState::RawLiteral(close) => match line[at..].find(close.as_str()) {
                    Some(offset) => {
                        let end = at + offset + close.len();
                        self.state = LineState::Code;
                        end
                    }
                    None => line.len(),
                },
            };
        }
    }

    /// Whether the next line starts in a comment or in a raw string literal.
    pub(crate) fn is_within(&self) -> bool {
        self.state != LineState::Code
    }

    /// Whether the next line starts in a comment.
    pub(crate) fn is_comment(&self) -> bool {
        self.state == LineState::Comment
    }

    /// Opening braces minus closing braces so far, outside comments and literals.
    pub(crate) fn brace_depth(&self) -> i64 {
        self.brace_depth
    }

    /// Whether the last line had a `/*` within a comment: a sign that the comment was never closed.
    pub(crate) fn has_nested_comment(&self) -> bool {
        self.has_nested_comment
    }

    fn read_code(&mut self, line: &str, at: usize) -> usize {
        let span = Span::at(line, at, false);
        match span.kind {
            SpanKind::Comment { is_block: true } => {
                self.state = LineState::Comment;
                // The rest of the comment is read in the same state as a comment that started in an earlier line.
                return at + "/*".len();
            }
            SpanKind::Literal {
                missing_end: Some(close),
            } => self.state = LineState::RawLiteral(close),
            SpanKind::Symbol => match &line[at..span.end] {
                "{" => self.brace_depth += 1,
                "}" => self.brace_depth -= 1,
                _ => {}
            },
            _ => {}
        }
        span.end
    }

    fn read_comment(&mut self, line: &str, at: usize) -> usize {
        let rest = &line[at..];
        let (body, end) = match rest.find("*/") {
            Some(offset) => {
                self.state = LineState::Code;
                (&rest[..offset], at + offset + "*/".len())
            }
            None => (rest, line.len()),
        };
        self.has_nested_comment |= body.contains("/*");
        end
    }
}

/// A stretch of source of one kind, and where it ends.
struct Span {
    kind: SpanKind,
    end: usize,
}

enum SpanKind {
    Newline,
    /// One white-space character that does not end a line.
    Space,
    Comment {
        is_block: bool,
    },
    Identifier,
    Number,
    Literal {
        /// For a raw string literal that does not end in this text: the text that would end it.
        missing_end: Option<String>,
    },
    Directive,
    Symbol,
}

impl Span {
    /// The span at a byte offset, which must be before the end. `is_line_start`: a `#` here starts a directive.
    fn at(source: &str, at: usize, is_line_start: bool) -> Self {
        let bytes = source.as_bytes();
        let next = bytes.get(at + 1);
        let (kind, end) = match bytes[at] {
            b'\n' => (SpanKind::Newline, at + 1),
            byte if byte.is_ascii_whitespace() => (SpanKind::Space, at + 1),
            b'/' if next == Some(&b'/') => (
                SpanKind::Comment { is_block: false },
                end_of_line(bytes, at),
            ),
            b'/' if next == Some(&b'*') => (
                SpanKind::Comment { is_block: true },
                end_of_comment(source, at),
            ),
            b'#' if is_line_start => (SpanKind::Directive, end_of_directive(source, at)),
            // `%:` is another spelling of `#`.
            b'%' if is_line_start && next == Some(&b':') => {
                (SpanKind::Directive, end_of_directive(source, at))
            }
            b'"' | b'\'' => (
                SpanKind::Literal { missing_end: None },
                end_of_literal(source, at),
            ),
            byte if byte.is_ascii_digit() => (SpanKind::Number, end_of_number(bytes, at)),
            byte if is_identifier_byte(byte) => return Self::identifier_or_raw_literal(source, at),
            _ => {
                let length = source[at..].chars().next().map_or(1, char::len_utf8);
                (SpanKind::Symbol, at + length)
            }
        };
        Self { kind, end }
    }

    fn identifier_or_raw_literal(source: &str, at: usize) -> Self {
        let rest = &source.as_bytes()[at..];
        let length = rest
            .iter()
            .take_while(|byte| is_identifier_byte(**byte))
            .count();
        let end = at + length;
        if RAW_PREFIXES.contains(&&source[at..end])
            && let Some(close) = raw_literal_close(&source[end..])
        {
            // The quote, the delimiter and the parenthesis are as long as what closes them.
            let body = end + close.len();
            let (end, missing_end) = match source[body..].find(&close) {
                Some(offset) => (body + offset + close.len(), None),
                None => (source.len(), Some(close)),
            };
            return Self {
                kind: SpanKind::Literal { missing_end },
                end,
            };
        }
        Self {
            kind: SpanKind::Identifier,
            end,
        }
    }
}

/// The text that ends a raw string literal, from the text after its prefix; `None` if no such literal starts there.
fn raw_literal_close(text: &str) -> Option<String> {
    let (delimiter, _) = text.strip_prefix('"')?.split_once('(')?;
    let is_valid = delimiter.len() <= MAX_RAW_DELIMITER
        && !delimiter
            .contains(|letter: char| letter.is_whitespace() || [')', '\\', '"'].contains(&letter));
    is_valid.then(|| format!("){delimiter}\""))
}

fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn count_newlines(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

/// A digit separator, as in `1'000`, does not start a literal.
fn end_of_number(bytes: &[u8], start: usize) -> usize {
    let is_part =
        |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'.' | b'\'' | b'_');
    start + bytes[start..].iter().take_while(is_part).count()
}

/// The end of a line, with the lines that backslashes continue it by.
fn end_of_line(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() && (bytes[at] != b'\n' || is_continued(&bytes[start..at])) {
        at += 1;
    }
    at
}

/// Compilers ignore white space between a backslash and the end of its line.
fn is_continued(line: &[u8]) -> bool {
    let is_blank = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c);
    line.iter().rev().find(|byte| !is_blank(byte)) == Some(&b'\\')
}

fn end_of_comment(source: &str, start: usize) -> usize {
    let body = start + "/*".len();
    source[body..]
        .find("*/")
        .map_or(source.len(), |offset| body + offset + "*/".len())
}

/// The end of a directive: as [`end_of_line`], except that a block comment in it may span lines.
fn end_of_directive(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        at = match (bytes[at], bytes.get(at + 1)) {
            (b'\n', _) if !is_continued(&bytes[start..at]) => return at,
            (b'/', Some(b'/')) => return end_of_line(bytes, at),
            (b'/', Some(b'*')) => end_of_comment(source, at),
            (b'"' | b'\'', _) => end_of_literal(source, at),
            _ => at + 1,
        };
    }
    at
}

/// The end of a literal: its closing quote, or the end of its line. Reporting an unterminated literal is the compiler's job.
fn end_of_literal(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != bytes[start] && bytes[at] != b'\n' {
        at += match &bytes[at..] {
            [b'\\', b'\r', b'\n', ..] => 3,
            [b'\\', ..] => 2,
            _ => 1,
        };
    }
    let close = usize::from(bytes.get(at) == Some(&bytes[start]));
    let mut end = (at + close).min(bytes.len());
    // A backslash may have skipped into the middle of a character.
    while !source.is_char_boundary(end) {
        end += 1;
    }
    end
}

/// A directive as the preprocessor reads it: continued lines joined, and a space for every comment.
pub(crate) fn strip_comments(directive: &str) -> String {
    let mut joined = String::new();
    for line in directive.split_inclusive('\n') {
        let text = line.trim_end();
        joined.push_str(text.strip_suffix('\\').unwrap_or(line));
    }
    let mut plain = String::new();
    let mut rest = joined.as_str();
    while let Some(start) = rest.find("/*") {
        plain.push_str(&rest[..start]);
        plain.push(' ');
        rest = &rest[end_of_comment(rest, start)..];
    }
    plain + rest
}

/// Whether the text of a directive after its `#` starts with this name.
pub(crate) fn starts_with_directive(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|rest| {
        !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
    })
}

/// Whether nothing separates the first three lexemes, as in the three characters of `<<<`.
pub(crate) fn are_adjacent(lexemes: &[Lexeme]) -> bool {
    lexemes
        .windows(2)
        .take(2)
        .all(|pair| pair[0].range.end == pair[1].range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_separated_from_comments_literals_and_directives() {
        let source = "#define A \\\n  asm\n/* asm\n */ x = \"asm\"; // asm\nR\"(asm)\" 'a' 1.5e3f y\n# pragma once";
        let words: Vec<_> = lex(source)
            .into_iter()
            .filter(|lexeme| lexeme.kind == LexemeKind::Identifier)
            .map(|lexeme| (&source[lexeme.range], lexeme.line))
            .collect();
        assert_eq!(words, [("x", 4), ("y", 5)]);
        let kinds = lex(source).into_iter().map(|lexeme| lexeme.kind);
        assert_eq!(
            kinds.filter(|kind| *kind == LexemeKind::Directive).count(),
            2
        );
    }

    #[test]
    fn directives_end_where_a_compiler_ends_them() {
        for (source, expected) in [
            ("#a \\\r\n b\nx", "#a \\\r\n b"),
            ("#a \\ \t\n b\nx", "#a \\ \t\n b"),
            ("#a /* \n */ b\nx", "#a /* \n */ b"),
            ("#a \"/*\"\nx */", "#a \"/*\""),
            ("#a // /*\nx */", "#a // /*"),
            ("#a don't\n#b", "#a don't"),
            ("#a '\n", "#a '"),
            ("#\\", "#\\"),
            ("%:a\nx", "%:a"),
        ] {
            let lexemes = lex(source);
            assert_eq!(lexemes[0].kind, LexemeKind::Directive);
            assert_eq!(&source[lexemes[0].range.clone()], expected);
        }
        let source = "'a\n#b";
        assert_eq!(lex(source)[1].kind, LexemeKind::Directive);
    }

    #[test]
    fn raw_literals_need_a_prefix_and_a_delimiter_that_cpp_allows() {
        let first = |source: &str| {
            let lexeme = lex(source).remove(0);
            (lexeme.kind, source[lexeme.range].to_owned())
        };
        for prefix in RAW_PREFIXES {
            let literal = format!("{prefix}\"x(\" asm )y\" )x\"");
            let found = first(&format!("{literal} asm"));
            assert_eq!(found, (LexemeKind::Literal, literal));
        }
        for other in [
            "FOOR\"(\" asm",
            "R\"a b(\" asm",
            "R\"seventeen_letters(\" asm",
        ] {
            assert_eq!(first(other).0, LexemeKind::Identifier, "{other}");
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        let source = "\"\\é R\"x( /* 'é #\\\n";
        for end in (0..=source.len()).filter(|end| source.is_char_boundary(*end)) {
            for lexeme in lex(&source[..end]) {
                assert!(source.is_char_boundary(lexeme.range.start) && lexeme.range.end <= end);
            }
            CodeLines::default().read(&source[..end]);
        }
    }

    fn lines_of(text: &str) -> CodeLines {
        let mut lines = CodeLines::default();
        text.lines().for_each(|line| lines.read(line));
        lines
    }

    #[test]
    fn lines_within_comments_and_raw_literals_are_known() {
        assert!(lines_of("int x; /* starts").is_comment());
        assert!(!lines_of("int x; /* starts\nand ends */ int y;").is_within());
        assert!(!lines_of("const char* s = \"/*\"; // /*").is_within());
        assert!(lines_of("auto s = R\"x(\n)\" \"").is_within());
        assert!(!lines_of("auto s = R\"x(\n)x\";").is_within());
        assert!(lines_of("/* a\n/* b").has_nested_comment());
        assert!(lines_of("/* a /* b */").has_nested_comment());
        assert!(!lines_of("/* a\n/* b\nc").has_nested_comment());
    }

    #[test]
    fn braces_within_comments_and_literals_do_not_count() {
        assert_eq!(lines_of("if (a) { /* } */ '{'; \"}\"").brace_depth(), 1);
        assert_eq!(lines_of("x = 1'000; { y = 'a'; }").brace_depth(), 0);
        assert_eq!(lines_of("\"unclosed {\n}").brace_depth(), -1);
        assert_eq!(lines_of("#define OPEN {\n").brace_depth(), 1);
    }
}
