//! `kforge tasks import kernel-tuner`: a kernel and its configuration space from a T1 file, as a task.
//!
//! `task::kernel_tuner` reads the file and makes the texts; this module reads files and writes the task.

use std::path::{Path, PathBuf};

use super::exit::{self, Exit};
use super::import_report::{Report, Written, check_is_new, write_task};
use super::output::Format;
use crate::base::Failure;
use crate::task::{TuningProblem, TuningTask, fastest_configuration};

/// Arguments of `kforge tasks import kernel-tuner`.
#[derive(Debug, clap::Args)]
pub(super) struct KernelTunerArgs {
    /// T1 file of the kernel.
    #[arg(value_name = "T1.json")]
    file: PathBuf,
    /// Name of the task. Default: the kernel's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Python file with a function `run` of the inputs, which is the oracle. Default: the kernel in its first configuration.
    #[arg(long, value_name = "FILE.py")]
    oracle: Option<PathBuf>,
    /// T4 file with results: begin with its fastest configuration.
    #[arg(long, value_name = "T4.json")]
    results: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes the kernel of a T1 file as a task to `tasks/NAME` and
`kernels/NAME/naive.cu`. Tuning parameters become tunables in capitals,
conditions become constraints. Arguments that are only read are inputs; those
that are written are outputs. Without `--oracle` the kernel in its first
configuration is the oracle: that shows whether all configurations compute the
same, but not whether that is right.

`kforge eval NAME kernels/NAME/naive.cu --grid --output space.json` measures all
configurations and writes `space.t4.json`, which `--results` reads.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge tasks import kernel-tuner vector_add.json",
                "a kernel and its tunables",
            ),
            (
                "kforge tasks import kernel-tuner matmul.json --oracle matmul.py --results results.json",
                "an oracle, and results to begin with",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// Imports the kernel and prints the result.
pub(super) fn import(arguments: &KernelTunerArgs) -> anyhow::Result<Exit> {
    let mut report = Report::new(arguments.format);
    let origin = arguments.file.display().to_string();
    let problem = TuningProblem::parse(&read(&arguments.file)?, &origin)?;
    let name = arguments.name.as_deref();
    let name = name.unwrap_or(problem.kernel_name());
    check_is_new(name, ["naive.cu"])?;
    let source = read(&kernel_file(&arguments.file, problem.kernel_file())?)?;
    let first = match &arguments.results {
        Some(file) => Some(fastest_configuration(
            &read(file)?,
            &file.display().to_string(),
        )?),
        None => None,
    };
    let oracle = arguments.oracle.as_deref().map(read).transpose()?;
    let has_oracle = oracle.is_some();
    let task = problem.task(TuningTask {
        name,
        source: &source,
        oracle,
        first,
    })?;
    let files = task.files()?;
    let folder = write_task(&task.name, &files.task, &files.kernels)?;
    let (tunables, conditions) = problem.counts();
    let counted = |count: usize, word: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {word}{plural}")
    };
    let space = [
        counted(tunables, "tunable"),
        counted(conditions, "constraint"),
    ];
    let mut notes = vec![space.join(", ")];
    if !has_oracle {
        notes.push("the oracle is the kernel in its first configuration".to_owned());
    }
    let written = Written {
        task: task.name,
        folder,
        workloads: files.workloads(),
        notes,
    };
    report.add(&origin, Ok(written))?;
    report.finish()
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::unreadable(&format!("`{}`", file.display()), &error))
}

/// The file of the kernel: as it is named, next to the T1 file, or in the folder above. Kernel Tuner looks in the same places.
fn kernel_file(t1: &Path, name: &str) -> Result<PathBuf, Failure> {
    let folder = t1.parent().unwrap_or(Path::new(""));
    let above = folder.join("..");
    let mut places = [Path::new(""), folder, &above]
        .map(|folder| folder.join(name))
        .into_iter();
    places.find(|place| place.is_file()).ok_or_else(|| {
        Failure::usage(format!("{}: there is no kernel file `{name}`", t1.display()))
            .hint("`KernelFile` is relative to the working folder, to the T1 file, or to the folder above it")
    })
}
