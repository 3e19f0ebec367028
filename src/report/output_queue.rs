//! Output that never holds up a run: lines wait in a queue, and a thread writes them.
//!
//! A reader that is slow, or that reads nothing, holds up only that thread. A full queue drops lines of progress and of the log, and
//! says so once there is room again; results are never dropped. The end of a command waits for its output, but only while the reader
//! takes some. Decides nothing about what is written.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Writes one piece of output. `T`: what the writing thread owns, such as a progress bar.
type OutputJob<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A queue with a thread that does its jobs in order.
pub(super) struct OutputQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<QueueState<T>>,
    /// Signalled when a job is added or done.
    changed: Condvar,
    max_bytes: usize,
    /// Makes the job that reports how many jobs were dropped.
    report_dropped: fn(u64) -> OutputJob<T>,
}

struct QueueState<T> {
    jobs: VecDeque<(usize, OutputJob<T>)>,
    /// Bytes of all waiting jobs.
    bytes: usize,
    /// Jobs that were dropped since the last report.
    dropped: u64,
    /// A job that a newer one may replace. It comes after `jobs`.
    latest: Option<(usize, OutputJob<T>)>,
    /// The thread is doing a job.
    is_busy: bool,
    /// Number of jobs done.
    done: u64,
}

impl<T: Send + 'static> OutputQueue<T> {
    /// `max_bytes`: size of the waiting jobs at which further ones are dropped.
    pub(super) fn new(
        name: &str,
        owned: T,
        max_bytes: usize,
        report_dropped: fn(u64) -> OutputJob<T>,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(QueueState {
                jobs: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                latest: None,
                is_busy: false,
                done: 0,
            }),
            changed: Condvar::new(),
            max_bytes,
            report_dropped,
        });
        let queue = shared.clone();
        // Without a thread nothing is shown. A machine that cannot start one cannot start a worker either.
        let _ = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || do_jobs(&queue, owned));
        Self { shared }
    }

    /// Adds a job that is dropped if the queue is full. `bytes`: about how much it writes.
    pub(super) fn push(&self, bytes: usize, job: impl FnOnce(&mut T) + Send + 'static) {
        let mut state = self.shared.lock();
        if state.bytes + bytes > self.shared.max_bytes {
            state.dropped += 1;
            return;
        }
        self.shared.report_dropped(&mut state);
        state.push(bytes, Box::new(job));
        self.shared.changed.notify_all();
    }

    /// Adds a job that is never dropped.
    pub(super) fn push_always(&self, bytes: usize, job: impl FnOnce(&mut T) + Send + 'static) {
        let mut state = self.shared.lock();
        self.shared.report_dropped(&mut state);
        state.push(bytes, Box::new(job));
        self.shared.changed.notify_all();
    }

    /// Adds a job that the next call replaces if it was not done by then.
    pub(super) fn replace_latest(&self, job: impl FnOnce(&mut T) + Send + 'static) {
        self.shared.lock().latest = Some((0, Box::new(job)));
        self.shared.changed.notify_all();
    }

    /// Waits until all jobs are done. Returns false as soon as no job was done for `limit`.
    pub(super) fn wait_until_empty(&self, limit: Duration) -> bool {
        let mut state = self.shared.lock();
        self.shared.report_dropped(&mut state);
        self.shared.changed.notify_all();
        let mut done = state.done;
        let mut deadline = Instant::now() + limit;
        while !state.is_empty() {
            if state.done != done {
                done = state.done;
                deadline = Instant::now() + limit;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_dropped(&self, state: &mut QueueState<T>) {
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            state.push(0, (self.report_dropped)(dropped));
        }
    }
}

impl<T> QueueState<T> {
    fn push(&mut self, bytes: usize, job: OutputJob<T>) {
        // The order of all jobs is kept.
        self.jobs.extend(self.latest.take());
        self.jobs.push_back((bytes, job));
        self.bytes += bytes;
    }

    fn take_next(&mut self) -> Option<OutputJob<T>> {
        let next = self.jobs.pop_front().or_else(|| self.latest.take());
        let (bytes, job) = next?;
        self.bytes -= bytes;
        self.is_busy = true;
        Some(job)
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.latest.is_none() && !self.is_busy
    }
}

fn do_jobs<T>(queue: &Shared<T>, mut owned: T) {
    let mut state = queue.lock();
    loop {
        match state.take_next() {
            Some(job) => {
                drop(state);
                job(&mut owned);
                state = queue.lock();
                state.is_busy = false;
                state.done += 1;
                queue.changed.notify_all();
            }
            None => {
                let waited = queue.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A queue that appends to a text. Its first job ends when something is sent.
    fn blocked_queue() -> (OutputQueue<String>, Sender<()>) {
        let queue = OutputQueue::new("test", String::new(), 10, |dropped| {
            Box::new(move |text: &mut String| *text += &format!("<{dropped} dropped>"))
        });
        let (unblock, blocked) = channel();
        queue.push_always(0, move |_| blocked.recv().unwrap());
        (queue, unblock)
    }

    fn add(queue: &OutputQueue<String>, text: &'static str) {
        queue.push(text.len(), move |all| *all += text);
    }

    /// The text after all jobs.
    fn text(queue: &OutputQueue<String>) -> String {
        let (sender, receiver) = channel();
        queue.push_always(0, move |text| sender.send(text.clone()).unwrap());
        receiver.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn full_queue_drops_lines_reports_them_and_keeps_results() {
        let (queue, unblock) = blocked_queue();
        add(&queue, "12345");
        add(&queue, "67890");
        add(&queue, "dropped");
        add(&queue, "too");
        queue.push_always(100, |text| *text += "results");
        unblock.send(()).unwrap();
        assert_eq!(text(&queue), "1234567890<2 dropped>results");
    }

    #[test]
    fn newer_progress_replaces_older_and_keeps_its_place() {
        let (queue, unblock) = blocked_queue();
        for number in ["1", "2", "3"] {
            queue.replace_latest(move |text: &mut String| *text += number);
        }
        add(&queue, "a");
        for number in ["4", "5"] {
            queue.replace_latest(move |text: &mut String| *text += number);
        }
        unblock.send(()).unwrap();
        assert_eq!(text(&queue), "3a5");
    }

    #[test]
    fn wait_ends_early_only_without_progress() {
        let (queue, unblock) = blocked_queue();
        assert!(!queue.wait_until_empty(Duration::from_millis(20)));
        for _ in 0..10 {
            queue.push_always(0, |_| std::thread::sleep(Duration::from_millis(30)));
        }
        unblock.send(()).unwrap();
        // Longer than the limit in total, but something is done all the time.
        assert!(queue.wait_until_empty(Duration::from_millis(250)));
    }
}
