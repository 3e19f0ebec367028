//! The control: a uniform parent among all kernels that passed, and a uniform operator.

use kforge::event::{Brief, Event};
use kforge::search::{KnownCode, OperatorWeights};

use super::super::dice::Dice;
use super::super::strategy::{Replacement, Strategy};
use super::history::{History, Setup};

/// How many parents are tried for one brief.
const MAX_PARENTS: usize = 32;

pub(crate) struct RandomSearch(History);

impl RandomSearch {
    /// `operators`: which operators there are. Those with a weight are equally likely.
    pub(crate) fn new(setup: Setup, operators: &OperatorWeights) -> Self {
        let uniform = |weight: f64| f64::from(u8::from(weight > 0.0));
        let weights = OperatorWeights {
            autotune: uniform(operators.autotune),
            mutate: uniform(operators.mutate),
            recombine: uniform(operators.recombine),
            propose: uniform(operators.propose),
            edit: uniform(operators.edit),
            crossover: uniform(operators.crossover),
            repair: uniform(operators.repair),
        };
        Self(History::new(setup, weights))
    }
}

impl Strategy for RandomSearch {
    fn ask(&mut self, step: u64) -> Option<Brief> {
        let history = &mut self.0;
        if let Some(start) = history.start(step) {
            return Some(start);
        }
        if history.must_wait() {
            return None;
        }
        let mut dice = history.dice(step);
        let steps: Vec<u64> = history.passed.iter().map(|passed| passed.step).collect();
        let draw = |dice: &mut Dice| *dice.pick(&steps).unwrap_or(&1);
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
