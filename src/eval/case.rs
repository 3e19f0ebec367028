//! A case: one set of shapes and inputs that a candidate is checked on, and timed on unless it is hidden.
//!
//! Plain data. `cases` decides which cases a candidate gets.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::base::Digest;
use crate::kernel::Scalars;
use crate::task::{
    Binding, Distribution, DistributionKind, InputSource, Regime, StoredTensor, Task, Workload,
};

/// Operations that take as long as moving a byte.
const OPERATIONS_PER_BYTE: f64 = 2.0;

/// A timed workload, a hidden shape, or one of these with an input regime.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) binding: Binding,
    /// The inputs that the workload sets.
    pub(super) inputs: IndexMap<String, InputSource>,
    /// Checked but never timed.
    pub(super) hidden: bool,
    /// Whether the sizes were drawn; otherwise a workload gives them.
    pub(super) is_drawn: bool,
    /// Name and distributions of the input regime; `None`: the usual distributions.
    pub(super) regime: Option<(String, Regime)>,
}

impl Case {
    pub(super) fn of_workload(workload: &Workload) -> Self {
        Self {
            id: workload.id.clone(),
            binding: workload.binding.clone(),
            inputs: workload.inputs.clone(),
            hidden: false,
            is_drawn: false,
            regime: None,
        }
    }

    /// The same shape with an input regime. The result is hidden.
    pub(super) fn with_regime(&self, name: &str, regime: &Regime) -> Self {
        Self {
            id: format!("{}, {name}", self.id),
            hidden: true,
            regime: Some((name.to_owned(), regime.clone())),
            ..self.clone()
        }
    }

    /// Whether a kernel that is bound to the other case is bound to this one too: the same sizes and scalars.
    pub(super) fn has_launch_plan_of(&self, other: &Self, task: &Task) -> bool {
        self.binding == other.binding && self.scalars(task) == other.scalars(task)
    }

    /// Bytes of the inputs and outputs.
    pub(super) fn data_bytes(&self, task: &Task) -> u64 {
        let definition = &task.definition;
        let tensors = definition
            .inputs
            .values()
            .chain(definition.outputs.values());
        let bytes = tensors.map(|tensor| {
            let shape = self.binding.shape(tensor).unwrap_or_default();
            shape.iter().product::<u64>() * tensor.dtype.bytes()
        });
        bytes.sum()
    }

    pub(super) fn regime_name(&self) -> Option<String> {
        self.regime.as_ref().map(|(name, _)| name.clone())
    }

    /// The distribution of an input: the regime's, else the task's, else standard normal (0 for integers).
    pub(super) fn distribution(&self, task: &Task, input: &str) -> Distribution {
        let tensor = task.definition.inputs.get(input);
        let is_float = tensor.is_some_and(|tensor| tensor.dtype.is_float());
        let default = || {
            Distribution::new(if is_float {
                DistributionKind::Normal(1.0)
            } else {
                DistributionKind::Value(0.0)
            })
        };
        self.regime_distribution(input)
            .or_else(|| task.settings.inputs.get(input))
            .map_or_else(default, |distribution| {
                distribution.with_axis_sizes(&self.binding.axes, is_float)
            })
    }

    /// The file that an input's values are in. `None` if they are drawn, as under a regime that changes the input.
    pub(super) fn stored(&self, task: &Task, input: &str) -> Option<&Arc<StoredTensor>> {
        // The stored tensors of a workload belong together, so a case of other sizes has none of them.
        let fits = |name: &str, stored: &StoredTensor| {
            let tensor = task.definition.inputs.get(name);
            let shape = tensor.and_then(|tensor| self.binding.shape(tensor).ok());
            shape.is_some_and(|shape| shape == stored.shape)
        };
        let mut inputs = self.inputs.iter();
        let all_fit = inputs.all(|(name, source)| match source {
            InputSource::Stored(stored) => fits(name, stored),
            _ => true,
        });
        match self.inputs.get(input)? {
            InputSource::Stored(stored) if all_fit && !self.is_drawn && !self.changes(input) => {
                Some(stored)
            }
            _ => None,
        }
    }

    /// Whether every seed gives the same inputs: values in files, or one value that never changes.
    pub(super) fn repeats_inputs(&self, task: &Task) -> bool {
        let mut tensors = task.definition.inputs.iter();
        tensors.all(|(name, tensor)| {
            tensor.shape.is_none()
                || self.stored(task, name).is_some()
                || self.distribution(task, name).constant_value().is_some()
        })
    }

    /// Whether an input is in a file and every seed gives the same inputs. The values of such a workload belong to it; constants everywhere
    /// are a fault of the task.
    pub(super) fn is_stored(&self, task: &Task) -> bool {
        let mut names = task.definition.inputs.keys();
        names.any(|name| self.stored(task, name).is_some()) && self.repeats_inputs(task)
    }

    fn regime_distribution(&self, input: &str) -> Option<&Distribution> {
        self.regime.as_ref()?.1.get(input)
    }

    /// Whether the case's regime changes an input.
    pub(super) fn changes(&self, input: &str) -> bool {
        self.regime_distribution(input).is_some()
    }

    /// The values of the scalar inputs: the regime's, else the workload's, else the task's.
    pub(super) fn scalars(&self, task: &Task) -> Scalars {
        let value_of = |name: &String| {
            let own = self
                .regime_distribution(name)
                .and_then(Distribution::constant_value);
            own.or_else(|| match self.inputs.get(name) {
                Some(InputSource::Scalar(value)) => Some(*value),
                _ => task.settings.inputs.get(name)?.constant_value(),
            })
        };
        let inputs = task.definition.inputs.iter();
        inputs
            .filter(|(_, tensor)| tensor.shape.is_none())
            .filter_map(|(name, _)| Some((name.clone(), value_of(name)?)))
            .collect()
    }
}

/// What a launch costs, about: operations and memory traffic.
pub(super) fn operations(task: &Task, binding: &Binding) -> f64 {
    let value_of = |name: &str| binding.axes.get(name).copied();
    // A value that does not fit 64 bits is too large for any budget.
    let [flops, bytes] =
        [&task.flops, &task.bytes].map(|amount| match amount.evaluate(&value_of) {
            Ok(amount) => amount.max(0) as f64,
            Err(_) => f64::INFINITY,
        });
    flops + OPERATIONS_PER_BYTE * bytes
}

/// Like [`operations`], for a shape that kforge draws itself. The axes of a task that does not count its operations may all have to be
/// combined, so each of their combinations counts as one.
pub(super) fn drawn_operations(task: &Task, binding: &Binding) -> f64 {
    let known = operations(task, binding);
    if task.settings.flops.is_some() {
        return known;
    }
    let axes = binding.axes.iter();
    let free = axes.filter(|(axis, _)| !task.derived.contains_key(*axis));
    known + free.map(|(_, size)| *size as f64).product::<f64>()
}

/// Derives the seed for one purpose and index from the seed of a judgement.
pub(super) fn derive_seed(seed: u64, purpose: &str, index: usize) -> u64 {
    Digest::of_parts([
        &seed.to_le_bytes()[..],
        purpose.as_bytes(),
        &(index as u64).to_le_bytes(),
    ])
    .low64()
}
