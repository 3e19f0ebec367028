//! Distributions of input values, as `task.yaml` describes them.
//!
//! Plain data with its parser. `device::numerics` generates the values; this module draws no random numbers.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::expression::Expression;

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
    /// Uniform from a number up to an expression of axes, which is excluded, for integers too. So an index is always below the size
    /// of the axis that it selects from.
    UniformBelow(f64, Expression),
    /// The same value for all elements.
    Value(f64),
    /// For integers: offsets of parts of random length that sum to a total. A row of n elements has n - 1 parts. Its first
    /// element is 0, each next one adds the length of a part, and the last is the total. `zeros` is the share of empty parts;
    /// `levels: 1` makes all parts equally long.
    Cumulative(CumulativeTotal),
}

/// The total of a cumulative distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            ref unscaled => unscaled.clone(),
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
            DistributionKind::UniformBelow(..)
            | DistributionKind::Value(_)
            | DistributionKind::Cumulative(_) => 0.0,
        }
    }

    /// Replaces names of axes by their sizes. `is_float`: whether the elements are floating-point numbers.
    pub(crate) fn with_axis_sizes(&self, axes: &IndexMap<String, i64>, is_float: bool) -> Self {
        let mut bound = self.clone();
        match &self.kind {
            DistributionKind::Cumulative(CumulativeTotal::Axis(axis)) => {
                let size = axes.get(axis).and_then(|size| u64::try_from(*size).ok());
                bound.kind = DistributionKind::Cumulative(CumulativeTotal::Size(size.unwrap_or(0)));
            }
            DistributionKind::UniformBelow(low, high) => {
                let high = high.evaluate(&|axis| axes.get(axis).copied());
                // Integers include both ends.
                let high = high.map_or(*low, |high| high as f64 - f64::from(u8::from(!is_float)));
                bound.kind = if high > *low {
                    DistributionKind::Uniform([*low, high])
                } else {
                    DistributionKind::Value(*low)
                };
            }
            _ => {}
        }
        bound
    }
}

/// A number, or a text that names axes.
#[derive(Clone)]
enum Bound {
    Number(f64),
    Text(String),
}

impl Serialize for Bound {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Bound::Number(number) => serializer.serialize_f64(*number),
            Bound::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoundVisitor;
        impl serde::de::Visitor<'_> for BoundVisitor {
            type Value = Bound;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a number or the name of an axis")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Bound, E> {
                Ok(Bound::Number(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Bound, E> {
                Ok(Bound::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Bound, E> {
                Ok(Bound::Number(number as f64))
            }

            fn visit_str<E>(self, text: &str) -> Result<Bound, E> {
                Ok(Bound::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(BoundVisitor)
    }
}

/// A distribution in YAML: exactly one of `normal`, `uniform`, `value` and `cumulative`, and the modifiers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedDistribution {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normal: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uniform: Option<[Bound; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cumulative: Option<Bound>,
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
        let shape = typed_kind(&typed)?;
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

/// The base distribution: exactly one key.
fn typed_kind(typed: &TypedDistribution) -> Result<DistributionKind, String> {
    let given = [
        typed.normal.is_some(),
        typed.uniform.is_some(),
        typed.value.is_some(),
        typed.cumulative.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err("expected exactly one of `normal: DEVIATION` (above 0), `uniform: [LOW, HIGH]` (low < high), `value: NUMBER` and `cumulative: AXIS`".to_owned());
    }
    if let Some(deviation) = typed.normal {
        if !(deviation > 0.0 && deviation.is_finite()) {
            return Err(format!(
                "`normal`: expected a deviation above 0, found {deviation}"
            ));
        }
        return Ok(DistributionKind::Normal(deviation));
    }
    if let Some(value) = typed.value {
        if !value.is_finite() {
            return Err("`value`: expected a finite number".to_owned());
        }
        return Ok(DistributionKind::Value(value));
    }
    if let Some([low, high]) = &typed.uniform {
        return uniform_kind(low, high);
    }
    match &typed.cumulative {
        Some(Bound::Number(size)) if *size >= 0.0 && size.fract() == 0.0 && *size <= 1e15 => Ok(
            DistributionKind::Cumulative(CumulativeTotal::Size(*size as u64)),
        ),
        Some(Bound::Text(axis)) => Ok(DistributionKind::Cumulative(CumulativeTotal::Axis(
            axis.clone(),
        ))),
        _ => Err("`cumulative`: expected an axis or a whole number".to_owned()),
    }
}

fn uniform_kind(low: &Bound, high: &Bound) -> Result<DistributionKind, String> {
    let low = match low {
        Bound::Number(low) if low.is_finite() => *low,
        Bound::Number(_) => return Err("`uniform`: expected finite numbers".to_owned()),
        Bound::Text(text) => {
            return Err(format!("`uniform`: LOW must be a number, found `{text}`"));
        }
    };
    match high {
        Bound::Number(high) if low < *high && high.is_finite() => {
            Ok(DistributionKind::Uniform([low, *high]))
        }
        Bound::Number(high) => Err(format!(
            "`uniform`: expected [LOW, HIGH] with LOW < HIGH, found [{low}, {high}]"
        )),
        Bound::Text(text) => match Expression::parse(text) {
            Ok(high) => Ok(DistributionKind::UniformBelow(low, high)),
            Err(error) => Err(format!("`uniform`: `{text}`: {error}")),
        },
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
            DistributionKind::Uniform(bounds) => typed.uniform = Some(bounds.map(Bound::Number)),
            DistributionKind::UniformBelow(low, high) => {
                let high = Bound::Text(high.text().to_owned());
                typed.uniform = Some([Bound::Number(low), high]);
            }
            DistributionKind::Value(value) => typed.value = Some(value),
            DistributionKind::Cumulative(CumulativeTotal::Size(size)) => {
                typed.cumulative = Some(Bound::Number(size as f64));
            }
            DistributionKind::Cumulative(CumulativeTotal::Axis(axis)) => {
                typed.cumulative = Some(Bound::Text(axis));
            }
        }
        typed
    }
}
