//! Predicts how fast the untried points of a family are, from those that were measured, and scores which to try next.
//!
//! A Gaussian process over the logarithm of the time. Two points are the more alike, the closer the positions of their values are: the
//! covariance is the product over the tunables of exp(-decay * distance). The decays are fitted to the measured points (maximum marginal
//! likelihood, Rasmussen and Williams, "Gaussian Processes for Machine Learning", equation 5.8), again whenever there are a third more of
//! them. A score is the logarithm of the expected improvement over the fastest point, times the chance that the point passes.
//!
//! The model keeps a fixed number of points, so that a score costs the same after any number of measurements. All functions come from
//! `libm`, because those of the system differ between machines in the last bit, and a resumed search must decide the same.
//!
//! Knows a point as the levels of its values, never a kernel.

use super::tunable_space::PointIndices;

/// The most measured points in the model.
const MAX_POINTS: usize = 64;
/// Of these, the fastest; the others are spread over the rest.
const MAX_FASTEST: usize = 43;
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
/// The weight of the assumption that a point passes.
const PASS_WEIGHT: f64 = 1.0;

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
    fitted: Option<Fitted>,
}

/// The model for the points so far.
#[derive(Clone, Debug)]
struct Fitted {
    points: Vec<PointIndices>,
    similarity: Similarity,
    /// The Cholesky factor of the covariance, by rows.
    factor: Vec<Vec<f64>>,
    /// The factor's inverse times the values.
    weights: Vec<f64>,
    /// The standard deviation of the process.
    spread: f64,
    /// The lowest value.
    best: f64,
}

/// By tunable: how alike two of its values are.
#[derive(Clone, Debug)]
struct Similarity(Vec<Vec<f64>>);

impl Surrogate {
    /// Adds the result of a point: the logarithm of its time, or that it failed. `positions`: as in `TunableSpace`.
    pub(super) fn add(
        &mut self,
        positions: &[Vec<f64>],
        point: PointIndices,
        log_time: Option<f64>,
    ) {
        let Some(log_time) = log_time else {
            if self.failed.len() == MAX_FAILURES {
                self.failed.remove(0);
            }
            self.failed.push(point);
            return;
        };
        self.measured.push(Measured { point, log_time });
        // The slowest says least.
        if self.measured.len() > 2 * MAX_POINTS {
            self.measured
                .sort_by(|one, other| one.log_time.total_cmp(&other.log_time));
            self.measured.remove(MAX_POINTS + MAX_POINTS / 2);
        }
        self.fit(positions);
    }

    /// Whether there are enough points for scores.
    pub(super) fn is_ready(&self) -> bool {
        self.fitted.is_some()
    }

    fn fit(&mut self, positions: &[Vec<f64>]) {
        if self.measured.len() < MIN_POINTS {
            return;
        }
        let chosen = self.model_points();
        let values = standardized(&chosen);
        let points: Vec<PointIndices> = chosen.into_iter().map(|one| one.point.clone()).collect();
        if self.decays.is_empty() {
            self.decays = vec![USUAL_DECAY; positions.len()];
        }
        self.adds += 1;
        if self.adds >= self.next_fit {
            self.next_fit = self.adds + self.adds / 3 + 1;
            self.fit_decays(positions, &points, &values);
        }
        let similarity = Similarity::new(positions, &self.decays);
        let covariance = similarity.covariance(&points);
        self.fitted = factorize(covariance).map(|factor| {
            let weights = solve_lower(&factor, &values);
            let spread = (dot(&weights, &weights) / weights.len() as f64).sqrt();
            Fitted {
                points,
                similarity,
                factor,
                weights,
                spread,
                best: values.iter().copied().fold(f64::INFINITY, f64::min),
            }
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
    fn fit_decays(&mut self, positions: &[Vec<f64>], points: &[PointIndices], values: &[f64]) {
        let mut similarity = Similarity::new(positions, &self.decays);
        let mut best = self.likelihood(&similarity.covariance(points), values);
        let count = positions.len();
        for offset in 0..count.min(MAX_FITTED_DECAYS) {
            let tunable = (self.adds + offset) % count;
            if positions[tunable].len() < 2 {
                continue;
            }
            // The product over the other tunables.
            let kept = std::mem::take(&mut similarity.0[tunable]);
            let mut others = similarity.clone();
            others.0[tunable] = vec![1.0; kept.len()];
            let others = others.covariance(points);
            similarity.0[tunable] = kept;
            let current = self.decays[tunable];
            for factor in [0.25, 0.5, 2.0, 4.0] {
                let decay = (current * factor).clamp(DECAY_RANGE.0, DECAY_RANGE.1);
                let table = similarity_table(&positions[tunable], decay);
                let count = positions[tunable].len();
                let mut covariance = others.clone();
                for (row, point) in covariance.iter_mut().zip(points) {
                    for (value, other) in row.iter_mut().zip(points) {
                        *value *= table[point[tunable] * count + other[tunable]];
                    }
                }
                let before = std::mem::replace(&mut self.decays[tunable], decay);
                let likelihood = self.likelihood(&covariance, values);
                if likelihood > best {
                    best = likelihood;
                    similarity.0[tunable] = table;
                } else {
                    self.decays[tunable] = before;
                }
            }
        }
    }

    /// The logarithm of the marginal likelihood with the best variance, up to a constant, less the penalty of the decays.
    fn likelihood(&self, covariance: &[Vec<f64>], values: &[f64]) -> f64 {
        let Some(factor) = factorize(covariance.to_vec()) else {
            return f64::NEG_INFINITY;
        };
        let weights = solve_lower(&factor, values);
        let count = values.len() as f64;
        let variance = dot(&weights, &weights) / count;
        let diagonal = factor
            .iter()
            .enumerate()
            .map(|(index, row)| libm::log(row[index]));
        let penalty = self.decays.iter().map(|decay| {
            let distance = libm::log(decay / USUAL_DECAY);
            DECAY_PENALTY * distance * distance
        });
        -0.5 * count * libm::log(variance.max(1e-300))
            - diagonal.sum::<f64>()
            - penalty.sum::<f64>()
    }

    /// For each candidate how much is to be gained by trying it. `pending`: points that are tried now; points like them gain less.
    pub(super) fn scores(&self, candidates: &[PointIndices], pending: &[PointIndices]) -> Vec<f64> {
        let Some(fitted) = &self.fitted else {
            return vec![0.0; candidates.len()];
        };
        let count = candidates.len();
        let mut mean = vec![0.0; count];
        let mut variance = vec![1.0; count];
        let mut passes = vec![PASS_WEIGHT; count];
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(fitted.points.len());
        for ((point, factor), weight) in fitted
            .points
            .iter()
            .zip(&fitted.factor)
            .zip(&fitted.weights)
        {
            let mut row = fitted.similarity.to_all(point, candidates);
            if !self.failed.is_empty() {
                add_squares(&mut passes, &row);
            }
            for (earlier, share) in rows.iter().zip(factor) {
                for (value, other) in row.iter_mut().zip(earlier) {
                    *value -= share * other;
                }
            }
            let scale = 1.0 / factor[rows.len()];
            for ((value, mean), variance) in row.iter_mut().zip(&mut mean).zip(&mut variance) {
                *value *= scale;
                *mean += *value * weight;
                *variance -= *value * *value;
            }
            rows.push(row);
        }
        let mut fails = vec![0.0; count];
        for point in &self.failed {
            add_squares(&mut fails, &fitted.similarity.to_all(point, candidates));
        }
        let mut scores: Vec<f64> = (0..count)
            .map(|index| {
                let deviation = variance[index].max(1e-9).sqrt() * fitted.spread;
                let chance = passes[index] / (passes[index] + fails[index]);
                log_improvement(fitted.best - mean[index], deviation) + libm::log(chance)
            })
            .collect();
        for point in pending {
            let alike = fitted.similarity.to_all(point, candidates);
            for (score, alike) in scores.iter_mut().zip(alike) {
                *score += libm::log(1.0 - alike + 1e-6);
            }
        }
        scores
    }
}

impl Similarity {
    fn new(positions: &[Vec<f64>], decays: &[f64]) -> Self {
        let tables = positions.iter().zip(decays);
        Self(
            tables
                .map(|(positions, decay)| similarity_table(positions, *decay))
                .collect(),
        )
    }

    /// The covariances between points; the noise is part of the diagonal.
    fn covariance(&self, points: &[PointIndices]) -> Vec<Vec<f64>> {
        let row = |(index, point): (usize, &PointIndices)| {
            let mut row = self.to_all(point, &points[..=index]);
            row[index] += NOISE;
            row
        };
        points.iter().enumerate().map(row).collect()
    }

    fn to_all(&self, point: &[usize], others: &[PointIndices]) -> Vec<f64> {
        let mut alike = vec![1.0; others.len()];
        for (tunable, table) in self.0.iter().enumerate() {
            let count = table.len().isqrt();
            let row = &table[point[tunable] * count..][..count];
            for (value, other) in alike.iter_mut().zip(others) {
                *value *= row[other[tunable]];
            }
        }
        alike
    }
}

/// For each pair of values how alike they are, by rows.
fn similarity_table(positions: &[f64], decay: f64) -> Vec<f64> {
    let pairs = positions
        .iter()
        .flat_map(|one| positions.iter().map(move |other| (one, other)));
    pairs
        .map(|(one, other)| libm::exp(-decay * (one - other).abs()))
        .collect()
}

fn add_squares(sums: &mut [f64], values: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value * value;
    }
}

/// The values of the points with mean 0 and deviation 1. Points are ordered from fast to slow.
fn standardized(points: &[&Measured]) -> Vec<f64> {
    let count = points.len() as f64;
    let slow = points[((count - 1.0) * SLOW_QUANTILE) as usize].log_time;
    let values = points.iter().map(|one| match one.log_time {
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

/// The Cholesky factor of a matrix, given by its lower half. `None` if it has none.
fn factorize(mut matrix: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    for row in 0..matrix.len() {
        let (done, rest) = matrix.split_at_mut(row);
        let current = &mut rest[0];
        for (column, earlier) in done.iter().enumerate() {
            let sum = dot(&current[..column], &earlier[..column]);
            current[column] = (current[column] - sum) / earlier[column];
        }
        let left = current[row] - dot(&current[..row], &current[..row]);
        if left.is_nan() || left <= 1e-12 {
            return None;
        }
        current[row] = left.sqrt();
    }
    Some(matrix)
}

/// Solves `factor` x = `values`.
fn solve_lower(factor: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let mut solved: Vec<f64> = Vec::with_capacity(values.len());
    for (index, (row, value)) in factor.iter().zip(values).enumerate() {
        let sum = dot(&row[..index], &solved);
        solved.push((value - sum) / row[index]);
    }
    solved
}

/// The scalar product, in an order that the compiler may use vector instructions for.
fn dot(one: &[f64], other: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (left, right) = (one.chunks_exact(4), other.chunks_exact(4));
    let tail = left.remainder().iter().zip(right.remainder());
    let tail: f64 = tail.map(|(one, other)| one * other).sum();
    for (one, other) in left.zip(right) {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum += one[index] * other[index];
        }
    }
    sums[0] + sums[1] + sums[2] + sums[3] + tail
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
