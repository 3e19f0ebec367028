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

use super::models::{Model, ProviderName};
use super::secret::{Secret, Secrets};
use super::sse::Events;
use super::wire::{End, Gathered, Said, Trouble, Wire};
use super::{Attempt, Place, Provider, Reply, Request, Sending, TurnedAway, capped, retry};
use crate::base::Failure;
use crate::event::ReplyOutcome;

/// The version of Anthropic's protocol that this was written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// How much of a reply, and of what a server says is wrong, is read at most.
const MOST_BYTES: usize = 64 << 20;
const MOST_TROUBLE: usize = 64 << 10;

/// How long the end of a stream is waited for after its last event: then the connection can serve again.
const LINGER: Duration = Duration::from_millis(100);

/// Times of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub total: Duration,
    pub idle: Duration,
}

/// A model behind a server.
pub(super) struct Http {
    client: reqwest::Client,
    wire: Wire,
    url: Url,
    headers: HeaderMap,
    model: Model,
    times: Times,
    secrets: Secrets,
}

impl Http {
    pub(super) fn open(
        model: &Model,
        wire: Wire,
        times: Times,
        secrets: &Secrets,
    ) -> Result<Self, Failure> {
        let base = model.base_url.as_deref().unwrap_or_default();
        let url = Url::parse(&wire.url(base)).map_err(|error| {
            Failure::usage(format!(
                "`{base}` of `{}` is no address: {error}",
                model.name
            ))
        })?;
        let headers = headers(model, wire)?;
        Ok(Self {
            client: client(&url)?,
            wire,
            url,
            headers,
            model: model.clone(),
            times,
            secrets: secrets.clone(),
        })
    }

    async fn ask(&self, request: &Request) -> Attempt {
        let ended = |outcome, detail: String| {
            Attempt::Ended(Reply::new(outcome, String::new()).because(detail))
        };
        let body = match self.wire.body(&self.model, request) {
            Ok(body) => body,
            Err(error) => {
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .because(format!("the request cannot be written: {error}"))
                        .unbilled(),
                );
            }
        };
        let is_streamed = self.model.stream.unwrap_or(true);
        let deadline = Instant::now() + self.times.total;
        let patience = match is_streamed {
            true => self.times.idle.min(self.times.total),
            false => self.times.total,
        };
        let sent = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(body)
            .send();
        let response = match timeout(patience, sent).await {
            Err(_) => {
                let seconds = patience.as_secs_f64();
                return ended(ReplyOutcome::Lost, format!("no answer within {seconds} s"));
            }
            Ok(Err(error)) if error.is_connect() => {
                return Attempt::TurnedAway(TurnedAway {
                    retry_after: None,
                    is_final: false,
                    is_rate_limit: false,
                    detail: self.clean(&format!(
                        "no connection to {}: {}",
                        self.host(),
                        chain(&error)
                    )),
                });
            }
            Ok(Err(error)) if error.is_builder() => {
                let detail = self.clean(&format!("the request cannot be made: {}", chain(&error)));
                return Attempt::Ended(
                    Reply::new(ReplyOutcome::Fatal, String::new())
                        .because(detail)
                        .unbilled(),
                );
            }
            Ok(Err(error)) => {
                let detail = format!("the connection to {} broke: {}", self.host(), chain(&error));
                return ended(ReplyOutcome::Lost, self.clean(&detail));
            }
            Ok(Ok(response)) => response,
        };
        if !response.status().is_success() {
            return self.turned_away(response, deadline).await;
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let comes_as_events = match kind {
            kind if kind.starts_with("text/event-stream") => true,
            kind if kind.starts_with("application/json") => false,
            _ => is_streamed,
        };
        Attempt::Ended(match comes_as_events {
            true => self.stream(response, deadline).await,
            false => self.whole(response, deadline).await,
        })
    }

    /// Reads events until the last one.
    async fn stream(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut gathered = Gathered::default();
        let mut events = Events::default();
        let mut bytes = 0;
        loop {
            let chunk = self.chunk(&mut response, deadline).await;
            let flow = match &chunk {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    events.push(chunk, |data| self.take(data, &mut gathered))
                }
                Ok(None) => {
                    // What is not a whole event at the end was cut off, and is none.
                    let flow = events.finish(|data| self.take(data, &mut gathered));
                    match flow {
                        ControlFlow::Break(Stop::Unreadable(_)) => ControlFlow::Continue(()),
                        flow => flow,
                    }
                }
                Err(_) => ControlFlow::Continue(()),
            };
            let stop = match (flow, chunk) {
                (ControlFlow::Break(stop), _) => stop,
                (_, Ok(Some(_))) if bytes > MOST_BYTES => {
                    Stop::Unreadable(format!("more than {MOST_BYTES} bytes came"))
                }
                (_, Ok(Some(_))) => continue,
                (_, Ok(None)) => Stop::Cut("the stream ended before the reply did".to_owned()),
                (_, Err(why)) => Stop::Cut(why),
            };
            if matches!(stop, Stop::Last) {
                let until_end = async { while let Ok(Some(_)) = response.chunk().await {} };
                // Only for the connection's sake: the reply is whole.
                let _ = timeout(LINGER, until_end).await;
            }
            return self.reply(gathered, stop);
        }
    }

    fn take(&self, data: &str, gathered: &mut Gathered) -> ControlFlow<Stop> {
        match self.wire.event(data, gathered) {
            Ok(Said::More) => ControlFlow::Continue(()),
            Ok(Said::Last) => ControlFlow::Break(Stop::Last),
            Ok(Said::Failed(trouble)) => ControlFlow::Break(Stop::Failed(trouble)),
            Err(why) => ControlFlow::Break(Stop::Unreadable(why)),
        }
    }

    /// Reads a reply that comes as one.
    async fn whole(&self, mut response: Response, deadline: Instant) -> Reply {
        let mut gathered = Gathered::default();
        let mut bytes = Vec::new();
        let stop = loop {
            match self.chunk(&mut response, deadline).await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > MOST_BYTES => {
                    break Some(Stop::Unreadable(format!(
                        "more than {MOST_BYTES} bytes came"
                    )));
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break None,
                Err(why) => break Some(Stop::Cut(why)),
            }
        };
        let stop = stop.unwrap_or_else(|| match self.wire.whole(&bytes, &mut gathered) {
            Ok(Said::Failed(trouble)) => Stop::Failed(trouble),
            Ok(_) => Stop::Last,
            Err(why) => Stop::Unreadable(why),
        });
        self.reply(gathered, stop)
    }

    /// The next bytes, within the times; why not, in words.
    async fn chunk(
        &self,
        response: &mut Response,
        deadline: Instant,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, String> {
        let silence = Instant::now() + self.times.idle;
        match timeout_at(silence.min(deadline), response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(format!("the connection broke: {}", chain(&error))),
            Err(_) if silence < deadline => Err(format!(
                "nothing came for {} s",
                self.times.idle.as_secs_f64()
            )),
            Err(_) => Err(format!(
                "it took longer than {} s",
                self.times.total.as_secs_f64()
            )),
        }
    }

    /// What all that came amounts to.
    fn reply(&self, gathered: Gathered, stop: Stop) -> Reply {
        use ReplyOutcome::{Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated};
        let is_empty = gathered.text.trim().is_empty();
        // Some servers count as they go: before the end that is not what is billed.
        let is_counted = gathered.end.is_some() && matches!(stop, Stop::Last | Stop::Cut(_));
        let (outcome, detail) = match (stop, gathered.end) {
            (Stop::Failed(trouble), _) => {
                let outcome = if trouble.is_final() { Fatal } else { Lost };
                (outcome, Some(self.words(&trouble)))
            }
            (Stop::Unreadable(why), _) => (Malformed, Some(why)),
            // Once the model has said that it is done, nothing of the text can be missing.
            (_, Some(End::Complete)) if is_empty => (Empty, None),
            (_, Some(End::Complete)) => (Complete, None),
            (_, Some(End::Truncated)) => (Truncated, None),
            (_, Some(End::Refused(words))) => (Refused, Some(words)),
            (_, Some(End::Odd(why))) => (Malformed, Some(why)),
            (Stop::Last, None) => (
                Malformed,
                Some("the reply does not say why it ended".to_owned()),
            ),
            (Stop::Cut(why), None) => (Lost, Some(why)),
        };
        Reply {
            usage: gathered.usage.filter(|_| is_counted),
            served_by: gathered.served_by.map(|name| capped(&name)),
            detail: detail.map(|detail| self.clean(&detail)),
            ..Reply::new(outcome, self.secrets.scrub(&gathered.text).into_owned())
        }
    }

    /// What a status other than success means.
    async fn turned_away(&self, mut response: Response, deadline: Instant) -> Attempt {
        let status = response.status();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while bytes.len() < MOST_TROUBLE
            && let Ok(Some(chunk)) = self.chunk(&mut response, deadline).await
        {
            bytes.extend_from_slice(&chunk);
        }
        let trouble = match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => Trouble::read(&value),
            Err(_) => Trouble {
                kind: String::new(),
                message: String::from_utf8_lossy(&bytes).into_owned(),
            },
        };
        let mut detail = format!("status {}: {}", status.as_u16(), self.words(&trouble));
        let id = ["request-id", "x-request-id"]
            .iter()
            .find_map(|name| headers.get(*name));
        if let Some(id) = id.and_then(|id| id.to_str().ok()) {
            detail += &format!(" (request {})", capped(id));
        }
        let word = retry::should_retry(&headers);
        let is_passing = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT
            );
        let is_rate_limit = status == StatusCode::TOO_MANY_REQUESTS;
        let is_about_money = is_rate_limit && trouble.is_about_money();
        if is_about_money || !word.unwrap_or(is_passing) && !is_passing {
            if let Some(hint) = self.hint(status, &trouble) {
                detail += &format!("; hint: {hint}");
            }
            return Attempt::Ended(
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .because(self.clean(&detail))
                    .unbilled(),
            );
        }
        Attempt::TurnedAway(TurnedAway {
            retry_after: retry::retry_after(&headers, SystemTime::now()),
            is_final: word == Some(false),
            is_rate_limit,
            detail: self.clean(&detail),
        })
    }

    /// What to do about a final answer.
    fn hint(&self, status: StatusCode, trouble: &Trouble) -> Option<String> {
        let key = self
            .model
            .key_env
            .as_deref()
            .filter(|name| !name.is_empty());
        let message = trouble.message.to_lowercase();
        Some(match status.as_u16() {
            _ if trouble.is_about_money() => {
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
                let refused = self.wire.refused(&self.model, &message)?;
                match refused {
                    "max_output_tokens" => {
                        "the server calls the cap of a reply otherwise: `fields: {max_output_tokens: max_tokens}`, or gives it another limit: `max_output_tokens`".to_owned()
                    }
                    setting => format!("the model does not take `{setting}`: take it out of the config"),
                }
            }
        })
    }

    fn words(&self, trouble: &Trouble) -> String {
        let kind = trouble.kind.trim();
        match (kind.is_empty(), trouble.message.trim().is_empty()) {
            (true, true) => "the server does not say why".to_owned(),
            (true, false) => trouble.message.clone(),
            (false, true) => kind.to_owned(),
            (false, false) => format!("{kind}: {}", trouble.message),
        }
    }

    fn clean(&self, text: &str) -> String {
        capped(&self.secrets.scrub(text))
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// Why reading ended.
enum Stop {
    Last,
    Cut(String),
    Failed(Trouble),
    Unreadable(String),
}

impl Provider for Http {
    fn send<'a>(&'a self, request: &'a Request, _place: &'a Place) -> Sending<'a> {
        Box::pin(self.ask(request))
    }
}

/// An error with its causes; without the address, which the config knows.
fn chain(error: &reqwest::Error) -> String {
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

fn headers(model: &Model, wire: Wire) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut sensitive = |name: HeaderName, prefix: &str, secret: &Secret, of: &str| {
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
            Wire::Messages => sensitive(HeaderName::from_static("x-api-key"), "", &key, name)?,
            _ => sensitive(AUTHORIZATION, "Bearer ", &key, name)?,
        }
    }
    for (name, value) in &model.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::usage(format!("`{name}` is no header")))?;
        if let Some(variable) = value.strip_prefix('$') {
            let secret = Secret::from_environment(variable).ok_or_else(|| missing(variable))?;
            sensitive(header, "", &secret, variable)?;
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
fn client(url: &Url) -> Result<reqwest::Client, Failure> {
    static CIPHERS: Once = Once::new();
    CIPHERS.call_once(|| {
        // An error says that the process has ciphers already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .retry(http_retry::never())
        .connect_timeout(CONNECT)
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
        Failure::environment(format!("no connections can be made: {}", chain(&error)))
            .hint("are the system's certificates installed (the package `ca-certificates`)?")
    })
}
