//! From messages to facts: artefacts written, all synced at once, the journal's lines after them, and only then the search
//! and whoever watches.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::fault_policy;
use super::proposer::BriefOutcome;
use super::running::{EvaluationPurpose, WorkResult};
use super::task::TaskLoop;
use crate::base::{Digest, Failure, files};
use crate::event::{Confirmed, Dueled, Edits, Event, Failed, FailedReason, Judged, Proposed};
use crate::report::BestCandidate;
use crate::search::SearchUpdate;
use crate::verdict::Verdict;
use crate::worker::JobOutcome;

/// The largest report of a profiler that is kept, in bytes.
const MAX_REPORT_BYTES: usize = 1 << 20;

impl TaskLoop<'_> {
    /// Makes everything that has arrived durable, and builds upon it. A failure of the machinery comes after what it did not touch.
    pub(super) fn settle(&mut self, messages: Vec<WorkResult>) -> Result<()> {
        let mut events = Vec::new();
        let mut next = Vec::new();
        let mut broken = None;
        for message in messages {
            let settled = match message {
                WorkResult::Proposed(answers) => answers
                    .into_iter()
                    .try_for_each(|(step, answer)| self.proposal_made(step, answer, &mut events)),
                WorkResult::Rendered(step, prepared) => {
                    self.rendered(step, prepared, &mut events, &mut next)
                }
                WorkResult::Replied(step, answer) => {
                    self.replied(step, answer, &mut events, &mut next)
                }
                WorkResult::Parsed(step, reading) => {
                    self.replies_parsed(step, *reading, &mut events)
                }
                WorkResult::Evaluated {
                    step,
                    purpose,
                    number,
                    outcome: Ok(outcome),
                } => {
                    let works = fault_policy::harness_fault(&outcome).is_none();
                    let settled = self.evaluated(step, purpose, outcome, &mut events);
                    if works {
                        self.clear_give_ups(number, &mut events);
                    }
                    settled
                }
                WorkResult::Evaluated {
                    step,
                    purpose,
                    outcome: Err(error),
                    ..
                } => self.evaluation_failed(step, purpose, error),
            };
            if let Err(error) = settled {
                broken.get_or_insert(error);
            }
        }
        self.record(events)?;
        broken.map_or(Ok(()), Err)?;
        self.follow_up(next)
    }

    /// Artefacts, journal, search, observer: in this order, for all events at once.
    pub(super) fn record(&mut self, events: Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.batch.sync()?;
        for event in &events {
            self.journal.append(event)?;
        }
        self.journal.sync()?;
        let mut improved = false;
        for event in &events {
            let changes = self.search.tell(event);
            self.feedback.note(event, &self.task);
            self.model_stats.count_event(event);
            self.update_progress();
            for change in &changes {
                match change {
                    SearchUpdate::Best { .. } | SearchUpdate::Confirmed { .. } => improved = true,
                    SearchUpdate::Diverged(divergence) => {
                        return Err(anyhow!("{divergence}")
                            .context("a question has changed since it was asked"));
                    }
                    _ => {}
                }
            }
            self.observer.event(event, &changes, &self.progress);
        }
        if improved && self.summary.may_be_written() {
            self.write_best()?;
            self.write_summary(None)?;
        }
        Ok(())
    }

    pub(super) fn proposal_made(
        &mut self,
        step: u64,
        answer: Result<BriefOutcome>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let brief = self
            .open
            .remove(&step)
            .with_context(|| format!("step {step} was answered without being asked"))?;
        let answer = answer.with_context(|| format!("cannot propose for step {step}"))?;
        let mut fail = |reason, words| {
            events.push(Event::Failed(Failed {
                step,
                reason,
                of: None,
                detail: Some(words),
                kernel: None,
                edits: Edits::default(),
            }));
            Ok(())
        };
        let candidate = match answer {
            BriefOutcome::NoOp(words) => return fail(FailedReason::NoOp, words),
            BriefOutcome::Failed(reason, words) => return fail(reason, words),
            BriefOutcome::Candidate(candidate) => candidate,
        };
        let kernel = Digest::of(&candidate.source);
        let holder = self.sources.holder(kernel);
        self.sources.add(step, kernel);
        if let Some(holder) = holder {
            events.push(Event::Failed(Failed {
                step,
                reason: FailedReason::Duplicate,
                of: Some(holder),
                detail: Some(candidate.detail),
                kernel: Some(kernel),
                edits: Edits::default(),
            }));
            return Ok(());
        }
        self.batch
            .write_in_new_folder(self.directory.source(step), candidate.source.as_bytes())?;
        let source: Arc<str> = candidate.source.into();
        self.sources.cache_text(kernel, source.clone());
        self.unjudged.insert(step, source);
        events.push(Event::Proposed(Proposed {
            step,
            kernel,
            operator: brief.operator,
            parents: brief.parents,
            detail: candidate.detail,
            family: candidate.family,
            point: candidate.point,
            space: candidate.space,
            expected: None,
            edits: Edits::default(),
        }));
        Ok(())
    }

    fn evaluated(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        outcome: JobOutcome,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let fault = fault_policy::harness_fault(&outcome);
        match (purpose, outcome) {
            (
                EvaluationPurpose::Judge | EvaluationPurpose::Rejudge,
                JobOutcome::Verdict {
                    verdict,
                    compile_log,
                    ..
                },
            ) => self.judged(step, purpose, *verdict, (&compile_log, fault), events),
            (
                EvaluationPurpose::Confirm,
                JobOutcome::Verdict {
                    mut verdict,
                    report,
                    ..
                },
            ) => {
                if let Some(report) = report {
                    self.store_profiler_report(step, &mut verdict, &report)?;
                }
                events.push(Event::Confirmed(Confirmed {
                    step,
                    verdict: *verdict,
                }));
                if let Some(error) = fault {
                    self.count_fault(step, purpose, &error);
                }
                Ok(())
            }
            (EvaluationPurpose::CheckJudge, JobOutcome::Verdict { .. }) => {
                self.judge_checked(fault)
            }
            (EvaluationPurpose::Duel { against }, JobOutcome::Duel(duel)) => {
                events.push(Event::Dueled(Dueled {
                    step,
                    against,
                    duel,
                }));
                Ok(())
            }
            _ => Err(anyhow!(
                "step {step} was judged for something else than was asked"
            )),
        }
    }

    /// Puts a profiler's report beside the kernel. A large one is not kept, and the verdict says so.
    fn store_profiler_report(
        &mut self,
        step: u64,
        verdict: &mut Verdict,
        report: &[u8],
    ) -> Result<()> {
        let evidence = verdict.evidence.as_mut();
        let Some(counters) = evidence.and_then(|evidence| evidence.counters.as_mut()) else {
            return Ok(());
        };
        if report.len() > MAX_REPORT_BYTES {
            let bytes = report.len();
            counters.report = Some(format!("not kept: {bytes} bytes"));
            return Ok(());
        }
        let path = self.directory.profiler_report(step);
        let name = path.strip_prefix(self.directory.root()).unwrap_or(&path);
        counters.report = Some(name.display().to_string());
        self.batch.write_in_new_folder(path, report)
    }

    fn judged(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        mut verdict: Verdict,
        (compile_log, fault): (&str, Option<anyhow::Error>),
        events: &mut Vec<Event>,
    ) -> Result<()> {
        // The judge may know the kernel by another name.
        verdict.kernel = format!("step {step}");
        let mut copy = serde_json::to_vec_pretty(&verdict)?;
        copy.push(b'\n');
        self.batch.write(self.directory.verdict(step), &copy)?;
        if !compile_log.is_empty() {
            self.batch
                .write(self.directory.compile_log(step), compile_log.as_bytes())?;
        }
        events.push(Event::Judged(Judged { step, verdict }));
        match fault {
            Some(error) => self.retry_or_give_up(step, purpose, error),
            None => {
                self.given_up_in_a_row = 0;
                Ok(())
            }
        }
    }

    /// The machinery failed, and there is no verdict. What a person can mend ends the task; anything else is tried again.
    fn evaluation_failed(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: anyhow::Error,
    ) -> Result<()> {
        if error.downcast_ref::<Failure>().is_some() {
            return Err(error);
        }
        match purpose {
            EvaluationPurpose::Judge | EvaluationPurpose::Rejudge => {
                return self.retry_or_give_up(step, purpose, error);
            }
            EvaluationPurpose::CheckJudge => return self.judge_checked(Some(error)),
            EvaluationPurpose::Duel { against } => {
                if self.count_fault(step, purpose, &error) {
                    self.give_up(Event::Dueled(Dueled {
                        step,
                        against,
                        duel: None,
                    }));
                }
            }
            EvaluationPurpose::Confirm => {
                self.count_fault(step, purpose, &error);
            }
        }
        Ok(())
    }

    /// Brings `progress` up to date.
    pub(super) fn update_progress(&mut self) {
        let (search, progress) = (&self.search, &mut self.progress);
        progress.steps = search.folded();
        progress.judged = search.counts().judged;
        progress.passed = search.counts().passed;
        progress.cells = search.archive().filled_cells();
        progress.elapsed = self.started.elapsed();
        if let Some(asking) = &self.requests {
            progress.spent = Some(asking.budget.spent());
            progress.waiting = asking.backend.waiting_lines();
        }
        let confirmed = search.best_confirmed().and_then(|confirmed| {
            Some(BestCandidate {
                step: confirmed.step,
                speedup: confirmed.speedup?,
                confirmed: true,
            })
        });
        let estimated = || {
            search.best().map(|elite| BestCandidate {
                step: elite.step,
                speedup: elite.speedup,
                confirmed: false,
            })
        };
        progress.best = confirmed.or_else(estimated);
    }

    /// Puts the best kernel and its verdict in place, where they are not there already.
    pub(super) fn write_best(&mut self) -> Result<()> {
        let Some(best) = self.progress.best else {
            // What was best until it did not pass again is none.
            for path in [self.directory.best_source(), self.directory.best_verdict()] {
                files::remove(&path)?;
            }
            self.best_on_disk = None;
            return Ok(());
        };
        if self.best_on_disk == Some((best.step, best.confirmed)) {
            return Ok(());
        }
        let verdict = match self.search.best_confirmed() {
            Some(confirmed) => Some(confirmed.verdict.clone()),
            None => self.search.best().and_then(|elite| elite.verdict.clone()),
        };
        let source = self.sources.text(best.step)?;
        files::replace_durably(&self.directory.best_source(), source.as_bytes())?;
        if let Some(verdict) = verdict {
            let mut text = serde_json::to_vec_pretty(&*verdict)?;
            text.push(b'\n');
            files::replace_durably(&self.directory.best_verdict(), &text)?;
        }
        self.best_on_disk = Some((best.step, best.confirmed));
        Ok(())
    }

    pub(super) fn write_summary(&mut self, failure: Option<String>) -> Result<()> {
        self.progress.elapsed = self.started.elapsed();
        self.summary.set_task(
            &self.progress,
            self.search.counts(),
            &self.model_stats,
            failure,
        );
        self.summary.write(false)
    }
}
