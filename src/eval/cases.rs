//! Chooses the cases of a candidate: the profile's workloads, then hidden shapes and regimes. No prompt names the hidden ones.
//!
//! Pure: all randomness comes from the judgement's seed, which is drawn after the candidate is fixed. `hidden` draws the shapes and
//! assigns the regimes.

use indexmap::IndexMap;

use super::case::Case;
use super::hidden;
use crate::base::RandomStream;
use crate::kernel::{BindError, BindFault, DeviceLimits, Kernel};
use crate::task::{InputSource, Profile, Task};

/// Maximum number of random shapes to try until a variant applies to one.
const MAX_DRAWS: usize = 256;

/// Chooses the cases for a kernel: the profile's workloads, then hidden cases, then more cases for variants that none of these use.
///
/// Each variant applies to at least one workload. It also applies to at least one hidden shape, if the profile has hidden shapes
/// and `MAX_DRAWS` random shapes contain a match.
///
/// # Errors
/// If a variant applies to no workload of the task, or a condition of a variant cannot be evaluated.
pub(super) fn select_cases(
    task: &Task,
    profile: &Profile,
    kernel: &Kernel,
    limits: &DeviceLimits,
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
    if profile.hidden_shapes > 0 {
        let shapes: Vec<_> = hidden::draw_shapes(task, profile.hidden_shapes, &mut stream)
            .iter()
            .filter_map(|(name, axes)| hidden_case(task, format!("hidden-{name}"), axes, &inputs))
            .collect();
        cases = hidden::add_hidden_cases(cases, shapes, task, profile, &mut stream);
    }
    for variant in 0..kernel.header.variants.len() {
        let applies = |case: &Case| -> Result<bool, BindError> {
            Ok(kernel.variant_for(&case.binding, limits)? == Some(variant))
        };
        // Each variant is compiled to its own program, so each needs a check on a workload and on a hidden shape.
        if profile.hidden_shapes > 0 && !any_case(&cases, true, applies)? {
            for _ in 0..MAX_DRAWS {
                let axes = hidden::draw_any_shape(task, &mut stream);
                let id = format!("hidden-{}", cases.len() + 1);
                let Some(case) = hidden_case(task, id, &axes, &inputs) else {
                    break;
                };
                if applies(&case)? {
                    cases.push(case);
                    break;
                }
            }
        }
        if !any_case(&cases, false, applies)? {
            cases.push(other_workload(task, kernel, variant, applies)?);
        }
    }
    Ok(cases)
}

/// A hidden shape as a case; `None` if its axes do not fit the definition.
fn hidden_case(
    task: &Task,
    id: String,
    axes: &IndexMap<String, i64>,
    inputs: &IndexMap<String, InputSource>,
) -> Option<Case> {
    Some(Case {
        id,
        binding: task.definition.bind(axes).ok()?,
        inputs: inputs.clone(),
        hidden: true,
        regime: None,
    })
}

/// Whether `applies` is true for a case with this value of `hidden`.
fn any_case(
    cases: &[Case],
    hidden: bool,
    applies: impl Fn(&Case) -> Result<bool, BindError>,
) -> Result<bool, BindError> {
    for case in cases.iter().filter(|case| case.hidden == hidden) {
        if applies(case)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A workload outside the profile to which the variant applies. It is marked hidden, so it is checked but not timed.
fn other_workload(
    task: &Task,
    kernel: &Kernel,
    variant: usize,
    applies: impl Fn(&Case) -> Result<bool, BindError>,
) -> Result<Case, BindError> {
    for workload in &task.workloads {
        let case = Case {
            hidden: true,
            ..Case::of_workload(workload)
        };
        if applies(&case)? {
            return Ok(case);
        }
    }
    Err(BindError {
        fault: BindFault::Rejected,
        line: kernel.header.variants[variant].when.line,
        message: format!("variant {variant} applies to no workload of the task"),
    })
}
