//! Reads the expected change of the run time from a trace: `-20`, `20 % faster`, `10-20%`, `1.3x`, in English or German.
//!
//! A text that can be understood in two ways is an error, never a guess.

use serde_json::Value;

use super::text::truncate_chars;

/// Beginnings of words that announce less time, in English and German.
const FASTER_WORDS: [&str; 11] = [
    "fast",
    "speed",
    "reduc",
    "less",
    "lower",
    "improv",
    "gain",
    "schneller",
    "weniger",
    "short",
    "quick",
];

/// Beginnings of words that announce more time.
const SLOWER_WORDS: [&str; 5] = ["slow", "longer", "regress", "langsamer", "increas"];

/// The change of the run time in percent, below 0 for faster; `None` if the value names no number.
///
/// A number is taken as it is. In a text, a word such as `faster` overrides the sign, a range counts as its middle, and a
/// factor such as `1.3x` is a speedup.
pub(super) fn parse_percent(key: &str, value: &Value) -> Result<Option<f64>, String> {
    let is_speedup = key == "expected_speedup";
    let percent = match value {
        Value::Null => return Ok(None),
        Value::Number(number) if is_speedup => number.as_f64().and_then(percent_from_speedup),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match percent_from_text(text, is_speedup) {
            Some(percent) => Some(percent),
            None if !text.chars().any(|letter| letter.is_ascii_digit()) => return Ok(None),
            None => None,
        },
        _ => None,
    };
    match percent {
        Some(percent) if percent.is_finite() && percent >= -100.0 => Ok(Some(percent)),
        _ => {
            let found = match value {
                Value::String(text) => text.trim().to_owned(),
                other => other.to_string(),
            };
            Err(format!(
                "`{key}`: expected the change of time in percent, such as -20, found `{}`",
                truncate_chars(&found, 60)
            ))
        }
    }
}

fn percent_from_speedup(speedup: f64) -> Option<f64> {
    (speedup > 0.0).then(|| (1.0 / speedup - 1.0) * 100.0)
}

fn percent_from_text(text: &str, is_speedup: bool) -> Option<f64> {
    let text = text
        .to_lowercase()
        .replace(['−', '–', '—'], "-")
        .replace(',', ".");
    let has_word = |beginnings: &[&str]| {
        text.split(|letter: char| !letter.is_alphabetic())
            .any(|word| {
                beginnings
                    .iter()
                    .any(|beginning| word.starts_with(beginning))
            })
    };
    let (faster, slower) = (has_word(&FASTER_WORDS), has_word(&SLOWER_WORDS));
    let (first, last) = number_or_range(&text)?;
    let middle = f64::midpoint(first.value, last.value);
    if last.is_factor(&text) || is_speedup && !text.contains('%') {
        return if slower {
            None
        } else {
            percent_from_speedup(middle)
        };
    }
    match (faster, slower) {
        (true, true) => None,
        // `20 % faster` and `-20 % (faster)` mean the same.
        (true, false) => Some(-middle.abs()),
        (false, true) => Some(middle.abs()),
        (false, false) if is_speedup => None,
        (false, false) => Some(middle),
    }
}

/// A number in a text, and its bytes.
#[derive(Clone, Copy, Debug)]
struct NumberInText {
    value: f64,
    start: usize,
    end: usize,
}

impl NumberInText {
    /// Whether the sign of `last` is really the dash of a range: only a percent sign or a space is between the numbers.
    fn is_dash_before(&self, last: &Self) -> bool {
        last.start - self.end <= 2 && last.value < 0.0 && last.value.abs() != self.value
    }

    /// Whether the two numbers are the ends of a range such as `10 to 20`.
    fn is_range_with(&self, last: &Self, text: &str) -> bool {
        let between = text[self.end..last.start].trim_matches(['%', ' ', '.']);
        ["to", "-", "bis", "..", "and", "or", ""].contains(&between)
    }

    /// Whether the number is a factor such as `1.3x`.
    fn is_factor(&self, text: &str) -> bool {
        let after = text[self.end..].trim_start();
        after.starts_with(['x', '×']) || after.starts_with("times") || after.starts_with("-fold")
    }
}

/// The only number of a text, twice, or the two ends of its only range.
fn number_or_range(text: &str) -> Option<(NumberInText, NumberInText)> {
    match find_numbers(text).as_slice() {
        [only] => Some((*only, *only)),
        [first, last] if first.is_dash_before(last) => {
            let value = last.value.copysign(first.value);
            Some((*first, NumberInText { value, ..*last }))
        }
        [first, last] if first.is_range_with(last, text) => Some((*first, *last)),
        _ => None,
    }
}

/// The first three numbers of a text, with their signs. Digits after a letter do not count.
fn find_numbers(text: &str) -> Vec<NumberInText> {
    let bytes = text.as_bytes();
    let mut numbers = Vec::new();
    let mut at = 0;
    while at < bytes.len() && numbers.len() < 3 {
        if !bytes[at].is_ascii_digit() || at > 0 && bytes[at - 1].is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        let mut end = at;
        while end < bytes.len()
            && (bytes[end].is_ascii_digit()
                || bytes[end] == b'.' && bytes.get(end + 1).is_some_and(u8::is_ascii_digit))
        {
            end += 1;
        }
        let start = if at > 0 && bytes[at - 1] == b'-' {
            at - 1
        } else {
            at
        };
        if let Ok(value) = text[start..end].parse() {
            numbers.push(NumberInText { value, start, end });
        }
        at = end;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<f64>, String> {
        parse_percent("expected_percent", &Value::String(text.to_owned()))
    }

    fn expected(text: &str) -> Option<f64> {
        parse(text)
            .unwrap()
            .map(|percent| (percent * 100.0).round() / 100.0)
    }

    #[test]
    fn expected_percent_is_read_in_many_notations() {
        assert_eq!(expected("-20%"), Some(-20.0));
        assert_eq!(expected("−20 %"), Some(-20.0));
        assert_eq!(expected("20% faster"), Some(-20.0));
        assert_eq!(expected("about 5 percent slower"), Some(5.0));
        assert_eq!(expected("-10 to -20"), Some(-15.0));
        assert_eq!(expected("10-20% faster"), Some(-15.0));
        assert_eq!(expected("-10–20 %"), Some(-15.0));
        assert_eq!(expected("1.25x"), Some(-20.0));
        assert_eq!(expected("2x speedup"), Some(-50.0));
        assert_eq!(expected("12,5 % weniger Zeit"), Some(-12.5));
        assert_eq!(expected("+3"), Some(3.0));
        assert_eq!(expected("unknown"), None);
    }

    #[test]
    fn ambiguous_expectations_are_errors() {
        assert!(parse("-10 for b1, -30 for b64 and 5 for the rest").is_err());
        assert!(parse("-150").is_err());
        assert!(parse("20% faster or slower").is_err());
        assert!(parse_percent("expected_percent", &Value::Bool(true)).is_err());
    }
}
