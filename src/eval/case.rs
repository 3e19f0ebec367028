//! A case: one set of shapes and inputs that a candidate is checked on, and timed on unless it is hidden.
//!
//! Plain data. `cases` decides which cases a candidate gets.

use indexmap::IndexMap;

use crate::base::Digest;
use crate::kernel::Scalars;
use crate::task::{Binding, Distribution, DistributionKind, InputSource, Regime, Task, Workload};

/// A timed workload, a hidden shape, or one of these with an input regime.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) binding: Binding,
    /// The inputs that the workload sets.
    pub(super) inputs: IndexMap<String, InputSource>,
    /// Checked but never timed.
    pub(super) hidden: bool,
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

    fn regime_distribution(&self, input: &str) -> Option<&Distribution> {
        self.regime.as_ref()?.1.get(input)
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

/// Derives the seed for one purpose and index from the seed of a judgement.
pub(super) fn derive_seed(seed: u64, purpose: &str, index: usize) -> u64 {
    Digest::of_parts([
        &seed.to_le_bytes()[..],
        purpose.as_bytes(),
        &(index as u64).to_le_bytes(),
    ])
    .low64()
}
