//! `kforge runs`: the runs in a folder, with what each found.
//!
//! Reads their directories as `kforge report` does, and changes nothing.

use std::path::{Path, PathBuf};

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::Failure;
use crate::history::RunHistory;
use crate::page::{self, RunLine};
use crate::run::RunDirectory;

/// Arguments of `kforge runs`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct RunsArgs {
    /// Folder with run directories.
    #[arg(value_name = "DIR", default_value = "outputs")]
    folder: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn help() -> String {
    exit::help(
        "A figure with `~` is provisional; one without was confirmed.",
        &[
            ("kforge runs", "the runs in outputs/, the latest first"),
            ("kforge runs /data/runs --format json", "for scripts"),
        ],
        exit::REPORT_CODES,
    )
}

pub(super) fn run(arguments: RunsArgs) -> anyhow::Result<Exit> {
    let mut lines: Vec<RunLine> = Vec::new();
    for directory in run_directories(&arguments.folder)? {
        match RunHistory::read(&directory) {
            Ok(run) => lines.extend(page::run_lines(&run)),
            // One bad directory does not hide the others.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    lines.sort_by(|one, other| other.started.cmp(&one.started));
    match arguments.format {
        Format::Human if lines.is_empty() => {
            print(&format!("no runs in {}\n", arguments.folder.display()))?;
        }
        Format::Human => print(&page::runs_table(&lines))?,
        Format::Json => print_json(&lines)?,
        Format::Jsonl => print_json_lines(&lines)?,
    }
    Ok(Exit::Done)
}

/// The run directories in a folder; the folder itself if it is one.
fn run_directories(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_run = |path: &Path| RunDirectory::new(path).record().is_file();
    if is_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Failure::usage(format!("cannot read `{}`: {error}", folder.display()))
            .hint("name the folder that has the run directories")
    })?;
    let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    directories.retain(|path| is_run(path));
    directories.sort();
    Ok(directories)
}
