//! The admission test of a task: what must not pass is made here, and compared as a candidate's outputs are.
//!
//! Zeros, means, copies of inputs, outputs of other inputs, half the work, reduced precision: on every workload and under every
//! regime each must fail, and the task's own kernels must pass. Nothing that cheats is compiled: the oracle computes, and its
//! outputs are spoilt. Never judges a candidate.

use std::collections::HashMap;
use std::time::Instant;

use serde::Serialize;

use super::case_kernel::{CaseKernel, UNTIMED};
use super::cases::{Case, derive_seed};
use super::{Judge, JudgeOptions, cases, check};
use crate::base::{Failure, random};
use crate::device::{BufferContent, Device, Poison, numerics};
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{DType, PrecisionCheck, Task, Tolerance};
use crate::verdict::Status;

/// A tolerance beyond this says nothing.
const MAX_TOLERANCE: f64 = 0.1;

/// What became of a task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Admission {
    pub task: String,
    pub admitted: bool,
    /// `checked` or `unchecked`.
    pub precision: PrecisionCheck,
    pub workloads: usize,
    pub regimes: Vec<String>,
    /// How many spoilt outputs were compared.
    pub comparisons: usize,
    /// What passed and must not.
    pub passed: Vec<MissedCorruption>,
    /// What else is wrong with the task.
    pub faults: Vec<TaskFault>,
    pub seed: u64,
    pub seconds: f64,
}

/// A spoilt output that the comparison let pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MissedCorruption {
    /// What was made, such as `zeros`.
    pub candidate: String,
    /// The output that was spoilt; `None` where all were.
    pub output: Option<String>,
    pub workload: String,
    pub regime: Option<String>,
    /// The largest error, as a share of the bound.
    pub error: f64,
}

/// Something that a task must not have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TaskFault {
    pub workload: Option<String>,
    pub regime: Option<String>,
    pub reason: String,
}

/// Tests a task on the profile's workloads, each under the inputs that are timed and under every regime.
///
/// # Errors
/// Where the machinery does not work; what is wrong with the task is in the result.
pub(crate) fn admit(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    machine: DeviceLimits,
    seed: Option<u64>,
) -> anyhow::Result<Admission> {
    let begun = Instant::now();
    let seed = seed.unwrap_or_else(random::fresh_seed);
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
        seed,
        seconds: 0.0,
    };
    for (name, tolerance) in &task.settings.tolerance {
        if tolerance.rtol.max(tolerance.atol_rms) > MAX_TOLERANCE {
            admission.faults.push(TaskFault {
                workload: None,
                regime: None,
                reason: format!("tolerance.{name}: more than {MAX_TOLERANCE} lets anything pass"),
            });
        }
    }
    let mut cases = Vec::new();
    for workload in task.selected_workloads(&options.profile) {
        let case = Case::of_workload(workload);
        cases.push((workload.id.clone(), case.clone()));
        let under = regimes.iter();
        cases.extend(
            under.map(|(name, regime)| (workload.id.clone(), case.with_regime(name, regime))),
        );
        admission.workloads += 1;
    }
    match run_tests(device, task, options, machine, &cases, &mut admission) {
        Ok(()) => {}
        // An oracle or a baseline that does not work is what this looks for.
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) if failure.kind == crate::base::FailureKind::Reference => {
                admission.faults.push(TaskFault {
                    workload: None,
                    regime: None,
                    reason: failure.message.clone(),
                });
            }
            _ => return Err(error),
        },
    }
    admission.admitted = admission.passed.is_empty() && admission.faults.is_empty();
    admission.seconds = begun.elapsed().as_secs_f64();
    Ok(admission)
}

fn run_tests(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    machine: DeviceLimits,
    cases: &[(String, Case)],
    admission: &mut Admission,
) -> anyhow::Result<()> {
    let mut judge = Judge::without_baseline_check(device, task, options, machine)?;
    let all: Vec<_> = cases.iter().map(|(_, case)| case.clone()).collect();
    judge.prepare_references(&all)?;
    for (index, (workload, case)) in cases.iter().enumerate() {
        let seed = derive_seed(admission.seed, "admit", index);
        let test = CorruptionTest {
            judge: &judge,
            case,
            workload,
        };
        test.run(seed, admission)?;
    }
    let mut kernels: HashMap<&str, &str> = task.starting_kernels().collect();
    kernels.extend([task.baseline()]);
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_unstable();
    for (name, source) in kernels {
        check_task_kernel(&judge, name, source, cases, admission)?;
    }
    Ok(())
}

/// A baseline or a starting kernel must pass wherever a candidate would be tried.
fn check_task_kernel(
    judge: &Judge<'_>,
    name: &str,
    source: &str,
    cases: &[(String, Case)],
    admission: &mut Admission,
) -> anyhow::Result<()> {
    let mut fault = |case: Option<&(String, Case)>, reason: &str| {
        admission.faults.push(TaskFault {
            workload: case.map(|(workload, _)| workload.clone()),
            regime: case.and_then(|(_, case)| case.regime_name()),
            reason: format!("`{name}` fails: {reason}"),
        });
    };
    let kernel = match Kernel::parse(source, &judge.task.definition) {
        Ok(kernel) => kernel,
        Err(error) => {
            fault(None, &error.to_string());
            return Ok(());
        }
    };
    let seed = admission.seed;
    let profile = &judge.options.profile;
    let hidden = match cases::select_cases(judge.task, profile, &kernel, &judge.limits, seed) {
        Ok(cases) => cases.into_iter().filter(|case| case.hidden),
        Err(error) => {
            fault(None, &error.to_string());
            return Ok(());
        }
    };
    let mut cases = cases.to_vec();
    cases.extend(hidden.map(|case| (case.id.clone(), case)));
    let all: Vec<_> = cases.iter().map(|(_, case)| case.clone()).collect();
    let compilation = match judge.compile(kernel, &all)? {
        Ok(compilation) => compilation,
        // What this device cannot run it cannot judge either; the baseline it must run.
        Err(finding)
            if finding.refusal.status == Status::Unsupported && name != judge.task.baseline().0 =>
        {
            return Ok(());
        }
        Err(finding) => {
            fault(None, &finding.refusal.reason);
            return Ok(());
        }
    };
    let _sharing = judge.timing_lock.shared()?;
    for (index, case) in cases.iter().enumerate() {
        let seed = derive_seed(seed, "own kernel", index);
        if let Err(finding) = check::check_case(judge, &compilation, &case.1, &[seed])? {
            fault(Some(case), &finding.refusal.reason);
        }
    }
    Ok(())
}

/// One workload under one set of inputs, with the oracle that is spoilt there.
struct CorruptionTest<'s, 'j> {
    judge: &'s Judge<'j>,
    case: &'s Case,
    workload: &'s str,
}

/// An output as the judge compares it.
struct ReferenceOutput<'o> {
    name: &'o str,
    dtype: DType,
    tolerance: Tolerance,
    expected: Vec<f64>,
}

impl CorruptionTest<'_, '_> {
    fn run(&self, seed: u64, admission: &mut Admission) -> anyhow::Result<()> {
        let _sharing = self.judge.timing_lock.shared()?;
        let deadline = self.judge.deadline();
        let mut oracle =
            CaseKernel::open_reference(self.judge, &self.judge.oracle, self.case, true, UNTIMED)?;
        oracle.reset_buffers(derive_seed(seed, "stale", 0), Poison::Nan)?;
        let stale = oracle.oracle_values(seed, deadline)?;
        oracle.reset_buffers(seed, Poison::Nan)?;
        let expected = oracle.oracle_values(seed, deadline)?;
        let inputs: Vec<_> = oracle.inputs().iter().map(|(buffer, _)| *buffer).collect();
        let definition = &self.judge.task.definition;
        let outputs = definition.outputs.iter().zip(expected);
        let outputs: Vec<_> = outputs
            .filter_map(|((name, tensor), expected)| {
                Some(ReferenceOutput {
                    name,
                    dtype: tensor.dtype,
                    tolerance: *self.judge.task.settings.tolerance.get(name)?,
                    expected,
                })
            })
            .collect();
        for (output, stale) in outputs.iter().zip(&stale) {
            let elements = output.expected.len();
            let mut corrupt = |what: &str, found: &[f64]| {
                self.test_corruption(what, output, found, admission);
            };
            corrupt("zeros", &vec![0.0; elements]);
            let mean = output.expected.iter().sum::<f64>() / elements.max(1) as f64;
            corrupt("the mean", &vec![mean; elements]);
            corrupt("the outputs of other inputs", stale);
            if elements >= 2 {
                let mut half = output.expected.clone();
                for (what, other) in [
                    ("half the work, then zeros", &vec![0.0; elements]),
                    ("half the work, then outputs of other inputs", stale),
                ] {
                    half[elements / 2..].copy_from_slice(&other[elements / 2..]);
                    // Half may be all there is: the sequences of the other half can be empty.
                    let is_right = half == output.expected && *other != output.expected;
                    if !is_right {
                        corrupt(what, &half);
                    }
                }
            }
            for buffer in &inputs {
                let input = &oracle.plan.buffers[*buffer];
                let same = definition.inputs.get(&input.name).map(|input| &input.shape)
                    == definition
                        .outputs
                        .get(output.name)
                        .map(|output| &output.shape);
                if same && input.dtype.is_float() == output.dtype.is_float() {
                    let copied = oracle.values(*buffer)?;
                    corrupt(&format!("a copy of `{}`", input.name), &copied);
                }
            }
            if self.judge.task.settings.precision == PrecisionCheck::Checked {
                for lower in output.dtype.lower_precisions() {
                    let rounded = numerics::round_to_dtype(*lower, &output.expected);
                    if rounded != output.expected {
                        corrupt(&format!("the output rounded to {lower}"), &rounded);
                    }
                }
            }
        }
        if self.judge.task.settings.precision == PrecisionCheck::Checked {
            self.test_reduced_inputs(&mut oracle, &outputs, seed, admission)?;
        }
        Ok(())
    }

    /// The oracle on inputs of the next lower precision; all outputs are to pass for it to pass.
    fn test_reduced_inputs(
        &self,
        oracle: &mut CaseKernel,
        outputs: &[ReferenceOutput<'_>],
        seed: u64,
        admission: &mut Admission,
    ) -> anyhow::Result<()> {
        let inputs: Vec<_> = oracle.inputs().iter().map(|(buffer, _)| *buffer).collect();
        for turn in 0..2 {
            oracle.reset_buffers(seed, Poison::Nan)?;
            let (mut formats, mut changed) = (Vec::new(), false);
            for buffer in &inputs {
                let Some(lower) = oracle.plan.buffers[*buffer]
                    .dtype
                    .lower_precisions()
                    .get(turn)
                else {
                    continue;
                };
                let given = oracle.values(*buffer)?;
                let rounded = numerics::round_to_dtype(*lower, &given);
                // What a format cannot hold at all is no way to be faster.
                if rounded.iter().any(|value| !value.is_finite()) {
                    continue;
                }
                changed |= rounded != given;
                oracle
                    .kernel
                    .write(*buffer, &BufferContent::Values(&rounded))?;
                if !formats.contains(lower) {
                    formats.push(*lower);
                }
            }
            // Inputs that lower precision holds as well cannot show it.
            if !changed {
                continue;
            }
            let found = oracle.oracle_values(seed, self.judge.deadline())?;
            let compared = outputs.iter().zip(&found).map(|(output, found)| {
                let ReferenceOutput {
                    dtype,
                    expected,
                    tolerance,
                    ..
                } = output;
                numerics::compare_values(*dtype, found, expected, *tolerance)
            });
            let compared: Vec<_> = compared.collect();
            admission.comparisons += compared.len();
            if compared.iter().all(|comparison| comparison.failed == 0) {
                let formats: Vec<_> = formats.iter().map(DType::to_string).collect();
                let error = compared
                    .iter()
                    .map(|one| one.worst_ratio)
                    .fold(0.0, f64::max);
                let what = format!("inputs rounded to {}", formats.join(" and "));
                admission.passed.push(self.missed(&what, None, error));
            }
        }
        Ok(())
    }

    fn test_corruption(
        &self,
        what: &str,
        output: &ReferenceOutput<'_>,
        found: &[f64],
        admission: &mut Admission,
    ) {
        let ReferenceOutput {
            dtype,
            expected,
            tolerance,
            ..
        } = output;
        let comparison = numerics::compare_values(*dtype, found, expected, *tolerance);
        admission.comparisons += 1;
        if comparison.failed == 0 {
            let leak = self.missed(what, Some(output.name), comparison.worst_ratio);
            admission.passed.push(leak);
        }
    }

    fn missed(&self, what: &str, output: Option<&str>, error: f64) -> MissedCorruption {
        MissedCorruption {
            candidate: what.to_owned(),
            output: output.map(str::to_owned),
            workload: self.workload.to_owned(),
            regime: self.case.regime_name(),
            error,
        }
    }
}
