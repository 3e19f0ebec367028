//! The samples of one measurement: log ratios per timing block, times, and the rule that ends sampling.
//!
//! Pure. Sampling ends when the confidence interval is narrow enough or the budget is spent, never because a result looks good.

use crate::base::statistics::{self, Estimate, SampleSummary};
use crate::task::{MIN_BLOCKS, Profile};
use crate::verdict::TimeSummary;

/// Number of timing blocks between two evaluations of the stopping rule.
const BLOCKS_BETWEEN_CHECKS: usize = 4;
/// Maximum number of timing blocks, whatever the budget.
const MAX_BLOCKS: usize = 400;
/// Maximum half width of a useful interval, as a multiple of the wanted precision.
const MAX_WIDTH_FACTOR: f64 = 20.0;
/// Maximum time to reach a useful interval, as a multiple of the budget.
const MAX_BUDGET_FACTOR: f64 = 5.0;

/// The times of one pair: a sample of each kernel on the same data, in seconds per run.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairTimes {
    pub(super) candidate: f64,
    pub(super) opponent: f64,
}

/// The samples so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// Added to each log ratio.
    shift: f64,
    /// ln(opponent / candidate) + `shift`, the mean over the pairs of each block.
    log_ratios: Vec<f64>,
    /// Log ratios from the shortest time of each kernel in the block.
    shortest_log_ratios: Vec<f64>,
    /// The processes of each block, numbered. Blocks of the same processes share an error.
    processes: Vec<usize>,
    candidate_us: Vec<f64>,
    opponent_us: Vec<f64>,
    voided_blocks: usize,
}

/// When the sampling of a workload ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StoppingRule {
    pub(super) min_blocks: usize,
    /// The least number of pairs of processes, on a device that replaces them: their errors must show.
    pub(super) min_processes: usize,
    /// The half width of the log ratio's interval that is narrow enough.
    pub(super) precision: f64,
    /// The widest half width that is useful.
    pub(super) max_half_width: f64,
    /// The budget: after this many seconds a useful interval is enough.
    pub(super) seconds: f64,
    /// After this many seconds sampling ends, whatever the interval.
    pub(super) max_seconds: f64,
    /// If set, launches may be so long that the budget holds few of them: this many blocks are taken in any case, and enough once their
    /// launches alone have spent the budget. Fewer than Wilcoxon's test needs have the interval of Student's t.
    pub(super) least_blocks: Option<usize>,
}

impl StoppingRule {
    /// As the profile says.
    pub(super) fn of_profile(profile: &Profile) -> Self {
        Self {
            min_blocks: profile.blocks.max(MIN_BLOCKS),
            min_processes: 1,
            precision: profile.precision,
            max_half_width: MAX_WIDTH_FACTOR * profile.precision,
            seconds: profile.seconds,
            max_seconds: MAX_BUDGET_FACTOR * profile.seconds,
            least_blocks: None,
        }
    }
}

/// How sampling ended.
pub(super) struct SamplingEnd {
    /// The log ratio; `None` if the interval is useless: too wide, and on both sides of 1.
    pub(super) estimate: Option<Estimate>,
    pub(super) half_width: f64,
}

impl Samples {
    /// No samples yet. `shift`: ln(baseline / opponent), so that all ratios are over the baseline.
    pub(super) fn shifted(shift: f64) -> Self {
        Self {
            shift,
            ..Self::default()
        }
    }

    /// Adds a timing block that these processes have run. A voided block is only counted: all of its pairs are discarded, whatever they
    /// show.
    pub(super) fn add_block(&mut self, pairs: &[PairTimes], processes: usize, is_void: bool) {
        if is_void {
            self.voided_blocks += 1;
            return;
        }
        let ratios = pairs
            .iter()
            .map(|pair| (pair.opponent / pair.candidate).ln());
        self.log_ratios
            .push(ratios.sum::<f64>() / pairs.len() as f64 + self.shift);
        let shortest = |of: fn(&PairTimes) -> f64| pairs.iter().map(of).fold(f64::MAX, f64::min);
        let [opponent, candidate] = [
            shortest(|pair| pair.opponent),
            shortest(|pair| pair.candidate),
        ];
        self.shortest_log_ratios
            .push((opponent / candidate).ln() + self.shift);
        self.processes.push(processes);
        self.candidate_us
            .extend(pairs.iter().map(|pair| pair.candidate * 1e6));
        self.opponent_us
            .extend(pairs.iter().map(|pair| pair.opponent * 1e6));
    }

    /// The log ratios whose errors are independent: the mean over the blocks of each pair of processes. From the mean of a block's pairs,
    /// and from its shortest times.
    pub(super) fn independent_ratios(&self) -> Vec<[f64; 2]> {
        let blocks = self.log_ratios.iter().zip(&self.shortest_log_ratios);
        let blocks: Vec<_> = blocks.zip(&self.processes).collect();
        let of_same_processes = blocks.chunk_by(|one, next| one.1 == next.1);
        let means = of_same_processes.map(|blocks| {
            let count = blocks.len() as f64;
            let mean = |of: fn((&f64, &f64)) -> f64| {
                blocks.iter().map(|block| of(block.0)).sum::<f64>() / count
            };
            [mean(|block| *block.0), mean(|block| *block.1)]
        });
        means.collect()
    }

    /// Number of valid timing blocks.
    pub(super) fn blocks(&self) -> usize {
        self.log_ratios.len()
    }

    pub(super) fn voided_blocks(&self) -> usize {
        self.voided_blocks
    }

    /// Pairs of processes that have run valid timing blocks.
    fn process_count(&self) -> usize {
        self.processes.chunk_by(|one, next| one == next).count()
    }

    /// Whether no more samples may be taken, after `seconds`.
    pub(super) fn is_out_of_time(&self, rule: &StoppingRule, seconds: f64) -> bool {
        let taken = self.blocks() + self.voided_blocks;
        let has_least = taken >= rule.least_blocks.unwrap_or(0);
        taken >= MAX_BLOCKS || (seconds >= rule.max_seconds && has_least)
    }

    /// Whether the launches are so long that they have spent the budget before there are as many blocks as usual.
    fn are_launches_long(&self, rule: &StoppingRule) -> bool {
        let Some(least) = rule.least_blocks else {
            return false;
        };
        let times = self.candidate_us.iter().chain(&self.opponent_us);
        let launched = times.sum::<f64>() / 1e6;
        (least..rule.min_blocks).contains(&self.blocks()) && launched >= rule.seconds
    }

    /// The log ratio with its interval.
    fn estimate(&self, rule: &StoppingRule) -> Option<Estimate> {
        let wilcoxon = statistics::hodges_lehmann(&self.log_ratios);
        if wilcoxon.is_some() || self.blocks() < rule.least_blocks? {
            return wilcoxon;
        }
        let exact = self.log_ratios.iter().map(|ratio| Estimate {
            estimate: *ratio,
            low: *ratio,
            high: *ratio,
        });
        statistics::mean_of_estimates(&exact.collect::<Vec<_>>())
    }

    /// Whether sampling ends now, after `seconds`. `None`: take more samples.
    pub(super) fn check(&self, rule: &StoppingRule, seconds: f64) -> Option<SamplingEnd> {
        let blocks = self.blocks();
        let is_out_of_time = self.is_out_of_time(rule, seconds);
        let is_check_due = blocks >= rule.min_blocks
            && blocks.is_multiple_of(BLOCKS_BETWEEN_CHECKS)
            && self.process_count() >= rule.min_processes;
        if !is_check_due && !is_out_of_time && !self.are_launches_long(rule) {
            return None;
        }
        let estimate = self.estimate(rule);
        let half_width = estimate.map_or(f64::INFINITY, |estimate| {
            (estimate.high - estimate.low) / 2.0
        });
        let is_useful = half_width <= rule.max_half_width;
        // A wide interval extends the time, up to a limit. The result itself has no influence.
        let is_budget_spent = seconds >= rule.seconds && is_useful;
        let ends = half_width <= rule.precision || is_budget_spent || is_out_of_time;
        // However wide, an interval below 1 shows that the candidate is slower. One above 1 must be narrow enough: what is too noisy is
        // measured again, and of several noisy intervals one would be above 1 by chance.
        let is_slower = |estimate: &Estimate| estimate.high < 0.0;
        ends.then(|| SamplingEnd {
            estimate: estimate.filter(|estimate| is_useful || is_slower(estimate)),
            half_width,
        })
    }

    /// The times of the candidate and of its opponent; `None` if a time is not a finite number.
    pub(super) fn times(&self) -> Option<[TimeSummary; 2]> {
        Some([
            summarize(&self.candidate_us)?,
            summarize(&self.opponent_us)?,
        ])
    }
}

fn summarize(microseconds: &[f64]) -> Option<TimeSummary> {
    let summary = SampleSummary::of(microseconds)?;
    Some(TimeSummary {
        median: summary.median,
        mean: summary.mean,
        std: summary.std,
        min: summary.min,
        max: summary.max,
        n: summary.n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFiles;

    #[test]
    fn a_wide_interval_counts_if_it_is_below_1() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let rule = StoppingRule::of_profile(&task.settings.profiles["quick"]);
        let end = |ratios: [f64; 2]| {
            let mut samples = Samples::default();
            for block in 0..MIN_BLOCKS {
                let pair = PairTimes {
                    candidate: 1.0,
                    opponent: ratios[block % 2],
                };
                samples.add_block(&[pair], block, false);
            }
            samples.check(&rule, rule.max_seconds).unwrap()
        };
        for ratios in [[1.2, 5.0], [0.1, 0.7], [0.4, 3.0]] {
            let end = end(ratios);
            assert!(end.half_width > rule.max_half_width);
            assert_eq!(end.estimate.is_some(), ratios[1] < 1.0, "{ratios:?}");
        }
    }

    /// Launches of 200 ms, and a budget of 0.2 s.
    #[test]
    fn long_launches_have_an_interval_from_three_pairs() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let profile = Profile {
            seconds: 0.2,
            ..task.settings.profiles["quick"].clone()
        };
        let whole = StoppingRule::of_profile(&profile);
        let rule = StoppingRule {
            min_blocks: 8,
            least_blocks: Some(3),
            ..whole
        };
        let mut samples = Samples::default();
        let mut seconds = 0.0;
        let end = |ratio: f64, samples: &mut Samples, seconds: &mut f64, rule: &StoppingRule| {
            let pair = PairTimes {
                candidate: 0.2,
                opponent: 0.2 * ratio,
            };
            *seconds += 0.4;
            samples.add_block(&[pair], samples.blocks(), false);
            samples.check(rule, *seconds)
        };
        assert!(end(0.101, &mut samples, &mut seconds, &rule).is_none());
        assert!(end(0.099, &mut samples, &mut seconds, &rule).is_none());
        let found = end(0.1, &mut samples, &mut seconds, &rule).unwrap();
        let estimate = found.estimate.unwrap();
        assert!((estimate.estimate - 0.1_f64.ln()).abs() < 1e-3);
        // 4.303 * 0.01 / sqrt(3)
        assert!(
            (found.half_width - 0.0248).abs() < 2e-4,
            "{}",
            found.half_width
        );
        // Without that rule the time is over, and there is no interval.
        assert!(samples.check(&whole, 5.0).unwrap().estimate.is_none());
        // Three pairs that differ much are not enough: more are taken.
        let mut samples = Samples::default();
        let mut seconds = 0.0;
        for (ratio, is_over) in [(0.5, false), (2.0, false), (1.0, true)] {
            let end = end(ratio, &mut samples, &mut seconds, &rule);
            assert_eq!(end.is_some(), is_over, "{ratio}");
            assert!(end.is_none_or(|end| end.estimate.is_none()));
        }
    }

    /// Short launches beside a long start of Python: no end before the usual number of blocks.
    #[test]
    fn short_launches_are_taken_in_full() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let rule = StoppingRule {
            min_blocks: 8,
            least_blocks: Some(3),
            ..StoppingRule::of_profile(&task.settings.profiles["quick"])
        };
        let mut samples = Samples::default();
        for block in 0..7 {
            let pair = PairTimes {
                candidate: 1e-5,
                opponent: 1e-5,
            };
            samples.add_block(&[pair; 2], block, false);
            assert!(samples.check(&rule, 0.9 * rule.max_seconds).is_none());
        }
    }
}
