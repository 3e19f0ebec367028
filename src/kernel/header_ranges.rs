//! Where a value of the header is in its text, so that it can be replaced by another one.
//!
//! Scans the text as YAML is written: flow and block lists, quotes, comments, values of several lines. Works on any text and never
//! panics; a form that it does not know has no range. Checks no meaning.

use std::ops::Range;

/// The bytes of the value that starts at byte `start`. `None` for anchors, aliases, tags, block scalars and unclosed values.
///
/// The range of a value below its key starts right after the colon: see [`replacement_value`].
pub(crate) fn value_range(text: &str, start: usize) -> Option<Range<usize>> {
    let mut start = start;
    text.get(start..)?;
    // The YAML reader may report the first item of a list instead of the dash before it.
    let before = text[line_start(text, start)..start].trim_end();
    if before.trim_start() == "-" {
        start = line_start(text, start) + before.len() - 1;
    }
    let rest = &text[start..];
    let end = match rest.chars().next()? {
        '[' | '{' => start + flow_length(rest)?,
        '"' | '\'' => start + quoted_length(rest)?,
        '&' | '*' | '!' | '|' | '>' => return None,
        '-' if is_list_dash(rest) => block_list_end(text, start)?,
        _ => plain_end(text, start),
    };
    let line_start = line_start(text, start);
    // In `- 4` the dash is no key, so only a value on a line of its own belongs to the key above it.
    if text[line_start..start].trim().is_empty() {
        let before = before_comments(text, line_start);
        if before.ends_with(':') {
            return Some(before.len()..end);
        }
        return None;
    }
    Some(start..end)
}

/// A value as it has to be written into a range of [`value_range`].
pub(crate) fn replacement_value(text: &str, range: &Range<usize>, value: &str) -> String {
    if text[..range.start].ends_with(':') {
        format!(" {value}")
    } else {
        value.to_owned()
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The text before a line, without blank lines and comments at its end.
fn before_comments(text: &str, line_start: usize) -> &str {
    let mut before = &text[..line_start];
    loop {
        before = before.trim_end();
        let last = before.rfind('\n').map_or(0, |newline| newline + 1);
        match comment_start(&before[last..]) {
            Some(comment) => before = &before[..last + comment],
            None => return before,
        }
    }
}

/// Where a comment starts in a line.
fn comment_start(line: &str) -> Option<usize> {
    if line.starts_with('#') {
        return Some(0);
    }
    line.find(" #").map(|at| at + 1)
}

fn is_list_dash(rest: &str) -> bool {
    rest[1..].starts_with([' ', '\n', '\r'])
}

/// The length of a flow list or mapping with its brackets.
fn flow_length(text: &str) -> Option<usize> {
    let mut depth = 0i32;
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let mut length = letter.len_utf8();
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            '"' | '\'' => length = quoted_length(&text[at..])?,
            '#' if text[..at].ends_with([' ', '\n']) => length = text[at..].find('\n')?,
            _ => {}
        }
        at += length;
    }
    None
}

/// The length of a quoted text with its quotes.
fn quoted_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && quote == '"' {
            letters.next();
        } else if letter == quote {
            return Some(at + 1);
        }
    }
    None
}

/// The end of the last item of a block list whose first dash is at `start`.
fn block_list_end(text: &str, start: usize) -> Option<usize> {
    let first_line = line_start(text, start);
    let column = start - first_line;
    let mut end = None;
    let mut at = first_line;
    for line in text[first_line..].split_inclusive('\n') {
        let content = line.trim();
        let own = line.len() - line.trim_start().len();
        let belongs = own > column || (own == column && line[own..].starts_with('-'));
        if content.starts_with("*/") {
            break;
        }
        if !content.is_empty() && !content.starts_with('#') {
            if !belongs {
                break;
            }
            end = Some(at + line.trim_end().len());
        }
        at += line.len();
    }
    end
}

/// The end of a value without quotes. In a block it may have further lines, which are indented more than the line of its key.
fn plain_end(text: &str, start: usize) -> usize {
    let first_line = line_start(text, start);
    let key = &text[first_line..];
    let indentation = key.len() - key.trim_start_matches([' ', '-']).len();
    let is_flow = text[first_line..start].contains(['{', '[']);
    let mut end = start;
    let mut at = start;
    for (index, line) in text[start..].split_inclusive('\n').enumerate() {
        let content = line.trim();
        let own = line.len() - line.trim_start().len();
        let is_end =
            content.is_empty() || content.starts_with(['#', '-']) || content.starts_with("*/");
        if index > 0 && (is_end || own <= indentation || is_flow) {
            break;
        }
        let mut length = comment_start(line).unwrap_or(line.len());
        if is_flow {
            let stop = line.find([',', '}', ']']).unwrap_or(line.len());
            length = length.min(stop);
        }
        end = at + line[..length].trim_end().len();
        at += line.len();
        if length < line.trim_end().len() {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value at the first `@`, which is not part of the text.
    fn value(marked: &str) -> Option<String> {
        let start = marked.find('@').unwrap();
        let text = marked.replacen('@', "", 1);
        value_range(&text, start).map(|range| text[range].to_owned())
    }

    #[test]
    fn values_of_every_form_are_found() {
        for (text, expected) in [
            ("  a: @4, 2  # why\n  b: 1\n", Some("4, 2")),
            ("  a: @f(n,\n     2), 3\n  b: 1\n", Some("f(n,\n     2), 3")),
            ("  - a: @4,\n      2\n    b: 1\n", Some("4,\n      2")),
            (
                "  a: @[4, # four\n   2]\n  b: 1\n",
                Some("[4, # four\n   2]"),
            ),
            ("  a: @[\"]\", 2] # why\n", Some("[\"]\", 2]")),
            ("  a: @\"4, 2\" # why\n", Some("\"4, 2\"")),
            (
                "  a: # why\n    @- 4\n\n    - 2 # two\n  b: 1\n",
                Some(" # why\n    - 4\n\n    - 2 # two"),
            ),
            ("  a:\n  @- 4\n  - 2\n  b: 1\n", Some("\n  - 4\n  - 2")),
            ("  a:\n  - @4\n  - 2\n  b: 1\n", Some("\n  - 4\n  - 2")),
            ("  a:\n    @- 4\n    - 2\n*/\n", Some("\n    - 4\n    - 2")),
            ("  a:\n    @[4, 2]\n  b: 1\n", Some("\n    [4, 2]")),
            ("{a: @4, b: [1]}\n", Some("4")),
            ("{a: @{x: 4}, b: [1]}\n", Some("{x: 4}")),
            ("  a: @&list [4]\n", None),
            ("  a: @*list\n", None),
            ("  a: @[4\n", None),
            ("  a: @|\n    4\n", None),
            ("  a: @\"4\n", None),
            ("  a: @-4\n", Some("-4")),
            ("@", None),
            ("  - x\n    @4\n", None),
        ] {
            assert_eq!(value(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn replacements_below_their_key_move_behind_it() {
        let text = "  a:\n  - 4\n  - 2\n  b: 1\n";
        let range = value_range(text, 7).unwrap();
        let mut changed = text.to_owned();
        let value = replacement_value(text, &range, "[2, 4]");
        changed.replace_range(range, &value);
        assert_eq!(changed, "  a: [2, 4]\n  b: 1\n");
    }

    #[test]
    fn any_position_of_any_text_is_safe() {
        let text = "a: [\"é\\\"\", {b: 'x'}]\n  - é # ü\n:\n\t- \"";
        for start in 0..=text.len() + 1 {
            let _ = value_range(text, start);
        }
    }
}
