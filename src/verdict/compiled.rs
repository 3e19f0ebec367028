//! The result of `kforge eval --compile-only`: what the compiler reports, without a device to run the kernel.
//!
//! Plain data. It is not a verdict: a kernel that compiles has not passed, so its status is `null`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{DeviceIdentity, Evidence, Resources, Seconds, Status};

/// The feature that counts the functions whose `wgmma` products the assembler serializes.
pub(crate) const SERIALIZED_WGMMA: &str = "serialized_wgmma";
/// The feature that counts the instructions that make writes visible beyond the block.
pub(crate) const WIDE_FENCES: &str = "wide_fences";

/// The result of compiling one kernel. Fields have the same names as in a [`Verdict`](super::Verdict).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CompiledOnly {
    pub schema: u32,
    pub task: String,
    pub kernel: String,
    pub backend: String,
    /// Whether every variant compiled.
    pub compiled: bool,
    /// Why compilation failed; `None` if it succeeded, because nothing else is known then.
    pub status: Option<Status>,
    pub reason: Option<String>,
    /// Only the architecture is set: no device was used.
    pub device: DeviceIdentity,
    /// The compiler and its version, such as `NVRTC 13.0`.
    pub compiler: String,
    pub sandbox: String,
    /// One entry per set of tunable values: first the values without a variant, then each variant.
    pub variants: Vec<CompiledVariant>,
    pub evidence: Option<Evidence>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub seconds: Seconds,
}

/// The machine code of one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CompiledVariant {
    /// 0-based index of the variant; `None` for the values without a variant.
    pub variant: Option<usize>,
    #[serde(with = "crate::base::exact::integers")]
    pub tunables: IndexMap<String, i64>,
    pub resources: Resources,
    /// Numbers that describe the machine code, by name.
    pub features: IndexMap<String, f64>,
    /// The compiler's warnings: untrusted text, capped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}
