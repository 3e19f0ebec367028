//! Decides the brief of a step: the operator, the parents, and the point or attempt.
//!
//! The same state gives the same brief: a decision reads the fold through [`SearchView`] and the planner's own history, and every
//! draw comes from the random stream of (seed, step). What a brief says to a model is decided in `model_brief`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::credit::{Credit, Spent};
use super::families::Families;
use super::ledger::{Ledger, StepOutcome};
use super::model_brief::{ModelChoice, ModelHistory, choose_model_brief};
use super::parent_pool::{MAX_DRAWS, ParentHistory, ParentPool};
use super::results::Change;
use super::retirement::Retirement;
use super::settings::{SearchMode, SearchSettings};
use super::view::SearchView;
use crate::base::RandomStream;
use crate::event::{Brief, FailedReason, ModelBrief, Operator, TransformationWeights};

/// The operators to choose from. Arrays of weights have this order.
const OPERATORS: [Operator; 7] = [
    Operator::Autotune,
    Operator::Mutate,
    Operator::Recombine,
    Operator::Propose,
    Operator::Edit,
    Operator::Crossover,
    Operator::Repair,
];

/// An operator with its parents; a missing second parent is 0.
type BriefKey = (Operator, [u64; 2]);

/// A brief that was decided.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedBrief {
    pub(super) brief: Brief,
    /// The seed that was drawn for the step. Earlier versions gave it to `mutate` too.
    drawn_seed: u64,
    /// No operator had anything left to try. The brief only keeps the search going while steps are in flight.
    pub(super) exhausted: bool,
}

impl PlannedBrief {
    /// A brief that has something to try.
    pub(super) fn useful(brief: Brief, drawn_seed: u64) -> Self {
        Self {
            brief,
            drawn_seed,
            exhausted: false,
        }
    }

    /// Whether an earlier version of kforge decided the brief `recorded` in the place of the planned one. Earlier versions drew strategy
    /// cards from others.
    pub(super) fn is_earlier_form(&self, recorded: &Brief) -> bool {
        let seed = self.drawn_seed;
        let planned = &self.brief;
        if let (Some(model), Some(recorded_model)) = (&planned.model, &recorded.model) {
            let with_card = ModelBrief {
                card: recorded_model.card.clone(),
                ..model.clone()
            };
            return *recorded
                == Brief {
                    model: Some(with_card),
                    ..planned.clone()
                };
        }
        planned.operator == Operator::Mutate
            && recorded.seed == seed
            && *recorded
                == Brief {
                    seed,
                    ..planned.clone()
                }
    }
}

/// The planner's history: the briefs so far, and their gains.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// How many briefs each key had.
    attempts: HashMap<BriefKey, u64>,
    /// Keys for which the proposer has nothing new left.
    exhausted: HashSet<BriefKey>,
    credit: Credit,
    parents: ParentHistory,
    /// For each parent that `mutate` was used on, the weights of its briefs.
    weights: HashMap<u64, Vec<TransformationWeights>>,
    model_history: ModelHistory,
    retirement: Retirement,
}

impl Planner {
    /// Decides the brief of a step.
    pub(super) fn decide_brief(&self, view: &SearchView<'_>, step: u64) -> PlannedBrief {
        let mut stream = RandomStream::new(view.seed, "ask", step);
        let template = Brief {
            step,
            operator: Operator::Start,
            parents: Vec::new(),
            seed: stream.next_u64(),
            island: view.island,
            start: None,
            point: None,
            attempt: 0,
            retired: BTreeMap::new(),
            weights: Vec::new(),
            model: None,
        };
        let drawn_seed = template.seed;
        let useful = |brief: Brief| PlannedBrief::useful(brief, drawn_seed);
        let start = usize::try_from(step - 1)
            .ok()
            .and_then(|index| view.starting_kernels.get(index));
        if let Some(start) = start {
            return useful(Brief {
                start: Some(start.clone()),
                ..template
            });
        }
        if let Some(brief) = self.model_only_brief(view, &template, &mut stream) {
            return useful(brief);
        }
        let pool = ParentPool::from_view(view, &self.parents);
        for draw in 0..MAX_DRAWS as u64 {
            let parent = pool.draw(view, &self.parents, step + draw, &mut stream);
            if let Some(brief) = self.brief_for_parent(view, &pool, parent, &template, &mut stream)
            {
                return useful(brief);
            }
        }
        let mut all = pool.steps().to_vec();
        stream.shuffle(&mut all);
        for parent in all {
            if let Some(brief) = self.brief_for_parent(view, &pool, parent, &template, &mut stream)
            {
                return useful(brief);
            }
        }
        PlannedBrief {
            drawn_seed,
            brief: self.idle_brief(view, &pool, template, &mut stream),
            exhausted: true,
        }
    }

    /// Records that a brief was decided.
    pub(super) fn record_brief(&mut self, brief: &Brief, ledger: &Ledger, families: &mut Families) {
        if let Some(parent) = brief.parents.first() {
            *self.parents.uses.entry(*parent).or_default() += 1;
        }
        self.parents.population.note_brief(brief.step);
        match brief.operator {
            Operator::Start => {}
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair => {
                *self.attempts.entry(brief_key(brief)).or_default() += 1;
                self.model_history.record_brief(brief);
            }
            Operator::Autotune => {
                let parent = brief.parents.first();
                let family = parent.and_then(|parent| ledger.family(*parent));
                if let (Some(family), Some(point)) = (family, &brief.point) {
                    families.mark_tried(family, point);
                }
            }
            Operator::Mutate | Operator::Recombine => {
                *self.attempts.entry(brief_key(brief)).or_default() += 1;
                self.retirement.record_brief(brief);
                if let (Some(parent), false) = (brief.parents.first(), brief.weights.is_empty()) {
                    self.weights.insert(*parent, brief.weights.clone());
                }
            }
        }
    }

    /// Records whether the candidate of a step compiled. `detail`: what its operator did.
    pub(super) fn record_compilation(
        &mut self,
        brief: &Brief,
        detail: &str,
        outcome: &StepOutcome,
        ledger: &Ledger,
    ) {
        self.retirement
            .record_outcome(brief, detail, outcome, ledger);
    }

    /// Records how the candidate of a step compares with its parent, if it does, and what it cost. `detail`: what its operator did.
    pub(super) fn record_earnings(
        &mut self,
        brief: &Brief,
        detail: &str,
        change: Option<Change>,
        spent: Spent,
    ) {
        self.credit.record(brief, detail, change, spent);
    }

    /// Records that a kernel was judged again; `None`: it did not pass.
    pub(super) fn record_new_speedup(&mut self, step: u64, speedup: Option<f64>) {
        self.parents.population.replace(step, speedup);
    }

    /// Forgets which kernels were fast: another device has measured them.
    pub(super) fn forget_speedups(&mut self) {
        self.parents.population.forget();
    }

    /// Records the outcome of a brief.
    pub(super) fn record_outcome(
        &mut self,
        brief: &Brief,
        outcome: &StepOutcome,
        settings: &SearchSettings,
    ) {
        self.model_history
            .record_outcome(brief.step, outcome, settings);
        if let StepOutcome::Passed { speedup, .. } = outcome
            && outcome.is_complete_pass()
        {
            self.parents.population.add(brief.step, *speedup);
        }
        if *outcome == StepOutcome::Failed(FailedReason::NoOp)
            && matches!(brief.operator, Operator::Mutate | Operator::Recombine)
        {
            self.exhausted.insert(brief_key(brief));
        }
    }

    /// A brief with this parent; `None` if no operator has anything left for it. Operators are drawn by their weights. An
    /// operator without anything left is not drawn again.
    fn brief_for_parent(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        parent: u64,
        template: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let mut weights = self.operator_weights(view);
        while let Some(index) = stream.weighted_index(&weights) {
            let operator = OPERATORS[index];
            let brief = match operator {
                Operator::Start => None,
                Operator::Propose | Operator::Edit => {
                    self.brief_for_model(view, operator, vec![parent], template, stream)
                }
                Operator::Crossover => {
                    let turn = template.step + 1;
                    let other = pool.draw_other(view, &self.parents, parent, turn, stream);
                    other.and_then(|other| {
                        self.brief_for_model(view, operator, vec![parent, other], template, stream)
                    })
                }
                Operator::Repair => self
                    .model_history
                    .choose_kernel_to_repair(view, stream)
                    .and_then(|failed| {
                        self.brief_for_model(view, operator, vec![failed], template, stream)
                    }),
                Operator::Autotune => self.autotune_brief(view, parent, template, stream),
                Operator::Mutate => self.mutate_brief(view, parent, template),
                Operator::Recombine => self.recombine_brief(view, pool, parent, template, stream),
            };
            if brief.is_some() {
                return brief;
            }
            weights[index] = 0.0;
        }
        None
    }

    /// The configured weights, shifted by `search.learning` towards operators that earn more for their cost. 0 for those that need a
    /// model where there is none.
    fn operator_weights(&self, view: &SearchView<'_>) -> [f64; OPERATORS.len()] {
        let has_models = !view.model_pool.models.is_empty();
        OPERATORS.map(|operator| {
            if operator.asks_model() && !has_models {
                return 0.0;
            }
            let configured = view.settings.operators.weight_of(operator);
            configured * self.credit.operator(operator, view.settings)
        })
    }

    /// The brief where only a model can make the next kernel: in `tune`, and in `evolve` before there is any kernel.
    fn model_only_brief(
        &self,
        view: &SearchView<'_>,
        template: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let (operator, parents) = match view.settings.mode {
            SearchMode::Tune => self.model_history.next_tuning_operator(view),
            SearchMode::Evolve
                if view.starting_kernels.is_empty() && view.archive.filled_cells() == 0 =>
            {
                let failed = self.model_history.choose_kernel_to_repair(view, stream);
                match failed.filter(|_| stream.uniform() < 0.5) {
                    Some(failed) => (Operator::Repair, vec![failed]),
                    None => (Operator::Propose, Vec::new()),
                }
            }
            SearchMode::Evolve => return None,
        };
        self.brief_for_model(view, operator, parents, template, stream)
    }

    fn brief_for_model(
        &self,
        view: &SearchView<'_>,
        operator: Operator,
        parents: Vec<u64>,
        template: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let taken = self.model_history.cards_in_progress(operator, &parents);
        let choice = ModelChoice {
            credit: &self.credit,
            operator,
            parents: &parents,
            taken: &taken,
        };
        let model = choose_model_brief(view, &choice, stream)?;
        let mut brief = Brief {
            operator,
            parents,
            model: Some(model),
            ..template.clone()
        };
        brief.attempt = self.attempts.get(&brief_key(&brief)).copied().unwrap_or(0);
        Some(brief)
    }

    /// An untried point of the parent's family. The parent becomes the family's fastest member, if one has passed.
    fn autotune_brief(
        &self,
        view: &SearchView<'_>,
        parent: u64,
        template: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let family = view
            .ledger
            .family(parent)
            .filter(|family| view.families.has_untried_points(*family))?;
        let (point, best) = view.families.choose_untried_point(family, stream)?;
        let best = match view.island {
            None => best,
            // Another island may have made the fastest member.
            Some(_) => {
                let elites = view.archive.elites().iter().map(|elite| elite.step);
                (elites.into_iter()).find(|step| view.ledger.family(*step) == Some(family))
            }
        };
        Some(Brief {
            operator: Operator::Autotune,
            parents: vec![best.unwrap_or(parent)],
            point: Some(point),
            ..template.clone()
        })
    }

    fn recombine_brief(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        parent: u64,
        template: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let steps = pool.passed();
        if steps.len() < 2 {
            return None;
        }
        let with_other = |other: u64| {
            (other != parent && !self.retirement.forbids_pair([parent, other], view.ledger))
                .then(|| self.repeatable_brief(Operator::Recombine, [parent, other], template))
                .flatten()
        };
        (1..=MAX_DRAWS as u64)
            .map(|draw| pool.draw(view, &self.parents, template.step + draw, stream))
            .find_map(with_other)
            .or_else(|| steps.iter().find_map(|other| with_other(*other)))
    }

    fn mutate_brief(&self, view: &SearchView<'_>, parent: u64, template: &Brief) -> Option<Brief> {
        let brief = self.repeatable_brief(Operator::Mutate, [parent, 0], template)?;
        let retired = (self.retirement).for_brief(parent, brief.attempt, view.ledger);
        let seed = mutation_seed(view, parent);
        let weights = self.weights_for(parent, brief.attempt, view.settings);
        Some(Brief {
            retired,
            weights,
            seed,
            ..brief
        })
    }

    /// The weights of transformations for the next brief of a parent. New ones hold from the first attempt on and from each power of
    /// two, so that the list stays short.
    fn weights_for(
        &self,
        parent: u64,
        attempt: u64,
        settings: &SearchSettings,
    ) -> Vec<TransformationWeights> {
        let mut weights = self.weights.get(&parent).cloned().unwrap_or_default();
        if attempt == 0 || attempt.is_power_of_two() {
            let factors = self.credit.transformations(settings);
            if weights
                .last()
                .map_or(!factors.is_empty(), |last| last.factors != factors)
            {
                weights.push(TransformationWeights { attempt, factors });
            }
        }
        weights
    }

    /// A brief whose operator gives another result at every attempt; `None` once the proposer has nothing new left.
    fn repeatable_brief(
        &self,
        operator: Operator,
        parents: [u64; 2],
        template: &Brief,
    ) -> Option<Brief> {
        let key = (operator, parents);
        if self.exhausted.contains(&key) {
            return None;
        }
        let attempt = self.attempts.get(&key).copied().unwrap_or(0);
        let parents = parents.into_iter().filter(|parent| *parent != 0).collect();
        Some(Brief {
            operator,
            parents,
            attempt,
            ..template.clone()
        })
    }

    /// A brief that the proposer answers with `no_op`: an attempt after the last, or `autotune` without a point.
    fn idle_brief(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        template: Brief,
        stream: &mut RandomStream,
    ) -> Brief {
        let parent = pool.draw(view, &self.parents, template.step, stream);
        let key = (Operator::Mutate, [parent, 0]);
        if self.exhausted.contains(&key) {
            let attempt = self.attempts.get(&key).copied().unwrap_or(0);
            return Brief {
                operator: Operator::Mutate,
                parents: vec![parent],
                attempt,
                seed: mutation_seed(view, parent),
                ..template
            };
        }
        Brief {
            operator: Operator::Autotune,
            parents: vec![parent],
            ..template
        }
    }
}

/// The seed of all `mutate` briefs of one parent: it gives the order of the parent's children, in which attempts count.
fn mutation_seed(view: &SearchView<'_>, parent: u64) -> u64 {
    RandomStream::new(view.seed, "mutate", parent).next_u64()
}

fn brief_key(brief: &Brief) -> BriefKey {
    let parent = |index: usize| brief.parents.get(index).copied().unwrap_or(0);
    (brief.operator, [parent(0), parent(1)])
}
