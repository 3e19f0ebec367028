//! What the surrogate says of the candidates of a family, kept up to date while results arrive.
//!
//! For each candidate it keeps the solved covariances with the points of the model. A new point of the model costs one more row, instead
//! of the whole computation again (Rasmussen and Williams, "Gaussian Processes for Machine Learning", section 2.2 and appendix A.3).
//!
//! Knows a point as the levels of its values. Never decides which candidates there are.

use super::point_table::PointTable;
use super::surrogate::{Model, ModelChange, Surrogate};

/// The weight of the assumption that a point passes.
const PASS_WEIGHT: f64 = 1.0;

/// The predictions of some candidates, each by the candidate's index.
#[derive(Clone, Debug, Default)]
pub(super) struct Predictions {
    /// By point of the model: the factor's inverse times the covariances.
    rows: Vec<Vec<f64>>,
    /// The variance that is left, as a share.
    variance: Vec<f64>,
    /// How alike the points are that passed and those that failed: sums of squares.
    passes: Vec<f64>,
    fails: Vec<f64>,
}

impl Predictions {
    /// The predictions of these candidates.
    pub(super) fn of(surrogate: &Surrogate, candidates: &PointTable) -> Self {
        let count = candidates.len();
        let mut made = Self {
            rows: Vec::new(),
            variance: vec![1.0; count],
            passes: vec![PASS_WEIGHT; count],
            fails: vec![0.0; count],
        };
        let Some(model) = surrogate.model() else {
            return made;
        };
        for _ in 0..model.len() {
            made.add_row(model, candidates);
        }
        for point in surrogate.failed() {
            add_squares(&mut made.fails, &model.similarity.to_all(point, candidates));
        }
        made
    }

    /// Follows a change of the model.
    pub(super) fn follow(
        &mut self,
        surrogate: &Surrogate,
        change: &ModelChange,
        candidates: &PointTable,
    ) {
        let Some(model) = surrogate.model() else {
            return;
        };
        match change {
            ModelChange::None => {}
            ModelChange::Added => self.add_row(model, candidates),
            ModelChange::New => *self = Self::of(surrogate, candidates),
            ModelChange::Failure { forgotten } => {
                if let Some(failed) = surrogate.failed().last() {
                    let alike = model.similarity.to_all(failed, candidates);
                    add_squares(&mut self.fails, &alike);
                }
                if let Some(forgotten) = forgotten {
                    let alike = model.similarity.to_all(forgotten, candidates);
                    for (sum, value) in self.fails.iter_mut().zip(&alike) {
                        *sum = (*sum - value * value).max(0.0);
                    }
                }
            }
        }
    }

    /// Adds the row of the next point of the model.
    fn add_row(&mut self, model: &Model, candidates: &PointTable) {
        let index = self.rows.len();
        let mut row = (model.similarity).to_all(&model.point(index), candidates);
        add_squares(&mut self.passes, &row);
        let factor = model.factor.row(index);
        for (earlier, share) in self.rows.iter().zip(factor) {
            for (value, other) in row.iter_mut().zip(earlier) {
                *value -= share * other;
            }
        }
        let scale = 1.0 / factor[index];
        for (value, variance) in row.iter_mut().zip(&mut self.variance) {
            *value *= scale;
            *variance -= *value * *value;
        }
        self.rows.push(row);
    }

    /// Adds the predictions of other candidates for the same model.
    pub(super) fn append(&mut self, other: Self) {
        if self.rows.is_empty() {
            *self = other;
            return;
        }
        for (row, other) in self.rows.iter_mut().zip(&other.rows) {
            row.extend(other);
        }
        self.variance.extend(other.variance);
        self.passes.extend(other.passes);
        self.fails.extend(other.fails);
    }

    /// Removes a candidate; the last one takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) {
        for row in &mut self.rows {
            row.swap_remove(index);
        }
        for values in [&mut self.variance, &mut self.passes, &mut self.fails] {
            values.swap_remove(index);
        }
    }

    /// For each candidate how much is to be gained by trying it: a logarithm.
    pub(super) fn scores(&self, model: &Model) -> Vec<f64> {
        let mut means = vec![0.0; self.variance.len()];
        for (row, weight) in self.rows.iter().zip(&model.weights) {
            for (mean, value) in means.iter_mut().zip(row) {
                *mean += value * weight;
            }
        }
        let score = |(index, mean): (usize, &f64)| {
            let (passes, fails) = (self.passes[index], self.fails[index]);
            let chance = libm::log(passes / (passes + fails));
            model.log_improvement(*mean, self.variance[index]) + chance
        };
        means.iter().enumerate().map(score).collect()
    }
}

fn add_squares(sums: &mut [f64], values: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value * value;
    }
}
