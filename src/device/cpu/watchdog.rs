//! Deadlines for child processes: whoever is over its own is killed, with its whole group.
//!
//! One thread for all of them looks every few milliseconds, so that setting a deadline wakes nobody while a launch is timed.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How late a deadline may be noticed.
const TICK: Duration = Duration::from_millis(5);

struct Watched {
    group: libc::pid_t,
    deadline: Instant,
    fired: bool,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static WATCHING: OnceLock<()> = OnceLock::new();

/// A deadline in force.
pub(super) struct Watch {
    group: libc::pid_t,
}

impl Watch {
    /// `group` is the number of a child that leads its own process group and has not been reaped.
    pub(super) fn start(group: libc::pid_t, deadline: Duration) -> Self {
        WATCHING.get_or_init(|| {
            std::thread::spawn(watch);
        });
        watched().push(Watched {
            group,
            deadline: Instant::now() + deadline,
            fired: false,
        });
        Self { group }
    }

    /// Ends the watch; tells whether the deadline had passed, and the group was killed.
    pub(super) fn stop(self) -> bool {
        let mut watched = watched();
        let place = watched
            .iter()
            .position(|watched| watched.group == self.group);
        place.is_some_and(|place| watched.swap_remove(place).fired)
    }
}

fn watched() -> MutexGuard<'static, Vec<Watched>> {
    // Nothing that holds the lock can leave the list half changed.
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        for late in watched()
            .iter_mut()
            .filter(|watched| !watched.fired && watched.deadline <= now)
        {
            late.fired = true;
            // SAFETY: kill has no memory preconditions; the watch is stopped once the child has been waited for.
            unsafe {
                libc::kill(-late.group, libc::SIGKILL);
            }
        }
    }
}
