//! What to ask next: which parents, which operator, which point. Decided from the state of the fold alone.
//!
//! Invariant: the same state gives the same brief; every draw comes from the stream of (seed, step).
//! What a model is asked beside that is `asking`'s.

use std::collections::{HashMap, HashSet};

use super::archive::Archive;
use super::families::Families;
use super::ledger::{Ledger, StepOutcome};
use super::model_brief::{ModelHistory, ModelPool, choose_model_brief};
use super::settings::{SearchMode, SearchSettings};
use crate::base::RandomStream;
use crate::event::{Brief, FailedReason, Operator};

/// The operators to choose among, in the order of their weights' arrays.
const OPERATORS: [Operator; 7] = [
    Operator::Autotune,
    Operator::Mutate,
    Operator::Recombine,
    Operator::Propose,
    Operator::Edit,
    Operator::Crossover,
    Operator::Repair,
];

/// Exploitation draws from this many of the fastest elites; with weights of 1 / rank² the rest would get hardly a draw.
const MAX_EXPLOITED: usize = 64;

/// Parents drawn at random before all are looked through.
const MAX_DRAWS: usize = 8;

/// What an operator's past counts for after one more step.
const DECAY: f64 = 0.98;

/// An operator with its parents; a missing second parent is 0.
type BriefKey = (Operator, [u64; 2]);

/// A brief that was decided upon.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedBrief {
    pub(super) brief: Brief,
    /// Nothing was left to ask when this was decided: the question is there only to let the steps under way come in.
    pub(super) exhausted: bool,
}

/// What was asked so far, as far as it bears on what to ask next.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// How often each question was asked.
    attempts: HashMap<BriefKey, u64>,
    /// Questions that a proposer had no more answers to.
    exhausted: HashSet<BriefKey>,
    /// By operator: steps, and candidates that the archive took, old ones counting less.
    trials: [f64; OPERATORS.len()],
    gains: [f64; OPERATORS.len()],
    model_history: ModelHistory,
}

/// All that a decision may look at.
pub(super) struct SearchView<'a> {
    pub(super) settings: &'a SearchSettings,
    pub(super) seed: u64,
    pub(super) starting_kernels: &'a [String],
    pub(super) archive: &'a Archive,
    pub(super) ledger: &'a Ledger,
    pub(super) families: &'a Families,
    pub(super) model_pool: &'a ModelPool,
}

impl Planner {
    /// Decides upon the brief of a step.
    pub(super) fn decide_brief(&self, view: &SearchView<'_>, step: u64) -> PlannedBrief {
        let mut stream = RandomStream::new(view.seed, "ask", step);
        let blank = Brief {
            step,
            operator: Operator::Start,
            parents: Vec::new(),
            seed: stream.next_u64(),
            start: None,
            point: None,
            attempt: 0,
            model: None,
        };
        let start = usize::try_from(step - 1)
            .ok()
            .and_then(|index| view.starting_kernels.get(index));
        if let Some(start) = start {
            return PlannedBrief {
                brief: Brief {
                    start: Some(start.clone()),
                    ..blank
                },
                exhausted: false,
            };
        }
        if let Some(brief) = self.model_only_brief(view, &blank, &mut stream) {
            return PlannedBrief {
                brief,
                exhausted: false,
            };
        }
        let pool = ParentPool::from_view(view);
        for _ in 0..MAX_DRAWS {
            let parent = pool.draw(view, &mut stream);
            if let Some(brief) = self.brief_for_parent(view, &pool, parent, &blank, &mut stream) {
                return PlannedBrief {
                    brief,
                    exhausted: false,
                };
            }
        }
        let mut all = pool.steps();
        stream.shuffle(&mut all);
        for parent in all {
            if let Some(brief) = self.brief_for_parent(view, &pool, parent, &blank, &mut stream) {
                return PlannedBrief {
                    brief,
                    exhausted: false,
                };
            }
        }
        PlannedBrief {
            brief: self.idle_brief(view, &pool, blank, &mut stream),
            exhausted: true,
        }
    }

    /// Takes note that a question was asked.
    pub(super) fn record_brief(&mut self, brief: &Brief, ledger: &Ledger, families: &mut Families) {
        match brief.operator {
            Operator::Start => {}
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair => {
                *self.attempts.entry(brief_key(brief)).or_default() += 1;
                self.model_history.record_brief(brief);
            }
            Operator::Autotune => {
                let family = brief
                    .parents
                    .first()
                    .and_then(|parent| ledger.family(*parent));
                if let (Some(family), Some(point)) = (family, &brief.point) {
                    families.mark_tried(family, point);
                }
            }
            Operator::Mutate | Operator::Recombine => {
                *self.attempts.entry(brief_key(brief)).or_default() += 1
            }
        }
    }

    /// Takes note of what became of it.
    pub(super) fn record_outcome(
        &mut self,
        brief: &Brief,
        outcome: &StepOutcome,
        settings: &SearchSettings,
    ) {
        self.model_history
            .record_outcome(brief.step, outcome, settings);
        if *outcome == StepOutcome::Failed(FailedReason::NoOp)
            && matches!(brief.operator, Operator::Mutate | Operator::Recombine)
        {
            self.exhausted.insert(brief_key(brief));
        }
        let Some(index) = OPERATORS
            .iter()
            .position(|operator| *operator == brief.operator)
        else {
            return;
        };
        self.trials
            .iter_mut()
            .chain(&mut self.gains)
            .for_each(|count| *count *= DECAY);
        self.trials[index] += 1.0;
        self.gains[index] += f64::from(u8::from(outcome.was_added()));
    }

    /// A question to this parent; `None` where none of the operators has one left.
    fn brief_for_parent(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        parent: u64,
        blank: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let mut weights = self.learned_weights(view.settings);
        if view.model_pool.models.is_empty() {
            for (weight, operator) in weights.iter_mut().zip(OPERATORS) {
                *weight *= f64::from(u8::from(!operator.asks_model()));
            }
        }
        while let Some(index) = stream.weighted_index(&weights) {
            let operator = OPERATORS[index];
            let asked = match operator {
                Operator::Start => None,
                Operator::Propose | Operator::Edit => {
                    self.brief_for_model(view, operator, vec![parent], blank, stream)
                }
                Operator::Crossover => pool.draw_other(view, parent, stream).and_then(|other| {
                    self.brief_for_model(view, operator, vec![parent, other], blank, stream)
                }),
                Operator::Repair => (self.model_history.choose_kernel_to_repair(view, stream))
                    .and_then(|failed| {
                        self.brief_for_model(view, operator, vec![failed], blank, stream)
                    }),
                Operator::Autotune => self.autotune_brief(view, parent, blank, stream),
                Operator::Mutate => self.repeatable_brief(operator, [parent, 0], blank),
                Operator::Recombine => self.recombine_brief(view, pool, parent, blank, stream),
            };
            if asked.is_some() {
                return asked;
            }
            weights[index] = 0.0;
        }
        None
    }

    /// The configured weights, moved towards what paid lately. One success in two is where every operator begins.
    fn learned_weights(&self, settings: &SearchSettings) -> [f64; OPERATORS.len()] {
        let rates: [f64; OPERATORS.len()] =
            std::array::from_fn(|index| (self.gains[index] + 1.0) / (self.trials[index] + 2.0));
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        std::array::from_fn(|index| {
            let learned = 1.0 - settings.learning + settings.learning * rates[index] / mean;
            settings.operators.weight_of(OPERATORS[index]) * learned
        })
    }

    /// Where nothing but a model can say what comes next: in a search that tunes, and where there is no kernel to begin with.
    fn model_only_brief(
        &self,
        view: &SearchView<'_>,
        blank: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let (operator, parents) = match view.settings.mode {
            SearchMode::Tune => self.model_history.next_tuning_operator(view),
            SearchMode::Evolve
                if view.starting_kernels.is_empty() && view.archive.filled_cells() == 0 =>
            {
                match self
                    .model_history
                    .choose_kernel_to_repair(view, stream)
                    .filter(|_| stream.uniform() < 0.5)
                {
                    Some(failed) => (Operator::Repair, vec![failed]),
                    None => (Operator::Propose, Vec::new()),
                }
            }
            SearchMode::Evolve => return None,
        };
        self.brief_for_model(view, operator, parents, blank, stream)
    }

    fn brief_for_model(
        &self,
        view: &SearchView<'_>,
        operator: Operator,
        parents: Vec<u64>,
        blank: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let model = choose_model_brief(view, operator, &parents, stream)?;
        let mut brief = Brief {
            operator,
            parents,
            model: Some(model),
            ..blank.clone()
        };
        brief.attempt = self.attempts.get(&brief_key(&brief)).copied().unwrap_or(0);
        Some(brief)
    }

    fn autotune_brief(
        &self,
        view: &SearchView<'_>,
        parent: u64,
        blank: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let family = view
            .ledger
            .family(parent)
            .filter(|family| view.families.has_untried_points(*family))?;
        let (point, best) = view.families.choose_untried_point(family, stream)?;
        Some(Brief {
            operator: Operator::Autotune,
            parents: vec![best.unwrap_or(parent)],
            point: Some(point),
            ..blank.clone()
        })
    }

    fn recombine_brief(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        parent: u64,
        blank: &Brief,
        stream: &mut RandomStream,
    ) -> Option<Brief> {
        let ParentPool::Elites(steps) = pool else {
            return None;
        };
        if steps.len() < 2 {
            return None;
        }
        let fits = |other: u64| {
            (other != parent)
                .then(|| self.repeatable_brief(Operator::Recombine, [parent, other], blank))
                .flatten()
        };
        (0..MAX_DRAWS)
            .find_map(|_| fits(pool.draw(view, stream)))
            .or_else(|| steps.iter().find_map(|other| fits(*other)))
    }

    /// A question that may be asked again until the proposer has no more answers.
    fn repeatable_brief(
        &self,
        operator: Operator,
        parents: [u64; 2],
        blank: &Brief,
    ) -> Option<Brief> {
        let question = (operator, parents);
        if self.exhausted.contains(&question) {
            return None;
        }
        let attempt = self.attempts.get(&question).copied().unwrap_or(0);
        let parents = parents.into_iter().filter(|parent| *parent != 0).collect();
        Some(Brief {
            operator,
            parents,
            attempt,
            ..blank.clone()
        })
    }

    /// A question that the proposer answers with `no_op`: an attempt beyond the last, or a move to no point.
    fn idle_brief(
        &self,
        view: &SearchView<'_>,
        pool: &ParentPool,
        blank: Brief,
        stream: &mut RandomStream,
    ) -> Brief {
        let parent = pool.draw(view, stream);
        let question = (Operator::Mutate, [parent, 0]);
        if self.exhausted.contains(&question) {
            let attempt = self.attempts.get(&question).copied().unwrap_or(0);
            return Brief {
                operator: Operator::Mutate,
                parents: vec![parent],
                attempt,
                ..blank
            };
        }
        Brief {
            operator: Operator::Autotune,
            parents: vec![parent],
            ..blank
        }
    }
}

fn brief_key(brief: &Brief) -> BriefKey {
    let parent = |index: usize| brief.parents.get(index).copied().unwrap_or(0);
    (brief.operator, [parent(0), parent(1)])
}

/// The steps that may be parents.
enum ParentPool {
    /// Elites, fastest first.
    Elites(Vec<u64>),
    /// Where nothing has passed: starting kernels that may yet pass, or else all of them.
    StartingKernels(Vec<u64>),
}

impl ParentPool {
    fn from_view(view: &SearchView<'_>) -> Self {
        if view.archive.filled_cells() > 0 {
            return Self::Elites(
                view.archive
                    .elites()
                    .iter()
                    .map(|elite| elite.step)
                    .collect(),
            );
        }
        let starts = 1..=view.starting_kernels.len() as u64;
        let open: Vec<_> = starts
            .clone()
            .filter(|step| *step > view.ledger.last())
            .collect();
        Self::StartingKernels(if open.is_empty() {
            starts.collect()
        } else {
            open
        })
    }

    /// Another elite, drawn as a parent is.
    fn draw_other(
        &self,
        view: &SearchView<'_>,
        parent: u64,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        let Self::Elites(steps) = self else {
            return None;
        };
        let drawn = (0..MAX_DRAWS).map(|_| self.draw(view, stream));
        drawn
            .into_iter()
            .find(|other| *other != parent)
            .or_else(|| steps.iter().copied().find(|other| *other != parent))
    }

    fn steps(&self) -> Vec<u64> {
        let (Self::Elites(steps) | Self::StartingKernels(steps)) = self;
        steps.clone()
    }

    /// Evenly from all cells with the chance `exploration`, else from the fastest elites by 1 / rank².
    fn draw(&self, view: &SearchView<'_>, stream: &mut RandomStream) -> u64 {
        let (Self::Elites(steps) | Self::StartingKernels(steps)) = self;
        let explore = matches!(self, Self::StartingKernels(_))
            || stream.uniform() < view.settings.exploration;
        let index = if explore {
            stream.below(steps.len())
        } else {
            let ranks = 1..=steps.len().min(MAX_EXPLOITED);
            let weights: Vec<_> = ranks.map(|rank| 1.0 / (rank * rank) as f64).collect();
            stream.weighted_index(&weights).unwrap_or(0)
        };
        // A pool is never empty: without a starting kernel nothing is planned.
        steps.get(index).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::ledger::ArchiveDecision;

    #[test]
    fn learning_shifts_weights_towards_operators_that_add_elites() {
        let brief = |operator| Brief {
            step: 9,
            operator,
            parents: vec![1],
            seed: 0,
            start: None,
            point: None,
            attempt: 0,
            model: None,
        };
        let mut planner = Planner::default();
        let settings = |learning| SearchSettings {
            learning,
            ..SearchSettings::default()
        };
        let typed = [1.0, 1.0, 0.3, 1.0, 2.0, 0.5, 1.0];
        assert_eq!(planner.learned_weights(&settings(1.0)), typed);
        for _ in 0..200 {
            planner.record_outcome(
                &brief(Operator::Autotune),
                &StepOutcome::Passed {
                    speedup: 2.0,
                    insert: ArchiveDecision::New,
                },
                &settings(0.5),
            );
            planner.record_outcome(
                &brief(Operator::Mutate),
                &StepOutcome::Passed {
                    speedup: 2.0,
                    insert: ArchiveDecision::NotAdded { behind: 1 },
                },
                &settings(0.5),
            );
        }
        assert_eq!(planner.learned_weights(&settings(0.0)), typed);
        let half = planner.learned_weights(&settings(0.5));
        assert!(half[0] > 1.2 && half[1] > 0.5 && half[1] < 0.7, "{half:?}");
        let full = planner.learned_weights(&settings(1.0));
        assert!(
            full[0] > half[0] && full[1] < half[1] && full[1] > 0.0,
            "{full:?}"
        );
    }
}
