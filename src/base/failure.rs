//! Failures that the user can fix: what is wrong, where, and what to do.
//!
//! The kind decides the exit code; only `cli` turns it into one. A fault of a candidate is never a `Failure`: it is a verdict.

use std::fmt;
use std::io::{self, ErrorKind};

/// The cause of a failure, which decides the exit code (`docs/exit-codes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Wrong usage, configuration or task: exit code 2.
    Usage,
    /// The machine lacks something (a compiler, a device, disk space): exit code 3.
    Environment,
    /// The oracle or the baseline failed: exit code 4.
    Reference,
}

/// An error for the user. Shown as the message, an empty line, and `hint: …`.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    /// What is wrong: a lowercase fragment without a final period that names the file, the line or the key.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Usage,
            message: message.into(),
            hint: None,
        }
    }

    /// A file that cannot be read, with what to do in this case. `what`: the file, as in "the baseline `x.cu`".
    pub(crate) fn unreadable(what: &str, error: &io::Error) -> Self {
        let (problem, hint) = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => (
                "there is no such file".to_owned(),
                "check the path; a relative path starts at the working folder",
            ),
            ErrorKind::IsADirectory => ("it is a folder".to_owned(), "name a file"),
            ErrorKind::PermissionDenied => (error.to_string(), "allow this user to read it"),
            ErrorKind::InvalidData => ("it is not UTF-8 text".to_owned(), "save it as UTF-8 text"),
            _ => (error.to_string(), "check the file and its disk"),
        };
        Self::usage(format!("failed to read {what}: {problem}")).hint(hint)
    }

    pub fn environment(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Environment,
            message: message.into(),
            hint: None,
        }
    }

    pub fn reference(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Reference,
            message: message.into(),
            hint: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
