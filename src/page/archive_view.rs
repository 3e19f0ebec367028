//! The archive as a table of two of its axes. Each cell has the elites that fall into it.
//!
//! Pure. The page's script can choose other axes from the same data.

use serde::Serialize;

use super::figures;
use crate::history::TaskHistory;
use crate::search::Elite;

/// The most elites that a page shows: the fastest.
const MAX_ELITES: usize = 400;

/// An axis with its bins in order.
#[derive(Debug, Serialize)]
pub(super) struct Axis {
    pub(super) name: String,
    /// Labels of the bins that have an elite.
    pub(super) bins: Vec<String>,
}

/// An elite: its step, its place on each axis, its figure, and how fast it is among the others, from 0 to 1.
#[derive(Debug, Serialize)]
pub(super) struct Chip {
    pub(super) step: u64,
    pub(super) bins: Vec<usize>,
    pub(super) figure: String,
    pub(super) rank: f64,
    pub(super) title: String,
    pub(super) is_listed: bool,
}

/// A row of the table: its label, and the chips of each column by their indices.
#[derive(Debug, Serialize)]
pub(super) struct GridRow {
    pub(super) label: String,
    pub(super) cells: Vec<Vec<usize>>,
}

/// The archive of a task.
#[derive(Debug, Serialize)]
pub(super) struct ArchiveView {
    pub(super) axes: Vec<Axis>,
    pub(super) chips: Vec<Chip>,
    /// The axes of columns and rows.
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) rows: Vec<GridRow>,
    /// Elites that are not shown.
    pub(super) more: usize,
}

/// The archive of a task. `None` if it is empty or has no axes.
pub(super) fn archive_view(
    task: &TaskHistory,
    is_listed: &std::collections::HashSet<u64>,
) -> Option<ArchiveView> {
    let elites = task.grid.elites();
    let shown = &elites[..elites.len().min(MAX_ELITES)];
    let names: Vec<String> = task.grid.axes().map(str::to_owned).collect();
    if shown.is_empty() || names.is_empty() {
        return None;
    }
    let mut axes = Vec::new();
    let mut places = vec![Vec::new(); shown.len()];
    for (index, name) in names.into_iter().enumerate() {
        let bin = |elite: &Elite| elite.cell.bins().get(index).copied().unwrap_or_default();
        let mut bins: Vec<u16> = shown.iter().map(bin).collect();
        bins.sort_unstable();
        bins.dedup();
        for (elite, place) in shown.iter().zip(&mut places) {
            place.push(bins.binary_search(&bin(elite)).unwrap_or_default());
        }
        let bins = bins
            .iter()
            .map(|bin| task.grid.label(index, *bin))
            .collect();
        axes.push(Axis { name, bins });
    }
    let (across, down) = two_widest(&axes);
    let speeds: Vec<f64> = shown
        .iter()
        .map(|elite| elite.speedup.geomean.ln())
        .collect();
    let (slow, fast) = (
        speeds.iter().copied().fold(f64::INFINITY, f64::min),
        speeds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    );
    let chips = shown
        .iter()
        .zip(places)
        .zip(&speeds)
        .map(|((elite, bins), speed)| Chip {
            step: elite.step,
            bins,
            figure: figures::provisional(elite.speedup.geomean),
            rank: if fast > slow {
                (speed - slow) / (fast - slow)
            } else {
                1.0
            },
            title: format!("step {}: {}", elite.step, task.grid.describe(elite)),
            is_listed: is_listed.contains(&elite.step),
        });
    let chips: Vec<Chip> = chips.collect();
    let rows = axes
        .get(down)
        .map_or(&[][..], |axis| &axis.bins)
        .iter()
        .enumerate();
    let columns = axes.get(across).map_or(0, |axis| axis.bins.len());
    let rows = rows.map(|(row, label)| GridRow {
        label: label.clone(),
        cells: (0..columns)
            .map(|column| {
                let here = chips.iter().enumerate().filter(|(_, chip)| {
                    chip.bins.get(across) == Some(&column) && chip.bins.get(down) == Some(&row)
                });
                here.map(|(index, _)| index).collect()
            })
            .collect(),
    });
    Some(ArchiveView {
        rows: rows.collect(),
        axes,
        chips,
        across,
        down,
        more: elites.len() - shown.len(),
    })
}

/// The two axes with the most bins. The speedup, which the figures show already, comes last.
fn two_widest(axes: &[Axis]) -> (usize, usize) {
    let mut order: Vec<usize> = (0..axes.len()).collect();
    order.sort_by_key(|index| {
        let axis = &axes[*index];
        (axis.name == "speedup", std::cmp::Reverse(axis.bins.len()))
    });
    let first = order.first().copied().unwrap_or(0);
    (first, order.get(1).copied().unwrap_or(first))
}
