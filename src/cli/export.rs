//! `kforge export`: writes a kernel in the form that another tool loads.
//!
//! Finds the kernel and what is known about it, and writes the files that `export` makes. Judges nothing.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::dataset_arg::DatasetArg;
use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use super::recorded::recorded_config;
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, files};
use crate::config;
use crate::event::Event;
use crate::export::{
    ExportFormat, ExportRequest, ExportedFiles, FlashInferBinding, JudgedAs, Provenance,
    check_name, export,
};
use crate::kernel::{Kernel, without_note};
use crate::run::{self, Journal, RunDirectory, RunRecord};
use crate::task::{Task, TaskFiles};
use crate::verdict::Verdict;

/// Arguments of `kforge export`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct ExportArgs {
    /// A run's directory, for its best kernel; or a kernel file.
    #[arg(value_name = "RUN|KERNEL")]
    source: PathBuf,
    /// Form of the export.
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: ExportFormat,
    /// How FlashInfer-Bench calls the kernel. Default: `tvm-ffi`. For `--to flashinfer`.
    #[arg(long, value_enum, value_name = "NAME")]
    binding: Option<FlashInferBinding>,
    /// Task of the kernel. Default: the run's only task; for a file `kernels/TASK/x.cu` its folder.
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    #[command(flatten)]
    dataset: DatasetArg,
    /// What functions and files are called. Default: as the task.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder to write. Default: `NAME-FORMAT` in the current folder.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Each export has the device code as it was judged, host code for the launches of
its header, and where the kernel comes from. A form that cannot express the
kernel is refused with the line. docs/exports.md describes every form.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge export outputs/first --to standalone",
                "the best kernel as a program that runs and times it",
            ),
            (
                "kforge export kernels/gdn_decode/best.cu --to c --output gdn",
                "a kernel file as a C library",
            ),
        ],
        exit::EXPORT_CODES,
    )
}

pub(super) fn run(arguments: ExportArgs) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.name {
        check_name(name)?;
    }
    if arguments.binding.is_some() && arguments.to != ExportFormat::Flashinfer {
        return Err(Failure::usage("`--binding` is for `--to flashinfer`").into());
    }
    let found = find(&arguments)?;
    let kernel = Kernel::parse(&found.source, &found.task.definition)
        .map_err(|error| Failure::usage(format!("{}: {error}", found.provenance.origin)))?;
    let written = export(&ExportRequest {
        kernel: &kernel,
        task: &found.task,
        format: arguments.to,
        provenance: &found.provenance,
        name: arguments.name.as_deref(),
        binding: arguments.binding.unwrap_or_default(),
    })
    .map_err(|error| with_place(error, &found.provenance.origin))?;
    let folder = output_folder(&arguments, &found.task);
    write(&folder, &written)?;
    print_result(&arguments, &folder, &written, &found.provenance)?;
    Ok(Exit::Done)
}

/// A kernel, its task and its origin.
struct FoundKernel {
    source: String,
    task: Task,
    provenance: Provenance,
}

fn find(arguments: &ExportArgs) -> anyhow::Result<FoundKernel> {
    if arguments.source.is_dir() {
        find_in_run(arguments)
    } else {
        find_file(arguments)
    }
}

/// The best kernel of a run.
fn find_in_run(arguments: &ExportArgs) -> anyhow::Result<FoundKernel> {
    let directory = RunDirectory::new(&arguments.source);
    let record = RunRecord::read(&directory)?;
    let name = run_task(arguments, &record)?;
    let config = recorded_config(&record, &arguments.source)?;
    let found = config::find_tasks(&config)?.into_iter();
    let files = found.map(|named| named.files).find(|one| one.name == name);
    let files = files.ok_or_else(|| Failure::usage(format!("the run has no task `{name}`")))?;
    let task = files.load()?;
    let run = arguments.source.display();
    let best = run::best_kernel(&directory, &name, Digest::of(task.baseline().1))?;
    let best = best.ok_or_else(|| {
        Failure::usage(format!("`{run}`: no kernel of task `{name}` has passed"))
            .hint("`kforge resume` continues the run; a kernel file can be exported too")
    })?;
    let verdict = last_verdict(&directory, &name, best.step)?;
    let root = arguments.source.canonicalize();
    let root = root.unwrap_or_else(|_| arguments.source.clone());
    let folder = root.file_name().map(|name| name.to_string_lossy());
    Ok(FoundKernel {
        provenance: Provenance {
            origin: format!("run {}", folder.unwrap_or_default()),
            step: Some(best.step),
            task: task.name.clone(),
            source: Digest::of(&best.source),
            kforge: env!("CARGO_PKG_VERSION"),
            judged: verdict.as_ref().map(JudgedAs::from),
        },
        source: best.source,
        task,
    })
}

/// The task of the run that is meant.
fn run_task(arguments: &ExportArgs, record: &RunRecord) -> Result<String, Failure> {
    let run = arguments.source.display();
    let known = || record.tasks.keys().map(String::as_str);
    match &arguments.task {
        Some(name) if record.tasks.contains_key(name) => Ok(name.clone()),
        Some(name) => Err(Failure::usage(format!("`{run}` has no task `{name}`"))
            .hint(did_you_mean(name, known()))),
        None if record.tasks.len() == 1 => Ok(known().collect()),
        None => {
            let names: Vec<_> = known().collect();
            Err(Failure::usage(format!("`{run}` has several tasks"))
                .hint(format!("choose one with `--task`: {}", names.join(", "))))
        }
    }
}

/// The last verdict on a step.
fn last_verdict(
    directory: &RunDirectory,
    task: &str,
    step: u64,
) -> anyhow::Result<Option<Verdict>> {
    let journal = directory.task_for_reading(task)?.journal();
    let mut last = None;
    Journal::read(&journal, |_, event: Event| {
        match event {
            Event::Judged(judged) if judged.step == step => last = Some(judged.verdict),
            Event::Confirmed(confirmed) if confirmed.step == step => last = Some(confirmed.verdict),
            _ => {}
        }
        Ok(())
    })?;
    Ok(last)
}

/// A kernel file. The verdict of a best known kernel is beside it.
fn find_file(arguments: &ExportArgs) -> anyhow::Result<FoundKernel> {
    let path = arguments.source.as_path();
    let text = files::read(path)?;
    let source = without_note(&text).into_owned();
    let task = file_task(arguments, path)?.load()?;
    let digest = Digest::of(&source);
    let verdict = best_verdict(path, digest);
    Ok(FoundKernel {
        provenance: Provenance {
            origin: file_origin(path),
            step: None,
            task: task.name.clone(),
            source: digest,
            kforge: env!("CARGO_PKG_VERSION"),
            judged: verdict.as_ref().map(JudgedAs::from),
        },
        source,
        task,
    })
}

/// The last three parts of a path. Exports are shared, so they have no path of this machine.
fn file_origin(path: &Path) -> String {
    let parts: Vec<_> = path.components().collect();
    let last = parts.iter().rev().take(3).rev();
    let last: PathBuf = last.collect();
    let last = last.display().to_string();
    last.trim_start_matches('/').to_owned()
}

fn file_task(arguments: &ExportArgs, path: &Path) -> Result<TaskFiles, Failure> {
    arguments.dataset.apply();
    if let Some(name) = &arguments.task {
        return TaskFiles::find(name);
    }
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    let folder = folder.map(|name| name.to_string_lossy().into_owned());
    let named = folder.and_then(|name| TaskFiles::find(&name).ok());
    named.ok_or_else(|| {
        Failure::usage(format!("`{}`: the task is not known", path.display()))
            .hint("name it with `--task`; `kforge tasks list` shows all tasks")
    })
}

/// The verdict in `best.json` beside `best.cu`, if it is about this very file.
fn best_verdict(path: &Path, kernel: Digest) -> Option<Verdict> {
    let text = std::fs::read_to_string(path.with_extension("json")).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let judged = value.get("promoted")?.get("kernel")?.as_str()?;
    if judged != kernel.to_string() {
        return None;
    }
    serde_json::from_value(value).ok()
}

/// Puts the file in front of a refusal's line.
fn with_place(error: anyhow::Error, origin: &str) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(mut failure) => {
            failure.message = format!("{origin}: {}", failure.message);
            failure.into()
        }
        Err(error) => error,
    }
}

fn output_folder(arguments: &ExportArgs, task: &Task) -> PathBuf {
    let name = arguments.name.as_ref().unwrap_or(&task.name);
    let form = arguments.to.folder_suffix();
    let default = || PathBuf::from(format!("{name}-{form}"));
    arguments.output.clone().unwrap_or_else(default)
}

/// Writes the files. None may exist: an export never replaces what a person may have edited.
fn write(folder: &Path, written: &ExportedFiles) -> anyhow::Result<()> {
    if let Some(name) = written.keys().find(|name| folder.join(name).exists()) {
        return Err(
            Failure::usage(format!("`{}` exists", folder.join(name).display()))
                .hint("remove it, or name another folder with `--output`")
                .into(),
        );
    }
    for (name, text) in written {
        let path = folder.join(name);
        files::create_folder(path.parent().unwrap_or(folder))?;
        files::replace(&path, text.as_bytes())?;
    }
    Ok(())
}

fn print_result(
    arguments: &ExportArgs,
    folder: &Path,
    written: &ExportedFiles,
    provenance: &Provenance,
) -> anyhow::Result<()> {
    let facts = json!({
        "to": arguments.to.folder_suffix(),
        "folder": folder,
        "files": written.keys().collect::<Vec<_>>(),
        "provenance": provenance,
    });
    match arguments.format {
        Format::Human => {
            let mut text = String::new();
            for name in written.keys() {
                text.push_str(&format!("{}\n", folder.join(name).display()));
            }
            text.push_str(&format!("{}\n", provenance.speed_line()));
            print(&text)
        }
        Format::Json => print_json(&facts),
        Format::Jsonl => print_json_lines([facts]),
    }
}
