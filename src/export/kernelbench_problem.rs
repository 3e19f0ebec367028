//! The problem of KernelBench that a task was imported from, read from the task's oracle.
//!
//! `kforge tasks import kernelbench` writes the problem's text into the oracle and some facts behind it (`cli/kernelbench_oracle.py`). Reads
//! these, and runs no Python.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::refusal::refuse;
use crate::base::Failure;
use crate::task::Task;

/// The line that separates a problem from what its import adds.
const MARK: &str = "# What follows makes an oracle of the problem above. Written by `kforge tasks import kernelbench`.";

/// A problem of KernelBench.
pub(super) struct Problem {
    /// How many of the task's inputs are those of `get_inputs()`. They come first.
    pub(super) given: usize,
    /// The other inputs: parameters and buffers of the model, in the task's order.
    pub(super) state: Vec<StateEntry>,
    /// The type of the model and of its inputs, as PyTorch calls it.
    pub(super) precision: String,
    /// The shape of each output in PyTorch: that of a number has no size.
    pub(super) shapes: Vec<Vec<u64>>,
    /// Whether the outputs in training differ from those in evaluation.
    pub(super) modes_differ: bool,
    /// A Python function `_problem` that returns the model's class without its `forward`. Empty if there is no state.
    pub(super) constructor: String,
}

/// A parameter or a buffer that is an input of the task.
#[derive(Debug, Deserialize)]
pub(super) struct StateEntry {
    /// The input.
    pub(super) input: String,
    /// Its path in the model, as `named_parameters` has it.
    pub(super) name: String,
}

impl Problem {
    /// The problem of a task; `None` if the task is from elsewhere.
    ///
    /// # Errors
    /// A usage failure if the facts are missing or do not fit the task.
    pub(super) fn of(task: &Task) -> Result<Option<Self>, Failure> {
        let Some((_, added)) = task.oracle.split_once(MARK) else {
            return Ok(None);
        };
        let fact = |name: &str| fact_text(&task.settings.oracle, added, name);
        let problem = Self {
            given: parsed(task, "_GIVEN", fact("_GIVEN")?)?,
            state: parsed(task, "_STATE", fact("_STATE")?)?,
            precision: parsed(task, "_PRECISION", fact("_PRECISION")?)?,
            shapes: parsed(task, "_SHAPES", fact("_SHAPES")?)?,
            modes_differ: fact("_MODES_DIFFER")? == "True",
            constructor: match fact("_CONSTRUCTOR")? {
                "None" => String::new(),
                text => parsed(task, "_CONSTRUCTOR", text)?,
            },
        };
        let names = task.definition.inputs.keys().skip(problem.given);
        let known = problem.state.iter().map(|entry| &entry.input);
        if !names.eq(known) || problem.shapes.len() != task.definition.outputs.len() {
            return Err(stale(
                task,
                "`_STATE`, `_GIVEN` and `_SHAPES` do not fit definition.json",
            ));
        }
        if problem.constructor.is_empty() && !problem.state.is_empty() {
            return Err(refuse(format!(
                "{}: the import has found no way to build the problem's parameters outside its file",
                task.settings.oracle
            ))
            .hint("export `torch`, whose operator takes them as inputs"));
        }
        Ok(Some(problem))
    }
}

/// The value of a name that the import assigns.
fn fact_text<'t>(file: &str, added: &'t str, name: &str) -> Result<&'t str, Failure> {
    let start = format!("{name} = ");
    let found = added.lines().find_map(|line| line.strip_prefix(&start));
    found
        .ok_or_else(|| refuse(format!("{file}: no `{name}` behind the problem")).hint(IMPORT_AGAIN))
}

fn parsed<T: DeserializeOwned>(task: &Task, name: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|error| stale(task, &format!("`{name}` cannot be read: {error}")))
}

fn stale(task: &Task, reason: &str) -> Failure {
    refuse(format!("{}: {reason}", task.settings.oracle)).hint(IMPORT_AGAIN)
}

const IMPORT_AGAIN: &str = "remove the folder of the task and import the problem again with `kforge tasks import kernelbench`";
