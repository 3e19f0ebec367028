//! `definition.json`: the FlashInfer-Bench `Definition` (axes, inputs, outputs, reference).
//!
//! `definition_reader` parses and validates it; this module has its types and binds its axes to sizes. The order of keys is kept.
//! The Python reference is executed only if it is the oracle (`oracle: reference` in `task.yaml`).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::DType;
use crate::base::expression::Expression;
use crate::base::text::{did_you_mean, nearest_name};
use crate::base::{Failure, text};

/// A parsed and validated `definition.json`.
#[derive(Clone, Debug)]
pub struct Definition {
    pub name: String,
    pub description: Option<String>,
    pub op_type: String,
    pub axes: IndexMap<String, DefinitionAxis>,
    pub inputs: IndexMap<String, Tensor>,
    pub outputs: IndexMap<String, Tensor>,
    /// Python source with a top-level `run(…)`.
    pub reference: String,
}

/// An axis: a dimension of the tensors.
#[derive(Clone, Debug)]
pub struct DefinitionAxis {
    pub kind: AxisKind,
    /// The size; only for constant axes.
    pub value: Option<i64>,
    /// The size of an `expr` axis, as an expression of other axes.
    pub size: Option<Expression>,
    pub description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisKind {
    /// The same size in every workload. An `expr` axis of constant axes is constant too.
    Const,
    /// Each workload gives its size.
    Var,
    /// Computed from other axes.
    Expr,
}

/// An input or output tensor, or a scalar input.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Names of the axes, outermost first; `None` for a scalar input, which is passed by value. An output without axes has one
    /// element.
    pub shape: Option<Vec<String>>,
    pub dtype: DType,
    pub optional: bool,
    pub description: Option<String>,
}

/// Sizes of all axes: the constant ones, and the variable ones of one workload or shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub axes: IndexMap<String, i64>,
}

impl Definition {
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

    /// Names and expressions of the axes that are computed from variable ones, in order.
    pub(crate) fn computed_axes(&self) -> impl Iterator<Item = (&str, &Expression)> {
        let computed = |axis: &&DefinitionAxis| axis.kind == AxisKind::Expr;
        self.axes.iter().filter_map(move |(name, axis)| {
            let axis = Some(axis).filter(computed)?;
            Some((name.as_str(), axis.size.as_ref()?))
        })
    }

    /// Sizes of all axes, given those of the variable ones.
    ///
    /// # Errors
    /// If an axis is unknown, has no size, is smaller than 1, or differs from its constant or computed size.
    pub fn bind(&self, variables: &IndexMap<String, i64>) -> Result<Binding, Failure> {
        let mut wrong = Vec::new();
        let binding = self.bind_sizes(variables, &mut wrong);
        match wrong.into_iter().next() {
            None => Ok(binding),
            Some(failure) => Err(failure),
        }
    }

    /// Like [`Definition::bind`], and appends everything that is wrong. An axis without a valid size has no size in the result.
    pub(super) fn bind_sizes(
        &self,
        variables: &IndexMap<String, i64>,
        wrong: &mut Vec<Failure>,
    ) -> Binding {
        for (name, given) in variables {
            let axis = self.axes.get(name);
            match axis.map(|axis| (axis.kind, axis.value)) {
                None => wrong.push(
                    Failure::usage(format!("unknown axis `{name}`"))
                        .hint(did_you_mean(name, self.axes.keys().map(String::as_str))),
                ),
                Some((AxisKind::Const, value)) if value != Some(*given) => {
                    let value = value.unwrap_or_default();
                    wrong.push(Failure::usage(format!(
                        "axis `{name}` is constant: expected {value}, found {given}"
                    )));
                }
                Some(_) => {}
            }
        }
        let names = || self.axes.keys().map(String::as_str);
        let unknown = variables
            .keys()
            .filter(|name| !self.axes.contains_key(*name));
        // A misspelt axis is one problem, not two.
        let misspelt: Vec<&str> = unknown
            .filter_map(|name| nearest_name(name, names()))
            .collect();
        let mut sizes = self.given_sizes(variables, &misspelt, wrong);
        self.compute_sizes(variables, &mut sizes, wrong);
        let in_order = self.axes.keys();
        let axes = in_order.filter_map(|name| Some((name.clone(), sizes.get(name).copied()?)));
        Binding {
            axes: axes.collect(),
        }
    }

    /// The sizes of the constant and variable axes. `misspelt`: axes whose lack is reported already.
    fn given_sizes(
        &self,
        variables: &IndexMap<String, i64>,
        misspelt: &[&str],
        wrong: &mut Vec<Failure>,
    ) -> IndexMap<String, i64> {
        let mut sizes = IndexMap::new();
        for (name, axis) in &self.axes {
            let value = match axis.kind {
                AxisKind::Const => axis.value,
                AxisKind::Var => variables.get(name).copied(),
                AxisKind::Expr => continue,
            };
            match value {
                None if misspelt.contains(&name.as_str()) => {}
                None => wrong.push(Failure::usage(format!("axis `{name}` has no value")).hint(
                    format!(
                        "the variable axes are {}",
                        text::quote_list(self.variables())
                    ),
                )),
                Some(value) if value < 1 => wrong.push(Failure::usage(format!(
                    "axis `{name}`: expected at least 1, found {value}"
                ))),
                Some(value) => {
                    sizes.insert(name.clone(), value);
                }
            }
        }
        sizes
    }

    /// Adds the sizes of the computed axes. They may depend on each other in any order, but not in a circle.
    fn compute_sizes(
        &self,
        variables: &IndexMap<String, i64>,
        sizes: &mut IndexMap<String, i64>,
        wrong: &mut Vec<Failure>,
    ) {
        let mut left: Vec<_> = self.computed_axes().collect();
        loop {
            let before = left.len();
            left.retain(|(name, size)| {
                let is_ready = (size.names().iter()).all(|(axis, _)| sizes.contains_key(*axis));
                if is_ready {
                    match computed_size(name, size, variables, sizes) {
                        Ok(value) => {
                            sizes.insert((*name).to_owned(), value);
                        }
                        Err(failure) => wrong.push(failure),
                    }
                }
                !is_ready
            });
            // An axis that is left depends on an axis without a size, and that is reported already.
            if left.is_empty() || left.len() == before {
                return;
            }
        }
    }
}

/// The size of a computed axis. `variables`: what the workload gives, which may include this axis.
fn computed_size(
    name: &str,
    size: &Expression,
    variables: &IndexMap<String, i64>,
    sizes: &IndexMap<String, i64>,
) -> Result<i64, Failure> {
    let text = size.text();
    let value = size
        .evaluate(&|axis| sizes.get(axis).copied())
        .map_err(|error| Failure::usage(format!("axis `{name}` = `{text}`: {error}")))?;
    if value < 1 {
        return Err(Failure::usage(format!(
            "axis `{name}` = `{text}`: expected at least 1, found {value}"
        )));
    }
    match variables.get(name) {
        Some(given) if *given != value => Err(Failure::usage(format!(
            "axis `{name}` = `{text}` is {value}, found {given}"
        ))),
        _ => Ok(value),
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
