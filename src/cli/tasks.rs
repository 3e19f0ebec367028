//! `kforge tasks`: what can be searched for.

use super::{Exit, print};
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
    List,
    /// Show one task: axes, inputs, outputs, workloads, profiles.
    Show {
        /// Its name or its folder.
        task: String,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::Show { task } => {
            let files = TaskFiles::find(&task)?;
            print(&report::task(&files.load()?, &files.origin))?;
        }
        Command::List => {
            let mut names = local_names();
            names.extend(embedded_names().into_iter().map(str::to_owned));
            names.sort_unstable();
            names.dedup();
            let mut tasks = Vec::new();
            for name in names {
                let files = TaskFiles::find(&name)?;
                tasks.push((files.load()?, files.origin));
            }
            print(&report::tasks(&tasks))?;
        }
    }
    Ok(Exit::Done)
}
