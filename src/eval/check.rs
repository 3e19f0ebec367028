//! Is it right? Every output element of every case against the oracle, twice, with inputs, guard zones and poison looked at.

use super::case_kernel::StateCoverage;
use super::cases::Case;
use super::kernel_set::{KernelSet, Side};
use super::{CompiledKernel, Finding, Judge};
use crate::device::{Comparison, Edge, ExpectedValues, LaunchOutcome, Poison};
use crate::verdict::{Resources, Status, WorkloadVerdict};

/// How far the outputs of a correct candidate were from the oracle's, over all rounds and outputs.
#[derive(Clone, Debug, Default)]
pub(super) struct Accuracy {
    max_abs_error: f64,
    max_rel_error: f64,
    mean_abs_error: f64,
    worst: f64,
    /// Whether this system kept the judge from seeing what the candidate remembers.
    pub(super) state_unchecked: bool,
    /// What the device's driver says of the code.
    pub(super) resources: Option<Resources>,
}

impl Accuracy {
    fn add(&mut self, comparison: &Comparison) {
        self.max_abs_error = self.max_abs_error.max(comparison.max_abs_error);
        self.max_rel_error = self.max_rel_error.max(comparison.max_rel_error);
        self.mean_abs_error = self.mean_abs_error.max(comparison.mean_abs_error);
        self.worst = self.worst.max(comparison.worst_ratio);
    }

    pub(super) fn write_to(&self, entry: &mut WorkloadVerdict) {
        entry.max_abs_error = Some(self.max_abs_error);
        entry.max_rel_error = Some(self.max_rel_error);
        entry.mean_abs_error = Some(self.mean_abs_error);
        entry.tolerance_margin = Some(1.0 - self.worst);
    }
}

/// An entry with nothing known yet.
pub(super) fn blank_entry(case: &Case, variant: Option<usize>) -> WorkloadVerdict {
    WorkloadVerdict {
        id: case.id.clone(),
        axes: case.binding.axes.clone(),
        hidden: case.hidden,
        regime: case.regime_name(),
        variant,
        status: Status::HarnessError,
        speedup: None,
        ci95: None,
        candidate_us: None,
        baseline_us: None,
        floor_us: None,
        roofline: None,
        max_abs_error: None,
        max_rel_error: None,
        mean_abs_error: None,
        tolerance_margin: None,
    }
}

/// Checks one case, one round for each seed.
pub(super) fn check_case(
    judge: &Judge<'_>,
    compilation: &CompiledKernel,
    case: &Case,
    seeds: &[u64],
) -> anyhow::Result<Result<Accuracy, Finding>> {
    let mut accuracy = Accuracy::default();
    // Every case meets one of the two ends of memory, and those with more than one round both. A hidden case has its turn drawn.
    let mut edge = match seeds.first().is_some_and(|seed| seed % 2 == 0) {
        true => Edge::Start,
        false => Edge::End,
    };
    for round_seeds in seeds.chunks(seeds.len().div_ceil(2).max(1)) {
        let mut bench = match KernelSet::open_for_check(judge, compilation, case, edge)? {
            Ok(bench) => bench,
            Err(finding) => return Ok(Err(finding)),
        };
        for &seed in round_seeds {
            if let Err(mut finding) = check_round(&mut bench, seed, &mut accuracy)? {
                name_regime(&mut finding, case);
                return Ok(Err(finding));
            }
        }
        // The least grave of what is looked for here, and so the last.
        match bench.side(Side::Candidate)?.check_state()? {
            Err(finding) => return Ok(Err(finding)),
            Ok(watched) => accuracy.state_unchecked |= watched == StateCoverage::Unchecked,
        }
        accuracy.resources = bench.candidate.kernel.resources();
        edge = match edge {
            Edge::Start => Edge::End,
            Edge::End => Edge::Start,
        };
    }
    Ok(Ok(accuracy))
}

/// Whoever reads a finding must know under which inputs it was made.
fn name_regime(finding: &mut Finding, case: &Case) {
    let Some(name) = case.regime_name() else {
        return;
    };
    let refusal = &mut finding.refusal;
    refusal.reason = format!("inputs `{name}`: {}", refusal.reason);
    refusal.evidence.regime = Some(name);
}

/// One round: the same inputs twice, over outputs that were poisoned in two ways.
fn check_round(
    bench: &mut KernelSet,
    seed: u64,
    accuracy: &mut Accuracy,
) -> anyhow::Result<Result<(), Finding>> {
    let mut expected: Option<Vec<ExpectedValues>> = None;
    for (repetition, poison) in [Poison::Nan, Poison::Finite { seed }]
        .into_iter()
        .enumerate()
    {
        let candidate = bench.side_mut(Side::Candidate)?;
        candidate.reset_buffers(seed, poison)?;
        let hashes = candidate.input_hashes()?;
        let deadline = bench.deadline();
        let candidate = bench.side_mut(Side::Candidate)?;
        if let LaunchOutcome::Fault(refusal) = candidate.launch(deadline)? {
            return Ok(Err(Finding {
                refusal,
                case: None,
            }));
        }
        if let Err(finding) = candidate.check_guards(&hashes)? {
            return Ok(Err(finding));
        }
        let unwritten = candidate.check_fully_written(poison)?;
        // Only now that the candidate has finished does anything that it could copy exist.
        let expected = match &expected {
            Some(expected) => expected,
            None => expected.insert(bench.expected(seed, &[0])?),
        };
        match (
            bench.compare(Side::Candidate, expected, &[0], seed)?,
            unwritten,
        ) {
            // A finite poison can be the right value by chance; a wrong element that still holds its poison was not written.
            (Err(_), Some(finding)) => return Ok(Err(finding)),
            (Err(finding), None) if repetition == 0 => return Ok(Err(finding)),
            (Err(finding), None) => {
                let reason = format!(
                    "the same inputs gave a right result and then a wrong one: {}",
                    finding.refusal.reason
                );
                return Ok(Err(Finding::new(
                    Status::Nondeterministic,
                    reason,
                    finding.refusal.evidence,
                )));
            }
            (Ok(comparisons), _) => comparisons
                .iter()
                .for_each(|comparison| accuracy.add(comparison)),
        }
    }
    Ok(Ok(()))
}
