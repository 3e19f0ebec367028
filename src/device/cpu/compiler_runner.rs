//! Runs the compiler as a confined child process with limits on time, memory and output.
//!
//! The compiler's output about a candidate is untrusted text; `diagnostics` prepares it for display. What to compile is decided
//! by `runtime_build` and `toolchain`.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::compiler_flags::{link_flags, linker_script_flag, runtime_object};
use crate::base::process::ReportedGroup;
use crate::base::{Failure, progress, temporary};
use crate::device::Build;
use crate::device::sandbox::Confinement;
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};

pub(super) const TIME_LIMIT: Duration = Duration::from_secs(30);
const MEMORY_LIMIT: u64 = 4 << 30;
const FILE_LIMIT: u64 = 256 << 20;
/// How much of the compiler's output is read.
const COMPILER_OUTPUT_LIMIT: u64 = 1 << 20;

/// Runs one compiler.
#[derive(Debug)]
pub(super) struct CompilerRunner {
    pub(super) path: PathBuf,
    /// What the compiler may read in addition to the system's own folders.
    pub(super) readable: Vec<PathBuf>,
}

/// How a run of the compiler ended.
pub(super) enum CompilerOutcome {
    Succeeded,
    /// With the compiler's output.
    Failed(String),
    TimedOut,
}

/// One program to link.
pub(super) struct LinkTask<'a> {
    /// The folder of the compiled runtime.
    pub(super) runtime: &'a Path,
    pub(super) build: Build,
    pub(super) is_static: bool,
    pub(super) object: &'a Path,
    pub(super) program: &'a Path,
}

impl CompilerRunner {
    /// A command that works in `folder` and finds the runtime's headers, with an almost empty environment.
    pub(super) fn command(&self, runtime: &Path, folder: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg("-I")
            .arg(runtime)
            .arg("-I")
            .arg(runtime.join("include"))
            .current_dir(folder);
        command.env_clear().env("TMPDIR", folder).env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// The command that links a program. The runtime's objects come first, so that the runtime's set-up runs before the
    /// program's own constructors.
    pub(super) fn link_command(&self, task: &LinkTask<'_>, folder: &Path) -> Command {
        let mut command = self.command(task.runtime, folder);
        command
            .arg(task.runtime.join("start.o"))
            .arg(task.runtime.join(runtime_object(task.build).0))
            .arg(task.object)
            .args(link_flags(task.is_static))
            .args(linker_script_flag(task.runtime, task.build))
            .arg("-o")
            .arg(task.program);
        command
    }

    /// Runs a command for a candidate: [`Self::run_within`] of [`TIME_LIMIT`].
    pub(super) fn run(
        &self,
        command: Command,
        runtime: &Path,
        folder: &Path,
    ) -> anyhow::Result<CompilerOutcome> {
        self.run_within(TIME_LIMIT, command, runtime, folder)
    }

    /// Runs a command that may write in `folder` only. It may read there, in `runtime`, in the `readable` folders and in the
    /// system's own. It is killed when it has used `limit` of CPU time or waits for
    /// much longer.
    pub(super) fn run_within(
        &self,
        limit: Duration,
        mut command: Command,
        runtime: &Path,
        folder: &Path,
    ) -> anyhow::Result<CompilerOutcome> {
        let mut readable = self.readable.clone();
        readable.push(runtime.to_owned());
        let limits = [
            // For what the compiler has started, if all of kforge is killed at once.
            (libc::RLIMIT_CPU, 2 * limit.as_secs().max(1)),
            (libc::RLIMIT_AS, MEMORY_LIMIT),
            (libc::RLIMIT_FSIZE, FILE_LIMIT),
        ];
        let confinement = Confinement::for_compiler(&readable, folder, &limits)?;
        let log = temporary::file().context("failed to create a file for the compiler's output")?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        // SAFETY: between fork and exec it makes system calls only, on values that were made before.
        unsafe {
            command.pre_exec(move || confinement.apply());
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to run `{}`", self.path.display()))?;
        let id = child.id() as libc::pid_t;
        let group = ReportedGroup::new(id);
        let deadline = ProcessDeadline::of_cpu_time(id, limit);
        let bounded = progress::bounded_wait();
        wait_for_state_change(id, libc::WEXITED)?;
        drop(bounded);
        let timed_out = deadline.stop();
        let status = child.wait().context("failed to wait for the compiler")?;
        drop(group);
        if timed_out {
            return Ok(CompilerOutcome::TimedOut);
        }
        if status.success() {
            return Ok(CompilerOutcome::Succeeded);
        }
        Ok(CompilerOutcome::Failed(read_log(log)?))
    }
}

fn read_log(mut log: File) -> anyhow::Result<String> {
    let mut text = Vec::new();
    log.rewind()?;
    log.take(COMPILER_OUTPUT_LIMIT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a folder is on a full disk.
pub(super) fn is_disk_full(folder: &Path) -> bool {
    let probe = folder.join("room");
    let written = std::fs::write(&probe, vec![0x5a; 64 << 10]);
    // If this fails, the file is removed with the folder.
    let _ = std::fs::remove_file(&probe);
    written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

pub(super) fn no_space_error(error: &dyn std::fmt::Display) -> Failure {
    let folder = std::env::temp_dir();
    Failure::environment(format!(
        "failed to compile in `{}`: {error}",
        folder.display()
    ))
    .hint("free some space there, or set the environment variable TMPDIR to another folder")
}
