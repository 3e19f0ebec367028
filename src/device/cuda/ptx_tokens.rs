//! Splits PTX into tokens and statements, as the assembler reads it: comments and strings are no code, and a statement ends with `;`,
//! not with its line.
//!
//! Text in, data out; `ptx_rules` decides what is forbidden. Inline PTX can be any text, so a construct that the assembler may read in
//! another way than this file is an error, never skipped.

/// The comments that the compiler writes around inline PTX.
const ASSEMBLY_BEGINS: &str = "begin inline asm";
const ASSEMBLY_ENDS: &str = "end inline asm";
/// Part of the comments around inline PTX outside of functions.
const FILE_SCOPE: &str = "file scope inline";

/// Part of PTX that has a meaning by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'p> {
    pub(super) kind: TokenKind,
    pub(super) text: &'p str,
    /// The number of the inline PTX that it is from, according to the compiler's comments.
    pub(super) assembly: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name, a number, a register, or a part of an instruction or directive with its dot: `.global`.
    Word,
    /// A string with its quotes.
    Text,
    /// One character of punctuation.
    Symbol,
}

impl Token<'_> {
    pub(super) fn is(&self, text: &str) -> bool {
        self.text == text && self.kind != TokenKind::Text
    }

    /// Whether it is a word that begins with a dot, such as `.global`.
    pub(super) fn is_directive(&self) -> bool {
        self.kind == TokenKind::Word && self.text.starts_with('.')
    }
}

/// A construct that the assembler and this file may read differently, named for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguity(pub(super) &'static str);

/// The tokens of a PTX text, without comments.
pub(super) fn tokenize(ptx: &str) -> Result<Vec<Token<'_>>, Ambiguity> {
    let mut tokens = Vec::new();
    let mut assembly = AssemblyComments::default();
    let mut at = 0;
    while let Some(first) = ptx[at..].chars().next() {
        let rest = &ptx[at..];
        let (kind, length) = match first {
            _ if first.is_whitespace() => (None, first.len_utf8()),
            '/' if rest.starts_with("//") => {
                let line = rest.split('\n').next().unwrap_or(rest);
                assembly.read(line)?;
                (None, line.len())
            }
            '/' if rest.starts_with("/*") => (None, block_comment_length(rest)?),
            '"' => (Some(TokenKind::Text), string_length(rest)?),
            '#' => return Err(Ambiguity("a preprocessor line")),
            '\\' => return Err(Ambiguity("a backslash")),
            _ if is_name(first) => (Some(TokenKind::Word), name_length(rest)),
            '.' if rest[1..].starts_with(is_name) => {
                (Some(TokenKind::Word), 1 + name_length(&rest[1..]))
            }
            _ => (Some(TokenKind::Symbol), first.len_utf8()),
        };
        if let Some(kind) = kind {
            tokens.push(Token {
                kind,
                text: &rest[..length],
                assembly: assembly.current,
            });
        }
        at += length;
    }
    if assembly.current.is_some() {
        return Err(Ambiguity("a comment of the compiler"));
    }
    Ok(tokens)
}

/// The comments of the compiler so far.
#[derive(Debug, Default)]
struct AssemblyComments {
    /// The number of the inline PTX that is open.
    current: Option<u32>,
    count: u32,
}

impl AssemblyComments {
    fn read(&mut self, line: &str) -> Result<(), Ambiguity> {
        if line.trim_end_matches('\r').ends_with('\\') {
            return Err(Ambiguity("a backslash"));
        }
        let text = line.trim_start_matches('/').trim();
        // Inline PTX that contains such a comment could pass for code of the compiler.
        let is_forged = match text {
            ASSEMBLY_BEGINS => self.current.is_some(),
            ASSEMBLY_ENDS => self.current.is_none(),
            _ => text.contains(FILE_SCOPE),
        };
        if is_forged {
            return Err(Ambiguity("a comment of the compiler"));
        }
        if text == ASSEMBLY_BEGINS {
            self.count += 1;
            self.current = Some(self.count);
        } else if text == ASSEMBLY_ENDS {
            self.current = None;
        }
        Ok(())
    }
}

/// The length of a block comment. The compiler writes none. A block comment that hides text of the compiler began in inline PTX.
fn block_comment_length(rest: &str) -> Result<usize, Ambiguity> {
    let end = rest[2..].find("*/");
    let end = end.ok_or(Ambiguity("a comment without end"))? + 4;
    let text = &rest[..end];
    if text.contains(ASSEMBLY_BEGINS) || text.contains(ASSEMBLY_ENDS) {
        return Err(Ambiguity("a comment around code of the compiler"));
    }
    Ok(end)
}

/// The length of a string with its quotes.
fn string_length(rest: &str) -> Result<usize, Ambiguity> {
    let end = rest[1..].find(['"', '\n', '\\']).map(|end| end + 1);
    match end.and_then(|end| Some((end, *rest.as_bytes().get(end)?))) {
        Some((end, b'"')) => Ok(end + 1),
        Some((_, b'\\')) => Err(Ambiguity("a backslash")),
        _ => Err(Ambiguity("a string without end")),
    }
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$' | '%')
}

fn name_length(rest: &str) -> usize {
    rest.find(|letter| !is_name(letter)).unwrap_or(rest.len())
}

/// A statement: a label, a brace, an instruction, a directive, or the head of a function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statement<'t, 'p> {
    pub(super) tokens: &'t [Token<'p>],
    /// The number of braces that are open before it: 0 outside of functions.
    pub(super) depth: i32,
}

impl<'p> Statement<'_, 'p> {
    pub(super) fn has(&self, word: &str) -> bool {
        self.tokens.iter().any(|token| token.is(word))
    }

    pub(super) fn first(&self) -> Option<&Token<'p>> {
        self.tokens.first()
    }
}

/// The statements of a PTX text, in order.
pub(super) fn statements<'t, 'p>(tokens: &'t [Token<'p>]) -> Vec<Statement<'t, 'p>> {
    let mut statements = Vec::new();
    let mut depth = 0;
    let mut rest = tokens;
    while !rest.is_empty() {
        let length = statement_length(rest).clamp(1, rest.len());
        let (statement, behind) = rest.split_at(length);
        statements.push(Statement {
            tokens: statement,
            depth,
        });
        if let [only] = statement {
            depth += i32::from(only.is("{")) - i32::from(only.is("}"));
        }
        rest = behind;
    }
    statements
}

/// The number of tokens of the first statement.
fn statement_length(tokens: &[Token<'_>]) -> usize {
    let is = |index: usize, text: &str| tokens.get(index).is_some_and(|token| token.is(text));
    let first = tokens.first().map_or("", |token| token.text);
    match first {
        "{" | "}" | ";" => 1,
        // `9.5` is two words.
        ".version" => 2 + usize::from(tokens.get(2).is_some_and(Token::is_directive)),
        ".address_size" => 2,
        ".target" => 2 + 2 * (1..).take_while(|pair| is(2 * pair, ",")).count(),
        // `.file 1 "a.cu", 1700000000, 4711`
        ".file" if is(3, ",") => 7,
        ".file" => 3,
        ".loc" => location_length(tokens),
        ".section" => closing_brace(tokens).map_or(tokens.len(), |end| end + 1),
        _ if is(1, ":") && !is(2, ":") => 2,
        _ => until_end(tokens),
    }
}

/// The length of `.loc 1 2 3` and of `.loc 1 2 3, function_name $L__info_string0+4, inlined_at 1 5 6`.
fn location_length(tokens: &[Token<'_>]) -> usize {
    let is = |index: usize, text: &str| tokens.get(index).is_some_and(|token| token.is(text));
    let mut length = 4;
    if is(length, ",") && is(length + 1, "function_name") {
        length += if is(length + 3, "+") { 5 } else { 3 };
    }
    if is(length, ",") && is(length + 1, "inlined_at") {
        length += 5;
    }
    length
}

/// The index of the brace that closes the first one.
fn closing_brace(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0;
    tokens.iter().position(|token| {
        depth += i32::from(token.is("{")) - i32::from(token.is("}"));
        token.is("}") && depth <= 0
    })
}

/// The length of an instruction or declaration with its `;`, or of a function's head up to its body.
fn until_end(tokens: &[Token<'_>]) -> usize {
    let mut is_function = false;
    for (index, token) in tokens.iter().enumerate() {
        is_function |= token.is(".func") || token.is(".entry");
        if token.is(";") {
            return index + 1;
        }
        if token.is("{") && is_function {
            return index;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(ptx: &str) -> Vec<String> {
        let tokens = tokenize(ptx).unwrap();
        let joined = |statement: &Statement<'_, '_>| {
            let words: Vec<_> = statement.tokens.iter().map(|token| token.text).collect();
            format!("{}:{}", statement.depth, words.join(" "))
        };
        statements(&tokens).iter().map(joined).collect()
    }

    #[test]
    fn statements_end_where_the_assembler_ends_them() {
        let ptx = ".version 9.0\n.target sm_90a, debug\n.address_size 64\n.extern .func (.param .b32 r) vprintf\n(\n.param .b64 a\n)\n;\n\
            .global .align 4 .u32 x[2] = {1, 2}; .visible .entry k(\n.param .u64 k_param_0\n)\n.maxntid 64, 1, 1\n{\n.reg .b32 %r<2>;\n\
            .loc 1 2 3, function_name $L__info_string0+2, inlined_at 1 5 6 @!%p1 bra $L__BB0_2;\n$L__BB0_2: ld.global.v2.u32 {%r1, %r2}, [%rd1];\n\
            mbarrier.test_wait.shared::cta.b64 p, [%r1], %rd2;\n}\n.file 1 \"a.cu\", 1, 2 .file 2 \"b.cu\" .section .debug_str { .b8 1 }";
        insta::assert_snapshot!(split(ptx).join("\n"), @r#"
        0:.version 9 .0
        0:.target sm_90a , debug
        0:.address_size 64
        0:.extern .func ( .param .b32 r ) vprintf ( .param .b64 a ) ;
        0:.global .align 4 .u32 x [ 2 ] = { 1 , 2 } ;
        0:.visible .entry k ( .param .u64 k_param_0 ) .maxntid 64 , 1 , 1
        0:{
        1:.reg .b32 %r < 2 > ;
        1:.loc 1 2 3 , function_name $L__info_string0 + 2 , inlined_at 1 5 6
        1:@ ! %p1 bra $L__BB0_2 ;
        1:$L__BB0_2 :
        1:ld .global .v2 .u32 { %r1 , %r2 } , [ %rd1 ] ;
        1:mbarrier .test_wait .shared : : cta .b64 p , [ %r1 ] , %rd2 ;
        1:}
        0:.file 1 "a.cu" , 1 , 2
        0:.file 2 "b.cu"
        0:.section .debug_str { .b8 1 }
        "#);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        assert_eq!(
            split("/* .global .u32 a; */ .pragma \"/* .global\"; // .u32 b;\nret;"),
            ["0:.pragma \"/* .global\" ;", "0:ret ;"]
        );
        assert_eq!(
            split(".extern/**/.func/* ;\n*/malloc;"),
            ["0:.extern .func malloc ;"]
        );
    }

    #[test]
    fn text_with_two_readings_is_an_error() {
        for ptx in [
            "/* no end",
            ".pragma \"no end\n\";",
            ".pragma \"no end",
            ".pragma \"a\\\" .global .u32 x; \";",
            "// goes on \\\n.global .u32 x;",
            "#include \"/etc/passwd\"",
            "\t// begin inline asm\nret;",
            "\t// end inline asm\nret;",
            "\t// begin inline asm\n// begin inline asm\n\t// end inline asm\n",
            "\t// begin inline asm\n/*\n\t// end inline asm\nret;\n\t// begin inline asm\n*/\n\t// end inline asm\n",
            "// Start of file scope inline assembly\n.global .u32 x;",
        ] {
            assert!(tokenize(ptx).is_err(), "{ptx}");
        }
        let tokens =
            tokenize("a\n\t// begin inline asm\nb // inline asm\n\t// end inline asm\nc").unwrap();
        let inside: Vec<_> = tokens.iter().map(|token| token.assembly).collect();
        assert_eq!(inside, [None, Some(1), None]);
    }

    #[test]
    fn broken_text_does_not_panic() {
        for ptx in [
            "",
            ".",
            "..",
            ".loc",
            ".file 1",
            ".version",
            ".section .x {",
            "{ } }",
            "é.é",
            ".target a,",
            "a:",
            "a::b",
        ] {
            let tokens = tokenize(ptx).unwrap();
            statements(&tokens);
        }
    }
}
