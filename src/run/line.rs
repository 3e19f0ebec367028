//! The format of a journal line: `{"schema":1,"seq":…,"time":"…","step":7,"event":"judged",…}`.
//!
//! A line is one JSON object: the head (`schema`, `seq`, `time`, and `step` for events of a step), then the event. Pure: from
//! events to bytes and back, except that a new line gets the current time. Reads and writes no file.

use serde::{Deserialize, Serialize};

use super::time;
use crate::event::{Event, ReplayedEvent, RunEvent, SCHEMA};

/// The keys at the start of every line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LineHead<'a> {
    pub schema: u32,
    /// Number of the line, from 1.
    pub seq: u64,
    /// RFC 3339, UTC, milliseconds.
    pub time: &'a str,
    /// Name of the event.
    pub event: &'a str,
    /// Where the line is.
    #[serde(skip)]
    pub span: LineSpan,
}

/// Where a line is in its journal, with its newline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineSpan {
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl LineSpan {
    /// A length beyond 4 GiB is cut off: no line is as long.
    pub(super) fn new(offset: u64, length: usize) -> Self {
        Self {
            offset,
            length: u32::try_from(length).unwrap_or(u32::MAX),
        }
    }
}

/// What a line can be parsed as: an event, or the part of it that a reader needs.
pub trait ParseLine: Sized + Send {
    /// Parses a whole line as the event `name`. `None` if no event has this name.
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>>;
}

/// An event that a journal can hold. Serialized as an object with the key `event`, and without the key `step`.
pub trait JournalLine: Serialize + ParseLine {
    /// Step that the event belongs to, if any.
    fn step(&self) -> Option<u64>;
}

/// A line as it is written. The fields are in the order of the keys on disk.
#[derive(Serialize)]
struct WrittenLine<'a, L> {
    schema: u32,
    seq: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    #[serde(flatten)]
    event: &'a L,
}

/// Appends the line of an event to `buffer`, with its newline.
pub(super) fn write_line(
    buffer: &mut Vec<u8>,
    seq: u64,
    event: &impl JournalLine,
) -> serde_json::Result<()> {
    let line = WrittenLine {
        schema: SCHEMA,
        seq,
        time: time::timestamp(time::now_milliseconds()),
        step: event.step(),
        event,
    };
    let start = buffer.len();
    let written = serde_json::to_writer(&mut *buffer, &line);
    match written {
        Ok(()) => buffer.push(b'\n'),
        Err(_) => buffer.truncate(start),
    }
    written
}

/// Why a line could not be read.
pub(super) enum LineFault {
    /// It has this newer schema.
    Newer(u32),
    Invalid(String),
}

/// Parses a line.
pub(super) fn read_line<L: ParseLine>(line: &[u8]) -> Result<(LineHead<'_>, L), LineFault> {
    let invalid =
        |error: &dyn std::fmt::Display| LineFault::Invalid(format!("not a journal line: {error}"));
    let Some(text) = line.strip_suffix(b"\n") else {
        return Err(LineFault::Invalid("the line has no newline".to_owned()));
    };
    let text = std::str::from_utf8(text).map_err(|error| invalid(&error))?;
    // JSON has no zero bytes. They are blocks that never reached the disk, and newlines may be among them: two lines then look like
    // one, which a reader that parses only the head would accept.
    if text.as_bytes().contains(&0) {
        return Err(invalid(&"it has zero bytes"));
    }
    let head = match parse_head(text) {
        Some(head) => head,
        None => {
            // The head of a newer schema may differ, so only the schema is read at first.
            let head = serde_json::from_str::<SchemaOnly>(text).map_err(|error| invalid(&error))?;
            if head.schema > SCHEMA {
                return Err(LineFault::Newer(head.schema));
            }
            serde_json::from_str::<LineHead<'_>>(text).map_err(|error| invalid(&error))?
        }
    };
    if head.schema > SCHEMA {
        return Err(LineFault::Newer(head.schema));
    }
    let Some(event) = L::parse(head.event, text) else {
        let reason = format!("unknown event `{}`", head.event);
        return Err(LineFault::Invalid(reason));
    };
    let event = event.map_err(|error| invalid(&error))?;
    Ok((head, event))
}

/// The fault of a line that does not have the number `expected`.
pub(super) fn wrong_number(head: &LineHead<'_>, expected: u64) -> Option<LineFault> {
    (head.seq != expected)
        .then(|| LineFault::Invalid(format!("line {expected} has the number {}", head.seq)))
}

/// Whether a line was written completely, so that a fault in it is damage and not a torn write.
pub(super) fn is_complete_line(line: &[u8]) -> bool {
    line.ends_with(b"\n") && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

/// Reads the head as `write_line` spells it, without parsing the rest of the line. `None` for any other spelling.
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
        span: LineSpan::default(),
    })
}

/// Parses the payload of an event and wraps it in its variant.
///
/// Events are not `Deserialize`: serde buffers the whole object of an internally tagged enum before it parses the payload, which
/// makes a line with a verdict 2.6 times slower to read.
fn payload<P, L>(line: &str, variant: fn(P) -> L) -> Option<serde_json::Result<L>>
where
    P: for<'a> Deserialize<'a>,
{
    Some(serde_json::from_str(line).map(variant))
}

impl JournalLine for Event {
    fn step(&self) -> Option<u64> {
        Event::step(self)
    }
}

impl ParseLine for Event {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "asked" => payload(line, Event::Asked),
            "sent" => payload(line, Event::Sent),
            "replied" => payload(line, Event::Replied),
            "proposed" => payload(line, Event::Proposed),
            "failed" => payload(line, Event::Failed),
            "judged" => payload(line, Event::Judged),
            "dueled" => payload(line, Event::Dueled),
            "confirmed" => payload(line, Event::Confirmed),
            "compared" => payload(line, Event::Compared),
            "strongest_compared" => payload(line, Event::StrongestCompared),
            "stopped" => payload(line, Event::Stopped),
            _ => None,
        }
    }
}

impl ParseLine for ReplayedEvent {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        if name == "judged" {
            return payload(line, ReplayedEvent::Judged);
        }
        Some(Event::parse(name, line)?.map(|event| ReplayedEvent::Other(Box::new(event))))
    }
}

impl JournalLine for RunEvent {
    fn step(&self) -> Option<u64> {
        None
    }
}

impl ParseLine for RunEvent {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "created" => payload(line, RunEvent::Created),
            "resumed" => payload(line, RunEvent::Resumed),
            "accepted" => payload(line, RunEvent::Accepted),
            "task_started" => payload(line, RunEvent::TaskStarted),
            "self_tested" => payload(line, RunEvent::SelfTested),
            "worker_failed" => payload(line, RunEvent::WorkerFailed),
            "task_ended" => payload(line, RunEvent::TaskEnded),
            "interrupted" => payload(line, RunEvent::Interrupted),
            "tasks_left_out" => payload(line, RunEvent::TasksLeftOut),
            _ => None,
        }
    }
}
