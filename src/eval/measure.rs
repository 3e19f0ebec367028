//! How fast is it? Paired, in random order, on the same fresh data, until the interval is narrow enough or the budget is spent.
//!
//! A block is two pairs, in one of the orders ABBA and BAAB; each pair has data of its own that both arms share, and the
//! candidate's timed outputs are checked like any other. Every other block both arms begin anew in fresh processes: where a
//! process lands in memory moves its times by several percent for all its life, and that chance must be part of the sample.
//! Never stops because a result looks good.

use std::time::{Duration, Instant};

use super::bench::{Bench, Side};
use super::shapes::{Case, seed_of};
use super::{Compilation, Finding, Judge};
use crate::base::Stream;
use crate::base::statistics::{self, Estimate, Summary};
use crate::device::{Launched, Poison};
use crate::verdict::{Evidence, Speedup, Status, Times, WorkloadVerdict};

/// The fewest blocks before the interval is looked at.
const LEAST_BLOCKS: usize = 20;
/// How many blocks the same pair of processes is timed for.
const BLOCKS_A_PROCESS: usize = 2;
/// How many blocks lie between two looks.
const BLOCKS_A_LOOK: usize = 4;
/// The most blocks, whatever the budget.
const MOST_BLOCKS: usize = 400;
/// A result whose half width is more than this many times the wanted precision says nothing.
const USELESS: f64 = 20.0;
/// The longest time for a result that says something, as a multiple of the budget.
const PATIENCE: f64 = 5.0;

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

/// Times the candidate against its opponent, the baseline if `None`, on one case.
pub(super) fn measure(
    judge: &Judge<'_>,
    candidate: &Compilation,
    opponent: Option<&Compilation>,
    case: &Case,
    seed: u64,
) -> anyhow::Result<Result<Measurement, Finding>> {
    let profile = &judge.options.profile;
    let _alone = judge.quiet.alone()?;
    let mut stream = Stream::new(seed, "order", 0);
    let begun = Instant::now();
    let mut bench = match Bench::open(judge, candidate, opponent, case)? {
        Ok(bench) => bench,
        Err(finding) => return Ok(Err(finding)),
    };
    let bench = &mut bench;
    let (mut log_ratios, mut candidate_us, mut opponent_us) = (Vec::new(), Vec::new(), Vec::new());
    let (estimate, half_width) = loop {
        let block = log_ratios.len();
        if block.is_multiple_of(BLOCKS_A_PROCESS) {
            if block > 0
                && let Err(finding) = bench.begin_anew(judge, candidate, opponent, case)?
            {
                return Ok(Err(finding));
            }
            // In random order: the arm that ran last finds its memory warmer.
            let order = match stream.below(2) {
                0 => [Side::Opponent, Side::Candidate],
                _ => [Side::Candidate, Side::Opponent],
            };
            if let Err(finding) = warm_up(bench, seed_of(seed, "warm-up", block), order)? {
                return Ok(Err(finding));
            }
        }
        let (first, second) = match stream.below(2) {
            0 => (Side::Opponent, Side::Candidate),
            _ => (Side::Candidate, Side::Opponent),
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
            candidate_us.push(candidate_time * 1e6);
            opponent_us.push(opponent_time * 1e6);
        }
        log_ratios.push(log_ratio);
        let blocks = log_ratios.len();
        let spent = begun.elapsed().as_secs_f64();
        let out_of_patience = blocks >= MOST_BLOCKS || spent >= PATIENCE * profile.seconds;
        let look = blocks >= LEAST_BLOCKS && blocks.is_multiple_of(BLOCKS_A_LOOK);
        if look || out_of_patience {
            let estimate = statistics::hodges_lehmann(&log_ratios);
            let half_width = estimate.map_or(f64::INFINITY, |estimate| {
                (estimate.high - estimate.low) / 2.0
            });
            let says_something = half_width <= USELESS * profile.precision;
            // Noise buys more time, up to a bound; a good or a bad result never does.
            let spent_well = spent >= profile.seconds && says_something;
            if half_width <= profile.precision || spent_well || out_of_patience {
                break (estimate.filter(|_| says_something), half_width);
            }
        }
    };
    let Some(estimate) = estimate else {
        let reason = format!(
            "workload `{}`: after {} blocks in {:.1} s the interval is still ±{:.1} %",
            case.id,
            log_ratios.len(),
            begun.elapsed().as_secs_f64(),
            half_width * 100.0
        );
        return Ok(Err(Finding::new(
            Status::Inconclusive,
            reason,
            Evidence::default(),
        )));
    };
    match (times_of(&candidate_us), times_of(&opponent_us)) {
        (Some(candidate), Some(opponent)) => Ok(Ok(Measurement {
            estimate,
            candidate,
            opponent,
        })),
        _ => anyhow::bail!("the clock gave times that are no numbers"),
    }
}

/// One launch of each arm through the timed path, unrecorded: pages are touched, threads are awake.
fn warm_up(bench: &mut Bench, seed: u64, order: [Side; 2]) -> anyhow::Result<Result<(), Finding>> {
    let deadline = bench.deadline();
    for side in order {
        let bound = bench.side_mut(side)?;
        bound.renew(seed, Poison::NotANumber)?;
        match (bound.launch(deadline)?, side) {
            (Launched::Finished { .. }, _) => {}
            (Launched::Fault(refusal), Side::Candidate) => {
                return Ok(Err(Finding {
                    refusal,
                    case: None,
                }));
            }
            (Launched::Fault(refusal), Side::Opponent) => {
                anyhow::bail!(
                    "the baseline failed before it was timed: {}",
                    refusal.reason
                )
            }
        }
    }
    Ok(Ok(()))
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
        let bound = bench.side_mut(side)?;
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
    // The oracle has the same inputs, and only the judge has written there.
    let untouched = bench.oracle.input_hashes_by_name()?;
    let candidate = bench.side(Side::Candidate)?;
    let hashes = candidate.hashes_of_own_inputs(&untouched);
    if let Err(finding) = candidate.trespass(&hashes)? {
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
    if let Err(finding) = bench.side(Side::Candidate)?.state()? {
        return Ok(Err(finding));
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
