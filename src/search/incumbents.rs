//! What a candidate must beat to matter to a search, as the judge needs it to stop timing early.
//!
//! Made from the archive for each judgement, sent to the worker with the request. Only says how fast the incumbents are; `eval` decides
//! whether a candidate is surely slower.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, ArchiveAxis};

/// Features that are known only after a kernel has been timed or inspected. Incumbents are not told apart by them.
const LATE_FEATURES: [&str; 9] = [
    "speedup",
    "runtime_variance",
    "load_sectors",
    "store_sectors",
    "coalescing",
    "strided_share",
    "bank_conflicts",
    "bytes_ratio",
    "arithmetic_per_byte",
];
/// A kernel that is this many times slower than the fastest one is not worth a cell, even an empty one.
const HOPELESS_FACTOR: f64 = 16.0;

/// The speedups of the fastest elites, by what is known of a kernel before it is timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incumbents {
    /// The axes of the archive that the source and the compiler decide.
    axes: Vec<ArchiveAxis>,
    /// The bins on these axes, and the low end of the interval of the fastest elite there.
    by_bins: Vec<(Vec<u16>, f64)>,
    /// The low end of the interval of the fastest elite; 0 if there is none.
    best: f64,
}

impl Incumbents {
    #[expect(dead_code, reason = "the driver sends them with each request")]
    pub(super) fn of(archive: &Archive) -> Self {
        let is_early = |axis: &ArchiveAxis| !LATE_FEATURES.contains(&axis.feature.as_str());
        let early: Vec<usize> = archive
            .axes()
            .iter()
            .enumerate()
            .filter_map(|(index, axis)| is_early(axis).then_some(index))
            .collect();
        let mut by_bins = IndexMap::<Vec<u16>, f64>::new();
        // Fastest first, so the first of each kind counts.
        for elite in archive.elites() {
            let bins = early.iter().map(|axis| elite.cell.bins()[*axis]).collect();
            by_bins.entry(bins).or_insert(elite.speedup.ci95[0]);
        }
        Self {
            axes: early
                .iter()
                .map(|axis| archive.axes()[*axis].clone())
                .collect(),
            best: by_bins.values().copied().fold(0.0, f64::max),
            by_bins: by_bins.into_iter().collect(),
        }
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
