//! The driver's side: worker processes of one task, started on demand, kept while idle, killed as a group.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::protocol::{Hello, Request, Response, VERSION};
use super::{Evaluator, EvaluatorFactory, Job, JobKind, Outcome, Work};
use crate::eval;
use crate::task::{Task, TaskFiles};
use crate::verdict::{DeviceIdentity, Verdict};

/// The most that a worker may say in one line.
const MAX_LINE: u64 = 16 << 20;

/// How many times its timing budget a confirmation may take, and how many times as precise it wants to be: it is the number
/// that is reported, and there are few.
const CONFIRMATION: f64 = 3.0;

/// Judges one task in child processes of this same program.
pub struct Pool {
    hello: String,
    /// For the fresh processes that confirm.
    confirming: String,
    deadline: Duration,
    idle: Mutex<Vec<Worker>>,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    identity: DeviceIdentity,
}

impl Pool {
    pub fn new(files: TaskFiles, options: eval::Options, workloads: usize) -> anyhow::Result<Self> {
        // Far beyond any honest judgement: what takes longer is broken machinery, not a slow kernel, which has its own deadline.
        let deadline = Duration::from_secs_f64(
            180.0
                + 20.0 * CONFIRMATION * options.profile.seconds * workloads as f64
                + 10.0 * options.launch_seconds,
        );
        let mut hello = Hello {
            version: VERSION,
            files,
            options,
        };
        let judging = serde_json::to_string(&hello)?;
        hello.options.profile.seconds *= CONFIRMATION;
        hello.options.profile.precision /= CONFIRMATION;
        hello.options.thorough = true;
        Ok(Self {
            hello: judging,
            confirming: serde_json::to_string(&hello)?,
            deadline,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Starts the first worker: shows that the oracle and the baseline work, and which device judges.
    pub async fn start(&self) -> anyhow::Result<DeviceIdentity> {
        let worker = self.spawn(&self.hello).await?;
        let identity = worker.identity.clone();
        self.keep(worker);
        Ok(identity)
    }

    /// Judges one kernel in a kept worker. `seed` repeats an earlier judgement.
    pub async fn judge(
        &self,
        name: &str,
        source: &str,
        seed: Option<u64>,
    ) -> anyhow::Result<Box<Verdict>> {
        let request = Request::Judge {
            name: name.to_owned(),
            source: source.to_owned(),
            seed,
        };
        match self.ask(&request, false).await? {
            Response::Verdict(verdict) => Ok(verdict),
            _ => bail!("a worker gave no verdict"),
        }
    }

    async fn evaluate(&self, job: Job) -> anyhow::Result<Outcome> {
        let name = format!("step {}", job.step);
        let fresh = matches!(job.kind, JobKind::Confirm);
        let source = job.source.to_string();
        let request = match job.kind {
            JobKind::Judge | JobKind::Confirm => Request::Judge {
                name,
                source,
                seed: None,
            },
            JobKind::Duel { against } => Request::Duel {
                challenger: source,
                incumbent: against.to_string(),
            },
        };
        match self.ask(&request, fresh).await? {
            Response::Verdict(mut verdict) => {
                verdict.confirmed = fresh && verdict.passed();
                let compile_log = verdict
                    .evidence
                    .as_ref()
                    .and_then(|evidence| evidence.log.clone())
                    .unwrap_or_default();
                Ok(Outcome::Verdict {
                    verdict,
                    compile_log,
                })
            }
            Response::Duel(duel) => Ok(Outcome::Duel(duel)),
            _ => bail!("a worker answered with something else than was asked for"),
        }
    }

    /// One request to one worker. A worker that fails to answer is killed.
    async fn ask(&self, request: &Request, fresh: bool) -> anyhow::Result<Response> {
        let kept = if fresh {
            None
        } else {
            self.idle.lock().ok().and_then(|mut idle| idle.pop())
        };
        let mut worker = match kept {
            Some(worker) => worker,
            None if fresh => self.spawn(&self.confirming).await?,
            None => self.spawn(&self.hello).await?,
        };
        let Ok(response) = tokio::time::timeout(self.deadline, worker.ask(request)).await else {
            bail!(
                "a worker gave no answer within {:.0} s",
                self.deadline.as_secs_f64()
            );
        };
        let response = response?;
        if !fresh {
            self.keep(worker);
        }
        match response {
            Response::Failure(failure) => Err(failure.into_error()),
            response => Ok(response),
        }
    }

    async fn spawn(&self, hello: &str) -> anyhow::Result<Worker> {
        let program =
            std::env::current_exe().context("failed to find kforge's own program file")?;
        let mut command = Command::new(&program);
        command
            .arg("__worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // Nothing below ever needs a model's key.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().ends_with("_API_KEY") {
                command.env_remove(name);
            }
        }
        command.process_group(0).kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start a worker from `{}`", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a worker started without its pipes");
        };
        let mut worker = Worker {
            child,
            input,
            output: BufReader::new(output),
            identity: DeviceIdentity::default(),
        };
        worker.send(hello).await?;
        match tokio::time::timeout(self.deadline, worker.receive()).await {
            Ok(Ok(Response::Ready(identity))) => worker.identity = identity,
            Ok(Ok(Response::Failure(failure))) => return Err(failure.into_error()),
            Ok(Ok(_)) => bail!("a worker did not greet back"),
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!(
                "a worker was not ready within {:.0} s",
                self.deadline.as_secs_f64()
            ),
        }
        Ok(worker)
    }

    fn keep(&self, worker: Worker) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
    }
}

/// Makes a pool for each task: every task of a run is judged by the same options, its own profile aside.
pub struct Pools {
    /// The files of the tasks, by the task's name.
    pub files: HashMap<String, TaskFiles>,
    /// The profile's name: `quick` or `full`.
    pub profile: String,
    pub launch_seconds: f64,
}

impl EvaluatorFactory for Pools {
    fn open(&self, task: Arc<Task>) -> Work<'_, Arc<dyn Evaluator>> {
        Box::pin(async move {
            let files = self
                .files
                .get(&task.name)
                .with_context(|| format!("task `{}` came without its files", task.name))?;
            let profile = task.settings.profiles.get(&self.profile).with_context(|| {
                format!("task `{}` has no profile `{}`", task.name, self.profile)
            })?;
            let options = eval::Options {
                profile: profile.clone(),
                launch_seconds: self.launch_seconds,
                thorough: false,
            };
            let pool = Pool::new(files.clone(), options, task.selected(profile).len())?;
            pool.start().await?;
            Ok(Arc::new(pool) as Arc<dyn Evaluator>)
        })
    }
}

impl Evaluator for Pool {
    fn evaluate(&self, job: Job) -> Work<'_, Outcome> {
        Box::pin(self.evaluate(job))
    }
}

impl Worker {
    async fn ask(&mut self, request: &Request) -> anyhow::Result<Response> {
        self.send(&serde_json::to_string(request)?).await?;
        self.receive().await
    }

    async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.write_all(b"\n").await?;
            self.input.flush().await
        };
        written.await.context("a worker has closed its pipe")
    }

    async fn receive(&mut self) -> anyhow::Result<Response> {
        let mut line = String::new();
        let read = (&mut self.output)
            .take(MAX_LINE)
            .read_line(&mut line)
            .await
            .context("failed to read from a worker")?;
        if read == 0 {
            let status = self
                .child
                .wait()
                .await
                .context("failed to wait for a worker")?;
            bail!("a worker ended without an answer: {status}");
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
