//! The values of a tunable, as T1 files have them: the text of a Python list of whole numbers.

use crate::base::expression::{Expression, split_list};

/// The values of `[16, 32]`, `(1, 2)`, `range(1, 9)`, `list(range(32, 257, 32))` or `[16 * i for i in range(1, 5)]`.
pub(super) fn whole_numbers(text: &str) -> Option<Vec<i64>> {
    let text = text.trim();
    if let Some(inner) = call(text, "list") {
        return whole_numbers(inner);
    }
    if let Some(inner) = call(text, "range") {
        let bounds: Option<Vec<i64>> = parts(inner).into_iter().map(number).collect();
        let (start, end, step) = match bounds?.as_slice() {
            [end] => (0, *end, 1),
            [start, end] => (*start, *end, 1),
            [start, end, step] if *step != 0 => (*start, *end, *step),
            _ => return None,
        };
        let count = (end - start + step - step.signum()) / step;
        return Some(
            (0..count.max(0))
                .map(|index| start + index * step)
                .collect(),
        );
    }
    let inner = [('[', ']'), ('(', ')')]
        .into_iter()
        .find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close))?;
    if let Some((value, source)) = inner.split_once(" for ") {
        let (name, source) = source.split_once(" in ")?;
        let value = Expression::parse(value).ok()?;
        let name = name.trim();
        let values = whole_numbers(source)?.into_iter();
        return values
            .map(|item| {
                value
                    .evaluate(&|other| (other == name).then_some(item))
                    .ok()
            })
            .collect();
    }
    parts(inner).into_iter().map(number).collect()
}

/// What `NAME(…)` has in its parentheses.
fn call<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.strip_prefix(name)?
        .trim_start()
        .strip_prefix('(')?
        .strip_suffix(')')
}

/// The parts between commas. A comma may be the last.
fn parts(text: &str) -> Vec<&str> {
    let parts = split_list(text).into_iter().map(|(_, part)| part.trim());
    parts.filter(|part| !part.is_empty()).collect()
}

fn number(text: &str) -> Option<i64> {
    match text {
        "True" => Some(1),
        "False" => Some(0),
        _ => Expression::parse(text).ok()?.evaluate(&|_| None).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read() {
        for (text, expected) in [
            ("[16, 32, 64]", &[16, 32, 64][..]),
            ("[ 1,]", &[1]),
            ("(2, 4)", &[2, 4]),
            ("list(range(1, 4))", &[1, 2, 3]),
            ("range(3)", &[0, 1, 2]),
            ("list(range(32, 129, 32))", &[32, 64, 96, 128]),
            ("range(4, 0, -2)", &[4, 2]),
            ("range(5, 0, -2)", &[5, 3, 1]),
            ("[32 * i for i in range(1, 4)]", &[32, 64, 96]),
            ("[True, False]", &[1, 0]),
            ("[2 * 8]", &[16]),
        ] {
            assert_eq!(whole_numbers(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "16",
            "[0.5]",
            "['a']",
            "range(1, 2, 0)",
            "[2**i for i in range(3)]",
        ] {
            assert_eq!(whole_numbers(text), None, "{text}");
        }
    }
}
