//! What a model is asked: of which kernels, which model, which card, and what it is shown.
//!
//! Pure: everything follows from the state of the fold and the step's stream, and all of it goes into the brief.

use std::collections::{HashMap, HashSet};

use super::ledger::StepOutcome;
use super::planner::SearchView;
use super::settings::SearchSettings;
use crate::base::RandomStream;
use crate::event::{Brief, ContextKernels, ModelBrief, Operator};
use crate::verdict::Status;

/// The models of a search, and the cards that they may be handed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelPool {
    /// Name and weight.
    pub models: Vec<(String, f64)>,
    /// Names of strategy cards.
    pub cards: Vec<String>,
}

/// How far back recent kernels, failures and kernels to mend are looked for.
const MAX_LOOK_BACK: u64 = 256;

/// The chance that a question to write or to edit comes with a card.
const CARD_CHANCE: f64 = 0.5;

/// What was asked of models so far, as far as it bears on what to ask next.
#[derive(Debug, Default)]
pub(super) struct ModelHistory {
    /// How often a kernel was given back to be mended.
    repair_counts: HashMap<u64, u64>,
    /// Steps in a row, up to the last, that brought nothing that passes.
    failures_in_a_row: u64,
    /// The last kernel that did not pass, since one did or the best was taken up again; `tune` mends it.
    last_broken: Option<u64>,
}

impl ModelHistory {
    pub(super) fn record_brief(&mut self, brief: &Brief) {
        if let (Operator::Repair, Some(parent)) = (brief.operator, brief.parents.first()) {
            *self.repair_counts.entry(*parent).or_default() += 1;
        }
    }

    /// Takes note of what became of a step. After every `search.back_after` failures in a row what is broken is let go.
    pub(super) fn record_outcome(
        &mut self,
        step: u64,
        outcome: &StepOutcome,
        settings: &SearchSettings,
    ) {
        match outcome {
            StepOutcome::Passed { .. } => {
                (self.failures_in_a_row, self.last_broken) = (0, None);
                return;
            }
            StepOutcome::NotPassed(status) => {
                self.last_broken = is_repairable(*status).then_some(step)
            }
            StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => {}
        }
        self.failures_in_a_row += 1;
        if self
            .failures_in_a_row
            .is_multiple_of(settings.back_after.max(1))
        {
            self.last_broken = None;
        }
    }

    /// `tune`: the operator and the kernel it is for. Correctness first: what does not pass is mended; else the best is edited, or
    /// a kernel asked for where nothing has passed yet.
    pub(super) fn next_tuning_operator(&self, view: &SearchView<'_>) -> (Operator, Vec<u64>) {
        let best = view.archive.elites().first().map(|elite| elite.step);
        match (self.last_broken, best) {
            (Some(step), _) => (Operator::Repair, vec![step]),
            (None, Some(best)) => (Operator::Edit, vec![best]),
            (None, None) => (Operator::Propose, Vec::new()),
        }
    }

    /// The kernel to mend: of the last that did not pass, the ones that came last by far the likeliest.
    pub(super) fn choose_kernel_to_repair(
        &self,
        view: &SearchView<'_>,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        let fits = |step: &u64| {
            let asked = self.repair_counts.get(step).copied().unwrap_or(0);
            let outcome = view.ledger.get(*step).map(|record| record.outcome);
            asked < view.settings.repairs
                && matches!(outcome, Some(StepOutcome::NotPassed(status)) if is_repairable(status))
        };
        let near: Vec<u64> = recent_steps(view).filter(fits).take(8).collect();
        let weights: Vec<f64> = (0..near.len())
            .map(|rank| 0.5_f64.powi(i32::try_from(rank).unwrap_or(0)))
            .collect();
        near.get(stream.weighted_index(&weights)?).copied()
    }
}

/// Whether there is something in it that a model could mend.
fn is_repairable(status: Status) -> bool {
    !matches!(
        status,
        Status::HarnessError | Status::Inconclusive | Status::Passed | Status::Unsupported
    )
}

/// The steps behind the fold, the last first.
fn recent_steps(view: &SearchView<'_>) -> impl Iterator<Item = u64> {
    let last = view.ledger.last();
    (last.saturating_sub(MAX_LOOK_BACK) + 1..=last).rev()
}

/// What goes to a model beside the parents.
pub(super) fn choose_model_brief(
    view: &SearchView<'_>,
    operator: Operator,
    parents: &[u64],
    stream: &mut RandomStream,
) -> Option<ModelBrief> {
    let weights: Vec<f64> = view
        .model_pool
        .models
        .iter()
        .map(|(_, weight)| *weight)
        .collect();
    let (name, _) = view
        .model_pool
        .models
        .get(stream.weighted_index(&weights)?)?;
    let cards = &view.model_pool.cards;
    let tries = !matches!(operator, Operator::Repair | Operator::Crossover);
    let card = (tries && !cards.is_empty() && stream.uniform() < CARD_CHANCE)
        .then(|| cards[stream.below(cards.len())].clone());
    Some(ModelBrief {
        name: name.clone(),
        card,
        known: view.ledger.last(),
        context: choose_context(view, parents, stream),
    })
}

/// A third of what is shown are the fastest, a quarter others of other kinds, a quarter the last that passed, the rest failures.
fn choose_context(
    view: &SearchView<'_>,
    parents: &[u64],
    stream: &mut RandomStream,
) -> ContextKernels {
    let most = usize::try_from(view.settings.context).unwrap_or(usize::MAX);
    let (fastest, quarter) = (most.div_ceil(3), most / 4);
    let mut shown: HashSet<u64> = parents.iter().copied().collect();
    let mut context = ContextKernels::default();
    let ranked = view.archive.elites();
    for elite in ranked {
        if context.elites.len() >= fastest {
            break;
        }
        if shown.insert(elite.step) {
            context.elites.push(elite.step);
        }
    }
    // More draws than places, since some fall on what is shown already.
    for _ in 0..quarter * 2 {
        if context.different.len() >= quarter || ranked.is_empty() {
            break;
        }
        let step = ranked[stream.below(ranked.len())].step;
        if shown.insert(step) {
            context.different.push(step);
        }
    }
    let left = most - fastest - quarter;
    for step in recent_steps(view) {
        let outcome = view.ledger.get(step).map(|record| record.outcome);
        let (list, places) = match outcome {
            Some(StepOutcome::Passed { .. }) => (&mut context.recent, quarter),
            Some(StepOutcome::NotPassed(status)) if is_repairable(status) => {
                (&mut context.failures, left - quarter.min(left))
            }
            _ => continue,
        };
        if list.len() < places && shown.insert(step) {
            list.push(step);
        }
    }
    context
}
