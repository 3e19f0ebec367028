//! The judge: compile, check against the oracle, time against the baseline (DESIGN section 9). Written once, over `device`.
//!
//! Never decides what to keep, never writes a file, never lets a candidate's fault become an error.

use std::time::{Duration, Instant};

use anyhow::bail;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::{Digest, Failure, random};
use crate::device::{Build, Cache, Device, Refusal};
use crate::kernel::{BindError, BindFault, DeviceLimits, Kernel};
use crate::task::{PrecisionCheck, Profile, Task};
use crate::verdict::{BaselineIdentity, Duel, Evidence, Seconds, SelfTest, Status, Verdict};

mod admission;
mod case_kernel;
mod cases;
mod check;
mod compiled;
mod example;
mod features;
mod hidden;
mod inspection;
mod kernel_set;
mod measure;
mod probe;
mod programs;
mod screen;
mod timing_lock;

pub(crate) use admission::{Admission, admit};
pub(crate) use compiled::compile_only;
pub use example::{OracleExample, oracle_example};
pub use probe::{ProbeCases, ProbedLaunch, probe};
pub(crate) use screen::CpuScreen;
pub(crate) use timing_lock::{TimingLock, TimingLockGuard};

use cases::Case;
use programs::{CompiledKernel, ReferenceKernel, values_key};

/// How to judge; the same for every candidate of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeOptions {
    pub profile: Profile,
    /// Deadline of one launch, seconds.
    pub launch_seconds: f64,
    /// Whether the inspected builds run on every case and under many schedules, rather than on the smallest cases.
    #[serde(default)]
    pub thorough: bool,
    /// What a kernel finds in the device's caches when it is timed.
    #[serde(default)]
    pub cache: Cache,
}

/// A task made ready on a device: the oracle and the baseline are compiled, and the baseline is known to be right.
pub struct Judge<'a> {
    device: &'a dyn Device,
    task: &'a Task,
    options: JudgeOptions,
    limits: DeviceLimits,
    oracle: ReferenceKernel,
    baseline: ReferenceKernel,
    timing_lock: TimingLock,
    /// What a kernel must pass before it costs time on this device.
    screen: Option<Box<CpuScreen<'a>>>,
}

/// What ends a judgement before it is complete: a finding about the candidate.
struct Finding {
    refusal: Refusal,
    /// The case that showed it, if any.
    case: Option<String>,
}

impl<'a> Judge<'a> {
    /// Compiles oracle and baseline, and checks the baseline on every selected workload.
    ///
    /// # Errors
    /// `Failure::usage` for hot caches where outputs take the place of inputs, `Failure::reference` where the oracle or the
    /// baseline does not work, anything else where the machinery does not.
    pub fn new(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        machine: DeviceLimits,
    ) -> anyhow::Result<Self> {
        Self::with_baseline_check(device, task, options, machine, usize::MAX)
    }

    /// The same, and the baseline is checked on the first of the workloads only.
    ///
    /// # Errors
    /// As for `new`.
    pub(crate) fn with_proven_baseline(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        machine: DeviceLimits,
    ) -> anyhow::Result<Self> {
        Self::with_baseline_check(device, task, options, machine, 1)
    }

    fn with_baseline_check(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        machine: DeviceLimits,
        max_workloads: usize,
    ) -> anyhow::Result<Self> {
        // One launch's outputs would be the next one's inputs: what comes out of a sample no oracle can tell.
        if options.cache == Cache::Hot
            && !device.lock_file().is_host
            && !task.settings.in_place.is_empty()
        {
            return Err(Failure::usage(format!(
                "task `{}` writes its outputs in the place of inputs: it cannot be timed with hot caches",
                task.name
            ))
            .hint("leave `eval.cache` at `cold`")
            .into());
        }
        let mut judge = Self::without_baseline_check(device, task, options, machine)?;
        let cases: Vec<_> = task
            .selected_workloads(&judge.options.profile)
            .into_iter()
            .map(Case::of_workload)
            .collect();
        judge.prepare_references(&cases)?;
        let baseline = CompiledKernel {
            kernel: judge.baseline.kernel.clone(),
            programs: judge.baseline.programs.clone(),
            seconds: 0.0,
        };
        for case in cases.iter().take(max_workloads) {
            let seed = random::fresh_seed();
            if let Err(finding) = check::check_case(&judge, &baseline, case, &[seed])? {
                let reason = finding.refusal.reason;
                return Err(Failure::reference(format!("the baseline `{}` of task `{}` fails on workload `{}`: {reason}", task.baseline().0, task.name, case.id))
                    .hint("a baseline must agree with the oracle within the tolerance: mend one of the two")
                    .into());
            }
        }
        Ok(judge)
    }

    /// Nothing compiled yet, the baseline not looked at.
    fn without_baseline_check(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        machine: DeviceLimits,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            device,
            task,
            limits: machine,
            oracle: ReferenceKernel::parse(&task.oracle, task, "oracle")?,
            baseline: ReferenceKernel::parse(task.baseline().1, task, "baseline")?,
            timing_lock: TimingLock::open(device.lock_file())?,
            screen: None,
            options,
        })
    }

    /// Has kernels pass a screen first.
    pub(crate) fn set_screen(&mut self, screen: CpuScreen<'a>) {
        self.screen = Some(Box::new(screen));
    }

    /// How much memory a kernel takes on a case; more than there is where it cannot be bound.
    fn memory_bytes(&self, kernel: &Kernel, case: &Case) -> u64 {
        let plan = inspection::case_plan(self, kernel, case);
        plan.map_or(u64::MAX, |plan| {
            plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
        })
    }

    /// Judges one kernel. The seeds are drawn here, after the candidate is fixed, unless `seed` repeats an earlier judgement.
    pub fn judge(
        &mut self,
        name: &str,
        source: &str,
        seed: Option<u64>,
    ) -> anyhow::Result<Verdict> {
        let seed = seed.unwrap_or_else(random::fresh_seed);
        let mut verdict = self.blank_verdict(name, seed);
        let outcome = self.judge_stages(source, seed, &mut verdict)?;
        match outcome {
            Ok(()) => {}
            Err(finding) => {
                verdict.status = finding.refusal.status;
                verdict.reason = Some(finding.refusal.reason);
                verdict.speedup = None;
                let mut evidence = *finding.refusal.evidence;
                evidence.seed.get_or_insert(seed);
                if evidence.workload.is_none() {
                    evidence.workload = finding.case;
                }
                verdict.evidence = Some(evidence);
            }
        }
        Ok(verdict)
    }

    /// Times the baseline against itself on every selected workload.
    pub(crate) fn self_test(&mut self) -> anyhow::Result<Vec<SelfTest>> {
        let cases: Vec<_> = (self
            .task
            .selected_workloads(&self.options.profile)
            .into_iter())
        .map(Case::of_workload)
        .collect();
        let seed = random::fresh_seed();
        let baseline = CompiledKernel {
            kernel: self.baseline.kernel.clone(),
            programs: self.baseline.programs.clone(),
            seconds: 0.0,
        };
        let mut tests = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let seed = cases::derive_seed(seed, "itself", index);
            match measure::measure(self, &baseline, Some(&baseline), case, seed)? {
                Ok(measurement) => tests.push(measurement.to_self_test(case)),
                // So much noise that nothing could be told: the intervals of all candidates will say so too.
                Err(finding) if finding.refusal.status == Status::Inconclusive => {}
                Err(finding) => bail!("the baseline against itself: {}", finding.refusal.reason),
            }
        }
        Ok(tests)
    }

    /// Times two candidates that both passed against each other on every selected workload.
    /// `None` where one of them no longer runs correctly.
    pub fn duel(&mut self, challenger: &str, incumbent: &str) -> anyhow::Result<Option<Duel>> {
        let seed = random::fresh_seed();
        let cases: Vec<_> = self
            .task
            .selected_workloads(&self.options.profile)
            .into_iter()
            .map(Case::of_workload)
            .collect();
        let mut arms = Vec::new();
        for source in [challenger, incumbent] {
            let Ok(kernel) = Kernel::parse(source, &self.task.definition) else {
                return Ok(None);
            };
            match self.compile(kernel, &cases)? {
                Ok(compilation) => arms.push(compilation),
                Err(_) => return Ok(None),
            }
        }
        let mut estimates = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let seed = cases::derive_seed(seed, "duel", index);
            match measure::measure(self, &arms[0], Some(&arms[1]), case, seed)? {
                Ok(measurement) => estimates.push(measurement.estimate),
                Err(_) => return Ok(None),
            }
        }
        Ok(measure::combine(&estimates).map(|speedup| Duel {
            ratio: speedup.geomean,
            ci95: speedup.ci95,
        }))
    }

    fn judge_stages(
        &mut self,
        source: &str,
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Result<(), Finding>> {
        let kernel = match Kernel::parse(source, &self.task.definition) {
            Ok(kernel) => kernel,
            Err(error) => {
                let evidence = Evidence {
                    line: Some(error.line),
                    ..Evidence::default()
                };
                return Ok(Err(Finding::new(
                    Status::Rejected,
                    format!("header, {error}"),
                    evidence,
                )));
            }
        };
        verdict.tunables = kernel.point();
        let cases = match cases::select_cases(
            self.task,
            &self.options.profile,
            &kernel,
            &self.limits,
            seed,
        ) {
            Ok(cases) => cases,
            Err(error) => return Ok(Err(error.into())),
        };
        self.prepare_references(&cases)?;
        let compilation = match self.compile(kernel, &cases)? {
            Ok(compilation) => compilation,
            Err(finding) => return Ok(Err(finding)),
        };
        verdict.seconds.compile = compilation.seconds;
        if let Some(program) = compilation.programs.values().next() {
            verdict.resources = program.resources.clone();
        }
        features::add_source_features(&compilation.kernel, self, &cases, verdict);
        for program in compilation.programs.values() {
            verdict.features.extend(program.features.clone());
        }
        if let Some(mut screen) = self.screen.take() {
            let looked = screen.run(&compilation.kernel, seed, verdict);
            self.screen = Some(screen);
            if let Some(finding) = looked? {
                return Ok(Err(finding));
            }
        }
        let begun = Instant::now();
        let checked = self.check_all(&compilation, &cases, seed, verdict)?;
        verdict.seconds.check = begun.elapsed().as_secs_f64();
        if let Err(finding) = checked {
            return Ok(Err(self.explain(
                finding,
                &compilation.kernel,
                &cases,
                seed,
                verdict,
            )?));
        }
        verdict.builds.push(Build::Fast.name().to_owned());
        // Cheaper than timing, and graver than anything that timing could find.
        let inspection =
            inspection::inspect(self, &compilation.kernel, &cases, (seed, true), verdict)?;
        if let Some(finding) = inspection.finding {
            return Ok(Err(finding));
        }
        if let Some(memory) = inspection.memory_use {
            memory.write_to(verdict);
        }
        let begun = Instant::now();
        let measured = self.measure_all(&compilation, &cases, seed, verdict)?;
        verdict.seconds.measure = begun.elapsed().as_secs_f64();
        Ok(measured)
    }

    /// What the inspected builds say of a kernel that fails: where, and whether something graver is behind it.
    fn explain(
        &self,
        finding: Finding,
        kernel: &Kernel,
        cases: &[Case],
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Finding> {
        let case = (finding.case.as_ref()).and_then(|id| cases.iter().find(|case| case.id == *id));
        let (Some(case), true) = (case, inspection::can_explain(finding.refusal.status)) else {
            return Ok(finding);
        };
        let near = if self.options.thorough {
            cases
        } else {
            std::slice::from_ref(case)
        };
        let inspection = inspection::inspect(self, kernel, near, (seed, false), verdict)?;
        Ok(match inspection.finding {
            Some(deeper) if deeper.refusal.status <= finding.refusal.status => deeper,
            _ => finding,
        })
    }

    fn check_all(
        &self,
        compilation: &CompiledKernel,
        cases: &[Case],
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Result<(), Finding>> {
        let _sharing = self.timing_lock.shared()?;
        for (index, case) in cases.iter().enumerate() {
            // Hidden cases are many and unlike each other: one round is enough for each.
            let rounds = match case.hidden {
                false => self.options.profile.rounds,
                true => 1,
            };
            let seeds: Vec<_> = (0..rounds)
                .map(|round| cases::derive_seed(seed, "check", index * 1000 + round as usize))
                .collect();
            let variant = compilation
                .kernel
                .variant_for(&case.binding, &self.limits)
                .unwrap_or_default();
            let mut entry = check::blank_entry(case, variant);
            let outcome = check::check_case(self, compilation, case, &seeds)?;
            match outcome {
                Ok(accuracy) => {
                    if let Some(resources) = &accuracy.resources {
                        verdict.resources = resources.clone();
                    }
                    if accuracy.state_unchecked {
                        verdict.state = Some("unchecked".to_owned());
                    }
                    accuracy.write_to(&mut entry);
                    entry.status = Status::Passed;
                    verdict.workloads.push(entry);
                }
                Err(mut finding) => {
                    entry.status = finding.refusal.status;
                    finding.case = Some(case.id.clone());
                    verdict.workloads.push(entry);
                    return Ok(Err(finding));
                }
            }
        }
        Ok(Ok(()))
    }

    fn measure_all(
        &self,
        compilation: &CompiledKernel,
        cases: &[Case],
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Result<(), Finding>> {
        let mut estimates = Vec::new();
        let mut variances = Vec::new();
        let mut shares = Vec::new();
        for (index, case) in cases.iter().enumerate().filter(|(_, case)| !case.hidden) {
            let seed = cases::derive_seed(seed, "measure", index);
            let measured = measure::measure(self, compilation, None, case, seed)?;
            let measurement = match measured {
                Ok(measurement) => measurement,
                Err(mut finding) => {
                    finding.case = Some(case.id.clone());
                    verdict.workloads[index].status = finding.refusal.status;
                    return Ok(Err(finding));
                }
            };
            if measurement
                .floor
                .is_some_and(|floor| measurement.candidate.median < floor.physical_us)
            {
                let reason = format!(
                    "workload `{}`: {:.2} us is less than the device needs to move the data and do the sums",
                    case.id, measurement.candidate.median
                );
                verdict.workloads[index].status = Status::Suspicious;
                return Ok(Err(Finding::new(
                    Status::Suspicious,
                    reason,
                    Evidence::default(),
                )));
            }
            shares.push(measurement.checked_share);
            verdict.voided_blocks += measurement.voided;
            variances.push(measurement.candidate.std / measurement.candidate.median);
            measurement.write_to(&mut verdict.workloads[index]);
            estimates.push(measurement.estimate);
        }
        verdict.checked_share = Some(shares.iter().sum::<f64>() / shares.len().max(1) as f64);
        verdict.speedup = measure::combine(&estimates);
        if verdict.speedup.is_none() {
            bail!("no workload was measured");
        }
        features::add_timing_features(verdict, &variances);
        verdict.status = Status::Passed;
        Ok(Ok(()))
    }

    fn blank_verdict(&self, name: &str, seed: u64) -> Verdict {
        let device = self.device.identity();
        let host = device.cores.is_some();
        Verdict {
            schema: crate::verdict::SCHEMA,
            task: self.task.name.clone(),
            kernel: name.to_owned(),
            backend: if host { "cpu" } else { "cuda" }.to_owned(),
            status: Status::HarnessError,
            reason: None,
            confirmed: false,
            device,
            sandbox: self.device.sandbox_description(),
            tunables: IndexMap::new(),
            // Where the host is the device, filling the inputs leaves them in its caches, for both arms alike.
            cache: match (host, self.options.cache) {
                (true, _) => "warm",
                (false, Cache::Cold) => "cold",
                (false, Cache::Hot) => "hot",
            }
            .to_owned(),
            state: None,
            screen: None,
            precision: (self.task.settings.precision == PrecisionCheck::Unchecked)
                .then(|| "unchecked".to_owned()),
            checked_share: None,
            voided_blocks: 0,
            seeds: vec![seed],
            baseline: Some(BaselineIdentity {
                name: self
                    .task
                    .settings
                    .baselines
                    .keys()
                    .next()
                    .cloned()
                    .unwrap_or_default(),
                kind: "kernel".to_owned(),
                versions: IndexMap::from([(
                    "source".to_owned(),
                    Digest::of(self.task.baseline().1).to_string(),
                )]),
            }),
            speedup: None,
            workloads: Vec::new(),
            resources: crate::verdict::Resources::default(),
            accesses: Vec::new(),
            builds: Vec::new(),
            features: IndexMap::new(),
            evidence: None,
            seconds: Seconds::default(),
        }
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.options.launch_seconds)
    }
}

impl Finding {
    fn new(status: Status, reason: impl Into<String>, evidence: impl Into<Box<Evidence>>) -> Self {
        Self {
            refusal: Refusal {
                status,
                reason: reason.into(),
                evidence: evidence.into(),
            },
            case: None,
        }
    }
}

impl From<BindError> for Finding {
    fn from(error: BindError) -> Self {
        let status = match error.fault {
            BindFault::Rejected => Status::Rejected,
            BindFault::LaunchError => Status::LaunchError,
            BindFault::LimitExceeded => Status::LimitExceeded,
        };
        let evidence = Evidence {
            line: Some(error.line),
            ..Evidence::default()
        };
        Self::new(status, error.to_string(), evidence)
    }
}
