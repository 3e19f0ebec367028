//! Edits a `thread_local` in a function: the variable becomes an ordinary static one, after a statement that refuses the kernel
//! if the function is called. In a function that nothing calls it does no harm.
//!
//! A thread-local variable would keep a value between launches unnoticed. Each device has its own statement, and refuses a
//! `thread_local` outside of functions itself.

use super::source_rewrite::SourceRewrite;
use crate::kernel::lexer::{Lexeme, LexemeKind};

pub(super) const THREAD_LOCAL_WORDS: [&str; 3] = ["thread_local", "__thread", "_Thread_local"];

/// Why a `thread_local` is rejected.
pub(super) const THREAD_LOCAL: &str =
    "`thread_local` is not CUDA: a thread's own variables are its local variables";

/// The open braces before a lexeme, and where its statement starts.
#[derive(Debug, Default)]
pub(super) struct OpenBraces {
    open: Vec<BraceKind>,
    function: Option<Function>,
    /// The index of the first lexeme of the current statement.
    statement: usize,
}

/// The outermost function whose body is open.
#[derive(Debug)]
struct Function {
    name: String,
    /// How many braces are open before its body.
    depth: usize,
    /// Whether it has `__global__` or `__device__`.
    is_device_code: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BraceKind {
    Namespace,
    Class,
    /// The body of a function, a block, or an initialiser.
    Body,
}

impl OpenBraces {
    /// Reads the lexeme at an index. To be called for each in order.
    pub(super) fn read(&mut self, source: &str, lexemes: &[Lexeme], index: usize) {
        match &source[lexemes[index].range.clone()] {
            "{" => {
                let statement = &lexemes[self.statement..index];
                let kind = brace_kind(source, statement);
                if kind == BraceKind::Body && self.function.is_none() {
                    self.function = function_name(source, statement).map(|name| Function {
                        name: name.to_owned(),
                        depth: self.open.len(),
                        is_device_code: statement.iter().any(|lexeme| {
                            let word = &source[lexeme.range.clone()];
                            matches!(word, "__global__" | "__device__")
                        }),
                    });
                }
                self.open.push(kind);
                self.statement = index + 1;
            }
            "}" => {
                self.open.pop();
                let depth = self.open.len();
                let is_closed = |function: &Function| function.depth >= depth;
                if self.function.as_ref().is_some_and(is_closed) {
                    self.function = None;
                }
                self.statement = index + 1;
            }
            ";" => self.statement = index + 1,
            _ if lexemes[index].kind == LexemeKind::Directive && self.statement == index => {
                self.statement = index + 1;
            }
            _ => {}
        }
    }

    /// Whether no brace is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a statement may be here.
    pub(super) fn in_function(&self) -> bool {
        self.open.last() == Some(&BraceKind::Body)
    }

    /// The name of the function whose body this is.
    pub(super) fn function(&self) -> Option<&str> {
        self.function
            .as_ref()
            .map(|function| function.name.as_str())
    }

    /// Whether this is the body of a function without `__global__` and `__device__`.
    pub(super) fn in_host_function(&self) -> bool {
        let function = self.function.as_ref();
        function.is_some_and(|function| !function.is_device_code)
    }

    /// Edits the `thread_local` at an index, which is in a function. `refusing` goes in front of its declaration.
    pub(super) fn edit_thread_local(
        &self,
        source: &str,
        lexemes: &[Lexeme],
        index: usize,
        edit: ThreadLocalEdit<'_>,
    ) {
        let ThreadLocalEdit { refusing, edits } = edit;
        let start = lexemes[self.statement].range.start;
        let declaration = lexemes[self.statement..].iter();
        let mut specifiers = declaration.take_while(|lexeme| lexeme.kind == LexemeKind::Identifier);
        let is_storage =
            |lexeme: &Lexeme| matches!(&source[lexeme.range.clone()], "static" | "extern");
        let storage = if specifiers.any(is_storage) {
            ""
        } else {
            "static"
        };
        let word = lexemes[index].range.clone();
        if start == word.start {
            edits.replace(source, word, format!("{refusing} {storage}"));
        } else {
            edits.replace(source, start..start, format!("{refusing} "));
            edits.replace(source, word, storage);
        }
    }
}

/// How to edit a `thread_local`.
pub(super) struct ThreadLocalEdit<'a> {
    /// The statement that refuses the kernel.
    pub(super) refusing: String,
    pub(super) edits: &'a mut SourceRewrite,
}

/// What a brace opens, from the text of its statement.
fn brace_kind(source: &str, statement: &[Lexeme]) -> BraceKind {
    let words = statement.iter();
    let words = words.filter(|lexeme| lexeme.kind != LexemeKind::Directive);
    let words: Vec<_> = words.map(|lexeme| &source[lexeme.range.clone()]).collect();
    if words.contains(&"namespace") || matches!(words.as_slice(), ["extern", _]) {
        return BraceKind::Namespace;
    }
    let words = behind_template_parameters(&words);
    let is_class = |word: &str| matches!(word, "struct" | "class" | "union" | "enum");
    let Some(class) = words.iter().position(|word| is_class(word)) else {
        return BraceKind::Body;
    };
    // The parentheses of a function are after its name; those of an alignment are after this word.
    let name = words[class..].iter().position(|word| *word == "(");
    let is_alignment = name.is_some_and(|open| {
        matches!(
            words[class + open - 1],
            "alignas" | "__align__" | "__attribute__"
        )
    });
    if name.is_none() || is_alignment {
        BraceKind::Class
    } else {
        BraceKind::Body
    }
}

/// The name in a function's declaration: the identifier before the first parenthesis that is not an attribute's.
fn function_name<'a>(source: &'a str, statement: &[Lexeme]) -> Option<&'a str> {
    let text = |lexeme: &Lexeme| &source[lexeme.range.clone()];
    statement.windows(2).find_map(|pair| {
        let name = text(&pair[0]);
        let is_attribute = name.starts_with("__") || name == "alignas";
        let is_name = pair[0].kind == LexemeKind::Identifier && !is_attribute;
        (is_name && text(&pair[1]) == "(").then_some(name)
    })
}

/// The words after a leading `template <…>`.
fn behind_template_parameters<'a>(words: &'a [&'a str]) -> &'a [&'a str] {
    if words.first() != Some(&"template") {
        return words;
    }
    let mut depth = 0i32;
    for (index, word) in words.iter().enumerate() {
        match *word {
            "<" => depth += 1,
            ">" => {
                depth -= 1;
                if depth == 0 {
                    return &words[index + 1..];
                }
            }
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::lexer::lex;

    /// The source with every `thread_local` in a function edited.
    fn edited(source: &str) -> String {
        let lexemes = lex(source);
        let mut braces = OpenBraces::default();
        let mut edits = SourceRewrite::default();
        for (index, lexeme) in lexemes.iter().enumerate() {
            braces.read(source, &lexemes, index);
            let is_edited = THREAD_LOCAL_WORDS.contains(&&source[lexeme.range.clone()]);
            if is_edited && braces.in_function() {
                let edit = ThreadLocalEdit {
                    refusing: "R();".to_owned(),
                    edits: &mut edits,
                };
                braces.edit_thread_local(source, &lexemes, index, edit);
            }
        }
        edits.apply(source)
    }

    #[test]
    fn variables_in_functions_become_static() {
        for (source, expected) in [
            (
                "void f() { thread_local int x; }",
                "void f() { R(); static int x; }",
            ),
            (
                "void f() { static thread_local int x; }",
                "void f() { R(); static  int x; }",
            ),
            (
                "void f() { thread_local static int x; }",
                "void f() { R();  static int x; }",
            ),
            (
                "template <class T> T& f() { g(); const __thread T x = 0; return x; }",
                "template <class T> T& f() { g(); R(); const static T x = 0; return x; }",
            ),
            (
                "struct S { void f() { if (a) { thread_local int x; } } };",
                "struct S { void f() { if (a) { R(); static int x; } } };",
            ),
            (
                "namespace n { struct S f() { thread_local int x; } }",
                "namespace n { struct S f() { R(); static int x; } }",
            ),
        ] {
            assert_eq!(edited(source), expected);
        }
    }

    #[test]
    fn other_variables_are_unchanged() {
        for source in [
            "static thread_local int x;",
            "namespace n { thread_local int x; }",
            "extern \"C\" { extern thread_local int x; }",
            "struct S { static thread_local int x; };",
            "template <class T> struct alignas(16) S { static thread_local T x; };",
            "}} thread_local",
        ] {
            assert_eq!(edited(source), source);
        }
    }
}
