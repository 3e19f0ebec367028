//! What a task may leave out of `task.yaml`: the profiles, the memory traffic, the number of operations.
//!
//! Pure: from the definition and the workloads.

use indexmap::IndexMap;

use super::definition::{Definition, Tensor};
use super::settings::{MIN_BLOCKS, Profile, RegimeChoice, TaskSettings, WorkloadChoice};
use super::workload::Workload;

/// The most workloads that the default `quick` profile times.
const QUICK_WORKLOADS: usize = 2;

/// Adds the profiles `quick` and `full` if they are missing. They have hidden shapes if every variable axis has a range.
pub(super) fn add_profiles(
    settings: &mut TaskSettings,
    definition: &Definition,
    workloads: &[Workload],
) {
    let has_range =
        |axis: &str| settings.hidden.contains_key(axis) || settings.derived.contains_key(axis);
    let has_hidden_shapes = definition.variables().all(has_range) && !settings.hidden.is_empty();
    let hidden_shapes = |count: u32| if has_hidden_shapes { count } else { 0 };
    if !settings.profiles.contains_key("quick") {
        let quick = Profile {
            workloads: smallest(definition, workloads),
            hidden_shapes: hidden_shapes(1),
            regimes: RegimeChoice::Once,
            rounds: 2,
            seconds: 0.3,
            precision: 0.02,
            blocks: MIN_BLOCKS,
        };
        settings.profiles.insert("quick".to_owned(), quick);
    }
    if !settings.profiles.contains_key("full") {
        let full = Profile {
            workloads: WorkloadChoice::All,
            hidden_shapes: hidden_shapes(2),
            regimes: RegimeChoice::All,
            rounds: 3,
            seconds: 3.0,
            precision: 0.01,
            blocks: MIN_BLOCKS,
        };
        settings.profiles.insert("full".to_owned(), full);
    }
}

/// The workloads with the fewest elements in all.
fn smallest(definition: &Definition, workloads: &[Workload]) -> WorkloadChoice {
    let elements = |workload: &Workload| -> u64 {
        let tensors = definition
            .inputs
            .values()
            .chain(definition.outputs.values());
        let sizes = tensors.filter_map(|tensor| workload.binding.shape(tensor).ok());
        sizes
            .map(|sizes| sizes.iter().product::<u64>())
            .fold(0, u64::saturating_add)
    };
    let mut by_size: Vec<_> = workloads.iter().collect();
    by_size.sort_by_key(|workload| elements(workload));
    let ids = by_size.iter().take(QUICK_WORKLOADS);
    WorkloadChoice::Named(ids.map(|workload| workload.id.clone()).collect())
}

/// The least memory traffic, as an expression: every output is written once, and every input read once. Where an input has
/// indices, a kernel may read a part of the others, so only the outputs count: a floor that is too high would call a correct
/// kernel suspicious.
pub(super) fn traffic(definition: &Definition) -> String {
    let has_indices = definition
        .inputs
        .values()
        .any(|input| !input.dtype.is_float() && input.shape.is_some());
    let inputs = definition
        .inputs
        .values()
        .filter(|input| !has_indices && !input.optional && input.shape.is_some());
    // A network has hundreds of parameters, of few different shapes.
    let mut sizes = IndexMap::<String, usize>::new();
    for size in inputs.chain(definition.outputs.values()).map(bytes) {
        *sizes.entry(size).or_default() += 1;
    }
    let terms = sizes.into_iter().map(|(size, count)| match count {
        1 => size,
        _ => format!("{count} * {size}"),
    });
    terms.collect::<Vec<_>>().join(" + ")
}

/// The bytes of a tensor, as an expression.
pub(super) fn bytes(tensor: &Tensor) -> String {
    let axes = tensor.shape.iter().flatten().map(String::as_str);
    let size = tensor.dtype.bytes().to_string();
    axes.chain([size.as_str()]).collect::<Vec<_>>().join(" * ")
}
