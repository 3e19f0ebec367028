//! What a candidate is tried on: the profile's workloads, and shapes and regimes that no prompt names, drawn after the
//! candidate is fixed. The hidden shapes' own choice is in `hidden`.

use indexmap::IndexMap;

use super::hidden;
use crate::base::{Digest, RandomStream};
use crate::kernel::{BindError, BindFault, DeviceLimits, Kernel, Scalars};
use crate::task::{
    Binding, Distribution, DistributionKind, InputSource, Profile, Regime, Task, Workload,
};

/// How many random shapes are tried to meet a variant.
const MAX_DRAWS: usize = 256;

/// One shape with its scalars.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) binding: Binding,
    /// The workload whose inputs it takes.
    pub(super) inputs: IndexMap<String, InputSource>,
    /// Checked, never timed.
    pub(super) hidden: bool,
    /// Other inputs than those that are timed, under this name.
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

    /// The same shape with other inputs; checked, never timed.
    pub(super) fn with_regime(&self, name: &str, regime: &Regime) -> Self {
        Self {
            id: format!("{}, {name}", self.id),
            hidden: true,
            regime: Some((name.to_owned(), regime.clone())),
            ..self.clone()
        }
    }

    /// The name of its regime.
    pub(super) fn regime_name(&self) -> Option<String> {
        self.regime.as_ref().map(|(name, _)| name.clone())
    }

    /// The distribution of an input: the regime's, else the task's, else a standard normal, and 0 for integers.
    pub(super) fn distribution(&self, task: &Task, input: &str) -> Distribution {
        let tensor = task.definition.inputs.get(input);
        let usual = || match tensor.is_some_and(|tensor| tensor.dtype.is_float()) {
            true => Distribution::new(DistributionKind::Normal(1.0)),
            false => Distribution::new(DistributionKind::Value(0.0)),
        };
        let own = self.regime_distribution(input);
        own.or_else(|| task.settings.inputs.get(input))
            .map_or_else(usual, |given| given.with_axis_sizes(&self.binding.axes))
    }

    fn regime_distribution(&self, input: &str) -> Option<&Distribution> {
        self.regime.as_ref()?.1.get(input)
    }

    /// The values of the scalar inputs.
    pub(super) fn scalars(&self, task: &Task) -> Scalars {
        let scalar = |name: &String| {
            let own = self
                .regime_distribution(name)
                .and_then(Distribution::constant_value);
            own.or_else(|| match self.inputs.get(name) {
                Some(InputSource::Scalar(value)) => Some(*value),
                _ => task.settings.inputs.get(name)?.constant_value(),
            })
        };
        let scalars = task
            .definition
            .inputs
            .iter()
            .filter(|(_, tensor)| tensor.shape.is_none());
        scalars
            .filter_map(|(name, _)| Some((name.clone(), scalar(name)?)))
            .collect()
    }
}

/// A seed for one purpose within one judgement.
pub(super) fn derive_seed(seed: u64, purpose: &str, index: usize) -> u64 {
    Digest::of_parts([
        &seed.to_le_bytes()[..],
        purpose.as_bytes(),
        &(index as u64).to_le_bytes(),
    ])
    .low64()
}

/// The profile's workloads, its hidden shapes, and whatever else it takes that every variant meets a shape.
pub(super) fn select_cases(
    task: &Task,
    profile: &Profile,
    kernel: &Kernel,
    machine: &DeviceLimits,
    seed: u64,
) -> Result<Vec<Case>, BindError> {
    let mut cases: Vec<_> = task
        .selected_workloads(profile)
        .into_iter()
        .map(Case::of_workload)
        .collect();
    let mut stream = RandomStream::new(seed, "hidden shapes", 0);
    let inputs = cases
        .first()
        .map(|case| case.inputs.clone())
        .unwrap_or_default();
    let hidden = |id: String, axes: &IndexMap<String, i64>| {
        let binding = task.definition.bind(axes).ok()?;
        Some(Case {
            id,
            binding,
            inputs: inputs.clone(),
            hidden: true,
            regime: None,
        })
    };
    if profile.hidden_shapes > 0 {
        let shapes = hidden::draw_shapes(task, profile.hidden_shapes, &mut stream);
        let shapes: Vec<_> = shapes
            .iter()
            .filter_map(|(name, axes)| hidden(format!("hidden-{name}"), axes))
            .collect();
        cases = hidden::add_hidden_cases(cases, shapes, task, profile, &mut stream);
    }
    let mut draw = |index: usize| {
        let axes = hidden::draw_any_shape(task, &mut stream);
        hidden(format!("hidden-{index}"), &axes)
    };
    for wanted in 0..kernel.header.variants.len() {
        let meets = |case: &Case| Ok(kernel.variant_for(&case.binding, machine)? == Some(wanted));
        let met = |cases: &[Case], hidden: bool| -> Result<bool, BindError> {
            for case in cases.iter().filter(|case| case.hidden == hidden) {
                if meets(case)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // A variant is its own program: one that only a hidden shape, or only a visible one, ever met would be half checked.
        if profile.hidden_shapes > 0 && !met(&cases, true)? {
            for _ in 0..MAX_DRAWS {
                let Some(case) = draw(cases.len() + 1) else {
                    break;
                };
                if meets(&case)? {
                    cases.push(case);
                    break;
                }
            }
        }
        if !met(&cases, false)? {
            let mut other = None;
            for workload in &task.workloads {
                let case = Case {
                    hidden: true,
                    ..Case::of_workload(workload)
                };
                if other.is_none() && meets(&case)? {
                    other = Some(case);
                }
            }
            match other {
                Some(case) => cases.push(case),
                None => {
                    let line = kernel.header.variants[wanted].when.line;
                    return Err(BindError {
                        fault: BindFault::Rejected,
                        line,
                        message: format!("variant {wanted} is in force on no workload of the task"),
                    });
                }
            }
        }
    }
    Ok(cases)
}
