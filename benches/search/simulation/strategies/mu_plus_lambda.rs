//! A population of the fastest kernels, each with the same number of children: EvoEngineer's shape (population 5).

use indexmap::IndexMap;
use kforge::event::{Brief, Event};
use kforge::search::{KnownCode, OperatorWeights};

use super::super::dice::Dice;
use super::super::strategy::{Replacement, Strategy};
use super::history::{History, Passed, Setup};

/// The size of the population.
const POPULATION: usize = 5;

pub(crate) struct MuPlusLambda {
    history: History,
    /// Fastest first.
    population: Vec<Passed>,
    /// How many kernels that passed are in the population or were left out.
    seen: usize,
    turn: usize,
}

impl MuPlusLambda {
    pub(crate) fn new(setup: Setup, weights: &OperatorWeights) -> Self {
        Self {
            history: History::new(setup, weights.clone()),
            population: Vec::new(),
            seen: 0,
            turn: 0,
        }
    }
}

impl Strategy for MuPlusLambda {
    fn ask(&mut self, step: u64) -> Option<Brief> {
        if let Some(start) = self.history.start(step) {
            return Some(start);
        }
        if self.history.must_wait() {
            return None;
        }
        let mut dice = self.history.dice(step);
        let steps: Vec<u64> = self.population.iter().map(|one| one.step).collect();
        let other = |dice: &mut Dice| *dice.pick(&steps).unwrap_or(&1);
        // Each parent has its turn.
        (0..steps.len()).find_map(|_| {
            self.turn += 1;
            let parent = steps[self.turn % steps.len()];
            self.history.brief(step, parent, &mut dice, other)
        })
    }

    fn tell(&mut self, event: &Event) -> Vec<Replacement> {
        let replaced = self.history.tell(event);
        for passed in &self.history.passed[self.seen..] {
            let faster = |one: &Passed| one.speedup >= passed.speedup;
            let rank = self.population.partition_point(faster);
            self.population.insert(rank, *passed);
            self.population.truncate(POPULATION);
        }
        self.seen = self.history.passed.len();
        replaced
    }

    fn best(&self) -> Option<u64> {
        self.history.best()
    }

    /// A kernel that is slower than the whole population has no children.
    fn bar(&self, _step: u64, _features: &IndexMap<String, f64>) -> Option<f64> {
        let slowest = self.population.get(POPULATION - 1)?;
        Some(slowest.speedup)
    }

    fn known_code(&self, step: u64) -> Vec<KnownCode> {
        self.history.known_code(step)
    }
}
