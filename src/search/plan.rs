//! What to ask next: which parents, which operator, which point. Decided from the state of the fold alone.
//!
//! Invariant: the same state gives the same brief; every draw comes from the stream of (seed, step).
//! What a model is asked beside that is `asking`'s.

use std::collections::{HashMap, HashSet};

use super::archive::Archive;
use super::asking::{Askable, Asked, asking};
use super::families::Families;
use super::ledger::{Ledger, Outcome};
use super::settings::{Mode, Settings};
use crate::base::Stream;
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
const EXPLOITED: usize = 64;

/// Parents drawn at random before all are looked through.
const DRAWS: usize = 8;

/// What an operator's past counts for after one more step.
const MEMORY: f64 = 0.98;

/// An operator with its parents; a missing second parent is 0.
type Question = (Operator, [u64; 2]);

/// A brief that was decided upon.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) brief: Brief,
    /// Nothing was left to ask when this was decided: the question is there only to let the steps under way come in.
    pub(super) barren: bool,
}

/// What was asked so far, as far as it bears on what to ask next.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// How often each question was asked.
    attempts: HashMap<Question, u64>,
    /// Questions that a proposer had no more answers to.
    spent: HashSet<Question>,
    /// By operator: steps, and candidates that the archive took, old ones counting less.
    trials: [f64; OPERATORS.len()],
    gains: [f64; OPERATORS.len()],
    asked: Asked,
}

/// All that a decision may look at.
pub(super) struct View<'a> {
    pub(super) settings: &'a Settings,
    pub(super) seed: u64,
    pub(super) starts: &'a [String],
    pub(super) archive: &'a Archive,
    pub(super) ledger: &'a Ledger,
    pub(super) families: &'a Families,
    pub(super) askable: &'a Askable,
}

impl Planner {
    /// Decides upon the brief of a step.
    pub(super) fn decide(&self, view: &View<'_>, step: u64) -> Plan {
        let mut stream = Stream::new(view.seed, "ask", step);
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
            .and_then(|index| view.starts.get(index));
        if let Some(start) = start {
            return Plan {
                brief: Brief {
                    start: Some(start.clone()),
                    ..blank
                },
                barren: false,
            };
        }
        if let Some(brief) = self.only_models(view, &blank, &mut stream) {
            return Plan {
                brief,
                barren: false,
            };
        }
        let pool = Pool::of(view);
        for _ in 0..DRAWS {
            let parent = pool.draw(view, &mut stream);
            if let Some(brief) = self.ask_of(view, &pool, parent, &blank, &mut stream) {
                return Plan {
                    brief,
                    barren: false,
                };
            }
        }
        let mut all = pool.all();
        stream.shuffle(&mut all);
        for parent in all {
            if let Some(brief) = self.ask_of(view, &pool, parent, &blank, &mut stream) {
                return Plan {
                    brief,
                    barren: false,
                };
            }
        }
        Plan {
            brief: self.idle(view, &pool, blank, &mut stream),
            barren: true,
        }
    }

    /// Takes note that a question was asked.
    pub(super) fn note(&mut self, brief: &Brief, ledger: &Ledger, families: &mut Families) {
        match brief.operator {
            Operator::Start => {}
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair => {
                *self.attempts.entry(question(brief)).or_default() += 1;
                self.asked.note(brief);
            }
            Operator::Autotune => {
                let family = brief
                    .parents
                    .first()
                    .and_then(|parent| ledger.family(*parent));
                if let (Some(family), Some(point)) = (family, &brief.point) {
                    families.note(family, point);
                }
            }
            Operator::Mutate | Operator::Recombine => {
                *self.attempts.entry(question(brief)).or_default() += 1
            }
        }
    }

    /// Takes note of what became of it.
    pub(super) fn learn(&mut self, brief: &Brief, outcome: &Outcome, settings: &Settings) {
        self.asked.learn(brief.step, outcome, settings);
        if *outcome == Outcome::Failed(FailedReason::NoOp)
            && matches!(brief.operator, Operator::Mutate | Operator::Recombine)
        {
            self.spent.insert(question(brief));
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
            .for_each(|count| *count *= MEMORY);
        self.trials[index] += 1.0;
        self.gains[index] += f64::from(u8::from(outcome.added()));
    }

    /// A question to this parent; `None` where none of the operators has one left.
    fn ask_of(
        &self,
        view: &View<'_>,
        pool: &Pool,
        parent: u64,
        blank: &Brief,
        stream: &mut Stream,
    ) -> Option<Brief> {
        let mut weights = self.weights(view.settings);
        if view.askable.models.is_empty() {
            for (weight, operator) in weights.iter_mut().zip(OPERATORS) {
                *weight *= f64::from(u8::from(!operator.asks()));
            }
        }
        while let Some(index) = stream.weighted(&weights) {
            let operator = OPERATORS[index];
            let asked = match operator {
                Operator::Start => None,
                Operator::Propose | Operator::Edit => {
                    self.ask_model(view, operator, vec![parent], blank, stream)
                }
                Operator::Crossover => pool.other(view, parent, stream).and_then(|other| {
                    self.ask_model(view, operator, vec![parent, other], blank, stream)
                }),
                Operator::Repair => (self.asked.to_mend(view, stream))
                    .and_then(|failed| self.ask_model(view, operator, vec![failed], blank, stream)),
                Operator::Autotune => self.autotune(view, parent, blank, stream),
                Operator::Mutate => self.repeatable(operator, [parent, 0], blank),
                Operator::Recombine => self.recombine(view, pool, parent, blank, stream),
            };
            if asked.is_some() {
                return asked;
            }
            weights[index] = 0.0;
        }
        None
    }

    /// The configured weights, moved towards what paid lately. One success in two is where every operator begins.
    fn weights(&self, settings: &Settings) -> [f64; OPERATORS.len()] {
        let rates: [f64; OPERATORS.len()] =
            std::array::from_fn(|index| (self.gains[index] + 1.0) / (self.trials[index] + 2.0));
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        std::array::from_fn(|index| {
            let learned = 1.0 - settings.learning + settings.learning * rates[index] / mean;
            settings.operators.of(OPERATORS[index]) * learned
        })
    }

    /// Where nothing but a model can say what comes next: in a search that tunes, and where there is no kernel to begin with.
    fn only_models(&self, view: &View<'_>, blank: &Brief, stream: &mut Stream) -> Option<Brief> {
        let (operator, parents) = match view.settings.mode {
            Mode::Tune => self.asked.tuned(view),
            Mode::Evolve if view.starts.is_empty() && view.archive.filled() == 0 => {
                match self
                    .asked
                    .to_mend(view, stream)
                    .filter(|_| stream.unit() < 0.5)
                {
                    Some(failed) => (Operator::Repair, vec![failed]),
                    None => (Operator::Propose, Vec::new()),
                }
            }
            Mode::Evolve => return None,
        };
        self.ask_model(view, operator, parents, blank, stream)
    }

    fn ask_model(
        &self,
        view: &View<'_>,
        operator: Operator,
        parents: Vec<u64>,
        blank: &Brief,
        stream: &mut Stream,
    ) -> Option<Brief> {
        let model = asking(view, operator, &parents, stream)?;
        let mut brief = Brief {
            operator,
            parents,
            model: Some(model),
            ..blank.clone()
        };
        brief.attempt = self.attempts.get(&question(&brief)).copied().unwrap_or(0);
        Some(brief)
    }

    fn autotune(
        &self,
        view: &View<'_>,
        parent: u64,
        blank: &Brief,
        stream: &mut Stream,
    ) -> Option<Brief> {
        let family = view
            .ledger
            .family(parent)
            .filter(|family| view.families.open(*family))?;
        let (point, best) = view.families.choose(family, stream)?;
        Some(Brief {
            operator: Operator::Autotune,
            parents: vec![best.unwrap_or(parent)],
            point: Some(point),
            ..blank.clone()
        })
    }

    fn recombine(
        &self,
        view: &View<'_>,
        pool: &Pool,
        parent: u64,
        blank: &Brief,
        stream: &mut Stream,
    ) -> Option<Brief> {
        let Pool::Elites(steps) = pool else {
            return None;
        };
        if steps.len() < 2 {
            return None;
        }
        let fits = |other: u64| {
            (other != parent)
                .then(|| self.repeatable(Operator::Recombine, [parent, other], blank))
                .flatten()
        };
        (0..DRAWS)
            .find_map(|_| fits(pool.draw(view, stream)))
            .or_else(|| steps.iter().find_map(|other| fits(*other)))
    }

    /// A question that may be asked again until the proposer has no more answers.
    fn repeatable(&self, operator: Operator, parents: [u64; 2], blank: &Brief) -> Option<Brief> {
        let question = (operator, parents);
        if self.spent.contains(&question) {
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
    fn idle(&self, view: &View<'_>, pool: &Pool, blank: Brief, stream: &mut Stream) -> Brief {
        let parent = pool.draw(view, stream);
        let question = (Operator::Mutate, [parent, 0]);
        if self.spent.contains(&question) {
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

fn question(brief: &Brief) -> Question {
    let parent = |index: usize| brief.parents.get(index).copied().unwrap_or(0);
    (brief.operator, [parent(0), parent(1)])
}

/// The steps that may be parents.
enum Pool {
    /// Elites, fastest first.
    Elites(Vec<u64>),
    /// Where nothing has passed: starting kernels that may yet pass, or else all of them.
    Starts(Vec<u64>),
}

impl Pool {
    fn of(view: &View<'_>) -> Self {
        if view.archive.filled() > 0 {
            return Self::Elites(
                view.archive
                    .elites()
                    .iter()
                    .map(|elite| elite.step)
                    .collect(),
            );
        }
        let starts = 1..=view.starts.len() as u64;
        let open: Vec<_> = starts
            .clone()
            .filter(|step| *step > view.ledger.last())
            .collect();
        Self::Starts(if open.is_empty() {
            starts.collect()
        } else {
            open
        })
    }

    /// Another elite, drawn as a parent is.
    fn other(&self, view: &View<'_>, parent: u64, stream: &mut Stream) -> Option<u64> {
        let Self::Elites(steps) = self else {
            return None;
        };
        let drawn = (0..DRAWS).map(|_| self.draw(view, stream));
        drawn
            .into_iter()
            .find(|other| *other != parent)
            .or_else(|| steps.iter().copied().find(|other| *other != parent))
    }

    fn all(&self) -> Vec<u64> {
        let (Self::Elites(steps) | Self::Starts(steps)) = self;
        steps.clone()
    }

    /// Evenly from all cells with the chance `exploration`, else from the fastest elites by 1 / rank².
    fn draw(&self, view: &View<'_>, stream: &mut Stream) -> u64 {
        let (Self::Elites(steps) | Self::Starts(steps)) = self;
        let explore = matches!(self, Self::Starts(_)) || stream.unit() < view.settings.exploration;
        let index = if explore {
            stream.below(steps.len())
        } else {
            let ranks = 1..=steps.len().min(EXPLOITED);
            let weights: Vec<_> = ranks.map(|rank| 1.0 / (rank * rank) as f64).collect();
            stream.weighted(&weights).unwrap_or(0)
        };
        // A pool is never empty: without a starting kernel nothing is planned.
        steps.get(index).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::ledger::Insert;

    #[test]
    fn what_pays_is_weighted_up_as_far_as_learning_goes_and_nothing_is_forgotten_for_good() {
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
        let settings = |learning| Settings {
            learning,
            ..Settings::default()
        };
        let typed = [1.0, 1.0, 0.3, 1.0, 2.0, 0.5, 1.0];
        assert_eq!(planner.weights(&settings(1.0)), typed);
        for _ in 0..200 {
            planner.learn(
                &brief(Operator::Autotune),
                &Outcome::Passed {
                    speedup: 2.0,
                    insert: Insert::New,
                },
                &settings(0.5),
            );
            planner.learn(
                &brief(Operator::Mutate),
                &Outcome::Passed {
                    speedup: 2.0,
                    insert: Insert::NotAdded { behind: 1 },
                },
                &settings(0.5),
            );
        }
        assert_eq!(planner.weights(&settings(0.0)), typed);
        let half = planner.weights(&settings(0.5));
        assert!(half[0] > 1.2 && half[1] > 0.5 && half[1] < 0.7, "{half:?}");
        let full = planner.weights(&settings(1.0));
        assert!(
            full[0] > half[0] && full[1] < half[1] && full[1] > 0.0,
            "{full:?}"
        );
    }
}
