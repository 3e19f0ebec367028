//! Child processes: how each of them is tied to this process, and how process groups are killed.
//!
//! Every child leads its own process group, so killing the group also ends what the child has started. `ParentTie` makes a
//! child end with this process, whatever ends it. `guardian` ends the children's own children then.

use std::io::{self, Read, Seek};
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::{guardian, progress, temporary};

/// How a child is tied to this process. Made before the fork, applied between fork and exec by system calls alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParentTie {
    parent: libc::pid_t,
    guardian: Option<RawFd>,
}

impl ParentTie {
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: no preconditions.
            parent: unsafe { libc::getpid() },
            guardian: guardian::socket(),
        }
    }

    /// Makes the calling child the leader of a new process group. The first step of a child whose own children cannot leave the
    /// group, or do not: from then on the guardian ends them too.
    pub(crate) fn lead_group(&self) -> io::Result<()> {
        // SAFETY: plain numbers.
        self.report(unsafe { libc::setpgid(0, 0) })
    }

    /// Like `lead_group`, for a child that makes groups itself, such as a worker: with a guardian it leads a session, which holds
    /// all these groups.
    fn lead_session(&self) -> io::Result<()> {
        match self.guardian {
            // SAFETY: no preconditions.
            Some(_) => self.report(unsafe { libc::setsid() }),
            None => self.lead_group(),
        }
    }

    fn report(&self, result: libc::pid_t) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(socket) = self.guardian {
            guardian::report_child(socket);
        }
        Ok(())
    }

    /// Makes the calling child die with the thread that started it. Call it after the last change of user, which clears the
    /// setting. The thread must live as long as the child should.
    pub(crate) fn die_with_parent(&self) -> io::Result<()> {
        // SAFETY: plain numbers; `_exit` ends the child at once.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before the call above, no signal comes, and this process has another parent by now.
            if libc::getppid() != self.parent {
                libc::_exit(1);
            }
        }
        Ok(())
    }
}

/// Ties the children of a command to this process, with all that they start. For workers and for programs of others;
/// `device::sandbox` ties confined children.
pub(crate) fn tie_to_parent(command: &mut Command) {
    let tie = ParentTie::new();
    // SAFETY: both steps make system calls only.
    unsafe {
        command.pre_exec(move || {
            tie.lead_session()?;
            tie.die_with_parent()
        });
    }
}

/// Runs a short program to its end and returns its standard output. Its process group is killed after `limit`.
///
/// # Errors
/// If it cannot be started, does not end in time, or fails.
pub(crate) fn read_output(command: &mut Command, limit: Duration) -> io::Result<String> {
    /// The programs print a few lines.
    const MAX_READ_BYTES: u64 = 16 << 20;
    const PAUSE: Duration = Duration::from_millis(1);
    let mut output = temporary::file()?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null());
    let tie = ParentTie::new();
    // SAFETY: both steps make system calls only.
    unsafe {
        command.pre_exec(move || {
            tie.lead_group()?;
            tie.die_with_parent()
        });
    }
    let mut child = command.spawn()?;
    let _bounded = progress::bounded_wait();
    let leader = child.id() as libc::pid_t;
    let group = ReportedGroup(leader);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() >= limit {
            kill_group(leader);
            child.wait()?;
            drop(group);
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(PAUSE);
    };
    if !status.success() {
        return Err(io::Error::other(status.to_string()));
    }
    let mut text = Vec::new();
    output.rewind()?;
    output.take(MAX_READ_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Kills every process of the group with SIGKILL. `leader`: the process id of the child that leads the group.
///
/// The child must not have been reaped, because the id could belong to another process by then.
pub(crate) fn kill_group(leader: libc::pid_t) {
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe {
        libc::kill(-leader, libc::SIGKILL);
    }
}

/// The group or session of a child that was reported to the guardian. Drop it when the child has been reaped: its id may be another
/// process's then.
pub(crate) struct ReportedGroup(libc::pid_t);

impl ReportedGroup {
    pub(crate) fn new(leader: libc::pid_t) -> Self {
        Self(leader)
    }
}

impl Drop for ReportedGroup {
    fn drop(&mut self) {
        guardian::forget(self.0);
    }
}

fn process_id(child: &Child) -> Option<libc::pid_t> {
    // `None` once the child has been reaped.
    child.id().and_then(|id| libc::pid_t::try_from(id).ok())
}

/// A child that leads its own process group. Dropping it kills the group, unless the child has been reaped already, and
/// whatever is left of its session, unless the child has succeeded.
pub(crate) struct GroupLeader {
    child: Child,
    id: Option<libc::pid_t>,
}

impl GroupLeader {
    /// `child`: started with `tie_to_parent`.
    pub(crate) fn new(child: Child) -> Self {
        Self {
            id: process_id(&child),
            child,
        }
    }
}

impl Deref for GroupLeader {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for GroupLeader {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for GroupLeader {
    fn drop(&mut self) {
        if let Some(leader) = process_id(&self.child) {
            kill_group(leader);
        }
        let Some(id) = self.id else { return };
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => guardian::forget(id),
            _ => guardian::end(id),
        }
    }
}

/// Kills a process group when it is dropped, also if its leader has been reaped: processes that outlive the leader end too.
///
/// Drop it soon after the leader was reaped. While a process of the group lives, the system does not reuse the id; after that,
/// the id is not reused within moments.
pub(crate) struct GroupGuard(Option<libc::pid_t>);

impl GroupGuard {
    /// `leader`: a child that was started with `tie_to_parent`.
    pub(crate) fn new(leader: &Child) -> Self {
        Self(process_id(leader))
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            kill_group(leader);
            guardian::end(leader);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn child_whose_parent_has_died_already_ends_before_its_program() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        // What a child sees if its parent died right after the fork.
        let tie = ParentTie {
            parent: 0,
            guardian: None,
        };
        // SAFETY: makes system calls only.
        unsafe {
            command.pre_exec(move || tie.die_with_parent());
        }
        assert_eq!(command.status().unwrap().code(), Some(1));
    }

    #[test]
    fn stopped_child_dies_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sh");
            command.args(["-c", "kill -STOP $$"]);
            tie_to_parent(&mut command);
            let child = command.spawn().unwrap();
            let status = format!("/proc/{}/status", child.id());
            while !std::fs::read_to_string(&status).is_ok_and(|text| text.contains("T (stopped)")) {
                std::thread::sleep(Duration::from_millis(1));
            }
            child
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn program_that_does_not_end_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & wait"]);
        let started = Instant::now();
        let error = read_output(&mut command, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(30));
        let mut command = Command::new("sh");
        command.args(["-c", "echo 1.2; echo no >&2"]);
        let output = read_output(&mut command, Duration::from_secs(30)).unwrap();
        assert_eq!(output, "1.2\n");
    }
}
