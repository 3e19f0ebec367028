//! Judging several kernels for `kforge eval`: a worker pool, verdicts in order as they arrive, interruption.
//!
//! Prints verdicts. Never decides what a kernel's status is; that is `eval`, in worker processes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{Semaphore, watch};
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

/// Judges the kernels, some at once, and starts them in order. As soon as one is done the next one starts, even if an earlier one takes
/// longer. `verdicts` is filled in order as they finish, so that it is useful after an error or an interruption too.
async fn judge_all(
    job: &Arc<EvalJob>,
    mut interrupt: watch::Receiver<bool>,
    verdicts: &mut Vec<Verdict>,
) -> anyhow::Result<JudgingEnd> {
    let spinner = Spinner::new();
    let count = job.kernels.len();
    let mut running = start_in_order(count, job.in_flight, |index| {
        judge_one(Arc::clone(job), index)
    });
    for (index, (path, _)) in job.kernels.iter().enumerate() {
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

/// Starts work on each index in order, at most `at_once` at a time. As soon as one is done the next one starts.
fn start_in_order<F>(
    count: usize,
    at_once: usize,
    work: impl Fn(usize) -> F,
) -> VecDeque<JoinHandle<F::Output>>
where
    F: Future<Output: Send> + Send + 'static,
{
    // It serves those that wait in their order.
    let places = Arc::new(Semaphore::new(at_once));
    let start = |index| {
        let (places, work) = (Arc::clone(&places), work(index));
        tokio::spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            work.await
        })
    };
    (0..count).map(start).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_slow_kernel_does_not_hold_up_those_after_it() {
        const COUNT: usize = 6;
        let last_begins = Arc::new(Notify::new());
        let begun = Arc::new(Mutex::new(Vec::new()));
        // The first of them ends when the last one begins.
        let running = start_in_order(COUNT, 2, |index| {
            let (last_begins, begun) = (Arc::clone(&last_begins), Arc::clone(&begun));
            async move {
                begun.lock().unwrap().push(index);
                match index {
                    0 => last_begins.notified().await,
                    5 => last_begins.notify_one(),
                    _ => {}
                }
                index
            }
        });
        let mut done = Vec::new();
        for one in running {
            done.push(one.await.unwrap());
        }
        let in_order: Vec<_> = (0..COUNT).collect();
        assert_eq!(done, in_order);
        assert_eq!(*begun.lock().unwrap(), in_order);
    }

    #[tokio::test]
    async fn no_more_run_at_once_than_there_are_places() {
        let state = Arc::new(Mutex::new((0, 0)));
        let running = start_in_order(20, 3, |_| {
            let state = Arc::clone(&state);
            async move {
                {
                    let mut state = state.lock().unwrap();
                    state.0 += 1;
                    state.1 = state.0.max(state.1);
                }
                tokio::task::yield_now().await;
                state.lock().unwrap().0 -= 1;
            }
        });
        for one in running {
            one.await.unwrap();
        }
        assert_eq!(*state.lock().unwrap(), (0, 3));
    }
}
