//! `kforge tasks import gpu-mode`: a problem of GPU MODE as a task.
//!
//! Reads `task.yml` and the Python files that it names. Python runs the reference (`gpu_mode.py`), which becomes the oracle, and baselines.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::described_function::DescribedFunction;
use super::exit::{self, Exit};
use super::import_report::{Report, Written, check_is_new, write_task};
use super::output::Format;
use super::python_script::{PythonLimit, describing_script, with_epilogue};
use crate::base::{Failure, yaml};
use crate::task::{ForeignOracle, ForeignTask};

/// What comes after the parts that all imports share.
const SCRIPT: &str = describing_script!(
    include_str!("function_task.py"),
    include_str!("gpu_mode_data.py"),
    include_str!("gpu_mode.py")
);
/// How the data of a reference is made from inputs: for the script, oracles and baselines.
const DATA: &str = include_str!("gpu_mode_data.py");
const ORACLE: &str = include_str!("gpu_mode_oracle.py");
const BASELINES: &str = include_str!("gpu_mode_baselines.py");
/// The file with `ref_kernel`.
const REFERENCE: &str = "reference.py";
/// The source of the file that a solution replaces.
const SUBMISSION: &str = "@SUBMISSION@";

/// Arguments of `kforge tasks import gpu-mode`.
#[derive(Debug, clap::Args)]
pub(super) struct GpuModeArgs {
    /// File `task.yml` of the problem, or its folder.
    #[arg(value_name = "task.yml|FOLDER")]
    source: PathBuf,
    /// Name of the task. Default: that of the problem's folder.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    limit: PythonLimit,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes a problem of GPU MODE as a task to `tasks/NAME`. Python with PyTorch runs
`generate_input` and `ref_kernel` on the CPU: KFORGE_PYTHON, or `python3`. The
benchmarks are the workloads; sizes that differ between benchmarks and tests are
axes. The oracle is `ref_kernel`, with the tolerance of `check_implementation`.
`kforge baselines` times it, eager and compiled. The problem's files are copied
into the task, and are subject to their licence.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge tasks import gpu-mode reference-kernels/problems/pmpp_v2/vectorsum_py",
                "a problem of a checkout",
            ),
            (
                "kforge tasks import gpu-mode my_problem/task.yml --name mine",
                "a file, under another name",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// What kforge needs of a `task.yml`. Time limits, GPUs and templates are the leaderboard's.
#[derive(Deserialize)]
struct TaskFile {
    files: Vec<SourceFile>,
    #[serde(default = "python")]
    lang: String,
    #[serde(default)]
    tests: Vec<Map<String, Value>>,
    #[serde(default)]
    benchmarks: Vec<Map<String, Value>>,
    #[serde(default)]
    ranking_by: Option<String>,
    #[serde(default)]
    multi_gpu: bool,
}

#[derive(Deserialize)]
struct SourceFile {
    name: String,
    source: String,
}

fn python() -> String {
    "py".to_owned()
}

/// Imports the problem and prints the result.
pub(super) fn import(arguments: &GpuModeArgs) -> anyhow::Result<Exit> {
    let mut report = Report::new(arguments.format);
    let path = if arguments.source.is_dir() {
        arguments.source.join("task.yml")
    } else {
        arguments.source.clone()
    };
    let origin = path.display().to_string();
    let problem: TaskFile = yaml::read(&read(&path)?, &origin)?;
    problem.check(&origin)?;
    let name = arguments.name.clone().unwrap_or(folder_name(&path));
    check_is_new(&name, ["naive.cu", "baselines.py"])?;
    let files = problem.texts(&path)?;
    let reference = files.get(REFERENCE).and_then(Value::as_str);
    let reference = reference.map(str::to_owned);
    let request = json!({
        "files": files,
        "tests": problem.tests,
        "benchmarks": problem.benchmarks,
    });
    let described = DescribedFunction::ask(
        SCRIPT,
        &request,
        ("a problem of GPU MODE", &origin),
        arguments.limit,
    )?;
    let task = ForeignTask {
        // The oracle has all files as quoted text, which no model can read.
        reference,
        ..foreign_task(&name, &origin, &described)?
    };
    let files = task.files()?;
    let folder = write_task(&task.name, &files.task, &files.kernels)?;
    let mut notes = described.all_notes();
    if let Some(ranking) = problem.ranking_by.filter(|ranking| ranking != "geom") {
        notes.push(format!(
            "the leaderboard ranks by `{ranking}`, and kforge by the geometric mean of the workloads"
        ));
    }
    let written = Written {
        task: task.name,
        folder,
        workloads: files.workloads(),
        notes,
    };
    report.add(&name, Ok(written))?;
    report.finish()
}

impl TaskFile {
    fn check(&self, origin: &str) -> Result<(), Failure> {
        let refused = |message: &str, remedy: &str| {
            Err(Failure::usage(format!("{origin}: {message}")).hint(remedy))
        };
        if self.lang != "py" {
            return refused(
                "`lang` is not `py`: the problem has no reference in Python",
                "import its variant in Python, or write a task with `kforge tasks new`",
            );
        }
        if self.multi_gpu {
            return refused(
                "`multi_gpu` is true, and kforge judges on one GPU",
                "choose a problem for one GPU",
            );
        }
        if self.benchmarks.is_empty() {
            return refused(
                "there are no `benchmarks`: nothing says which sizes are timed",
                "add a list `benchmarks` with the arguments of `generate_input`, as under `tests`",
            );
        }
        Ok(())
    }

    /// The texts of the Python files besides the solution and the leaderboard's own program.
    fn texts(&self, task: &Path) -> Result<Map<String, Value>, Failure> {
        let folder = task.parent().unwrap_or(Path::new(""));
        let mut texts = Map::new();
        for file in &self.files {
            let is_module = file.name.ends_with(".py") && file.name != "eval.py";
            if is_module && file.source != SUBMISSION {
                texts.insert(file.name.clone(), read(&folder.join(&file.source))?.into());
            }
        }
        Ok(texts)
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("failed to read `{}`: {error}", file.display()))
            .hint("a problem has a `task.yml`, and the files that it names relative to it")
    })
}

/// The name of the problem's folder.
fn folder_name(task: &Path) -> String {
    let absolute = task.canonicalize().unwrap_or_else(|_| task.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    let name = folder.unwrap_or_default().to_string_lossy();
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '_'
        }
    };
    name.chars().map(plain).collect()
}

fn foreign_task(
    name: &str,
    origin: &str,
    described: &DescribedFunction,
) -> Result<ForeignTask, Failure> {
    let quoted: Vec<_> = (described.texts.iter())
        .map(|(word, text)| (format!("\"{word}\""), text.clone()))
        .collect();
    let values: Vec<_> = quoted
        .iter()
        .map(|(word, text)| (word.as_str(), text.clone()))
        .collect();
    Ok(ForeignTask {
        name: name.to_owned(),
        origin: format!("A problem of GPU MODE, {origin}."),
        inputs: described.foreign_inputs(),
        outputs: described.foreign_outputs(None, None)?,
        axes: described.new_axes(),
        hidden: described.hidden.clone(),
        regimes: described.regimes.clone(),
        in_place: indexmap::IndexMap::new(),
        kernel: described.kernel.clone(),
        oracle: ForeignOracle::Python(with_epilogue(DATA, ORACLE, &values)),
        reference: None,
        baselines: Some(with_epilogue(DATA, BASELINES, &values)),
    })
}
