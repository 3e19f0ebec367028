//! The part of the admission test that runs nothing: do the cases of a judgement expose the mutants of a task?
//!
//! Cases are drawn as for candidates, with many seeds. Every confirmation must expose every mutant; every judgement must expose those
//! that `mutants` marks. Also finds inputs that no regime changes, so that a kernel may rely on their usual values.

use serde::Serialize;

use super::case::{Case, derive_seed};
use super::cases::{CaseRequest, select_cases};
use super::hidden::{Coverage, Effort};
use super::mutants::{Mutant, mutants};
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task};

/// How many judgements and confirmations are drawn.
pub(super) const DRAWS: usize = 20;
/// How many of the mutants that pass are named in the reasons.
const MAX_NAMED: usize = 3;

/// How well the cases of a judgement cover what is timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct CaseCoverage {
    /// Mutants: how many there are, and how many of them every confirmation exposes.
    pub(crate) mutants: usize,
    pub(crate) exposed_by_confirmations: usize,
    /// Judgements that were drawn, and how many of them expose the mutant that passes most often.
    pub(crate) judgements: usize,
    pub(crate) least_exposing: usize,
    /// The share of all pairs of a mutant and a judgement in which the judgement exposes the mutant.
    pub(crate) exposed_share: f64,
}

/// What the cases are drawn for.
pub(super) struct CoverageTest<'t> {
    pub(super) task: &'t Task,
    pub(super) profile: &'t Profile,
    /// The baseline.
    pub(super) kernel: &'t Kernel,
    pub(super) limits: &'t DeviceLimits,
    /// How much work the hidden cases of a judgement may cost.
    pub(super) effort: Effort,
    /// How many judgements and confirmations are drawn.
    pub(super) draws: usize,
    pub(super) seed: u64,
}

impl CoverageTest<'_> {
    /// Returns the coverage, and the reasons why it does not suffice.
    pub(super) fn run(&self) -> (CaseCoverage, Vec<String>) {
        let workloads = self.task.selected_workloads(self.profile);
        let timed: Vec<_> = workloads.into_iter().map(Case::of_workload).collect();
        let all = mutants(self.task, &timed);
        let judgements = self.exposures(&all, &timed, Coverage::Part);
        let confirmations = self.exposures(&all, &timed, Coverage::All);
        let exposures: usize = judgements.iter().sum();
        let coverage = CaseCoverage {
            mutants: all.len(),
            exposed_by_confirmations: confirmations
                .iter()
                .filter(|count| **count == self.draws)
                .count(),
            judgements: self.draws,
            least_exposing: judgements.iter().copied().min().unwrap_or(self.draws),
            exposed_share: exposures as f64 / (all.len() * self.draws).max(1) as f64,
        };
        let mut missed = Vec::new();
        for ((mutant, judged), confirmed) in all.iter().zip(judgements).zip(confirmations) {
            if confirmed < self.draws {
                missed.push((mutant, self.draws - confirmed, "confirmations"));
            } else if mutant.is_always_exposed && judged < self.draws {
                missed.push((mutant, self.draws - judged, "judgements"));
            }
        }
        let count = missed.len();
        let mut reasons: Vec<String> = missed
            .into_iter()
            .take(MAX_NAMED)
            .map(|(mutant, times, of)| {
                format!(
                    "{times} of {} {of} pass a kernel that is wrong {}",
                    self.draws,
                    mutant.describe()
                )
            })
            .collect();
        if let Some(last) = reasons.last_mut() {
            if count > MAX_NAMED {
                *last += &format!("; {} more such kernels pass", count - MAX_NAMED);
            }
            *last += "\nhint: give every variable axis a range under `hidden`, and set `hidden_shapes` of the profile to at least 1";
        }
        (coverage, reasons)
    }

    /// How many draws expose each mutant.
    fn exposures(&self, mutants: &[Mutant], timed: &[Case], coverage: Coverage) -> Vec<usize> {
        let shapes: Vec<_> = timed.iter().map(|case| &case.binding).collect();
        let mut exposed = vec![0; mutants.len()];
        for draw in 0..self.draws {
            let request = CaseRequest {
                task: self.task,
                profile: self.profile,
                kernel: self.kernel,
                limits: self.limits,
                effort: Effort {
                    coverage,
                    ..self.effort
                },
                seed: derive_seed(self.seed, "coverage", draw),
            };
            // A baseline that fits no case is reported when it is compiled.
            let cases = select_cases(&request).unwrap_or_default();
            for (mutant, count) in mutants.iter().zip(&mut exposed) {
                let is_exposed = cases.iter().any(|case| mutant.is_exposed_by(case, &shapes));
                *count += usize::from(is_exposed);
            }
        }
        exposed
    }
}

/// Inputs that no regime changes, each with the reason why a kernel could rely on its usual values.
pub(super) fn unchanged_inputs(task: &Task) -> Vec<String> {
    let regimes = task.regimes();
    let mut reasons = Vec::new();
    for (name, tensor) in &task.definition.inputs {
        let is_changed = regimes.values().any(|regime| regime.contains_key(name));
        if is_changed || tensor.optional || task.settings.fixed.contains(name) {
            continue;
        }
        if let Some(value) = task.usual_value(name) {
            let mut workloads = task.workloads.iter();
            let differs = workloads.any(|workload| {
                let case = Case::of_workload(workload);
                case.scalars(task)
                    .get(name)
                    .is_some_and(|other| *other != value)
            });
            if !differs {
                reasons.push(format!(
                    "`{name}` is always {value}, so a kernel may contain the value\nhint: add a regime with another value, such as `other_{name}: {{{name}: {{value: …}}}}`, or list it under `fixed`"
                ));
            }
            continue;
        }
        let given = task.settings.inputs.get(name);
        let is_normalized = given.is_some_and(|given| given.normalize.is_some());
        if tensor.dtype.is_float() && !is_normalized {
            reasons.push(format!(
                "no regime changes `{name}`, so a kernel may rely on its usual values\nhint: add a regime with another distribution of `{name}`, or leave out `regimes` for the default ones"
            ));
        }
    }
    reasons
}

/// The inputs that always have the same value with the usual distributions. A kernel that contains the value must fail the comparison.
pub(super) fn literal_inputs(task: &Task) -> Vec<&str> {
    let regimes = task.regimes();
    let inputs = task.definition.inputs.keys().map(String::as_str);
    inputs
        .filter(|name| task.usual_value(name).is_some())
        .filter(|name| regimes.values().any(|regime| regime.contains_key(*name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskFiles, embedded_names};

    const LIMITS: DeviceLimits = DeviceLimits {
        sm_count: 2,
        max_shared_bytes: 232_448,
    };

    /// How many judgements are drawn; `KFORGE_TEST_DRAWS` sets another number. More take longer in an unoptimised build.
    fn draws() -> usize {
        let draws = std::env::var("KFORGE_TEST_DRAWS").ok();
        draws.and_then(|draws| draws.parse().ok()).unwrap_or(2)
    }

    /// What judgements on the CPU expose of a task, as `kforge tasks check` finds it.
    fn covered(
        task: &Task,
        profile: &Profile,
        least_operations: f64,
    ) -> (CaseCoverage, Vec<String>) {
        let kernel = Kernel::parse(task.baseline().1, &task.definition).unwrap();
        let test = CoverageTest {
            task,
            profile,
            kernel: &kernel,
            limits: &LIMITS,
            effort: Effort {
                coverage: Coverage::Part,
                least_operations,
            },
            draws: draws(),
            seed: 1,
        };
        test.run()
    }

    #[test]
    fn cases_of_shipped_tasks_meet_every_kind_of_wrong_kernel() {
        for name in embedded_names() {
            let task = TaskFiles::find(name).unwrap().load().unwrap();
            assert_eq!(unchanged_inputs(&task), [""; 0], "{name}");
            for (profile, least) in [("quick", 2e8), ("full", 2e9)] {
                let settings = &task.settings.profiles[profile];
                let (coverage, reasons) = covered(&task, settings, least);
                assert_eq!(reasons, [""; 0], "{name}, {profile}");
                // Most wrong kernels fail in every judgement; each fails in every confirmation.
                let share = coverage.exposed_share;
                // A step over many tokens is too expensive to try every regime in every judgement.
                let is_cheap = profile == "quick" && name != "gdn_prefill";
                let wanted = if is_cheap { 0.99 } else { 0.5 };
                assert!(share > wanted, "{name}, {profile}: {coverage:?}");
            }
        }
    }

    #[test]
    fn task_without_hidden_shapes_or_regimes_lets_wrong_kernels_pass() {
        let mut task = TaskFiles::find("rmsnorm").unwrap().load().unwrap();
        let mut profile = task.settings.profiles["quick"].clone();
        profile.hidden_shapes = 0;
        let (_, reasons) = covered(&task, &profile, 2e8);
        let text = reasons.join("\n");
        assert!(text.contains(" pass a kernel that is wrong "), "{text}");
        assert!(text.contains(", except on timed shapes"), "{text}");
        assert!(
            text.contains("hint: give every variable axis a range"),
            "{text}"
        );

        task.settings
            .regimes
            .as_mut()
            .unwrap()
            .retain(|_, regime| !regime.contains_key("weight"));
        let reasons = unchanged_inputs(&task);
        assert!(
            reasons[0].starts_with("no regime changes `weight`"),
            "{reasons:?}"
        );
        // A scalar gets other values unless it is fixed.
        task.settings.regimes = Some(indexmap::IndexMap::new());
        assert_eq!(literal_inputs(&task), ["eps"]);
        task.settings.fixed = vec!["eps".to_owned()];
        assert_eq!(literal_inputs(&task), [""; 0]);
    }
}
