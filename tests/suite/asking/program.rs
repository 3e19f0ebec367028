//! The kforge program in an empty folder, with a config that judges quickly.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program, its working folder and its environment.
pub(crate) struct ProgramFixture {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// The result of a run of the program.
#[derive(Debug)]
pub(crate) struct ProgramResult {
    pub(crate) code: i32,
    pub(crate) err: String,
}

/// Variables that would bring the machine's own settings into a test.
const CLEARED_VARIABLES: [&str; 10] = [
    "KFORGE_CONFIG",
    "KFORGE_OUTPUT",
    "KFORGE_BACKEND",
    "KFORGE_LOG",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "OPENROUTER_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_BASE_URL",
];

impl ProgramFixture {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The directory of the only run.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.path().join("run")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes `run.yaml` with these models, as YAML. Kernels are judged quickly and confirmed once.
    pub(crate) fn config(&self, llm: &str) {
        self.write(
            "run.yaml",
            &format!(
                "tasks: [softmax]\nsteps: 10\nseed: 5\nbackend: cpu\nprofile: quick\noutput: run\n\
                 eval: {{seconds: 2, precision: 0.9}}\n\
                 search: {{confirm: 1, operators: {{mutate: 0.5, autotune: 0.5, recombine: 0}}}}\nllm:\n{llm}\n"
            ),
        );
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kforge"));
        CLEARED_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command
            .args(arguments)
            .current_dir(self.path())
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> ProgramResult {
        ProgramResult::of(&self.command(arguments).output().unwrap())
    }

    /// Starts the run of `run.yaml`.
    pub(crate) fn evolve(&self, more: &[&str]) -> ProgramResult {
        self.run(&[&["evolve", "--config", "run.yaml"], more].concat())
    }

    /// Resumes it.
    pub(crate) fn resume(&self, more: &[&str]) -> ProgramResult {
        self.run(&[&["resume", "run"], more].concat())
    }
}

impl ProgramResult {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            err: text(&output.stderr),
        }
    }

    /// Asserts the exit code, and that standard error contains all of these texts.
    pub(crate) fn assert_exit(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.err);
        for text in texts {
            assert!(self.err.contains(text), "no `{text}`:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

/// A model behind the server at `url`, as YAML.
pub(crate) fn openai_model(url: &str, more: &str) -> String {
    format!(
        "  models: [{{name: local, provider: openai, model: m, base_url: '{url}', max_output_tokens: 4000, price: {{input: 3, output: 15}}{more}}}]"
    )
}
