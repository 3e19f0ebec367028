//! What all stages of a judgement share: the device, the task, the options, the oracle, the baseline and the timing lock.
//!
//! Also compiles kernels and binds them to cases. Runs nothing.

use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::checked_kernels::CheckedKernels;
use super::compiled_kernel::{CompiledAnchor, CompiledKernel, Reference, values_key};
use super::finding::JudgeResult;
use super::hidden::{Coverage, Effort};
use super::known_opponents::KnownOpponents;
use super::oracle_pool::OraclePool;
use super::stage_times::{Phase, StageTimes};
use super::stored_values::StoredValues;
use super::task_terms::explain;
use super::timing_lock::TimingLock;
use crate::base::Failure;
use crate::device::{Build, Cache, Compiled, Device, PythonBaselines, PythonOracle};
use crate::kernel::plan::LaunchPlan;
use crate::kernel::{BindError, DeviceLimits, Kernel, LaunchTarget};
use crate::task::{Profile, RegimeChoice, Task};

/// Operations that timed shapes under regimes may always cost, on a CPU: some tenths of a second.
const MIN_OPERATIONS_ON_CPU: f64 = 2e8;
/// What they may always cost on a CPU with a profile that tries all regimes.
const MIN_OPERATIONS_OF_ALL: f64 = 2e9;
/// What they may always cost on a GPU, with any profile.
const MIN_OPERATIONS_ON_GPU: f64 = 2.5e10;

/// How to judge; the same for all candidates of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeOptions {
    pub profile: Profile,
    /// Deadline of one launch, in seconds.
    pub launch_seconds: f64,
    /// Whether inspection covers all cases under many schedules, instead of the smallest cases.
    #[serde(default)]
    pub thorough: bool,
    /// State of the device's caches before a timed launch.
    #[serde(default)]
    pub cache: Cache,
}

/// What all stages of a judgement share.
pub(super) struct JudgeContext<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) task: &'a Task,
    pub(super) options: JudgeOptions,
    pub(super) limits: DeviceLimits,
    /// For an oracle in Python: a kernel that is never compiled and has only a launch plan.
    pub(super) oracle: CompiledKernel,
    /// The oracle, if it is Python and has been started.
    pub(super) python_oracle: Option<PythonOracle>,
    pub(super) baseline: CompiledKernel,
    /// The baselines in Python, with their source; `None` until one is timed.
    pub(super) python_baselines: Option<(String, PythonBaselines)>,
    /// `None` until a candidate is timed against an anchor.
    pub(super) anchor: Option<CompiledAnchor>,
    /// What earlier judgements have found out about the baseline and the anchor.
    pub(super) known_opponents: KnownOpponents,
    /// The kernels whose outputs agreed with the oracle's, for timing them against many baselines.
    pub(super) checked_kernels: CheckedKernels,
    /// The tensors in files that open kernels have.
    pub(super) stored: StoredValues,
    /// `None` where opening an oracle costs little.
    pub(super) oracle_pool: Option<OraclePool>,
    pub(super) timing_lock: TimingLock,
    /// Where the time of the present judgement goes.
    pub(super) times: StageTimes,
}

/// A kernel bound to a case: the tunable values of its variant, and its launch plan.
pub(super) struct BoundPlan {
    pub(super) variant: Option<usize>,
    pub(super) values: IndexMap<String, i64>,
    pub(super) plan: LaunchPlan,
}

impl BoundPlan {
    /// Memory of all buffers, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
    }
}

impl<'a> JudgeContext<'a> {
    /// Parses the oracle and the baseline. Compiles nothing yet.
    pub(super) fn open(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        limits: DeviceLimits,
    ) -> anyhow::Result<Self> {
        task.check_is_written()?;
        let parse = |reference: Reference, text: &str| {
            Kernel::parse(text, &task.definition)
                .map(CompiledKernel::not_compiled)
                .map_err(|error| {
                    let name = reference.name();
                    Failure::reference(format!("the {name} of task `{}`: {error}", task.name))
                })
        };
        let oracle = if task.has_python_oracle() {
            &outputs_only(task)
        } else {
            &task.oracle
        };
        let times = StageTimes::default();
        let mut timing_lock = TimingLock::open(device.lock_file())?;
        timing_lock.set_times(times.clone());
        Ok(Self {
            device,
            task,
            limits,
            oracle: parse(Reference::Oracle, oracle)?,
            python_oracle: None,
            baseline: parse(Reference::Baseline, task.baseline().1)?,
            python_baselines: None,
            anchor: None,
            known_opponents: KnownOpponents::default(),
            checked_kernels: CheckedKernels::default(),
            stored: StoredValues::default(),
            oracle_pool: device.lock_file().is_host.then(OraclePool::default),
            timing_lock,
            times,
            options,
        })
    }

    /// Records the time of what follows with another judgement's.
    pub(super) fn set_times(&mut self, times: StageTimes) {
        self.timing_lock.set_times(times.clone());
        self.times = times;
    }

    pub(super) fn reference(&self, reference: Reference) -> &CompiledKernel {
        match reference {
            Reference::Oracle => &self.oracle,
            Reference::Baseline => &self.baseline,
        }
    }

    /// Deadline of one launch.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.options.launch_seconds)
    }

    /// How much work the hidden cases of a judgement may be.
    pub(super) fn effort(&self, coverage: Coverage) -> Effort {
        let is_host = self.device.lock_file().is_host;
        let least_operations = match self.options.profile.regimes {
            _ if !is_host => MIN_OPERATIONS_ON_GPU,
            RegimeChoice::Once => MIN_OPERATIONS_ON_CPU,
            RegimeChoice::All => MIN_OPERATIONS_OF_ALL,
        };
        Effort {
            coverage,
            least_operations,
        }
    }

    /// The profile's workloads as cases.
    pub(super) fn workload_cases(&self) -> Vec<Case> {
        let workloads = self.task.selected_workloads(&self.options.profile);
        workloads.into_iter().map(Case::of_workload).collect()
    }

    /// The tunable values that a kernel uses on a case.
    pub(super) fn values(
        &self,
        kernel: &Kernel,
        case: &Case,
    ) -> Result<IndexMap<String, i64>, BindError> {
        let variant = kernel.variant_for(&case.binding, &self.limits)?;
        Ok(kernel.tunable_values(variant))
    }

    /// Binds a candidate or the baseline to a case.
    pub(super) fn bind(&self, kernel: &Kernel, case: &Case) -> Result<BoundPlan, BindError> {
        self.bind_as(kernel, case, false)
    }

    /// Binds the oracle to a case. Its outputs are `double` whatever their dtype.
    pub(super) fn bind_oracle(&self, kernel: &Kernel, case: &Case) -> Result<BoundPlan, BindError> {
        self.bind_as(kernel, case, true)
    }

    fn bind_as(
        &self,
        kernel: &Kernel,
        case: &Case,
        is_oracle: bool,
    ) -> Result<BoundPlan, BindError> {
        let variant = kernel.variant_for(&case.binding, &self.limits)?;
        let values = kernel.tunable_values(variant);
        let target = LaunchTarget {
            task: self.task,
            binding: &case.binding,
            scalars: &case.scalars(self.task),
            limits: &self.limits,
            is_oracle,
        };
        let plan = kernel.launch_plan(&target, &values)?;
        Ok(BoundPlan {
            variant,
            values,
            plan,
        })
    }

    /// Compiles a kernel under every set of tunable values that it uses on some case.
    pub(super) fn compile(&self, kernel: Kernel, cases: &[Case]) -> JudgeResult<CompiledKernel> {
        let _phase = self.times.phase(Phase::Compile);
        let _lock = self.timing_lock.host_work()?;
        let started = Instant::now();
        let mut keys = Vec::new();
        let mut units = Vec::new();
        for case in cases {
            let values = self.values(&kernel, case)?;
            if !case.hidden {
                kernel.check_constraints(&case.binding, &values, &self.limits)?;
            }
            let key = values_key(&values);
            if !keys.contains(&key) {
                keys.push(key);
                units.push(kernel.translation_unit(self.task, &values, false));
            }
        }
        let mut compiled = CompiledKernel::not_compiled(kernel);
        let compiling = Instant::now();
        let results = self.device.compile_all(&units)?;
        self.times.add_build(Build::Fast, compiling.elapsed());
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Compiled::Ready(program) => compiled.programs.insert(key, program),
                Compiled::Refused(refusal) => return Err(refusal.into()),
            };
        }
        compiled.seconds = started.elapsed().as_secs_f64();
        Ok(compiled)
    }

    /// Compiles the oracle and the baseline for every case for which they are not compiled yet.
    ///
    /// # Errors
    /// `Failure::reference` if one of them does not compile.
    pub(super) fn prepare_references(&mut self, cases: &[Case]) -> anyhow::Result<()> {
        for reference in [Reference::Oracle, Reference::Baseline] {
            self.prepare_reference(reference, cases)?;
        }
        Ok(())
    }

    /// Like [`Self::prepare_references`], for one of them.
    pub(super) fn prepare_reference(
        &mut self,
        reference: Reference,
        cases: &[Case],
    ) -> anyhow::Result<()> {
        let _lock = self.timing_lock.host_work()?;
        let _stage = self.times.stage("compile references");
        if reference == Reference::Oracle && self.task.has_python_oracle() {
            if self.python_oracle.is_none() {
                let oracle = PythonOracle::start(self.task, self.device)?;
                self.python_oracle = Some(oracle);
            }
            return Ok(());
        }
        let is_oracle = reference == Reference::Oracle;
        let compiled = match reference {
            Reference::Oracle => &mut self.oracle,
            Reference::Baseline => &mut self.baseline,
        };
        let task = self.task;
        let broken = |reason: String| {
            let (name, task) = (reference.name(), &task.name);
            Failure::reference(format!(
                "the {name} of task `{task}` does not work: {reason}"
            ))
        };
        for case in cases {
            let variant = compiled
                .kernel
                .variant_for(&case.binding, &self.limits)
                .map_err(|error| broken(error.to_string()))?;
            let values = compiled.kernel.tunable_values(variant);
            let key = values_key(&values);
            if compiled.programs.contains_key(&key) {
                continue;
            }
            let unit = compiled.kernel.translation_unit(task, &values, is_oracle);
            match self.device.compile(&unit, Build::Fast)? {
                Compiled::Ready(program) => compiled.programs.insert(key, program),
                Compiled::Refused(refusal) => {
                    let log = refusal.evidence.log.unwrap_or_default();
                    let messages = format!("{}\n{log}", refusal.reason);
                    let hint = explain(&messages, &compiled.kernel, &task.definition, is_oracle);
                    let failure = broken(messages);
                    return Err(match hint {
                        Some(hint) => failure.hint(hint).into(),
                        None => failure.into(),
                    });
                }
            };
        }
        Ok(())
    }
}

/// A kernel file whose launch plan has the buffers of an oracle. It has no code.
pub(super) fn outputs_only(task: &Task) -> String {
    let outputs: Vec<&str> = task.definition.outputs.keys().map(String::as_str).collect();
    let outputs = outputs.join(", ");
    format!(
        "/* kforge\nlaunch:\n  - kernel: reference\n    grid: 1\n    block: 1\n    args: {outputs}\n*/\n"
    )
}
