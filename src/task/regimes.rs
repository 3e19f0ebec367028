//! Input regimes: other inputs than those that are timed, on which a right kernel is right as well.
//!
//! `task.yaml` names them; where it does not, those that any task can have are made here.

use indexmap::IndexMap;

use super::{Definition, Distribution, DistributionKind, TaskSettings};

/// A regime's own distributions, by input; every other input stays as it is.
pub(crate) type Regime = IndexMap<String, Distribution>;

/// The regimes of a task, by name.
pub(super) fn task_regimes(
    settings: &TaskSettings,
    definition: &Definition,
) -> IndexMap<String, Regime> {
    match &settings.regimes {
        Some(regimes) => regimes.clone(),
        None => default_regimes(settings, definition),
    }
}

/// Scaled, shifted, ties, zeros, one-hot, large rows: of every random input of floating-point numbers that is not normalised.
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
