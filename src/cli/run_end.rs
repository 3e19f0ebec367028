//! The end of a run: its results, what is left to do, how to continue, and the exit code.
//!
//! Prints results to standard output and the rest to standard error. `report` makes the tables, and `driver` says how the run is
//! continued.

use std::path::Path;
use std::time::Duration;

use super::exit::Exit;
use super::output::{Format, print_run_results};
use super::run_args::{RunArgs, RunStart};
use crate::base::text::shell_quote;
use crate::base::{Failure, FailureKind, files, interrupt};
use crate::driver::{RunEnd, TaskEnd};
use crate::event::FailedReason;
use crate::report::{self, Continuation, ProgressView};
use crate::run::RunDirectory;

/// How long the results of a run wait for a reader that reads nothing.
pub(super) const RESULTS_WAIT: Duration = Duration::from_secs(5);

/// How long the results of an interrupted run wait for such a reader.
const INTERRUPTED_WAIT: Duration = Duration::from_millis(300);

/// What is known at the end of a run.
pub(super) struct RunReport<'a> {
    pub(super) directory: &'a Path,
    pub(super) ended: &'a RunEnd,
    pub(super) view: &'a ProgressView,
    pub(super) start: RunStart,
    pub(super) arguments: &'a RunArgs,
}

impl RunReport<'_> {
    /// Prints the results and what is left to do, and picks the exit code.
    ///
    /// # Errors
    /// A failed oracle or baseline; a resume that could do nothing because of a limit that it did not raise; a run whose models never replied; results
    /// that cannot be printed.
    pub(super) fn finish(&self) -> anyhow::Result<Exit> {
        let ended = self.ended;
        if ended.interrupted {
            if let Err(error) = self.print_results(INTERRUPTED_WAIT) {
                tracing::warn!("{error:#}");
            }
            interrupt::set_last_message(String::new());
            let resumed = self.arguments.sweep.as_deref().unwrap_or(self.directory);
            let message = interrupted_message(resumed);
            self.view.print_always(&message);
            return Ok(Exit::Interrupted);
        }
        let idle = self.idle_tasks();
        let refused = self.refused_resume(&idle);
        if refused.is_none() {
            for task in idle {
                self.view.print_always(&self.nothing_left_message(task));
            }
        }
        let printed = self.print_results(RESULTS_WAIT);
        // Standard error, so it is shown even where standard output is closed.
        if ended.waiting {
            self.view.print_always(&self.waiting_message());
        }
        printed?;
        if ended.waiting {
            return Ok(Exit::Waiting);
        }
        if let Some(failure) = ended.tasks.iter().find_map(|task| task.failure.as_ref()) {
            return Err(self.reference_failure(failure).into());
        }
        if let Some(failure) = refused.or_else(|| no_reply_failure(ended)) {
            return Err(failure.into());
        }
        Ok(if ended.tasks.iter().any(|task| task.best().is_none()) {
            Exit::NoResult
        } else {
            Exit::Done
        })
    }

    /// The command that continues the run.
    fn command(&self) -> String {
        self.ended.continuation().command(self.directory)
    }

    fn print_results(&self, wait: Duration) -> anyhow::Result<()> {
        let results = match self.arguments.format {
            Format::Human => {
                let tasks = self.ended.tasks.iter().map(|task| task.results.clone());
                let mut tables = report::results_tables(&tasks.collect::<Vec<_>>());
                tables += &left_out_text(self.ended);
                let is_over = !self.ended.interrupted && !self.ended.waiting;
                let has_failed = self.ended.tasks.iter().any(|task| task.failure.is_some());
                if is_over && !has_failed {
                    format!("{tables}\n  to continue:\n    {}\n", self.command())
                } else {
                    tables
                }
            }
            // A sweep prints the results of its runs itself.
            Format::Json if self.arguments.sweep.is_some() => return Ok(()),
            Format::Json => files::read(&RunDirectory::new(self.directory).summary())?,
            // Every event was printed when it happened.
            Format::Jsonl => String::new(),
        };
        print_run_results(&results, self.directory, wait)
    }

    /// The tasks for which a resume could do nothing.
    fn idle_tasks(&self) -> Vec<&TaskEnd> {
        if self.start == RunStart::New {
            return Vec::new();
        }
        let tasks = self.ended.tasks.iter();
        tasks.filter(|task| task.did_nothing).collect()
    }

    /// The failure of a resume with higher limits that did nothing for any task, because another limit applies.
    fn refused_resume(&self, idle: &[&TaskEnd]) -> Option<Failure> {
        let RunStart::Resume { raises_limit, .. } = self.start else {
            return None;
        };
        let wants_steps = |task: &&TaskEnd| {
            let steps = self.arguments.steps;
            steps.is_some_and(|steps| steps > task.progress.steps)
        };
        let wants_more = raises_limit || idle.iter().any(wants_steps);
        if idle.is_empty() || idle.len() < self.ended.tasks.len() || !wants_more {
            return None;
        }
        let reasons = idle
            .iter()
            .map(|task| format!("{}: {}", task.progress.task, reason_text(task)));
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        Some(
            Failure::usage(format!("nothing was done: {reasons}"))
                .hint(format!("`{}` continues", self.command())),
        )
    }

    /// The message for a task for which nothing was left to do.
    fn nothing_left_message(&self, task: &TaskEnd) -> String {
        let name = &task.progress.task;
        let mut text = format!(
            "{name}: nothing was left to do: {}; to continue:\n\n    {}\n",
            reason_text(task),
            task.progress.continuation.command(self.directory)
        );
        if self.arguments.counters {
            let best = shell_quote(&task.directory.join("best.cu"));
            text += &format!(
                "\n{name}: `--counters` reads counters while kernels are confirmed, and\nnone was. For the best kernel:\n\n    kforge eval {name} {best} --counters\n\n"
            );
        }
        text
    }

    /// The message of a run that waits for replies.
    fn waiting_message(&self) -> String {
        let tasks = self.ended.tasks.iter();
        let awaited = tasks.flat_map(TaskEnd::awaited_replies);
        let paths = awaited.map(|path| format!("    {}\n", path.display()));
        format!(
            "\nwaiting for replies. Each request is the `prompt.md` in the same folder. Write\nthe reply to another file first, then rename it:\n\n{}\nTo continue:\n\n    {}\n",
            paths.collect::<String>(),
            Continuation::default().command(self.directory)
        )
    }

    /// A failed oracle or baseline, with the command that continues once the task is repaired.
    fn reference_failure(&self, message: &str) -> Failure {
        let then = format!("`{}` continues", self.command());
        match message.split_once("\n\nhint: ") {
            Some((message, hint)) => {
                Failure::reference(message).hint(format!("{hint}; then {then}"))
            }
            None => Failure::reference(message).hint(format!("repair the task; then {then}")),
        }
    }
}

/// Which tasks the run did not come to, and why. Empty if it came to all.
fn left_out_text(ended: &RunEnd) -> String {
    let Some(left_out) = &ended.left_out else {
        return String::new();
    };
    format!(
        "\nstopped: {} of {} tasks have a kernel above the speedup of `search.target_tasks`\n  not searched: {}\n",
        left_out.fast,
        left_out.of,
        left_out.tasks.join(", ")
    )
}

/// Why the search of a task has stopped.
fn reason_text(task: &TaskEnd) -> String {
    let reason = task.stop_reason();
    reason.map_or_else(String::new, |reason| {
        report::stop_reason_text(&task.progress, reason)
    })
}

/// The failure of a run in which no model has replied and nothing else made a candidate. It has the exit code of a model that cannot be
/// used.
fn no_reply_failure(ended: &RunEnd) -> Option<Failure> {
    if ended.tasks.iter().any(|task| task.progress.judged > 0) {
        return None;
    }
    let mut unanswered = ended.tasks.iter().flat_map(|task| &task.results.unanswered);
    let missing = unanswered.find(|missing| missing.reason == FailedReason::NoReply)?;
    let failure = Failure::environment(format!("no model has replied: {}", missing.detail));
    Some(
        failure.hint(
            "check the model's settings and its server; each `ask-N` folder has what arrived",
        ),
    )
}

/// The message of an interrupted run.
pub(super) fn interrupted_message(directory: &Path) -> String {
    let command = Continuation::default().command(directory);
    format!("\ninterrupted; nothing is lost. To continue:\n\n    {command}\n")
}

/// An error that ended a run, with the command that continues it once the cause is gone. A usage error has not touched the run.
pub(super) fn with_resume_hint(mut error: anyhow::Error, directory: &Path) -> anyhow::Error {
    if !RunDirectory::new(directory).record().exists() {
        return error;
    }
    let command = Continuation::default().command(directory);
    let Some(failure) = error.downcast_mut::<Failure>() else {
        return error.context(format!("the run has stopped; `{command}` continues it"));
    };
    if failure.kind != FailureKind::Usage {
        failure.hint = Some(match failure.hint.take() {
            Some(hint) if hint.contains("`kforge resume`") => {
                hint.replace("`kforge resume`", &format!("`{command}`"))
            }
            Some(hint) if hint.contains("then resume") => {
                hint.replace("then resume", &format!("then `{command}`"))
            }
            Some(hint) => format!("{hint}; then `{command}` continues the run"),
            None => format!("`{command}` continues the run"),
        });
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_run_says_how_to_continue() {
        let root = tempfile::tempdir().unwrap();
        let text = |error: anyhow::Error| format!("{:#}", with_resume_hint(error, root.path()));
        assert_eq!(text(Failure::environment("full").into()), "full");
        std::fs::write(root.path().join("run.yaml"), "").unwrap();
        let command = Continuation::default().command(root.path());
        for error in [
            Failure::environment("full").into(),
            Failure::environment("full").hint("make space").into(),
            Failure::environment("full")
                .hint("make space, then resume: nothing is lost")
                .into(),
            Failure::environment("no key")
                .hint("set it, then continue with `kforge resume`")
                .into(),
            anyhow::anyhow!("broken"),
            anyhow::Error::new(Failure::environment("full")).context("while"),
        ] {
            let text = text(error);
            assert!(text.contains(&command), "{text}");
            assert!(!text.contains("`kforge resume`"), "{text}");
            assert_eq!(text.matches("resume").count(), 1, "{text}");
        }
        let locked = text(Failure::usage("another kforge works here").into());
        assert_eq!(locked, "another kforge works here");
    }
}
