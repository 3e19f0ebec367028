//! What a compiler alone can say of a kernel, on a machine that cannot run it. It is no verdict: a kernel that compiles has not
//! passed, so its status is `null`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{DeviceIdentity, Evidence, Resources, Seconds, Status};

/// The judgement of one kernel up to compilation. Fields that a verdict has too are called as there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CompiledOnly {
    pub schema: u32,
    pub task: String,
    pub kernel: String,
    pub backend: String,
    /// Whether every variant compiled.
    pub compiled: bool,
    /// Why it did not; `None` where it did, because nothing is known of it beyond that.
    pub status: Option<Status>,
    pub reason: Option<String>,
    /// The architecture that it was compiled for; no device has a part in it.
    pub device: DeviceIdentity,
    /// Such as `NVRTC 13.0`.
    pub compiler: String,
    pub sandbox: String,
    /// Each set of values that the header can put in force, those of no variant first.
    pub variants: Vec<CompiledVariant>,
    pub evidence: Option<Evidence>,
    pub seconds: Seconds,
}

/// One variant's machine code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CompiledVariant {
    /// Index of the variant, counted from 0; `None` for the values where none holds.
    pub variant: Option<usize>,
    pub tunables: IndexMap<String, i64>,
    pub resources: Resources,
    /// What the compiler's output says of the code, by name.
    pub features: IndexMap<String, f64>,
    /// What it warned of: untrusted text, capped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}
