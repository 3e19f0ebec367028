//! Integer expressions over named values, as kernel headers and `task.yaml` have them.
//!
//! Grammar, loosest first: `or`, `and`, `not`, comparisons (`== != < <= > >=`), `+ -`, `* // / %`, unary `-`, then integers, names,
//! parentheses and the calls `min max ceil_div next_pow2 if(c, a, b)`. All values are checked 64-bit integers; true is 1 and
//! false is 0. Division (`//`, or `/`) and remainder round towards minus infinity, as in Python. Never panics, whatever the text.

mod parser;
mod render;
mod tree;

pub(crate) use render::Language;
pub use tree::ExpressionError;

use parser::ExpressionParser;
use tree::ExpressionNode;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    root: ExpressionNode,
}

impl Expression {
    /// Parses a whole text. Names are not checked; see [`Expression::names`].
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        Ok(Self {
            text: text.to_owned(),
            root: ExpressionParser::new(text).parse()?,
        })
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every name used, with its byte offset, in order of appearance.
    pub fn names(&self) -> Vec<(&str, usize)> {
        let mut names = Vec::new();
        self.root.collect_names(&mut names);
        names
    }

    /// The value of the expression, where `value_of` gives the value of each name. The branch of `if` that is not taken, and the
    /// right side of `and` and `or` if the left side decides, are not evaluated.
    pub fn evaluate(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> Result<i64, ExpressionError> {
        self.root.evaluate(value_of)
    }

    /// The expression as code. `name_of` gives the text of each name. See `render`.
    pub(crate) fn to_code(&self, language: Language, name_of: &dyn Fn(&str) -> String) -> String {
        render::render(&self.root, language, name_of)
    }
}

/// Splits a text at its top-level commas. Each part is trimmed and comes with its byte offset; an empty text has no parts.
/// Parentheses and brackets nest; angle brackets do not, so a part cannot be `f<a, b>`.
pub fn split_list(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, 0);
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push((start, &text[start..offset]));
                start = offset + 1;
            }
            _ => {}
        }
    }
    if start > 0 || !text.trim().is_empty() {
        parts.push((start, &text[start..]));
    }
    parts
        .into_iter()
        .map(|(offset, part)| (offset + (part.len() - part.trim_start().len()), part.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<i64, String> {
        let names = |name: &str| match name {
            "batch" => Some(4),
            "rows" => Some(10),
            _ => None,
        };
        Expression::parse(text)
            .and_then(|expression| expression.evaluate(&names))
            .map_err(|error| format!("{}: {error}", error.offset))
    }

    #[test]
    fn header_expressions_are_evaluated() {
        for (text, expected) in [
            ("batch * rows", 40),
            ("2 + 3 * 4", 14),
            ("(2 + 3) * 4", 20),
            ("rows // (2 * batch)", 1),
            ("(rows + 3) / 4", 3),
            ("0x10 / 3u", 5),
            ("-7 // 2", -4),
            ("-7 % 3", 2),
            ("ceil_div(rows, batch)", 3),
            ("next_pow2(rows)", 16),
            ("if(batch <= 4 and not rows == 3, min(batch, 2), 1 // 0)", 2),
            ("batch == 4 or 1 // 0 == 1", 1),
            ("max(1, batch, rows)", 10),
            ("1 - - 1", 2),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_byte_and_the_cause() {
        for (text, error) in [
            ("batch * ros", "8: unknown name `ros`"),
            ("1 // 0", "2: division by zero"),
            (
                "9223372036854775807 + 1",
                "20: the value does not fit 64 bits",
            ),
            ("12ab", "0: `12ab` is not a 64-bit integer"),
            ("ceil_div(1)", "0: `ceil_div` takes 2 arguments, not 1"),
            (
                "round(1)",
                "0: unknown function `round`: there are `min`, `max`, `ceil_div`, `next_pow2`, `if`",
            ),
            ("(1", "2: expected `)`, found the end"),
            ("1 é", "2: expected an operator, found `é`"),
            ("", "0: expected a number, a name or `(`, found the end"),
        ] {
            assert_eq!(value(text), Err(error.to_owned()), "{text}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
        assert!(value(&"-".repeat(100_000)).is_err());
        assert_eq!(value(&vec!["1"; 500].join(" + ")), Ok(500));
        for operator in ["+", "*", " or ", " and ", "<"] {
            let chain = vec!["1"; 1_000_000].join(operator);
            let error = value(&chain).unwrap_err();
            assert!(error.contains("too many operators"), "{error}");
        }
    }

    #[test]
    fn lists_are_split_at_top_level_commas_only() {
        assert_eq!(
            split_list(" a, min(b, c) ,d"),
            [(1, "a"), (4, "min(b, c)"), (15, "d")]
        );
        assert_eq!(split_list("  "), []);
        assert_eq!(split_list("a,"), [(0, "a"), (2, "")]);
    }
}
