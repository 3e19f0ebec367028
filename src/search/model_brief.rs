//! What a brief says to a model: the operator and its parents, which model, which strategy card, which kernels are shown.
//!
//! Decided from the fold and the random stream of the step only, and recorded in the brief. Renders no prompt: that is
//! `propose::prompt`.

use std::collections::{HashMap, HashSet};

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
}

impl ModelHistory {
    /// Records that a brief was decided.
    pub(super) fn record_brief(&mut self, brief: &Brief) {
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

/// The folded steps, the latest first.
fn recent_steps(view: &SearchView<'_>) -> impl Iterator<Item = u64> {
    let latest = view.ledger.latest_of(view.ledger.folded());
    latest.take(MAX_LOOK_BACK)
}

/// What a model gets besides the parents. `None` if there is no model.
pub(super) fn choose_model_brief(
    view: &SearchView<'_>,
    credit: &Credit,
    operator: Operator,
    parents: &[u64],
    stream: &mut RandomStream,
) -> Option<ModelBrief> {
    let models = view.model_pool.models.iter();
    let models: Vec<_> = models
        .map(|(name, weight)| (name, weight * credit.model(name, view.settings)))
        .collect();
    let weights: Vec<f64> = models.iter().map(|(_, weight)| *weight).collect();
    let (name, _) = *models.get(stream.weighted_index(&weights)?)?;
    // Repairs and crossovers already have a specific goal, so they get no card.
    let takes_card = !matches!(operator, Operator::Repair | Operator::Crossover);
    let card = takes_card
        .then(|| choose_card(view, credit, stream))
        .flatten();
    Some(ModelBrief {
        name: name.clone(),
        card,
        known: view.ledger.folded(),
        context: choose_context(view, parents, stream),
    })
}

/// A strategy card, or none. Before there is evidence all cards together are as likely as none.
fn choose_card(
    view: &SearchView<'_>,
    credit: &Credit,
    stream: &mut RandomStream,
) -> Option<String> {
    let cards = &view.model_pool.cards;
    let none = cards.len() as f64 * credit.card(None, view.settings);
    let each = cards
        .iter()
        .map(|card| credit.card(Some(card), view.settings));
    let weights: Vec<f64> = each.chain([none]).collect();
    cards.get(stream.weighted_index(&weights)?).cloned()
}

/// The kernels to show: a third are the fastest, a quarter are random elites, a quarter are the latest that passed, and the rest
/// are failures.
fn choose_context(
    view: &SearchView<'_>,
    parents: &[u64],
    stream: &mut RandomStream,
) -> ContextKernels {
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
    // Some draws hit a kernel that is already shown, so there are twice as many as needed.
    for _ in 0..quarter * 2 {
        if context.different.len() >= quarter || ranked.is_empty() {
            break;
        }
        let step = ranked[stream.below(ranked.len())].step;
        if shown.insert(step) {
            context.different.push(step);
        }
    }
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
