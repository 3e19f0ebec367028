//! Measures the speedup of a candidate on one case, in timing blocks of two pairs.
//!
//! A block has one of the orders ABBA and BAAB, chosen at random. Both kernels of a pair get the same fresh data, and the
//! candidate's timed outputs are checked. If process noise is large on the device, both kernels start in fresh processes every
//! few blocks, so that the samples include it. An anchor in the place of the baseline shifts all ratios by its own, and widens them.
//! `timing_session` takes the samples and checks the outputs; `sampling` decides when to stop, and `racing` whether a candidate is
//! dismissed before.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::anchor::OpponentFailed;
use super::case::{Case, derive_seed};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeError, JudgeResult};
use super::floor::cold_floor;
use super::kernel_set::Side;
use super::opening::{Opponent, TimedPair};
use super::racing::{
    FIRST_LOOK_BLOCKS, LookPlan, Reading, SECOND_LOOK_BLOCKS, SHORT_LOOK_BLOCKS, SLOW_LOOK_SECONDS,
    steady_look_blocks,
};
use super::sample_plan::SamplePlan;
use super::sampling::{Samples, SamplingEnd, StoppingRule};
use super::stage_times::Phase;
use super::timed_outputs::CheckedRuns;
use super::timing_session::{SessionStart, SpacingCheck, TimingSession};
use crate::base::RandomStream;
use crate::base::statistics::{self, Estimate};
use crate::device::Floor;
use crate::task::Profile;
use crate::verdict::{Evidence, SelfTest, Speedup, Status, TimeSummary, WorkloadVerdict};

/// Factor from the half width of a 95 % confidence interval to the difference that a test at that level detects with a power of
/// 80 %: (1.96 + 0.84) / 1.96.
const DETECTABLE_FACTOR: f64 = 1.43;

/// The result of measuring one case.
pub(super) struct Measurement {
    /// The log speedup.
    pub(super) estimate: Estimate,
    pub(super) candidate: TimeSummary,
    /// Times of the baseline or, in a duel, of the opponent.
    baseline: TimeSummary,
    pub(super) floor: Option<Floor>,
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
        entry.baseline_us = Some(self.baseline);
        entry.floor_us = self.floor.map(|floor| floor.measured_us);
        entry.roofline = self
            .floor
            .map(|floor| floor.measured_us / self.candidate.median);
    }
}

/// The geometric mean of the speedups of all workloads; `None` if there are none.
pub(super) fn combine(estimates: &[Estimate]) -> Option<Speedup> {
    statistics::geometric_mean(estimates).map(speedup)
}

/// The speedup from an estimate of its logarithm.
pub(super) fn speedup(log: Estimate) -> Speedup {
    Speedup {
        geomean: log.estimate.exp(),
        ci95: [log.low.exp(), log.high.exp()],
    }
}

/// Times both kernels of a contest against each other, in one timing session. Holds the timing lock exclusively.
///
/// # Errors
/// A finding if the candidate fails, or if its interval stays useless (`inconclusive`).
pub(super) fn measure(
    context: &JudgeContext<'_>,
    contest: TimedPair<'_>,
    seed: u64,
    length: TimingLength,
) -> JudgeResult<Measurement> {
    let mut timing = CaseTiming::new(context, contest, seed, length);
    timing.sample_in_full(&mut |_| false)?;
    timing.measurement()
}

/// The timing of one case. It can pause: samples are kept while no timing session is open.
///
/// A session is closed at each pause. On a GPU every open session lengthens all launches, because its memory must be hidden, and
/// several sessions may not fit into memory. On a CPU opening costs little, because processes are replaced every few blocks anyway.
pub(super) struct CaseTiming<'m, 'j> {
    context: &'m JudgeContext<'j>,
    contest: TimedPair<'m>,
    seed: u64,
    stream: RandomStream,
    samples: Samples,
    /// Pairs of processes so far.
    processes: usize,
    sessions: usize,
    /// Time in sessions.
    seconds: f64,
    checked: CheckedRuns,
    /// `None` until the first session has been opened.
    plan: Option<SamplePlan>,
    end: Option<SamplingEnd>,
    length: TimingLength,
}

/// Minimum number of timing blocks for a candidate of a search, on a device that keeps its processes. Wilcoxon's test gives an interval from
/// six on, which is the whole range of the samples. With eight, one outlier no longer decides it.
const SEARCH_BLOCKS: usize = 8;
/// Minimum number of timing blocks for a candidate of a search, on a device that replaces its processes, and of pairs of processes. The blocks
/// of one pair share an error, so it is the number of pairs that decides; twelve blocks with a first look have eight pairs.
const SEARCH_BLOCKS_OF_NEW_PROCESSES: usize = 12;
const SEARCH_PROCESSES: usize = 8;
/// Minimum number of timing blocks of launches that are longer than the budget. Such launches vary little: what disturbs one of 100 ms is
/// small beside it.
const MIN_LONG_BLOCKS: usize = 3;

/// A look before the full timing. The second one is only for a device that keeps its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EarlyLook {
    First,
    Second,
}

/// How a timing session ended.
enum SessionEnd {
    Done,
    /// Others wait for the device, so the rest of the samples is taken in another session.
    GaveWay,
}

/// How long a full timing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimingLength {
    /// As the profile says.
    Profile,
    /// Enough to rank a candidate of a search by its speedup over this many workloads. What a run reports is timed again.
    Search { workloads: usize },
    /// The same for a candidate and an incumbent, which are close to each other: shorter only if the device keeps its processes.
    Duel { workloads: usize },
    /// The same against a baseline. If launches are so long that the time holds few pairs, few are enough.
    Baseline { workloads: usize },
}

impl TimingLength {
    /// The rule for each workload. `is_steady`: whether the device keeps its processes.
    fn stopping_rule(self, profile: &Profile, is_steady: bool) -> StoppingRule {
        let whole = StoppingRule::of_profile(profile);
        match self {
            // The error of a mean over n workloads is about the error of one of them, divided by the root of n. So together they reach the
            // profile's precision, in the time that the profile allows for one.
            Self::Search { workloads }
            | Self::Duel { workloads }
            | Self::Baseline { workloads }
                if is_steady =>
            {
                let is_baseline = matches!(self, Self::Baseline { .. });
                StoppingRule {
                    min_blocks: SEARCH_BLOCKS,
                    precision: whole.precision * (workloads.max(1) as f64).sqrt(),
                    seconds: whole.seconds / workloads.max(1) as f64,
                    least_blocks: is_baseline.then_some(MIN_LONG_BLOCKS),
                    ..whole
                }
            }
            // All but the launches costs time too here, so fewer samples save more than a wider interval loses.
            Self::Search { workloads } => StoppingRule {
                min_blocks: SEARCH_BLOCKS_OF_NEW_PROCESSES,
                min_processes: SEARCH_PROCESSES,
                precision: whole.precision * (workloads.max(1) as f64).sqrt(),
                ..whole
            },
            _ => whole,
        }
    }
}

impl<'m, 'j> CaseTiming<'m, 'j> {
    pub(super) fn new(
        context: &'m JudgeContext<'j>,
        contest: TimedPair<'m>,
        seed: u64,
        length: TimingLength,
    ) -> Self {
        Self {
            length,
            context,
            contest,
            seed,
            stream: RandomStream::new(seed, "order", 0),
            samples: shifted_samples(contest),
            processes: 0,
            sessions: 0,
            seconds: 0.0,
            checked: CheckedRuns::default(),
            plan: None,
            end: None,
        }
    }

    pub(super) fn case(&self) -> &'m Case {
        self.contest.case
    }

    /// Whether short runs were timed one at a time, because one of the kernels gains by its earlier runs.
    pub(super) fn runs_apart(&self) -> bool {
        self.plan.is_some_and(|plan| plan.runs_apart)
    }

    /// Whether its ratios are over an anchor, and were taken.
    pub(super) fn is_timed_against_anchor(&self) -> bool {
        self.samples.blocks() > 0 && self.contest.opponent.anchor_ratio().is_some()
    }

    pub(super) fn checked_share(&self) -> f64 {
        self.checked.share()
    }

    /// Whether sampling has ended by itself.
    pub(super) fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn voided_blocks(&self) -> u64 {
        self.samples.voided_blocks() as u64
    }

    /// What the samples say at a look.
    pub(super) fn reading(&self) -> Reading {
        reading_of(&self.samples, self.shared_error())
    }

    fn shared_error(&self) -> SharedError {
        let ratio = self.contest.opponent.anchor_ratio();
        SharedError {
            process_noise: self.context.device.process_noise(),
            anchor: ratio.map_or(0.0, |ratio| ratio.error()),
        }
    }

    /// Takes the few samples of an early look. Each block has processes of its own, if the device replaces them at all: a few blocks must
    /// show process noise too.
    pub(super) fn sample_for_look(&mut self, look: EarlyLook) -> JudgeResult<()> {
        let blocks_per_process = self.context.device.blocks_per_process().map(|_| 1);
        let workloads = match self.length {
            TimingLength::Search { workloads }
            | TimingLength::Duel { workloads }
            | TimingLength::Baseline { workloads } => workloads,
            TimingLength::Profile => 1,
        };
        let steady = (blocks_per_process.is_none()).then(|| match look {
            EarlyLook::First => steady_look_blocks(workloads),
            EarlyLook::Second => SECOND_LOOK_BLOCKS,
        });
        let rule = self.stopping_rule();
        self.run_session(
            blocks_per_process,
            SpacingCheck::Later,
            &mut |samples, seconds| {
                let enough = match steady {
                    Some(blocks) => blocks,
                    None if seconds >= SLOW_LOOK_SECONDS => SHORT_LOOK_BLOCKS,
                    None => FIRST_LOOK_BLOCKS,
                };
                samples.blocks() >= enough || samples.is_out_of_time(&rule, seconds)
            },
        )
    }

    fn stopping_rule(&self) -> StoppingRule {
        let is_steady = self.context.device.blocks_per_process().is_none();
        let profile = &self.context.options.profile;
        self.length.stopping_rule(profile, is_steady)
    }

    /// Takes samples until the interval is narrow enough or the budget is spent, or until `is_over` says so of the samples at a planned
    /// look. Returns whether the samples are complete.
    pub(super) fn sample_in_full(
        &mut self,
        is_over: &mut dyn FnMut(Reading) -> bool,
    ) -> JudgeResult<bool> {
        let shared_error = self.shared_error();
        let mut looks = LookPlan::default();
        let mut end = None;
        let blocks_per_process = self.context.device.blocks_per_process();
        let rule = self.stopping_rule();
        self.run_session(
            blocks_per_process,
            SpacingCheck::First,
            &mut |samples, seconds| {
                end = samples.check(&rule, seconds);
                let is_over = end.is_none()
                    && looks.is_due(samples.blocks())
                    && is_over(reading_of(samples, shared_error));
                end.is_some() || is_over
            },
        )?;
        self.end = end;
        Ok(self.end.is_some())
    }

    /// Takes blocks until `is_done` says so of the samples and the seconds of all sessions, in one timing session, or in several if others
    /// wait for the device. If an anchor cannot be timed, starts again with the baseline.
    fn run_session(
        &mut self,
        blocks_per_process: Option<usize>,
        spacing: SpacingCheck,
        is_done: &mut dyn FnMut(&Samples, f64) -> bool,
    ) -> JudgeResult<()> {
        loop {
            match self.try_session(blocks_per_process, spacing, is_done) {
                Ok(SessionEnd::Done) => return Ok(()),
                Ok(SessionEnd::GaveWay) => {}
                Err(JudgeError::Broken(error))
                    if self.contest.opponent.anchor_ratio().is_some()
                        && error.is::<OpponentFailed>() =>
                {
                    let id = &self.contest.case.id;
                    tracing::info!("{id}: {error}; the candidate is timed against the baseline");
                    self.return_to_baseline();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets all samples over the anchor.
    fn return_to_baseline(&mut self) {
        self.contest.opponent = Opponent::Baseline;
        self.plan = None;
        self.start_again();
    }

    /// Forgets all samples, because the next ones are of another kind. They have other inputs.
    fn start_again(&mut self) {
        self.seed = derive_seed(self.seed, "again", 0);
        self.samples = shifted_samples(self.contest);
    }

    /// One timing session. Holds the timing lock exclusively.
    fn try_session(
        &mut self,
        blocks_per_process: Option<usize>,
        spacing: SpacingCheck,
        is_done: &mut dyn FnMut(&Samples, f64) -> bool,
    ) -> JudgeResult<SessionEnd> {
        let _phase = self.context.times.phase(Phase::Timing);
        let lock = self.context.timing_lock.exclusive()?;
        let started = Instant::now();
        let device = self.context.device;
        let session_seed = match self.sessions {
            0 => self.seed,
            again => derive_seed(self.seed, "session", again),
        };
        self.sessions += 1;
        let start = SessionStart {
            seed: session_seed,
            plan: self.plan,
            spacing,
            is_search: self.length != TimingLength::Profile
                && device.blocks_per_process().is_none(),
        };
        let mut session = TimingSession::open(self.context, self.contest, start)?;
        if self
            .plan
            .is_some_and(|plan| plan.runs != session.plan().runs)
        {
            self.start_again();
        }
        let mut first = self.samples.blocks() + self.samples.voided_blocks();
        let end = loop {
            let block = self.samples.blocks() + self.samples.voided_blocks();
            let in_session = block - first;
            if blocks_per_process
                .map_or(in_session == 0, |blocks| in_session.is_multiple_of(blocks))
            {
                if in_session > 0 {
                    session.restart()?;
                }
                // In random order, because the kernel that ran last finds its memory in warmer caches.
                let order = random_order(&mut self.stream);
                session.warm_up(derive_seed(self.seed, "warm-up", block), order)?;
                self.processes += 1;
            }
            let leaders = random_order(&mut self.stream);
            let runs = session.plan().runs;
            let pairs = session.time_block(self.seed, block, leaders, &mut self.stream)?;
            if session.plan().runs != runs {
                // The candidate has begun to gain by its earlier runs.
                self.start_again();
                first = 0;
                continue;
            }
            // If processes are kept, blocks are independent except for the noise that the device declares.
            let processes = blocks_per_process.map_or(block, |_| self.processes);
            self.samples
                .add_block(&pairs, processes, device.disturbance().is_some());
            let seconds = self.seconds + started.elapsed().as_secs_f64();
            if is_done(&self.samples, seconds) {
                break SessionEnd::Done;
            }
            if self.context.timing_lock.must_give_way(&lock)? {
                break SessionEnd::GaveWay;
            }
        };
        session.note_oracle_time();
        session.log_times(self.samples.blocks());
        self.plan = Some(session.plan());
        self.checked.add(session.checked_runs());
        self.seconds += started.elapsed().as_secs_f64();
        Ok(end)
    }

    /// The result of complete samples.
    ///
    /// # Errors
    /// A finding if the interval is useless (`inconclusive`).
    pub(super) fn measurement(&self) -> JudgeResult<Measurement> {
        let (estimate, half_width) = match &self.end {
            Some(end) => (end.estimate, end.half_width),
            None => (None, f64::INFINITY),
        };
        let Some(estimate) = estimate else {
            let widths = [half_width, self.stopping_rule().max_half_width];
            let id = &self.contest.case.id;
            return Err(inconclusive(id, &self.samples, self.seconds, widths).into());
        };
        let [candidate, opponent] = self.times()?;
        let noise = self.context.device.process_noise();
        let mut estimate = widen_by_process_noise(estimate, noise, [&candidate, &opponent]);
        if let Some(ratio) = self.contest.opponent.anchor_ratio() {
            estimate = ratio.widen(estimate);
        }
        Ok(self.measurement_with(estimate, [candidate, opponent]))
    }

    /// The result of the samples so far, with the estimate of a look.
    pub(super) fn early_measurement(&self, estimate: Estimate) -> JudgeResult<Measurement> {
        Ok(self.measurement_with(estimate, self.times()?))
    }

    fn times(&self) -> anyhow::Result<[TimeSummary; 2]> {
        let times = self.samples.times();
        times.context("the clock returned a time that is not a number")
    }

    fn measurement_with(
        &self,
        estimate: Estimate,
        [candidate, opponent]: [TimeSummary; 2],
    ) -> Measurement {
        let ratio = self.contest.opponent.anchor_ratio();
        Measurement {
            estimate,
            candidate,
            baseline: ratio.map_or(opponent, |ratio| ratio.baseline_us()),
            floor: cold_floor(
                self.context,
                self.contest.case,
                self.plan.map_or(1, |plan| plan.runs),
            ),
        }
    }
}

/// No samples yet. Ratios over an anchor become ratios over the baseline.
fn shifted_samples(contest: TimedPair<'_>) -> Samples {
    let ratio = contest.opponent.anchor_ratio();
    Samples::shifted(ratio.map_or(0.0, |ratio| ratio.shift()))
}

/// The errors that all samples of a measurement share.
#[derive(Clone, Copy, Debug)]
struct SharedError {
    /// The process noise of each of the two kernels.
    process_noise: Duration,
    /// The standard error of the anchor's log speedup; 0 without an anchor.
    anchor: f64,
}

/// What samples say at a look.
fn reading_of(samples: &Samples, shared: SharedError) -> Reading {
    let noise = samples
        .times()
        .map_or(f64::INFINITY, |[candidate, opponent]| {
            relative_process_noise(shared.process_noise, [&candidate, &opponent])
        });
    let noise = noise.hypot(shared.anchor);
    Reading::of(samples, noise)
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
    let half_width = statistics::Z95 * relative_process_noise(process_noise, times);
    Estimate {
        low: estimate.estimate - (estimate.estimate - estimate.low).hypot(half_width),
        high: estimate.estimate + (estimate.high - estimate.estimate).hypot(half_width),
        ..estimate
    }
}

/// The standard deviation of the log ratio's error that all samples of one process share.
fn relative_process_noise(process_noise: Duration, times: [&TimeSummary; 2]) -> f64 {
    let noise_us = process_noise.as_secs_f64() * 1e6;
    let [one, other] = times.map(|times| noise_us / times.median);
    one.hypot(other)
}

#[cfg(test)]
#[path = "duel_tests.rs"]
mod duel_tests;

#[cfg(test)]
mod tests {
    use super::super::sampling::PairTimes;
    use super::*;
    use crate::task::TaskFiles;

    #[test]
    fn a_candidate_has_eight_pairs_of_processes() {
        let task = TaskFiles::find("gdn_prefill").unwrap().load().unwrap();
        let profile = &task.settings.profiles["quick"];
        let rule = TimingLength::Search { workloads: 2 }.stopping_rule(profile, false);
        // The blocks of an early look have processes of their own, and two later blocks share theirs.
        for (looked, expected) in [(0, 16), (4, 12)] {
            let mut samples = Samples::default();
            let end = (0..400).find(|block: &usize| {
                let pair = PairTimes {
                    candidate: 1e-3,
                    opponent: 1e-3,
                };
                let process = block.saturating_sub(looked) / 2 + looked.min(*block);
                samples.add_block(&[pair; 2], process, false);
                samples.check(&rule, 0.0).is_some()
            });
            assert_eq!(end.map(|block| block + 1), Some(expected), "{looked}");
        }
    }

    #[test]
    fn workloads_of_a_search_share_precision_and_time_on_a_device_that_keeps_its_processes() {
        let task = TaskFiles::find("gdn_prefill").unwrap().load().unwrap();
        let profile = &task.settings.profiles["full"];
        let search = TimingLength::Search { workloads: 16 };
        let rule = |length: TimingLength, is_steady| length.stopping_rule(profile, is_steady);
        let whole = rule(TimingLength::Profile, true);
        assert_eq!(whole, StoppingRule::of_profile(profile));
        let replaced = StoppingRule {
            min_blocks: SEARCH_BLOCKS_OF_NEW_PROCESSES,
            min_processes: SEARCH_PROCESSES,
            precision: 4.0 * whole.precision,
            ..whole
        };
        assert_eq!(rule(search, false), replaced);
        let duel = TimingLength::Duel { workloads: 16 };
        assert_eq!(rule(duel, true), rule(search, true));
        assert_eq!(rule(duel, false), whole);
        let shared = rule(search, true);
        assert!((shared.precision - 4.0 * whole.precision).abs() < 1e-12);
        assert!((shared.seconds - whole.seconds / 16.0).abs() < 1e-12);
        assert_eq!(shared.min_blocks, SEARCH_BLOCKS);
        let baseline = TimingLength::Baseline { workloads: 16 };
        let least_blocks = Some(MIN_LONG_BLOCKS);
        let expected = StoppingRule {
            least_blocks,
            ..shared
        };
        assert_eq!(rule(baseline, true), expected);
        assert_eq!(rule(baseline, false), whole);
        // What is useful, and how long a slow kernel may take, does not depend on the number of workloads.
        assert_eq!(shared.max_half_width, whole.max_half_width);
        assert_eq!(shared.max_seconds, whole.max_seconds);
    }
}
