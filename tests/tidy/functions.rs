//! The lengths of functions, and how many parameters they have.

use crate::tokens::{Token, closing};

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub name: String,
    /// The line of `fn`, counted from 1.
    pub line: usize,
    /// From `fn` to the closing brace, comments and blank lines included.
    pub lines: usize,
    /// Without `self`.
    pub parameters: usize,
}

/// All functions of a source, closures aside.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|_| token.is("fn")) else {
            continue;
        };
        // `fn(…)` is a type.
        if !name.is_name() {
            continue;
        }
        let Some(open) = parameter_list(tokens, at + 2) else {
            continue;
        };
        let close = closing(tokens, open);
        let Some(body) = body(tokens, close) else {
            continue;
        };
        found.push(Function {
            name: name.text.clone(),
            line: token.line,
            lines: tokens[closing(tokens, body)].line - token.line + 1,
            parameters: count_parameters(&tokens[open + 1..close]),
        });
    }
    found
}

/// The parenthesis that opens the parameters, behind generics such as `<F: Fn(u8) -> u8>`.
fn parameter_list(tokens: &[Token], start: usize) -> Option<usize> {
    let mut depth = 0;
    for at in start..tokens.len() {
        match tokens[at].text.as_str() {
            "<" => depth += 1,
            ">" if !tokens[at - 1].is("-") => depth -= 1,
            "(" if depth == 0 => return Some(at),
            ";" | "{" => return None,
            _ => {}
        }
    }
    None
}

/// The brace that opens the body; `None` for a declaration that ends with `;`.
fn body(tokens: &[Token], from: usize) -> Option<usize> {
    let mut at = from + 1;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => return Some(at),
            ";" => return None,
            "(" | "[" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Counts by top-level colons: every parameter but `self` has one.
fn count_parameters(tokens: &[Token]) -> usize {
    let (mut depth, mut count) = (0, 0);
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" | "<" => depth += 1,
            ">" if index > 0 && tokens[index - 1].is("-") => {}
            ")" | "]" | "}" | ">" => depth -= 1,
            ":" if depth == 0 => count += 1,
            _ => {}
        }
    }
    let typed_self = tokens.iter().take(4).any(|token| token.is("self"))
        && tokens
            .iter()
            .find(|token| token.is(":") || token.is(","))
            .is_some_and(|next| next.is(":"));
    count - usize::from(typed_self)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::all_tokens;

    #[test]
    fn parameters_are_counted_without_self() {
        for (source, parameters) in [
            ("fn f() {}", 0),
            ("fn f(a: u8, (b, c): (u8, u8)) {}", 2),
            (
                "fn f(&mut self, a: HashMap<u8, Vec<u8>>) -> Result<(), u8> {}",
                1,
            ),
            ("fn f(self: Box<Self>, a: u8) {}", 1),
            (
                "fn f<F: Fn(u8) -> u8>(g: impl Fn(u8, u8) -> u8, h: fn(u8) -> u8,) where F: Sized {}",
                2,
            ),
        ] {
            let found = functions(&all_tokens(source));
            assert_eq!(found.len(), 1, "{source}");
            assert_eq!(found[0].parameters, parameters, "{source}");
        }
        assert_eq!(functions(&all_tokens("trait T { fn f(a: u8); }")), []);
    }

    #[test]
    fn lengths_span_from_fn_to_the_closing_brace() {
        let source = "fn f(\n    a: u8,\n) {\n    // fn g() {\n    if a { \"}\" }\n}\nfn h() {}\n";
        let found = functions(&all_tokens(source));
        let lengths: Vec<_> = found.iter().map(|one| (one.line, one.lines)).collect();
        assert_eq!(lengths, [(1, 6), (7, 1)]);
    }
}
