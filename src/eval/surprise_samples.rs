//! Samples of the candidate that are not timed, at moments that no kernel can foresee. They end early, have the inputs of a regime, or are
//! single runs.
//!
//! A clock, or the number of its grid, shows a kernel how many launches came before. Without these samples it could behave well in the
//! first ones, which are checked on other inputs, and rely on the usual inputs in those that are timed. Takes samples and has them checked;
//! `timing_session` decides when.

use super::TimingSession;
use crate::base::RandomStream;
use crate::device::Poison;
use crate::eval::case::{Case, derive_seed};
use crate::eval::check::name_regime;
use crate::eval::context::JudgeContext;
use crate::eval::finding::JudgeResult;
use crate::eval::kernel_set::Side;
use crate::eval::opening::TimedPair;
use crate::eval::run_spacing::{RunTimes, Spacing, required_spacing};

/// Probability of a surprise sample before a pair.
pub(super) const SURPRISE_PROBABILITY: f64 = 0.12;

/// The case of a contest under each regime that changes its tensors only: other scalars would need kernels that are bound to them. None for
/// the baseline, which is trusted.
pub(super) fn regimes_of(context: &JudgeContext<'_>, contest: TimedPair<'_>) -> Vec<Case> {
    if std::ptr::eq(contest.candidate, &raw const context.baseline) {
        return Vec::new();
    }
    let regimes = context.task.regimes();
    let cases = regimes
        .iter()
        .map(|(name, regime)| contest.case.with_regime(name, regime));
    cases
        .filter(|case| case.has_launch_plan_of(contest.case, context.task))
        .collect()
}

impl TimingSession<'_, '_> {
    /// Half of them have the inputs of a regime, if the task has any. If a sample has several runs, a quarter are single runs.
    pub(super) fn take_surprise_sample(
        &mut self,
        seed: u64,
        stream: &mut RandomStream,
    ) -> JudgeResult<()> {
        match stream.below(4) {
            0 => self.check_short_sample(seed),
            1 => self.check_single_run(seed),
            _ => self.check_regime(seed, stream),
        }
    }

    /// Takes a sample of the candidate that ends early, at a random run. The outputs of these runs must be there, and the copies of the
    /// runs that were left out must not be written: a kernel must neither leave work to later runs nor do theirs.
    pub(super) fn check_short_sample(&mut self, seed: u64) -> JudgeResult<()> {
        if self.plan.runs < 2 {
            return Ok(());
        }
        self.check_sample(seed)
    }

    fn check_sample(&mut self, seed: u64) -> JudgeResult<()> {
        let mut stream = RandomStream::new(seed, "short", 0);
        let runs = 1 + stream.below(self.plan.runs.saturating_sub(1).max(1));
        let poison = Poison::Finite { seed };
        self.take_sample(Side::Candidate, seed, poison, runs)?;
        self.kernels.candidate.check_guards(&[])?;
        // Before anything is filled again.
        self.checks
            .check_surprise_sample(&mut self.kernels, seed, &mut stream)?;
        self.kernels.candidate.check_state()?;
        if self.kernels.candidate.kernel.copy_count() > 1 {
            self.kernels.candidate.check_other_copies(seed, poison)?;
        }
        Ok(())
    }

    /// Takes a sample with the inputs of a regime.
    fn check_regime(&mut self, seed: u64, stream: &mut RandomStream) -> JudgeResult<()> {
        if self.regimes.is_empty() || !self.checks.has_time_for_oracle() {
            return self.check_short_sample(seed);
        }
        let case = self.regimes[stream.below(self.regimes.len())].clone();
        self.use_inputs_of(&case);
        let checked = self.check_sample(seed);
        self.use_inputs_of(self.contest.case);
        checked.map_err(|error| name_regime(error, &case))
    }

    fn use_inputs_of(&mut self, case: &Case) {
        let oracle = &mut *self.kernels.oracle;
        for kernel in [&mut self.kernels.candidate, oracle] {
            kernel.use_distributions(self.context, case);
            kernel.turn_stored_inputs(self.context, case);
        }
    }

    /// Takes a sample of one run. If it takes much longer than a run of the last timed sample, the candidate may have begun to use what its
    /// earlier runs leave: finds out again how its runs must be spaced.
    fn check_single_run(&mut self, seed: u64) -> JudgeResult<()> {
        let is_spaced = self.plan.runs > 1 && self.plan.is_spacing_known;
        let Some(together) = self.candidate_run.filter(|_| is_spaced) else {
            return self.check_short_sample(seed);
        };
        if !self.contest.opponent.is_kernel() {
            return Ok(());
        }
        let opponent = match self.opponent_runs {
            Some(known) => known,
            None => self.opponent_run_times(seed)?,
        };
        self.opponent_runs = Some(opponent);
        let apart = self.take_sample(Side::Candidate, seed, Poison::Finite { seed }, 1)?;
        let seen = RunTimes {
            together,
            apart,
            launches: self.kernels.candidate.plan.launches.len(),
        };
        let is_unsuspicious = required_spacing(seen, opponent) == Spacing::Together;
        if is_unsuspicious && !seen.may_carry_over(&opponent) {
            return Ok(());
        }
        self.space_runs(derive_seed(seed, "again", 0))
    }
}
