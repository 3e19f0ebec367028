//! A question put together: the stable parts, then what fits, then what to do.

use minijinja::{Value, context};

use super::fill::BudgetedSections;
use super::quote::fenced_block;
use super::{Language, Prompt, PromptInput, Section, Templates, describe, estimate_tokens};
use crate::base::Failure;
use crate::event::Operator;
use crate::verdict::Status;

/// A part that a prompt can do without is left out where it would take more than one part in so many of the budget.
const OPTIONAL_SECTION_DIVISOR: u64 = 4;

/// Makes the prompt.
///
/// # Errors
/// Where a template of the user's folder asks for what there is not, or where no model is asked this.
pub(crate) fn render(question: &PromptInput<'_>, templates: &Templates) -> Result<Prompt, Failure> {
    let language = Language::of_backend(question.backend);
    let instruction = match question.operator {
        Operator::Propose => "propose.md",
        Operator::Edit => "edit.md",
        Operator::Crossover => "crossover.md",
        Operator::Repair => "repair.md",
        other => {
            return Err(
                Failure::usage(format!("`{}`: no model is asked this", other.name()))
                    .hint("models are asked to `propose`, `edit`, `crossover` or `repair`"),
            );
        }
    };
    let mut filler = BudgetedSections::new(question, templates);
    let system = templates.render("system.md", common_values(question, language))?;
    let mut sections = stable_sections(question, templates, language, &mut filler)?;
    let card = match question.card {
        None => String::new(),
        Some(name) => {
            let text = templates.card(name, common_values(question, language))?;
            templates.render("card.md", context! { name, text })?
        }
    };
    let instruction = templates.render(instruction, common_values(question, language))?;
    let missed = match question.missed {
        None => String::new(),
        Some(missed) => templates.render(
            "missed.md",
            context! {
                reply => fenced_block(missed.reply, "text"),
                message => fenced_block(missed.message, "text"),
                ..common_values(question, language)
            },
        )?,
    };
    let parents = filler.render_parents()?;
    let fixed = [&system, &card, &instruction, &missed, &parents].map(|text| estimate_tokens(text));
    let fixed: u64 =
        fixed.iter().sum::<u64>() + sections.iter().map(|section| section.tokens).sum::<u64>();
    let budget = question.budget_tokens;
    if fixed > budget {
        filler.leave_out(format!(
            "all other kernels and the history: what must be told takes about {fixed} tokens of {budget}"
        ));
    }
    let room = budget.saturating_sub(fixed);
    let history = filler.render_history(room)?;
    let context = filler.render_context(room.saturating_sub(estimate_tokens(&history)))?;
    for (name, text) in [
        ("context", context),
        ("history", history),
        ("parents", parents),
        ("card", card),
        ("instruction", instruction),
        ("missed", missed),
    ] {
        push_section(&mut sections, name, text, false);
    }
    let mut prompt = Prompt {
        system,
        sections,
        left_out: Vec::new(),
        version: templates.version().to_owned(),
    };
    filler.move_left_out_to(&mut prompt);
    Ok(prompt)
}

/// The parts that are the same for every step of a run: they depend on the task, the device and the budget alone.
fn stable_sections(
    question: &PromptInput<'_>,
    templates: &Templates,
    language: Language,
    filler: &mut BudgetedSections<'_>,
) -> Result<Vec<Section>, Failure> {
    let mut sections = Vec::new();
    let folder = language.name();
    let task = describe::task_values(question, language);
    let text = templates.render(
        "task.md",
        context! { task => task.clone(), ..common_values(question, language) },
    )?;
    push_section(&mut sections, "task", text, true);
    let text = templates.render(
        &format!("{folder}/header.md"),
        context! { task, ..common_values(question, language) },
    )?;
    push_section(&mut sections, "header", text, true);
    let device = describe::device_values(question.device, question.backend);
    let text = templates.render(
        "device.md",
        context! { device, ..common_values(question, language) },
    )?;
    push_section(&mut sections, "device", text, true);
    for (name, file) in [("pitfalls", "pitfalls.md"), ("ladder", "ladder.md")] {
        let text = templates.render(
            &format!("{folder}/{file}"),
            common_values(question, language),
        )?;
        push_optional(&mut sections, name, text, question, filler);
    }
    let examples = templates.examples(language).filter(|example| {
        // What this device cannot run is no example here.
        question.backend != "cpu" || !example.source.contains("asm volatile")
    });
    let examples =
        examples.map(|example| context! { code => fenced_block(&example.source, folder) });
    let examples: Vec<Value> = examples.collect();
    let text = templates.render(
        "examples.md",
        context! { examples, ..common_values(question, language) },
    )?;
    push_optional(&mut sections, "examples", text, question, filler);
    Ok(sections)
}

fn push_optional(
    sections: &mut Vec<Section>,
    name: &str,
    text: String,
    question: &PromptInput<'_>,
    filler: &mut BudgetedSections<'_>,
) {
    let needed = estimate_tokens(&text);
    if needed > question.budget_tokens / OPTIONAL_SECTION_DIVISOR {
        filler.leave_out(format!(
            "{name}: about {needed} tokens of {}",
            question.budget_tokens
        ));
    } else {
        push_section(sections, name, text, true);
    }
}

fn push_section(sections: &mut Vec<Section>, name: &str, mut text: String, stable: bool) {
    if text.trim().is_empty() {
        return;
    }
    text.truncate(text.trim_end().len());
    text.push_str("\n\n");
    sections.push(Section {
        name: name.to_owned(),
        tokens: estimate_tokens(&text),
        text,
        stable,
    });
}

/// What every template is given. What changes from step to step is for those that are not stable.
fn common_values(question: &PromptInput<'_>, language: Language) -> Value {
    let first = question.parents.first();
    let status = first
        .and_then(|parent| parent.feedback)
        .map(|feedback| feedback.status);
    context! {
        language => match language { Language::Cuda => "CUDA C++", Language::Metal => "Metal" },
        fence => language.name(),
        file => match language { Language::Cuda => "kernel.cu", Language::Metal => "kernel.metal" },
        backend => question.backend,
        arch => super::quote::one_line(&question.device.arch, 40),
        baseline => super::quote::code_span(question.baseline, 60),
        operator => question.operator.name(),
        most_edits => question.max_edits,
        parents => question.parents.iter().map(|parent| parent.step).collect::<Vec<_>>(),
        passed => status == Some(Status::Passed),
        judged => status.is_some(),
        has_context => !question.context.is_empty(),
    }
}

/// Where a kernel comes from.
pub(super) fn describe_origin(operator: Operator) -> &'static str {
    match operator {
        Operator::Start => "a starting kernel",
        Operator::Autotune => "other values of its tunables",
        Operator::Mutate => "a transformation of the code",
        Operator::Recombine => "parts of two kernels",
        Operator::Propose => "written anew",
        Operator::Edit => "an edit",
        Operator::Crossover => "made of two",
        Operator::Repair => "mended",
    }
}
