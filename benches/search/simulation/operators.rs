//! What the operators make of a kernel of a synthetic landscape, and how often they fail.
//!
//! kforge's own operators give the same child for the same parent and attempt, as the real ones do. Models depend on luck.

use kforge::event::{Brief, FailedReason, Operator, TransformationWeights};

use super::dice::Dice;
use super::landscape::{Kernel, Proposal};
use super::machine::WEAK_MODEL;
use super::synthetic::{COMPILE_FAULT, Route, Synthetic, WRONG_FAULT};

/// How often what an operator makes is of no use. The rest is a kernel that passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Yields {
    /// Children of `mutate` and `recombine` that do not compile, and those that are wrong.
    pub(crate) own: [f64; 2],
    /// Kernels of a model that do not compile, and those that are wrong.
    pub(crate) model: [f64; 2],
    /// Replies of a model without a kernel, and edits that match no place.
    pub(crate) no_code: f64,
    pub(crate) edit_missed: f64,
    /// How often a model takes a transformation that helps, instead of any.
    pub(crate) insight: f64,
    /// How often a model takes a route to another algorithm, if there is one.
    pub(crate) new_algorithm: f64,
    /// Repairs that remove the fault.
    pub(crate) repaired: f64,
}

/// The shares in `benches/search/README.md`.
pub(crate) const YIELDS: Yields = Yields {
    own: [0.0004, 0.0007],
    model: [0.2, 0.12],
    no_code: 0.02,
    edit_missed: 0.05,
    insight: 0.5,
    new_algorithm: 0.15,
    repaired: 0.5,
};

/// Those of `WEAK_MODEL`.
const WEAK_YIELDS: Yields = Yields {
    model: [0.45, 0.3],
    insight: 0.1,
    new_algorithm: 0.05,
    repaired: 0.2,
    ..YIELDS
};

/// The attempts of `recombine` before nothing is left.
const RECOMBINATIONS: u64 = 3;

/// A change that `mutate` can make.
#[derive(Clone, Copy)]
struct Change {
    features: u32,
    to: Option<u8>,
}

/// The child of `mutate`: single changes in an order that the parent decides, then pairs of them.
pub(crate) fn mutate(landscape: &Synthetic, brief: &Brief, parent: &Kernel) -> Proposal {
    let missing = landscape.applicable(parent.algorithm) & !parent.features;
    let mut changes: Vec<Change> = bits(missing)
        .map(|features| Change { features, to: None })
        .collect();
    changes.extend(open_routes(landscape, parent, false).map(|route| Change {
        features: 0,
        to: Some(route.to),
    }));
    let key = parent.key();
    let mut dice = Dice::new(&[landscape.seed, 21, key]);
    in_order(landscape, &brief.weights, &mut changes, &mut dice);
    let name = |change: &Change| name(landscape, change);
    let is_retired = |change: &Change, attempt: u64| {
        let since = brief.retired.get(&name(change));
        since.is_some_and(|since| attempt >= *since)
    };
    let singles = changes.len() as u64;
    let pairs =
        (0..changes.len()).flat_map(|one| (one + 1..changes.len()).map(move |two| [one, two]));
    let chosen: Vec<Change> = match usize::try_from(brief.attempt) {
        Ok(attempt) if brief.attempt < singles => vec![changes[attempt]],
        _ => match pairs.clone().nth((brief.attempt - singles) as usize) {
            Some(pair) => pair.map(|index| changes[index]).to_vec(),
            None => return Proposal::Failed(FailedReason::NoOp),
        },
    };
    if chosen
        .iter()
        .any(|change| is_retired(change, brief.attempt))
    {
        return Proposal::Failed(FailedReason::NoOp);
    }
    let mut child = *parent;
    for change in &chosen {
        apply(landscape, &mut child, *change);
    }
    let mut dice = Dice::new(&[landscape.seed, 22, key, brief.attempt]);
    spoil(&mut child, landscape.yields.own, &mut dice);
    let names: Vec<_> = chosen.iter().map(&name).collect();
    Proposal::new(child, names.join(", then "))
}

/// The child of `recombine`: the tunables of the other parent, then mixtures of their transformations.
pub(crate) fn recombine(
    landscape: &Synthetic,
    brief: &Brief,
    parent: &Kernel,
    other: &Kernel,
) -> Proposal {
    let mut child = *parent;
    let applicable = landscape.applicable(parent.algorithm);
    match brief.attempt {
        0 => child.point = other.point,
        1 => child.features |= other.features & applicable,
        2 => {
            child.features |= other.features & applicable;
            child.point = other.point;
        }
        RECOMBINATIONS.. => return Proposal::Failed(FailedReason::NoOp),
    }
    Proposal::new(child, "recombine")
}

/// A kernel of a model that was shown these parents.
pub(crate) fn ask_model(
    landscape: &Synthetic,
    brief: &Brief,
    parents: &[Kernel],
    dice: &mut Dice,
) -> Proposal {
    let yields = match &brief.model {
        Some(model) if model.name == WEAK_MODEL => WEAK_YIELDS,
        _ => landscape.yields,
    };
    let Some(parent) = parents.first() else {
        return from_nothing(landscape, brief, dice);
    };
    if dice.chance(yields.no_code) {
        return Proposal::Failed(FailedReason::NoCode);
    }
    let mut child = *parent;
    let detail = brief.operator.name();
    match brief.operator {
        Operator::Repair => {
            if child.fault == 0 {
                // The device refuses its point.
                let values = landscape.tunables.values();
                let moved = dice.below(values.len());
                let count = landscape.tunables.get_index(moved);
                let count = count.map_or(1, |(_, values)| values.len());
                child.point[moved] = dice.below(count) as u16;
            } else if dice.chance(yields.repaired) {
                child.fault = 0;
            }
            return Proposal::new(child, detail);
        }
        Operator::Crossover => {
            let other = parents.last().unwrap_or(parent);
            child.features |= other.features & landscape.applicable(child.algorithm);
            if dice.chance(0.5) {
                child.point = other.point;
            }
        }
        Operator::Edit if dice.chance(yields.edit_missed) => {
            return Proposal::Failed(FailedReason::EditMissed);
        }
        Operator::Edit => edit(landscape, &mut child, &yields, yields.new_algorithm, dice),
        // A new kernel changes more at once, and more often the algorithm.
        _ => {
            edit(
                landscape,
                &mut child,
                &yields,
                3.0 * yields.new_algorithm,
                dice,
            );
            edit(landscape, &mut child, &yields, 0.0, dice);
        }
    }
    spoil(&mut child, yields.model, dice);
    Proposal::new(child, detail)
}

/// A kernel without a parent.
pub(crate) fn from_nothing(landscape: &Synthetic, brief: &Brief, dice: &mut Dice) -> Proposal {
    let mut kernel = landscape.starts.first().copied().unwrap_or_default();
    spoil(&mut kernel, landscape.yields.model, dice);
    Proposal::new(kernel, brief.operator.name())
}

/// Changes a kernel as a model does: another algorithm, or one or two transformations.
fn edit(
    landscape: &Synthetic,
    kernel: &mut Kernel,
    yields: &Yields,
    new_algorithm: f64,
    dice: &mut Dice,
) {
    let routes: Vec<Route> = open_routes(landscape, kernel, true).collect();
    if dice.chance(new_algorithm)
        && let Some(route) = dice.pick(&routes)
    {
        let change = Change {
            features: 0,
            to: Some(route.to),
        };
        return apply(landscape, kernel, change);
    }
    for _ in 0..=dice.below(2) {
        let missing = landscape.applicable(kernel.algorithm) & !kernel.features;
        let effects = &landscape.algorithm(kernel).effects;
        let helps =
            |bit: &u32| effects[bit.trailing_zeros() as usize].is_some_and(|effect| effect > 0.0);
        let insight = dice.chance(yields.insight);
        let choices: Vec<u32> = bits(missing).filter(|bit| !insight || helps(bit)).collect();
        let features = dice.pick(&choices).copied().unwrap_or(0);
        apply(landscape, kernel, Change { features, to: None });
    }
}

/// The routes that a kernel can take now.
fn open_routes<'l>(
    landscape: &'l Synthetic,
    kernel: &Kernel,
    is_model: bool,
) -> impl Iterator<Item = Route> + use<'l> {
    let kernel = *kernel;
    let routes = landscape.routes.iter().copied();
    routes.filter(move |route| {
        route.from == kernel.algorithm && kernel.has(route.needs) && (is_model || !route.model_only)
    })
}

fn apply(landscape: &Synthetic, kernel: &mut Kernel, change: Change) {
    kernel.features |= change.features;
    if let Some(to) = change.to {
        kernel.algorithm = to;
        kernel.features &= landscape.applicable(to);
    }
}

/// Gives a kernel a fault with these probabilities: that it does not compile, that it is wrong.
fn spoil(kernel: &mut Kernel, shares: [f64; 2], dice: &mut Dice) {
    match dice.weighted(&[shares[0], shares[1], 1.0 - shares[0] - shares[1]]) {
        Some(0) => kernel.fault = COMPILE_FAULT,
        Some(1) => kernel.fault = WRONG_FAULT,
        _ => {}
    }
}

/// Orders changes as `mutate` orders its sites: a transformation is drawn by its weight and by how many of its sites are left, then a site.
fn in_order(
    landscape: &Synthetic,
    weights: &[TransformationWeights],
    changes: &mut [Change],
    dice: &mut Dice,
) {
    let names: Vec<String> = changes
        .iter()
        .map(|change| name(landscape, change))
        .collect();
    let total = |one: &String| names.iter().filter(|other| *other == one).count() as f64;
    let totals: Vec<f64> = names.iter().map(total).collect();
    let mut left: Vec<usize> = (0..changes.len()).collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let attempt = ordered.len() as u64;
        let valid = weights.iter().rfind(|weights| weights.attempt <= attempt);
        let factor = |index: &usize| {
            let factor = valid.and_then(|valid| valid.factors.get(&names[*index]));
            factor.copied().unwrap_or(1.0) / totals[*index]
        };
        let factors: Vec<f64> = left.iter().map(factor).collect();
        let drawn = dice.weighted(&factors).unwrap_or(0);
        ordered.push(changes[left.swap_remove(drawn)]);
    }
    changes.copy_from_slice(&ordered);
}

fn name(landscape: &Synthetic, change: &Change) -> String {
    match change.to {
        Some(to) => format!("algorithm_{to}"),
        None => {
            let bit = change.features.trailing_zeros();
            let kind = landscape.kinds.get(bit as usize).copied();
            format!("transform_{}", kind.unwrap_or(bit as u8))
        }
    }
}

fn bits(mask: u32) -> impl Iterator<Item = u32> {
    (0..u32::BITS)
        .map(|bit| 1 << bit)
        .filter(move |bit| mask & bit != 0)
}
