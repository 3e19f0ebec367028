//! Kernel files: a header that says how to launch the device code, and the device code itself.
//!
//! Parses and checks files, works out launch plans, and inspects syntax. Compiles and runs nothing; that is `device`.
//!
//! `header` has the types of a header; `header_comment` finds it, `header_yaml` (with `yaml_values` and `header_lists`) reads its YAML,
//! `header_reader` (with `header_arguments`, `constants` and `tunables`) checks it; `bind` turns a header and a workload into a launch plan
//! (`plan`); `point` handles tunable values; `point_rules` says which are worth trying; `space` numbers their combinations; `note` marks files for people; `normal_form` says which files are the same; `syntax` is the syntax tree, and `lexer` the lexer for code that needs no tree.

use crate::task::Definition;

mod bind;
mod constants;
mod error;
mod header;
mod header_arguments;
mod header_comment;
mod header_lists;
pub(crate) mod header_ranges;
mod header_reader;
mod header_yaml;
pub(crate) mod lexer;
mod normal_form;
mod note;
pub mod plan;
mod point;
mod point_rules;
mod shingles;
mod space;
pub mod syntax;
#[cfg(test)]
mod tests;
mod tunables;
mod yaml_values;

pub use bind::{BindError, BindFault, DeviceLimits, LaunchTarget, Scalars};
pub(crate) use constants::Constant;
pub(crate) use error::HeaderError;
pub(crate) use header::{
    ArgumentHeader, FloatHeader, Header, LaunchHeader, LocatedExpression, ScratchHeader,
    TensorMapHeader,
};
pub(crate) use normal_form::normal_form;
pub(crate) use note::{with_note, without_note};
pub use point::with_point;
pub use point_rules::{KnownLimits, PointRules};
pub(crate) use space::SpacePoints;

/// A kernel file whose header fits its task.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// The whole file, with a header of plain spaces and quotes and without a byte order mark.
    pub text: String,
    pub header: Header,
}

impl Kernel {
    /// Reads a kernel file and checks its header against the definition.
    pub fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        let text = header_comment::clean(text);
        Ok(Self {
            header: Header::parse(&text, definition)?,
            text: text.into_owned(),
        })
    }
}
