//! The workers of one device: the idle ones, the number of active requests, and whether the device is quarantined.
//!
//! Keeps state only; `dispatch` starts workers and sends requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::child::Worker;
use crate::eval::OpponentTimes;
use crate::verdict::DeviceIdentity;

/// A worker that starts in the background.
struct StartingWorker {
    /// No process was started before.
    since: Instant,
    /// `None` in the result: it failed.
    worker: JoinHandle<Option<Worker>>,
}

/// A device and its workers.
pub(super) struct DeviceWorkers {
    /// `None`: the CPU of this machine.
    pub(super) gpu: Option<DeviceIdentity>,
    idle: Mutex<Vec<Worker>>,
    /// Workers that start in the background, the oldest first.
    starting: Mutex<VecDeque<StartingWorker>>,
    pub(super) active_requests: AtomicUsize,
    /// Whether a worker has become ready here, that is, the oracle and the baseline work on this device.
    pub(super) is_proven: AtomicBool,
    /// What workers of this device have found out about the opponents, so that a new one need not.
    opponents: Mutex<OpponentTimes>,
    /// Set when the device fails with a kernel that is known to be correct.
    quarantine_reason: OnceLock<String>,
}

impl DeviceWorkers {
    pub(super) fn new(gpu: Option<DeviceIdentity>) -> Self {
        Self {
            gpu,
            idle: Mutex::default(),
            starting: Mutex::default(),
            active_requests: AtomicUsize::new(0),
            is_proven: AtomicBool::new(false),
            opponents: Mutex::default(),
            quarantine_reason: OnceLock::new(),
        }
    }

    /// The device's name in messages.
    pub(super) fn describe(&self) -> String {
        let name = self
            .gpu
            .as_ref()
            .map(|gpu| gpu.uuid.as_ref().unwrap_or(&gpu.name));
        name.map_or_else(|| "the CPU".to_owned(), |name| format!("GPU {name}"))
    }

    /// Why the device is quarantined; `None` if it is not.
    pub(super) fn quarantine_reason(&self) -> Option<String> {
        self.quarantine_reason.get().cloned()
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantine_reason.get().is_some()
    }

    /// Stops using the device permanently.
    pub(super) fn quarantine(&self, error: &anyhow::Error) {
        let reason = format!(
            "{} fails with a kernel that is known to be correct: {error:#}",
            self.describe()
        );
        // Only the first caller sets the reason and warns.
        if self.quarantine_reason.set(reason.clone()).is_ok() {
            tracing::warn!("{reason}; kforge does not use it any more");
        }
    }

    pub(super) fn opponents(&self) -> OpponentTimes {
        let opponents = self.opponents.lock();
        opponents.map_or_else(|_| OpponentTimes::default(), |known| known.clone())
    }

    pub(super) fn set_opponents(&self, times: &OpponentTimes) {
        if let Ok(mut known) = self.opponents.lock()
            && !times.is_empty()
        {
            *known = times.clone();
        }
    }

    /// Takes an idle worker that is still alive. `fresh`: only a worker that has served no request.
    pub(super) fn take_idle(&self, fresh: bool) -> Option<Worker> {
        let mut idle = self.idle.lock().ok()?;
        loop {
            let fits = |worker: &Worker| !fresh || worker.served == 0;
            let index = idle.iter().rposition(fits)?;
            let mut worker = idle.remove(index);
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
        }
    }

    /// Starts a worker in the background.
    pub(super) fn put_starting(
        &self,
        start: impl Future<Output = Option<Worker>> + Send + 'static,
    ) {
        let since = Instant::now();
        let worker = tokio::spawn(start);
        if let Ok(mut all) = self.starting.lock() {
            all.push_back(StartingWorker { since, worker });
        }
    }

    /// Whether a worker that has served no request is idle or starts in the background.
    pub(super) fn has_fresh(&self) -> bool {
        let is_idle = |idle: &Vec<Worker>| idle.iter().any(|worker| worker.served == 0);
        self.idle.lock().is_ok_and(|idle| is_idle(&idle)) || self.count_starting() > 0
    }

    /// Number of workers that start in the background, or have started there and were not taken.
    pub(super) fn count_starting(&self) -> usize {
        self.starting.lock().map_or(0, |starting| starting.len())
    }

    /// Waits for the oldest worker that starts in the background. `None` if there is none, or if it failed.
    pub(super) async fn take_starting(&self) -> Option<Worker> {
        let oldest = self.starting.lock().ok()?.pop_front()?;
        oldest.wait().await
    }

    /// Waits for a worker whose process was not started before `since`. `None` if there is none, or if it failed.
    pub(super) async fn take_started_since(&self, since: Instant) -> Option<Worker> {
        let newest = {
            let mut all = self.starting.lock().ok()?;
            all.back().filter(|newest| newest.since >= since)?;
            all.pop_back()?
        };
        newest.wait().await
    }

    pub(super) fn put_back(&self, worker: Worker) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
    }
}

impl StartingWorker {
    async fn wait(self) -> Option<Worker> {
        let mut worker = self.worker.await.ok()??;
        matches!(worker.child.try_wait(), Ok(None)).then_some(worker)
    }
}

/// Counts one request while it exists.
pub(super) struct ActiveRequest<'a>(&'a AtomicUsize);

impl<'a> ActiveRequest<'a> {
    pub(super) fn start(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
