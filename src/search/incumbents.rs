//! What a candidate must beat to matter to a search, as the judge needs it to stop timing early.
//!
//! Made for each judgement and sent to the worker with the request. Only says how fast the incumbents are; `eval` decides whether a
//! candidate is surely slower.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, ArchiveAxis, Cell};
use super::features::INSPECTED_FEATURES;
use crate::verdict::Speedup;

/// Features that only timing supplies.
const TIMED_FEATURES: [&str; 2] = ["speedup", "runtime_variance"];
/// A kernel that is this many times slower than the fastest one is not worth a cell, even an empty one: it is hardly ever drawn as a
/// parent. Chosen by simulation (`benches/results/search.md`).
const HOPELESS_FACTOR: f64 = 4.0;

/// The speedups of the fastest kernels, by what is known of a kernel before it is timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incumbents {
    /// The axes of the archive that the source and the compiler decide.
    axes: Vec<ArchiveAxis>,
    /// The bins on these axes, and the highest low end of an interval there.
    by_bins: Vec<(Vec<u16>, f64)>,
    /// The highest low end of all intervals; 0 if there is none.
    best: f64,
}

impl Incumbents {
    /// Whether nothing has passed yet.
    pub(super) fn is_empty(&self) -> bool {
        self.best <= 0.0
    }

    /// The incumbents among the kernels that have passed, given in any order.
    pub(super) fn new<'k>(
        archive: &Archive,
        passed: impl Iterator<Item = (&'k Cell, Speedup)>,
    ) -> Self {
        // What is known only after a kernel has been timed or inspected does not distinguish incumbents.
        let is_early = |axis: &ArchiveAxis| {
            let feature = axis.feature.as_str();
            !TIMED_FEATURES.contains(&feature) && !INSPECTED_FEATURES.contains(&feature)
        };
        let axes = archive.axes();
        let early: Vec<usize> = (0..axes.len())
            .filter(|index| is_early(&axes[*index]))
            .collect();
        let mut by_bins = IndexMap::<Vec<u16>, f64>::new();
        for (cell, speedup) in passed {
            let bins = early.iter().map(|axis| cell.bins()[*axis]).collect();
            let low = by_bins.entry(bins).or_default();
            *low = low.max(speedup.ci95[0]);
        }
        Self {
            axes: early.iter().map(|axis| axes[*axis].clone()).collect(),
            best: by_bins.values().copied().fold(0.0, f64::max),
            by_bins: by_bins.into_iter().collect(),
        }
    }

    /// Treats every kernel as one of a new kind, which must only not be hopeless.
    pub(super) fn forget_kinds(&mut self) {
        self.axes.clear();
        self.by_bins.clear();
    }

    /// The speedup that a kernel with these features must be able to reach; `None` if everything matters, because nothing has passed
    /// yet. A kernel of a new kind must only not be hopeless.
    pub fn bar(&self, features: &IndexMap<String, f64>) -> Option<f64> {
        let bins: Vec<u16> = self
            .axes
            .iter()
            .map(|axis| axis.bin(features.get(&axis.feature).copied()))
            .collect();
        let same_kind = self.by_bins.iter().find(|(kind, _)| *kind == bins);
        let bar = same_kind.map_or(0.0, |(_, low)| *low);
        let bar = bar.max(self.best / HOPELESS_FACTOR);
        (bar > 0.0).then_some(bar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::archive::Elite;

    /// Known before timing: `block_threads`. Known after it: `speedup`.
    fn archive() -> Archive {
        let features = [
            ("block_threads".to_owned(), vec![64.0, 128.0]),
            ("speedup".to_owned(), vec![1.0, 2.0]),
        ];
        Archive::new(&features.into())
    }

    fn threads(threads: f64) -> IndexMap<String, f64> {
        [("block_threads".to_owned(), threads)].into()
    }

    /// The incumbents after kernels with these block sizes and intervals have passed.
    fn incumbents(passed: &[(f64, [f64; 2])]) -> Incumbents {
        let archive = archive();
        let elites: Vec<_> = (1..)
            .zip(passed)
            .map(|(step, (size, ci95))| {
                let speedup = Speedup {
                    geomean: f64::midpoint(ci95[0], ci95[1]),
                    ci95: *ci95,
                };
                Elite {
                    step,
                    cell: archive.cell_of(&threads(*size), &speedup),
                    speedup,
                }
            })
            .collect();
        let passed = elites.iter().map(|elite| (&elite.cell, elite.speedup));
        Incumbents::new(&archive, passed)
    }

    #[test]
    fn bar_is_what_the_best_of_a_kind_surely_reaches() {
        let incumbents = incumbents(&[
            (32.0, [1.0, 4.0]),
            // The same kind in another cell, with a lower estimate that is surer.
            (32.0, [1.8, 1.9]),
            (256.0, [0.5, 0.6]),
        ]);
        assert_eq!(incumbents.bar(&threads(48.0)), Some(1.8));
        assert_eq!(incumbents.bar(&threads(512.0)), Some(0.5));
    }

    #[test]
    fn new_kind_has_a_quarter_of_the_best_as_its_bar() {
        let incumbents = incumbents(&[(32.0, [4.0, 4.4]), (256.0, [0.1, 0.2])]);
        assert_eq!(incumbents.bar(&threads(64.0)), Some(1.0));
        // A slow kind is not worth keeping either.
        assert_eq!(incumbents.bar(&threads(256.0)), Some(1.0));
        assert_eq!(incumbents.bar(&IndexMap::new()), Some(1.0));
    }

    #[test]
    fn there_is_no_bar_before_something_has_passed() {
        assert_eq!(incumbents(&[]).bar(&threads(32.0)), None);
    }

    #[test]
    fn incumbents_survive_the_way_to_a_worker() {
        let sent = incumbents(&[(32.0, [1.25, 1.5]), (300.0, [0.1, 0.3])]);
        let text = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<Incumbents>(&text).unwrap(), sent);
    }
}
