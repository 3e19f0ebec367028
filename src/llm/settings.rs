//! The `llm` section of a run config: what can be set, the defaults, and how `auto` is resolved.
//!
//! Sends nothing and reads no key, only whether one is set. Settings of single models are checked in `model_check`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::model_check::{check_model, check_sampling, invalid_value};
use super::models::{ModelList, ModelSettings, ProviderName};
use crate::base::Failure;

/// How models are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmSettings {
    pub models: ModelList,
    /// The most requests in flight, except those to a mailbox.
    pub concurrency: usize,
    /// Time limit of one request.
    pub timeout_seconds: f64,
    /// How long a stream may send nothing.
    pub idle_seconds: f64,
    /// How often a request that the server turns away is sent again.
    pub retries: u32,
    /// How long a request may wait in total for a server that turns it away.
    pub patience_seconds: f64,
    /// The share of a model's context window that a prompt may fill.
    pub context_share: f64,
    /// `mailbox`: whether to wait for replies.
    pub wait: bool,
    /// A folder whose templates override the embedded ones of the same name.
    pub prompts: Option<PathBuf>,
    /// Files with lessons from earlier runs, and directories of such runs. Every prompt shows them.
    pub lessons: Vec<PathBuf>,
    /// The most `str_replace` edits in one reply.
    pub max_edits: usize,
    /// This and the following settings override every model's own.
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
            lessons: Vec::new(),
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

/// What `auto` takes: the first provider whose key variable is set, and its default model.
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

/// The key variables of providers that are set in the environment.
pub fn key_variables_set() -> Vec<&'static str> {
    let names = AUTO_MODELS.iter().map(|(_, name, _)| *name);
    names.filter(|name| is_set(name)).collect()
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

impl LlmSettings {
    /// Checks all values. An error names the key from the config's top: `llm.…`.
    pub fn check(&self) -> Result<(), Failure> {
        if !(1..=256).contains(&self.concurrency) {
            return Err(invalid_value(
                "llm.concurrency",
                self.concurrency,
                "1 to 256 requests can be in flight",
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
                    "a time is above 0 and at most 1000000 seconds",
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
                "a share is above 0 and at most 1",
            ));
        }
        if !(1..=64).contains(&self.max_edits) {
            return Err(invalid_value(
                "llm.max_edits",
                self.max_edits,
                "1 to 64 edits per reply",
            ));
        }
        let ModelList::Listed(models) = &self.models else {
            let overrides = self.with_overrides(&ModelSettings::new(ProviderName::Mailbox, ""));
            return check_sampling("llm", &overrides);
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

    /// Checks that a budget can be enforced with these models. Call it on resolved settings.
    pub fn check_budget(&self, usd: Option<f64>, tokens: Option<u64>) -> Result<(), Failure> {
        let ModelList::Listed(models) = &self.models else {
            return Ok(());
        };
        // A budget in tokens can always be enforced: every reply has a cap, and prompts count by the byte or are estimated.
        let _ = tokens;
        let Some(usd) = usd else {
            return Ok(());
        };
        for model in models {
            if model.provider.is_unpriced() {
                return Err(Failure::usage(format!(
                    "`budget.usd: {usd}` cannot be enforced: the cost of `{}` is not known",
                    model.name
                ))
                .hint("use `budget.tokens`, which counts tokens estimated from bytes"));
            }
            if model.price.is_none() {
                return Err(Failure::usage(format!(
                    "`budget.usd: {usd}` cannot be enforced: `{}` has no price",
                    model.name
                ))
                .hint(
                    "give the model a `price: {input: …, output: …}` in dollars per million tokens, or use `budget.tokens`",
                ));
            }
        }
        Ok(())
    }

    /// The directory of the run whose replies all models repeat, if they do.
    pub(crate) fn replayed_run(&self) -> Option<&Path> {
        let ModelList::Listed(models) = &self.models else {
            return None;
        };
        let run = models.first()?.from.as_deref()?;
        let repeats = |model: &ModelSettings| {
            model.provider == ProviderName::Replay && model.from.as_deref() == Some(run)
        };
        models.iter().all(repeats).then_some(run)
    }

    /// Resolves `auto`, URLs and keys. Also returns what was decided, one line each.
    pub fn resolved(&self) -> Result<(Self, Vec<String>), Failure> {
        self.check()?;
        let mut resolved = self.clone();
        let mut decisions = Vec::new();
        let models = match &self.models {
            ModelList::Listed(models) => models.clone(),
            ModelList::Auto => auto_model(&mut decisions).into_iter().collect(),
        };
        let mut listed = Vec::new();
        for model in models {
            let mut model = self.with_overrides(&model);
            resolve_endpoint(&mut model, &mut decisions);
            check_model(&model)?;
            listed.push(model);
        }
        resolved.models = ModelList::Listed(listed);
        Ok((resolved, decisions))
    }

    /// A model with the settings that are set for all models.
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

/// The model that `auto` takes, if any.
fn auto_model(decisions: &mut Vec<String>) -> Option<ModelSettings> {
    let found = AUTO_MODELS.iter().find(|(_, key, _)| is_set(key));
    decisions.push(match found {
        None => "models: none (no provider key in the environment: only kforge's own operators make kernels)".to_owned(),
        Some((provider, key, model)) => {
            format!("models: {}/{model} ({key} is set)", provider.name())
        }
    });
    found.map(|(provider, _, model)| ModelSettings::new(*provider, model))
}

/// Sets a model's URL and key variable from the environment and the provider's defaults.
///
/// A provider's key is sent only to that provider: a server that the config names gets no key unless the config names the key too.
fn resolve_endpoint(model: &mut ModelSettings, decisions: &mut Vec<String>) {
    let Some(endpoint) = model.provider.endpoint() else {
        return;
    };
    if model.base_url.is_some() {
        model.key_env.get_or_insert_with(String::new);
        return;
    }
    let from_environment = endpoint.url_env.and_then(|name| {
        let url = std::env::var(name).ok().filter(|url| !url.is_empty())?;
        Some((name, url))
    });
    let url = match from_environment {
        Some((name, url)) => {
            decisions.push(format!("{}: base URL {url} ({name} is set)", model.name));
            url
        }
        None => endpoint.base_url.to_owned(),
    };
    model.base_url = Some(url);
    if model.key_env.is_none() {
        model.key_env = Some(endpoint.key_env.unwrap_or_default().to_owned());
    }
}
