//! Deadlines for child processes: a child that exceeds its deadline is killed together with its process group.
//!
//! One thread serves all deadlines. It sleeps until the earliest one it knows. A new deadline is usually later than those, so
//! setting it does not wake the thread while a launch is timed. Never waits for a child itself, except in
//! `wait_for_state_change`.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::base::process::kill_group;

struct WatchedGroup {
    number: u64,
    group: libc::pid_t,
    deadline: Instant,
    fired: bool,
}

#[derive(Default)]
struct WatchList {
    watched: Vec<WatchedGroup>,
    last_number: u64,
    /// When the thread wakes up by itself; `None`: it waits for a notification.
    next_wakeup: Option<Instant>,
}

static WATCH_LIST: Mutex<WatchList> = Mutex::new(WatchList {
    watched: Vec::new(),
    last_number: 0,
    next_wakeup: None,
});
static DEADLINE_MOVED: Condvar = Condvar::new();
static THREAD_STARTED: OnceLock<()> = OnceLock::new();

/// An active deadline. Dropping it ends it.
pub(super) struct ProcessDeadline {
    number: u64,
}

impl ProcessDeadline {
    /// `group` is the process number of a child that leads its own process group. The child must not be reaped before `stop`:
    /// its number could belong to another process by then.
    pub(super) fn start(group: libc::pid_t, deadline: Duration) -> Self {
        THREAD_STARTED.get_or_init(|| {
            std::thread::spawn(run_watchdog);
        });
        let deadline = Instant::now() + deadline;
        let mut watches = lock_watch_list();
        watches.last_number += 1;
        let number = watches.last_number;
        watches.watched.push(WatchedGroup {
            number,
            group,
            deadline,
            fired: false,
        });
        if watches.next_wakeup.is_none_or(|look| deadline < look) {
            DEADLINE_MOVED.notify_one();
        }
        Self { number }
    }

    /// Ends the deadline. Returns whether it had passed and the group was killed.
    pub(super) fn stop(self) -> bool {
        self.remove()
    }

    fn remove(&self) -> bool {
        let watched = &mut lock_watch_list().watched;
        let index = watched
            .iter()
            .position(|watched| watched.number == self.number);
        index.is_some_and(|place| watched.swap_remove(place).fired)
    }
}

impl Drop for ProcessDeadline {
    fn drop(&mut self) {
        self.remove();
    }
}

fn lock_watch_list() -> MutexGuard<'static, WatchList> {
    // A panic cannot leave the list inconsistent: every change is a single operation.
    WATCH_LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_watchdog() {
    let mut watches = lock_watch_list();
    loop {
        let now = Instant::now();
        for late in watches
            .watched
            .iter_mut()
            .filter(|watched| !watched.fired && watched.deadline <= now)
        {
            late.fired = true;
            // The child is reaped only after its deadline was stopped, which needs the lock held here.
            kill_group(late.group);
        }
        // A deadline that is stopped later still counts: one wakeup too many is cheaper than a notification for every launch.
        let next = watches
            .watched
            .iter()
            .filter(|watched| !watched.fired)
            .map(|watched| watched.deadline)
            .min();
        watches.next_wakeup = next;
        watches = match next {
            Some(next) => {
                let pause = next.saturating_duration_since(Instant::now());
                DEADLINE_MOVED
                    .wait_timeout(watches, pause)
                    .map_or_else(|error| error.into_inner().0, |(watches, _)| watches)
            }
            None => DEADLINE_MOVED
                .wait(watches)
                .unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Blocks until a child changes its state (`kinds`: flags of `waitid`), without reaping it: an ended child keeps its number.
/// Returns for certain only if a deadline is active for the child.
pub(super) fn wait_for_state_change(child: libc::pid_t, kinds: libc::c_int) -> anyhow::Result<()> {
    loop {
        // SAFETY: integers and unions of integers; all zeros are a valid value.
        let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let place = &raw mut news;
        // SAFETY: the pointer is valid for writes.
        let result = unsafe {
            libc::waitid(
                libc::P_PID,
                child as libc::id_t,
                place,
                kinds | libc::WNOWAIT,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("failed to wait for a child process");
        }
    }
}
