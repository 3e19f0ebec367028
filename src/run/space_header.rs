//! What the file of a recorded space says about all of its points: the device, the kernel, its tunables, and how they were measured.
//!
//! Plain data. `space_file` compares it and writes it.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::Digest;
use crate::base::exact;

/// The version of the schema of Kernel Tuner's cache files.
const SCHEMA: &str = "1.1.0";

/// What a space was measured on, and how. Part of its file, as `kforge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceIdentity {
    pub(crate) task: String,
    pub(crate) task_digest: Digest,
    /// The family of the kernel.
    pub(crate) family: Digest,
    pub(crate) baseline: String,
    pub(crate) arch: String,
    pub(crate) cache: String,
    pub(crate) workloads: Vec<String>,
    pub(crate) samples: usize,
    #[serde(with = "exact::seed")]
    pub(crate) seed: u64,
    /// What was checked at each point.
    pub(crate) checked: String,
}

/// Everything in a file but its points.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpaceHeader {
    pub(crate) device: String,
    /// Name of the kernel file.
    pub(crate) kernel: String,
    /// Sizes of the first timed workload.
    pub(crate) problem_size: Vec<i64>,
    pub(crate) tunables: IndexMap<String, Vec<i64>>,
    pub(crate) identity: SpaceIdentity,
}

impl SpaceHeader {
    /// The members of a cache file before its points.
    pub(super) fn to_json(&self) -> Value {
        let keys: Vec<&String> = self.tunables.keys().collect();
        json!({
            "schema_version": SCHEMA,
            "device_name": self.device,
            "kernel_name": self.kernel,
            "problem_size": self.problem_size,
            "tune_params_keys": keys,
            "tune_params": self.tunables,
            "objective": "time",
            "kforge": self.identity,
        })
    }
}
