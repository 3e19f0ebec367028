//! A run with models, kforge's own operators and a scripted judge: in this process, or in one that can be killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use kforge::base::{Digest, Failure};
use kforge::driver::{
    self, ModelOptions, Operators, PromptDevice, RunEnd, RunOptions, TaskEnd, TemplateBackend,
};
use kforge::event::StopReason;
use kforge::llm::{BudgetLimits, Client, LlmSettings};
use kforge::propose::prompt::Templates;
use kforge::report::{Observer, SilentObserver};
use kforge::run::RunRecord;
use kforge::search::{FoldOrder, NearCopySettings, Search};
use kforge::verdict::DeviceIdentity;

use crate::driver::scripted::{judges, options_in};

/// Environment variables of the process that can be killed.
pub(crate) const DIRECTORY: &str = "KFORGE_TEST_DIRECTORY";
pub(crate) const SCENARIO: &str = "KFORGE_TEST_SCENE";

/// `key_env` of a model without a key.
pub(crate) const NO_KEY: &str = "";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// The config's `llm` section.
    pub(crate) llm: Value,
    pub(crate) steps: u64,
    pub(crate) usd: Option<f64>,
    pub(crate) tokens: Option<u64>,
    /// The time budget.
    pub(crate) seconds: Option<f64>,
    /// The speedup that ends the search.
    pub(crate) target: Option<f64>,
    /// The longest time of a verdict, in milliseconds.
    pub(crate) max_judging_ms: u64,
    /// Weights of the operators.
    pub(crate) operators: Value,
    pub(crate) near_copies: NearCopySettings,
    pub(crate) order: FoldOrder,
}

/// A model behind the server at `url`, with additional settings.
pub(crate) fn model(url: &str, more: Value) -> Value {
    let mut model = json!({
        "name": "local", "provider": "openai", "model": "m", "base_url": url, "key_env": NO_KEY,
        "max_output_tokens": 4000, "price": {"input": 3, "output": 15},
    });
    merge(&mut model, more);
    model
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

impl Scenario {
    /// One model behind the server at `url`, which nearly every step uses.
    pub(crate) fn new(url: &str, steps: u64) -> Self {
        Self::with_models(json!([model(url, json!({}))]), steps)
    }

    pub(crate) fn with_models(models: Value, steps: u64) -> Self {
        Self {
            llm: json!({"models": models, "concurrency": 4, "patience_seconds": 30.0}),
            steps,
            usd: None,
            tokens: None,
            seconds: None,
            target: None,
            max_judging_ms: 0,
            operators: json!({"propose": 4, "edit": 8, "crossover": 1, "repair": 2, "autotune": 0.5, "mutate": 0.5, "recombine": 0}),
            near_copies: NearCopySettings::default(),
            order: FoldOrder::Journal,
        }
    }

    /// Merges settings into the `llm` section.
    pub(crate) fn with_llm(mut self, llm: Value) -> Self {
        merge(&mut self.llm, llm);
        self
    }

    fn options(&self, directory: &Path) -> Result<RunOptions> {
        let typed: LlmSettings = serde_json::from_value(self.llm.clone())?;
        let (settings, _) = typed.resolved()?;
        settings.check_budget(self.usd, self.tokens)?;
        let tasks = [crate::asking::run_log::TASK];
        let mut options = options_in(self.order, directory, &tasks, self.steps);
        options.search.operators = serde_json::from_value(self.operators.clone())?;
        options.search.near_copies = self.near_copies;
        options.search.target_speedup = self.target;
        let templates = Arc::new(Templates::embedded()?);
        options.record.prompts = Some(templates.version().to_owned());
        options.record.window = 2 * (options.in_flight + settings.concurrency) as u64;
        // Models and budget may change from process to process.
        options.record.config = json!({"search": options.search});
        options.budget = self.seconds.map(Duration::from_secs_f64);
        options.models = Some(ModelOptions {
            prompts_version: templates.version().to_owned(),
            limits: BudgetLimits::new(self.usd, self.tokens),
            concurrency: settings.concurrency,
            backend: Arc::new(TemplateBackend {
                client: Arc::new(Client::open(&settings)?),
                templates,
                device: PromptDevice::new(DeviceIdentity::default()),
                backend: "cpu".to_owned(),
                profile: "quick".to_owned(),
                max_edits: settings.max_edits,
                context_share: settings.context_share,
                to_beat: Default::default(),
                lessons: Default::default(),
            }),
        });
        Ok(options)
    }

    /// The search of the run before its first event.
    pub(crate) fn search(&self, directory: &Path) -> Search {
        let options = self.options(directory).unwrap();
        let starts = options.tasks[0].starting_kernels();
        let starts: Vec<_> = starts.map(|(name, _)| name.to_owned()).collect();
        let models = options.models.as_ref().unwrap();
        let RunRecord { seed, window, .. } = options.record;
        Search::new(&options.search, seed, window, self.steps, &starts)
            .with_order(self.order)
            .with_models(models.backend.model_pool(&options.tasks[0]))
    }

    /// Starts or resumes the run in this process, to its end.
    pub(crate) fn run(&self, directory: &Path) -> Result<RunEnd> {
        self.run_watched(directory, &mut SilentObserver)
    }

    pub(crate) fn run_watched(
        &self,
        directory: &Path,
        observer: &mut dyn Observer,
    ) -> Result<RunEnd> {
        let options = self.options(directory)?;
        let judges = judges(Duration::from_millis(self.max_judging_ms));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let proposer = Arc::new(Operators::new(None)?);
            driver::run(
                options,
                proposer,
                &judges,
                observer,
                driver::never_interrupted(),
            )
            .await
        })
    }

    /// Runs to the end; returns the task's end.
    pub(crate) fn finish(&self, directory: &Path) -> TaskEnd {
        let mut ended = self.run(directory).unwrap();
        ended.tasks.remove(0)
    }

    /// Runs until all steps are done.
    pub(crate) fn finish_all_steps(&self, directory: &Path) -> TaskEnd {
        let end = self.finish(directory);
        assert_eq!(end.stop_reason(), Some(StopReason::Steps));
        assert_eq!(end.progress.steps, self.steps);
        end
    }

    /// Runs until it fails; returns the error.
    pub(crate) fn run_to_failure(&self, directory: &Path) -> Failure {
        let error = self.run(directory).unwrap_err();
        error.downcast::<Failure>().unwrap()
    }

    /// The same run as a separate process.
    pub(crate) fn process(&self, directory: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "asking::asking_process"])
            .env(DIRECTORY, directory)
            .env(SCENARIO, serde_json::to_string(self).unwrap())
            .stdout(Stdio::null());
        crate::program::heed_signals(&mut command);
        command
    }
}

/// The hash by which the journal knows a prompt.
pub(crate) fn prompt_digest(seen: &crate::llm::server::SeenRequest) -> Digest {
    Digest::of(crate::asking::model::document(seen))
}
