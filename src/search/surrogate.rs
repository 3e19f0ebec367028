//! Predicts how fast the untried points of a family are, from those that were measured, and scores which to try next.
//!
//! A Gaussian process over the logarithm of the time. Two points are the more alike, the closer the positions of their values are: the
//! covariance is the product over the tunables of exp(-decay * distance). The decays are fitted to the measured points (maximum marginal
//! likelihood, Rasmussen and Williams, "Gaussian Processes for Machine Learning", equation 5.8), again whenever there are a third more of
//! them. A score is the logarithm of the expected improvement over the fastest point, times the chance that the point passes.
//!
//! A new point adds one row to the factor of the covariance, and one row to what `predictions` keeps of each candidate. The model is
//! rebuilt only if decays are fitted, or if it has too many points. So a score costs the same after any number of measurements. All functions
//! come from `libm`, because those of the system differ between machines in the last bit, and a resumed search must decide the same.
//!
//! Knows a point as the levels of its values, never a kernel.

use super::cholesky::{Factor, dot};
use super::point_table::{PointTable, Similarity, similarity_table};
use super::tunable_space::PointIndices;

/// The most measured points in a model that is rebuilt.
const MAX_POINTS: usize = 64;
/// Of these, the fastest; the others are spread over the rest.
const MAX_FASTEST: usize = 43;
/// How many points are added to a full model before it is rebuilt.
const MAX_ADDED: usize = 24;
/// The most failures in the model: the latest.
const MAX_FAILURES: usize = 32;
/// Measured points before there is a model.
const MIN_POINTS: usize = 4;
/// The decay before anything is fitted, and the likeliest one: the two ends of a tunable are somewhat alike.
const USUAL_DECAY: f64 = 1.5;
const DECAY_RANGE: (f64, f64) = (0.02, 16.0);
/// The most decays that are fitted at once.
const MAX_FITTED_DECAYS: usize = 10;
/// How strongly decays are drawn to the usual one.
const DECAY_PENALTY: f64 = 0.1;
/// Noise of a measurement, as a share of the variance over all points.
const NOISE: f64 = 1e-3;
/// Slow points differ for reasons that say nothing about fast ones: above this quantile differences count less.
const SLOW_QUANTILE: f64 = 0.8;
const SLOW_SHARE: f64 = 0.3;

#[derive(Clone, Debug)]
struct Measured {
    point: PointIndices,
    /// The logarithm of the time, up to a constant.
    log_time: f64,
}

/// The model of one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Surrogate {
    measured: Vec<Measured>,
    failed: Vec<PointIndices>,
    /// By tunable; empty before the first point.
    decays: Vec<f64>,
    /// The number of measured points so far, and at which the decays are fitted again.
    adds: usize,
    next_fit: usize,
    model: Option<Model>,
}

/// What a new result did to the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ModelChange {
    /// There is no model, or it does not have the result.
    None,
    /// The result is its last point.
    Added,
    /// It was rebuilt.
    New,
    /// Another failure is known, and perhaps another one is forgotten.
    Failure { forgotten: Option<PointIndices> },
}

/// The model for the points so far.
#[derive(Clone, Debug)]
pub(super) struct Model {
    points: PointTable,
    log_times: Vec<f64>,
    pub(super) similarity: Similarity,
    /// Of the covariance.
    pub(super) factor: Factor,
    /// The factor's inverse times the values.
    pub(super) weights: Vec<f64>,
    /// The standard deviation of the process.
    spread: f64,
    /// The lowest value.
    best: f64,
}

impl Surrogate {
    /// Adds the result of a point: the logarithm of its time, or that it failed. `positions`: as in `TunableSpace`.
    pub(super) fn add(
        &mut self,
        positions: &[Vec<f64>],
        point: PointIndices,
        log_time: Option<f64>,
    ) -> ModelChange {
        let Some(log_time) = log_time else {
            let is_full = self.failed.len() == MAX_FAILURES;
            let forgotten = is_full.then(|| self.failed.remove(0));
            self.failed.push(point);
            return ModelChange::Failure { forgotten };
        };
        self.measured.push(Measured {
            point: point.clone(),
            log_time,
        });
        // The slowest says least.
        if self.measured.len() > 2 * MAX_POINTS {
            self.measured
                .sort_by(|one, other| one.log_time.total_cmp(&other.log_time));
            self.measured.remove(MAX_POINTS + MAX_POINTS / 2);
        }
        if self.measured.len() < MIN_POINTS {
            return ModelChange::None;
        }
        self.adds += 1;
        let is_fit_due = self.adds >= self.next_fit;
        if !is_fit_due
            && let Some(model) = &mut self.model
            && model.points.len() < MAX_POINTS + MAX_ADDED
            && model.add(&point, log_time)
        {
            return ModelChange::Added;
        }
        self.make_model(positions, is_fit_due);
        ModelChange::New
    }

    /// `None` before there are enough points.
    pub(super) fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// The points that failed, the latest last.
    pub(super) fn failed(&self) -> &[PointIndices] {
        &self.failed
    }

    fn make_model(&mut self, positions: &[Vec<f64>], is_fit_due: bool) {
        let chosen = self.model_points();
        let points = PointTable::of(chosen.iter().map(|one| &one.point));
        let log_times: Vec<f64> = chosen.iter().map(|one| one.log_time).collect();
        if self.decays.is_empty() {
            self.decays = vec![USUAL_DECAY; positions.len()];
        }
        if is_fit_due {
            self.next_fit = self.adds + self.adds / 3 + 1;
            self.fit_decays(positions, &points, &standardized(&log_times));
        }
        let similarity = Similarity::new(positions, &self.decays);
        let factor = Factor::of(covariance(&similarity, &points));
        self.model = factor.map(|factor| {
            let mut model = Model {
                points,
                log_times,
                similarity,
                factor,
                weights: Vec::new(),
                spread: 0.0,
                best: 0.0,
            };
            model.set_values();
            model
        });
    }

    /// The fastest points, and some of the others from fast to slow.
    fn model_points(&self) -> Vec<&Measured> {
        let mut all: Vec<&Measured> = self.measured.iter().collect();
        all.sort_by(|one, other| one.log_time.total_cmp(&other.log_time));
        if all.len() <= MAX_POINTS {
            return all;
        }
        let rest = all.split_off(MAX_FASTEST);
        let wanted = MAX_POINTS - MAX_FASTEST;
        all.extend((0..wanted).map(|index| rest[index * rest.len() / wanted]));
        all
    }

    /// Improves the decays in turn.
    fn fit_decays(&mut self, positions: &[Vec<f64>], points: &PointTable, values: &[f64]) {
        let mut similarity = Similarity::new(positions, &self.decays);
        let mut best = self.likelihood(covariance(&similarity, points), values);
        let count = positions.len();
        for offset in 0..count.min(MAX_FITTED_DECAYS) {
            let tunable = (self.adds + offset) % count;
            let values_of_tunable = positions[tunable].len();
            if values_of_tunable < 2 {
                continue;
            }
            // The product over the other tunables.
            let mut others = similarity.clone();
            others.replace(tunable, vec![1.0; values_of_tunable * values_of_tunable]);
            let others = covariance(&others, points);
            let current = self.decays[tunable];
            for factor in [0.25, 0.5, 2.0, 4.0] {
                let decay = (current * factor).clamp(DECAY_RANGE.0, DECAY_RANGE.1);
                let table = similarity_table(&positions[tunable], decay);
                let mut covariance = others.clone();
                points.multiply(&mut covariance, tunable, &table);
                let before = std::mem::replace(&mut self.decays[tunable], decay);
                let likelihood = self.likelihood(covariance, values);
                if likelihood > best {
                    best = likelihood;
                    similarity.replace(tunable, table);
                } else {
                    self.decays[tunable] = before;
                }
            }
        }
    }

    /// The logarithm of the marginal likelihood with the best variance, up to a constant, less the penalty of the decays.
    fn likelihood(&self, covariance: Vec<Vec<f64>>, values: &[f64]) -> f64 {
        let Some(factor) = Factor::of(covariance) else {
            return f64::NEG_INFINITY;
        };
        let weights = factor.solve(values);
        let count = values.len() as f64;
        let variance = dot(&weights, &weights) / count;
        let penalty = self.decays.iter().map(|decay| {
            let distance = libm::log(decay / USUAL_DECAY);
            DECAY_PENALTY * distance * distance
        });
        -0.5 * count * libm::log(variance.max(1e-300))
            - factor.log_diagonal()
            - penalty.sum::<f64>()
    }
}

impl Model {
    /// The number of its points.
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    pub(super) fn point(&self, index: usize) -> PointIndices {
        self.points.point(index)
    }

    /// Adds a point, if the covariance allows it.
    fn add(&mut self, point: &[usize], log_time: f64) -> bool {
        let mut row = self.similarity.to_all(point, &self.points);
        row.push(1.0 + NOISE);
        if !self.factor.append(row) {
            return false;
        }
        self.points.push(point);
        self.log_times.push(log_time);
        self.set_values();
        true
    }

    /// Computes what depends on the times.
    fn set_values(&mut self) {
        let values = standardized(&self.log_times);
        self.weights = self.factor.solve(&values);
        self.spread = (dot(&self.weights, &self.weights) / values.len() as f64).sqrt();
        self.best = values.iter().copied().fold(f64::INFINITY, f64::min);
    }

    /// The logarithm of the expected improvement of a point with this mean and this share of the variance.
    pub(super) fn log_improvement(&self, mean: f64, variance: f64) -> f64 {
        let deviation = variance.max(1e-9).sqrt() * self.spread;
        log_improvement(self.best - mean, deviation)
    }
}

/// The covariances between points, by the rows of the lower half; the noise is part of the diagonal.
fn covariance(similarity: &Similarity, points: &PointTable) -> Vec<Vec<f64>> {
    let row = |index: usize| {
        let mut row = similarity.to_first(&points.point(index), points, index + 1);
        row[index] += NOISE;
        row
    };
    (0..points.len()).map(row).collect()
}

/// The values of the points, with mean 0 and deviation 1.
fn standardized(log_times: &[f64]) -> Vec<f64> {
    let count = log_times.len() as f64;
    let mut sorted = log_times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let slow = sorted[((count - 1.0) * SLOW_QUANTILE) as usize];
    let values = log_times.iter().map(|time| match *time {
        time if time > slow => slow + SLOW_SHARE * (time - slow),
        time => time,
    });
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / count;
    let deviation = variance.sqrt().max(1e-9);
    values
        .into_iter()
        .map(|value| (value - mean) / deviation)
        .collect()
}

/// The logarithm of the expected improvement of a normal variable that is `gain` below the best on average.
fn log_improvement(gain: f64, deviation: f64) -> f64 {
    let ratio = gain / deviation;
    let density = libm::exp(-0.5 * ratio * ratio) / (2.0 * std::f64::consts::PI).sqrt();
    let share = 0.5 * libm::erfc(-ratio / std::f64::consts::SQRT_2);
    let improvement = deviation * (ratio * share + density);
    // The second term orders what is hopeless.
    libm::log(improvement.max(1e-30)) + 1e-6 * ratio
}
