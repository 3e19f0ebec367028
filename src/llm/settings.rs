//! The `llm` section of a run config: what a person may set, and what is taken where nothing was said.
//!
//! Checks and decides; asks nobody, and reads no key: only whether one is there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::models::{ModelList, ModelSettings, ProviderName};
use super::wire;
use crate::base::Failure;
use crate::base::environment::is_secret_name;
use crate::base::text::quote_list;

/// How models are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmSettings {
    pub models: ModelList,
    /// Questions under way at once; those in a mailbox aside.
    pub concurrency: usize,
    /// How long one request may take in all.
    pub timeout_seconds: f64,
    /// How long a stream may be silent.
    pub idle_seconds: f64,
    /// How often a question is sent again that the server turned away.
    pub retries: u32,
    /// How long a question may wait for a server that turns it away, in all.
    pub patience_seconds: f64,
    /// The share of a model's window that a prompt may fill.
    pub context_share: f64,
    /// `mailbox`: whether to wait for replies.
    pub wait: bool,
    /// A folder whose files take the place of the program's own templates of the same name.
    pub prompts: Option<PathBuf>,
    /// The most `str_replace` edits in one reply.
    pub max_edits: usize,
    /// These take the place of every model's own.
    pub max_output_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u64>,
    pub effort: Option<String>,
    pub thinking_tokens: Option<u64>,
}

impl Default for LlmSettings {
    fn default() -> Self {
        Self {
            models: ModelList::Auto,
            concurrency: 4,
            timeout_seconds: 900.0,
            idle_seconds: 180.0,
            retries: 6,
            patience_seconds: 600.0,
            context_share: 0.5,
            wait: true,
            prompts: None,
            max_edits: 2,
            max_output_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            effort: None,
            thinking_tokens: None,
        }
    }
}

/// What `auto` takes, in this order: the provider, the variable with its key, a model of it.
const AUTO_MODELS: [(ProviderName, &str, &str); 4] = [
    (
        ProviderName::Anthropic,
        "ANTHROPIC_API_KEY",
        "claude-sonnet-4-5",
    ),
    (ProviderName::Openai, "OPENAI_API_KEY", "gpt-5"),
    (ProviderName::Gemini, "GEMINI_API_KEY", "gemini-2.5-pro"),
    (
        ProviderName::Openrouter,
        "OPENROUTER_API_KEY",
        "anthropic/claude-sonnet-4.5",
    ),
];

/// The variables with keys of providers that are set here.
pub fn key_variables_set() -> Vec<&'static str> {
    let names = AUTO_MODELS.iter().map(|(_, name, _)| *name);
    names.filter(|name| is_set(name)).collect()
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

impl LlmSettings {
    /// Whether the values mean something. Names the key from the config's top: `llm.…`.
    pub fn check(&self) -> Result<(), Failure> {
        if !(1..=256).contains(&self.concurrency) {
            return Err(invalid_value(
                "llm.concurrency",
                self.concurrency,
                "1 to 256 questions can be under way at once",
            ));
        }
        for (key, value) in [
            ("timeout_seconds", self.timeout_seconds),
            ("idle_seconds", self.idle_seconds),
            ("patience_seconds", self.patience_seconds),
        ] {
            if !(value > 0.0 && value <= 1e6) {
                return Err(invalid_value(
                    &format!("llm.{key}"),
                    value,
                    "a time is above 0 and at most a million seconds",
                ));
            }
        }
        if self.retries > 1000 {
            return Err(invalid_value("llm.retries", self.retries, "at most 1000"));
        }
        if !(self.context_share > 0.0 && self.context_share <= 1.0) {
            return Err(invalid_value(
                "llm.context_share",
                self.context_share,
                "a share lies above 0 and is at most 1",
            ));
        }
        if !(1..=64).contains(&self.max_edits) {
            return Err(invalid_value(
                "llm.max_edits",
                self.max_edits,
                "1 to 64 edits a reply",
            ));
        }
        let ModelList::Listed(models) = &self.models else {
            return check_sampling(
                "llm",
                &self.with_overrides(&ModelSettings::new(ProviderName::Mailbox, "")),
            );
        };
        for (index, model) in models.iter().enumerate() {
            check_model(&self.with_overrides(model))?;
            if models[..index].iter().any(|other| other.name == model.name) {
                return Err(Failure::usage(format!(
                    "`llm.models` has two models named `{}`",
                    model.name
                ))
                .hint("give one of them another `name`"));
            }
        }
        Ok(())
    }

    /// Whether a budget can be kept with these models, once they are decided.
    pub fn check_budget(&self, usd: Option<f64>, tokens: Option<u64>) -> Result<(), Failure> {
        let ModelList::Listed(models) = &self.models else {
            return Ok(());
        };
        let Some(usd) = usd else {
            // Every reply is capped, by the server or by the byte: tokens can always be counted.
            let _ = tokens;
            return Ok(());
        };
        for model in models {
            if model.provider.is_unpriced() {
                return Err(Failure::usage(format!(
                    "`budget.usd: {usd}` cannot be kept: what `{}` costs is not known",
                    model.name
                ))
                .hint(
                    "limit it by `budget.tokens`, which counts the bytes of prompts and replies",
                ));
            }
            if model.price.is_none() {
                return Err(Failure::usage(format!(
                    "`budget.usd: {usd}` cannot be kept: `{}` has no price",
                    model.name
                ))
                .hint(
                    "give the model a `price: {input: …, output: …}` in dollars per million tokens, or limit it by `budget.tokens`",
                ));
            }
        }
        Ok(())
    }

    /// The settings with nothing left to decide, and what was decided, one line each.
    pub fn resolved(&self) -> Result<(Self, Vec<String>), Failure> {
        self.check()?;
        let mut decided = self.clone();
        let mut decisions = Vec::new();
        let models = match &self.models {
            ModelList::Listed(models) => models.clone(),
            ModelList::Auto => {
                let found = AUTO_MODELS.iter().find(|(_, key, _)| is_set(key));
                decisions.push(found.map_or_else(
                    || {
                        "models: none (no provider's key is in the environment: kforge's own operators make the kernels)"
                            .to_owned()
                    },
                    |(provider, key, model)| {
                        format!("models: {}/{model} ({key} is set)", provider.name())
                    },
                ));
                let model = found.map(|(provider, _, model)| ModelSettings::new(*provider, model));
                model.into_iter().collect()
            }
        };
        let mut listed = Vec::new();
        for model in models {
            let mut model = self.with_overrides(&model);
            resolve_endpoint(&mut model, &mut decisions);
            check_model(&model)?;
            listed.push(model);
        }
        decided.models = ModelList::Listed(listed);
        Ok((decided, decisions))
    }

    /// A model with what is set for all of them.
    fn with_overrides(&self, model: &ModelSettings) -> ModelSettings {
        let mut model = model.clone();
        model.max_output_tokens = self.max_output_tokens.or(model.max_output_tokens);
        model.temperature = self.temperature.or(model.temperature);
        model.top_p = self.top_p.or(model.top_p);
        model.top_k = self.top_k.or(model.top_k);
        model.effort = self.effort.clone().or(model.effort);
        model.thinking_tokens = self.thinking_tokens.or(model.thinking_tokens);
        model
    }
}

/// Where the model is reached and by which key, from what the environment says. A key is only ever sent to the server that it
/// is for: a server that the config names gets none unless the config names the key too.
fn resolve_endpoint(model: &mut ModelSettings, choices: &mut Vec<String>) {
    let Some(endpoint) = model.provider.endpoint() else {
        return;
    };
    if model.base_url.is_some() {
        model.key_env.get_or_insert_with(String::new);
        return;
    }
    let named = endpoint.url_env.and_then(|name| {
        let url = std::env::var(name).ok().filter(|url| !url.is_empty())?;
        Some((name, url))
    });
    let url = match named {
        Some((name, url)) => {
            choices.push(format!("{}: reached at {url} ({name} is set)", model.name));
            url
        }
        None => endpoint.base_url.to_owned(),
    };
    model.base_url = Some(url);
    if model.key_env.is_none() {
        model.key_env = Some(endpoint.key_env.unwrap_or_default().to_owned());
    }
}

fn check_model(model: &ModelSettings) -> Result<(), Failure> {
    let key = format!("llm.models.{}", model.name);
    if !(model.weight > 0.0 && model.weight <= 1e9) {
        return Err(invalid_value(
            &format!("{key}.weight"),
            model.weight,
            "a weight is above 0; leave a model out that is not to be asked",
        ));
    }
    let needs = |name: &str, hint: &str| {
        Err(Failure::usage(format!("`{key}` has no `{name}`")).hint(hint.to_owned()))
    };
    if model.provider.endpoint().is_some() && model.model.is_empty() {
        return needs("model", "say which model of the provider is meant");
    }
    if model.provider == ProviderName::Command && model.command.first().is_none_or(String::is_empty)
    {
        return needs(
            "command",
            "give the program and its arguments, for example `command: [claude, -p]`",
        );
    }
    if model.provider == ProviderName::Replay && model.from.is_none() {
        return needs("from", "name the directory of the earlier run");
    }
    check_applies(&key, model)?;
    check_sampling(&key, model)?;
    if let Some(url) = &model.base_url {
        check_url(&format!("{key}.base_url"), url)?;
    }
    for (name, value) in &model.headers {
        let is_secret = is_secret_name(name) && !value.starts_with('$');
        if is_secret {
            return Err(Failure::usage(format!(
                "`{key}.headers.{name}` would put a key into a file"
            ))
            .hint("write `$NAME`, the name of the environment variable that holds it"));
        }
        if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err()
            || reqwest::header::HeaderValue::from_str(value).is_err()
        {
            return Err(invalid_value(
                &format!("{key}.headers.{name}"),
                value,
                "this is no header of HTTP",
            ));
        }
    }
    if let Some(price) = &model.price {
        price.check(&format!("{key}.price"))?;
    }
    wire::check_model(&key, model)
}

/// A setting that would do nothing for this provider is refused rather than ignored.
fn check_applies(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let is_served = model.provider.endpoint().is_some();
    let is_command = model.provider == ProviderName::Command;
    let is_anthropic = model.provider == ProviderName::Anthropic;
    let given = [
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
        (
            "from",
            model.from.is_some(),
            model.provider == ProviderName::Replay,
        ),
        (
            "price",
            model.price.is_some(),
            !model.provider.is_unpriced(),
        ),
    ];
    let ignored = given
        .iter()
        .filter(|(_, is_set, applies)| *is_set && !applies);
    let idle: Vec<_> = ignored.map(|(name, ..)| *name).collect();
    match idle.is_empty() {
        true => Ok(()),
        false => Err(
            Failure::usage(format!("`{key}`: {} would do nothing", quote_list(&idle))).hint(
                format!("the provider `{}` does not take it", model.provider.name()),
            ),
        ),
    }
}

fn check_sampling(key: &str, model: &ModelSettings) -> Result<(), Failure> {
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
            let hint = "a whole number from 1 to a billion";
            return Err(invalid_value(&format!("{key}.{name}"), value, hint));
        }
    }
    if model.effort.as_ref().is_some_and(String::is_empty) {
        return Err(invalid_value(
            &format!("{key}.effort"),
            "",
            "a word such as `high`",
        ));
    }
    if let Some(thinking) = model.thinking_tokens
        && thinking >= model.max_output_tokens()
        && model.provider.endpoint().is_some()
    {
        let hint = "thinking is a part of the reply: it has to be less than `max_output_tokens`";
        return Err(invalid_value(
            &format!("{key}.thinking_tokens"),
            thinking,
            hint,
        ));
    }
    Ok(())
}

fn check_url(key: &str, text: &str) -> Result<(), Failure> {
    let hint =
        "give the address up to what the protocol adds, for example `http://localhost:8000/v1`";
    let Ok(url) = reqwest::Url::parse(text) else {
        return Err(invalid_value(key, text, hint));
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid_value(key, text, hint));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(Failure::usage(format!(
            "`{key}` holds a name, a password or a query, which would end up in files"
        ))
        .hint("put the key into an environment variable and name that in `key_env` or `headers`"));
    }
    Ok(())
}

fn invalid_value(key: &str, value: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::usage(format!("`{key}` cannot be `{value}`")).hint(hint.to_owned())
}
