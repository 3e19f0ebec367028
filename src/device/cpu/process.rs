//! The process that holds one candidate: spawned stopped, continued for every launch, dead when it is dropped.
//!
//! A launch begins with SIGCONT and ends when `waitpid` sees the whole process stopped or dead: not one of its threads runs
//! outside the clock. Nothing that the process says is believed but how it ended.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::watchdog::Watch;

/// The descriptor on which the child finds its memory; fixed in `control.h`.
const CONTROL_DESCRIPTOR: i32 = 3;
/// The most that a candidate's output may take, in bytes.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// The most of it that is shown.
const SHOWN_OUTPUT: u64 = 2000;

/// Anonymous memory that a child process can map too.
pub(super) struct SharedMemory {
    descriptor: OwnedFd,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone on this side; it is reached through &self and &mut self only.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    pub(super) fn new(bytes: usize) -> anyhow::Result<Self> {
        let name = CString::default();
        // SAFETY: the name is a valid string; the descriptor is checked, and owned by nothing else.
        let descriptor = unsafe {
            let descriptor = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(std::io::Error::last_os_error())
                    .context("failed to make shared memory");
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        // SAFETY: a fresh file is grown and mapped whole; the result is checked.
        let address = unsafe {
            if libc::ftruncate(descriptor.as_raw_fd(), bytes as libc::off_t) != 0 {
                return Err(std::io::Error::last_os_error())
                    .with_context(|| format!("failed to get {bytes} bytes of shared memory"));
            }
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                descriptor.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("failed to map {bytes} bytes of shared memory"));
        }
        Ok(Self {
            descriptor,
            address: address.cast(),
            bytes,
        })
    }

    /// Reads while the child is stopped.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `bytes` long and lives as long as self; the child is stopped whenever the judge looks.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    /// Writes while the child is stopped.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, once.
        unsafe {
            libc::munmap(self.address.cast(), self.bytes);
        }
    }
}

/// How waiting for the child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Stopped,
    Exited(i32),
    Signaled(i32),
    TimedOut,
}

/// A child that runs only while a launch does.
pub(super) struct Process {
    id: libc::pid_t,
    alive: bool,
    output: File,
}

impl Process {
    /// Starts the executable on its memory, and waits until it has stopped itself: it is ready then, or has ended.
    pub(super) fn spawn(
        executable: &Path,
        memory: &SharedMemory,
        folder: &Path,
        deadline: Duration,
    ) -> anyhow::Result<(Self, Ended)> {
        let output =
            tempfile::tempfile().context("failed to make a file for a candidate's output")?;
        let mut command = Command::new(executable);
        command
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0);
        let descriptor = memory.descriptor.as_raw_fd();
        // SAFETY: only async-signal-safe calls between fork and exec, on values made before.
        unsafe {
            command.pre_exec(move || {
                let failed = |result: libc::c_int| {
                    if result < 0 {
                        Err(std::io::Error::last_os_error())
                    } else {
                        Ok(())
                    }
                };
                if descriptor == CONTROL_DESCRIPTOR {
                    failed(libc::fcntl(descriptor, libc::F_SETFD, 0))?;
                } else {
                    failed(libc::dup2(descriptor, CONTROL_DESCRIPTOR))?;
                }
                #[cfg(target_os = "linux")]
                failed(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                for (resource, limit) in
                    [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_FSIZE, OUTPUT_LIMIT)]
                {
                    let limit = libc::rlimit {
                        rlim_cur: limit,
                        rlim_max: limit,
                    };
                    failed(libc::setrlimit(resource, &raw const limit))?;
                }
                Ok(())
            });
        }
        let child = spawn(&mut command)
            .with_context(|| format!("failed to start `{}`", executable.display()))?;
        let mut process = Self {
            id: child,
            alive: true,
            output,
        };
        let ended = process.wait(deadline)?.0;
        Ok((process, ended))
    }

    /// One launch: continues the process and waits until all of it has stopped. The time is that of the judge's clock.
    pub(super) fn run(&mut self, deadline: Duration) -> anyhow::Result<(Ended, Duration)> {
        if !self.alive {
            bail!("a dead process was asked to launch");
        }
        self.wait_after_continue(deadline)
    }

    /// What the candidate printed: untrusted, capped.
    pub(super) fn printed(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.output.rewind().and_then(|()| {
            Read::by_ref(&mut self.output)
                .take(SHOWN_OUTPUT)
                .read_to_end(&mut text)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&text).into_owned(),
            Err(_) => String::new(),
        }
    }

    fn wait(&mut self, deadline: Duration) -> anyhow::Result<(Ended, Duration)> {
        let watchdog = Watch::start(self.id, deadline);
        let begun = Instant::now();
        let status = self.wait_once()?;
        let time = begun.elapsed();
        Ok((self.ended(status, watchdog.stop()), time))
    }

    fn wait_after_continue(&mut self, deadline: Duration) -> anyhow::Result<(Ended, Duration)> {
        let watchdog = Watch::start(self.id, deadline);
        let begun = Instant::now();
        // SAFETY: the child has not been waited for as dead, so its number is still its own.
        if unsafe { libc::kill(self.id, libc::SIGCONT) } != 0 {
            return Err(std::io::Error::last_os_error()).context("failed to continue a candidate");
        }
        let status = self.wait_once()?;
        let time = begun.elapsed();
        Ok((self.ended(status, watchdog.stop()), time))
    }

    /// Blocks until the child has stopped or ended. The watchdog sees to it that this returns.
    fn wait_once(&mut self) -> anyhow::Result<i32> {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place to write.
            let result = unsafe { libc::waitpid(self.id, &raw mut status, libc::WUNTRACED) };
            if result == self.id {
                return Ok(status);
            }
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("failed to wait for a candidate");
            }
        }
    }

    fn ended(&mut self, status: i32, timed_out: bool) -> Ended {
        if libc::WIFSTOPPED(status) && !timed_out {
            return Ended::Stopped;
        }
        self.alive = libc::WIFSTOPPED(status);
        if timed_out {
            self.kill();
            Ended::TimedOut
        } else if libc::WIFSIGNALED(status) {
            Ended::Signaled(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        }
    }

    fn kill(&mut self) {
        // SAFETY: the group is the child's own; a child that is alive has not been reaped, so its number is not reused.
        unsafe {
            libc::kill(-self.id, libc::SIGKILL);
            if self.alive {
                libc::kill(self.id, libc::SIGKILL);
                libc::waitpid(self.id, std::ptr::null_mut(), 0);
            }
        }
        self.alive = false;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a child and keeps only its number: `Process` reaps it itself.
fn spawn(command: &mut Command) -> std::io::Result<libc::pid_t> {
    let mut pause = Duration::from_millis(1);
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child.id() as libc::pid_t),
            // Another thread forked while the executable was still open for writing there; it closes it at once.
            Err(error)
                if error.raw_os_error() == Some(libc::ETXTBSY)
                    && pause < Duration::from_secs(1) =>
            {
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
}
