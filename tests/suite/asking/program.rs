//! The kforge program in an empty folder, with a config that judges quickly.

use std::path::PathBuf;
use std::process::Command;

use crate::program::{CommandResult, Workspace};

/// The program, its working folder and its environment.
pub(crate) struct ProgramFixture {
    workspace: Workspace,
    environment: Vec<(String, String)>,
}

impl std::ops::Deref for ProgramFixture {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}

impl ProgramFixture {
    pub(crate) fn new() -> Self {
        Self {
            workspace: Workspace::with_small_task(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The directory of the only run.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.path().join("run")
    }

    /// Writes `run.yaml` with these models, as YAML. Kernels are judged quickly. None is confirmed: that takes as long as several steps,
    /// and asks no model.
    pub(crate) fn config(&self, llm: &str) {
        self.write(
            "run.yaml",
            &format!(
                "tasks: [softmax]\nsteps: 10\nseed: 5\nbackend: cpu\nprofile: quick\noutput: run\n\
                 eval: {{seconds: 2, precision: 0.9}}\n\
                 search: {{operators: {{mutate: 0.5, autotune: 0.5, recombine: 0}}}}\nbudget: {{confirm_share: 0}}\nllm:\n{llm}\n"
            ),
        );
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.workspace.command(arguments);
        command.envs(self.environment.iter().cloned());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().unwrap())
    }

    /// Starts the run of `run.yaml`.
    pub(crate) fn evolve(&self, more: &[&str]) -> CommandResult {
        self.run(&[&["evolve", "--config", "run.yaml"], more].concat())
    }

    /// Resumes it.
    pub(crate) fn resume(&self, more: &[&str]) -> CommandResult {
        self.run(&[&["resume", "run"], more].concat())
    }
}

/// A model behind the server at `url`, as YAML.
pub(crate) fn openai_model(url: &str, more: &str) -> String {
    format!(
        "  models: [{{name: local, provider: openai, model: m, base_url: '{url}', max_output_tokens: 4000, price: {{input: 3, output: 15}}{more}}}]"
    )
}
