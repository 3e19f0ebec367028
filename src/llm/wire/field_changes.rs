//! How the requests to a model differ from its settings, because its server rejects some fields.
//!
//! Plain data. `rejection` finds a change, `fields` applies it.

use std::collections::BTreeSet;
use std::fmt;

/// All changes to the requests of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::llm) struct FieldChanges {
    /// The paths of fields that are left out.
    pub(super) left_out: BTreeSet<String>,
    /// The name of the output cap, where it is not the usual one.
    pub(super) output_cap: Option<&'static str>,
}

/// A change of a request's fields after a server has rejected one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::llm) enum FieldChange {
    LeaveOut(String),
    RenameOutputCap {
        from: &'static str,
        to: &'static str,
    },
}

impl FieldChanges {
    /// Adds a change. Returns whether it is new.
    pub(in crate::llm) fn add(&mut self, change: &FieldChange) -> bool {
        match change {
            FieldChange::LeaveOut(path) => self.left_out.insert(path.clone()),
            FieldChange::RenameOutputCap { to, .. } => self.output_cap.replace(to) != Some(to),
        }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldChange::LeaveOut(path) => write!(
                formatter,
                "the server rejects `{path}`: requests are sent without it"
            ),
            FieldChange::RenameOutputCap { from, to } => write!(
                formatter,
                "the server rejects `{from}`: requests are sent with `{to}`"
            ),
        }
    }
}
