//! A list of points of one space, stored by tunable, and how alike their values are. `surrogate` and `predictions` compute with it.
//!
//! Knows a point as the levels of its values (`tunable_space`), never a kernel or a time.

use super::tunable_space::PointIndices;

/// Points, given by their levels.
#[derive(Clone, Debug, Default)]
pub(super) struct PointTable {
    /// By tunable: the level of each point. Empty before the first point.
    columns: Vec<Vec<u8>>,
    count: usize,
}

impl PointTable {
    pub(super) fn of<'a>(points: impl IntoIterator<Item = &'a PointIndices>) -> Self {
        let mut table = Self::default();
        for point in points {
            table.push(point);
        }
        table
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// A space has at most 32 levels for each tunable.
    pub(super) fn push(&mut self, point: &[usize]) {
        self.columns.resize_with(point.len(), Vec::new);
        for (column, level) in self.columns.iter_mut().zip(point) {
            column.push(*level as u8);
        }
        self.count += 1;
    }

    pub(super) fn append(&mut self, other: &Self) {
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        for (column, other) in self.columns.iter_mut().zip(&other.columns) {
            column.extend(other);
        }
        self.count += other.count;
    }

    /// Removes a point; the last one takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) {
        for column in &mut self.columns {
            column.swap_remove(index);
        }
        self.count -= 1;
    }

    /// Multiplies the lower half of a matrix over the points with how alike the values of one tunable are.
    pub(super) fn multiply(&self, matrix: &mut [Vec<f64>], tunable: usize, table: &[f64]) {
        let column = &self.columns[tunable];
        let values = table.len().isqrt();
        for (row, level) in matrix.iter_mut().zip(column) {
            let table = &table[usize::from(*level) * values..][..values];
            for (value, other) in row.iter_mut().zip(column) {
                *value *= table[usize::from(*other)];
            }
        }
    }

    pub(super) fn point(&self, index: usize) -> PointIndices {
        let levels = self.columns.iter();
        levels.map(|column| usize::from(column[index])).collect()
    }
}

/// By tunable: how alike two of its values are.
#[derive(Clone, Debug)]
pub(super) struct Similarity(Vec<Vec<f64>>);

impl Similarity {
    /// `positions`: as in `TunableSpace`. `decays`: how fast values become unlike, by tunable.
    pub(super) fn new(positions: &[Vec<f64>], decays: &[f64]) -> Self {
        let tables = positions.iter().zip(decays);
        Self(
            tables
                .map(|(positions, decay)| similarity_table(positions, *decay))
                .collect(),
        )
    }

    /// Replaces the table of one tunable, and returns the one before. Tables are by rows.
    pub(super) fn replace(&mut self, tunable: usize, table: Vec<f64>) -> Vec<f64> {
        std::mem::replace(&mut self.0[tunable], table)
    }

    /// How alike a point and each point of a table are.
    pub(super) fn to_all(&self, point: &[usize], others: &PointTable) -> Vec<f64> {
        self.to_first(point, others, others.len())
    }

    /// The same for the first points of the table.
    pub(super) fn to_first(&self, point: &[usize], others: &PointTable, count: usize) -> Vec<f64> {
        let mut alike = vec![1.0; count];
        for ((level, table), column) in point.iter().zip(&self.0).zip(&others.columns) {
            let values = table.len().isqrt();
            let row = &table[level * values..][..values];
            for (value, other) in alike.iter_mut().zip(column) {
                *value *= row[usize::from(*other)];
            }
        }
        alike
    }
}

/// For each pair of values how alike they are, by rows.
pub(super) fn similarity_table(positions: &[f64], decay: f64) -> Vec<f64> {
    let pairs = positions
        .iter()
        .flat_map(|one| positions.iter().map(move |other| (one, other)));
    pairs
        .map(|(one, other)| libm::exp(-decay * (one - other).abs()))
        .collect()
}
