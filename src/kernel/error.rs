//! The error for a kernel file whose header is wrong.

use std::fmt;

use crate::base::Failure;

/// What is wrong with a header, and where. For a candidate it becomes a `rejected` finding (`eval::finding`); for a file that a user
/// named, a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderError {
    /// The line in the kernel file, counted from 1. Also 1 if the header has no line, for example because it is missing.
    pub line: u32,
    pub message: String,
    pub hint: Option<String>,
}

impl HeaderError {
    pub(super) fn new(line: u32, message: impl Into<String>) -> Self {
        // A name or a value in quotes may have line breaks.
        let message = message.into().replace(['\n', '\r'], " ");
        Self {
            line,
            message,
            hint: None,
        }
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The usage failure for a file that a user named. `file`: its path, as the user wrote it.
    pub(crate) fn into_failure(self, file: &str) -> Failure {
        Failure {
            hint: self.hint,
            ..Failure::usage(format!("{file}:{}: {}", self.line, self.message))
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, " ({hint})")?;
        }
        Ok(())
    }
}
