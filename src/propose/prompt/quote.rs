//! Quotes text from elsewhere (code, logs, reasons, earlier replies), so that a prompt shows it as data.
//!
//! Invariants: quoted text never ends its own quotation. It has no invisible characters. It has no tag of the reply format, no
//! marker of a chat format, and no line that looks like a turn of a conversation. Otherwise code is unchanged, so that edits match
//! it.

use std::borrow::Cow;

/// Tags of the reply format and of chat formats, and roles of a conversation.
const REPLY_TAGS: &[&str] = &[
    "edit",
    "old_str",
    "new_str",
    "trace",
    "system",
    "user",
    "assistant",
    "human",
    "s",
];
const CHAT_MARKERS: &[&str] = &[
    "<|",
    "|>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<NO_VALID_EDIT",
];
const TURN_PREFIXES: &[&str] = &["Human", "Assistant", "System", "User"];

/// A fenced block with the whole text. Its fence is longer than any run of backticks in the text.
pub(super) fn fenced_block(text: &str, language: &str) -> String {
    let text = neutralize(text);
    let fence = "`".repeat(longest_backtick_run(&text).max(2) + 1);
    let end = if text.ends_with('\n') || text.is_empty() {
        ""
    } else {
        "\n"
    };
    format!("{fence}{language}\n{text}{end}{fence}")
}

/// A code span: one line of at most `max_chars` characters between backticks.
pub(super) fn code_span(text: &str, max_chars: usize) -> String {
    let line = one_line(text, max_chars).replace('`', "'");
    match line.trim() {
        "" => "`(nothing)`".to_owned(),
        line => format!("`{line}`"),
    }
}

/// One line of prose from a partly trusted source, such as a task's description: at most `max_chars` characters, without markers.
pub(super) fn one_line(text: &str, max_chars: usize) -> String {
    let mut words = String::new();
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.len() > 4 * max_chars {
            break;
        }
    }
    // Two or more backticks in a line could start a code span or a block.
    let words = neutralize(&words).replace("``", "''");
    truncate_chars(&words, max_chars)
}

/// Like `one_line`, for the start of a paragraph: it cannot start a heading, a quotation, a list or a fence.
pub(super) fn one_paragraph(text: &str, max_chars: usize) -> String {
    let words = one_line(text, max_chars);
    if words.starts_with(['#', '>', '-', '+', '*', '|', '=', '~']) {
        format!("\\{words}")
    } else {
        words
    }
}

/// At most `max_chars` characters, with `…` where the text was cut.
pub(super) fn truncate_chars(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn longest_backtick_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for byte in text.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// The text without invisible characters, markers and turns. Nearly all text has none: then it costs one pass per rule and no copy.
fn neutralize(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if !text.as_bytes().iter().all(is_plain) {
        text = Cow::Owned(escape_invisible(&text));
    }
    if let Some(broken) = break_markers(&text) {
        text = Cow::Owned(broken);
    }
    match break_turn_prefixes(&text) {
        Some(broken) => Cow::Owned(broken),
        None => text,
    }
}

/// Turns line ends into `\n`, and escapes characters that are invisible or reorder text.
fn escape_invisible(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => {
                if letters.peek() != Some(&'\n') {
                    result.push('\n');
                }
            }
            '\n' | '\t' => result.push(letter),
            letter if letter.is_control() || is_invisible(letter) => {
                result.extend(letter.escape_unicode());
            }
            letter => result.push(letter),
        }
    }
    result
}

/// Direction marks, joiners, zero-width spaces, Unicode line separators, tag characters.
fn is_invisible(letter: char) -> bool {
    matches!(u32::from(letter),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff)
}

/// Inserts a space after the first character of every marker: readable, but no longer a marker. `None` if there is none.
fn break_markers(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    for (position, byte) in text.bytes().enumerate() {
        if matches!(byte, b'<' | b'[' | b'|') && opens_marker(&text[position..]) {
            result.push_str(&text[copied..=position]);
            result.push(' ');
            copied = position + 1;
        }
    }
    (copied > 0).then(|| result + &text[copied..])
}

fn opens_marker(text: &str) -> bool {
    let starts = |marker: &&str| {
        (text.as_bytes().get(..marker.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(marker.as_bytes()))
    };
    if CHAT_MARKERS.iter().any(starts) {
        return true;
    }
    let Some(inner) = text.strip_prefix('<') else {
        return false;
    };
    let name = inner.strip_prefix('/');
    let closes = name.is_some();
    let name = name.unwrap_or(inner);
    let length = (name.bytes())
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count();
    let end = name[length..].trim_start();
    let is_tag = end.starts_with('>') || end.starts_with("/>");
    // `vector<s>` is C++; `</s>` is a chat format's end of text.
    let is_known = |tag: &&&str| name[..length].eq_ignore_ascii_case(tag);
    is_tag
        && REPLY_TAGS
            .iter()
            .find(is_known)
            .is_some_and(|tag| closes || *tag != "s")
}

/// Inserts a space before the colon of every line that starts like a turn of a conversation. `None` if no line does.
fn break_turn_prefixes(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    for (position, _) in text.bytes().enumerate().filter(|(_, byte)| *byte == b':') {
        let before = &text.as_bytes()[..position];
        let is_before_colon = |name: &&str| {
            let from = before.len().checked_sub(name.len());
            from.is_some_and(|from| before[from..].eq_ignore_ascii_case(name.as_bytes()))
        };
        let Some(name) = TURN_PREFIXES.iter().find(|name| is_before_colon(name)) else {
            continue;
        };
        let line = &before[..position - name.len()];
        let line_start = line.iter().rev().take_while(|byte| **byte != b'\n');
        if line_start.copied().all(|byte| b" \t#*/>".contains(&byte)) {
            result.push_str(&text[copied..position]);
            result.push(' ');
            copied = position;
        }
    }
    (copied > 0).then(|| result + &text[copied..])
}
