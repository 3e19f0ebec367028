//! `kforge report`: the report of a run, or of several, as HTML, Markdown or JSON.
//!
//! `history` reads the run directories, `page` makes the text. Writes one file or standard output, and changes nothing else.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::arms;
use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::files;
use crate::history::{self, RunHistory};
use crate::page;
use crate::run::{RunDirectory, SweepDirectory, SweepRecord};

/// Arguments of `kforge report`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct ReportArgs {
    /// Directories of runs or sweeps. Several runs give an index and a comparison.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// File to write; `-`: standard output. Default: `report.html` in the directory, or `runs.html` here for several; Markdown and JSON go to
    /// standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the report.
    #[arg(long, value_enum, default_value_t)]
    to: ReportForm,
    /// How to print the path of a written report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ReportForm {
    /// One file for a browser, which loads nothing.
    #[default]
    Html,
    /// Text for a pull request, under 60 lines.
    Markdown,
    /// Every step with its figures.
    Json,
}

const NOTE: &str = "\
A run writes its report once a minute and at its end. The HTML file needs no
network. A damaged journal is shown up to the damage.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge report outputs/RUN",
                "write outputs/RUN/report.html, also while the run goes on",
            ),
            (
                "kforge report outputs/RUN --to markdown",
                "text for a pull request",
            ),
            (
                "kforge report outputs/* --output runs.html",
                "compare several runs",
            ),
        ],
        exit::REPORT_CODES,
    )
}

pub(super) fn run(arguments: ReportArgs) -> anyhow::Result<Exit> {
    let mut runs = Vec::new();
    for directory in &arguments.directories {
        let found = arms::runs_in(directory)?;
        let read = found.iter().map(|directory| read_run(directory));
        runs.extend(read.collect::<anyhow::Result<Vec<_>>>()?);
    }
    let only = match &arguments.directories[..] {
        [directory] => Some(SweepDirectory::new(directory)).filter(SweepDirectory::exists),
        _ => None,
    };
    let text = match arguments.to {
        ReportForm::Html => {
            let record = only.as_ref().map(SweepRecord::read).transpose()?;
            let sweep = only.as_ref().zip(record.as_ref());
            return write_html(&runs, arguments.output, arguments.format, sweep);
        }
        ReportForm::Markdown => page::markdown(&runs),
        ReportForm::Json if arguments.output.as_deref().is_none_or(is_standard_output) => {
            print_json(&page::json(&runs))?;
            return Ok(Exit::Done);
        }
        ReportForm::Json => serde_json::to_string_pretty(&page::json(&runs))? + "\n",
    };
    match arguments.output {
        Some(path) if !is_standard_output(&path) => files::replace(&path, text.as_bytes())?,
        _ => print(&text)?,
    }
    Ok(Exit::Done)
}

/// The page of one run.
///
/// # Errors
/// If the directory is no run directory.
pub(super) fn page_of(directory: &Path) -> anyhow::Result<String> {
    page::html(&RunHistory::read(directory)?)
}

/// Writes the page of one run to a file, atomically.
///
/// # Errors
/// If the directory is no run directory, or the file cannot be written.
pub(super) fn write_page(directory: &Path, path: &Path) -> anyhow::Result<()> {
    files::replace(path, page_of(directory)?.as_bytes())
}

/// Bytes of all journals of a run: what reading it costs.
pub(super) fn journal_bytes(directory: &Path) -> u64 {
    let folders = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let journals = folders.map(|entry| entry.path().join("events.jsonl"));
    let sizes = journals.filter_map(|path| std::fs::metadata(path).ok());
    sizes.map(|file| file.len()).sum()
}

/// Reads a run, and warns of what is damaged in it.
fn read_run(directory: &Path) -> anyhow::Result<RunHistory> {
    let run = RunHistory::read(directory)?;
    for damage in &run.damage {
        tracing::warn!("{damage}; the report has what comes before");
    }
    Ok(run)
}

/// Writes the page about the runs. `sweep`: if they are those of a sweep.
fn write_html(
    runs: &[RunHistory],
    output: Option<PathBuf>,
    format: Format,
    sweep: Option<Sweep<'_>>,
) -> anyhow::Result<Exit> {
    let (path, text) = match runs {
        [run] if sweep.is_none() => {
            let path = output.unwrap_or_else(|| RunDirectory::new(&run.directory).report());
            (path, page::html(run)?)
        }
        runs => {
            let path = output.or(sweep.map(|(sweep, _)| sweep.report()));
            let path = path.unwrap_or_else(|| PathBuf::from("runs.html"));
            let text = index_page(&path, runs, sweep)?;
            (path, text)
        }
    };
    if is_standard_output(&path) {
        print(&text)?;
    } else {
        files::replace(&path, text.as_bytes())?;
        let facts = || serde_json::json!({"written": [path]});
        match format {
            Format::Human => print(&format!("{}\n", path.display()))?,
            Format::Json => print_json(&facts())?,
            Format::Jsonl => print_json_lines([facts()])?,
        }
    }
    Ok(Exit::Done)
}

/// A sweep with its record.
type Sweep<'a> = (&'a SweepDirectory, &'a SweepRecord);

/// The page about several runs, for a file at `path`. `sweep`: if they are those of a sweep.
fn index_page(
    path: &Path,
    runs: &[RunHistory],
    sweep: Option<Sweep<'_>>,
) -> anyhow::Result<String> {
    let links: Vec<_> = runs.iter().map(|run| link_from(path, run)).collect();
    let comparison = sweep.map_or_else(String::new, |sweep| comparison_of(runs, sweep));
    page::index_html(runs, &links, comparison)
}

/// Whether the arms of a sweep differ, as text. Empty for a sweep with one arm.
fn comparison_of(runs: &[RunHistory], (sweep, record): Sweep<'_>) -> String {
    let arms = record.arms().into_iter().map(|(name, members)| {
        let is_member = |run: &&RunHistory| {
            let mut roots = members.iter().map(|member| sweep.run(member));
            roots.any(|root| root.root() == run.directory)
        };
        (name, runs.iter().filter(is_member).collect::<Vec<_>>())
    });
    let (names, arms): (Vec<_>, Vec<_>) = arms.filter(|(_, runs)| !runs.is_empty()).unzip();
    let differences = history::compare(&arms);
    let texts = differences
        .iter()
        .map(|difference| page::difference_text(difference, &names));
    texts.collect::<Vec<_>>().join("\n")
}

/// Writes the page about the runs of a sweep that have started, atomically.
pub(super) fn write_sweep_page(sweep: &SweepDirectory, record: &SweepRecord) -> anyhow::Result<()> {
    let started = record.started(sweep);
    let runs = started.map(|(_, run)| RunHistory::read(run.root()));
    let runs: Vec<_> = runs.collect::<anyhow::Result<_>>()?;
    let path = sweep.report();
    let page = index_page(&path, &runs, Some((sweep, record)))?;
    files::replace(&path, page.as_bytes())
}

/// Whether `--output` names standard output.
fn is_standard_output(path: &Path) -> bool {
    path == Path::new("-")
}

/// The page of a run, as seen from another page. `None` if it does not exist, or no relative path leads to it.
fn link_from(page: &Path, run: &RunHistory) -> Option<String> {
    let report = RunDirectory::new(&run.directory).report();
    let target = report.canonicalize().ok()?;
    let folder = files::parent_folder(page).canonicalize().ok()?;
    let relative = target.strip_prefix(folder).ok()?.to_str()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encoded = relative.bytes().map(|byte| match byte {
        byte if is_plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    Some(encoded.collect())
}
