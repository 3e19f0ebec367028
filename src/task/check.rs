//! `task.yaml` against the definition and the workloads: what no parser can see. Reads no file.

use super::{
    CumulativeTotal, Definition, Distribution, DistributionKind, Task, TaskSettings, Tensor,
    Workload, WorkloadChoice,
};
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// A failure with the key that it is about.
type KeyedResult = Result<(), (String, Failure)>;

/// What `task.yaml` says, against the definition and the workloads.
pub(super) fn check(
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> KeyedResult {
    let fail = |key: String, message: String| Err((key, Failure::usage(message)));
    if settings.schema != 1 {
        return fail(
            "schema".to_owned(),
            format!("expected 1, found {}", settings.schema),
        );
    }
    if settings.baselines.is_empty() {
        return fail("baselines".to_owned(), "expected at least one".to_owned());
    }
    let outputs = || definition.outputs.keys().map(String::as_str);
    check_distributions(settings, definition, workloads)?;
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
        match settings.tolerance.get(output) {
            None => {
                return fail(
                    "tolerance".to_owned(),
                    format!("output `{output}` has none"),
                );
            }
            Some(tolerance)
                if !(tolerance.rtol >= 0.0
                    && tolerance.atol_rms >= 0.0
                    && tolerance.rtol < 0.5
                    && tolerance.atol_rms < 0.5) =>
            {
                return fail(
                    format!("tolerance.{output}"),
                    "expected numbers of at least 0 and below 0.5".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
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
                format!("expected 1 <= low <= high, found [{low}, {high}]"),
            );
        }
    }
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
                    "expected an output and an input of one shape and dtype, found `{output}` and `{input}`"
                ),
            );
        }
    }
    for (name, tensor) in &definition.inputs {
        let constant = settings
            .inputs
            .get(name)
            .and_then(Distribution::constant_value);
        let given = |workload: &Workload| workload.inputs.contains_key(name) || constant.is_some();
        if let Some(workload) = workloads
            .iter()
            .find(|workload| tensor.shape.is_none() && !given(workload))
        {
            return fail(
                format!("inputs.{name}"),
                format!(
                    "scalar `{name}` has no value here, and none in workload `{}`",
                    workload.id
                ),
            );
        }
    }
    for (name, profile) in &settings.profiles {
        let key = format!("profiles.{name}");
        let positive = |value: f64| value > 0.0 && value <= 1e9;
        if profile.rounds == 0 || !positive(profile.seconds) || !positive(profile.precision) {
            return fail(
                key,
                "expected `rounds`, `seconds` and `precision` above 0 and up to 1e9".to_owned(),
            );
        }
        if profile.hidden_shapes > 0
            && definition.variables().any(|axis| {
                !settings.hidden.contains_key(axis) && !settings.derived.contains_key(axis)
            })
        {
            return fail(
                key,
                "`hidden_shapes` needs a range for every variable axis under `hidden`".to_owned(),
            );
        }
        if let WorkloadChoice::Named(ids) = &profile.workloads {
            let known: Vec<_> = workloads
                .iter()
                .map(|workload| workload.id.as_str())
                .collect();
            if let Some(id) = ids.iter().find(|id| !known.contains(&id.as_str())) {
                return Err((
                    format!("{key}.workloads"),
                    Failure::usage(format!("no workload `{id}`")).hint(did_you_mean(id, known)),
                ));
            }
            if ids.is_empty() {
                return fail(
                    format!("{key}.workloads"),
                    "expected `all` or at least one workload".to_owned(),
                );
            }
        }
    }
    for profile in ["quick", "full"] {
        if !settings.profiles.contains_key(profile) {
            return fail("profiles".to_owned(), format!("`{profile}` is missing"));
        }
    }
    Ok(())
}

/// The axes that follow from others: each is variable, follows from axes that do not, is a size, and is what the workloads say.
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
            return Err((key, Failure::usage("it has a range under `hidden` as well")));
        }
        if let Some((name, _)) =
            (size.names().into_iter()).find(|(name, _)| task.derived.contains_key(*name))
        {
            let reason = format!("`{name}` follows from other axes itself");
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
                let found = found.map_or_else(|| "no number".to_owned(), |size| size.to_string());
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

/// The distributions of inputs and regimes against the inputs that they are for.
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
            "a scalar takes `value: NUMBER` and nothing else".to_owned()
        } else if !tensor.dtype.is_float() && distribution.is_for_floats_only() {
            "`mean` and `large_rows` are for floating-point numbers".to_owned()
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

/// The longest row of a cumulative distribution: each element adds up all parts of its row.
const MAX_CUMULATIVE: i64 = 4097;

/// What is wrong with a cumulative distribution, if anything.
fn cumulative_fault(
    total: &CumulativeTotal,
    tensor: &Tensor,
    settings: &TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) -> Option<String> {
    if tensor.dtype.is_float() {
        return Some("`cumulative` is for integers".to_owned());
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
