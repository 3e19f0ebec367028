//! What is measured again at the end of a run: the elites to confirm, the best kernel, and its comparison with a starting kernel.
//!
//! These results affect what is reported, never the briefs: a run that is extended after its end gets the same briefs.

use std::sync::Arc;

use super::Search;
use super::archive::{Archive, Elite};
use super::ledger::StepOutcome;
use super::pending::valid_speedup;
use super::updates::{Confirmation, DuelRequest, SearchUpdate};
use crate::event::{Compared, Confirmed, Operator, StrongestCompared};
use crate::verdict::{Duel, Status, VerdictSummary};

impl Search {
    /// The fastest elite by its estimate, without those that a confirmation refuted.
    pub(crate) fn best(&self) -> Option<&Elite> {
        self.unrefuted_elites().next()
    }

    /// The elites that no confirmation has refuted, fastest first.
    pub(crate) fn unrefuted_elites(&self) -> impl Iterator<Item = &Elite> {
        self.unrefuted(&self.archive)
    }

    /// The elites of an archive that no confirmation has refuted, fastest first.
    pub(super) fn unrefuted<'s>(&'s self, archive: &'s Archive) -> impl Iterator<Item = &'s Elite> {
        let elites = archive.elites().iter();
        elites.filter(|elite| {
            let confirmation = self.confirmations.get(&elite.step);
            !confirmation.is_some_and(Confirmation::refutes)
        })
    }

    /// The best kernel: of those that are confirmed to be faster than the baseline, the fastest by its confirmation, and of equals the
    /// earliest.
    pub(crate) fn best_confirmed(&self) -> Option<&Confirmation> {
        let speed = |confirmation: &Confirmation| {
            confirmation
                .speedup
                .map_or(f64::NEG_INFINITY, |speedup| speedup.geomean)
        };
        // `max_by` returns the last of equals, so the order is reversed.
        let confirmed = self.confirmations.values().rev();
        let faster = confirmed.filter(|one| {
            one.speedup.is_some_and(|speedup| speedup.is_faster()) && !self.is_baseline(one.step)
        });
        faster.max_by(|one, other| speed(one).total_cmp(&speed(other)))
    }

    /// The kernels that are confirmed to be faster than the baseline, the fastest first; of equals the earliest.
    pub(crate) fn confirmed_faster(&self) -> Vec<&Confirmation> {
        let geomean = |one: &Confirmation| one.speedup.map_or(0.0, |speedup| speedup.geomean);
        let is_faster = |one: &&Confirmation| {
            one.speedup.is_some_and(|speedup| speedup.is_faster()) && !self.is_baseline(one.step)
        };
        let mut faster: Vec<_> = self.confirmations.values().filter(is_faster).collect();
        // The sort is stable.
        faster.sort_by(|one, other| geomean(other).total_cmp(&geomean(one)));
        faster
    }

    /// Whether a step has the source of the baseline. Its interval is above 1 in one of forty measurements.
    pub(crate) fn is_baseline(&self, step: u64) -> bool {
        let baseline = self.baseline.as_ref();
        baseline.is_some_and(|baseline| self.ledger.step_of_kernel(baseline) == Some(step))
    }

    pub(crate) fn confirmation(&self, step: u64) -> Option<&Confirmation> {
        self.confirmations.get(&step)
    }

    /// How many of the elites that may be confirmed (`search.confirm`) may be the best kernel by the figures of the search; at least 1.
    pub(crate) fn possible_bests(&self) -> u32 {
        let mut elites = self.unrefuted_elites();
        let Some(first) = elites.next() else {
            return 1;
        };
        let others = elites.filter(|elite| elite.speedup.ci95[1] >= first.speedup.ci95[0]);
        let most = self.settings.confirm.max(1) as usize;
        1 + others.take(most - 1).count() as u32
    }

    /// The elites to confirm next, fastest first: enough that `search.confirm` of them can pass. An elite that is surely slower than
    /// the baseline cannot be the best kernel: it is confirmed only if there is no faster one to report. Once a best kernel is known,
    /// an elite whose whole interval is below that of the best kernel cannot replace it, and is not confirmed.
    ///
    /// Call it again after the `confirmed` events of these steps. A `harness_error` confirms nothing, so the list need not become
    /// empty after one.
    pub(crate) fn steps_to_confirm(&self) -> Vec<u64> {
        let mut wanted = self.settings.confirm as usize;
        let best = self.best_confirmed().and_then(|best| best.speedup);
        let cannot_be_best =
            |elite: &Elite| best.is_some_and(|best| elite.speedup.ci95[1] < best.ci95[0]);
        let mut has_faster = false;
        let mut steps = Vec::new();
        for elite in self.archive.elites() {
            if wanted == 0 {
                break;
            }
            match self.confirmations.get(&elite.step) {
                Some(confirmation) if confirmation.refutes() => continue,
                // Too noisy: another takes its place.
                Some(confirmation) if confirmation.speedup.is_none() => {}
                Some(_) => wanted -= 1,
                None if has_faster && elite.speedup.is_slower() => {}
                None if cannot_be_best(elite) => {}
                None => {
                    steps.push(elite.step);
                    wanted -= 1;
                }
            }
            has_faster = true;
        }
        steps
    }

    /// Forgets the confirmations that were too noisy, so that they are tried again, unless a kernel is confirmed to be faster than the
    /// baseline. How noisy a measurement is does not depend on its result, so this favours no kernel.
    pub(crate) fn retry_noisy_confirmations(&mut self) {
        if self.best_confirmed().is_none() {
            self.confirmations
                .retain(|_, confirmation| confirmation.speedup.is_some() || confirmation.refutes());
        }
    }

    /// The comparison that is still to be made: the best kernel against the best starting kernel. `None` if it is made, if there is no
    /// best kernel, or if that is a starting kernel itself.
    pub(crate) fn comparison_to_make(&self) -> Option<DuelRequest> {
        self.wanted_comparison()
            .filter(|request| !self.comparisons.contains_key(request))
    }

    /// The comparison of the best kernel with the best starting kernel, if it was made. The inner `None`: it was made without a result.
    pub(crate) fn comparison(&self) -> Option<(DuelRequest, Option<Duel>)> {
        let request = self.wanted_comparison()?;
        let duel = self.comparisons.get(&request)?;
        Some((request, *duel))
    }

    fn wanted_comparison(&self) -> Option<DuelRequest> {
        let best = self.best_confirmed()?.step;
        let is_start = |step| {
            let record = self.record(step);
            record.is_some_and(|record| record.operator == Operator::Start)
        };
        if is_start(best) {
            return None;
        }
        let starts = (1..=self.starting_kernels.len() as u64).filter(|step| is_start(*step));
        // A dismissed starting kernel was surely slower than another kernel.
        let passed = starts.filter_map(|step| match self.record(step)?.outcome {
            outcome @ StepOutcome::Passed { speedup, .. } if outcome.is_complete_pass() => {
                Some((step, speedup))
            }
            _ => None,
        });
        let passed = passed.filter(|(step, _)| {
            let confirmation = self.confirmations.get(step);
            !confirmation.is_some_and(Confirmation::refutes)
        });
        // Of equals the earliest.
        let fastest =
            passed.max_by(|one, other| one.1.total_cmp(&other.1).then(other.0.cmp(&one.0)));
        fastest.map(|(against, _)| DuelRequest {
            step: best,
            against,
        })
    }

    /// The best kernel, if it was not timed against the strongest baselines yet.
    pub(crate) fn step_without_strongest(&self) -> Option<u64> {
        let best = self.best_confirmed()?.step;
        (!self.beside_strongest.contains_key(&best)).then_some(best)
    }

    /// A kernel beside the strongest baselines, if it was timed against them.
    pub(crate) fn beside_strongest(&self, step: u64) -> Option<&StrongestCompared> {
        self.beside_strongest.get(&step)
    }

    pub(super) fn record_strongest(&mut self, compared: &StrongestCompared) {
        self.beside_strongest
            .insert(compared.step, compared.clone());
    }

    pub(super) fn record_comparison(&mut self, compared: &Compared) {
        let request = DuelRequest {
            step: compared.step,
            against: compared.against,
        };
        self.comparisons.insert(request, compared.duel);
    }

    pub(super) fn record_confirmation(
        &mut self,
        confirmed: &Confirmed,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let (step, verdict) = (confirmed.step, &confirmed.verdict);
        if verdict.status == Status::HarnessError {
            updates.push(SearchUpdate::HarnessError { step });
            return;
        }
        let summary = VerdictSummary::from(verdict);
        let speedup = valid_speedup(&summary).filter(|_| !summary.is_dismissed());
        self.confirmations.insert(
            step,
            Confirmation {
                step,
                speedup,
                verdict: Arc::new(verdict.clone()),
            },
        );
        let mut elites = self.archive.elites().iter();
        let elite = elites.find(|elite| elite.step == step);
        updates.push(SearchUpdate::Confirmed {
            step,
            passed: speedup.is_some(),
            searched: elite.map(|elite| elite.speedup),
        });
    }
}
