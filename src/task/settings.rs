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

/// Where an input's values come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TypedDistribution", into = "TypedDistribution")]
pub struct Distribution {
    pub shape: Shape,
    /// Divide each row of the last axis by its norm, in double precision, before rounding.
    pub normalize: Option<Norm>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Mean 0 and this standard deviation.
    Normal(f64),
    /// In [low, high); for integers both ends included.
    Uniform([f64; 2]),
    /// The same everywhere.
    Value(f64),
}

impl Distribution {
    /// The value, where it is the same everywhere.
    pub fn constant(&self) -> Option<f64> {
        match self.shape {
            Shape::Value(value) => Some(value),
            _ => None,
        }
    }
}

/// A distribution as it is typed: one of `normal`, `uniform` and `value`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedDistribution {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normal: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uniform: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalize: Option<Norm>,
}

impl TryFrom<TypedDistribution> for Distribution {
    type Error = String;

    fn try_from(typed: TypedDistribution) -> Result<Self, String> {
        let shape = match (typed.normal, typed.uniform, typed.value) {
            (Some(deviation), None, None) if deviation > 0.0 && deviation.is_finite() => {
                Shape::Normal(deviation)
            }
            (None, Some([low, high]), None)
                if low < high && low.is_finite() && high.is_finite() =>
            {
                Shape::Uniform([low, high])
            }
            (None, None, Some(value)) if value.is_finite() => Shape::Value(value),
            _ => {
                return Err("expected exactly one of `normal: DEVIATION` (above 0), `uniform: [LOW, HIGH]` (low < high) and `value: NUMBER`".to_owned());
            }
        };
        Ok(Self {
            shape,
            normalize: typed.normalize,
        })
    }
}

impl From<Distribution> for TypedDistribution {
    fn from(distribution: Distribution) -> Self {
        let mut typed = Self {
            normal: None,
            uniform: None,
            value: None,
            normalize: distribution.normalize,
        };
        match distribution.shape {
            Shape::Normal(deviation) => typed.normal = Some(deviation),
            Shape::Uniform(bounds) => typed.uniform = Some(bounds),
            Shape::Value(value) => typed.value = Some(value),
        }
        typed
    }
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
