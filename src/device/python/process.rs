//! The Python process: started once, asked for the outputs of one call at a time, restarted if it was killed.
//!
//! Messages are lines of JSON over its standard streams. Tensors are in a shared memory file. The other ends are `reference.py` and
//! `baseline.py`. Knows nothing of tasks beyond the text that it runs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::base::process::{ReportedGroup, kill_group, tie_to_parent};
use crate::base::{Failure, environment, progress, temporary};
use crate::device::watchdog::ProcessDeadline;

/// How long Python may take to start and to import the modules of the reference. PyTorch takes seconds, and minutes from a cold disk.
const START_DEADLINE: Duration = Duration::from_secs(180);
/// How much of what the reference has printed is shown.
const MAX_LOG_BYTES: u64 = 4 << 10;

/// What a Python process runs.
pub(super) struct PythonProgram {
    /// The text of the script that answers requests.
    pub(super) script: &'static str,
    /// Text and file name of the source that the script runs first.
    pub(super) source: [String; 2],
    /// What the source is, for messages: `the Python reference of task `softmax``.
    pub(super) subject: String,
}

const NOT_RUNNING: &str = "Python is not running";

/// A running interpreter and the memory that it shares with this process.
pub(super) struct PythonProcess {
    interpreter: PathBuf,
    program: PythonProgram,
    /// The answer to the source, since the last start.
    greeted: Map<String, Value>,
    /// The GPU that PyTorch may use; `None`: it computes on the CPU.
    gpu_uuid: Option<String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    memory: File,
    /// The size of `memory`.
    length: u64,
    log: File,
    _group: ReportedGroup,
}

/// An answer of the process.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    missing_module: Option<String>,
    /// What else the answer says.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Why a call gave no result, for people.
pub(super) struct CallFailed(pub(super) String);

impl PythonProcess {
    /// Starts Python and runs the source.
    ///
    /// # Errors
    /// See `PythonOracle::start`.
    pub(super) fn start(
        interpreter: &Path,
        program: PythonProgram,
        gpu_uuid: Option<String>,
    ) -> anyhow::Result<Self> {
        let mut process = Self {
            interpreter: interpreter.to_owned(),
            program,
            greeted: Map::new(),
            gpu_uuid,
            running: None,
        };
        process.ensure_running()?;
        Ok(process)
    }

    /// Starts Python again if a call has ended it.
    ///
    /// # Errors
    /// See `PythonOracle::start`.
    pub(super) fn ensure_running(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let script = self.program.script;
        let mut running = Running::start(&self.interpreter, script, self.gpu_uuid.as_deref())?;
        let [source, file] = &self.program.source;
        let device = if self.gpu_uuid.is_some() {
            "cuda"
        } else {
            "cpu"
        };
        let greeting = json!({"source": source, "file": file, "device": device});
        let answer = running.exchange(&greeting, START_DEADLINE);
        let subject = &self.program.subject;
        let failed =
            |reason: String, log: String| Failure::reference(format!("{subject} {reason}{log}"));
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallFailed(reason)) => return Err(failed(reason, running.log()).into()),
        };
        if let Some(module) = answer.missing_module {
            let python = self.interpreter.display();
            return Err(Failure::environment(format!(
                "{subject} imports `{module}`, which `{python}` does not have"
            ))
            .hint(format!(
                "install it with `{python} -m pip install {module}`, or set `KFORGE_PYTHON` to an interpreter that has it"
            ))
            .into());
        }
        if let Some(error) = answer.error {
            return Err(failed(format!("does not load: {error}"), running.log()).into());
        }
        self.greeted = answer.rest;
        self.running = Some(running);
        Ok(())
    }

    /// What the script has answered to the source.
    pub(super) fn greeted(&self) -> &Map<String, Value> {
        &self.greeted
    }

    /// Ends the process. `ensure_running` starts another one.
    pub(super) fn end(&mut self) {
        self.running = None;
    }

    /// Makes the shared memory at least this long, and returns its length.
    pub(super) fn reserve(&mut self, bytes: u64) -> anyhow::Result<u64> {
        let running = self.running.as_mut().context(NOT_RUNNING)?;
        running.reserve(bytes)?;
        Ok(running.length)
    }

    /// The shared memory.
    pub(super) fn memory(&self) -> anyhow::Result<&File> {
        Ok(&self.running.as_ref().context(NOT_RUNNING)?.memory)
    }

    /// Writes to the shared memory.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        (self.memory()?.write_all_at(bytes, offset)).context("failed to pass the inputs on")
    }

    /// Reads from the shared memory.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> anyhow::Result<()> {
        (self.memory()?.read_exact_at(bytes, offset)).context("failed to read the outputs")
    }

    /// Sends a request and returns what the answer says. After a failure that ended the process, `ensure_running` starts another one.
    pub(super) fn request(
        &mut self,
        request: &Value,
        deadline: Duration,
    ) -> anyhow::Result<Result<Map<String, Value>, CallFailed>> {
        let running = self.running.as_mut().context(NOT_RUNNING)?;
        let answer = match running.exchange(request, deadline) {
            Ok(answer) => answer,
            Err(CallFailed(reason)) => {
                let log = running.log();
                self.running = None;
                return Ok(Err(CallFailed(format!("{reason}{log}"))));
            }
        };
        if let Some(error) = answer.error {
            return Ok(Err(CallFailed(format!("{error}{}", running.log()))));
        }
        Ok(Ok(answer.rest))
    }

    /// Writes the inputs (offset and bytes), makes a call, and reads the outputs (offset and length in bytes). After a failure that ended
    /// the process, `ensure_running` starts another one.
    pub(super) fn call(
        &mut self,
        mut request: Value,
        inputs: &[(u64, &[u8])],
        outputs: &[(u64, u64)],
        deadline: Duration,
    ) -> anyhow::Result<Result<Vec<Vec<u8>>, CallFailed>> {
        let ends = inputs
            .iter()
            .map(|(offset, bytes)| offset + bytes.len() as u64);
        let ends = ends.chain(outputs.iter().map(|(offset, bytes)| offset + bytes));
        request["length"] = json!(self.reserve(ends.max().unwrap_or(0))?);
        for (offset, bytes) in inputs {
            self.write(*offset, bytes)?;
        }
        if let Err(failed) = self.request(&request, deadline)? {
            return Ok(Err(failed));
        }
        let mut results = Vec::new();
        for (offset, bytes) in outputs {
            let mut memory = vec![0; *bytes as usize];
            self.read(*offset, &mut memory)?;
            results.push(memory);
        }
        Ok(Ok(results))
    }
}

impl Running {
    fn start(interpreter: &Path, script: &str, gpu_uuid: Option<&str>) -> anyhow::Result<Self> {
        let memory = anonymous_memory().context("failed to create shared memory")?;
        let descriptor = memory.as_raw_fd();
        let log = temporary::file().context("failed to create a temporary file")?;
        let mut command = Command::new(interpreter);
        command
            .args(["-c", script, &descriptor.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            // Idle threads of OpenMP otherwise spin, while a kernel is timed.
            .env("OMP_WAIT_POLICY", "passive")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for name in environment::withheld_variables() {
            command.env_remove(name);
        }
        // Triton's usual place is the home folder, which a worker on a GPU cannot write.
        command.env("TRITON_CACHE_DIR", temporary::root().join("triton"));
        command.env(
            "TORCHINDUCTOR_CACHE_DIR",
            temporary::root().join("inductor"),
        );
        // Another GPU may be timing for another worker. An empty list shows none.
        command.env("CUDA_VISIBLE_DEVICES", gpu_uuid.unwrap_or_default());
        temporary::pass_on(&mut command);
        tie_to_parent(&mut command);
        // SAFETY: one system call with plain numbers. It keeps the descriptor open in the child.
        unsafe {
            command.pre_exec(move || match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::environment(format!(
                "failed to start `{}`: {error}",
                interpreter.display()
            ))
        })?;
        let group = ReportedGroup::new(child.id() as libc::pid_t);
        let requests = child.stdin.take().context("Python has no standard input")?;
        let answers = child
            .stdout
            .take()
            .context("Python has no standard output")?;
        Ok(Self {
            child,
            requests,
            answers: BufReader::new(answers),
            memory,
            length: 0,
            log,
            _group: group,
        })
    }

    /// Makes the memory at least this long.
    fn reserve(&mut self, bytes: u64) -> anyhow::Result<()> {
        let bytes = bytes.max(1);
        if bytes > self.length {
            (self.memory.set_len(bytes)).context("failed to enlarge the shared memory")?;
            self.length = bytes;
        }
        Ok(())
    }

    /// Sends a request and waits for its answer. After an error the process must not be used any more.
    fn exchange(&mut self, request: &Value, deadline: Duration) -> Result<Answer, CallFailed> {
        let group = self.child.id() as libc::pid_t;
        let _bounded = progress::bounded_wait();
        let watch = ProcessDeadline::start(group, deadline);
        let mut line = String::new();
        let sent = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        let received = sent.and_then(|()| self.answers.read_line(&mut line));
        if watch.stop() {
            let seconds = deadline.as_secs_f64();
            return Err(CallFailed(format!("does not answer within {seconds} s")));
        }
        let is_whole = matches!(received, Ok(length) if length > 0);
        let answer = is_whole.then(|| serde_json::from_str(&line).ok()).flatten();
        answer.ok_or_else(|| CallFailed("ended without an answer".to_owned()))
    }

    /// The end of what the reference has printed, as lines that follow a message.
    fn log(&mut self) -> String {
        let mut read = || -> std::io::Result<String> {
            let length = self.log.seek(std::io::SeekFrom::End(0))?;
            (self.log).seek(std::io::SeekFrom::Start(
                length.saturating_sub(MAX_LOG_BYTES),
            ))?;
            let mut bytes = Vec::new();
            (&self.log).take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        match read() {
            Ok(text) if !text.is_empty() => format!("\n{text}"),
            _ => String::new(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill_group(self.child.id() as libc::pid_t);
        // Reaps it; nothing can be done about an error here.
        let _ = self.child.wait();
    }
}

/// A file in memory, without a name.
fn anonymous_memory() -> std::io::Result<File> {
    // SAFETY: the name is a valid string; the descriptor is checked and has no other owner.
    let descriptor = unsafe {
        let descriptor = libc::memfd_create(c"kforge".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    Ok(File::from(descriptor))
}
