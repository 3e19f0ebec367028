//! Reads the body of a response with a success status: a stream of events, a whole reply, or something that is no reply.
//!
//! The first bytes decide which, because servers and gateways label bodies wrongly. `http` turns the result into an attempt.

use std::ops::ControlFlow;
use std::time::Duration;

use reqwest::Response;
use tokio::time::{Instant, timeout, timeout_at};

use super::http_client::error_chain;
use super::sse::EventParser;
use super::wire::{EventEffect, PartialReply, Protocol, WireError};

/// The most bytes that are read of a reply, and of an error.
const MAX_REPLY_BYTES: usize = 64 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// How long to wait for the end of a stream after its last event, so that the connection can be reused.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Time limits of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub total: Duration,
    /// Without any byte.
    pub idle: Duration,
}

/// Why reading a reply ended.
#[derive(Debug)]
pub(super) enum BodyEnd {
    Finished,
    /// The connection or a time limit ended it.
    Interrupted(String),
    /// The server reported an error.
    Failed(WireError),
    /// The server sent something that is not the protocol.
    Unreadable(String),
    /// The body is no reply at all: a web page, a text, nothing.
    Foreign(WireError),
}

/// What the first bytes of a body show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyKind {
    Events,
    Json,
    /// A web page or a text.
    Text,
    Empty,
}

/// Reads one body.
pub(super) struct BodyReader {
    pub(super) protocol: Protocol,
    pub(super) timeouts: Timeouts,
    pub(super) deadline: Instant,
}

impl BodyReader {
    /// Reads a reply to its end. `declares_events`: the headers announce an event stream.
    pub(super) async fn read_reply(
        &self,
        response: &mut Response,
        declares_events: bool,
    ) -> (PartialReply, BodyEnd) {
        let mut start = Vec::new();
        let kind = loop {
            if let Some(kind) = body_kind(&start, declares_events, false) {
                break kind;
            }
            match self.next_chunk(response).await {
                Ok(Some(chunk)) => {
                    start.extend_from_slice(&chunk);
                    // Servers keep a connection alive with empty lines, for minutes.
                    if without_bom(&start).trim_ascii_start().is_empty() {
                        start.clear();
                    }
                }
                Ok(None) => {
                    let kind = body_kind(&start, declares_events, true);
                    break kind.unwrap_or(BodyKind::Empty);
                }
                Err(why) => return (PartialReply::default(), BodyEnd::Interrupted(why)),
            }
        };
        match kind {
            BodyKind::Events => self.read_events(response, start).await,
            BodyKind::Json => self.read_json(response, start).await,
            BodyKind::Text => {
                self.read_up_to(response, &mut start, MAX_ERROR_BYTES).await;
                let text = String::from_utf8_lossy(&start);
                let error = WireError::from_text(&text);
                (PartialReply::default(), BodyEnd::Foreign(error))
            }
            BodyKind::Empty => {
                let error = WireError::from_text("");
                (PartialReply::default(), BodyEnd::Foreign(error))
            }
        }
    }

    /// Reads an error's body.
    pub(super) async fn read_error(&self, response: &mut Response) -> WireError {
        let mut bytes = Vec::new();
        self.read_up_to(response, &mut bytes, MAX_ERROR_BYTES).await;
        WireError::from_bytes(&bytes)
    }

    /// Reads events until the last one.
    async fn read_events(
        &self,
        response: &mut Response,
        start: Vec<u8>,
    ) -> (PartialReply, BodyEnd) {
        let mut reply = PartialReply::default();
        let mut events = EventParser::default();
        let mut bytes = start.len();
        let mut has_events = false;
        let mut each = |data: &str, reply: &mut PartialReply| {
            has_events = true;
            self.handle_event(data, reply)
        };
        let mut flow = events.feed(&start, |data| each(data, &mut reply));
        let end = loop {
            if let ControlFlow::Break(end) = flow {
                break end;
            }
            if bytes > MAX_REPLY_BYTES {
                break too_long();
            }
            match self.next_chunk(response).await {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    flow = events.feed(&chunk, |data| each(data, &mut reply));
                }
                Ok(None) => {
                    break match events.finish(|data| each(data, &mut reply)) {
                        // The last event was cut off: the stream ended too early.
                        ControlFlow::Break(BodyEnd::Unreadable(_)) | ControlFlow::Continue(()) => {
                            BodyEnd::Interrupted("the stream ended before the reply".to_owned())
                        }
                        ControlFlow::Break(end) => end,
                    };
                }
                Err(why) => break BodyEnd::Interrupted(why),
            }
        };
        if matches!(end, BodyEnd::Finished) {
            let drain = async { while let Ok(Some(_)) = response.chunk().await {} };
            // The reply is complete; this only frees the connection for reuse.
            let _ = timeout(DRAIN_TIMEOUT, drain).await;
        }
        // A text that is labelled as an event stream.
        if matches!(end, BodyEnd::Interrupted(_)) && !has_events && is_plain_text(&start) {
            let error = WireError::from_text(&String::from_utf8_lossy(&start));
            return (reply, BodyEnd::Foreign(error));
        }
        (reply, end)
    }

    fn handle_event(&self, data: &str, reply: &mut PartialReply) -> ControlFlow<BodyEnd> {
        match self.protocol.apply_event(data, reply) {
            Ok(EventEffect::Continue) => ControlFlow::Continue(()),
            Ok(EventEffect::Finished) => ControlFlow::Break(BodyEnd::Finished),
            Ok(EventEffect::Failed(error)) => ControlFlow::Break(BodyEnd::Failed(error)),
            Err(why) => ControlFlow::Break(BodyEnd::Unreadable(why)),
        }
    }

    /// Reads a reply that is not streamed. A reply that cannot be read is kept as it came.
    async fn read_json(
        &self,
        response: &mut Response,
        mut bytes: Vec<u8>,
    ) -> (PartialReply, BodyEnd) {
        let mut reply = PartialReply::default();
        let end = loop {
            match self.next_chunk(response).await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > MAX_REPLY_BYTES => {
                    break too_long();
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => {
                    break match self.protocol.apply_whole(without_bom(&bytes), &mut reply) {
                        Ok(EventEffect::Failed(error)) => BodyEnd::Failed(error),
                        Ok(_) => BodyEnd::Finished,
                        Err(why) => BodyEnd::Unreadable(why),
                    };
                }
                Err(why) => break BodyEnd::Interrupted(why),
            }
        };
        if matches!(end, BodyEnd::Unreadable(_) | BodyEnd::Interrupted(_)) {
            reply.text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (reply, end)
    }

    /// Reads more bytes, until the limit or the end of the body.
    async fn read_up_to(&self, response: &mut Response, bytes: &mut Vec<u8>, max: usize) {
        while bytes.len() < max
            && let Ok(Some(chunk)) = self.next_chunk(response).await
        {
            bytes.extend_from_slice(&chunk);
        }
    }

    /// The next bytes, or why there are none: a broken connection or a time limit.
    async fn next_chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, String> {
        let idle_until = Instant::now() + self.timeouts.idle;
        match timeout_at(idle_until.min(self.deadline), response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(format!("the connection broke: {}", error_chain(&error))),
            Err(_) if idle_until < self.deadline => Err(format!(
                "no data for {} s",
                self.timeouts.idle.as_secs_f64()
            )),
            Err(_) => Err(format!(
                "the reply took longer than {} s",
                self.timeouts.total.as_secs_f64()
            )),
        }
    }
}

/// A byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BOM).unwrap_or(bytes)
}

/// What the bytes so far show; `None` if more are needed.
fn body_kind(start: &[u8], declares_events: bool, is_all: bool) -> Option<BodyKind> {
    const EVENT_FIELDS: [&[u8]; 6] = [b":", b"data:", b"event:", b"id:", b"retry:", b"error:"];
    let text = without_bom(start).trim_ascii_start();
    match text.first() {
        None => is_all.then_some(BodyKind::Empty),
        Some(b'{' | b'[') => Some(BodyKind::Json),
        Some(b'<') => Some(BodyKind::Text),
        _ if EVENT_FIELDS.iter().any(|field| text.starts_with(field)) => Some(BodyKind::Events),
        _ if !is_all && (BOM.starts_with(text) || is_start_of(&EVENT_FIELDS, text)) => None,
        _ if declares_events => Some(BodyKind::Events),
        _ => Some(BodyKind::Text),
    }
}

fn is_start_of(fields: &[&[u8]], text: &[u8]) -> bool {
    fields.iter().any(|field| field.starts_with(text))
}

/// Whether a body is neither events nor comments.
fn is_plain_text(start: &[u8]) -> bool {
    let lines = start.split(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| !line.trim_ascii().is_empty());
    lines.next().is_some_and(|line| !line.contains(&b':'))
}

fn too_long() -> BodyEnd {
    BodyEnd::Unreadable(format!("the reply is longer than {MAX_REPLY_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide_the_kind_of_a_body() {
        use BodyKind::{Empty, Events, Json, Text};
        for (start, declares_events, is_all, kind) in [
            ("", true, false, None),
            ("", true, true, Some(Empty)),
            (" \r\n", false, true, Some(Empty)),
            ("{\"error", true, false, Some(Json)),
            ("\u{feff} [", false, false, Some(Json)),
            ("<!DOCTYPE", true, false, Some(Text)),
            ("dat", false, false, None),
            ("dat", false, true, Some(Text)),
            ("data:{", false, false, Some(Events)),
            ("\u{feff}data: {", false, false, Some(Events)),
            ("event: error", false, false, Some(Events)),
            (": OPENROUTER PROCESSING", false, false, Some(Events)),
            ("no healthy upstream", false, false, Some(Text)),
            ("no healthy upstream", true, false, Some(Events)),
        ] {
            let found = body_kind(start.as_bytes(), declares_events, is_all);
            assert_eq!(found, kind, "{start:?}");
        }
    }
}
