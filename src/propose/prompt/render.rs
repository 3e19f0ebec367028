//! A question put together: the stable parts, then what fits, then what to do.

use minijinja::{Value, context};

use super::fill::Filler;
use super::quote::block;
use super::{Language, Prompt, Question, Section, Templates, describe, tokens};
use crate::base::Failure;
use crate::event::Operator;
use crate::verdict::Status;

/// A part that a prompt can do without is left out where it would take more than one part in so many of the budget.
const PART_OF_BUDGET: u64 = 4;

/// Makes the prompt.
///
/// # Errors
/// Where a template of the user's folder asks for what there is not, or where no model is asked this.
pub(crate) fn render(question: &Question<'_>, templates: &Templates) -> Result<Prompt, Failure> {
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
    let mut filler = Filler::new(question, templates);
    let system = templates.render("system.md", about(question, language))?;
    let mut sections = stable(question, templates, language, &mut filler)?;
    let card = match question.card {
        None => String::new(),
        Some(name) => {
            let text = templates.card(name, about(question, language))?;
            templates.render("card.md", context! { name, text })?
        }
    };
    let instruction = templates.render(instruction, about(question, language))?;
    let missed = match question.missed {
        None => String::new(),
        Some(missed) => templates.render(
            "missed.md",
            context! {
                reply => block(missed.reply, "text"),
                message => block(missed.message, "text"),
                ..about(question, language)
            },
        )?,
    };
    let parents = filler.parents()?;
    let fixed = [&system, &card, &instruction, &missed, &parents].map(|text| tokens(text));
    let fixed: u64 =
        fixed.iter().sum::<u64>() + sections.iter().map(|section| section.tokens).sum::<u64>();
    let budget = question.budget_tokens;
    if fixed > budget {
        filler.leave_out(format!(
            "all other kernels and the history: what must be told takes about {fixed} tokens of {budget}"
        ));
    }
    let room = budget.saturating_sub(fixed);
    let history = filler.history(room)?;
    let others = filler.context(room.saturating_sub(tokens(&history)))?;
    for (name, text) in [
        ("context", others),
        ("history", history),
        ("parents", parents),
        ("card", card),
        ("instruction", instruction),
        ("missed", missed),
    ] {
        push(&mut sections, name, text, false);
    }
    let mut prompt = Prompt {
        system,
        sections,
        left_out: Vec::new(),
        version: templates.version().to_owned(),
    };
    filler.finish(&mut prompt);
    Ok(prompt)
}

/// The parts that are the same for every step of a run: they depend on the task, the device and the budget alone.
fn stable(
    question: &Question<'_>,
    templates: &Templates,
    language: Language,
    filler: &mut Filler<'_>,
) -> Result<Vec<Section>, Failure> {
    let mut sections = Vec::new();
    let folder = language.name();
    let task = describe::task(question, language);
    let text = templates.render(
        "task.md",
        context! { task => task.clone(), ..about(question, language) },
    )?;
    push(&mut sections, "task", text, true);
    let text = templates.render(
        &format!("{folder}/header.md"),
        context! { task, ..about(question, language) },
    )?;
    push(&mut sections, "header", text, true);
    let device = describe::device(question.device, question.backend);
    let text = templates.render(
        "device.md",
        context! { device, ..about(question, language) },
    )?;
    push(&mut sections, "device", text, true);
    for (name, file) in [("pitfalls", "pitfalls.md"), ("ladder", "ladder.md")] {
        let text = templates.render(&format!("{folder}/{file}"), about(question, language))?;
        optional(&mut sections, name, text, question, filler);
    }
    let examples = templates.examples(language).filter(|example| {
        // What this device cannot run is no example here.
        question.backend != "cpu" || !example.source.contains("asm volatile")
    });
    let examples = examples.map(|example| context! { code => block(&example.source, folder) });
    let examples: Vec<Value> = examples.collect();
    let text = templates.render(
        "examples.md",
        context! { examples, ..about(question, language) },
    )?;
    optional(&mut sections, "examples", text, question, filler);
    Ok(sections)
}

fn optional(
    sections: &mut Vec<Section>,
    name: &str,
    text: String,
    question: &Question<'_>,
    filler: &mut Filler<'_>,
) {
    let needed = tokens(&text);
    if needed > question.budget_tokens / PART_OF_BUDGET {
        filler.leave_out(format!(
            "{name}: about {needed} tokens of {}",
            question.budget_tokens
        ));
    } else {
        push(sections, name, text, true);
    }
}

fn push(sections: &mut Vec<Section>, name: &str, mut text: String, stable: bool) {
    if text.trim().is_empty() {
        return;
    }
    text.truncate(text.trim_end().len());
    text.push_str("\n\n");
    sections.push(Section {
        name: name.to_owned(),
        tokens: tokens(&text),
        text,
        stable,
    });
}

/// What every template is given. What changes from step to step is for those that are not stable.
fn about(question: &Question<'_>, language: Language) -> Value {
    let first = question.parents.first();
    let status = first
        .and_then(|parent| parent.feedback)
        .map(|feedback| feedback.status);
    context! {
        language => match language { Language::Cuda => "CUDA C++", Language::Metal => "Metal" },
        fence => language.name(),
        file => match language { Language::Cuda => "kernel.cu", Language::Metal => "kernel.metal" },
        backend => question.backend,
        arch => super::quote::line(&question.device.arch, 40),
        baseline => super::quote::span(question.baseline, 60),
        operator => question.operator.name(),
        most_edits => question.most_edits,
        parents => question.parents.iter().map(|parent| parent.step).collect::<Vec<_>>(),
        passed => status == Some(Status::Passed),
        judged => status.is_some(),
        has_context => !question.context.is_empty(),
    }
}

/// Where a kernel comes from.
pub(super) fn operator_in_words(operator: Operator) -> &'static str {
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
