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
use crate::eval::Judge;
use crate::kernel::Machine;
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
    let device = match CpuDevice::new() {
        Ok(device) => device,
        Err(error) => return send(&mut output, &Response::Failure(WireFailure::of(&error))),
    };
    let identity = device.identity();
    let machine = machine(&identity);
    let mut judge = match Judge::new(&device, &task, hello.options, machine) {
        Ok(judge) => judge,
        Err(error) => return send(&mut output, &Response::Failure(WireFailure::of(&error))),
    };
    send(&mut output, &Response::Ready(identity))?;
    for line in lines {
        let request: Request =
            serde_json::from_str(&line?).context("a request is not understood")?;
        let answer = match request {
            Request::Judge { name, source, seed } => judge
                .judge(&name, &source, seed)
                .map(|verdict| Response::Verdict(Box::new(verdict))),
            Request::Duel {
                challenger,
                incumbent,
            } => judge.duel(&challenger, &incumbent).map(Response::Duel),
        };
        send(
            &mut output,
            &answer.unwrap_or_else(|error| Response::Failure(WireFailure::of(&error))),
        )?;
    }
    Ok(())
}

/// What kernel files may ask of a device.
pub fn machine(identity: &DeviceIdentity) -> Machine {
    Machine {
        sm_count: i64::from(identity.cores.unwrap_or(1)),
        max_shared_bytes: MAX_SHARED_BYTES,
    }
}

/// Keeps standard output for the protocol alone: whatever else prints there goes to standard error.
fn private_output() -> anyhow::Result<File> {
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
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    output
        .write_all(&line)
        .context("the driver has closed the pipe")
}
