//! Follows a run from its files: reads what is new in its journals, again and again.
//!
//! The run may be on another machine, and its disk on the network: nothing is locked, nothing is asked of the system but the contents
//! of files (`tail`), and a last line that is not complete yet is read the next time. Files may become visible in another order than they
//! were written. Changes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::line::HistoryLine;
use super::reader::{Reader, TaskParts};
use super::run::archive_axes;
use super::run_log::{RunLine, RunLog, RunState, TaskLog};
use super::step::Outcome;
use super::tail::{Growth, JournalTail, MAX_LOOKS};
use super::task::TaskHistory;
use crate::event::{BestOfTask, Cost};
use crate::report::{Activity, BestCandidate, Improvement, LiveTask, Standing};
use crate::run::{RunDirectory, RunRecord, host_name, now_milliseconds, parse_timestamp};

/// A run that is followed.
pub(crate) struct RunFollower {
    folder: RunDirectory,
    record: RunRecord,
    journal: JournalTail,
    log: RunLog,
    tasks: Vec<FollowedTask>,
    /// How many changes the user had accepted when the tasks were read.
    accepted: usize,
    /// How many sessions the run had when its record was read.
    recorded_sessions: usize,
    /// For how many looks a record that may have changed could not be read.
    unread_looks: u32,
}

/// A task of a run that is followed.
struct FollowedTask {
    journal: JournalTail,
    reader: Reader,
    activity: Activity,
    /// How many sessions the activity knows.
    sessions: usize,
    /// How many starts of sessions were known when the journal was read.
    starts: usize,
}

/// What is known about the process that works on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunProcess {
    Running,
    /// It is no longer there.
    Gone,
    /// It runs, or ran, on another machine.
    Elsewhere,
}

impl RunFollower {
    /// Starts to follow a run. `None` if the directory has no run yet.
    ///
    /// # Errors
    /// If the record of the run cannot be read, or a newer kforge wrote it.
    pub(crate) fn open(directory: &Path) -> Result<Option<Self>> {
        let folder = RunDirectory::new(directory);
        if !folder.record().is_file() {
            return Ok(None);
        }
        let record = RunRecord::read(&folder)?;
        let mut follower = Self {
            folder,
            record,
            journal: JournalTail::default(),
            log: RunLog::default(),
            tasks: Vec::new(),
            accepted: 0,
            recorded_sessions: 0,
            unread_looks: 0,
        };
        follower.read_again()?;
        Ok(Some(follower))
    }

    /// Reads what is new. Returns whether there was anything, and the improvements, each with its task.
    ///
    /// # Errors
    /// If the record of the run can no longer be read.
    pub(crate) fn poll(&mut self) -> Result<(bool, Vec<(String, Improvement)>)> {
        let growth = self.read_run();
        let is_changed = growth == Growth::Replaced || self.log.accepted != self.accepted;
        if is_changed || self.has_passed_a_start() {
            self.read_again()?;
            return Ok((true, Vec::new()));
        }
        if self.log.sessions.len() != self.recorded_sessions {
            // A resume may have other limits.
            self.read_record()?;
        }
        let mut has_grown = growth == Growth::New;
        let mut improvements = Vec::new();
        for (task, log) in self.tasks.iter_mut().zip(&self.log.tasks) {
            let growth = task.read(log, &mut improvements);
            if growth == Growth::Replaced {
                self.read_again()?;
                return Ok((true, Vec::new()));
            }
            has_grown |= growth == Growth::New;
        }
        Ok((has_grown, improvements))
    }

    /// Whether lines of a session were read before the line that says where it starts. On a network disk the task's journal may be visible
    /// first.
    fn has_passed_a_start(&self) -> bool {
        let mut tasks = self.tasks.iter().zip(&self.log.tasks);
        tasks.any(|(task, log)| {
            let mut new = log.starts.iter().skip(task.starts);
            new.any(|start| *start < task.journal.lines())
        })
    }

    /// Reads the record again. A record that cannot be read now is read at the next look. Returns whether it was read.
    fn read_record(&mut self) -> Result<bool> {
        match RunRecord::read(&self.folder) {
            Ok(record) => {
                self.record = record;
                self.recorded_sessions = self.log.sessions.len();
                self.unread_looks = 0;
                Ok(true)
            }
            Err(error) => {
                self.unread_looks += 1;
                if self.unread_looks < MAX_LOOKS {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Reads everything from the start.
    fn read_again(&mut self) -> Result<()> {
        if !self.read_record()? {
            return Ok(());
        }
        self.journal = JournalTail::default();
        self.log = RunLog::new(self.record.tasks.len());
        self.read_run();
        self.recorded_sessions = self.log.sessions.len();
        self.accepted = self.log.accepted;
        self.tasks.clear();
        for ((name, task), log) in self.record.tasks.iter().zip(&self.log.tasks) {
            let parts = TaskParts {
                folder: self.folder.task_for_reading(name)?,
                axes: archive_axes(&self.record),
                baseline: Some(task.baseline),
                order: self.record.order,
            };
            let mut task = FollowedTask {
                journal: JournalTail::default(),
                reader: Reader::new(name, parts),
                activity: Activity::default(),
                sessions: 0,
                starts: 0,
            };
            task.read(log, &mut Vec::new());
            self.tasks.push(task);
        }
        Ok(())
    }

    fn read_run(&mut self) -> Growth {
        let names: Vec<_> = self.record.tasks.keys().cloned().collect();
        let log = &mut self.log;
        self.journal
            .read(&self.folder.journal(), |head, line: RunLine| {
                log.apply(&names, head.time, line.0);
            })
    }

    pub(crate) fn state(&self) -> RunState {
        self.log.state()
    }

    /// What cannot be read: each text names its file and line. `is_last`: there will be no other look.
    pub(crate) fn damage(&self, is_last: bool) -> impl Iterator<Item = &str> {
        let tasks = self.tasks.iter().map(|task| &task.journal);
        let journals = std::iter::once(&self.journal).chain(tasks);
        journals.filter_map(move |journal| journal.damage(is_last))
    }

    /// Whether the run's journal counts steps, or names a best kernel, that are not in the tasks' journals yet.
    pub(crate) fn lacks_lines(&self) -> bool {
        let mut tasks = self.tasks.iter().zip(&self.log.tasks);
        tasks.any(|(task, log)| {
            let history = task.reader.history();
            let best = log.best.as_ref().filter(|best| best.confirmed);
            let is_confirmed = |best: &BestOfTask| history.confirmations.contains_key(&best.step);
            history.ended() < log.steps || !best.is_none_or(is_confirmed)
        })
    }

    /// What could not be judged by which task, such as a failed oracle.
    pub(crate) fn failures(&self) -> &[String] {
        &self.log.failures
    }

    /// The machine that the last process worked on.
    pub(crate) fn host(&self) -> &str {
        let last = self.log.sessions.last();
        last.map_or(self.record.host.as_str(), |session| session.host.as_str())
    }

    /// Whether the process that the lock names still runs. Takes no lock: that could refuse a run that starts now.
    pub(crate) fn process(&self) -> RunProcess {
        if self.host() != host_name() {
            return RunProcess::Elsewhere;
        }
        if super::run_log::is_worked_on(&self.folder) {
            RunProcess::Running
        } else {
            RunProcess::Gone
        }
    }

    /// The models that have not replied to a request, each once.
    pub(crate) fn awaited_models(&self) -> BTreeSet<&str> {
        let tasks = self.tasks.iter();
        tasks
            .flat_map(|task| task.activity.awaited_models())
            .collect()
    }

    /// Whether every task has a kernel that is confirmed to be faster than the baseline.
    pub(crate) fn has_result(&self) -> bool {
        let mut tasks = self.tasks.iter().zip(&self.log.tasks);
        tasks.all(|(task, log)| {
            let is_reported = log.best.as_ref().is_some_and(|best| best.confirmed);
            is_reported || task.reader.history().best().is_some()
        })
    }

    /// The tasks in order: the state of each, `None` before it was started, and its figures now.
    pub(crate) fn tasks(&mut self) -> Vec<(Option<RunState>, LiveTask)> {
        let now = now_milliseconds();
        let last = self.log.sessions.last();
        let (total, workers) = last.map_or((0, 1), |last| (last.steps, last.in_flight));
        let budget = |key: &str| {
            let budget = self.record.config.get("budget")?;
            budget.get(key)?.as_f64()
        };
        let limits = Limits {
            total,
            workers,
            seconds: budget("seconds"),
            device_seconds: budget("device_seconds"),
            has_models: self.record.prompts.is_some(),
        };
        let tasks = self.tasks.iter_mut().zip(&self.log.tasks);
        tasks
            .map(|(task, log)| (log.state, task.live(log, &limits, now)))
            .collect()
    }
}

/// The limits of the last session of a run.
struct Limits {
    total: u64,
    workers: usize,
    seconds: Option<f64>,
    device_seconds: Option<f64>,
    has_models: bool,
}

impl FollowedTask {
    /// Reads what is new in the task's journal.
    fn read(&mut self, log: &TaskLog, improvements: &mut Vec<(String, Improvement)>) -> Growth {
        let path = self.reader.history().folder.journal();
        let (reader, activity) = (&mut self.reader, &mut self.activity);
        let name = reader.history().name.clone();
        let growth = self.journal.read(&path, |head, line: HistoryLine| {
            let now = parse_timestamp(head.time).unwrap_or(0);
            if log.starts.contains(&(head.seq - 1)) {
                activity.restart(now);
            }
            let improvement = line.note(activity, now);
            improvements.extend(improvement.map(|improvement| (name.clone(), improvement)));
            reader.apply(head, line, log);
        });
        let sessions = log.sessions.sessions();
        if let Some(last) = sessions.last()
            && sessions.len() > self.sessions
        {
            self.sessions = sessions.len();
            // The first line of the session, if there is one, has done it already.
            if log.starts.last() == Some(&self.journal.lines()) {
                self.activity
                    .restart(parse_timestamp(&last.time).unwrap_or(0));
            }
        }
        self.starts = log.starts.len();
        if growth == Growth::New {
            self.reader.fill_archive();
        }
        growth
    }

    fn live(&self, log: &TaskLog, limits: &Limits, now: u64) -> LiveTask {
        let (history, activity) = (self.reader.history(), &self.activity);
        let is_open = log.state == Some(RunState::Open);
        let is_searching = is_open && history.stopped.is_none();
        let steps = history.ended();
        let rate = activity
            .steps_per_minute(now)
            .filter(|rate| is_searching && *rate > 0.0);
        let quiet = activity.quiet(now).filter(|_| is_open);
        let worked = history.seconds + quiet.map_or(0.0, |quiet| quiet.as_secs_f64());
        let by_steps = rate.map(|rate| limits.total.saturating_sub(steps) as f64 * 60.0 / rate);
        let by_time = limits.seconds.map(|seconds| (seconds - worked).max(0.0));
        let left = match (by_steps, by_time) {
            (Some(steps), Some(time)) => Some(steps.min(time)),
            (steps, time) => time.or(steps),
        };
        let device = activity.device_share(limits.workers, now);
        LiveTask {
            task: history.name.clone(),
            doing: doing(log.state, history).to_owned(),
            steps,
            total: limits.total,
            left: left
                .filter(|_| is_searching)
                .and_then(|left| Duration::try_from_secs_f64(left).ok()),
            best: best_candidate(history, log),
            baseline: history
                .baseline
                .as_ref()
                .map_or_else(String::new, |baseline| baseline.name.clone()),
            course: activity.course().to_vec(),
            cells: (history.grid.elites().len(), history.grid.cell_count()),
            validity: validity(history),
            steps_per_minute: rate,
            spent: limits.has_models.then_some(Cost {
                tokens: history.tokens,
                nano_usd: history.nano_usd,
                ..Cost::default()
            }),
            device: device
                .filter(|_| is_searching)
                .map(|share| (share, limits.workers)),
            device_budget: limits
                .device_seconds
                .map(|budget| (self.reader.device_seconds(), budget)),
            waits: if is_open {
                activity.waits(now)
            } else {
                Vec::new()
            },
            quiet,
        }
    }
}

/// What the task does, in a few words. Empty while it searches.
fn doing(state: Option<RunState>, history: &TaskHistory) -> &'static str {
    match state {
        None => "not started",
        Some(RunState::Open | RunState::Working) if history.stopped.is_none() => "",
        Some(RunState::Open | RunState::Working) => "confirming",
        Some(RunState::Finished) => "done",
        Some(RunState::Interrupted) => "interrupted",
        Some(RunState::AwaitingReplies) => "waiting for replies",
        Some(RunState::Failed) => "failed",
    }
}

/// The share of the steps that cost an evaluation or a reply whose candidate passed.
fn validity(history: &TaskHistory) -> Option<f64> {
    let (mut passed, mut counted) = (0_u64, 0_u64);
    for step in &history.steps {
        counted += u64::from(step.counts_for_validity());
        passed += u64::from(matches!(step.outcome, Outcome::Passed | Outcome::Dismissed));
    }
    (counted > 0).then(|| passed as f64 / counted as f64)
}

/// The candidate that the task has reported at its end, or would report now.
fn best_candidate(history: &TaskHistory, log: &TaskLog) -> Option<BestCandidate> {
    let is_over = matches!(log.state, Some(RunState::Finished | RunState::Failed));
    if let Some(best) = log.best.as_ref().filter(|_| is_over) {
        let confirmation = history.confirmations.get(&best.step);
        let standing = match confirmation {
            _ if best.confirmed => Standing::Faster,
            Some(confirmation) if confirmation.speedup.is_some() => {
                Standing::of_confirmed(&best.speedup)
            }
            Some(_) => Standing::TooNoisy,
            None => Standing::Provisional,
        };
        return Some(BestCandidate {
            step: best.step,
            speedup: best.speedup,
            standing,
        });
    }
    if let Some((step, _, speedup)) = history.best() {
        return Some(BestCandidate {
            step,
            speedup,
            standing: Standing::Faster,
        });
    }
    let candidates = history.unrefuted_elites().map(|elite| {
        let confirmation = history.confirmations.get(&elite.step);
        let confirmed = confirmation.and_then(|confirmation| confirmation.speedup);
        BestCandidate {
            step: elite.step,
            speedup: confirmed.unwrap_or(elite.speedup),
            standing: match (confirmed, confirmation) {
                (Some(speedup), _) => Standing::of_confirmed(&speedup),
                (None, Some(_)) => Standing::TooNoisy,
                (None, None) => Standing::Provisional,
            },
        }
    });
    // Of equals the first.
    candidates.reduce(|best, other| {
        if other.speedup.geomean > best.speedup.geomean {
            other
        } else {
            best
        }
    })
}
