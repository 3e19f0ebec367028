//! The arms of one case: candidate, oracle, and where timed the arm that it is timed against, each bound to memory of its own.

use std::time::Duration;

use anyhow::Context;

use super::case_kernel::CaseKernel;
use super::cases::Case;
use super::{CompiledKernel, Finding, Judge};
use crate::device::{Comparison, Edge, ExpectedValues, Poison, Purpose};
use crate::task::Tolerance;

/// Twice the tolerance, and a little for its own reference being off.
const PAIR_TOLERANCE_FACTOR: f64 = 2.1;

const NO_OPPONENT: &str = "nothing was opened to time against";

/// The arms of one case.
pub(super) struct KernelSet {
    pub(super) candidate: CaseKernel,
    /// The baseline, or in a duel the incumbent; `None` where nothing is timed.
    pub(super) opponent: Option<CaseKernel>,
    pub(super) oracle: CaseKernel,
    tolerances: Vec<(String, Tolerance)>,
    deadline: Duration,
}

/// In how many copies the arms that are timed have their data, and in how many the oracle.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyCounts {
    pub(super) timed: usize,
    pub(super) oracle: usize,
}

impl CopyCounts {
    /// One copy for each.
    pub(super) const SINGLE: Self = Self {
        timed: 1,
        oracle: 1,
    };
}

impl KernelSet {
    /// Opens all arms of a case for timing. `opponent`: the baseline if `None`.
    pub(super) fn open(
        judge: &Judge<'_>,
        candidate: &CompiledKernel,
        opponent: Option<&CompiledKernel>,
        case: &Case,
        spread: CopyCounts,
    ) -> anyhow::Result<Result<Self, Finding>> {
        let sides = Self::open_timed(judge, candidate, opponent, case, spread)?;
        let (candidate, opponent) = match sides {
            Ok(sides) => sides,
            Err(finding) => return Ok(Err(finding)),
        };
        Self::with_oracle(judge, candidate, Some(opponent), case, spread)
    }

    /// Opens what a check needs: the candidate and the oracle.
    pub(super) fn open_for_check(
        judge: &Judge<'_>,
        candidate: &CompiledKernel,
        case: &Case,
        edge: Edge,
    ) -> anyhow::Result<Result<Self, Finding>> {
        match CaseKernel::open_candidate(judge, candidate, case, Purpose::Check { edge })? {
            Ok(candidate) => Self::with_oracle(judge, candidate, None, case, CopyCounts::SINGLE),
            Err(finding) => Ok(Err(finding)),
        }
    }

    fn with_oracle(
        judge: &Judge<'_>,
        candidate: CaseKernel,
        opponent: Option<CaseKernel>,
        case: &Case,
        spread: CopyCounts,
    ) -> anyhow::Result<Result<Self, Finding>> {
        let purpose = Purpose::Time {
            copies: spread.oracle,
            cache: None,
        };
        let oracle = CaseKernel::open_reference(judge, &judge.oracle, case, true, purpose)?;
        Ok(Ok(Self {
            candidate,
            opponent,
            oracle,
            tolerances: tolerances(judge),
            deadline: judge.deadline(),
        }))
    }

    /// Puts both timed arms into fresh processes; the oracle stays where it is.
    pub(super) fn restart_timed(
        &mut self,
        judge: &Judge<'_>,
        candidate: &CompiledKernel,
        opponent: Option<&CompiledKernel>,
        case: &Case,
    ) -> anyhow::Result<Result<(), Finding>> {
        match Self::open_timed(judge, candidate, opponent, case, CopyCounts::SINGLE)? {
            Ok((candidate, opponent)) => {
                (self.candidate, self.opponent) = (candidate, Some(opponent));
            }
            Err(finding) => return Ok(Err(finding)),
        }
        Ok(Ok(()))
    }

    /// Both timed arms trade their memory, where their device can.
    pub(super) fn swap_placement(&mut self) -> anyhow::Result<()> {
        let opponent = self.opponent.as_mut().context(NO_OPPONENT)?;
        self.candidate
            .kernel
            .swap_placement(opponent.kernel.as_mut())
    }

    fn open_timed(
        judge: &Judge<'_>,
        candidate: &CompiledKernel,
        opponent: Option<&CompiledKernel>,
        case: &Case,
        spread: CopyCounts,
    ) -> anyhow::Result<Result<(CaseKernel, CaseKernel), Finding>> {
        let purpose = Purpose::Time {
            copies: spread.timed,
            cache: Some(judge.options.cache),
        };
        let candidate = match CaseKernel::open_candidate(judge, candidate, case, purpose)? {
            Ok(bound) => bound,
            Err(finding) => return Ok(Err(finding)),
        };
        let opponent = match opponent {
            None => CaseKernel::open_reference(judge, &judge.baseline, case, false, purpose)?,
            Some(compilation) => {
                match CaseKernel::open_candidate(judge, compilation, case, purpose)? {
                    Ok(bound) => bound,
                    Err(finding) => return Ok(Err(finding)),
                }
            }
        };
        Ok(Ok((candidate, opponent)))
    }

    /// The oracle's outputs for one seed and these copies of its data, one tensor for each output.
    pub(super) fn expected(
        &mut self,
        seed: u64,
        copies: &[u32],
    ) -> anyhow::Result<Vec<ExpectedValues>> {
        self.oracle.kernel.bind_copies(copies)?;
        self.oracle.reset_buffers(seed, Poison::Nan)?;
        self.oracle.oracle_outputs(seed, self.deadline)
    }

    /// Compares all outputs of an arm; the first output that fails is a finding.
    pub(super) fn compare(
        &self,
        side: Side,
        expected: &[ExpectedValues],
        copies: &[u32],
        seed: u64,
    ) -> anyhow::Result<Result<Vec<Comparison>, Finding>> {
        self.side(side)?
            .compare(&self.tolerances, expected, copies, seed)
    }

    /// Compares the candidate's outputs with the opponent's, in copies that both have computed. Both may be off by the tolerance.
    pub(super) fn compare_sides(
        &self,
        copies: &[u32],
        seed: u64,
    ) -> anyhow::Result<Result<(), Finding>> {
        let opponent = self.side(Side::Opponent)?;
        let wide = |tolerance: &Tolerance| Tolerance {
            rtol: tolerance.rtol * PAIR_TOLERANCE_FACTOR,
            atol_rms: tolerance.atol_rms * PAIR_TOLERANCE_FACTOR,
        };
        let tolerances: Vec<_> = (self.tolerances.iter())
            .map(|(name, tolerance)| (name.clone(), wide(tolerance)))
            .collect();
        let places: Vec<usize> = copies.iter().map(|copy| *copy as usize).collect();
        let mut expected = Vec::new();
        for buffer in &opponent.plan.outputs {
            let output = opponent.kernel.expected_output(*buffer)?;
            expected.push(output.values.select_copies(&places));
        }
        let compared = (self.candidate).compare(&tolerances, &expected, copies, seed)?;
        Ok(compared.map(|_| ()))
    }

    pub(super) fn side(&self, side: Side) -> anyhow::Result<&CaseKernel> {
        match side {
            Side::Candidate => Ok(&self.candidate),
            Side::Opponent => self.opponent.as_ref().context(NO_OPPONENT),
        }
    }

    pub(super) fn side_mut(&mut self, side: Side) -> anyhow::Result<&mut CaseKernel> {
        match side {
            Side::Candidate => Ok(&mut self.candidate),
            Side::Opponent => self.opponent.as_mut().context(NO_OPPONENT),
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// The tolerance of each output, in the definition's order.
pub(super) fn tolerances(judge: &Judge<'_>) -> Vec<(String, Tolerance)> {
    let outputs = judge.task.definition.outputs.keys();
    let tolerance = |name: &String| judge.task.settings.tolerance.get(name).copied();
    outputs
        .filter_map(|name| Some((name.clone(), tolerance(name)?)))
        .collect()
}

/// One of the two arms that are timed against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Candidate,
    Opponent,
}
