//! Replays the journal of a task: folds its events into a search and collects what the last process left open.
//!
//! Opens the journal, or creates it, and drops a torn last line; writes nothing else. Starts no work.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use super::asking::{FeedbackLog, RecordedRequests};
use super::model_stats::ModelTally;
use super::sources::KernelSources;
use super::step_lines::StepLines;
use super::task_time::EarlierTime;
use super::time_tally::TimeTally;
use super::work_time::{LineKind, WorkTimeCounter};
use crate::base::Failure;
use crate::event::{Brief, Event, JudgedSummary, ReplayedEvent, Stopped};
use crate::run::{self, Journal, LineHead, TaskDirectory, TaskSessions};
use crate::search::{Search, SearchUpdate};
use crate::verdict::Status;

/// A task as its journal describes it.
pub(super) struct ReplayedTask {
    pub(super) journal: Journal,
    pub(super) lines: StepLines,
    pub(super) search: Search,
    pub(super) sources: KernelSources,
    pub(super) next_step: u64,
    /// The briefs of the steps that have neither a candidate nor a failure, by step.
    pub(super) open: BTreeMap<u64, Brief>,
    /// Steps with a candidate and without a verdict.
    pub(super) unjudged: Vec<u64>,
    /// The steps of the elites that must be judged again after an accepted change (`--accept-changes`), and before them the fastest
    /// starting kernel, against which the others may be timed. Empty without one. An
    /// attempt that ended in a harness error does not count.
    pub(super) stale: Vec<u64>,
    pub(super) stopped: Option<Stopped>,
    /// Requests and replies of open steps.
    pub(super) requests: BTreeMap<u64, RecordedRequests>,
    pub(super) feedback: FeedbackLog,
    pub(super) model_tally: ModelTally,
    /// Time that earlier processes worked on this task, each up to its last line.
    pub(super) earlier: EarlierTime,
    pub(super) time_tally: TimeTally,
}

/// Replays a task's journal, or creates it. `search`: a new search. `earlier`: the earlier processes of this task, from the journal of
/// the run.
///
/// # Errors
/// - The journal is damaged.
/// - It has an impossible number.
/// - `search` decides a recorded brief differently, and no change was accepted.
pub(super) fn replay(
    directory: &TaskDirectory,
    search: Search,
    earlier: &TaskSessions,
) -> Result<ReplayedTask> {
    let path = directory.journal();
    let mut replay = Replay::new(directory, search, earlier);
    let journal = Journal::open(&path, |head, event: ReplayedEvent| {
        let checked = event.check_numbers(head.seq);
        checked.map_err(|text| run::damaged_line(&path, head.seq, &text))?;
        let applied = replay.apply(head, &event);
        applied.map_err(|text| {
            Failure::usage(format!("{}:{}: {text}", path.display(), head.seq))
                .hint("restore the kforge version, the config and the journal that the run used")
                .into()
        })
    })?;
    Ok(replay.finish(journal))
}

/// The state of a replay between two lines.
struct Replay<'e> {
    earlier: &'e TaskSessions,
    work_time: WorkTimeCounter<'e>,
    lines: StepLines,
    search: Search,
    sources: KernelSources,
    last_asked: u64,
    stopped: Option<Stopped>,
    /// Whether the search has forgotten the figures from before a change of device, judge or task.
    has_forgotten: bool,
    /// Steps that were judged after the last accepted change.
    judged_since_change: HashSet<u64>,
    requests: BTreeMap<u64, RecordedRequests>,
    feedback: FeedbackLog,
    model_tally: ModelTally,
    time_tally: TimeTally,
}

impl<'e> Replay<'e> {
    fn new(directory: &TaskDirectory, search: Search, earlier: &'e TaskSessions) -> Self {
        Self {
            earlier,
            work_time: WorkTimeCounter::new(earlier),
            lines: StepLines::default(),
            time_tally: TimeTally::new(search.starting_kernel_count()),
            search,
            sources: KernelSources::new(directory.clone()),
            last_asked: 0,
            stopped: None,
            has_forgotten: false,
            judged_since_change: HashSet::new(),
            requests: BTreeMap::new(),
            feedback: FeedbackLog::default(),
            model_tally: ModelTally::default(),
        }
    }

    /// Applies one line. The error says how the recorded brief differs from the brief that the search decides.
    fn apply(&mut self, head: &LineHead<'_>, event: &ReplayedEvent) -> Result<(), String> {
        let kind = LineKind::of(event);
        self.work_time.note_line(head.seq, head.time, kind);
        self.lines.note_replayed(event, head.span);
        self.time_tally.count_replayed(event);
        let has_changed = self.earlier.has_changed();
        let is_after_change = self.earlier.is_after_change(head.seq, head.time);
        if (self.earlier).is_after_change_of_figures(head.seq, head.time) {
            self.forget_figures();
        }
        let updates = match event {
            ReplayedEvent::Judged(judged) => {
                // A harness error is not a measurement.
                let is_measured = judged.verdict.status != Status::HarnessError;
                if is_measured && has_changed && is_after_change {
                    self.judged_since_change.insert(judged.step);
                }
                self.apply_judged(judged)
            }
            // Confirmations from before the change no longer count.
            ReplayedEvent::Other(event)
                if matches!(
                    **event,
                    Event::Confirmed(_) | Event::Compared(_) | Event::StrongestCompared(_)
                ) && !is_after_change =>
            {
                return Ok(());
            }
            ReplayedEvent::Other(event) => self.apply_other(event),
        };
        for update in updates {
            // After an accepted change the recorded briefs hold. Otherwise this search must decide the same ones.
            if let SearchUpdate::Diverged(divergence) = update
                && !has_changed
            {
                return Err(divergence.to_string());
            }
        }
        Ok(())
    }

    /// Once: before the first event after the change, also if it is still to come.
    fn forget_figures(&mut self) {
        if !self.has_forgotten {
            self.search.forget_figures();
            self.has_forgotten = true;
        }
    }

    fn apply_judged(&mut self, judged: &JudgedSummary) -> Vec<SearchUpdate> {
        let JudgedSummary { step, verdict } = judged;
        self.model_tally.count_verdict(*step, verdict);
        self.search.tell_judged(*step, verdict)
    }

    fn apply_other(&mut self, event: &Event) -> Vec<SearchUpdate> {
        self.feedback.note(event);
        self.model_tally.count_event(event);
        match event {
            Event::Asked(brief) => self.last_asked = self.last_asked.max(brief.step),
            Event::Sent(sent) => self.requests.entry(sent.step).or_default().note(event),
            Event::Replied(replied) => self.requests.entry(replied.step).or_default().note(event),
            Event::Proposed(proposed) => {
                self.requests.remove(&proposed.step);
                self.sources.add(proposed.step, proposed.kernel);
                self.sources.add_form(proposed.form, proposed.kernel);
            }
            Event::Failed(failed) => {
                self.requests.remove(&failed.step);
                if let Some(kernel) = failed.kernel {
                    self.sources.add(failed.step, kernel);
                }
            }
            Event::Stopped(stopped) => self.stopped = Some(stopped.clone()),
            Event::Judged(_)
            | Event::Dueled(_)
            | Event::Confirmed(_)
            | Event::Compared(_)
            | Event::StrongestCompared(_) => {}
        }
        self.search.tell(event)
    }

    fn finish(mut self, journal: Journal) -> ReplayedTask {
        if self.earlier.has_changed_figures() {
            self.forget_figures();
        }
        let mut search = self.search;
        // The machine may be quieter now.
        search.retry_noisy_confirmations();
        let mut fastest_start = None;
        if self.earlier.has_changed() {
            // It was the anchor, or may become it. A slow one may take a minute, and no candidate would be timed against it.
            let before = search.likely_anchor();
            search.keep_timed_starts(|step| self.judged_since_change.contains(&step));
            if search.timed_starts().is_some_and(|now| now.is_empty()) {
                fastest_start = before;
            }
        }
        let mut unjudged = Vec::new();
        let mut open = BTreeMap::new();
        for unfinished in search.unfinished() {
            if unfinished.proposed.is_some() {
                unjudged.push(unfinished.step);
            } else if let Some(brief) = search.ask(unfinished.step) {
                open.insert(unfinished.step, brief);
            }
        }
        let stale = if self.earlier.has_changed() {
            let elites = search.archive().elites().iter().map(|elite| elite.step);
            let elites = elites.filter(|step| Some(*step) != fastest_start);
            (fastest_start.into_iter().chain(elites))
                .filter(|step| !self.judged_since_change.contains(step))
                .collect()
        } else {
            Vec::new()
        };
        ReplayedTask {
            journal,
            lines: self.lines,
            sources: self.sources,
            next_step: self.last_asked + 1,
            open,
            unjudged,
            stale,
            stopped: self.stopped,
            requests: self.requests,
            feedback: self.feedback,
            model_tally: self.model_tally,
            earlier: self.work_time.finish(),
            time_tally: self.time_tally,
            search,
        }
    }
}
