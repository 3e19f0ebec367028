//! Any program as a model: it reads the prompt on standard input and writes the reply to standard output.
//!
//! It does not receive environment variables that look like secrets, except those that the config names. It and all its children
//! are killed when the request ends.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::models::ModelSettings;
use super::{Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin, sanitize_detail};
use crate::base::process::{GroupGuard, tie_to_parent};
use crate::base::{Failure, environment};
use crate::event::ReplyOutcome;

/// How much of the program's standard error is kept.
const MAX_STDERR_BYTES: usize = 4096;

/// How long to wait for more standard error after the program has ended.
const STDERR_GRACE: Duration = Duration::from_millis(100);

/// A program that answers requests.
pub(super) struct CommandProvider {
    argv: Vec<String>,
    /// Environment variables that the program does not receive.
    withheld: Vec<OsString>,
    timeout: Duration,
}

impl CommandProvider {
    pub(super) fn open(model: &ModelSettings, timeout: Duration) -> Result<Self, Failure> {
        for name in &model.pass_env {
            if std::env::var_os(name).is_none() {
                return Err(Failure::environment(format!(
                    "environment variable {name} is not set (in `pass_env` of model `{}`)",
                    model.name
                ))
                .hint("set it, or remove it from `pass_env`"));
            }
        }
        Ok(Self {
            argv: model.command.clone(),
            withheld: withheld_variables(&model.pass_env),
            timeout,
        })
    }

    fn start(&self) -> std::io::Result<Child> {
        let (program, arguments) = self.argv.split_first().ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "`command` is empty")
        })?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        self.withheld.iter().for_each(|name| {
            command.env_remove(name);
        });
        tie_to_parent(command.as_std_mut());
        command.spawn()
    }

    async fn run_program(&self, request: &Request) -> Attempt {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                let program = self.argv.first().map_or("", String::as_str);
                let detail = sanitize_detail(&format!("cannot start `{program}`: {error}"));
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .with_detail(detail)
                        .not_billed(),
                );
            }
        };
        let _group = GroupGuard::new(&child);
        let max_bytes = usize::try_from(request.max_output).unwrap_or(usize::MAX);
        let mut output = ProgramOutput::default();
        let exchange = exchange(&mut child, request, max_bytes, &mut output);
        let ended = timeout(self.timeout, exchange).await;
        Attempt::Ended(match ended {
            Err(_) => {
                let seconds = self.timeout.as_secs_f64();
                output.reply(ReplyOutcome::Lost, &format!("no reply within {seconds} s"))
            }
            Ok(Err(error)) => output.reply(ReplyOutcome::Lost, &error.to_string()),
            Ok(Ok(None)) => Reply::new(ReplyOutcome::Truncated, lossy(&output.stdout))
                .with_detail(format!("the reply is longer than {max_bytes} bytes")),
            Ok(Ok(Some(status))) if !status.success() => output.reply(
                ReplyOutcome::Lost,
                &format!("the program ended with {status}"),
            ),
            Ok(Ok(Some(_))) if output.stdout.iter().all(u8::is_ascii_whitespace) => {
                output.reply(ReplyOutcome::Empty, "the program printed nothing")
            }
            Ok(Ok(Some(_))) => match String::from_utf8(output.stdout) {
                Ok(text) => Reply::new(ReplyOutcome::Complete, text),
                Err(error) => Reply::new(ReplyOutcome::Malformed, lossy(error.as_bytes()))
                    .with_detail("the reply is not UTF-8"),
            },
        })
    }
}

/// What the program has printed.
#[derive(Default)]
struct ProgramOutput {
    stdout: Vec<u8>,
    /// At most `MAX_STDERR_BYTES`.
    stderr: Vec<u8>,
}

impl ProgramOutput {
    /// A reply with an error message, which includes standard error.
    fn reply(&self, outcome: ReplyOutcome, message: &str) -> Reply {
        let stderr = lossy(&self.stderr);
        let detail = match stderr.trim() {
            "" => message.to_owned(),
            stderr => sanitize_detail(&format!("{message}: {stderr}")),
        };
        Reply::new(outcome, lossy(&self.stdout)).with_detail(detail)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Variables that look like secrets or hold a key of the run, except those in `pass`.
fn withheld_variables(pass: &[String]) -> Vec<OsString> {
    let mut names = environment::withheld_variables();
    names.retain(|name| {
        !pass
            .iter()
            .any(|passed| **passed == *name.to_string_lossy())
    });
    names
}

/// Writes the prompt while reading the reply, since either may exceed a pipe's buffer. `None` if the reply is too long.
async fn exchange(
    child: &mut Child,
    request: &Request,
    max_bytes: usize,
    output: &mut ProgramOutput,
) -> std::io::Result<Option<ExitStatus>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ProgramOutput {
        stdout: reply_bytes,
        stderr: stderr_bytes,
    } = output;
    let reply_read = Notify::new();
    let read_reply = async {
        let reply = async {
            let rest = read_up_to(stdout, max_bytes, reply_bytes).await?;
            Ok(match rest {
                Some(_) => None,
                None => Some(child.wait().await?),
            })
        };
        // The reply may be complete before the program has read the whole prompt.
        let write = async {
            write_prompt(stdin, request).await;
            pending::<Infallible>().await
        };
        let reply = tokio::select! {
            reply = reply => reply,
            never = write => match never {},
        };
        reply_read.notify_one();
        reply
    };
    let read_stderr = async {
        let all = async {
            if let Ok(Some(mut rest)) = read_up_to(stderr, MAX_STDERR_BYTES, stderr_bytes).await {
                // Keep reading, so that a program that prints more does not block.
                let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            }
        };
        // A child of the program may keep standard error open: do not wait for it.
        let end = async {
            reply_read.notified().await;
            sleep(STDERR_GRACE).await;
        };
        tokio::select! {
            () = all => {}
            () = end => {}
        }
    };
    tokio::join!(read_reply, read_stderr).0
}

/// Writes the system message and the prompt. Stops if the program closes its input: it may still reply.
async fn write_prompt(stdin: Option<ChildStdin>, request: &Request) {
    let Some(mut stdin) = stdin else { return };
    let parts = request.parts.iter().map(|part| part.text.as_str());
    let system = [request.system.as_str(), "\n\n"];
    let system = system.into_iter().filter(|_| !request.system.is_empty());
    for text in system.chain(parts) {
        if stdin.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

/// Reads up to `max_bytes`. Returns the source if there is more.
async fn read_up_to<R: AsyncRead + Unpin>(
    source: Option<R>,
    max_bytes: usize,
    into: &mut Vec<u8>,
) -> std::io::Result<Option<R>> {
    let Some(mut source) = source else {
        return Ok(None);
    };
    let mut piece = [0; 8192];
    loop {
        let room = piece.len().min(max_bytes - into.len());
        if room == 0 {
            let more = source.read(&mut piece[..1]).await?;
            return Ok((more > 0).then_some(source));
        }
        let count = source.read(&mut piece[..room]).await?;
        if count == 0 {
            return Ok(None);
        }
        into.extend_from_slice(&piece[..count]);
    }
}

impl Provider for CommandProvider {
    fn send<'a>(&'a self, request: &'a Request, _origin: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.run_program(request))
    }
}
