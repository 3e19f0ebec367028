//! Any program as a model: the prompt on its standard input, the reply on its standard output.
//!
//! It is given no variable that looks like a secret unless the config names it, and it and all its children end with the question.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::models::ModelSettings;
use super::{Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin, sanitize_detail};
use crate::base::process::GroupGuard;
use crate::base::{Failure, environment};
use crate::event::ReplyOutcome;

/// How much of what it says on standard error is kept.
const MAX_STDERR_BYTES: usize = 4096;

/// How long the rest of it is waited for once the program has ended.
const STDERR_GRACE: Duration = Duration::from_millis(100);

/// A program that answers.
pub(super) struct CommandProvider {
    argv: Vec<String>,
    /// Variables that it is not given.
    withheld: Vec<OsString>,
    timeout: Duration,
}

impl CommandProvider {
    pub(super) fn open(model: &ModelSettings, total: Duration) -> Result<Self, Failure> {
        for name in &model.pass_env {
            if std::env::var_os(name).is_none() {
                return Err(Failure::environment(format!(
                    "{name} is not set, which `{}` is to be given",
                    model.name
                ))
                .hint("set it, or take it out of `pass_env`"));
            }
        }
        Ok(Self {
            argv: model.command.clone(),
            withheld: withheld_variables(&model.pass_env),
            timeout: total,
        })
    }

    fn start(&self) -> std::io::Result<Child> {
        let (program, arguments) = self.argv.split_first().ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "no program is named")
        })?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        self.withheld.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.spawn()
    }

    async fn run_program(&self, request: &Request) -> Attempt {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                let program = self.argv.first().map_or("", String::as_str);
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .with_detail(sanitize_detail(&format!(
                            "`{program}` cannot be started: {error}"
                        )))
                        .not_billed(),
                );
            }
        };
        let _group = GroupGuard::new(&child);
        let max_bytes = usize::try_from(request.max_output).unwrap_or(usize::MAX);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let talk = exchange(&mut child, request, max_bytes, &mut stdout, &mut stderr);
        let ended = timeout(self.timeout, talk).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let reply = |outcome| Reply::new(outcome, text(&stdout));
        let with_stderr = |words: String| {
            let complaint = text(&stderr);
            match complaint.trim().is_empty() {
                true => words,
                false => sanitize_detail(&format!("{words}: {}", complaint.trim())),
            }
        };
        Attempt::Ended(match ended {
            Err(_) => {
                let words = format!("it took longer than {} s", self.timeout.as_secs_f64());
                reply(ReplyOutcome::Lost).with_detail(with_stderr(words))
            }
            Ok(Err(error)) => reply(ReplyOutcome::Lost).with_detail(with_stderr(error.to_string())),
            Ok(Ok(None)) => reply(ReplyOutcome::Truncated)
                .with_detail(format!("the reply is longer than {max_bytes} bytes")),
            Ok(Ok(Some(status))) if !status.success() => reply(ReplyOutcome::Lost)
                .with_detail(with_stderr(format!("the program ended with {status}"))),
            Ok(Ok(Some(_))) if stdout.iter().all(u8::is_ascii_whitespace) => {
                reply(ReplyOutcome::Empty)
                    .with_detail(with_stderr("the program said nothing".to_owned()))
            }
            Ok(Ok(Some(_))) => match String::from_utf8(std::mem::take(&mut stdout)) {
                Ok(text) => Reply::new(ReplyOutcome::Complete, text),
                Err(error) => Reply::new(ReplyOutcome::Malformed, text(error.as_bytes()))
                    .with_detail("the reply is not UTF-8"),
            },
        })
    }
}

/// Variables that look like secrets by their names, or hold a key of the run, and are not to be passed on.
fn withheld_variables(pass: &[String]) -> Vec<OsString> {
    let mut names = environment::withheld_variables();
    names.retain(|name| {
        !pass
            .iter()
            .any(|passed| **passed == *name.to_string_lossy())
    });
    names
}

/// Writes the prompt while the reply is read: either may be larger than a pipe. `None` where the reply is too long.
async fn exchange(
    child: &mut Child,
    request: &Request,
    max_bytes: usize,
    reply_bytes: &mut Vec<u8>,
    stderr_bytes: &mut Vec<u8>,
) -> std::io::Result<Option<ExitStatus>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut stdin) = stdin else { return };
        let parts = request.parts.iter().map(|part| part.text.as_str());
        let system = [request.system.as_str(), "\n\n"];
        let system = system.into_iter().filter(|_| !request.system.is_empty());
        for text in system.chain(parts) {
            // A program that does not read to the end may answer all the same.
            if stdin.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = stdin.shutdown().await;
    };
    let reply_read = Notify::new();
    let read_reply = async {
        let answer = async {
            let rest = read_up_to(stdout, max_bytes, reply_bytes).await?;
            Ok(match rest {
                Some(_) => None,
                None => Some(child.wait().await?),
            })
        };
        // An answer may come before all of the prompt is read.
        let write = async {
            write.await;
            pending::<Infallible>().await
        };
        let answer = tokio::select! {
            answer = answer => answer,
            never = write => match never {},
        };
        reply_read.notify_one();
        answer
    };
    let read_stderr = async {
        let all = async {
            if let Ok(Some(mut rest)) = read_up_to(stderr, MAX_STDERR_BYTES, stderr_bytes).await {
                // Read on, so that nobody is held up who says more.
                let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            }
        };
        // A child of the program may hold standard error open: its own end is enough.
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

/// Reads up to so many bytes; returns the source where there is more.
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
    fn send<'a>(&'a self, request: &'a Request, _place: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.run_program(request))
    }
}
