//! Exit codes and the text at the end of each `--help`: examples, then the codes that the command can return.
//!
//! The only place that knows the numbers. `docs/exit-codes.md` shows the same lists; a test compares them.

use crate::base::{Failure, FailureKind};

/// How a command ends (`docs/exit-codes.md`). The value is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    Environment = 3,
    Reference = 4,
    NoResult = 5,
    Waiting = 6,
    Stopped = 7,
    Interrupted = crate::base::interrupt::EXIT_CODE as isize,
}

impl Exit {
    // The codes of other kforge processes.
    pub(super) const DONE: i32 = Self::Done as i32;
    pub(super) const ENVIRONMENT: i32 = Self::Environment as i32;
    pub(super) const NO_RESULT: i32 = Self::NoResult as i32;
    pub(super) const WAITING: i32 = Self::Waiting as i32;
    pub(super) const STOPPED: i32 = Self::Stopped as i32;
    pub(super) const INTERRUPTED: i32 = Self::Interrupted as i32;
}

/// An exit code, and its meaning for one command.
pub(super) type Meaning = (Exit, &'static str);

const UNEXPECTED: Meaning = (Exit::Unexpected, "unexpected failure");
const USAGE: Meaning = (
    Exit::Usage,
    "usage, configuration, task or kernel file is wrong",
);
const ENVIRONMENT: Meaning = (
    Exit::Environment,
    "environment: no compiler, GPU, NVRTC, key or disk space; or\n       --require-sandbox without a full sandbox",
);
const INTERRUPTED: Meaning = (Exit::Interrupted, "interrupted");
const REFERENCE: Meaning = (Exit::Reference, "the oracle or a baseline failed");

/// `kforge --help`: what the codes mean in general.
pub(super) const ANY_CODES: &[Meaning] = &[
    (Exit::Done, "done"),
    UNEXPECTED,
    USAGE,
    ENVIRONMENT,
    REFERENCE,
    (
        Exit::NoResult,
        "finished without a result: no kernel passed, or none is\n       confirmed faster than the baseline",
    ),
    (Exit::Waiting, "waiting for replies in a mailbox"),
    (Exit::Stopped, "`watch`: the run has stopped before its end"),
    INTERRUPTED,
];

/// `evolve`, `tune` and `resume`.
pub(super) const RUN_CODES: &[Meaning] = &[
    (Exit::Done, "done"),
    UNEXPECTED,
    (
        Exit::Usage,
        "usage, configuration, task or kernel file is wrong; or a resume\n       could do nothing, because of a limit that it did not raise",
    ),
    ENVIRONMENT,
    (Exit::Reference, "the oracle or a baseline of a task failed"),
    (
        Exit::NoResult,
        "finished, and a task has no kernel that is confirmed faster than\n       the baseline",
    ),
    (
        Exit::Waiting,
        "waiting for replies in a mailbox; `kforge resume DIR` continues",
    ),
    (
        Exit::Interrupted,
        "interrupted; `kforge resume DIR` continues",
    ),
];

pub(super) const EVAL_CODES: &[Meaning] = &[
    (Exit::Done, "every kernel passed"),
    UNEXPECTED,
    USAGE,
    ENVIRONMENT,
    REFERENCE,
    (Exit::NoResult, "a kernel did not pass"),
    (
        Exit::Interrupted,
        "interrupted; finished verdicts are printed",
    ),
];

pub(super) const BASELINES_CODES: &[Meaning] = &[
    (Exit::Done, "at least one baseline was measured"),
    UNEXPECTED,
    USAGE,
    (
        Exit::Environment,
        "the machine lacks something, such as PyTorch",
    ),
    REFERENCE,
    (Exit::NoResult, "no baseline in Python was measured"),
    (Exit::Interrupted, "interrupted; the table is unchanged"),
];

pub(super) const BENCH_CODES: &[Meaning] = &[
    (
        Exit::Done,
        "every problem was judged, or the output says why not",
    ),
    UNEXPECTED,
    USAGE,
    (
        Exit::Environment,
        "the machine lacks something, such as PyTorch",
    ),
    (Exit::Waiting, "a search waits for replies in a mailbox"),
    (Exit::Stopped, "a search stopped before its end"),
    (
        Exit::Interrupted,
        "interrupted; repeat the command to continue",
    ),
];

pub(super) const PROMOTE_CODES: &[Meaning] = &[
    (Exit::Done, "promoted, for every task"),
    UNEXPECTED,
    USAGE,
    ENVIRONMENT,
    REFERENCE,
    (
        Exit::NoResult,
        "a task was not promoted; the output says why",
    ),
    (Exit::Interrupted, "interrupted; the rest is unchanged"),
];

pub(super) const WATCH_CODES: &[Meaning] = &[
    (
        Exit::Done,
        "the run has ended, and every task has a kernel that is confirmed\n       faster than the baseline; with --once also: the run goes on",
    ),
    UNEXPECTED,
    (
        Exit::Usage,
        "the path is no directory of a run, or a newer kforge wrote it",
    ),
    (Exit::Reference, "the oracle or a baseline of a task failed"),
    (
        Exit::NoResult,
        "the run has ended, and a task has no such kernel",
    ),
    (
        Exit::Stopped,
        "the run was interrupted or killed before its end, or waits for\n       replies in a mailbox; with --once also: there is no run yet",
    ),
    (Exit::Interrupted, "interrupted; the run goes on"),
];

/// `report`.
pub(super) const REPORT_CODES: &[Meaning] = &[
    (Exit::Done, "written"),
    UNEXPECTED,
    (
        Exit::Usage,
        "a directory is no run directory, or a newer kforge wrote it",
    ),
    (Exit::Environment, "environment: full disk"),
    INTERRUPTED,
];

/// `export`.
pub(super) const EXPORT_CODES: &[Meaning] = &[
    (Exit::Done, "written"),
    UNEXPECTED,
    (
        Exit::Usage,
        "usage, task or kernel file is wrong; the form cannot express the\n       kernel; or a file exists",
    ),
    (Exit::Environment, "environment: full disk"),
    INTERRUPTED,
];

/// `compare`, whether a difference is shown or not.
pub(super) const COMPARE_CODES: &[Meaning] = &[
    (Exit::Done, "compared"),
    UNEXPECTED,
    (
        Exit::Usage,
        "a directory is no run directory, or the runs have no task in common",
    ),
    ENVIRONMENT,
    REFERENCE,
    INTERRUPTED,
];

/// `prompt`, `tasks list` and `tasks show`.
pub(super) const READ_CODES: &[Meaning] = &[
    (Exit::Done, "done"),
    UNEXPECTED,
    USAGE,
    (Exit::Environment, "environment: no GPU or NVRTC, full disk"),
    INTERRUPTED,
];

/// `schema` and `completions`.
pub(super) const PRINT_CODES: &[Meaning] = &[
    (Exit::Done, "printed"),
    (Exit::Usage, "usage is wrong"),
    (Exit::Environment, "environment: full disk"),
];

/// `tasks new` and `man`.
pub(super) const WRITE_CODES: &[Meaning] = &[
    (Exit::Done, "done"),
    UNEXPECTED,
    USAGE,
    (Exit::Environment, "environment: full disk"),
    INTERRUPTED,
];

/// `tasks` in general: what the codes of its commands mean.
pub(super) const TASKS_CODES: &[Meaning] = &[
    (Exit::Done, "done"),
    UNEXPECTED,
    USAGE,
    (
        Exit::Environment,
        "environment: no compiler, GPU or NVRTC, full disk",
    ),
    (Exit::Reference, "a task is refused"),
    INTERRUPTED,
];

pub(super) const CHECK_CODES: &[Meaning] = &[
    (Exit::Done, "every task is admitted"),
    UNEXPECTED,
    USAGE,
    (Exit::Environment, "environment: no compiler, full disk"),
    (Exit::Reference, "a task is refused"),
    INTERRUPTED,
];

pub(super) const DOCTOR_CODES: &[Meaning] = &[
    (Exit::Done, "kernels can be judged here"),
    UNEXPECTED,
    (Exit::Environment, "something is missing that judging needs"),
    INTERRUPTED,
];

/// The end of a command's `--help`. `note` may be empty; an example is a command and what it does.
pub(super) fn help(note: &str, examples: &[(&str, &str)], codes: &[Meaning]) -> String {
    let mut text = String::new();
    if !note.is_empty() {
        text += &format!("{note}\n\n");
    }
    text += "Examples:\n";
    for (command, purpose) in examples {
        text += &format!("  # {purpose}\n  {command}\n");
    }
    text += "\nExit codes:\n";
    for (exit, meaning) in codes {
        text += &format!("  {:<3}  {meaning}\n", *exit as u8);
    }
    text.trim_end().to_owned()
}

/// The exit code of a failed command.
pub(super) fn exit_for(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Failure>().map(|failure| failure.kind) {
        Some(FailureKind::Usage) => Exit::Usage,
        Some(FailureKind::Environment) => Exit::Environment,
        Some(FailureKind::Reference) => Exit::Reference,
        None if is_disk_full(error) => Exit::Environment,
        None => Exit::Unexpected,
    }
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_kind_selects_the_exit_code() {
        for (failure, exit) in [
            (Failure::usage("x"), Exit::Usage),
            (Failure::environment("x"), Exit::Environment),
            (Failure::reference("x"), Exit::Reference),
        ] {
            assert_eq!(
                exit_for(&anyhow::Error::new(failure).context("while")),
                exit
            );
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(exit_for(&full.into()), Exit::Environment);
    }
}
