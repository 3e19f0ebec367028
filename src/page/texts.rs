//! The long texts of a page: kernels, prompts, replies. A text that resembles an earlier one is kept as its difference.
//!
//! Stops at a budget of bytes, so that the page stays small. Says which texts are left out.

use serde::Serialize;

use super::diff::{LineEdit, line_edits};

/// The number of a text in the page.
pub(super) type TextId = usize;

/// A text as the page has it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum StoredText {
    Whole(String),
    /// The text from which it differs, and the edits.
    Edited(TextId, Vec<LineEdit>),
}

/// The texts of a page.
#[derive(Debug)]
pub(super) struct Texts {
    stored: Vec<StoredText>,
    /// The same texts whole, to compare with.
    whole: Vec<String>,
    /// Bytes that may still be used.
    left: usize,
    /// Number of texts that did not fit.
    pub(super) left_out: u64,
}

impl Texts {
    /// `budget`: the most bytes that all texts may take.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            stored: Vec::new(),
            whole: Vec::new(),
            left: budget,
            left_out: 0,
        }
    }

    /// Adds a text. `like`: a text that it may resemble. `None` if it does not fit.
    pub(super) fn add(&mut self, text: String, like: Option<TextId>) -> Option<TextId> {
        let edited = like.and_then(|like| {
            let edits = line_edits(self.whole.get(like)?, &text)?;
            let edited = StoredText::Edited(like, edits);
            let size = json_size(&edited);
            (size < text.len() * 3 / 4).then_some((edited, size))
        });
        let (stored, size) = edited.unwrap_or_else(|| {
            let stored = StoredText::Whole(text.clone());
            let size = json_size(&stored);
            (stored, size)
        });
        if size > self.left {
            self.left_out += 1;
            return None;
        }
        self.left -= size;
        self.stored.push(stored);
        self.whole.push(text);
        Some(self.stored.len() - 1)
    }

    /// A text of the page.
    pub(super) fn get(&self, id: TextId) -> Option<&str> {
        self.whole.get(id).map(String::as_str)
    }

    /// All texts as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::to_value(&self.stored).unwrap_or_default()
    }
}

/// Bytes of a text in the page, the escapes of `<`, `>` and `&` included.
fn json_size(text: &StoredText) -> usize {
    let json = serde_json::to_string(text).unwrap_or_default();
    let escaped = json.bytes().filter(|byte| b"<>&".contains(byte)).count();
    json.len() + 5 * escaped + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_texts_are_small_and_a_full_store_says_what_it_leaves_out() {
        let first: String = (0..100)
            .map(|line| format!("line {line} of the kernel\n"))
            .collect();
        let second = first.replace("line 50 ", "line fifty ");
        let mut texts = Texts::new(first.len() + 400);
        let one = texts.add(first.clone(), None).unwrap();
        let two = texts.add(second.clone(), Some(one)).unwrap();
        assert_eq!(texts.get(two), Some(second.as_str()));
        assert!(matches!(texts.stored[two], StoredText::Edited(0, _)));
        assert_eq!(texts.add(first.replace("line", "other"), Some(one)), None);
        assert_eq!(texts.left_out, 1);
    }
}
