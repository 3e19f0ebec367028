//! The archive: a grid over features of kernels with the fastest kernel of each cell (MAP-Elites).
//!
//! The caller replaces an elite only if [`Archive::challenge`] says `ClearlyFaster`, or if the challenger won a duel. The archive
//! does not choose parents; that is `parent_pool`.

use std::cmp::Ordering;
use std::collections::HashMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::verdict::Speedup;

/// The bin of a feature that the judge could not determine.
const UNKNOWN_BIN: u16 = u16::MAX;

/// One axis of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ArchiveAxis {
    pub feature: String,
    /// Ascending. Bin i starts at edge i - 1.
    pub edges: Vec<f64>,
}

impl ArchiveAxis {
    pub(super) fn bin(&self, value: Option<f64>) -> u16 {
        match value {
            Some(value) if !value.is_nan() => {
                self.edges.partition_point(|edge| *edge <= value) as u16
            }
            _ => UNKNOWN_BIN,
        }
    }

    /// A bin as text: `< 64`, `64 to 128`, `>= 512`, `unknown`.
    pub(crate) fn label(&self, bin: u16) -> String {
        let bin = usize::from(bin);
        let start = bin.checked_sub(1).and_then(|index| self.edges.get(index));
        match (start, self.edges.get(bin)) {
            (None, None) if bin == 0 => "any".to_owned(),
            (None, None) => "unknown".to_owned(),
            (None, Some(end)) => format!("< {end}"),
            (Some(start), None) => format!(">= {start}"),
            (Some(start), Some(end)) => format!("{start} to {end}"),
        }
    }
}

/// A cell of the grid: one bin for each axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell(Box<[u16]>);

impl Cell {
    pub(crate) fn bins(&self) -> &[u16] {
        &self.0
    }
}

/// The best candidate in a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Elite {
    pub step: u64,
    pub cell: Cell,
    pub speedup: Speedup,
}

impl Elite {
    /// Fastest first; of equals, the earlier step first.
    fn rank(&self, other: &Self) -> Ordering {
        other
            .speedup
            .geomean
            .total_cmp(&self.speedup.geomean)
            .then(self.step.cmp(&other.step))
    }
}

/// How a candidate compares with the elite of its cell. The numbers are the elite's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChallengeOutcome {
    /// The cell is empty.
    EmptyCell,
    /// Its interval is above the elite's.
    ClearlyFaster(u64),
    /// Its estimate is better, but the intervals overlap: only a duel can decide.
    NeedsDuel(u64),
    /// Its estimate is not better.
    NotFaster(u64),
}

/// The grid and its elites.
#[derive(Clone, Debug, PartialEq)]
pub struct Archive {
    axes: Vec<ArchiveAxis>,
    /// Fastest first.
    elites: Vec<Elite>,
    /// The step and the speedup of the elite in each filled cell, with which it is found in `elites` by binary search.
    cells: HashMap<Cell, (u64, Speedup)>,
}

impl Archive {
    pub(crate) fn new(features: &IndexMap<String, Vec<f64>>) -> Self {
        let axes = features.iter().map(|(feature, edges)| ArchiveAxis {
            feature: feature.clone(),
            edges: edges.clone(),
        });
        Self {
            axes: axes.collect(),
            elites: Vec::new(),
            cells: HashMap::new(),
        }
    }

    /// An archive with the same axes and no elites.
    pub(crate) fn emptied(&self) -> Self {
        Self {
            axes: self.axes.clone(),
            elites: Vec::new(),
            cells: HashMap::new(),
        }
    }

    pub(crate) fn axes(&self) -> &[ArchiveAxis] {
        &self.axes
    }

    /// The elites, fastest first.
    pub fn elites(&self) -> &[Elite] {
        &self.elites
    }

    /// How many cells have an elite.
    pub(crate) fn filled_cells(&self) -> usize {
        self.elites.len()
    }

    /// How many cells there are for candidates with a number on each axis.
    pub(crate) fn cell_count(&self) -> usize {
        let bins = self.axes.iter().map(|axis| axis.edges.len() + 1);
        bins.fold(1, usize::saturating_mul)
    }

    /// A cell as text, axis by axis: `block_threads < 64, speedup any`.
    pub(crate) fn describe_cell(&self, cell: &Cell) -> String {
        let parts = self
            .axes
            .iter()
            .zip(cell.bins())
            .map(|(axis, bin)| format!("{} {}", axis.feature, axis.label(*bin)));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// The cell of a kernel with these features.
    pub(crate) fn cell_of(&self, features: &IndexMap<String, f64>, speedup: &Speedup) -> Cell {
        let bins = self.axes.iter().map(|axis| match axis.feature.as_str() {
            // From the measurement itself, so that the two never disagree.
            "speedup" => axis.bin(Some(speedup.geomean)),
            feature => axis.bin(features.get(feature).copied()),
        });
        Cell(bins.collect())
    }

    /// How much two cells differ: over all axes, the sum of the difference of their bins as a share of the axis. An unknown bin differs
    /// from every known one by the whole axis.
    pub(super) fn distance(&self, one: &Cell, other: &Cell) -> f64 {
        let bins = one.bins().iter().zip(other.bins());
        let axes = self.axes.iter().zip(bins);
        axes.map(|(axis, (one, other))| match (*one, *other) {
            (one, other) if one == other => 0.0,
            (UNKNOWN_BIN, _) | (_, UNKNOWN_BIN) => 1.0,
            (one, other) => f64::from(one.abs_diff(other)) / axis.edges.len().max(1) as f64,
        })
        .sum()
    }

    /// Compares a candidate with the elite of its cell. Changes nothing.
    pub(crate) fn challenge(&self, cell: &Cell, speedup: &Speedup) -> ChallengeOutcome {
        match self.cells.get(cell) {
            None => ChallengeOutcome::EmptyCell,
            Some((step, incumbent)) if speedup.ci95[0] > incumbent.ci95[1] => {
                ChallengeOutcome::ClearlyFaster(*step)
            }
            Some((step, incumbent)) if speedup.geomean > incumbent.geomean => {
                ChallengeOutcome::NeedsDuel(*step)
            }
            Some((step, _)) => ChallengeOutcome::NotFaster(*step),
        }
    }

    /// Puts an elite into its cell and removes the previous one.
    pub(crate) fn insert(&mut self, elite: Elite) {
        self.remove(&elite.cell);
        self.cells
            .insert(elite.cell.clone(), (elite.step, elite.speedup));
        let position = self
            .elites
            .partition_point(|other| other.rank(&elite) == Ordering::Less);
        self.elites.insert(position, elite);
    }

    /// Empties a cell.
    pub(super) fn remove(&mut self, cell: &Cell) -> Option<Elite> {
        let (step, speedup) = self.cells.remove(cell)?;
        let position = self.position(step, &speedup)?;
        Some(self.elites.remove(position))
    }

    fn position(&self, step: u64, speedup: &Speedup) -> Option<usize> {
        let order = |elite: &Elite| {
            speedup
                .geomean
                .total_cmp(&elite.speedup.geomean)
                .then(elite.step.cmp(&step))
        };
        self.elites.binary_search_by(order).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Archive {
        /// The elite in a cell.
        fn elite(&self, cell: &Cell) -> Option<&Elite> {
            let (step, speedup) = self.cells.get(cell)?;
            self.position(*step, speedup)
                .map(|position| &self.elites[position])
        }
    }

    fn archive() -> Archive {
        Archive::new(
            &[
                ("block_threads".to_owned(), vec![64.0, 128.0]),
                ("speedup".to_owned(), vec![]),
            ]
            .into(),
        )
    }

    fn speedup(geomean: f64) -> Speedup {
        Speedup {
            geomean,
            ci95: [geomean - 0.1, geomean + 0.1],
        }
    }

    fn elite(archive: &Archive, step: u64, threads: f64, geomean: f64) -> Elite {
        let cell = archive.cell_of(
            &[("block_threads".to_owned(), threads)].into(),
            &speedup(geomean),
        );
        Elite {
            step,
            cell,
            speedup: speedup(geomean),
        }
    }

    #[test]
    fn a_value_falls_into_the_bin_of_the_last_edge_not_above_it() {
        let axis = ArchiveAxis {
            feature: "block_threads".to_owned(),
            edges: vec![64.0, 128.0],
        };
        let bins =
            [0.0, 63.9, 64.0, 127.0, 128.0, f64::INFINITY].map(|value| axis.bin(Some(value)));
        assert_eq!(bins, [0, 0, 1, 1, 2, 2]);
        assert_eq!(axis.bin(None), axis.bin(Some(f64::NAN)));
        assert_eq!(
            [0, 1, 2, UNKNOWN_BIN].map(|bin| axis.label(bin)),
            ["< 64", "64 to 128", ">= 128", "unknown"]
        );
        assert_eq!(
            ArchiveAxis {
                feature: "barriers".to_owned(),
                edges: vec![]
            }
            .label(0),
            "any"
        );
    }

    #[test]
    fn only_a_clear_win_replaces_without_a_duel() {
        let mut archive = archive();
        let first = elite(&archive, 1, 32.0, 1.0);
        let cell = first.cell.clone();
        assert_eq!(
            archive.challenge(&cell, &speedup(1.0)),
            ChallengeOutcome::EmptyCell
        );
        archive.insert(first);
        assert_eq!(
            archive.challenge(&cell, &speedup(0.9)),
            ChallengeOutcome::NotFaster(1)
        );
        assert_eq!(
            archive.challenge(&cell, &speedup(1.0)),
            ChallengeOutcome::NotFaster(1)
        );
        assert_eq!(
            archive.challenge(&cell, &speedup(1.15)),
            ChallengeOutcome::NeedsDuel(1)
        );
        assert_eq!(
            archive.challenge(&cell, &speedup(1.3)),
            ChallengeOutcome::ClearlyFaster(1)
        );
        assert_eq!(
            archive.describe_cell(&cell),
            "block_threads < 64, speedup any"
        );
    }

    #[test]
    fn elites_are_ranked_regardless_of_insertion_order() {
        let mut archive = archive();
        for (step, threads, geomean) in [
            (1, 0.0, 2.0),
            (2, 64.0, 3.0),
            (3, 128.0, 2.0),
            (4, 64.0, 1.0),
            (5, 0.0, 4.0),
        ] {
            let elite = elite(&archive, step, threads, geomean);
            archive.insert(elite);
        }
        let ranked: Vec<_> = archive.elites().iter().map(|elite| elite.step).collect();
        assert_eq!(ranked, [5, 3, 4]);
        let second = archive.elites()[1].clone();
        assert_eq!(archive.elite(&second.cell), Some(&second));
        assert_eq!(archive.remove(&second.cell), Some(second.clone()));
        assert_eq!(archive.elite(&second.cell), None);
        assert_eq!(archive.filled_cells(), 2);
    }
}
