//! Code without regard to white space that means nothing and to signs that only look different: what an edit's text is looked
//! for in where it does not occur as it is.
//!
//! Line breaks and the order of everything stay: two texts are the same here only if they differ in white space within lines, in
//! empty lines, in line endings, or in typographic quotes and dashes.

use std::ops::Range;

/// The signs of a text that matter, each with its place in the text.
#[derive(Clone, Debug, Default)]
pub(super) struct NormalizedCode {
    text: String,
    /// For each byte of `signs`, where the letter that it stands for begins and ends.
    source_ranges: Vec<Range<usize>>,
}

impl NormalizedCode {
    pub(super) fn of(text: &str) -> Self {
        let mut stream = Self::default();
        let mut gap = Gap::None;
        let mut last = '\n';
        for (at, letter) in text.char_indices() {
            let sign = match normalize_char(letter) {
                Some('\n') => {
                    gap = Gap::Line;
                    continue;
                }
                Some(sign) if sign.is_whitespace() => {
                    if gap == Gap::None {
                        gap = Gap::Space;
                    }
                    continue;
                }
                Some(sign) => sign,
                None => continue,
            };
            let is_first = stream.text.is_empty();
            match gap {
                Gap::Line if !is_first => stream.push('\n', at..at),
                Gap::Space if !is_first && would_merge(last, sign) => stream.push(' ', at..at),
                _ => {}
            }
            gap = Gap::None;
            last = sign;
            stream.push(sign, at..at + letter.len_utf8());
        }
        stream
    }

    fn push(&mut self, sign: char, place: Range<usize>) {
        self.text.push(sign);
        for _ in 0..sign.len_utf8() {
            self.source_ranges.push(place.clone());
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where another text occurs in this one: byte ranges of the text, from the first letter to the last, never within a word.
    pub(super) fn find(&self, wanted: &Self, most: usize) -> Vec<Range<usize>> {
        let wanted = wanted.text.as_str();
        let (Some(first), Some(last)) = (wanted.chars().next(), wanted.chars().next_back()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        // Places within words count as well, so that a text of one letter repeated takes no time with its square.
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
            if found.len() >= most || tries >= 50 * most {
                break;
            }
            at = start + first.len_utf8();
        }
        found
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Gap {
    None,
    Space,
    Line,
}

/// Whether two neighbours would be something else without white space between them.
fn would_merge(left: char, right: char) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let is_operator = |letter: char| "+-*/<>=&|!^%:.#".contains(letter);
    is_word(left) && is_word(right) || is_operator(left) && is_operator(right)
}

/// The sign that a letter stands for; `None` for those that have no width.
fn normalize_char(letter: char) -> Option<char> {
    Some(match letter {
        '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => return None,
        _ => ascii_punctuation(letter),
    })
}

/// A quote or a dash as a keyboard has it.
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
        assert_eq!(matches("checksum += v;", "sum += v;"), Vec::<String>::new());
        assert_eq!(matches("a\n\n\nb", "a\nb"), ["a\n\n\nb"]);
        assert_eq!(matches("a\nb", "a b"), Vec::<String>::new());
        assert_eq!(matches("x = a - -b;", "x = a --b;"), Vec::<String>::new());
        assert_eq!(matches("intx; int x;", "int x"), ["int x"]);
        assert_eq!(matches("f(“a”); f('b');", "f(\"a\")"), ["f(“a”)"]);
        assert_eq!(matches("x == y", "x ="), Vec::<String>::new());
    }
}
