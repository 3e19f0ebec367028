//! What the controls remember of the steps so far, and how they make a brief once a parent is chosen.

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;
use kforge::base::Digest;
use kforge::event::{Brief, Event, FailedReason, ModelBrief, Operator, Proposed};
use kforge::search::{KnownCode, OperatorWeights};
use kforge::verdict::Status;

use super::super::dice::Dice;
use super::super::strategy::Replacement;

/// How often a point is drawn before the operator gives up.
const MAX_DRAWS: usize = 32;

/// How many kernels that did not pass can be repaired: the latest.
const MAX_BROKEN: usize = 8;

/// What a strategy gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// Steps in flight.
    pub(crate) window: u64,
    /// The number of starting kernels.
    pub(crate) starts: u64,
    pub(crate) models: &'static [&'static str],
}

/// A kernel that passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) step: u64,
    /// As it was measured.
    pub(crate) speedup: f64,
}

/// The steps of a search.
pub(crate) struct History {
    setup: Setup,
    weights: OperatorWeights,
    proposed: HashMap<u64, Proposed>,
    /// In the order in which they were told.
    pub(crate) passed: Vec<Passed>,
    broken: Vec<u64>,
    best: Option<Passed>,
    codes: BTreeMap<u64, Digest>,
    attempts: HashMap<(Operator, Vec<u64>), u64>,
    exhausted: HashSet<(Operator, Vec<u64>)>,
    asked: HashMap<u64, (Operator, Vec<u64>)>,
    tried: HashSet<(Digest, Vec<i64>)>,
    replaced: Vec<Replacement>,
}

impl History {
    pub(crate) fn new(setup: Setup, weights: OperatorWeights) -> Self {
        Self {
            setup,
            weights,
            proposed: HashMap::new(),
            passed: Vec::new(),
            broken: Vec::new(),
            best: None,
            codes: BTreeMap::new(),
            attempts: HashMap::new(),
            exhausted: HashSet::new(),
            asked: HashMap::new(),
            tried: HashSet::new(),
            replaced: Vec::new(),
        }
    }

    /// The luck of one step.
    pub(crate) fn dice(&self, step: u64) -> Dice {
        Dice::new(&[self.setup.seed, 31, step])
    }

    pub(crate) fn best(&self) -> Option<u64> {
        self.best.map(|best| best.step)
    }

    /// The code of all kernels that passed.
    pub(crate) fn known_code(&self, step: u64) -> Vec<KnownCode> {
        let known = self.codes.range(..step);
        known
            .map(|(step, code)| KnownCode {
                code: *code,
                step: *step,
            })
            .collect()
    }

    pub(crate) fn tell(&mut self, event: &Event) -> Vec<Replacement> {
        match event {
            Event::Proposed(proposed) => {
                self.mark_tried(proposed.family, &proposed.point);
                self.proposed.insert(proposed.step, proposed.clone());
            }
            Event::Judged(judged) => {
                let verdict = &judged.verdict;
                let measured = verdict.speedup.filter(|_| !verdict.is_dismissed());
                match (verdict.status, measured) {
                    (Status::Passed, Some(speedup)) => {
                        self.codes
                            .extend(verdict.code.map(|code| (judged.step, code)));
                        self.add(Passed {
                            step: judged.step,
                            speedup: speedup.geomean,
                        });
                    }
                    (Status::Passed, None) => {}
                    _ => self.broken.push(judged.step),
                }
            }
            Event::Failed(failed) if failed.reason == FailedReason::NoOp => {
                self.exhausted.extend(self.asked.remove(&failed.step));
            }
            _ => {}
        }
        std::mem::take(&mut self.replaced)
    }

    /// The brief of a starting kernel; `None` if the step is none.
    pub(crate) fn start(&self, step: u64) -> Option<Brief> {
        (step <= self.setup.starts).then(|| Brief {
            start: Some(format!("{}.cu", step - 1)),
            ..template(step, Operator::Start, Vec::new())
        })
    }

    /// Whether there is nothing to build on yet.
    pub(crate) fn must_wait(&self) -> bool {
        self.passed.is_empty()
    }

    /// A brief with this parent, or with another that `other` draws. `None` if no operator has anything left for it.
    pub(crate) fn brief(
        &mut self,
        step: u64,
        parent: u64,
        dice: &mut Dice,
        mut other: impl FnMut(&mut Dice) -> u64,
    ) -> Option<Brief> {
        let mut weights = self.operator_weights();
        while let Some(index) = dice.weighted(&weights.map(|(_, weight)| weight)) {
            let operator = weights[index].0;
            let parents = match operator {
                Operator::Recombine | Operator::Crossover => vec![parent, other(dice)],
                Operator::Repair => self.broken_kernel(dice).into_iter().collect(),
                _ => vec![parent],
            };
            if let Some(brief) = self.operator_brief(step, operator, parents, dice) {
                return Some(brief);
            }
            weights[index].1 = 0.0;
        }
        None
    }

    fn operator_weights(&self) -> [(Operator, f64); 7] {
        let own = &self.weights;
        let asked = f64::from(u8::from(!self.setup.models.is_empty()));
        [
            (Operator::Autotune, own.autotune),
            (Operator::Mutate, own.mutate),
            (Operator::Recombine, own.recombine),
            (Operator::Propose, asked * own.propose),
            (Operator::Edit, asked * own.edit),
            (Operator::Crossover, asked * own.crossover),
            (Operator::Repair, asked * own.repair),
        ]
    }

    fn operator_brief(
        &mut self,
        step: u64,
        operator: Operator,
        parents: Vec<u64>,
        dice: &mut Dice,
    ) -> Option<Brief> {
        let needed = match operator {
            Operator::Recombine | Operator::Crossover => 2,
            _ => 1,
        };
        let are_distinct = parents.len() < 2 || parents[0] != parents[1];
        let key = (operator, parents.clone());
        if parents.len() < needed || !are_distinct || self.exhausted.contains(&key) {
            return None;
        }
        let mut brief = template(step, operator, parents);
        if operator == Operator::Autotune {
            let parent = self.proposed.get(brief.parents.first()?)?.clone();
            brief.point = Some(self.untried_point(&parent, dice)?);
        } else {
            let attempts = self.attempts.entry(key.clone()).or_default();
            brief.attempt = *attempts;
            *attempts += 1;
        }
        if operator.asks_model() {
            let name = dice.pick(self.setup.models).copied().unwrap_or_default();
            brief.model = Some(ModelBrief {
                name: name.to_owned(),
                ..ModelBrief::default()
            });
        }
        self.asked.insert(step, key);
        Some(brief)
    }

    /// A point that differs from the parent's in one tunable, else any untried one.
    fn untried_point(
        &mut self,
        parent: &Proposed,
        dice: &mut Dice,
    ) -> Option<IndexMap<String, i64>> {
        let names: Vec<&String> = parent.space.keys().collect();
        for draw in 0..2 * MAX_DRAWS {
            let mut point = parent.point.clone();
            let moved = dice.below(names.len());
            for (index, name) in names.iter().enumerate() {
                if index == moved || draw >= MAX_DRAWS {
                    let value = dice.pick(&parent.space[*name])?;
                    point.insert((*name).clone(), *value);
                }
            }
            if self.mark_tried(parent.family, &point) {
                return Some(point);
            }
        }
        None
    }

    fn mark_tried(&mut self, family: Digest, point: &IndexMap<String, i64>) -> bool {
        self.tried
            .insert((family, point.values().copied().collect()))
    }

    /// One of the latest kernels that did not pass.
    fn broken_kernel(&self, dice: &mut Dice) -> Option<u64> {
        let first = self.broken.len().saturating_sub(MAX_BROKEN);
        dice.pick(&self.broken[first..]).copied()
    }

    fn add(&mut self, passed: Passed) {
        if self.best.is_none_or(|best| passed.speedup > best.speedup) {
            let replaced = self.best.map(|best| Replacement {
                step: passed.step,
                over: best.step,
            });
            self.replaced.extend(replaced);
            self.best = Some(passed);
        }
        self.passed.push(passed);
    }
}

fn template(step: u64, operator: Operator, parents: Vec<u64>) -> Brief {
    Brief {
        step,
        operator,
        parents,
        seed: step,
        island: None,
        start: None,
        point: None,
        attempt: 0,
        retired: BTreeMap::new(),
        weights: Vec::new(),
        model: None,
    }
}
