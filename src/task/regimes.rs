//! Input regimes: input distributions that are checked but never timed. A correct kernel is correct on them too.
//!
//! A task can define its own in `task.yaml`. Otherwise this module derives default regimes from the inputs.

use indexmap::IndexMap;

use super::{Definition, Distribution, DistributionKind, Regime, TaskSettings};

/// The regimes of a task, by name: those of `task.yaml`, or the default ones.
pub(super) fn task_regimes(
    settings: &TaskSettings,
    definition: &Definition,
) -> IndexMap<String, Regime> {
    match &settings.regimes {
        Some(regimes) => regimes.clone(),
        None => default_regimes(settings, definition),
    }
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
        let distribution = given.unwrap_or(Distribution::new(DistributionKind::Normal(1.0)));
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
