//! The cases of the admission test: every workload, with the timed inputs and under every regime.
//!
//! A CPU would need hours for the largest workloads of some tasks. So each task has a budget of operations: workloads that exceed
//! their part of it are tested at a smaller size, whose largest axes are halved until it fits. The budget for the timed inputs is
//! the larger one. A corrupted output of a small shape has fewer elements that can fail, which is the harder test; but a smaller
//! shape does not show errors that grow with the length of a sum, so the result names what was reduced, and `--full-size` reduces
//! nothing. Pure: sizes follow from the task alone.

use indexmap::IndexMap;
use serde::Serialize;

use super::case::{Case, operations};
use crate::task::{Binding, Profile, Task, Workload};

/// Operations of all workloads with the timed inputs. All shipped tasks that are limited by memory fit in at full size.
const TIMED_BUDGET: f64 = 4e9;
/// Operations of all workloads under all regimes.
const REGIME_BUDGET: f64 = 2e9;

/// A case of the test. All regimes of a workload share its id.
#[derive(Clone)]
pub(super) struct AdmissionCase {
    pub(super) workload: String,
    pub(super) case: Case,
}

/// A workload that is tested at a smaller size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ReducedWorkload {
    pub(crate) workload: String,
    /// The variable axes with the timed inputs; `None` at full size.
    pub(crate) timed: Option<IndexMap<String, i64>>,
    /// The variable axes under the regimes; `None` at full size.
    pub(crate) regimes: Option<IndexMap<String, i64>>,
}

/// Every workload of the profile with the timed inputs and under every regime, and the workloads that are made smaller.
pub(super) fn plan_cases(
    task: &Task,
    profile: &Profile,
    is_full_size: bool,
) -> (Vec<AdmissionCase>, Vec<ReducedWorkload>) {
    let regimes = task.regimes();
    let workloads = task.selected_workloads(profile);
    let costs: Vec<_> = (workloads.iter())
        .map(|workload| operations(task, &workload.binding))
        .collect();
    let limit = |budget: f64| {
        if is_full_size {
            f64::INFINITY
        } else {
            largest_limit(&costs, budget)
        }
    };
    let timed_limit = limit(TIMED_BUDGET);
    let regime_limit = limit(REGIME_BUDGET / regimes.len().max(1) as f64);
    let mut cases: Vec<AdmissionCase> = Vec::new();
    let mut reduced = Vec::new();
    for workload in workloads {
        let timed = reduce(task, workload, timed_limit);
        let smaller = reduce(task, workload, regime_limit);
        let usual = case_of(workload, timed.as_ref());
        let base = case_of(workload, smaller.as_ref());
        let under_regimes = (regimes.iter()).map(|(name, regime)| base.with_regime(name, regime));
        let all = std::iter::once(usual).chain(under_regimes);
        cases.extend(all.map(|case| AdmissionCase {
            workload: workload.id.clone(),
            case,
        }));
        if timed.is_some() || smaller.is_some() {
            let variables = |binding: Binding| variable_sizes(task, &binding);
            reduced.push(ReducedWorkload {
                workload: workload.id.clone(),
                timed: timed.map(variables),
                regimes: smaller.map(variables).filter(|_| !regimes.is_empty()),
            });
        }
    }
    remove_repeated(&mut cases);
    (cases, reduced)
}

/// Removes cases that differ from an earlier one in nothing but the name of the workload.
fn remove_repeated(cases: &mut Vec<AdmissionCase>) {
    let mut index = 0;
    while index < cases.len() {
        let case = &cases[index].case;
        let is_repeated = cases[..index]
            .iter()
            .any(|AdmissionCase { case: earlier, .. }| {
                earlier.binding == case.binding
                    && earlier.inputs == case.inputs
                    && earlier.regime_name() == case.regime_name()
            });
        if is_repeated {
            cases.remove(index);
        } else {
            index += 1;
        }
    }
}

fn case_of(workload: &Workload, reduced: Option<&Binding>) -> Case {
    let mut case = Case::of_workload(workload);
    if let Some(binding) = reduced {
        case.id = format!("{} at a smaller size", case.id);
        case.binding = binding.clone();
    }
    case
}

/// The largest limit with which the sum of all costs, each cut off at the limit, is within the budget.
fn largest_limit(costs: &[f64], budget: f64) -> f64 {
    let mut sorted = costs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut left = budget;
    for (index, cost) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - index) as f64;
        if *cost > share {
            return share;
        }
        left -= cost;
    }
    f64::INFINITY
}

/// A smaller shape of a workload, within a limit of operations. `None` if the workload itself is within the limit, or no smaller
/// shape fits the task.
fn reduce(task: &Task, workload: &Workload, limit: f64) -> Option<Binding> {
    let mut best = None;
    let mut binding = workload.binding.clone();
    while operations(task, &binding) > limit {
        let Some(smaller) = halve_largest(task, &binding) else {
            break;
        };
        binding = smaller.clone();
        best = Some(smaller);
    }
    best
}

/// The shape with its largest variable axes halved. Axes of the same size stay equal: one may have to be as large as the other.
fn halve_largest(task: &Task, binding: &Binding) -> Option<Binding> {
    let mut sizes = variable_sizes(task, binding);
    sizes.retain(|axis, _| !task.derived.contains_key(axis));
    let largest = sizes.values().copied().max().filter(|size| *size > 1)?;
    for size in sizes.values_mut().filter(|size| **size == largest) {
        *size = (*size + 1) / 2;
    }
    sizes.extend(task.derive_axes(&sizes));
    task.definition.bind(&sizes).ok()
}

fn variable_sizes(task: &Task, binding: &Binding) -> IndexMap<String, i64> {
    let variables = task.definition.variables();
    let sizes = variables.filter_map(|axis| Some((axis.to_owned(), *binding.axes.get(axis)?)));
    sizes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskFiles, embedded_names};

    fn plan(name: &str, is_full_size: bool) -> (Task, Vec<AdmissionCase>, Vec<ReducedWorkload>) {
        let task = TaskFiles::find(name).unwrap().load().unwrap();
        let profile = task.settings.profiles["full"].clone();
        let (cases, reduced) = plan_cases(&task, &profile, is_full_size);
        (task, cases, reduced)
    }

    #[test]
    fn every_shipped_task_is_within_the_budget_and_keeps_its_regimes() {
        for name in embedded_names() {
            let (task, cases, _) = plan(name, false);
            let cost = |is_timed: bool| -> f64 {
                let cases = cases.iter().map(|test| &test.case);
                let chosen = cases.filter(|case| case.regime.is_none() == is_timed);
                chosen.map(|case| operations(&task, &case.binding)).sum()
            };
            assert!(cost(true) <= TIMED_BUDGET, "{name}: {:e}", cost(true));
            assert!(cost(false) <= REGIME_BUDGET, "{name}: {:e}", cost(false));
            for regime in task.regimes().keys() {
                let of_regime = cases
                    .iter()
                    .filter(|test| test.case.regime_name().as_ref() == Some(regime));
                assert!(of_regime.count() >= 3, "{name}: {regime}");
            }
        }
    }

    #[test]
    fn large_workloads_are_made_smaller_unless_full_size_is_asked_for() {
        let (_, cases, reduced) = plan("gelu", false);
        let names: Vec<_> = reduced.iter().map(|one| one.workload.as_str()).collect();
        assert!(
            names.contains(&"r8192c8192") && !names.contains(&"r16c1024"),
            "{names:?}"
        );
        // With the timed inputs, its size is what is timed.
        assert!(reduced.iter().all(|one| one.timed.is_none()), "{reduced:?}");
        let timed: Vec<_> = (cases.iter())
            .filter(|test| test.case.regime.is_none())
            .map(|test| test.case.binding.axes["rows"])
            .collect();
        assert_eq!(timed, [16, 127, 256, 1024, 4096, 8192]);
        let (task, cases, reduced) = plan("gelu", true);
        assert!(reduced.is_empty());
        assert_eq!(
            cases.len(),
            task.workloads.len() * (task.regimes().len() + 1)
        );
    }

    #[test]
    fn derived_axes_stay_consistent_when_others_shrink() {
        let (task, cases, _) = plan("gdn_prefill", false);
        for AdmissionCase { case, .. } in &cases {
            let sizes = variable_sizes(&task, &case.binding);
            assert_eq!(sizes["len_cu_seqlens"], sizes["num_seqs"] + 1);
        }
        assert!(
            cases
                .iter()
                .any(|test| test.case.binding.axes["total_seq_len"] == 6)
        );
    }

    #[test]
    fn the_limit_uses_the_whole_budget() {
        assert_eq!(largest_limit(&[1.0, 2.0, 3.0], 6.0), f64::INFINITY);
        assert_eq!(largest_limit(&[1.0, 20.0, 30.0], 11.0), 5.0);
        assert_eq!(largest_limit(&[10.0, 20.0], 10.0), 5.0);
        assert_eq!(largest_limit(&[], 10.0), f64::INFINITY);
    }
}
