//! Measures the speedup of a candidate on one case, in timing blocks of two pairs.
//!
//! A block has one of the orders ABBA and BAAB, chosen at random. Both kernels of a pair get the same fresh data, and the
//! candidate's timed outputs are checked. If process noise is large on the device, both kernels start in fresh processes every
//! few blocks, so that the samples include it. `timing_session` takes the samples and checks the outputs; `sampling` decides when
//! to stop.

use std::time::{Duration, Instant};

use super::case::{Case, derive_seed};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeResult};
use super::floor::cold_floor;
use super::kernel_set::{Side, TimedPair};
use super::sampling::{Samples, SamplingEnd, max_half_width};
use super::stage_times::Phase;
use super::timing_session::TimingSession;
use crate::base::RandomStream;
use crate::base::statistics::{self, Estimate};
use crate::device::Floor;
use crate::verdict::{Evidence, SelfTest, Speedup, Status, TimeSummary, WorkloadVerdict};

/// Factor from the half width of a 95 % confidence interval to the difference that a test at that level detects with a power of
/// 80 %: (1.96 + 0.84) / 1.96.
const DETECTABLE_FACTOR: f64 = 1.43;

/// The result of measuring one case.
pub(super) struct Measurement {
    /// Of the log speedup.
    pub(super) estimate: Estimate,
    pub(super) candidate: TimeSummary,
    opponent: TimeSummary,
    pub(super) floor: Option<Floor>,
    /// The share of the candidate's timed runs whose outputs were compared with the oracle's.
    pub(super) checked_share: f64,
    /// Blocks that were discarded because the device was disturbed.
    pub(super) voided_blocks: u64,
    /// Whether short runs were timed one at a time, because one of the kernels gains by its earlier runs.
    pub(super) runs_apart: bool,
}

impl Measurement {
    pub(super) fn to_self_test(&self, case: &Case) -> SelfTest {
        let half_width = (self.estimate.high - self.estimate.low) / 2.0;
        SelfTest {
            id: case.id.clone(),
            ratio: self.estimate.estimate.exp(),
            ci95: [self.estimate.low.exp(), self.estimate.high.exp()],
            detectable: half_width * DETECTABLE_FACTOR,
        }
    }

    pub(super) fn write_to(&self, entry: &mut WorkloadVerdict) {
        entry.speedup = Some(self.estimate.estimate.exp());
        entry.ci95 = Some([self.estimate.low.exp(), self.estimate.high.exp()]);
        entry.candidate_us = Some(self.candidate);
        entry.baseline_us = Some(self.opponent);
        entry.floor_us = self.floor.map(|floor| floor.measured_us);
        entry.roofline = self
            .floor
            .map(|floor| floor.measured_us / self.candidate.median);
    }
}

/// The geometric mean of the speedups of all workloads; `None` if there are none.
pub(super) fn combine(estimates: &[Estimate]) -> Option<Speedup> {
    let combined = statistics::geometric_mean(estimates)?;
    Some(Speedup {
        geomean: combined.estimate.exp(),
        ci95: [combined.low.exp(), combined.high.exp()],
    })
}

/// Times both kernels of a contest against each other. Holds the timing lock exclusively.
///
/// # Errors
/// A finding if the candidate fails, or if its interval stays useless (`inconclusive`).
pub(super) fn measure(
    context: &JudgeContext<'_>,
    contest: TimedPair<'_>,
    seed: u64,
) -> JudgeResult<Measurement> {
    let _phase = context.times.phase(Phase::Timing);
    let _lock = context.timing_lock.exclusive()?;
    let mut stream = RandomStream::new(seed, "order", 0);
    let started = Instant::now();
    let mut session = TimingSession::open(context, contest, seed)?;
    let mut samples = Samples::default();
    let end = loop {
        let block = samples.blocks() + samples.voided_blocks();
        let blocks_per_process = context.device.blocks_per_process();
        if blocks_per_process.map_or(block == 0, |blocks| block.is_multiple_of(blocks)) {
            if block > 0 {
                session.restart()?;
            }
            // In random order, because the kernel that ran last finds its memory in warmer caches.
            let order = random_order(&mut stream);
            session.warm_up(derive_seed(seed, "warm-up", block), order)?;
        }
        let leaders = random_order(&mut stream);
        let pairs = session.time_block(seed, block, leaders, &mut stream)?;
        samples.add_block(&pairs, context.device.disturbance().is_some());
        let seconds = started.elapsed().as_secs_f64();
        if let Some(end) = samples.check(&context.options.profile, seconds) {
            break end;
        }
    };
    session.log_times(samples.blocks());
    let SamplingEnd {
        estimate,
        half_width,
    } = end;
    let Some(estimate) = estimate else {
        let seconds = started.elapsed().as_secs_f64();
        let max_width = max_half_width(&context.options.profile);
        let widths = [half_width, max_width];
        return Err(inconclusive(&contest.case.id, &samples, seconds, widths).into());
    };
    let Some([candidate, opponent]) = samples.times() else {
        return Err(anyhow::anyhow!("the clock returned a time that is not a number").into());
    };
    let noise = context.device.process_noise();
    Ok(Measurement {
        estimate: widen_by_process_noise(estimate, noise, [&candidate, &opponent]),
        candidate,
        opponent,
        floor: cold_floor(context, contest.case, session.runs()),
        checked_share: session.checked_share(),
        voided_blocks: samples.voided_blocks() as u64,
        runs_apart: session.runs_apart(),
    })
}

fn random_order(stream: &mut RandomStream) -> [Side; 2] {
    match stream.below(2) {
        0 => [Side::Opponent, Side::Candidate],
        _ => [Side::Candidate, Side::Opponent],
    }
}

/// `widths`: half widths of the interval, as found and as the most that counts.
fn inconclusive(workload: &str, samples: &Samples, seconds: f64, widths: [f64; 2]) -> Finding {
    let discarded = match samples.voided_blocks() {
        0 => String::new(),
        voided => format!("; {voided} more blocks were discarded because the device was throttled"),
    };
    let [found, most] = widths.map(|width| width * 100.0);
    let width = if found.is_finite() {
        format!("the 95 % interval is ±{found:.1} %, and at most ±{most:.0} % counts")
    } else {
        "too few for an interval".to_owned()
    };
    let reason = format!(
        "correct, but not timed precisely enough: workload `{workload}`, {} timing blocks in {seconds:.1} s: {width}{discarded}",
        samples.blocks(),
    );
    Finding::new(Status::Inconclusive, reason, Evidence::default())
}

/// Widens an interval by the error that all samples of one process share.
fn widen_by_process_noise(
    estimate: Estimate,
    process_noise: Duration,
    times: [&TimeSummary; 2],
) -> Estimate {
    let noise_us = process_noise.as_secs_f64() * 1e6;
    let relative = times.map(|times| noise_us / times.median);
    let half_width = statistics::Z95 * relative[0].hypot(relative[1]);
    Estimate {
        low: estimate.estimate - (estimate.estimate - estimate.low).hypot(half_width),
        high: estimate.estimate + (estimate.high - estimate.estimate).hypot(half_width),
        ..estimate
    }
}
