//! Estimates with 95 % confidence intervals from samples of times: Hodges-Lehmann, geometric means, means over processes.
//!
//! Robust to launches that were interrupted. Never returns a number that is not finite, or an interval for too few samples: the
//! result is `None` instead.

/// Two-sided 95 % quantile of the standard normal distribution.
pub(crate) const Z95: f64 = 1.959_963_984_540_054;

/// Two-sided 95 % quantiles of Student's t with 2, 3, … degrees of freedom.
const STUDENT95: [f64; 8] = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// Up to this many samples, the distribution of the signed-rank statistic is computed exactly. Above, the normal approximation is
/// right to within one rank.
const MAX_EXACT_SAMPLES: usize = 50;

/// The smallest sample that has a two-sided 95 % signed-rank interval: 2 / 2^5 is more than 5 %, and 2 / 2^6 is less.
const MIN_SAMPLES: usize = 6;

/// Descriptive statistics of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SampleSummary {
    pub median: f64,
    pub mean: f64,
    /// With n - 1 in the denominator; 0 for a single value.
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub n: u64,
}

impl SampleSummary {
    /// `None` for an empty sample, and for a sample with a value that is not finite.
    pub(crate) fn of(sample: &[f64]) -> Option<Self> {
        if sample.is_empty() || !sample.iter().all(|value| value.is_finite()) {
            return None;
        }
        let count = sample.len() as f64;
        // Values are divided before they are added, so that large finite values do not overflow.
        let mean = sample.iter().map(|value| value / count).sum::<f64>();
        let squares = sample
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>();
        let std = if sample.len() > 1 {
            (squares / (count - 1.0)).sqrt()
        } else {
            0.0
        };
        let mut sorted = sample.to_vec();
        let median = median(&mut sorted)?;
        let min = sample.iter().copied().fold(f64::INFINITY, f64::min);
        let max = sample.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (mean.is_finite() && std.is_finite()).then_some(Self {
            median,
            mean,
            std,
            min,
            max,
            n: sample.len() as u64,
        })
    }
}

/// An estimate with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    fn is_ordered(&self) -> bool {
        self.low.is_finite()
            && self.high.is_finite()
            && self.low <= self.estimate
            && self.estimate <= self.high
    }
}

/// The median with an interval that contains the true median with at least 95 %, whatever the distribution: two order statistics, as the
/// sign test says. `None` for fewer than six samples, and for values that are not finite.
pub(crate) fn median_interval(sample: &[f64]) -> Option<Estimate> {
    let count = sample.len();
    if count < MIN_SAMPLES || !sample.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mut sorted = sample.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // How many values may lie outside on each side: P(B <= outside) <= 2.5 % for B binomial with 1/2.
    let mut probability = 0.5f64.powi(i32::try_from(count).ok()?);
    let (mut below, mut outside) = (0.0, 0);
    while outside < count / 2 {
        below += probability;
        if below > 0.025 {
            break;
        }
        probability *= (count - outside) as f64 / (outside + 1) as f64;
        outside += 1;
    }
    let (low, high) = (sorted[outside - 1], sorted[count - outside]);
    Some(Estimate {
        estimate: median(&mut sorted)?,
        low,
        high,
    })
}

/// The one-sample Hodges-Lehmann estimate: the median of all Walsh averages (x_i + x_j) / 2 with i <= j. The 95 % interval is the
/// inversion of Wilcoxon's signed-rank test.
///
/// The only assumption is that the distribution is symmetric about its centre. The log ratio of two times with the same kind of
/// noise is. `None` for fewer than six samples, and for values that are not finite.
pub(crate) fn hodges_lehmann(log_ratios: &[f64]) -> Option<Estimate> {
    let count = log_ratios.len();
    if count < MIN_SAMPLES || !log_ratios.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mut averages = Vec::with_capacity(count * (count + 1) / 2);
    for (index, first) in log_ratios.iter().enumerate() {
        averages.extend(
            log_ratios[index..]
                .iter()
                .map(|second| first / 2.0 + second / 2.0),
        );
    }
    let rank = critical_rank(count);
    let low = order_statistic(&mut averages, rank - 1)?;
    let last = averages.len() - rank;
    let high = order_statistic(&mut averages, last)?;
    let estimate = Estimate {
        estimate: median(&mut averages)?,
        low,
        high,
    };
    estimate.is_ordered().then_some(estimate)
}

/// The logarithm of the geometric mean over workloads that were measured independently, from the estimates of their logarithms.
///
/// The estimate is their mean. On each side, the half widths are combined in quadrature: `h = sqrt(h_1² + … + h_n²) / n`.
/// `None` for an empty list, and if an estimate is not finite or is outside its interval.
pub(crate) fn geometric_mean(log_estimates: &[Estimate]) -> Option<Estimate> {
    if log_estimates.is_empty() || !log_estimates.iter().all(Estimate::is_ordered) {
        return None;
    }
    let count = log_estimates.len() as f64;
    let mean = log_estimates
        .iter()
        .map(|one| one.estimate / count)
        .sum::<f64>();
    let half = |width: fn(&Estimate) -> f64| {
        log_estimates
            .iter()
            .map(|one| (width(one) / count).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let below = half(|one| one.estimate - one.low);
    let above = half(|one| one.high - one.estimate);
    let combined = Estimate {
        estimate: mean,
        low: mean - below,
        high: mean + above,
    };
    combined.is_ordered().then_some(combined)
}

/// The mean of the estimates of several processes. The interval is the wider of two: Student's t over the estimates, which covers
/// the noise between processes, and the processes' own intervals in quadrature.
///
/// Of two estimates, the interval covers both of theirs. Student's t with one degree of freedom would say that they are 13 times less
/// certain than their difference. Each interval contains the true value with 95 % already, so both together do too.
///
/// `None` as for [`geometric_mean`].
pub(crate) fn mean_of_estimates(log_estimates: &[Estimate]) -> Option<Estimate> {
    let within = geometric_mean(log_estimates)?;
    let count = log_estimates.len();
    if let [one, other] = log_estimates {
        let both = Estimate {
            low: one.low.min(other.low),
            high: one.high.max(other.high),
            ..within
        };
        return both.is_ordered().then_some(both);
    }
    let values: Vec<f64> = log_estimates.iter().map(|one| one.estimate).collect();
    let between = match STUDENT95.get(count.saturating_sub(3)) {
        _ if count < 2 => 0.0,
        quantile => {
            let deviation = SampleSummary::of(&values)?.std;
            quantile.copied().unwrap_or(Z95) * deviation / (count as f64).sqrt()
        }
    };
    let estimate = Estimate {
        estimate: within.estimate,
        low: within.low.min(within.estimate - between),
        high: within.high.max(within.estimate + between),
    };
    estimate.is_ordered().then_some(estimate)
}

/// The rank at which the 95 % interval ends, counted from 1 from either end of the sorted Walsh averages: the smallest w >= 1 with
/// P(W+ <= w) >= 2.5 %.
fn critical_rank(count: usize) -> usize {
    if count > MAX_EXACT_SAMPLES {
        let n = count as f64;
        let mean = n * (n + 1.0) / 4.0;
        let deviation = (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt();
        // Rounded down, so that the interval is too wide rather than too narrow.
        return (mean - Z95 * deviation) as usize;
    }
    // probabilities[w] = P(W+ = w): each rank is in the sum with probability 1/2.
    let mut probabilities = vec![0.0; count * (count + 1) / 2 + 1];
    probabilities[0] = 1.0;
    for rank in 1..=count {
        for sum in (0..probabilities.len()).rev() {
            let without = if sum >= rank {
                probabilities[sum - rank]
            } else {
                0.0
            };
            probabilities[sum] = (probabilities[sum] + without) / 2.0;
        }
    }
    let mut below = 0.0;
    let reached = probabilities.iter().position(|probability| {
        below += probability;
        below >= 0.025
    });
    reached.unwrap_or(1).max(1)
}

/// The median; for an even count, the mean of the middle two. Reorders the sample.
fn median(sample: &mut [f64]) -> Option<f64> {
    let count = sample.len();
    let upper = order_statistic(sample, count / 2)?;
    if count % 2 == 1 {
        return Some(upper);
    }
    // The selection has moved all smaller values to the front.
    let lower = sample[..count / 2]
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    Some(lower / 2.0 + upper / 2.0)
}

/// The value with `index` values before it in sorted order. Reorders the sample.
fn order_statistic(sample: &mut [f64], index: usize) -> Option<f64> {
    (index < sample.len()).then(|| *sample.select_nth_unstable_by(index, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RandomStream;

    fn assert_close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-12,
            "found {found}, expected {expected}"
        );
    }

    #[test]
    fn summaries_agree_with_an_independent_computation() {
        let sample = [
            0.011, -0.004, 0.025, 0.018, 0.007, 0.031, -0.012, 0.016, 0.022, 0.009,
        ];
        let summary = SampleSummary::of(&sample).unwrap();
        assert_close(summary.median, 0.0135);
        assert_close(summary.mean, 0.0123);
        assert_close(summary.std, 0.013_115_300_648_902_834);
        assert_eq!((summary.min, summary.max, summary.n), (-0.012, 0.031, 10));
        assert_eq!(SampleSummary::of(&[3.0]).unwrap().std, 0.0);
        assert_eq!(SampleSummary::of(&[]), None);
    }

    /// Expected values: Walsh averages computed with NumPy. At the ends of the interval the exact p-value of scipy.stats.wilcoxon
    /// crosses 5 %.
    #[test]
    fn hodges_lehmann_agrees_with_scipy() {
        let ten = [
            0.011, -0.004, 0.025, 0.018, 0.007, 0.031, -0.012, 0.016, 0.022, 0.009,
        ];
        let estimate = hodges_lehmann(&ten).unwrap();
        assert_close(estimate.estimate, 0.0135);
        assert_close(estimate.low, 0.0025);
        assert_close(estimate.high, 0.0215);

        let six = hodges_lehmann(&[0.5, 1.25, 0.75, 3.0, -0.25, 0.125]).unwrap();
        assert_eq!((six.estimate, six.low, six.high), (0.6875, -0.25, 3.0));

        let sixty: Vec<_> = (0..60)
            .map(|i| ((f64::from(i) * 1.7).sin() * 0.05 + 0.01 * f64::from((i * 7) % 5)) * 1e6)
            .map(|x| x.round() / 1e6)
            .collect();
        let estimate = hodges_lehmann(&sixty).unwrap();
        assert_close(estimate.estimate, 0.020_167_5);
        // Above 50 samples the rank may be one further out than the exact one.
        assert!(estimate.low <= 0.009_258_5 + 1e-12 && estimate.low > 0.009_258_5 - 1e-4);
        assert!(estimate.high >= 0.030_765 - 1e-12 && estimate.high < 0.030_765 + 1e-4);
    }

    /// Ranks from tables of the sign test's interval for the median.
    #[test]
    fn median_intervals_have_the_ranks_of_the_sign_test() {
        for (count, rank) in [
            (6, 1),
            (7, 1),
            (8, 1),
            (9, 2),
            (10, 2),
            (12, 3),
            (15, 4),
            (20, 6),
            (25, 8),
        ] {
            let sample: Vec<f64> = (1..=count).rev().map(f64::from).collect();
            let interval = median_interval(&sample).unwrap();
            let ends = (f64::from(rank), f64::from(count + 1 - rank));
            assert_eq!((interval.low, interval.high), ends, "{count} samples");
            assert_eq!(interval.estimate, f64::from(count + 1) / 2.0);
        }
        assert_eq!(median_interval(&[1.0; 5]), None);
        assert_eq!(median_interval(&[f64::NAN; 7]), None);
    }

    #[test]
    fn critical_ranks_match_the_exact_distribution() {
        for (count, rank) in [
            (6, 1),
            (7, 3),
            (8, 4),
            (9, 6),
            (10, 9),
            (15, 26),
            (20, 53),
            (25, 90),
            (30, 138),
            (40, 265),
            (50, 435),
        ] {
            assert_eq!(critical_rank(count), rank, "{count} samples");
        }
        for (count, exact) in [(51, 454), (60, 649), (100, 1956), (200, 8445), (400, 35567)] {
            assert!(
                (exact - 2..=exact).contains(&critical_rank(count)),
                "{count} samples"
            );
        }
    }

    #[test]
    fn fewer_than_six_samples_have_no_interval() {
        assert_eq!(hodges_lehmann(&[0.1; 5]), None);
        assert!(hodges_lehmann(&[0.1; 6]).is_some());
    }

    #[test]
    fn non_finite_values_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut sample = [0.1; 8];
            sample[3] = bad;
            assert_eq!(hodges_lehmann(&sample), None);
            assert_eq!(SampleSummary::of(&sample), None);
            assert_eq!(
                geometric_mean(&[Estimate {
                    estimate: 0.0,
                    low: bad,
                    high: 0.1
                }]),
                None
            );
        }
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn workloads_combine_in_quadrature() {
        let one = Estimate {
            estimate: 0.2,
            low: 0.1,
            high: 0.4,
        };
        assert_eq!(geometric_mean(&[one]), Some(one));
        let four = geometric_mean(&[one; 4]).unwrap();
        assert_close(four.estimate, 0.2);
        assert_close(four.low, 0.15);
        assert_close(four.high, 0.3);
    }

    /// A standard normal draw, by Box and Muller.
    fn normal(stream: &mut RandomStream) -> f64 {
        (-2.0 * (1.0 - stream.uniform()).ln()).sqrt()
            * (std::f64::consts::TAU * stream.uniform()).cos()
    }

    /// The share of intervals that contain the true log ratio, 0.3.
    fn coverage(samples: usize, noise: impl Fn(&mut RandomStream) -> f64) -> f64 {
        let trials = 2000;
        let mut hits = 0;
        for trial in 0..trials {
            let mut stream = RandomStream::new(11, "coverage", trial);
            let sample: Vec<_> = (0..samples).map(|_| 0.3 + noise(&mut stream)).collect();
            let estimate = hodges_lehmann(&sample).unwrap();
            hits += u64::from(estimate.low <= 0.3 && 0.3 <= estimate.high);
        }
        hits as f64 / trials as f64
    }

    #[test]
    fn intervals_have_their_nominal_coverage() {
        // One launch in ten is interrupted. Each time has a one-sided tail, so the log ratio of two times has a tail on both sides.
        let interrupted = |stream: &mut RandomStream| {
            let mut time = || {
                0.01 * normal(stream)
                    + if stream.uniform() < 0.1 {
                        -(1.0 - stream.uniform()).ln()
                    } else {
                        0.0
                    }
            };
            time() - time()
        };
        for samples in [10, 20, 60] {
            let plain = coverage(samples, |stream| 0.02 * normal(stream));
            assert!(
                (0.935..0.97).contains(&plain),
                "{samples} normal samples: {plain}"
            );
            let skewed = coverage(samples, interrupted);
            assert!(
                (0.935..0.97).contains(&skewed),
                "{samples} interrupted samples: {skewed}"
            );
        }
    }

    #[test]
    fn differing_processes_widen_the_interval_of_the_mean() {
        let one = |estimate: f64| Estimate {
            estimate,
            low: estimate - 0.001,
            high: estimate + 0.001,
        };
        let alike = mean_of_estimates(&[one(1.0); 5]).unwrap();
        assert!((alike.high - 1.0 - 0.001 / 5f64.sqrt()).abs() < 1e-12);
        // 1.0 to 1.4: standard deviation 0.1581, over the root of 5, times 2.776.
        let unlike = [1.0, 1.1, 1.2, 1.3, 1.4].map(one);
        let unlike = mean_of_estimates(&unlike).unwrap();
        assert!((unlike.estimate - 1.2).abs() < 1e-12);
        assert!((unlike.high - unlike.estimate - 0.1963).abs() < 1e-4);
        assert_eq!(mean_of_estimates(&[one(2.0)]), geometric_mean(&[one(2.0)]));
        let three = mean_of_estimates(&[1.0, 1.1, 1.2].map(one)).unwrap();
        assert!((three.high - 1.1 - 4.303 * 0.1 / 3f64.sqrt()).abs() < 1e-12);
        let two = mean_of_estimates(&[one(1.0), one(1.1)]).unwrap();
        let found = [two.low, two.estimate, two.high];
        let expected = [0.999, 1.05, 1.101];
        assert!(
            (found.iter().zip(expected)).all(|(found, expected)| (found - expected).abs() < 1e-12)
        );
        assert_eq!(mean_of_estimates(&[]), None);
    }

    #[test]
    fn an_estimate_is_finite_and_within_its_interval_or_none() {
        let extreme_times = [
            0.0,
            -0.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::MAX,
            5e-324,
            1.0,
            1e-9,
        ];
        for round in 0..5000 {
            let mut stream = RandomStream::new(5, "estimate", round);
            let count = 1 + stream.below(12);
            let is_ordinary = stream.below(2) == 0;
            let mut time = || {
                if is_ordinary {
                    stream.uniform() + 1e-9
                } else {
                    extreme_times[stream.below(extreme_times.len())]
                }
            };
            let log_ratios: Vec<f64> = (0..count).map(|_| (time() / time()).ln()).collect();
            let estimate = hodges_lehmann(&log_ratios).and_then(|one| geometric_mean(&[one, one]));
            if let Some(Estimate {
                estimate,
                low,
                high,
            }) = estimate
            {
                let is_finite = low.is_finite() && high.is_finite();
                let is_ordered = low <= estimate && estimate <= high;
                assert!(is_finite && is_ordered, "round {round}: {log_ratios:?}");
            }
            if is_ordinary {
                let expected = count >= MIN_SAMPLES;
                assert_eq!(estimate.is_some(), expected, "round {round}");
            }
        }
    }
}
