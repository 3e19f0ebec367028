//! Runs the kforge program in a folder of its own, without the settings of the machine, and checks what it says.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// Variables that would bring the machine's own settings, or a key that costs money, into a test.
const CLEARED_VARIABLES: [&str; 12] = [
    "FIB_DATASET_PATH",
    "KFORGE_CONFIG",
    "KFORGE_OUTPUT",
    "KFORGE_BACKEND",
    "KFORGE_LOG",
    "KFORGE_REPORT_SECONDS",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "OPENROUTER_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_BASE_URL",
];

/// The repository, or `KFORGE_TEST_ROOT` on a machine without cargo.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> =
        LazyLock::new(|| path_of("KFORGE_TEST_ROOT", env!("CARGO_MANIFEST_DIR")));
    &ROOT
}

/// The program of this build, or `KFORGE_TEST_BINARY` on a machine without cargo.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> =
        LazyLock::new(|| path_of("KFORGE_TEST_BINARY", env!("CARGO_BIN_EXE_kforge")));
    &PROGRAM
}

fn path_of(variable: &str, otherwise: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| otherwise.into(), PathBuf::from)
}

/// Removes what would change the output of kforge from the environment of a command that runs it.
pub(crate) fn clear_environment(command: &mut Command) -> &mut Command {
    for name in CLEARED_VARIABLES {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1")
}

/// Lets signals end a command. A shell lets its background commands ignore SIGINT, and `nohup` lets them ignore SIGHUP. A command that a
/// test starts would ignore them too.
pub(crate) fn heed_signals(command: &mut Command) {
    // SAFETY: signal is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        })
    };
}

/// The program with arguments, in the repository's folder.
pub(crate) fn kforge<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(program());
    clear_environment(command.args(arguments).current_dir(root()));
    command
}

/// How many times as long work may take as on a machine that does nothing else: the number of processes that want a core, for each core.
pub(crate) fn slowdown() -> f64 {
    // The averages, and the processes that run at this moment, such as `19.42 19.39 15.46 21/412 1234`.
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    let numbers = text.trim().split([' ', '/']);
    let numbers: Vec<f64> = numbers.map(|number| number.parse().unwrap()).collect();
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    (numbers[0].max(numbers[3]) / cores).max(1.0)
}

/// The JSON of its standard output.
pub(crate) fn json<T: serde::de::DeserializeOwned>(output: &Output) -> T {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        panic!("{error}\n{}\n{}", texts[0], texts[1])
    })
}

/// A folder to run kforge in. Its runs have lock files of their own, so they do not wait while other tests time kernels.
pub(crate) struct Workspace {
    folder: tempfile::TempDir,
    locks: tempfile::TempDir,
}

impl Workspace {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            locks: tempfile::tempdir().unwrap(),
        }
    }

    /// A folder whose task `softmax` has one small workload, no hidden shapes and no regimes. A verdict takes a quarter of the
    /// time of the shipped task's. For tests of everything but the judge.
    pub(crate) fn with_small_task() -> Self {
        let workspace = Self::new();
        let shipped = root().join("tasks/softmax");
        for entry in std::fs::read_dir(shipped).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let mut text = std::fs::read_to_string(entry.path()).unwrap();
            if name == "task.yaml" {
                text = without_most_cases(&text);
            }
            workspace.write(&format!("tasks/softmax/{name}"), &text);
        }
        workspace
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the lock files of its runs.
    pub(crate) fn locks(&self) -> &Path {
        self.locks.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program with arguments, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kforge(arguments.iter().copied());
        command.current_dir(self.path());
        command.env("KFORGE_LOCK_DIR", self.locks());
        heed_signals(&mut command);
        // It ends with its test, even if that is killed: it would hold the timing lock.
        // SAFETY: prctl is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().unwrap())
    }
}

/// `task.yaml` of `softmax` with a quick profile of one case.
fn without_most_cases(text: &str) -> String {
    let (before, rest) = text.split_once("regimes:\n").unwrap();
    let (_, after) = rest.split_once("hidden:\n").unwrap();
    let (kept, profile) = after.split_once("  quick: {").unwrap();
    let (_, last) = profile.split_once("}\n").unwrap();
    let quick = "  quick: {workloads: [r64c257], hidden_shapes: 0, rounds: 1, seconds: 0.3, precision: 0.02}\n";
    format!("{before}regimes: {{}}\nhidden:\n{kept}{quick}{last}")
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct CommandResult {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
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

    /// Asserts the exit code, and that nothing panicked.
    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Asserts that a run has come to its end: with a result, or without a kernel that is confirmed faster than the baseline. For tests in
    /// which the machine or the kernels decide that.
    #[track_caller]
    pub(crate) fn comes_to_its_end(self) -> Self {
        self.assert_run_ended(&[]);
        self
    }

    /// As `comes_to_its_end`, and that standard error contains all of these texts.
    #[track_caller]
    pub(crate) fn assert_run_ended(&self, texts: &[&str]) {
        let expected = if self.code == 5 { 5 } else { 0 };
        self.assert_exit(expected, texts);
    }

    /// Asserts that its output contains all of these texts.
    #[track_caller]
    pub(crate) fn shows(self, texts: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        for text in texts {
            assert!(all.contains(text), "`{text}` is missing:\n{all}");
        }
        self
    }

    /// Asserts the exit code, and that standard error contains all of these texts.
    #[track_caller]
    pub(crate) fn assert_exit(&self, code: i32, texts: &[&str]) {
        for text in texts {
            let shown = self.stderr.contains(text);
            assert!(shown, "`{text}` is missing:\n{}", self.stderr);
        }
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

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

/// A path below `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
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
