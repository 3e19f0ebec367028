//! Kernel files: a header that says how to launch the device code, and the device code itself.
//!
//! Parses and checks files, works out launch plans, and inspects syntax. Compiles and runs nothing; that is `device`.
//!
//! `header` has the types of a header, `header_yaml` and `header_reader` read and check it; `bind` turns a header and a workload into a launch plan
//! (`plan`); `point` handles tunable values; `syntax` is the syntax tree, and `lexer` the lexer for code that needs no tree.

use crate::task::Definition;

mod bind;
mod error;
mod header;
mod header_reader;
mod header_yaml;
pub(crate) mod lexer;
pub mod plan;
mod point;
pub mod syntax;
#[cfg(test)]
mod tests;

pub use bind::{BindError, BindFault, DeviceLimits, LaunchTarget, Scalars};
pub(crate) use error::HeaderError;
pub(crate) use header::{ArgumentHeader, Header, LaunchHeader};
pub use point::with_point;

/// A kernel file whose header fits its task.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// The whole file.
    pub text: String,
    pub header: Header,
}

impl Kernel {
    /// Reads a kernel file and checks its header against the definition.
    pub fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        Ok(Self {
            text: text.to_owned(),
            header: Header::parse(text, definition)?,
        })
    }
}
