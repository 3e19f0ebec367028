//! A model behind an HTTP server: sends one request, and turns whatever comes back into an attempt.
//!
//! Sends once; `client` decides about retries. `http_client` sets up headers and connections, `body` reads replies in the protocols of
//! `wire`, `refusal` says what an error means.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode, Url};
use tokio::time::{Instant, timeout};

use super::body::{BodyEnd, BodyReader, Timeouts};
use super::http_client::{error_chain, http_client, request_headers};
use super::models::ModelSettings;
use super::refusal::{RefusalKind, RefusedRequest, classify};
use super::secret::Secrets;
use super::wire::{self, FieldChanges, FinishReason, PartialReply, Protocol, WireError};
use super::{
    Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin, TurnedAway, retry,
    sanitize_detail,
};
use crate::base::Failure;
use crate::event::ReplyOutcome;

/// A model behind a server.
pub(super) struct HttpProvider {
    client: reqwest::Client,
    protocol: Protocol,
    url: Url,
    headers: HeaderMap,
    model: ModelSettings,
    timeouts: Timeouts,
    secrets: Secrets,
    /// The changes of fields that the server's errors have made necessary.
    changes: Mutex<FieldChanges>,
    /// A warning about replies that are all thoughts was logged.
    has_warned: AtomicBool,
}

/// A response, apart from its body.
struct ResponseHead {
    status: StatusCode,
    headers: HeaderMap,
    /// The changes of the request that it belongs to.
    sent: FieldChanges,
}

impl HttpProvider {
    pub(super) fn open(
        model: &ModelSettings,
        protocol: Protocol,
        timeouts: Timeouts,
        secrets: &Secrets,
    ) -> Result<Self, Failure> {
        let base = model.base_url.as_deref().unwrap_or_default();
        let url = Url::parse(&protocol.url(base)).map_err(|error| {
            Failure::usage(format!(
                "`base_url` of `{}` is not a valid URL: `{base}`: {error}",
                model.name
            ))
        })?;
        let headers = request_headers(model, protocol)?;
        Ok(Self {
            client: http_client(&url)?,
            protocol,
            url,
            headers,
            model: model.clone(),
            timeouts,
            secrets: secrets.clone(),
            changes: Mutex::default(),
            has_warned: AtomicBool::new(false),
        })
    }

    async fn send_once(&self, request: &Request) -> Attempt {
        let changes = self.lock_changes().clone();
        let body = match self.protocol.body(&self.model, request, &changes) {
            Ok(body) => body,
            Err(error) => return fatal(format!("cannot serialize the request: {error}")),
        };
        let is_streamed = self.model.stream.unwrap_or(true);
        let deadline = Instant::now() + self.timeouts.total;
        let first_byte_timeout = if is_streamed {
            self.timeouts.idle.min(self.timeouts.total)
        } else {
            self.timeouts.total
        };
        let sent = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(body)
            .send();
        let mut response = match timeout(first_byte_timeout, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.send_error(&error),
            Err(_) => {
                let seconds = first_byte_timeout.as_secs_f64();
                let detail = format!("no response within {seconds} s");
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Lost, String::new()).with_detail(detail),
                );
            }
        };
        let head = ResponseHead {
            status: response.status(),
            headers: response.headers().clone(),
            sent: changes,
        };
        let reader = BodyReader {
            protocol: self.protocol,
            timeouts: self.timeouts,
            deadline,
        };
        if !head.status.is_success() {
            let error = reader.read_error(&mut response).await;
            return self.refused(&head, &error);
        }
        let declares_events = declares_events(&response, is_streamed);
        let (partial, end) = reader.read_reply(&mut response, declares_events).await;
        self.finish_reply(&head, partial, end)
    }

    /// The attempt of a request that got no response.
    fn send_error(&self, error: &reqwest::Error) -> Attempt {
        let causes = error_chain(error);
        if error.is_connect() {
            let detail = self.scrub(&format!("no connection to {}: {causes}", self.host()));
            return Attempt::TurnedAway(TurnedAway {
                retry_after: None,
                is_final: false,
                is_rate_limit: false,
                final_detail: detail.clone(),
                detail,
            });
        }
        if error.is_builder() {
            return fatal(self.scrub(&format!("cannot build the request: {causes}")));
        }
        let detail = self.scrub(&format!(
            "the connection to {} broke: {causes}",
            self.host()
        ));
        Attempt::Ended(Reply::new(ReplyOutcome::Lost, String::new()).with_detail(detail))
    }

    /// The attempt that a body with a success status makes. An error without any output is a refusal: it is not billed.
    fn finish_reply(&self, head: &ResponseHead, partial: PartialReply, end: BodyEnd) -> Attempt {
        match end {
            BodyEnd::Foreign(error) => self.refused(head, &error),
            BodyEnd::Failed(error) if !partial.has_output() => self.refused(head, &error),
            end => Attempt::Ended(self.ended_reply(partial, end)),
        }
    }

    /// The reply that has arrived, with its outcome.
    fn ended_reply(&self, mut partial: PartialReply, end: BodyEnd) -> Reply {
        use ReplyOutcome::{Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated};
        partial.end_tool_input();
        let finish_reason = partial.finish_reason.take();
        // Some servers report provisional counts: before the end they are not what is billed.
        let has_final_usage = match end {
            BodyEnd::Finished => true,
            BodyEnd::Interrupted(_) => finish_reason.is_some(),
            _ => false,
        };
        let mut retry_after = None;
        let only_thoughts = partial.text.trim().is_empty() && !partial.reasoning.trim().is_empty();
        let (outcome, detail) = match (end, finish_reason) {
            // The text of a reply is complete after its finish reason, whatever follows, and at the protocol's end of a stream.
            (_, Some(FinishReason::Complete)) | (BodyEnd::Finished, None)
                if partial.has_output() || partial.has_choice =>
            {
                take_complete_text(&mut partial)
            }
            (_, Some(FinishReason::Complete)) => (Empty, None),
            (_, Some(FinishReason::ToolCall)) if !partial.tool_input.is_empty() => {
                let input = std::mem::take(&mut partial.tool_input);
                partial.text = format!("{}\n\n{input}", partial.text);
                (Complete, None)
            }
            (_, Some(FinishReason::ToolCall)) => (
                Malformed,
                Some("the model calls a tool, but has none".to_owned()),
            ),
            (_, Some(FinishReason::Truncated)) => (Truncated, thinking_note(&partial)),
            (_, Some(FinishReason::Refused(text))) => (Refused, Some(text)),
            (BodyEnd::Failed(error), _) => {
                retry_after = Some(error.retry_after.unwrap_or_else(|| retry::backoff(1)));
                let is_permanent = classify(None, &error) == RefusalKind::Permanent;
                let outcome = if is_permanent { Fatal } else { Lost };
                (outcome, Some(error.describe()))
            }
            (BodyEnd::Unreadable(why), _) => (Malformed, Some(why)),
            (_, Some(FinishReason::Unexpected(why))) => (Malformed, Some(why)),
            (BodyEnd::Finished | BodyEnd::Foreign(_), None) => {
                (Malformed, Some("the reply has no choice".to_owned()))
            }
            (BodyEnd::Interrupted(why), None) => (Lost, Some(why)),
        };
        let detail = detail.map(|detail| self.scrub(&detail));
        if let Some(note) = detail.as_deref()
            && only_thoughts
            && matches!(outcome, Empty | Truncated)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("model `{}`: {note}", self.model.name);
        }
        if partial.text.trim().is_empty() && !partial.reasoning.trim().is_empty() {
            // Kept for people; the tag marks it as thoughts, which are never read as a reply.
            partial.text = format!("<think>\n{}", partial.reasoning);
        }
        Reply {
            usage: partial.usage.filter(|_| has_final_usage),
            served_by: partial.served_by.map(|name| sanitize_detail(&name)),
            detail,
            retry_after,
            ..Reply::new(outcome, self.secrets.scrub(&partial.text).into_owned())
        }
    }

    /// The attempt that a refusal ends: an error status, or a body without a reply. It is not billed.
    fn refused(&self, head: &ResponseHead, error: &WireError) -> Attempt {
        let status = head.status;
        let mut detail = format!("status {}: {}", status.as_u16(), error.describe());
        let id = ["request-id", "x-request-id"]
            .iter()
            .find_map(|name| head.headers.get(*name));
        if let Some(id) = id.and_then(|id| id.to_str().ok()) {
            detail += &format!(" (request {})", sanitize_detail(id));
        }
        let detail = self.scrub(&detail);
        let should_retry = retry::should_retry(&head.headers);
        let kind = classify((!status.is_success()).then_some(status.as_u16()), error);
        let is_transient = matches!(kind, RefusalKind::RateLimit | RefusalKind::Transient);
        let is_certain = status == StatusCode::TOO_MANY_REQUESTS || status.is_success();
        if kind == RefusalKind::Filtered {
            let reply = Reply::new(ReplyOutcome::Refused, String::new());
            return Attempt::Ended(reply.with_detail(detail).not_billed());
        }
        let with_hint = self.with_hint(&detail, status, kind, error);
        if !is_transient {
            if let Some(note) = self.change_fields(head, error) {
                return Attempt::Changed(note);
            }
            if is_certain || should_retry != Some(true) {
                return fatal(with_hint);
            }
        }
        let headers_delay = retry::retry_after(&head.headers, SystemTime::now());
        Attempt::TurnedAway(TurnedAway {
            retry_after: headers_delay.or(error.retry_after),
            is_final: should_retry == Some(false),
            is_rate_limit: kind == RefusalKind::RateLimit,
            final_detail: if status.is_success() {
                with_hint
            } else {
                detail.clone()
            },
            detail,
        })
    }

    /// The detail of a refusal with the requested URL, and with what the user can do.
    fn with_hint(
        &self,
        detail: &str,
        status: StatusCode,
        kind: RefusalKind,
        error: &WireError,
    ) -> String {
        let refused = RefusedRequest {
            status: status.as_u16(),
            kind,
            error,
            protocol: self.protocol,
            model: &self.model,
            host: self.url.host_str().unwrap_or_default(),
        };
        let hint = refused.hint().map(|hint| format!("; hint: {hint}"));
        let hint = hint.unwrap_or_default();
        self.scrub(&format!("{detail}{hint} (requested: {})", self.url))
    }

    /// Leaves a field out of later requests, or renames it, if the server rejects it and it is not necessary. Returns a note about it.
    fn change_fields(&self, head: &ResponseHead, error: &WireError) -> Option<String> {
        let change = wire::change_after_error(self.protocol, &self.model, error, &head.sent)?;
        if self.lock_changes().add(&change) {
            tracing::warn!("model `{}`: {change}", self.model.name);
        }
        Some(change.to_string())
    }

    fn lock_changes(&self) -> MutexGuard<'_, FieldChanges> {
        // Every change under this lock is complete, so a poisoned lock is harmless.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Untrusted text without keys, on one line of limited length.
    fn scrub(&self, text: &str) -> String {
        sanitize_detail(&self.secrets.scrub(text))
    }

    /// The host with its port.
    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

impl Provider for HttpProvider {
    fn send<'a>(&'a self, request: &'a Request, _origin: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.send_once(request))
    }
}

/// Whether the headers announce an event stream.
fn declares_events(response: &Response, is_streamed: bool) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    match content_type.unwrap_or_default() {
        value if value.starts_with("text/event-stream") => true,
        value if value.starts_with("application/json") || value.starts_with("text/") => false,
        _ => is_streamed,
    }
}

/// The outcome of a reply whose model has stopped. The text may be in the wrong place: it is moved to `text`.
fn take_complete_text(partial: &mut PartialReply) -> (ReplyOutcome, Option<String>) {
    if partial.text.trim().is_empty() && !partial.tool_input.is_empty() {
        partial.text = std::mem::take(&mut partial.tool_input);
    }
    if !partial.text.trim().is_empty() {
        return (ReplyOutcome::Complete, None);
    }
    if partial.reasoning.trim().is_empty() {
        return (ReplyOutcome::Empty, None);
    }
    partial.text = std::mem::take(&mut partial.reasoning);
    let note = "the server counts it all as thinking: `content` is empty, and the text is in `reasoning_content`";
    (ReplyOutcome::Empty, Some(note.to_owned()))
}

/// Says where the tokens of a truncated reply went, if none of them is text.
fn thinking_note(partial: &PartialReply) -> Option<String> {
    let only_thought = partial.text.trim().is_empty() && !partial.reasoning.trim().is_empty();
    only_thought
        .then(|| "the model was still thinking when `max_output_tokens` ended the reply".to_owned())
}

fn fatal(detail: String) -> Attempt {
    let reply = Reply::new(ReplyOutcome::Fatal, String::new());
    Attempt::Ended(reply.with_detail(detail).not_billed())
}
