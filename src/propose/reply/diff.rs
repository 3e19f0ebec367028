//! Reads unified diffs as edits: what a hunk keeps and removes is replaced by what it keeps and adds.

use super::blocks::ReplyBlock;
use super::content::Edit;
use super::edits::without_duplicates;

/// Labels of blocks that contain a diff.
const DIFF_LANGUAGES: [&str; 3] = ["diff", "patch", "udiff"];

/// The edits of all diffs in a reply: those in labelled blocks, else those in any block, else those in the text.
pub(super) fn diff_edits(text: &str, blocks: &[ReplyBlock]) -> Vec<Edit> {
    let texts_of = |is_diff: &dyn Fn(&ReplyBlock) -> bool| -> Vec<&str> {
        blocks
            .iter()
            .filter(|block| block.closed && is_diff(block))
            .map(|block| block.text.as_str())
            .collect()
    };
    let mut texts = texts_of(&|block| DIFF_LANGUAGES.contains(&block.language.as_str()));
    if texts.is_empty() {
        texts = texts_of(&|block| looks_like_diff(&block.text));
    }
    if texts.is_empty() && looks_like_diff(text) {
        texts.push(text);
    }
    let mut edits = Vec::new();
    for text in texts {
        read_hunks(text, &mut edits);
    }
    without_duplicates(edits)
}

fn looks_like_diff(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("@@"))
        && text.lines().any(|line| line.starts_with(['+', '-']))
}

/// Adds one edit for each hunk that changes something.
fn read_hunks(text: &str, edits: &mut Vec<Edit>) {
    // Without any `@@`, the whole text is one hunk.
    let has_hunk_heads = text.lines().any(|line| line.starts_with("@@"));
    let mut is_in_hunk = !has_hunk_heads;
    let mut hunk = DiffHunk::default();
    for line in text.lines() {
        if line.starts_with("@@") {
            hunk.finish(edits);
            is_in_hunk = true;
            continue;
        }
        let is_file_head = ["--- ", "+++ ", "diff ", "index ", "***"]
            .iter()
            .any(|mark| line.starts_with(mark));
        if is_file_head && hunk.is_empty() {
            continue;
        }
        let ends_file = line.starts_with("***") || line.starts_with("diff ");
        if !is_in_hunk || ends_file {
            hunk.finish(edits);
            is_in_hunk = !has_hunk_heads;
            continue;
        }
        match line.as_bytes().first() {
            Some(b'-') => hunk.old.push(&line[1..]),
            Some(b'+') => hunk.new.push(&line[1..]),
            Some(b'\\') => continue,
            Some(b' ') => hunk.push_context(&line[1..]),
            // Models drop the space that marks an empty context line.
            None => hunk.push_context(""),
            Some(_) => hunk.push_context(line),
        }
        hunk.changes |= line.starts_with(['+', '-']);
    }
    hunk.finish(edits);
}

/// The lines of a hunk before and after it is applied.
#[derive(Default)]
struct DiffHunk<'t> {
    old: Vec<&'t str>,
    new: Vec<&'t str>,
    /// Whether any line is removed or added.
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

    /// Adds the hunk as an edit, and empties it.
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
