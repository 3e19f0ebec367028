//! Text that others wrote, put into a prompt as data: code, logs, reasons, what earlier replies said.
//!
//! Invariant: quoted text never ends its own quotation, holds no character that is not seen, and no word of ours or of a model's
//! chat format that could pass for an instruction's frame. Code stays as it is otherwise, so that edits find their place.

/// Tags that replies are read by, frames of chat formats, and what turns of a conversation begin with.
const TAGS: &[&str] = &[
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
const FRAMES: &[&str] = &[
    "<|",
    "|>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<NO_VALID_EDIT",
];
const TURNS: &[&str] = &["Human:", "Assistant:", "System:", "User:"];

/// A fenced block, whole: its fence is longer than any within.
pub(super) fn block(text: &str, language: &str) -> String {
    let text = neutral(text);
    let fence = "`".repeat(longest_run(&text).max(2) + 1);
    let end = if text.ends_with('\n') || text.is_empty() {
        ""
    } else {
        "\n"
    };
    format!("{fence}{language}\n{text}{end}{fence}")
}

/// A span within a sentence: one line, at most `most` characters, between backticks of its own.
pub(super) fn span(text: &str, most: usize) -> String {
    let line = line(text, most).replace('`', "'");
    match line.trim() {
        "" => "`(nothing)`".to_owned(),
        line => format!("`{line}`"),
    }
}

/// One line of prose of somebody half trusted, such as a task's description: without frames, at most `most` characters.
pub(super) fn line(text: &str, most: usize) -> String {
    let mut words = String::new();
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.len() > 4 * most {
            break;
        }
    }
    shortened(&neutral(&words), most)
}

/// At most so many characters, and a mark where something was left out.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn longest_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for byte in text.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// The text without anything that is not what it looks like.
fn neutral(text: &str) -> String {
    without_turns(&without_frames(&visible(text)))
}

/// Line ends become `\n`; what is not seen, or moves what is, is written out.
fn visible(text: &str) -> String {
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
            letter if letter.is_control() || is_unseen(letter) => {
                result.extend(letter.escape_unicode());
            }
            letter => result.push(letter),
        }
    }
    result
}

/// Marks of direction, joiners, spaces without width, line ends that editors know and compilers do not, tags.
fn is_unseen(letter: char) -> bool {
    matches!(u32::from(letter),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff)
}

/// A space within every frame, behind its first character: still to be read, no longer a frame.
fn without_frames(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(position) = rest.find(['<', '[', '|']) {
        result.push_str(&rest[..=position]);
        if opens_frame(&rest[position..]) {
            result.push(' ');
        }
        rest = &rest[position + 1..];
    }
    result + rest
}

fn opens_frame(text: &str) -> bool {
    let starts = |frame: &&str| {
        (text.as_bytes().get(..frame.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(frame.as_bytes()))
    };
    if FRAMES.iter().any(|frame| starts(&frame)) {
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
        && TAGS
            .iter()
            .find(is_ours)
            .is_some_and(|tag| closes || *tag != "s")
}

/// A space before the colon of a line that begins as a turn of a conversation does.
fn without_turns(text: &str) -> String {
    let starts = |line: &str| {
        let line = line.trim_start_matches([' ', '\t', '#', '*', '/', '>']);
        TURNS.iter().any(|turn| {
            (line.as_bytes().get(..turn.len()))
                .is_some_and(|start| start.eq_ignore_ascii_case(turn.as_bytes()))
        })
    };
    if !text.lines().any(starts) {
        return text.to_owned();
    }
    let mut result = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        match line.split_once(':') {
            Some((name, rest)) if starts(line) => {
                result.push_str(name);
                result.push_str(" :");
                result.push_str(rest);
            }
            _ => result.push_str(line),
        }
    }
    result
}
