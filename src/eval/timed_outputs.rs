//! Checks the outputs of timed launches: guard zones, outputs, inputs and state of the candidate, after every pair.
//!
//! Outputs are compared with the oracle's, or with the opponent's if the oracle is slow. Takes no samples: `timing_session` does.

use std::time::{Duration, Instant};

use super::anchor::OpponentFailed;
use super::finding::{JudgeError, JudgeResult};
use super::kernel_set::{KernelSet, Side};
use crate::base::RandomStream;
use crate::device::Poison;

/// Share of the time that comparing with the oracle may take on a GPU. A kernel cannot predict which pairs are compared; the first pair of
/// every session is. What is reported says which share of the launches was compared (`checked_share`).
const ORACLE_CHECK_SHARE: f64 = 0.25;
/// Share of the time that comparing the other pairs with the opponent may take.
const OPPONENT_CHECK_SHARE: f64 = 0.2;
/// An occasional check is made once in this many times, on average.
const OCCASIONAL: usize = 4;

/// The candidate's timed runs, and those of them that were compared with the oracle.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckedRuns {
    timed: u64,
    compared: u64,
}

impl CheckedRuns {
    pub(super) fn add(&mut self, other: Self) {
        self.timed += other.timed;
        self.compared += other.compared;
    }

    /// Share of the timed runs that were compared.
    pub(super) fn share(self) -> f64 {
        self.compared as f64 / self.timed.max(1) as f64
    }
}

/// The checks of one timing session.
pub(super) struct OutputChecks {
    /// Copies that the oracle computes at once.
    pub(super) oracle_copies: usize,
    /// Whether every pair is compared with the oracle, however long it takes.
    checks_every_pair: bool,
    /// Whether the candidate's outputs are compared with the opponent's too.
    compares_sides: bool,
    started: Instant,
    /// Time of comparing with the oracle, including its launches.
    oracle_check: Duration,
    oracle_launch: Duration,
    /// Copies that the oracle has computed in that time.
    computed_copies: u32,
    /// Time of comparing with the opponent instead.
    opponent_check: Duration,
    runs: CheckedRuns,
    /// The copies of the last comparison of both kernels, if they differ.
    differing: Vec<u32>,
}

impl OutputChecks {
    /// For a session with one copy of the data.
    pub(super) fn new(checks_every_pair: bool, compares_sides: bool) -> Self {
        Self {
            oracle_copies: 1,
            checks_every_pair,
            compares_sides,
            started: Instant::now(),
            oracle_check: Duration::ZERO,
            oracle_launch: Duration::ZERO,
            computed_copies: 0,
            opponent_check: Duration::ZERO,
            runs: CheckedRuns::default(),
            differing: Vec::new(),
        }
    }

    pub(super) fn checks_every_pair(&self) -> bool {
        self.checks_every_pair
    }

    pub(super) fn runs(&self) -> CheckedRuns {
        self.runs
    }

    /// Time since the session was opened, of comparing with the oracle, and of the oracle's launches.
    pub(super) fn times(&self) -> [Duration; 3] {
        [
            self.started.elapsed(),
            self.oracle_check,
            self.oracle_launch,
        ]
    }

    /// How long the oracle takes for a copy of the data; `None` if it did not run.
    pub(super) fn oracle_copy_time(&self) -> Option<Duration> {
        self.oracle_launch.checked_div(self.computed_copies)
    }

    /// Checks the candidate's timed run: guard zones, outputs, and state.
    pub(super) fn check_pair(
        &mut self,
        kernels: &mut KernelSet,
        seed: u64,
        poison: Poison,
        stream: &mut RandomStream,
    ) -> JudgeResult<()> {
        let started = Instant::now();
        let copies = kernels.candidate.kernel.launched_copies().to_vec();
        kernels.candidate.check_guards(&[])?;
        let with_oracle = self.has_time_for_oracle();
        let checked = if with_oracle {
            self.compare_with_oracle(kernels, seed, poison, &copies, stream)
        } else {
            self.compare_with_opponent(kernels, &copies, seed)
        };
        self.runs.timed += copies.len() as u64;
        checked.map_err(during_timing)?;
        if with_oracle {
            self.oracle_check += started.elapsed();
        } else {
            self.opponent_check += started.elapsed();
        }
        kernels.candidate.check_state()?;
        Ok(())
    }

    /// Checks the candidate's outputs of a surprise sample: of the last run, and of others.
    pub(super) fn check_surprise_sample(
        &mut self,
        kernels: &mut KernelSet,
        seed: u64,
        stream: &mut RandomStream,
    ) -> JudgeResult<()> {
        let launched = &kernels.candidate.kernel;
        let (last, copies) = (launched.last_copy(), launched.launched_copies().to_vec());
        let mut chosen = copies.clone();
        stream.shuffle(&mut chosen);
        chosen.sort_by_key(|copy| Some(*copy) != last);
        chosen.extend_from_slice(&copies.repeat(self.oracle_copies));
        chosen.truncate(self.oracle_copies);
        let started = Instant::now();
        let expected = kernels.expected(seed, &chosen)?;
        self.oracle_launch += started.elapsed();
        self.computed_copies += chosen.len() as u32;
        let compared = kernels.compare(Side::Candidate, &expected, &chosen, seed);
        self.oracle_check += started.elapsed();
        compared.map_err(during_timing)?;
        Ok(())
    }

    /// Whether this pair, or a surprise sample, is compared with the oracle.
    pub(super) fn has_time_for_oracle(&self) -> bool {
        let spent = self.oracle_check.as_secs_f64();
        self.checks_every_pair || spent <= ORACLE_CHECK_SHARE * self.started.elapsed().as_secs_f64()
    }

    /// Compares the candidate's outputs with the opponent's, which is correct and had the same inputs. Only if the oracle is so
    /// slow that few pairs are compared with it: otherwise most timed runs would be unchecked.
    fn compare_with_opponent(
        &mut self,
        kernels: &KernelSet,
        copies: &[u32],
        seed: u64,
    ) -> JudgeResult<()> {
        let is_oracle_slow = 2 * self.oracle_launch >= self.oracle_check;
        let spent = self.opponent_check.as_secs_f64();
        let limit = OPPONENT_CHECK_SHARE * self.started.elapsed().as_secs_f64();
        if !is_oracle_slow || spent > limit {
            return Ok(());
        }
        let shared = shared_copies(kernels, copies)?;
        self.compare_sides(kernels, shared, seed)
    }

    /// Compares the candidate's outputs with the opponent's, in copies that both have computed.
    fn compare_sides(
        &mut self,
        kernels: &KernelSet,
        shared: Vec<u32>,
        seed: u64,
    ) -> JudgeResult<()> {
        if shared.is_empty() || !self.compares_sides {
            return Ok(());
        }
        let compared = kernels.compare_sides(&shared, seed);
        if compared.is_err() {
            self.differing = shared;
        }
        compared
    }

    /// Checks with the oracle that the opponent is right, where the candidate differs from it.
    ///
    /// # Errors
    /// [`OpponentFailed`] if it is wrong, so that the candidate may be right.
    pub(super) fn check_differing(
        &mut self,
        kernels: &mut KernelSet,
        seed: u64,
    ) -> JudgeResult<()> {
        let copies = std::mem::take(&mut self.differing);
        let mut copies = copies.into_iter();
        let Some(copy) = copies.find(|copy| kernels.compare_sides(&[*copy], seed).is_err()) else {
            return Ok(());
        };
        let copies = vec![copy; self.oracle_copies.max(1)];
        let expected = kernels.expected(seed, &copies)?;
        match kernels.compare(Side::Opponent, &expected, &copies, seed) {
            Ok(_) => Ok(()),
            Err(error) => Err(OpponentFailed(error.into_finding()?.reason).into()),
        }
    }

    /// Compares some copies of the candidate, chosen at random, with the oracle, and the other copies with the opponent.
    fn compare_with_oracle(
        &mut self,
        kernels: &mut KernelSet,
        seed: u64,
        poison: Poison,
        copies: &[u32],
        stream: &mut RandomStream,
    ) -> JudgeResult<()> {
        let shared = shared_copies(kernels, copies)?;
        let chosen = self.choose_copies(copies, &shared, stream);
        let started = Instant::now();
        let expected = kernels.expected(seed, &chosen)?;
        self.oracle_launch += started.elapsed();
        self.computed_copies += chosen.len() as u32;
        self.runs.compared += chosen.len().min(copies.len()) as u64;
        // The oracle has the same inputs, and only the judge can write to its memory.
        let untouched = kernels.oracle.input_hashes_by_name()?;
        let candidate = &kernels.candidate;
        candidate.check_inputs_unchanged(&untouched, &chosen)?;
        kernels.compare(Side::Candidate, &expected, &chosen, seed)?;
        let positions: Vec<usize> = (0..chosen.len())
            .filter(|position| shared.contains(&chosen[*position]))
            .collect();
        // A kernel is known to be correct, so an occasional check is enough. Python was compared before: it may be outside the tolerance.
        let is_due = self.checks_every_pair || stream.below(OCCASIONAL) == 0;
        if is_due && self.compares_sides && !positions.is_empty() {
            let copies: Vec<u32> = positions.iter().map(|position| chosen[*position]).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|all| all.select_copies(&positions))
                .collect();
            let compared = kernels.compare(Side::Opponent, &expected, &copies, seed);
            if let Err(error) = compared {
                let reason = error.into_finding()?.reason;
                return Err(OpponentFailed(reason).into());
            }
        }
        if copies.len() <= self.oracle_copies {
            return Ok(());
        }
        // The opponent did not run on all copies. In the others, a whole output cannot hold its poison by chance.
        if shared.len() < copies.len() {
            kernels.candidate.check_mostly_written(poison)?;
        }
        self.compare_sides(kernels, shared, seed)
    }

    /// Chooses the copies that are compared with the oracle: as many as it computes at once.
    fn choose_copies(&self, copies: &[u32], shared: &[u32], stream: &mut RandomStream) -> Vec<u32> {
        let mut chosen = copies.to_vec();
        stream.shuffle(&mut chosen);
        // Include a copy that the opponent ran on, so that the opponent is checked too. But if only one copy is compared, do so
        // only occasionally: otherwise all other copies would never be compared.
        if let Some(copy) = shared.get(stream.below(shared.len().max(1)))
            && (self.oracle_copies > 1 || stream.below(OCCASIONAL) == 0)
        {
            chosen.retain(|other| other != copy);
            chosen.insert(0, *copy);
        }
        chosen.extend_from_slice(&copies.repeat(self.oracle_copies));
        chosen.truncate(self.oracle_copies);
        chosen
    }
}

fn during_timing(error: JudgeError) -> JudgeError {
    error.map_finding(|mut finding| {
        finding.reason = format!("during timing: {}", finding.reason);
        finding
    })
}

/// The copies that both kernels ran on.
fn shared_copies(kernels: &KernelSet, copies: &[u32]) -> anyhow::Result<Vec<u32>> {
    let opponent = kernels.side(Side::Opponent)?.kernel.launched_copies();
    let shared = copies.iter().filter(|copy| opponent.contains(copy));
    Ok(shared.copied().collect())
}
