//! Durable writes of a task: the files of its steps, then the journal lines that name them.
//!
//! Writes everything in a task's folder except warm starts (`open_run`) and replies in a mailbox. Decides nothing.

use anyhow::{Result, bail};
use serde::Serialize;

use super::step_lines::StepLines;
use crate::base::files::{self, WriteBatch};
use crate::event::{Event, Failed, Judged};
use crate::run::{Journal, TaskDirectory};
use crate::verdict::Verdict;

/// Largest profiler report that is kept, in bytes.
const MAX_REPORT_BYTES: usize = 1 << 20;

/// Writes the files and the journal of one task.
///
/// The files are durable only after the next `append`. A journal line never becomes durable before the files that it names.
pub(super) struct JournalWriter {
    directory: TaskDirectory,
    journal: Journal,
    /// Lines that can be read again.
    lines: StepLines,
    batch: WriteBatch,
}

impl JournalWriter {
    /// `lines`: those of the journal so far.
    pub(super) fn new(directory: TaskDirectory, journal: Journal, lines: StepLines) -> Self {
        Self {
            directory,
            journal,
            lines,
            batch: WriteBatch::default(),
        }
    }

    pub(super) fn directory(&self) -> &TaskDirectory {
        &self.directory
    }

    /// Number of lines of the journal.
    pub(super) fn line_count(&self) -> u64 {
        self.journal.line_count()
    }

    /// Makes all files written so far durable, then appends the events and makes them durable too.
    ///
    /// Briefs alone become durable with the next events: until then nothing in the journal or outside depends on them, and a
    /// resumed run decides a lost brief again, the same way.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<()> {
        let mut spans = Vec::new();
        for event in events {
            spans.push(self.journal.append(event)?);
        }
        if !events.iter().all(|event| matches!(event, Event::Asked(_))) {
            self.batch.sync()?;
            self.journal.sync()?;
        }
        for (event, span) in events.iter().zip(spans) {
            self.lines.note(event, span);
        }
        Ok(())
    }

    /// The last verdict of a step, from the journal. `None` if the step has none, or harness errors only.
    pub(super) fn read_verdict(&self, step: u64) -> Result<Option<Verdict>> {
        let Some(span) = self.lines.judged(step) else {
            return Ok(None);
        };
        match self.journal.read_again(span)? {
            Event::Judged(Judged { verdict, .. }) => Ok(Some(verdict)),
            other => bail!("step {step} has the line of `{}`", other.name()),
        }
    }

    /// Why a step has no candidate, from the journal. `None` if it has one or is not over.
    pub(super) fn read_failure(&self, step: u64) -> Result<Option<Failed>> {
        let Some(span) = self.lines.failed(step) else {
            return Ok(None);
        };
        match self.journal.read_again(span)? {
            Event::Failed(failed) => Ok(Some(failed)),
            other => bail!("step {step} has the line of `{}`", other.name()),
        }
    }

    pub(super) fn write_kernel(&mut self, step: u64, source: &str) -> Result<()> {
        self.batch
            .write_in_new_folder(self.directory.source(step), source.as_bytes())
    }

    /// Writes the copy of a verdict for people, and the compile log if there is one.
    pub(super) fn write_verdict(
        &mut self,
        step: u64,
        verdict: &Verdict,
        compile_log: &str,
    ) -> Result<()> {
        let text = pretty_json(verdict)?;
        self.batch.write_copy(self.directory.verdict(step), &text)?;
        if !compile_log.is_empty() {
            let path = self.directory.compile_log(step);
            self.batch.write_copy(path, compile_log.as_bytes())?;
        }
        Ok(())
    }

    /// Writes a profiler's report and puts its path into the verdict. Drops a report that is too large; the verdict then says so.
    pub(super) fn write_profiler_report(
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

    pub(super) fn write_prompt(&mut self, step: u64, ask: u32, prompt: &str) -> Result<()> {
        self.batch
            .write_in_new_folder(self.directory.prompt(step, ask), prompt.as_bytes())
    }

    /// Writes a reply. A mailbox reply is already in place and only becomes durable.
    pub(super) fn write_reply(&mut self, step: u64, ask: u32, text: &str) -> Result<()> {
        let path = self.directory.response(step, ask);
        if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            let file = std::fs::File::open(&path)
                .map_err(|error| files::explain_io_error("open", &path, error))?;
            files::sync(&file, &path)?;
            return files::sync_folder(files::parent_folder(&path));
        }
        self.batch.write_in_new_folder(path, text.as_bytes())
    }

    /// Writes the trace and the edits of a step's replies, if there are any.
    pub(super) fn write_reply_notes(
        &mut self,
        step: u64,
        trace: Option<&str>,
        edits: Option<&str>,
    ) -> Result<()> {
        let trace = trace.map(|text| (self.directory.trace(step), text));
        let edits = edits.map(|text| (self.directory.edits(step), text));
        for (path, text) in trace.into_iter().chain(edits) {
            self.batch.write_in_new_folder(path, text.as_bytes())?;
        }
        Ok(())
    }

    /// Writes `best.cu`, and `best.json` if there is a verdict. Durable on return. `note`: what `best.json` says first about a kernel
    /// that is not confirmed to be faster than the baseline.
    pub(super) fn write_best(
        &self,
        source: &str,
        verdict: Option<&Verdict>,
        note: Option<&str>,
    ) -> Result<()> {
        let Some(verdict) = verdict else {
            // A verdict of another kernel must not stay.
            files::remove(&self.directory.best_verdict())?;
            return files::replace_durably(&self.directory.best_source(), source.as_bytes());
        };
        let text = pretty_json(&BestVerdict {
            unconfirmed: note,
            verdict,
        })?;
        files::replace_durably(&self.directory.best_source(), source.as_bytes())?;
        files::replace_durably(&self.directory.best_verdict(), &text)
    }

    /// Removes `best.cu` and `best.json`.
    pub(super) fn remove_best(&self) -> Result<()> {
        files::remove(&self.directory.best_source())?;
        files::remove(&self.directory.best_verdict())
    }
}

/// The contents of `best.json`.
#[derive(Serialize)]
struct BestVerdict<'a> {
    /// Why the kernel is not a result, with its figure. Absent for a kernel that is confirmed to be faster than the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconfirmed: Option<&'a str>,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

fn pretty_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}
