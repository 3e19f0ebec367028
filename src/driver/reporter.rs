//! Reports the progress of one task: to the observer, which prints it, and into `summary.json`, `best.cu` and `best.json`.
//!
//! Copies its figures from the search and the model requests. Changes neither, and decides nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::asking::ModelRequests;
use super::journal_writer::JournalWriter;
use super::model_stats::ModelTally;
use super::sources::KernelSources;
use super::summary::Summary;
use super::task_time::TaskTime;
use super::yardstick::beside_yardstick;
use crate::event::{Cost, DerivedBaselines, Event, StopReason, strongest_known};
use crate::kernel;
use crate::report::{
    BestCandidate, Comparison, Continuation, EndOfWork, Observer, Progress, RunPhase, Standing,
    UnansweredSteps, Unmeasured, note_of_best,
};
use crate::search::{Elite, Search, SearchUpdate};
use crate::verdict::{StrongestBaseline, Verdict, Yardstick};

/// How often the observer hears that time passes.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the progress of one task.
pub(super) struct Reporter<'a> {
    progress: Progress,
    observer: &'a mut dyn Observer,
    summary: &'a mut Summary,
    model_tally: ModelTally,
    /// The candidate in `best.cu`, and what `best.json` says of the strongest baselines.
    best_on_disk: Option<(BestCandidate, Vec<StrongestBaseline>)>,
    last_tick: Instant,
    /// What targets are over, if it is not the task's baseline.
    yardstick: Option<Yardstick>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(
        progress: Progress,
        observer: &'a mut dyn Observer,
        summary: &'a mut Summary,
        model_tally: ModelTally,
        yardstick: Option<Yardstick>,
    ) -> Self {
        Self {
            yardstick,
            progress,
            observer,
            summary,
            model_tally,
            best_on_disk: None,
            last_tick: Instant::now(),
        }
    }

    /// What targets are over, if it is not the task's baseline.
    pub(super) fn yardstick(&self) -> Option<&Yardstick> {
        self.yardstick.as_ref()
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Records how many steps and judgements earlier processes have made.
    pub(super) fn set_steps_before(&mut self) {
        self.progress.steps_before = self.progress.steps;
        self.progress.judged_before = self.progress.judged;
    }

    pub(super) fn set_stopped(&mut self, reason: Option<StopReason>) {
        self.progress.stopped = reason;
        self.progress.phase = RunPhase::Ending;
    }

    pub(super) fn set_phase(&mut self, phase: RunPhase) {
        self.progress.phase = phase;
    }

    pub(super) fn set_unmeasured(&mut self, unmeasured: Unmeasured) {
        self.progress.unmeasured = unmeasured;
    }

    /// Sets the files that the task waits for.
    pub(super) fn set_awaited(&mut self, awaited: Vec<PathBuf>) {
        self.progress.awaited = awaited;
    }

    /// Sets the command that continues the task. Called when this process has ended its work on it.
    pub(super) fn set_continuation(&mut self, continuation: Continuation) {
        self.progress.continuation = continuation;
    }

    /// Sets how this process's work on the task has ended.
    pub(super) fn set_end(&mut self, end: EndOfWork) {
        self.progress.end = Some(end);
    }

    /// The highest cost that was reserved for a request of this task.
    pub(super) fn highest_reservation(&self) -> Option<Cost> {
        self.model_tally.highest_reservation()
    }

    /// Copies the current figures into the progress.
    pub(super) fn update(
        &mut self,
        search: &Search,
        requests: Option<&ModelRequests<'_>>,
        time: &TaskTime,
    ) {
        self.update_time(time);
        let progress = &mut self.progress;
        progress.steps = search.folded();
        progress.judged = search.counts().judged;
        progress.passed = search.counts().passed;
        progress.counted = search.counts().counted;
        progress.inconclusive = search.counts().inconclusive();
        progress.cells = search.archive().filled_cells();
        progress.all_cells = search.archive().cell_count();
        if let Some(requests) = requests {
            progress.spent = Some(requests.spent());
            progress.waiting = requests.waiting_lines();
        }
        let is_searching = progress.stopped.is_none();
        progress.best = best_candidate(search, is_searching);
        let confirmation = progress.best.filter(|best| best.standing.is_confirmed());
        let confirmation = confirmation.and_then(|best| search.confirmation(best.step));
        let yardstick = self.yardstick.as_ref();
        progress.yardstick = (yardstick.zip(confirmation)).and_then(|(over, found)| {
            Some(beside_yardstick(search, found.step, &found.speedup?, over))
        });
        progress.strongest = confirmation.map_or_else(Vec::new, |found| {
            let derived = DerivedBaselines::of(&found.verdict);
            strongest_known(derived, search.beside_strongest(found.step))
        });
        progress.comparison = search.comparison().map(|(request, duel)| Comparison {
            step: request.step,
            against: request.against,
            kernel: search
                .starting_kernel(request.against)
                .unwrap_or_default()
                .to_owned(),
            duel,
        });
    }

    fn update_time(&mut self, time: &TaskTime) {
        let progress = &mut self.progress;
        progress.elapsed = time.elapsed();
        progress.worked = time.worked();
        progress.searched = time.searched();
        progress.time = *time.tally.spent();
    }

    /// Counts a recorded event for the statistics of models.
    pub(super) fn count_event(&mut self, event: &Event) {
        self.model_tally.count_event(event);
    }

    /// The steps that asked a model and got no candidate, by reason.
    pub(super) fn unanswered(&self) -> Vec<UnansweredSteps> {
        self.model_tally.unanswered()
    }

    pub(super) fn show_start(&mut self) {
        self.observer.started(&self.progress);
    }

    pub(super) fn show_event(&mut self, event: &Event, updates: &[SearchUpdate]) {
        self.observer.event(event, updates, &self.progress);
    }

    pub(super) fn show_end(&mut self) {
        self.observer.ended(&self.progress);
    }

    /// When to call `tick` next.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.last_tick.checked_add(TICK_INTERVAL)
    }

    /// Shows the time that has passed, and which requests are waiting.
    pub(super) fn tick(&mut self) {
        self.last_tick = Instant::now();
        self.observer.waiting(&self.progress);
    }

    /// Whether enough time has passed to write the best kernel and the summary again.
    pub(super) fn may_write_summary(&self) -> bool {
        self.summary.may_be_written()
    }

    /// Writes the best kernel and its verdict, unless they are on disk already. Removes them if there is no best kernel.
    pub(super) fn write_best(
        &mut self,
        search: &Search,
        sources: &mut KernelSources,
        writer: &JournalWriter,
    ) -> Result<()> {
        let Some(best) = self.progress.best else {
            // The best kernel may have been refuted.
            writer.remove_best()?;
            self.best_on_disk = None;
            return Ok(());
        };
        let now = (best, self.progress.strongest.clone());
        if self.best_on_disk.as_ref() == Some(&now) {
            return Ok(());
        }
        let confirmation = search.confirmation(best.step);
        let mut verdict = match confirmation.filter(|_| best.standing.is_confirmed()) {
            Some(confirmation) => Some((*confirmation.verdict).clone()),
            None => elite_verdict(best.step, search, writer)?,
        };
        if let (Some(verdict), known) = (&mut verdict, &now.1)
            && !known.is_empty()
        {
            verdict.set_strongest(known);
        }
        let source = sources.text(best.step)?;
        match note_of_best(&best) {
            None => writer.write_best(&source, verdict.as_ref(), None)?,
            Some(note) => {
                let source = kernel::with_note(&source, &note, best.step);
                writer.write_best(&source, verdict.as_ref(), Some(&note))?;
            }
        }
        self.best_on_disk = Some(now);
        Ok(())
    }

    /// Writes `summary.json`. `failure`: the error message of a failed oracle or baseline.
    pub(super) fn write_summary(
        &mut self,
        search: &Search,
        time: &TaskTime,
        failure: Option<String>,
    ) -> Result<()> {
        self.update_time(time);
        self.summary
            .set_task(&self.progress, search, &self.model_tally, failure);
        self.summary.write(false)
    }
}

/// The last verdict of an elite. A step without a verdict of its own has that of a later step with the same source.
pub(super) fn elite_verdict(
    step: u64,
    search: &Search,
    writer: &JournalWriter,
) -> Result<Option<Verdict>> {
    match writer.read_verdict(step)? {
        Some(verdict) => Ok(Some(verdict)),
        None => writer.read_verdict(search.source_step(step)),
    }
}

/// The candidate to report. It is the best kernel. If there is none, it is the elite with the highest figure that no confirmation
/// refuted. The figure of an elite is the confirmed one, or else the search's. When all confirmations are done, elites that none of them
/// measured are left out.
fn best_candidate(search: &Search, is_searching: bool) -> Option<BestCandidate> {
    if let Some(confirmed) = search.best_confirmed() {
        return Some(BestCandidate {
            step: confirmed.step,
            speedup: confirmed.speedup?,
            standing: Standing::Faster,
        });
    }
    let is_measured_again = !is_searching && search.steps_to_confirm().is_empty();
    let elites = search.unrefuted_elites();
    let reported =
        elites.filter(|elite| !is_measured_again || search.confirmation(elite.step).is_some());
    let candidates = reported.map(|elite| candidate_of_elite(elite, search));
    // If two are equal, the first: elites are in the order of the search's figures.
    candidates.reduce(|best, other| {
        if other.speedup.geomean > best.speedup.geomean {
            other
        } else {
            best
        }
    })
}

fn candidate_of_elite(elite: &Elite, search: &Search) -> BestCandidate {
    let confirmation = search.confirmation(elite.step);
    let confirmed = confirmation.and_then(|confirmation| confirmation.speedup);
    BestCandidate {
        step: elite.step,
        speedup: confirmed.unwrap_or(elite.speedup),
        standing: match (confirmed, confirmation) {
            (Some(_), _) if search.is_baseline(elite.step) => Standing::NotClear,
            (Some(speedup), _) => Standing::of_confirmed(&speedup),
            (None, Some(_)) => Standing::TooNoisy,
            (None, None) => Standing::Provisional,
        },
    }
}
