//! `kforge tasks`: what can be searched for.

use super::{Exit, Format, print, print_json, print_json_lines};
use crate::report;
use crate::task::{TaskFiles, embedded_names, local_names};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tasks in `tasks/` and within the program.
    List {
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

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::List { format } => list(format)?,
        Command::Show { task, format } => show(&task, format)?,
    }
    Ok(Exit::Done)
}

fn list(format: Format) -> anyhow::Result<()> {
    let mut names = local_names();
    names.extend(embedded_names().into_iter().map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    let mut tasks = Vec::new();
    for name in names {
        let files = TaskFiles::find(&name)?;
        tasks.push((files.load()?, files.origin));
    }
    let facts = || {
        tasks
            .iter()
            .map(|(task, origin)| report::facts(task, origin))
    };
    match format {
        Format::Human => print(&report::tasks(&tasks)),
        Format::Json => print_json(&facts().collect::<Vec<_>>()),
        Format::Jsonl => print_json_lines(facts()),
    }
}

fn show(name: &str, format: Format) -> anyhow::Result<()> {
    let files = TaskFiles::find(name)?;
    let task = files.load()?;
    match format {
        Format::Human => print(&report::task(&task, &files.origin)),
        Format::Json => print_json(&report::facts(&task, &files.origin)),
        Format::Jsonl => print_json_lines([report::facts(&task, &files.origin)]),
    }
}
