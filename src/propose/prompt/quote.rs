//! Text that others wrote, put into a prompt as data: code, logs, reasons, what earlier replies said.
//!
//! Invariant: quoted text never ends its own quotation, holds no character that is not seen, and no word of ours or of a model's
//! chat format that could pass for an instruction's frame. Code stays as it is otherwise, so that edits find their place.

use std::borrow::Cow;

/// Tags that replies are read by, frames of chat formats, and what turns of a conversation begin with.
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

/// A fenced block, whole: its fence is longer than any within.
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

/// A span within a sentence: one line, at most `most` characters, between backticks of its own.
pub(super) fn code_span(text: &str, max_chars: usize) -> String {
    let line = one_line(text, max_chars).replace('`', "'");
    match line.trim() {
        "" => "`(nothing)`".to_owned(),
        line => format!("`{line}`"),
    }
}

/// One line of prose of somebody half trusted, such as a task's description: without frames, at most `most` characters.
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
    // Within a line, two backticks or more could open a block.
    let words = neutralize(&words).replace("``", "''");
    truncate_chars(&words, max_chars)
}

/// As `line`, for the start of a paragraph: it begins no heading, no quotation, no list, no fence.
pub(super) fn one_paragraph(text: &str, max_chars: usize) -> String {
    let words = one_line(text, max_chars);
    match words.starts_with(['#', '>', '-', '+', '*', '|', '=', '~']) {
        true => format!("\\{words}"),
        false => words,
    }
}

/// At most so many characters, and a mark where something was left out.
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

/// The text without anything that is not what it looks like. Nearly all text is, and is looked at byte by byte, once for each rule.
fn neutralize(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if !text.as_bytes().iter().all(is_plain) {
        text = Cow::Owned(escape_invisible(&text));
    }
    if let Some(framed) = break_markers(&text) {
        text = Cow::Owned(framed);
    }
    match break_turn_prefixes(&text) {
        Some(calm) => Cow::Owned(calm),
        None => text,
    }
}

/// Line ends become `\n`; what is not seen, or moves what is, is written out.
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

/// Marks of direction, joiners, spaces without width, line ends that editors know and compilers do not, tags.
fn is_invisible(letter: char) -> bool {
    matches!(u32::from(letter),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff)
}

/// A space within every frame, behind its first character: still to be read, no longer a frame. `None` where there is none.
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
    let starts = |frame: &&str| {
        (text.as_bytes().get(..frame.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(frame.as_bytes()))
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
    let ends = name[length..].trim_start();
    let is_tag = ends.starts_with('>') || ends.starts_with("/>");
    // `vector<s>` is C++, `</s>` is not.
    let is_ours = |tag: &&&str| name[..length].eq_ignore_ascii_case(tag);
    is_tag
        && REPLY_TAGS
            .iter()
            .find(is_ours)
            .is_some_and(|tag| closes || *tag != "s")
}

/// A space before the colon of a line that begins as a turn of a conversation does. `None` where no line does.
fn break_turn_prefixes(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    for (position, _) in text.bytes().enumerate().filter(|(_, byte)| *byte == b':') {
        let before = &text.as_bytes()[..position];
        let ends = |name: &&str| {
            let from = before.len().checked_sub(name.len());
            from.is_some_and(|from| before[from..].eq_ignore_ascii_case(name.as_bytes()))
        };
        let Some(name) = TURN_PREFIXES.iter().find(|name| ends(name)) else {
            continue;
        };
        let line = &before[..position - name.len()];
        let start = line.iter().rev().take_while(|byte| **byte != b'\n');
        if start.copied().all(|byte| b" \t#*/>".contains(&byte)) {
            result.push_str(&text[copied..position]);
            result.push(' ');
            copied = position;
        }
    }
    (copied > 0).then(|| result + &text[copied..])
}
