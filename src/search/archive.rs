//! The archive: a grid over features of kernels, and in each cell the fastest kernel of that kind.
//!
//! Invariant: an elite is replaced only by a candidate whose interval lies above its own, or that won a duel against it.
//! Decides nothing about where to look next.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::verdict::{Speedup, Verdict};

/// How many of the fastest elites keep their whole verdict. The others' are in the journal.
const MAX_KEPT_VERDICTS: usize = 16;

/// The bin of a feature that the judge could not tell.
const UNKNOWN_BIN: u16 = u16::MAX;

/// One axis of the grid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArchiveAxis {
    pub feature: String,
    /// Ascending; bin i begins at edge i - 1.
    pub edges: Vec<f64>,
}

impl ArchiveAxis {
    fn bin(&self, value: Option<f64>) -> u16 {
        match value {
            Some(value) if !value.is_nan() => {
                self.edges.partition_point(|edge| *edge <= value) as u16
            }
            _ => UNKNOWN_BIN,
        }
    }

    /// A bin for people: `< 64`, `64 to 128`, `>= 512`, `unknown`.
    pub(crate) fn label(&self, bin: u16) -> String {
        let bin = usize::from(bin);
        let begin = bin.checked_sub(1).and_then(|index| self.edges.get(index));
        match (begin, self.edges.get(bin)) {
            (None, None) if bin == 0 => "any".to_owned(),
            (None, None) => "unknown".to_owned(),
            (None, Some(end)) => format!("< {end}"),
            (Some(begin), None) => format!(">= {begin}"),
            (Some(begin), Some(end)) => format!("{begin} to {end}"),
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
    /// Kept for the fastest few only.
    pub verdict: Option<Arc<Verdict>>,
}

impl Elite {
    /// Fastest first; of equals, the one that was found first.
    fn rank(&self, other: &Self) -> Ordering {
        other
            .speedup
            .geomean
            .total_cmp(&self.speedup.geomean)
            .then(self.step.cmp(&other.step))
    }
}

/// How a candidate stands against what its cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChallengeOutcome {
    /// The cell is empty.
    EmptyCell,
    /// Its interval lies above the elite's.
    ClearlyFaster(u64),
    /// Its estimate is better, but the intervals overlap: only a duel can tell.
    NeedsDuel(u64),
    /// Its estimate is no better.
    NotFaster(u64),
}

/// The grid with its elites.
#[derive(Clone, Debug, PartialEq)]
pub struct Archive {
    axes: Vec<ArchiveAxis>,
    /// Fastest first.
    elites: Vec<Elite>,
    /// What each filled cell holds: step and speedup, enough to find the elite by its rank.
    cells: HashMap<Cell, (u64, Speedup)>,
}

impl Archive {
    pub(super) fn new(features: &IndexMap<String, Vec<f64>>) -> Self {
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

    pub(crate) fn axes(&self) -> &[ArchiveAxis] {
        &self.axes
    }

    /// The elites, fastest first.
    pub fn elites(&self) -> &[Elite] {
        &self.elites
    }

    /// How many cells are filled.
    pub(crate) fn filled_cells(&self) -> usize {
        self.elites.len()
    }

    /// The elite in a cell.
    pub(crate) fn elite(&self, cell: &Cell) -> Option<&Elite> {
        let (step, speedup) = self.cells.get(cell)?;
        self.position(*step, speedup)
            .map(|position| &self.elites[position])
    }

    /// A cell for people, axis by axis.
    pub(crate) fn describe_cell(&self, cell: &Cell) -> String {
        let parts = self
            .axes
            .iter()
            .zip(cell.bins())
            .map(|(axis, bin)| format!("{} {}", axis.feature, axis.label(*bin)));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Where a kernel with these features belongs.
    pub(super) fn cell_of(&self, features: &IndexMap<String, f64>, speedup: &Speedup) -> Cell {
        let bins = self.axes.iter().map(|axis| match axis.feature.as_str() {
            // Taken from the measurement itself, so that the two can never disagree.
            "speedup" => axis.bin(Some(speedup.geomean)),
            feature => axis.bin(features.get(feature).copied()),
        });
        Cell(bins.collect())
    }

    pub(super) fn challenge(&self, cell: &Cell, speedup: &Speedup) -> ChallengeOutcome {
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

    /// Puts an elite into its cell, whatever was there.
    pub(super) fn insert(&mut self, elite: Elite) {
        self.remove(&elite.cell);
        self.cells
            .insert(elite.cell.clone(), (elite.step, elite.speedup));
        let position = self
            .elites
            .partition_point(|other| other.rank(&elite) == Ordering::Less);
        self.elites.insert(position, elite);
        if let Some(first_without) = self.elites.get_mut(MAX_KEPT_VERDICTS) {
            first_without.verdict = None;
        }
    }

    /// Empties a cell.
    pub(super) fn remove(&mut self, cell: &Cell) -> Option<Elite> {
        let (step, speedup) = self.cells.remove(cell)?;
        let position = self.position(step, &speedup)?;
        Some(self.elites.remove(position))
    }

    /// Whether a candidate as fast as this could be among those whose verdict is kept.
    pub(super) fn keeps_verdict(&self, speedup: &Speedup) -> bool {
        self.elites
            .get(MAX_KEPT_VERDICTS - 1)
            .is_none_or(|last| speedup.geomean >= last.speedup.geomean)
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
            verdict: None,
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
