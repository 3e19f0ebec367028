//! `kforge tasks import`: tasks from the formats of other tools, as folders in `tasks/`.
//!
//! `task` reads datasets and makes the texts; `import_kernelbench` and `import_torch` ask Python what a
//! problem or a function is. A task that cannot be imported is reported,
//! and the others are imported. Overwrites nothing.

use std::path::PathBuf;

use super::exit::{self, Exit};
use super::import_gpu_mode::{self, GpuModeArgs};
use super::import_kernel_tuner::{self, KernelTunerArgs};
use super::import_kernelbench::{self, KernelBenchArgs};
use super::import_report::{Report, Written, write_task};
use super::import_torch::{self, TorchArgs};
use super::output::Format;
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::task::{Dataset, DatasetTask};

/// Arguments of `kforge tasks import`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    source: Option<Source>,
    #[command(flatten)]
    dataset: DatasetImport,
}

#[derive(Debug, clap::Subcommand)]
enum Source {
    /// Import problems of KernelBench.
    #[command(name = "kernelbench", after_help = import_kernelbench::help())]
    KernelBench(KernelBenchArgs),
    /// Import a problem of GPU MODE.
    #[command(name = "gpu-mode", after_help = import_gpu_mode::help())]
    GpuMode(GpuModeArgs),
    /// Import a kernel and its configuration space from a T1 file of Kernel Tuner.
    #[command(name = "kernel-tuner", after_help = import_kernel_tuner::help())]
    KernelTuner(KernelTunerArgs),
    /// Import a PyTorch function.
    #[command(after_help = import_torch::help())]
    Torch(TorchArgs),
}

/// Arguments of an import of a dataset.
#[derive(Debug, clap::Args)]
struct DatasetImport {
    /// Folder of a FlashInfer-Bench dataset, or of SOL-ExecBench problems.
    #[arg(value_name = "DATASET", required = true)]
    dataset: Option<PathBuf>,
    /// Name of a definition to import. Repeatable. Default: all.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes each definition of a FlashInfer-Bench dataset as a task to `tasks/NAME`.
Its oracle is the `reference` of the definition, in Python. Tensors stay in the
files of the dataset. Where kforge has kernels for a definition, the task has
them; otherwise `naive.cu` is to be written. Overwrites nothing.

A dataset can also be used in place: `--dataset DIR` or FIB_DATASET_PATH.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge tasks import flashinfer_trace --only gemm_n4096_k4096",
                "a definition of a dataset",
            ),
            (
                "kforge tasks import kernelbench KernelBench --level 1 --problem 23",
                "a problem of KernelBench",
            ),
            (
                "kforge tasks import torch model.py:rmsnorm --axis rows=64,1000,4096",
                "a PyTorch function",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// Imports tasks and prints the result of each. Returns the exit code of usage if one of them failed.
pub(super) fn import(arguments: &ImportArgs) -> anyhow::Result<Exit> {
    match &arguments.source {
        Some(Source::KernelBench(arguments)) => import_kernelbench::import(arguments),
        Some(Source::GpuMode(arguments)) => import_gpu_mode::import(arguments),
        Some(Source::KernelTuner(arguments)) => import_kernel_tuner::import(arguments),
        Some(Source::Torch(arguments)) => import_torch::import(arguments),
        None => import_dataset(&arguments.dataset),
    }
}

fn import_dataset(arguments: &DatasetImport) -> anyhow::Result<Exit> {
    let folder = arguments.dataset.clone().unwrap_or_default();
    let dataset = Dataset::open(&folder)?;
    let mut report = Report::new(arguments.format);
    for (name, file) in chosen_definitions(arguments, &dataset)? {
        let imported = dataset
            .task(&file)
            .and_then(|task| import_definition(&task));
        report.add(&name, imported)?;
    }
    report.finish()
}

/// The definitions that `--only` names, or all.
fn chosen_definitions(
    arguments: &DatasetImport,
    dataset: &Dataset,
) -> Result<Vec<(String, PathBuf)>, Failure> {
    let all = dataset.definitions();
    let names = || all.iter().map(|definition| definition.name.as_str());
    if let Some(unknown) = arguments
        .only
        .iter()
        .find(|only| !names().any(|name| name == *only))
    {
        return Err(
            Failure::usage(format!("the dataset has no definition `{unknown}`"))
                .hint(did_you_mean(unknown, names())),
        );
    }
    if all.is_empty() {
        let folder = arguments.dataset.clone().unwrap_or_default();
        let folder = folder.display();
        return Err(
            Failure::usage(format!("`{folder}/definitions` has no definitions"))
                .hint("a definition is a JSON file in it or in a folder below it"),
        );
    }
    let is_chosen = |name: &String| arguments.only.is_empty() || arguments.only.contains(name);
    let all = all
        .into_iter()
        .map(|definition| (definition.name, definition.file));
    Ok(all.filter(|(name, _)| is_chosen(name)).collect())
}

fn import_definition(task: &DatasetTask) -> Result<Written, Failure> {
    let workloads = task.files.load()?.workloads.len();
    let folder = write_task(&task.files.name, &task.files_to_write(), &[])?;
    let mut notes = Vec::new();
    if task.has_chosen_shapes {
        notes.push("the dataset has no workloads for it: kforge chose shapes".to_owned());
    }
    notes.push(match &task.twin {
        Some(twin) => format!("kernels, inputs and tolerances of `{twin}`"),
        None => "naive.cu is to be written; check the guesses in task.yaml".to_owned(),
    });
    Ok(Written {
        task: task.files.name.clone(),
        folder,
        workloads,
        notes,
    })
}
