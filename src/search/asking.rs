//! What a model is asked: of which kernels, which model, which card, and what it is shown.
//!
//! Pure: everything follows from the state of the fold and the step's stream, and all of it goes into the brief.

use std::collections::{HashMap, HashSet};

use super::ledger::Outcome;
use super::plan::View;
use super::settings::Settings;
use crate::base::Stream;
use crate::event::{Asking, Brief, Context, Operator};
use crate::verdict::Status;

/// The models of a search, and the cards that they may be handed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Askable {
    /// Name and weight.
    pub models: Vec<(String, f64)>,
    /// Names of strategy cards.
    pub cards: Vec<String>,
}

/// How far back recent kernels, failures and kernels to mend are looked for.
const LOOKED_BACK: u64 = 256;

/// The chance that a question to write or to edit comes with a card.
const CARDS: f64 = 0.5;

/// What was asked of models so far, as far as it bears on what to ask next.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// How often a kernel was given back to be mended.
    repairs: HashMap<u64, u64>,
    /// Steps in a row, up to the last, that brought nothing that passes.
    failures: u64,
    /// The last kernel that did not pass, since one did or the best was taken up again; `tune` mends it.
    broken: Option<u64>,
}

impl Asked {
    pub(super) fn note(&mut self, brief: &Brief) {
        if let (Operator::Repair, Some(parent)) = (brief.operator, brief.parents.first()) {
            *self.repairs.entry(*parent).or_default() += 1;
        }
    }

    /// Takes note of what became of a step. After every `search.back_after` failures in a row what is broken is let go.
    pub(super) fn learn(&mut self, step: u64, outcome: &Outcome, settings: &Settings) {
        match outcome {
            Outcome::Passed { .. } => {
                (self.failures, self.broken) = (0, None);
                return;
            }
            Outcome::NotPassed(status) => self.broken = is_mendable(*status).then_some(step),
            Outcome::Failed(_) | Outcome::Duplicate { .. } => {}
        }
        self.failures += 1;
        if self.failures.is_multiple_of(settings.back_after.max(1)) {
            self.broken = None;
        }
    }

    /// `tune`: the operator and the kernel it is for. Correctness first: what does not pass is mended; else the best is edited, or
    /// a kernel asked for where nothing has passed yet.
    pub(super) fn tuned(&self, view: &View<'_>) -> (Operator, Vec<u64>) {
        let best = view.archive.elites().first().map(|elite| elite.step);
        match (self.broken, best) {
            (Some(step), _) => (Operator::Repair, vec![step]),
            (None, Some(best)) => (Operator::Edit, vec![best]),
            (None, None) => (Operator::Propose, Vec::new()),
        }
    }

    /// The kernel to mend: of the last that did not pass, the ones that came last by far the likeliest.
    pub(super) fn to_mend(&self, view: &View<'_>, stream: &mut Stream) -> Option<u64> {
        let fits = |step: &u64| {
            let asked = self.repairs.get(step).copied().unwrap_or(0);
            let outcome = view.ledger.get(*step).map(|record| record.outcome);
            asked < view.settings.repairs
                && matches!(outcome, Some(Outcome::NotPassed(status)) if is_mendable(status))
        };
        let near: Vec<u64> = looked_back(view).filter(fits).take(8).collect();
        let weights: Vec<f64> = (0..near.len())
            .map(|rank| 0.5_f64.powi(i32::try_from(rank).unwrap_or(0)))
            .collect();
        near.get(stream.weighted(&weights)?).copied()
    }
}

/// Whether there is something in it that a model could mend.
fn is_mendable(status: Status) -> bool {
    !matches!(
        status,
        Status::HarnessError | Status::Inconclusive | Status::Passed | Status::Unsupported
    )
}

/// The steps behind the fold, the last first.
fn looked_back(view: &View<'_>) -> impl Iterator<Item = u64> {
    let last = view.ledger.last();
    (last.saturating_sub(LOOKED_BACK) + 1..=last).rev()
}

/// What goes to a model beside the parents.
pub(super) fn asking(
    view: &View<'_>,
    operator: Operator,
    parents: &[u64],
    stream: &mut Stream,
) -> Option<Asking> {
    let weights: Vec<f64> = view
        .askable
        .models
        .iter()
        .map(|(_, weight)| *weight)
        .collect();
    let (name, _) = view.askable.models.get(stream.weighted(&weights)?)?;
    let cards = &view.askable.cards;
    let tries = !matches!(operator, Operator::Repair | Operator::Crossover);
    let card = (tries && !cards.is_empty() && stream.unit() < CARDS)
        .then(|| cards[stream.below(cards.len())].clone());
    Some(Asking {
        name: name.clone(),
        card,
        known: view.ledger.last(),
        context: context(view, parents, stream),
    })
}

/// A third of what is shown are the fastest, a quarter others of other kinds, a quarter the last that passed, the rest failures.
fn context(view: &View<'_>, parents: &[u64], stream: &mut Stream) -> Context {
    let most = usize::try_from(view.settings.context).unwrap_or(usize::MAX);
    let (fastest, quarter) = (most.div_ceil(3), most / 4);
    let mut shown: HashSet<u64> = parents.iter().copied().collect();
    let mut context = Context::default();
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
    for step in looked_back(view) {
        let outcome = view.ledger.get(step).map(|record| record.outcome);
        let (list, places) = match outcome {
            Some(Outcome::Passed { .. }) => (&mut context.recent, quarter),
            Some(Outcome::NotPassed(status)) if is_mendable(status) => {
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
