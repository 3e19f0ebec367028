//! `kforge tasks import kernelbench`: problems of KernelBench as tasks.
//!
//! Python runs a problem's file and says what it takes and gives (`kernelbench.py`). It also writes a naive kernel, if it knows all operations
//! of the problem (`naive_kernel/`). The problem's own code becomes the oracle, and baselines.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::exit::{self, Exit};
use super::import_report::{Report, Written, check_is_new, write_task};
use super::kernelbench_problems::{Problem, ProblemArgs};
use super::output::Format;
use super::python_script::{
    Answer, PythonLimit, PythonScript, describing_script, module_is_missing, with_epilogue,
};
use crate::base::Failure;
use crate::device::find_python;
use crate::task::{ForeignInput, ForeignOracle, ForeignOutput, ForeignTask, TensorSpec, Tolerance};

/// What comes after the parts that all imports share.
const SCRIPT: &str = describing_script!(
    include_str!("kernelbench_sizes.py"),
    include_str!("kernelbench_constructor.py"),
    include_str!("kernelbench.py")
);
/// What makes an oracle of a problem. It follows the problem's own text.
const ORACLE: &str = include_str!("kernelbench_oracle.py");
/// What makes baselines of a problem, in the same way.
const BASELINES: &str = include_str!("kernelbench_baselines.py");

/// Arguments of `kforge tasks import kernelbench`.
#[derive(Debug, clap::Args)]
pub(super) struct KernelBenchArgs {
    #[command(flatten)]
    problems: ProblemArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes each problem as a task to `tasks/kbLEVEL_ID_NAME`. Python with PyTorch
runs the problem on the CPU: KFORGE_PYTHON, or `python3`. Parameters and
buffers of the model become inputs after those of `get_inputs()`. The oracle is
the problem's own code, with KernelBench's tolerances: 1e-4 for fp32, 1e-2 for
fp16 and bf16; more where the code itself is further from double precision.
`kforge baselines` times the same code, eager and compiled.
`kernels/TASK/naive.cu` does the same operations, one thread for each element.
If kforge does not know one of them, it says so, and the file is to be written.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge tasks import kernelbench KernelBench --level 1 --problem 23",
                "one problem of a checkout",
            ),
            (
                "kforge tasks import kernelbench my_problem.py --precision bf16",
                "a file",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// Imports the problems and prints the result of each.
pub(super) fn import(arguments: &KernelBenchArgs) -> anyhow::Result<Exit> {
    let problems = arguments.problems.find()?;
    let mut report = Report::new(arguments.format);
    import_problems(&problems, &arguments.problems, &mut report)?;
    report.finish()
}

/// Imports problems, and adds the result of each to the report.
///
/// # Errors
/// If there is no Python, or it breaks.
pub(super) fn import_problems<'p>(
    problems: impl IntoIterator<Item = &'p Problem>,
    arguments: &ProblemArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let python = find_python("a problem of KernelBench")?;
    // What exists already needs no Python.
    let mut new = Vec::new();
    for problem in problems {
        match check_is_new(&problem.name, KERNEL_FILES) {
            Ok(()) => new.push(problem),
            Err(failure) => report.add(&problem.name, Err(failure))?,
        }
    }
    let mut left = new.as_slice();
    while !left.is_empty() {
        let mut python = Describer::start(&python, left, arguments)?;
        // A problem may end Python, for example because memory is short or time is over. The next one gets another process.
        while let [problem, others @ ..] = left {
            left = others;
            let (described, has_ended) = python.next(problem)?;
            let imported = described
                .and_then(|described| import_problem(problem, described, &arguments.precision));
            report.add(&problem.name, imported)?;
            if has_ended {
                break;
            }
        }
    }
    Ok(())
}

/// What the script prints.
#[derive(Deserialize)]
struct Described {
    error: Option<String>,
    missing_module: Option<String>,
    #[serde(default)]
    inputs: Vec<DescribedInput>,
    /// How many of the inputs are those of `get_inputs()`.
    #[serde(default)]
    given: usize,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    outputs: Vec<DescribedOutput>,
    /// The shapes of the outputs in PyTorch: that of a number has no size.
    #[serde(default)]
    shapes: Vec<Vec<u64>>,
    /// Whether the outputs in training differ from those in evaluation.
    #[serde(default)]
    modes_differ: bool,
    /// A Python function that returns the class of the model; `None` if the model has no state, or none can be made.
    constructor: Option<String>,
    /// As `task.yaml` has them.
    #[serde(default)]
    regimes: Map<String, Value>,
    /// The text of `naive.cu`; `None` if it is still to be written.
    kernel: Option<String>,
    /// What a person should know.
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct DescribedInput {
    name: String,
    dtype: String,
    shape: Option<Vec<u64>>,
    value: Option<f64>,
    distribution: Option<Value>,
}

#[derive(Deserialize)]
struct DescribedOutput {
    dtype: String,
    shape: Vec<u64>,
    /// How far the problem's own code is from double precision, beyond the relative tolerance, over the root mean square of the output.
    #[serde(default)]
    rounding: f64,
}

/// How much more than the problem's own code another kernel may be off by rounding.
const ROUNDING_MARGIN: f64 = 4.0;
/// With a wider tolerance, wrong kernels would pass too.
const WIDEST_TOLERANCE: f64 = 0.05;

impl DescribedOutput {
    /// Whether two right kernels may differ by so much that no tolerance tells a right kernel from a wrong one.
    fn is_chaotic(&self) -> bool {
        ROUNDING_MARGIN * self.rounding > WIDEST_TOLERANCE
    }

    /// KernelBench's tolerance, or more if the problem's own code is not so exact.
    fn tolerance(&self, bound: f64) -> Tolerance {
        // Two digits, rounded up, so that a person can read it.
        let needed = ROUNDING_MARGIN * self.rounding;
        let unit = 10_f64.powf(needed.log10().floor() - 1.0);
        let digits = (needed / unit).ceil();
        let rounded = format!("{:.1e}", digits * unit).parse().unwrap_or(needed);
        Tolerance {
            rtol: bound,
            atol_rms: if needed > bound && !self.is_chaotic() {
                rounded
            } else {
                bound
            },
        }
    }
}

/// The files that a task gets in `kernels/TASK`.
const KERNEL_FILES: [&str; 2] = ["naive.cu", "baselines.py"];

/// The name of a precision in PyTorch.
fn dtype_of(precision: &str) -> &'static str {
    match precision {
        "fp16" => "float16",
        "bf16" => "bfloat16",
        _ => "float32",
    }
}

/// KernelBench's tolerance for a precision.
fn bound_of(precision: &str) -> f64 {
    match precision {
        "fp32" => 1e-4,
        _ => 1e-2,
    }
}

fn import_problem(
    problem: &Problem,
    described: Described,
    precision: &str,
) -> Result<Written, Failure> {
    let file = &problem.file;
    let source = std::fs::read_to_string(file)
        .map_err(|error| Failure::unreadable(&format!("`{}`", file.display()), &error))?;
    let task = foreign_task(problem, &source, &described, precision);
    let files = task.files()?;
    let folder = write_task(&task.name, &files.task, &files.kernels)?;
    let parameters = described.inputs.len() - described.given;
    let given = described.given;
    let inputs = if given == 1 { "input" } else { "inputs" };
    let mut notes = vec![format!("{given} {inputs} and {parameters} of the model")];
    let bound = bound_of(precision);
    let outputs = described.outputs.iter();
    let widest = (outputs.map(|output| output.tolerance(bound).atol_rms)).fold(bound, f64::max);
    if widest > bound {
        notes.push(format!(
            "atol_rms {widest:?} instead of {bound:?}: the problem's own code in {precision} is that far from double precision, within a factor of 4"
        ));
    }
    if described.outputs.iter().any(DescribedOutput::is_chaotic) {
        notes.push(format!(
            "the problem's own code in {precision} is far from double precision: right kernels may be outside the tolerance, too"
        ));
    }
    notes.extend(described.notes);
    Ok(Written {
        task: task.name,
        folder,
        workloads: 1,
        notes,
    })
}

fn foreign_task(
    problem: &Problem,
    source: &str,
    described: &Described,
    precision: &str,
) -> ForeignTask {
    let tensor = |dtype: &str, shape: Option<&Vec<u64>>, value: Option<f64>| TensorSpec {
        dtype: dtype.to_owned(),
        shape: shape.map(|shape| shape.iter().map(u64::to_string).collect()),
        value,
    };
    let bound = bound_of(precision);
    let is_single = described.outputs.len() == 1;
    let outputs = described.outputs.iter().enumerate().map(|(index, output)| {
        let name = if is_single {
            "output".to_owned()
        } else {
            format!("output_{index}")
        };
        ForeignOutput {
            name,
            tensor: tensor(&output.dtype, Some(&output.shape), None),
            tolerance: output.tolerance(bound),
        }
    });
    let inputs = described.inputs.iter().map(|input| ForeignInput {
        name: input.name.clone(),
        tensor: tensor(&input.dtype, input.shape.as_ref(), input.value),
        distribution: input.distribution.clone(),
    });
    // JSON of texts and whole numbers is Python too.
    let modes = if described.modes_differ {
        "True"
    } else {
        "False"
    };
    let constructor = match &described.constructor {
        Some(text) => Value::from(text.as_str()).to_string(),
        None => "None".to_owned(),
    };
    // The names of the state may be any text, so they are put in last.
    let values = [
        ("\"GIVEN\"", described.given.to_string()),
        ("\"PRECISION\"", format!("\"{}\"", dtype_of(precision))),
        ("\"SHAPES\"", format!("{:?}", described.shapes)),
        ("\"MODES\"", modes.to_owned()),
        ("\"CONSTRUCTOR\"", constructor),
        ("\"STATE\"", described.state.to_string()),
    ];
    let file = problem.file.file_name().unwrap_or_default();
    ForeignTask {
        name: problem.name.clone(),
        origin: format!(
            "A problem of KernelBench, `{}`, in {precision}.",
            file.to_string_lossy()
        ),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        axes: IndexMap::new(),
        hidden: Map::new(),
        regimes: described.regimes.clone(),
        kernel: described.kernel.clone(),
        in_place: IndexMap::new(),
        oracle: ForeignOracle::Python(with_epilogue(source, ORACLE, &values)),
        reference: None,
        baselines: Some(with_epilogue(source, BASELINES, &values)),
    }
}

/// A Python process that describes problems, in their order.
struct Describer {
    running: PythonScript,
    python: PathBuf,
    limit: PythonLimit,
}

impl Describer {
    fn start(
        python: &Path,
        problems: &[&Problem],
        arguments: &ProblemArgs,
    ) -> anyhow::Result<Self> {
        let precision = OsStr::new(dtype_of(&arguments.precision));
        let files = problems.iter().map(|problem| problem.file.as_os_str());
        let all: Vec<&OsStr> = std::iter::once(precision).chain(files).collect();
        Ok(Self {
            running: PythonScript::start(python, SCRIPT, all, arguments.limit)?,
            python: python.to_owned(),
            limit: arguments.limit,
        })
    }

    /// What the next problem is; `Err` in it if it cannot be a task. The second value says whether Python has ended.
    fn next(&mut self, problem: &Problem) -> anyhow::Result<(Result<Described, Failure>, bool)> {
        let file = problem.file.display();
        let line = match self.running.next()? {
            Answer::Line(line) => line,
            Answer::Ended => return Ok((Err(ended_without_answer(problem)), true)),
            Answer::TimedOut => return Ok((Err(self.limit.exceeded(&file)), true)),
        };
        let described: Described =
            serde_json::from_str(&line).context("Python's answer cannot be read")?;
        if let Some(module) = &described.missing_module {
            let subject = format!("{file}: it");
            let missing = module_is_missing(&subject, module, &self.python);
            return Ok((Err(missing), false));
        }
        let described = match &described.error {
            Some(error) => Err(Failure::usage(format!("{file}: {error}"))),
            None => Ok(described),
        };
        Ok((described, false))
    }
}

fn ended_without_answer(problem: &Problem) -> Failure {
    let file = problem.file.display();
    Failure::usage(format!("{file}: Python ended without an answer"))
        .hint("run the file with Python yourself: it ends Python, crashes, or needs more memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_is_wider_where_the_problem_itself_is_less_exact() {
        let of = |rounding: f64| {
            let output = DescribedOutput {
                dtype: "float32".to_owned(),
                shape: vec![10],
                rounding,
            };
            output.tolerance(bound_of("fp32"))
        };
        for small in [0.0, 1e-6, 2.4e-5] {
            assert_eq!((of(small).rtol, of(small).atol_rms), (1e-4, 1e-4));
        }
        // Of ResNet101 with a batch of ten.
        assert_eq!((of(4.8e-4).rtol, of(4.8e-4).atol_rms), (1e-4, 2e-3));
        assert_eq!(of(5.1e-4).atol_rms, 2.1e-3);
        // Of sixty batch normalisations of four rows: nothing but noise.
        assert_eq!(of(2.59).atol_rms, 1e-4);
    }
}
