//! The bound kernels of one case: the candidate, the oracle, and the opponent that the candidate is timed against.
//!
//! Each kernel has its own memory. Computes expected values and compares outputs; times nothing.

use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::case_kernel::CaseKernel;
use super::compiled_kernel::CompiledKernel;
use super::context::JudgeContext;
use super::finding::JudgeResult;
use super::open_oracle::OpenOracle;
use super::opening::TimedPair;
use crate::device::{Edge, ExpectedValues, OutputComparison, Poison, Purpose};
use crate::task::Tolerance;

/// Factor on the tolerance when two kernels are compared with each other: both may differ from the oracle by the tolerance, and the bound
/// is computed from values that differ slightly.
const PAIR_TOLERANCE_FACTOR: f64 = 2.1;

const NO_OPPONENT: &str = "no opponent is open";

/// One of the two kernels that are timed against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Candidate,
    Opponent,
}

/// The bound kernels of one case.
pub(super) struct KernelSet {
    pub(super) candidate: CaseKernel,
    /// The baseline or, in a duel, the incumbent; `None` if nothing is timed.
    pub(super) opponent: Option<CaseKernel>,
    pub(super) oracle: OpenOracle,
    tolerances: Vec<(String, Tolerance)>,
    deadline: Duration,
}

/// Number of copies of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyCounts {
    /// For each of the two timed kernels.
    pub(super) timed: usize,
    pub(super) oracle: usize,
}

impl CopyCounts {
    pub(super) const SINGLE: Self = Self {
        timed: 1,
        oracle: 1,
    };
}

impl KernelSet {
    /// Opens all kernels of a contest for timing.
    pub(super) fn open(
        context: &JudgeContext<'_>,
        contest: TimedPair<'_>,
        copies: CopyCounts,
    ) -> JudgeResult<Self> {
        let [candidate, opponent] = open_timed(context, contest, copies.timed)?;
        let opponent = Some(opponent);
        let mut kernels =
            Self::with_oracle(context, candidate, opponent, contest.case, copies.oracle)?;
        kernels.oracle.turn_stored_inputs(context, contest.case);
        Ok(kernels)
    }

    /// Opens the candidate and the oracle for a check.
    pub(super) fn open_for_check(
        context: &JudgeContext<'_>,
        candidate: &CompiledKernel,
        case: &Case,
        edge: Edge,
    ) -> JudgeResult<Self> {
        let purpose = Purpose::Check { edge };
        let candidate = CaseKernel::open_candidate(context, candidate, case, purpose)?;
        Self::with_oracle(context, candidate, None, case, 1)
    }

    /// Opens the candidate as for timing, and the oracle.
    pub(super) fn open_as_timed(
        context: &JudgeContext<'_>,
        candidate: &CompiledKernel,
        case: &Case,
        copies: usize,
    ) -> JudgeResult<Self> {
        let purpose = Purpose::Time {
            copies,
            cache: Some(context.options.cache),
        };
        let candidate = CaseKernel::open_candidate(context, candidate, case, purpose)?;
        Self::with_oracle(context, candidate, None, case, 1)
    }

    fn with_oracle(
        context: &JudgeContext<'_>,
        candidate: CaseKernel,
        opponent: Option<CaseKernel>,
        case: &Case,
        copies: usize,
    ) -> JudgeResult<Self> {
        Ok(Self {
            candidate,
            opponent,
            oracle: OpenOracle::open(context, case, copies)?,
            tolerances: tolerances(context),
            deadline: context.deadline(),
        })
    }

    /// Opens both timed kernels again in fresh processes. The oracle stays open.
    pub(super) fn restart_timed(
        &mut self,
        context: &JudgeContext<'_>,
        contest: TimedPair<'_>,
    ) -> JudgeResult<()> {
        let [candidate, opponent] = open_timed(context, contest, 1)?;
        self.candidate = candidate;
        self.opponent = Some(opponent);
        Ok(())
    }

    /// Swaps the memory of both timed kernels, if the device can.
    pub(super) fn swap_placement(&mut self) -> anyhow::Result<()> {
        let opponent = self.opponent.as_mut().context(NO_OPPONENT)?;
        self.candidate
            .kernel
            .swap_placement(opponent.kernel.as_mut())
    }

    /// The oracle's outputs for a seed and some copies: one tensor per output.
    pub(super) fn expected(
        &mut self,
        seed: u64,
        copies: &[u32],
    ) -> anyhow::Result<Vec<ExpectedValues>> {
        let _stage = self.oracle.stage("oracle");
        self.oracle.kernel.bind_copies(copies)?;
        self.oracle.reset_buffers(seed, Poison::Nan)?;
        self.oracle.oracle_outputs(seed, self.deadline)
    }

    /// Compares all outputs of a kernel with the expected values. The first output that fails is a finding.
    pub(super) fn compare(
        &self,
        side: Side,
        expected: &[ExpectedValues],
        copies: &[u32],
        seed: u64,
    ) -> JudgeResult<Vec<OutputComparison>> {
        self.side(side)?
            .compare(&self.tolerances, expected, copies, seed)
    }

    /// Compares the candidate's outputs with the opponent's, in copies that both have computed.
    pub(super) fn compare_sides(&self, copies: &[u32], seed: u64) -> JudgeResult<()> {
        let opponent = self.side(Side::Opponent)?;
        let _stage = opponent.stage("compare");
        let widen = |tolerance: &Tolerance| Tolerance {
            rtol: tolerance.rtol * PAIR_TOLERANCE_FACTOR,
            atol_rms: tolerance.atol_rms * PAIR_TOLERANCE_FACTOR,
        };
        let tolerances: Vec<_> = (self.tolerances.iter())
            .map(|(name, tolerance)| (name.clone(), widen(tolerance)))
            .collect();
        let positions: Vec<usize> = copies.iter().map(|copy| *copy as usize).collect();
        let mut expected = Vec::new();
        for buffer in &opponent.plan.outputs {
            let output = opponent.kernel.expected_output(*buffer)?;
            expected.push(output.values.select_copies(&positions));
        }
        self.candidate
            .compare(&tolerances, &expected, copies, seed)?;
        Ok(())
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

fn open_timed(
    context: &JudgeContext<'_>,
    contest: TimedPair<'_>,
    copies: usize,
) -> JudgeResult<[CaseKernel; 2]> {
    let purpose = Purpose::Time {
        copies,
        cache: Some(context.options.cache),
    };
    let mut opened = CaseKernel::open_timed(context, contest, purpose)?;
    for kernel in &mut opened {
        kernel.turn_stored_inputs(context, contest.case);
    }
    Ok(opened)
}

/// The tolerance of each output, in the order of the definition.
pub(super) fn tolerances(context: &JudgeContext<'_>) -> Vec<(String, Tolerance)> {
    let outputs = context.task.definition.outputs.keys();
    let tolerance = |name: &String| context.task.settings.tolerance.get(name).copied();
    outputs
        .filter_map(|name| Some((name.clone(), tolerance(name)?)))
        .collect()
}
