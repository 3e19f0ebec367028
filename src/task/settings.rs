//! `task.yaml`: how a task is judged. What was typed, with its defaults; checks against the definition are in `files`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Distribution, Regime};

/// The contents of `task.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSettings {
    pub schema: u32,
    pub definition: String,
    pub workloads: String,
    pub oracle: String,
    /// The first named is the default one.
    pub baselines: IndexMap<String, Baseline>,
    /// File names of the kernels that a search starts from.
    pub start: Vec<String>,
    /// Per output.
    pub tolerance: IndexMap<String, Tolerance>,
    /// Per input; what is not named is a standard normal, integers are 0.
    #[serde(default)]
    pub inputs: IndexMap<String, Distribution>,
    /// Other inputs, by name, that no prompt names; `None`: those that any task can have.
    #[serde(default)]
    pub regimes: Option<IndexMap<String, Regime>>,
    /// Ranges of variable axes for shapes that no prompt names.
    #[serde(default)]
    pub hidden: IndexMap<String, HiddenRange>,
    /// Variable axes that follow from the others, such as `len_cu_seqlens: num_seqs + 1`: they have no range of their own.
    #[serde(default)]
    pub derived: IndexMap<String, String>,
    pub bytes: String,
    pub flops: String,
    /// Output to the input whose memory it may share.
    #[serde(default)]
    pub in_place: IndexMap<String, String>,
    #[serde(default)]
    pub precision: PrecisionCheck,
    pub profiles: IndexMap<String, Profile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// A file in the task's folder of kernels.
    pub kernel: String,
}

/// An element passes if |x - r| <= atol_rms * rms(r) + rtol * |r|.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol_rms: f64,
}

/// Inclusive bounds of a variable axis.
pub(crate) type HiddenRange = [i64; 2];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionCheck {
    #[default]
    Checked,
    Unchecked,
}

/// Before so many blocks no interval is looked at, whatever a profile says.
pub(crate) const MIN_BLOCKS: usize = 20;

/// How much judging to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub workloads: WorkloadChoice,
    /// How many shapes drawn from `hidden` are checked besides.
    #[serde(default)]
    pub hidden_shapes: u32,
    /// On which of the hidden shapes each regime is checked.
    #[serde(default)]
    pub regimes: RegimeChoice,
    /// Rounds of correctness checks for each workload, each with fresh inputs.
    pub rounds: u32,
    /// Budget for timing, seconds of wall time for each workload.
    pub seconds: f64,
    /// Half width of the 95 % interval of the speedup at which timing stops, as a fraction.
    pub precision: f64,
    /// The fewest blocks of two pairs that are timed for each workload; at least 20.
    #[serde(default = "least_blocks")]
    pub blocks: usize,
}

/// The fewest blocks before an interval is looked at.
fn least_blocks() -> usize {
    MIN_BLOCKS
}

/// How widely regimes are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegimeChoice {
    /// Each once: on a hidden shape, or on the smallest workload's where there are more regimes than those.
    #[default]
    Once,
    /// Each on every hidden shape, and one that is drawn on each workload's shape.
    All,
}

/// `all`, or a list of workload ids.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkloadChoice {
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
