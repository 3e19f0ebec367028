//! The part of a kernel that is most like a text that does not occur in it: shown to who wrote the text, never replaced.
//!
//! In time proportional to both texts: lines are compared by their words, and only the longest lines of the text with all.

use std::collections::{HashMap, HashSet};

use super::apply::NumberedLine;
use super::normalized::NormalizedCode;

/// How many lines of the text are compared with all lines of the kernel.
const MAX_COMPARED_LINES: usize = 12;
/// How many of a line's words are looked at.
const MAX_WORDS: usize = 48;
/// How many lines are shown.
const MAX_SHOWN_LINES: usize = 12;
/// How many lines are shown before and behind them.
const CONTEXT_LINES: usize = 2;
/// How much of a line is shown.
const MAX_SHOWN_CHARS: usize = 200;
/// How many lines of a long text are lined up.
const MAX_ALIGNED_LINES: usize = 400;

/// What is near, with lines counted from 1.
pub(super) struct Nearest {
    pub(super) lines: Vec<NumberedLine>,
    pub(super) unmatched_line: String,
    pub(super) is_absent: bool,
    pub(super) found_instead: Option<NumberedLine>,
}

/// A line that is not empty.
struct ComparedLine<'t> {
    /// Counted from 0 in its text.
    number: usize,
    text: &'t str,
    normalized: String,
    words: Vec<u64>,
}

pub(super) fn find_nearest(source: &str, old: &str) -> Nearest {
    let wanted: Vec<_> = compared_lines(old).take(MAX_ALIGNED_LINES).collect();
    let there: Vec<_> = compared_lines(source).collect();
    let absent = first_absent_line(source, &there, &wanted);
    let Some(offset) = best_offset(&there, &wanted) else {
        let longest = wanted.iter().max_by_key(|line| line.words.len());
        let wrote = absent.map(|index| &wanted[index]).or(longest);
        return Nearest {
            lines: Vec::new(),
            unmatched_line: wrote
                .map(|line| truncate_chars(line.text))
                .unwrap_or_default(),
            is_absent: true,
            found_instead: None,
        };
    };
    let at = |index: usize| {
        let index = offset + index as isize;
        usize::try_from(index)
            .ok()
            .and_then(|index| there.get(index))
    };
    let moved = || {
        (0..wanted.len()).find(|index| {
            at(*index).is_none_or(|line| line.normalized != wanted[*index].normalized)
        })
    };
    let differs = absent.or_else(moved).unwrap_or(0);
    let first = differs.saturating_sub(3);
    let shown: Vec<_> = (first..wanted.len())
        .filter_map(at)
        .take(MAX_SHOWN_LINES)
        .collect();
    let all: Vec<_> = source.split('\n').collect();
    let lines = match (shown.first(), shown.last()) {
        (Some(first), Some(last)) => (first.number.saturating_sub(CONTEXT_LINES)
            ..=(last.number + CONTEXT_LINES).min(all.len() - 1))
            .take(MAX_SHOWN_LINES)
            .map(|number| numbered_line(number, all[number]))
            .collect(),
        _ => Vec::new(),
    };
    Nearest {
        lines,
        unmatched_line: wanted
            .get(differs)
            .map(|line| truncate_chars(line.text))
            .unwrap_or_default(),
        is_absent: absent.is_some(),
        found_instead: at(differs).map(|line| numbered_line(line.number, line.text)),
    }
}

/// The first line that is nowhere in the kernel. The first and the last may be parts of lines.
fn first_absent_line(
    source: &str,
    there: &[ComparedLine<'_>],
    wanted: &[ComparedLine<'_>],
) -> Option<usize> {
    let known: HashSet<_> = there.iter().map(|line| line.normalized.as_str()).collect();
    let whole = NormalizedCode::of(source);
    let is_part = |index: usize| {
        (index == 0 || index + 1 == wanted.len())
            && whole.text().contains(&wanted[index].normalized)
    };
    (0..wanted.len())
        .find(|index| !known.contains(wanted[*index].normalized.as_str()) && !is_part(*index))
}

fn numbered_line(number: usize, text: &str) -> NumberedLine {
    NumberedLine {
        line: number + 1,
        text: truncate_chars(text.trim_end_matches('\r')),
    }
}

fn truncate_chars(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
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

fn hash_word(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// By how many lines the text stands further down in the kernel than in itself, where most of it is alike.
fn best_offset(there: &[ComparedLine<'_>], wanted: &[ComparedLine<'_>]) -> Option<isize> {
    let mut votes: HashMap<isize, f64> = HashMap::new();
    let mut longest: Vec<usize> = (0..wanted.len()).collect();
    longest.sort_by_key(|index| std::cmp::Reverse(wanted[*index].words.len()));
    for index in longest.into_iter().take(MAX_COMPARED_LINES) {
        let line = &wanted[index];
        let alike: Vec<_> = there
            .iter()
            .enumerate()
            .map(|(other, there)| (other, similarity(line, there)))
            .filter(|(_, likeness)| *likeness >= 0.5)
            .collect();
        // What is like many lines says little about the place.
        let weight = line.words.len() as f64 / (alike.len().max(1) as f64).sqrt();
        for (other, likeness) in alike {
            *votes.entry(other as isize - index as isize).or_default() += likeness * weight;
        }
    }
    let best = votes
        .into_iter()
        .max_by(|(left_at, left), (right_at, right)| {
            left.total_cmp(right).then(right_at.cmp(left_at))
        });
    best.map(|(offset, _)| offset)
}

/// The share of words that two lines have in common: 1 where they are the same.
fn similarity(left: &ComparedLine<'_>, right: &ComparedLine<'_>) -> f64 {
    let total = left.words.len() + right.words.len();
    if total == 0 {
        return 0.0;
    }
    let (mut common, mut one, mut two) = (0, 0, 0);
    while let (Some(first), Some(second)) = (left.words.get(one), right.words.get(two)) {
        match first.cmp(second) {
            std::cmp::Ordering::Less => one += 1,
            std::cmp::Ordering::Greater => two += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                one += 1;
                two += 1;
            }
        }
    }
    2.0 * f64::from(common) / total as f64
}
