//! Chooses the cases of a candidate: the profile's workloads, then hidden cases. No prompt names the hidden ones.
//!
//! Pure: all randomness comes from the judgement's seed, which is drawn after the candidate is fixed. `hidden` chooses the hidden
//! cases.

use super::case::{Case, operations};
use super::hidden::{self, Coverage, Effort, HiddenPlan};
use crate::base::RandomStream;
use crate::kernel::{BindError, BindFault, DeviceLimits, Kernel};
use crate::task::{Profile, Task};

/// Maximum number of random shapes to try until a variant applies to one.
const MAX_DRAWS: usize = 256;

/// What cases are chosen for.
#[derive(Clone, Copy)]
pub(super) struct CaseRequest<'r> {
    pub(super) task: &'r Task,
    pub(super) profile: &'r Profile,
    pub(super) kernel: &'r Kernel,
    pub(super) limits: &'r DeviceLimits,
    pub(super) effort: Effort,
    pub(super) seed: u64,
}

impl CaseRequest<'_> {
    fn applies(&self, variant: usize, case: &Case) -> Result<bool, BindError> {
        let found = self.kernel.variant_for(&case.binding, self.limits)?;
        Ok(found == Some(variant))
    }

    /// Whether a variant applies to a case with this value of `hidden`.
    fn applies_to_any(
        &self,
        variant: usize,
        cases: &[Case],
        hidden: bool,
    ) -> Result<bool, BindError> {
        for case in cases.iter().filter(|case| case.hidden == hidden) {
            if self.applies(variant, case)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Chooses the cases for a kernel: the profile's workloads, then hidden cases, the cheapest first; among them more cases for
/// variants that no other case uses. Hidden cases of one shape are neighbours.
///
/// Each variant applies to at least one workload. It also applies to at least one hidden shape, if the profile has hidden shapes
/// and `MAX_DRAWS` random shapes contain a match.
///
/// # Errors
/// If a variant applies to no workload of the task, or a condition of a variant cannot be evaluated.
pub(super) fn select_cases(request: &CaseRequest<'_>) -> Result<Vec<Case>, BindError> {
    let CaseRequest { task, profile, .. } = *request;
    let mut stream = RandomStream::new(request.seed, "hidden shapes", 0);
    let timed: Vec<_> = task
        .selected_workloads(profile)
        .into_iter()
        .map(Case::of_workload)
        .collect();
    let plan = HiddenPlan {
        task,
        profile,
        timed: &timed,
        effort: request.effort,
    };
    if request.effort.coverage == Coverage::Timed {
        return Ok(timed);
    }
    let mut cases = timed.clone();
    cases.extend(hidden::hidden_cases(&plan, &mut stream));
    for variant in 0..request.kernel.header.variants.len() {
        // Each variant is compiled to its own program, so each needs a check on a workload and on a hidden shape.
        if profile.hidden_shapes > 0 && !request.applies_to_any(variant, &cases, true)? {
            for _ in 0..MAX_DRAWS {
                let id = format!("hidden-variant-{variant}");
                let Some(case) = hidden::random_case(&plan, id, &mut stream) else {
                    break;
                };
                if request.applies(variant, &case)? {
                    cases.push(case);
                    break;
                }
            }
        }
        if !request.applies_to_any(variant, &cases, false)? {
            cases.push(other_workload(request, variant)?);
        }
    }
    let hidden = cases.split_off(timed.len());
    cases.extend(in_order_of_cost(hidden, task));
    Ok(cases)
}

/// The cheapest first, because the first finding ends a judgement. Cases with the same launch plan are neighbours.
fn in_order_of_cost(mut hidden: Vec<Case>, task: &Task) -> Vec<Case> {
    let cost = |case: &Case| operations(task, &case.binding);
    hidden.sort_by(|one, other| cost(one).total_cmp(&cost(other)));
    let mut ordered: Vec<Case> = Vec::new();
    for case in hidden {
        // Equal shapes cost the same, so they are at the end.
        let same_cost = ordered
            .iter()
            .rev()
            .take_while(|known| cost(known) == cost(&case));
        let distance = same_cost
            .into_iter()
            .position(|known| known.has_launch_plan_of(&case, task));
        let place = ordered.len() - distance.unwrap_or(0);
        ordered.insert(place, case);
    }
    ordered
}

/// A workload outside the profile to which the variant applies. It is marked hidden, so it is checked but not timed.
fn other_workload(request: &CaseRequest<'_>, variant: usize) -> Result<Case, BindError> {
    for workload in &request.task.workloads {
        let case = Case {
            hidden: true,
            ..Case::of_workload(workload)
        };
        if request.applies(variant, &case)? {
            return Ok(case);
        }
    }
    Err(BindError {
        fault: BindFault::Rejected,
        line: request.kernel.header.variants[variant].when.line,
        message: format!("variant {variant} applies to no workload of the task"),
    })
}
