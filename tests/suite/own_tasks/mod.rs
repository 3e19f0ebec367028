//! Tasks that a user brings: drafts, definitions from elsewhere, and the messages for every usual mistake.

mod coverage;
mod datasets;
mod definitions;
mod drafts;
mod gpu_mode;
mod init;
mod kernel_tuner;
mod kernelbench;
mod mistakes;
mod torch_functions;

use crate::program::{CommandResult, Workspace};

/// A workspace with the task `mine`, as `kforge tasks new` writes it.
fn workspace_with_draft() -> Workspace {
    let workspace = Workspace::new();
    workspace.run(&["tasks", "new", "mine"]).assert_exit(0, &[]);
    workspace
}

impl Workspace {
    /// Replaces a text in a file of the task `mine`.
    #[track_caller]
    fn change(&self, file: &str, from: &str, to: &str) {
        let path = format!("tasks/mine/{file}");
        let text = self.read(&path);
        assert!(text.contains(from), "{file} has no `{from}`:\n{text}");
        self.write(&path, &text.replacen(from, to, 1));
    }

    /// `kforge tasks show mine`.
    fn show(&self) -> CommandResult {
        self.run(&["tasks", "show", "mine"])
    }

    /// `kforge tasks check mine` on few workloads.
    fn check(&self) -> CommandResult {
        self.run(&["tasks", "check", "mine", "--profile", "quick"])
    }
}
