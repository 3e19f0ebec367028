//! `task.yaml`: how a task is judged. What was typed, with its defaults; checks against the definition are in `files`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The contents of `task.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
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
    /// Ranges of variable axes for shapes that no prompt names.
    #[serde(default)]
    pub hidden: IndexMap<String, HiddenRange>,
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

/// Where an input's values come from. Exactly one of `normal`, `uniform` and `value` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    #[serde(flatten)]
    pub shape: Shape,
    /// Divide each row of the last axis by its norm, in double precision, before rounding.
    #[serde(default)]
    pub normalize: Option<Norm>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Mean 0 and this standard deviation.
    Normal(f64),
    /// In [low, high); for integers both ends included.
    Uniform([f64; 2]),
    /// The same everywhere.
    Value(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    L2,
}

/// Inclusive bounds of a variable axis.
pub type HiddenRange = [i64; 2];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionCheck {
    #[default]
    Checked,
    Unchecked,
}

/// How much judging to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub workloads: WorkloadChoice,
    /// How many shapes drawn from `hidden` are checked besides.
    #[serde(default)]
    pub hidden_shapes: u32,
    /// Rounds of correctness checks for each workload, each with fresh inputs.
    pub rounds: u32,
    /// Budget for timing, seconds of wall time for each workload.
    pub seconds: f64,
    /// Half width of the 95 % interval of the speedup at which timing stops, as a fraction.
    pub precision: f64,
}

/// `all`, or a list of workload ids.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkloadChoice {
    All,
    Named(Vec<String>),
}
