//! A device with its workers: those that are ready, how much it has to do, and whether it is still trusted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::child::Worker;
use crate::verdict::DeviceIdentity;

/// A device with its workers.
pub(super) struct Place {
    /// `None`: the host's processor.
    pub(super) card: Option<DeviceIdentity>,
    idle: Mutex<Vec<Worker>>,
    pub(super) busy: AtomicUsize,
    /// Oracle and baseline have worked here.
    pub(super) proven: AtomicBool,
    /// Set once it has failed with a kernel that is known to be good.
    trouble: OnceLock<String>,
}

impl Place {
    pub(super) fn new(card: Option<DeviceIdentity>) -> Self {
        Self {
            card,
            idle: Mutex::default(),
            busy: AtomicUsize::new(0),
            proven: AtomicBool::new(false),
            trouble: OnceLock::new(),
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> String {
        let card = self.card.as_ref();
        let name = card.map(|card| card.uuid.as_ref().unwrap_or(&card.name));
        name.map_or_else(|| "the processor".to_owned(), |name| format!("GPU {name}"))
    }

    /// Why it is not used any more.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.get().cloned()
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.trouble.get().is_some()
    }

    pub(super) fn quarantine(&self, error: &anyhow::Error) {
        let trouble = format!(
            "{} fails with a kernel that is known to be good: {error:#}",
            self.name()
        );
        // Whoever came first has said it.
        if self.trouble.set(trouble.clone()).is_ok() {
            tracing::warn!("{trouble}; it is not used any more");
        }
    }

    /// A worker that is ready and still alive.
    pub(super) fn take(&self) -> Option<Worker> {
        let mut idle = self.idle.lock().ok()?;
        loop {
            let mut worker = idle.pop()?;
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
        }
    }

    pub(super) fn keep(&self, worker: Worker) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
    }
}

/// Counts one request for as long as it lives.
pub(super) struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    pub(super) fn on(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
