//! The items of a list in a header, whatever form it is written in.
//!
//! Splits at top-level commas, so that `ceil_div(a, b)` stays whole, also where YAML has split it. Evaluates nothing.

use serde_yaml::Spanned;

use super::error::HeaderError;
use super::yaml_values::ListYaml;
use crate::base::expression::split_list;

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListItem {
    pub(super) text: String,
    /// Counted from 1, in the YAML.
    pub(super) line: u32,
    /// Where the item starts in the text of its list or YAML item, in bytes.
    pub(super) offset: usize,
}

/// The axes of a grid, a block or a cluster.
const AXES: [&str; 3] = ["x", "y", "z"];

/// The items of a list. `key` is for errors, whose line is that of the YAML.
pub(super) fn list_items(
    list: &Spanned<ListYaml>,
    key: &str,
) -> Result<Vec<ListItem>, HeaderError> {
    let line = list.defined.line() as u32;
    match &list.value {
        ListYaml::Text(text) => Ok(text_items(text, line)),
        ListYaml::Items(items) => {
            let texts: Vec<_> = items
                .iter()
                .map(|item| (item.value.0.as_str(), item.defined.line() as u32))
                .collect();
            Ok(rejoin_calls(&texts)
                .into_iter()
                .flat_map(|(text, line)| text_items(&text, line))
                .collect())
        }
        ListYaml::Keys(keys) => {
            let is_axis = |name: &String| AXES.contains(&name.as_str());
            if !matches!(key, "grid" | "block" | "cluster") || !keys.keys().all(is_axis) {
                return Err(HeaderError::new(
                    line,
                    format!("`{key}`: expected a list, found keys with values"),
                )
                .hint(list_form(key)));
            }
            let axes = AXES.iter().rposition(|axis| keys.contains_key(*axis));
            let axes = &AXES[..axes.map_or(0, |last| last + 1)];
            let item = |axis: &&str| match keys.get(*axis) {
                Some(value) => ListItem {
                    text: value.value.0.clone(),
                    line: value.defined.line() as u32,
                    offset: 0,
                },
                None => ListItem {
                    text: "1".to_owned(),
                    line,
                    offset: 0,
                },
            };
            Ok(axes.iter().map(item).collect())
        }
    }
}

fn list_form(key: &str) -> String {
    match key {
        "args" => "list the arguments in the order of the kernel's parameters: `args: x, output, i32(rows)`".to_owned(),
        "grid" | "block" | "cluster" => {
            format!("write the sizes in the order x, y, z: `{key}: 8, 4, 1`")
        }
        key => format!("write it as `{key}: a, b`"),
    }
}

fn text_items(text: &str, line: u32) -> Vec<ListItem> {
    let (start, inner) = unwrap_list(text);
    let mut parts = split_list(inner);
    // A comma at the end is no item.
    if parts.last().is_some_and(|(_, part)| part.is_empty()) {
        parts.pop();
    }
    parts
        .into_iter()
        .map(|(offset, part)| ListItem {
            text: unquote(part).to_owned(),
            line,
            offset: start + offset,
        })
        .collect()
}

/// The inside of `[a, b]`, `(a, b)` or `dim3(a, b)`, and where it starts; else the whole text.
fn unwrap_list(text: &str) -> (usize, &str) {
    let trimmed = text.trim();
    let start = text.len() - text.trim_start().len();
    for (open, needs_comma) in [("dim3(", false), ("[", false), ("(", true)] {
        let Some(rest) = trimmed.strip_prefix(open) else {
            continue;
        };
        let Some(inner) = closed_at_end(rest) else {
            continue;
        };
        if !needs_comma || split_list(inner).len() > 1 {
            return (start + open.len(), inner);
        }
    }
    (0, text)
}

/// The text without its last bracket, if that one closes the bracket before the text.
fn closed_at_end(text: &str) -> Option<&str> {
    let mut depth = 0i32;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' if depth == 0 => {
                return (at + 1 == text.len()).then(|| &text[..at]);
            }
            ')' | ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The text without quotes around it.
pub(super) fn unquote(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .map_or(text, str::trim)
}

/// Joins what YAML has split inside parentheses: `[ceil_div(a, b), 2]` has the items `ceil_div(a`, `b)` and `2`.
fn rejoin_calls(items: &[(&str, u32)]) -> Vec<(String, u32)> {
    let mut joined: Vec<(String, u32)> = Vec::new();
    let mut depth = 0i32;
    for (text, line) in items {
        match joined.last_mut().filter(|_| depth > 0) {
            Some((open, _)) => {
                open.push_str(", ");
                open.push_str(text);
            }
            None => joined.push(((*text).to_owned(), *line)),
        }
        for letter in text.chars() {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(yaml: &str) -> Vec<String> {
        let list: Spanned<ListYaml> = serde_yaml::from_str(yaml).unwrap();
        let items = list_items(&list, "grid").unwrap();
        items.into_iter().map(|item| item.text).collect()
    }

    #[test]
    fn every_form_of_a_list_has_the_same_items() {
        let expected = ["ceil_div(rows, 4)", "2", "1"];
        for form in [
            "ceil_div(rows, 4), 2, 1",
            "ceil_div(rows, 4), 2, 1,",
            "ceil_div(rows, 4),\n  2, 1",
            "\"ceil_div(rows, 4), 2, 1\"",
            "[ceil_div(rows, 4), 2, 1]",
            "[ceil_div(rows, 4), 2, 1,]",
            "[\"ceil_div(rows, 4)\", '2', 1]",
            "[ceil_div(rows,\n 4),\n 2, # two\n 1]",
            "- ceil_div(rows, 4)\n- 2\n- 1",
            "- \"ceil_div(rows, 4)\"\n- 2\n- 1",
            "|\n  ceil_div(rows, 4),\n  2,\n  1\n",
            "(ceil_div(rows, 4), 2, 1)",
            "dim3(ceil_div(rows, 4), 2, 1)",
            "\"[ceil_div(rows, 4), 2, 1]\"",
            "{x: \"ceil_div(rows, 4)\", y: 2, z: 1}",
            "{y: 2, x: \"ceil_div(rows, 4)\", z: 1}",
        ] {
            assert_eq!(items(form), expected, "{form}");
        }
        assert_eq!(items("(rows + 3) // 4"), ["(rows + 3) // 4"]);
        assert_eq!(items("(rows + 3) // 4, (2)"), ["(rows + 3) // 4", "(2)"]);
        assert_eq!(items("256"), ["256"]);
        assert_eq!(items("{y: 2}"), ["1", "2"]);
        assert_eq!(items("(256,)"), ["256"]);
        for broken in ["(((", "[\")\"]", "a)", "a, (b", "[a(, b]"] {
            let list: Result<Spanned<ListYaml>, _> = serde_yaml::from_str(broken);
            if let Ok(list) = list {
                let _ = list_items(&list, "args");
            }
        }
    }

    #[test]
    fn keys_are_accepted_for_sizes_only() {
        let list: Spanned<ListYaml> = serde_yaml::from_str("{x: x, n: n}").unwrap();
        for (key, form) in [
            ("args", "args: x, output"),
            ("grid", "grid: 8, 4, 1"),
            ("shape", "shape: a, b"),
        ] {
            let error = list_items(&list, key).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{key}`: expected a list")) && error.contains(form),
                "{error}"
            );
        }
    }
}
