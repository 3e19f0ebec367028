//! The kernels of one measurement while they are timed: decides how many runs a sample has, and takes samples.
//!
//! If a run is shorter than the clock can time, a sample is many runs, each on its own copy of the data. `timed_outputs` checks what
//! the runs wrote. Decides nothing about the result; `measure` does.

use std::time::{Duration, Instant};

use super::anchor::OpponentFailed;
use super::case::{Case, derive_seed};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeResult};
use super::floor;
use super::kernel_set::{CopyCounts, KernelSet, Side};
use super::opening::{Opponent, TimedPair};
use super::run_spacing::{RunTimes, Spacing, required_spacing};
use super::sampling::PairTimes;
use super::timed_outputs::{CheckedRuns, OutputChecks};
use crate::base::RandomStream;
use crate::device::{Cache, LaunchOutcome, Poison};
use crate::verdict::{Evidence, Status};

/// Maximum number of copies of one sample that are compared with the oracle, and roughly the maximum of their bytes.
const MAX_COMPARED_COPIES: usize = 16;
const MAX_COMPARED_BYTES: u64 = 32 << 20;
/// A sample has runs for a kernel that is this much faster than both, if the device's floor allows such a kernel. So no sample is more than
/// 16 times as long as a sample should be.
const MIN_PART_OF_TIME: f64 = 1.0 / 16.0;
/// Samples of each kind that show whether a kernel gains by its earlier runs.
const SPACING_SAMPLES: usize = 3;
/// Launches that give a first estimate of a kernel's time.
const ESTIMATE_RUNS: usize = 3;
/// Probability of a short sample of the candidate before a pair.
const SHORT_SAMPLE_PROBABILITY: f64 = 0.06;

/// What the first session of a measurement decides for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SamplePlan {
    /// Runs per sample, the same for both kernels.
    pub(super) runs: usize,
    /// Whether a kernel gains by what its earlier runs have left, so that each sample has one run.
    pub(super) runs_apart: bool,
    copies: CopyCounts,
}

impl SamplePlan {
    /// Every sample is one run on the only copy of the data.
    const SINGLE: Self = Self {
        runs: 1,
        runs_apart: false,
        copies: CopyCounts::SINGLE,
    };
}

/// The kernels of one measurement.
pub(super) struct TimingSession<'s, 'j> {
    context: &'s JudgeContext<'j>,
    contest: TimedPair<'s>,
    kernels: KernelSet,
    plan: SamplePlan,
    /// Runs of a short sample of the candidate, after which no other copy may be written; `None`: no short samples.
    short_runs: Option<usize>,
    checks: OutputChecks,
    times: SampleTimes,
}

/// Time that taking samples took so far.
#[derive(Default)]
struct SampleTimes {
    fill: Duration,
    launch: Duration,
}

impl<'s, 'j> TimingSession<'s, 'j> {
    /// Opens both kernels over the copies of the data that a sample needs. Without a `plan`, it first estimates how long a run takes.
    pub(super) fn open(
        context: &'s JudgeContext<'j>,
        contest: TimedPair<'s>,
        seed: u64,
        plan: Option<SamplePlan>,
    ) -> JudgeResult<Self> {
        let first = plan.unwrap_or(SamplePlan::SINGLE);
        let mut session = Self {
            context,
            contest,
            kernels: KernelSet::open(context, contest, first.copies)?,
            plan: first,
            short_runs: None,
            checks: OutputChecks::new(context.device.lock_file().is_host, context.options.cache),
            times: SampleTimes::default(),
        };
        if plan.is_none() && !session.checks.checks_every_pair() {
            session = session.with_plan(seed)?;
        }
        session.checks.oracle_copies = session.plan.copies.oracle;
        let runs = session.plan.runs;
        session.short_runs =
            (runs > 2).then(|| 1 + RandomStream::new(seed, "short", 0).below(runs - 1));
        Ok(session)
    }

    /// Decides how many runs a sample has, and opens the kernels again over as many copies of the data.
    fn with_plan(mut self, seed: u64) -> JudgeResult<Self> {
        let context = self.context;
        // The opponent decides the number of copies and runs: neither the candidate's scratch nor a short time changes it.
        let bytes = self.kernels.side(Side::Opponent)?.buffer_bytes();
        let times = self.estimate_times(seed, bytes)?;
        let shortest = shortest_run(context, self.contest.case, times);
        let most = context.device.timing_copies(bytes, shortest);
        let copies = match context.options.cache {
            Cache::Cold => {
                self.plan.runs = most;
                most
            }
            Cache::Hot => {
                self.plan.runs = context.device.runs_per_sample(shortest).min(most);
                // One copy of the outputs is for the run that warms the caches.
                self.plan.runs + 1
            }
        };
        if copies == 1 {
            return Ok(self);
        }
        let data_bytes = self.kernels.candidate.data_bytes().max(1);
        let max_by_bytes = (MAX_COMPARED_BYTES / data_bytes).clamp(1, MAX_COMPARED_COPIES as u64);
        self.plan.copies = CopyCounts {
            timed: copies,
            oracle: copies.min(max_by_bytes as usize),
        };
        // Close the kernels first, to free their memory.
        drop(self.kernels);
        self.kernels = KernelSet::open(context, self.contest, self.plan.copies)?;
        if self.plan.runs > 1 {
            self.space_runs(seed)?;
        }
        Ok(self)
    }

    /// Takes samples of many runs and of one run, to see whether a kernel gains by what its earlier runs have left.
    fn space_runs(&mut self, seed: u64) -> JudgeResult<()> {
        let candidate = self.run_times(Side::Candidate, seed)?;
        let opponent = self.run_times(Side::Opponent, seed)?;
        tracing::debug!(
            "{}: runs together and apart: {candidate:?}, {opponent:?}",
            self.contest.case.id
        );
        match required_spacing(candidate, opponent) {
            Spacing::Together => Ok(()),
            Spacing::Apart if self.contest.opponent.anchor_ratio().is_some() => {
                // The anchor was timed in rows of launches. Single launches contain the cost of a start, so the ratios are not comparable.
                let reason = "each sample is one launch, and those of the anchor were not";
                Err(OpponentFailed(reason.to_owned()).into())
            }
            Spacing::Apart => {
                self.plan.runs_apart = true;
                self.plan.runs = 1;
                Ok(())
            }
            Spacing::CarriesOver => {
                let [together, apart] =
                    [candidate.together, candidate.apart].map(|time| time.as_secs_f64() * 1e6);
                let reason = format!(
                    "a launch takes {together:.1} us right after another one, and {apart:.1} us otherwise: something survives from launch to launch, perhaps in shared or local memory that the kernel reads before it writes it"
                );
                Err(Finding::new(Status::Stateful, reason, Evidence::default()).into())
            }
        }
    }

    fn run_times(&mut self, side: Side, seed: u64) -> JudgeResult<RunTimes> {
        let mut times = RunTimes {
            together: Duration::MAX,
            apart: Duration::MAX,
            launches: self.kernels.side(side)?.plan.launches.len(),
        };
        for turn in 0..SPACING_SAMPLES {
            let seed = derive_seed(seed, "spacing", turn);
            let poison = Poison::Finite { seed };
            let together = self.take_sample(side, seed, poison, self.plan.runs)?;
            let apart = self.take_sample(side, seed, poison, 1)?;
            times.together = times.together.min(together);
            times.apart = times.apart.min(apart);
        }
        Ok(times)
    }

    /// Opens both timed kernels again in fresh processes.
    pub(super) fn restart(&mut self) -> JudgeResult<()> {
        self.kernels.restart_timed(self.context, self.contest)
    }

    /// Takes one unrecorded sample of each kernel, so that pages are mapped, threads are awake and clocks are up. Then takes a
    /// short sample of the candidate.
    pub(super) fn warm_up(&mut self, seed: u64, order: [Side; 2]) -> JudgeResult<()> {
        for side in order {
            self.take_sample(side, seed, Poison::Finite { seed }, self.plan.runs)?;
        }
        self.check_short_sample(seed)
    }

    /// Times one block: two pairs, each led by one of `leaders`.
    pub(super) fn time_block(
        &mut self,
        seed: u64,
        block: usize,
        leaders: [Side; 2],
        stream: &mut RandomStream,
    ) -> JudgeResult<Vec<PairTimes>> {
        let mut pairs = Vec::new();
        for (index, leader) in leaders.into_iter().enumerate() {
            if index > 0 {
                self.kernels.swap_placement()?;
            }
            let seed = derive_seed(seed, "pair", 2 * block + index);
            let pair = self.time_pair(seed, leader, stream)?;
            if !(pair.candidate > 0.0 && pair.opponent > 0.0) {
                return Err(anyhow::anyhow!("the clock returned a time of 0").into());
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }

    pub(super) fn plan(&self) -> SamplePlan {
        self.plan
    }

    pub(super) fn checked_runs(&self) -> CheckedRuns {
        self.checks.runs()
    }

    pub(super) fn log_times(&self, blocks: usize) {
        let [all, oracle_check, oracle_launch] = self.checks.times();
        tracing::debug!(
            "{}: {blocks} timing blocks of {} runs in {all:?}: filling {:?}, launching {:?}, comparing with the oracle {oracle_check:?} (its launches {oracle_launch:?})",
            self.contest.case.id,
            self.plan.runs,
            self.times.fill,
            self.times.launch
        );
    }

    /// The shortest of a few times of each kernel: the candidate's, then the opponent's.
    fn estimate_times(&mut self, seed: u64, bytes: u64) -> JudgeResult<[Duration; 2]> {
        let mut shortest = [Duration::MAX; 2];
        for turn in 0..ESTIMATE_RUNS {
            let seed = derive_seed(seed, "rough", turn);
            let poison = Poison::Finite { seed };
            for (side, shortest) in [Side::Candidate, Side::Opponent]
                .into_iter()
                .zip(&mut shortest)
            {
                *shortest = (*shortest).min(self.take_sample(side, seed, poison, 1)?);
            }
            // Further launches can only lower the times. If a sample is one run even at half of them, they change nothing.
            let half = shortest_run(
                self.context,
                self.contest.case,
                shortest.map(|time| time / 2),
            );
            if self.context.device.timing_copies(bytes, half) == 1 {
                break;
            }
        }
        Ok(shortest)
    }

    /// Resets the buffers of a kernel and takes one sample. Returns the time per run.
    fn take_sample(
        &mut self,
        side: Side,
        seed: u64,
        poison: Poison,
        runs: usize,
    ) -> JudgeResult<Duration> {
        let deadline = self.kernels.deadline();
        let bound = self.kernels.side_mut(side)?;
        let started = Instant::now();
        bound.reset_buffers(seed, poison)?;
        self.times.fill += started.elapsed();
        let started = Instant::now();
        let outcome = bound.launch_sample(runs, deadline)?;
        self.times.launch += started.elapsed();
        match (outcome, side) {
            (LaunchOutcome::Finished { time }, _) => Ok(time),
            (LaunchOutcome::Fault(refusal), Side::Candidate) => Err(refusal.into()),
            (LaunchOutcome::Fault(refusal), Side::Opponent) => {
                // Not `OpponentFailed`: the fault may have damaged this process, so nothing else is timed here.
                let opponent = match self.contest.opponent {
                    Opponent::Baseline => "the baseline",
                    Opponent::Kernel(_) => "the opponent",
                    Opponent::Anchor(..) => "the anchor",
                };
                let reason = refusal.reason;
                Err(anyhow::anyhow!("{opponent} failed during timing: {reason}").into())
            }
        }
    }

    /// Takes a short sample of the candidate and checks that the copies of the runs that were left out are not written: a kernel
    /// must not do the work of later runs.
    fn check_short_sample(&mut self, seed: u64) -> JudgeResult<()> {
        let Some(runs) = self.short_runs else {
            return Ok(());
        };
        let poison = Poison::Finite { seed };
        self.take_sample(Side::Candidate, seed, poison, runs)?;
        self.kernels.candidate.check_other_copies(poison)
    }

    /// Times one sample of each kernel on the same fresh data, the leader first, and checks the candidate's outputs. The oracle
    /// runs only after the candidate has finished.
    fn time_pair(
        &mut self,
        seed: u64,
        leader: Side,
        stream: &mut RandomStream,
    ) -> JudgeResult<PairTimes> {
        // At random moments, because a kernel that does the work of later runs only sometimes would pass a single check.
        if stream.uniform() < SHORT_SAMPLE_PROBABILITY {
            self.check_short_sample(derive_seed(seed, "short", 0))?;
        }
        let poison = Poison::Finite { seed };
        let follower = match leader {
            Side::Candidate => Side::Opponent,
            Side::Opponent => Side::Candidate,
        };
        let first = self.take_sample(leader, seed, poison, self.plan.runs)?;
        let second = self.take_sample(follower, seed, poison, self.plan.runs)?;
        let (candidate, opponent) = match leader {
            Side::Candidate => (first, second),
            Side::Opponent => (second, first),
        };
        let checked = self
            .checks
            .check_pair(&mut self.kernels, seed, poison, stream);
        if let Err(error) = checked {
            if self.contest.opponent.anchor_ratio().is_some() {
                self.checks.check_differing(&mut self.kernels, seed)?;
            }
            return Err(error);
        }
        Ok(PairTimes {
            candidate: candidate.as_secs_f64(),
            opponent: opponent.as_secs_f64(),
        })
    }
}

/// The time of a run that decides how many runs a sample has: the device's floor for the case, but at least the part
/// `MIN_PART_OF_TIME` of the times of both kernels. So only a candidate that is much slower than the opponent changes the number, and
/// makes it smaller.
fn shortest_run(
    context: &JudgeContext<'_>,
    case: &Case,
    [candidate, opponent]: [Duration; 2],
) -> Duration {
    let floor = floor::cold_floor(context, case, 1).map(|floor| floor.measured_us);
    let floor = floor.filter(|floor| floor.is_finite() && *floor > 0.0);
    let floor = floor.map_or(opponent, |floor| Duration::from_secs_f64(floor / 1e6));
    let least = candidate.max(opponent).mul_f64(MIN_PART_OF_TIME);
    floor.min(opponent).max(least)
}
