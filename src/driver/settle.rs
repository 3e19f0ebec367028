//! From messages to facts: artefacts written, all synced at once, the journal's lines after them, and only then the search
//! and whoever watches.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::doubt;
use super::proposer::Answer;
use super::running::{Message, Purpose};
use super::task::TaskLoop;
use crate::base::{Digest, Failure, files};
use crate::event::{Confirmed, Dueled, Edits, Event, Failed, FailedReason, Judged, Proposed};
use crate::report::Best;
use crate::search::Change;
use crate::verdict::Verdict;
use crate::worker::Outcome;

/// The largest report of a profiler that is kept, in bytes.
const MOST_REPORT: usize = 1 << 20;

impl TaskLoop<'_> {
    /// Makes everything that has arrived durable, and builds upon it. A failure of the machinery comes after what it did not touch.
    pub(super) fn settle(&mut self, messages: Vec<Message>) -> Result<()> {
        let mut events = Vec::new();
        let mut next = Vec::new();
        let mut broken = None;
        for message in messages {
            let settled = match message {
                Message::Answered(answers) => answers
                    .into_iter()
                    .try_for_each(|(step, answer)| self.answered(step, answer, &mut events)),
                Message::Rendered(step, prepared) => {
                    self.rendered(step, prepared, &mut events, &mut next)
                }
                Message::Replied(step, answer) => {
                    self.replied(step, answer, &mut events, &mut next)
                }
                Message::Read(step, reading) => self.read(step, *reading, &mut events),
                Message::Evaluated {
                    step,
                    purpose,
                    number,
                    outcome: Ok(outcome),
                } => {
                    let works = doubt::fault(&outcome).is_none();
                    let settled = self.evaluated(step, purpose, outcome, &mut events);
                    if works {
                        self.judge_works(number, &mut events);
                    }
                    settled
                }
                Message::Evaluated {
                    step,
                    purpose,
                    outcome: Err(error),
                    ..
                } => self.not_evaluated(step, purpose, error),
            };
            if let Err(error) = settled {
                broken.get_or_insert(error);
            }
        }
        self.record(events)?;
        broken.map_or(Ok(()), Err)?;
        self.follow(next)
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
            self.chronicle.note(event, &self.task);
            self.tally.note(event);
            self.refresh();
            for change in &changes {
                match change {
                    Change::Best { .. } | Change::Confirmed { .. } => improved = true,
                    Change::Diverged(divergence) => {
                        return Err(anyhow!("{divergence}")
                            .context("a question has changed since it was asked"));
                    }
                    _ => {}
                }
            }
            self.observer.event(event, &changes, &self.progress);
        }
        if improved && self.summary.is_due() {
            self.show_best()?;
            self.write_summary(None)?;
        }
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        step: u64,
        answer: Result<Answer>,
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
            Answer::NoOp(words) => return fail(FailedReason::NoOp, words),
            Answer::Failed(reason, words) => return fail(reason, words),
            Answer::Candidate(candidate) => candidate,
        };
        let kernel = Digest::of(&candidate.source);
        let holder = self.sources.holder(kernel);
        self.sources.note(step, kernel);
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
        self.sources.keep(kernel, source.clone());
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
        purpose: Purpose,
        outcome: Outcome,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let fault = doubt::fault(&outcome);
        match (purpose, outcome) {
            (
                Purpose::Judge | Purpose::JudgeAgain,
                Outcome::Verdict {
                    verdict,
                    compile_log,
                    ..
                },
            ) => self.judged(step, purpose, *verdict, (&compile_log, fault), events),
            (
                Purpose::Confirm,
                Outcome::Verdict {
                    mut verdict,
                    report,
                    ..
                },
            ) => {
                if let Some(report) = report {
                    self.keep_report(step, &mut verdict, &report)?;
                }
                events.push(Event::Confirmed(Confirmed {
                    step,
                    verdict: *verdict,
                }));
                if let Some(error) = fault {
                    self.is_last_fault(step, purpose, &error);
                }
                Ok(())
            }
            (Purpose::Proof, Outcome::Verdict { .. }) => self.proof(fault),
            (Purpose::Duel { against }, Outcome::Duel(duel)) => {
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
    fn keep_report(&mut self, step: u64, verdict: &mut Verdict, report: &[u8]) -> Result<()> {
        let evidence = verdict.evidence.as_mut();
        let Some(counters) = evidence.and_then(|evidence| evidence.counters.as_mut()) else {
            return Ok(());
        };
        if report.len() > MOST_REPORT {
            let bytes = report.len();
            counters.report = Some(format!("not kept: {bytes} bytes"));
            return Ok(());
        }
        let path = self.directory.counters(step);
        let name = path.strip_prefix(self.directory.root()).unwrap_or(&path);
        counters.report = Some(name.display().to_string());
        self.batch.write_in_new_folder(path, report)
    }

    fn judged(
        &mut self,
        step: u64,
        purpose: Purpose,
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
            Some(error) => self.try_again(step, purpose, error),
            None => {
                self.closed = 0;
                Ok(())
            }
        }
    }

    /// The machinery failed, and there is no verdict. What a person can mend ends the task; anything else is tried again.
    fn not_evaluated(&mut self, step: u64, purpose: Purpose, error: anyhow::Error) -> Result<()> {
        if error.downcast_ref::<Failure>().is_some() {
            return Err(error);
        }
        match purpose {
            Purpose::Judge | Purpose::JudgeAgain => {
                return self.try_again(step, purpose, error);
            }
            Purpose::Proof => return self.proof(Some(error)),
            Purpose::Duel { against } => {
                if self.is_last_fault(step, purpose, &error) {
                    self.give_up(Event::Dueled(Dueled {
                        step,
                        against,
                        duel: None,
                    }));
                }
            }
            Purpose::Confirm => {
                self.is_last_fault(step, purpose, &error);
            }
        }
        Ok(())
    }

    /// Brings `progress` up to date.
    pub(super) fn refresh(&mut self) {
        let (search, progress) = (&self.search, &mut self.progress);
        progress.steps = search.folded();
        progress.judged = search.counts().judged;
        progress.passed = search.counts().passed;
        progress.cells = search.archive().filled();
        progress.elapsed = self.begun.elapsed();
        if let Some(asking) = &self.asking {
            progress.spent = Some(asking.budget.spent());
            progress.waiting = asking.author.waiting();
        }
        let confirmed = search.confirmed().and_then(|confirmed| {
            Some(Best {
                step: confirmed.step,
                speedup: confirmed.speedup?,
                confirmed: true,
            })
        });
        let estimated = || {
            search.best().map(|elite| Best {
                step: elite.step,
                speedup: elite.speedup,
                confirmed: false,
            })
        };
        progress.best = confirmed.or_else(estimated);
    }

    /// Puts the best kernel and its verdict in place, where they are not there already.
    pub(super) fn show_best(&mut self) -> Result<()> {
        let Some(best) = self.progress.best else {
            // What was best until it did not pass again is none.
            for path in [self.directory.best_source(), self.directory.best_verdict()] {
                files::remove(&path)?;
            }
            self.shown = None;
            return Ok(());
        };
        if self.shown == Some((best.step, best.confirmed)) {
            return Ok(());
        }
        let verdict = match self.search.confirmed() {
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
        self.shown = Some((best.step, best.confirmed));
        Ok(())
    }

    pub(super) fn write_summary(&mut self, failure: Option<String>) -> Result<()> {
        self.progress.elapsed = self.begun.elapsed();
        self.summary
            .set(&self.progress, self.search.counts(), &self.tally, failure);
        self.summary.write(false)
    }
}
