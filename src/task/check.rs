//! Validates `task.yaml` against the definition and the workloads, and reports everything that is wrong.
//!
//! Reads no files: `files` parses the texts and calls this module. Every problem carries the key of `task.yaml` that is wrong.

use super::Task;
use super::definition::{Definition, Tensor};
use super::distribution::{CumulativeTotal, Distribution, DistributionKind};
use super::settings::{Profile, TaskSettings, WorkloadChoice};
use super::workload::Workload;
use crate::base::Failure;
use crate::base::expression::Expression;
use crate::base::text::{did_you_mean, nearest_name};

/// A key of `task.yaml` that is wrong, and the failure.
pub(super) type KeyedFailure = (String, Failure);

/// What the settings are validated against.
pub(super) struct TaskCheckInput<'p> {
    pub(super) settings: &'p TaskSettings,
    pub(super) definition: &'p Definition,
    pub(super) workloads: &'p [Workload],
    /// Whether all workloads were read without a problem.
    pub(super) has_all_workloads: bool,
}

/// Validates the settings against the definition and the workloads.
pub(super) fn check(parts: &TaskCheckInput<'_>) -> Vec<KeyedFailure> {
    let mut found = KeyedFailures::default();
    let settings = parts.settings;
    if settings.schema != 1 {
        found.add("schema", format!("expected 1, found {}", settings.schema));
    }
    check_distributions(parts, &mut found);
    check_tolerances(settings, parts.definition, &mut found);
    check_hidden_ranges(settings, parts.definition, &mut found);
    check_in_place(settings, parts.definition, &mut found);
    check_profiles(parts, &mut found);
    found.0
}

/// The problems so far.
#[derive(Default)]
pub(super) struct KeyedFailures(pub(super) Vec<KeyedFailure>);

impl KeyedFailures {
    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push((key.into(), Failure::usage(message)));
    }

    pub(super) fn add_with_hint(
        &mut self,
        key: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let failure = Failure::usage(message).hint(hint);
        self.0.push((key.into(), failure));
    }
}

/// Every output needs a tolerance, from 0 to below 0.5.
fn check_tolerances(settings: &TaskSettings, definition: &Definition, found: &mut KeyedFailures) {
    let outputs = || definition.outputs.keys().map(String::as_str);
    // Missing outputs, or a missing key, are reported already.
    if outputs().next().is_none() || settings.tolerance.is_empty() {
        return;
    }
    for (name, tolerance) in &settings.tolerance {
        let key = format!("tolerance.{name}");
        if !definition.outputs.contains_key(name) {
            let hint = did_you_mean(name, outputs().collect::<Vec<_>>());
            found.add_with_hint(key, "no such output", hint);
            continue;
        }
        let is_valid = |value: f64| (0.0..0.5).contains(&value);
        if !is_valid(tolerance.rtol) || !is_valid(tolerance.atol_rms) {
            found.add(key, "expected numbers of at least 0 and below 0.5");
        }
    }
    // A misspelt output is one problem, not two.
    let names = settings.tolerance.keys();
    let unknown = names.filter(|name| !definition.outputs.contains_key(*name));
    let misspelt: Vec<_> = unknown
        .filter_map(|name| nearest_name(name, outputs()))
        .collect();
    for output in outputs() {
        if !settings.tolerance.contains_key(output) && !misspelt.contains(&output) {
            let hint = format!("for example `{output}: {{rtol: 1.0e-2, atol_rms: 1.0e-3}}`");
            let message = format!("output `{output}` has no tolerance");
            found.add_with_hint("tolerance", message, hint);
        }
    }
}

fn check_hidden_ranges(
    settings: &TaskSettings,
    definition: &Definition,
    found: &mut KeyedFailures,
) {
    for (axis, [low, high]) in &settings.hidden {
        let key = format!("hidden.{axis}");
        if !definition.variables().any(|variable| variable == axis) {
            let hint = did_you_mean(axis, definition.variables());
            found.add_with_hint(key, "no such variable axis", hint);
        } else if !(1 <= *low && low <= high) {
            let message =
                format!("expected [low, high] with 1 <= low <= high, found [{low}, {high}]");
            found.add(key, message);
        }
    }
}

/// An output can share the memory only of an input of the same shape and dtype.
fn check_in_place(settings: &TaskSettings, definition: &Definition, found: &mut KeyedFailures) {
    for (output, input) in &settings.in_place {
        let pair = definition
            .outputs
            .get(output)
            .zip(definition.inputs.get(input));
        if pair.is_none_or(|(output, input)| {
            output.shape != input.shape || output.dtype != input.dtype
        }) {
            found.add(
                format!("in_place.{output}"),
                format!(
                    "expected an output and an input of the same shape and dtype, found `{output}` and `{input}`"
                ),
            );
        }
    }
}

fn check_profiles(parts: &TaskCheckInput<'_>, found: &mut KeyedFailures) {
    let settings = parts.settings;
    for (name, profile) in &settings.profiles {
        let key = format!("profiles.{name}");
        let positive = |value: f64| value > 0.0 && value <= 1e9;
        if profile.rounds == 0 || !positive(profile.seconds) || !positive(profile.precision) {
            let message = "expected `rounds`, `seconds` and `precision` above 0 and at most 1e9";
            found.add(key.clone(), message);
        }
        let has_range =
            |axis: &str| settings.hidden.contains_key(axis) || settings.derived.contains_key(axis);
        let without: Vec<_> = parts
            .definition
            .variables()
            .filter(|axis| !has_range(axis))
            .collect();
        if profile.hidden_shapes > 0 && !without.is_empty() {
            let message = "`hidden_shapes` needs a range under `hidden` for every variable axis";
            let hint = format!("add {}", ranges(&without));
            found.add_with_hint(key.clone(), message, hint);
        }
        if parts.has_all_workloads {
            check_workload_ids(format!("{key}.workloads"), profile, parts.workloads, found);
        }
    }
}

/// Examples of ranges for axes.
fn ranges(axes: &[&str]) -> String {
    let ranges: Vec<_> = axes
        .iter()
        .map(|axis| format!("`{axis}: [1, 300]`"))
        .collect();
    ranges.join(", ")
}

fn check_workload_ids(
    key: String,
    profile: &Profile,
    workloads: &[Workload],
    found: &mut KeyedFailures,
) {
    let WorkloadChoice::Named(ids) = &profile.workloads else {
        return;
    };
    let known: Vec<_> = workloads
        .iter()
        .map(|workload| workload.id.as_str())
        .collect();
    for id in ids.iter().filter(|id| !known.contains(&id.as_str())) {
        let hint = did_you_mean(id, known.clone());
        found.add_with_hint(key.clone(), format!("no workload `{id}`"), hint);
    }
    if ids.is_empty() {
        found.add(key, "expected `all` or at least one workload");
    }
}

/// Validates the derived axes. Each must be variable, depend on axes that are not derived, be at least 1, and agree with every
/// workload.
pub(super) fn check_derived(task: &Task) -> Vec<KeyedFailure> {
    let mut found = KeyedFailures::default();
    let derived = |axis: &str| task.settings.derived.contains_key(axis);
    for (axis, size) in task.derived.iter().filter(|(axis, _)| derived(axis)) {
        let key = format!("derived.{axis}");
        let variables = || task.definition.variables();
        if !variables().any(|variable| variable == axis) {
            let hint = did_you_mean(axis, variables());
            found.add_with_hint(key, "no such variable axis", hint);
        } else if task.settings.hidden.contains_key(axis) {
            found.add(key, "the axis also has a range under `hidden`");
        } else if let Some((name, _)) = size.names().into_iter().find(|(name, _)| derived(name)) {
            found.add(key, format!("`{name}` is itself a derived axis"));
        } else if let Some(reason) = derived_fault(task, axis, size) {
            found.add(key, reason);
        }
    }
    found.0
}

/// The first shape on which a derived axis is below 1, or differs from the workload.
fn derived_fault(task: &Task, axis: &str, size: &Expression) -> Option<String> {
    let ends = [0, 1].map(|end| {
        let ranges = task.settings.hidden.iter();
        let axes = ranges.map(|(axis, range)| (axis.clone(), range[end]));
        axes.collect()
    });
    let workloads = task.workloads.iter();
    let bound = workloads.map(|workload| (workload.id.as_str(), &workload.binding.axes));
    let all = ["low", "high"].into_iter().zip(&ends).chain(bound);
    for (shape, axes) in all.filter(|(_, axes)| !axes.is_empty()) {
        let found = task.derive_axes(axes).get(axis).copied();
        let given = axes.get(axis).copied();
        if found.is_none_or(|size| size < 1) || given.is_some_and(|given| found != Some(given)) {
            let found = found.map_or_else(|| "not a number".to_owned(), |size| size.to_string());
            let expected = given.map_or_else(|| "at least 1".to_owned(), |size| size.to_string());
            return Some(format!(
                "`{}` is {found} on `{shape}`, expected {expected}",
                size.text()
            ));
        }
    }
    None
}

/// Validates the distributions of `inputs` and `regimes` against the input tensors.
fn check_distributions(parts: &TaskCheckInput<'_>, found: &mut KeyedFailures) {
    let settings = parts.settings;
    let inputs = || parts.definition.inputs.keys().map(String::as_str);
    let own = settings.inputs.iter();
    let own = own.map(|(name, distribution)| (format!("inputs.{name}"), name, distribution));
    let regimes = settings.regimes.iter().flatten().flat_map(|(regime, all)| {
        all.iter().map(move |(name, distribution)| {
            (format!("regimes.{regime}.{name}"), name, distribution)
        })
    });
    for (key, name, distribution) in own.chain(regimes) {
        let Some(tensor) = parts.definition.inputs.get(name) else {
            let hint = did_you_mean(name, inputs().collect::<Vec<_>>());
            found.add_with_hint(key, "no such input", hint);
            continue;
        };
        if tensor.shape.is_none() && distribution.constant_value().is_none() {
            found.add(key, "a scalar accepts only `value: NUMBER`");
        } else if !tensor.dtype.is_float() && distribution.is_for_floats_only() {
            let message = "`mean` and `large_rows` apply only to floating-point inputs";
            found.add(key, message);
        } else {
            check_axis_names(&key, tensor, distribution, parts, found);
        }
    }
    for (name, regime) in settings.regimes.iter().flatten() {
        if regime.is_empty() {
            let message = "expected the distribution of at least one input";
            found.add(format!("regimes.{name}"), message);
        }
    }
}

/// Validates a distribution that names axes.
fn check_axis_names(
    key: &str,
    tensor: &Tensor,
    distribution: &Distribution,
    parts: &TaskCheckInput<'_>,
    found: &mut KeyedFailures,
) {
    let axes = || parts.definition.axes.keys().map(String::as_str);
    match &distribution.kind {
        DistributionKind::Cumulative(total) => {
            if let CumulativeTotal::Axis(axis) = total
                && !parts.definition.axes.contains_key(axis)
            {
                let message = format!("`cumulative`: unknown axis `{axis}`");
                found.add_with_hint(key, message, did_you_mean(axis, axes()));
            } else if let Some(fault) = cumulative_fault(tensor, parts) {
                found.add(key, fault);
            }
        }
        DistributionKind::UniformBelow(low, high) => {
            for (name, _) in high.names() {
                if !parts.definition.axes.contains_key(name) {
                    let message = format!("`uniform`: unknown axis `{name}`");
                    found.add_with_hint(key, message, did_you_mean(name, axes()));
                    return;
                }
            }
            for workload in parts.workloads {
                let value = high.evaluate(&|axis| workload.binding.axes.get(axis).copied());
                if value.is_ok_and(|value| value as f64 <= *low) {
                    let message = format!(
                        "`uniform`: `{}` is not above {low} in workload `{}`",
                        high.text(),
                        workload.id
                    );
                    return found.add(key, message);
                }
            }
        }
        _ => {}
    }
}

/// The maximum row length of a cumulative distribution: each element is computed as a sum over its row.
const MAX_CUMULATIVE: i64 = 4097;

/// Why a cumulative distribution is invalid for a tensor; `None` if it is valid.
fn cumulative_fault(tensor: &Tensor, parts: &TaskCheckInput<'_>) -> Option<String> {
    if tensor.dtype.is_float() {
        return Some("`cumulative` applies only to integer inputs".to_owned());
    }
    let last = tensor.shape.as_ref().and_then(|axes| axes.last())?;
    let sizes = (parts.workloads.iter()).filter_map(|workload| workload.binding.axes.get(last));
    let hidden = parts.settings.hidden.get(last).map(|[_, high]| high);
    let longest = sizes.chain(hidden).max()?;
    (*longest > MAX_CUMULATIVE).then(|| {
        format!("`cumulative`: at most {MAX_CUMULATIVE} elements, found `{last}` = {longest}")
    })
}
