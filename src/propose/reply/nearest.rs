//! The part of a kernel that is most like a text that does not occur in it: shown to who wrote the text, never replaced.
//!
//! In time proportional to both texts: lines are compared by their words, and only the longest lines of the text with all.

use std::collections::{HashMap, HashSet};

use super::apply::Near;
use super::stream::Stream;

/// How many lines of the text are compared with all lines of the kernel.
const MOST_COMPARED: usize = 12;
/// How many of a line's words are looked at.
const MOST_WORDS: usize = 48;
/// How many lines are shown.
const MOST_SHOWN: usize = 12;
/// How many lines are shown before and behind them.
const AROUND: usize = 2;
/// How much of a line is shown.
const MOST_LETTERS: usize = 200;
/// How many lines of a long text are lined up.
const MOST_LINES: usize = 400;

/// What is near, with lines counted from 1.
pub(super) struct Nearest {
    pub(super) lines: Vec<Near>,
    pub(super) wrote: String,
    pub(super) absent: bool,
    pub(super) instead: Option<Near>,
}

/// A line that is not empty.
struct Line<'t> {
    /// Counted from 0 in its text.
    number: usize,
    text: &'t str,
    signs: String,
    words: Vec<u64>,
}

pub(super) fn nearest(source: &str, old: &str) -> Nearest {
    let wanted: Vec<_> = lines(old).take(MOST_LINES).collect();
    let there: Vec<_> = lines(source).collect();
    let absent = absent(source, &there, &wanted);
    let Some(offset) = offset(&there, &wanted) else {
        let longest = wanted.iter().max_by_key(|line| line.words.len());
        let wrote = absent.map(|index| &wanted[index]).or(longest);
        return Nearest {
            lines: Vec::new(),
            wrote: wrote.map(|line| shortened(line.text)).unwrap_or_default(),
            absent: true,
            instead: None,
        };
    };
    let at = |index: usize| {
        let index = offset + index as isize;
        usize::try_from(index)
            .ok()
            .and_then(|index| there.get(index))
    };
    let moved = || {
        (0..wanted.len())
            .find(|index| at(*index).is_none_or(|line| line.signs != wanted[*index].signs))
    };
    let differs = absent.or_else(moved).unwrap_or(0);
    let first = differs.saturating_sub(3);
    let shown: Vec<_> = (first..wanted.len())
        .filter_map(at)
        .take(MOST_SHOWN)
        .collect();
    let all: Vec<_> = source.split('\n').collect();
    let lines = match (shown.first(), shown.last()) {
        (Some(first), Some(last)) => (first.number.saturating_sub(AROUND)
            ..=(last.number + AROUND).min(all.len() - 1))
            .take(MOST_SHOWN)
            .map(|number| near(number, all[number]))
            .collect(),
        _ => Vec::new(),
    };
    Nearest {
        lines,
        wrote: wanted
            .get(differs)
            .map(|line| shortened(line.text))
            .unwrap_or_default(),
        absent: absent.is_some(),
        instead: at(differs).map(|line| near(line.number, line.text)),
    }
}

/// The first line that is nowhere in the kernel. The first and the last may be parts of lines.
fn absent(source: &str, there: &[Line<'_>], wanted: &[Line<'_>]) -> Option<usize> {
    let known: HashSet<_> = there.iter().map(|line| line.signs.as_str()).collect();
    let whole = Stream::of(source);
    let is_part = |index: usize| {
        (index == 0 || index + 1 == wanted.len()) && whole.signs().contains(&wanted[index].signs)
    };
    (0..wanted.len())
        .find(|index| !known.contains(wanted[*index].signs.as_str()) && !is_part(*index))
}

fn near(number: usize, text: &str) -> Near {
    Near {
        line: number + 1,
        text: shortened(text.trim_end_matches('\r')),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split('\n')
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, text)| {
            let mut words: Vec<_> = text
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .filter(|word| !word.is_empty())
                .take(MOST_WORDS)
                .map(hash)
                .collect();
            words.sort_unstable();
            Line {
                number,
                text,
                signs: Stream::of(text).signs().to_owned(),
                words,
            }
        })
}

fn hash(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// By how many lines the text stands further down in the kernel than in itself, where most of it is alike.
fn offset(there: &[Line<'_>], wanted: &[Line<'_>]) -> Option<isize> {
    let mut votes: HashMap<isize, f64> = HashMap::new();
    let mut longest: Vec<usize> = (0..wanted.len()).collect();
    longest.sort_by_key(|index| std::cmp::Reverse(wanted[*index].words.len()));
    for index in longest.into_iter().take(MOST_COMPARED) {
        let line = &wanted[index];
        let alike: Vec<_> = there
            .iter()
            .enumerate()
            .map(|(other, there)| (other, likeness(line, there)))
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
fn likeness(left: &Line<'_>, right: &Line<'_>) -> f64 {
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
