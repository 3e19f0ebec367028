//! Finds the part of a kernel that is most similar to a text that does not occur in it, to show it to the model.
//!
//! Never replaces anything. Takes time in proportion to both texts: lines are compared by their words, and only the longest
//! lines of the text are compared with every line of the kernel.

use std::collections::{HashMap, HashSet};

use super::faults::NumberedLine;
use super::normalized::NormalizedCode;
use super::text::truncate_chars;

/// The most lines of the text that are compared with all lines of the kernel.
const MAX_COMPARED_LINES: usize = 12;
/// The most words of a line that are compared.
const MAX_WORDS: usize = 48;
/// The most lines that are shown.
const MAX_SHOWN_LINES: usize = 12;
/// Lines that are shown before and after the similar ones.
const CONTEXT_LINES: usize = 2;
/// The most characters of a line that are shown.
const MAX_SHOWN_CHARS: usize = 200;
/// The most lines of the text that are used.
const MAX_ALIGNED_LINES: usize = 400;

/// The similar part. Line numbers count from 1.
pub(super) struct Nearest {
    /// Empty if nothing is similar.
    pub(super) lines: Vec<NumberedLine>,
    /// The first line of the text that is not in the kernel, or not in sequence.
    pub(super) unmatched_line: String,
    /// Whether that line is nowhere in the kernel.
    pub(super) is_absent: bool,
    /// The line of the kernel in its place.
    pub(super) found_instead: Option<NumberedLine>,
}

/// A line that is not blank.
struct ComparedLine<'t> {
    /// Counted from 0 in its text.
    number: usize,
    text: &'t str,
    normalized: String,
    /// Hashes of its words, sorted.
    words: Vec<u64>,
}

/// The part of `source` that is most similar to `old`.
pub(super) fn find_nearest(source: &str, old: &str) -> Nearest {
    let wanted: Vec<_> = compared_lines(old).take(MAX_ALIGNED_LINES).collect();
    let kernel: Vec<_> = compared_lines(source).collect();
    let absent = first_absent_line(source, &kernel, &wanted);
    let Some(offset) = best_offset(&kernel, &wanted) else {
        let longest = wanted.iter().max_by_key(|line| line.words.len());
        let unmatched = absent.map(|index| &wanted[index]).or(longest);
        return Nearest {
            lines: Vec::new(),
            unmatched_line: unmatched
                .map(|line| truncate_chars(line.text, MAX_SHOWN_CHARS))
                .unwrap_or_default(),
            is_absent: true,
            found_instead: None,
        };
    };
    let aligned = |index: usize| {
        let index = usize::try_from(offset + index as isize).ok()?;
        kernel.get(index)
    };
    let first_out_of_sequence = || {
        (0..wanted.len()).find(|index| {
            aligned(*index).is_none_or(|line| line.normalized != wanted[*index].normalized)
        })
    };
    let unmatched = absent.or_else(first_out_of_sequence).unwrap_or(0);
    let similar: Vec<_> = (unmatched.saturating_sub(3)..wanted.len())
        .filter_map(aligned)
        .take(MAX_SHOWN_LINES)
        .collect();
    Nearest {
        lines: with_context(source, &similar),
        unmatched_line: wanted
            .get(unmatched)
            .map(|line| truncate_chars(line.text, MAX_SHOWN_CHARS))
            .unwrap_or_default(),
        is_absent: absent.is_some(),
        found_instead: aligned(unmatched).map(|line| numbered_line(line.number, line.text)),
    }
}

/// The lines from the first similar one to the last, with a few lines around them.
fn with_context(source: &str, similar: &[&ComparedLine<'_>]) -> Vec<NumberedLine> {
    let (Some(first), Some(last)) = (similar.first(), similar.last()) else {
        return Vec::new();
    };
    let all: Vec<_> = source.split('\n').collect();
    let from = first.number.saturating_sub(CONTEXT_LINES);
    let to = (last.number + CONTEXT_LINES).min(all.len() - 1);
    (from..=to)
        .take(MAX_SHOWN_LINES)
        .map(|number| numbered_line(number, all[number]))
        .collect()
}

/// The index of the first line that is nowhere in the kernel. The first and the last may match a part of a line.
fn first_absent_line(
    source: &str,
    kernel: &[ComparedLine<'_>],
    wanted: &[ComparedLine<'_>],
) -> Option<usize> {
    let known: HashSet<_> = kernel.iter().map(|line| line.normalized.as_str()).collect();
    let whole = NormalizedCode::of(source);
    let is_part = |index: usize| {
        let is_outermost = index == 0 || index + 1 == wanted.len();
        is_outermost && whole.text().contains(&wanted[index].normalized)
    };
    (0..wanted.len())
        .find(|index| !known.contains(wanted[*index].normalized.as_str()) && !is_part(*index))
}

/// A line to show, from its number counted from 0.
fn numbered_line(number: usize, text: &str) -> NumberedLine {
    NumberedLine {
        line: number + 1,
        text: truncate_chars(text.trim_end_matches('\r'), MAX_SHOWN_CHARS),
    }
}

fn compared_lines(text: &str) -> impl Iterator<Item = ComparedLine<'_>> {
    text.split('\n')
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, text)| {
            let mut words: Vec<_> = text
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .filter(|word| !word.is_empty())
                .take(MAX_WORDS)
                .map(hash_word)
                .collect();
            words.sort_unstable();
            ComparedLine {
                number,
                text,
                normalized: NormalizedCode::of(text).text().to_owned(),
                words,
            }
        })
}

/// The FNV-1a hash of a word.
fn hash_word(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The shift, in lines that are not blank, at which most of the text is similar to the kernel.
///
/// Every similar pair of lines votes for its shift. `None` if no pair is similar.
fn best_offset(kernel: &[ComparedLine<'_>], wanted: &[ComparedLine<'_>]) -> Option<isize> {
    let mut votes: HashMap<isize, f64> = HashMap::new();
    let mut longest: Vec<usize> = (0..wanted.len()).collect();
    longest.sort_by_key(|index| std::cmp::Reverse(wanted[*index].words.len()));
    for index in longest.into_iter().take(MAX_COMPARED_LINES) {
        let line = &wanted[index];
        let similar: Vec<_> = kernel
            .iter()
            .enumerate()
            .map(|(other, in_kernel)| (other, similarity(line, in_kernel)))
            .filter(|(_, similarity)| *similarity >= 0.5)
            .collect();
        // A line that is similar to many others says little about the place.
        let weight = line.words.len() as f64 / (similar.len().max(1) as f64).sqrt();
        for (other, similarity) in similar {
            *votes.entry(other as isize - index as isize).or_default() += similarity * weight;
        }
    }
    let best = votes
        .into_iter()
        .max_by(|(left_at, left), (right_at, right)| {
            left.total_cmp(right).then(right_at.cmp(left_at))
        });
    best.map(|(offset, _)| offset)
}

/// The share of words that two lines have in common, from 0 to 1.
fn similarity(left: &ComparedLine<'_>, right: &ComparedLine<'_>) -> f64 {
    let total = left.words.len() + right.words.len();
    if total == 0 {
        return 0.0;
    }
    let (mut common, mut at_left, mut at_right) = (0, 0, 0);
    while let (Some(first), Some(second)) = (left.words.get(at_left), right.words.get(at_right)) {
        match first.cmp(second) {
            std::cmp::Ordering::Less => at_left += 1,
            std::cmp::Ordering::Greater => at_right += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                at_left += 1;
                at_right += 1;
            }
        }
    }
    2.0 * f64::from(common) / total as f64
}
