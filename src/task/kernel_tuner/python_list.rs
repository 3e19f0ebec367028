//! Values as T1 files have them: numbers as texts, and the text of a Python list of whole numbers.

use serde_json::Value;

use crate::base::expression::{Expression, split_list};

/// A text, or the text of a number.
pub(super) fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The longest text that is read, in bytes. Lists in lists are read by recursion.
const MAX_LENGTH: usize = 1 << 14;
/// The most values of a range. A tunable has at most 1000.
const MAX_VALUES: i64 = 100_000;

/// The values of `[16, 32]`, `(1, 2)`, `range(1, 9)`, `list(range(32, 257, 32))`, `[16 * i for i in range(1, 5)]` or `[2**i for i in range(5)]`, and
/// of such lists joined by `+`.
pub(super) fn whole_numbers(text: &str) -> Option<Vec<i64>> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let text = text.trim();
    if let Some(at) = joint(text) {
        let mut values = whole_numbers(&text[..at])?;
        values.extend(whole_numbers(&text[at + 1..])?);
        return Some(values);
    }
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
        let distance = end.checked_sub(start)?;
        let rounded = distance.checked_add(step.checked_sub(step.signum())?)?;
        let count = rounded.checked_div(step)?;
        if count > MAX_VALUES {
            return None;
        }
        let values = (0..count.max(0)).map(|index| index.checked_mul(step)?.checked_add(start));
        return values.collect();
    }
    let inner = [('[', ']'), ('(', ')')]
        .into_iter()
        .find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close))?;
    if let Some((value, source)) = inner.split_once(" for ") {
        let (name, source) = source.split_once(" in ")?;
        let name = name.trim();
        let values = whole_numbers(source)?.into_iter();
        return values
            .map(|item| number_with(value, &|other| (other == name).then_some(item)))
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
        _ => number_with(text, &|_| None),
    }
}

/// The value of an expression, or of a power of two names or numbers.
fn number_with(text: &str, value_of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    let value = |text: &str| Expression::parse(text).ok()?.evaluate(value_of).ok();
    let Some((base, exponent)) = text.split_once("**") else {
        return value(text);
    };
    let is_word = |text: &str| {
        text.chars()
            .all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    let (base, exponent) = (base.trim(), exponent.trim());
    if !is_word(base) || !is_word(exponent) {
        return None;
    }
    value(base)?.checked_pow(u32::try_from(value(exponent)?).ok()?)
}

/// The place of the first `+` that is outside all brackets: it joins two lists.
fn joint(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => {}
        }
        (letter == '+' && depth == 0).then_some(at)
    })
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
            ("[2**i for i in range(3, 6)]", &[8, 16, 32]),
            ("[i for i in range(1, 2+1)]", &[1, 2]),
            ("[1, 2] + list(range(32, 64+1, 32))", &[1, 2, 32, 64]),
            ("[1] + [2*i for i in range(1, 3)] + [9]", &[1, 2, 4, 9]),
        ] {
            assert_eq!(whole_numbers(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "16",
            "[0.5]",
            "['a']",
            "range(1, 2, 0)",
            "[2**i*3 for i in range(3)]",
            "[2**-1]",
            "[1] + 2",
            "range(1000000000000)",
            "range(-9223372036854775807, 9223372036854775807)",
            "range(9223372036854775807, -1, -9223372036854775807)",
            &"list(".repeat(1_000_000),
            &"[1]+".repeat(1_000_000),
        ] {
            assert_eq!(whole_numbers(text), None, "{:.80}", text);
        }
    }
}
