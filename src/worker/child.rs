//! A worker as a child process: started, asked line by line, killed with all that it has started.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::protocol::WorkerResponse;
use crate::base::{Failure, environment};
use crate::verdict::DeviceIdentity;

/// The most that a worker may say in one line.
const MAX_LINE_BYTES: u64 = 16 << 20;

pub(super) struct Worker {
    pub(super) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(super) identity: DeviceIdentity,
}

/// A worker's end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a worker ended without an answer: {0}")]
pub(super) struct WorkerDied(std::process::ExitStatus);

impl Worker {
    /// Starts one, and waits until it is ready. `card`: the name of the only GPU that it is to see.
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
        // Nothing below ever needs a model's key.
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        if let Some(uuid) = gpu_uuid {
            command.env("CUDA_VISIBLE_DEVICES", uuid);
        }
        command.process_group(0).kill_on_drop(true);
        // No candidate's fault: a run that stops here goes on later.
        let mut child = command.spawn().map_err(|error| {
            Failure::environment(format!(
                "failed to start a worker from `{}`: {error}",
                program.display()
            ))
            .hint("see that kforge was not replaced while it ran, and that more processes may be started")
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a worker started without its pipes");
        };
        let mut worker = Self {
            child,
            input,
            output: BufReader::new(output),
            identity: DeviceIdentity::default(),
        };
        match tokio::time::timeout(deadline, worker.exchange(greeting)).await {
            Ok(Ok(WorkerResponse::Ready(identity))) => worker.identity = identity,
            Ok(Ok(WorkerResponse::Failure(failure))) => return Err(failure.into_error()),
            Ok(Ok(_)) => bail!("a worker did not greet back"),
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!(
                "a worker was not ready within {:.0} s",
                deadline.as_secs_f64()
            ),
        }
        Ok(worker)
    }

    /// One line there, one line back.
    pub(super) async fn exchange(&mut self, line: &str) -> anyhow::Result<WorkerResponse> {
        // Whoever has left before listening may have said why, and how it ended says more than a closed pipe.
        match self.send(line).await {
            Ok(()) => self.receive().await,
            Err(closed) => self
                .receive()
                .await
                .map_err(|error| match error.is::<WorkerDied>() {
                    true => error,
                    false => closed,
                }),
        }
    }

    async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.write_all(b"\n").await?;
            self.input.flush().await
        };
        written.await.context("a worker has closed its pipe")
    }

    async fn receive(&mut self) -> anyhow::Result<WorkerResponse> {
        let mut line = String::new();
        let read = (&mut self.output)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .await
            .context("failed to read from a worker")?;
        if read == 0 {
            let status = self
                .child
                .wait()
                .await
                .context("failed to wait for a worker")?;
            return Err(WorkerDied(status).into());
        }
        serde_json::from_str(&line).context("a worker's answer is not understood")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker leads its own process group; whatever it started goes with it.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: kill has no memory preconditions; the group is that of a child that was not yet waited for.
            unsafe {
                libc::kill(-id, libc::SIGKILL);
            }
        }
    }
}
