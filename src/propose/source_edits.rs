//! Replacements of byte ranges in a source text, collected first and applied together.
//!
//! Works on any text. Never parses it; `code_layout` and `header_text` find the ranges, `child_check` checks the result.

use std::ops::Range;

use super::code_layout::{lines_before, lines_instead};

/// Replacements of disjoint byte ranges of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceEdits(Vec<(Range<usize>, String)>);

impl SourceEdits {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn replace(&mut self, range: Range<usize>, text: impl Into<String>) -> &mut Self {
        self.0.push((range, text.into()));
        self
    }

    pub(crate) fn insert(&mut self, at: usize, text: impl Into<String>) -> &mut Self {
        self.replace(at..at, text)
    }

    /// Inserts whole lines before the code at byte `at`. See [`lines_before`].
    pub(crate) fn insert_lines(&mut self, source: &str, at: usize, lines: &str) -> &mut Self {
        let (at, text) = lines_before(source, at, lines);
        self.insert(at, text)
    }

    /// Replaces code by whole lines. See [`lines_instead`].
    pub(crate) fn replace_by_lines(
        &mut self,
        source: &str,
        range: Range<usize>,
        lines: &str,
    ) -> &mut Self {
        let (range, text) = lines_instead(source, range, lines);
        self.replace(range, text)
    }

    /// The replaced ranges with their new texts, in order.
    pub(crate) fn sorted(&self) -> Vec<(&Range<usize>, &str)> {
        let mut edits: Vec<_> = (self.0.iter())
            .map(|(range, text)| (range, text.as_str()))
            .collect();
        // The sort is stable: insertions at one byte keep the order in which they were added.
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        edits
    }

    /// Drops the edits inside `part`.
    pub(crate) fn without_range(mut self, part: &Range<usize>) -> Self {
        self.0
            .retain(|(range, _)| range.start < part.start || part.end < range.end);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These edits and `others`.
    pub(crate) fn merged_with(mut self, others: &Self) -> Self {
        self.0.extend(others.0.iter().cloned());
        self
    }

    /// The text after all edits; `None` if two edits overlap.
    pub(crate) fn apply(&self, text: &str) -> Option<String> {
        self.apply_within(text, 0..text.len())
    }

    /// The text of `part` after the edits inside it. Edits that reach outside are ignored. `None` if two edits overlap.
    pub(crate) fn apply_within(&self, text: &str, part: Range<usize>) -> Option<String> {
        let mut edits = self.sorted();
        edits.retain(|(range, _)| part.start <= range.start && range.end <= part.end);
        let mut result = String::new();
        let mut at = part.start;
        for (range, replacement) in edits {
            result.push_str(text.get(at..range.start)?);
            result.push_str(replacement);
            at = range.end;
        }
        result.push_str(text.get(at..part.end)?);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_apply_in_any_order_and_overlaps_are_refused() {
        let mut edits = SourceEdits::new();
        edits.replace(4..5, "X").insert(0, "a").insert(0, "b");
        assert_eq!(edits.apply("01234567").as_deref(), Some("ab0123X567"));
        assert_eq!(edits.apply_within("01234567", 1..4).as_deref(), Some("123"));
        edits.replace(3..6, "Y");
        assert_eq!(edits.apply("01234567"), None);
    }

    #[test]
    fn edits_beyond_the_text_are_ignored() {
        assert_eq!(
            SourceEdits::new().replace(3..9, "").apply("0123"),
            Some("0123".to_owned())
        );
    }
}
