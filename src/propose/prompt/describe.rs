//! What templates are given of a task and of a device: plain strings, quoted where somebody else wrote them.

use minijinja::{Value, context};

use super::feedback_text::{format_si, format_significant};
use super::quote::{code_span, fenced_block, one_line, one_paragraph};
use super::{Language, PromptInput};
use crate::device::DeviceFacts;
use crate::task::{DType, Definition, Tensor, WorkloadChoice};

/// The most letters of a description.
const MAX_DESCRIPTION_CHARS: usize = 1000;

/// A question's task: names, shapes, types, what is compared and timed.
pub(super) fn task_values(question: &PromptInput<'_>, language: Language) -> Value {
    let task = question.task;
    let definition = &task.definition;
    let axes = definition.axes.iter().map(|(name, axis)| {
        let derived = task
            .derived
            .get(name)
            .map(|size| one_line(size.text(), 200));
        context! {
            name => one_line(name, 80), value => axis.value, derived,
            description => quoted_description(axis.description.as_deref()),
        }
    });
    let inputs = definition.inputs.iter().map(|(name, input)| {
        context! { of => tensor_values(name, input, language), optional => input.optional, by_value => input.shape.is_none() }
    });
    let outputs = definition.outputs.iter().map(|(name, output)| {
        let tolerance = task.settings.tolerance.get(name);
        let over = task
            .settings
            .in_place
            .get(name)
            .map(|input| one_line(input, 80));
        context! {
            of => tensor_values(name, output, language), over,
            rtol => tolerance.map(|tolerance| tolerance.rtol),
            atol_rms => tolerance.map(|tolerance| tolerance.atol_rms),
        }
    });
    let timed = task.workloads.iter().filter(|workload| {
        match task
            .settings
            .profiles
            .get(question.profile)
            .map(|profile| &profile.workloads)
        {
            Some(WorkloadChoice::Named(names)) => names.contains(&workload.id),
            _ => true,
        }
    });
    let workloads = timed.map(|workload| {
        let variables = definition.variables();
        let sizes = variables.filter_map(|name| Some((name, workload.binding.axes.get(name)?)));
        let sizes = sizes.map(|(name, size)| format!("{} = {size}", one_line(name, 80)));
        context! { id => code_span(&workload.id, 60), sizes => sizes.collect::<Vec<_>>().join(", ") }
    });
    context! {
        name => code_span(&task.name, 80),
        description => quoted_description(definition.description.as_deref()),
        axes => axes.collect::<Vec<_>>(),
        inputs => inputs.collect::<Vec<_>>(),
        outputs => outputs.collect::<Vec<_>>(),
        workloads => workloads.collect::<Vec<_>>(),
        reference => fenced_block(&definition.reference, "python"),
        bytes => code_span(task.bytes.text(), 600),
        flops => code_span(task.flops.text(), 600),
        constants => constant_list(definition),
        parameters => parameter_list(definition, language),
    }
}

fn quoted_description(text: Option<&str>) -> Option<String> {
    text.map(|text| one_paragraph(text, MAX_DESCRIPTION_CHARS))
        .filter(|text| !text.is_empty())
}

/// The constant axes as the code sees them.
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

/// A parameter list that takes every input and output in the definition's order.
fn parameter_list(definition: &Definition, language: Language) -> String {
    let inputs = definition.inputs.iter().map(|pair| (pair, true));
    let outputs = definition.outputs.iter().map(|pair| (pair, false));
    let mut parameters = Vec::new();
    for (position, ((name, tensor), is_input)) in inputs.chain(outputs).enumerate() {
        let element = element_type(tensor.dtype, language);
        let name = one_line(name, 80);
        let constant = if is_input { "const " } else { "" };
        parameters.push(match (language, tensor.shape.is_none()) {
            (Language::Cuda, true) => format!("{element} {name}"),
            (Language::Cuda, false) => format!("{constant}{element}* __restrict__ {name}"),
            (Language::Metal, true) => format!("constant {element}& {name} [[buffer({position})]]"),
            (Language::Metal, false) => {
                format!("device {constant}{element}* {name} [[buffer({position})]]")
            }
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
        // Metal has neither: the bytes are all that a kernel gets.
        (Language::Metal, DType::Float8E4M3 | DType::Float8E5M2) => "uchar",
        (Language::Metal, dtype) => dtype.cuda_type(),
    }
}

/// What is known of the device, one fact a line.
pub(super) fn device_values(facts: &DeviceFacts, backend: &str) -> Value {
    let mut lines = Vec::new();
    if let Some(cores) = facts.cores {
        lines.push(format!("{cores} cores that blocks are spread over"));
    }
    if let Some(count) = facts.multiprocessors {
        lines.push(format!(
            "{count} multiprocessors (`sm_count` in header expressions)"
        ));
    }
    if let Some(threads) = facts.threads_a_multiprocessor {
        let registers = facts.registers_a_multiprocessor;
        let registers = registers.map_or(String::new(), |count| {
            format!(" and {count} registers of 32 bits: all its threads are resident up to {} registers a thread", count / threads.max(1))
        });
        lines.push(format!(
            "a multiprocessor holds {threads} threads ({} warps){registers}",
            threads / 32
        ));
    }
    if let Some((all, most)) = facts
        .shared_bytes_a_multiprocessor
        .zip(facts.shared_bytes_a_block)
    {
        lines.push(format!(
            "{} KiB of shared memory a multiprocessor, shared with its L1 cache; at most {} KiB for one block",
            all >> 10,
            most >> 10
        ));
    }
    if let Some(bytes) = facts.cache_bytes {
        let size = match bytes {
            bytes if bytes >= 1 << 20 => {
                format!(
                    "{} MiB",
                    format_significant(bytes as f64 / f64::from(1 << 20))
                )
            }
            bytes => format!("{} KiB", bytes >> 10),
        };
        lines.push(format!("last-level cache: {size}"));
    }
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
            "bfloat16 on the tensor cores by `mma.sync`, measured: {}",
            format_si(rate, "FLOP/s")
        ));
    }
    if let Some((bytes, float)) = facts.bytes_a_second.zip(facts.float_a_second) {
        lines.push(format!(
            "so float32 work of fewer than about {} operations a byte of traffic is bound by memory",
            format_significant(float / bytes)
        ));
    }
    context! {
        name => one_line(&facts.name, 100), arch => one_line(&facts.arch, 40), backend, lines,
    }
}
