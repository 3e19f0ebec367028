//! Why a kernel cannot be exported in a format. Every reason names the line of the kernel file, or the key of the task.

use crate::base::Failure;

/// A refusal without a line of the kernel file.
pub(super) fn refuse(reason: impl Into<String>) -> Failure {
    Failure::usage(reason)
}

/// A refusal because of a line of the kernel file.
pub(super) fn refuse_line(line: u32, reason: impl AsRef<str>) -> Failure {
    Failure::usage(format!("line {line}: {}", reason.as_ref()))
}
