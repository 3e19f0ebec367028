//! The values of a tunable, as a header lists them.
//!
//! Reads one list; names of other parts of the header are `header_reader`'s.

use super::constants::parse_integer;
use super::header_lists::ListItem;

/// The most values of one tunable: far more than a search can try.
const MAX_TUNABLE_VALUES: usize = 1000;

/// The different values of a tunable in the order of the header, and where the list starts.
pub(super) struct TunableList {
    pub(super) values: Vec<i64>,
    /// In the file, counted from 1.
    pub(super) line: u32,
    pub(super) column: u32,
}

/// The different values of a tunable, and a note about values that are listed more than once.
pub(super) fn read_tunable(
    name: &str,
    items: &[ListItem],
) -> Result<(Vec<i64>, Option<String>), String> {
    let is_name_letter =
        |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let is_well_formed = name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(is_name_letter)
        && name.chars().filter(char::is_ascii_uppercase).count() >= 3;
    if !is_well_formed {
        return Err(
            "expected a name with at least three capital letters, such as `ROWS`".to_owned(),
        );
    }
    // `128 | 256` lists two choices.
    let texts = items.iter().flat_map(|item| item.text.split('|'));
    let texts: Vec<_> = texts.map(str::trim).collect();
    if texts.is_empty() {
        return Err("expected at least one value".to_owned());
    }
    if texts.len() > MAX_TUNABLE_VALUES {
        return Err(format!(
            "expected at most {MAX_TUNABLE_VALUES} values, found {}",
            texts.len()
        ));
    }
    let mut values: Vec<i64> = Vec::new();
    let mut repeated: Vec<i64> = Vec::new();
    for text in texts {
        let value = parse_tunable_value(text).ok_or_else(|| {
            format!("expected whole numbers, such as `{name}: [4, 2, 8]`, found `{text}`")
        })?;
        if !values.contains(&value) {
            values.push(value);
        } else if !repeated.contains(&value) {
            repeated.push(value);
        }
    }
    let note = (!repeated.is_empty()).then(|| {
        let list: Vec<_> = repeated.iter().map(|value| format!("`{value}`")).collect();
        format!(
            "lists {} more than once; each value is used once",
            list.join(", ")
        )
    });
    Ok((values, note))
}

/// A whole number as people write it: `4`, `-1`, `0x10`, `4.0`; `true` is 1.
pub(super) fn parse_tunable_value(text: &str) -> Option<i64> {
    match text {
        "true" | "True" => return Some(1),
        "false" | "False" => return Some(0),
        _ => {}
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits.trim_start()),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let whole = digits
        .split_once('.')
        .filter(|(_, fraction)| fraction.bytes().all(|digit| digit == b'0'))
        .map_or(digits, |(whole, _)| whole);
    parse_integer(whole).map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<(Vec<i64>, Option<String>), String> {
        let items: Vec<_> = texts
            .iter()
            .map(|text| ListItem {
                text: (*text).to_owned(),
                line: 1,
                offset: 0,
            })
            .collect();
        read_tunable("ROWS", &items)
    }

    #[test]
    fn values_are_whole_numbers_in_any_spelling() {
        let values = |texts: &[&str]| read(texts).map(|(values, _)| values);
        assert_eq!(values(&["4", "-1", "0x10", "2.0"]), Ok(vec![4, -1, 16, 2]));
        assert_eq!(values(&["128|256 | 64"]), Ok(vec![128, 256, 64]));
        assert_eq!(values(&["true", "false"]), Ok(vec![1, 0]));
        for broken in [
            "0.5",
            "x",
            "",
            "1..4",
            ".",
            "4.x",
            "--1",
            "99999999999999999999",
        ] {
            assert!(values(&["2", broken]).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_repeated_value_is_used_once_and_noted() {
        let (values, note) = read(&["4", "2", "4", "8", "2", "4"]).unwrap();
        assert_eq!(values, [4, 2, 8]);
        assert_eq!(
            note.as_deref(),
            Some("lists `4`, `2` more than once; each value is used once")
        );
        assert_eq!(read(&["4", "2"]).unwrap().1, None);
    }
}
