//! Times a kernel against one baseline on one workload: the task's own baseline, or one in Python.
//!
//! The protocol is that of a candidate of a search: fresh inputs for each pair, cold caches, timing blocks, the timing lock. Both kernel and
//! baseline are compared with the oracle first; a baseline in Python that is outside the tolerance is timed and marked. Decides nothing;
//! `cli::baselines` makes a table of the results.

use anyhow::Context;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::anchor::OpponentFailed;
use super::case::{Case, derive_seed};
use super::case_kernel::{CaseKernel, outside_tolerance};
use super::check::{blank_entry, check_case};
use super::compiled_kernel::CompiledKernel;
use super::context::{JudgeContext, outputs_only};
use super::finding::{JudgeError, JudgeResult};
use super::judge::Judge;
use super::kernel_set::tolerances;
use super::measure::{self, CaseTiming, EarlyLook, TimingLength};
use super::open_oracle::OpenOracle;
use super::opening::{Opponent, PythonOpponent, TimedPair, as_opponent_failure};
use crate::base::random;
use crate::base::statistics::Estimate;
use crate::device::{BoundKernel, ExpectedValues, LaunchOutcome, Poison, PythonBaselines};
use crate::kernel::Kernel;
use crate::verdict::{Deviation, Status, WorkloadVerdict};

/// A kernel and the baseline that it is timed against, on one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BaselineRequest {
    /// Source of the kernel.
    pub kernel: String,
    /// Id of the workload.
    pub workload: String,
    pub opponent: BaselineOpponent,
}

/// What a kernel is timed against.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BaselineOpponent {
    /// The task's baseline.
    Task,
    /// Another kernel, by its source.
    Kernel(String),
    /// An entry of `BASELINES` in a Python file.
    Python {
        name: String,
        /// Text and name of the file.
        source: [String; 2],
    },
}

/// What timing a kernel against a baseline gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BaselineResult {
    /// The speedup of the kernel over the baseline, and the times of both.
    pub times: Result<Box<WorkloadVerdict>, BaselineFault>,
    /// How far the outputs of a baseline in Python are outside the tolerance. `None` if they are within it.
    pub deviation: Option<Deviation>,
    /// Versions of what the baseline uses, by package.
    pub versions: IndexMap<String, String>,
    /// How a baseline in Python is launched: `graph`, `launches` or `call`.
    pub launch: Option<String>,
    /// How long the device was held, in seconds.
    pub device_seconds: f64,
}

/// Why there is no time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BaselineFault {
    /// The baseline is not available, fails, or is wrong.
    Baseline(String),
    /// The kernel fails.
    Kernel { status: Status, reason: String },
}

impl Judge<'_> {
    /// The names of the baselines of a Python file (text and file name).
    ///
    /// # Errors
    /// `Failure::environment` if Python or PyTorch is not installed; `Failure::reference` if the file fails.
    pub(crate) fn python_baseline_names(
        &mut self,
        source: &[String; 2],
    ) -> anyhow::Result<Vec<String>> {
        start_python(self.context_mut(), source)?;
        let (_, baselines) = self
            .context()
            .python_baselines
            .as_ref()
            .context("no Python")?;
        Ok(baselines.names())
    }

    /// Has Python compile a baseline for a workload, so that timing it later takes less. Other kernels may be timed meanwhile. Returns why it
    /// cannot, if that is so.
    ///
    /// # Errors
    /// If the machinery is broken; like [`Judge::python_baseline_names`].
    pub(crate) fn prepare_baseline(
        &mut self,
        workload: &str,
        name: &str,
        source: &[String; 2],
    ) -> anyhow::Result<Option<String>> {
        start_python(self.context_mut(), source)?;
        match prepare(self.context(), workload, name) {
            Ok(()) => Ok(None),
            Err(JudgeError::Finding(finding)) => Ok(Some(finding.reason)),
            Err(JudgeError::Broken(error)) => match error.downcast::<OpponentFailed>() {
                Ok(OpponentFailed(reason)) => Ok(Some(reason)),
                Err(error) => Err(error),
            },
        }
    }

    /// Times a kernel against a baseline.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(crate) fn measure_baseline(
        &mut self,
        request: &BaselineRequest,
    ) -> anyhow::Result<BaselineResult> {
        if let BaselineOpponent::Python { source, .. } = &request.opponent {
            start_python(self.context_mut(), source)?;
        }
        let context = self.context();
        let mut deviation = None;
        let times = match measure(context, request, &mut deviation) {
            Ok(entry) => Ok(Box::new(entry)),
            Err(JudgeError::Finding(finding)) => Err(BaselineFault::Kernel {
                status: finding.status,
                reason: finding.reason,
            }),
            Err(JudgeError::Broken(error)) => match error.downcast::<OpponentFailed>() {
                Ok(OpponentFailed(reason)) => Err(BaselineFault::Baseline(reason)),
                Err(error) => return Err(error),
            },
        };
        let python = match (&request.opponent, &context.python_baselines) {
            (BaselineOpponent::Python { .. }, Some((_, baselines))) => Some(baselines),
            _ => None,
        };
        Ok(BaselineResult {
            times,
            deviation,
            versions: python.map(PythonBaselines::versions).unwrap_or_default(),
            launch: python.and_then(PythonBaselines::launch),
            device_seconds: self.take_device_seconds(),
        })
    }
}

/// Starts Python with this source, unless it runs.
fn start_python(context: &mut JudgeContext<'_>, source: &[String; 2]) -> anyhow::Result<()> {
    let is_running = |(running, _): &(String, _)| *running == source[0];
    if !context.python_baselines.as_ref().is_some_and(is_running) {
        // First, because two processes would need twice the memory.
        context.python_baselines = None;
        let _lock = context.timing_lock.host_work()?;
        let baselines = PythonBaselines::start(context.task, source.clone(), context.device)?;
        context.python_baselines = Some((source[0].clone(), baselines));
    }
    Ok(())
}

/// Has Python, which runs, compile a baseline for a workload.
fn prepare(context: &JudgeContext<'_>, workload: &str, name: &str) -> JudgeResult<()> {
    let baselines = context.python_baselines.as_ref();
    let (_, baselines) = baselines.context("no Python")?;
    let cases = context.workload_cases();
    let case = cases.iter().find(|case| case.id == workload);
    let case = case.with_context(|| format!("no workload `{workload}` is timed"))?;
    let buffers = outputs_only(context.task);
    let opponent = PythonOpponent {
        baselines,
        name,
        buffers: &Kernel::parse(&buffers, &context.task.definition)?,
    };
    let once = (1, context.options.cache);
    let mut python = {
        let _lock = context.timing_lock.shared()?;
        CaseKernel::open_python_baseline(context, &opponent, case, once)?
    };
    python.reset_buffers(random::fresh_seed(), Poison::Nan)?;
    let lock = context.device.lock_file();
    match python.kernel.prepare_beside_timings(&lock)? {
        LaunchOutcome::Finished { .. } => Ok(()),
        LaunchOutcome::Fault(refusal) => Err(OpponentFailed(refusal.reason).into()),
    }
}

/// `deviation`: gets that of a baseline in Python.
fn measure(
    context: &JudgeContext<'_>,
    request: &BaselineRequest,
    deviation: &mut Option<Deviation>,
) -> JudgeResult<WorkloadVerdict> {
    let cases = context.workload_cases();
    let case = cases.iter().find(|case| case.id == request.workload);
    let case = case.with_context(|| format!("no workload `{}` is timed", request.workload))?;
    let kernel = Kernel::parse(&request.kernel, &context.task.definition)?;
    let compiled = context.compile(kernel, std::slice::from_ref(case))?;
    let seed = random::fresh_seed();
    let check_seed = derive_seed(seed, "check", 0);
    check_kernel(context, (&compiled, &request.kernel), case, check_seed)?;
    let length = TimingLength::Baseline {
        workloads: cases.len(),
    };
    let own = context.task.baseline().1;
    if matches!(request.opponent, BaselineOpponent::Task) && request.kernel == own {
        return time_itself(context, &compiled, case, (seed, length));
    }
    let time = |opponent| time(context, (&compiled, opponent), case, (seed, length));
    match (&request.opponent, &context.python_baselines) {
        (BaselineOpponent::Python { name, .. }, Some((_, baselines))) => {
            let buffers = outputs_only(context.task);
            let opponent = PythonOpponent {
                baselines,
                name,
                buffers: &Kernel::parse(&buffers, &context.task.definition)?,
            };
            if !context.task.settings.in_place.is_empty() {
                let reason = "outputs of this task overwrite inputs, which Python cannot be given";
                return Err(OpponentFailed(reason.to_owned()).into());
            }
            *deviation = check_python(context, &opponent, case, derive_seed(seed, "check", 1))?;
            time(Opponent::Python(&opponent))
        }
        (BaselineOpponent::Kernel(source), _) => {
            let other = Kernel::parse(source, &context.task.definition)
                .map_err(JudgeError::from)
                .and_then(|kernel| context.compile(kernel, std::slice::from_ref(case)))
                .and_then(|other| {
                    let check_seed = derive_seed(seed, "check", 1);
                    check_kernel(context, (&other, source), case, check_seed)?;
                    Ok(other)
                });
            time(Opponent::Kernel(&other.map_err(as_opponent_failure)?))
        }
        _ => time(Opponent::Baseline),
    }
}

fn time(
    context: &JudgeContext<'_>,
    (candidate, opponent): (&CompiledKernel, Opponent<'_>),
    case: &Case,
    (seed, length): (u64, TimingLength),
) -> JudgeResult<WorkloadVerdict> {
    let contest = TimedPair {
        candidate,
        opponent,
        case,
    };
    let measurement = measure::measure(context, contest, seed, length)?;
    let mut entry = blank_entry(case, None);
    entry.status = Status::Passed;
    measurement.write_to(&mut entry);
    Ok(entry)
}

/// Times the task's baseline for its time alone: over itself it has a speedup of 1. A few samples are enough, because it may be a naive
/// kernel that takes long.
fn time_itself(
    context: &JudgeContext<'_>,
    kernel: &CompiledKernel,
    case: &Case,
    (seed, length): (u64, TimingLength),
) -> JudgeResult<WorkloadVerdict> {
    let contest = TimedPair {
        candidate: kernel,
        opponent: Opponent::Baseline,
        case,
    };
    let mut timing = CaseTiming::new(context, contest, seed, length);
    timing.sample_for_look(EarlyLook::First)?;
    let equal = Estimate {
        estimate: 0.0,
        low: 0.0,
        high: 0.0,
    };
    let mut entry = blank_entry(case, None);
    entry.status = Status::Passed;
    timing.early_measurement(equal)?.write_to(&mut entry);
    Ok(entry)
}

/// Compares a kernel with the oracle, unless this process has done so. Both may take long, and there may be many baselines.
fn check_kernel(
    context: &JudgeContext<'_>,
    (kernel, source): (&CompiledKernel, &str),
    case: &Case,
    seed: u64,
) -> JudgeResult<()> {
    let checked = &context.checked_kernels;
    if checked.contain(source, &case.id) {
        return Ok(());
    }
    let _lock = context.timing_lock.shared()?;
    check_case(context, kernel, case, &[seed])?;
    checked.insert(source, &case.id);
    Ok(())
}

/// Compares the outputs of a baseline in Python with the oracle's. One that is outside the task's tolerance is timed all the same: a library
/// computes in its own precision, and people want to know whether it is faster.
///
/// # Errors
/// [`OpponentFailed`] if it fails, or an element is not finite or differs although it must be exact.
fn check_python(
    context: &JudgeContext<'_>,
    opponent: &PythonOpponent<'_>,
    case: &Case,
    seed: u64,
) -> JudgeResult<Option<Deviation>> {
    let _lock = context.timing_lock.shared()?;
    let once = (1, context.options.cache);
    let mut python = CaseKernel::open_python_baseline(context, opponent, case, once)?;
    python.reset_buffers(seed, Poison::Nan)?;
    if let LaunchOutcome::Fault(refusal) = python.launch(context.deadline())? {
        return Err(OpponentFailed(refusal.reason).into());
    }
    // While the memory of its outputs holds them.
    let plan = python.plan.clone();
    let on_device = (opponent.baselines).outputs_on_device(context.device, &plan)?;
    let mut oracle = OpenOracle::open(context, case, 1)?;
    oracle.reset_buffers(seed, Poison::Nan)?;
    let mut expected = oracle.oracle_outputs(seed, context.deadline())?;
    if let Some(buffers) = on_device {
        let kernel: Box<dyn BoundKernel> = buffers;
        python = CaseKernel::new(context, case, kernel, plan);
    } else {
        let outputs = oracle.plan.outputs.iter();
        let values = outputs.map(|output| Ok(ExpectedValues::Host(oracle.values(*output)?)));
        expected = values.collect::<anyhow::Result<_>>()?;
    }
    let comparisons = python.comparisons(&tolerances(context), &expected, &[0])?;
    let mut deviation: Option<Deviation> = None;
    for (output, comparison) in &comparisons {
        let Some(first) = &comparison.first else {
            continue;
        };
        // An element that is not finite, or one that must be exact.
        if !comparison.worst_ratio.is_finite() {
            return Err(OpponentFailed(outside_tolerance(output, comparison, first)).into());
        }
        let own = Deviation {
            share: comparison.failed as f64 / comparison.elements.max(1) as f64,
            worst: comparison.worst_ratio,
        };
        deviation = Some(deviation.map_or(own, |found| found.merge(own)));
    }
    Ok(deviation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cache, Device, cpu::CpuDevice};
    use crate::eval::JudgeOptions;
    use crate::kernel::DeviceLimits;
    use crate::task::TaskFiles;

    #[test]
    fn each_kernel_is_checked_once_per_workload() {
        let device = CpuDevice::new().unwrap();
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let options = JudgeOptions {
            profile: task.settings.profiles["quick"].clone(),
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let limits = DeviceLimits {
            sm_count: i64::from(device.identity().cores.unwrap_or(1)),
            max_shared_bytes: 232_448,
        };
        let judge = Judge::new(&device, &task, options, limits).unwrap();
        let context = judge.context();
        let cases = context.workload_cases();
        let check = |source: &str, case: &Case| {
            let kernel = Kernel::parse(source, &task.definition).unwrap();
            let compiled = context.compile(kernel, std::slice::from_ref(case));
            let compiled = compiled.map_err(JudgeError::into_finding).unwrap();
            check_kernel(context, (&compiled, source), case, 1)
        };
        let baseline = task.baseline().1;
        for case in &cases {
            assert!(context.checked_kernels.contain(baseline, &case.id));
        }
        let right = format!("{baseline}\n// The same.\n");
        assert!(check(&right, &cases[0]).is_ok());
        assert!(context.checked_kernels.contain(&right, &cases[0].id));
        assert!(!context.checked_kernels.contain(&right, &cases[1].id));
        let wrong = baseline.replace("/ sum;", "/ sum * 1.5f;");
        assert_ne!(wrong, baseline);
        // One that fails is checked again.
        for _ in 0..2 {
            let finding = check(&wrong, &cases[0]).unwrap_err().into_finding();
            assert_eq!(finding.unwrap().status, Status::WrongOutput);
        }
        // What counts as checked is not run.
        context.checked_kernels.insert(&wrong, &cases[0].id);
        assert!(check(&wrong, &cases[0]).is_ok());
        assert!(check(&wrong, &cases[1]).is_err());
    }
}
