//! The worker's side: reads requests until the pipe closes, judges, answers. Runs inside `kforge __worker`.
//!
//! Opens no run directory and knows no path; candidates run in processes of their own below this one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;

use super::protocol::{Greeting, PROTOCOL_VERSION, WireFailure, WorkerRequest, WorkerResponse};
use crate::base::Failure;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{self, CudaDevice};
use crate::eval::{CpuScreen, Judge, TimingLock};
use crate::kernel::DeviceLimits;
use crate::task::Task;
use crate::verdict::DeviceIdentity;

/// The most shared memory that a block may have: that of the GPUs which the CPU stands in for (sm_90).
const MAX_SHARED_BYTES: i64 = 227 * 1024;

/// Serves until standard input ends.
pub fn serve() -> anyhow::Result<()> {
    let mut output = take_stdout()?;
    let mut lines = BufReader::new(std::io::stdin().lock()).lines();
    let Some(hello) = lines.next() else {
        return Ok(());
    };
    let hello = match parse_greeting(&hello?) {
        Ok(hello) => hello,
        Err(failure) => {
            return send(
                &mut output,
                &WorkerResponse::Failure(WireFailure::from_error(&failure.into())),
            );
        }
    };
    let task = match hello.files.load() {
        Ok(task) => task,
        Err(failure) => {
            return send(
                &mut output,
                &WorkerResponse::Failure(WireFailure::from_error(&failure.into())),
            );
        }
    };
    let served = match hello.on_card {
        true => serve_on_gpu(&mut output, &task, hello, &mut lines),
        false => serve_on_host(&mut output, &task, hello, &mut lines),
    };
    // What could not begin is an answer like any other.
    match served {
        Ok(()) => Ok(()),
        Err(ServeError::NotReady(error)) => send(
            &mut output,
            &WorkerResponse::Failure(WireFailure::from_error(&error)),
        ),
        Err(ServeError::PipeClosed(error)) => Err(error),
    }
}

/// The greeting of a driver of this very version. Any other is for a person to mend, and no candidate's fault.
fn parse_greeting(line: &str) -> Result<Greeting, Failure> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let replaced = |what: String| {
        Failure::environment(format!("{what}: kforge was replaced while it ran"))
            .hint("stop the old process and begin again with the new one: a run goes on by `kforge resume`")
    };
    match serde_json::from_str::<Version>(line) {
        Ok(Version { version }) if version == PROTOCOL_VERSION => {}
        Ok(Version { version }) => {
            return Err(replaced(format!(
                "the driver speaks version {version} of the worker protocol, this worker {PROTOCOL_VERSION}"
            )));
        }
        Err(error) => {
            return Err(replaced(format!(
                "the greeting is not understood ({error})"
            )));
        }
    }
    serde_json::from_str(line)
        .map_err(|error| replaced(format!("the greeting is not understood ({error})")))
}

/// Ends this process, and with it what runs for it, as soon as the driver is gone, however it went: nobody is to wait for a
/// device that is busy with a verdict which nobody reads.
fn exit_with_driver() -> anyhow::Result<()> {
    let watch = || {
        let mut pipe = libc::pollfd {
            fd: libc::STDIN_FILENO,
            // Only for the pipe's other end being closed, which is always told.
            events: 0,
            revents: 0,
        };
        loop {
            // SAFETY: one valid entry.
            let news = unsafe { libc::poll(&raw mut pipe, 1, -1) };
            if news > 0 {
                // SAFETY: nobody is left for whom anything could be put in order.
                unsafe { libc::_exit(1) }
            }
            if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .spawn(watch)
        .context("failed to start a thread")?;
    Ok(())
}

/// Why a worker stopped serving.
enum ServeError {
    /// The device, the oracle or the baseline does not work: the driver is told.
    NotReady(anyhow::Error),
    /// There is nobody to tell.
    PipeClosed(anyhow::Error),
}

type RequestLines<'l> = std::io::Lines<BufReader<std::io::StdinLock<'l>>>;

/// One request after the other, each with processes of its own.
fn serve_on_host(
    output: &mut File,
    task: &Task,
    hello: Greeting,
    lines: &mut RequestLines<'_>,
) -> Result<(), ServeError> {
    exit_with_driver().map_err(ServeError::NotReady)?;
    let device = CpuDevice::new().map_err(ServeError::NotReady)?;
    let identity = device.identity();
    let judge = Judge::new(&device, task, hello.options, cpu_limits(&identity));
    let mut judge = judge.map_err(ServeError::NotReady)?;
    send(output, &WorkerResponse::Ready(identity)).map_err(ServeError::PipeClosed)?;
    for line in lines {
        handle_request(output, &mut judge, line).map_err(ServeError::PipeClosed)?;
    }
    Ok(())
}

/// One request: after it this process is spent, whatever became of the candidate.
fn serve_on_gpu(
    output: &mut File,
    task: &Task,
    hello: Greeting,
    lines: &mut RequestLines<'_>,
) -> Result<(), ServeError> {
    // Before there is another thread.
    cuda::confine_writes().map_err(ServeError::NotReady)?;
    exit_with_driver().map_err(ServeError::NotReady)?;
    let mut screen_options = hello.options.clone();
    let options = hello.options;
    // A context is made between timings, never during one; so is what the baseline's check needs.
    let quiet = cuda::list_gpus()
        .map_err(anyhow::Error::from)
        .and_then(|cards| {
            let card = cards.first().context("no GPU can be seen")?;
            TimingLock::open(cuda::lock_file(card))
        })
        .map_err(ServeError::NotReady)?;
    cuda::start_driver().map_err(ServeError::NotReady)?;
    let held = quiet.shared_for_setup().map_err(ServeError::NotReady)?;
    let device = CudaDevice::open(0, true).map_err(ServeError::NotReady)?;
    let judge = match hello.brief {
        true => Judge::with_proven_baseline(&device, task, options, device.device_limits()),
        false => Judge::new(&device, task, options, device.device_limits()),
    };
    let mut judge = judge.map_err(ServeError::NotReady)?;
    drop(held);
    let host = hello.screen.then(CpuDevice::new).transpose();
    let host = host.map_err(ServeError::NotReady)?;
    if let Some(host) = &host {
        screen_options.profile.hidden_shapes = screen_options.profile.hidden_shapes.max(1);
        let machine = device.device_limits();
        let screen = CpuScreen::new(host, task, screen_options, machine);
        judge.set_screen(screen.map_err(ServeError::NotReady)?);
    }
    send(output, &WorkerResponse::Ready(device.identity())).map_err(ServeError::PipeClosed)?;
    if let Some(line) = lines.next() {
        handle_request(output, &mut judge, line).map_err(ServeError::PipeClosed)?;
    }
    // Taking everything down in order costs more than leaving it to the system, and after a hang it would not end.
    // SAFETY: the answer is written; nothing else of this process matters.
    unsafe { libc::_exit(0) }
}

fn handle_request(
    output: &mut File,
    judge: &mut Judge<'_>,
    line: std::io::Result<String>,
) -> anyhow::Result<()> {
    let request: WorkerRequest =
        serde_json::from_str(&line?).context("a request is not understood")?;
    let answer = match request {
        WorkerRequest::Judge { name, source, seed } => judge
            .judge(&name, &source, seed)
            .map(|verdict| WorkerResponse::Verdict(Box::new(verdict))),
        WorkerRequest::Duel {
            challenger,
            incumbent,
        } => judge
            .duel(&challenger, &incumbent)
            .map(WorkerResponse::Duel),
        WorkerRequest::SelfTest => judge.self_test().map(WorkerResponse::SelfTest),
    };
    send(
        output,
        &answer.unwrap_or_else(|error| WorkerResponse::Failure(WireFailure::from_error(&error))),
    )
}

/// What kernel files may ask of a device.
pub fn cpu_limits(identity: &DeviceIdentity) -> DeviceLimits {
    DeviceLimits {
        sm_count: i64::from(identity.cores.unwrap_or(1)),
        max_shared_bytes: MAX_SHARED_BYTES,
    }
}

/// Keeps standard output for the protocol alone: whatever else prints there goes to standard error.
pub(super) fn take_stdout() -> anyhow::Result<File> {
    let stdout = std::io::stdout().as_raw_fd();
    let stderr = std::io::stderr().as_raw_fd();
    // SAFETY: both descriptors are open for the life of the process; the copy is owned by the returned file alone.
    unsafe {
        let copy = libc::fcntl(stdout, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 || libc::dup2(stderr, stdout) < 0 {
            return Err(std::io::Error::last_os_error())
                .context("failed to set the worker's standard output apart");
        }
        Ok(File::from_raw_fd(copy))
    }
}

fn send(output: &mut File, response: &WorkerResponse) -> anyhow::Result<()> {
    send_line(output, response)
}

pub(super) fn send_line(output: &mut File, response: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    output
        .write_all(&line)
        .context("the driver has closed the pipe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FailureKind;

    #[test]
    fn greeting_of_another_version_is_an_environment_failure() {
        for line in [
            r#"{"version": 0}"#,
            r#"{"version": 9, "new": []}"#,
            "{}",
            "",
        ] {
            let failure = parse_greeting(line).err().unwrap();
            assert_eq!(failure.kind, FailureKind::Environment, "{line}");
            assert!(failure.message.contains("was replaced"), "{failure}");
        }
        let torn = format!(r#"{{"version": {PROTOCOL_VERSION}}}"#);
        assert!(parse_greeting(&torn).is_err());
    }
}
