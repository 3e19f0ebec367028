//! A journal: one JSON object a line, appended and synced before anybody is told.
//!
//! Opening one drops a torn last line (a copy is kept). Any other fault is an error with its line: nothing is ever repaired.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::time;
use crate::base::{Failure, files};
use crate::event::{Event, RunEvent, SCHEMA};

/// An open journal, at its end.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// The number of the next line, counted from 1.
    next_seq: u64,
    /// Lines that are yet to be written.
    pending: Vec<u8>,
    /// A write or a sync failed: what the disk holds is unknown.
    broken: bool,
}

/// What every line begins with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LineHead<'a> {
    pub schema: u32,
    pub seq: u64,
    pub time: &'a str,
    pub event: &'a str,
}

/// What a journal's lines say.
pub trait JournalLine: Sized {
    fn name(&self) -> &'static str;

    /// The step that the line belongs to, if it belongs to one.
    fn step(&self) -> Option<u64>;

    /// Appends the payload as a JSON object.
    fn write(&self, buffer: &mut Vec<u8>) -> serde_json::Result<()>;

    /// Reads the payload out of a whole line; `None` for an unknown name.
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>>;
}

impl Journal {
    /// Opens a journal, creating it where it is missing, and hands each of its lines to `visit` in order.
    pub fn open<L: JournalLine>(
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<Self> {
        let fault = |action: &'static str| {
            move |error: std::io::Error| files::explain_io_error(action, path, error)
        };
        let fresh = !path.exists();
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(fault("open"))?;
        if fresh {
            files::sync_folder(path.parent().unwrap_or(path))?;
        }
        let walked = scan(path, &file, &mut visit)?;
        if let Some(torn) = walked.torn {
            save_torn_line(path, &torn, walked.next)?;
            file.set_len(walked.whole_bytes).map_err(fault("shorten"))?;
            files::sync(&file, path)?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            next_seq: walked.next,
            pending: Vec::new(),
            broken: false,
        })
    }

    /// Hands each line of somebody else's journal to `visit`, and changes nothing: a last line that is only just being written, or
    /// was torn, is left out.
    pub(crate) fn read<L: JournalLine>(
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<()> {
        let file =
            File::open(path).map_err(|error| files::explain_io_error("open", path, error))?;
        scan(path, &file, &mut visit).map(|_| ())
    }

    /// Whether no line was ever written.
    pub fn is_empty(&self) -> bool {
        self.next_seq == 1
    }

    /// Adds a line. It is on disk only after `sync`.
    pub fn append(&mut self, event: &impl JournalLine) -> Result<()> {
        let time = time::timestamp(time::now_milliseconds());
        write!(
            self.pending,
            "{{\"schema\":{SCHEMA},\"seq\":{},\"time\":\"{time}\",",
            self.next_seq
        )?;
        if let Some(step) = event.step() {
            write!(self.pending, "\"step\":{step},")?;
        }
        write!(self.pending, "\"event\":\"{}\"", event.name())?;
        let payload = self.pending.len();
        event.write(&mut self.pending)?;
        merge_payload(&mut self.pending, payload, event.step())?;
        self.pending.push(b'\n');
        self.next_seq += 1;
        Ok(())
    }

    /// Writes all lines added since the last call, and makes them durable. After an error the journal takes no more.
    pub fn sync(&mut self) -> Result<()> {
        if self.broken {
            bail!(
                "`{}` takes no more lines since a write to it failed",
                self.path.display()
            );
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.broken = true;
        self.file
            .write_all(&self.pending)
            .map_err(|error| files::explain_io_error("write", &self.path, error))?;
        files::sync(&self.file, &self.path)?;
        self.broken = false;
        self.pending.clear();
        Ok(())
    }
}

/// How far a journal could be read.
struct JournalScan {
    /// The number of the line behind the last whole one.
    next: u64,
    /// The length of all whole lines.
    whole_bytes: u64,
    /// The last line, where it was not written to its end.
    torn: Option<Vec<u8>>,
}

/// Hands each whole line to `visit`, in order.
fn scan<L: JournalLine>(
    path: &Path,
    file: &File,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<JournalScan> {
    let fault = |error: std::io::Error| files::explain_io_error("read", path, error);
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    let mut walked = JournalScan {
        next: 1,
        whole_bytes: 0,
        torn: None,
    };
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(fault)?;
        if length == 0 {
            return Ok(walked);
        }
        let next = walked.next;
        match read_line::<L>(&line, next) {
            Ok((head, event)) => visit(&head, event)?,
            Err(LineFault::Newer(schema)) => {
                return Err(Failure::usage(format!(
                    "{}:{next}: written by a newer kforge (schema {schema}, this one reads up to {SCHEMA})",
                    path.display()
                ))
                .hint("go on with the version that wrote it, or a later one")
                .into());
            }
            Err(LineFault::Invalid(reason)) => {
                let last = reader.fill_buf().map_err(fault)?.is_empty();
                if !last || is_complete_line(&line) {
                    return Err(Failure::usage(format!(
                        "{}:{next}: {reason}",
                        path.display()
                    ))
                    .hint("the journal was changed or damaged: put back a copy from before that; nothing was changed now")
                    .into());
                }
                walked.torn = Some(line);
                return Ok(walked);
            }
        }
        walked.next += 1;
        walked.whole_bytes += length as u64;
    }
}

/// Turns `…"event":"judged"` + `{"step":7,"verdict":…}` into one object, its step written once.
fn merge_payload(buffer: &mut Vec<u8>, payload: usize, step: Option<u64>) -> Result<()> {
    let start = match step {
        Some(step) => format!("{{\"step\":{step}"),
        None => "{".to_owned(),
    };
    let rest = &buffer[payload..];
    if !rest.starts_with(start.as_bytes()) {
        bail!("a payload does not begin with its step");
    }
    // What follows is a comma before the next key, the first key itself, or the closing brace.
    let comma = step.is_none() && rest.get(1) != Some(&b'}');
    buffer.splice(payload..payload + start.len(), comma.then_some(b','));
    Ok(())
}

/// Whether a line was written to its end. Then it is no torn one, and what is wrong with it is a fault.
fn is_complete_line(line: &[u8]) -> bool {
    line.ends_with(b"\n") && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

/// Why a line was not read.
enum LineFault {
    Newer(u32),
    Invalid(String),
}

fn read_line<L: JournalLine>(line: &[u8], expected: u64) -> Result<(LineHead<'_>, L), LineFault> {
    let bad = |error: serde_json::Error| LineFault::Invalid(format!("not a journal line: {error}"));
    let Some(text) = line.strip_suffix(b"\n") else {
        return Err(LineFault::Invalid("the line does not end".to_owned()));
    };
    let text = std::str::from_utf8(text)
        .map_err(|error| LineFault::Invalid(format!("not a journal line: {error}")))?;
    let head = match parse_head(text) {
        Some(head) => head,
        None => {
            let schema = serde_json::from_str::<Schema>(text).map_err(bad)?.schema;
            if schema > SCHEMA {
                return Err(LineFault::Newer(schema));
            }
            serde_json::from_str::<LineHead<'_>>(text).map_err(bad)?
        }
    };
    if head.schema > SCHEMA {
        return Err(LineFault::Newer(head.schema));
    }
    let Some(event) = L::parse(head.event, text) else {
        return Err(LineFault::Invalid(format!(
            "unknown event `{}`",
            head.event
        )));
    };
    let event = event.map_err(bad)?;
    if head.seq != expected {
        return Err(LineFault::Invalid(format!(
            "line {expected} says that it is number {}",
            head.seq
        )));
    }
    Ok((head, event))
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

/// The head as `append` spells it, without reading the rest; `None` where it is spelled otherwise.
fn parse_head(text: &str) -> Option<LineHead<'_>> {
    let (schema, rest) = text.strip_prefix("{\"schema\":")?.split_once(",\"seq\":")?;
    let (seq, rest) = rest.split_once(",\"time\":\"")?;
    let (time, rest) = rest.split_once("\",")?;
    let rest = match rest.strip_prefix("\"step\":") {
        Some(rest) => rest.split_once(',')?.1,
        None => rest,
    };
    let (event, _) = rest.strip_prefix("\"event\":\"")?.split_once('"')?;
    Some(LineHead {
        schema: schema.parse().ok()?,
        seq: seq.parse().ok()?,
        time,
        event,
    })
}

/// Saves what is about to be dropped, beside the journal, under the number that the line would have had.
fn save_torn_line(path: &Path, line: &[u8], number: u64) -> Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| anyhow!("`{}` does not name a file", path.display()))?
        .to_string_lossy();
    let mut copy = path.with_file_name(format!("{name}.torn-{number}"));
    let mut again = 1;
    while copy.exists() {
        again += 1;
        copy = path.with_file_name(format!("{name}.torn-{number}-{again}"));
    }
    files::replace_durably(&copy, line)
}

fn parsed<T, L>(line: &str, wrap: impl FnOnce(T) -> L) -> Option<serde_json::Result<L>>
where
    T: for<'a> Deserialize<'a>,
{
    Some(serde_json::from_str::<T>(line).map(wrap))
}

fn written<T: Serialize>(buffer: &mut Vec<u8>, payload: &T) -> serde_json::Result<()> {
    serde_json::to_writer(buffer, payload)
}

impl JournalLine for Event {
    fn name(&self) -> &'static str {
        Event::name(self)
    }

    fn step(&self) -> Option<u64> {
        Event::step(self)
    }

    fn write(&self, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Event::Asked(event) => written(buffer, event),
            Event::Sent(event) => written(buffer, event),
            Event::Replied(event) => written(buffer, event),
            Event::Proposed(event) => written(buffer, event),
            Event::Failed(event) => written(buffer, event),
            Event::Judged(event) => written(buffer, event),
            Event::Dueled(event) => written(buffer, event),
            Event::Confirmed(event) => written(buffer, event),
            Event::Stopped(event) => written(buffer, event),
        }
    }

    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "asked" => parsed(line, Event::Asked),
            "sent" => parsed(line, Event::Sent),
            "replied" => parsed(line, Event::Replied),
            "proposed" => parsed(line, Event::Proposed),
            "failed" => parsed(line, Event::Failed),
            "judged" => parsed(line, Event::Judged),
            "dueled" => parsed(line, Event::Dueled),
            "confirmed" => parsed(line, Event::Confirmed),
            "stopped" => parsed(line, Event::Stopped),
            _ => None,
        }
    }
}

impl JournalLine for RunEvent {
    fn name(&self) -> &'static str {
        RunEvent::name(self)
    }

    fn step(&self) -> Option<u64> {
        None
    }

    fn write(&self, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            RunEvent::Created(event) | RunEvent::Resumed(event) => written(buffer, event),
            RunEvent::Accepted(event) => written(buffer, event),
            RunEvent::TaskStarted(event) => written(buffer, event),
            RunEvent::SelfTested(event) => written(buffer, event),
            RunEvent::TaskEnded(event) => written(buffer, event),
            RunEvent::Interrupted(event) => written(buffer, event),
        }
    }

    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "created" => parsed(line, RunEvent::Created),
            "resumed" => parsed(line, RunEvent::Resumed),
            "accepted" => parsed(line, RunEvent::Accepted),
            "task_started" => parsed(line, RunEvent::TaskStarted),
            "self_tested" => parsed(line, RunEvent::SelfTested),
            "task_ended" => parsed(line, RunEvent::TaskEnded),
            "interrupted" => parsed(line, RunEvent::Interrupted),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
