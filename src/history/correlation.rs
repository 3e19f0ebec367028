//! Whether two quantities of candidates go together: Spearman's rank correlation, over the candidates of all runs of an arm.
//!
//! Ranks, because neither quantity has a known distribution and one outlier must not decide. Candidates of a run descend from each other,
//! so they are not independent draws: the interval is a lower limit of the uncertainty. Pure, except that journals are read again.

use anyhow::Result;
use serde::Serialize;

use super::holm;
use super::quantity::values_of;
use super::run::RunHistory;
use crate::base::statistics::Z95;
use crate::base::student;

/// The fewest candidates for which a correlation says anything.
const MIN_CANDIDATES: usize = 5;

/// The correlation of two quantities on one task in one arm.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Correlation {
    pub(crate) task: String,
    /// The arm by number, from 0.
    pub(crate) arm: usize,
    pub(crate) quantities: [String; 2],
    /// Candidates that have both.
    pub(crate) candidates: usize,
    /// Spearman's coefficient, from -1 to 1. `None` for too few candidates, and if all have the same value.
    pub(crate) rho: Option<f64>,
    pub(crate) ci95: Option<[f64; 2]>,
    /// The probability of such a coefficient without a relation; `corrected` by Holm's method over all correlations.
    pub(crate) p: Option<f64>,
    pub(crate) corrected: Option<f64>,
}

/// The correlations of each pair of quantities, for each task and each arm that has the task.
///
/// # Errors
/// If a journal cannot be read.
pub(crate) fn correlate(
    arms: &[Vec<RunHistory>],
    pairs: &[[String; 2]],
) -> Result<Vec<Correlation>> {
    let mut names: Vec<&str> = Vec::new();
    for task in arms.iter().flatten().flat_map(|run| &run.tasks) {
        if !names.contains(&task.name.as_str()) {
            names.push(&task.name);
        }
    }
    let mut all = Vec::new();
    for pair in pairs {
        for name in &names {
            for (arm, runs) in arms.iter().enumerate() {
                let mut points = Vec::new();
                let tasks = runs.iter().flat_map(|run| &run.tasks);
                for task in tasks.filter(|task| task.name == *name) {
                    let values = values_of(task, &[&pair[0], &pair[1]])?;
                    let both = values[0]
                        .iter()
                        .filter_map(|(step, one)| Some((*one, *values[1].get(step)?)));
                    points.extend(both);
                }
                all.push(correlation(name, arm, pair, &points));
            }
        }
    }
    let corrected = holm::corrected(&all.iter().map(|one| one.p).collect::<Vec<_>>());
    for (one, p) in all.iter_mut().zip(corrected) {
        one.corrected = p;
    }
    Ok(all)
}

fn correlation(task: &str, arm: usize, pair: &[String; 2], points: &[(f64, f64)]) -> Correlation {
    let rho = spearman(points);
    Correlation {
        task: task.to_owned(),
        arm,
        quantities: pair.clone(),
        candidates: points.len(),
        rho,
        ci95: rho.map(|rho| interval(rho, points.len())),
        p: rho.map(|rho| probability(rho, points.len())),
        corrected: None,
    }
}

/// Pearson's coefficient of the ranks. `None` for too few points, or if one side has only one value.
fn spearman(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < MIN_CANDIDATES {
        return None;
    }
    let one = ranks(&points.iter().map(|point| point.0).collect::<Vec<_>>());
    let other = ranks(&points.iter().map(|point| point.1).collect::<Vec<_>>());
    // The mean of all ranks, also with ties.
    let mean = (points.len() as f64 + 1.0) / 2.0;
    let product = |one: &[f64], other: &[f64]| -> f64 {
        let pairs = one.iter().zip(other);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let scale = (product(&one, &one) * product(&other, &other)).sqrt();
    (scale > 0.0).then(|| (product(&one, &other) / scale).clamp(-1.0, 1.0))
}

/// The ranks from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*one].total_cmp(&values[*other]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let is_equal = |index: &&usize| values[**index] == values[order[start]];
        let end = start + order[start..].iter().take_while(is_equal).count();
        let rank = (start + 1 + end) as f64 / 2.0;
        for index in &order[start..end] {
            ranks[*index] = rank;
        }
        start = end;
    }
    ranks
}

/// The 95 % interval by Fisher's transformation, with the variance of Bonett & Wright (2000) for Spearman's coefficient.
fn interval(rho: f64, count: usize) -> [f64; 2] {
    if rho.abs() >= 1.0 {
        return [rho, rho];
    }
    let error = ((1.0 + rho * rho / 2.0) / (count as f64 - 3.0)).sqrt();
    [-Z95, Z95].map(|z| (rho.atanh() + z * error).tanh())
}

/// The two-sided probability by Student's t with two degrees of freedom fewer than candidates.
fn probability(rho: f64, count: usize) -> f64 {
    let degrees = count - 2;
    let rest = 1.0 - rho * rho;
    if rest <= 0.0 {
        return 0.0;
    }
    let t = rho.abs() * (degrees as f64 / rest).sqrt();
    (2.0 * student::tail(t, degrees)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RandomStream;

    #[test]
    fn coefficient_is_that_of_the_ranks() {
        let line = |f: fn(f64) -> f64| {
            let points: Vec<_> = (1..=8).map(|x| (f64::from(x), f(f64::from(x)))).collect();
            spearman(&points)
        };
        assert_eq!(line(|x| x.powi(3)), Some(1.0));
        assert_eq!(line(|x| -x.ln()), Some(-1.0));
        assert_eq!(line(|_| 4.0), None);
        assert_eq!(spearman(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        // R: cor(c(1,2,3,4,5,6), c(2,1,4,3,6,5), method = "spearman") is 0.8285714.
        let points = [(1., 2.), (2., 1.), (3., 4.), (4., 3.), (5., 6.), (6., 5.)];
        let rho = spearman(&points).unwrap();
        assert!((rho - 0.828_571_4).abs() < 1e-6, "{rho}");
        assert!((probability(rho, 6) - 0.0416).abs() < 1e-3);
    }

    /// How many of 200 samples of 30 candidates have a significant correlation, and how many intervals contain the mean coefficient.
    fn shown(share: f64) -> (usize, usize) {
        let mut stream = RandomStream::new(5, "correlation", (share * 100.0) as u64);
        let samples: Vec<Vec<(f64, f64)>> = (0..200)
            .map(|_| {
                let point = |stream: &mut RandomStream| {
                    let one = stream.uniform();
                    (one, share * one + (1.0 - share) * stream.uniform())
                };
                (0..30).map(|_| point(&mut stream)).collect()
            })
            .collect();
        let found: Vec<f64> = samples
            .iter()
            .map(|points| spearman(points).unwrap())
            .collect();
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let significant = found
            .iter()
            .filter(|rho| probability(**rho, 30) < 0.05)
            .count();
        let covered = found.iter().filter(|rho| {
            let [low, high] = interval(**rho, 30);
            (low..=high).contains(&mean)
        });
        (significant, covered.count())
    }

    #[test]
    fn false_positives_and_intervals_are_as_stated() {
        let (false_positives, covered) = shown(0.0);
        assert!(false_positives <= 20, "{false_positives}");
        assert!(covered >= 180, "{covered}");
        let (true_positives, covered) = shown(0.5);
        assert!(true_positives >= 180, "{true_positives}");
        assert!(covered >= 180, "{covered}");
    }
}
