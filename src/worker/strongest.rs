//! Times the best kernel of a run against the strongest baselines, in pairs, in fresh processes.
//!
//! Chooses the baselines by the order that it is given; `eval::Judge::measure_baseline` times. A baseline that cannot be used is data.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::baselines::{BaselineWorker, blank_entry};
use super::confirm::{FreshProcesses, merge_entries};
use super::pool_options::PoolOptions;
use crate::base::Failure;
use crate::eval::BaselineOpponent;
use crate::verdict::BaselineEntry;

/// The number of fresh processes that time a kernel and a baseline, if the time allows. Each starts Python again, which takes seconds.
const PROCESSES: usize = 3;
/// How many times a process is repeated because the machine was too busy.
const MAX_NOISY: usize = 2;

/// The baselines that the best kernel of a run can be timed against, besides the task's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contenders {
    /// Text and name of the file with baselines in Python; `None` if there is none, or no Python with PyTorch.
    pub python: Option<[String; 2]>,
    /// Names and sources of kernels.
    pub kernels: Vec<(String, String)>,
    /// Names in the order of their speed, the strongest first; the first that works is timed. Empty if nothing is known: then all in Python
    /// are timed.
    pub order: Vec<String>,
    /// The ids of the timed workloads.
    pub workloads: Vec<String>,
}

/// The best kernel beside the baselines that were tried.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StrongestOutcome {
    pub entries: Vec<BaselineEntry>,
    /// Why nothing could be tried.
    pub reason: Option<String>,
    /// The number of processes that timed what is reported of them.
    pub processes: usize,
    /// Device time of all processes, in seconds.
    pub device_seconds: f64,
}

/// A worker in which Python has started and has compiled what will probably be timed.
pub(super) struct PreparedWorker {
    worker: BaselineWorker,
    /// How long starting it and Python took, without compiling: what another process needs.
    start: Duration,
}

/// Starts a worker and Python, and has Python compile the baselines that will probably be timed. Other kernels may be timed meanwhile. A
/// baseline that cannot be prepared is timed at the end all the same. Begins with no further workload once `is_over` is set.
///
/// # Errors
/// If the machinery is broken, or Python or its file does not work.
pub(super) async fn prepare(
    pool: PoolOptions,
    contenders: &Contenders,
    is_over: &AtomicBool,
) -> anyhow::Result<Option<PreparedWorker>> {
    let Some(source) = &contenders.python else {
        return Ok(None);
    };
    let started = Instant::now();
    let mut worker = BaselineWorker::start(pool, true).await?;
    let names = worker.names(source.clone()).await?;
    let start = started.elapsed();
    let is_known = !contenders.order.is_empty();
    let mut wanted = contenders.order.clone();
    if !is_known {
        wanted = names.clone();
    }
    for name in wanted.iter().filter(|name| names.contains(name)) {
        let workloads = &contenders.workloads;
        match worker.prepare(name, source, workloads, is_over).await? {
            Some(reason) => tracing::info!("`{name}` is compiled at the end of the run: {reason}"),
            // The others are not timed if this one works.
            None if is_known => break,
            None => {}
        }
    }
    tracing::info!(
        "Python is ready to time the strongest baseline: started in {:.1} s, compiled in {:.1} s",
        start.as_secs_f64(),
        (started.elapsed() - start).as_secs_f64()
    );
    Ok(Some(PreparedWorker { worker, start }))
}

/// A kernel, by name and source, and what it is timed against.
pub(super) struct Contest<'a> {
    pub(super) pool: PoolOptions,
    pub(super) kernel: (&'a str, &'a str),
    pub(super) contenders: &'a Contenders,
    /// For the first process.
    pub(super) prepared: Option<PreparedWorker>,
}

impl Contest<'_> {
    /// Times the kernel: first against the baselines that are tried, then against the strongest of them in further processes.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(super) async fn run(mut self, limit: Option<Duration>) -> anyhow::Result<StrongestOutcome> {
        let on_cpu = self.pool.gpus.is_empty();
        let mut processes = FreshProcesses::new(on_cpu, limit);
        processes.wanted = PROCESSES;
        let mut outcome = StrongestOutcome::default();
        let mut last = Duration::ZERO;
        for _ in 0..MAX_NOISY {
            let started = Instant::now();
            let prepared = self.prepared.take();
            let start = (prepared.as_ref()).map_or(Duration::ZERO, |prepared| prepared.start);
            let is_noisy = self.first_process(prepared, &mut outcome).await?;
            last = started.elapsed() + start;
            if !is_noisy || !processes.has_time_for(last) {
                break;
            }
        }
        let kept = reported(&outcome.entries);
        if kept.is_empty() {
            return Ok(outcome);
        }
        let first = kept.iter().map(|index| outcome.entries[*index].clone());
        let mut measured: Vec<Vec<BaselineEntry>> = vec![first.collect()];
        while measured.len() < processes.wanted && processes.has_time_for(last) {
            let started = Instant::now();
            let again = self.next_process(&measured[0], &mut outcome).await?;
            last = started.elapsed();
            // Without a figure the machine was too busy, or the kernel is not as reliable as it seemed: the others stand for themselves.
            if again.iter().any(|entry| entry.workloads.is_empty()) {
                break;
            }
            measured.push(again);
        }
        outcome.processes = measured.len();
        for (place, index) in kept.into_iter().enumerate() {
            let of_entry = measured.iter().map(|entries| entries[place].clone());
            outcome.entries[index] = merge_entries(of_entry.collect());
        }
        Ok(outcome)
    }

    /// Times the kernel against the baselines in their order until one works, or against all. Returns whether the machine was too busy.
    async fn first_process(
        &self,
        prepared: Option<PreparedWorker>,
        outcome: &mut StrongestOutcome,
    ) -> anyhow::Result<bool> {
        outcome.entries.clear();
        let mut worker = match prepared {
            Some(prepared) => prepared.worker,
            None => BaselineWorker::start(self.pool.clone(), true).await?,
        };
        let tried = self.try_in_order(&mut worker, outcome).await;
        outcome.device_seconds += worker.device_seconds();
        match tried {
            Ok(is_noisy) => Ok(is_noisy),
            Err(error) => match error.downcast::<Failure>() {
                // Python or its file does not work.
                Ok(failure) => {
                    outcome.reason = Some(failure.message);
                    Ok(false)
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn try_in_order(
        &self,
        worker: &mut BaselineWorker,
        outcome: &mut StrongestOutcome,
    ) -> anyhow::Result<bool> {
        let Contenders { python, order, .. } = self.contenders;
        let is_known = !order.is_empty();
        let mut names = order.clone();
        if let (false, Some(source)) = (is_known, python) {
            names = worker.names(source.clone()).await?;
        }
        let mut is_noisy = false;
        for name in &names {
            if is_known && self.is_enough(&outcome.entries) {
                break;
            }
            let Some(opponent) = self.opponent(name) else {
                continue;
            };
            let of = (blank_of(name, &opponent), &opponent);
            let workloads = &self.contenders.workloads;
            let measured = (worker.measure_all(self.kernel, of, workloads, &|_| {})).await?;
            is_noisy |= measured.is_noisy;
            let mut entry = measured.entry;
            entry.summarize(None);
            outcome.entries.push(entry);
            // Another baseline changes nothing about a kernel that fails.
            if measured.kernel_fault.is_some() {
                break;
            }
        }
        Ok(is_noisy && reported(&outcome.entries).is_empty())
    }

    /// Whether the strongest is known, and also the strongest in Python if Python can be used.
    fn is_enough(&self, entries: &[BaselineEntry]) -> bool {
        let mut measured = entries.iter().filter(|entry| entry.counts());
        match self.contenders.python {
            Some(_) => measured.any(|entry| entry.kind == "python"),
            None => measured.next().is_some(),
        }
    }

    /// Times the kernel against some baselines again, in another process.
    async fn next_process(
        &self,
        first: &[BaselineEntry],
        outcome: &mut StrongestOutcome,
    ) -> anyhow::Result<Vec<BaselineEntry>> {
        let mut worker = BaselineWorker::start(self.pool.clone(), true).await?;
        let mut again = Vec::new();
        for entry in first {
            let Some(opponent) = self.opponent(&entry.name) else {
                continue;
            };
            let blank = BaselineEntry {
                workloads: Vec::new(),
                ..entry.clone()
            };
            let workloads = &self.contenders.workloads;
            let of = (blank, &opponent);
            let measured = (worker.measure_all(self.kernel, of, workloads, &|_| {})).await?;
            again.push(measured.entry);
        }
        outcome.device_seconds += worker.device_seconds();
        Ok(again)
    }

    /// `None` if nothing of this name can be timed here.
    fn opponent(&self, name: &str) -> Option<BaselineOpponent> {
        let mut kernels = self.contenders.kernels.iter();
        if let Some((_, source)) = kernels.find(|(kernel, _)| kernel == name) {
            return Some(BaselineOpponent::Kernel(source.clone()));
        }
        let source = self.contenders.python.clone()?;
        let name = name.to_owned();
        Some(BaselineOpponent::Python { name, source })
    }
}

fn blank_of(name: &str, opponent: &BaselineOpponent) -> BaselineEntry {
    match opponent {
        BaselineOpponent::Kernel(source) => blank_entry(name, Some(source)),
        BaselineOpponent::Task | BaselineOpponent::Python { .. } => blank_entry(name, None),
    }
}

/// What is timed in further processes, by its place: the strongest within the tolerance, and the strongest in Python.
fn reported(entries: &[BaselineEntry]) -> Vec<usize> {
    let strongest = |kind: Option<&str>| {
        let measured = entries.iter().enumerate().filter_map(|(index, entry)| {
            let speedup = entry.kernel_speedup.filter(|_| entry.counts())?;
            let fits = kind.is_none_or(|kind| entry.kind == kind);
            fits.then_some((index, speedup.geomean))
        });
        measured.min_by(|one, other| one.1.total_cmp(&other.1))
    };
    let found = [strongest(None), strongest(Some("python"))];
    let mut places: Vec<usize> = found
        .into_iter()
        .flatten()
        .map(|(index, _)| index)
        .collect();
    places.dedup();
    places
}
