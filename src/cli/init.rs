//! `kforge init`: a task and a config for the user's own kernel, from flags, from questions on a terminal, or from the signature of a
//! Python function.
//!
//! `task` makes the texts of the task. Overwrites nothing.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::exit::{self, Exit};
use super::new_task::{check_name, describe_files, write_files};
use super::output::{Format, print, print_json, print_json_lines};
use super::python_signature::add_function;
use crate::base::Failure;
use crate::config::config_schema;
use crate::task::{
    AxisSpec, DRAFT_MARK, Signature, TaskDraft, TensorSpec, draft_from_signature, draft_task,
};

/// Arguments of `kforge init`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct InitArgs {
    /// Name of the new task.
    #[arg(value_name = "NAME")]
    name: String,
    /// An input tensor: its dtype, and its axes, outermost first. A number is a constant axis.
    #[arg(long = "input", value_name = "NAME:DTYPE[AXIS,…]")]
    inputs: Vec<String>,
    /// An input that kernels take by value.
    #[arg(long = "scalar", value_name = "NAME:DTYPE=VALUE")]
    scalars: Vec<String>,
    /// An output tensor.
    #[arg(long = "output", value_name = "NAME:DTYPE[AXIS,…]")]
    outputs: Vec<String>,
    /// Sizes of an axis that are timed, `NAME=const:SIZE` for one that never changes, or `NAME=EXPRESSION` of other axes. Axes without this
    /// flag vary, and kforge chooses sizes.
    #[arg(long = "axis", value_name = "NAME=SIZE,…")]
    axes: Vec<String>,
    /// A Python function whose annotations give inputs and outputs. Its file is parsed and not run. The other flags replace or add to them.
    #[arg(long, value_name = "FILE.py:NAME")]
    function: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes a task to `tasks/NAME` and a config to `config/NAME.yaml`. The oracle and
the naive kernel compile, have the right parameters, and compute zeros: the end
of the output says what to fill in. Without flags, asks on the terminal.
Overwrites nothing.

A Python function gives shapes in its annotations, in one of these forms:
  x: \"float16[rows, columns]\"
  x: Annotated[Tensor, \"float16[rows, columns]\"]
  x: Float16[Tensor, \"rows columns\"]";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge init mine", "ask for inputs and outputs"),
            (
                "kforge init gate --input 'x:float16[rows,512]' --scalar scale:float32=2 --output 'y:float16[rows,512]' --axis rows=64,1024",
                "without questions",
            ),
            (
                "kforge init norm --function model.py:layernorm",
                "from a Python function",
            ),
        ],
        exit::WRITE_CODES,
    )
}

pub(super) fn run(arguments: &InitArgs) -> anyhow::Result<Exit> {
    let name = arguments.name.as_str();
    check_name(name)?;
    let folder = Path::new("tasks").join(name);
    let config = Path::new("config").join(format!("{name}.yaml"));
    for path in [&folder, &config] {
        if path.exists() {
            return Err(
                Failure::usage(format!("`{}` already exists", path.display()))
                    .hint("choose another name, or remove it")
                    .into(),
            );
        }
    }
    let signature = signature(arguments)?;
    let draft = checked_draft(name, &signature)?;
    write_files(&folder, &draft)?;
    let mut files: Vec<PathBuf> = draft
        .files
        .iter()
        .map(|(file, _)| folder.join(file))
        .collect();
    files.extend(write_config(name, &config)?);
    report(arguments.format, &folder, &draft, &files)?;
    Ok(Exit::Done)
}

/// The draft, read back as a task would be, so that a wrong dtype or name is reported before anything is written.
fn checked_draft(name: &str, signature: &Signature) -> anyhow::Result<TaskDraft> {
    let draft = draft_from_signature(name, signature)?;
    if let Some((_, definition)) = draft
        .files
        .iter()
        .find(|(file, _)| *file == "definition.json")
    {
        draft_task(definition, "definition.json", Some(name))?;
    }
    Ok(draft)
}

fn signature(arguments: &InitArgs) -> anyhow::Result<Signature> {
    let mut signature = Signature::default();
    for text in &arguments.inputs {
        add(&mut signature.inputs, TensorSpec::parse_tensor(text)?)?;
    }
    for text in &arguments.scalars {
        add(&mut signature.inputs, TensorSpec::parse_scalar(text)?)?;
    }
    for text in &arguments.outputs {
        add(&mut signature.outputs, TensorSpec::parse_tensor(text)?)?;
    }
    for text in &arguments.axes {
        add(&mut signature.axes, AxisSpec::parse(text)?)?;
    }
    if let Some(function) = &arguments.function {
        add_function(&mut signature, function)?;
    }
    if signature == Signature::default() {
        let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !is_terminal {
            return Err(Failure::usage(
                "nothing says what the task takes and gives, and there is no terminal to ask on",
            )
            .hint("give `--input` and `--output`, or `--function FILE.py:NAME`; `kforge init --help` has examples")
            .into());
        }
        ask(&mut signature)?;
    }
    Ok(signature)
}

fn add<T>(
    map: &mut indexmap::IndexMap<String, T>,
    (name, value): (String, T),
) -> Result<(), Failure> {
    if map.contains_key(&name) {
        return Err(Failure::usage(format!("`{name}` is given twice")));
    }
    map.insert(name, value);
    Ok(())
}

/// Asks for everything on the terminal. A wrong answer is asked for again.
fn ask(signature: &mut Signature) -> anyhow::Result<()> {
    say(
        "Inputs, one on a line; an empty line ends them.\n  x:float16[rows,columns]   a tensor\n  eps:float32=1e-5          a scalar\n",
    )?;
    while let Some(text) = answer("input")? {
        let parsed = if text.contains('[') {
            TensorSpec::parse_tensor(&text)
        } else {
            TensorSpec::parse_scalar(&text)
        };
        keep(parsed.and_then(|spec| add(&mut signature.inputs, spec)))?;
    }
    say("Outputs, in the same way.\n")?;
    loop {
        match answer("output")? {
            Some(text) => {
                let parsed = TensorSpec::parse_tensor(&text);
                keep(parsed.and_then(|spec| add(&mut signature.outputs, spec)))?;
            }
            None if signature.outputs.is_empty() => say("A task has at least one output.\n")?,
            None => break,
        }
    }
    say(
        "Sizes of axes: `64,1024` are timed, `const:512` never changes;\nan empty line lets kforge choose.\n",
    )?;
    for axis in signature.undescribed_axes() {
        while let Some(text) = answer(&axis)? {
            let parsed = AxisSpec::parse(&format!("{axis}={text}"));
            if keep(parsed.and_then(|spec| add(&mut signature.axes, spec)))? {
                break;
            }
        }
    }
    Ok(())
}

/// Shows what is wrong with an answer. Returns whether nothing was.
fn keep(result: Result<(), Failure>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(failure) => {
            say(&format!("{failure}\n"))?;
            Ok(false)
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(text.as_bytes())?;
    stderr.flush()?;
    Ok(())
}

/// One line from the terminal. `None`: it is empty.
fn answer(question: &str) -> anyhow::Result<Option<String>> {
    say(&format!("{question}: "))?;
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Failure::usage("the input has ended; nothing was written").into());
    }
    let text = line.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Writes the config, and the schema that editors check it with unless there is one.
fn write_config(name: &str, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all("config").context("failed to create `config`")?;
    let text = format!(
        "# A search for `{name}`. `kforge schema` describes every key.\n# yaml-language-server: $schema=kforge.schema.json\ntasks: [{name}]\nsteps: 100\nbudget:\n  seconds: 300\n"
    );
    std::fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    let mut written = vec![path.to_owned()];
    let schema = Path::new("config/kforge.schema.json");
    if !schema.exists() {
        let text = serde_json::to_string_pretty(&config_schema())?;
        std::fs::write(schema, text + "\n")
            .with_context(|| format!("failed to write `{}`", schema.display()))?;
        written.push(schema.to_owned());
    }
    Ok(written)
}

fn report(
    format: Format,
    folder: &Path,
    draft: &TaskDraft,
    files: &[PathBuf],
) -> anyhow::Result<()> {
    let name = &draft.name;
    let facts = || serde_json::json!({"task": name, "files": files});
    match format {
        Format::Json => return print_json(&facts()),
        Format::Jsonl => return print_json_lines([facts()]),
        Format::Human => {}
    }
    let mut text = describe_files(folder, draft);
    text += &format!("and the config config/{name}.yaml\n\nnext:\n");
    let folder = folder.display();
    let steps = [
        format!(
            "write the computation in {folder}/oracle.cu, in double precision, and in {folder}/naive.cu"
        ),
        format!("delete the line with `{DRAFT_MARK}` in both"),
        format!(
            "check what kforge chose: shapes in {folder}/workloads.jsonl, inputs and tolerances in {folder}/task.yaml"
        ),
        format!("kforge tasks check {name}            tests the oracle and the tolerances"),
        format!("kforge evolve --config {name}.yaml   searches"),
    ];
    for (index, step) in steps.iter().enumerate() {
        text += &format!("  {}. {step}\n", index + 1);
    }
    print(&text)
}
