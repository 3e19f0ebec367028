//! What a candidate is tried on: the profile's workloads, and shapes that no prompt names, drawn after the candidate is fixed.

use indexmap::IndexMap;

use crate::base::{Digest, Stream};
use crate::kernel::{BindError, BindFault, Kernel, Machine, Scalars};
use crate::task::{Binding, Distribution, InputSource, Profile, Shape, Task, Workload};

/// How many random shapes are tried to meet a variant.
const DRAWS: usize = 256;

/// One shape with its scalars.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) binding: Binding,
    /// The workload whose inputs it takes.
    inputs: IndexMap<String, InputSource>,
    /// Checked, never timed.
    pub(super) hidden: bool,
}

impl Case {
    pub(super) fn visible(workload: &Workload) -> Self {
        Self {
            id: workload.id.clone(),
            binding: workload.binding.clone(),
            inputs: workload.inputs.clone(),
            hidden: false,
        }
    }

    /// The values of the scalar inputs.
    pub(super) fn scalars(&self, task: &Task) -> Scalars {
        let scalar = |name: &String| match self.inputs.get(name) {
            Some(InputSource::Scalar(value)) => Some(*value),
            _ => task
                .settings
                .inputs
                .get(name)
                .and_then(Distribution::constant),
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
pub(super) fn seed_of(seed: u64, purpose: &str, index: usize) -> u64 {
    Digest::of_parts([
        &seed.to_le_bytes()[..],
        purpose.as_bytes(),
        &(index as u64).to_le_bytes(),
    ])
    .low64()
}

/// The distribution of an input: the task's, else a standard normal, and 0 for integers.
pub(super) fn distribution_of(task: &Task, input: &str) -> Distribution {
    let is_float = task
        .definition
        .inputs
        .get(input)
        .is_some_and(|tensor| tensor.dtype.is_float());
    let default = || Distribution {
        shape: if is_float {
            Shape::Normal(1.0)
        } else {
            Shape::Value(0.0)
        },
        normalize: None,
    };
    task.settings
        .inputs
        .get(input)
        .cloned()
        .unwrap_or_else(default)
}

/// The profile's workloads, its hidden shapes, and whatever else it takes that every variant meets a shape.
pub(super) fn cases(
    task: &Task,
    profile: &Profile,
    kernel: &Kernel,
    machine: &Machine,
    seed: u64,
) -> Result<Vec<Case>, BindError> {
    let mut cases: Vec<_> = task
        .selected(profile)
        .into_iter()
        .map(Case::visible)
        .collect();
    let mut stream = Stream::new(seed, "hidden shapes", 0);
    let inputs = cases
        .first()
        .map(|case| case.inputs.clone())
        .unwrap_or_default();
    let mut draw = |index: usize| {
        let axes = task.settings.hidden.iter().map(|(axis, [low, high])| {
            let span = usize::try_from(high - low).unwrap_or(0) + 1;
            (axis.clone(), low + stream.below(span) as i64)
        });
        let binding = task.definition.bind(&axes.collect()).ok()?;
        Some(Case {
            id: format!("hidden-{index}"),
            binding,
            inputs: inputs.clone(),
            hidden: true,
        })
    };
    for index in 0..profile.hidden_shapes as usize {
        cases.extend(draw(index + 1));
    }
    for wanted in 0..kernel.header.variants.len() {
        let meets = |case: &Case| Ok(kernel.variant(&case.binding, machine)? == Some(wanted));
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
            for _ in 0..DRAWS {
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
                    ..Case::visible(workload)
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
