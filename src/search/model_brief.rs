//! What a brief says to a model: the operator and its parents, which model, which strategy card, which kernels are shown.
//!
//! Decided from the fold and the random stream of the step only, and recorded in the brief. Renders no prompt: that is
//! `propose::prompt`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::archive::Elite;
use super::credit::Credit;
use super::ledger::StepOutcome;
use super::settings::SearchSettings;
use super::view::SearchView;
use crate::base::RandomStream;
use crate::event::{Brief, ContextKernels, ModelBrief, Operator};
use crate::verdict::Status;

/// How many steps back recent kernels, failures and kernels to repair are looked for.
const MAX_LOOK_BACK: usize = 256;

/// How many of the latest broken kernels are candidates for a repair.
const MAX_REPAIR_CANDIDATES: usize = 8;

/// The part of the history that decides the next brief to a model.
#[derive(Debug, Default)]
pub(super) struct ModelHistory {
    /// How often each step was given to a model for repair.
    repair_counts: HashMap<u64, u64>,
    /// How many steps in a row, up to the last, brought no kernel that passes.
    failures_in_a_row: u64,
    /// The kernel that `tune` repairs next: the last that did not pass, unless a later one passed or the search restarted from
    /// the best.
    last_broken: Option<u64>,
    /// Operator, parents and card of each step that asks a model and has no outcome yet.
    in_progress: BTreeMap<u64, AskedWith>,
}

/// What distinguishes the prompts of steps that a search decides before it learns anything new.
type AskedWith = (Operator, Vec<u64>, Option<String>);

impl ModelHistory {
    /// The cards of steps in progress with this operator and these parents; `None` stands for no card.
    pub(super) fn cards_in_progress(
        &self,
        operator: Operator,
        parents: &[u64],
    ) -> Vec<Option<String>> {
        let steps = self.in_progress.values();
        let same = steps.filter(|(other, of, _)| (*other, &of[..]) == (operator, parents));
        same.map(|(.., card)| card.clone()).collect()
    }

    /// Records that a brief was decided.
    pub(super) fn record_brief(&mut self, brief: &Brief) {
        if let Some(model) = &brief.model {
            let asked = (brief.operator, brief.parents.clone(), model.card.clone());
            self.in_progress.insert(brief.step, asked);
        }
        if let (Operator::Repair, Some(parent)) = (brief.operator, brief.parents.first()) {
            *self.repair_counts.entry(*parent).or_default() += 1;
        }
    }

    /// Records the outcome of a step. After every `search.restart_after` failures in a row the broken kernel is given up.
    pub(super) fn record_outcome(
        &mut self,
        step: u64,
        outcome: &StepOutcome,
        settings: &SearchSettings,
    ) {
        self.in_progress.remove(&step);
        match outcome {
            StepOutcome::Passed { .. } | StepOutcome::PassedBefore => {
                self.failures_in_a_row = 0;
                self.last_broken = None;
                return;
            }
            StepOutcome::NotPassed(status) => {
                self.last_broken = is_repairable(*status).then_some(step);
            }
            StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => {}
        }
        self.failures_in_a_row += 1;
        let restart_after = settings.restart_after.max(1);
        if self.failures_in_a_row.is_multiple_of(restart_after) {
            self.last_broken = None;
        }
    }

    /// The next operator of `tune`, and its parent. Correctness comes first: a broken kernel is repaired. Otherwise the best is
    /// edited, or a new kernel proposed while nothing has passed.
    pub(super) fn next_tuning_operator(&self, view: &SearchView<'_>) -> (Operator, Vec<u64>) {
        let best = view.archive.elites().first().map(|elite| elite.step);
        match (self.last_broken, best) {
            (Some(step), _) => (Operator::Repair, vec![step]),
            (None, Some(best)) => (Operator::Edit, vec![best]),
            (None, None) => (Operator::Propose, Vec::new()),
        }
    }

    /// The kernel that `evolve` repairs: one of the latest that did not pass, each half as likely as the one after it. A kernel
    /// is given to a model at most `search.repairs` times.
    pub(super) fn choose_kernel_to_repair(
        &self,
        view: &SearchView<'_>,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        let fits = |step: &u64| {
            let repairs = self.repair_counts.get(step).copied().unwrap_or(0);
            let outcome = view.ledger.get(*step).map(|record| record.outcome);
            let is_broken =
                matches!(outcome, Some(StepOutcome::NotPassed(status)) if is_repairable(status));
            repairs < view.settings.repairs && is_broken
        };
        let latest: Vec<u64> = recent_steps(view)
            .filter(fits)
            .take(MAX_REPAIR_CANDIDATES)
            .collect();
        let weights: Vec<f64> = (0..latest.len())
            .map(|rank| 0.5_f64.powi(i32::try_from(rank).unwrap_or(0)))
            .collect();
        latest.get(stream.weighted_index(&weights)?).copied()
    }
}

/// Whether the kernel has a fault that a model can repair.
fn is_repairable(status: Status) -> bool {
    !matches!(
        status,
        Status::HarnessError | Status::Inconclusive | Status::Passed | Status::Unsupported
    )
}

/// The folded steps, the latest first; on an island its own steps only.
fn recent_steps(view: &SearchView<'_>) -> impl Iterator<Item = u64> {
    let latest = view.ledger.latest_of(view.ledger.folded());
    let is_own = |step: &u64| {
        let record = view.ledger.get(*step);
        view.island.is_none() || record.is_some_and(|record| record.island == view.island)
    };
    latest.filter(is_own).take(MAX_LOOK_BACK)
}

/// What a model is asked for.
pub(super) struct ModelChoice<'c> {
    pub(super) credit: &'c Credit,
    pub(super) operator: Operator,
    pub(super) parents: &'c [u64],
    /// The cards of steps in progress that ask for the same.
    pub(super) taken: &'c [Option<String>],
}

/// What a model gets besides the parents. `None` if there is no model.
pub(super) fn choose_model_brief(
    view: &SearchView<'_>,
    choice: &ModelChoice<'_>,
    stream: &mut RandomStream,
) -> Option<ModelBrief> {
    let ModelChoice {
        credit,
        operator,
        parents,
        ..
    } = *choice;
    let models = view.model_pool.models.iter();
    let models: Vec<_> = models
        .map(|(name, weight)| (name, weight * credit.model(name, view.settings)))
        .collect();
    let weights: Vec<f64> = models.iter().map(|(_, weight)| *weight).collect();
    let (name, _) = *models.get(stream.weighted_index(&weights)?)?;
    // Repairs and crossovers already have a specific goal, so they get no card.
    let takes_card = !matches!(operator, Operator::Repair | Operator::Crossover);
    let card = takes_card
        .then(|| choose_card(view, choice, stream))
        .flatten();
    Some(ModelBrief {
        name: name.clone(),
        card,
        known: view.ledger.folded(),
        context: choose_context(view, parents),
    })
}

/// A strategy card, or none. Before there is evidence all cards together are as likely as none. Not what a step in progress has that asks
/// for the same: its prompt would hardly differ.
fn choose_card(
    view: &SearchView<'_>,
    choice: &ModelChoice<'_>,
    stream: &mut RandomStream,
) -> Option<String> {
    let (cards, credit) = (&view.model_pool.cards, choice.credit);
    let none = cards.len() as f64 * credit.card(None, view.settings);
    let each = cards
        .iter()
        .map(|card| credit.card(Some(card), view.settings));
    let weights: Vec<f64> = each.chain([none]).collect();
    let is_taken = |index: usize| {
        choice
            .taken
            .iter()
            .any(|card| card.as_ref() == cards.get(index))
    };
    let free = weights.iter().enumerate();
    let mut free: Vec<f64> = free
        .map(|(index, weight)| if is_taken(index) { 0.0 } else { *weight })
        .collect();
    if free.iter().all(|weight| *weight <= 0.0) {
        free = weights;
    }
    cards.get(stream.weighted_index(&free)?).cloned()
}

/// The kernels to show: a third are the fastest, a quarter are elites that differ most from these and the parents, a quarter are the
/// latest that passed, and the rest are failures.
fn choose_context(view: &SearchView<'_>, parents: &[u64]) -> ContextKernels {
    let max = usize::try_from(view.settings.context).unwrap_or(usize::MAX);
    let (third, quarter) = (max.div_ceil(3), max / 4);
    let max_failures = (max - third - quarter).saturating_sub(quarter);
    let mut shown: HashSet<u64> = parents.iter().copied().collect();
    let mut context = ContextKernels::default();
    let ranked = view.archive.elites();
    for elite in ranked {
        if context.elites.len() >= third {
            break;
        }
        if shown.insert(elite.step) {
            context.elites.push(elite.step);
        }
    }
    context.different = most_different(view, &mut shown, quarter);
    for step in recent_steps(view) {
        let outcome = view.ledger.get(step).map(|record| record.outcome);
        let (list, max) = match outcome {
            Some(outcome) if outcome.is_complete_pass() => (&mut context.recent, quarter),
            Some(StepOutcome::NotPassed(status)) if is_repairable(status) => {
                (&mut context.failures, max_failures)
            }
            _ => continue,
        };
        if list.len() < max && shown.insert(step) {
            list.push(step);
        }
    }
    context
}

/// How many of the fastest elites are compared for the most different ones. A slower kernel shows a model little.
const MAX_COMPARED: usize = 64;

/// The elites whose cells are farthest from those of the kernels that are shown, one after the other, and of equals the fastest. Adds
/// them to `shown`.
fn most_different(view: &SearchView<'_>, shown: &mut HashSet<u64>, count: usize) -> Vec<u64> {
    let archive = view.archive;
    let ranked = &archive.elites()[..archive.elites().len().min(MAX_COMPARED)];
    let distances = |from: &Elite| -> Vec<f64> {
        let to = ranked.iter();
        to.map(|elite| archive.distance(&from.cell, &elite.cell))
            .collect()
    };
    // The distance of each elite from the nearest one that is shown.
    let mut nearest = vec![f64::INFINITY; ranked.len()];
    let approach = |nearest: &mut Vec<f64>, to: Vec<f64>| {
        for (distance, to) in nearest.iter_mut().zip(to) {
            *distance = distance.min(to);
        }
    };
    for elite in archive
        .elites()
        .iter()
        .filter(|elite| shown.contains(&elite.step))
    {
        approach(&mut nearest, distances(elite));
    }
    let mut different = Vec::new();
    while different.len() < count {
        let free = (ranked.iter().zip(&nearest)).filter(|(elite, _)| !shown.contains(&elite.step));
        // `max_by` returns the last of equals, so the order is reversed.
        let free: Vec<_> = free.collect();
        let farthest = free
            .into_iter()
            .rev()
            .max_by(|one, other| one.1.total_cmp(other.1));
        let Some((elite, _)) = farthest else {
            break;
        };
        shown.insert(elite.step);
        different.push(elite.step);
        approach(&mut nearest, distances(elite));
    }
    different
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::search::archive::Archive;
    use crate::search::families::Families;
    use crate::search::ledger::Ledger;
    use crate::search::near_copies::NearCopies;
    use crate::search::view::ModelPool;
    use crate::verdict::Speedup;

    #[test]
    fn the_most_different_kernels_are_the_farthest_from_what_is_shown() {
        let settings = SearchSettings {
            features: [
                ("block_threads".to_owned(), vec![64.0, 128.0, 256.0, 512.0]),
                ("barriers".to_owned(), vec![1.0]),
            ]
            .into(),
            ..SearchSettings::default()
        };
        let mut archive = Archive::new(&settings.features);
        // Step, threads and barriers; the later, the slower.
        for (step, threads, barriers) in [
            (1, 32.0, 0.0),
            (2, 64.0, 0.0),
            (3, 512.0, 0.0),
            (4, 32.0, 2.0),
            (5, 512.0, 2.0),
        ] {
            let geomean = 10.0 - step as f64;
            let speedup = Speedup {
                geomean,
                ci95: [geomean; 2],
            };
            let features: IndexMap<String, f64> = [
                ("block_threads".to_owned(), threads),
                ("barriers".to_owned(), barriers),
            ]
            .into();
            let cell = archive.cell_of(&features, &speedup);
            archive.insert(Elite {
                step,
                cell,
                speedup,
            });
        }
        let (ledger, families) = (Ledger::default(), Families::default());
        let view = SearchView {
            settings: &settings,
            seed: 1,
            starting_kernels: &[],
            archive: &archive,
            island: None,
            ledger: &ledger,
            families: &families,
            near_copies: &NearCopies::default(),
            model_pool: &ModelPool::default(),
        };
        let different = |shown: &[u64], count| {
            let mut shown: HashSet<u64> = shown.iter().copied().collect();
            most_different(&view, &mut shown, count)
        };
        assert_eq!(different(&[1], 1), [5], "it differs in both features");
        // Then the faster of two that are as far from the nearest.
        assert_eq!(different(&[1], 2), [5, 3]);
        assert_eq!(different(&[1], 9).len(), 4);
        assert_eq!(different(&[], 1), [1], "nothing is shown: the fastest");
        assert!(different(&[1, 2, 3, 4, 5], 3).is_empty());
    }
}
