//! Distributions of input values, as `task.yaml` describes them.
//!
//! Plain data with its parser. `device::numerics` generates the values; this module draws no random numbers.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The distribution of an input's values: a base distribution, and modifiers that are applied in the order of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TypedDistribution", into = "TypedDistribution")]
pub struct Distribution {
    pub kind: DistributionKind,
    /// Number of distinct values, so that many elements are equal; 0: no limit.
    pub levels: u32,
    /// Added to every value.
    pub mean: f64,
    /// Share of elements that are replaced by 0.
    pub zeros: f64,
    /// In each row of the last axis all elements but one are 0.
    pub one_hot: bool,
    /// About one in four rows of the last axis is multiplied by this factor.
    pub large_rows: f64,
    /// Divides each row of the last axis by its norm, in double precision, before rounding.
    pub normalize: Option<Norm>,
}

/// The base distribution.
#[derive(Clone, Debug, PartialEq)]
pub enum DistributionKind {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in [low, high); for integers in [low, high].
    Uniform([f64; 2]),
    /// The same value for all elements.
    Value(f64),
    /// For integers: offsets of parts of random length that sum to a total. A row of n elements has n - 1 parts. Its first
    /// element is 0, each next one adds the length of a part, and the last is the total. `zeros` is the share of empty parts;
    /// `levels: 1` makes all parts equally long.
    Cumulative(CumulativeTotal),
}

/// The total of a cumulative distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CumulativeTotal {
    Size(u64),
    /// The size of an axis, known once the axes are bound.
    Axis(String),
}

/// The norm by which rows are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    L2,
}

impl Distribution {
    /// A base distribution without modifiers.
    pub const fn new(kind: DistributionKind) -> Self {
        Self {
            kind,
            levels: 0,
            mean: 0.0,
            zeros: 0.0,
            one_hot: false,
            large_rows: 1.0,
            normalize: None,
        }
    }

    /// The value, if all elements have the same one.
    pub(crate) fn constant_value(&self) -> Option<f64> {
        match self.kind {
            DistributionKind::Value(value) if self.is_unmodified() => Some(value),
            _ => None,
        }
    }

    /// Whether there is no modifier except `normalize`.
    pub(crate) fn is_unmodified(&self) -> bool {
        self.levels == 0
            && self.mean == 0.0
            && self.zeros == 0.0
            && !self.one_hot
            && self.large_rows == 1.0
    }

    /// Whether a modifier is used that integer inputs do not support.
    pub(crate) fn is_for_floats_only(&self) -> bool {
        self.mean != 0.0 || self.large_rows != 1.0
    }

    /// The distribution of `factor` times the value.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let shape = match self.kind {
            DistributionKind::Normal(deviation) => DistributionKind::Normal(deviation * factor),
            DistributionKind::Uniform([low, high]) => {
                DistributionKind::Uniform([low * factor, high * factor])
            }
            DistributionKind::Value(value) => DistributionKind::Value(value * factor),
            DistributionKind::Cumulative(ref total) => DistributionKind::Cumulative(total.clone()),
        };
        Self {
            kind: shape,
            mean: self.mean * factor,
            ..self.clone()
        }
    }

    /// Approximate standard deviation.
    pub(crate) fn spread(&self) -> f64 {
        match self.kind {
            DistributionKind::Normal(deviation) => deviation,
            DistributionKind::Uniform([low, high]) => (high - low) / 4.0,
            DistributionKind::Value(_) | DistributionKind::Cumulative(_) => 0.0,
        }
    }

    /// Replaces the name of an axis by its size.
    pub(crate) fn with_axis_sizes(&self, axes: &IndexMap<String, i64>) -> Self {
        let mut bound = self.clone();
        if let DistributionKind::Cumulative(CumulativeTotal::Axis(axis)) = &self.kind {
            let size = axes.get(axis).and_then(|size| u64::try_from(*size).ok());
            bound.kind = DistributionKind::Cumulative(CumulativeTotal::Size(size.unwrap_or(0)));
        }
        bound
    }
}

/// A distribution in YAML: exactly one of `normal`, `uniform`, `value` and `cumulative`, and the modifiers.
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
    cumulative: Option<CumulativeTotal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levels: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zeros: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    one_hot: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    large_rows: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalize: Option<Norm>,
}

impl TryFrom<TypedDistribution> for Distribution {
    type Error = String;

    fn try_from(typed: TypedDistribution) -> Result<Self, String> {
        let shape = match (typed.normal, typed.uniform, typed.value, typed.cumulative) {
            (Some(deviation), None, None, None) if deviation > 0.0 && deviation.is_finite() => {
                DistributionKind::Normal(deviation)
            }
            (None, Some([low, high]), None, None)
                if low < high && low.is_finite() && high.is_finite() =>
            {
                DistributionKind::Uniform([low, high])
            }
            (None, None, Some(value), None) if value.is_finite() => DistributionKind::Value(value),
            (None, None, None, Some(total)) => DistributionKind::Cumulative(total),
            _ => {
                return Err("expected exactly one of `normal: DEVIATION` (above 0), `uniform: [LOW, HIGH]` (low < high), `value: NUMBER` and `cumulative: AXIS`".to_owned());
            }
        };
        let plain = Self::new(shape);
        let distribution = Self {
            levels: typed.levels.unwrap_or(plain.levels),
            mean: typed.mean.unwrap_or(plain.mean),
            zeros: typed.zeros.unwrap_or(plain.zeros),
            one_hot: typed.one_hot.unwrap_or(plain.one_hot),
            large_rows: typed.large_rows.unwrap_or(plain.large_rows),
            normalize: typed.normalize,
            ..plain
        };
        if typed.levels == Some(0) {
            return Err("`levels`: expected at least 1, found 0".to_owned());
        }
        if !distribution.mean.is_finite() {
            return Err("`mean`: expected a finite number".to_owned());
        }
        if !(0.0..1.0).contains(&distribution.zeros) {
            return Err(format!(
                "`zeros`: expected a share of at least 0 and below 1, found {}",
                distribution.zeros
            ));
        }
        if !(distribution.large_rows > 0.0 && distribution.large_rows.is_finite()) {
            return Err(format!(
                "`large_rows`: expected a factor above 0, found {}",
                distribution.large_rows
            ));
        }
        Ok(distribution)
    }
}

impl From<Distribution> for TypedDistribution {
    fn from(distribution: Distribution) -> Self {
        let mut typed = Self {
            normal: None,
            uniform: None,
            value: None,
            cumulative: None,
            levels: (distribution.levels != 0).then_some(distribution.levels),
            mean: (distribution.mean != 0.0).then_some(distribution.mean),
            zeros: (distribution.zeros != 0.0).then_some(distribution.zeros),
            one_hot: distribution.one_hot.then_some(true),
            large_rows: (distribution.large_rows != 1.0).then_some(distribution.large_rows),
            normalize: distribution.normalize,
        };
        match distribution.kind {
            DistributionKind::Normal(deviation) => typed.normal = Some(deviation),
            DistributionKind::Uniform(bounds) => typed.uniform = Some(bounds),
            DistributionKind::Value(value) => typed.value = Some(value),
            DistributionKind::Cumulative(total) => typed.cumulative = Some(total),
        }
        typed
    }
}
