//! A folder to run kforge in, and helpers that several tests use.

use std::path::Path;
use std::process::{Command, Output};

/// An empty folder to run kforge in.
pub(crate) struct Workspace {
    folder: tempfile::TempDir,
}

/// A finished command.
pub(crate) struct CommandResult {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A command without the variables that change what kforge does.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kforge"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("NO_COLOR", "1");
        for name in [
            "KFORGE_CONFIG",
            "KFORGE_OUTPUT",
            "KFORGE_BACKEND",
            "KFORGE_LOG",
            // No test sends a request that costs money.
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "GEMINI_API_KEY",
            "OPENROUTER_API_KEY",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().unwrap())
    }
}

impl CommandResult {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Asserts that the command failed with this code and that standard error contains all of these texts.
    pub(crate) fn assert_fails(&self, code: i32, texts: &[&str]) {
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "`{text}` is missing:\n{}",
                self.stderr
            );
        }
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A correct kernel for the task `softmax`.
pub(crate) const SOFTMAX_KERNEL: &str = "/* kforge
launch:
  - kernel: softmax
    grid: rows
    block: 1
    args: x, output, columns
*/
__global__ void softmax(const float* x, float* output, int columns) {
    const float* row = x + (size_t)blockIdx.x * columns;
    float top = row[0], sum = 0.0f;
    for (int i = 0; i < columns; ++i) top = fmaxf(top, row[i]);
    for (int i = 0; i < columns; ++i) sum += expf(row[i] - top);
    for (int i = 0; i < columns; ++i) output[(size_t)blockIdx.x * columns + i] = expf(row[i] - top) / sum;
}
";

/// The worker processes of a kforge process that still run.
pub(crate) fn worker_processes(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        status.is_ok_and(|text| {
            let has = |line: &str| text.lines().any(|found| found == line);
            has(&format!("PPid:\t{parent}")) && !text.contains("State:\tZ")
        })
    };
    // Compilers are children too.
    let is_worker = |process: &u32| {
        let arguments = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
        arguments.is_ok_and(|text| text.contains("__worker"))
    };
    numbers.filter(is_child).filter(is_worker).collect()
}
