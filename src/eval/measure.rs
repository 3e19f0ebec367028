//! How fast is it? Paired, in random order, on the same fresh data, until the interval is narrow enough or the budget is spent.
//!
//! A block is two pairs, in one of the orders ABBA and BAAB; each pair has data of its own that both arms share, and the
//! candidate's timed outputs are checked like any other. Never stops because a result looks good.

use std::time::{Duration, Instant};

use super::bench::{Bench, Side};
use super::shapes::{Case, seed_of};
use super::{Finding, Judge};
use crate::base::Stream;
use crate::base::statistics::{self, Estimate, Summary};
use crate::device::{Launched, Poison};
use crate::verdict::{Evidence, Speedup, Status, Times, WorkloadVerdict};

/// The fewest blocks before the interval is looked at.
const LEAST_BLOCKS: usize = 20;
/// How many blocks lie between two looks.
const BLOCKS_A_LOOK: usize = 5;
/// The most blocks, whatever the budget.
const MOST_BLOCKS: usize = 400;
/// A result whose half width is more than this many times the wanted precision says nothing.
const USELESS: f64 = 10.0;
/// The longest time for the least blocks, as a multiple of the budget.
const PATIENCE: f64 = 10.0;

/// The times of one case.
pub(super) struct Measurement {
    /// Of the log speedup.
    pub(super) estimate: Estimate,
    pub(super) candidate: Times,
    opponent: Times,
}

impl Measurement {
    pub(super) fn write_to(&self, entry: &mut WorkloadVerdict) {
        entry.speedup = Some(self.estimate.estimate.exp());
        entry.ci95 = Some([self.estimate.low.exp(), self.estimate.high.exp()]);
        entry.candidate_us = Some(self.candidate);
        entry.baseline_us = Some(self.opponent);
    }
}

/// The speedup over all workloads.
pub(super) fn combine(estimates: &[Estimate]) -> Option<Speedup> {
    let combined = statistics::geometric_mean(estimates)?;
    Some(Speedup {
        geomean: combined.estimate.exp(),
        ci95: [combined.low.exp(), combined.high.exp()],
    })
}

/// Times the candidate against its opponent on one case.
pub(super) fn measure(
    judge: &Judge<'_>,
    bench: &mut Bench,
    case: &Case,
    seed: u64,
) -> anyhow::Result<Result<Measurement, Finding>> {
    let profile = &judge.options.profile;
    let _alone = judge.quiet.alone()?;
    let mut stream = Stream::new(seed, "order", 0);
    // One pair through the timed path, unrecorded: pages are touched, threads are awake.
    if let Err(finding) = pair(bench, seed_of(seed, "warm-up", 0), Side::Opponent)? {
        return Ok(Err(finding));
    }
    let begun = Instant::now();
    let (mut log_ratios, mut candidate, mut opponent) = (Vec::new(), Vec::new(), Vec::new());
    let estimate = loop {
        let block = log_ratios.len();
        let first = if stream.below(2) == 0 {
            Side::Opponent
        } else {
            Side::Candidate
        };
        let second = if first == Side::Opponent {
            Side::Candidate
        } else {
            Side::Opponent
        };
        let mut log_ratio = 0.0;
        for (index, leader) in [first, second].into_iter().enumerate() {
            let times = match pair(bench, seed_of(seed, "pair", 2 * block + index), leader)? {
                Ok(times) => times,
                Err(finding) => return Ok(Err(finding)),
            };
            let (candidate_time, opponent_time) =
                (times.candidate.as_secs_f64(), times.opponent.as_secs_f64());
            if !(candidate_time > 0.0 && opponent_time > 0.0) {
                anyhow::bail!("the clock gave a time of 0");
            }
            log_ratio += (opponent_time / candidate_time).ln() / 2.0;
            candidate.push(candidate_time * 1e6);
            opponent.push(opponent_time * 1e6);
        }
        log_ratios.push(log_ratio);
        let blocks = log_ratios.len();
        let spent = begun.elapsed().as_secs_f64();
        let look = blocks >= LEAST_BLOCKS && blocks.is_multiple_of(BLOCKS_A_LOOK);
        let over = blocks >= MOST_BLOCKS
            || (blocks >= LEAST_BLOCKS && spent >= profile.seconds)
            || spent >= PATIENCE * profile.seconds;
        if look || over {
            let estimate = statistics::hodges_lehmann(&log_ratios);
            let half_width = estimate.map_or(f64::INFINITY, |estimate| {
                (estimate.high - estimate.low) / 2.0
            });
            if over || half_width <= profile.precision {
                break (
                    estimate.filter(|_| half_width <= USELESS * profile.precision),
                    half_width,
                );
            }
        }
    };
    let (Some(estimate), _) = estimate else {
        let reason = format!(
            "workload `{}`: after {} blocks in {:.1} s the interval is still ±{:.1} %",
            case.id,
            log_ratios.len(),
            begun.elapsed().as_secs_f64(),
            estimate.1 * 100.0
        );
        return Ok(Err(Finding::new(
            Status::Inconclusive,
            reason,
            Evidence::default(),
        )));
    };
    match (times_of(&candidate), times_of(&opponent)) {
        (Some(candidate), Some(opponent)) => Ok(Ok(Measurement {
            estimate,
            candidate,
            opponent,
        })),
        _ => anyhow::bail!("the clock gave times that are no numbers"),
    }
}

struct PairTimes {
    candidate: Duration,
    opponent: Duration,
}

/// One launch of each arm on the same fresh data; `leader` goes first. The oracle runs only after the candidate has finished.
fn pair(bench: &mut Bench, seed: u64, leader: Side) -> anyhow::Result<Result<PairTimes, Finding>> {
    let mut times = PairTimes {
        candidate: Duration::ZERO,
        opponent: Duration::ZERO,
    };
    let follower = if leader == Side::Candidate {
        Side::Opponent
    } else {
        Side::Candidate
    };
    let deadline = bench.deadline();
    for side in [leader, follower] {
        let bound = bench.side_mut(side);
        bound.renew(seed, Poison::Finite { seed })?;
        match (bound.launch(deadline)?, side) {
            (Launched::Finished { time }, Side::Candidate) => times.candidate = time,
            (Launched::Finished { time }, Side::Opponent) => times.opponent = time,
            (Launched::Fault(refusal), Side::Candidate) => {
                return Ok(Err(Finding {
                    refusal,
                    case: None,
                }));
            }
            (Launched::Fault(refusal), Side::Opponent) => {
                anyhow::bail!("the baseline failed while it was timed: {}", refusal.reason)
            }
        }
    }
    let expected = bench.expected(seed)?;
    if let Err(finding) = bench.side(Side::Candidate).trespass(&[])? {
        return Ok(Err(finding));
    }
    if let Err(finding) = bench.compare(Side::Candidate, &expected, seed)? {
        let reason = format!("while it was timed: {}", finding.refusal.reason);
        return Ok(Err(Finding::new(
            finding.refusal.status,
            reason,
            finding.refusal.evidence,
        )));
    }
    if let Err(finding) = bench.compare(Side::Opponent, &expected, seed)? {
        anyhow::bail!(
            "the baseline went wrong while it was timed: {}",
            finding.refusal.reason
        );
    }
    Ok(Ok(times))
}

fn times_of(microseconds: &[f64]) -> Option<Times> {
    let summary = Summary::of(microseconds)?;
    Some(Times {
        median: summary.median,
        mean: summary.mean,
        std: summary.std,
        min: summary.min,
        max: summary.max,
        n: summary.n,
    })
}
