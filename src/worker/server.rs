//! The worker's side: reads requests until the pipe closes, judges, answers. Runs inside `kforge __worker`.
//!
//! Opens no run directory and knows no path; candidates run in processes of their own below this one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Context, bail};

use super::protocol::{Hello, Request, Response, VERSION, WireFailure};
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
    let hello: Hello = serde_json::from_str(&hello?).context("the greeting is not understood")?;
    if hello.version != VERSION {
        bail!(
            "the driver speaks version {} of the worker protocol, this worker {VERSION}: kforge was replaced while it ran",
            hello.version
        );
    }
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
    cuda::fence().map_err(Unserved::NotReady)?;
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
