//! The process that holds one candidate: spawned stopped, continued for every launch, dead when it is dropped.
//!
//! A launch begins with SIGCONT and ends when `waitpid` sees the whole process stopped or dead: not one of its threads runs
//! outside the clock. Nothing that the process says is believed but how it ended.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::base::process::kill_group;
use crate::device::sandbox::Confinement;
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};

/// The descriptor on which the child finds its memory; fixed in `control.h`.
const CONTROL_DESCRIPTOR: i32 = 3;
/// The most that a candidate's output may take, in bytes.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// The most of it that is shown.
const SHOWN_OUTPUT_LIMIT: usize = 2000;
/// Private memory for a thread's fibers and for what a candidate allocates itself.
const PRIVATE_BYTES_PER_THREAD: u64 = 256 << 20;
const HEAP_BYTES: u64 = 1 << 30;

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
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let descriptor = libc::memfd_create(name.as_ptr(), flags);
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
        // Whoever else has the descriptor could take pages away under the judge's eyes, and end it by SIGBUS.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain numbers.
        let is_sealed = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        if is_sealed != 0 {
            return Err(std::io::Error::last_os_error()).context("failed to seal shared memory");
        }
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
pub(super) enum ProcessEnd {
    Stopped,
    Exited(i32),
    Signaled(i32),
    TimedOut,
}

/// A child that runs only while a launch does.
pub(super) struct KernelProcess {
    id: libc::pid_t,
    is_alive: bool,
    output: File,
}

impl KernelProcess {
    /// Starts the executable on its memory, and waits until it has stopped itself: it is ready then, or has ended.
    pub(super) fn spawn(
        executable: &Path,
        memory: &SharedMemory,
        folder: &Path,
        (threads, extra_bytes): (u32, u64),
        deadline: Duration,
    ) -> anyhow::Result<(Self, ProcessEnd)> {
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
        let private_bytes =
            HEAP_BYTES + u64::from(threads) * PRIVATE_BYTES_PER_THREAD + extra_bytes;
        let mut confinement = Confinement::for_candidate(
            executable,
            &[
                (libc::RLIMIT_FSIZE, OUTPUT_LIMIT),
                (libc::RLIMIT_DATA, private_bytes),
            ],
        )?;
        confinement.avoid_descriptor(CONTROL_DESCRIPTOR)?;
        reserve_control_descriptor();
        // SAFETY: only async-signal-safe calls between fork and exec, on values made before.
        unsafe {
            command.pre_exec(move || {
                let placed = if descriptor == CONTROL_DESCRIPTOR {
                    libc::fcntl(descriptor, libc::F_SETFD, 0)
                } else {
                    libc::dup2(descriptor, CONTROL_DESCRIPTOR)
                };
                if placed < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                confinement.apply()?;
                Err(confinement.execute())
            });
        }
        let child = spawn_with_retry(&mut command)
            .with_context(|| format!("failed to start `{}`", executable.display()))?;
        let mut process = Self {
            id: child,
            is_alive: true,
            output,
        };
        let ended = process.wait_for_stop(deadline, false)?.0;
        Ok((process, ended))
    }

    /// Its number, for who looks into it while it is stopped.
    pub(super) fn id(&self) -> libc::pid_t {
        self.id
    }

    /// One launch: continues the process and waits until all of it has stopped. The time is that of the judge's clock.
    ///
    /// A kernel may stop the process itself, in the middle of a launch, and be at work again when the next one begins: it gains
    /// nothing. All outputs of a timed launch are compared as they lie there when the process has stopped, and before it may go
    /// on; its inputs were drawn for it alone and written while the process stood still. So whatever makes them right was
    /// computed between this launch's SIGCONT and its stop. Nothing can wake the process in between: timers, signals of
    /// others and processes of its own are not open to it.
    pub(super) fn run_plan(
        &mut self,
        deadline: Duration,
    ) -> anyhow::Result<(ProcessEnd, Duration)> {
        if !self.is_alive {
            bail!("a dead process was asked to launch");
        }
        self.wait_for_stop(deadline, true)
    }

    /// What the candidate printed: untrusted, capped. Its own place in the file stays where it is.
    pub(super) fn printed(&self) -> String {
        let mut text = vec![0; SHOWN_OUTPUT_LIMIT];
        let mut length = 0;
        while let Ok(read @ 1..) = self.output.read_at(&mut text[length..], length as u64) {
            length += read;
        }
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// Continues the process if it is asked to, and waits until all of it has stopped, or has ended.
    fn wait_for_stop(
        &mut self,
        deadline: Duration,
        resume: bool,
    ) -> anyhow::Result<(ProcessEnd, Duration)> {
        let watch = ProcessDeadline::start(self.id, deadline);
        let begun = Instant::now();
        // SAFETY: the child has not been reaped, so its number is still its own.
        if resume && unsafe { libc::kill(self.id, libc::SIGCONT) } != 0 {
            return Err(std::io::Error::last_os_error()).context("failed to continue a candidate");
        }
        wait_for_state_change(self.id, libc::WEXITED | libc::WSTOPPED)?;
        let time = begun.elapsed();
        // From here on the watchdog kills nothing of that number, so that it may be given up.
        let timed_out = watch.stop();
        let ended = self.collect_end()?;
        if timed_out || ended != ProcessEnd::Stopped {
            self.kill();
        }
        Ok((
            if timed_out {
                ProcessEnd::TimedOut
            } else {
                ended
            },
            time,
        ))
    }

    /// Collects that the child has stopped; tells how it ended without reaping it.
    fn collect_end(&self) -> anyhow::Result<ProcessEnd> {
        // SAFETY: as above.
        let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let ask = |news: &mut libc::siginfo_t, flags| {
            // SAFETY: as above; with WNOHANG it never blocks.
            let result = unsafe {
                libc::waitid(
                    libc::P_PID,
                    self.id as libc::id_t,
                    &raw mut *news,
                    flags | libc::WNOHANG,
                )
            };
            if result == 0 {
                return Ok(());
            }
            Err(std::io::Error::last_os_error()).context("failed to ask after a candidate")
        };
        ask(&mut news, libc::WEXITED | libc::WNOWAIT)?;
        // SAFETY: waitid filled the fields of a child's signal, or left zeros where there is no news of this kind.
        if unsafe { news.si_pid() } == 0 {
            ask(&mut news, libc::WSTOPPED)?;
            return Ok(ProcessEnd::Stopped);
        }
        // SAFETY: as above.
        let status = unsafe { news.si_status() };
        Ok(match news.si_code {
            libc::CLD_EXITED => ProcessEnd::Exited(status),
            _ => ProcessEnd::Signaled(status),
        })
    }

    /// Kills the whole group while the child still holds its number, then reaps it.
    fn kill(&mut self) {
        if !self.is_alive {
            return;
        }
        self.is_alive = false;
        kill_group(self.id);
        // SAFETY: the child has not been reaped, so the id is still its own.
        unsafe {
            libc::kill(self.id, libc::SIGKILL);
            libc::waitpid(self.id, std::ptr::null_mut(), 0);
        }
    }
}

impl Drop for KernelProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sees to it that the descriptor on which a child finds its memory is taken here: else a pipe could get it on which a child
/// reports that it could not begin, and lose it.
fn reserve_control_descriptor() {
    // SAFETY: plain numbers; a descriptor that is not the wanted one is closed again, the wanted one is kept for good.
    unsafe {
        if libc::fcntl(CONTROL_DESCRIPTOR, libc::F_GETFD) >= 0 {
            return;
        }
        let taken = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let placed = libc::fcntl(taken, libc::F_DUPFD_CLOEXEC, CONTROL_DESCRIPTOR);
        for other in [taken, placed] {
            if other >= 0 && other != CONTROL_DESCRIPTOR {
                libc::close(other);
            }
        }
    }
}

/// Starts a child and keeps only its number: `Process` reaps it itself.
fn spawn_with_retry(command: &mut Command) -> std::io::Result<libc::pid_t> {
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
