//! Process groups of child processes.
//!
//! A child that is started with `process_group(0)` leads its own group. Killing the group also ends everything that the
//! child has started. This module kills groups; it never starts a process.

use std::ops::{Deref, DerefMut};

use tokio::process::Child;

/// Kills every process of the group with SIGKILL. `leader`: the process id of the child that leads the group.
///
/// The child must not have been reaped, because the id could belong to another process by then.
pub(crate) fn kill_group(leader: libc::pid_t) {
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe {
        libc::kill(-leader, libc::SIGKILL);
    }
}

/// A child that leads its own process group. Dropping it kills the group, unless the child has been reaped already.
pub(crate) struct GroupLeader(Child);

impl GroupLeader {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for GroupLeader {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for GroupLeader {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for GroupLeader {
    fn drop(&mut self) {
        // `id` is `None` once the child has been reaped.
        if let Some(leader) = self.0.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
            kill_group(leader);
        }
    }
}

/// Kills a process group when it is dropped, also if its leader has been reaped: processes that outlive the leader end too.
///
/// Drop it soon after the leader was reaped. While a process of the group lives, the system does not reuse the id; after that,
/// the id is not reused within moments.
pub(crate) struct GroupGuard(Option<libc::pid_t>);

impl GroupGuard {
    /// `leader`: a child that was started with `process_group(0)`.
    pub(crate) fn new(leader: &Child) -> Self {
        Self(leader.id().and_then(|id| libc::pid_t::try_from(id).ok()))
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            kill_group(leader);
        }
    }
}
