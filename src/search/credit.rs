//! What choices have earned: speed gained over the parent for what it cost (steps, device time, dollars), by operator, transformation,
//! model and strategy card.
//!
//! Counts folded steps in their order, and forgets old ones. `planner` and `model_brief` multiply weights by its factors. Draws nothing.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use super::results::{Change, transformations_of};
use super::settings::SearchSettings;
use crate::event::{Brief, Operator};

/// How many average steps every choice starts with, before its own steps count. A choice without steps is thus an average one, which is
/// all the exploration that the simulated searches reward: an added bonus for rare choices made them slower.
const PRIOR_STEPS: f64 = 4.0;

/// The same for transformations: their briefs come less often, and their gains differ more.
const PRIOR_MUTATIONS: f64 = 1.0;

/// The weight of a step is multiplied by this at every later step of the same kind.
const DECAY: f64 = 0.98;
const SLOW_DECAY: f64 = 0.99;

/// A lower mean gain counts as this much, so that noise does not decide where nothing is gained.
const MIN_MEAN_GAIN: f64 = 1e-4;

/// The name of the choice to give a model no strategy card.
const NO_CARD: &str = "";

/// What a step cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    pub(super) device_seconds: f64,
    /// Billionths of a dollar; 0 if no price is known.
    pub(super) nano_usd: u64,
}

/// Steps, what they gained, and what they cost. Older steps weigh less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Earnings {
    steps: f64,
    /// Log speedups over the parent (`Change::gain`).
    gain: f64,
    device_seconds: f64,
    nano_usd: f64,
}

/// The choices of one kind, and all of them together.
#[derive(Debug)]
struct Choices<K> {
    all: Earnings,
    each: BTreeMap<K, Earnings>,
    /// The weight of a step is multiplied by this at every later step.
    decay: f64,
}

/// The earnings of all choices.
#[derive(Debug)]
pub(super) struct Credit {
    operators: Choices<Operator>,
    transformations: Choices<String>,
    models: Choices<String>,
    cards: Choices<String>,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            operators: Choices::new(DECAY),
            transformations: Choices::new(SLOW_DECAY),
            models: Choices::new(SLOW_DECAY),
            cards: Choices::new(SLOW_DECAY),
        }
    }
}

impl Credit {
    /// Records a folded step. Starting kernels are no choice. `detail`: what its operator did. `change`: its candidate against the parent, if both have figures.
    pub(super) fn record(
        &mut self,
        brief: &Brief,
        detail: &str,
        change: Option<Change>,
        spent: Spent,
    ) {
        if brief.operator == Operator::Start {
            return;
        }
        let earned = Earnings {
            steps: 1.0,
            gain: change.map_or(0.0, |change| change.gain),
            device_seconds: spent.device_seconds,
            nano_usd: spent.nano_usd as f64,
        };
        self.operators.add([brief.operator], earned);
        if brief.operator == Operator::Mutate {
            let names = transformations_of(detail).map(str::to_owned);
            self.transformations.add(names, earned);
        }
        if let Some(model) = &brief.model {
            self.models.add([model.name.clone()], earned);
            let card = model.card.clone().unwrap_or_else(|| NO_CARD.to_owned());
            self.cards.add([card], earned);
        }
    }

    /// The factor of an operator's weight.
    pub(super) fn operator(&self, operator: Operator, settings: &SearchSettings) -> f64 {
        learned(self.operators.ratio(&operator, PRIOR_STEPS), settings)
    }

    /// The factors of the weights of all transformations with evidence, rounded to hundredths. None without learning.
    pub(super) fn transformations(&self, settings: &SearchSettings) -> BTreeMap<String, f64> {
        if settings.learning <= 0.0 {
            return BTreeMap::new();
        }
        let names = self.transformations.each.keys();
        let factors = names.map(|name| {
            let ratio = self.transformations.ratio(name, PRIOR_MUTATIONS);
            (name.clone(), (ratio * 100.0).round() / 100.0)
        });
        factors.collect()
    }

    /// The factor of a model's weight.
    pub(super) fn model(&self, name: &str, settings: &SearchSettings) -> f64 {
        learned(self.models.ratio(name, PRIOR_STEPS), settings)
    }

    /// The factor of the weight of a strategy card; `None`: of no card.
    pub(super) fn card(&self, name: Option<&str>, settings: &SearchSettings) -> f64 {
        let ratio = self.cards.ratio(name.unwrap_or(NO_CARD), PRIOR_STEPS);
        learned(ratio, settings)
    }
}

/// A factor of 1 without learning, and `ratio` with full learning.
fn learned(ratio: f64, settings: &SearchSettings) -> f64 {
    1.0 - settings.learning + settings.learning * ratio
}

impl<K: Ord> Choices<K> {
    fn new(decay: f64) -> Self {
        Self {
            all: Earnings::default(),
            each: BTreeMap::new(),
            decay,
        }
    }

    /// Adds a step. If it had several choices, each has a part in it.
    fn add(&mut self, chosen: impl IntoIterator<Item = K>, earned: Earnings) {
        let chosen: Vec<K> = chosen.into_iter().collect();
        if chosen.is_empty() {
            return;
        }
        let part = earned.scaled(1.0 / chosen.len() as f64);
        self.all = self.all.scaled(self.decay).plus(earned);
        for one in self.each.values_mut() {
            *one = one.scaled(self.decay);
        }
        for choice in chosen {
            let one = self.each.entry(choice).or_default();
            *one = one.plus(part);
        }
    }

    /// How much more a choice earns for its cost than the mean of all steps: 1 without evidence. It moves from there as if `prior`
    /// average steps had come before.
    fn ratio<Q: Ord + ?Sized>(&self, choice: &Q, prior: f64) -> f64
    where
        K: Borrow<Q>,
    {
        let own = self.each.get(choice).copied().unwrap_or_default();
        let mean_gain = self.all.gain / self.all.steps.max(1.0) + MIN_MEAN_GAIN;
        (own.gain / mean_gain + prior) / (own.cost(&self.all) + prior)
    }
}

impl Earnings {
    fn scaled(self, factor: f64) -> Self {
        Self {
            steps: self.steps * factor,
            gain: self.gain * factor,
            device_seconds: self.device_seconds * factor,
            nano_usd: self.nano_usd * factor,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            gain: self.gain + other.gain,
            device_seconds: self.device_seconds + other.device_seconds,
            nano_usd: self.nano_usd + other.nano_usd,
        }
    }

    /// What it cost, as a number of average steps of `all`: the mean over its steps, its device time and its dollars, if any of these
    /// were spent. Steps count because one that takes no device time, such as a compile error, takes a place in the window and a request.
    fn cost(&self, all: &Earnings) -> f64 {
        let pairs = [
            (self.steps, all.steps),
            (self.device_seconds, all.device_seconds),
            (self.nano_usd, all.nano_usd),
        ];
        let shares = pairs.into_iter().filter(|(_, all)| *all > 0.0);
        let shares: Vec<f64> = shares.map(|(own, all)| own / all).collect();
        all.steps * shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ModelBrief;

    fn settings(learning: f64) -> SearchSettings {
        SearchSettings {
            learning,
            ..SearchSettings::default()
        }
    }

    fn brief(operator: Operator, model: Option<ModelBrief>) -> Brief {
        Brief {
            step: 9,
            operator,
            parents: vec![1],
            seed: 0,
            island: None,
            start: None,
            point: None,
            attempt: 0,
            retired: BTreeMap::new(),
            weights: Vec::new(),
            model,
        }
    }

    fn seconds(device_seconds: f64) -> Spent {
        Spent {
            device_seconds,
            nano_usd: 0,
        }
    }

    fn gain(ratio: f64) -> Option<Change> {
        Some(Change {
            ratio,
            gain: ratio.ln(),
            is_faster: true,
            is_slower: false,
        })
    }

    /// What was earned after `autotune` has made faster kernels and `mutate` none, 200 times each.
    fn experienced() -> Credit {
        let mut credit = Credit::default();
        for _ in 0..200 {
            for (operator, change) in [(Operator::Autotune, gain(1.1)), (Operator::Mutate, None)] {
                credit.record(&brief(operator, None), "unroll 4", change, seconds(1.0));
            }
        }
        credit
    }

    #[test]
    fn without_steps_or_learning_every_factor_is_1() {
        let operators = [Operator::Autotune, Operator::Mutate, Operator::Edit];
        for (credit, learning) in [(Credit::default(), 1.0), (experienced(), 0.0)] {
            let factors = operators.map(|operator| credit.operator(operator, &settings(learning)));
            assert_eq!(factors, [1.0; 3]);
            assert!(credit.transformations(&settings(learning)).is_empty());
        }
    }

    #[test]
    fn learning_prefers_what_gains() {
        let credit = experienced();
        let [half, full] = [0.5, 1.0].map(settings);
        assert!(credit.operator(Operator::Autotune, &half) > 1.3);
        assert!(
            credit.operator(Operator::Autotune, &full) > credit.operator(Operator::Autotune, &half)
        );
        assert!(credit.operator(Operator::Mutate, &half) < 0.7);
        // An operator that never gains anything is still tried, and one without steps is an average one.
        assert!(credit.operator(Operator::Mutate, &full) > 0.0);
        assert_eq!(credit.operator(Operator::Recombine, &full), 1.0);
    }

    #[test]
    fn equal_gains_for_less_device_time_earn_more() {
        let mut credit = Credit::default();
        for _ in 0..50 {
            for (operator, time) in [(Operator::Autotune, 1.0), (Operator::Mutate, 4.0)] {
                credit.record(&brief(operator, None), "unroll 4", gain(1.1), seconds(time));
            }
        }
        let [cheap, dear] = [Operator::Autotune, Operator::Mutate]
            .map(|operator| credit.operator(operator, &settings(1.0)));
        assert!(cheap > 1.5 * dear, "{cheap} {dear}");
    }

    #[test]
    fn dollars_count_for_models() {
        let mut credit = Credit::default();
        for _ in 0..50 {
            for (name, nano_usd) in [("cheap", 1_000), ("dear", 50_000)] {
                let model = ModelBrief {
                    name: name.to_owned(),
                    ..ModelBrief::default()
                };
                let spent = Spent {
                    nano_usd,
                    ..seconds(1.0)
                };
                credit.record(&brief(Operator::Edit, Some(model)), "", gain(1.1), spent);
            }
        }
        let [cheap, dear] = ["cheap", "dear"].map(|name| credit.model(name, &settings(1.0)));
        assert!(cheap > 1.4 * dear, "{cheap} {dear}");
    }

    #[test]
    fn both_transformations_of_a_child_have_a_part_in_it() {
        let mut credit = Credit::default();
        let mutate = brief(Operator::Mutate, None);
        for _ in 0..20 {
            credit.record(
                &mutate,
                "unroll 4, then fuse lines 4 and 6",
                gain(1.2),
                seconds(1.0),
            );
            credit.record(&mutate, "hoist x (line 3)", None, seconds(1.0));
        }
        let factors = credit.transformations(&settings(0.5));
        assert_eq!(factors["unroll"], factors["fuse"]);
        assert!(
            factors["unroll"] > 1.5 && factors["hoist"] < 0.2,
            "{factors:?}"
        );
    }

    #[test]
    fn old_steps_are_forgotten() {
        let mut credit = experienced();
        let before = credit.operator(Operator::Mutate, &settings(1.0));
        for _ in 0..200 {
            credit.record(
                &brief(Operator::Mutate, None),
                "unroll 4",
                gain(1.1),
                seconds(1.0),
            );
        }
        let after = credit.operator(Operator::Mutate, &settings(1.0));
        assert!(after > 2.0 * before, "{before} became {after}");
    }
}
