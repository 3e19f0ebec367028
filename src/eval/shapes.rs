//! Draws the sizes of hidden shapes: the ends of every range, primes, neighbours of powers of two, neighbours of timed shapes, long
//! shapes, and random ones.
//!
//! A range reaches from the task's `hidden` range to the largest size that is timed. Pure: all randomness comes from the stream,
//! whose seed is drawn after the candidate is fixed. `hidden` decides which shapes are drawn.

use indexmap::IndexMap;

use super::case::{Case, drawn_operations};
use crate::base::RandomStream;
use crate::task::{Binding, Task};

/// Sizes of the variable axes of a shape.
pub(super) type Axes = IndexMap<String, i64>;

/// Maximum number of random sizes to draw until one matches.
const MAX_DRAWS: usize = 64;
/// A size that is no multiple of this is a tail for every kernel that handles several elements at once.
const TAIL: i64 = 8;
/// A range with fewer sizes has no tails: its sizes are counts, such as a number of heads.
const SHORTEST_WITH_TAILS: i64 = 2 * TAIL;
/// The largest sizes of an axis are smaller than the longest one by at most one part in this many.
const UPPER_PART: i64 = 8;

/// The kinds of small shapes that are always drawn, one shape each, within the task's `hidden` ranges.
const SMALL_KINDS: [(&str, PickSize); 4] = [
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

/// The ranges from which shapes are drawn.
pub(super) struct ShapeSource<'t> {
    task: &'t Task,
    /// By axis: the task's `hidden` range, extended to the sizes that are timed.
    ranges: IndexMap<String, [i64; 2]>,
    timed: Vec<Binding>,
}

impl<'t> ShapeSource<'t> {
    pub(super) fn new(task: &'t Task, timed: &[Case]) -> Self {
        let ranges = task.settings.hidden.iter().map(|(axis, [low, high])| {
            let sizes = timed
                .iter()
                .filter_map(|case| case.binding.axes.get(axis).copied());
            let range = sizes.fold([*low, *high], |[low, high], size| {
                [low.min(size), high.max(size)]
            });
            (axis.clone(), range)
        });
        Self {
            task,
            ranges: ranges.collect(),
            timed: timed.iter().map(|case| case.binding.clone()).collect(),
        }
    }

    /// The axes that have a range.
    pub(super) fn axes(&self) -> Vec<String> {
        self.ranges.keys().cloned().collect()
    }

    /// One shape of each small kind, with its name. Equal shapes are drawn once.
    pub(super) fn small_shapes(&self, stream: &mut RandomStream) -> Vec<(String, Axes)> {
        let mut shapes: Vec<(String, Axes)> = Vec::new();
        for (name, pick) in SMALL_KINDS {
            let ranges = self.task.settings.hidden.iter();
            let axes = ranges.map(|(axis, [low, high])| (axis.clone(), pick(stream, *low, *high)));
            let axes = axes.collect();
            if shapes.iter().all(|(_, known)| *known != axes) {
                shapes.push((name.to_owned(), axes));
            }
        }
        shapes
    }

    /// A random shape: every size is uniform in its logarithm. One axis keeps its size; the others shrink until a launch costs at
    /// most `limit` operations.
    pub(super) fn random(&self, limit: f64, stream: &mut RandomStream) -> Axes {
        let ranges = self.ranges.iter();
        let axes: Axes = ranges
            .map(|(axis, [low, high])| (axis.clone(), draw_by_logarithm(stream, *low, *high)))
            .collect();
        let kept = axes
            .get_index(stream.below(axes.len()))
            .map(|(axis, _)| (axis.clone(), self.lowest(axis)));
        self.shrink(axes, kept, limit)
    }

    /// A neighbour of a shape: every size is one more, one less or a little less. Sizes that are no multiple of 8 are preferred.
    pub(super) fn near(&self, shape: &Binding, stream: &mut RandomStream) -> Axes {
        let mut axes = Axes::new();
        for (axis, [low, high]) in &self.ranges {
            let size = shape.axes.get(axis).copied().unwrap_or(*low);
            let less = (2 + stream.below(TAIL as usize - 2) as i64).min((size / UPPER_PART).max(1));
            let mut sizes = vec![size - 1, size + 1, size - less];
            sizes.retain(|size| (*low..=*high).contains(size));
            let tails: Vec<_> = sizes
                .iter()
                .copied()
                .filter(|size| is_tail(*size))
                .collect();
            let sizes = if tails.is_empty() { sizes } else { tails };
            let drawn = sizes.get(stream.below(sizes.len())).copied();
            axes.insert(axis.clone(), drawn.unwrap_or(size));
        }
        axes
    }

    /// A long shape: one axis is near its largest timed size and no multiple of 8, the others are in their `hidden` ranges. Sizes shrink
    /// until a launch costs at most `limit` operations. The long axis shrinks last, and never into its `hidden` range.
    pub(super) fn along(&self, axis: &str, limit: f64, stream: &mut RandomStream) -> Axes {
        let mut axes = Axes::new();
        let least = self.above_hidden(axis, stream);
        for _ in 0..MAX_DRAWS {
            for (other, [low, high]) in &self.task.settings.hidden {
                axes.insert(other.clone(), draw_by_logarithm(stream, *low, *high));
            }
            if let Some(longest) = self.longest_timed(axis) {
                let size = draw_upper_end(stream, self.lowest(axis), longest);
                axes.insert(axis.to_owned(), size);
            }
            axes = self.shrink(axes, Some((axis.to_owned(), least)), limit);
            if !self.is_timed(&axes) {
                break;
            }
        }
        axes
    }

    /// A size just above the `hidden` range of an axis: at most twice the end of the range, and at most the longest size. Small hidden
    /// shapes end there, so a kernel that is wrong above that end would meet none of them.
    fn above_hidden(&self, axis: &str, stream: &mut RandomStream) -> i64 {
        let hidden = self.task.settings.hidden.get(axis);
        let (Some([_, end]), Some([_, longest])) = (hidden, self.ranges.get(axis)) else {
            return 1;
        };
        draw_size(stream, end + 1, end.saturating_mul(2)).min(*longest)
    }

    /// The largest timed size of an axis.
    pub(super) fn longest_timed(&self, axis: &str) -> Option<i64> {
        let timed = self.timed.iter();
        timed
            .filter_map(|timed| timed.axes.get(axis).copied())
            .max()
    }

    /// The smallest size of an axis.
    fn lowest(&self, axis: &str) -> i64 {
        self.ranges.get(axis).map_or(1, |[low, _]| *low)
    }

    /// Whether these are the sizes of a timed shape.
    fn is_timed(&self, axes: &Axes) -> bool {
        self.timed.iter().any(|timed| {
            axes.iter()
                .all(|(axis, size)| timed.axes.get(axis) == Some(size))
        })
    }

    /// Halves the largest size until a launch costs at most `limit` operations or nothing can shrink. `kept`: the axis that shrinks
    /// last, with its smallest size.
    fn shrink(&self, mut axes: Axes, kept: Option<(String, i64)>, limit: f64) -> Axes {
        while self.cost(&axes) > limit {
            let is_kept = |axis: &str| kept.as_ref().is_some_and(|(kept, _)| kept == axis);
            let lowest = |axis: &str| match &kept {
                Some((_, least)) if is_kept(axis) => *least,
                _ => self.lowest(axis),
            };
            let largest = axes
                .iter()
                .filter(|(axis, size)| **size > lowest(axis))
                .max_by_key(|(axis, size)| (!is_kept(axis), **size));
            let Some((axis, size)) = largest.map(|(axis, size)| (axis.clone(), *size)) else {
                break;
            };
            let half = size / 2;
            let half = if half >= SHORTEST_WITH_TAILS {
                half | 1
            } else {
                half
            };
            axes.insert(axis.clone(), half.max(lowest(&axis)));
        }
        axes
    }

    fn cost(&self, axes: &Axes) -> f64 {
        match self.bind(axes) {
            Some(binding) => drawn_operations(self.task, &binding),
            None => 0.0,
        }
    }

    /// The sizes of all axes; `None` if the sizes do not fit the definition.
    pub(super) fn bind(&self, axes: &Axes) -> Option<Binding> {
        let mut axes = axes.clone();
        axes.extend(self.task.derive_axes(&axes));
        self.task.definition.bind(&axes).ok()
    }
}

/// Whether elements remain at this size for a kernel that handles several at once.
pub(super) fn is_tail(size: i64) -> bool {
    size % TAIL != 0
}

fn draw_size(stream: &mut RandomStream, low: i64, high: i64) -> i64 {
    let span = usize::try_from(high - low).unwrap_or(0) + 1;
    low + stream.below(span) as i64
}

/// Draws a size that is uniform in its logarithm.
fn draw_by_logarithm(stream: &mut RandomStream, low: i64, high: i64) -> i64 {
    let (least, most) = (low as f64, high as f64 + 1.0);
    let drawn = least * (most / least).powf(stream.uniform());
    (drawn as i64).clamp(low, high)
}

/// Draws one of the largest sizes; a tail if the range is long enough.
fn draw_upper_end(stream: &mut RandomStream, low: i64, high: i64) -> i64 {
    let least = low.max(high - (TAIL - 1).min(high / UPPER_PART));
    if high - low < SHORTEST_WITH_TAILS {
        return draw_size(stream, least, high);
    }
    draw_matching_size(stream, least, high, is_tail)
}

/// Draws a size that matches, or any size if none is found.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFiles;

    fn task(name: &str) -> Task {
        TaskFiles::find(name).unwrap().load().unwrap()
    }

    fn timed(task: &Task) -> Vec<Case> {
        task.workloads.iter().map(Case::of_workload).collect()
    }

    #[test]
    fn small_shapes_have_every_kind_of_size() {
        let task = task("softmax");
        let source = ShapeSource::new(&task, &timed(&task));
        for seed in 0..20 {
            let mut stream = RandomStream::new(seed, "test", 0);
            let shapes = source.small_shapes(&mut stream);
            let of = |name: &str| &shapes.iter().find(|(known, _)| known == name).unwrap().1;
            for (axis, [low, high]) in &task.settings.hidden {
                let ends = (of("low")[axis], of("high")[axis]);
                assert_eq!(ends, (*low, *high), "seed {seed}");
                assert!(is_prime(of("prime")[axis]), "seed {seed}: {shapes:?}");
                let odd = of("odd")[axis];
                assert!(is_next_to_power_of_two(odd), "seed {seed}: {shapes:?}");
            }
        }
    }

    #[test]
    fn sizes_reach_from_the_hidden_range_to_the_largest_timed_size() {
        let task = task("matmul");
        let source = ShapeSource::new(&task, &timed(&task));
        let mut stream = RandomStream::new(1, "test", 0);
        let sizes: Vec<_> = (0..2000)
            .map(|_| source.random(f64::INFINITY, &mut stream)["M"])
            .collect();
        assert!(sizes.iter().all(|size| (1..=8192).contains(size)));
        // Uniform in the logarithm: as many from 1 to 15 as from 512 to 8192.
        let within = |low: i64, high: i64| {
            let inside = |size: &&i64| (low..high).contains(*size);
            sizes.iter().filter(inside).count()
        };
        let (small, large) = (within(1, 16), within(512, 8193));
        assert!(small.abs_diff(large) < 150, "{small} and {large}");
    }

    #[test]
    fn neighbours_are_tails_and_stay_in_the_range() {
        let task = task("matmul");
        let timed = timed(&task);
        let source = ShapeSource::new(&task, &timed);
        let mut stream = RandomStream::new(2, "test", 0);
        for case in &timed {
            for _ in 0..50 {
                let axes = source.near(&case.binding, &mut stream);
                for (axis, size) in &axes {
                    let timed = case.binding.axes[axis];
                    assert!((1..TAIL).contains(&timed.abs_diff(*size).cast_signed()));
                    assert!(is_tail(*size) && *size <= 8192, "{axes:?}");
                }
            }
        }
    }

    #[test]
    fn long_shapes_are_long_on_one_axis_and_cheap() {
        let task = task("matmul");
        let source = ShapeSource::new(&task, &timed(&task));
        let mut stream = RandomStream::new(3, "test", 0);
        for axis in source.axes() {
            let axes = source.along(&axis, 1e9, &mut stream);
            assert!(axes[&axis] > 8184 && is_tail(axes[&axis]), "{axes:?}");
            let binding = source.bind(&axes).unwrap();
            assert!(drawn_operations(&task, &binding) <= 1e9, "{axes:?}");
        }
        // The axis itself shrinks if nothing else is left, but not into its hidden range.
        let prefill = self::task("gdn_prefill");
        let source = ShapeSource::new(&prefill, &timed(&prefill));
        for (limit, sizes) in [(1e9, 141..2000), (1e3, 141..281)] {
            for _ in 0..20 {
                let size = source.along("total_seq_len", limit, &mut stream)["total_seq_len"];
                assert!(sizes.contains(&size), "{limit}: {size}");
            }
        }
    }

    #[test]
    fn derived_axes_follow_the_drawn_axes() {
        let task = task("gdn_prefill");
        let source = ShapeSource::new(&task, &timed(&task));
        let mut stream = RandomStream::new(1, "test", 0);
        for (_, axes) in source.small_shapes(&mut stream) {
            let binding = source.bind(&axes).unwrap();
            assert_eq!(binding.axes["len_cu_seqlens"], axes["num_seqs"] + 1);
        }
    }

    #[test]
    fn range_of_one_size_gives_one_shape() {
        let mut task = task("gdn_decode");
        task.settings.hidden["batch_size"] = [1, 1];
        let source = ShapeSource::new(&task, &[]);
        let mut stream = RandomStream::new(1, "test", 0);
        assert_eq!(source.small_shapes(&mut stream).len(), 1);
        assert_eq!(source.random(1e9, &mut stream)["batch_size"], 1);
        assert_eq!(
            source.along("batch_size", 1e9, &mut stream)["batch_size"],
            1
        );
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
