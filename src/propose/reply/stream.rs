//! Code without regard to white space that means nothing and to signs that only look different: what an edit's text is looked
//! for in where it does not occur as it is.
//!
//! Line breaks and the order of everything stay: two texts are the same here only if they differ in white space within lines, in
//! empty lines, in line endings, or in typographic quotes and dashes.

use std::ops::Range;

/// The signs of a text that matter, each with its place in the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    signs: String,
    /// For each byte of `signs`, where the letter that it stands for begins and ends.
    places: Vec<Range<usize>>,
}

impl Stream {
    pub(super) fn of(text: &str) -> Self {
        let mut stream = Self::default();
        let mut gap = Gap::None;
        let mut last = '\n';
        for (at, letter) in text.char_indices() {
            let sign = match plain(letter) {
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
            let is_first = stream.signs.is_empty();
            match gap {
                Gap::Line if !is_first => stream.push('\n', at..at),
                Gap::Space if !is_first && belong_together(last, sign) => stream.push(' ', at..at),
                _ => {}
            }
            gap = Gap::None;
            last = sign;
            stream.push(sign, at..at + letter.len_utf8());
        }
        stream
    }

    fn push(&mut self, sign: char, place: Range<usize>) {
        self.signs.push(sign);
        for _ in 0..sign.len_utf8() {
            self.places.push(place.clone());
        }
    }

    pub(super) fn signs(&self) -> &str {
        &self.signs
    }

    /// Where another text occurs in this one: byte ranges of the text, from the first letter to the last, never within a word.
    pub(super) fn find(&self, wanted: &Self, most: usize) -> Vec<Range<usize>> {
        let wanted = wanted.signs.as_str();
        let (Some(first), Some(last)) = (wanted.chars().next(), wanted.chars().next_back()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        // Places within words count as well, so that a text of one letter repeated takes no time with its square.
        let mut tries = 0;
        let mut at = 0;
        while let Some(offset) = self.signs[at..].find(wanted) {
            let start = at + offset;
            let end = start + wanted.len();
            tries += 1;
            let before = self.signs[..start].chars().next_back();
            let after = self.signs[end..].chars().next();
            let is_part = before.is_some_and(|before| belong_together(before, first))
                || after.is_some_and(|after| belong_together(last, after));
            if !is_part {
                found.push(self.places[start].start..self.places[end - 1].end);
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
fn belong_together(left: char, right: char) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let is_operator = |letter: char| "+-*/<>=&|!^%:.#".contains(letter);
    is_word(left) && is_word(right) || is_operator(left) && is_operator(right)
}

/// The sign that a letter stands for; `None` for those that have no width.
fn plain(letter: char) -> Option<char> {
    Some(match letter {
        '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => return None,
        _ => straight(letter),
    })
}

/// A quote or a dash as a keyboard has it.
pub(super) fn straight(letter: char) -> char {
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

    fn places(text: &str, wanted: &str) -> Vec<String> {
        Stream::of(text)
            .find(&Stream::of(wanted), 10)
            .into_iter()
            .map(|range| text[range].to_owned())
            .collect()
    }

    #[test]
    fn white_space_is_passed_over_and_words_are_kept_apart() {
        assert_eq!(
            places("  if (a <b) {\r\n\tx = 1;  \r\n}", "if(a < b){\nx=1;"),
            ["if (a <b) {\r\n\tx = 1;"]
        );
        assert_eq!(places("checksum += v;", "sum += v;"), Vec::<String>::new());
        assert_eq!(places("a\n\n\nb", "a\nb"), ["a\n\n\nb"]);
        assert_eq!(places("a\nb", "a b"), Vec::<String>::new());
        assert_eq!(places("x = a - -b;", "x = a --b;"), Vec::<String>::new());
        assert_eq!(places("intx; int x;", "int x"), ["int x"]);
        assert_eq!(places("f(“a”); f('b');", "f(\"a\")"), ["f(“a”)"]);
        assert_eq!(places("x == y", "x ="), Vec::<String>::new());
    }
}
