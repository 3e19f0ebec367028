//! `kforge tasks`: lists, shows and checks tasks.
//!
//! Reads task folders; `new_task` writes a new task, and `import` those of other tools. `check` runs kernels on the CPU in child processes of this process. It judges tasks,
//! never candidates.

use anyhow::Context;

use super::check_progress::CheckProgress;
use super::dataset_arg::DatasetArg;
use super::exit::{self, Exit};
use super::import::{self, ImportArgs};
use super::new_task::{self, NewTaskArgs};
use super::output::{Format, print, print_json, print_json_lines};
use super::run_args::parse_seed;
use crate::base::Failure;
use crate::device::cpu::CpuDevice;
use crate::device::{Cache, Device};
use crate::eval;
use crate::report;
use crate::task::{Task, TaskFiles, dataset_names, embedded_names, local_names};

/// Arguments of `kforge tasks`.
#[derive(Debug, clap::Args)]
#[command(after_help = tasks_help())]
pub(super) struct TasksArgs {
    #[command(subcommand)]
    command: TasksCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TasksCommand {
    /// List the tasks in `tasks/` and those built into kforge.
    #[command(after_help = list_help())]
    List {
        #[command(flatten)]
        dataset: DatasetArg,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Validate a task's oracle and tolerances.
    #[command(after_help = check_help())]
    Check(CheckArgs),
    /// Write the files of a new task.
    #[command(after_help = new_task::help())]
    New(NewTaskArgs),
    /// Import tasks from another tool's format.
    #[command(after_help = import::help())]
    Import(ImportArgs),
    /// Show one task: axes, inputs, outputs, workloads, profiles.
    #[command(after_help = show_help())]
    Show {
        /// Name or folder of the task.
        task: String,
        #[command(flatten)]
        dataset: DatasetArg,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// Arguments of `kforge tasks check`.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Names or folders of tasks. Default: all.
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    #[command(flatten)]
    dataset: DatasetArg,
    /// Profile whose workloads are used; `full` has all.
    #[arg(long, value_name = "NAME", default_value = "full", value_parser = ["quick", "full"])]
    profile: String,
    /// Deadline of one launch, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    launch_seconds: f64,
    /// Test large workloads at their full size, which may take hours.
    #[arg(long)]
    full_size: bool,
    /// Seed of an earlier check, to repeat it.
    #[arg(long, value_name = "NUMBER", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const CHECK_NOTE: &str = "\
Corrupts the oracle's outputs and compares them as a candidate's are compared:
zeros, the mean of each output, a copy of each input of the same shape, the
outputs of other inputs, half the work, and reduced precision unless the task
says `precision: unchecked`. Each must fail, on every workload, with the timed
inputs and under every regime. The task's own kernels must pass there.

A workload that would take minutes on the CPU is tested at a smaller size; the
result names it. `--full-size` tests every workload as it is.";

fn tasks_help() -> String {
    exit::help(
        "",
        &[
            ("kforge tasks list", "the names of all tasks"),
            ("kforge tasks new layernorm", "a complete task to change"),
            ("kforge tasks check layernorm", "test a task"),
        ],
        exit::TASKS_CODES,
    )
}

fn list_help() -> String {
    exit::help(
        "",
        &[
            ("kforge tasks list", "all tasks as a table"),
            ("kforge tasks list --format json", "all tasks as JSON"),
        ],
        exit::READ_CODES,
    )
}

fn show_help() -> String {
    exit::help(
        "",
        &[
            ("kforge tasks show gdn_decode", "a task that is built in"),
            ("kforge tasks show tasks/my_task", "a task in a folder"),
        ],
        exit::READ_CODES,
    )
}

fn check_help() -> String {
    exit::help(
        CHECK_NOTE,
        &[
            ("kforge tasks check my_task", "check one task"),
            (
                "kforge tasks check --profile quick",
                "check all tasks on few workloads",
            ),
        ],
        exit::CHECK_CODES,
    )
}

pub(super) fn run(arguments: TasksArgs) -> anyhow::Result<Exit> {
    match arguments.command {
        TasksCommand::List { dataset, format } => {
            dataset.apply();
            list_tasks(format)?;
        }
        TasksCommand::Check(arguments) => return check_tasks(arguments),
        TasksCommand::New(arguments) => new_task::new_task(&arguments)?,
        TasksCommand::Import(arguments) => return import::import(&arguments),
        TasksCommand::Show {
            task,
            dataset,
            format,
        } => {
            dataset.apply();
            show_task(&task, format)?;
        }
    }
    Ok(Exit::Done)
}

fn check_tasks(arguments: CheckArgs) -> anyhow::Result<Exit> {
    let seconds = arguments.launch_seconds;
    if !(seconds > 0.0 && seconds <= 1e6) {
        return Err(Failure::usage(format!(
            "`--launch-seconds {seconds}`: expected a number above 0 and up to 1e6"
        ))
        .into());
    }
    arguments.dataset.apply();
    let names = if arguments.tasks.is_empty() {
        all_task_names()?
    } else {
        arguments.tasks.clone()
    };
    // All tasks are read first, so that a mistake in the last task is reported at once and not after minutes.
    let tasks = names
        .iter()
        .map(|name| TaskFiles::find(name)?.load())
        .collect::<Result<Vec<_>, _>>()?;
    let device = CpuDevice::new()?;
    let progress = CheckProgress::new(tasks.len());
    let mut admissions = Vec::new();
    for task in &tasks {
        let admission = admit_task(&device, task, &arguments, &progress)?;
        match arguments.format {
            Format::Human => progress.suspend(|| print(&report::describe_admission(&admission)))?,
            Format::Jsonl => progress.suspend(|| print_json_lines([&admission]))?,
            Format::Json => {}
        }
        admissions.push(admission);
        progress.finish_task();
    }
    if arguments.format == Format::Json {
        print_json(&admissions)?;
    }
    let all_admitted = admissions.iter().all(|admission| admission.admitted);
    Ok(if all_admitted {
        Exit::Done
    } else {
        Exit::Reference
    })
}

fn admit_task(
    device: &CpuDevice,
    task: &Task,
    arguments: &CheckArgs,
    progress: &CheckProgress,
) -> anyhow::Result<eval::Admission> {
    let profile = task.settings.profiles.get(&arguments.profile);
    let request = eval::AdmissionRequest {
        options: eval::JudgeOptions {
            profile: profile
                .context("the task does not have the selected profile")?
                .clone(),
            launch_seconds: arguments.launch_seconds,
            thorough: false,
            cache: Cache::Cold,
        },
        limits: crate::worker::cpu_limits(&device.identity()),
        seed: arguments.seed,
        is_full_size: arguments.full_size,
        progress: &|step| progress.show(&task.name, step),
    };
    progress.start(&task.name);
    eval::admit(device, task, &request)
        .with_context(|| format!("failed to test task `{}`", task.name))
}

/// The names of all tasks, in `tasks/`, built in, and in the dataset.
fn all_task_names() -> Result<Vec<String>, Failure> {
    let mut names = local_names();
    names.extend(dataset_names()?);
    names.extend(embedded_names().into_iter().map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Lists every task. A broken task has a line that says so, and does not hide the others.
fn list_tasks(format: Format) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    let mut broken = Vec::new();
    for name in all_task_names()? {
        let files = TaskFiles::find(&name);
        match files.and_then(|files| Ok((files.load()?, files.origin))) {
            Ok(task) => tasks.push(task),
            Err(failure) => broken.push((name, failure)),
        }
    }
    let facts = || {
        let loaded = tasks
            .iter()
            .map(|(task, origin)| report::task_json(task, origin));
        let others = broken
            .iter()
            .map(|(name, failure)| serde_json::json!({"task": name, "error": failure.message}));
        loaded.chain(others)
    };
    match format {
        Format::Human => {
            let mut text = report::task_table(&tasks);
            for (name, failure) in &broken {
                // The text of a failure. A failure with several problems starts with their number.
                let first = failure.message.lines().next().unwrap_or_default();
                text += &format!("{name:<14} broken: {first}; see `kforge tasks show {name}`\n");
            }
            print(&text)
        }
        Format::Json => print_json(&facts().collect::<Vec<_>>()),
        Format::Jsonl => print_json_lines(facts()),
    }
}

fn show_task(name: &str, format: Format) -> anyhow::Result<()> {
    let files = TaskFiles::find(name)?;
    let task = files.load()?;
    match format {
        Format::Human => print(&report::describe_task(&task, &files.origin)),
        Format::Json => print_json(&report::task_json(&task, &files.origin)),
        Format::Jsonl => print_json_lines([report::task_json(&task, &files.origin)]),
    }
}
