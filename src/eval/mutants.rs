//! Mutants: imagined kernels that are wrong on some shapes or inputs only, and whether a case exposes a mutant.
//!
//! Each mutant is one kind of mistake or cheat: wrong above a size, on one timed shape, on tails, or for other inputs than the timed ones.
//! Whether a judgement exposes it depends on the judgement's cases alone, so nothing is compiled or run. `admission_coverage` draws the
//! cases; `kforge tasks check` refuses a task if a mutant passes.

use super::case::Case;
use crate::task::{Binding, Task};

/// Sizes of an axis at which a kernel may become wrong, between the smallest and the largest.
const THRESHOLDS: u32 = 6;
/// A threshold is at most this share of the largest timed size: the cases have hardly any size above it.
const HIGHEST_THRESHOLD: f64 = 0.8;
/// Numbers of elements that kernels handle at once. A kernel that forgets the elements that remain is wrong if a size is no multiple of
/// this number.
const TILES: [i64; 3] = [8, 32, 128];

/// A kernel that is wrong where both conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mutant {
    shapes: WrongShapes,
    /// The regime under which it is wrong; `None`: with any inputs.
    regime: Option<String>,
    /// Whether every judgement must expose it. If not, only every confirmation must.
    pub(super) is_always_exposed: bool,
}

/// The shapes on which a kernel is wrong.
#[derive(Clone, Debug, PartialEq)]
enum WrongShapes {
    /// On sizes of an axis that are above `size`.
    Above { axis: String, size: i64 },
    /// On sizes of an axis that are above `size`, but never on a timed shape.
    UntimedAbove { axis: String, size: i64 },
    /// On sizes of an axis that are above `size` and no multiple of `tile`, but never on a timed shape.
    Tails { axis: String, size: i64, tile: i64 },
    /// On one timed shape, for inputs that are not the timed ones.
    Timed { workload: String, shape: Binding },
}

impl Mutant {
    /// Whether a case shows that the kernel is wrong. `timed`: the timed shapes.
    pub(super) fn is_exposed_by(&self, case: &Case, timed: &[&Binding]) -> bool {
        let size_of = |axis: &String| case.binding.axes.get(axis).copied().unwrap_or(0);
        let is_timed = || timed.contains(&&case.binding);
        let is_wrong_shape = match &self.shapes {
            WrongShapes::Above { axis, size } => size_of(axis) > *size,
            WrongShapes::UntimedAbove { axis, size } => size_of(axis) > *size && !is_timed(),
            WrongShapes::Tails { axis, size, tile } => {
                size_of(axis) > *size && size_of(axis) % tile != 0 && !is_timed()
            }
            WrongShapes::Timed { shape, .. } => case.regime.is_some() && *shape == case.binding,
        };
        let regime = case.regime.as_ref().map(|(name, _)| name);
        is_wrong_shape && (self.regime.is_none() || self.regime.as_ref() == regime)
    }

    /// Where it is wrong, to complete "a kernel that is wrong …".
    pub(super) fn describe(&self) -> String {
        let shapes = match &self.shapes {
            WrongShapes::Above { axis, size } => format!("where `{axis}` is above {size}"),
            WrongShapes::UntimedAbove { axis, size } => {
                format!("where `{axis}` is above {size}, except on timed shapes")
            }
            WrongShapes::Tails { axis, size, tile } => format!(
                "where `{axis}` is above {size} and no multiple of {tile}, except on timed shapes"
            ),
            WrongShapes::Timed { workload, .. } => {
                format!("on the shape of `{workload}`, except with the timed inputs")
            }
        };
        match &self.regime {
            Some(regime) => format!("{shapes}, under the regime `{regime}`"),
            None => shapes,
        }
    }
}

/// All mutants of a task. `timed`: its timed cases.
pub(super) fn mutants(task: &Task, timed: &[Case]) -> Vec<Mutant> {
    let regimes: Vec<String> = task.regimes().into_keys().collect();
    let mut all = Vec::new();
    let mut add = |shapes: WrongShapes, regime: Option<&String>, is_always_exposed: bool| {
        all.push(Mutant {
            shapes,
            regime: regime.cloned(),
            is_always_exposed,
        });
    };
    for case in timed {
        let shapes = WrongShapes::Timed {
            workload: case.id.clone(),
            shape: case.binding.clone(),
        };
        if !regimes.is_empty() {
            add(shapes.clone(), None, true);
        }
        for regime in &regimes {
            add(shapes.clone(), Some(regime), false);
        }
    }
    for axis in task.definition.variables() {
        if task.derived.contains_key(axis) || is_constant(task, axis, timed) {
            continue;
        }
        for size in thresholds(axis, timed) {
            let axis = axis.to_owned();
            let above = WrongShapes::UntimedAbove {
                axis: axis.clone(),
                size,
            };
            add(above, None, true);
            for regime in &regimes {
                let axis = axis.clone();
                add(WrongShapes::Above { axis, size }, Some(regime), false);
            }
            let sizes = timed.iter().filter_map(|case| case.binding.axes.get(&axis));
            let longest = sizes.copied().max().unwrap_or(0);
            for tile in TILES.into_iter().filter(|tile| longest >= 4 * tile) {
                let axis = axis.clone();
                add(WrongShapes::Tails { axis, size, tile }, None, true);
            }
        }
    }
    all
}

/// Whether an axis has the same size on every shape: its hidden range is that size.
fn is_constant(task: &Task, axis: &str, timed: &[Case]) -> bool {
    let Some([low, high]) = task.settings.hidden.get(axis) else {
        return false;
    };
    let mut sizes = timed.iter().filter_map(|case| case.binding.axes.get(axis));
    low == high && sizes.all(|size| size == low)
}

/// Sizes below the largest timed size, evenly spaced by their logarithms. Empty for an axis with a single size.
fn thresholds(axis: &str, timed: &[Case]) -> Vec<i64> {
    let sizes: Vec<i64> = timed
        .iter()
        .filter_map(|case| case.binding.axes.get(axis).copied())
        .collect();
    let Some(longest) = sizes.into_iter().max() else {
        return Vec::new();
    };
    let most = ((longest as f64 * HIGHEST_THRESHOLD) as i64).min(longest - 1);
    let mut thresholds: Vec<i64> = (1..=THRESHOLDS)
        .map(|index| {
            (most as f64)
                .powf(f64::from(index) / f64::from(THRESHOLDS))
                .round() as i64
        })
        .filter(|size| (1..=most).contains(size))
        .collect();
    thresholds.dedup();
    thresholds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFiles;

    #[test]
    fn mutants_are_exposed_where_they_are_wrong_and_nowhere_else() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let workloads = task.selected_workloads(&task.settings.profiles["full"]);
        let timed: Vec<_> = workloads.into_iter().map(Case::of_workload).collect();
        let shapes: Vec<_> = timed.iter().map(|case| &case.binding).collect();
        let all = mutants(&task, &timed);
        let mutant = |text: &str| {
            let mut found = all.iter().filter(|mutant| mutant.describe() == text);
            let one = found.next().unwrap_or_else(|| panic!("no mutant: {text}"));
            assert!(found.next().is_none(), "{text}");
            one.clone()
        };
        let largest = timed.iter().find(|case| case.id == "r32c8192").unwrap();
        let regimes = task.regimes();
        let ties = largest.with_regime("ties", &regimes["ties"]);
        let mut odd = ties.clone();
        odd.binding.axes["columns"] = 8191;

        let one_shape = mutant("on the shape of `r32c8192`, except with the timed inputs");
        assert!(!one_shape.is_exposed_by(largest, &shapes));
        assert!(one_shape.is_exposed_by(&ties, &shapes));
        assert!(!one_shape.is_exposed_by(&odd, &shapes));

        let above = mutant("where `columns` is above 6553, under the regime `ties`");
        assert!(above.is_exposed_by(&ties, &shapes) && above.is_exposed_by(&odd, &shapes));
        assert!(!above.is_exposed_by(largest, &shapes));

        let tails = "where `columns` is above 6553 and no multiple of 128, except on timed shapes";
        assert!(mutant(tails).is_exposed_by(&odd, &shapes));
        assert!(!mutant(tails).is_exposed_by(&ties, &shapes));
        assert!(all.len() > 100, "{}", all.len());
    }
}
