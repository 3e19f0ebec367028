//! Which hidden cases are checked once more after timing, as if they were timed.
//!
//! A kernel may see from a clock, from the number of its grid, or from addresses that it is timed, and be wrong only then: on tails, above a
//! size, or on other inputs. So these cases have, as far as the hidden cases have it, an odd size of every axis, and every regime. The rest is
//! left to chance. Pure.

use std::collections::BTreeSet;

use super::case::Case;
use crate::base::RandomStream;

/// At least so many are checked, if there are so many.
const MIN_CASES: usize = 3;
/// At most so many are chosen for what they cover.
const MAX_CASES: usize = 6;

/// What a case covers: an odd size of an axis, which is a tail for every kernel that handles a power of two at once; or a regime.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Covered<'c> {
    OddSize(&'c str),
    Regime(&'c str),
}

fn covered_by(case: &Case) -> impl Iterator<Item = Covered<'_>> {
    let odd = (case.binding.axes.iter()).filter(|(_, size)| **size > 1 && **size % 2 == 1);
    let regime = case.regime.iter().map(|(name, _)| Covered::Regime(name));
    odd.map(|(axis, _)| Covered::OddSize(axis)).chain(regime)
}

/// The chosen ones among the cases with these indices.
pub(super) fn late_cases(
    cases: &[Case],
    mut indices: Vec<usize>,
    stream: &mut RandomStream,
) -> Vec<usize> {
    stream.shuffle(&mut indices);
    let mut left: BTreeSet<_> = (indices.iter())
        .flat_map(|index| covered_by(&cases[*index]))
        .collect();
    let mut chosen = Vec::new();
    while !left.is_empty() && chosen.len() < MAX_CASES {
        let new_of = |index: &usize| {
            let covered = covered_by(&cases[*index]);
            covered.filter(|one| left.contains(one)).count()
        };
        // The first of the best: the indices are in random order.
        let most = indices.iter().map(new_of).max().unwrap_or_default();
        let Some(place) = indices.iter().position(|index| new_of(index) == most) else {
            break;
        };
        let index = indices.remove(place);
        for one in covered_by(&cases[index]) {
            left.remove(&one);
        }
        chosen.push(index);
    }
    let missing = MIN_CASES.saturating_sub(chosen.len());
    chosen.extend(indices.into_iter().take(missing));
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::case::derive_seed;
    use super::super::cases::{CaseRequest, select_cases};
    use super::super::hidden::{Coverage, Effort};
    use super::*;
    use crate::kernel::{DeviceLimits, Kernel};
    use crate::task::{Task, TaskFiles};

    const LIMITS: DeviceLimits = DeviceLimits {
        sm_count: 132,
        max_shared_bytes: 232_448,
    };
    const DRAWS: usize = 100;

    fn draw(task: &Task, profile: &str, draw: usize) -> Vec<Case> {
        let kernel = Kernel::parse(task.baseline().1, &task.definition).unwrap();
        let cases = select_cases(&CaseRequest {
            task,
            profile: &task.settings.profiles[profile],
            kernel: &kernel,
            limits: &LIMITS,
            effort: Effort {
                coverage: Coverage::Part,
                least_operations: 2e9,
            },
            seed: derive_seed(7, "late", draw),
        });
        cases.unwrap()
    }

    /// Without the choice, three random cases have no odd size in one judgement of about ten.
    #[test]
    fn every_choice_has_an_odd_size_of_each_axis_and_every_regime() {
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/gpu/tasks/scale"
        );
        for name in [fixture, "softmax", "rmsnorm", "gdn_decode"] {
            let task = TaskFiles::find(name).unwrap().load().unwrap();
            for number in 0..DRAWS {
                let cases = draw(&task, "quick", number);
                let hidden: Vec<_> = (0..cases.len()).filter(|i| cases[*i].hidden).collect();
                let all: BTreeSet<_> = hidden.iter().flat_map(|i| covered_by(&cases[*i])).collect();
                let mut stream = RandomStream::new(number as u64, "again", 0);
                let chosen = late_cases(&cases, hidden.clone(), &mut stream);
                let covered: BTreeSet<_> =
                    chosen.iter().flat_map(|i| covered_by(&cases[*i])).collect();
                assert!(covered == all || chosen.len() == MAX_CASES, "{name}");
                assert!(chosen.len() >= MIN_CASES.min(hidden.len()), "{name}");
                let once: BTreeSet<_> = chosen.iter().collect();
                assert_eq!(once.len(), chosen.len(), "{name}: a case is chosen twice");
                if name == fixture {
                    assert!(covered.contains(&Covered::OddSize("n")), "draw {number}");
                }
            }
        }
    }
}
