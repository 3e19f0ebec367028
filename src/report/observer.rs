//! The interface through which the driver shows what happens.

use super::progress::Progress;
use crate::event::Event;
use crate::search::SearchUpdate;

/// Watches the tasks of a run, one after the other.
///
/// The driver's loop calls these methods, so they must return quickly. Every event is durable before an observer sees it.
pub trait Observer: Send {
    /// Work on a task starts or is resumed. `progress` counts what the journal holds.
    fn started(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// An event was recorded. `updates`: what it changed in the search. `progress` counts it already.
    fn event(&mut self, event: &Event, updates: &[SearchUpdate], progress: &Progress);

    /// Called about once a second. `progress.waiting` lists the waiting requests.
    fn waiting(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// This process has finished its work on the task.
    fn ended(&mut self, progress: &Progress) {
        let _ = progress;
    }
}

/// An observer that shows nothing.
pub struct SilentObserver;

impl Observer for SilentObserver {
    fn event(&mut self, _event: &Event, _updates: &[SearchUpdate], _progress: &Progress) {}
}
