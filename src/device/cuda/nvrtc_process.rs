//! A process that compiles one unit: started confined and without environment, ended at its deadline.
//!
//! It has no device, no network, no key, and may read NVRTC, the headers and what a loader needs, and nothing else.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::wire::{CompileRequest, CompileResponse};
use crate::device::sandbox::Confinement;
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};

/// The hidden command of this program that answers a request.
pub(crate) const COMMAND: &str = "__nvrtc";

/// Address space: NVRTC takes a part of it to begin with.
const ADDRESS_SPACE_LIMIT: u64 = 4 << 30;
/// Nothing is written.
const FILE_SIZE_LIMIT: u64 = 1 << 20;
/// The most that is read of what the child complains about.
const MAX_STDERR_BYTES: u64 = 4096;

/// How a request ended.
#[derive(Debug)]
pub(super) enum ChildOutcome {
    Completed(Box<CompileResponse>),
    TimedOut,
    /// It asked for more memory than it may have.
    OutOfMemory,
    /// The compiler itself fell, by this signal: deep nesting does it.
    Crashed(i32),
}

/// Runs one request by `program`. `readable`: the folders that NVRTC lies in and may read.
///
/// # Errors
/// Where the child cannot be started, or NVRTC cannot be loaded.
pub(super) fn run(
    program: &Path,
    request: &CompileRequest,
    readable: &[PathBuf],
    limit: Duration,
) -> anyhow::Result<ChildOutcome> {
    let mut readable = readable.to_vec();
    readable.push(program.to_owned());
    let confinement = Confinement::for_nvrtc(
        &readable,
        &[
            // The wall clock comes first, unless something keeps the watchdog from it.
            (libc::RLIMIT_CPU, 2 * limit.as_secs().max(1)),
            (libc::RLIMIT_AS, ADDRESS_SPACE_LIMIT),
            (libc::RLIMIT_FSIZE, FILE_SIZE_LIMIT),
        ],
    )?;
    let mut complaints =
        tempfile::tempfile().context("failed to make a file for a child's words")?;
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(complaints.try_clone()?)
        .process_group(0);
    // SAFETY: between fork and exec it makes system calls only, on values that were made before.
    unsafe {
        command.pre_exec(move || confinement.apply());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let id = child.id() as libc::pid_t;
    let watch = ProcessDeadline::start(id, limit);
    // A child that ends before it has read everything is heard of below.
    let asked = child.stdin.take().map(|input| {
        enlarge_pipe(&input);
        request.write(io::BufWriter::new(input))
    });
    let answer = child.stdout.take().map(|output| {
        enlarge_pipe(&output);
        CompileResponse::read(output)
    });
    wait_for_state_change(id, libc::WEXITED)?;
    let timed_out = watch.stop();
    let (status, most_memory) = reap(id)?;
    if timed_out {
        return Ok(ChildOutcome::TimedOut);
    }
    if let Some(signal) = status.signal() {
        return Ok(match signal {
            libc::SIGXCPU | libc::SIGKILL => ChildOutcome::TimedOut,
            _ if most_memory > ADDRESS_SPACE_LIMIT / 2 => ChildOutcome::OutOfMemory,
            _ => ChildOutcome::Crashed(signal),
        });
    }
    match (status.success(), asked, answer) {
        (true, Some(Ok(())), Some(Ok(answer))) => Ok(ChildOutcome::Completed(Box::new(answer))),
        _ => {
            let complaint = read_stderr(&mut complaints);
            anyhow::bail!("the compiling process failed ({status}): {complaint}")
        }
    }
}

/// The program that answers requests: this one.
pub(super) fn current_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("failed to find kforge's own program file")
}

/// Reaps a child: how it ended, and the most memory that it held.
fn reap(child: libc::pid_t) -> anyhow::Result<(ExitStatus, u64)> {
    // SAFETY: plain integers; all zeros are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    loop {
        // SAFETY: two places to write; the child is this process's own, and nobody else waits for it.
        if unsafe { libc::wait4(child, &raw mut status, 0, &raw mut usage) } == child {
            let kilobytes = u64::try_from(usage.ru_maxrss).unwrap_or_default();
            return Ok((ExitStatus::from_raw(status), kilobytes << 10));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("failed to wait for a compiling process");
        }
    }
}

fn read_stderr(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Without its words there is still how it ended.
    let _ = file.rewind();
    let _ = file.take(MAX_STDERR_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A pipe that holds a whole message lets its writer go on. Without it, it only takes longer.
fn enlarge_pipe(pipe: &impl AsRawFd) {
    const PIPE_BYTES: libc::c_int = 1 << 20;
    // SAFETY: plain numbers.
    unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES);
    }
}
