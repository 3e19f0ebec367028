//! Runs Python on a script that describes foreign code. The script answers with lines on standard output, each within a limit of time: code
//! of others may not end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;

use crate::base::process::{ReportedGroup, kill_group, tie_to_parent};
use crate::base::{Failure, environment, progress, temporary};

/// A script that describes foreign code: what all imports share, which also writes the naive kernel, then these parts. What a part defines is
/// used by those after it.
macro_rules! describing_script {
    ($($part:expr),+ $(,)?) => {
        concat!(
            include_str!("naive_kernel/values.py"),
            include_str!("naive_kernel/sizes.py"),
            include_str!("naive_kernel/elements.py"),
            include_str!("naive_kernel/views.py"),
            include_str!("naive_kernel/reductions.py"),
            include_str!("naive_kernel/products.py"),
            include_str!("naive_kernel/kernel.py"),
            include_str!("described_values.py"),
            $($part),+
        )
    };
}
pub(super) use describing_script;

/// How long foreign code may run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PythonLimit {
    /// Time limit for Python to run the imported code, in seconds. With several problems it is for each.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    python_seconds: u64,
}

impl PythonLimit {
    /// What is said of code that has not ended in time. `place`: the code.
    pub(super) fn exceeded(self, place: &dyn std::fmt::Display) -> Failure {
        let seconds = self.python_seconds;
        Failure::usage(format!(
            "{place}: Python has not ended after {seconds} s and was killed"
        ))
        .hint("make sure that the code ends when you run it yourself; if it only takes longer, give it more time with `--python-seconds`")
    }
}

/// What a script answers.
pub(super) enum Answer {
    Line(String),
    /// Python has ended.
    Ended,
    /// The limit has passed, and Python was killed.
    TimedOut,
}

/// Python, running a script. Dropping it ends Python with all that it has started.
pub(super) struct PythonScript {
    child: Child,
    lines: Receiver<std::io::Result<String>>,
    limit: PythonLimit,
    log: File,
    _group: ReportedGroup,
}

impl PythonScript {
    /// Starts Python without API keys and without a GPU. It leaves no compiled files behind.
    pub(super) fn start(
        python: &Path,
        script: &str,
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
        limit: PythonLimit,
    ) -> anyhow::Result<Self> {
        let log = temporary::file().context("failed to create a temporary file")?;
        let mut command = Command::new(python);
        command
            .args(["-c", script])
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        for name in environment::withheld_variables() {
            command.env_remove(name);
        }
        tie_to_parent(&mut command);
        let mut child = command.spawn().map_err(|error| {
            Failure::environment(format!("failed to start `{}`: {error}", python.display()))
        })?;
        let group = ReportedGroup::new(child.id() as libc::pid_t);
        let output = child.stdout.take().context("Python has no output")?;
        let (sender, lines) = channel();
        // It ends with Python's output, or when nobody takes a line.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines();
            while lines.next().is_some_and(|line| sender.send(line).is_ok()) {}
        });
        Ok(Self {
            child,
            lines,
            limit,
            log,
            _group: group,
        })
    }

    /// The next line. After anything else Python has ended.
    pub(super) fn next(&mut self) -> anyhow::Result<Answer> {
        let _bounded = progress::bounded_wait();
        let limit = Duration::from_secs(self.limit.python_seconds);
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Answer::Line(
                line.context("Python's answer cannot be read")?,
            )),
            Err(RecvTimeoutError::Disconnected) => Ok(Answer::Ended),
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                Ok(Answer::TimedOut)
            }
        }
    }

    /// The last line that Python has printed on standard error. Empty if it cannot be read.
    pub(super) fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self
            .log
            .rewind()
            .and_then(|()| self.log.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let last = read.is_ok().then(|| text.trim().lines().last()).flatten();
        last.unwrap_or_default().to_owned()
    }

    fn kill(&mut self) {
        kill_group(self.child.id() as libc::pid_t);
    }
}

impl Drop for PythonScript {
    fn drop(&mut self) {
        // It is not reaped before, so the group is its own.
        self.kill();
        let _ = self.child.wait();
    }
}

/// The code imports a module that this Python does not have.
pub(super) fn module_is_missing(subject: &str, module: &str, python: &Path) -> Failure {
    let python = python.display();
    Failure::environment(format!(
        "{subject} imports `{module}`, which `{python}` does not have"
    ))
    .hint(format!(
        "install it with `{python} -m pip install {module}`, or set `KFORGE_PYTHON` to an interpreter that has it"
    ))
}

/// A text, and what follows it, in which words in capitals are replaced.
pub(super) fn with_epilogue(source: &str, epilogue: &str, values: &[(&str, String)]) -> String {
    let filled = values
        .iter()
        .fold(epilogue.to_owned(), |text, (word, value)| {
            text.replace(word, value)
        });
    source.trim_end().to_owned() + &filled
}
