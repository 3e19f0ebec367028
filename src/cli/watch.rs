//! `kforge watch`: follows a run from its files, on this machine or another.
//!
//! `history` reads the journals, `report` makes the lines. Prints to standard output and changes nothing: a run does not know that it is
//! watched.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::exit::{self, Exit};
use super::output::{print, use_colour};
use crate::base::text::shell_quote;
use crate::base::{Failure, interrupt};
use crate::history::{RunFollower, RunProcess, RunState};
use crate::report::{
    LiveTask, TERMINAL_WIDTH, TerminalBlock, TerminalSize, live_block, live_line, wrap,
};
use crate::run::RunDirectory;

/// How often the files are looked at. A look that takes long is repeated less often.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// At most this share of the time is spent on looks.
const POLL_SHARE: u32 = 10;

/// A run whose process is gone, and whose files do not change for this time, has ended.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// A run that has ended, and of whose steps some cannot be read, is waited for if its files changed within this time: on a network disk its
/// own journal may be visible first.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(10);

/// How often the state is printed where the output is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Arguments of `kforge watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct WatchArgs {
    /// The run's directory. It may not exist yet.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print the state once.
    #[arg(long)]
    once: bool,
}

const NOTE: &str = "\
Reads the files of the run alone, so the run may be on another machine that
shares the disk. Ends when the run ends. Ctrl-C ends only the watching.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge watch outputs/first", "follow a run until it ends"),
            (
                "kforge watch outputs/first && kforge promote outputs/first",
                "do something with a result as soon as there is one",
            ),
            (
                "kforge watch outputs/first --once",
                "the state now, for a script",
            ),
        ],
        exit::WATCH_CODES,
    )
}

pub(super) fn run(arguments: WatchArgs) -> anyhow::Result<Exit> {
    interrupt::set_last_message("\nno longer watching; the run goes on\n".to_owned());
    let directory = &arguments.directory;
    let mut view = WatchView::new();
    let Some(mut follower) = wait_for_run(&arguments, &mut view)? else {
        view.print_above(&format!("no run in {} yet", directory.display()))?;
        return Ok(Exit::Stopped);
    };
    let mut last_growth = Instant::now();
    loop {
        let started = Instant::now();
        let (has_grown, improvements) = follower.poll()?;
        if has_grown {
            last_growth = started;
        }
        let end = run_end(&follower, last_growth.elapsed(), arguments.once);
        for (task, improvement) in improvements {
            let (step, speedup) = (improvement.step, improvement.speedup);
            view.note_improvement(&format!(
                "{task}: step {step}: ~{speedup:.2}x, the fastest so far"
            ))?;
        }
        view.show(&mut follower, end.is_some())?;
        if let Some(end) = end {
            view.finish(&end.message(directory, &follower))?;
            return Ok(end.exit(&follower));
        }
        std::thread::sleep(POLL_INTERVAL.max(started.elapsed() * POLL_SHARE));
    }
}

/// Waits until the directory has a run. `None` if it has none and `--once` is given.
fn wait_for_run(
    arguments: &WatchArgs,
    view: &mut WatchView,
) -> anyhow::Result<Option<RunFollower>> {
    let directory = &arguments.directory;
    let mut is_first = true;
    loop {
        if let Some(follower) = RunFollower::open(directory)? {
            return Ok(Some(follower));
        }
        check_is_no_other_folder(directory)?;
        if arguments.once {
            return Ok(None);
        }
        if is_first {
            view.print_above(&format!("waiting for a run in {}", directory.display()))?;
            is_first = false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// # Errors
/// A usage failure if the path is a file, or a folder of runs.
fn check_is_no_other_folder(directory: &Path) -> anyhow::Result<()> {
    if directory.is_file() {
        let failure = Failure::usage(format!("`{}` is a file", directory.display()));
        return Err(failure
            .hint("name the directory of a run, such as outputs/first")
            .into());
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let runs = entries.filter_map(|entry| {
        let record = RunDirectory::new(entry.path()).record();
        let changed = record.metadata().ok()?.modified().ok()?;
        Some((changed, entry.path()))
    });
    match runs.max() {
        None => Ok(()),
        Some((_, latest)) => {
            let failure = Failure::usage(format!(
                "`{}` is a folder of runs, not a run",
                directory.display()
            ));
            let command = shell_quote(&latest);
            Err(failure
                .hint(format!("`kforge watch {command}` follows the latest"))
                .into())
        }
    }
}

/// Why watching ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchEnd {
    Finished,
    Failed,
    Interrupted,
    AwaitingReplies,
    /// Its process is gone, and the run has not ended.
    Gone,
    /// It goes on, and only one look was wanted.
    StillRuns,
}

/// Whether there is nothing more to watch. `quiet`: the time since the files have last changed.
fn run_end(follower: &RunFollower, quiet: Duration, once: bool) -> Option<WatchEnd> {
    let process = follower.process();
    let state = follower.state();
    let end = match state {
        RunState::Finished => Some(WatchEnd::Finished),
        RunState::Failed => Some(WatchEnd::Failed),
        RunState::Interrupted => Some(WatchEnd::Interrupted),
        RunState::AwaitingReplies => Some(WatchEnd::AwaitingReplies),
        RunState::Open | RunState::Working => None,
    };
    match (end, process) {
        // It may write its report, or have been resumed just now.
        (Some(_), RunProcess::Running) => once.then_some(WatchEnd::StillRuns),
        (Some(_), _) if !once && quiet < LAST_LINES_WITHIN && follower.lacks_lines() => None,
        (Some(end), _) => Some(end),
        (None, RunProcess::Gone) if once || quiet >= GONE_AFTER => Some(WatchEnd::Gone),
        (None, _) => once.then_some(WatchEnd::StillRuns),
    }
}

impl WatchEnd {
    fn exit(self, follower: &RunFollower) -> Exit {
        match self {
            WatchEnd::Finished if follower.has_result() => Exit::Done,
            WatchEnd::Finished => Exit::NoResult,
            WatchEnd::Failed => Exit::Reference,
            WatchEnd::Interrupted | WatchEnd::AwaitingReplies | WatchEnd::Gone => Exit::Stopped,
            WatchEnd::StillRuns => Exit::Done,
        }
    }

    fn message(self, directory: &Path, follower: &RunFollower) -> String {
        let quoted = shell_quote(directory);
        match self {
            WatchEnd::Finished => {
                format!("the run has ended; `kforge report {quoted}` shows what it found")
            }
            WatchEnd::Failed => format!("the run has failed: {}", follower.failures().join("; ")),
            WatchEnd::Interrupted => {
                let models: Vec<_> = follower.awaited_models().into_iter().collect();
                let waited = match models[..] {
                    [] => String::new(),
                    _ => format!(" while it waited for {}", models.join(", ")),
                };
                format!("the run was interrupted{waited}; `kforge resume {quoted}` continues it")
            }
            WatchEnd::AwaitingReplies => format!(
                "the run waits for replies in its mailbox; `kforge resume {quoted}` continues once they are there"
            ),
            WatchEnd::Gone => format!(
                "the run has not ended, and its process is gone; `kforge resume {quoted}` continues it"
            ),
            WatchEnd::StillRuns => match follower.process() {
                RunProcess::Elsewhere => format!(
                    "the run has not ended; its process is on `{}`, so whether it is alive cannot be seen here",
                    follower.host()
                ),
                _ => "the run goes on".to_owned(),
            },
        }
    }
}

/// What is on the screen.
struct WatchView {
    /// The block, if standard output is a terminal that knows escape codes.
    block: Option<TerminalBlock>,
    has_colour: bool,
    last_line: Option<Instant>,
    /// The states of the tasks in the last line.
    last_states: Vec<String>,
    /// Damage that was reported.
    damage: Vec<String>,
}

impl WatchView {
    fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let stdout = std::io::stdout();
        let has_block = stdout.is_terminal() && !is_dumb;
        Self {
            block: has_block.then(TerminalBlock::default),
            has_colour: use_colour(&stdout),
            last_line: None,
            last_states: Vec::new(),
            damage: Vec::new(),
        }
    }

    /// Prints a text that stays on the screen.
    fn print_above(&mut self, text: &str) -> anyhow::Result<()> {
        let Some(block) = &mut self.block else {
            return print(&format!("{text}\n"));
        };
        let size = terminal_size();
        let cleared = block.clear(size.columns);
        print(&(cleared + &wrap(text, TERMINAL_WIDTH.min(size.columns), 0)))
    }

    /// An improvement stays on a terminal. Elsewhere the state, which has the new best, is printed now.
    fn note_improvement(&mut self, text: &str) -> anyhow::Result<()> {
        self.last_line = None;
        if self.block.is_some() {
            self.print_above(text)?;
        }
        Ok(())
    }

    /// Shows the state of the run. `is_last`: it is the last time.
    fn show(&mut self, follower: &mut RunFollower, is_last: bool) -> anyhow::Result<()> {
        let damage: Vec<_> = follower.damage(is_last).map(str::to_owned).collect();
        for text in damage {
            if !self.damage.contains(&text) {
                // The hint that follows is for a resume.
                let first = text.lines().next().unwrap_or_default();
                self.print_above(&format!("damaged: {first}"))?;
                self.damage.push(text);
            }
        }
        let tasks = follower.tasks();
        if let Some(block) = &mut self.block {
            let size = terminal_size();
            let lines = block_lines(&tasks, size, self.has_colour);
            return print(&block.draw("", &lines, size.columns));
        }
        let states: Vec<_> = tasks.iter().map(|(_, task)| task.doing.clone()).collect();
        let is_due = self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if !is_due && !is_last && states == self.last_states {
            return Ok(());
        }
        let shown = tasks.iter().enumerate().filter(|(index, (state, _))| {
            let is_new = self.last_states.get(*index) != states.get(*index);
            state.is_some() && (is_new || *state == Some(RunState::Open))
        });
        let lines: String = shown.map(|(_, (_, task))| live_line(task) + "\n").collect();
        self.last_line = Some(Instant::now());
        self.last_states = states;
        print(&lines)
    }

    /// Prints the last line below the block.
    fn finish(&mut self, text: &str) -> anyhow::Result<()> {
        match self.block {
            Some(_) => print(&wrap(text, TERMINAL_WIDTH.min(terminal_size().columns), 0)),
            None => print(&format!("{text}\n")),
        }
    }
}

/// The lines of all tasks: one for each that has ended, a block for each that is worked on, and one for all that follow.
fn block_lines(
    tasks: &[(Option<RunState>, LiveTask)],
    size: TerminalSize,
    has_colour: bool,
) -> Vec<String> {
    let one_line = |task: &LiveTask| {
        let size = TerminalSize { rows: 3, ..size };
        live_block(task, size, has_colour)
    };
    let (mut ended, mut worked_on, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for (state, task) in tasks {
        match state {
            None => waiting.push(task.task.as_str()),
            Some(RunState::Open | RunState::Working) => {
                worked_on.extend(live_block(task, size, has_colour));
            }
            Some(_) if tasks.len() == 1 => worked_on.extend(live_block(task, size, has_colour)),
            Some(_) => ended.extend(one_line(task)),
        }
    }
    if !waiting.is_empty() {
        let text = format!("then {}", waiting.join(", "));
        let columns = size.columns.saturating_sub(1).max(1);
        worked_on.push(console::truncate_str(&text, columns, "…").into_owned());
    }
    // Where the terminal is low, what is worked on matters most.
    let room = size.rows.saturating_sub(1 + worked_on.len());
    let hidden = ended.len().saturating_sub(room);
    ended.drain(..hidden);
    ended.extend(worked_on);
    ended
}

fn terminal_size() -> TerminalSize {
    let (rows, columns) = console::Term::stdout().size_checked().unwrap_or((24, 80));
    TerminalSize {
        columns: usize::from(columns),
        rows: usize::from(rows),
    }
}
