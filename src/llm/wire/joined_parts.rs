//! All parts of a prompt as one string.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::llm::PromptPart;

/// Serializes the parts as one string, without joining them in memory first.
pub(super) struct JoinedParts<'a>(pub &'a [PromptPart]);

impl fmt::Display for JoinedParts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|part| formatter.write_str(&part.text))
    }
}

impl Serialize for JoinedParts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [only] => serializer.serialize_str(&only.text),
            _ => serializer.collect_str(self),
        }
    }
}
