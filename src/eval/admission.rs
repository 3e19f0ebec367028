//! The admission test of a task: are its oracle, tolerances and kernels sound? (`kforge tasks check`)
//!
//! Corrupted outputs must fail the comparison, on every workload and in every regime (see `corruption`), and the task's own
//! kernels must pass. No cheating kernel is compiled: the oracle's outputs are corrupted. Judges no candidate.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::case::{Case, derive_seed};
use super::cases::select_cases;
use super::check::check_case;
use super::context::{JudgeContext, JudgeOptions};
use super::corruption::{CorruptionResults, CorruptionTest, MissedCorruption};
use crate::base::{Failure, FailureKind, random};
use crate::device::Device;
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{PrecisionCheck, Task};
use crate::verdict::Status;

/// A tolerance above this is meaningless.
const MAX_TOLERANCE: f64 = 0.1;

/// The result of the test.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Admission {
    pub task: String,
    pub admitted: bool,
    /// `checked` or `unchecked`.
    pub precision: PrecisionCheck,
    /// Number of workloads tested.
    pub workloads: usize,
    pub regimes: Vec<String>,
    /// Number of corrupted outputs that were compared.
    pub comparisons: usize,
    /// Corrupted outputs that passed the comparison.
    pub passed: Vec<MissedCorruption>,
    /// Other faults of the task.
    pub faults: Vec<TaskFault>,
    #[serde(serialize_with = "crate::base::exact::seed::serialize")]
    pub seed: u64,
    pub seconds: f64,
}

/// Something that is wrong with a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TaskFault {
    pub workload: Option<String>,
    pub regime: Option<String>,
    pub reason: String,
}

/// A case of the test. All regimes of a workload share its id.
#[derive(Clone)]
struct AdmissionCase {
    workload: String,
    case: Case,
}

/// Tests a task on the profile's workloads, each with the timed input distributions and in every regime.
///
/// # Errors
/// If the machinery is broken. Faults of the task are part of the result.
pub(crate) fn admit(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    limits: DeviceLimits,
    seed: Option<u64>,
) -> anyhow::Result<Admission> {
    let started = Instant::now();
    let regimes = task.regimes();
    let mut admission = Admission {
        task: task.name.clone(),
        admitted: false,
        precision: task.settings.precision,
        workloads: 0,
        regimes: regimes.keys().cloned().collect(),
        comparisons: 0,
        passed: Vec::new(),
        faults: Vec::new(),
        seed: seed.unwrap_or_else(random::fresh_seed),
        seconds: 0.0,
    };
    check_tolerances(task, &mut admission);
    let mut cases = Vec::new();
    for workload in task.selected_workloads(&options.profile) {
        let usual = Case::of_workload(workload);
        let regimes = regimes.iter();
        let in_regimes = regimes.map(|(name, regime)| usual.with_regime(name, regime));
        let all = std::iter::once(usual.clone()).chain(in_regimes);
        cases.extend(all.map(|case| AdmissionCase {
            workload: workload.id.clone(),
            case,
        }));
        admission.workloads += 1;
    }
    let tested = JudgeContext::open(device, task, options, limits)
        .and_then(|context| run_tests(context, &cases, &mut admission));
    if let Err(error) = tested {
        // An oracle or a baseline that does not work is a fault of the task.
        match error.downcast_ref::<Failure>() {
            Some(failure) if failure.kind == FailureKind::Reference => {
                admission.faults.push(TaskFault {
                    workload: None,
                    regime: None,
                    reason: failure.message.clone(),
                });
            }
            _ => return Err(error),
        }
    }
    admission.admitted = admission.passed.is_empty() && admission.faults.is_empty();
    admission.seconds = started.elapsed().as_secs_f64();
    Ok(admission)
}

fn check_tolerances(task: &Task, admission: &mut Admission) {
    for (name, tolerance) in &task.settings.tolerance {
        if tolerance.rtol.max(tolerance.atol_rms) > MAX_TOLERANCE {
            admission.faults.push(TaskFault {
                workload: None,
                regime: None,
                reason: format!("tolerance.{name}: more than {MAX_TOLERANCE} lets anything pass"),
            });
        }
    }
}

fn run_tests(
    mut context: JudgeContext<'_>,
    cases: &[AdmissionCase],
    admission: &mut Admission,
) -> anyhow::Result<()> {
    let all: Vec<_> = cases.iter().map(|test| test.case.clone()).collect();
    context.prepare_references(&all)?;
    for (index, AdmissionCase { workload, case }) in cases.iter().enumerate() {
        let mut results = CorruptionResults::default();
        let test = CorruptionTest {
            context: &context,
            case,
            workload,
        };
        test.run(derive_seed(admission.seed, "admit", index), &mut results)?;
        admission.comparisons += results.comparisons;
        admission.passed.extend(results.missed);
    }
    // Sorted, and each kernel once: the baseline may be a starting kernel too.
    let mut kernels: BTreeMap<&str, &str> = context.task.starting_kernels().collect();
    kernels.extend([context.task.baseline()]);
    for (name, source) in kernels {
        check_task_kernel(&context, name, source, cases, admission)?;
    }
    Ok(())
}

/// Checks a baseline or a starting kernel: it must pass on every case that a candidate would be checked on.
fn check_task_kernel(
    context: &JudgeContext<'_>,
    name: &str,
    source: &str,
    cases: &[AdmissionCase],
    admission: &mut Admission,
) -> anyhow::Result<()> {
    let seed = admission.seed;
    let mut add_fault = |test: Option<&AdmissionCase>, reason: &str| {
        admission.faults.push(TaskFault {
            workload: test.map(|test| test.workload.clone()),
            regime: test.and_then(|test| test.case.regime_name()),
            reason: format!("`{name}` fails: {reason}"),
        });
    };
    let task = context.task;
    let kernel = match Kernel::parse(source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => {
            add_fault(None, &error.to_string());
            return Ok(());
        }
    };
    let profile = &context.options.profile;
    let mut tests = cases.to_vec();
    match select_cases(task, profile, &kernel, &context.limits, seed) {
        Ok(selected) => {
            let hidden = selected.into_iter().filter(|case| case.hidden);
            tests.extend(hidden.map(|case| AdmissionCase {
                workload: case.id.clone(),
                case,
            }));
        }
        Err(error) => {
            add_fault(None, &error.to_string());
            return Ok(());
        }
    }
    let all: Vec<_> = tests.iter().map(|test| test.case.clone()).collect();
    let compiled = match context.compile(kernel, &all) {
        Ok(compiled) => compiled,
        Err(error) => {
            let finding = error.into_finding()?;
            // A starting kernel may need another device; the baseline must run on this one.
            if finding.status != Status::Unsupported || name == task.baseline().0 {
                add_fault(None, &finding.reason);
            }
            return Ok(());
        }
    };
    let _lock = context.timing_lock.shared()?;
    for (index, test) in tests.iter().enumerate() {
        let seed = derive_seed(seed, "own kernel", index);
        if let Err(error) = check_case(context, &compiled, &test.case, &[seed]) {
            add_fault(Some(test), &error.into_finding()?.reason);
        }
    }
    Ok(())
}
