//! `kforge runs`: the runs in a folder, with what each found.
//!
//! Reads their directories as `kforge report` does, and changes nothing.

use std::path::{Path, PathBuf};

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use super::sweep::lines_of;
use crate::base::Failure;
use crate::history::RunHistory;
use crate::page::{self, RunLine};
use crate::run::{RunDirectory, SweepDirectory, SweepRecord};

/// Arguments of `kforge runs`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct RunsArgs {
    /// Folder with directories of runs and sweeps.
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
    for found in find_runs(&arguments.folder)? {
        match found {
            Found::Run(directory) => match RunHistory::read(&directory) {
                Ok(run) => lines.extend(page::run_lines(&run)),
                // One bad directory does not hide the others.
                Err(error) => tracing::warn!("{error:#}"),
            },
            Found::Sweep(sweep) => match SweepRecord::read(&sweep) {
                Ok(record) => {
                    let runs = record.runs.iter();
                    lines.extend(runs.flat_map(|run| lines_of(&sweep, run)));
                }
                Err(error) => tracing::warn!("{error:#}"),
            },
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

/// What a folder is.
enum Found {
    Run(PathBuf),
    Sweep(SweepDirectory),
}

/// The runs and sweeps in a folder; the folder itself if it is one.
fn find_runs(folder: &Path) -> anyhow::Result<Vec<Found>> {
    let what_is = |path: PathBuf| {
        let sweep = SweepDirectory::new(&path);
        if sweep.exists() {
            return Some(Found::Sweep(sweep));
        }
        let is_run = RunDirectory::new(&path).record().is_file();
        is_run.then_some(Found::Run(path))
    };
    if let Some(found) = what_is(folder.to_owned()) {
        return Ok(vec![found]);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Failure::usage(format!("cannot read `{}`: {error}", folder.display()))
            .hint("name the folder that has the run directories")
    })?;
    let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    directories.sort();
    Ok(directories.into_iter().filter_map(what_is).collect())
}
