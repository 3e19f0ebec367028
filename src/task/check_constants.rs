//! Validates the inputs that have one value: each scalar has exactly one, and `fixed` agrees with the regimes and workloads.
//!
//! Reads no files. `load` calls it after `check`.

use super::check::{KeyedFailure, KeyedFailures, TaskCheckInput};
use super::distribution::Distribution;
use super::dtype::DType;
use super::regimes::default_distribution;
use super::workload::InputSource;
use crate::base::text::did_you_mean;

/// Validates scalars and `fixed`.
pub(super) fn check_constants(parts: &TaskCheckInput<'_>) -> Vec<KeyedFailure> {
    let mut found = KeyedFailures::default();
    if parts.has_all_workloads {
        check_missing_values(parts, &mut found);
        check_values_given_twice(parts, &mut found);
    }
    check_fixed(parts, &mut found);
    found.0
}

/// The value that `task.yaml` gives to a scalar.
fn task_value(parts: &TaskCheckInput<'_>, name: &str) -> Option<f64> {
    parts.settings.inputs.get(name)?.constant_value()
}

/// Every scalar input needs a value, in `task.yaml` or in every workload.
fn check_missing_values(parts: &TaskCheckInput<'_>, found: &mut KeyedFailures) {
    let inputs = parts.definition.inputs.iter();
    for (name, _) in inputs.filter(|(_, tensor)| tensor.shape.is_none()) {
        if task_value(parts, name).is_some() {
            continue;
        }
        let mut workloads = parts.workloads.iter();
        if let Some(workload) = workloads.find(|workload| !workload.inputs.contains_key(name)) {
            let message = format!(
                "scalar `{name}` has no `value` here and none in workload `{}`",
                workload.id
            );
            let hint = format!("for example `{name}: {{value: 1.0}}` under `inputs`");
            found.add_with_hint(format!("inputs.{name}"), message, hint);
        }
    }
}

/// A scalar with one value in `task.yaml` and another value in a workload is an error: a reader of either file must see the value that is
/// used.
fn check_values_given_twice(parts: &TaskCheckInput<'_>, found: &mut KeyedFailures) {
    for (name, tensor) in &parts.definition.inputs {
        let Some(here) = task_value(parts, name).filter(|_| tensor.shape.is_none()) else {
            continue;
        };
        for workload in parts.workloads {
            let Some(&InputSource::Scalar(there)) = workload.inputs.get(name) else {
                continue;
            };
            if is_same(here, there, tensor.dtype) {
                continue;
            }
            let message = format!(
                "`{here}` here, but `{there}` in workload `{}` ({}:{})",
                workload.id, parts.settings.workloads, workload.line
            );
            let hint = format!(
                "give `{name}` one value: delete it here if workloads differ, or delete it there"
            );
            found.add_with_hint(format!("inputs.{name}"), message, hint);
            break;
        }
    }
}

/// Whether a kernel gets the same number: a scalar has the precision of its dtype.
fn is_same(one: f64, other: f64, dtype: DType) -> bool {
    one == other || (dtype == DType::Float32 && one as f32 == other as f32)
}

/// `fixed` names inputs that no regime changes and that are the same in every workload.
fn check_fixed(parts: &TaskCheckInput<'_>, found: &mut KeyedFailures) {
    let inputs = &parts.definition.inputs;
    for name in &parts.settings.fixed {
        let Some(tensor) = inputs.get(name) else {
            let hint = did_you_mean(name, inputs.keys().map(String::as_str));
            found.add_with_hint("fixed", format!("no such input: `{name}`"), hint);
            continue;
        };
        let given = parts.settings.inputs.get(name);
        let usual = default_distribution(tensor);
        if tensor.shape.is_some() && given.unwrap_or(&usual).constant_value().is_none() {
            let message = format!("`{name}` is random: only an input with one value can be fixed");
            found.add("fixed", message);
            continue;
        }
        for (regime, changed) in parts.settings.regimes.iter().flatten() {
            if changed.contains_key(name) {
                let message = format!("`{name}` is fixed, but the regime `{regime}` changes it");
                found.add("fixed", message);
            }
        }
        check_fixed_workloads(name, tensor.dtype, parts, found);
    }
}

fn check_fixed_workloads(
    name: &str,
    dtype: DType,
    parts: &TaskCheckInput<'_>,
    found: &mut KeyedFailures,
) {
    let values = parts.workloads.iter().filter_map(|workload| {
        let value = match workload.inputs.get(name) {
            Some(InputSource::Scalar(value)) => Some(*value),
            _ => parts
                .settings
                .inputs
                .get(name)
                .and_then(Distribution::constant_value),
        };
        Some((workload, value?))
    });
    let values: Vec<_> = values.collect();
    let Some(((first, value), rest)) = values.split_first() else {
        return;
    };
    if let Some((other, found_value)) = rest
        .iter()
        .find(|(_, other)| !is_same(*value, *other, dtype))
    {
        let message = format!(
            "`{name}` is fixed, but it is `{value}` in workload `{}` and `{found_value}` in `{}`",
            first.id, other.id
        );
        found.add("fixed", message);
    }
}
