//! The edits in a reply: in the notation that was asked for, and in the others that say the same.

use super::blocks::ReplyBlock;
use super::{Edit, ReplyContent};

/// Names of what is replaced, and of what replaces it. The short ones count only within `<edit>`: they may be names in code.
const OLD_TAGS: [&str; 3] = ["old_str", "old_string", "old_text"];
const NEW_TAGS: [&str; 3] = ["new_str", "new_string", "new_text"];
const SHORT_OLD_TAGS: [&str; 4] = ["old", "search", "find", "original"];
const SHORT_NEW_TAGS: [&str; 4] = ["new", "replace", "replacement", "updated"];

/// The longest tag, its attributes included.
const MAX_TAG_BYTES: usize = 100;

/// An opening or closing tag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EditTag<'t> {
    /// As it is written.
    name: &'t str,
    /// In lower case, without a number.
    plain: String,
    closes: bool,
    start: usize,
    end: usize,
}

/// The edits written as elements; an answer for what is wrong with them where they were begun.
pub(super) fn tagged_edits(text: &str) -> Result<Vec<Edit>, ReplyContent> {
    let mut edits = Vec::new();
    let mut at = 0;
    let mut within = false;
    let mut old: Option<String> = None;
    while let Some(tag) = next_tag(text, at) {
        at = tag.end;
        let is = |long: &[&str], short: &[&str]| {
            long.contains(&tag.plain.as_str()) || within && short.contains(&tag.plain.as_str())
        };
        let (is_old, is_new) = (
            is(&OLD_TAGS, &SHORT_OLD_TAGS),
            is(&NEW_TAGS, &SHORT_NEW_TAGS),
        );
        if tag.plain == "edit" {
            if let (true, Some(_)) = (tag.closes, &old) {
                return Err(ReplyContent::Unusable(missing_new_str(edits.len() + 1)));
            }
            within = !tag.closes;
            continue;
        }
        // Asked before its end is looked for, which takes as long as the text that is left.
        if tag.closes || !(is_old || is_new) || is_in_backticks(text, &tag) {
            continue;
        }
        let close = format!("</{}>", tag.name);
        let Some(length) = text[tag.end..].find(&close) else {
            let is_answered = text[tag.end..].contains("</");
            return Err(if is_answered {
                ReplyContent::Unusable(format!(
                    "edit {}: `<{}>` is not closed",
                    edits.len() + 1,
                    tag.name
                ))
            } else {
                ReplyContent::Truncated
            });
        };
        let content = element_text(&text[tag.end..tag.end + length]);
        at = tag.end + length + close.len();
        if is_old {
            if old.is_some() {
                return Err(ReplyContent::Unusable(missing_new_str(edits.len() + 1)));
            }
            old = Some(content);
        } else if let Some(old) = old.take() {
            edits.push(Edit { old, new: content });
        } else {
            return Err(ReplyContent::Unusable(format!(
                "edit {} has no `<old_str>`",
                edits.len() + 1
            )));
        }
    }
    if old.is_some() {
        return Err(ReplyContent::Truncated);
    }
    edits.extend(conflict_marker_edits(text)?);
    Ok(without_duplicates(edits))
}

fn missing_new_str(edit: usize) -> String {
    format!("edit {edit} has no `<new_str>`: hint: an empty one takes the text out")
}

/// The edits, an exact repetition left out: a model that sums up its answer means each once.
pub(super) fn without_duplicates(edits: Vec<Edit>) -> Vec<Edit> {
    let mut seen = std::collections::HashSet::new();
    edits
        .into_iter()
        .filter(|edit| seen.insert(edit.clone()))
        .collect()
}

/// The next tag whose name may be one of an edit's.
fn next_tag(text: &str, from: usize) -> Option<EditTag<'_>> {
    let mut at = from;
    while let Some(offset) = text[at..].find('<') {
        let start = at + offset;
        at = start + 1;
        let inside = &text[start + 1..];
        let closes = inside.starts_with('/');
        let name_at = usize::from(closes);
        let rest = &inside[name_at..];
        let length = rest
            .bytes()
            .take(MAX_TAG_BYTES)
            .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            .count();
        let name = &rest[..length];
        let plain = name
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
        if !known.iter().any(|names| names.contains(&plain.as_str())) {
            continue;
        }
        let attributes = &rest.as_bytes()[length..rest.len().min(length + MAX_TAG_BYTES)];
        let Some(close) = attributes.iter().position(|byte| *byte == b'>') else {
            continue;
        };
        let attributes = &attributes[..close];
        let are_attributes = attributes.is_empty()
            || attributes[0] == b' ' && !attributes.contains(&b'\n') && !attributes.contains(&b'<');
        if !are_attributes {
            continue;
        }
        return Some(EditTag {
            name,
            plain,
            closes,
            start,
            end: start + 1 + name_at + length + close + 1,
        });
    }
    None
}

/// Whether a tag stands in backticks, as a word of a sentence.
fn is_in_backticks(text: &str, tag: &EditTag<'_>) -> bool {
    text[..tag.start].ends_with('`') && text[tag.end..].starts_with('`')
}

/// What an element holds, without the line breaks behind its opening and before its closing tag, a fence, or a CDATA section.
fn element_text(text: &str) -> String {
    let mut text = text;
    let trimmed = text.trim();
    if let Some(inside) = trimmed
        .strip_prefix("<![CDATA[")
        .and_then(|rest| rest.strip_suffix("]]>"))
    {
        text = inside;
    }
    text = whole_lines(text);
    let fenced = text.trim();
    if let Some((first, rest)) = fenced.split_once('\n')
        && first.starts_with("```")
        && let Some(inside) = rest.strip_suffix("```")
        && (inside.is_empty() || inside.ends_with('\n'))
        && !inside.contains("```")
    {
        return inside.strip_suffix('\n').unwrap_or(inside).to_owned();
    }
    text.to_owned()
}

/// Whole lines between tags on lines of their own; else the text as it is.
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

/// Edits as version control marks conflicts: `<<<<<<<`, `=======`, `>>>>>>>`, each on a line of its own.
fn conflict_marker_edits(text: &str) -> Result<Vec<Edit>, ReplyContent> {
    let mut edits = Vec::new();
    let mut part: Option<(Vec<&str>, Option<Vec<&str>>)> = None;
    for line in text.split('\n') {
        let mark = line.trim();
        match &mut part {
            None if mark.starts_with("<<<<<<<") => part = Some((Vec::new(), None)),
            None => {}
            Some((old, Some(new))) if mark.starts_with(">>>>>>>") => {
                edits.push(Edit {
                    old: old.join("\n"),
                    new: new.join("\n"),
                });
                part = None;
            }
            Some((_, new @ None)) if mark.starts_with("=======") => *new = Some(Vec::new()),
            Some((_, Some(new))) => new.push(line),
            Some((old, None)) => old.push(line),
        }
    }
    match part {
        Some(_) => Err(ReplyContent::Truncated),
        None => Ok(edits),
    }
}

/// Edits in the notation of `diff`: what a hunk keeps and takes away is replaced by what it keeps and adds.
pub(super) fn diff_edits(text: &str, blocks: &[ReplyBlock]) -> Vec<Edit> {
    let mut edits = Vec::new();
    let labelled = |block: &&ReplyBlock| {
        block.closed && ["diff", "patch", "udiff"].contains(&block.language.as_str())
    };
    let mut texts: Vec<_> = blocks
        .iter()
        .filter(labelled)
        .map(|block| block.text.as_str())
        .collect();
    if texts.is_empty() {
        let unlabelled = |block: &&ReplyBlock| block.closed && looks_like_diff(&block.text);
        texts = blocks
            .iter()
            .filter(unlabelled)
            .map(|block| block.text.as_str())
            .collect();
    }
    if texts.is_empty() && looks_like_diff(text) {
        texts.push(text);
    }
    for text in texts {
        read_hunks(text, &mut edits);
    }
    without_duplicates(edits)
}

fn looks_like_diff(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("@@"))
        && text.lines().any(|line| line.starts_with(['+', '-']))
}

fn read_hunks(text: &str, edits: &mut Vec<Edit>) {
    let has_places = text.lines().any(|line| line.starts_with("@@"));
    let mut within = !has_places;
    let mut hunk = DiffHunk::default();
    for line in text.lines() {
        if line.starts_with("@@") {
            hunk.finish(edits);
            within = true;
            continue;
        }
        let is_file = ["--- ", "+++ ", "diff ", "index ", "***"]
            .iter()
            .any(|mark| line.starts_with(mark));
        if is_file && hunk.is_empty() {
            continue;
        }
        let is_end = line.starts_with("***") || line.starts_with("diff ");
        if !within || is_end {
            hunk.finish(edits);
            within = !has_places;
            continue;
        }
        match line.as_bytes().first() {
            Some(b'-') => hunk.old.push(&line[1..]),
            Some(b'+') => hunk.new.push(&line[1..]),
            Some(b'\\') => continue,
            Some(b' ') => hunk.push_context(&line[1..]),
            // White space at the end of a line is easily lost: an empty line is one that is kept.
            None => hunk.push_context(""),
            Some(_) => hunk.push_context(line),
        }
        hunk.changes |= line.starts_with(['+', '-']);
    }
    hunk.finish(edits);
}

#[derive(Default)]
struct DiffHunk<'t> {
    old: Vec<&'t str>,
    new: Vec<&'t str>,
    changes: bool,
}

impl<'t> DiffHunk<'t> {
    fn is_empty(&self) -> bool {
        self.old.is_empty() && self.new.is_empty()
    }

    fn push_context(&mut self, line: &'t str) {
        self.old.push(line);
        self.new.push(line);
    }

    fn finish(&mut self, edits: &mut Vec<Edit>) {
        let mut hunk = std::mem::take(self);
        while hunk.old.last() == Some(&"") && hunk.new.last() == Some(&"") {
            hunk.old.pop();
            hunk.new.pop();
        }
        if hunk.changes {
            edits.push(Edit {
                old: hunk.old.join("\n"),
                new: hunk.new.join("\n"),
            });
        }
    }
}

/// Whether a line says that no edit helps, and nothing else.
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

/// Whether it is said in a sentence.
pub(super) fn mentions_no_valid_edit(text: &str) -> bool {
    text.contains("<NO_VALID_EDIT")
}
