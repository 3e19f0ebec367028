//! Deadlines for child processes: whoever is over its own is killed, with its whole group.
//!
//! One thread for all of them sleeps until the earliest deadline that it knows. Deadlines that are set later are mostly later,
//! so that setting one wakes nobody just when a launch is timed.

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
    /// When the thread will look again; `None`: when it is told to.
    next_wakeup: Option<Instant>,
}

static WATCH_LIST: Mutex<WatchList> = Mutex::new(WatchList {
    watched: Vec::new(),
    last_number: 0,
    next_wakeup: None,
});
static DEADLINE_MOVED: Condvar = Condvar::new();
static THREAD_STARTED: OnceLock<()> = OnceLock::new();

/// A deadline in force.
pub(super) struct ProcessDeadline {
    number: u64,
}

impl ProcessDeadline {
    /// `group` is the number of a child that leads its own process group. It must not be reaped before the watch is stopped:
    /// its number could be another's by then.
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

    /// Ends the watch; tells whether the deadline had passed, and the group was killed.
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
    // Nothing that holds the lock can leave the list half changed.
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
            // The child has not been reaped: that happens after its watch was stopped, which needs the lock held here.
            kill_group(late.group);
        }
        // What was stopped meanwhile still counts: to wake once too often is cheaper than to be woken for every launch.
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

/// Blocks until there is news of a child, and leaves them to be collected: a child that has ended keeps its number. A watchdog
/// sees to it that this returns.
pub(super) fn wait_for_state_change(child: libc::pid_t, kinds: libc::c_int) -> anyhow::Result<()> {
    loop {
        // SAFETY: plain integers and unions of them; all zeros are a valid value.
        let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let place = &raw mut news;
        // SAFETY: `news` is a valid place to write.
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
