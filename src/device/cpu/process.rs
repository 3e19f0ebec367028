//! The process that runs one candidate: it starts stopped, is continued for each run of its plan, and is killed when dropped.
//!
//! A run starts with SIGCONT and ends when `waitid` reports that the whole process has stopped or ended, so none of its threads
//! runs outside the measured time. Only how the process ended is trusted, nothing that it writes.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::control_page::CONTROL_DESCRIPTOR;
use super::shared_memory::SharedMemory;
use crate::base::process::{ReportedGroup, kill_group};
use crate::base::{progress, temporary};
use crate::device::sandbox::Confinement;
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};

/// Maximum size of a candidate's output, in bytes.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// How much of the output is shown.
const SHOWN_OUTPUT_LIMIT: usize = 2000;
/// Private memory for one thread: its fibers' stacks.
const PRIVATE_BYTES_PER_THREAD: u64 = 256 << 20;
/// Private memory for what a candidate allocates itself.
const HEAP_BYTES: u64 = 1 << 30;

/// How waiting for the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEnd {
    /// It has stopped itself: it is ready, or its run is complete.
    Stopped,
    /// It has exited with this code.
    Exited(i32),
    /// This signal has ended it.
    Signaled(i32),
    /// It was killed at its deadline.
    TimedOut,
}

/// What a process is started with.
pub(super) struct ProcessTask<'a> {
    pub(super) executable: &'a Path,
    /// The working folder, which is empty.
    pub(super) folder: &'a Path,
    pub(super) threads: u32,
    /// Private memory that the build needs in addition, for its inspection.
    pub(super) inspection_bytes: u64,
    /// For its start.
    pub(super) deadline: Duration,
}

/// A child process that runs only while its plan runs.
pub(super) struct KernelProcess {
    id: libc::pid_t,
    is_alive: bool,
    /// What the process prints to. It shares the position with the process.
    output: File,
    /// The beginning of what earlier runs have printed.
    printed: Vec<u8>,
    _group: ReportedGroup,
}

impl KernelProcess {
    /// Starts an executable with its memory, and waits until it has stopped itself or has ended.
    pub(super) fn spawn(
        task: &ProcessTask<'_>,
        memory: &SharedMemory,
    ) -> anyhow::Result<(Self, ProcessEnd)> {
        let mut process = Self::begin(task, memory)?;
        let (end, _) = process.wait_for_stop(task.deadline)?;
        Ok((process, end))
    }

    /// Starts an executable with its memory. Other processes can be started before `wait_for_stop` waits for this one.
    pub(super) fn begin(task: &ProcessTask<'_>, memory: &SharedMemory) -> anyhow::Result<Self> {
        let executable = task.executable;
        let output =
            temporary::file().context("failed to create a file for a candidate's output")?;
        let mut command = Command::new(executable);
        command
            .env_clear()
            .current_dir(task.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        let private_bytes =
            HEAP_BYTES + u64::from(task.threads) * PRIVATE_BYTES_PER_THREAD + task.inspection_bytes;
        let limits = [
            (libc::RLIMIT_FSIZE, OUTPUT_LIMIT),
            (libc::RLIMIT_DATA, private_bytes),
        ];
        let mut confinement = Confinement::for_candidate(executable, &limits)?;
        confinement.avoid_descriptor(CONTROL_DESCRIPTOR)?;
        reserve_control_descriptor();
        let descriptor = memory.descriptor();
        // SAFETY: only async-signal-safe calls between fork and exec, on values that were made before.
        unsafe {
            command.pre_exec(move || {
                let result = if descriptor == CONTROL_DESCRIPTOR {
                    libc::fcntl(descriptor, libc::F_SETFD, 0)
                } else {
                    libc::dup2(descriptor, CONTROL_DESCRIPTOR)
                };
                if result < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                confinement.apply()?;
                Err(confinement.execute())
            });
        }
        let id = spawn_with_retry(&mut command)
            .with_context(|| format!("failed to start `{}`", executable.display()))?;
        Ok(Self {
            id,
            is_alive: true,
            output,
            printed: Vec::new(),
            _group: ReportedGroup::new(id),
        })
    }

    /// The process id, for reading its memory while it is stopped.
    pub(super) fn id(&self) -> libc::pid_t {
        self.id
    }

    /// Continues the process for one run of its plan, and waits until all of it has stopped. The time is measured by the judge.
    ///
    /// A kernel could stop the process itself before its work is done, and finish the work during the next run. That gains nothing:
    ///
    /// - The outputs of a timed run are compared as they are when the process has stopped, before it may continue.
    /// - The inputs were drawn for this run alone, and written while the process was stopped.
    ///
    /// So correct outputs were computed between this run's SIGCONT and its stop. Nothing else can wake the process: timers, signals
    /// from other processes and child processes are not allowed.
    pub(super) fn run_plan(
        &mut self,
        deadline: Duration,
    ) -> anyhow::Result<(ProcessEnd, Duration)> {
        if !self.is_alive {
            bail!("a dead process cannot run its plan");
        }
        let watchdog = ProcessDeadline::start(self.id, deadline);
        let started = Instant::now();
        // SAFETY: the child has not been reaped, so its id is still its own.
        if unsafe { libc::kill(self.id, libc::SIGCONT) } != 0 {
            return Err(std::io::Error::last_os_error()).context("failed to continue a candidate");
        }
        self.finish_wait(watchdog, started)
    }

    /// What the candidate printed: untrusted, capped.
    pub(super) fn printed(&self) -> String {
        let mut text = self.printed.clone();
        read_start(&self.output, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Empties the file that the stopped process prints to. Otherwise its size would say how much earlier runs have printed.
    pub(super) fn take_output(&mut self) -> std::io::Result<()> {
        if self.output.stream_position()? > 0 {
            read_start(&self.output, &mut self.printed);
            self.output.set_len(0)?;
            self.output.rewind()?;
        }
        Ok(())
    }

    /// Waits until all of the process has stopped or ended, without continuing it.
    pub(super) fn wait_for_stop(
        &mut self,
        deadline: Duration,
    ) -> anyhow::Result<(ProcessEnd, Duration)> {
        let watchdog = ProcessDeadline::start(self.id, deadline);
        self.finish_wait(watchdog, Instant::now())
    }

    fn finish_wait(
        &mut self,
        watchdog: ProcessDeadline,
        started: Instant,
    ) -> anyhow::Result<(ProcessEnd, Duration)> {
        let bounded = progress::bounded_wait();
        wait_for_state_change(self.id, libc::WEXITED | libc::WSTOPPED)?;
        let time = started.elapsed();
        drop(bounded);
        // From here on the watchdog kills nothing with this id, so the process may be reaped.
        let timed_out = watchdog.stop();
        let end = self.collect_end()?;
        if timed_out || end != ProcessEnd::Stopped {
            self.kill();
        }
        Ok((if timed_out { ProcessEnd::TimedOut } else { end }, time))
    }

    /// How the process ended, without reaping it; or collects that it has stopped.
    fn collect_end(&self) -> anyhow::Result<ProcessEnd> {
        let ended = self.child_status(libc::WEXITED | libc::WNOWAIT)?;
        // SAFETY: waitid filled the fields for a child's state, or left zeros if it has not ended.
        if unsafe { ended.si_pid() } == 0 {
            self.child_status(libc::WSTOPPED)?;
            return Ok(ProcessEnd::Stopped);
        }
        // SAFETY: as above.
        let status = unsafe { ended.si_status() };
        Ok(match ended.si_code {
            libc::CLD_EXITED => ProcessEnd::Exited(status),
            _ => ProcessEnd::Signaled(status),
        })
    }

    /// Asks for the state of the process without waiting; all zeros if it is in none of the requested states.
    fn child_status(&self, flags: libc::c_int) -> anyhow::Result<libc::siginfo_t> {
        // SAFETY: plain integers and unions of them, for which all zeros are valid.
        let mut status: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = self.id as libc::id_t;
        // SAFETY: `status` is valid to write to; with WNOHANG the call never blocks.
        let result =
            unsafe { libc::waitid(libc::P_PID, id, &raw mut status, flags | libc::WNOHANG) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return Err(error).context("failed to query the state of a candidate");
        }
        Ok(status)
    }

    /// Kills the whole process group while the child still owns its id, then reaps the child.
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

/// Adds the start of a file to a text, up to the limit. Does not move the position of the file.
fn read_start(file: &File, text: &mut Vec<u8>) {
    let mut start = vec![0; SHOWN_OUTPUT_LIMIT.saturating_sub(text.len())];
    let mut length = 0;
    while let Ok(read @ 1..) = file.read_at(&mut start[length..], length as u64) {
        length += read;
    }
    text.extend_from_slice(&start[..length]);
}

impl Drop for KernelProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes sure that this process has the child's control descriptor open. Otherwise the pipe through which a child reports that
/// exec failed could get this number, and would be overwritten in the child.
fn reserve_control_descriptor() {
    // SAFETY: plain numbers; every descriptor other than the control descriptor is closed again, and that one stays open.
    unsafe {
        if libc::fcntl(CONTROL_DESCRIPTOR, libc::F_GETFD) >= 0 {
            return;
        }
        let opened = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let copied = libc::fcntl(opened, libc::F_DUPFD_CLOEXEC, CONTROL_DESCRIPTOR);
        for other in [opened, copied] {
            if other >= 0 && other != CONTROL_DESCRIPTOR {
                libc::close(other);
            }
        }
    }
}

/// Starts a child and returns its id. `KernelProcess` reaps it.
fn spawn_with_retry(command: &mut Command) -> std::io::Result<libc::pid_t> {
    let mut pause = Duration::from_millis(1);
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child.id() as libc::pid_t),
            // Another thread forked while the executable was open for writing here. Its child closes the file at once.
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
