//! What `evolve`, `tune` and `resume` share about models: flags, and the author that a run's config comes to.

use std::sync::Arc;

use crate::base::Failure;
use crate::config::{Config, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{ModelOptions, PromptDevice, TemplateBackend};
use crate::llm::{self, Client};
use crate::propose::prompt::Templates;

/// Flags for models. Each takes the place of its key in the config.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Models")]
pub(super) struct ModelArgs {
    /// A model to ask, such as `anthropic/claude-sonnet-4-5` or `mailbox`; may be repeated. Default: the config's.
    #[arg(long, value_name = "PROVIDER/MODEL")]
    model: Vec<String>,
    /// Ask no model: kforge's own operators alone.
    #[arg(long, conflicts_with = "model")]
    no_model: bool,
    /// Sampling temperature of all models (`llm.temperature`).
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f64>,
    /// Nucleus sampling of all models (`llm.top_p`).
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f64>,
    /// Sampling among so many tokens (`llm.top_k`).
    #[arg(long, value_name = "NUMBER")]
    top_k: Option<u64>,
    /// How hard models think, in their provider's words (`llm.effort`).
    #[arg(long, value_name = "NAME")]
    effort: Option<String>,
    /// The most tokens of thinking (`llm.thinking_tokens`).
    #[arg(long, value_name = "NUMBER")]
    thinking_tokens: Option<u64>,
    /// The most tokens of a reply (`llm.max_output_tokens`).
    #[arg(long, value_name = "NUMBER")]
    max_output_tokens: Option<u64>,
    /// Questions under way at once (`llm.concurrency`).
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<usize>,
    /// The most that models may cost in all, in dollars (`budget.usd`).
    #[arg(long, value_name = "DOLLARS")]
    budget_usd: Option<f64>,
    /// The most tokens that models may use in all (`budget.tokens`).
    #[arg(long, value_name = "NUMBER")]
    budget_tokens: Option<u64>,
    /// A folder of prompt templates (`llm.prompts`).
    #[arg(long, value_name = "DIR")]
    prompts: Option<std::path::PathBuf>,
    /// Where replies come by mailbox, do not wait for them: exit 6, and `kforge resume` goes on.
    #[arg(long)]
    no_wait: bool,
}

impl ModelArgs {
    /// The config under the flags.
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        let llm = &mut config.llm;
        if self.no_model {
            llm.models = llm::ModelList::Listed(Vec::new());
        }
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

/// Whom the run asks; `None` where no model is listed.
pub(super) fn open_models(resolved: &ResolvedConfig) -> Result<Option<TemplateBackend>, Failure> {
    let llm = &resolved.llm;
    if matches!(&llm.models, llm::ModelList::Listed(models) if models.is_empty()) {
        return Ok(None);
    }
    let templates = match &llm.prompts {
        Some(folder) => Templates::with_folder(folder)?,
        None => Templates::embedded()?,
    };
    let device = resolved.gpus.first().cloned().unwrap_or_else(cpu::identity);
    Ok(Some(TemplateBackend {
        client: Arc::new(Client::open(llm)?),
        templates: Arc::new(templates),
        device: PromptDevice::new(device),
        backend: resolved.backend.clone(),
        profile: resolved.profile.clone(),
        max_edits: llm.max_edits,
        context_share: llm.context_share,
    }))
}

/// The same with its limits, for the driver.
pub(super) fn request_options(resolved: &ResolvedConfig) -> Result<Option<ModelOptions>, Failure> {
    Ok(open_models(resolved)?.map(|author| ModelOptions {
        prompts_version: author.templates.version().to_owned(),
        backend: Arc::new(author),
        limits: resolved.limits,
        concurrency: resolved.llm.concurrency,
    }))
}
