//! Edits a `thread_local` in a function: the variable becomes an ordinary static one, and a thread that reaches it ends the
//! process. In a function that nothing calls it does no harm.
//!
//! A thread-local variable would keep a value between launches unnoticed. Outside of functions `words` lets the compiler refuse it.

use super::checked_source::CheckedSource;
use super::words::{Words, thread_local_reason};
use crate::kernel::lexer::{Lexeme, LexemeKind};
use crate::verdict::Status;

/// The open braces before a lexeme, and where its statement starts.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    open: Vec<Scope>,
    /// The index of the first lexeme of the current statement.
    statement: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Namespace,
    Class,
    /// The body of a function, a block, or an initialiser.
    Body,
}

impl Scopes {
    /// Reads the lexeme at an index. To be called for each in order.
    pub(super) fn read(&mut self, source: &str, lexemes: &[Lexeme], index: usize) {
        match &source[lexemes[index].range.clone()] {
            "{" => {
                let scope = scope_of(source, &lexemes[self.statement..index]);
                self.open.push(scope);
                self.statement = index + 1;
            }
            "}" => {
                self.open.pop();
                self.statement = index + 1;
            }
            ";" => self.statement = index + 1,
            _ if lexemes[index].kind == LexemeKind::Directive && self.statement == index => {
                self.statement = index + 1;
            }
            _ => {}
        }
    }

    /// Whether a statement may be here.
    pub(super) fn in_function(&self) -> bool {
        self.open.last() == Some(&Scope::Body)
    }
}

/// What a brace opens, from the text of its statement.
fn scope_of(source: &str, statement: &[Lexeme]) -> Scope {
    let words = statement.iter();
    let words = words.filter(|lexeme| lexeme.kind != LexemeKind::Directive);
    let words: Vec<_> = words.map(|lexeme| &source[lexeme.range.clone()]).collect();
    if words.contains(&"namespace") || matches!(words.as_slice(), ["extern", _]) {
        return Scope::Namespace;
    }
    let words = behind_template_parameters(&words);
    let is_class = |word: &str| matches!(word, "struct" | "class" | "union" | "enum");
    let Some(class) = words.iter().position(|word| is_class(word)) else {
        return Scope::Body;
    };
    // The parentheses of a function are behind its name; those of an alignment are behind this word.
    let name = words[class..].iter().position(|word| *word == "(");
    let is_alignment = name.is_some_and(|open| {
        matches!(
            words[class + open - 1],
            "alignas" | "__align__" | "__attribute__"
        )
    });
    if name.is_none() || is_alignment {
        Scope::Class
    } else {
        Scope::Body
    }
}

/// The words behind a leading `template <…>`.
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

/// Edits the `thread_local` at an index, which is in a function.
pub(super) fn edit_thread_local(
    words: Words<'_>,
    index: usize,
    scopes: &Scopes,
    checked: &mut CheckedSource,
) {
    let Words {
        source, lexemes, ..
    } = words;
    let lexeme = &lexemes[index];
    let text = |lexeme: &Lexeme| &source[lexeme.range.clone()];
    let reason = thread_local_reason(text(lexeme));
    checked.add_finding("", Status::Rejected, lexeme.line, reason);
    let start = lexemes[scopes.statement].range.start;
    let call = format!("::kforge::reached_thread_local({}); ", lexeme.line);
    let declaration = &lexemes[scopes.statement..];
    let mut specifiers = declaration.iter().take_while(|lexeme| {
        lexeme.kind == LexemeKind::Identifier && lexeme.range.start < source.len()
    });
    let is_static = specifiers.any(|lexeme| matches!(text(lexeme), "static" | "extern"));
    let storage = if is_static { "" } else { "static" };
    if start == lexeme.range.start {
        let range = lexeme.range.clone();
        checked.edits.replace(source, range, call + storage);
    } else {
        checked.edits.replace(source, start..start, call);
        checked.edits.replace(source, lexeme.range.clone(), storage);
    }
}
