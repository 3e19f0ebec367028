//! Hidden shapes and regimes, which no prompt names: the ends of every range, primes, neighbours of powers of two, and random
//! sizes.
//!
//! Pure: all randomness comes from the stream, whose seed is drawn after the candidate is fixed. `cases` uses this module.

use indexmap::IndexMap;

use super::case::Case;
use crate::base::RandomStream;
use crate::task::{Profile, RegimeChoice, Task};

/// Maximum number of random sizes to draw until one matches.
const MAX_DRAWS: usize = 64;
/// The kinds of shapes that are always drawn, one shape each. Random shapes follow; the profile sets their number.
const SHAPE_KINDS: [(&str, PickSize); 4] = [
    ("low", |_, low, _| low),
    ("high", |_, _, high| high),
    ("prime", |stream, low, high| {
        draw_matching_size(stream, low, high, is_prime)
    }),
    ("odd", |stream, low, high| {
        draw_matching_size(stream, low, high, is_next_to_power_of_two)
    }),
];

/// Draws a size from low to high, both included.
type PickSize = fn(&mut RandomStream, i64, i64) -> i64;

/// Draws the hidden shapes: one of each kind, then `count` random ones. Returns the name and the variable axes of each.
pub(super) fn draw_shapes(
    task: &Task,
    count: u32,
    stream: &mut RandomStream,
) -> Vec<(String, IndexMap<String, i64>)> {
    let mut shapes: Vec<(String, IndexMap<String, i64>)> = Vec::new();
    for (name, pick) in SHAPE_KINDS {
        let axes = draw_axes(task, stream, pick);
        if shapes.iter().all(|(_, known)| *known != axes) {
            shapes.push((name.to_owned(), axes));
        }
    }
    for index in 1..=count {
        shapes.push((index.to_string(), draw_any_shape(task, stream)));
    }
    shapes
}

/// Draws a random shape within the ranges.
pub(super) fn draw_any_shape(task: &Task, stream: &mut RandomStream) -> IndexMap<String, i64> {
    draw_axes(task, stream, draw_size)
}

fn draw_axes(task: &Task, stream: &mut RandomStream, pick: PickSize) -> IndexMap<String, i64> {
    let ranges = task.settings.hidden.iter();
    let mut picked =
        |(axis, [low, high]): (&String, &[i64; 2])| (axis.clone(), pick(stream, *low, *high));
    let mut axes: IndexMap<_, _> = ranges.map(&mut picked).collect();
    axes.extend(task.derive_axes(&axes));
    axes
}

fn draw_size(stream: &mut RandomStream, low: i64, high: i64) -> i64 {
    let span = usize::try_from(high - low).unwrap_or(0) + 1;
    low + stream.below(span) as i64
}

/// Draws a size that matches. If none is found, returns any size.
fn draw_matching_size(
    stream: &mut RandomStream,
    low: i64,
    high: i64,
    matches: fn(i64) -> bool,
) -> i64 {
    let mut size = low;
    for _ in 0..MAX_DRAWS {
        size = draw_size(stream, low, high);
        if matches(size) {
            return size;
        }
    }
    (low..=high)
        .take(MAX_DRAWS)
        .find(|size| matches(*size))
        .unwrap_or(size)
}

fn is_prime(number: i64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number >= 2 && divisors.all(|divisor| number % divisor != 0)
}

fn is_next_to_power_of_two(number: i64) -> bool {
    let is_power = |number: i64| number >= 4 && number & (number - 1) == 0;
    is_power(number - 1) || is_power(number.saturating_add(1))
}

/// Appends hidden cases to the visible ones. Shapes of a fixed kind get the regimes; the last `profile.hidden_shapes` shapes are
/// random and keep the usual distributions.
pub(super) fn add_hidden_cases(
    visible: Vec<Case>,
    shapes: Vec<Case>,
    task: &Task,
    profile: &Profile,
    stream: &mut RandomStream,
) -> Vec<Case> {
    let mut regimes: Vec<_> = task.regimes().into_iter().collect();
    for index in (1..regimes.len()).rev() {
        regimes.swap(index, stream.below(index + 1));
    }
    let mut cases = visible.clone();
    if regimes.is_empty() {
        cases.extend(shapes);
        return cases;
    }
    let fixed = shapes.len() - (profile.hidden_shapes as usize).min(shapes.len());
    let fixed_shapes = &shapes[..fixed];
    match profile.regimes {
        RegimeChoice::Once => {
            // Each shape gets one regime. Regimes that are left over use the smallest workload.
            let small = visible.iter().min_by_key(|case| axes_product(case));
            for index in 0..regimes.len().max(fixed_shapes.len()) {
                let (name, regime) = &regimes[index % regimes.len()];
                let shape = fixed_shapes.get(index).or(small);
                cases.extend(shape.map(|shape| shape.with_regime(name, regime)));
            }
        }
        RegimeChoice::All => {
            for (index, case) in visible.iter().enumerate() {
                let (name, regime) = &regimes[index % regimes.len()];
                cases.push(case.with_regime(name, regime));
            }
            for shape in fixed_shapes {
                let all = regimes.iter();
                cases.extend(all.map(|(name, regime)| shape.with_regime(name, regime)));
            }
        }
    }
    cases.extend_from_slice(&shapes[fixed..]);
    cases
}

fn axes_product(case: &Case) -> i64 {
    let sizes = case.binding.axes.values();
    sizes.fold(1, |product, size| product.saturating_mul(*size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFiles;

    #[test]
    fn every_kind_of_size_and_every_regime_is_covered() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        for seed in 0..20 {
            let mut stream = RandomStream::new(seed, "test", 0);
            let shapes = draw_shapes(&task, 2, &mut stream);
            let of = |name: &str| &shapes.iter().find(|(known, _)| known == name).unwrap().1;
            for (axis, [low, high]) in &task.settings.hidden {
                assert_eq!(
                    (of("low")[axis], of("high")[axis]),
                    (*low, *high),
                    "seed {seed}"
                );
                assert!(is_prime(of("prime")[axis]), "seed {seed}: {shapes:?}");
                assert!(
                    is_next_to_power_of_two(of("odd")[axis]),
                    "seed {seed}: {shapes:?}"
                );
                assert!((*low..=*high).contains(&of("1")[axis]), "seed {seed}");
            }
            assert_eq!(shapes.len(), 6, "seed {seed}");
            let profile = &task.settings.profiles["quick"];
            let cases: Vec<_> = shapes
                .iter()
                .map(|(name, axes)| {
                    let mut case = Case::of_workload(&task.workloads[0]);
                    case.id.clone_from(name);
                    case.binding = task.definition.bind(axes).unwrap();
                    case.hidden = true;
                    case
                })
                .collect();
            for regimes in [RegimeChoice::Once, RegimeChoice::All] {
                let profile = Profile {
                    hidden_shapes: 2,
                    regimes,
                    ..profile.clone()
                };
                let visible = vec![Case::of_workload(&task.workloads[0])];
                let cases = add_hidden_cases(visible, cases.clone(), &task, &profile, &mut stream);
                for name in task.regimes().keys() {
                    let met = cases
                        .iter()
                        .filter(|case| case.regime_name().as_ref() == Some(name));
                    let wanted = if regimes == RegimeChoice::All { 4 } else { 1 };
                    assert!(met.count() >= wanted, "seed {seed}: {name}");
                }
                let plain = cases.iter().filter(|case| case.regime.is_none());
                assert_eq!(plain.count(), 3, "seed {seed}");
                assert_eq!(cases.iter().filter(|case| !case.hidden).count(), 1);
            }
        }
    }

    #[test]
    fn derived_axes_follow_the_drawn_axes() {
        let task = TaskFiles::find("gdn_prefill").unwrap().load().unwrap();
        for (_, axes) in draw_shapes(&task, 20, &mut RandomStream::new(1, "test", 0)) {
            assert_eq!(axes["len_cu_seqlens"], axes["num_seqs"] + 1);
            assert!(task.definition.bind(&axes).is_ok());
        }
    }

    #[test]
    fn range_of_one_size_gives_one_shape() {
        let mut task = TaskFiles::find("gdn_decode").unwrap().load().unwrap();
        task.settings.hidden["batch_size"] = [1, 1];
        let shapes = draw_shapes(&task, 0, &mut RandomStream::new(1, "test", 0));
        assert_eq!(shapes.len(), 1);
    }

    #[test]
    fn primes_and_neighbours_of_powers_of_two_are_recognized() {
        let primes: Vec<_> = (0..20).filter(|size| is_prime(*size)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19]);
        let odd: Vec<_> = (0..36)
            .filter(|size| is_next_to_power_of_two(*size))
            .collect();
        assert_eq!(odd, [3, 5, 7, 9, 15, 17, 31, 33]);
    }
}
