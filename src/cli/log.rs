//! `kforge log`: appends what runs did to an experiment log.
//!
//! Existing text is never changed: the file is opened for appending. An entry that the log has already is not appended again. `page` makes
//! the entries.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::arms::runs_in;
use super::exit::{self, Exit};
use super::output::print;
use crate::base::lock_wait::{LockWait, LockWaitError, USUAL_PAUSE};
use crate::base::{Failure, files};
use crate::history::RunHistory;
use crate::page;
use crate::report::pluralize;

/// Arguments of `kforge log`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct LogArgs {
    /// Directories of runs or sweeps.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// The log; `-`: print the entries on standard output instead.
    #[arg(long, value_name = "FILE", default_value = "experiment-log.md")]
    to: PathBuf,
}

const NOTE: &str = "\
An entry has goal, hypothesis, reasoning, action, outcome, insight and next
step. The blanks in angle brackets are yours: kforge never changes text that
the file has. A run that has gone on gets another entry.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge log outputs/monday",
                "append the run to experiment-log.md",
            ),
            (
                "kforge log outputs/sweep --to notes/gdn.md",
                "an entry for each run of a sweep, in your own file",
            ),
        ],
        exit::REPORT_CODES,
    )
}

pub(super) fn run(arguments: LogArgs) -> anyhow::Result<Exit> {
    let mut entries = Vec::new();
    for directory in &arguments.directories {
        for directory in runs_in(directory)? {
            let run = RunHistory::read(&directory)?;
            for damage in &run.damage {
                tracing::warn!("{damage}; the entry has what comes before");
            }
            entries.extend(page::log_entries(&run));
        }
    }
    if arguments.to == Path::new("-") {
        let texts: Vec<_> = entries.into_iter().map(|entry| entry.text).collect();
        print(&texts.join("\n"))?;
        return Ok(Exit::Done);
    }
    let path = &arguments.to;
    let mut log = OpenLog::open(path)?;
    let count = log.append(entries)?;
    let (added, place) = (pluralize(count, "entry"), path.display());
    let added = added.replace("entrys", "entries");
    print(&match count {
        0 => format!("{place}: nothing new\n"),
        _ => format!("{place}: {added} appended\n"),
    })?;
    Ok(Exit::Done)
}

/// How long another `kforge log` may hold the log. Appending takes milliseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// A log that no other `kforge log` changes meanwhile.
struct OpenLog<'a> {
    path: &'a Path,
    file: File,
    text: String,
}

impl<'a> OpenLog<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let explain = |error| files::explain_io_error("open", path, error);
        if path.is_dir() {
            let message = format!("`{}` is a folder, not a log", path.display());
            return Err(Failure::usage(message)
                .hint("name a file with `--to`")
                .into());
        }
        files::create_folder(files::parent_folder(path))?;
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(explain)?;
        let wait = LockWait {
            files: &[&file],
            path,
            name: "the experiment log",
            try_lock: &|_| file.try_lock(),
            limit: LOCK_LIMIT,
            max_pause: USUAL_PAUSE,
        };
        match wait.wait(Instant::now()) {
            // Without locks, on some network disks, two commands at once may both append.
            Ok(()) | Err(LockWaitError::Failed { .. }) => {}
            Err(error @ LockWaitError::TimedOut(_)) => {
                return Err(Failure::environment(error.to_string())
                    .hint("end that process, or write to another file with `--to`")
                    .into());
            }
        }
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(|error| files::explain_io_error("read", path, error))?;
        // The user's text may have any encoding; the lines that are looked for are ASCII.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { path, file, text })
    }

    /// Appends the entries that the log does not have, with one write. Returns their number.
    fn append(&mut self, entries: Vec<page::LogEntry>) -> anyhow::Result<u64> {
        let mut new = String::new();
        let mut count = 0;
        for entry in entries.into_iter().filter(|entry| !entry.is_in(&self.text)) {
            if new.is_empty() && self.text.trim().is_empty() {
                new += page::LOG_HEAD;
            }
            let ends_line = self.text.is_empty() || self.text.ends_with('\n');
            new += if new.is_empty() && !ends_line {
                "\n\n"
            } else {
                "\n"
            };
            new += &entry.after(&self.text);
            count += 1;
        }
        let written = self.file.write_all(new.as_bytes());
        written
            .and_then(|()| self.file.sync_all())
            .map_err(|error| files::explain_io_error("write", self.path, error))?;
        Ok(count)
    }
}
