//! Writes the text of a new task: a complete example, or a draft from a FlashInfer-Bench definition or a short description.
//!
//! `signature` makes a definition from a description, `inputs` chooses shapes and distributions, `kernels` writes the kernels. Writes no
//! files: `kforge tasks new` and `kforge init` do.

mod inputs;
mod kernels;
mod signature;

use super::definition::Definition;
use super::definition_reader::read_definition;
use super::problems::{Problems, TaskFile};
use crate::base::Failure;
use inputs::DraftInputs;
pub(crate) use inputs::{FileNames, usual_tolerance};
pub(crate) use kernels::DRAFT_MARK;
pub(super) use signature::DraftChoices;
pub(crate) use signature::{AxisSpec, Signature, TensorSpec};

/// A new task: its name, and its files with their texts.
pub(crate) struct TaskDraft {
    pub(crate) name: String,
    pub(crate) files: Vec<(&'static str, String)>,
    /// Whether the kernels are complete.
    pub(crate) is_complete: bool,
}

/// A complete task that computes something simple, to be changed into another one.
pub(crate) fn example_task(name: &str) -> TaskDraft {
    let files = [
        ("definition.json", include_str!("template/definition.json")),
        ("workloads.jsonl", include_str!("template/workloads.jsonl")),
        ("task.yaml", include_str!("template/task.yaml")),
        ("oracle.cu", include_str!("template/oracle.cu")),
        ("naive.cu", include_str!("template/naive.cu")),
    ];
    let files = files.map(|(file, text)| (file, text.replace("NAME", name)));
    TaskDraft {
        name: name.to_owned(),
        files: files.into(),
        is_complete: true,
    }
}

/// A draft from a definition: everything but the computation. `name`: the task's name, if it is not the definition's.
///
/// # Errors
/// If the definition is wrong; the failure lists everything that is.
pub(crate) fn draft_task(
    text: &str,
    origin: &str,
    name: Option<&str>,
) -> Result<TaskDraft, Failure> {
    draft_with(text, origin, name, &DraftChoices::default())
}

/// A draft from a description: everything but the computation.
///
/// # Errors
/// If the description is wrong.
pub(crate) fn draft_from_signature(
    name: &str,
    signature: &Signature,
) -> Result<TaskDraft, Failure> {
    let (text, choices) = signature.definition(name)?;
    draft_with(&text, "definition.json", Some(name), &choices)
}

/// What a task from elsewhere lacks, guessed from its definition.
pub(super) struct Guesses {
    pub(super) settings: String,
    /// Lines of `workloads.jsonl`, for a definition without any.
    pub(super) workloads: String,
    /// A kernel that is still to be written.
    pub(super) kernel: String,
}

/// Guesses for a definition. `text`: its JSON. `draws_inputs`: whether inputs of other shapes can be drawn.
pub(super) fn guess(
    definition: &Definition,
    text: &str,
    names: &FileNames<'_>,
    choices: &DraftChoices,
    draws_inputs: bool,
) -> Guesses {
    let plan = DraftInputs::new(definition, text, choices);
    Guesses {
        settings: plan.settings(names, draws_inputs),
        workloads: plan.workloads(),
        kernel: kernels::kernel(definition, false),
    }
}

fn draft_with(
    text: &str,
    origin: &str,
    name: Option<&str>,
    choices: &DraftChoices,
) -> Result<TaskDraft, Failure> {
    let file = TaskFile::new(origin, text);
    let mut problems = Problems::default();
    let definition = read_definition(&file, &mut problems);
    if let Some(failure) = problems.into_failure(origin) {
        return Err(failure);
    }
    let definition =
        definition.ok_or_else(|| Failure::usage(format!("{origin}: cannot be read")))?;
    let plan = DraftInputs::new(&definition, file.text, choices);
    let names = FileNames {
        definition: "definition.json",
        workloads: "workloads.jsonl",
        oracle: "oracle.cu",
    };
    Ok(TaskDraft {
        name: name.unwrap_or(&definition.name).to_owned(),
        files: vec![
            ("definition.json", format!("{}\n", file.text.trim_end())),
            ("workloads.jsonl", plan.workloads()),
            ("task.yaml", plan.settings(&names, true)),
            ("oracle.cu", kernels::kernel(&definition, true)),
            ("naive.cu", kernels::kernel(&definition, false)),
        ],
        is_complete: false,
    })
}
