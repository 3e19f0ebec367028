//! Deadlines for child processes: a child that exceeds its deadline is killed together with its process group.
//!
//! One thread serves all deadlines. It sleeps until the earliest one it knows. A new deadline is usually later than those, so
//! setting it does not wake the thread while a launch is timed. Never waits for a child itself, except in
//! `wait_for_state_change`.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::base::cpu_time::group_cpu_time;
use crate::base::process::kill_group;

/// A limit of CPU time ends after this many times as long in any case.
const MAX_STRETCH: u32 = 4;
/// The least time until a group that has CPU time left is looked at again.
const CPU_LOOK: Duration = Duration::from_millis(100);

struct WatchedGroup {
    number: u64,
    group: libc::pid_t,
    deadline: Instant,
    cpu: Option<CpuLimit>,
    fired: bool,
}

/// A limit of CPU time.
struct CpuLimit {
    limit: Duration,
    /// When the group is killed in any case.
    last: Instant,
}

impl WatchedGroup {
    /// Moves the deadline of a group that has used less CPU time than it may. Returns whether it did.
    fn extend(&mut self, now: Instant) -> bool {
        let Some(CpuLimit { limit, last }) = self.cpu else {
            return false;
        };
        let left = group_cpu_time(self.group).map(|used| limit.saturating_sub(used));
        match left {
            Some(left) if !left.is_zero() && now < last => {
                self.deadline = last.min(now + left.max(CPU_LOOK));
                true
            }
            _ => false,
        }
    }
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
        Self::add(group, Instant::now() + deadline, None)
    }

    /// As `start`, but what counts is the CPU time of the group, so that the same work is done on a busy machine. A group that waits is
    /// killed after `MAX_STRETCH` times the limit.
    pub(super) fn of_cpu_time(group: libc::pid_t, limit: Duration) -> Self {
        let now = Instant::now();
        let last = now + MAX_STRETCH * limit;
        Self::add(group, now + limit, Some(CpuLimit { limit, last }))
    }

    fn add(group: libc::pid_t, deadline: Instant, cpu: Option<CpuLimit>) -> Self {
        THREAD_STARTED.get_or_init(|| {
            std::thread::spawn(run_watchdog);
        });
        let mut watches = lock_watch_list();
        watches.last_number += 1;
        let number = watches.last_number;
        watches.watched.push(WatchedGroup {
            number,
            group,
            deadline,
            cpu,
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
        index.is_some_and(|index| watched.swap_remove(index).fired)
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
            if late.extend(now) {
                continue;
            }
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
        let pointer = &raw mut news;
        // SAFETY: the pointer is valid for writes.
        let result = unsafe {
            libc::waitid(
                libc::P_PID,
                child as libc::id_t,
                pointer,
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn start(script: &str) -> (Child, ProcessDeadline) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        let child = command.spawn().unwrap();
        let deadline = ProcessDeadline::of_cpu_time(child.id() as libc::pid_t, LIMIT);
        (child, deadline)
    }

    /// Waits for the end of a child. Returns whether its deadline killed it, and its CPU time.
    fn end_of((mut child, deadline): (Child, ProcessDeadline)) -> (bool, Duration) {
        let id = child.id() as libc::pid_t;
        wait_for_state_change(id, libc::WEXITED).unwrap();
        let used = group_cpu_time(id).unwrap();
        let killed = deadline.stop();
        child.wait().unwrap();
        (killed, used)
    }

    #[test]
    fn limit_of_cpu_time_counts_work_and_bounds_waiting() {
        let begun = Instant::now();
        let slow = start("sleep 1.2");
        let endless = start("while :; do :; done");
        let stuck = start("sleep 100");
        // It runs for longer than the limit, and does little.
        assert!(!end_of(slow).0);
        let (killed, used) = end_of(endless);
        // On a busy machine it gets less until the last moment, and the watchdog comes late.
        assert!(killed && used < 4 * LIMIT, "{used:?}");
        assert!(end_of(stuck).0);
        assert!(begun.elapsed() >= MAX_STRETCH * LIMIT);
    }
}
