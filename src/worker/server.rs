//! The worker's side: reads requests until the pipe closes, judges, answers. Runs inside `kforge __worker`.
//!
//! Opens no run directory and knows no path; candidates run in processes of their own below this one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;

use super::protocol::{Hello, Request, Response, VERSION, WireFailure};
use crate::base::Failure;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{self, CudaDevice};
use crate::eval::{Judge, Quiet, Screen};
use crate::kernel::Machine;
use crate::task::Task;
use crate::verdict::DeviceIdentity;

/// The most shared memory that a block may have: that of the GPUs which the CPU stands in for (sm_90).
const MAX_SHARED_BYTES: i64 = 227 * 1024;

/// Serves until standard input ends.
pub fn serve() -> anyhow::Result<()> {
    let mut output = private_output()?;
    let mut lines = BufReader::new(std::io::stdin().lock()).lines();
    let Some(hello) = lines.next() else {
        return Ok(());
    };
    let hello = match greeted(&hello?) {
        Ok(hello) => hello,
        Err(failure) => {
            return send(
                &mut output,
                &Response::Failure(WireFailure::of(&failure.into())),
            );
        }
    };
    let task = match hello.files.load() {
        Ok(task) => task,
        Err(failure) => {
            return send(
                &mut output,
                &Response::Failure(WireFailure::of(&failure.into())),
            );
        }
    };
    let served = match hello.on_card {
        true => serve_on_card(&mut output, &task, hello, &mut lines),
        false => serve_on_host(&mut output, &task, hello, &mut lines),
    };
    // What could not begin is an answer like any other.
    match served {
        Ok(()) => Ok(()),
        Err(Unserved::NotReady(error)) => {
            send(&mut output, &Response::Failure(WireFailure::of(&error)))
        }
        Err(Unserved::Broken(error)) => Err(error),
    }
}

/// The greeting of a driver of this very version. Any other is for a person to mend, and no candidate's fault.
fn greeted(line: &str) -> Result<Hello, Failure> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let replaced = |what: String| {
        Failure::environment(format!("{what}: kforge was replaced while it ran"))
            .hint("stop the old process and begin again with the new one: a run goes on by `kforge resume`")
    };
    match serde_json::from_str::<Version>(line) {
        Ok(Version { version }) if version == VERSION => {}
        Ok(Version { version }) => {
            return Err(replaced(format!(
                "the driver speaks version {version} of the worker protocol, this worker {VERSION}"
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
fn leave_with_driver() -> anyhow::Result<()> {
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
enum Unserved {
    /// The device, the oracle or the baseline does not work: the driver is told.
    NotReady(anyhow::Error),
    /// There is nobody to tell.
    Broken(anyhow::Error),
}

type Lines<'l> = std::io::Lines<BufReader<std::io::StdinLock<'l>>>;

/// One request after the other, each with processes of its own.
fn serve_on_host(
    output: &mut File,
    task: &Task,
    hello: Hello,
    lines: &mut Lines<'_>,
) -> Result<(), Unserved> {
    leave_with_driver().map_err(Unserved::NotReady)?;
    let device = CpuDevice::new().map_err(Unserved::NotReady)?;
    let identity = device.identity();
    let judge = Judge::new(&device, task, hello.options, machine(&identity));
    let mut judge = judge.map_err(Unserved::NotReady)?;
    send(output, &Response::Ready(identity)).map_err(Unserved::Broken)?;
    for line in lines {
        answer(output, &mut judge, line).map_err(Unserved::Broken)?;
    }
    Ok(())
}

/// One request: after it this process is spent, whatever became of the candidate.
fn serve_on_card(
    output: &mut File,
    task: &Task,
    hello: Hello,
    lines: &mut Lines<'_>,
) -> Result<(), Unserved> {
    // Before there is another thread.
    cuda::fence().map_err(Unserved::NotReady)?;
    leave_with_driver().map_err(Unserved::NotReady)?;
    let mut screen_options = hello.options.clone();
    let options = hello.options;
    // A context is made between timings, never during one; so is what the baseline's check needs.
    let quiet = cuda::cards()
        .map_err(anyhow::Error::from)
        .and_then(|cards| {
            let card = cards.first().context("no GPU can be seen")?;
            Quiet::open(cuda::lock(card))
        })
        .map_err(Unserved::NotReady)?;
    cuda::start().map_err(Unserved::NotReady)?;
    let held = quiet.ready().map_err(Unserved::NotReady)?;
    let device = CudaDevice::open(0, true).map_err(Unserved::NotReady)?;
    let judge = match hello.brief {
        true => Judge::brief(&device, task, options, device.machine()),
        false => Judge::new(&device, task, options, device.machine()),
    };
    let mut judge = judge.map_err(Unserved::NotReady)?;
    drop(held);
    let host = hello.screen.then(CpuDevice::new).transpose();
    let host = host.map_err(Unserved::NotReady)?;
    if let Some(host) = &host {
        screen_options.profile.hidden_shapes = screen_options.profile.hidden_shapes.max(1);
        let machine = device.machine();
        let screen = Screen::new(host, task, screen_options, machine);
        judge.screen_by(screen.map_err(Unserved::NotReady)?);
    }
    send(output, &Response::Ready(device.identity())).map_err(Unserved::Broken)?;
    if let Some(line) = lines.next() {
        answer(output, &mut judge, line).map_err(Unserved::Broken)?;
    }
    // Taking everything down in order costs more than leaving it to the system, and after a hang it would not end.
    // SAFETY: the answer is written; nothing else of this process matters.
    unsafe { libc::_exit(0) }
}

fn answer(
    output: &mut File,
    judge: &mut Judge<'_>,
    line: std::io::Result<String>,
) -> anyhow::Result<()> {
    let request: Request = serde_json::from_str(&line?).context("a request is not understood")?;
    let answer = match request {
        Request::Judge { name, source, seed } => judge
            .judge(&name, &source, seed)
            .map(|verdict| Response::Verdict(Box::new(verdict))),
        Request::Duel {
            challenger,
            incumbent,
        } => judge.duel(&challenger, &incumbent).map(Response::Duel),
        Request::SelfTest => judge.against_itself().map(Response::SelfTest),
    };
    send(
        output,
        &answer.unwrap_or_else(|error| Response::Failure(WireFailure::of(&error))),
    )
}

/// What kernel files may ask of a device.
pub fn machine(identity: &DeviceIdentity) -> Machine {
    Machine {
        sm_count: i64::from(identity.cores.unwrap_or(1)),
        max_shared_bytes: MAX_SHARED_BYTES,
    }
}

/// Keeps standard output for the protocol alone: whatever else prints there goes to standard error.
pub(super) fn private_output() -> anyhow::Result<File> {
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

fn send(output: &mut File, response: &Response) -> anyhow::Result<()> {
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
    use crate::base::Kind;

    #[test]
    fn another_versions_greeting_is_for_a_person_to_mend() {
        for line in [
            r#"{"version": 0}"#,
            r#"{"version": 9, "new": []}"#,
            "{}",
            "",
        ] {
            let failure = greeted(line).err().unwrap();
            assert_eq!(failure.kind, Kind::Environment, "{line}");
            assert!(failure.message.contains("was replaced"), "{failure}");
        }
        let torn = format!(r#"{{"version": {VERSION}}}"#);
        assert!(greeted(&torn).is_err());
    }
}
