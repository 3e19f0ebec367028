//! Code without differences that mean nothing: white space within lines, empty lines, line endings, typographic quotes and dashes.
//!
//! An `old_str` that does not occur exactly is searched for in this form. Line breaks and the order of everything are kept, so
//! that two texts are equal only if they differ in the points above.

use std::ops::Range;

/// A normalized text that remembers where each of its characters comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct NormalizedCode {
    text: String,
    /// For each byte of `text`, the bytes of the original character. Empty for a separator.
    source_ranges: Vec<Range<usize>>,
}

/// The white space since the last character.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    None,
    Space,
    Line,
}

impl NormalizedCode {
    pub(super) fn of(text: &str) -> Self {
        let mut normalized = Self::default();
        let mut gap = Gap::None;
        let mut last = '\n';
        for (at, letter) in text.char_indices() {
            let plain = match normalize_char(letter) {
                Some('\n') => {
                    gap = Gap::Line;
                    continue;
                }
                Some(plain) if plain.is_whitespace() => {
                    if gap == Gap::None {
                        gap = Gap::Space;
                    }
                    continue;
                }
                Some(plain) => plain,
                None => continue,
            };
            let is_first = normalized.text.is_empty();
            match gap {
                Gap::Line if !is_first => normalized.push('\n', at..at),
                Gap::Space if !is_first && would_merge(last, plain) => {
                    normalized.push(' ', at..at);
                }
                _ => {}
            }
            gap = Gap::None;
            last = plain;
            normalized.push(plain, at..at + letter.len_utf8());
        }
        normalized
    }

    fn push(&mut self, plain: char, source_range: Range<usize>) {
        self.text.push(plain);
        for _ in 0..plain.len_utf8() {
            self.source_ranges.push(source_range.clone());
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The matches of another text, as byte ranges of the original text, at most `max`. A match never starts or ends within a
    /// word or an operator.
    pub(super) fn find(&self, wanted: &Self, max: usize) -> Vec<Range<usize>> {
        let wanted = wanted.text.as_str();
        let (Some(first), Some(last)) = (wanted.chars().next(), wanted.chars().next_back()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        // Occurrences within words count as well: a text of one repeated letter must not take quadratic time.
        let mut tries = 0;
        let mut at = 0;
        while let Some(offset) = self.text[at..].find(wanted) {
            let start = at + offset;
            let end = start + wanted.len();
            tries += 1;
            let before = self.text[..start].chars().next_back();
            let after = self.text[end..].chars().next();
            let is_part = before.is_some_and(|before| would_merge(before, first))
                || after.is_some_and(|after| would_merge(last, after));
            if !is_part {
                found.push(self.source_ranges[start].start..self.source_ranges[end - 1].end);
            }
            if found.len() >= max || tries >= 50 * max {
                break;
            }
            at = start + first.len_utf8();
        }
        found
    }
}

/// Whether two neighbors would mean something else without white space between them.
fn would_merge(left: char, right: char) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let is_operator = |letter: char| "+-*/<>=&|!^%:.#".contains(letter);
    is_word(left) && is_word(right) || is_operator(left) && is_operator(right)
}

/// The character that counts in place of `letter`; `None` for characters without a width.
fn normalize_char(letter: char) -> Option<char> {
    match letter {
        '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => None,
        _ => Some(ascii_punctuation(letter)),
    }
}

/// The ASCII form of a typographic quote, dash or space; any other character as it is.
pub(super) fn ascii_punctuation(letter: char) -> char {
    match letter {
        '“' | '”' | '„' | '«' | '»' => '"',
        '‘' | '’' | '‚' => '\'',
        '–' | '—' | '−' | '‐' | '‑' => '-',
        '\u{a0}' | '\u{202f}' => ' ',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, wanted: &str) -> Vec<String> {
        NormalizedCode::of(text)
            .find(&NormalizedCode::of(wanted), 10)
            .into_iter()
            .map(|range| text[range].to_owned())
            .collect()
    }

    #[test]
    fn space_between_tokens_is_ignored() {
        assert_eq!(
            matches("  if (a <b) {\r\n\tx = 1;  \r\n}", "if(a < b){\nx=1;"),
            ["if (a <b) {\r\n\tx = 1;"]
        );
        assert_eq!(matches("a\n\n\nb", "a\nb"), ["a\n\n\nb"]);
        assert_eq!(matches("f(“a”); f('b');", "f(\"a\")"), ["f(“a”)"]);
    }

    #[test]
    fn line_breaks_words_and_operators_are_kept_apart() {
        assert_eq!(matches("checksum += v;", "sum += v;"), Vec::<String>::new());
        assert_eq!(matches("a\nb", "a b"), Vec::<String>::new());
        assert_eq!(matches("x = a - -b;", "x = a --b;"), Vec::<String>::new());
        assert_eq!(matches("intx; int x;", "int x"), ["int x"]);
        assert_eq!(matches("x == y", "x ="), Vec::<String>::new());
    }
}
