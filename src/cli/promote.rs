//! `kforge promote`: a run's best kernel becomes the best that is known of its task, where it is. The only way for
//! `kernels/TASK/best.cu` to change.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Exit, Format, evolve, print, print_json, print_json_lines};
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, files};
use crate::config::{self, Config, ProfileChoice, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{self, Contest};
use crate::llm;
use crate::report::Spinner;
use crate::run::{self, BestOfRun, RunDirectory, RunRecord};
use crate::search;
use crate::task::{BestKnown, Task, TaskFiles};
use crate::verdict::{DeviceIdentity, Verdict};
use crate::worker::{EvaluatorFactory, WorkerPools};

/// In how many processes the two are timed against each other on a GPU, where a process is the largest source of chance.
const GPU_DUEL_PROCESSES: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct PromoteArgs {
    /// The run's directory.
    #[arg(value_name = "RUN")]
    directory: PathBuf,
    /// The task whose kernel is meant; may be repeated. Default: all tasks of the run.
    #[arg(long, value_name = "TASK")]
    task: Vec<String>,
    /// Replace what was measured on another backend or device, too: it is not compared, since it cannot be.
    #[arg(long)]
    force: bool,
    /// How much judging to do: a profile of the task. Default: the run's.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Which device judges. Default: the run's.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "cpu", "cuda"])]
    backend: Option<String>,
    /// Override any key of the run's config, such as `--set eval.seconds=3`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const AFTER_HELP: &str = "\
The kernel is confirmed with new seeds in fresh processes, the best that is known is judged
anew, and the two are timed in pairs against each other. It is promoted if it was confirmed and
its interval says that it is faster.

Exit codes:
  0    promoted
  2    usage or configuration
  3    environment: no compiler, no device
  4    the oracle or the baseline failed
  5    not promoted, of one task at least; it says why
  130  interrupted; what is known is as it was";

/// What became of one task.
struct PromotionResult {
    promoted: bool,
    why: String,
    facts: Value,
}

pub(super) fn run(arguments: PromoteArgs) -> anyhow::Result<Exit> {
    let directory = RunDirectory::new(&arguments.directory);
    let record = RunRecord::read(&directory)?;
    for name in &arguments.task {
        if !record.tasks.contains_key(name) {
            let known = record.tasks.keys().map(String::as_str);
            let run = arguments.directory.display();
            return Err(Failure::usage(format!("`{run}` has no task `{name}`"))
                .hint(did_you_mean(name, known))
                .into());
        }
    }
    let resolved = resolve_for_judging(&arguments, &record)?;
    if resolved.gpus.is_empty() {
        cpu::find_compiler()?;
    }
    if resolved.require_sandbox {
        cpu::require_sandbox()?;
    }
    let pools = evolve::build_pools(&resolved);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut results = Vec::new();
    let ended = runtime.block_on(async {
        let mut interrupt = driver::watch_signals()?;
        let wanted = resolved
            .tasks
            .iter()
            .filter(|(_, task)| arguments.task.is_empty() || arguments.task.contains(&task.name));
        for (files, task) in wanted {
            let promotion = TaskPromotion {
                resolved: &resolved,
                record: &record,
                directory: &directory,
                files,
                task,
                force: arguments.force,
            };
            tokio::select! {
                result = promotion.promote(&pools) => {
                    let one = result?;
                    match arguments.format {
                        Format::Human => print(&describe_result(&task.name, &one))?,
                        Format::Jsonl => print_json_lines([&one.facts])?,
                        Format::Json => {}
                    }
                    results.push(one);
                }
                _ = interrupt.wait_for(|told| *told) => return Ok(false),
            }
        }
        anyhow::Ok(true)
    });
    runtime.shutdown_background();
    if arguments.format == Format::Json && (ended.is_ok() || !results.is_empty()) {
        print_json(&results.iter().map(|one| &one.facts).collect::<Vec<_>>())?;
    }
    Ok(match ended? {
        false => Exit::Interrupted,
        true if results.iter().all(|one| one.promoted) => Exit::Done,
        true => Exit::NothingPassed,
    })
}

/// The run's config as far as it bears on judging: no search, no model.
fn resolve_for_judging(
    arguments: &PromoteArgs,
    record: &RunRecord,
) -> anyhow::Result<ResolvedConfig> {
    let run = arguments.directory.display();
    let mut config: Config = serde_json::from_value(record.config.clone()).map_err(|error| {
        Failure::usage(format!("{run}/run.yaml: config: {error}"))
            .hint("put the file back as kforge wrote it")
    })?;
    config.search = search::SearchSettings::default();
    config.llm = llm::LlmSettings {
        models: llm::ModelList::Listed(Vec::new()),
        ..llm::LlmSettings::default()
    };
    config.budget = config::BudgetConfig::default();
    config.from = Vec::new();
    if let Some(name) = &arguments.profile {
        config.profile = ProfileChoice(name.clone());
    }
    if let Some(name) = &arguments.backend {
        config.backend = evolve::parse_backend(name);
    }
    let config = config::apply_overrides(&config, &arguments.set)?;
    Ok(config::resolve(&config, "promote", "")?)
}

/// A task of a run, and what is needed to judge for it.
struct TaskPromotion<'a> {
    resolved: &'a ResolvedConfig,
    record: &'a RunRecord,
    directory: &'a RunDirectory,
    files: &'a TaskFiles,
    task: &'a Task,
    force: bool,
}

impl TaskPromotion<'_> {
    async fn promote(&self, pools: &WorkerPools) -> anyhow::Result<PromotionResult> {
        let name = &self.task.name;
        let Some(best) = run::best_kernel(self.directory, name)? else {
            let why = "no kernel of this run has passed".to_owned();
            return Ok(self.result(false, why, None, None, None));
        };
        let known = self.files.best_known()?;
        let current = known.as_ref().map(CurrentBest::of);
        if current
            .as_ref()
            .is_some_and(|known| known.kernel == Digest::of(&best.source))
        {
            let why = "it is the best that is known already".to_owned();
            return Ok(self.result(false, why, Some(&best), current.as_ref(), None));
        }
        let device = self.resolved.gpus.first().cloned();
        let device = device.unwrap_or_else(cpu::identity);
        let other_device = current
            .as_ref()
            .and_then(|known| known.other_device(&self.resolved.backend, &device));
        if let (Some(foreign), false) = (&other_device, self.force) {
            let why = format!(
                "what is there was measured on {foreign}, and this is {}: `--force` replaces it",
                device_label(&self.resolved.backend, &device.name, &device.arch)
            );
            return Ok(self.result(false, why, Some(&best), current.as_ref(), None));
        }
        let waiting = Spinner::new();
        waiting.set_message(&format!("{name}: judging step {}", best.step));
        let evaluator = pools.open(self.task.clone().into()).await?;
        let against = known.as_ref().filter(|_| other_device.is_none());
        let duels = match self.resolved.gpus.is_empty() {
            true => 1,
            false => GPU_DUEL_PROCESSES,
        };
        let contest = driver::contest(
            evaluator.as_ref(),
            &best.source,
            against.map(|known| known.source.as_str()),
            duels,
        );
        let mut contest = contest.await?;
        drop(waiting);
        if let (Some(foreign), true) = (&other_device, contest.won) {
            contest.why = format!(
                "it was confirmed; what was there was measured on {foreign}, and is replaced by `--force`"
            );
        }
        if contest.won {
            self.install(&best, &mut contest, known.as_ref())?;
        }
        let why = contest.why.clone();
        Ok(self.result(
            contest.won,
            why,
            Some(&best),
            current.as_ref(),
            Some(&contest),
        ))
    }

    /// Puts the kernel and its verdict in place. The verdict names the kernel's hash: one that lies beside another kernel, because
    /// something was killed in between, is seen to be none of that kernel's.
    fn install(
        &self,
        best: &BestOfRun,
        contest: &mut Contest,
        judged_against: Option<&BestKnown>,
    ) -> anyhow::Result<()> {
        let path = self.files.best_source();
        let latest = self.files.best_known()?;
        if latest.as_ref().map(|known| &known.source) != judged_against.map(|known| &known.source) {
            return Err(Failure::usage(format!(
                "`{}` has changed while it was judged against",
                path.display()
            ))
            .hint("promote again: the kernel is judged against what is there now")
            .into());
        }
        // Nothing of this machine's folders: the file is for others to have too.
        contest.challenger.kernel = format!("kernels/{}/best.cu", self.task.name);
        let root = self.directory.root();
        let absolute = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let mut verdict = serde_json::to_value(&contest.challenger)?;
        verdict["promoted"] = json!({
            "kernel": Digest::of(&best.source),
            "run": absolute.file_name().map(|name| name.to_string_lossy()),
            "step": best.step,
            "time": run::timestamp(run::now_milliseconds()),
            "kforge": env!("CARGO_PKG_VERSION"),
            "task": self.task.digest,
            "profile": self.resolved.profile,
            "over": judged_against.map(|known| Digest::of(&known.source)),
            "duel": contest.duel,
            "why": contest.why,
        });
        files::create_folder(&self.files.kernels_folder)?;
        files::replace_durably(&path, best.source.as_bytes())?;
        let text = format!("{}\n", serde_json::to_string_pretty(&verdict)?);
        files::replace_durably(&self.files.best_verdict(), text.as_bytes())
    }

    fn result(
        &self,
        promoted: bool,
        why: String,
        best: Option<&BestOfRun>,
        current: Option<&CurrentBest>,
        contest: Option<&Contest>,
    ) -> PromotionResult {
        let recorded = self.record.tasks.get(&self.task.name);
        let task_changed = recorded.is_some_and(|began| began.folder != self.task.digest);
        let facts = json!({
            "task": self.task.name,
            "promoted": promoted,
            "why": why,
            "run": self.directory.root(),
            "step": best.map(|best| best.step),
            "task_changed_since_the_run": task_changed,
            "kernel": self.files.best_source(),
            "there": current.map(|known| json!({"origin": known.origin, "kernel": known.kernel, "backend": known.backend, "device": known.device})),
            "duel": contest.and_then(|contest| contest.duel),
            "verdict": contest.map(|contest| &contest.challenger),
            "verdict_of_there": contest.and_then(|contest| contest.incumbent.as_ref()),
        });
        PromotionResult {
            promoted,
            why,
            facts,
        }
    }
}

/// The kernel that is there, and what its verdict says of where it was measured.
struct CurrentBest {
    origin: String,
    kernel: Digest,
    backend: Option<String>,
    device: Option<DeviceIdentity>,
}

impl CurrentBest {
    fn of(known: &BestKnown) -> Self {
        let kernel = Digest::of(&known.source);
        let value: Option<Value> = known
            .verdict
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok());
        // A verdict on another kernel says nothing of this one.
        let value = value.filter(|value| value["promoted"]["kernel"] == json!(kernel));
        let verdict: Option<Verdict> = value.and_then(|value| serde_json::from_value(value).ok());
        Self {
            origin: known.origin.clone(),
            kernel,
            backend: verdict.as_ref().map(|verdict| verdict.backend.clone()),
            device: verdict.map(|verdict| verdict.device),
        }
    }

    /// Where it was measured, if that is known and is not here.
    fn other_device(&self, backend: &str, here: &DeviceIdentity) -> Option<String> {
        let (their_backend, theirs) = (self.backend.as_ref()?, self.device.as_ref()?);
        let is_here =
            their_backend == backend && theirs.name == here.name && theirs.arch == here.arch;
        (!is_here).then(|| device_label(their_backend, &theirs.name, &theirs.arch))
    }
}

fn device_label(backend: &str, name: &str, arch: &str) -> String {
    format!("{backend}, {name} ({arch})")
}

fn describe_result(task: &str, result: &PromotionResult) -> String {
    let facts = &result.facts;
    let mut text = match result.promoted {
        true => format!("{task}: promoted: {}\n", result.why),
        false => format!("{task}: not promoted: {}\n", result.why),
    };
    if let Some(step) = facts["step"].as_u64() {
        let run = facts["run"].as_str().unwrap_or_default();
        text += &format!("  kernel    step {step} of {run}\n");
    }
    let line = |verdict: &Value| {
        let verdict: Verdict = serde_json::from_value(verdict.clone()).ok()?;
        let baseline = verdict
            .baseline
            .map_or_else(String::new, |baseline| baseline.name);
        let speedup = verdict.speedup?;
        let [low, high] = speedup.ci95;
        Some(format!(
            "{:.3}x of {baseline} [{low:.3}, {high:.3}] on {}",
            speedup.geomean,
            device_label(&verdict.backend, &verdict.device.name, &verdict.device.arch)
        ))
    };
    if let Some(confirmed) = line(&facts["verdict"]) {
        text += &format!("  confirmed {confirmed}\n");
    }
    if let Some(origin) = facts["there"]["origin"].as_str() {
        let was = if result.promoted {
            "was there"
        } else {
            "is there "
        };
        text += &match line(&facts["verdict_of_there"]) {
            Some(judged) => format!("  {was} {origin}: {judged}\n"),
            None => format!("  {was} {origin}\n"),
        };
    }
    if result.promoted {
        let path = facts["kernel"].as_str().unwrap_or_default();
        text += &format!("  now in    {path}, its verdict beside it\n");
    }
    if facts["task_changed_since_the_run"] == json!(true) {
        text += "  note      the task has changed since the run; it was judged as it is now\n";
    }
    text
}
