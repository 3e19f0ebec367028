//! Why edits were not applied, and what was corrected in those that were: plain data, written to `edits.json`.

use serde::{Deserialize, Serialize};

/// A correction that made an edit match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EditRepair {
    /// The number of the edit, counted from 1.
    pub edit: usize,
    #[serde(rename = "mend")]
    pub kind: RepairKind,
}

/// How the text of an edit differed from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// It occurs more than once, but only once as whole lines.
    WholeLines,
    LineEndings,
    /// White space at the end of lines.
    TrailingSpace,
    /// White space at the start of lines. The replacement is shifted by the same amount.
    Indentation,
    /// White space within lines, or empty lines.
    Spacing,
    /// Typographic quotes, dashes and spaces.
    Quotes,
    /// HTML entities such as `&lt;`.
    Entities,
    /// Line numbers before the lines, as kforge shows them when an edit does not match.
    LineNumbers,
}

/// Why an edit was not applied. Line numbers refer to the kernel that the model was shown, counted from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum EditFault {
    TooMany {
        given: usize,
        #[serde(rename = "most")]
        limit: usize,
    },
    /// `old_str` is empty.
    Empty { edit: usize },
    /// `old_str` occurs several times.
    Ambiguous {
        edit: usize,
        /// The first line of every match.
        lines: Vec<usize>,
        /// Whether there are more matches than `lines`.
        more: bool,
    },
    /// An earlier edit of the same reply has changed the text of `old_str`.
    Overtaken { edit: usize },
    /// `old_str` does not occur.
    Missed(UnmatchedEdit),
}

/// An edit whose `old_str` does not occur in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnmatchedEdit {
    pub edit: usize,
    /// The most similar part of the kernel; empty if nothing is similar.
    pub nearest: Vec<NumberedLine>,
    /// The first line of `old_str` that is not in the kernel; if all are, the first that is out of order.
    #[serde(rename = "wrote")]
    pub unmatched_line: String,
    /// Whether `unmatched_line` is nowhere in the kernel.
    #[serde(rename = "absent")]
    pub is_absent: bool,
    /// The line of the kernel in its place.
    #[serde(rename = "instead")]
    pub found_instead: Option<NumberedLine>,
    /// The line where `new_str` already is in the kernel, if it is.
    #[serde(rename = "present")]
    pub already_at: Option<usize>,
}

/// A line of the kernel with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedLine {
    pub line: usize,
    pub text: String,
}
