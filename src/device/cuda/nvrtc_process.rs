//! Runs the NVRTC child process for one request: started confined and without environment, killed at its deadline.
//!
//! The child has no device, no network and no API key. It can read only NVRTC, the headers and the files that a loader needs.
//! `nvrtc` is the child's side, `wire` the protocol.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::wire::{CompileRequest, CompileResponse};
use crate::base::process::ReportedGroup;
use crate::base::{progress, temporary};
use crate::device::sandbox::Confinement;
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};

/// The hidden command of kforge that serves a request.
pub(crate) const COMMAND: &str = "__nvrtc";

/// Limit of the child's address space, a part of which NVRTC reserves at once.
const ADDRESS_SPACE_LIMIT: u64 = 4 << 30;
/// Limit of file sizes; the child writes no files.
const FILE_SIZE_LIMIT: u64 = 1 << 20;
/// Limit for the part of the child's standard error that is read.
const MAX_STDERR_BYTES: u64 = 4096;

/// How a request ended.
#[derive(Debug)]
pub(super) enum ChildOutcome {
    Completed(Box<CompileResponse>),
    TimedOut,
    /// It needed more memory than its limit.
    OutOfMemory,
    /// This signal ended the compiler; deep nesting causes it.
    Crashed(i32),
}

/// Runs one request in a child of `program`. `readable`: the folders of NVRTC and of the headers.
///
/// # Errors
/// If the child cannot be started, or NVRTC cannot be loaded.
pub(super) fn run(
    program: &Path,
    request: &CompileRequest,
    readable: &[PathBuf],
    limit: Duration,
) -> anyhow::Result<ChildOutcome> {
    let mut stderr =
        temporary::file().context("failed to create a file for a child's error output")?;
    let mut child = spawn(program, readable, limit, stderr.try_clone()?)?;
    let id = child.id() as libc::pid_t;
    let group = ReportedGroup::new(id);
    let deadline = ProcessDeadline::of_cpu_time(id, limit);
    let bounded = progress::bounded_wait();
    // A failed write is reported below, together with how the child ended.
    let sent = child.stdin.take().map(|input| {
        enlarge_pipe(&input);
        request.write(io::BufWriter::new(input))
    });
    let response = child.stdout.take().map(|output| {
        enlarge_pipe(&output);
        CompileResponse::read(output)
    });
    wait_for_state_change(id, libc::WEXITED)?;
    drop(bounded);
    let timed_out = deadline.stop();
    let (status, peak_memory) = reap(id)?;
    drop(group);
    if timed_out {
        return Ok(ChildOutcome::TimedOut);
    }
    if let Some(signal) = status.signal() {
        return Ok(match signal {
            libc::SIGXCPU | libc::SIGKILL => ChildOutcome::TimedOut,
            _ if peak_memory > ADDRESS_SPACE_LIMIT / 2 => ChildOutcome::OutOfMemory,
            _ => ChildOutcome::Crashed(signal),
        });
    }
    match (status.success(), sent, response) {
        (true, Some(Ok(())), Some(Ok(response))) => Ok(ChildOutcome::Completed(Box::new(response))),
        _ => {
            let complaint = read_stderr(&mut stderr);
            anyhow::bail!("the NVRTC process failed ({status}): {complaint}")
        }
    }
}

/// Starts the child, confined, as the leader of its own process group.
fn spawn(
    program: &Path,
    readable: &[PathBuf],
    limit: Duration,
    stderr: File,
) -> anyhow::Result<Child> {
    let mut readable = readable.to_vec();
    readable.push(program.to_owned());
    let confinement = Confinement::for_nvrtc(
        &readable,
        &[
            // A backup: normally the watchdog's deadline comes first.
            (libc::RLIMIT_CPU, 2 * limit.as_secs().max(1)),
            (libc::RLIMIT_AS, ADDRESS_SPACE_LIMIT),
            (libc::RLIMIT_FSIZE, FILE_SIZE_LIMIT),
        ],
    )?;
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr);
    // SAFETY: between fork and exec it only makes system calls, on values created before.
    unsafe {
        command.pre_exec(move || confinement.apply());
    }
    command
        .spawn()
        .with_context(|| format!("failed to run `{}`", program.display()))
}

/// The path of the running program, which serves the requests.
pub(super) fn current_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("failed to find the path of the kforge program")
}

/// Reaps a child. Returns how it ended, and its peak memory in bytes.
fn reap(child: libc::pid_t) -> anyhow::Result<(ExitStatus, u64)> {
    // SAFETY: integers; all zeros are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    loop {
        // SAFETY: both pointers are valid for writes. The child belongs to this process, and only this function reaps it.
        if unsafe { libc::wait4(child, &raw mut status, 0, &raw mut usage) } == child {
            let kilobytes = u64::try_from(usage.ru_maxrss).unwrap_or_default();
            return Ok((ExitStatus::from_raw(status), kilobytes << 10));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("failed to wait for the NVRTC process");
        }
    }
}

fn read_stderr(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Errors are ignored: the exit status is reported anyway.
    let _ = file.rewind();
    let _ = file.take(MAX_STDERR_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Enlarges a pipe so that it holds a whole message and its writer does not block. If this fails, the exchange is only slower.
fn enlarge_pipe(pipe: &impl AsRawFd) {
    const PIPE_BYTES: libc::c_int = 1 << 20;
    // SAFETY: integers only.
    unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES);
    }
}
