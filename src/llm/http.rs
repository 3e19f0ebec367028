//! Models behind a server: one request, its stream, and every way in which it can go wrong.
//!
//! Sends once. Whether to send again is the client's to decide.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode, Url, redirect, retry as http_retry};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::models::{ModelSettings, ProviderName};
use super::secret::{Secret, Secrets};
use super::sse::EventParser;
use super::wire::{EventEffect, FinishReason, PartialReply, Protocol, WireError};
use super::{
    Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin, TurnedAway, retry,
    sanitize_detail,
};
use crate::base::Failure;
use crate::event::ReplyOutcome;

/// The version of Anthropic's protocol that this was written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of a reply, and of what a server says is wrong, is read at most.
const MAX_REPLY_BYTES: usize = 64 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// How long the end of a stream is waited for after its last event: then the connection can serve again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Times of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub total: Duration,
    pub idle: Duration,
}

/// A model behind a server.
pub(super) struct HttpProvider {
    client: reqwest::Client,
    wire: Protocol,
    url: Url,
    headers: HeaderMap,
    model: ModelSettings,
    timeouts: Timeouts,
    secrets: Secrets,
}

impl HttpProvider {
    pub(super) fn open(
        model: &ModelSettings,
        wire: Protocol,
        timeouts: Timeouts,
        secrets: &Secrets,
    ) -> Result<Self, Failure> {
        let base = model.base_url.as_deref().unwrap_or_default();
        let url = Url::parse(&wire.url(base)).map_err(|error| {
            Failure::usage(format!(
                "`{base}` of `{}` is no address: {error}",
                model.name
            ))
        })?;
        let headers = request_headers(model, wire)?;
        Ok(Self {
            client: http_client(&url)?,
            wire,
            url,
            headers,
            model: model.clone(),
            timeouts,
            secrets: secrets.clone(),
        })
    }

    async fn send_once(&self, request: &Request) -> Attempt {
        let ended = |outcome, detail: String| {
            Attempt::Ended(Reply::new(outcome, String::new()).with_detail(detail))
        };
        let body = match self.wire.body(&self.model, request) {
            Ok(body) => body,
            Err(error) => {
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .with_detail(format!("the request cannot be written: {error}"))
                        .not_billed(),
                );
            }
        };
        let is_streamed = self.model.stream.unwrap_or(true);
        let deadline = Instant::now() + self.timeouts.total;
        let first_byte_timeout = match is_streamed {
            true => self.timeouts.idle.min(self.timeouts.total),
            false => self.timeouts.total,
        };
        let sent = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(body)
            .send();
        let response = match timeout(first_byte_timeout, sent).await {
            Err(_) => {
                let seconds = first_byte_timeout.as_secs_f64();
                return ended(ReplyOutcome::Lost, format!("no answer within {seconds} s"));
            }
            Ok(Err(error)) if error.is_connect() => {
                return Attempt::TurnedAway(TurnedAway {
                    retry_after: None,
                    is_final: false,
                    is_rate_limit: false,
                    detail: self.scrub(&format!(
                        "no connection to {}: {}",
                        self.host(),
                        error_chain(&error)
                    )),
                });
            }
            Ok(Err(error)) if error.is_builder() => {
                let detail = self.scrub(&format!(
                    "the request cannot be made: {}",
                    error_chain(&error)
                ));
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .with_detail(detail)
                        .not_billed(),
                );
            }
            Ok(Err(error)) => {
                let detail = format!(
                    "the connection to {} broke: {}",
                    self.host(),
                    error_chain(&error)
                );
                return ended(ReplyOutcome::Lost, self.scrub(&detail));
            }
            Ok(Ok(response)) => response,
        };
        if !response.status().is_success() {
            return self.error_status(response, deadline).await;
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_event_stream = match kind {
            kind if kind.starts_with("text/event-stream") => true,
            kind if kind.starts_with("application/json") => false,
            _ => is_streamed,
        };
        Attempt::Ended(match is_event_stream {
            true => self.read_stream(response, deadline).await,
            false => self.read_whole(response, deadline).await,
        })
    }

    /// Reads events until the last one.
    async fn read_stream(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut gathered = PartialReply::default();
        let mut events = EventParser::default();
        let mut bytes = 0;
        loop {
            let chunk = self.next_chunk(&mut response, deadline).await;
            let flow = match &chunk {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    events.feed(chunk, |data| self.handle_event(data, &mut gathered))
                }
                Ok(None) => {
                    // What is not a whole event at the end was cut off, and is none.
                    let flow = events.finish(|data| self.handle_event(data, &mut gathered));
                    match flow {
                        ControlFlow::Break(StreamEnd::Unreadable(_)) => ControlFlow::Continue(()),
                        flow => flow,
                    }
                }
                Err(_) => ControlFlow::Continue(()),
            };
            let stop = match (flow, chunk) {
                (ControlFlow::Break(stop), _) => stop,
                (_, Ok(Some(_))) if bytes > MAX_REPLY_BYTES => {
                    StreamEnd::Unreadable(format!("more than {MAX_REPLY_BYTES} bytes came"))
                }
                (_, Ok(Some(_))) => continue,
                (_, Ok(None)) => {
                    StreamEnd::Interrupted("the stream ended before the reply did".to_owned())
                }
                (_, Err(why)) => StreamEnd::Interrupted(why),
            };
            if matches!(stop, StreamEnd::Finished) {
                let until_end = async { while let Ok(Some(_)) = response.chunk().await {} };
                // Only for the connection's sake: the reply is whole.
                let _ = timeout(DRAIN_TIMEOUT, until_end).await;
            }
            return self.finish_reply(gathered, stop);
        }
    }

    fn handle_event(&self, data: &str, gathered: &mut PartialReply) -> ControlFlow<StreamEnd> {
        match self.wire.apply_event(data, gathered) {
            Ok(EventEffect::Continue) => ControlFlow::Continue(()),
            Ok(EventEffect::Finished) => ControlFlow::Break(StreamEnd::Finished),
            Ok(EventEffect::Failed(trouble)) => ControlFlow::Break(StreamEnd::Failed(trouble)),
            Err(why) => ControlFlow::Break(StreamEnd::Unreadable(why)),
        }
    }

    /// Reads a reply that comes as one.
    async fn read_whole(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut gathered = PartialReply::default();
        let mut bytes = Vec::new();
        let stop = loop {
            match self.next_chunk(&mut response, deadline).await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > MAX_REPLY_BYTES => {
                    break Some(StreamEnd::Unreadable(format!(
                        "more than {MAX_REPLY_BYTES} bytes came"
                    )));
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break None,
                Err(why) => break Some(StreamEnd::Interrupted(why)),
            }
        };
        let stop = stop.unwrap_or_else(|| match self.wire.apply_whole(&bytes, &mut gathered) {
            Ok(EventEffect::Failed(trouble)) => StreamEnd::Failed(trouble),
            Ok(_) => StreamEnd::Finished,
            Err(why) => StreamEnd::Unreadable(why),
        });
        self.finish_reply(gathered, stop)
    }

    /// The next bytes, within the times; why not, in words.
    async fn next_chunk(
        &self,
        response: &mut Response,
        deadline: Instant,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, String> {
        let silence = Instant::now() + self.timeouts.idle;
        match timeout_at(silence.min(deadline), response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(format!("the connection broke: {}", error_chain(&error))),
            Err(_) if silence < deadline => Err(format!(
                "nothing came for {} s",
                self.timeouts.idle.as_secs_f64()
            )),
            Err(_) => Err(format!(
                "it took longer than {} s",
                self.timeouts.total.as_secs_f64()
            )),
        }
    }

    /// What all that came amounts to.
    fn finish_reply(&self, gathered: PartialReply, stop: StreamEnd) -> Reply {
        use ReplyOutcome::{Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated};
        let is_empty = gathered.text.trim().is_empty();
        // Some servers count as they go: before the end that is not what is billed.
        let is_counted = gathered.finish_reason.is_some()
            && matches!(stop, StreamEnd::Finished | StreamEnd::Interrupted(_));
        let (outcome, detail) = match (stop, gathered.finish_reason) {
            (StreamEnd::Failed(trouble), _) => {
                let outcome = if trouble.is_permanent() { Fatal } else { Lost };
                (outcome, Some(self.describe_error(&trouble)))
            }
            (StreamEnd::Unreadable(why), _) => (Malformed, Some(why)),
            // Once the model has said that it is done, nothing of the text can be missing.
            (_, Some(FinishReason::Complete)) if is_empty => (Empty, None),
            (_, Some(FinishReason::Complete)) => (Complete, None),
            (_, Some(FinishReason::Truncated)) => (Truncated, None),
            (_, Some(FinishReason::Refused(words))) => (Refused, Some(words)),
            (_, Some(FinishReason::Unexpected(why))) => (Malformed, Some(why)),
            (StreamEnd::Finished, None) => (
                Malformed,
                Some("the reply does not say why it ended".to_owned()),
            ),
            (StreamEnd::Interrupted(why), None) => (Lost, Some(why)),
        };
        Reply {
            usage: gathered.usage.filter(|_| is_counted),
            served_by: gathered.served_by.map(|name| sanitize_detail(&name)),
            detail: detail.map(|detail| self.scrub(&detail)),
            ..Reply::new(outcome, self.secrets.scrub(&gathered.text).into_owned())
        }
    }

    /// What a status other than success means.
    async fn error_status(&self, mut response: Response, deadline: Instant) -> Attempt {
        let status = response.status();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while bytes.len() < MAX_ERROR_BYTES
            && let Ok(Some(chunk)) = self.next_chunk(&mut response, deadline).await
        {
            bytes.extend_from_slice(&chunk);
        }
        let trouble = match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => WireError::from_json(&value),
            Err(_) => WireError {
                kind: String::new(),
                message: String::from_utf8_lossy(&bytes).into_owned(),
            },
        };
        let mut detail = format!(
            "status {}: {}",
            status.as_u16(),
            self.describe_error(&trouble)
        );
        let id = ["request-id", "x-request-id"]
            .iter()
            .find_map(|name| headers.get(*name));
        if let Some(id) = id.and_then(|id| id.to_str().ok()) {
            detail += &format!(" (request {})", sanitize_detail(id));
        }
        let should_retry = retry::should_retry(&headers);
        let is_transient = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT
            );
        let is_rate_limit = status == StatusCode::TOO_MANY_REQUESTS;
        let is_out_of_funds = is_rate_limit && trouble.is_out_of_funds();
        if is_out_of_funds || !should_retry.unwrap_or(is_transient) && !is_transient {
            if let Some(hint) = self.hint_for_error(status, &trouble) {
                detail += &format!("; hint: {hint}");
            }
            return Attempt::Ended(
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .with_detail(self.scrub(&detail))
                    .not_billed(),
            );
        }
        Attempt::TurnedAway(TurnedAway {
            retry_after: retry::retry_after(&headers, SystemTime::now()),
            is_final: should_retry == Some(false),
            is_rate_limit,
            detail: self.scrub(&detail),
        })
    }

    /// What to do about a final answer.
    fn hint_for_error(&self, status: StatusCode, trouble: &WireError) -> Option<String> {
        let key = self
            .model
            .key_env
            .as_deref()
            .filter(|name| !name.is_empty());
        let message = trouble.message.to_lowercase();
        Some(match status.as_u16() {
            _ if trouble.is_out_of_funds() => {
                "the account has no money left, or its limit is reached".to_owned()
            }
            401 | 403 => match key {
                Some(key) => format!("the server does not accept the key in {key}"),
                None => "the server wants a key: name its variable in `key_env`".to_owned(),
            },
            404 => format!(
                "is `{}` what {} calls the model?",
                self.model.model,
                self.host()
            ),
            300..=399 => "the server is elsewhere: put its address into `base_url`".to_owned(),
            _ => {
                let refused = self.wire.setting_named_in(&self.model, &message)?;
                match refused {
                    "max_output_tokens" => {
                        "the server calls the cap of a reply otherwise: `fields: {max_output_tokens: max_tokens}`, or gives it another limit: `max_output_tokens`".to_owned()
                    }
                    setting => format!("the model does not take `{setting}`: take it out of the config"),
                }
            }
        })
    }

    fn describe_error(&self, trouble: &WireError) -> String {
        let kind = trouble.kind.trim();
        match (kind.is_empty(), trouble.message.trim().is_empty()) {
            (true, true) => "the server does not say why".to_owned(),
            (true, false) => trouble.message.clone(),
            (false, true) => kind.to_owned(),
            (false, false) => format!("{kind}: {}", trouble.message),
        }
    }

    fn scrub(&self, text: &str) -> String {
        sanitize_detail(&self.secrets.scrub(text))
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// Why reading ended.
enum StreamEnd {
    Finished,
    Interrupted(String),
    Failed(WireError),
    Unreadable(String),
}

impl Provider for HttpProvider {
    fn send<'a>(&'a self, request: &'a Request, _place: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.send_once(request))
    }
}

/// An error with its causes; without the address, which the config knows.
fn error_chain(error: &reqwest::Error) -> String {
    let mut words = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if !words.is_empty() {
            words.push_str(": ");
        }
        words.push_str(&error.to_string());
        cause = error.source();
    }
    match words.is_empty() {
        true => "the connection failed".to_owned(),
        false => words,
    }
}

fn request_headers(model: &ModelSettings, wire: Protocol) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut insert_secret = |name: HeaderName, prefix: &str, secret: &Secret, of: &str| {
        let value = HeaderValue::from_str(&format!("{prefix}{}", secret.reveal()));
        let mut value = value.map_err(|_| {
            Failure::usage(format!(
                "the key in {of} holds characters that no header can"
            ))
            .hint("set it again, without quotes and line ends")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    let missing = |name: &str| {
        Failure::environment(format!("{name} is not set, which `{}` needs", model.name))
            .hint("set it to the provider's key, or name another variable in `key_env`")
    };
    if let Some(name) = model.key_env.as_deref().filter(|name| !name.is_empty()) {
        let key = Secret::from_environment(name).ok_or_else(|| missing(name))?;
        match wire {
            Protocol::Messages => {
                insert_secret(HeaderName::from_static("x-api-key"), "", &key, name)?
            }
            _ => insert_secret(AUTHORIZATION, "Bearer ", &key, name)?,
        }
    }
    for (name, value) in &model.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::usage(format!("`{name}` is no header")))?;
        if let Some(variable) = value.strip_prefix('$') {
            let secret = Secret::from_environment(variable).ok_or_else(|| missing(variable))?;
            insert_secret(header, "", &secret, variable)?;
        }
    }
    for (name, value) in model
        .headers
        .iter()
        .filter(|(_, value)| !value.starts_with('$'))
    {
        let odd = |_| Failure::usage(format!("`{name}: {value}` is no header"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| odd(()))?;
        headers.insert(header, HeaderValue::from_str(value).map_err(|_| odd(()))?);
    }
    if model.provider == ProviderName::Anthropic {
        let version = model.version.as_deref().unwrap_or(ANTHROPIC_VERSION);
        let value = HeaderValue::from_str(version)
            .map_err(|_| Failure::usage(format!("`{version}` is no version")))?;
        headers.insert("anthropic-version", value);
    }
    Ok(headers)
}

/// A client that follows no redirect, which would carry the key elsewhere, and sends nothing twice by itself.
fn http_client(url: &Url) -> Result<reqwest::Client, Failure> {
    static CIPHERS: Once = Once::new();
    CIPHERS.call_once(|| {
        // An error says that the process has ciphers already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .retry(http_retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("kforge/", env!("CARGO_PKG_VERSION")));
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        // Nothing is ever encrypted there: a machine without certificates will do.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| {
        Failure::environment(format!(
            "no connections can be made: {}",
            error_chain(&error)
        ))
        .hint("are the system's certificates installed (the package `ca-certificates`)?")
    })
}
