//! Threads that wait for the disk: they call a function for each of several items at the same time.
//!
//! They are started when they are first needed, and kept: a batch of files is written every few milliseconds, and starting threads
//! takes as long as syncing a file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::Result;

/// Number of threads. More do not make 1,000 steps of `benches/driver.rs` faster on an SSD with ext4.
const THREADS: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// The queue of the threads.
static QUEUE: LazyLock<Mutex<Sender<Work>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..THREADS {
        let receiver = receiver.clone();
        // If no thread can be started, the caller does all the work.
        let builder = std::thread::Builder::new().name("kforge-sync".to_owned());
        let _ = builder.stack_size(128 << 10).spawn(move || run(&receiver));
    }
    Mutex::new(sender)
});

fn run(receiver: &Mutex<Receiver<Work>>) {
    loop {
        let work = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match work {
            Ok(work) => work(),
            Err(_) => return,
        }
    }
}

/// Calls `action` for each item, on several threads if there are several items, and waits for all. Returns the first error in the
/// order of the items.
pub(super) fn for_each<T: Send + Sync + 'static>(
    items: &Arc<Vec<T>>,
    action: fn(&T) -> Result<()>,
) -> Result<()> {
    let helpers = items.len().saturating_sub(1).min(THREADS);
    let next = Arc::new(AtomicUsize::new(0));
    let (sender, errors) = mpsc::channel();
    for _ in 0..helpers {
        let (items, next, sender) = (items.clone(), next.clone(), sender.clone());
        let work = move || take_items(&items, &next, action, &sender);
        let queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = queue.send(Box::new(work));
    }
    take_items(items, &next, action, &sender);
    drop(sender);
    // Ends when all helpers have dropped their senders.
    let mut errors: Vec<_> = errors.iter().collect();
    errors.sort_by_key(|(index, _)| *index);
    match errors.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn take_items<T>(
    items: &[T],
    next: &AtomicUsize,
    action: fn(&T) -> Result<()>,
    errors: &Sender<(usize, anyhow::Error)>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(index) else { return };
        if let Err(error) = action(item) {
            let _ = errors.send((index, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_used_and_the_first_error_is_returned() {
        static SUM: AtomicUsize = AtomicUsize::new(0);
        let count = |item: &usize| {
            SUM.fetch_add(*item, Ordering::Relaxed);
            anyhow::ensure!(*item < 50, "{item} is too large");
            Ok(())
        };
        for_each(&Arc::new((0..50).collect()), count).unwrap();
        assert_eq!(SUM.swap(0, Ordering::Relaxed), 49 * 50 / 2);
        let error = for_each(&Arc::new((0..100).collect()), count).unwrap_err();
        assert_eq!(error.to_string(), "50 is too large");
        assert_eq!(
            SUM.load(Ordering::Relaxed),
            99 * 100 / 2,
            "the others are still done"
        );
        for_each(&Arc::default(), count).unwrap();
    }
}
