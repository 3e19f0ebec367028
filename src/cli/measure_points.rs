//! Measuring the points of `kforge eval --grid`: a worker, compilers ahead of it, and a file that grows by each point.
//!
//! Shows progress. Never decides what a point's result is: that is `eval`, in the worker.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indexmap::IndexMap;
use tokio::sync::watch;

use super::output::{Format, print_json_lines};
use crate::base::interrupt;
use crate::driver::watch_signals;
use crate::eval::{PointFault, PointRequest, SpaceSettings};
use crate::kernel::Kernel;
use crate::report::SpaceProgress;
use crate::run::{self, SpaceEntry, SpaceFile};
use crate::task::Task;
use crate::worker::{PointCompiler, PointPlan, PoolOptions, PreparedPoint, SpaceWorker};

/// Points between two timings of the baseline.
const POINTS_PER_BASELINE: u64 = 50;
/// Cores that do not compile: one for the worker that launches, one for this process and the system.
const IDLE_CORES: usize = 2;

/// The points to measure, and where they go.
pub(super) struct PointsJob {
    pub(super) settings: SpaceSettings,
    pub(super) pool: PoolOptions,
    pub(super) task: Arc<Task>,
    pub(super) kernel: Kernel,
    pub(super) file: SpaceFile,
    /// Not in the file yet, in the order in which they are measured.
    pub(super) left: Vec<IndexMap<String, i64>>,
    pub(super) format: Format,
    /// Why the first point of each status has no time, by status.
    pub(super) reasons: IndexMap<String, String>,
}

/// Whether all points were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MeasuringEnd {
    All,
    Interrupted,
}

/// Measures the points that are left. `total`: with those that the file has already.
///
/// # Errors
/// If the machinery is broken. The points so far are in the file.
pub(super) fn measure_points(job: &mut PointsJob, total: u64) -> anyhow::Result<MeasuringEnd> {
    if job.left.is_empty() {
        return Ok(MeasuringEnd::All);
    }
    interrupt::set_last_message(
        "interrupted: the same command continues with the points that are left".to_owned(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let mut signals = watch_signals()?;
        let mut progress = SpaceProgress::new(&job.task.name, job.file.tally().points(), total);
        tokio::select! {
            ended = measure_all(job, &mut progress) => ended.map(|()| MeasuringEnd::All),
            () = interrupted(&mut signals) => Ok(MeasuringEnd::Interrupted),
        }
    });
    runtime.shutdown_background();
    ended
}

async fn interrupted(signals: &mut watch::Receiver<bool>) {
    if signals.wait_for(|is_set| *is_set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// May be dropped at any await point: a point is appended as a whole or not at all.
async fn measure_all(job: &mut PointsJob, progress: &mut SpaceProgress) -> anyhow::Result<()> {
    progress.starting();
    let (mut worker, facts) = SpaceWorker::start(job.pool.clone(), job.settings).await?;
    let arch = job.pool.gpus.first().map(|gpu| gpu.arch.clone());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match arch {
        Some(_) => cores.saturating_sub(IDLE_CORES),
        None => 1,
    };
    let plan = PointPlan {
        task: Arc::clone(&job.task),
        kernel: job.kernel.clone(),
        profile: job.pool.options.profile.clone(),
        limits: facts.limits,
        arch,
        points: std::mem::take(&mut job.left),
    };
    let mut compiler = PointCompiler::start(plan, threads)?;
    let mut on_device = 0;
    while let Some(prepared) = compiler.next().await {
        let prepared = prepared?;
        let times_baseline = on_device > 0 && on_device % POINTS_PER_BASELINE == 0;
        on_device += u64::from(prepared.source.is_ok());
        let entry = measure_one(&mut worker, prepared, times_baseline, &facts.workloads).await?;
        if let Err(fault) = &entry.outcome {
            note_reason(&mut job.reasons, &entry, fault);
        }
        let value = job.file.append(&entry)?;
        if job.format == Format::Jsonl {
            print_json_lines([value])?;
        }
        progress.show(job.file.tally());
    }
    Ok(())
}

async fn measure_one(
    worker: &mut SpaceWorker,
    prepared: PreparedPoint,
    times_baseline: bool,
    workloads: &[String],
) -> anyhow::Result<SpaceEntry> {
    let now = || run::timestamp(run::now_milliseconds());
    let source = match prepared.source {
        Ok(source) => source,
        Err(fault) => {
            let entry = SpaceEntry::of_fault(prepared.point, fault, now());
            return Ok(entry.with_compile_seconds(prepared.compile_seconds));
        }
    };
    let started = Instant::now();
    let request = PointRequest {
        source,
        times_baseline,
    };
    let result = worker.measure(request).await?;
    let seconds = started.elapsed().as_secs_f64();
    let compiled_ahead = prepared.compile_seconds;
    let in_worker = result.seconds.compile;
    let entry = SpaceEntry::of_result(prepared.point, result, workloads, seconds, now())?;
    Ok(entry.with_compile_seconds(compiled_ahead.max(in_worker)))
}

fn note_reason(reasons: &mut IndexMap<String, String>, entry: &SpaceEntry, fault: &PointFault) {
    let status = fault.status.to_string();
    reasons.entry(status).or_insert_with(|| {
        let first_line = fault.reason.lines().next().unwrap_or_default();
        let values = entry.point.iter();
        let values: Vec<String> = values
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!("{}: {first_line}", values.join(" "))
    });
}
