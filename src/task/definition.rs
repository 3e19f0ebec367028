//! `definition.json`: the FlashInfer-Bench `Definition` (axes, inputs, outputs, reference).
//!
//! Parses and validates it, and binds its axes to sizes. Unknown fields are accepted, and the order of keys is kept. The Python
//! reference is never executed.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::DType;
use crate::base::text::did_you_mean;
use crate::base::{Failure, text};

/// A parsed and validated `definition.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Definition {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    pub op_type: String,
    pub axes: IndexMap<String, DefinitionAxis>,
    pub inputs: IndexMap<String, Tensor>,
    pub outputs: IndexMap<String, Tensor>,
    /// Python source with a top-level `run(…)`; never executed.
    pub reference: String,
}

/// An axis: a dimension of the tensors.
#[derive(Clone, Debug, Deserialize)]
pub struct DefinitionAxis {
    #[serde(rename = "type")]
    pub kind: AxisKind,
    /// The size; only for constant axes.
    #[serde(default)]
    pub value: Option<i64>,
    #[serde(default)]
    pub description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AxisKind {
    Const,
    Var,
}

/// An input or output tensor, or a scalar input.
#[derive(Clone, Debug, Deserialize)]
pub struct Tensor {
    /// Names of the axes, outermost first; `None` for a scalar, which is passed by value.
    pub shape: Option<Vec<String>>,
    pub dtype: DType,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub description: Option<String>,
}

/// Sizes of all axes: the constant ones, and the variable ones of one workload or shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub axes: IndexMap<String, i64>,
}

impl Definition {
    /// Parses and validates `definition.json`; `origin` names the file in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let definition: Self = serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
        definition.check(origin)?;
        Ok(definition)
    }

    fn check(&self, origin: &str) -> Result<(), Failure> {
        for (name, axis) in &self.axes {
            match (axis.kind, axis.value) {
                (AxisKind::Const, None) => {
                    return Err(Failure::usage(format!(
                        "{origin}: axes.{name}: a `const` axis needs a `value`"
                    )));
                }
                (AxisKind::Const, Some(value)) if value < 1 => {
                    return Err(Failure::usage(format!(
                        "{origin}: axes.{name}.value: expected at least 1, found {value}"
                    )));
                }
                _ => {}
            }
        }
        for (side, tensors) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            for (name, tensor) in tensors {
                for axis in tensor.shape.iter().flatten() {
                    if !self.axes.contains_key(axis) {
                        return Err(Failure::usage(format!(
                            "{origin}: {side}.{name}.shape: unknown axis `{axis}`"
                        ))
                        .hint(did_you_mean(axis, self.axes.keys().map(String::as_str))));
                    }
                }
                if side == "outputs" && tensor.shape.is_none() {
                    return Err(Failure::usage(format!(
                        "{origin}: outputs.{name}: an output needs a shape"
                    )));
                }
                if side == "outputs" && self.inputs.contains_key(name) {
                    return Err(Failure::usage(format!(
                        "{origin}: outputs.{name}: an input has the same name"
                    )));
                }
            }
        }
        if self.outputs.is_empty() {
            return Err(Failure::usage(format!(
                "{origin}: outputs: expected at least one"
            )));
        }
        Ok(())
    }

    /// Names and sizes of the constant axes, in order.
    pub fn constants(&self) -> impl Iterator<Item = (&str, i64)> {
        self.axes.iter().filter_map(|(name, axis)| {
            Some((
                name.as_str(),
                axis.value.filter(|_| axis.kind == AxisKind::Const)?,
            ))
        })
    }

    /// Names of the variable axes, in order.
    pub fn variables(&self) -> impl Iterator<Item = &str> + Clone {
        self.axes
            .iter()
            .filter(|(_, axis)| axis.kind == AxisKind::Var)
            .map(|(name, _)| name.as_str())
    }

    /// Sizes of all axes, given those of the variable ones.
    ///
    /// # Errors
    /// If an axis is unknown, has no size, is smaller than 1, or differs from its constant size.
    pub fn bind(&self, variables: &IndexMap<String, i64>) -> Result<Binding, Failure> {
        for name in variables.keys() {
            match self.axes.get(name).map(|axis| (axis.kind, axis.value)) {
                None => {
                    return Err(Failure::usage(format!("unknown axis `{name}`"))
                        .hint(did_you_mean(name, self.axes.keys().map(String::as_str))));
                }
                Some((AxisKind::Const, value)) if value != variables.get(name).copied() => {
                    return Err(Failure::usage(format!(
                        "axis `{name}` is constant: expected {}",
                        value.unwrap_or_default()
                    )));
                }
                Some(_) => {}
            }
        }
        let mut axes = IndexMap::new();
        for (name, axis) in &self.axes {
            let value = match axis.kind {
                AxisKind::Const => axis.value,
                AxisKind::Var => variables.get(name).copied(),
            };
            let Some(value) = value else {
                return Err(
                    Failure::usage(format!("axis `{name}` has no value")).hint(format!(
                        "the variable axes are {}",
                        text::quote_list(self.variables())
                    )),
                );
            };
            if value < 1 {
                return Err(Failure::usage(format!(
                    "axis `{name}`: expected at least 1, found {value}"
                )));
            }
            axes.insert(name.clone(), value);
        }
        Ok(Binding { axes })
    }
}

impl Binding {
    /// The sizes of a tensor's axes; empty for a scalar.
    ///
    /// # Errors
    /// If an axis has no size, or the size in bytes does not fit in 63 bits.
    pub fn shape(&self, tensor: &Tensor) -> Result<Vec<u64>, Failure> {
        let mut elements = tensor.dtype.bytes();
        let mut shape = Vec::new();
        for axis in tensor.shape.iter().flatten() {
            let size = self
                .axes
                .get(axis)
                .copied()
                .and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| Failure::usage(format!("axis `{axis}` has no size")))?;
            elements = elements
                .checked_mul(size)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .ok_or_else(|| {
                    Failure::usage(format!(
                        "a tensor of axes {} is too large",
                        text::quote_list(tensor.shape.iter().flatten())
                    ))
                })?;
            shape.push(size);
        }
        Ok(shape)
    }
}
