//! The admission test of a task: are its oracle, tolerances and kernels sound? (`kforge tasks check`)
//!
//! Corrupted outputs must fail the comparison, on every workload and in every regime (see `corruption`), and the task's own
//! kernels must pass. No cheating kernel is compiled: the oracle's outputs are corrupted. Judges no candidate.

use std::collections::BTreeMap;
use std::time::Instant;

use super::admission_cases::{AdmissionCase, plan_cases};
use super::admission_coverage::{
    CaseCoverage, CoverageTest, DRAWS, literal_inputs, unchanged_inputs,
};
use super::admission_result::{Admission, TaskFault};
use super::case::{Case, derive_seed, operations};
use super::cases::{CaseRequest, select_cases};
use super::check::RowOfCases;
use super::compiled_kernel::{CompiledKernel, Reference};
use super::context::{JudgeContext, JudgeOptions};
use super::corruption::{CorruptionResults, CorruptionTest};
use super::finding::{Finding, JudgeResult};
use super::hidden::Coverage;
use super::task_terms::explain;
use crate::base::{Failure, FailureKind, random};
use crate::device::Device;
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{DRAFT_MARK, Task};
use crate::verdict::Status;

/// A tolerance above this is meaningless.
const MAX_TOLERANCE: f64 = 0.1;

/// A hidden case that costs more is not tried with the task's own kernels: a CPU takes too long.
const MAX_OPERATIONS: f64 = 2e8;

/// How to test a task.
pub(crate) struct AdmissionRequest<'r> {
    pub(crate) options: JudgeOptions,
    pub(crate) limits: DeviceLimits,
    /// The seed of an earlier test, to repeat it.
    pub(crate) seed: Option<u64>,
    /// Whether large workloads are tested at their full size in every regime, however long it takes.
    pub(crate) is_full_size: bool,
    /// Called before each part of the test.
    pub(crate) progress: &'r dyn Fn(&AdmissionProgress<'_>),
}

/// How far a test is.
pub(crate) struct AdmissionProgress<'p> {
    /// Number of parts that are done, and of all parts.
    pub(crate) done: usize,
    pub(crate) all: usize,
    /// What comes next: `corrupted outputs`, or a kernel's name.
    pub(crate) subject: &'p str,
    /// The case that comes next.
    pub(crate) case: &'p str,
}

/// Tests a task on the profile's workloads, each with the timed input distributions and in every regime.
///
/// # Errors
/// If the machinery is broken. Faults of the task are part of the result.
pub(crate) fn admit(
    device: &dyn Device,
    task: &Task,
    request: &AdmissionRequest<'_>,
) -> anyhow::Result<Admission> {
    let started = Instant::now();
    let regimes = task.regimes();
    let mut admission = Admission {
        task: task.name.clone(),
        admitted: false,
        precision: task.settings.precision,
        workloads: task.selected_workloads(&request.options.profile).len(),
        regimes: regimes.keys().cloned().collect(),
        reduced: Vec::new(),
        comparisons: 0,
        coverage: CaseCoverage::default(),
        passed: Vec::new(),
        faults: Vec::new(),
        seed: request.seed.unwrap_or_else(random::fresh_seed),
        seconds: 0.0,
    };
    check_tolerances(task, &mut admission);
    for reason in unchanged_inputs(task) {
        admission.add_fault(reason);
    }
    if check_headers(task, &mut admission) {
        let test = AdmissionTest {
            device,
            task,
            request,
            admission: &mut admission,
            done: 0,
            all: 0,
        };
        test.run()?;
    }
    admission.admitted = admission.passed.is_empty() && admission.faults.is_empty();
    admission.seconds = started.elapsed().as_secs_f64();
    Ok(admission)
}

fn check_tolerances(task: &Task, admission: &mut Admission) {
    for (name, tolerance) in &task.settings.tolerance {
        if tolerance.rtol.max(tolerance.atol_rms) > MAX_TOLERANCE {
            let reason = format!("tolerance.{name}: more than {MAX_TOLERANCE} lets anything pass");
            admission.add_fault(reason);
        }
    }
}

/// Checks the headers of all kernels of the task, so that all mistakes in them are reported at once. Returns whether the oracle and
/// the baseline can be compiled.
fn check_headers(task: &Task, admission: &mut Admission) -> bool {
    let oracle = &task.settings.oracle;
    let mut is_usable = true;
    let mut all = vec![(oracle.as_str(), task.oracle.as_str())];
    all.extend(own_kernels(task));
    for (name, source) in all {
        let is_reference = name == oracle || name == task.baseline().0;
        // An oracle in Python has no header.
        let is_python = name == oracle && task.has_python_oracle();
        let parsed = (!is_python).then(|| Kernel::parse(source, &task.definition));
        let parsed = parsed.transpose();
        if let Err(error) = &parsed {
            admission.add_fault(format!("`{name}`, header, {error}"));
        }
        if source.contains(DRAFT_MARK) {
            admission.add_fault(format!(
                "`{name}` is still a draft, which writes zeros: write the computation, then delete the line with `{DRAFT_MARK}`"
            ));
        } else if parsed.is_ok() {
            continue;
        }
        is_usable &= !is_reference;
    }
    is_usable
}

/// The baseline and the starting kernels, sorted, and each once.
fn own_kernels(task: &Task) -> BTreeMap<&str, &str> {
    let mut kernels: BTreeMap<&str, &str> = task.starting_kernels().collect();
    kernels.extend([task.baseline()]);
    kernels
}

/// A kernel of the task, ready to be tested on its cases.
struct OwnKernel<'t> {
    name: &'t str,
    compiled: CompiledKernel,
    cases: Vec<AdmissionCase>,
}

/// A test in progress.
struct AdmissionTest<'t, 'a> {
    device: &'t dyn Device,
    task: &'t Task,
    request: &'t AdmissionRequest<'t>,
    admission: &'a mut Admission,
    /// Number of parts that are done, and of all parts.
    done: usize,
    all: usize,
}

impl<'t> AdmissionTest<'t, '_> {
    fn run(mut self) -> anyhow::Result<()> {
        let AdmissionRequest {
            options, limits, ..
        } = self.request;
        let context = JudgeContext::open(self.device, self.task, options.clone(), *limits);
        let Some(mut context) = self.without_fault(context)? else {
            return Ok(());
        };
        self.test_coverage(&context);
        let profile = &self.request.options.profile;
        let (cases, reduced) = plan_cases(self.task, profile, self.request.is_full_size);
        self.admission.reduced = reduced;
        let all: Vec<_> = cases.iter().map(|test| test.case.clone()).collect();
        let mut is_usable = true;
        for reference in [Reference::Oracle, Reference::Baseline] {
            let prepared = context.prepare_reference(reference, &all);
            is_usable &= self.without_fault(prepared)?.is_some();
        }
        let kernels = self.compile_kernels(&context, &cases)?;
        if !is_usable {
            return Ok(());
        }
        let checks: usize = kernels.iter().map(|kernel| kernel.cases.len()).sum();
        self.all = cases.len() + checks;
        let tested = self.test(&context, &cases, &kernels);
        self.without_fault(tested)?;
        Ok(())
    }

    /// Draws the cases of many judgements; runs nothing.
    fn test_coverage(&mut self, context: &JudgeContext<'_>) {
        let test = CoverageTest {
            task: self.task,
            profile: &self.request.options.profile,
            kernel: &context.baseline.kernel,
            limits: &context.limits,
            effort: context.effort(Coverage::Part),
            draws: DRAWS,
            seed: self.admission.seed,
        };
        let (coverage, reasons) = test.run();
        self.admission.coverage = coverage;
        for reason in reasons {
            self.admission.add_fault(reason);
        }
    }

    /// Turns a failure of the oracle or the baseline into a fault of the task.
    fn without_fault<T>(&mut self, result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        match error.downcast_ref::<Failure>() {
            Some(failure) if failure.kind == FailureKind::Reference => {
                let reason = match &failure.hint {
                    Some(hint) => format!("{}\nhint: {hint}", failure.message.trim_end()),
                    None => failure.message.clone(),
                };
                self.admission.add_fault(reason);
                Ok(None)
            }
            _ => Err(error),
        }
    }

    /// Compiles the baseline and the starting kernels for every case on which a candidate would be checked.
    fn compile_kernels(
        &mut self,
        context: &JudgeContext<'_>,
        cases: &[AdmissionCase],
    ) -> anyhow::Result<Vec<OwnKernel<'t>>> {
        let mut kernels = Vec::new();
        for (name, source) in own_kernels(self.task) {
            let Ok(kernel) = Kernel::parse(source, &self.task.definition) else {
                continue;
            };
            if source.contains(DRAFT_MARK) {
                continue;
            }
            let mut tests = cases.to_vec();
            let request = CaseRequest {
                task: self.task,
                profile: &self.request.options.profile,
                kernel: &kernel,
                limits: &context.limits,
                effort: context.effort(Coverage::Part),
                seed: self.admission.seed,
            };
            match select_cases(&request) {
                Ok(selected) => {
                    // Workloads under regimes are among the cases already.
                    let is_workload = |case: &Case| {
                        let mut workloads = self.task.workloads.iter();
                        case.regime.is_some()
                            && workloads.any(|workload| workload.binding == case.binding)
                    };
                    let is_tested = |case: &Case| {
                        let cost = operations(self.task, &case.binding);
                        case.hidden && !is_workload(case) && cost <= MAX_OPERATIONS
                    };
                    let hidden = selected.into_iter().filter(is_tested);
                    tests.extend(hidden.map(|case| AdmissionCase {
                        workload: case.id.clone(),
                        case,
                    }));
                }
                Err(error) => {
                    self.add_kernel_fault(name, None, &error.to_string());
                    continue;
                }
            }
            match compile(context, &kernel, &tests) {
                Ok(compiled) => kernels.push(OwnKernel {
                    name,
                    compiled,
                    cases: tests,
                }),
                Err(error) => self.add_refusal(name, &kernel, &error.into_finding()?),
            }
        }
        Ok(kernels)
    }

    /// A starting kernel may need another device; the baseline must run on this one.
    fn add_refusal(&mut self, name: &str, kernel: &Kernel, finding: &Finding) {
        let is_baseline = name == self.task.baseline().0;
        if finding.status == Status::Unsupported && !is_baseline {
            return;
        }
        let reason = &finding.reason;
        // The baseline is reported with the log already.
        if is_baseline && finding.status == Status::CompileError {
            return;
        }
        let log = finding.evidence.log.as_deref().unwrap_or_default();
        let messages = format!("{reason}\n{log}");
        match explain(&messages, kernel, &self.task.definition, false) {
            Some(hint) => self.add_kernel_fault(name, None, &format!("{reason}\nhint: {hint}")),
            None => self.add_kernel_fault(name, None, reason),
        }
    }

    fn add_kernel_fault(&mut self, name: &str, test: Option<&AdmissionCase>, reason: &str) {
        self.admission.faults.push(TaskFault {
            workload: test.map(|test| test.workload.clone()),
            regime: test.and_then(|test| test.case.regime_name()),
            reason: format!("`{name}` fails: {reason}"),
        });
    }

    fn report(&mut self, subject: &str, case: &str) {
        (self.request.progress)(&AdmissionProgress {
            done: self.done,
            all: self.all,
            subject,
            case,
        });
        self.done += 1;
    }

    fn test(
        &mut self,
        context: &JudgeContext<'_>,
        cases: &[AdmissionCase],
        kernels: &[OwnKernel<'_>],
    ) -> anyhow::Result<()> {
        for (index, AdmissionCase { workload, case }) in cases.iter().enumerate() {
            self.report("corrupted outputs", &case.id);
            let mut results = CorruptionResults::default();
            let test = CorruptionTest {
                context,
                case,
                workload,
            };
            let seed = derive_seed(self.admission.seed, "admit", index);
            test.run(seed, &mut results)?;
            self.admission.comparisons += results.comparisons;
            self.admission.passed.extend(results.missed);
        }
        self.test_literals(context, cases)?;
        for kernel in kernels {
            self.test_kernel(context, kernel)?;
        }
        Ok(())
    }

    /// Checks that some regime shows a kernel that contains the usual value of an input.
    fn test_literals(
        &mut self,
        context: &JudgeContext<'_>,
        cases: &[AdmissionCase],
    ) -> anyhow::Result<()> {
        for input in literal_inputs(self.task) {
            let mut is_rejected = false;
            let changes = |test: &&AdmissionCase| test.case.changes(input);
            for AdmissionCase { workload, case } in cases.iter().filter(changes) {
                let test = CorruptionTest {
                    context,
                    case,
                    workload,
                };
                let seed = derive_seed(self.admission.seed, "literal", 0);
                self.admission.comparisons += 1;
                if test.rejects_usual_value(input, seed)? {
                    is_rejected = true;
                    break;
                }
            }
            if !is_rejected {
                self.admission.add_fault(format!(
                    "a kernel with the usual value of `{input}` in place of the input passes under every regime\nhint: add a regime in which `{input}` changes the result by more than the tolerance, or list it under `fixed`"
                ));
            }
        }
        Ok(())
    }

    /// Checks a baseline or a starting kernel: it must pass on every case that a candidate would be checked on.
    fn test_kernel(
        &mut self,
        context: &JudgeContext<'_>,
        kernel: &OwnKernel<'_>,
    ) -> anyhow::Result<()> {
        let mut row = RowOfCases::new(context, &kernel.compiled);
        for (index, test) in kernel.cases.iter().enumerate() {
            self.report(kernel.name, &test.case.id);
            let _lock = context.timing_lock.shared()?;
            let seed = derive_seed(self.admission.seed, "own kernel", index);
            if let Err(error) = row.check(&test.case, seed) {
                let finding = error.into_finding()?;
                // A starting kernel may reach code for another device only when it runs.
                if finding.status == Status::Unsupported && kernel.name != self.task.baseline().0 {
                    return Ok(());
                }
                self.add_kernel_fault(kernel.name, Some(test), &finding.reason);
            }
        }
        Ok(())
    }
}

/// Compiles a kernel. A compiler that ran out of time is started once more: on a loaded machine that says nothing about the kernel.
fn compile(
    context: &JudgeContext<'_>,
    kernel: &Kernel,
    tests: &[AdmissionCase],
) -> JudgeResult<CompiledKernel> {
    let all: Vec<_> = tests.iter().map(|test| test.case.clone()).collect();
    match context.compile(kernel.clone(), &all) {
        Err(super::finding::JudgeError::Finding(finding))
            if finding.status == Status::CompileTimeout =>
        {
            context.compile(kernel.clone(), &all)
        }
        result => result,
    }
}
