//! The signature of a Python function, for `kforge init`: read by the user's `python3`, which parses the file and runs nothing of it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::base::Failure;
use crate::base::text::quote_list;
use crate::task::{Signature, TensorSpec};

const SCRIPT: &str = concat!(include_str!("signature.py"), "\n\nmain()\n");

/// What the script prints.
#[derive(Deserialize)]
struct Parsed {
    error: Option<String>,
    #[serde(default)]
    inputs: Vec<ParsedInput>,
    #[serde(default)]
    outputs: Vec<Option<ParsedTensor>>,
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
struct ParsedInput {
    name: String,
    tensor: Option<ParsedTensor>,
}

#[derive(Deserialize)]
struct ParsedTensor {
    dtype: String,
    shape: Option<Vec<String>>,
    value: Option<f64>,
}

impl From<ParsedTensor> for TensorSpec {
    fn from(parsed: ParsedTensor) -> Self {
        Self {
            dtype: parsed.dtype,
            shape: parsed.shape,
            value: parsed.value,
        }
    }
}

/// Adds the inputs, outputs and text of the function `FILE.py:NAME`. What `signature` already has wins: the user gave it.
///
/// # Errors
/// If the file cannot be parsed, or a tensor has no shape in the annotations and none in `signature`.
pub(super) fn add_function(signature: &mut Signature, function: &str) -> anyhow::Result<()> {
    let (file, name) = function
        .rsplit_once(':')
        .filter(|(file, name)| file.ends_with(".py") && !name.is_empty())
        .ok_or_else(|| {
            Failure::usage(format!("`{function}` does not name a Python function"))
                .hint("write FILE.py:NAME, for example `--function model.py:layernorm`")
        })?;
    let parsed = parse(Path::new(file), name)?;
    if let Some(error) = parsed.error {
        return Err(Failure::usage(format!("{file}: {error}")).into());
    }
    let given = std::mem::take(&mut signature.inputs);
    let mut unknown = Vec::new();
    for input in parsed.inputs {
        match (given.get(&input.name), input.tensor) {
            (Some(spec), _) => {
                signature.inputs.insert(input.name, spec.clone());
            }
            (None, Some(tensor)) => {
                signature.inputs.insert(input.name, tensor.into());
            }
            (None, None) => unknown.push(input.name),
        }
    }
    let names: Vec<_> = signature.inputs.keys().cloned().collect();
    if let Some(other) = given.keys().find(|name| !names.contains(name)) {
        return Err(
            Failure::usage(format!("`{name}` has no parameter `{other}`"))
                .hint(format!(
                    "it has {}",
                    quote_list(names.iter().map(String::as_str))
                ))
                .into(),
        );
    }
    if !unknown.is_empty() {
        return Err(shape_is_missing(file, name, &unknown));
    }
    if signature.outputs.is_empty() {
        add_outputs(signature, parsed.outputs, file, name)?;
    }
    signature.reference = format!("import torch\n\n{}\n", parsed.source);
    Ok(())
}

fn add_outputs(
    signature: &mut Signature,
    outputs: Vec<Option<ParsedTensor>>,
    file: &str,
    name: &str,
) -> anyhow::Result<()> {
    let is_single = outputs.len() == 1;
    for (index, output) in outputs.into_iter().enumerate() {
        let Some(tensor) = output.filter(|tensor| tensor.shape.is_some()) else {
            return Err(Failure::usage(format!(
                "{file}: the annotation of what `{name}` returns has no shape"
            ))
            .hint("for example `-> \"float16[rows, columns]\"`, or `--output 'y:float16[rows,columns]'`")
            .into());
        };
        let output = if is_single {
            "output".to_owned()
        } else {
            format!("output_{index}")
        };
        signature.outputs.insert(output, tensor.into());
    }
    Ok(())
}

fn shape_is_missing(file: &str, name: &str, inputs: &[String]) -> anyhow::Error {
    let first = &inputs[0];
    let list = quote_list(inputs.iter().map(String::as_str));
    Failure::usage(format!("{file}: the annotations of `{name}` give no shape for {list}"))
        .hint(format!(
            "write `{first}: \"float16[rows, columns]\"` or `{first}: Float16[Tensor, \"rows columns\"]`, or add `--input '{first}:float16[rows,columns]'`"
        ))
        .into()
}

fn parse(file: &Path, name: &str) -> anyhow::Result<Parsed> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::unreadable(&format!("`{}`", file.display()), &error))?;
    // `-I`: nothing of the working folder or the environment is imported.
    let output = Command::new("python3")
        .args(["-I", "-c", SCRIPT])
        .arg(file)
        .arg(name)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::environment(format!("failed to start `python3`: {error}"))
                .hint("install Python 3, or describe the task with `--input` and `--output`")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.trim().lines().last().unwrap_or_default().to_owned();
        Failure::environment(format!(
            "`python3` failed to parse `{}`: {last}",
            file.display()
        ))
        .hint("use Python 3.8 or later, or describe the task with `--input` and `--output`")
        .into()
    })
}
