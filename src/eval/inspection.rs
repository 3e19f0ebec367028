//! Inspection: runs the bounds and race builds of a candidate to find faults that a fast run hides.
//!
//! Uses the smallest cases and several thread schedules. Times nothing, and never withdraws a finding of the fast build: of all
//! findings the most serious one counts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::case::{Case, derive_seed};
use super::case_kernel::CaseKernel;
use super::compiled_kernel::values_key;
use super::context::JudgeContext;
use super::features::MemoryUse;
use super::finding::{Finding, JudgeError, JudgeResult, undefined_shuffle};
use super::inspected_cases::{one_case_per_shape, smallest_cases};
use super::kernel_set::tolerances;
use super::open_oracle::OpenOracle;
use super::stage_times::{Phase, run_name};
use crate::device::{
    AbsentRead, Build, Compiled, Edge, ExpectedValues, LaunchOutcome, Opened, Poison, Program,
    Purpose,
};
use crate::kernel::Kernel;
use crate::verdict::{Status, Verdict};

/// Schedules of the race build on the first case: one of each kind (see `runtime/schedule.h`). Each other case gets one schedule.
const SCHEDULES: u64 = 4;
/// Schedules of the race build on the first case in a thorough inspection. Each other case gets one of each kind.
const THOROUGH_SCHEDULES: u64 = 4 * SCHEDULES;
/// Maximum deadline of a launch after the fast build has failed: the launch only needs to reach the fault, not to finish.
const EXPLAIN_DEADLINE: Duration = Duration::from_secs(3);
/// After this time no further launch starts. A build that is then incomplete is not in the verdict's `builds`.
const INSPECTION_BUDGET: Duration = Duration::from_secs(60);

/// The bit of a schedule's seed that chooses the value of a lane that takes no part in a shuffle.
const OTHER_ABSENT_VALUE: u64 = 1 << 63;

/// Buffers border on unmapped memory at one end only: these builds check both ends themselves.
const INSPECT_PURPOSE: Purpose = Purpose::Check { edge: Edge::End };

/// Whether an inspection can find the cause of a finding of the fast build with this status.
pub(super) fn can_explain(status: Status) -> bool {
    matches!(
        status,
        Status::OutOfBounds
            | Status::Misaligned
            | Status::SyncError
            | Status::Crashed
            | Status::TimedOut
            | Status::InputMutated
            | Status::OutputUnwritten
            | Status::Nondeterministic
            | Status::WrongOutput
    )
}

/// The result of an inspection.
#[derive(Default)]
pub(super) struct Inspection {
    pub(super) finding: Option<Finding>,
    /// How the kernel used memory; `None` if the race build did not complete on the first case.
    pub(super) memory_use: Option<MemoryUse>,
}

/// What is inspected.
#[derive(Clone, Copy)]
pub(super) struct InspectionInput<'i> {
    pub(super) kernel: &'i Kernel,
    pub(super) cases: &'i [Case],
    pub(super) seed: u64,
    /// Whether the fast build was correct on these cases. Then a wrong result under another schedule is a finding.
    pub(super) is_correct: bool,
}

/// Runs the bounds and race builds, on the smallest cases first. A build ends at its first finding. The verdict gets the names of the
/// builds that completed, and the time.
pub(super) fn inspect(
    context: &JudgeContext<'_>,
    input: InspectionInput<'_>,
    verdict: &mut Verdict,
) -> anyhow::Result<Inspection> {
    let _phase = context.times.phase(Phase::Inspect);
    let started = Instant::now();
    let cases = if context.options.thorough {
        one_case_per_shape(input.cases)
    } else {
        smallest_cases(context, input.kernel, input.cases)
    };
    let builds: Vec<_> = (context.device.builds().iter().copied())
        .filter(|build| *build != Build::Fast)
        .collect();
    let mut compiled = builds.clone();
    if input.is_correct {
        // A wrong result is compared with that of the fast build, which is in the cache.
        compiled.push(Build::Fast);
    }
    let programs = compile_builds(context, input.kernel, &cases, &compiled)?;
    let inspector = Inspector {
        context,
        input,
        programs,
        started,
    };
    let mut inspection = Inspection::default();
    for build in builds {
        let is_complete = inspector.inspect_build(build, &cases, &mut inspection)?;
        // No later build can have a finding of higher precedence.
        let found = inspection.finding.as_ref();
        if found.is_some_and(|finding| finding.status < Status::Race) {
            break;
        }
        if is_complete && !cases.is_empty() {
            verdict.builds.push(build.name().to_owned());
        }
    }
    Ok(inspection)
}

/// Programs by tunable values and build. A build that does not compile is missing: that is no fault of the kernel.
type InspectedPrograms = HashMap<(Vec<i64>, Build), Program>;

fn compile_builds(
    context: &JudgeContext<'_>,
    kernel: &Kernel,
    cases: &[&Case],
    builds: &[Build],
) -> anyhow::Result<InspectedPrograms> {
    let _lock = context.timing_lock.host_work()?;
    let mut programs = InspectedPrograms::new();
    let mut compiled_keys = Vec::new();
    for case in cases {
        let variant = kernel.variant_for(&case.binding, &context.limits);
        let values = kernel.tunable_values(variant.unwrap_or_default());
        let key = values_key(&values);
        if compiled_keys.contains(&key) {
            continue;
        }
        let unit = kernel.translation_unit(context.task, &values, false);
        let started = Instant::now();
        let compiled = context.device.compile_builds(&unit, builds)?;
        context.times.add_builds(&compiled, started.elapsed());
        for (build, compiled) in builds.iter().zip(compiled) {
            if let Compiled::Ready(program) = compiled {
                programs.insert((key.clone(), *build), program);
            }
        }
        compiled_keys.push(key);
    }
    Ok(programs)
}

/// An inspection in progress.
struct Inspector<'i, 'j> {
    context: &'i JudgeContext<'j>,
    input: InspectionInput<'i>,
    programs: InspectedPrograms,
    started: Instant,
}

/// How one run of an inspected build ended.
enum RunOutcome {
    /// No finding.
    Clean(Option<MemoryUse>),
    /// The build does not exist or did not finish in time: nothing is known.
    Unfinished,
}

impl Inspector<'_, '_> {
    /// Runs one build on all cases. Returns whether it completed without a finding.
    fn inspect_build(
        &self,
        build: Build,
        cases: &[&Case],
        inspection: &mut Inspection,
    ) -> anyhow::Result<bool> {
        for (index, case) in cases.iter().enumerate() {
            let seed = derive_seed(self.input.seed, "inspect", index);
            let case_run = CaseRun {
                inspector: self,
                build,
                case,
                seed,
            };
            let mut expected = None;
            for schedule in self.schedules(build, index) {
                if self.started.elapsed() > INSPECTION_BUDGET {
                    return Ok(false);
                }
                match case_run.run(schedule, &mut expected) {
                    Ok(RunOutcome::Clean(memory_use)) => {
                        inspection.memory_use = inspection.memory_use.take().or(memory_use);
                    }
                    Ok(RunOutcome::Unfinished) => return Ok(false),
                    Err(error) => {
                        let finding = error.into_finding()?.in_case(&case.id);
                        let known = inspection.finding.as_ref();
                        if known.is_none_or(|known| finding.status < known.status) {
                            inspection.finding = Some(finding);
                        }
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The schedules of a build on the case with this index. The race build runs the first case under every kind of schedule, and
    /// each other case under one kind. A thorough inspection runs four times as many.
    fn schedules(&self, build: Build, index: usize) -> std::ops::Range<u64> {
        let thorough = self.context.options.thorough;
        let count = match build {
            Build::Race if thorough && index == 0 => THOROUGH_SCHEDULES,
            Build::Race if thorough || index == 0 => SCHEDULES,
            _ => 1,
        };
        let first = if thorough { 0 } else { index as u64 };
        first..first + count
    }
}

/// One build on one case.
struct CaseRun<'r, 'i, 'j> {
    inspector: &'r Inspector<'i, 'j>,
    build: Build,
    case: &'r Case,
    seed: u64,
}

impl CaseRun<'_, '_, '_> {
    /// Runs the build once. `expected`: the oracle's outputs, computed when they are first needed.
    fn run(
        &self,
        schedule: u64,
        expected: &mut Option<Vec<ExpectedValues>>,
    ) -> JudgeResult<RunOutcome> {
        let context = self.inspector.context;
        let input = self.inspector.input;
        let _lock = context.timing_lock.shared()?;
        // The lowest bits are the kind of the schedule, the others the seed of its random choices.
        let schedule_seed = (self.seed.wrapping_add(schedule / SCHEDULES * 0x9e37)
            & !(SCHEDULES - 1)
            & !OTHER_ABSENT_VALUE)
            | (schedule % SCHEDULES);
        let stage = context
            .times
            .stage(run_name(self.build, schedule % SCHEDULES));
        let Some(mut kernel) = self.open(self.build, schedule_seed)? else {
            return Ok(RunOutcome::Unfinished);
        };
        let deadline = if input.is_correct {
            context.deadline()
        } else {
            context.deadline().min(EXPLAIN_DEADLINE)
        };
        match kernel.launch(deadline)? {
            LaunchOutcome::Fault(refusal) if refusal.status == Status::TimedOut => {
                return Ok(RunOutcome::Unfinished);
            }
            LaunchOutcome::Fault(mut refusal) => {
                refusal.evidence.seed = Some(self.seed);
                return Err(refusal.into());
            }
            LaunchOutcome::Finished { .. } => {}
        }
        drop(stage);
        if let Some(read) = kernel.kernel.absent_read() {
            self.check_absent_read(&read, &kernel, schedule_seed)?;
        }
        if input.is_correct {
            self.compare_with_oracle(&kernel, schedule_seed, expected)?;
        }
        // In schedule 0 threads run in order, so the requests of neighbouring warps look as on a GPU.
        if self.build != Build::Race || schedule != 0 {
            return Ok(RunOutcome::Clean(None));
        }
        let Some(sites) = kernel.kernel.accesses() else {
            return Err(anyhow::anyhow!("the race build counted no accesses").into());
        };
        let memory_use = MemoryUse::new(sites, context.task, self.case);
        Ok(RunOutcome::Clean(Some(memory_use)))
    }

    /// Opens a build of the kernel with the inputs of the case. `None` if the build does not exist.
    fn open(&self, build: Build, schedule: u64) -> JudgeResult<Option<CaseKernel>> {
        let context = self.inspector.context;
        let kernel = self.inspector.input.kernel;
        let bound = context.bind(kernel, self.case).map_err(|error| {
            anyhow::anyhow!("a case that was checked can no longer be bound: {error}")
        })?;
        let key = (values_key(&bound.values), build);
        let Some(program) = self.inspector.programs.get(&key) else {
            return Ok(None);
        };
        let program = Program {
            schedule,
            ..program.clone()
        };
        let opened = context
            .device
            .open(&program, &bound.plan, INSPECT_PURPOSE)?;
        let mut kernel = match opened {
            Opened::Ready(kernel) => CaseKernel::new(context, self.case, kernel, bound.plan),
            Opened::Refused(refusal) => return Err(refusal.into()),
        };
        kernel.reset_buffers(self.seed, Poison::Nan)?;
        Ok(Some(kernel))
    }

    /// Checks that the outputs do not depend on the value of a lane that took no part in a shuffle: runs the build again with another
    /// value. All else repeats, so different outputs have this one cause.
    fn check_absent_read(
        &self,
        read: &AbsentRead,
        kernel: &CaseKernel,
        schedule: u64,
    ) -> JudgeResult<()> {
        let Some(mut other) = self.open(self.build, schedule ^ OTHER_ABSENT_VALUE)? else {
            return Ok(());
        };
        if let LaunchOutcome::Fault(refusal) = other.launch(self.inspector.context.deadline())? {
            return Err(refusal.into());
        }
        if kernel.output_hashes()? == other.output_hashes()? {
            return Ok(());
        }
        Err(undefined_shuffle(read, self.build, self.seed).into())
    }

    /// Compares the outputs with the oracle's. An inspection draws new inputs, so if the outputs are wrong, the fast build runs on the
    /// same inputs: the result depends on the schedule only if the fast build is right.
    fn compare_with_oracle(
        &self,
        kernel: &CaseKernel,
        schedule: u64,
        expected: &mut Option<Vec<ExpectedValues>>,
    ) -> JudgeResult<()> {
        let context = self.inspector.context;
        let expected = match expected {
            Some(expected) => expected,
            None => {
                let mut oracle = OpenOracle::open(context, self.case, 1)?;
                let _stage = oracle.stage("oracle");
                oracle.reset_buffers(self.seed, Poison::Nan)?;
                expected.insert(oracle.oracle_outputs(self.seed, context.deadline())?)
            }
        };
        let compared = kernel.compare(&tolerances(context), expected, &[0], self.seed);
        if let Err(error) = compared {
            self.check_fast_build(expected)?;
            return Err(self.as_nondeterministic(error, schedule));
        }
        Ok(())
    }

    /// Checks the fast build on the same inputs.
    fn check_fast_build(&self, expected: &[ExpectedValues]) -> JudgeResult<()> {
        let context = self.inspector.context;
        let Some(mut kernel) = self.open(Build::Fast, 0)? else {
            return Ok(());
        };
        match kernel.launch(context.deadline())? {
            LaunchOutcome::Fault(mut refusal) => {
                refusal.evidence.seed = Some(self.seed);
                Err(refusal.into())
            }
            LaunchOutcome::Finished { .. } => kernel
                .compare(&tolerances(context), expected, &[0], self.seed)
                .map(drop),
        }
    }

    fn as_nondeterministic(&self, error: JudgeError, schedule: u64) -> JudgeError {
        let build = self.build.name();
        error.map_finding(|mut finding| {
            finding.status = Status::Nondeterministic;
            finding.reason = format!(
                "correct in the fast build, but wrong in the `{build}` build, which schedules threads differently: {}",
                finding.reason
            );
            finding.evidence.build = Some(build.to_owned());
            finding.evidence.schedule = (self.build == Build::Race).then_some(schedule);
            finding
        })
    }
}
