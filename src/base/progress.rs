//! Signs of life of a worker: when it last completed a piece of work, and whether it is in a wait that ends by itself.
//!
//! A worker sends `stalled_time` to the driver, which kills a worker that is stuck. Nothing here measures a kernel.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();
/// Milliseconds from `START` to the last piece of work.
static LAST_WORK: AtomicU64 = AtomicU64::new(0);
static BOUNDED_WAITS: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Records that a piece of work is complete, such as a launch.
pub(crate) fn note() {
    LAST_WORK.store(now(), Ordering::Relaxed);
}

/// Marks a wait that has a limit of its own. While the value lives, this process is not stalled.
pub(crate) fn bounded_wait() -> BoundedWait {
    BOUNDED_WAITS.fetch_add(1, Ordering::Relaxed);
    BoundedWait(())
}

pub(crate) struct BoundedWait(());

impl Drop for BoundedWait {
    fn drop(&mut self) {
        note();
        BOUNDED_WAITS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long no work was completed outside bounded waits.
pub(crate) fn stalled_time() -> Duration {
    if BOUNDED_WAITS.load(Ordering::Relaxed) > 0 {
        return Duration::ZERO;
    }
    Duration::from_millis(now().saturating_sub(LAST_WORK.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_waits_are_no_stall() {
        note();
        std::thread::sleep(Duration::from_millis(20));
        let wait = bounded_wait();
        assert_eq!(stalled_time(), Duration::ZERO);
        drop(wait);
        // Other tests wait and note as well, so the time can only be shorter.
        assert!(stalled_time() < Duration::from_secs(60));
    }
}
