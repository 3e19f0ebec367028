//! Edits the launches `k<<<…>>>(…)` in the code of a source. Launches belong in the header of a kernel file.
//!
//! In host code, such as a launcher, a launch becomes an expression that refuses the kernel if a thread reaches it. So a launcher that
//! nothing calls does no harm. In device code a launch stays as it is: no compiler accepts it, and both devices explain the error.
//! Changes nothing else, and compiles nothing.

use std::ops::Range;

use super::source_rewrite::SourceRewrite;
use super::thread_locals::OpenBraces;
use crate::kernel::lexer::{Lexeme, LexemeKind, are_adjacent};

/// The longest launch that is edited, in lexemes.
const MAX_LEXEMES: usize = 400;

/// A lexeme of a source at which a launch's `<<<` may start.
#[derive(Clone, Copy)]
pub(super) struct LaunchPlace<'a> {
    pub(super) source: &'a str,
    pub(super) lexemes: &'a [Lexeme],
    pub(super) index: usize,
}

impl LaunchPlace<'_> {
    fn text(&self, index: usize) -> &str {
        let lexeme = self.lexemes.get(index);
        lexeme.map_or("", |lexeme| &self.source[lexeme.range.clone()])
    }

    fn is_triple(&self, index: usize, symbol: &str) -> bool {
        (index..index + 3).all(|index| self.text(index) == symbol)
            && are_adjacent(&self.lexemes[index..])
    }

    /// Whether a launch's `<<<` starts here.
    pub(super) fn is_launch(&self) -> bool {
        self.is_triple(self.index, "<")
    }

    /// Replaces the launch by `refusing`, an expression that refuses the kernel, if the launch is in a host function.
    pub(super) fn edit(&self, braces: &OpenBraces, refusing: &str, edits: &mut SourceRewrite) {
        if braces.in_host_function()
            && let Some(range) = self.range()
        {
            edits.replace(self.source, range, refusing);
        }
    }

    /// The bytes from the kernel's name to the parenthesis after its arguments.
    fn range(&self) -> Option<Range<usize>> {
        let start = self.callee()?;
        let mut close = self.index + 3;
        let mut depth = 0i32;
        while !(depth == 0 && self.is_triple(close, ">")) {
            depth += self.depth_change(close)?;
            close += 1;
        }
        let open = close + 3;
        if self.text(open) != "(" {
            return None;
        }
        let mut end = open;
        depth = 0;
        loop {
            depth += self.depth_change(end)?;
            if depth == 0 {
                break;
            }
            end += 1;
        }
        Some(self.lexemes[start].range.start..self.lexemes[end].range.end)
    }

    /// How much a lexeme changes the depth of brackets. `None` at the end of the statement, or if the launch is too long.
    fn depth_change(&self, index: usize) -> Option<i32> {
        match self.text(index) {
            "(" | "[" | "{" => Some(1),
            ")" | "]" | "}" => Some(-1),
            "" | ";" => None,
            _ if index > self.index + MAX_LEXEMES => None,
            _ => Some(0),
        }
    }

    /// The index where the kernel's name starts: `name`, `name<…>`, `space::name`.
    fn callee(&self) -> Option<usize> {
        let mut at = self.index.checked_sub(1)?;
        if self.text(at) == ">" {
            let mut depth = 0i32;
            loop {
                match self.text(at) {
                    ">" => depth += 1,
                    "<" => depth -= 1,
                    ";" | "{" | "}" => return None,
                    _ => {}
                }
                at = at.checked_sub(1)?;
                if depth == 0 {
                    break;
                }
            }
        }
        while self.lexemes[at].kind == LexemeKind::Identifier {
            let is_qualified = at >= 2 && self.text(at - 1) == ":" && self.text(at - 2) == ":";
            if !is_qualified {
                return Some(at);
            }
            let is_name = at >= 3 && self.lexemes[at - 3].kind == LexemeKind::Identifier;
            at -= if is_name { 3 } else { 2 };
            if !is_name {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::lexer::lex;

    fn edited(source: &str) -> String {
        let lexemes = lex(source);
        let mut braces = OpenBraces::default();
        let mut edits = SourceRewrite::default();
        for index in 0..lexemes.len() {
            braces.read(source, &lexemes, index);
            let place = LaunchPlace {
                source,
                lexemes: &lexemes,
                index,
            };
            if place.is_launch() {
                place.edit(&braces, "R()", &mut edits);
            }
        }
        edits.apply(source)
    }

    #[test]
    fn launches_in_host_functions_are_replaced() {
        for (source, expected) in [
            ("void f() { k<<<1, 2>>>(x); }", "void f() { R(); }"),
            (
                "void f() { if (a) n::k<T, 4><<<dim3(1, 2), b[0], 0, s>>>(x, g(y)); h(); }",
                "void f() { if (a) R(); h(); }",
            ),
            (
                "extern \"C\" void f(int n) {\n  ::k<<<\n  n, 2>>>(x);\n}",
                "extern \"C\" void f(int n) {\n  R()\n;\n}",
            ),
            (
                "template <class T> void f() { k<T><<<1, 2>>>(); }",
                "template <class T> void f() { R(); }",
            ),
        ] {
            assert_eq!(edited(source), expected);
        }
    }

    #[test]
    fn other_launches_are_unchanged() {
        for source in [
            "__global__ void f() { k<<<1, 2>>>(x); }",
            "__device__ void f() { if (a) { k<<<1, 2>>>(x); } }",
            "k<<<1, 2>>>(x);",
            "void f() { <<<1>>>(); }",
            "void f() { k<<<1; }",
            "void f() { k<<<1>>>; k><<<1>>>(); }",
            "void f() { k<<<(1>>>(",
            "void f() { return a << <1>>>(2); }",
        ] {
            assert_eq!(edited(source), source);
        }
    }
}
