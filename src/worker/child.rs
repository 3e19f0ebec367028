//! A worker as seen by the driver: a child process that is sent one JSON line per request and returns one per response.
//!
//! Starts, greets and kills workers. `dispatch` decides which worker gets a request; `server` is the other end of the pipe.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::deadlines::{MAX_SILENCE, MAX_STALL, MAX_START_SILENCE};
use super::protocol::WorkerResponse;
use crate::base::process::{GroupLeader, tie_to_parent};
use crate::base::{Failure, environment, temporary};
use crate::verdict::DeviceIdentity;

/// Maximum length of a response line, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// A worker process that has been greeted. Dropping it kills the process and everything that it has started.
pub(super) struct Worker {
    pub(super) child: GroupLeader,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    has_responded: bool,
    /// Requests that it has served.
    pub(super) served: u32,
    pub(super) identity: DeviceIdentity,
}

/// Silence is counted in steps of this length, so that it does not count while the driver itself is stopped.
const SILENCE_STEP: Duration = Duration::from_secs(1);

/// A worker ended before it responded.
#[derive(Debug, thiserror::Error)]
#[error("a worker ended without a response: {0}")]
pub(super) struct WorkerDied(std::process::ExitStatus);

impl Worker {
    /// Starts a worker, sends the greeting, and waits until it is ready. `gpu_uuid`: the only GPU that it can see.
    pub(super) async fn start(
        gpu_uuid: Option<&str>,
        greeting: &str,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        let program =
            std::env::current_exe().context("failed to find kforge's own program file")?;
        let mut command = Command::new(&program);
        command
            .arg("__worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // A worker never needs an API key.
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        if let Some(uuid) = gpu_uuid {
            command.env("CUDA_VISIBLE_DEVICES", uuid);
        }
        temporary::pass_on(command.as_std_mut());
        tie_to_parent(command.as_std_mut());
        command.kill_on_drop(true);
        // An environment failure, because it is not the candidate's fault: the run stops and can be resumed.
        let child = command.spawn().map_err(|error| {
            Failure::environment(format!(
                "failed to start a worker from `{}`: {error}",
                program.display()
            ))
            .hint("check that the kforge program was not replaced while it ran, and that the limit on processes is not reached")
        })?;
        let mut child = GroupLeader::new(child);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a worker started without its pipes");
        };
        let mut worker = Self {
            child,
            input,
            output: BufReader::new(output),
            has_responded: false,
            served: 0,
            identity: DeviceIdentity::default(),
        };
        match tokio::time::timeout(deadline, worker.exchange(greeting)).await {
            Ok(Ok(WorkerResponse::Ready(identity))) => worker.identity = identity,
            Ok(Ok(WorkerResponse::Failure(failure))) => return Err(failure.into_error()),
            Ok(Ok(_)) => bail!("a worker did not respond to the greeting with `ready`"),
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!(
                "a worker was not ready within {:.0} s",
                deadline.as_secs_f64()
            ),
        }
        Ok(worker)
    }

    /// Asks the process to end, and waits until it has, at most this long. Then it is killed.
    pub(super) async fn end(self, limit: Duration) {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let _ = tokio::time::timeout(limit, child.wait()).await;
    }

    /// Sends one line and waits for the response.
    pub(super) async fn exchange(&mut self, line: &str) -> anyhow::Result<WorkerResponse> {
        match self.send(line).await {
            Ok(()) => self.receive().await,
            // The worker may have sent a failure before it closed the pipe. Its exit status says more than the closed pipe, too.
            Err(closed) => self.receive().await.map_err(|error| {
                if error.is::<WorkerDied>() {
                    error
                } else {
                    closed
                }
            }),
        }
    }

    fn max_silence(&self) -> Duration {
        if self.has_responded {
            MAX_SILENCE
        } else {
            MAX_START_SILENCE
        }
    }

    async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let (process, limit) = (self.child.id(), self.max_silence());
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.write_all(b"\n").await?;
            self.input.flush().await
        };
        let written = limit_silence(process, limit, written).await?;
        written.context("a worker has closed its pipe")
    }

    /// Waits for the response. Fails if the worker sends no sign of life, or completes nothing.
    async fn receive(&mut self) -> anyhow::Result<WorkerResponse> {
        loop {
            match self.receive_line().await? {
                WorkerResponse::Alive { stalled_seconds }
                    if stalled_seconds >= MAX_STALL.as_secs() =>
                {
                    bail!(
                        "a worker (process {}) has completed nothing for {stalled_seconds} s: it is stuck, and is killed",
                        self.child.id().unwrap_or_default()
                    )
                }
                WorkerResponse::Alive { .. } => {}
                response => return Ok(response),
            }
        }
    }

    async fn receive_line(&mut self) -> anyhow::Result<WorkerResponse> {
        let (process, limit) = (self.child.id(), self.max_silence());
        let mut line = String::new();
        let mut output = (&mut self.output).take(MAX_LINE_BYTES);
        let read = limit_silence(process, limit, output.read_line(&mut line)).await?;
        let read = read.context("failed to read from a worker")?;
        self.has_responded = true;
        if read == 0 {
            let status = self
                .child
                .wait()
                .await
                .context("failed to wait for a worker")?;
            return Err(WorkerDied(status).into());
        }
        serde_json::from_str(&line).context("failed to parse a worker's response")
    }
}

/// Waits for something that a living worker does soon.
async fn limit_silence<T>(
    process: Option<u32>,
    limit: Duration,
    waited_for: impl Future<Output = T>,
) -> anyhow::Result<T> {
    let mut waited_for = pin!(waited_for);
    let mut silence = Duration::ZERO;
    while silence < limit {
        match tokio::time::timeout(SILENCE_STEP, &mut waited_for).await {
            Ok(result) => return Ok(result),
            Err(_) => silence += SILENCE_STEP,
        }
    }
    bail!(
        "a worker (process {}) has sent no sign of life for {} s: it is stopped or the machine is overloaded; it is killed",
        process.unwrap_or_default(),
        limit.as_secs()
    )
}
