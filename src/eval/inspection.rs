//! What a fast run hides: the inspected builds of a candidate, on its smallest cases, under several schedules.
//!
//! Never times anything, and never excuses: a finding here stands beside those of the fast build, and the gravest is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::case_kernel::CaseKernel;
use super::cases::{self, Case};
use super::features::MemoryUse;
use super::kernel_set::tolerances;
use super::{Finding, Judge, values_key};
use crate::device::{
    Build, Compiled, Edge, ExpectedValues, LaunchOutcome, Opened, Poison, Program, Purpose, Refusal,
};
use crate::kernel::Kernel;
use crate::verdict::{Status, Verdict};

/// Schedules of the race build on the smallest case: one of each kind (`runtime/schedule.h`).
const SCHEDULES: u64 = 4;
/// Schedules of a thorough inspection on the first case; on each of the others one of each kind.
const THOROUGH_SCHEDULES: u64 = 4 * SCHEDULES;
/// Hidden cases beyond this many bytes are left to the fast build, unless there is no smaller one.
const SMALL_BYTES: u64 = 1 << 20;
/// The deadline of a launch that is to explain what the fast build has found.
const EXPLAIN_DEADLINE: Duration = Duration::from_secs(3);
/// When no further launch is begun. What was not run is not said to have been: `builds` lacks it.
const INSPECTION_BUDGET: Duration = Duration::from_secs(60);

/// Both ends of a buffer are watched by the inspected builds themselves.
const INSPECT_PURPOSE: Purpose = Purpose::Check { edge: Edge::End };

/// Whether such a finding of the fast build may have a reason that an inspected one can name.
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

/// What the inspected builds found.
pub(super) struct Inspection {
    pub(super) finding: Option<Finding>,
    /// How the race build saw memory used; `None` where it did not run to its end.
    pub(super) memory_use: Option<MemoryUse>,
}

/// Runs the inspected builds on `cases`, the smallest ones first, until one finds something. `is_right`: the fast build gave
/// the right result on them, so one that is wrong under another schedule is a finding.
pub(super) fn inspect(
    judge: &Judge<'_>,
    kernel: &Kernel,
    cases: &[Case],
    (seed, is_right): (u64, bool),
    verdict: &mut Verdict,
) -> anyhow::Result<Inspection> {
    let begun = Instant::now();
    let thorough = judge.options.thorough;
    let chosen = if thorough {
        cases.iter().collect()
    } else {
        smallest_cases(judge, kernel, cases)
    };
    let mut inspection = Inspection {
        finding: None,
        memory_use: None,
    };
    let builds: Vec<_> = (judge.device.builds().iter().copied())
        .filter(|build| *build != Build::Fast)
        .collect();
    let programs = compile_builds(judge, kernel, &chosen, &builds)?;
    for build in builds {
        let mut complete = true;
        'cases: for (index, case) in chosen.iter().enumerate() {
            let run = InspectedCase {
                judge,
                kernel,
                programs: &programs,
                build,
                case,
                seed: cases::derive_seed(seed, "inspect", index),
            };
            let mut expected = None;
            // The first case meets every kind of schedule, the others one each; a thorough inspection is four times as much.
            let schedules = match build {
                Build::Race if thorough && index == 0 => THOROUGH_SCHEDULES,
                Build::Race if thorough || index == 0 => SCHEDULES,
                _ => 1,
            };
            for turn in 0..schedules {
                if begun.elapsed() > INSPECTION_BUDGET {
                    complete = false;
                    break 'cases;
                }
                let schedule = if thorough { turn } else { turn + index as u64 };
                match run.run(schedule, is_right.then_some(&mut expected))? {
                    RunOutcome::Clean(memory) => {
                        inspection.memory_use = inspection.memory_use.or(memory)
                    }
                    RunOutcome::Unfinished => {
                        complete = false;
                        break 'cases;
                    }
                    RunOutcome::Found(mut finding) => {
                        finding.case.get_or_insert_with(|| case.id.clone());
                        let known = inspection.finding.as_ref();
                        if known.is_none_or(|known| finding.refusal.status < known.refusal.status) {
                            inspection.finding = Some(finding);
                        }
                        complete = false;
                        break 'cases;
                    }
                }
            }
        }
        // Nothing that a later build could find is graver.
        let found = inspection.finding.as_ref();
        if found.is_some_and(|finding| finding.refusal.status < Status::Race) {
            break;
        }
        if complete && !chosen.is_empty() {
            verdict.builds.push(build.name().to_owned());
        }
    }
    verdict.seconds.inspect = begun.elapsed().as_secs_f64();
    Ok(inspection)
}

/// For each set of values in force the smallest case, a workload where one has it; then the smallest shape of all, and the
/// largest hidden one that is still small: code for the ends of rows and for vectors runs in one of them.
pub(super) fn smallest_cases<'c>(
    judge: &Judge<'_>,
    kernel: &Kernel,
    cases: &'c [Case],
) -> Vec<&'c Case> {
    let mut sized: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let variant = kernel.variant_for(&case.binding, &judge.limits).ok()?;
            let plan = case_plan(judge, kernel, case).ok()?;
            let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
            Some((bytes, variant, case))
        })
        .collect();
    sized.sort_by_key(|(bytes, ..)| *bytes);
    let mut met = Vec::new();
    let mut chosen: Vec<&Case> = Vec::new();
    let (hidden, visible): (Vec<_>, Vec<_>) = sized.into_iter().partition(|(.., case)| case.hidden);
    for (_, variant, case) in visible.iter().chain(&hidden) {
        if !met.contains(variant) {
            met.push(*variant);
            chosen.push(*case);
        }
    }
    let ends = [
        hidden.first(),
        hidden.iter().rfind(|(bytes, ..)| *bytes <= SMALL_BYTES),
    ];
    for (.., case) in ends.into_iter().flatten() {
        if !chosen.iter().any(|one| std::ptr::eq(*one, *case)) {
            chosen.push(*case);
        }
    }
    chosen
}

pub(super) fn case_plan(
    judge: &Judge<'_>,
    kernel: &Kernel,
    case: &Case,
) -> Result<crate::kernel::plan::Plan, crate::kernel::BindError> {
    let variant = kernel.variant_for(&case.binding, &judge.limits)?;
    let target = crate::kernel::LaunchTarget {
        task: judge.task,
        binding: &case.binding,
        scalars: &case.scalars(judge.task),
        limits: &judge.limits,
        is_oracle: false,
    };
    kernel.launch_plan(&target, &kernel.tunable_values(variant))
}

fn finding_of(refusal: Refusal) -> Finding {
    Finding {
        refusal,
        case: None,
    }
}

/// By values in force and build. What only an inspected build refuses says nothing about the kernel, and is not there.
type InspectedPrograms = HashMap<(Vec<i64>, Build), Program>;

fn compile_builds(
    judge: &Judge<'_>,
    kernel: &Kernel,
    cases: &[&Case],
    builds: &[Build],
) -> anyhow::Result<InspectedPrograms> {
    let _sharing = judge.timing_lock.host_work()?;
    let mut programs = InspectedPrograms::new();
    let mut met = Vec::new();
    for case in cases {
        let variant = kernel.variant_for(&case.binding, &judge.limits);
        let values = kernel.tunable_values(variant.unwrap_or_default());
        let key = values_key(&values);
        if met.contains(&key) {
            continue;
        }
        let unit = kernel.translation_unit(judge.task, &values, false);
        let compiled = judge.device.compile_builds(&unit, builds)?;
        for (build, compiled) in builds.iter().zip(compiled) {
            if let Compiled::Ready(program) = compiled {
                programs.insert((key.clone(), *build), program);
            }
        }
        met.push(key);
    }
    Ok(programs)
}

enum RunOutcome {
    Clean(Option<MemoryUse>),
    /// The inspected build did not come to an end: nothing is known.
    Unfinished,
    Found(Finding),
}

/// One build on one case.
struct InspectedCase<'r, 'j> {
    judge: &'r Judge<'j>,
    kernel: &'r Kernel,
    programs: &'r InspectedPrograms,
    build: Build,
    case: &'r Case,
    seed: u64,
}

impl InspectedCase<'_, '_> {
    /// `expected`: the oracle's outputs, made when they are first needed; `None` where nothing is compared.
    fn run(
        &self,
        schedule: u64,
        expected: Option<&mut Option<Vec<ExpectedValues>>>,
    ) -> anyhow::Result<RunOutcome> {
        let _sharing = self.judge.timing_lock.shared()?;
        let variant = (self.kernel).variant_for(&self.case.binding, &self.judge.limits);
        let values = self.kernel.tunable_values(variant.unwrap_or_default());
        let Some(program) = self.programs.get(&(values_key(&values), self.build)) else {
            return Ok(RunOutcome::Unfinished);
        };
        let program = Program {
            // The kind of the schedule, and in the same number the seed of its turns.
            schedule: (self.seed.wrapping_add(schedule / SCHEDULES * 0x9e37) & !(SCHEDULES - 1))
                | (schedule % SCHEDULES),
            ..program.clone()
        };
        let plan = case_plan(self.judge, self.kernel, self.case)
            .map_err(|error| anyhow::anyhow!("a case that was checked cannot be bound: {error}"))?;
        let mut bound = match self.judge.device.open(&program, &plan, INSPECT_PURPOSE)? {
            Opened::Ready(arm) => CaseKernel::new(self.judge, self.case, arm, plan),
            Opened::Refused(refusal) => return Ok(RunOutcome::Found(finding_of(refusal))),
        };
        bound.reset_buffers(self.seed, Poison::Nan)?;
        // Where the fast build did not end, an inspected one is given time to stumble, not to run to the end.
        let deadline = match expected.is_some() {
            true => self.judge.deadline(),
            false => self.judge.deadline().min(EXPLAIN_DEADLINE),
        };
        match bound.launch(deadline)? {
            LaunchOutcome::Fault(refusal) if refusal.status == Status::TimedOut => {
                return Ok(RunOutcome::Unfinished);
            }
            LaunchOutcome::Fault(mut refusal) => {
                refusal.evidence.seed = Some(self.seed);
                return Ok(RunOutcome::Found(finding_of(refusal)));
            }
            LaunchOutcome::Finished { .. } => {}
        }
        if let Some(expected) = expected
            && let Some(finding) = self.compare_with_oracle(&bound, &program, expected)?
        {
            return Ok(RunOutcome::Found(finding));
        }
        // In order, requests of neighbouring warps are seen as a GPU would make them.
        if self.build != Build::Race || schedule != 0 {
            return Ok(RunOutcome::Clean(None));
        }
        let Some(sites) = bound.kernel.accesses() else {
            anyhow::bail!("the race build counted no accesses");
        };
        Ok(RunOutcome::Clean(Some(MemoryUse::new(
            sites,
            self.judge.task,
            self.case,
        ))))
    }

    /// Whether this schedule gave another result than the fast build: one that is wrong.
    fn compare_with_oracle(
        &self,
        bound: &CaseKernel,
        program: &Program,
        expected: &mut Option<Vec<ExpectedValues>>,
    ) -> anyhow::Result<Option<Finding>> {
        let judge = self.judge;
        let expected = match expected {
            Some(expected) => expected,
            None => {
                let mut oracle = CaseKernel::open_reference(
                    judge,
                    &judge.oracle,
                    self.case,
                    true,
                    INSPECT_PURPOSE,
                )?;
                oracle.reset_buffers(self.seed, Poison::Nan)?;
                expected.insert(oracle.oracle_outputs(self.seed, judge.deadline())?)
            }
        };
        let compared = bound.compare(&tolerances(judge), expected, &[0], self.seed)?;
        Ok(compared.err().map(|mut finding| {
            let refusal = &mut finding.refusal;
            refusal.status = Status::Nondeterministic;
            refusal.reason = format!(
                "right in the fast build, and wrong in the `{}` one, whose threads take other turns: {}",
                self.build.name(),
                refusal.reason
            );
            refusal.evidence.build = Some(self.build.name().to_owned());
            refusal.evidence.schedule = (self.build == Build::Race).then_some(program.schedule);
            finding
        }))
    }
}
