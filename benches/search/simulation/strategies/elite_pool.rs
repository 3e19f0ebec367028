//! Half recent kernels, half elites that a softmax over the log speedup draws: the shape of the contest's baseline agent (pool of six).

use kforge::event::{Brief, Event};
use kforge::search::{KnownCode, OperatorWeights};

use super::super::dice::Dice;
use super::super::strategy::{Replacement, Strategy};
use super::history::{History, Passed, Setup};

/// How many of the latest kernels are parents.
const RECENT: usize = 3;

/// A kernel whose log speedup is higher by this much is drawn e times as often.
const TEMPERATURE: f64 = 0.1;

/// How many parents are tried for one brief.
const MAX_PARENTS: usize = 32;

pub(crate) struct ElitePool(History);

impl ElitePool {
    pub(crate) fn new(setup: Setup, weights: &OperatorWeights) -> Self {
        Self(History::new(setup, weights.clone()))
    }
}

impl Strategy for ElitePool {
    fn ask(&mut self, step: u64) -> Option<Brief> {
        let history = &mut self.0;
        if let Some(start) = history.start(step) {
            return Some(start);
        }
        if history.must_wait() {
            return None;
        }
        let mut dice = history.dice(step);
        let passed = history.passed.clone();
        let best = passed.iter().map(|one| one.speedup.ln());
        let best = best.fold(f64::NEG_INFINITY, f64::max);
        let weight = |one: &Passed| ((one.speedup.ln() - best) / TEMPERATURE).exp();
        let weights: Vec<f64> = passed.iter().map(weight).collect();
        let draw = |dice: &mut Dice| {
            let recent = &passed[passed.len().saturating_sub(RECENT)..];
            let chosen = if dice.chance(0.5) {
                dice.pick(recent)
            } else {
                dice.weighted(&weights).and_then(|index| passed.get(index))
            };
            chosen.map_or(1, |one| one.step)
        };
        (0..MAX_PARENTS).find_map(|_| {
            let parent = draw(&mut dice);
            history.brief(step, parent, &mut dice, draw)
        })
    }

    fn tell(&mut self, event: &Event) -> Vec<Replacement> {
        self.0.tell(event)
    }

    fn best(&self) -> Option<u64> {
        self.0.best()
    }

    fn known_code(&self, step: u64) -> Vec<KnownCode> {
        self.0.known_code(step)
    }
}
