//! Chooses the hidden cases of a candidate, which no prompt names: the timed shapes under regimes, and hidden shapes.
//!
//! A judgement of a candidate gets a random part of them, within a budget of operations; a confirmation gets all. What a candidate
//! could condition on (a size above a threshold, one timed shape, a tail) is covered before anything is left to chance. Pure: all
//! randomness comes from the stream, whose seed is drawn after the candidate is fixed. `shapes` draws sizes, `cases` uses this
//! module.

use serde::{Deserialize, Serialize};

use super::case::{Case, operations};
use super::shapes::{self, Axes, ShapeSource};
use crate::base::RandomStream;
use crate::task::{Profile, Regime, RegimeChoice, Task};

/// Which part of the hidden cases a judgement runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Coverage {
    /// A random part, within a budget.
    #[default]
    Part,
    /// All hidden cases: each regime on each timed shape and on each small hidden shape, and neighbours of each timed shape.
    All,
    /// No hidden case: another process of the same confirmation has checked and inspected them all. Nothing is inspected, and only the
    /// workloads are checked and timed.
    Timed,
}

/// How much work hidden cases may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) coverage: Coverage,
    /// The least budget in operations, however cheap the workloads are.
    pub(super) least_operations: f64,
}

/// The budget: operations of timed shapes under regimes, as a share of the operations that checking the workloads costs.
const BUDGET_SHARE: f64 = 0.5;
/// A shape is cheap if its checks take at most this share of the budget.
const CHEAP_SHARE: f64 = 0.125;
/// The most that one case on a drawn shape may cost, as a share of the budget.
const DRAWN_SHARE: f64 = 1.0 / 16.0;
/// A size of at least this share of the largest timed one counts as one of the largest sizes of an axis.
const UPPER_SHARE: f64 = 0.85;
/// Tails are not required of an axis whose timed sizes are all below this.
const MIN_WITH_TAILS: i64 = 32;
/// The number of random hidden shapes in a confirmation, as a multiple of the profile's.
const RANDOM_SHAPES_OF_ALL: u32 = 4;

/// What the hidden cases are chosen for.
pub(super) struct HiddenPlan<'p> {
    pub(super) task: &'p Task,
    pub(super) profile: &'p Profile,
    /// The workloads that are timed.
    pub(super) timed: &'p [Case],
    pub(super) effort: Effort,
}

/// Chooses the hidden cases.
pub(super) fn hidden_cases(plan: &HiddenPlan<'_>, stream: &mut RandomStream) -> Vec<Case> {
    let mut regimes: Vec<_> = plan.task.regimes().into_iter().collect();
    stream.shuffle(&mut regimes);
    let checks = f64::from(plan.profile.rounds) * plan.timed_operations().sum::<f64>();
    let mut selection = Selection {
        plan,
        source: ShapeSource::new(plan.task, plan.timed),
        regimes,
        next_regime: 0,
        budget: (BUDGET_SHARE * checks).max(plan.effort.least_operations),
        cases: Vec::new(),
        stream,
    };
    selection.add_timed_shapes();
    if plan.profile.hidden_shapes > 0 {
        selection.add_small_shapes();
        selection.add_neighbours();
        selection.add_long_shapes();
        selection.add_random_shapes();
    }
    selection.cases
}

/// A random hidden shape as a case.
pub(super) fn random_case(
    plan: &HiddenPlan<'_>,
    id: String,
    stream: &mut RandomStream,
) -> Option<Case> {
    let source = ShapeSource::new(plan.task, plan.timed);
    let axes = source.random(f64::INFINITY, stream);
    drawn_case(plan, &source, id, &axes, stream)
}

/// A drawn shape as a case, with the inputs of a workload. `None` if its sizes do not fit the definition.
fn drawn_case(
    plan: &HiddenPlan<'_>,
    source: &ShapeSource<'_>,
    id: String,
    axes: &Axes,
    stream: &mut RandomStream,
) -> Option<Case> {
    let timed = plan.timed.get(stream.below(plan.timed.len()));
    let inputs = match timed {
        Some(case) => case.inputs.clone(),
        None => plan.task.workloads.first()?.inputs.clone(),
    };
    Some(Case {
        id,
        binding: source.bind(axes)?,
        inputs,
        hidden: true,
        is_drawn: true,
        regime: None,
    })
}

impl HiddenPlan<'_> {
    fn timed_operations(&self) -> impl Iterator<Item = f64> {
        let timed = self.timed.iter();
        timed.map(|case| operations(self.task, &case.binding))
    }

    fn is_all(&self) -> bool {
        self.effort.coverage == Coverage::All
    }
}

/// The choice of hidden cases, under way.
struct Selection<'s, 'p> {
    plan: &'s HiddenPlan<'p>,
    source: ShapeSource<'p>,
    /// In random order.
    regimes: Vec<(String, Regime)>,
    /// Counts the regimes that were taken.
    next_regime: usize,
    /// Operations of timed shapes under regimes.
    budget: f64,
    cases: Vec<Case>,
    stream: &'s mut RandomStream,
}

impl Selection<'_, '_> {
    /// Adds a shape under a regime, unless it is a case already.
    fn add(&mut self, shape: &Case, regime: Option<usize>) {
        let regime = regime.and_then(|index| self.regimes.get(index));
        let case = match regime {
            Some((name, regime)) => shape.with_regime(name, regime),
            None => shape.clone(),
        };
        let is_same = |known: &Case| {
            known.binding == case.binding
                && known.inputs == case.inputs
                && known.regime_name() == case.regime_name()
        };
        if !self.plan.timed.iter().chain(&self.cases).any(is_same) {
            self.cases.push(case);
        }
    }

    /// The next regime in turn, so that few cases meet many regimes. `None` if the task has none.
    fn take_regime(&mut self) -> Option<usize> {
        let taken = self.next_regime.checked_rem(self.regimes.len());
        self.next_regime += 1;
        taken
    }

    fn draw(&mut self, name: &str, axes: &Axes) -> Option<Case> {
        let id = format!("hidden-{name}");
        drawn_case(self.plan, &self.source, id, axes, self.stream)
    }

    /// The timed shapes under regimes: each under at least one, each cheap one under all, the others within the budget.
    fn add_timed_shapes(&mut self) {
        let plan = self.plan;
        let count = self.regimes.len();
        let mut shapes: Vec<_> = plan.timed.iter().zip(plan.timed_operations()).collect();
        // Shapes of similar size get different regimes. So a kernel that is wrong above some size meets many regimes.
        shapes.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let is_cheap = |cost: f64| cost * count as f64 <= CHEAP_SHARE * self.budget;
        let mut left = self.budget;
        let mut chosen = vec![Vec::new(); shapes.len()];
        let mut next = 0;
        for round in 0..count {
            for ((_, cost), chosen) in shapes.iter().zip(&mut chosen) {
                let is_free = round == 0 || plan.is_all() || is_cheap(*cost);
                if !is_free && *cost > left {
                    continue;
                }
                let in_turn = (next..next + count).map(|index| index % count);
                let taken = in_turn.into_iter().find(|index| !chosen.contains(index));
                if let Some(regime) = taken {
                    chosen.push(regime);
                    next = regime + 1;
                    left -= cost;
                }
            }
        }
        for ((shape, _), chosen) in shapes.into_iter().zip(chosen) {
            for regime in chosen {
                self.add(shape, Some(regime));
            }
        }
    }

    /// Small hidden shapes, each under one regime. The smallest and the largest meet all regimes if the profile says so; in a confirmation
    /// every shape does.
    fn add_small_shapes(&mut self) {
        let drawn = self.source.small_shapes(self.stream);
        let shapes: Vec<_> = drawn
            .iter()
            .filter_map(|(name, axes)| self.draw(name, axes))
            .collect();
        let count = self.regimes.len();
        let is_thorough = self.plan.profile.regimes == RegimeChoice::All;
        for (shape, (name, _)) in shapes.iter().zip(&drawn) {
            let is_end = ["low", "high"].contains(&name.as_str());
            if self.plan.is_all() || (is_thorough && is_end) || count == 0 {
                for regime in 0..count.max(1) {
                    self.add(shape, Some(regime));
                }
            }
        }
        for shape in &shapes {
            let regime = self.take_regime();
            self.add(shape, regime);
        }
    }

    /// Neighbours of timed shapes: in a confirmation of all, else of cheap shapes only. Of these, the largest one gets a neighbour, and
    /// each that is as long as the longest timed shape on some axis.
    fn add_neighbours(&mut self) {
        let plan = self.plan;
        let limit = CHEAP_SHARE * self.budget;
        for (index, shape) in plan.timed.iter().enumerate() {
            let cost = operations(plan.task, &shape.binding);
            let costs = plan.timed_operations();
            let is_largest_cheap = cost <= limit
                && !costs
                    .into_iter()
                    .any(|other| other > cost && other <= limit);
            let is_longest = |axis: &String| {
                self.source.longest_timed(axis) == shape.binding.axes.get(axis).copied()
            };
            let is_cheap_end = cost <= limit && self.source.axes().iter().any(is_longest);
            if !(plan.is_all() || is_largest_cheap || is_cheap_end) {
                continue;
            }
            let axes = self.source.near(&shape.binding, self.stream);
            let Some(near) = self.draw(&format!("near-{}", index + 1), &axes) else {
                continue;
            };
            let regime = self.take_regime();
            self.add(&near, regime);
            if plan.is_all() {
                self.add(&near, None);
            }
        }
    }

    /// For each axis, a shape that is about as long as the longest timed one and small on the other axes. A judgement leaves it out if
    /// another drawn shape is as long. If some regimes have no case of this length, one more shape meets them: as long as the budget
    /// allows.
    fn add_long_shapes(&mut self) {
        for axis in self.source.axes() {
            let Some(longest) = self.source.longest_timed(&axis) else {
                continue;
            };
            let least = (longest as f64 * UPPER_SHARE).ceil() as i64;
            let is_long = |case: &Case| {
                case.binding
                    .axes
                    .get(&axis)
                    .is_some_and(|size| *size >= least)
            };
            let is_drawn = |case: &Case| {
                let mut timed = self.plan.timed.iter();
                timed.all(|timed| timed.binding != case.binding)
            };
            let is_tail = |case: &Case| {
                let size = case.binding.axes.get(&axis);
                longest < MIN_WITH_TAILS || size.is_some_and(|size| shapes::is_tail(*size))
            };
            let mut cases = self.cases.iter();
            let has_drawn = cases.any(|case| is_long(case) && is_drawn(case) && is_tail(case));
            let missing: Vec<usize> = (0..self.regimes.len())
                .filter(|index| {
                    let name = &self.regimes[*index].0;
                    let of_regime = |case: &&Case| case.regime_name().as_ref() == Some(name);
                    !self.cases.iter().filter(of_regime).any(is_long)
                })
                .collect();
            if !has_drawn || self.plan.is_all() {
                let most = self.plan.timed_operations().fold(0.0, f64::max);
                let axes = self.source.along(&axis, most, self.stream);
                let regime = self.take_regime();
                let shape = self.draw(&format!("long-{axis}"), &axes);
                shape.iter().for_each(|shape| self.add(shape, regime));
            }
            if !missing.is_empty() {
                let axes_count = self.source.axes().len() * missing.len();
                let limit = self.budget / 2.0 / axes_count as f64;
                let axes = self.source.along(&axis, limit, self.stream);
                if let Some(shape) = self.draw(&format!("longer-{axis}"), &axes) {
                    missing
                        .into_iter()
                        .for_each(|regime| self.add(&shape, Some(regime)));
                }
            }
        }
    }

    /// Random shapes, as many as the profile says, each with the usual inputs or under a regime.
    fn add_random_shapes(&mut self) {
        let plan = self.plan;
        let count = if plan.is_all() {
            plan.profile
                .hidden_shapes
                .saturating_mul(RANDOM_SHAPES_OF_ALL)
        } else {
            plan.profile.hidden_shapes
        };
        let costs = self
            .cases
            .iter()
            .filter(|case| case.id.starts_with("hidden-high"));
        let high = costs.map(|case| operations(plan.task, &case.binding));
        let limit = high.fold(DRAWN_SHARE * self.budget, f64::max);
        for index in 1..=count {
            let axes = self.source.random(limit, self.stream);
            let Some(shape) = self.draw(&index.to_string(), &axes) else {
                continue;
            };
            let is_usual = self.stream.below(self.regimes.len() + 1) == 0;
            let regime = if is_usual { None } else { self.take_regime() };
            self.add(&shape, regime);
        }
    }
}
