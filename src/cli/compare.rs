//! `kforge compare`: whether runs, or arms of several runs, differ.
//!
//! `history` reads the runs and does the statistics. Measures nothing and changes nothing.

use std::path::Path;

use serde::Serialize;

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::Failure;
use crate::history::{self, Difference, RunHistory};
use crate::page;

/// Arguments of `kforge compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct CompareArgs {
    /// Two arms or more: a run directory, or several separated by commas. The first is compared with each other one.
    #[arg(required = true, num_args = 2.., value_name = "DIR[,DIR…]")]
    arms: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
One run each: whether their best kernels differ. Several runs each: whether
the arms differ. A ratio above 1 says that the second is faster.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge compare outputs/monday outputs/tuesday",
                "the best kernels of two runs",
            ),
            (
                "kforge compare a1,a2,a3 b1,b2,b3",
                "two settings with three seeds each",
            ),
        ],
        exit::REPORT_CODES,
    )
}

/// A difference with the names of its arms.
#[derive(Serialize)]
struct NamedDifference<'a> {
    arms: [&'a str; 2],
    is_shown: bool,
    #[serde(flatten)]
    difference: &'a Difference,
}

pub(super) fn run(arguments: CompareArgs) -> anyhow::Result<Exit> {
    let arms = arguments.arms.iter().map(|arm| {
        let directories = arm.split(',').filter(|directory| !directory.is_empty());
        let runs = directories.map(|directory| read_run(Path::new(directory)));
        runs.collect::<anyhow::Result<Vec<_>>>()
    });
    let arms: Vec<Vec<RunHistory>> = arms.collect::<anyhow::Result<_>>()?;
    let differences = history::compare(&arms);
    if differences.is_empty() {
        return Err(Failure::usage("the runs have no task in common")
            .hint("`kforge runs` shows the task of each run")
            .into());
    }
    let named = differences.iter().map(|difference| {
        let name = |index: usize| arguments.arms.get(index).map_or("", String::as_str);
        NamedDifference {
            arms: [name(difference.first), name(difference.second)],
            is_shown: difference.is_shown(),
            difference,
        }
    });
    match arguments.format {
        Format::Human => print(&page::comparison_text(&differences, &arguments.arms))?,
        Format::Json => print_json(&named.collect::<Vec<_>>())?,
        Format::Jsonl => print_json_lines(named)?,
    }
    Ok(Exit::Done)
}

fn read_run(directory: &Path) -> anyhow::Result<RunHistory> {
    let run = RunHistory::read(directory)?;
    for damage in &run.damage {
        tracing::warn!("{damage}; what comes before is compared");
    }
    Ok(run)
}
