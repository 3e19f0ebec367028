//! Reads the edits of a reply: `<edit>` elements as the prompt asks for, variants of their names, and conflict markers.
//!
//! Also recognizes the statement that no edit helps. Unified diffs are read by `diff`.

use super::content::{Edit, ReplyContent};

/// Names of the element with the text to replace, and of the one with its replacement.
const OLD_TAGS: [&str; 3] = ["old_str", "old_string", "old_text"];
const NEW_TAGS: [&str; 3] = ["new_str", "new_string", "new_text"];

/// Shorter names. They count only inside `<edit>`, because elsewhere they may be names in code.
const SHORT_OLD_TAGS: [&str; 4] = ["old", "search", "find", "original"];
const SHORT_NEW_TAGS: [&str; 4] = ["new", "replace", "replacement", "updated"];

/// The longest tag, with its attributes.
const MAX_TAG_BYTES: usize = 100;

/// An opening or closing tag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EditTag<'t> {
    /// As it is written.
    name: &'t str,
    /// In lower case, without a number at the end.
    plain_name: String,
    is_closing: bool,
    start: usize,
    end: usize,
}

impl EditTag<'_> {
    fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.plain_name.as_str())
    }
}

/// The edits of a reply that are written as elements or conflict markers, without exact repetitions.
///
/// An error is the content of a reply whose edits are incomplete.
pub(super) fn tagged_edits(text: &str) -> Result<Vec<Edit>, ReplyContent> {
    let mut edits = Vec::new();
    let mut at = 0;
    let mut is_in_edit = false;
    let mut old: Option<String> = None;
    while let Some(tag) = next_tag(text, at) {
        at = tag.end;
        let number = edits.len() + 1;
        if tag.plain_name == "edit" {
            if tag.is_closing && old.is_some() {
                return Err(missing_new_str(number));
            }
            is_in_edit = !tag.is_closing;
            continue;
        }
        let is_old = tag.is_one_of(&OLD_TAGS) || is_in_edit && tag.is_one_of(&SHORT_OLD_TAGS);
        let is_new = tag.is_one_of(&NEW_TAGS) || is_in_edit && tag.is_one_of(&SHORT_NEW_TAGS);
        // Checked before the search for the closing tag, which takes time in proportion to the rest of the text.
        if tag.is_closing || !(is_old || is_new) || is_in_backticks(text, &tag) {
            continue;
        }
        let (content, end) = read_element(text, &tag, number)?;
        at = end;
        if is_old {
            if old.is_some() {
                return Err(missing_new_str(number));
            }
            old = Some(content);
        } else if let Some(old) = old.take() {
            edits.push(Edit { old, new: content });
        } else {
            return Err(ReplyContent::Unusable(format!(
                "edit {number} has no `<old_str>`"
            )));
        }
    }
    if old.is_some() {
        return Err(ReplyContent::Truncated);
    }
    edits.extend(conflict_marker_edits(text)?);
    Ok(without_duplicates(edits))
}

/// The content of the element that a tag opens, and the first byte after its closing tag.
fn read_element(
    text: &str,
    tag: &EditTag<'_>,
    edit: usize,
) -> Result<(String, usize), ReplyContent> {
    let close = format!("</{}>", tag.name);
    let rest = &text[tag.end..];
    if let Some(length) = rest.find(&close) {
        let end = tag.end + length + close.len();
        return Ok((element_text(&rest[..length]), end));
    }
    // If other closing tags follow, the reply is complete and this tag was forgotten. Otherwise the reply was cut off.
    Err(if rest.contains("</") {
        ReplyContent::Unusable(format!("edit {edit}: `<{}>` is not closed", tag.name))
    } else {
        ReplyContent::Truncated
    })
}

fn missing_new_str(edit: usize) -> ReplyContent {
    ReplyContent::Unusable(format!(
        "edit {edit} has no `<new_str>`: hint: an empty one deletes the text"
    ))
}

/// The edits without exact repetitions: a model that summarizes its reply means each edit once.
pub(super) fn without_duplicates(edits: Vec<Edit>) -> Vec<Edit> {
    let mut seen = std::collections::HashSet::new();
    edits
        .into_iter()
        .filter(|edit| seen.insert(edit.clone()))
        .collect()
}

/// The next tag that may belong to an edit.
fn next_tag(text: &str, from: usize) -> Option<EditTag<'_>> {
    let mut at = from;
    while let Some(offset) = text[at..].find('<') {
        let start = at + offset;
        at = start + 1;
        let tag = tag_at(text, start);
        if tag.is_some() {
            return tag;
        }
    }
    None
}

/// The tag that starts with the `<` at byte `start`, if its name may belong to an edit.
fn tag_at(text: &str, start: usize) -> Option<EditTag<'_>> {
    let inside = &text[start + 1..];
    let is_closing = inside.starts_with('/');
    let name_at = usize::from(is_closing);
    let rest = &inside[name_at..];
    let length = rest
        .bytes()
        .take(MAX_TAG_BYTES)
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count();
    let name = &rest[..length];
    let plain_name = name
        .trim_end_matches(|letter: char| letter.is_ascii_digit())
        .trim_end_matches('_')
        .to_lowercase();
    let known = [
        &OLD_TAGS[..],
        &NEW_TAGS,
        &SHORT_OLD_TAGS,
        &SHORT_NEW_TAGS,
        &["edit"],
    ];
    if !known
        .iter()
        .any(|names| names.contains(&plain_name.as_str()))
    {
        return None;
    }
    let attributes = &rest.as_bytes()[length..rest.len().min(length + MAX_TAG_BYTES)];
    let close = attributes.iter().position(|byte| *byte == b'>')?;
    let attributes = &attributes[..close];
    let are_attributes = attributes.is_empty()
        || attributes[0] == b' ' && !attributes.contains(&b'\n') && !attributes.contains(&b'<');
    are_attributes.then(|| EditTag {
        name,
        plain_name,
        is_closing,
        start,
        end: start + 1 + name_at + length + close + 1,
    })
}

/// Whether a tag is in backticks, as a word of a sentence.
fn is_in_backticks(text: &str, tag: &EditTag<'_>) -> bool {
    text[..tag.start].ends_with('`') && text[tag.end..].starts_with('`')
}

/// The text of an element without the line breaks next to its tags, a code fence, or a CDATA section.
fn element_text(text: &str) -> String {
    let mut text = text;
    if let Some(inside) = text
        .trim()
        .strip_prefix("<![CDATA[")
        .and_then(|rest| rest.strip_suffix("]]>"))
    {
        text = inside;
    }
    text = whole_lines(text);
    if let Some((first, rest)) = text.trim().split_once('\n')
        && first.starts_with("```")
        && let Some(inside) = rest.strip_suffix("```")
        && (inside.is_empty() || inside.ends_with('\n'))
        && !inside.contains("```")
    {
        return inside.strip_suffix('\n').unwrap_or(inside).to_owned();
    }
    text.to_owned()
}

/// The lines between tags that have lines of their own; any other text as it is.
fn whole_lines(text: &str) -> &str {
    let Some((first, rest)) = text.split_once('\n') else {
        return text;
    };
    if !first.trim().is_empty() {
        return text;
    }
    match rest.rsplit_once('\n') {
        Some((lines, last)) if last.trim().is_empty() => lines,
        None if rest.trim().is_empty() => "",
        _ => rest,
    }
}

/// A conflict whose end has not been read yet.
#[derive(Default)]
struct OpenConflict<'t> {
    old: Vec<&'t str>,
    /// `None` before the middle marker.
    new: Option<Vec<&'t str>>,
}

/// Edits as version control marks conflicts: `<<<<<<<`, `=======`, `>>>>>>>`, each on a line of its own.
fn conflict_marker_edits(text: &str) -> Result<Vec<Edit>, ReplyContent> {
    let mut edits = Vec::new();
    let mut conflict: Option<OpenConflict<'_>> = None;
    for line in text.split('\n') {
        let mark = line.trim();
        let Some(OpenConflict { old, new }) = &mut conflict else {
            if mark.starts_with("<<<<<<<") {
                conflict = Some(OpenConflict::default());
            }
            continue;
        };
        match new {
            Some(new) if mark.starts_with(">>>>>>>") => {
                edits.push(Edit {
                    old: old.join("\n"),
                    new: new.join("\n"),
                });
                conflict = None;
            }
            Some(new) => new.push(line),
            None if mark.starts_with("=======") => *new = Some(Vec::new()),
            None => old.push(line),
        }
    }
    match conflict {
        Some(_) => Err(ReplyContent::Truncated),
        None => Ok(edits),
    }
}

/// Whether a line states that no edit helps, and nothing else.
pub(super) fn states_no_valid_edit(text: &str) -> bool {
    text.lines().any(|line| {
        let word = line.trim().trim_matches(['`', '*', '.', ' ']);
        let word = word
            .trim_start_matches('<')
            .trim_end_matches('>')
            .trim_end_matches('/');
        word.trim().eq_ignore_ascii_case("NO_VALID_EDIT")
    })
}

/// Whether a sentence states that no edit helps.
pub(super) fn mentions_no_valid_edit(text: &str) -> bool {
    text.contains("<NO_VALID_EDIT")
}
