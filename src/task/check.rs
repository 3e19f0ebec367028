//! `task.yaml` against the definition and the workloads: what no parser can see. Reads no file.

use super::{Definition, Distribution, Settings, Workload, WorkloadChoice};
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// A failure with the key that it is about.
type Keyed = Result<(), (String, Failure)>;

/// What `task.yaml` says, against the definition and the workloads.
pub(super) fn check(settings: &Settings, definition: &Definition, workloads: &[Workload]) -> Keyed {
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
    check_distributions(settings, definition)?;
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
        let constant = settings.inputs.get(name).and_then(Distribution::constant);
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
            && definition
                .variables()
                .any(|axis| !settings.hidden.contains_key(axis))
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

/// The distributions of inputs and regimes against the inputs that they are for.
fn check_distributions(settings: &Settings, definition: &Definition) -> Keyed {
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
        let fault = if tensor.shape.is_none() && distribution.constant().is_none() {
            "a scalar takes `value: NUMBER` and nothing else"
        } else if !tensor.dtype.is_float() && distribution.is_for_floats_only() {
            "`mean` and `large_rows` are for floating-point numbers"
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
