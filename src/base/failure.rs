//! Failures that a person can mend: what was wrong, where, and what to do.
//!
//! The kind decides the exit code; only `cli` turns it into one. A candidate's faults are never failures, they are verdicts.

use std::fmt;

/// Who has to act, and so how the process ends (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Bad usage, configuration or task: exit code 2.
    Usage,
    /// The machine lacks something (a compiler, a device, disk space): exit code 3.
    Environment,
    /// The oracle or the baseline failed: exit code 4.
    Reference,
}

/// An error with a remedy. Shown as `message`, then `hint: …` on a line of its own.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    /// A lowercase fragment without a final period; it names the file, line or key.
    pub message: String,
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
