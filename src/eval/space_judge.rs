//! Measures many points of one kernel: a short check and a few timed samples each, in milliseconds.
//!
//! Inputs come from one seed. The oracle runs once, and its outputs stay on the device for all points. The baseline is timed now and then,
//! apart from the points, so a speedup includes the drift between both. Not a judgement: never confirms a kernel, and never says that one is
//! correct on other shapes or inputs.

use std::time::{Duration, Instant};

use super::case::{Case, derive_seed, operations};
use super::case_kernel::CaseKernel;
use super::compiled_kernel::{CompiledKernel, Reference};
use super::context::{JudgeContext, JudgeOptions};
use super::finding::{JudgeError, JudgeResult};
use super::floor::cold_floor;
use super::kernel_set::tolerances;
use super::point::{
    PointFault, PointRequest, PointResult, PointSeconds, SpaceFacts, SpaceSettings, SpaceWorkloads,
    check_header,
};
use crate::base::Failure;
use crate::base::statistics::SampleSummary;
use crate::device::{Cache, Device, ExpectedValues, LaunchOutcome, Poison, Purpose};
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Task, Tolerance};

/// Launches that give a first estimate of the baseline's time.
const ESTIMATE_RUNS: usize = 3;
/// How often a workload is timed while the device is throttled.
const MAX_ATTEMPTS: usize = 3;

/// The most workloads of a trial.
const MAX_SPREAD: usize = 8;

/// A task on a device, ready to measure points.
pub(crate) struct SpaceJudge<'a> {
    context: JudgeContext<'a>,
    settings: SpaceSettings,
    workloads: Vec<SpaceWorkload>,
    /// Median microseconds, by workload.
    baseline_us: Vec<f64>,
}

impl<'a> SpaceJudge<'a> {
    /// Compiles the oracle and the baseline, computes the expected values, and times the baseline.
    ///
    /// # Errors
    /// `Failure::reference` if the oracle or the baseline does not work, any other error if the machinery is broken.
    pub(crate) fn open(
        device: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        limits: DeviceLimits,
        settings: SpaceSettings,
    ) -> anyhow::Result<Self> {
        let mut context = JudgeContext::open(device, task, options, limits)?;
        let mut cases = context.workload_cases();
        if settings.workloads == SpaceWorkloads::Spread {
            keep_spread(&mut cases, task);
        }
        context.prepare_references(&cases)?;
        let lock = context.timing_lock.exclusive()?;
        let workloads = cases
            .into_iter()
            .map(|case| SpaceWorkload::open(&context, case, settings.seed))
            .collect::<anyhow::Result<Vec<_>>>()?;
        drop(lock);
        let mut judge = Self {
            context,
            settings,
            workloads,
            baseline_us: Vec::new(),
        };
        judge.time_baseline()?;
        Ok(judge)
    }

    pub(crate) fn facts(&self) -> SpaceFacts {
        let workloads = self.workloads.iter();
        SpaceFacts {
            limits: self.context.limits,
            workloads: workloads.map(|workload| workload.case.id.clone()).collect(),
        }
    }

    /// Checks and times one point. Waits until no other process uses the device.
    ///
    /// # Errors
    /// If the machinery is broken. A fault of the kernel is a result.
    pub(crate) fn measure(&mut self, request: &PointRequest) -> anyhow::Result<PointResult> {
        if request.times_baseline {
            self.time_baseline()?;
        }
        // What came before belongs to no point.
        self.context.timing_lock.take_held_time();
        let mut result = self.measure_point(request)?;
        result.device_seconds = self.context.timing_lock.take_held_time().as_secs_f64();
        Ok(result)
    }

    fn measure_point(&self, request: &PointRequest) -> anyhow::Result<PointResult> {
        let mut result = PointResult {
            times: Ok(Vec::new()),
            baseline_us: self.baseline_us.clone(),
            is_disturbed: false,
            seconds: PointSeconds::default(),
            device_seconds: 0.0,
        };
        let compiled = match self.compile(&request.source, &mut result.seconds)? {
            Ok(compiled) => compiled,
            Err(fault) => {
                result.times = Err(fault);
                return Ok(result);
            }
        };
        result.times = match self.time_all(&compiled, &mut result) {
            Ok(times) => Ok(times),
            Err(error) => Err(PointFault::of_launch(error.into_finding()?)),
        };
        Ok(result)
    }

    fn compile(
        &self,
        source: &str,
        seconds: &mut PointSeconds,
    ) -> anyhow::Result<Result<CompiledKernel, PointFault>> {
        let context = &self.context;
        let kernel = match Kernel::parse(source, &context.task.definition) {
            Ok(kernel) => kernel,
            Err(error) => return Ok(Err(PointFault::of_compilation(error.into()))),
        };
        let profile = &context.options.profile;
        if let Err(fault) = check_header(context.task, profile, &context.limits, &kernel) {
            return Ok(Err(fault));
        }
        let cases = self.workloads.iter();
        let cases: Vec<Case> = cases.map(|workload| workload.case.clone()).collect();
        let compiled = context.compile(kernel, &cases);
        Ok(match compiled {
            Ok(compiled) => {
                seconds.compile = compiled.seconds;
                Ok(compiled)
            }
            Err(error) => Err(PointFault::of_compilation(error.into_finding()?)),
        })
    }

    /// The samples of each workload, in microseconds.
    fn time_all(
        &self,
        compiled: &CompiledKernel,
        result: &mut PointResult,
    ) -> JudgeResult<Vec<Vec<f64>>> {
        let _lock = self.context.timing_lock.exclusive()?;
        let mut all = Vec::new();
        for workload in &self.workloads {
            let mut measured = None;
            for _ in 0..MAX_ATTEMPTS {
                let started = Instant::now();
                let mut kernel = workload.open_candidate(&self.context, compiled)?;
                let timed = workload.time(&self.context, &mut kernel, self.settings)?;
                drop(kernel);
                let timing = timed.seconds;
                result.seconds.timing += timing;
                result.seconds.check += started.elapsed().as_secs_f64() - timing;
                result.is_disturbed = self.context.device.disturbance().is_some();
                measured = Some(timed.microseconds);
                if !result.is_disturbed {
                    break;
                }
            }
            all.extend(measured);
        }
        Ok(all)
    }

    /// Times the baseline on every workload, as a point.
    fn time_baseline(&mut self) -> anyhow::Result<()> {
        let _lock = self.context.timing_lock.exclusive()?;
        let mut medians = Vec::new();
        for workload in &self.workloads {
            let mut kernel = workload.open_baseline(&self.context)?;
            let timed = workload.time(&self.context, &mut kernel, self.settings);
            let timed = timed.map_err(|error| self.baseline_failure(workload, error))?;
            let summary = SampleSummary::of(&timed.microseconds);
            medians.extend(summary.map(|summary| summary.median));
        }
        self.baseline_us = medians;
        Ok(())
    }

    fn baseline_failure(&self, workload: &SpaceWorkload, error: JudgeError) -> anyhow::Error {
        match error.into_finding() {
            Ok(finding) => Failure::reference(format!(
                "the baseline of task `{}` fails on workload `{}`: {}",
                self.context.task.name, workload.case.id, finding.reason
            ))
            .into(),
            Err(error) => error,
        }
    }
}

/// Keeps some of the cases, in their order: the smallest, the largest, and others between at even ranks. Fewer would leave out kernels of a
/// file that serve middle sizes only, and noise would choose their tunables.
fn keep_spread(cases: &mut Vec<Case>, task: &Task) {
    let work = |case: &Case| operations(task, &case.binding);
    let mut order: Vec<&Case> = cases.iter().collect();
    order.sort_by(|one, other| work(one).total_cmp(&work(other)));
    let kept = even_ranks(order.len(), MAX_SPREAD).map(|rank| order[rank].id.clone());
    let kept: Vec<_> = kept.collect();
    cases.retain(|case| kept.contains(&case.id));
}

/// At most `most` ranks below `count`, at even distances, the first and the last among them.
fn even_ranks(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let kept = count.min(most);
    (0..kept).map(move |index| index * (count - 1) / (kept - 1).max(1))
}

/// The samples of a point on one workload.
struct TimedWorkload {
    microseconds: Vec<f64>,
    /// What taking them took.
    seconds: f64,
}

/// A timed workload, and what the outputs of every point must be.
struct SpaceWorkload {
    case: Case,
    /// Copies of the data over which every point is timed.
    copies: usize,
    /// By output, all copies.
    expected: Vec<ExpectedValues>,
    tolerances: Vec<(String, Tolerance)>,
}

impl SpaceWorkload {
    /// Estimates how many copies of the data a sample needs, and runs the oracle on all of them.
    fn open(context: &JudgeContext<'_>, case: Case, seed: u64) -> anyhow::Result<Self> {
        let cache = context.options.cache;
        let purpose = Purpose::Time {
            copies: 1,
            cache: Some(cache),
        };
        let baseline = Reference::Baseline;
        let mut kernel = CaseKernel::open_reference(context, baseline, &case, purpose)?;
        let mut shortest = Duration::MAX;
        for _ in 0..ESTIMATE_RUNS {
            kernel.reset_buffers(seed, Poison::Finite { seed })?;
            match kernel.launch_sample(1, context.deadline())? {
                LaunchOutcome::Finished { time } => shortest = shortest.min(time),
                LaunchOutcome::Fault(refusal) => {
                    return Err(Failure::reference(format!(
                        "the baseline of task `{}` fails on workload `{}`: {}",
                        context.task.name, case.id, refusal.reason
                    ))
                    .into());
                }
            }
        }
        // As many copies as the fastest kernel needs that the device allows. A slower one has fewer runs in a sample.
        let floor = cold_floor(context, &case, 1).map(|floor| floor.measured_us);
        let floor = floor.filter(|floor| floor.is_finite() && *floor > 0.0);
        let run = floor.map_or(shortest, |floor| {
            shortest.min(Duration::from_secs_f64(floor / 1e6))
        });
        let most = context.device.timing_copies(kernel.buffer_bytes(), run);
        let copies = match cache {
            Cache::Hot => {
                let held = context.device.copies_in_cache(kernel.data_bytes());
                context.device.runs_per_sample(run).min(most).min(held)
            }
            Cache::Cold => most,
        };
        drop(kernel);
        let purpose = Purpose::Expect { copies };
        let mut oracle = CaseKernel::open_reference(context, Reference::Oracle, &case, purpose)?;
        oracle.reset_buffers(seed, Poison::Nan)?;
        // It runs once for each copy.
        let deadline = context.deadline() * u32::try_from(copies).unwrap_or(u32::MAX);
        Ok(Self {
            expected: oracle.oracle_outputs(seed, deadline)?,
            tolerances: tolerances(context),
            case,
            copies,
        })
    }

    fn purpose(&self, context: &JudgeContext<'_>) -> Purpose {
        Purpose::Time {
            copies: self.copies,
            cache: Some(context.options.cache),
        }
    }

    fn open_candidate(
        &self,
        context: &JudgeContext<'_>,
        compiled: &CompiledKernel,
    ) -> JudgeResult<CaseKernel> {
        let purpose = self.purpose(context);
        CaseKernel::open_candidate(context, compiled, &self.case, purpose)
    }

    fn open_baseline(&self, context: &JudgeContext<'_>) -> anyhow::Result<CaseKernel> {
        let purpose = self.purpose(context);
        CaseKernel::open_reference(context, Reference::Baseline, &self.case, purpose)
    }

    /// Checks a kernel, warms it up, and takes samples. The outputs of the first launch and of the last sample are compared with the
    /// oracle's.
    fn time(
        &self,
        context: &JudgeContext<'_>,
        kernel: &mut CaseKernel,
        settings: SpaceSettings,
    ) -> JudgeResult<TimedWorkload> {
        let seed = settings.seed;
        let poison = Poison::SecretNan {
            seed: derive_seed(seed, "poison", 0),
        };
        kernel.reset_buffers(seed, poison)?;
        let inputs = kernel.input_hashes()?;
        let single = self.launch(context, kernel, 1)?;
        kernel.check_guards(&inputs)?;
        self.compare(kernel, seed)?;
        let started = Instant::now();
        let sample = |kernel: &mut CaseKernel, runs| {
            // Otherwise the outputs of one sample would be the inputs of the next.
            if !context.task.settings.in_place.is_empty() {
                kernel.reset_buffers(seed, Poison::Finite { seed })?;
            }
            self.launch(context, kernel, runs)
        };
        // A single run is timed with what it takes to start it, so the estimate is made once more.
        let warm = sample(kernel, self.runs(context, single))?;
        let runs = self.runs(context, warm);
        let mut microseconds = Vec::new();
        for _ in 0..settings.samples {
            microseconds.push(sample(kernel, runs)?.as_secs_f64() * 1e6);
        }
        let seconds = started.elapsed().as_secs_f64();
        kernel.check_guards(&inputs)?;
        self.compare(kernel, seed)?;
        kernel.check_state()?;
        Ok(TimedWorkload {
            microseconds,
            seconds,
        })
    }

    /// Runs of one sample, for a kernel that takes this long.
    fn runs(&self, context: &JudgeContext<'_>, time: Duration) -> usize {
        context.device.runs_per_sample(time).min(self.copies.max(1))
    }

    fn launch(
        &self,
        context: &JudgeContext<'_>,
        kernel: &mut CaseKernel,
        runs: usize,
    ) -> JudgeResult<Duration> {
        match kernel.launch_sample(runs, context.deadline())? {
            LaunchOutcome::Finished { time } if time.is_zero() => {
                Err(anyhow::anyhow!("the clock returned a time of 0").into())
            }
            LaunchOutcome::Finished { time } => Ok(time),
            LaunchOutcome::Fault(refusal) => Err(refusal.into()),
        }
    }

    /// Compares the outputs of the last launch with the oracle's.
    fn compare(&self, kernel: &CaseKernel, seed: u64) -> JudgeResult<()> {
        let copies = kernel.kernel.launched_copies().to_vec();
        let inputs: Vec<usize> = copies.iter().map(|copy| *copy as usize).collect();
        let expected: Vec<ExpectedValues> = (self.expected.iter())
            .map(|all| all.select_copies(&inputs))
            .collect();
        let compared = kernel.compare(&self.tolerances, &expected, &copies, seed);
        compared.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_reach_from_the_smallest_to_the_largest() {
        let ranks = |count, most| even_ranks(count, most).collect::<Vec<_>>();
        assert!(ranks(0, 8).is_empty());
        assert_eq!(ranks(1, 8), [0]);
        assert_eq!(ranks(3, 8), [0, 1, 2]);
        assert_eq!(ranks(9, 3), [0, 4, 8]);
        assert_eq!(ranks(20, 4), [0, 6, 12, 19]);
    }
}
