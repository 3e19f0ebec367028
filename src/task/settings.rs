//! `task.yaml`: how a task is judged.
//!
//! Data types. `settings_reader` reads them, `defaults` fills in what a task may leave out, and `check` validates them against the
//! definition and the workloads.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::Distribution;

/// The contents of `task.yaml`; `settings_reader` reads it.
#[derive(Clone, Debug)]
pub struct TaskSettings {
    pub schema: u32,
    pub definition: String,
    pub workloads: String,
    pub oracle: String,
    /// The first one is the default.
    pub baselines: IndexMap<String, Baseline>,
    /// File names of the starting kernels.
    pub start: Vec<String>,
    /// By output.
    pub tolerance: IndexMap<String, Tolerance>,
    /// By input. The default is a standard normal distribution, and 0 for integers.
    pub inputs: IndexMap<String, Distribution>,
    /// Input regimes, by name, which are hidden from prompts. `None`: the default regimes (see `regimes`).
    pub regimes: Option<IndexMap<String, Regime>>,
    /// Inputs that never change, so a kernel may rely on their usual values.
    pub fixed: Vec<String>,
    /// Ranges of the variable axes for hidden shapes.
    pub hidden: IndexMap<String, HiddenRange>,
    /// Variable axes that are computed from others, such as `len_cu_seqlens: num_seqs + 1`. They have no range under `hidden`.
    pub derived: IndexMap<String, String>,
    /// Compulsory memory traffic in bytes, as an expression of the axes. `None`: see `defaults`.
    pub bytes: Option<String>,
    /// Number of arithmetic operations, as an expression of the axes. `None`: 0.
    pub flops: Option<String>,
    /// Outputs that share the memory of an input: name of the output to name of the input.
    pub in_place: IndexMap<String, String>,
    /// Whether the tolerances are tight enough to detect a lower precision.
    pub precision: PrecisionCheck,
    /// `defaults` adds `quick` and `full` if they are missing.
    pub profiles: IndexMap<String, Profile>,
}

/// A kernel that speed is measured against.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Name of a kernel file.
    pub kernel: String,
}

/// The tolerance of one output. An element passes if |x - r| <= atol_rms * rms(r) + rtol * |r|, where r is the oracle's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol_rms: f64,
}

/// The distributions of a regime, by input. Inputs that it does not name keep their usual distribution.
pub(crate) type Regime = IndexMap<String, Distribution>;

/// Inclusive range of a variable axis.
pub(crate) type HiddenRange = [i64; 2];

/// Whether `kforge tasks check` tests that outputs of lower precision fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionCheck {
    #[default]
    Checked,
    Unchecked,
}

/// Timing never stops before this many timing blocks, whatever the profile says.
pub(crate) const MIN_BLOCKS: usize = 20;

/// How thoroughly kernels are checked and timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    #[serde(default)]
    pub workloads: WorkloadChoice,
    /// Number of random hidden shapes. With 0 there are no hidden shapes at all, and regimes are checked on the workloads only.
    #[serde(default)]
    pub hidden_shapes: u32,
    /// How many small hidden shapes each regime is checked on.
    #[serde(default)]
    pub regimes: RegimeChoice,
    /// Correctness checks per workload, each with fresh inputs.
    #[serde(default = "default_rounds")]
    pub rounds: u32,
    /// Time budget for timing, in seconds of wall time per workload.
    #[serde(default = "default_seconds")]
    pub seconds: f64,
    /// Timing stops when the half width of the speedup's 95 % confidence interval reaches this fraction.
    #[serde(default = "default_precision")]
    pub precision: f64,
    /// Minimum number of timing blocks (two pairs each) per workload; at least 20.
    #[serde(default = "min_blocks")]
    pub blocks: usize,
}

/// The default of `Profile::rounds`.
fn default_rounds() -> u32 {
    2
}

/// The default of `Profile::seconds`.
fn default_seconds() -> f64 {
    1.0
}

/// The default of `Profile::precision`.
fn default_precision() -> f64 {
    0.02
}

/// The default of `Profile::blocks`.
fn min_blocks() -> usize {
    MIN_BLOCKS
}

/// How many small hidden shapes each regime is checked on. The workloads are checked under regimes in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegimeChoice {
    /// Each of them under one regime.
    #[default]
    Once,
    /// Each regime on the smallest and on the largest of them.
    All,
}

/// `all`, or a list of workload ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum WorkloadChoice {
    #[default]
    All,
    Named(Vec<String>),
}

impl Serialize for WorkloadChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WorkloadChoice::All => serializer.serialize_str("all"),
            WorkloadChoice::Named(ids) => ids.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for WorkloadChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = WorkloadChoice;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`all` or a list of workload ids")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WorkloadChoice, E> {
                match text {
                    "all" => Ok(WorkloadChoice::All),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut sequence: A,
            ) -> Result<WorkloadChoice, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = sequence.next_element()? {
                    ids.push(id);
                }
                Ok(WorkloadChoice::Named(ids))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
