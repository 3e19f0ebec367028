//! `kforge report`: the report of a run, or of several, as HTML, Markdown or JSON.
//!
//! `history` reads the run directories, `page` makes the text. Writes one file or standard output, and changes nothing else.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::files;
use crate::history::RunHistory;
use crate::page;
use crate::run::RunDirectory;

/// Arguments of `kforge report`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct ReportArgs {
    /// Run directories. Several give an index and a comparison.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// File to write; `-`: standard output. Default: `report.html` in the run directory, or `runs.html` here for several; Markdown and JSON
    /// go to standard output.
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
    let directories = &arguments.directories;
    let runs = directories.iter().map(|directory| read_run(directory));
    let runs: Vec<_> = runs.collect::<anyhow::Result<_>>()?;
    let text = match arguments.to {
        ReportForm::Html => return write_html(&runs, arguments.output, arguments.format),
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

fn write_html(
    runs: &[RunHistory],
    output: Option<PathBuf>,
    format: Format,
) -> anyhow::Result<Exit> {
    let (path, text) = match runs {
        [run] => {
            let path = output.unwrap_or_else(|| RunDirectory::new(&run.directory).report());
            (path, page::html(run)?)
        }
        runs => {
            let path = output.unwrap_or_else(|| PathBuf::from("runs.html"));
            let links: Vec<_> = runs.iter().map(|run| link_from(&path, run)).collect();
            let text = page::index_html(runs, &links)?;
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
