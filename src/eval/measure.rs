//! How fast is it? Paired, in random order, on the same fresh data, until the interval is narrow enough or the budget is spent.
//!
//! A block is two pairs, in one of the orders ABBA and BAAB; each pair has data of its own that both arms share, and the
//! candidate's timed outputs are checked like any other. Where a process' place in memory moves its times, both arms begin anew
//! every few blocks, so that this chance is part of the sample; where launches are shorter than what an event costs, a sample is
//! many of them, each on a copy of its own. Never stops because a result looks good.

use std::time::{Duration, Instant};

use super::cases::{Case, derive_seed};
use super::kernel_set::{CopyCounts, KernelSet, Side};
use super::{CompiledKernel, Finding, Judge};
use crate::base::RandomStream;
use crate::base::expression::Expression;
use crate::base::statistics::{self, Estimate, SampleSummary};
use crate::device::{Cache, CompulsoryWork, Floor, LaunchOutcome, Poison};
use crate::task::{DType, MIN_BLOCKS, Tensor};
use crate::verdict::{Evidence, SelfTest, Speedup, Status, TimeSummary, WorkloadVerdict};

/// How many blocks lie between two looks.
const BLOCKS_BETWEEN_CHECKS: usize = 4;
/// The most blocks, whatever the budget.
const MAX_BLOCKS: usize = 400;
/// A result whose half width is more than this many times the wanted precision says nothing.
const MAX_WIDTH_FACTOR: f64 = 20.0;
/// The longest time for a result that says something, as a multiple of the budget.
const MAX_BUDGET_FACTOR: f64 = 5.0;
/// The most copies of one sample that are compared with the oracle, and about how many bytes of them.
const MAX_COMPARED_COPIES: usize = 16;
const COMPARED_BYTES: u64 = 32 << 20;
/// The share of the time for looking at outputs, where the device is not the host: which pairs are looked at nothing can foresee
/// that runs on the device.
const ORACLE_CHECK_SHARE: f64 = 0.4;
/// And for comparing the others with the opponent's.
const OPPONENT_CHECK_SHARE: f64 = 0.2;
/// From the half width of a 95 % interval to what a test at that level finds with a power of 80 %: (1.96 + 0.84) / 1.96.
const DETECTABLE_FACTOR: f64 = 1.43;
/// How many launches give a first idea of a time.
const ESTIMATE_RUNS: usize = 3;
/// The chance that a shorter sample of the candidate goes before a pair.
const SHORT_SAMPLE_PROBABILITY: f64 = 0.06;

/// The times of one case.
pub(super) struct Measurement {
    /// Of the log speedup.
    pub(super) estimate: Estimate,
    pub(super) candidate: TimeSummary,
    opponent: TimeSummary,
    pub(super) floor: Option<Floor>,
    /// The share of the candidate's timed launches whose outputs were compared with the oracle's.
    pub(super) checked_share: f64,
    /// Blocks that were thrown away because something held the device back.
    pub(super) voided: u64,
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
    candidate: &CompiledKernel,
    opponent: Option<&CompiledKernel>,
    case: &Case,
    seed: u64,
) -> anyhow::Result<Result<Measurement, Finding>> {
    let profile = &judge.options.profile;
    let _alone = judge.timing_lock.exclusive()?;
    let mut stream = RandomStream::new(seed, "order", 0);
    let begun = Instant::now();
    let mut session = match TimingSession::open(judge, (candidate, opponent), case, seed)? {
        Ok(session) => session,
        Err(finding) => return Ok(Err(finding)),
    };
    let (mut log_ratios, mut candidate_us, mut opponent_us) = (Vec::new(), Vec::new(), Vec::new());
    let mut voided = 0;
    let (estimate, half_width) = loop {
        let block = log_ratios.len() + voided;
        if judge
            .device
            .blocks_per_process()
            .map_or(block == 0, |blocks| block.is_multiple_of(blocks))
        {
            if block > 0
                && let Err(finding) = session
                    .bench
                    .restart_timed(judge, candidate, opponent, case)?
            {
                return Ok(Err(finding));
            }
            // In random order: the arm that ran last finds its memory warmer.
            let order = match stream.below(2) {
                0 => [Side::Opponent, Side::Candidate],
                _ => [Side::Candidate, Side::Opponent],
            };
            if let Err(finding) = session.warm_up(derive_seed(seed, "warm-up", block), order)? {
                return Ok(Err(finding));
            }
        }
        let (first, second) = match stream.below(2) {
            0 => (Side::Opponent, Side::Candidate),
            _ => (Side::Candidate, Side::Opponent),
        };
        let mut pairs = Vec::new();
        for (index, leader) in [first, second].into_iter().enumerate() {
            if index > 0 {
                session.bench.swap_placement()?;
            }
            let seed = derive_seed(seed, "pair", 2 * block + index);
            let times = match session.time_pair(seed, leader, &mut stream)? {
                Ok(times) => times,
                Err(finding) => return Ok(Err(finding)),
            };
            let (candidate_time, opponent_time) =
                (times.candidate.as_secs_f64(), times.opponent.as_secs_f64());
            if !(candidate_time > 0.0 && opponent_time > 0.0) {
                anyhow::bail!("the clock gave a time of 0");
            }
            pairs.push((candidate_time, opponent_time));
        }
        // Both arms of the block go, whatever they showed.
        if judge.device.disturbance().is_some() {
            voided += 1;
        } else {
            let ratios = pairs
                .iter()
                .map(|(candidate, opponent)| (opponent / candidate).ln());
            log_ratios.push(ratios.sum::<f64>() / pairs.len() as f64);
            candidate_us.extend(pairs.iter().map(|(time, _)| time * 1e6));
            opponent_us.extend(pairs.iter().map(|(_, time)| time * 1e6));
        }
        let blocks = log_ratios.len();
        let spent = begun.elapsed().as_secs_f64();
        let out_of_time =
            blocks + voided >= MAX_BLOCKS || spent >= MAX_BUDGET_FACTOR * profile.seconds;
        let look = blocks >= profile.blocks.max(MIN_BLOCKS)
            && blocks.is_multiple_of(BLOCKS_BETWEEN_CHECKS);
        if look || out_of_time {
            let estimate = statistics::hodges_lehmann(&log_ratios);
            let half_width = estimate.map_or(f64::INFINITY, |estimate| {
                (estimate.high - estimate.low) / 2.0
            });
            let says_something = half_width <= MAX_WIDTH_FACTOR * profile.precision;
            // Noise buys more time, up to a bound; a good or a bad result never does.
            let spent_well = spent >= profile.seconds && says_something;
            if half_width <= profile.precision || spent_well || out_of_time {
                break (estimate.filter(|_| says_something), half_width);
            }
        }
    };
    let [fill, launch, look] = session.stage_times;
    tracing::debug!(
        "{}: {} blocks of {:?} units in {:?}: filling {fill:?}, launching {launch:?}, looking {look:?}, of it the oracle {:?}",
        case.id,
        log_ratios.len(),
        session.runs,
        begun.elapsed(),
        session.oracle_time
    );
    let Some(estimate) = estimate else {
        let reason = format!(
            "workload `{}`: after {} blocks in {:.1} s the interval is still ±{:.1} %{}",
            case.id,
            log_ratios.len(),
            begun.elapsed().as_secs_f64(),
            half_width * 100.0,
            match voided {
                0 => String::new(),
                voided => format!("; {voided} blocks were void, because the device was held back"),
            }
        );
        return Ok(Err(Finding::new(
            Status::Inconclusive,
            reason,
            Evidence::default(),
        )));
    };
    match (times_of(&candidate_us), times_of(&opponent_us)) {
        (Some(candidate), Some(opponent)) => Ok(Ok(Measurement {
            estimate: widen_by_process_noise(
                estimate,
                judge.device.process_noise(),
                [&candidate, &opponent],
            ),
            candidate,
            opponent,
            floor: floor_time(judge, case, session.runs[0]),
            checked_share: session.compared_runs as f64 / session.timed_runs.max(1) as f64,
            voided: voided as u64,
        })),
        _ => anyhow::bail!("the clock gave times that are no numbers"),
    }
}

/// An interval that also covers what all samples of one process share.
fn widen_by_process_noise(
    estimate: Estimate,
    process_noise: Duration,
    times: [&TimeSummary; 2],
) -> Estimate {
    let noise_us = process_noise.as_secs_f64() * 1e6;
    let shared = times.map(|times| noise_us / times.median);
    let shared = statistics::Z95 * shared[0].hypot(shared[1]);
    Estimate {
        low: estimate.estimate - (estimate.estimate - estimate.low).hypot(shared),
        high: estimate.estimate + (estimate.high - estimate.estimate).hypot(shared),
        ..estimate
    }
}

/// The least time that the device allows for a case from cold caches.
fn floor_time(judge: &Judge<'_>, case: &Case, units: usize) -> Option<Floor> {
    if judge.options.cache == Cache::Hot {
        return None;
    }
    let value_of = |name: &str| case.binding.axes.get(name).copied();
    let amount = |expression: &Expression| Some(expression.evaluate(&value_of).ok()? as f64);
    let (bytes, operations) = (amount(&judge.task.bytes)?, amount(&judge.task.flops)?);
    let definition = &judge.task.definition;
    let tensors = || (definition.inputs.values()).chain(definition.outputs.values());
    // Tensor cores do twice as many operations on eight bits as on sixteen.
    let eight = |tensor: &Tensor| tensor.dtype.bytes() == 1 && tensor.dtype != DType::Bool;
    let narrow = |tensor: &Tensor| tensor.dtype.is_float() && tensor.dtype.bytes() < 4;
    let on_eight = tensors().any(eight);
    let operations = if on_eight {
        operations / 2.0
    } else {
        operations
    };
    let tensor = on_eight || tensors().any(narrow);
    judge.device.floor(CompulsoryWork {
        bytes,
        operations,
        runs: units,
        on_tensor_cores: tensor,
    })
}

/// The arms of a case while they are timed.
struct TimingSession {
    bench: KernelSet,
    /// Launches in one sample of the candidate, and of its opponent.
    runs: [usize; 2],
    /// A sample of the candidate that ends early, to see that none runs ahead.
    short_runs: Option<usize>,
    /// Copies that the oracle computes at once.
    compared_at_once: usize,
    /// Whether every sample is looked at, however long it takes.
    checks_every_pair: bool,
    begun: Instant,
    oracle_time: Duration,
    /// For comparing outputs that nobody else looked at with the opponent's.
    opponent_check_time: Duration,
    /// Filling, launching, and looking at what came out.
    stage_times: [Duration; 3],
    /// Launches of the candidate that were timed, and those that the oracle has looked at.
    timed_runs: u64,
    compared_runs: u64,
}

impl TimingSession {
    /// Finds out roughly how long a launch takes, and opens the arms over as many copies of the data as that wants.
    fn open(
        judge: &Judge<'_>,
        (candidate, opponent): (&CompiledKernel, Option<&CompiledKernel>),
        case: &Case,
        seed: u64,
    ) -> anyhow::Result<Result<Self, Finding>> {
        let open = |spread| KernelSet::open(judge, candidate, opponent, case, spread);
        let bench = match open(CopyCounts::SINGLE)? {
            Ok(bench) => bench,
            Err(finding) => return Ok(Err(finding)),
        };
        let mut session = Self {
            bench,
            runs: [1, 1],
            short_runs: None,
            compared_at_once: 1,
            checks_every_pair: judge.device.lock_file().is_host,
            begun: Instant::now(),
            oracle_time: Duration::ZERO,
            opponent_check_time: Duration::ZERO,
            stage_times: [Duration::ZERO; 3],
            timed_runs: 0,
            compared_runs: 0,
        };
        // Either may have much more scratch than the other, and both have as many copies.
        let opponent_bytes = session.bench.side(Side::Opponent)?.buffer_bytes();
        let bytes = session.bench.candidate.buffer_bytes().max(opponent_bytes);
        // How much is looked at must not depend on what a candidate asks for.
        let data_bytes = session.bench.candidate.data_bytes().max(1);
        if judge.device.timing_copies(bytes, Duration::ZERO) == 1 {
            return Ok(Ok(session));
        }
        let times = match session.estimate_times(seed)? {
            Ok(times) => times,
            Err(finding) => return Ok(Err(finding)),
        };
        let fastest = times[0].min(times[1]);
        // A fast candidate's sample uses all copies, so that it writes more than the cache can keep.
        let timed = match judge.options.cache {
            Cache::Cold => judge.device.timing_copies(bytes, fastest),
            Cache::Hot => 1,
        };
        session.runs = match judge.options.cache {
            // What an event costs is spread over as many launches in both arms, unless one is far slower: also where one is
            // just long enough to be timed by itself, and the other just not.
            Cache::Cold => times.map(|time| match time <= 2 * fastest {
                true => timed,
                false => judge.device.runs_per_sample(time).min(timed),
            }),
            Cache::Hot => times.map(|time| judge.device.runs_per_sample(time)),
        };
        if timed == 1 {
            return Ok(Ok(session));
        }
        let by_bytes = (COMPARED_BYTES / data_bytes).clamp(1, MAX_COMPARED_COPIES as u64);
        let oracle = timed.min(by_bytes as usize);
        drop(session.bench);
        session.bench = match open(CopyCounts { timed, oracle })? {
            Ok(bench) => bench,
            Err(finding) => return Ok(Err(finding)),
        };
        session.compared_at_once = oracle;
        let longest = session.runs[0];
        session.short_runs =
            (longest > 2).then(|| 1 + RandomStream::new(seed, "short", 0).below(longest - 1));
        Ok(Ok(session))
    }

    /// The least of a few times of each arm.
    fn estimate_times(&mut self, seed: u64) -> anyhow::Result<Result<[Duration; 2], Finding>> {
        let mut least = [Duration::MAX; 2];
        for turn in 0..ESTIMATE_RUNS {
            let seed = derive_seed(seed, "rough", turn);
            for (side, least) in [Side::Candidate, Side::Opponent]
                .into_iter()
                .zip(&mut least)
            {
                match self.take_sample(side, seed, Poison::Nan, 1)? {
                    Ok(time) => *least = (*least).min(time),
                    Err(finding) => return Ok(Err(finding)),
                }
            }
        }
        Ok(Ok(least))
    }

    /// Fresh inputs, and one sample of an arm.
    fn take_sample(
        &mut self,
        side: Side,
        seed: u64,
        poison: Poison,
        units: usize,
    ) -> anyhow::Result<Result<Duration, Finding>> {
        let deadline = self.bench.deadline();
        let bound = self.bench.side_mut(side)?;
        let begun = Instant::now();
        bound.reset_buffers(seed, poison)?;
        self.stage_times[0] += begun.elapsed();
        let begun = Instant::now();
        let launched = bound.kernel.launch_sample(units, deadline)?;
        self.stage_times[1] += begun.elapsed();
        match (launched, side) {
            (LaunchOutcome::Finished { time }, _) => Ok(Ok(time)),
            (LaunchOutcome::Fault(refusal), Side::Candidate) => Ok(Err(Finding {
                refusal,
                case: None,
            })),
            (LaunchOutcome::Fault(refusal), Side::Opponent) => {
                anyhow::bail!("the baseline failed when it was timed: {}", refusal.reason)
            }
        }
    }

    fn runs_of(&self, side: Side) -> usize {
        match side {
            Side::Candidate => self.runs[0],
            Side::Opponent => self.runs[1],
        }
    }

    /// One sample of each arm through the timed path, unrecorded: pages are touched, threads are awake, clocks are up. Then a
    /// shorter one of the candidate.
    fn warm_up(&mut self, seed: u64, order: [Side; 2]) -> anyhow::Result<Result<(), Finding>> {
        for side in order {
            let units = self.runs_of(side);
            if let Err(finding) = self.take_sample(side, seed, Poison::Nan, units)? {
                return Ok(Err(finding));
            }
        }
        self.check_short_sample(seed)
    }

    /// A shorter sample of the candidate, after which all that was not launched must be untouched.
    fn check_short_sample(&mut self, seed: u64) -> anyhow::Result<Result<(), Finding>> {
        let Some(short) = self.short_runs else {
            return Ok(Ok(()));
        };
        let poison = Poison::Finite { seed };
        if let Err(finding) = self.take_sample(Side::Candidate, seed, poison, short)? {
            return Ok(Err(finding));
        }
        Ok(match self.bench.candidate.check_other_copies(poison)? {
            Some(finding) => Err(finding),
            None => Ok(()),
        })
    }

    /// One sample of each arm on the same fresh data; `leader` goes first. The oracle runs only after the candidate has finished.
    fn time_pair(
        &mut self,
        seed: u64,
        leader: Side,
        stream: &mut RandomStream,
    ) -> anyhow::Result<Result<PairTimes, Finding>> {
        let mut times = PairTimes {
            candidate: Duration::ZERO,
            opponent: Duration::ZERO,
        };
        let follower = match leader {
            Side::Candidate => Side::Opponent,
            Side::Opponent => Side::Candidate,
        };
        // At an unknown moment once more: what does the work of later launches at chance would else be seen once only.
        if stream.uniform() < SHORT_SAMPLE_PROBABILITY
            && let Err(finding) = self.check_short_sample(derive_seed(seed, "short", 0))?
        {
            return Ok(Err(finding));
        }
        let poison = Poison::Finite { seed };
        for side in [leader, follower] {
            let time = match self.take_sample(side, seed, poison, self.runs_of(side))? {
                Ok(time) => time,
                Err(finding) => return Ok(Err(finding)),
            };
            match side {
                Side::Candidate => times.candidate = time,
                Side::Opponent => times.opponent = time,
            }
        }
        let begun = Instant::now();
        let ran = self.bench.candidate.kernel.launched_copies().to_vec();
        if let Err(finding) = self.bench.candidate.check_guards(&[])? {
            return Ok(Err(finding));
        }
        let is_looked_at = self.has_time_for_oracle();
        let looked = match is_looked_at {
            true => self.check_outputs(seed, poison, &ran, stream)?,
            false => self.compare_with_opponent(&ran, seed)?,
        };
        self.timed_runs += ran.len() as u64;
        if let Err(finding) = looked {
            let reason = format!("while it was timed: {}", finding.refusal.reason);
            return Ok(Err(Finding::new(
                finding.refusal.status,
                reason,
                finding.refusal.evidence,
            )));
        }
        match is_looked_at {
            true => self.stage_times[2] += begun.elapsed(),
            false => self.opponent_check_time += begun.elapsed(),
        }
        let state = self.bench.side(Side::Candidate)?.check_state()?;
        Ok(state.map(|_| times))
    }

    /// Whether there is time to look at this pair's outputs.
    fn has_time_for_oracle(&self) -> bool {
        let spent = self.stage_times[2].as_secs_f64();
        self.checks_every_pair || spent <= ORACLE_CHECK_SHARE * self.begun.elapsed().as_secs_f64()
    }

    /// Where the oracle is so dear that few pairs are looked at, all others are compared with the opponent's, which is known to
    /// be right and has just had the same inputs: else what is timed would go unseen for most of the time.
    fn compare_with_opponent(&self, ran: &[u32], seed: u64) -> anyhow::Result<Result<(), Finding>> {
        let is_dear = 2 * self.oracle_time >= self.stage_times[2];
        let spent = self.opponent_check_time.as_secs_f64();
        if !is_dear || spent > OPPONENT_CHECK_SHARE * self.begun.elapsed().as_secs_f64() {
            return Ok(Ok(()));
        }
        let opponent = self.bench.side(Side::Opponent)?;
        let both: Vec<u32> = (ran.iter().copied())
            .filter(|copy| opponent.kernel.launched_copies().contains(copy))
            .collect();
        match both.is_empty() {
            true => Ok(Ok(())),
            false => self.bench.compare_sides(&both, seed),
        }
    }

    /// The timed outputs: a random part against the oracle, all of one copy at a time; the rest against the opponent's.
    fn check_outputs(
        &mut self,
        seed: u64,
        poison: Poison,
        ran: &[u32],
        stream: &mut RandomStream,
    ) -> anyhow::Result<Result<(), Finding>> {
        let opponent = self.bench.side(Side::Opponent)?;
        let both: Vec<u32> = (ran.iter().copied())
            .filter(|copy| opponent.kernel.launched_copies().contains(copy))
            .collect();
        let mut chosen = ran.to_vec();
        stream.shuffle(&mut chosen);
        // Where the opponent ran fewer, its own outputs are among those that are looked at now and then. Where one copy is looked
        // at that must not always be it: any other copy could then hold what it likes.
        if let Some(shared) = both.get(stream.below(both.len().max(1)))
            && (self.compared_at_once > 1 || stream.below(4) == 0)
        {
            chosen.retain(|copy| copy != shared);
            chosen.insert(0, *shared);
        }
        chosen.extend_from_slice(&ran.repeat(self.compared_at_once));
        chosen.truncate(self.compared_at_once);
        let begun = Instant::now();
        let expected = self.bench.expected(seed, &chosen)?;
        self.oracle_time += begun.elapsed();
        self.compared_runs += chosen.len().min(ran.len()) as u64;
        // The oracle has the same inputs, and only the judge has written there.
        let untouched = self.bench.oracle.input_hashes_by_name()?;
        if let Some(finding) = self
            .bench
            .candidate
            .check_inputs_unchanged(&untouched, &chosen)?
        {
            return Ok(Err(finding));
        }
        if let Err(finding) = self
            .bench
            .compare(Side::Candidate, &expected, &chosen, seed)?
        {
            return Ok(Err(finding));
        }
        let places: Vec<usize> = (0..chosen.len())
            .filter(|place| both.contains(&chosen[*place]))
            .collect();
        let copies: Vec<u32> = places.iter().map(|place| chosen[*place]).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|all| all.select_copies(&places))
            .collect();
        // It is known to be right, and here for its time: now and then is enough to see that it still is.
        if (self.checks_every_pair || stream.below(4) == 0)
            && !copies.is_empty()
            && let Err(finding) = self
                .bench
                .compare(Side::Opponent, &expected, &copies, seed)?
        {
            anyhow::bail!(
                "the baseline went wrong while it was timed: {}",
                finding.refusal.reason
            );
        }
        if ran.len() <= self.compared_at_once {
            return Ok(Ok(()));
        }
        // A finite poison can be right by chance; whole outputs that are poison are not.
        if both.len() < ran.len()
            && let Some(finding) = self.bench.candidate.check_mostly_written(poison)?
        {
            return Ok(Err(finding));
        }
        match both.is_empty() {
            true => Ok(Ok(())),
            false => self.bench.compare_sides(&both, seed),
        }
    }
}

struct PairTimes {
    candidate: Duration,
    opponent: Duration,
}

fn times_of(microseconds: &[f64]) -> Option<TimeSummary> {
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
