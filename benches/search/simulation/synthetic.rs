//! Synthetic landscapes: algorithms with transformations and tunables, and routes that lead from one algorithm to another.
//!
//! Only says what exists and how fast it is; `operators` says what an operator makes of a kernel, `terrains` has the landscapes.

use indexmap::IndexMap;
use kforge::event::{Brief, Operator};
use kforge::verdict::Status;

use super::dice::Dice;
use super::landscape::{Kernel, Landscape, MAX_TUNABLES, Proposal, Truth, Tunables};
use super::operators::{self, Yields};

/// The transformations that only routes need: they put something into shared memory.
pub(crate) const KEYS: std::ops::Range<usize> = 12..14;

/// What a key puts there.
const KEY_BYTES: f64 = 16_384.0;

/// The faults of a kernel.
pub(crate) const COMPILE_FAULT: u8 = 1;
pub(crate) const WRONG_FAULT: u8 = 2;

/// The transformation that widens loads to 8 bytes, and the one that widens them to 16.
const WIDE_LOADS: [u32; 2] = [1 << 0, 1 << 1];
/// The transformation that adds barriers.
const BARRIERS: u32 = 1 << 2;

/// A way to compute the result.
#[derive(Clone, Debug)]
pub(crate) struct Algorithm {
    /// Log speedup without transformations, with the best values of the tunables.
    pub(crate) base: f64,
    /// What each transformation adds to the log speedup. `None`: it does not apply.
    pub(crate) effects: Vec<Option<f64>>,
    /// The transformations that do not change the compiled code.
    pub(crate) without_effect: u32,
    /// The best index of each tunable without transformations.
    pub(crate) best_point: Vec<u16>,
    /// By how much each transformation moves the best index of each tunable.
    pub(crate) shifts: Vec<Vec<i32>>,
    /// What one step away from the best index costs, for each tunable: log speedup per squared step.
    pub(crate) curvature: Vec<f64>,
    /// The most that a point's own roughness takes from the log speedup.
    pub(crate) roughness: f64,
    /// The share of the points that do not compile or cannot be launched.
    pub(crate) invalid: f64,
    pub(crate) barriers: f64,
}

/// A route from one algorithm to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) from: u8,
    pub(crate) to: u8,
    /// The transformations that a kernel must have.
    pub(crate) needs: u32,
    /// Only a model finds it.
    pub(crate) model_only: bool,
}

/// A landscape of algorithms.
#[derive(Clone, Debug)]
pub(crate) struct Synthetic {
    pub(crate) seed: u64,
    pub(crate) tunables: Tunables,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) routes: Vec<Route>,
    pub(crate) starts: Vec<Kernel>,
    pub(crate) yields: Yields,
    /// The kind of each transformation: those of one kind have a name together.
    pub(crate) kinds: Vec<u8>,
    /// Log speedup of the first starting kernel before it is made the baseline.
    baseline: f64,
    optimum: f64,
}

/// The parts of a landscape.
pub(crate) struct Parts {
    pub(crate) seed: u64,
    pub(crate) tunables: Tunables,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) routes: Vec<Route>,
    pub(crate) starts: Vec<Kernel>,
    pub(crate) yields: Yields,
    /// The kind of each transformation: those of one kind have a name together.
    pub(crate) kinds: Vec<u8>,
}

impl Synthetic {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut made = Self {
            seed: parts.seed,
            tunables: parts.tunables,
            algorithms: parts.algorithms,
            routes: parts.routes,
            starts: parts.starts,
            yields: parts.yields,
            kinds: parts.kinds,
            baseline: 0.0,
            optimum: 0.0,
        };
        made.baseline = made
            .starts
            .first()
            .map_or(0.0, |start| made.log_speed(start));
        made.optimum = (made.fastest() - made.baseline).exp();
        made
    }

    pub(crate) fn algorithm(&self, kernel: &Kernel) -> &Algorithm {
        &self.algorithms[usize::from(kernel.algorithm)]
    }

    /// The transformations that an algorithm knows.
    pub(crate) fn applicable(&self, algorithm: u8) -> u32 {
        let effects = self.algorithms[usize::from(algorithm)].effects.iter();
        let known = effects.enumerate().filter(|(_, effect)| effect.is_some());
        known.fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    /// The best index of each tunable for a kernel.
    pub(crate) fn best_point(&self, kernel: &Kernel) -> [u16; MAX_TUNABLES] {
        let algorithm = self.algorithm(kernel);
        let mut best = [0; MAX_TUNABLES];
        for (index, values) in self.tunables.values().enumerate() {
            let shifts = algorithm.shifts.iter().enumerate();
            let applied = shifts.filter(|(bit, _)| kernel.has(1 << bit));
            let shift: i32 = applied.map(|(_, shift)| shift[index]).sum();
            let last = values.len() as i32 - 1;
            best[index] = (i32::from(algorithm.best_point[index]) + shift).clamp(0, last) as u16;
        }
        best
    }

    /// The log speedup with the best values of the tunables.
    fn log_speed_at_best(&self, kernel: &Kernel) -> f64 {
        let algorithm = self.algorithm(kernel);
        let effects = algorithm.effects.iter().enumerate();
        let applied = effects.filter(|(bit, _)| kernel.has(1 << bit));
        algorithm.base + applied.filter_map(|(_, effect)| *effect).sum::<f64>()
    }

    fn log_speed(&self, kernel: &Kernel) -> f64 {
        let algorithm = self.algorithm(kernel);
        let best = self.best_point(kernel);
        let (mut lost, mut distance) = (0.0, 0.0);
        for (index, curvature) in algorithm.curvature.iter().enumerate() {
            let steps = f64::from(kernel.point[index]) - f64::from(best[index]);
            lost += curvature * steps * steps;
            distance += steps * steps;
        }
        // Full two steps away from the best point, and nothing there.
        let rough = algorithm.roughness * (1.0 - f64::exp(-0.5 * distance));
        self.log_speed_at_best(kernel) - lost - rough * self.point_dice(kernel).unit()
    }

    /// The log speedup of the fastest kernel: with each algorithm, the transformations that help, and the best point.
    fn fastest(&self) -> f64 {
        let best = self.algorithms.iter().map(|algorithm| {
            let effects = algorithm.effects.iter().flatten();
            algorithm.base + effects.filter(|effect| **effect > 0.0).sum::<f64>()
        });
        best.fold(f64::NEG_INFINITY, f64::max)
    }

    /// The same for all kernels with one algorithm and one point.
    fn point_dice(&self, kernel: &Kernel) -> Dice {
        let of_point = Kernel {
            features: 0,
            fault: 0,
            ..*kernel
        };
        Dice::new(&[self.seed, 11, of_point.key()])
    }

    /// Whether the compiler or the device refuses the point. The best point of a kernel is always valid.
    fn is_refused(&self, kernel: &Kernel) -> bool {
        let mut dice = self.point_dice(kernel);
        dice.next();
        dice.chance(self.algorithm(kernel).invalid)
            && kernel.point != self.best_point(kernel)
            && !self.starts.contains(kernel)
    }

    fn block_threads(&self, kernel: &Kernel) -> f64 {
        let block = self.tunables.first().map(|(_, values)| values);
        let value = block.and_then(|values| values.get(usize::from(kernel.point[0])));
        value.map_or(256.0, |value| *value as f64)
    }
}

impl Landscape for Synthetic {
    fn starts(&self) -> &[Kernel] {
        &self.starts
    }

    fn tunables(&self) -> &Tunables {
        &self.tunables
    }

    fn propose(&self, brief: &Brief, parents: &[Kernel], dice: &mut Dice) -> Proposal {
        let Some(parent) = parents.first() else {
            return operators::from_nothing(self, brief, dice);
        };
        match brief.operator {
            Operator::Mutate => operators::mutate(self, brief, parent),
            Operator::Recombine => {
                operators::recombine(self, brief, parent, parents.last().unwrap_or(parent))
            }
            _ => operators::ask_model(self, brief, parents, dice),
        }
    }

    fn truth(&self, kernel: &Kernel) -> Truth {
        let status = match kernel.fault {
            COMPILE_FAULT => Status::CompileError,
            WRONG_FAULT => Status::WrongOutput,
            _ if self.is_refused(kernel) => Status::LaunchError,
            _ => Status::Passed,
        };
        let vector_bytes = match WIDE_LOADS.map(|wide| kernel.has(wide)) {
            [_, true] => 16.0,
            [true, false] => 8.0,
            [false, false] => 4.0,
        };
        let more = if kernel.has(BARRIERS) { 2.0 } else { 0.0 };
        let keys = KEYS.filter(|bit| kernel.has(1 << bit)).count();
        let shared = keys as f64 * KEY_BYTES;
        let algorithm = self.algorithm(kernel);
        let code = Kernel {
            features: kernel.features & !algorithm.without_effect,
            ..*kernel
        };
        Truth {
            status,
            speedup: (self.log_speed(kernel) - self.baseline).exp(),
            // On a GPU nothing counts the sectors of a load, so `coalescing` is unknown.
            features: IndexMap::from([
                ("block_threads".to_owned(), self.block_threads(kernel)),
                ("vector_bytes".to_owned(), vector_bytes),
                ("barriers".to_owned(), algorithm.barriers + more),
                ("shared_bytes".to_owned(), shared),
            ]),
            code: code.digest(),
            recorded: None,
        }
    }

    fn optimum(&self) -> f64 {
        self.optimum
    }
}
