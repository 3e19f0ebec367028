//! `kforge tasks import torch`: a PyTorch function as a task.
//!
//! Python runs the function and says what it takes and gives (`torch_function.py`); it also writes a naive kernel, if it knows all operations
//! (`naive_kernel/`). The function's own code becomes the oracle, and baselines.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::described_function::DescribedFunction;
use super::exit::{self, Exit};
use super::import_report::{Report, Written, check_is_new, write_task};
use super::output::Format;
use super::python_script::{PythonLimit, describing_script, with_epilogue};
use crate::base::{Failure, yaml};
use crate::task::{
    AxisSpec, DType, Distribution, ForeignOracle, ForeignTask, Signature, TensorSpec,
};

/// What comes after the parts that all imports share.
const SCRIPT: &str = describing_script!(
    include_str!("signature.py"),
    include_str!("function_task.py"),
    include_str!("torch_function.py")
);
/// What makes an oracle of a function. It follows the text that defines it.
const ORACLE: &str = include_str!("torch_oracle.py");
/// What makes baselines of a function, in the same way.
const BASELINES: &str = include_str!("torch_baselines.py");

/// Arguments of `kforge tasks import torch`.
#[derive(Debug, clap::Args)]
pub(super) struct TorchArgs {
    /// The function: a file or a module, and its name.
    #[arg(value_name = "FILE.py:NAME|MODULE:NAME")]
    function: String,
    /// Name of the task. Default: the function's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// An input tensor: its dtype, and its axes, outermost first. A number is a constant axis.
    #[arg(long = "input", value_name = "NAME:DTYPE[AXIS,…]")]
    inputs: Vec<String>,
    /// An input that kernels take by value.
    #[arg(long = "scalar", value_name = "NAME:DTYPE=VALUE")]
    scalars: Vec<String>,
    /// An output tensor. Default: found by calling the function.
    #[arg(long = "output", value_name = "NAME:DTYPE[AXIS,…]")]
    outputs: Vec<String>,
    /// Sizes of an axis that are timed, `NAME=const:SIZE` for one that never changes, or `NAME=EXPRESSION` of other axes.
    #[arg(long = "axis", value_name = "NAME=SIZE,…")]
    axes: Vec<String>,
    /// How an input is drawn, as in `task.yaml`. Default: a standard normal.
    #[arg(long = "draw", value_name = "NAME={KEY: VALUE}")]
    draws: Vec<String>,
    /// Relative tolerance of every output. Default: the usual one of its dtype.
    #[arg(long, value_name = "NUMBER")]
    rtol: Option<f64>,
    /// Tolerance of every output, relative to its root mean square. Default: the usual one of its dtype.
    #[arg(long, value_name = "NUMBER")]
    atol_rms: Option<f64>,
    #[command(flatten)]
    limit: PythonLimit,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes the function as a task to `tasks/NAME`. Shapes are in its annotations,
as for `kforge init`, or in `--input`; numbers with a default are scalars.
Python with PyTorch calls the function on the CPU: KFORGE_PYTHON, or `python3`.
The oracle is the function itself, in double precision if it computes in that
of its inputs. `kforge baselines` times it, eager and compiled.
`kernels/NAME/naive.cu` does the same operations, one thread for each element,
for all sizes of the axes. If kforge does not know an operation, it says so, and
the file is to be written.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge tasks import torch model.py:rmsnorm --axis rows=64,1000,4096 --axis columns=const:1024",
                "shapes in annotations",
            ),
            (
                "kforge tasks import torch torch.nn.functional:silu --input 'input:float16[rows,columns]' --axis rows=64,1000 --axis columns=512,4096",
                "a function of a module",
            ),
            (
                "kforge tasks import torch model.py:take --input 'table:float32[pages,64]' --input 'index:int64[count]' --axis pages=1000 --axis count=64,4096 --draw 'index={uniform: [0, pages]}'",
                "indices below the size of an axis",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// Imports the function and prints the result.
pub(super) fn import(arguments: &TorchArgs) -> anyhow::Result<Exit> {
    let mut report = Report::new(arguments.format);
    let function = FunctionName::parse(&arguments.function)?;
    let task = arguments.name.as_deref().unwrap_or(&function.name);
    check_is_new(task, ["naive.cu", "baselines.py"])?;
    let signature = signature(arguments)?;
    let request = request(&function, &signature, &arguments.draws)?;
    let place = &function.place;
    let described = DescribedFunction::ask(
        SCRIPT,
        &request,
        ("a PyTorch function", place),
        arguments.limit,
    )?;
    let task = foreign_task(arguments, &function, &signature, &described)?;
    let files = task.files()?;
    let folder = write_task(&task.name, &files.task, &files.kernels)?;
    let written = Written {
        task: task.name,
        folder,
        workloads: files.workloads(),
        notes: described.all_notes(),
    };
    report.add(&arguments.function, Ok(written))?;
    report.finish()
}

/// Where a function is.
struct FunctionName {
    /// The file or the module.
    place: String,
    is_file: bool,
    name: String,
}

impl FunctionName {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (place, name) = text
            .rsplit_once(':')
            .filter(|(place, name)| !place.is_empty() && !name.is_empty())
            .ok_or_else(|| {
                Failure::usage(format!("`{text}` does not name a function"))
                    .hint("write FILE.py:NAME or MODULE:NAME, for example `model.py:rmsnorm`")
            })?;
        let is_file = place.ends_with(".py");
        if is_file && !Path::new(place).is_file() {
            return Err(Failure::usage(format!("there is no file `{place}`"))
                .hint("the path is relative to the working folder"));
        }
        Ok(Self {
            place: place.to_owned(),
            is_file,
            name: name.to_owned(),
        })
    }

    /// The text that defines the function: the file, or an import.
    fn source(&self) -> Result<String, Failure> {
        if self.is_file {
            return std::fs::read_to_string(&self.place)
                .map_err(|error| Failure::unreadable(&format!("`{}`", self.place), &error));
        }
        Ok(format!("from {} import {}\n", self.place, self.name))
    }
}

/// What the flags say.
fn signature(arguments: &TorchArgs) -> Result<Signature, Failure> {
    let mut signature = Signature::default();
    for text in &arguments.inputs {
        signature.inputs.extend([TensorSpec::parse_tensor(text)?]);
    }
    for text in &arguments.scalars {
        signature.inputs.extend([TensorSpec::parse_scalar(text)?]);
    }
    for text in &arguments.outputs {
        signature.outputs.extend([TensorSpec::parse_tensor(text)?]);
    }
    for text in &arguments.axes {
        signature.axes.extend([AxisSpec::parse(text)?]);
    }
    for (name, tensor) in signature.inputs.iter().chain(&signature.outputs) {
        if let Err(hint) = DType::named(&tensor.dtype) {
            return Err(
                Failure::usage(format!("`{name}`: unknown dtype `{}`", tensor.dtype)).hint(hint),
            );
        }
    }
    Ok(signature)
}

/// The argument of the script.
fn request(
    function: &FunctionName,
    signature: &Signature,
    draws: &[String],
) -> Result<Value, Failure> {
    let tensors = |tensors: &IndexMap<String, TensorSpec>| -> Map<String, Value> {
        let facts = |spec: &TensorSpec| json!({"dtype": spec.dtype, "shape": spec.shape, "value": spec.value});
        tensors
            .iter()
            .map(|(name, spec)| (name.clone(), facts(spec)))
            .collect()
    };
    let axis = |spec: &AxisSpec| match spec {
        AxisSpec::Variable(sizes) => json!({"sizes": sizes}),
        AxisSpec::Constant(size) => json!({"constant": size}),
        AxisSpec::Expression(text) => json!({"expression": text}),
    };
    let axes: Map<String, Value> = (signature.axes.iter())
        .map(|(name, spec)| (name.clone(), axis(spec)))
        .collect();
    let mut drawn = Map::new();
    for text in draws {
        let (name, distribution) = draw(text)?;
        drawn.insert(name, distribution);
    }
    Ok(json!({
        "file": function.is_file.then_some(&function.place),
        "module": (!function.is_file).then_some(&function.place),
        "function": function.name,
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
        "axes": axes,
        "draw": drawn,
    }))
}

/// The input and the distribution of `x={normal: 0.5}`.
fn draw(text: &str) -> Result<(String, Value), Failure> {
    let wrong = |message: String| {
        Failure::usage(message)
            .hint("for example `--draw 'x={normal: 0.5}'` or `--draw 'index={uniform: [0, rows]}'`")
    };
    let (name, distribution) = text
        .split_once('=')
        .ok_or_else(|| wrong(format!("`{text}` does not say how an input is drawn")))?;
    let value: Value = yaml::read(distribution, "--draw")
        .map_err(|failure| wrong(format!("`{text}`: {}", failure.message)))?;
    serde_json::from_value::<Distribution>(value.clone())
        .map_err(|error| wrong(format!("`{text}`: {error}")))?;
    Ok((name.trim().to_owned(), value))
}

fn foreign_task(
    arguments: &TorchArgs,
    function: &FunctionName,
    signature: &Signature,
    described: &DescribedFunction,
) -> Result<ForeignTask, Failure> {
    let mut axes = signature.axes.clone();
    axes.extend(described.new_axes());
    let source = function.source()?;
    // A text in JSON is one in Python too.
    let python_text = |name: &Option<String>| {
        name.as_ref()
            .map_or("None".to_owned(), |name| json!(name).to_string())
    };
    let names: Vec<_> = described.by_name.iter().map(python_text).collect();
    let is_exact = if described.is_exact { "True" } else { "False" };
    let values = [
        ("FUNCTION", function.name.clone()),
        ("\"NAMES\"", format!("[{}]", names.join(", "))),
        ("\"DOUBLE\"", is_exact.to_owned()),
    ];
    Ok(ForeignTask {
        name: arguments.name.clone().unwrap_or(function.name.clone()),
        origin: format!("The PyTorch function `{}`.", arguments.function),
        inputs: described.foreign_inputs(),
        outputs: described.foreign_outputs(arguments.rtol, arguments.atol_rms)?,
        axes,
        hidden: described.hidden.clone(),
        regimes: described.regimes.clone(),
        kernel: described.kernel.clone(),
        in_place: IndexMap::new(),
        oracle: ForeignOracle::Python(with_epilogue(&source, ORACLE, &values)),
        reference: None,
        baselines: Some(with_epilogue(&source, BASELINES, &values)),
    })
}
