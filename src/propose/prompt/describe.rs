//! The task and the device as values for templates. Text from elsewhere is quoted here.

use minijinja::{Value, context};

use super::input::{Language, PromptInput};
use super::numbers::{format_si, format_significant};
use super::quote::{code_span, fenced_block, one_line, one_paragraph};
use crate::device::DeviceFacts;
use crate::task::{DType, Definition, DistributionKind, Tensor, WorkloadChoice};

/// The most characters of a description.
const MAX_DESCRIPTION_CHARS: usize = 1000;

/// A task: names, shapes, types, tolerances and timed workloads.
pub(super) fn task_values(input: &PromptInput<'_>, language: Language) -> Value {
    let task = input.task;
    let definition = &task.definition;
    context! {
        name => code_span(&task.name, 80),
        description => quoted_description(definition.description.as_deref()),
        axes => axis_values(input),
        inputs => input_values(input, language),
        outputs => output_values(input, language),
        workloads => workload_values(input),
        reference => fenced_block(&definition.reference, "python"),
        to_beat => input.to_beat.map(|one| code_span(&one.label, 80)),
        bytes => code_span(task.bytes.text(), 600),
        flops => code_span(task.flops.text(), 600),
        constants => constant_list(definition),
        parameters => parameter_list(definition, language),
    }
}

fn axis_values(input: &PromptInput<'_>) -> Vec<Value> {
    let axes = input.task.definition.axes.iter().map(|(name, axis)| {
        let derived = input.task.derived.get(name);
        context! {
            name => one_line(name, 80),
            value => axis.value,
            derived => derived.map(|size| one_line(size.text(), 200)),
            description => quoted_description(axis.description.as_deref()),
        }
    });
    axes.collect()
}

fn input_values(input: &PromptInput<'_>, language: Language) -> Vec<Value> {
    let task = input.task;
    let inputs = task.definition.inputs.iter().map(|(name, tensor)| {
        let distribution = task.settings.inputs.get(name);
        let kind = distribution.map(|distribution| &distribution.kind);
        context! {
            uneven => matches!(kind, Some(DistributionKind::Cumulative(_))),
            of => tensor_values(name, tensor, language),
            optional => tensor.optional,
            by_value => tensor.shape.is_none(),
        }
    });
    inputs.collect()
}

fn output_values(input: &PromptInput<'_>, language: Language) -> Vec<Value> {
    let settings = &input.task.settings;
    let outputs = input.task.definition.outputs.iter().map(|(name, tensor)| {
        let tolerance = settings.tolerance.get(name);
        let over = settings.in_place.get(name);
        context! {
            of => tensor_values(name, tensor, language),
            over => over.map(|input| one_line(input, 80)),
            rtol => tolerance.map(|tolerance| tolerance.rtol),
            atol_rms => tolerance.map(|tolerance| tolerance.atol_rms),
        }
    });
    outputs.collect()
}

/// The workloads that the profile times.
fn workload_values(input: &PromptInput<'_>) -> Vec<Value> {
    let task = input.task;
    let profile = task.settings.profiles.get(input.profile);
    let timed =
        task.workloads
            .iter()
            .filter(|workload| match profile.map(|profile| &profile.workloads) {
                Some(WorkloadChoice::Named(names)) => names.contains(&workload.id),
                _ => true,
            });
    let workloads = timed.map(|workload| {
        let variables = task.definition.variables();
        let sizes = variables.filter_map(|name| Some((name, workload.binding.axes.get(name)?)));
        let sizes = sizes.map(|(name, size)| format!("{} = {size}", one_line(name, 80)));
        let to_beat = input
            .to_beat
            .and_then(|one| one.microseconds.get(&workload.id));
        context! {
            to_beat => to_beat.map(|time| format_significant(*time)),
            id => code_span(&workload.id, 60),
            sizes => sizes.collect::<Vec<_>>().join(", "),
        }
    });
    workloads.collect()
}

fn quoted_description(text: Option<&str>) -> Option<String> {
    text.map(|text| one_paragraph(text, MAX_DESCRIPTION_CHARS))
        .filter(|text| !text.is_empty())
}

/// The constant axes under the names that the code sees.
fn constant_list(definition: &Definition) -> String {
    let constants = definition.constants();
    let named =
        constants.map(|(name, value)| format!("{} = {value}", one_line(name, 80).to_uppercase()));
    named.collect::<Vec<_>>().join(", ")
}

fn tensor_values(name: &str, tensor: &Tensor, language: Language) -> Value {
    let shape = (tensor.shape.as_ref()).map(|axes| {
        let axes = axes.iter().map(|axis| one_line(axis, 80));
        axes.collect::<Vec<_>>().join(", ")
    });
    context! {
        name => one_line(name, 80), shape, dtype => tensor.dtype.to_string(),
        element => element_type(tensor.dtype, language),
        description => quoted_description(tensor.description.as_deref()),
    }
}

/// A parameter list with every input and output in the definition's order.
fn parameter_list(definition: &Definition, language: Language) -> String {
    let inputs = definition.inputs.iter().map(|pair| (pair, true));
    let outputs = definition.outputs.iter().map(|pair| (pair, false));
    let mut parameters = Vec::new();
    for (position, ((name, tensor), is_input)) in inputs.chain(outputs).enumerate() {
        let element = element_type(tensor.dtype, language);
        let name = one_line(name, 80);
        let constant = if is_input { "const " } else { "" };
        let is_scalar = tensor.shape.is_none();
        parameters.push(match language {
            Language::Cuda if is_scalar => format!("{element} {name}"),
            Language::Cuda => format!("{constant}{element}* __restrict__ {name}"),
            Language::Metal if is_scalar => {
                format!("constant {element}& {name} [[buffer({position})]]")
            }
            Language::Metal => format!("device {constant}{element}* {name} [[buffer({position})]]"),
        });
    }
    parameters.join(", ")
}

fn element_type(dtype: DType, language: Language) -> &'static str {
    match (language, dtype) {
        (Language::Cuda, dtype) => dtype.cuda_type(),
        (Language::Metal, DType::Float16) => "half",
        (Language::Metal, DType::BFloat16) => "bfloat",
        (Language::Metal, DType::Int64) => "long",
        (Language::Metal, DType::Int8) => "char",
        // Metal has no 8-bit floats: the kernel gets their bytes.
        (Language::Metal, DType::Float8E4M3 | DType::Float8E5M2) => "uchar",
        (Language::Metal, dtype) => dtype.cuda_type(),
    }
}

/// The known facts about the device, one per line.
pub(super) fn device_values(facts: &DeviceFacts, backend: &str) -> Value {
    let lines: Vec<_> = (limits(facts).into_iter()).chain(rates(facts)).collect();
    context! {
        name => one_line(&facts.name, 100), arch => one_line(&facts.arch, 40), backend, lines,
    }
}

/// Sizes: cores, registers, memories.
fn limits(facts: &DeviceFacts) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(cores) = facts.cores {
        lines.push(format!("{cores} cores run the blocks"));
    }
    if let Some(count) = facts.multiprocessors {
        lines.push(format!(
            "{count} multiprocessors (`sm_count` in header expressions)"
        ));
    }
    if let Some(threads) = facts.threads_a_multiprocessor {
        let registers = facts.registers_a_multiprocessor;
        let registers = registers.map_or(String::new(), |count| {
            let each = count / threads.max(1);
            format!(
                " and {count} 32-bit registers: with up to {each} registers per thread all threads are resident"
            )
        });
        let warps = threads / 32;
        lines.push(format!(
            "a multiprocessor holds {threads} threads ({warps} warps){registers}"
        ));
    }
    if let Some((all, block)) =
        (facts.shared_bytes_a_multiprocessor).zip(facts.shared_bytes_a_block)
    {
        lines.push(format!(
            "{} KiB of shared memory per multiprocessor, shared with its L1 cache; at most {} KiB per block",
            all >> 10,
            block >> 10
        ));
    }
    if let Some(bytes) = facts.cache_bytes {
        let size = if bytes >= 1 << 20 {
            format!(
                "{} MiB",
                format_significant(bytes as f64 / f64::from(1 << 20))
            )
        } else {
            format!("{} KiB", bytes >> 10)
        };
        lines.push(format!("last-level cache: {size}"));
    }
    lines
}

/// Measured rates, and where memory and arithmetic balance.
fn rates(facts: &DeviceFacts) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(rate) = facts.bytes_a_second {
        lines.push(format!(
            "memory bandwidth, measured: {}",
            format_si(rate, "B/s")
        ));
    }
    if let Some(rate) = facts.float_a_second {
        lines.push(format!(
            "float32 arithmetic, measured: {}",
            format_si(rate, "FLOP/s")
        ));
    }
    if let Some(rate) = facts.tensor_a_second {
        lines.push(format!(
            "bfloat16 on the tensor cores{}, measured: {}",
            if facts.arch.starts_with("sm_9") {
                " with `wgmma` (`mma.sync` is slower)"
            } else {
                " with `mma.sync`"
            },
            format_si(rate, "FLOP/s")
        ));
    }
    if let Some((bytes, float)) = facts.bytes_a_second.zip(facts.float_a_second) {
        lines.push(format!(
            "float32 work with fewer than about {} operations per byte of traffic is memory-bound",
            format_significant(float / bytes)
        ));
    }
    lines
}
