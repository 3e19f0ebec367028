//! Compares two lists by their longest common subsequence.

use std::ops::Range;

/// The runs in which two lists differ: a range of `own`, and the range of `new` that replaces it. Either range may be empty.
///
/// Takes time and memory in proportion to the product of the lengths.
pub(super) fn differing_runs(own: &[String], new: &[String]) -> Vec<(Range<usize>, Range<usize>)> {
    let lengths = common_lengths(own, new);
    let mut runs = Vec::new();
    let (mut here, mut there) = (0, 0);
    while here < own.len() || there < new.len() {
        let (run_here, run_there) = (here, there);
        while here < own.len() || there < new.len() {
            if here < own.len() && there < new.len() && own[here] == new[there] {
                break;
            }
            let skips_own = there == new.len()
                || (here < own.len() && lengths[here + 1][there] >= lengths[here][there + 1]);
            if skips_own {
                here += 1;
            } else {
                there += 1;
            }
        }
        if here > run_here || there > run_there {
            runs.push((run_here..here, run_there..there));
        }
        while here < own.len() && there < new.len() && own[here] == new[there] {
            here += 1;
            there += 1;
        }
    }
    runs
}

/// `lengths[i][j]` is the length of the longest common subsequence of `own[i..]` and `new[j..]`.
fn common_lengths(own: &[String], new: &[String]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; new.len() + 1]; own.len() + 1];
    for here in (0..own.len()).rev() {
        for there in (0..new.len()).rev() {
            lengths[here][there] = if own[here] == new[there] {
                lengths[here + 1][there + 1] + 1
            } else {
                lengths[here + 1][there].max(lengths[here][there + 1])
            };
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(own: &str, new: &str) -> Vec<(Range<usize>, Range<usize>)> {
        let list = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        differing_runs(&list(own), &list(new))
    }

    #[test]
    fn insertions_deletions_and_replacements_are_found() {
        assert_eq!(runs("abc", "abc"), []);
        assert_eq!(runs("ac", "abc"), [(1..1, 1..2)]);
        assert_eq!(runs("abc", "ac"), [(1..2, 1..1)]);
        assert_eq!(runs("abc", "axc"), [(1..2, 1..2)]);
        assert_eq!(runs("", "ab"), [(0..0, 0..2)]);
        assert_eq!(runs("xbcy", "bcz"), [(0..1, 0..0), (3..4, 2..3)]);
    }
}
