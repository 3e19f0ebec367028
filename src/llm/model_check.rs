//! Checks the settings of one model. An error names the setting's key in the config.

use super::models::{ModelSettings, ProviderName};
use super::wire;
use crate::base::Failure;
use crate::base::environment::is_secret_name;
use crate::base::text::quote_list;

/// Checks everything that is known without a request.
pub(super) fn check_model(model: &ModelSettings) -> Result<(), Failure> {
    let key = format!("llm.models.{}", model.name);
    if !(model.weight > 0.0 && model.weight <= 1e9) {
        return Err(invalid_value(
            &format!("{key}.weight"),
            model.weight,
            "a weight is above 0; remove a model that should not be used",
        ));
    }
    check_required(&key, model)?;
    check_applies(&key, model)?;
    check_sampling(&key, model)?;
    if let Some(url) = &model.base_url {
        check_url(&format!("{key}.base_url"), url)?;
    }
    check_headers(&key, model)?;
    if let Some(price) = &model.price {
        price.check(&format!("{key}.price"))?;
    }
    wire::check_model(&key, model)
}

fn check_required(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let missing = |name: &str, hint: &str| {
        Err(Failure::usage(format!("`{key}` has no `{name}`")).hint(hint.to_owned()))
    };
    if model.provider.endpoint().is_some() && model.model.is_empty() {
        return missing("model", "name one of the provider's models");
    }
    match model.provider {
        ProviderName::Command if model.command.first().is_none_or(String::is_empty) => missing(
            "command",
            "give the program and its arguments, for example `command: [claude, -p]`",
        ),
        ProviderName::Replay if model.from.is_none() => {
            missing("from", "name the directory of the earlier run")
        }
        _ => Ok(()),
    }
}

/// Refuses settings that have no effect for the provider.
fn check_applies(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let is_served = model.provider.endpoint().is_some();
    let is_command = model.provider == ProviderName::Command;
    let is_anthropic = model.provider == ProviderName::Anthropic;
    let is_replay = model.provider == ProviderName::Replay;
    let is_priced = !model.provider.is_unpriced();
    let settings = [
        ("base_url", model.base_url.is_some(), is_served),
        ("key_env", model.key_env.is_some(), is_served),
        ("temperature", model.temperature.is_some(), is_served),
        ("top_p", model.top_p.is_some(), is_served),
        ("top_k", model.top_k.is_some(), is_served),
        ("effort", model.effort.is_some(), is_served),
        (
            "thinking_tokens",
            model.thinking_tokens.is_some(),
            is_served,
        ),
        ("seed", model.seed.is_some(), is_served),
        ("stop", !model.stop.is_empty(), is_served),
        ("fields", !model.fields.is_empty(), is_served),
        ("stream", model.stream.is_some(), is_served),
        ("cache", model.cache.is_some(), is_anthropic),
        ("version", model.version.is_some(), is_anthropic),
        ("headers", !model.headers.is_empty(), is_served),
        ("extra", !model.extra.is_empty(), is_served),
        ("command", !model.command.is_empty(), is_command),
        ("pass_env", !model.pass_env.is_empty(), is_command),
        ("from", model.from.is_some(), is_replay),
        ("price", model.price.is_some(), is_priced),
    ];
    let ignored = settings
        .iter()
        .filter(|(_, is_set, applies)| *is_set && !applies);
    let ignored: Vec<_> = ignored.map(|(name, ..)| *name).collect();
    if ignored.is_empty() {
        return Ok(());
    }
    let verb = if ignored.len() == 1 { "has" } else { "have" };
    Err(Failure::usage(format!(
        "`{key}`: {} {verb} no effect",
        quote_list(&ignored)
    ))
    .hint(format!(
        "provider `{}` has no such setting",
        model.provider.name()
    )))
}

pub(super) fn check_sampling(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let numbers = [
        ("temperature", model.temperature, 0.0..=2.0),
        ("top_p", model.top_p, 0.0..=1.0),
    ];
    for (name, value, range) in numbers {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let hint = format!("a number from {} to {}", range.start(), range.end());
            return Err(invalid_value(&format!("{key}.{name}"), value, &hint));
        }
    }
    for (name, value) in [
        ("top_k", model.top_k),
        ("context_tokens", model.context_tokens),
        ("max_output_tokens", model.max_output_tokens),
        ("thinking_tokens", model.thinking_tokens),
    ] {
        if let Some(value) = value.filter(|value| !(1..=1_000_000_000).contains(value)) {
            let hint = "a whole number from 1 to 1000000000";
            return Err(invalid_value(&format!("{key}.{name}"), value, hint));
        }
    }
    if model.effort.as_ref().is_some_and(String::is_empty) {
        let hint = "a word such as `high`";
        return Err(invalid_value(&format!("{key}.effort"), "", hint));
    }
    if let Some(thinking) = model.thinking_tokens
        && thinking >= model.max_output_tokens()
        && model.provider.endpoint().is_some()
    {
        let hint = "thinking is part of the reply: it must be less than `max_output_tokens`";
        return Err(invalid_value(
            &format!("{key}.thinking_tokens"),
            thinking,
            hint,
        ));
    }
    Ok(())
}

fn check_url(key: &str, text: &str) -> Result<(), Failure> {
    let is_http =
        |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    let Some(url) = reqwest::Url::parse(text).ok().filter(is_http) else {
        return Err(
            Failure::usage(format!("`{key}`: `{text}` is not a valid URL")).hint(
                "give the URL without the protocol's path, for example `http://localhost:8000/v1`",
            ),
        );
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(Failure::usage(format!(
            "`{key}` contains a user name, a password or a query, which would be written to files"
        ))
        .hint("put the key into an environment variable, and name it in `key_env` or `headers`"));
    }
    Ok(())
}

fn check_headers(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    for (name, value) in &model.headers {
        if is_secret_name(name) && !value.starts_with('$') {
            return Err(Failure::usage(format!(
                "`{key}.headers.{name}` would write a key to a file"
            ))
            .hint("write `$NAME`, the name of the environment variable with the key"));
        }
        if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err()
            || reqwest::header::HeaderValue::from_str(value).is_err()
        {
            return Err(invalid_value(
                &format!("{key}.headers.{name}"),
                value,
                "this is not a valid HTTP header",
            ));
        }
    }
    Ok(())
}

pub(super) fn invalid_value(key: &str, value: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::usage(format!("`{key}` cannot be `{value}`")).hint(hint.to_owned())
}
