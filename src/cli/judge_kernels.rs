//! Judging several kernels for `kforge eval`: a worker pool, verdicts in order as they arrive, interruption.
//!
//! Prints verdicts. Never decides what a kernel's status is; that is `eval`, in worker processes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::output::{Format, print, print_json, print_json_lines};
use crate::base::{Failure, files};
use crate::driver::watch_signals;
use crate::report::{self, Spinner};
use crate::verdict::Verdict;
use crate::worker::WorkerPool;

/// The kernels to judge, and the pool that judges them.
pub(super) struct EvalJob {
    pub(super) pool: WorkerPool,
    pub(super) task: String,
    pub(super) backend: String,
    /// Path and source.
    pub(super) kernels: Vec<(String, String)>,
    pub(super) seed: Option<u64>,
    pub(super) counters_report: Option<PathBuf>,
    pub(super) format: Format,
    /// Name of the profile.
    pub(super) profile: String,
    /// Timing budget of each workload, in seconds.
    pub(super) timing_seconds: f64,
    /// Whether to print where the time of each judgement went.
    pub(super) timings: bool,
    /// Kernels that are judged at once.
    pub(super) in_flight: usize,
}

/// Judges all kernels and prints their verdicts, also those of an interrupted or failed command.
pub(super) fn judge_and_print(job: &Arc<EvalJob>) -> anyhow::Result<(JudgingEnd, Vec<Verdict>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut verdicts = Vec::new();
    let judged = runtime.block_on(async { judge_all(job, watch_signals()?, &mut verdicts).await });
    // Do not wait for tasks that wait for a GPU.
    runtime.shutdown_background();
    if judged.is_ok() || !verdicts.is_empty() {
        match job.format {
            Format::Human => print(&report::timing_note(&verdicts, &job.profile))?,
            Format::Json => print_json(&verdicts)?,
            Format::Jsonl => {}
        }
    }
    Ok((judged?, verdicts))
}

/// Whether all kernels were judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JudgingEnd {
    All,
    Interrupted,
}

/// Judges the kernels in order. While a GPU judges one, the next ones are compiled. `verdicts` is filled as they finish, so that
/// it is useful after an error or an interruption too.
async fn judge_all(
    job: &Arc<EvalJob>,
    mut interrupt: watch::Receiver<bool>,
    verdicts: &mut Vec<Verdict>,
) -> anyhow::Result<JudgingEnd> {
    let spinner = Spinner::new();
    let mut running = VecDeque::new();
    let mut next = 0;
    let count = job.kernels.len();
    for (index, (path, _)) in job.kernels.iter().enumerate() {
        while next < count && running.len() < job.in_flight {
            running.push_back(tokio::spawn(judge_one(Arc::clone(job), next)));
            next += 1;
        }
        spinner.set_message(&format!("judging {path} ({}/{count})", index + 1));
        let mut first = running
            .pop_front()
            .context("a kernel was not sent to be judged")?;
        let joined = tokio::select! {
            joined = &mut first => joined,
            _ = interrupt.wait_for(|is_interrupted| *is_interrupted) => {
                running.retain(JoinHandle::is_finished);
                for done in running {
                    let verdict = verdict_or_harness_error(job, path, done.await)?;
                    emit_verdict(job, &spinner, verdict, verdicts)?;
                }
                return Ok(JudgingEnd::Interrupted);
            }
        };
        let verdict = verdict_or_harness_error(job, path, joined)?;
        emit_verdict(job, &spinner, verdict, verdicts)?;
    }
    Ok(JudgingEnd::All)
}

async fn judge_one(job: Arc<EvalJob>, index: usize) -> anyhow::Result<Box<Verdict>> {
    let (path, source) = &job.kernels[index];
    let mut verdict = job.pool.judge(path, source, job.seed).await?;
    let report = job.pool.profile(&mut verdict, source).await;
    save_profiler_report(&job, &mut verdict, report);
    Ok(verdict)
}

/// Writes the profiler's report to `--counters-report`. A failure is noted in the verdict, which stays valid.
fn save_profiler_report(job: &EvalJob, verdict: &mut Verdict, report: Option<Vec<u8>>) {
    let evidence = verdict.evidence.as_mut();
    let counters = evidence.and_then(|evidence| evidence.counters.as_mut());
    if let (Some(path), Some(report), Some(counters)) = (&job.counters_report, report, counters) {
        counters.report = Some(match files::replace(path, &report) {
            Ok(()) => {
                let size = report.len().div_ceil(1 << 10);
                format!("{} ({size} KiB)", path.display())
            }
            Err(error) => format!("not saved: {error:#}"),
        });
    }
}

/// The verdict of a finished task. Broken machinery becomes a `harness_error` verdict, so that the other kernels keep theirs; a
/// failure that the user must fix is returned as an error, because all kernels would meet it.
fn verdict_or_harness_error(
    job: &EvalJob,
    path: &str,
    joined: Result<anyhow::Result<Box<Verdict>>, JoinError>,
) -> anyhow::Result<Verdict> {
    let error = match joined.context("judging a kernel panicked") {
        Ok(Ok(verdict)) => return Ok(*verdict),
        Ok(Err(error)) if error.is::<Failure>() => {
            return Err(error.context(format!("failed to judge `{path}`")));
        }
        Ok(Err(error)) | Err(error) => error,
    };
    let reason = format!("{error:#}");
    Ok(Verdict::harness_error(
        &job.task,
        path,
        &job.backend,
        reason,
    ))
}

fn emit_verdict(
    job: &EvalJob,
    spinner: &Spinner,
    verdict: Verdict,
    verdicts: &mut Vec<Verdict>,
) -> anyhow::Result<()> {
    match job.format {
        Format::Human => {
            let mut text = report::describe_verdict(&verdict, job.timing_seconds);
            if job.timings {
                text += &report::describe_timings(&verdict);
            }
            spinner.suspend(|| print(&text))?
        }
        Format::Jsonl => spinner.suspend(|| print_json_lines([&verdict]))?,
        Format::Json => {}
    }
    verdicts.push(verdict);
    Ok(())
}
