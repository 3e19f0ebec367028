//! A model behind an HTTP server: sends one request, reads its stream, and turns every failure into a reply.
//!
//! Sends once; `client` decides about retries. Headers and connections are set up in `http_client`; the bodies are in `wire`.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::http_client::{error_chain, http_client, request_headers};
use super::models::ModelSettings;
use super::secret::Secrets;
use super::sse::EventParser;
use super::wire::{self, EventEffect, FinishReason, PartialReply, Protocol, WireError};
use super::{
    Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin, TurnedAway, retry,
    sanitize_detail,
};
use crate::base::Failure;
use crate::event::ReplyOutcome;

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

/// A model behind a server.
pub(super) struct HttpProvider {
    client: reqwest::Client,
    protocol: Protocol,
    url: Url,
    headers: HeaderMap,
    model: ModelSettings,
    timeouts: Timeouts,
    secrets: Secrets,
}

/// Why reading a reply ended.
enum StreamEnd {
    Finished,
    /// The connection or a time limit ended it.
    Interrupted(String),
    /// The server reported an error.
    Failed(WireError),
    /// The server sent something that is not the protocol.
    Unreadable(String),
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
        })
    }

    async fn send_once(&self, request: &Request) -> Attempt {
        let body = match self.protocol.body(&self.model, request) {
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
        let response = match timeout(first_byte_timeout, sent).await {
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
        if !response.status().is_success() {
            return self.error_status(response, deadline).await;
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let is_event_stream = match content_type.unwrap_or_default() {
            value if value.starts_with("text/event-stream") => true,
            value if value.starts_with("application/json") => false,
            _ => is_streamed,
        };
        Attempt::Ended(if is_event_stream {
            self.read_stream(response, deadline).await
        } else {
            self.read_whole(response, deadline).await
        })
    }

    /// The attempt of a request that got no response.
    fn send_error(&self, error: &reqwest::Error) -> Attempt {
        let causes = error_chain(error);
        if error.is_connect() {
            return Attempt::TurnedAway(TurnedAway {
                retry_after: None,
                is_final: false,
                is_rate_limit: false,
                detail: self.scrub(&format!("no connection to {}: {causes}", self.host())),
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

    /// Reads events until the last one.
    async fn read_stream(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut reply = PartialReply::default();
        let mut events = EventParser::default();
        let mut bytes = 0;
        loop {
            let chunk = self.next_chunk(&mut response, deadline).await;
            let flow = match &chunk {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    events.feed(chunk, |data| self.handle_event(data, &mut reply))
                }
                Ok(None) => {
                    let flow = events.finish(|data| self.handle_event(data, &mut reply));
                    match flow {
                        // The last event was cut off: the stream ended too early.
                        ControlFlow::Break(StreamEnd::Unreadable(_)) => ControlFlow::Continue(()),
                        flow => flow,
                    }
                }
                Err(_) => ControlFlow::Continue(()),
            };
            let end = match (flow, chunk) {
                (ControlFlow::Break(end), _) => end,
                (_, Ok(Some(_))) if bytes > MAX_REPLY_BYTES => too_long(),
                (_, Ok(Some(_))) => continue,
                (_, Ok(None)) => {
                    StreamEnd::Interrupted("the stream ended before the reply".to_owned())
                }
                (_, Err(why)) => StreamEnd::Interrupted(why),
            };
            if matches!(end, StreamEnd::Finished) {
                let drain = async { while let Ok(Some(_)) = response.chunk().await {} };
                // The reply is complete; this only frees the connection for reuse.
                let _ = timeout(DRAIN_TIMEOUT, drain).await;
            }
            return self.finish_reply(reply, end);
        }
    }

    fn handle_event(&self, data: &str, reply: &mut PartialReply) -> ControlFlow<StreamEnd> {
        match self.protocol.apply_event(data, reply) {
            Ok(EventEffect::Continue) => ControlFlow::Continue(()),
            Ok(EventEffect::Finished) => ControlFlow::Break(StreamEnd::Finished),
            Ok(EventEffect::Failed(error)) => ControlFlow::Break(StreamEnd::Failed(error)),
            Err(why) => ControlFlow::Break(StreamEnd::Unreadable(why)),
        }
    }

    /// Reads a reply that is not streamed.
    async fn read_whole(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut reply = PartialReply::default();
        let mut bytes = Vec::new();
        let end = loop {
            match self.next_chunk(&mut response, deadline).await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > MAX_REPLY_BYTES => {
                    break too_long();
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => {
                    break match self.protocol.apply_whole(&bytes, &mut reply) {
                        Ok(EventEffect::Failed(error)) => StreamEnd::Failed(error),
                        Ok(_) => StreamEnd::Finished,
                        Err(why) => StreamEnd::Unreadable(why),
                    };
                }
                Err(why) => break StreamEnd::Interrupted(why),
            }
        };
        self.finish_reply(reply, end)
    }

    /// The next bytes, or why there are none: a broken connection or a time limit.
    async fn next_chunk(
        &self,
        response: &mut Response,
        deadline: Instant,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, String> {
        let idle_until = Instant::now() + self.timeouts.idle;
        match timeout_at(idle_until.min(deadline), response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(format!("the connection broke: {}", error_chain(&error))),
            Err(_) if idle_until < deadline => Err(format!(
                "no data for {} s",
                self.timeouts.idle.as_secs_f64()
            )),
            Err(_) => Err(format!(
                "the reply took longer than {} s",
                self.timeouts.total.as_secs_f64()
            )),
        }
    }

    /// The reply that has arrived, with its outcome.
    fn finish_reply(&self, partial: PartialReply, end: StreamEnd) -> Reply {
        use ReplyOutcome::{Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated};
        let is_empty = partial.text.trim().is_empty();
        // Some servers report provisional counts: before the end they are not what is billed.
        let has_final_usage = partial.finish_reason.is_some()
            && matches!(end, StreamEnd::Finished | StreamEnd::Interrupted(_));
        let (outcome, detail) = match (end, partial.finish_reason) {
            (StreamEnd::Failed(error), _) => {
                let outcome = if error.is_permanent() { Fatal } else { Lost };
                (outcome, Some(describe_error(&error)))
            }
            (StreamEnd::Unreadable(why), _) => (Malformed, Some(why)),
            // After its finish reason a reply's text is complete, even if the connection breaks.
            (_, Some(FinishReason::Complete)) if is_empty => (Empty, None),
            (_, Some(FinishReason::Complete)) => (Complete, None),
            (_, Some(FinishReason::Truncated)) => (Truncated, None),
            (_, Some(FinishReason::Refused(text))) => (Refused, Some(text)),
            (_, Some(FinishReason::Unexpected(why))) => (Malformed, Some(why)),
            (StreamEnd::Finished, None) => {
                (Malformed, Some("the reply has no finish reason".to_owned()))
            }
            (StreamEnd::Interrupted(why), None) => (Lost, Some(why)),
        };
        Reply {
            usage: partial.usage.filter(|_| has_final_usage),
            served_by: partial.served_by.map(|name| sanitize_detail(&name)),
            detail: detail.map(|detail| self.scrub(&detail)),
            ..Reply::new(outcome, self.secrets.scrub(&partial.text).into_owned())
        }
    }

    /// The attempt that ends with an error status.
    async fn error_status(&self, mut response: Response, deadline: Instant) -> Attempt {
        let status = response.status();
        let headers = response.headers().clone();
        let error = self.read_error(&mut response, deadline).await;
        let mut detail = format!("status {}: {}", status.as_u16(), describe_error(&error));
        let id = ["request-id", "x-request-id"]
            .iter()
            .find_map(|name| headers.get(*name));
        if let Some(id) = id.and_then(|id| id.to_str().ok()) {
            detail += &format!(" (request {})", sanitize_detail(id));
        }
        let should_retry = retry::should_retry(&headers);
        let is_rate_limit = status == StatusCode::TOO_MANY_REQUESTS;
        let is_transient = is_rate_limit
            || status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT);
        let is_out_of_funds = is_rate_limit && error.is_out_of_funds();
        if is_out_of_funds || !should_retry.unwrap_or(is_transient) && !is_transient {
            if let Some(hint) = self.hint_for_error(status, &error) {
                detail += &format!("; hint: {hint}");
            }
            return fatal(self.scrub(&detail));
        }
        Attempt::TurnedAway(TurnedAway {
            retry_after: retry::retry_after(&headers, SystemTime::now()),
            is_final: should_retry == Some(false),
            is_rate_limit,
            detail: self.scrub(&detail),
        })
    }

    /// The error in a response's body, as JSON or as plain text.
    async fn read_error(&self, response: &mut Response, deadline: Instant) -> WireError {
        let mut bytes = Vec::new();
        while bytes.len() < MAX_ERROR_BYTES
            && let Ok(Some(chunk)) = self.next_chunk(response, deadline).await
        {
            bytes.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => WireError::from_json(&value),
            Err(_) => WireError {
                kind: String::new(),
                message: String::from_utf8_lossy(&bytes).into_owned(),
            },
        }
    }

    /// What the user can do about a permanent error.
    fn hint_for_error(&self, status: StatusCode, error: &WireError) -> Option<String> {
        let key = (self.model.key_env.as_deref()).filter(|name| !name.is_empty());
        let model = &self.model.model;
        Some(match status.as_u16() {
            _ if error.is_out_of_funds() => {
                "the account has no funds left, or has reached its spending limit".to_owned()
            }
            401 | 403 => match key {
                Some(key) => format!("the server rejected the key in {key}"),
                None => {
                    "the server needs a key: name its environment variable in `key_env`".to_owned()
                }
            },
            404 => format!("check that {} has a model `{model}`", self.host()),
            300..=399 => "the server has moved: put its URL into `base_url`".to_owned(),
            _ => {
                let message = error.message.to_lowercase();
                match wire::setting_named_in(self.protocol, &self.model, &message)? {
                    "max_output_tokens" => {
                        "the server names the output cap differently (`fields: {max_output_tokens: max_tokens}`) or has another limit (`max_output_tokens`)".to_owned()
                    }
                    setting => format!("the model does not accept `{setting}`: remove it from the config"),
                }
            }
        })
    }

    /// Untrusted text without keys, on one line of limited length.
    fn scrub(&self, text: &str) -> String {
        sanitize_detail(&self.secrets.scrub(text))
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl Provider for HttpProvider {
    fn send<'a>(&'a self, request: &'a Request, _origin: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.send_once(request))
    }
}

fn fatal(detail: String) -> Attempt {
    let reply = Reply::new(ReplyOutcome::Fatal, String::new());
    Attempt::Ended(reply.with_detail(detail).not_billed())
}

fn too_long() -> StreamEnd {
    StreamEnd::Unreadable(format!("the reply is longer than {MAX_REPLY_BYTES} bytes"))
}

fn describe_error(error: &WireError) -> String {
    match (error.kind.trim(), error.message.trim()) {
        ("", "") => "the server gives no reason".to_owned(),
        ("", _) => error.message.clone(),
        (kind, "") => kind.to_owned(),
        (kind, _) => format!("{kind}: {}", error.message),
    }
}
