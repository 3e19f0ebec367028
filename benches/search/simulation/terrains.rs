//! The synthetic landscapes. `benches/search/README.md` describes each; the seed draws its details.

use super::dice::Dice;
use super::landscape::{Kernel, MAX_TUNABLES, Tunables};
use super::operators::YIELDS;
use super::synthetic::{Algorithm, KEYS, Parts, Route, Synthetic};

/// The transformations of an algorithm: large gains, small gains, losses, and those that change no code.
const LARGE: std::ops::Range<usize> = 0..4;
const SMALL: std::ops::Range<usize> = 4..8;
const LOSSES: std::ops::Range<usize> = 8..10;
const WITHOUT_EFFECT: std::ops::Range<usize> = 10..12;
/// All transformations of `sites`.
const SITES: std::ops::Range<usize> = 0..28;
const KEY_ONE: u32 = 1 << KEYS.start;
const KEY_TWO: u32 = 1 << (KEYS.start + 1);

/// Log speedups that transformations add.
const LARGE_GAIN: [f64; 2] = [0.08, 0.25];
const SMALL_GAIN: [f64; 2] = [0.005, 0.04];
const LOSS: [f64; 2] = [-0.3, -0.03];
/// What a key costs until its route is taken.
const KEY_EFFECT: f64 = -0.02;

/// How a terrain differs from another.
struct Shape {
    tunables: Tunables,
    /// What one step away from the best index costs.
    curvature: [f64; 2],
    roughness: f64,
    invalid: f64,
    /// The chance that a large gain moves the best index of a tunable, and by how many steps.
    shift_chance: f64,
    shift: i32,
}

/// Each algorithm leads to the next and faster one. Every step up is a gain at once.
pub(crate) fn stairs(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 1]);
    let shape = Shape::usual();
    let bases = [0.0, 0.5, 0.9, 1.3, 1.6];
    let algorithms: Vec<_> = bases.map(|base| shape.algorithm(base, 0, &mut dice)).into();
    let routes = (0..4).map(|from| {
        let needs = match from {
            0 => 0,
            _ => 1 << (LARGE.start + dice.below(LARGE.len())),
        };
        route(from, from + 1, needs)
    });
    let routes = routes.collect();
    let starts = vec![start(0, &shape, &mut dice), start(1, &shape, &mut dice)];
    made(seed, shape, algorithms, routes, starts)
}

/// A fast start that leads nowhere, and a slow start that leads to the optimum behind a key.
pub(crate) fn trap(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 2]);
    let shape = Shape::usual();
    let algorithms = vec![
        Algorithm {
            barriers: 0.0,
            ..shape.algorithm(0.0, 0, &mut dice)
        },
        // Fast at once.
        Algorithm {
            barriers: 0.0,
            ..shape.algorithm(0.9, 0, &mut dice)
        },
        // Slow at first.
        Algorithm {
            barriers: 2.0,
            ..shape.algorithm(0.1, KEY_ONE, &mut dice)
        },
        Algorithm {
            barriers: 6.0,
            ..shape.algorithm(1.7, 0, &mut dice)
        },
    ];
    let routes = vec![route(0, 1, 0), route(0, 2, 0), route(2, 3, KEY_ONE)];
    let starts = vec![start(0, &shape, &mut dice)];
    made(seed, shape, algorithms, routes, starts)
}

/// A transformation moves the best values of the tunables, so that most gains show only after tuning.
pub(crate) fn coupled(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 3]);
    let shape = Shape {
        curvature: [0.06, 0.14],
        shift_chance: 0.4,
        shift: 2,
        ..Shape::usual()
    };
    let algorithms = vec![
        shape.algorithm(0.0, 0, &mut dice),
        shape.algorithm(0.7, 0, &mut dice),
    ];
    let routes = vec![route(0, 1, 1 << LARGE.start)];
    let starts = vec![start(0, &shape, &mut dice)];
    made(seed, shape, algorithms, routes, starts)
}

/// The fastest algorithms are found by models only, behind keys of two transformations. kforge's own operators do the rest.
pub(crate) fn ideas(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 4]);
    let shape = Shape::usual();
    let algorithms = vec![
        shape.algorithm(0.0, 0, &mut dice),
        shape.algorithm(0.6, KEY_ONE, &mut dice),
        shape.algorithm(1.0, KEY_TWO, &mut dice),
        shape.algorithm(1.5, 0, &mut dice),
    ];
    let routes = vec![
        route(0, 1, 0),
        Route {
            model_only: true,
            ..route(0, 2, 0)
        },
        Route {
            model_only: true,
            ..route(1, 2, KEY_ONE)
        },
        Route {
            model_only: true,
            ..route(2, 3, KEY_TWO)
        },
    ];
    let starts = vec![start(0, &shape, &mut dice), start(1, &shape, &mut dice)];
    made(seed, shape, algorithms, routes, starts)
}

/// Many sites of few transformations. Which transformations help is not known before, and the same for all algorithms.
pub(crate) fn sites(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 6]);
    let shape = Shape::usual();
    let mut kinds: Vec<u8> = Vec::new();
    for bit in 0..SITES.end {
        let kind = if bit < 9 { bit } else { dice.below(9) };
        kinds.push(kind as u8);
    }
    dice.shuffle(&mut kinds);
    let mut classes = [0, 0, 1, 1, 2, 2, 2, 3, 3];
    dice.shuffle(&mut classes);
    let bases = [0.0, 0.5, 0.9];
    let algorithms: Vec<_> = bases
        .map(|base| {
            let mut algorithm = shape.algorithm(base, 0, &mut dice);
            algorithm.effects = vec![None; SITES.end];
            algorithm.without_effect = 0;
            for bit in SITES.filter(|bit| !KEYS.contains(bit)) {
                let effect = match classes[usize::from(kinds[bit])] {
                    0 if dice.chance(0.7) => dice.between(0.05, 0.2),
                    1 if dice.chance(0.7) => dice.between(0.005, 0.04),
                    2 => dice.between(-0.3, -0.01),
                    3 => {
                        algorithm.without_effect |= 1 << bit;
                        0.0
                    }
                    _ => dice.between(-0.02, 0.0),
                };
                algorithm.effects[bit] = Some(effect);
            }
            algorithm
        })
        .into();
    let routes = vec![route(0, 1, 0), route(1, 2, 0)];
    let starts = vec![start(0, &shape, &mut dice)];
    let mut parts = made(seed, shape, algorithms, routes, starts);
    parts.kinds = kinds;
    parts
}

/// One kernel with 1,296 points of its tunables, a quarter of them invalid: a rough bowl.
pub(crate) fn tuning(seed: u64) -> Synthetic {
    let mut dice = Dice::new(&[seed, 5]);
    let shape = Shape {
        tunables: tunables(&[
            ("BLOCK", &[32, 64, 128, 256, 512, 1024]),
            ("ROWS", &[1, 2, 4, 8, 16, 32]),
            ("UNROLL", &[1, 2, 4, 8, 16, 32]),
            ("STAGES", &[1, 2, 3, 4, 5, 6]),
        ]),
        curvature: [0.01, 0.08],
        roughness: 0.25,
        invalid: 0.25,
        shift_chance: 0.0,
        shift: 0,
    };
    let mut algorithm = shape.algorithm(0.0, 0, &mut dice);
    algorithm.effects.fill(None);
    let starts = vec![start(0, &shape, &mut dice)];
    made(seed, shape, vec![algorithm], Vec::new(), starts)
}

impl Shape {
    fn usual() -> Self {
        Self {
            tunables: tunables(&[
                ("BLOCK", &[32, 64, 128, 256, 512, 1024]),
                ("ROWS", &[1, 2, 4, 8]),
                ("UNROLL", &[1, 2, 4, 8]),
            ]),
            curvature: [0.01, 0.06],
            roughness: 0.03,
            invalid: 0.1,
            shift_chance: 0.1,
            shift: 1,
        }
    }

    /// `keys`: the transformations that a route from this algorithm needs.
    fn algorithm(&self, base: f64, keys: u32, dice: &mut Dice) -> Algorithm {
        let mut effects = vec![None; KEYS.end];
        let mut draw = |range: std::ops::Range<usize>, [low, high]: [f64; 2]| {
            for bit in range {
                effects[bit] = Some(dice.between(low, high));
            }
        };
        draw(LARGE, LARGE_GAIN);
        draw(SMALL, SMALL_GAIN);
        draw(LOSSES, LOSS);
        draw(WITHOUT_EFFECT, [0.0, 0.0]);
        for bit in KEYS.filter(|bit| keys & (1 << bit) != 0) {
            effects[bit] = Some(KEY_EFFECT);
        }
        let tunables = self.tunables.len();
        let shifts = (0..KEYS.end).map(|bit| {
            let shift = |_| {
                if !LARGE.contains(&bit) || !dice.chance(self.shift_chance) {
                    return 0;
                }
                let side = if dice.chance(0.5) { 1 } else { -1 };
                side * self.shift
            };
            (0..tunables).map(shift).collect()
        });
        let shifts = shifts.collect();
        let best = self.tunables.values();
        let best = best.map(|values| dice.below(values.len()) as u16).collect();
        let [low, high] = self.curvature;
        Algorithm {
            base,
            effects,
            without_effect: WITHOUT_EFFECT.fold(0, |mask, bit| mask | 1 << bit),
            best_point: best,
            shifts,
            curvature: (0..tunables).map(|_| dice.between(low, high)).collect(),
            roughness: self.roughness,
            invalid: self.invalid,
            barriers: *dice.pick(&[0.0, 2.0, 6.0]).unwrap_or(&0.0),
        }
    }
}

fn tunables(named: &[(&str, &[i64])]) -> Tunables {
    let named = named.iter();
    named
        .map(|(name, values)| ((*name).to_owned(), values.to_vec()))
        .collect()
}

fn route(from: u8, to: u8, needs: u32) -> Route {
    Route {
        from,
        to,
        needs,
        model_only: false,
    }
}

/// A starting kernel without transformations, at any point.
fn start(algorithm: u8, shape: &Shape, dice: &mut Dice) -> Kernel {
    let mut point = [0; MAX_TUNABLES];
    for (index, values) in shape.tunables.values().enumerate() {
        point[index] = dice.below(values.len()) as u16;
    }
    Kernel {
        algorithm,
        point,
        ..Kernel::default()
    }
}

fn made(
    seed: u64,
    shape: Shape,
    algorithms: Vec<Algorithm>,
    routes: Vec<Route>,
    starts: Vec<Kernel>,
) -> Synthetic {
    Synthetic::new(Parts {
        seed,
        tunables: shape.tunables,
        algorithms,
        routes,
        starts,
        yields: YIELDS,
        kinds: Vec::new(),
    })
}
