//! The kernels of one measurement while they are timed: decides how many runs a sample has, and takes samples.
//!
//! If a run is shorter than the clock can time, a sample is many runs, each on its own copy of the data. `timed_outputs` checks what
//! the runs wrote, and `surprise_samples` runs the candidate in other ways between the pairs. Decides nothing about the result; `measure`
//! does.

use std::time::{Duration, Instant};

use super::anchor::OpponentFailed;
use super::case::{Case, derive_seed};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeResult};
use super::kernel_set::{KernelSet, Side};
use super::known_opponents::KnownOpponent;
use super::opening::{Opponent, TimedPair};
use super::run_spacing::{RunTimes, Spacing, required_spacing};
use super::sample_plan::{CopyBytes, FastestKernel, SamplePlan, sample_plan};
use super::sampling::PairTimes;
use super::timed_outputs::{CheckedRuns, OutputChecks};
use crate::base::RandomStream;
use crate::device::{ErasedMemory, LaunchOutcome, Poison};
use crate::verdict::{Evidence, Status};

#[path = "surprise_samples.rs"]
mod surprise_samples;

use surprise_samples::SURPRISE_PROBABILITY;

/// Samples of each kind that show whether a kernel gains by its earlier runs.
const SPACING_SAMPLES: usize = 3;
/// Launches that give a first estimate of a kernel's time.
const ESTIMATE_RUNS: usize = 3;
/// In a search, blocks of a candidate whose sample takes this long have one pair, and it is not warmed up by a sample: what a first launch
/// costs is nothing beside it, and it has lost if it is much slower than others.
const SLOW_SAMPLE: Duration = Duration::from_millis(20);

/// When a session finds out how the runs of a sample must be spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpacingCheck {
    /// Before its first sample.
    First,
    /// In a later session. Until then a kernel that gains by its own earlier runs looks faster than it is. So this is only for a look that
    /// can dismiss a candidate.
    Later,
}

/// How a session starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionStart {
    pub(super) seed: u64,
    /// Of an earlier session of the measurement.
    pub(super) plan: Option<SamplePlan>,
    pub(super) spacing: SpacingCheck,
    /// Whether a candidate of a search is timed, on a device that keeps its processes. What is known of its opponent is used then.
    pub(super) is_search: bool,
}

/// The kernels of one measurement.
pub(super) struct TimingSession<'s, 'j> {
    context: &'s JudgeContext<'j>,
    contest: TimedPair<'s>,
    kernels: KernelSet,
    plan: SamplePlan,
    is_search: bool,
    /// Of the data, for one comparison.
    most_oracle_copies: usize,
    /// How long the candidate's last sample took.
    candidate_sample: Duration,
    /// The time of a run in the candidate's last timed sample.
    candidate_run: Option<Duration>,
    /// How the opponent's runs are spaced, once it is known.
    opponent_runs: Option<RunTimes>,
    /// The case under each regime for which the kernels need not be opened again.
    regimes: Vec<Case>,
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
    /// Opens both kernels over the copies of the data that a sample needs. Without a `plan`, it first finds one.
    pub(super) fn open(
        context: &'s JudgeContext<'j>,
        contest: TimedPair<'s>,
        start: SessionStart,
    ) -> JudgeResult<Self> {
        let SessionStart { seed, plan, .. } = start;
        let known = context.known_opponents.get(contest);
        let known = known.filter(|_| start.is_search);
        let most_oracle_copies = if start.is_search {
            context.known_opponents.most_oracle_copies(&contest.case.id)
        } else {
            usize::MAX
        };
        let known = known.map(|mut known| {
            let copies = &mut known.plan.copies.oracle;
            *copies = most_oracle_copies.min(*copies);
            known
        });
        let first = plan.or(known.map(|known| known.plan));
        let first = first.unwrap_or(SamplePlan::SINGLE);
        let mut session = Self {
            context,
            contest,
            kernels: KernelSet::open(context, contest, first.copies)?,
            plan: first,
            is_search: start.is_search,
            most_oracle_copies,
            candidate_sample: Duration::ZERO,
            candidate_run: None,
            opponent_runs: None,
            regimes: surprise_samples::regimes_of(context, contest),
            checks: OutputChecks::new(
                context.device.lock_file().is_host,
                contest.opponent.is_kernel(),
            ),
            times: SampleTimes::default(),
        };
        if plan.is_none() && !session.checks.checks_every_pair() {
            session = match known {
                Some(known) => session.with_known_opponent(seed, known)?,
                None => session.with_new_opponent(seed)?,
            };
        }
        // A call of Python may be many launches, whose own costs would look like a gain.
        let is_spacing_checked = contest.opponent.is_kernel();
        if start.spacing == SpacingCheck::First
            && is_spacing_checked
            && !session.plan.is_spacing_known
        {
            session.space_runs(seed)?;
        }
        session.checks.oracle_copies = session.plan.copies.oracle;
        Ok(session)
    }

    /// Estimates how long a run of each kernel takes, and opens them again over as many copies of the data as the plan has.
    fn with_new_opponent(mut self, seed: u64) -> JudgeResult<Self> {
        let opponent = self.kernels.side(Side::Opponent)?.buffer_bytes();
        let data = self.kernels.candidate.data_bytes();
        let bytes = CopyBytes { opponent, data };
        let times = self.estimate_times(seed, bytes)?;
        let known = KnownOpponent {
            time: times[1],
            bytes,
            plan: self.plan_for(bytes, [times[1]; 2]),
            run_times: None,
        };
        if self.is_search {
            self.context.known_opponents.insert(self.contest, known);
        }
        let plan = self.plan_for(bytes, times);
        self.with_plan(plan)
    }

    /// Estimates how long a run of the candidate takes. A shorter plan than the opponent's needs fewer copies of the data.
    fn with_known_opponent(mut self, seed: u64, known: KnownOpponent) -> JudgeResult<Self> {
        let mut candidate = Duration::MAX;
        let mut plan = known.plan;
        // The first launch may be late, so a single long one does not count.
        for turn in 0..ESTIMATE_RUNS {
            if known.plan.runs == 1 {
                break;
            }
            let seed = derive_seed(seed, "rough", turn);
            let poison = Poison::Finite { seed };
            candidate = candidate.min(self.take_sample(Side::Candidate, seed, poison, 1)?);
            plan = self.plan_for(known.bytes, [candidate, known.time]);
            let at_half = self.plan_for(known.bytes, [candidate / 2, known.time]);
            // Further launches can only lower the time. If a sample is one run even at half of it, they change nothing.
            if plan == known.plan || at_half.runs == 1 {
                break;
            }
        }
        self.with_plan(plan)
    }

    fn plan_for(&self, bytes: CopyBytes, times: [Duration; 2]) -> SamplePlan {
        let fastest = match self.contest.opponent {
            _ if !self.is_search => FastestKernel::Any,
            Opponent::Baseline => FastestKernel::OfSearch,
            Opponent::Kernel(_) | Opponent::Python(_) => FastestKernel::OfDuel,
            Opponent::Anchor(..) => FastestKernel::Anchor,
        };
        let mut plan = sample_plan(self.context, self.contest.case, bytes, times, fastest);
        plan.copies.oracle = plan.copies.oracle.min(self.most_oracle_copies);
        plan
    }

    /// Uses a plan. Opens the kernels again if it has another number of copies.
    fn with_plan(mut self, plan: SamplePlan) -> JudgeResult<Self> {
        let is_open = plan.copies == self.plan.copies;
        self.plan = plan;
        if is_open {
            return Ok(self);
        }
        // Close the kernels first, to free their memory.
        drop(self.kernels);
        self.kernels = KernelSet::open(self.context, self.contest, plan.copies)?;
        Ok(self)
    }

    /// Takes samples of many runs and of one run, to see whether a kernel gains by what its earlier runs have left.
    fn space_runs(&mut self, seed: u64) -> JudgeResult<()> {
        let candidate = self.run_times(Side::Candidate, seed)?;
        let opponent = match self.opponent_runs {
            Some(known) => known,
            None => self.opponent_run_times(seed)?,
        };
        self.opponent_runs = Some(opponent);
        tracing::debug!(
            "{}: runs together and apart: {candidate:?}, {opponent:?}",
            self.contest.case.id
        );
        self.plan.is_spacing_known = true;
        let spacing = required_spacing(candidate, opponent);
        if spacing != Spacing::CarriesOver && candidate.may_carry_over(&opponent) {
            self.refuse_carry_over(candidate, seed)?;
        }
        match spacing {
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

    /// Overwrites what the candidate's runs leave, one kind of memory after the other, and refuses it if its runs then take longer.
    fn refuse_carry_over(&mut self, candidate: RunTimes, seed: u64) -> JudgeResult<()> {
        for memory in [ErasedMemory::Buffers, ErasedMemory::OnChip] {
            let mut shortest = Duration::MAX;
            for turn in 0..SPACING_SAMPLES {
                let seed = spacing_seed(seed, turn);
                let Some(time) = self.take_erased_sample(memory, seed)? else {
                    return Ok(());
                };
                shortest = shortest.min(time);
                if !candidate.carries_over(memory, shortest) {
                    break;
                }
            }
            tracing::debug!(
                "{}: {memory:?} overwritten: {shortest:?}",
                self.contest.case.id
            );
            if candidate.carries_over(memory, shortest) {
                let [before, after] =
                    [candidate.together, shortest].map(|time| time.as_secs_f64() * 1e6);
                let place = match memory {
                    ErasedMemory::Buffers => "outputs and scratch",
                    ErasedMemory::OnChip => "shared memory, local memory or registers",
                };
                let reason = format!(
                    "a launch takes {before:.1} us right after another one, and {after:.1} us if what that one left in {place} is overwritten: the kernel reads memory that this launch has not written"
                );
                return Err(Finding::new(Status::Stateful, reason, Evidence::default()).into());
            }
        }
        Ok(())
    }

    /// The opponent's times, of an earlier candidate's session if they are known for as many runs.
    fn opponent_run_times(&mut self, seed: u64) -> JudgeResult<RunTimes> {
        let (known, runs) = (&self.context.known_opponents, self.plan.runs);
        let is_usable = |known: &KnownOpponent| self.is_search && known.plan.runs == runs;
        let of_earlier = known.get(self.contest).filter(is_usable);
        if let Some(times) = of_earlier.and_then(|known| known.run_times) {
            return Ok(times);
        }
        let times = self.run_times(Side::Opponent, seed)?;
        if self.is_search {
            let known = &self.context.known_opponents;
            known.insert_run_times(self.contest, runs, times);
        }
        Ok(times)
    }

    fn run_times(&mut self, side: Side, seed: u64) -> JudgeResult<RunTimes> {
        let mut times = RunTimes {
            together: Duration::MAX,
            apart: Duration::MAX,
            launches: self.kernels.side(side)?.plan.launches.len(),
        };
        for turn in 0..SPACING_SAMPLES {
            let seed = spacing_seed(seed, turn);
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
            if side == Side::Candidate && self.is_slow() {
                continue;
            }
            self.take_sample(side, seed, Poison::Finite { seed }, self.plan.runs)?;
        }
        self.check_short_sample(derive_seed(seed, "short", 0))
    }

    fn is_slow(&self) -> bool {
        self.is_search && self.candidate_sample >= SLOW_SAMPLE
    }

    /// Times one block: two pairs, each led by one of `leaders`, or only the first of them if the candidate is slow.
    pub(super) fn time_block(
        &mut self,
        seed: u64,
        block: usize,
        leaders: [Side; 2],
        stream: &mut RandomStream,
    ) -> JudgeResult<Vec<PairTimes>> {
        let mut pairs = Vec::new();
        for (index, leader) in leaders.into_iter().enumerate() {
            if index > 0 && self.is_slow() {
                break;
            }
            if index > 0 && self.contest.opponent.is_kernel() {
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

    /// Remembers how long the oracle takes, for the sessions of other candidates.
    pub(super) fn note_oracle_time(&self) {
        if let Some(time) = self.checks.oracle_copy_time()
            && self.is_search
        {
            let known = &self.context.known_opponents;
            known.insert_oracle_time(&self.contest.case.id, time);
        }
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
    fn estimate_times(&mut self, seed: u64, bytes: CopyBytes) -> JudgeResult<[Duration; 2]> {
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
            if self.plan_for(bytes, shortest.map(|time| time / 2)).runs == 1 {
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
        if let (LaunchOutcome::Finished { time }, Side::Candidate) = (&outcome, side) {
            self.candidate_sample = time.mul_f64(runs as f64);
        }
        self.sample_time(outcome, side)
    }

    /// Resets the candidate's buffers and takes one sample in which what a run leaves in this memory does not reach the next one. `None` if
    /// that is so in every sample.
    fn take_erased_sample(
        &mut self,
        memory: ErasedMemory,
        seed: u64,
    ) -> JudgeResult<Option<Duration>> {
        let deadline = self.kernels.deadline();
        let bound = self.kernels.side_mut(Side::Candidate)?;
        bound.reset_buffers(seed, Poison::Finite { seed })?;
        let outcome = bound.launch_erased(memory, self.plan.runs, deadline)?;
        let time = outcome.map(|outcome| self.sample_time(outcome, Side::Candidate));
        time.transpose()
    }

    /// The time per run of a sample that ended.
    fn sample_time(&self, outcome: LaunchOutcome, side: Side) -> JudgeResult<Duration> {
        match (outcome, side) {
            (LaunchOutcome::Finished { time }, _) => Ok(time),
            (LaunchOutcome::Fault(refusal), Side::Candidate) => Err(refusal.into()),
            (LaunchOutcome::Fault(refusal), Side::Opponent) => {
                // Not `OpponentFailed`: the fault may have damaged this process, so nothing else is timed here.
                let opponent = match self.contest.opponent {
                    Opponent::Baseline => "the baseline",
                    Opponent::Kernel(_) => "the opponent",
                    Opponent::Anchor(..) => "the anchor",
                    // Its process is not this one.
                    Opponent::Python(_) => return Err(OpponentFailed(refusal.reason).into()),
                };
                let reason = refusal.reason;
                Err(anyhow::anyhow!("{opponent} failed during timing: {reason}").into())
            }
        }
    }

    /// Times one sample of each kernel on the same fresh data, the leader first, and checks the candidate's outputs. The oracle
    /// runs only after the candidate has finished.
    fn time_pair(
        &mut self,
        seed: u64,
        leader: Side,
        stream: &mut RandomStream,
    ) -> JudgeResult<PairTimes> {
        // At random moments, because a kernel that behaves badly only sometimes, or only later, would pass a single check.
        if stream.uniform() < SURPRISE_PROBABILITY {
            self.take_surprise_sample(derive_seed(seed, "surprise", 0), stream)?;
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
        self.candidate_run = Some(candidate);
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

/// The data of a sample that shows what a kernel gains by its earlier runs. Runs together, apart, and with what they leave overwritten get
/// the same data, because their time may depend on it: on the lengths of sequences, for example.
fn spacing_seed(seed: u64, turn: usize) -> u64 {
    derive_seed(seed, "spacing", turn)
}
