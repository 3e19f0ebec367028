//! Removes from a reply what is not part of its text: byte order marks, carriage returns, leaked thoughts, HTML escapes.
//!
//! Runs before everything else, so that no other parser has to expect these. Notes every removal but line endings.

use super::text::unescape_html;

/// The tags in which models put their thoughts.
const THOUGHT_TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
];

/// Tags whose escaped form shows that the whole reply is escaped.
const ESCAPED_TAGS: [&str; 3] = ["&lt;edit", "&lt;old_str", "&lt;NO_VALID_EDIT"];

/// The text of a reply as the model meant it.
pub(super) fn clean_reply(text: &str, notes: &mut Vec<String>) -> String {
    let mut text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    for (open, close) in THOUGHT_TAGS {
        if let Some(rest) = strip_thoughts(&text, open, close) {
            notes.push("removed leaked thoughts".to_owned());
            text = rest;
        }
    }
    // OpenAI's harmony format puts the reply into its last channel.
    if let Some((_, last)) = text.rsplit_once("<|channel|>final<|message|>") {
        notes.push("removed leaked thoughts".to_owned());
        text = last
            .trim_end()
            .trim_end_matches("<|return|>")
            .trim_end_matches("<|end|>")
            .to_owned();
    }
    if !text.contains('<') && ESCAPED_TAGS.iter().any(|tag| text.contains(tag)) {
        notes.push("unescaped HTML entities in the whole reply".to_owned());
        text = unescape_html(&text);
    }
    text
}

/// The text after the thoughts that a reply starts with; `None` if it starts with none.
fn strip_thoughts(text: &str, open: &str, close: &str) -> Option<String> {
    let start = text.trim_start();
    if let Some(thoughts) = start.strip_prefix(open) {
        // If the thoughts do not end, there is nothing else.
        let end = thoughts.find(close).map(|end| end + close.len());
        return Some(thoughts[end.unwrap_or(thoughts.len())..].to_owned());
    }
    // A server's chat template may have written the opening tag: then only the closing one is in the reply.
    let end = text.find(close)?;
    let rest_of_line = text[end + close.len()..].trim_start_matches([' ', '\t']);
    let ends_line = rest_of_line.is_empty() || rest_of_line.starts_with('\n');
    (ends_line && !text[..end].contains(open)).then(|| text[end + close.len()..].to_owned())
}
