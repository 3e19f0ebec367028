//! `kforge tasks new`: writes the files of a new task, a complete example or a draft from a FlashInfer-Bench definition.
//!
//! `task` makes the texts. Overwrites nothing.

use std::path::Path;

use anyhow::Context;

use super::exit;
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::Failure;
use crate::task::{DRAFT_MARK, TaskDraft, draft_task, example_task};

/// Arguments of `kforge tasks new`.
#[derive(Debug, clap::Args)]
pub(super) struct NewTaskArgs {
    /// Name of the new task, or the path of a FlashInfer-Bench definition.
    #[arg(value_name = "NAME|DEFINITION.json")]
    what: String,
    /// Name of a task that is made from a definition. Default: the definition's name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes all files of a task to `tasks/NAME`: definition.json, workloads.jsonl,
task.yaml, oracle.cu and naive.cu. From a name, the task is complete and
computes something simple: change it. From a definition, everything is written
except the computation in the two kernels; guesses are marked in task.yaml.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge tasks new layernorm", "a complete task to change"),
            (
                "kforge tasks new definitions/gemm/gemm_n4096_k4096.json",
                "a draft from a definition",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// Writes the files and prints what to do next.
pub(super) fn new_task(arguments: &NewTaskArgs) -> anyhow::Result<()> {
    let draft = make_draft(arguments)?;
    check_name(&draft.name)?;
    let folder = Path::new("tasks").join(&draft.name);
    if folder.exists() {
        return Err(
            Failure::usage(format!("`{}` already exists", folder.display()))
                .hint("choose another name, or remove the folder")
                .into(),
        );
    }
    write_files(&folder, &draft)?;
    let files = draft.files.iter().map(|(file, _)| folder.join(file));
    let facts = serde_json::json!({"task": draft.name, "files": files.collect::<Vec<_>>()});
    match arguments.format {
        Format::Human => print(&describe(&folder, &draft)),
        Format::Json => print_json(&facts),
        Format::Jsonl => print_json_lines([facts]),
    }
}

fn make_draft(arguments: &NewTaskArgs) -> anyhow::Result<TaskDraft> {
    let what = arguments.what.as_str();
    if !what.to_lowercase().ends_with(".json") {
        if arguments.name.is_some() {
            return Err(Failure::usage("`--name` is for a task from a definition")
                .hint(format!("`kforge tasks new {what}` already names the task"))
                .into());
        }
        if what.contains('/') {
            return Err(Failure::usage(format!(
                "`{what}` is neither the name of a task nor the path of a definition"
            ))
            .hint("a name has letters, digits, `_` and `-`; a definition ends in `.json`")
            .into());
        }
        check_name(what)?;
        return Ok(example_task(what));
    }
    let text = std::fs::read_to_string(what)
        .map_err(|error| Failure::unreadable(&format!("the definition `{what}`"), &error))?;
    Ok(draft_task(&text, what, arguments.name.as_deref())?)
}

/// The name is a folder's, and part of kernel files.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let is_name = !name.is_empty()
        && name.len() <= 100
        && name.chars().all(is_letter)
        && !name.starts_with('-');
    if is_name {
        return Ok(());
    }
    Err(
        Failure::usage(format!("`{name}` cannot be the name of a task")).hint(
            "use up to 100 letters, digits, `_` and `-`; `--name` names a task from a definition",
        ),
    )
}

/// Writes the files of a task to a new folder.
pub(super) fn write_files(folder: &Path, draft: &TaskDraft) -> anyhow::Result<()> {
    let files = draft.files.iter();
    write_texts(folder, files.map(|(file, text)| (*file, text.as_str())))
}

/// Writes files to a new folder.
pub(super) fn write_texts<'t>(
    folder: &Path,
    files: impl IntoIterator<Item = (&'t str, &'t str)>,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("failed to create `{}`", folder.display()))?;
    for (file, text) in files {
        let path = folder.join(file);
        std::fs::write(&path, text)
            .with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    Ok(())
}

/// The files, each with its purpose.
pub(super) fn describe_files(folder: &Path, draft: &TaskDraft) -> String {
    let name = &draft.name;
    let mut text = format!("wrote the task `{name}`:\n");
    for (file, _) in &draft.files {
        let purpose = match *file {
            "definition.json" => "what is computed: axes, inputs, outputs",
            "workloads.jsonl" => "the timed shapes",
            "task.yaml" => "tolerances, inputs, hidden shapes",
            "oracle.cu" => "the reference, in double precision",
            _ => "the baseline and starting kernel",
        };
        let path = folder.join(file).display().to_string();
        text += &format!(
            "  {path:<width$}  {purpose}\n",
            width = folder.display().to_string().len() + 16
        );
    }
    text
}

fn describe(folder: &Path, draft: &TaskDraft) -> String {
    let name = &draft.name;
    let mut text = describe_files(folder, draft);
    text += if draft.is_complete {
        "it is complete: each row divided by its root mean square, times a weight\n\nnext:\n  change the five files to what you want to compute\n"
    } else {
        "\nnext:\n  check the guesses in task.yaml\n"
    };
    if !draft.is_complete {
        text += &format!(
            "  write the computation in oracle.cu and naive.cu, and delete the line with `{DRAFT_MARK}`\n"
        );
    }
    text + &format!(
        "  kforge tasks show {name}     validates the files\n  kforge tasks check {name}    tests the oracle and the tolerances\n"
    )
}
