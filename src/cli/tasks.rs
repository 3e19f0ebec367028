//! `kforge tasks`: what can be searched for.

use anyhow::Context;

use super::{Exit, Format, print, print_json, print_json_lines};
use crate::base::Failure;
use crate::device::cpu::CpuDevice;
use crate::device::{Cache, Device};
use crate::eval;
use crate::report::{self, Spinner};
use crate::task::{TaskFiles, embedded_names, local_names};

#[derive(Debug, clap::Args)]
pub(super) struct TasksArgs {
    #[command(subcommand)]
    command: TasksCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TasksCommand {
    /// List the tasks in `tasks/` and within the program.
    List {
        /// The form of the results.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Test whether a task tells right from wrong: what cheats must fail there, and its own kernels must pass.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Their names or folders. Default: all that are found.
        #[arg(value_name = "TASK")]
        tasks: Vec<String>,
        /// Whose workloads are tested: `full` has them all.
        #[arg(long, value_name = "NAME", default_value = "full", value_parser = ["quick", "full"])]
        profile: String,
        /// Deadline of one launch, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
        launch_seconds: f64,
        /// Repeat an earlier test: the seed that it names.
        #[arg(long, value_name = "NUMBER")]
        seed: Option<u64>,
        /// The form of the results.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show one task: axes, inputs, outputs, workloads, profiles.
    Show {
        /// Its name or its folder.
        task: String,
        /// The form of the results.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

const CHECK_HELP: &str = "\
What is made and must fail: zeros, the mean of each output, a copy of each input of the same shape, the outputs of
other inputs, half the work, and reduced precision unless the task says `precision: unchecked`. On every workload,
each with the inputs that are timed and under every regime. The task's own kernels must pass there.

Exit codes:
  0    all tasks were admitted
  1    unexpected failure
  2    usage, or a task that cannot be read
  3    environment: no compiler, no device, no space
  4    a task was refused";

pub(super) fn run(arguments: TasksArgs) -> anyhow::Result<Exit> {
    match arguments.command {
        TasksCommand::List { format } => list_tasks(format)?,
        TasksCommand::Check {
            tasks,
            profile,
            launch_seconds,
            seed,
            format,
        } => return check_tasks(tasks, &profile, launch_seconds, seed, format),
        TasksCommand::Show { task, format } => show_task(&task, format)?,
    }
    Ok(Exit::Done)
}

fn check_tasks(
    names: Vec<String>,
    profile: &str,
    launch_seconds: f64,
    seed: Option<u64>,
    format: Format,
) -> anyhow::Result<Exit> {
    if !(launch_seconds > 0.0 && launch_seconds <= 1e6) {
        return Err(Failure::usage(format!(
            "`--launch-seconds {launch_seconds}`: expected a number above 0"
        ))
        .into());
    }
    let names = if names.is_empty() {
        all_task_names()
    } else {
        names
    };
    // All are read before the first is tested: a mistake in the last should not take minutes to show.
    let tasks = names
        .iter()
        .map(|name| TaskFiles::find(name)?.load())
        .collect::<Result<Vec<_>, _>>()?;
    let device = CpuDevice::new()?;
    let machine = crate::worker::cpu_limits(&device.identity());
    let waiting = Spinner::new();
    let mut admissions = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        waiting.set_message(&format!(
            "testing {} ({}/{})",
            task.name,
            index + 1,
            tasks.len()
        ));
        let settings = task.settings.profiles.get(profile);
        let options = eval::JudgeOptions {
            profile: settings.context("the profile is gone")?.clone(),
            launch_seconds,
            thorough: false,
            cache: Cache::Cold,
        };
        let admission = eval::admit(&device, task, options, machine, seed)
            .with_context(|| format!("failed to test task `{}`", task.name))?;
        match format {
            Format::Human => waiting.suspend(|| print(&report::describe_admission(&admission)))?,
            Format::Jsonl => waiting.suspend(|| print_json_lines([&admission]))?,
            Format::Json => {}
        }
        admissions.push(admission);
    }
    if format == Format::Json {
        print_json(&admissions)?;
    }
    Ok(
        match admissions.iter().all(|admission| admission.admitted) {
            true => Exit::Done,
            false => Exit::Reference,
        },
    )
}

fn all_task_names() -> Vec<String> {
    let mut names = local_names();
    names.extend(embedded_names().into_iter().map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    names
}

fn list_tasks(format: Format) -> anyhow::Result<()> {
    let names = all_task_names();
    let mut tasks = Vec::new();
    for name in names {
        let files = TaskFiles::find(&name)?;
        tasks.push((files.load()?, files.origin));
    }
    let facts = || {
        tasks
            .iter()
            .map(|(task, origin)| report::task_json(task, origin))
    };
    match format {
        Format::Human => print(&report::task_table(&tasks)),
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
