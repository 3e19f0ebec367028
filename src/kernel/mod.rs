//! Kernel files: a header that says how to launch the device code, and the code itself.
//!
//! Reads, checks, and works out launches; compiles and runs nothing.

use std::fmt;

use indexmap::IndexMap;

use crate::base::{Digest, Failure};
use crate::task::Definition;

mod bind;
mod header;
pub mod plan;
mod point;
pub mod syntax;
#[cfg(test)]
mod tests;

pub use bind::{BindError, BindFault, DeviceLimits, Scalars};
pub(crate) use header::{ArgumentHeader, Header, LaunchHeader};
pub use point::with_point;

/// A kernel file with a header that fits its task.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// The whole file.
    pub text: String,
    pub header: Header,
}

/// What is wrong with a header, and where. Data about a candidate; a failure only where a person typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderError {
    /// Line of the kernel file, counted from 1.
    pub line: u32,
    pub message: String,
    pub hint: Option<String>,
}

impl Kernel {
    /// Reads a kernel file and checks its header against the definition.
    pub fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        Ok(Self {
            text: text.to_owned(),
            header: Header::parse(text, definition)?,
        })
    }

    /// The values in force where no variant holds: the first of every tunable's list.
    pub fn point(&self) -> IndexMap<String, i64> {
        self.header
            .tunables
            .iter()
            .filter_map(|(name, values)| Some((name.clone(), *values.first()?)))
            .collect()
    }

    /// The declared space: every tunable with its values in ascending order, so that candidates of one family agree.
    pub fn space(&self) -> IndexMap<String, Vec<i64>> {
        let sorted = |values: &[i64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values
        };
        self.header
            .tunables
            .iter()
            .map(|(name, values)| (name.clone(), sorted(values)))
            .collect()
    }

    /// The same for all candidates that differ only in the values in force.
    pub fn family(&self) -> Digest {
        let lowest = self
            .space()
            .into_iter()
            .filter_map(|(name, values)| Some((name, *values.first()?)))
            .collect();
        Digest::of(with_point(self, &lowest).unwrap_or_else(|| self.text.clone()))
    }

    /// The identity of the candidate.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.text)
    }
}

impl HeaderError {
    #[must_use]
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As a failure of whoever typed the file.
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
