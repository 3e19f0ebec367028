//! A device with its workers: those that are ready, how much it has to do, and whether it is still trusted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::child::Worker;
use crate::verdict::DeviceIdentity;

/// A device with its workers.
pub(super) struct DeviceWorkers {
    /// `None`: the host's processor.
    pub(super) gpu: Option<DeviceIdentity>,
    idle: Mutex<Vec<Worker>>,
    pub(super) active_requests: AtomicUsize,
    /// Oracle and baseline have worked here.
    pub(super) is_proven: AtomicBool,
    /// Set once it has failed with a kernel that is known to be good.
    quarantine_reason: OnceLock<String>,
}

impl DeviceWorkers {
    pub(super) fn new(gpu: Option<DeviceIdentity>) -> Self {
        Self {
            gpu,
            idle: Mutex::default(),
            active_requests: AtomicUsize::new(0),
            is_proven: AtomicBool::new(false),
            quarantine_reason: OnceLock::new(),
        }
    }

    /// What messages call it.
    pub(super) fn describe(&self) -> String {
        let card = self.gpu.as_ref();
        let name = card.map(|card| card.uuid.as_ref().unwrap_or(&card.name));
        name.map_or_else(|| "the processor".to_owned(), |name| format!("GPU {name}"))
    }

    /// Why it is not used any more.
    pub(super) fn quarantine_reason(&self) -> Option<String> {
        self.quarantine_reason.get().cloned()
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantine_reason.get().is_some()
    }

    pub(super) fn quarantine(&self, error: &anyhow::Error) {
        let trouble = format!(
            "{} fails with a kernel that is known to be good: {error:#}",
            self.describe()
        );
        // Whoever came first has said it.
        if self.quarantine_reason.set(trouble.clone()).is_ok() {
            tracing::warn!("{trouble}; it is not used any more");
        }
    }

    /// A worker that is ready and still alive.
    pub(super) fn take_idle(&self) -> Option<Worker> {
        let mut idle = self.idle.lock().ok()?;
        loop {
            let mut worker = idle.pop()?;
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
        }
    }

    pub(super) fn put_back(&self, worker: Worker) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
    }
}

/// Counts one request for as long as it lives.
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
