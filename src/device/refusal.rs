//! Why a kernel does not run on a device: data for a verdict, kept apart from failures of kforge and the machine.
//!
//! Plain data and reasons that both devices share. Never decides whether a kernel is refused.

use crate::verdict::{Evidence, Status};

/// Why a `<<<…>>>` in a source is rejected.
pub(super) const NESTED_LAUNCH: &str =
    "a kernel must not launch another: list the launches in the header";

/// Why managed memory is rejected.
pub(super) const MANAGED_MEMORY: &str =
    "`__managed__` memory is shared with the host: use the buffers of the header";

/// Why memory from the device's heap is rejected.
pub(super) const DEVICE_HEAP: &str =
    "memory from the device's heap is not accepted: use `scratch` in the header";

/// Why a kernel does not run on this device: `unsupported`, `compile_error`, `compile_timeout`, `launch_error`, a fault, ….
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: Status,
    /// For people: a lowercase fragment with values in backticks.
    pub reason: String,
    /// Boxed, because it is large and mostly empty.
    pub evidence: Box<Evidence>,
}

impl Refusal {
    pub(super) fn new(status: Status, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            evidence: Box::default(),
        }
    }

    /// A refusal that names a line of the kernel file, counted from 1.
    pub(super) fn at_line(status: Status, line: u32, reason: impl std::fmt::Display) -> Self {
        Self {
            status,
            reason: format!("line {line}: {reason}"),
            evidence: Box::new(Evidence {
                line: Some(line),
                ..Evidence::default()
            }),
        }
    }
}

/// Why a step of a device did not succeed. `?` turns a [`Refusal`] into the first variant, and any other error into the second.
#[derive(Debug)]
pub(super) enum DeviceError {
    /// The kernel's fault: data for its verdict.
    Refused(Refusal),
    /// The fault of kforge or of the machine.
    Broken(anyhow::Error),
}

impl DeviceError {
    /// The error for a caller that has already checked the kernel: there a refusal is a bug in kforge.
    pub(super) fn into_broken(self) -> anyhow::Error {
        match self {
            Self::Refused(refusal) => anyhow::anyhow!("{}", refusal.reason),
            Self::Broken(error) => error,
        }
    }
}

impl From<Refusal> for DeviceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E: Into<anyhow::Error>> From<E> for DeviceError {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}
