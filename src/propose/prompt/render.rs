//! Puts a prompt together: the stable sections, then this step's.
//!
//! Order: role and rules (system), the task, how to reply, reference material, then the step's instruction, the kernels to work on,
//! the history, other kernels, and one closing line. The first part is the same for all steps of a run, so that providers can cache
//! it. The instruction precedes the step's material, and the closing line repeats the form of the reply.

use minijinja::{Value, context};

use super::describe;
use super::fill::BudgetedSections;
use super::input::{Language, PromptInput};
use super::quote::{code_span, fenced_block, one_line};
use super::templates::{ExampleKernel, Templates};
use super::text::{Prompt, PromptSection, estimate_tokens};
use crate::base::Failure;
use crate::event::Operator;
use crate::task::DType;
use crate::verdict::Status;

/// Maximum share (1 / N) of the budget that an optional section may take. A larger section is left out.
const OPTIONAL_SECTION_DIVISOR: u64 = 4;

/// Renders a prompt.
///
/// # Errors
/// If a template of the user's folder uses an unknown variable, if there is no such card, or if the operator needs no model.
pub(crate) fn render(input: &PromptInput<'_>, templates: &Templates) -> Result<Prompt, Failure> {
    let instruction = instruction_template(input.operator)?;
    let common = common_values(input);
    let mut budgeted = BudgetedSections::new(input, templates);
    let system = templates.render("system.md", common.clone())?;
    let mut sections = stable_sections(input, templates, &common, &mut budgeted)?;
    let instruction = templates.render(instruction, common.clone())?;
    let card = render_card(input, templates, &common)?;
    let missed = render_missed(input, templates, &common)?;
    let closing = templates.render("closing.md", common)?;
    let parents = budgeted.render_parents()?;

    let fixed = [&system, &instruction, &card, &missed, &closing, &parents];
    let fixed = fixed.map(|text| estimate_tokens(text)).iter().sum::<u64>()
        + sections.iter().map(|section| section.tokens).sum::<u64>();
    let budget = input.budget_tokens;
    if fixed > budget {
        budgeted.leave_out(format!(
            "all other kernels and the history: the required sections take about {fixed} tokens of {budget}"
        ));
    }
    let room = budget.saturating_sub(fixed);
    let history = budgeted.render_history(room)?;
    let context = budgeted.render_context(room.saturating_sub(estimate_tokens(&history)))?;
    for (name, text) in [
        ("instruction", instruction),
        ("card", card),
        ("parents", parents),
        ("history", history),
        ("context", context),
        ("missed", missed),
        ("closing", closing),
    ] {
        push_section(&mut sections, name, text, false);
    }
    Ok(Prompt {
        system,
        sections,
        left_out: budgeted.into_left_out(),
        version: templates.version().to_owned(),
    })
}

fn instruction_template(operator: Operator) -> Result<&'static str, Failure> {
    match operator {
        Operator::Propose => Ok("propose.md"),
        Operator::Edit => Ok("edit.md"),
        Operator::Crossover => Ok("crossover.md"),
        Operator::Repair => Ok("repair.md"),
        other => Err(Failure::usage(format!(
            "operator `{}` sends no prompt to a model",
            other.name()
        ))
        .hint("operators with a prompt are `propose`, `edit`, `crossover` and `repair`")),
    }
}

fn render_card(
    input: &PromptInput<'_>,
    templates: &Templates,
    common: &Value,
) -> Result<String, Failure> {
    let Some(name) = input.card else {
        return Ok(String::new());
    };
    let text = templates.render_card(name, common.clone())?;
    templates.render("card.md", context! { name, text })
}

fn render_missed(
    input: &PromptInput<'_>,
    templates: &Templates,
    common: &Value,
) -> Result<String, Failure> {
    let Some(missed) = input.missed else {
        return Ok(String::new());
    };
    templates.render(
        "missed.md",
        context! {
            reply => fenced_block(missed.reply, "text"),
            message => fenced_block(missed.message, "text"),
            had_edits => missed.had_edits,
            ..common.clone()
        },
    )
}

/// The sections that are the same for every step of a run: they depend on the task, the device and the budget only.
fn stable_sections(
    input: &PromptInput<'_>,
    templates: &Templates,
    common: &Value,
    budgeted: &mut BudgetedSections<'_>,
) -> Result<Vec<PromptSection>, Failure> {
    let mut sections = Vec::new();
    let language = Language::of_backend(input.backend);
    let folder = language.name();
    let task = describe::task_values(input, language);
    let with_task = context! { task, ..common.clone() };
    let device = describe::device_values(input.device, input.backend);
    let with_device = context! { device, ..common.clone() };
    for (name, file, values) in [
        ("task", "task.md".to_owned(), &with_task),
        ("reply", "reply.md".to_owned(), common),
        ("header", format!("{folder}/header.md"), &with_task),
        ("device", "device.md".to_owned(), &with_device),
    ] {
        let text = templates.render(&file, values.clone())?;
        push_section(&mut sections, name, text, true);
    }
    let examples: Vec<Value> = (templates.examples(language))
        .filter(|example| is_useful(example, input))
        .map(|example| context! { code => fenced_block(&example.source, folder) })
        .collect();
    let lessons = fenced_block(input.lessons.unwrap_or_default(), "text");
    let with_lessons = context! { lessons, ..common.clone() };
    let with_examples = context! { examples, ..common.clone() };
    let ladder_folder = if input.backend == "cpu" {
        "cpu"
    } else {
        folder
    };
    for (name, file, values) in [
        ("pitfalls", format!("{folder}/pitfalls.md"), common),
        ("ladder", format!("{ladder_folder}/ladder.md"), common),
        ("examples", "examples.md".to_owned(), &with_examples),
        ("lessons", "lessons.md".to_owned(), &with_lessons),
    ] {
        let text = templates.render(&file, values.clone())?;
        let needed = estimate_tokens(&text);
        let budget = input.budget_tokens;
        if name == "lessons" && input.lessons.is_none() {
            continue;
        }
        if needed > budget / OPTIONAL_SECTION_DIVISOR {
            budgeted.leave_out(format!("{name}: about {needed} tokens of {budget}"));
        } else {
            push_section(&mut sections, name, text, true);
        }
    }
    Ok(sections)
}

/// Whether an example runs on the backend, and shows element types that the task has: `NAME_fp16` and `NAME_bf16` are for tasks with
/// narrow floats.
fn is_useful(example: &ExampleKernel, input: &PromptInput<'_>) -> bool {
    // The CPU backend has no inline PTX.
    if input.backend == "cpu" && example.source.contains("asm volatile") {
        return false;
    }
    let definition = &input.task.definition;
    let tensors = (definition.inputs.values()).chain(definition.outputs.values());
    let mut narrow = tensors
        .map(|tensor| tensor.dtype)
        .filter(|dtype| dtype.is_float() && dtype.bytes() < 4);
    let stem = example.name.split('.').next().unwrap_or_default();
    if stem.ends_with("_fp16") {
        narrow.any(|dtype| dtype == DType::Float16)
    } else if stem.ends_with("_bf16") {
        narrow.any(|dtype| dtype != DType::Float16)
    } else {
        true
    }
}

fn push_section(sections: &mut Vec<PromptSection>, name: &str, mut text: String, stable: bool) {
    if text.trim().is_empty() {
        return;
    }
    text.truncate(text.trim_end().len());
    text.push_str("\n\n");
    sections.push(PromptSection {
        name: name.to_owned(),
        tokens: estimate_tokens(&text),
        text,
        stable,
    });
}

/// The variables of every template. Stable sections must not use those that change from step to step.
fn common_values(input: &PromptInput<'_>) -> Value {
    let language = Language::of_backend(input.backend);
    let first = input.parents.first();
    let feedback = first.and_then(|parent| parent.feedback);
    let status = feedback.map(|feedback| feedback.status);
    let (language_name, file) = match language {
        Language::Cuda => ("CUDA C++", "kernel.cu"),
        Language::Metal => ("Metal", "kernel.metal"),
    };
    context! {
        language => language_name,
        fence => language.name(),
        file,
        backend => input.backend,
        arch => one_line(&input.device.arch, 40),
        baseline => code_span(input.baseline, 60),
        operator => input.operator.name(),
        max_edits => input.max_edits,
        parents => input.parents.iter().map(|parent| parent.step).collect::<Vec<_>>(),
        passed => status == Some(Status::Passed),
        judged => status.is_some(),
        has_context => !input.context.is_empty(),
    }
}
