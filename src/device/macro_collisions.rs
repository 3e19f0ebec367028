//! Explains compile errors that a tunable causes: a tunable is a macro, so it replaces every identifier of its name.
//!
//! Reads the source and the compiler's error; compiles nothing. Both devices use the same words.

use crate::kernel::lexer::{Lexeme, LexemeKind, lex};

/// Keywords that an expression may follow.
const CXX_OPERATORS: &[&str] = &[
    "return",
    "case",
    "else",
    "do",
    "goto",
    "throw",
    "new",
    "delete",
    "sizeof",
    "alignof",
    "and",
    "or",
    "not",
    "xor",
    "co_return",
    "co_yield",
    "defined",
];

/// An identifier that a tunable replaces where a number cannot be.
#[derive(Debug, PartialEq, Eq)]
struct Collision<'a> {
    line: u32,
    name: &'a str,
    /// What the source uses the name for, such as `template parameter`.
    role: &'static str,
}

/// A compiler's first error.
pub(super) struct CompilerError<'a> {
    /// The lines of the kernel file that the error names.
    pub(super) lines: &'a [u32],
    /// The error with the lines of source that the compiler quotes.
    pub(super) text: &'a str,
}

/// The line and the explanation of an error, if a tunable of the same name causes it.
pub(super) fn explain(
    source: &str,
    tunables: &[(String, i64)],
    error: &CompilerError<'_>,
) -> Option<(Option<u32>, String)> {
    let names: Vec<_> = tunables.iter().map(|(name, _)| name.as_str()).collect();
    let found = find(source, &names);
    let collision = found.iter().find(|found| error.lines.contains(&found.line));
    if let Some(Collision { line, name, role }) = collision {
        return Some((
            Some(*line),
            format!(
                "line {line}: the tunable `{name}` is a macro, so its value replaces the {role} `{name}` here: \
                 rename the tunable or the {role}"
            ),
        ));
    }
    // A header of CUDA or of C++ uses the name.
    if !error.lines.is_empty() {
        return None;
    }
    let name = names
        .iter()
        .find(|name| quotes_declared(error.text, name))?;
    Some((
        None,
        format!(
            "the tunable `{name}` is a macro, so its value replaces `{name}` in a header that the kernel includes: \
             rename the tunable"
        ),
    ))
}

/// The names among `macros` that a source declares itself, as in `constexpr float M_PI = 3.14f`.
pub(super) fn declared<'a>(source: &str, macros: &[&'a str]) -> Vec<&'a str> {
    let mut found: Vec<_> = find(source, macros)
        .into_iter()
        .map(|found| found.name)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether a quoted line of a header uses a name where a number cannot be.
fn quotes_declared(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        // A compiler may put the line's number in front.
        let quoted = line.split_once('|').map_or(line, |(_, quoted)| quoted);
        !find(quoted, &[name]).is_empty()
    })
}

/// The places where a source uses one of the names and a number cannot be. Literals, comments and directives are left out.
fn find<'a>(source: &str, names: &[&'a str]) -> Vec<Collision<'a>> {
    if !names.iter().any(|name| source.contains(name)) {
        return Vec::new();
    }
    let lexemes = lex(source);
    let mut scopes = SyntaxPosition::default();
    let mut found = Vec::new();
    for (index, lexeme) in lexemes.iter().enumerate() {
        let text = &source[lexeme.range.clone()];
        scopes.read(text, lexeme.kind);
        let name = names.iter().find(|name| **name == text);
        let Some(name) = name.filter(|_| lexeme.kind == LexemeKind::Identifier) else {
            continue;
        };
        if let Some(role) = role(source, &lexemes, index, &scopes) {
            found.push(Collision {
                line: lexeme.line,
                name,
                role,
            });
        }
    }
    found
}

/// What an identifier is, if a number cannot be in its place.
fn role(
    source: &str,
    lexemes: &[Lexeme],
    index: usize,
    scopes: &SyntaxPosition,
) -> Option<&'static str> {
    let text = |index: Option<usize>| {
        let lexeme = index.and_then(|index| lexemes.get(index));
        lexeme.map_or("", |lexeme| &source[lexeme.range.clone()])
    };
    let before = |count: usize| text(index.checked_sub(count));
    let is_word = |count: usize| {
        let lexeme = index
            .checked_sub(count)
            .and_then(|index| lexemes.get(index));
        lexeme.is_some_and(|lexeme| lexeme.kind == LexemeKind::Identifier)
    };
    let is_declared = match before(1) {
        "." => return Some("name"),
        ">" if before(2) == "-" => return Some("name"),
        ":" if before(2) == ":" => return Some("name"),
        "struct" | "class" | "union" | "enum" | "namespace" | "using" => {
            return Some(if scopes.in_template {
                "template parameter"
            } else {
                "name"
            });
        }
        "*" | "&" => is_word(2) && is_type_keyword(before(2)),
        word => is_word(1) && !CXX_OPERATORS.contains(&word),
    };
    let next = (text(Some(index + 1)), text(Some(index + 2)));
    match (is_declared, before(1)) {
        (true, _) if scopes.in_template => Some("template parameter"),
        (true, _) if scopes.parentheses > 0 => Some("parameter"),
        (true, _) if next.0 == "(" => Some("function"),
        (true, _) => Some("variable"),
        (false, _) if next == (":", ":") => Some("name"),
        (false, "{" | ",") if scopes.in_enum => Some("enumerator"),
        _ => None,
    }
}

fn is_type_keyword(word: &str) -> bool {
    matches!(
        word,
        "int"
            | "unsigned"
            | "signed"
            | "char"
            | "short"
            | "long"
            | "float"
            | "double"
            | "bool"
            | "void"
            | "auto"
            | "const"
            | "volatile"
            | "size_t"
    )
}

/// Where a lexeme is: in a template's parameter list, in parentheses, in the braces of an enumeration.
#[derive(Debug, Default)]
struct SyntaxPosition {
    in_template: bool,
    in_enum: bool,
    parentheses: usize,
    angles: usize,
    starts_template: bool,
    starts_enum: bool,
}

impl SyntaxPosition {
    fn read(&mut self, text: &str, kind: LexemeKind) {
        match (kind, text) {
            (LexemeKind::Identifier, "template") => self.starts_template = true,
            (LexemeKind::Identifier, "enum") => self.starts_enum = !self.in_template,
            (LexemeKind::Symbol, "<") if self.starts_template || self.in_template => {
                self.in_template = true;
                self.starts_template = false;
                self.angles += 1;
            }
            (LexemeKind::Symbol, ">") if self.in_template => {
                self.angles = self.angles.saturating_sub(1);
                self.in_template = self.angles > 0;
            }
            (LexemeKind::Symbol, "(") => self.parentheses += 1,
            (LexemeKind::Symbol, ")") => self.parentheses = self.parentheses.saturating_sub(1),
            (LexemeKind::Symbol, "{") => {
                self.in_enum = std::mem::take(&mut self.starts_enum);
                *self = Self {
                    in_enum: self.in_enum,
                    ..Self::default()
                };
            }
            (LexemeKind::Symbol, "}") => self.in_enum = false,
            (LexemeKind::Symbol, ";") => *self = Self::default(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(source: &str) -> Vec<(u32, &'static str)> {
        let found = find(source, &["TILE"]);
        found.iter().map(|found| (found.line, found.role)).collect()
    }

    #[test]
    fn names_that_a_number_cannot_replace_are_found() {
        for (source, role) in [
            ("template <int TILE> void f() {}", "template parameter"),
            (
                "template <typename T, int N, unsigned TILE = 3> void f() {}",
                "template parameter",
            ),
            ("template <class TILE> void f() {}", "template parameter"),
            ("template <int... TILE> void f() {}", "name"),
            ("void f(const float* x, int TILE) {}", "parameter"),
            ("void f(float* TILE) {}", "parameter"),
            ("void f() { const int TILE = 4; }", "variable"),
            ("constexpr int TILE = 4;", "variable"),
            ("__device__ int TILE(int x) { return x; }", "function"),
            ("struct TILE { int x; };", "name"),
            ("int f(Shape s) { return s.TILE; }", "name"),
            ("int f(Shape* s) { return s->TILE; }", "name"),
            ("int f() { return Traits::TILE; }", "name"),
            ("int f() { return TILE::value; }", "name"),
            ("enum Sizes { OTHER, TILE = 4 };", "enumerator"),
            ("enum { TILE };", "enumerator"),
        ] {
            assert_eq!(roles(source), [(1, role)], "{source}");
        }
    }

    #[test]
    fn places_for_a_number_are_not_collisions() {
        for source in [
            "__shared__ float s[TILE][TILE + 1];",
            "void f() { for (int i = 0; i < TILE; i += TILE) {} }",
            "void f() { g<TILE, 3>(TILE, -TILE); }",
            "int f() { return TILE; }",
            "int f(int x) { return x > 0 ? TILE : x * TILE; }",
            "template <int N = TILE> void f() {}",
            "enum { A = TILE };",
            "#pragma unroll TILE\n",
            "// int TILE\n",
            "int x = TILE & TILE;",
            "switch (x) { case TILE: break; }",
        ] {
            assert_eq!(roles(source), [], "{source}");
        }
    }

    #[test]
    fn only_an_error_on_its_line_is_explained() {
        let tunables = [("TILE".to_owned(), 4)];
        let source = "int a;\ntemplate <int TILE> void f() {}\n";
        let explained = |lines: &[u32], text: &str| {
            explain(source, &tunables, &CompilerError { lines, text }).map(|(line, _)| line)
        };
        assert_eq!(explained(&[2], ""), Some(Some(2)));
        assert_eq!(explained(&[1], ""), None);
        assert_eq!(explained(&[], "   77 | template <int TILE>\n"), Some(None));
        assert_eq!(explained(&[], "x.h(7): error: no\n  int x = TILE;\n"), None);
    }
}
