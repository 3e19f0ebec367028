//! Flags about models, and the model backend that follows from a run's config.
//!
//! Opens providers, which reads keys from the environment. Sends nothing.

use std::path::PathBuf;
use std::sync::Arc;

use super::contenders::times_to_beat;
use crate::base::Failure;
use crate::config::{Config, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{ModelOptions, PromptDevice, TemplateBackend};
use crate::llm::{self, Client};
use crate::propose::prompt::Templates;

/// Flags of every command that can ask models. Each replaces its key in the config.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ModelArgs {
    /// Model to ask, e.g. `anthropic/claude-sonnet-4-5` or `mailbox`. Repeatable. Default: the config's.
    #[arg(long, value_name = "PROVIDER/MODEL")]
    model: Vec<String>,
    /// Sampling temperature (`llm.temperature`).
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f64>,
    /// Nucleus sampling (`llm.top_p`).
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f64>,
    /// Top-k sampling (`llm.top_k`).
    #[arg(long, value_name = "NUMBER")]
    top_k: Option<u64>,
    /// Reasoning effort, as the provider names it (`llm.effort`).
    #[arg(long, value_name = "NAME")]
    effort: Option<String>,
    /// Maximum tokens of reasoning (`llm.thinking_tokens`).
    #[arg(long, value_name = "NUMBER")]
    thinking_tokens: Option<u64>,
    /// Maximum tokens of a reply (`llm.max_output_tokens`).
    #[arg(long, value_name = "NUMBER")]
    max_output_tokens: Option<u64>,
    /// Requests in flight at once (`llm.concurrency`).
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<usize>,
    /// Maximum dollars to spend on models (`budget.usd`).
    #[arg(long, value_name = "DOLLARS")]
    budget_usd: Option<f64>,
    /// Maximum tokens to spend on models (`budget.tokens`).
    #[arg(long, value_name = "NUMBER")]
    budget_tokens: Option<u64>,
    /// Folder of prompt templates (`llm.prompts`).
    #[arg(long, value_name = "DIR")]
    prompts: Option<PathBuf>,
    /// Do not wait for mailbox replies: exit with 6 once nothing else is left to do.
    #[arg(long)]
    no_wait: bool,
}

/// A flag of commands that also work without a model.
#[derive(Debug, Default, clap::Args)]
pub(super) struct NoModelArg {
    /// Ask no model; use kforge's own operators.
    #[arg(long, conflicts_with = "model")]
    no_model: bool,
}

impl NoModelArg {
    pub(super) fn apply(&self, config: &mut Config) {
        if self.no_model {
            config.llm.models = llm::ModelList::Listed(Vec::new());
        }
    }
}

impl ModelArgs {
    /// Applies the flags to a config.
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        let llm = &mut config.llm;
        if !self.model.is_empty() {
            let models = self
                .model
                .iter()
                .map(|name| llm::ModelSettings::parse(name));
            llm.models = llm::ModelList::Listed(models.collect::<Result<_, _>>()?);
        }
        llm.temperature = self.temperature.or(llm.temperature);
        llm.top_p = self.top_p.or(llm.top_p);
        llm.top_k = self.top_k.or(llm.top_k);
        llm.effort = self.effort.clone().or(llm.effort.take());
        llm.thinking_tokens = self.thinking_tokens.or(llm.thinking_tokens);
        llm.max_output_tokens = self.max_output_tokens.or(llm.max_output_tokens);
        llm.concurrency = self.concurrency.unwrap_or(llm.concurrency);
        llm.prompts = self.prompts.clone().or(llm.prompts.take());
        llm.wait &= !self.no_wait;
        config.budget.usd = self.budget_usd.or(config.budget.usd);
        config.budget.tokens = self.budget_tokens.or(config.budget.tokens);
        Ok(())
    }
}

/// The models of a run as a backend for the driver; `None` where no model is listed.
pub(super) fn model_options(resolved: &ResolvedConfig) -> Result<Option<ModelOptions>, Failure> {
    let llm = &resolved.llm;
    if matches!(&llm.models, llm::ModelList::Listed(models) if models.is_empty()) {
        return Ok(None);
    }
    let templates = match &llm.prompts {
        Some(folder) => Templates::with_folder(folder)?,
        None => Templates::embedded()?,
    };
    let device = resolved.gpus.first().cloned().unwrap_or_else(cpu::identity);
    let prompts_version = templates.version().to_owned();
    let to_beat = resolved.tasks.iter().filter_map(|(files, task)| {
        let times = times_to_beat(resolved, files, task)?;
        Some((task.name.clone(), times))
    });
    let backend = TemplateBackend {
        client: Arc::new(Client::open(llm)?),
        templates: Arc::new(templates),
        device: PromptDevice::new(device),
        backend: resolved.backend.clone(),
        profile: resolved.profile.clone(),
        max_edits: llm.max_edits,
        context_share: llm.context_share,
        to_beat: to_beat.collect(),
        lessons: resolved.lessons.clone(),
    };
    Ok(Some(ModelOptions {
        prompts_version,
        backend: Arc::new(backend),
        limits: resolved.limits,
        concurrency: llm.concurrency,
    }))
}
