//! Checks a candidate on one case: every output element against the oracle, twice per round, and guard zones, inputs and poison.
//!
//! Times nothing. Expected values are computed only after the candidate has finished, so that there is nothing it could copy.

use std::time::Duration;

use super::case::{Case, derive_seed};
use super::compiled_kernel::CompiledKernel;
use super::context::JudgeContext;
use super::finding::{Finding, JudgeError, JudgeResult};
use super::kernel_set::{KernelSet, Side};
use crate::base::RandomStream;
use crate::device::{Edge, ExpectedValues, LaunchOutcome, OutputComparison, Poison};
use crate::verdict::{Resources, Status, WorkloadVerdict};

/// The errors of a correct candidate's outputs against the oracle's, over all rounds and outputs.
#[derive(Clone, Debug, Default)]
pub(super) struct Accuracy {
    max_abs_error: f64,
    max_rel_error: f64,
    mean_abs_error: f64,
    /// The largest |x - r| / bound.
    worst_ratio: f64,
    /// Resource use as reported by the device's driver.
    pub(super) resources: Option<Resources>,
}

impl Accuracy {
    fn add(&mut self, comparison: &OutputComparison) {
        self.max_abs_error = self.max_abs_error.max(comparison.max_abs_error);
        self.max_rel_error = self.max_rel_error.max(comparison.max_rel_error);
        self.mean_abs_error = self.mean_abs_error.max(comparison.mean_abs_error);
        self.worst_ratio = self.worst_ratio.max(comparison.worst_ratio);
    }

    /// Adds the errors of other rounds on the same case.
    pub(super) fn merge(&mut self, other: Self) {
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        self.max_rel_error = self.max_rel_error.max(other.max_rel_error);
        self.mean_abs_error = self.mean_abs_error.max(other.mean_abs_error);
        self.worst_ratio = self.worst_ratio.max(other.worst_ratio);
        self.resources = other.resources.or(self.resources.take());
    }

    /// Checks what the launches left behind, and adds what the device says about the candidate.
    fn add_state(&mut self, kernels: &KernelSet) -> JudgeResult<()> {
        kernels.candidate.check_state()?;
        self.resources = kernels.candidate.kernel.resources();
        Ok(())
    }

    pub(super) fn write_to(&self, entry: &mut WorkloadVerdict) {
        entry.max_abs_error = Some(self.max_abs_error);
        entry.max_rel_error = Some(self.max_rel_error);
        entry.mean_abs_error = Some(self.mean_abs_error);
        entry.tolerance_margin = Some(1.0 - self.worst_ratio);
    }
}

/// The entry of a case in a verdict, before the case is checked.
pub(super) fn blank_entry(case: &Case, variant: Option<usize>) -> WorkloadVerdict {
    WorkloadVerdict {
        axes: case.binding.axes.clone(),
        hidden: case.hidden,
        regime: case.regime_name(),
        variant,
        ..WorkloadVerdict::blank(&case.id, Status::HarnessError)
    }
}

/// A short run, for which the data of a sample have the most copies.
const SHORT_RUN: Duration = Duration::from_micros(2);
/// The most runs of a sample that is not timed.
const MAX_UNTIMED_RUNS: usize = 8;

/// Checks a candidate on one case, with one round per seed.
pub(super) fn check_case(
    context: &JudgeContext<'_>,
    candidate: &CompiledKernel,
    case: &Case,
    seeds: &[u64],
) -> JudgeResult<Accuracy> {
    let rounds = Rounds {
        seeds,
        edge: first_edge(seeds),
    };
    check_rounds(context, candidate, case, rounds)
}

/// Rounds on one case.
#[derive(Clone, Copy)]
pub(super) struct Rounds<'r> {
    /// One for each round.
    pub(super) seeds: &'r [u64],
    /// Where the buffers are in the first round.
    pub(super) edge: Edge,
}

/// Like `check_case`, for rounds that follow others.
pub(super) fn check_rounds(
    context: &JudgeContext<'_>,
    candidate: &CompiledKernel,
    case: &Case,
    rounds: Rounds<'_>,
) -> JudgeResult<Accuracy> {
    let mut accuracy = Accuracy::default();
    // Buffers start, or end, next to unmapped memory. With two or more rounds a case is checked both ways, otherwise one way at
    // random. Where there is no such memory, one process serves all rounds.
    let Rounds { seeds, mut edge } = rounds;
    let ways = if context.device.has_edges() { 2 } else { 1 };
    for round_seeds in seeds.chunks(seeds.len().div_ceil(ways).max(1)) {
        let mut kernels = KernelSet::open_for_check(context, candidate, case, edge)?;
        for &seed in round_seeds {
            check_round(&mut kernels, seed, &mut accuracy)
                .map_err(|error| name_regime(error, case))?;
        }
        // Last, because it has the lowest precedence of the findings here.
        accuracy.add_state(&kernels)?;
        edge = other_edge(edge);
    }
    Ok(accuracy)
}

/// Checks a candidate once on a case that is not timed, with its buffers where they are when it is timed: among as many copies, at random
/// places. So neither a clock nor an address shows the kernel that it is checked.
pub(super) fn check_as_timed(
    context: &JudgeContext<'_>,
    candidate: &CompiledKernel,
    case: &Case,
    seed: u64,
) -> JudgeResult<Accuracy> {
    let mut accuracy = Accuracy::default();
    sample_as_timed(context, candidate, case, seed, &mut accuracy)
        .map_err(|error| name_regime(error, case))?;
    Ok(accuracy)
}

fn sample_as_timed(
    context: &JudgeContext<'_>,
    candidate: &CompiledKernel,
    case: &Case,
    seed: u64,
    accuracy: &mut Accuracy,
) -> JudgeResult<()> {
    let copies = (context.device).timing_copies(case.data_bytes(context.task), SHORT_RUN);
    let mut kernels = KernelSet::open_as_timed(context, candidate, case, copies)?;
    let poison = Poison::Finite { seed };
    let runs = 1 + RandomStream::new(seed, "runs", 0).below(copies.min(MAX_UNTIMED_RUNS));
    let deadline = kernels.deadline();
    kernels.candidate.reset_buffers(seed, poison)?;
    if let LaunchOutcome::Fault(refusal) = kernels.candidate.launch_sample(runs, deadline)? {
        return Err(refusal.into());
    }
    kernels.candidate.check_guards(&[])?;
    let last = kernels.candidate.kernel.last_copy().unwrap_or_default();
    // Before anything is filled again.
    let expected = kernels.expected(seed, &[last])?;
    let comparisons = kernels.compare(Side::Candidate, &expected, &[last], seed)?;
    (comparisons.iter()).for_each(|comparison| accuracy.add(comparison));
    if copies > 1 {
        kernels.candidate.check_other_copies(seed, poison)?;
    }
    accuracy.add_state(&kernels)
}

pub(super) fn other_edge(edge: Edge) -> Edge {
    match edge {
        Edge::Start => Edge::End,
        Edge::End => Edge::Start,
    }
}

/// Checks a candidate on many cases with one round each. Cases in a row that have the same launch plan are checked in one process:
/// opening a kernel takes longer than a small launch.
pub(super) struct RowOfCases<'k, 'c> {
    context: &'k JudgeContext<'c>,
    candidate: &'k CompiledKernel,
    /// The kernels that are open, and the case that they were opened for.
    open: Option<(Case, KernelSet)>,
}

impl<'k, 'c> RowOfCases<'k, 'c> {
    pub(super) fn new(context: &'k JudgeContext<'c>, candidate: &'k CompiledKernel) -> Self {
        Self {
            context,
            candidate,
            open: None,
        }
    }

    /// Closes the kernels that are open, and so frees their memory.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// One round on a case.
    pub(super) fn check(&mut self, case: &Case, seed: u64) -> JudgeResult<Accuracy> {
        let context = self.context;
        let fits = |(known, _): &(Case, KernelSet)| known.has_launch_plan_of(case, context.task);
        // The old kernels are closed first: both together may not fit into memory.
        let open = self.open.take().filter(fits);
        let (_, kernels) = match open {
            Some(open) => self.open.insert(open),
            None => {
                let edge = first_edge(&[seed]);
                let opened = KernelSet::open_for_check(context, self.candidate, case, edge)?;
                self.open.insert((case.clone(), opened))
            }
        };
        kernels.candidate.use_distributions(context, case);
        kernels.oracle.use_distributions(context, case);
        let mut accuracy = Accuracy::default();
        check_round(kernels, seed, &mut accuracy).map_err(|error| name_regime(error, case))?;
        accuracy.add_state(kernels)?;
        Ok(accuracy)
    }
}

/// The edge of the first round of a case: random, because with a single round there is no other.
pub(super) fn first_edge(seeds: &[u64]) -> Edge {
    let starts_first = seeds.first().is_some_and(|seed| seed % 2 == 0);
    if starts_first { Edge::Start } else { Edge::End }
}

/// Adds the case's input regime to a finding.
pub(super) fn name_regime(error: JudgeError, case: &Case) -> JudgeError {
    let Some(name) = case.regime_name() else {
        return error;
    };
    error.map_finding(|mut finding| {
        finding.reason = format!("input regime `{name}`: {}", finding.reason);
        finding.evidence.regime = Some(name);
        finding
    })
}

/// One round: launches twice with the same inputs, over outputs that are poisoned in two ways.
fn check_round(kernels: &mut KernelSet, seed: u64, accuracy: &mut Accuracy) -> JudgeResult<()> {
    let mut expected: Option<Vec<ExpectedValues>> = None;
    let deadline = kernels.deadline();
    for (repetition, poison) in poisons(seed).into_iter().enumerate() {
        let candidate = &mut kernels.candidate;
        candidate.reset_buffers(seed, poison)?;
        let hashes = candidate.input_hashes()?;
        if let LaunchOutcome::Fault(refusal) = candidate.launch(deadline)? {
            return Err(refusal.into());
        }
        candidate.check_guards(&hashes)?;
        let has_poison = candidate.has_poison(poison)?;
        let expected = match &expected {
            Some(expected) => expected,
            None => expected.insert(kernels.expected(seed, &[0])?),
        };
        let compared = kernels.compare(Side::Candidate, expected, &[0], seed);
        let comparisons = match compared {
            Ok(comparisons) => comparisons,
            Err(wrong) => {
                // A wrong element that still holds its poison was not written, if that is no coincidence.
                if has_poison && let Some(unwritten) = confirm_unwritten(kernels, seed)? {
                    return Err(unwritten.into());
                }
                return Err(match repetition {
                    0 => wrong,
                    _ => wrong.map_finding(nondeterministic),
                });
            }
        };
        comparisons
            .iter()
            .for_each(|comparison| accuracy.add(comparison));
    }
    Ok(())
}

/// The two patterns of a round. No kernel can foresee them, because the seeds are drawn after it is fixed.
fn poisons(seed: u64) -> [Poison; 2] {
    let [nan, finite] = [0, 1].map(|index| derive_seed(seed, "poison", index));
    [
        Poison::SecretNan { seed: nan },
        Poison::Finite { seed: finite },
    ]
}

/// Launches twice more, over two new patterns. The finding about the elements that hold their poison both times, if there are any.
fn confirm_unwritten(kernels: &mut KernelSet, seed: u64) -> JudgeResult<Option<Finding>> {
    let deadline = kernels.deadline();
    let mut runs = Vec::new();
    for poison in poisons(derive_seed(seed, "confirm", 0)) {
        let candidate = &mut kernels.candidate;
        candidate.reset_buffers(seed, poison)?;
        if let LaunchOutcome::Fault(refusal) = candidate.launch(deadline)? {
            return Err(refusal.into());
        }
        runs.push(candidate.unwritten_elements(poison)?);
    }
    let [first, second] = runs.as_slice() else {
        return Ok(None);
    };
    Ok(kernels.candidate.always_unwritten(first, second))
}

/// The finding about a kernel whose second result is wrong although the first one was correct.
fn nondeterministic(wrong: Finding) -> Finding {
    Finding {
        status: Status::Nondeterministic,
        reason: format!(
            "the same inputs gave a correct result, then a wrong one: {}",
            wrong.reason
        ),
        ..wrong
    }
}
