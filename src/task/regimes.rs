//! Input regimes: input distributions that are checked but never timed. A correct kernel is correct on them too.
//!
//! A task can define its own in `task.yaml`. Otherwise this module derives default regimes from the inputs. An input that always has
//! the same value gets other values in any case, unless the task says that it is `fixed`: otherwise a kernel could contain the
//! value.

use indexmap::IndexMap;

use super::definition::Tensor;
use super::workload::{InputSource, Workload};
use super::{Definition, Distribution, DistributionKind, Regime, TaskSettings};

/// Factors from a usual value to other ones: near it, so that what the value means stays the same.
const SMALLER: f64 = 0.5;
const LARGER: f64 = 4.0;
/// Another value of an epsilon. It is usually so small that only a much larger one changes a result visibly.
const LARGE_EPSILON: f64 = 0.5;
/// A larger whole number is hardly an exponent or a count.
const LARGEST_COUNT: f64 = 1e9;
/// The other value of an input that is usually 0, because a factor does not change 0.
const NOT_ZERO: f64 = 0.25;

/// The regimes of a task, by name: those of `task.yaml`, or the default ones; then other values of constant inputs that none of
/// them changes.
pub(super) fn task_regimes(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> IndexMap<String, Regime> {
    let mut regimes = match &settings.regimes {
        Some(regimes) => regimes.clone(),
        None => default_regimes(settings, definition),
    };
    for (name, tensor) in &definition.inputs {
        let is_changed = regimes.values().any(|regime| regime.contains_key(name));
        // An integer may be a mode or a count: only the task knows its other values.
        if is_changed || !tensor.dtype.is_float() || settings.fixed.contains(name) {
            continue;
        }
        let Some(usual) = usual_value(name, settings, definition, workloads) else {
            continue;
        };
        for (word, value) in other_values(name, usual) {
            let distribution = Distribution::new(DistributionKind::Value(value));
            let regime = Regime::from([(name.clone(), distribution)]);
            regimes.entry(format!("{word}_{name}")).or_insert(regime);
        }
    }
    regimes
}

/// Other values of an input with this usual value, each with a word for the name of its regime.
///
/// A value keeps its sign and never becomes 1: with such a factor a kernel that leaves it out is right. A value up to 1 stays up to 1, because it may be a probability or a share. A whole number above 1 stays a whole
/// number, because it may be an exponent.
fn other_values(name: &str, usual: f64) -> Vec<(&'static str, f64)> {
    if usual == 0.0 {
        return vec![("other", NOT_ZERO)];
    }
    let size = usual.abs();
    if size == 1.0 {
        return vec![("smaller", SMALLER.copysign(usual))];
    }
    if size == 2.0 {
        // The next smaller whole number is 1, at which a kernel without a factor is right.
        return vec![("larger", (size * 2.0).copysign(usual))];
    }
    let (smaller, larger) = if size < 1.0 {
        (
            size * SMALLER,
            (size * LARGER).min(f64::midpoint(size, 1.0)),
        )
    } else if size.fract() == 0.0 && size <= LARGEST_COUNT {
        (size - 1.0, size * 2.0)
    } else {
        let smaller = match size < 2.0 {
            true => f64::midpoint(size, 1.0),
            false => size * SMALLER,
        };
        (smaller, size * 2.0)
    };
    let mut values = vec![
        ("smaller", smaller.copysign(usual)),
        ("larger", larger.copysign(usual)),
    ];
    if name.contains("eps") && size < LARGE_EPSILON / LARGER {
        values.push(("large", LARGE_EPSILON.copysign(usual)));
    }
    values
}

/// The value that an input has in every element with the usual distributions; `None` if it is random.
pub(super) fn usual_value(
    name: &str,
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> Option<f64> {
    let tensor = definition.inputs.get(name)?;
    let of_workload = || match workloads.first()?.inputs.get(name)? {
        InputSource::Scalar(value) => Some(*value),
        InputSource::Random | InputSource::Stored(_) => None,
    };
    let is_stored = |workload: &Workload| {
        let source = workload.inputs.get(name);
        matches!(source, Some(InputSource::Stored(_)))
    };
    if workloads.iter().any(is_stored) {
        return None;
    }
    match settings.inputs.get(name) {
        Some(given) => given.constant_value(),
        None if tensor.shape.is_some() => default_distribution(tensor).constant_value(),
        None => of_workload(),
    }
}

/// The distribution of an input that the task gives none: standard normal, 0 for integers.
pub(super) fn default_distribution(tensor: &Tensor) -> Distribution {
    Distribution::new(if tensor.dtype.is_float() {
        DistributionKind::Normal(1.0)
    } else {
        DistributionKind::Value(0.0)
    })
}

/// Default regimes: scaled up and down, shifted, with ties, with zeros, with large rows. Each changes every random floating-point
/// input that is not normalized.
fn default_regimes(settings: &TaskSettings, definition: &Definition) -> IndexMap<String, Regime> {
    let mut random = Regime::new();
    for (name, tensor) in &definition.inputs {
        if !tensor.dtype.is_float() || tensor.shape.is_none() {
            continue;
        }
        let given = settings.inputs.get(name).cloned();
        let distribution = given.unwrap_or_else(|| default_distribution(tensor));
        if distribution.constant_value().is_none() && distribution.normalize.is_none() {
            random.insert(name.clone(), distribution);
        }
    }
    if random.is_empty() {
        return IndexMap::new();
    }
    let changed = |name: &str, change: &dyn Fn(&Distribution) -> Distribution| {
        let of_all = random
            .iter()
            .map(|(input, distribution)| (input.clone(), change(distribution)));
        (name.to_owned(), of_all.collect::<Regime>())
    };
    IndexMap::from([
        changed("scaled_up", &|given| given.scaled(4.0)),
        changed("scaled_down", &|given| given.scaled(0.25)),
        changed("shifted", &|given| Distribution {
            mean: given.mean + given.spread(),
            ..given.clone()
        }),
        changed("ties", &|given| Distribution {
            levels: 4,
            ..given.clone()
        }),
        changed("zeros", &|given| Distribution {
            zeros: 0.5,
            ..given.clone()
        }),
        changed("large_rows", &|given| Distribution {
            large_rows: 8.0,
            ..given.clone()
        }),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_values_of_an_input_keep_its_kind() {
        let of = |name: &str, usual: f64| -> Vec<f64> {
            let values = other_values(name, usual).into_iter();
            values.map(|(_, value)| value).collect()
        };
        // A probability stays a probability, and an epsilon gets a value that is visible.
        assert_eq!(of("p", 0.9), [0.45, 0.95]);
        assert_eq!(of("scale", 0.125), [0.0625, 0.5]);
        assert_eq!(of("eps", 1e-5), [0.5e-5, 4e-5, 0.5]);
        assert_eq!(of("eps", 0.5), [0.25, 0.75]);
        assert_eq!(of("temperature", 1.0), [0.5]);
        assert_eq!(of("exponent", 2.0), [4.0]);
        assert_eq!(of("exponent", -3.0), [-2.0, -6.0]);
        assert_eq!(of("scale", -1.5), [-1.25, -3.0]);
        assert_eq!(of("scale", 2.5), [1.25, 5.0]);
        assert_eq!(of("shift", 0.0), [0.25]);
        for usual in [
            1e-30, 1e-6, 0.3, 0.999, 1.0, 1.5, 2.0, 3.0, 1e30, -0.2, -7.0, 0.0,
        ] {
            for value in of("alpha", usual) {
                assert!(value.abs() != 1.0, "{usual}: {value}");
                assert!(value != usual && value.is_finite(), "{usual}: {value}");
                assert!(value * usual >= 0.0, "{usual}: {value}");
                assert!(usual.abs() > 1.0 || value.abs() <= 1.0, "{usual}: {value}");
            }
        }
    }
}
