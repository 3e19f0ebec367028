//! Validates `task.yaml` against the definition and the workloads.
//!
//! Reads no files: `files` parses the texts and calls this module. Every error carries the key of `task.yaml` that is wrong.

use super::{
    CumulativeTotal, Definition, Distribution, DistributionKind, Task, TaskSettings, Tensor,
    Workload, WorkloadChoice,
};
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// `Err`: the key of `task.yaml` that is wrong, and the failure.
type KeyedResult = Result<(), (String, Failure)>;

/// Validates the settings against the definition and the workloads.
pub(super) fn check(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> KeyedResult {
    if settings.schema != 1 {
        return fail("schema", format!("expected 1, found {}", settings.schema));
    }
    if settings.baselines.is_empty() {
        return fail("baselines", "expected at least one");
    }
    check_distributions(settings, definition, workloads)?;
    check_tolerances(settings, definition)?;
    check_hidden_ranges(settings, definition)?;
    check_in_place(settings, definition)?;
    check_scalars(settings, definition, workloads)?;
    check_profiles(settings, definition, workloads)
}

fn fail(key: impl Into<String>, message: impl Into<String>) -> KeyedResult {
    Err((key.into(), Failure::usage(message)))
}

/// Every output needs a tolerance, from 0 to below 0.5.
fn check_tolerances(settings: &TaskSettings, definition: &Definition) -> KeyedResult {
    let outputs = || definition.outputs.keys().map(String::as_str);
    for name in settings.tolerance.keys() {
        if !definition.outputs.contains_key(name) {
            return Err((
                format!("tolerance.{name}"),
                Failure::usage("no such output")
                    .hint(did_you_mean(name, outputs().collect::<Vec<_>>())),
            ));
        }
    }
    for output in outputs() {
        let Some(tolerance) = settings.tolerance.get(output) else {
            return fail("tolerance", format!("output `{output}` has no tolerance"));
        };
        let is_valid = |value: f64| (0.0..0.5).contains(&value);
        if !is_valid(tolerance.rtol) || !is_valid(tolerance.atol_rms) {
            return fail(
                format!("tolerance.{output}"),
                "expected numbers of at least 0 and below 0.5",
            );
        }
    }
    Ok(())
}

fn check_hidden_ranges(settings: &TaskSettings, definition: &Definition) -> KeyedResult {
    for (axis, [low, high]) in &settings.hidden {
        if !definition.variables().any(|variable| variable == axis) {
            return Err((
                format!("hidden.{axis}"),
                Failure::usage("no such variable axis")
                    .hint(did_you_mean(axis, definition.variables())),
            ));
        }
        if !(1 <= *low && low <= high) {
            return fail(
                format!("hidden.{axis}"),
                format!("expected [low, high] with 1 <= low <= high, found [{low}, {high}]"),
            );
        }
    }
    Ok(())
}

/// An output can share the memory only of an input of the same shape and dtype.
fn check_in_place(settings: &TaskSettings, definition: &Definition) -> KeyedResult {
    for (output, input) in &settings.in_place {
        let pair = definition
            .outputs
            .get(output)
            .zip(definition.inputs.get(input));
        if pair.is_none_or(|(output, input)| {
            output.shape != input.shape || output.dtype != input.dtype
        }) {
            return fail(
                format!("in_place.{output}"),
                format!(
                    "expected an output and an input of the same shape and dtype, found `{output}` and `{input}`"
                ),
            );
        }
    }
    Ok(())
}

/// Every scalar input needs a value, in `task.yaml` or in every workload.
fn check_scalars(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> KeyedResult {
    for (name, tensor) in &definition.inputs {
        let constant = settings
            .inputs
            .get(name)
            .and_then(Distribution::constant_value);
        if tensor.shape.is_some() || constant.is_some() {
            continue;
        }
        if let Some(workload) = workloads
            .iter()
            .find(|workload| !workload.inputs.contains_key(name))
        {
            return fail(
                format!("inputs.{name}"),
                format!(
                    "scalar `{name}` has no `value` here and none in workload `{}`",
                    workload.id
                ),
            );
        }
    }
    Ok(())
}

fn check_profiles(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> KeyedResult {
    for (name, profile) in &settings.profiles {
        let key = format!("profiles.{name}");
        let positive = |value: f64| value > 0.0 && value <= 1e9;
        if profile.rounds == 0 || !positive(profile.seconds) || !positive(profile.precision) {
            return fail(
                key,
                "expected `rounds`, `seconds` and `precision` above 0 and at most 1e9",
            );
        }
        let has_range =
            |axis: &str| settings.hidden.contains_key(axis) || settings.derived.contains_key(axis);
        if profile.hidden_shapes > 0 && definition.variables().any(|axis| !has_range(axis)) {
            return fail(
                key,
                "`hidden_shapes` needs a range under `hidden` for every variable axis",
            );
        }
        if let WorkloadChoice::Named(ids) = &profile.workloads {
            check_workload_ids(format!("{key}.workloads"), ids, workloads)?;
        }
    }
    for profile in ["quick", "full"] {
        if !settings.profiles.contains_key(profile) {
            return fail("profiles", format!("`{profile}` is missing"));
        }
    }
    Ok(())
}

fn check_workload_ids(key: String, ids: &[String], workloads: &[Workload]) -> KeyedResult {
    let known: Vec<_> = workloads
        .iter()
        .map(|workload| workload.id.as_str())
        .collect();
    if let Some(id) = ids.iter().find(|id| !known.contains(&id.as_str())) {
        return Err((
            key,
            Failure::usage(format!("no workload `{id}`")).hint(did_you_mean(id, known)),
        ));
    }
    if ids.is_empty() {
        return fail(key, "expected `all` or at least one workload");
    }
    Ok(())
}

/// Validates the derived axes. Each must be variable, depend on axes that are not derived, be at least 1, and agree with every
/// workload.
pub(super) fn check_derived(task: &Task) -> KeyedResult {
    let settings = &task.settings;
    for (axis, size) in &task.derived {
        let key = format!("derived.{axis}");
        let variables = || task.definition.variables();
        if !variables().any(|variable| variable == axis) {
            let failure = Failure::usage("no such variable axis");
            return Err((key, failure.hint(did_you_mean(axis, variables()))));
        }
        if settings.hidden.contains_key(axis) {
            return Err((
                key,
                Failure::usage("the axis also has a range under `hidden`"),
            ));
        }
        if let Some((name, _)) =
            (size.names().into_iter()).find(|(name, _)| task.derived.contains_key(*name))
        {
            let reason = format!("`{name}` is itself a derived axis");
            return Err((key, Failure::usage(reason)));
        }
        let ends = [0, 1].map(|end| {
            let ranges = settings.hidden.iter();
            let axes = ranges.map(|(axis, range)| (axis.clone(), range[end]));
            axes.collect()
        });
        let workloads = task.workloads.iter();
        let bound = workloads.map(|workload| (workload.id.as_str(), &workload.binding.axes));
        let all = ["low", "high"].into_iter().zip(&ends).chain(bound);
        for (shape, axes) in all.filter(|(_, axes)| !axes.is_empty()) {
            let found = task.derive_axes(axes).get(axis).copied();
            let given = axes.get(axis).copied();
            if found.is_none_or(|size| size < 1) || given.is_some_and(|given| found != Some(given))
            {
                let found =
                    found.map_or_else(|| "not a number".to_owned(), |size| size.to_string());
                let expected =
                    given.map_or_else(|| "at least 1".to_owned(), |size| size.to_string());
                let reason = format!(
                    "`{}` is {found} on `{shape}`, expected {expected}",
                    size.text()
                );
                return Err((key, Failure::usage(reason)));
            }
        }
    }
    Ok(())
}

/// Validates the distributions of `inputs` and `regimes` against the input tensors.
fn check_distributions(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> KeyedResult {
    let inputs = || definition.inputs.keys().map(String::as_str);
    let own = settings.inputs.iter();
    let own = own.map(|(name, distribution)| (format!("inputs.{name}"), name, distribution));
    let regimes = settings.regimes.iter().flatten().flat_map(|(regime, all)| {
        all.iter().map(move |(name, distribution)| {
            (format!("regimes.{regime}.{name}"), name, distribution)
        })
    });
    for (key, name, distribution) in own.chain(regimes) {
        let Some(tensor) = definition.inputs.get(name) else {
            return Err((
                key,
                Failure::usage("no such input")
                    .hint(did_you_mean(name, inputs().collect::<Vec<_>>())),
            ));
        };
        let fault = if tensor.shape.is_none() && distribution.constant_value().is_none() {
            "a scalar accepts only `value: NUMBER`".to_owned()
        } else if !tensor.dtype.is_float() && distribution.is_for_floats_only() {
            "`mean` and `large_rows` apply only to floating-point inputs".to_owned()
        } else if let DistributionKind::Cumulative(total) = &distribution.kind {
            match cumulative_fault(total, tensor, settings, definition, workloads) {
                Some(fault) => fault,
                None => continue,
            }
        } else {
            continue;
        };
        return Err((key, Failure::usage(fault)));
    }
    if let Some((name, _)) =
        (settings.regimes.iter().flatten()).find(|(_, regime)| regime.is_empty())
    {
        let failure = Failure::usage("expected the distribution of at least one input");
        return Err((format!("regimes.{name}"), failure));
    }
    Ok(())
}

/// The maximum row length of a cumulative distribution: each element is computed as a sum over its row.
const MAX_CUMULATIVE: i64 = 4097;

/// Why a cumulative distribution is invalid; `None` if it is valid.
fn cumulative_fault(
    total: &CumulativeTotal,
    tensor: &Tensor,
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> Option<String> {
    if tensor.dtype.is_float() {
        return Some("`cumulative` applies only to integer inputs".to_owned());
    }
    if let CumulativeTotal::Axis(axis) = total
        && !definition.axes.contains_key(axis)
    {
        return Some(format!("`cumulative`: unknown axis `{axis}`"));
    }
    let last = tensor.shape.as_ref().and_then(|axes| axes.last())?;
    let sizes = workloads
        .iter()
        .filter_map(|workload| workload.binding.axes.get(last));
    let hidden = settings.hidden.get(last).map(|[_, high]| high);
    let longest = sizes.chain(hidden).max()?;
    (*longest > MAX_CUMULATIVE).then(|| {
        format!("`cumulative`: at most {MAX_CUMULATIVE} elements, found `{last}` = {longest}")
    })
}
