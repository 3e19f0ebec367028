//! Sets up HTTP connections: headers with keys, and a client that never sends a key elsewhere.

use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Url, redirect, retry as http_retry};

use super::models::{ModelSettings, ProviderName};
use super::secret::Secret;
use super::wire::Protocol;
use crate::base::Failure;

/// The version of Anthropic's protocol that `wire::messages` implements.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How long establishing a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The headers of every request to a model. Headers with secrets are marked as sensitive, so that logs omit them.
pub(super) fn request_headers(
    model: &ModelSettings,
    protocol: Protocol,
) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(name) = model.key_env.as_deref().filter(|name| !name.is_empty()) {
        let (header, prefix) = match protocol {
            Protocol::Messages => (HeaderName::from_static("x-api-key"), ""),
            Protocol::Chat | Protocol::Responses => (AUTHORIZATION, "Bearer "),
        };
        headers.insert(header, secret_header(model, name, prefix)?);
    }
    for (name, value) in &model.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::usage(format!("`{name}` is not a valid HTTP header name")))?;
        let value = match value.strip_prefix('$') {
            Some(variable) => secret_header(model, variable, "")?,
            None => HeaderValue::from_str(value).map_err(|_| {
                Failure::usage(format!("header `{name}` has an invalid value: `{value}`"))
            })?,
        };
        headers.insert(header, value);
    }
    if model.provider == ProviderName::Anthropic {
        let version = model.version.as_deref().unwrap_or(ANTHROPIC_VERSION);
        let value = HeaderValue::from_str(version)
            .map_err(|_| Failure::usage(format!("`version` is invalid: `{version}`")))?;
        headers.insert("anthropic-version", value);
    }
    Ok(headers)
}

/// A header value with the secret of an environment variable.
fn secret_header(
    model: &ModelSettings,
    variable: &str,
    prefix: &str,
) -> Result<HeaderValue, Failure> {
    let secret = Secret::from_environment(variable).ok_or_else(|| {
        Failure::environment(format!(
            "environment variable {variable} is not set (needed by model `{}`)",
            model.name
        ))
        .hint("set it to the provider's key, or name another variable in `key_env`")
    })?;
    let value = HeaderValue::from_str(&format!("{prefix}{}", secret.reveal()));
    let mut value = value.map_err(|_| {
        Failure::usage(format!(
            "the key in {variable} has characters that an HTTP header cannot have"
        ))
        .hint("set it again, without quotes and line ends")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A client that follows no redirects, which could send the key elsewhere, and never resends a request by itself.
pub(super) fn http_client(url: &Url) -> Result<reqwest::Client, Failure> {
    static CIPHERS: Once = Once::new();
    CIPHERS.call_once(|| {
        // Fails only if the process already has a crypto provider.
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
        // Nothing is encrypted, so no certificates are needed: the machine may have none.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| {
        Failure::environment(format!("cannot set up HTTPS: {}", error_chain(&error)))
            .hint("install the system's certificates (package `ca-certificates`)")
    })
}

/// The causes of an error, without the URL.
pub(super) fn error_chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    if causes.is_empty() {
        "the connection failed".to_owned()
    } else {
        causes.join(": ")
    }
}
