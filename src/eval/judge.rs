//! Runs the stages of a judgement in order, and writes the verdict.
//!
//! Header, compilation, CPU screen, then checks, inspection and timing: the first finding ends a judgement. Also runs duels and the
//! self-test. The stages themselves are in `context`, `screen` and `stages`.

use indexmap::IndexMap;

use super::case::{Case, derive_seed, operations};
use super::cases::{CaseRequest, select_cases};
use super::check;
use super::code_identity::code_identity;
use super::context::{JudgeContext, JudgeOptions};
use super::features;
use super::finding::JudgeResult;
use super::hidden::Coverage;
use super::judged_kernel::JudgedKernel;
use super::known_opponents::OpponentTimes;
use super::measure::{self, TimingLength};
use super::opening::{Opponent, TimedPair};
use super::request::{DuelPurpose, JudgeRequest, Judgement};
use super::screen::CpuScreen;
use super::stage_times::Phase;
use super::stages;
use crate::base::{Digest, Failure, random};
use crate::device::{Cache, Device};
use crate::kernel::{DeviceLimits, Kernel};
use crate::search::{Anchor, Incumbents, KnownCode};
use crate::task::{PrecisionCheck, Task};
use crate::verdict::{
    BaselineIdentity, Duel, Resources, SCHEMA, Seconds, SelfTest, Status, Verdict,
};

/// A task on a device, ready to judge: the oracle and the baseline are compiled, and the baseline is known to be correct.
pub struct Judge<'a> {
    context: JudgeContext<'a>,
    /// Runs kernels on the CPU before they run on this device.
    screen: Option<Box<CpuScreen<'a>>>,
}

impl<'a> Judge<'a> {
    /// Compiles the oracle and the baseline, and checks the baseline on every workload of the profile.
    ///
    /// # Errors
    /// `Failure::reference` if the oracle or the baseline does not work, any other error if the machinery is broken.
    pub fn new(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        limits: DeviceLimits,
    ) -> anyhow::Result<Self> {
        let judge = Self::open(device, task, options, limits)?;
        judge.check_baseline(false)?;
        Ok(judge)
    }

    /// Compiles the oracle and the baseline. Nothing runs on a device that is not the host.
    ///
    /// # Errors
    /// See `new`.
    pub(crate) fn open(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        limits: DeviceLimits,
    ) -> anyhow::Result<Self> {
        let mut context = JudgeContext::open(device, task, options, limits)?;
        let cases = context.workload_cases();
        context.prepare_references(&cases)?;
        Ok(Self {
            context,
            screen: None,
        })
    }

    /// Checks the baseline on every workload of the profile. `is_proven`: on the smallest one only. Another judge has then checked it on all
    /// of them with the same programs, so this shows only whether the device works for this process.
    ///
    /// # Errors
    /// See `new`.
    pub(crate) fn check_baseline(&self, is_proven: bool) -> anyhow::Result<()> {
        let context = &self.context;
        let task = context.task;
        let cases = context.workload_cases();
        let work = |case: &Case| operations(task, &case.binding);
        let smallest = || {
            let cases = cases.iter();
            cases.min_by(|one, other| work(one).total_cmp(&work(other)))
        };
        let checked: Vec<&Case> = if is_proven {
            smallest().into_iter().collect()
        } else {
            cases.iter().collect()
        };
        for case in checked {
            let seed = random::fresh_seed();
            if let Err(error) = check::check_case(context, &context.baseline, case, &[seed]) {
                let reason = error.into_finding()?.reason;
                return Err(Failure::reference(format!(
                    "the baseline `{}` of task `{}` fails on workload `{}`: {reason}",
                    task.baseline().0,
                    task.name,
                    case.id
                ))
                .hint("the baseline must agree with the oracle within the tolerance: fix the baseline, the oracle or the tolerance")
                .into());
            }
            let source = task.baseline().1;
            context.checked_kernels.insert(source, &case.id);
        }
        Ok(())
    }

    pub(super) fn context(&self) -> &JudgeContext<'a> {
        &self.context
    }

    pub(super) fn context_mut(&mut self) -> &mut JudgeContext<'a> {
        &mut self.context
    }

    /// Sets the screen that kernels must pass first.
    pub(crate) fn set_screen(&mut self, mut screen: CpuScreen<'a>) {
        screen.set_times(self.context.times.clone());
        self.screen = Some(Box::new(screen));
    }

    /// Judges one kernel completely. `seed` repeats an earlier judgement; without it a new seed is drawn here, after the candidate is
    /// fixed.
    ///
    /// # Errors
    /// If the machinery is broken. A fault of the kernel is a verdict.
    pub fn judge(
        &mut self,
        name: &str,
        source: &str,
        seed: Option<u64>,
    ) -> anyhow::Result<Verdict> {
        let request = JudgeRequest {
            seed,
            ..JudgeRequest::new(name, source)
        };
        Ok(*self.judge_candidate(&request)?.into_verdict()?)
    }

    /// Judges one kernel against incumbents. If it surely cannot reach them, the judgement ends early, and the verdict says so.
    ///
    /// # Errors
    /// See `judge`.
    pub fn judge_racing(
        &mut self,
        name: &str,
        source: &str,
        incumbents: &Incumbents,
    ) -> anyhow::Result<Verdict> {
        let request = JudgeRequest {
            incumbents: Some(incumbents),
            ..JudgeRequest::new(name, source)
        };
        Ok(*self.judge_candidate(&request)?.into_verdict()?)
    }

    /// Like `judge_racing`, but the kernel is timed against an anchor in the place of the baseline.
    ///
    /// # Errors
    /// See `judge`.
    pub fn judge_against_anchor(
        &mut self,
        name: &str,
        source: &str,
        incumbents: &Incumbents,
        anchor: &Anchor,
    ) -> anyhow::Result<Verdict> {
        let request = JudgeRequest {
            incumbents: Some(incumbents),
            anchor: Some(anchor),
            ..JudgeRequest::new(name, source)
        };
        Ok(*self.judge_candidate(&request)?.into_verdict()?)
    }

    /// Like `judge`, within a search. A thorough judge always takes all hidden cases.
    pub(crate) fn judge_candidate(
        &mut self,
        request: &JudgeRequest<'_>,
    ) -> anyhow::Result<Judgement> {
        let seed = request.seed.unwrap_or_else(random::fresh_seed);
        let mut verdict = blank_verdict(&self.context, request.name, seed);
        let times = self.context.times.clone();
        times.clear();
        match self.judge_stages(request, &mut verdict) {
            Ok(None) => {}
            Ok(Some(known)) => {
                let device_seconds = self.take_device_seconds();
                return Ok(Judgement::SameCode {
                    known,
                    device_seconds,
                });
            }
            Err(error) => {
                let finding = error.into_finding()?;
                verdict.status = finding.status;
                verdict.reason = Some(finding.reason);
                verdict.speedup = None;
                let mut evidence = *finding.evidence;
                evidence.seed.get_or_insert(seed);
                evidence.workload = evidence.workload.or(finding.case);
                verdict.evidence = Some(evidence);
            }
        }
        times.write_to(&mut verdict.seconds);
        verdict.seconds.device = self.take_device_seconds();
        Ok(Judgement::Verdict(Box::new(verdict)))
    }

    /// Uses what other processes have found out about the opponents on this device.
    pub(crate) fn add_opponent_times(&self, times: &OpponentTimes) {
        self.context.known_opponents.add(times);
    }

    /// What is known about the opponents.
    pub(crate) fn opponent_times(&self) -> OpponentTimes {
        self.context.known_opponents.times()
    }

    /// How long this judge has held the device since the last call, in seconds.
    pub(crate) fn take_device_seconds(&self) -> f64 {
        self.context.timing_lock.take_held_time().as_secs_f64()
    }

    /// Times the baseline against itself, on the smallest and the largest workload of the profile and one between.
    pub(crate) fn self_test(&mut self) -> anyhow::Result<Vec<SelfTest>> {
        let context = &self.context;
        let seed = random::fresh_seed();
        let mut tests = Vec::new();
        let cases = self_test_cases(context);
        let length = TimingLength::Search {
            workloads: cases.len(),
        };
        for (index, case) in cases.iter().enumerate() {
            let contest = TimedPair {
                candidate: &context.baseline,
                opponent: Opponent::Kernel(&context.baseline),
                case,
            };
            let seed = derive_seed(seed, "itself", index);
            match measure::measure(context, contest, seed, length) {
                Ok(measurement) => tests.push(measurement.to_self_test(case)),
                Err(error) => {
                    let finding = error.into_finding()?;
                    // Too noisy for a result. That is no failure: the intervals of all candidates will be just as wide.
                    if finding.status != Status::Inconclusive {
                        anyhow::bail!("the self-test of the baseline failed: {}", finding.reason);
                    }
                }
            }
        }
        Ok(tests)
    }

    /// Times two candidates that have passed against each other on every workload of the profile. `None` if one of them fails this
    /// time.
    pub fn duel(
        &mut self,
        challenger: &str,
        incumbent: &str,
        purpose: DuelPurpose,
    ) -> anyhow::Result<Option<Duel>> {
        match self.time_duel(challenger, incumbent, purpose) {
            Ok(duel) => Ok(duel),
            Err(error) => error.into_finding().map(|_| None),
        }
    }

    fn time_duel(
        &self,
        challenger: &str,
        incumbent: &str,
        purpose: DuelPurpose,
    ) -> JudgeResult<Option<Duel>> {
        let context = &self.context;
        let seed = random::fresh_seed();
        let cases = context.workload_cases();
        let compile = |source| {
            let kernel = Kernel::parse(source, &context.task.definition)?;
            context.compile(kernel, &cases)
        };
        let (challenger, incumbent) = (compile(challenger)?, compile(incumbent)?);
        let length = match purpose {
            DuelPurpose::Search => TimingLength::Duel {
                workloads: cases.len(),
            },
            DuelPurpose::Report => TimingLength::Profile,
        };
        let mut estimates = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let contest = TimedPair {
                candidate: &challenger,
                opponent: Opponent::Kernel(&incumbent),
                case,
            };
            let seed = derive_seed(seed, "duel", index);
            let measurement = measure::measure(context, contest, seed, length)?;
            estimates.push(measurement.estimate);
        }
        Ok(measure::combine(&estimates).map(|speedup| Duel {
            ratio: speedup.geomean,
            ci95: speedup.ci95,
        }))
    }

    /// Compiles, screens, and runs all other stages. Stops after compilation if the code is known, and returns it.
    fn judge_stages(
        &mut self,
        request: &JudgeRequest<'_>,
        verdict: &mut Verdict,
    ) -> JudgeResult<Option<KnownCode>> {
        let coverage = match request.coverage {
            Coverage::Part if self.context.options.thorough => Coverage::All,
            coverage => coverage,
        };
        let seed = verdict.seeds.first().copied().unwrap_or_default();
        let context = &mut self.context;
        let kernel = Kernel::parse(request.source, &context.task.definition)?;
        verdict.tunables = kernel.point();
        verdict.notes.clone_from(&kernel.header.notes);
        let cases = select_cases(&CaseRequest {
            task: context.task,
            profile: &context.options.profile,
            kernel: &kernel,
            limits: &context.limits,
            effort: context.effort(coverage),
            seed,
        })?;
        context.prepare_references(&cases)?;
        let compiled = context.compile(kernel, &cases)?;
        verdict.code = code_identity(&compiled);
        let mut known = request.known_code.iter();
        if let Some(known) = known.find(|known| Some(known.code) == verdict.code) {
            return Ok(Some(*known));
        }
        if let (Some(anchor), Some(_)) = (request.anchor, request.incumbents) {
            context.prepare_anchor(anchor)?;
        }
        if let Some(program) = compiled.programs.values().next() {
            verdict.resources = program.resources.clone();
        }
        features::add_source_features(&compiled.kernel, context, &cases, verdict);
        features::add_code_features(compiled.programs.values(), verdict);
        if let Some(screen) = &mut self.screen {
            let _phase = self.context.times.phase(Phase::Screen);
            screen.run(&compiled, seed, verdict)?;
        }
        let candidate = JudgedKernel {
            compiled: &compiled,
            cases: &cases,
            seed,
            is_inspected: coverage != Coverage::Timed,
        };
        stages::run(&self.context, &candidate, request, verdict)?;
        Ok(None)
    }
}

/// The workloads of the self-test, from the cheapest to the dearest. More would say the same: the noise depends on how long a launch
/// takes.
fn self_test_cases(context: &JudgeContext<'_>) -> Vec<Case> {
    let mut cases = context.workload_cases();
    let cost = |case: &Case| operations(context.task, &case.binding);
    cases.sort_by(|one, other| cost(one).total_cmp(&cost(other)));
    let last = cases.len().saturating_sub(1);
    let mut position = 0..;
    cases.retain(|_| {
        let position = position.next();
        [Some(0), Some(last / 2), Some(last)].contains(&position)
    });
    cases
}

/// A verdict before any stage has run.
fn blank_verdict(context: &JudgeContext<'_>, name: &str, seed: u64) -> Verdict {
    let device = context.device.identity();
    let on_cpu = device.cores.is_some();
    let cache = match (on_cpu, context.options.cache) {
        // On a CPU, filling the inputs leaves them in the caches, for both kernels alike.
        (true, _) => "warm",
        (false, Cache::Cold) => "cold",
        (false, Cache::Hot) => "hot",
    };
    let settings = &context.task.settings;
    let baseline = settings.baselines.keys().next().cloned();
    let baseline_digest = Digest::of(context.task.baseline().1).to_string();
    Verdict {
        schema: SCHEMA,
        task: context.task.name.clone(),
        kernel: name.to_owned(),
        backend: if on_cpu { "cpu" } else { "cuda" }.to_owned(),
        status: Status::HarnessError,
        reason: None,
        confirmed: false,
        device,
        sandbox: context.device.sandbox_description(),
        tunables: IndexMap::new(),
        cache: cache.to_owned(),
        state: None,
        screen: None,
        precision: (settings.precision == PrecisionCheck::Unchecked)
            .then(|| "unchecked".to_owned()),
        checked_share: None,
        voided_blocks: 0,
        seeds: vec![seed],
        baseline: Some(BaselineIdentity {
            name: baseline.unwrap_or_default(),
            kind: "kernel".to_owned(),
            versions: IndexMap::from([("source".to_owned(), baseline_digest)]),
        }),
        timing: None,
        dismissal: None,
        timed_against: None,
        strongest: None,
        faster_outside: None,
        code: None,
        not_done: Vec::new(),
        speedup: None,
        workloads: Vec::new(),
        resources: Resources::default(),
        accesses: Vec::new(),
        builds: Vec::new(),
        features: IndexMap::new(),
        evidence: None,
        notes: Vec::new(),
        seconds: Seconds::default(),
    }
}
