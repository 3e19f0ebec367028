//! `kforge promote`: a run's best kernel becomes the best that is known of its task, where it is. The only way for
//! `kernels/TASK/best.cu` to change.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Exit, Format, evolve, print, print_json, print_json_lines};
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, files};
use crate::config::{self, Config, ProfileChoice, Resolved};
use crate::device::cpu;
use crate::driver::{self, Contest};
use crate::llm;
use crate::report::Waiting;
use crate::run::{self, BestOfRun, Record, RunDirectory};
use crate::search;
use crate::task::{BestKnown, Task, TaskFiles};
use crate::verdict::{DeviceIdentity, Verdict};
use crate::worker::{EvaluatorFactory, Pools};

/// In how many processes the two are timed against each other on a GPU, where a process is the largest source of chance.
const DUELS_ON_A_CARD: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
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

const HELP: &str = "\
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
struct Told {
    promoted: bool,
    why: String,
    facts: Value,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let directory = RunDirectory::new(&arguments.directory);
    let record = Record::read(&directory)?;
    for name in &arguments.task {
        if !record.tasks.contains_key(name) {
            let known = record.tasks.keys().map(String::as_str);
            let place = arguments.directory.display();
            return Err(Failure::usage(format!("`{place}` has no task `{name}`"))
                .hint(did_you_mean(name, known))
                .into());
        }
    }
    let resolved = resolved(&arguments, &record)?;
    if resolved.cards.is_empty() {
        cpu::find_compiler()?;
    }
    if resolved.require_sandbox {
        cpu::require_sandbox()?;
    }
    let pools = evolve::pools(&resolved);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut told = Vec::new();
    let ended = runtime.block_on(async {
        let mut interrupt = driver::watch_signals()?;
        let wanted = resolved
            .tasks
            .iter()
            .filter(|(_, task)| arguments.task.is_empty() || arguments.task.contains(&task.name));
        for (files, task) in wanted {
            let place = Place {
                resolved: &resolved,
                record: &record,
                directory: &directory,
                files,
                task,
                force: arguments.force,
            };
            tokio::select! {
                one = place.promote(&pools) => {
                    let one = one?;
                    match arguments.format {
                        Format::Human => print(&describe(&task.name, &one))?,
                        Format::Jsonl => print_json_lines([&one.facts])?,
                        Format::Json => {}
                    }
                    told.push(one);
                }
                _ = interrupt.wait_for(|told| *told) => return Ok(false),
            }
        }
        anyhow::Ok(true)
    });
    runtime.shutdown_background();
    if arguments.format == Format::Json && (ended.is_ok() || !told.is_empty()) {
        print_json(&told.iter().map(|one| &one.facts).collect::<Vec<_>>())?;
    }
    Ok(match ended? {
        false => Exit::Interrupted,
        true if told.iter().all(|one| one.promoted) => Exit::Done,
        true => Exit::NothingPassed,
    })
}

/// The run's config as far as it bears on judging: no search, no model.
fn resolved(arguments: &Arguments, record: &Record) -> anyhow::Result<Resolved> {
    let place = arguments.directory.display();
    let mut config: Config = serde_json::from_value(record.config.clone()).map_err(|error| {
        Failure::usage(format!("{place}/run.yaml: config: {error}"))
            .hint("put the file back as kforge wrote it")
    })?;
    config.search = search::Settings::default();
    config.llm = llm::Settings {
        models: llm::Models::Listed(Vec::new()),
        ..llm::Settings::default()
    };
    config.budget = config::Budget::default();
    config.from = Vec::new();
    if let Some(name) = &arguments.profile {
        config.profile = ProfileChoice(name.clone());
    }
    if let Some(name) = &arguments.backend {
        config.backend = evolve::backend(name);
    }
    let config = config::apply(&config, &arguments.set)?;
    Ok(config::resolve(&config, "promote", "")?)
}

/// A task of a run, and what is needed to judge for it.
struct Place<'a> {
    resolved: &'a Resolved,
    record: &'a Record,
    directory: &'a RunDirectory,
    files: &'a TaskFiles,
    task: &'a Task,
    force: bool,
}

impl Place<'_> {
    async fn promote(&self, pools: &Pools) -> anyhow::Result<Told> {
        let name = &self.task.name;
        let Some(best) = run::best_of(self.directory, name)? else {
            let why = "no kernel of this run has passed".to_owned();
            return Ok(self.told(false, why, None, None, None));
        };
        let known = self.files.best_known()?;
        let there = known.as_ref().map(Known::of);
        if there
            .as_ref()
            .is_some_and(|known| known.kernel == Digest::of(&best.source))
        {
            let why = "it is the best that is known already".to_owned();
            return Ok(self.told(false, why, Some(&best), there.as_ref(), None));
        }
        let device = self.resolved.cards.first().cloned();
        let device = device.unwrap_or_else(cpu::identity);
        let foreign = there
            .as_ref()
            .and_then(|known| known.elsewhere(&self.resolved.backend, &device));
        if let (Some(foreign), false) = (&foreign, self.force) {
            let why = format!(
                "what is there was measured on {foreign}, and this is {}: `--force` replaces it",
                on(&self.resolved.backend, &device.name, &device.arch)
            );
            return Ok(self.told(false, why, Some(&best), there.as_ref(), None));
        }
        let waiting = Waiting::new();
        waiting.on(&format!("{name}: judging step {}", best.step));
        let evaluator = pools.open(self.task.clone().into()).await?;
        let against = known.as_ref().filter(|_| foreign.is_none());
        let duels = match self.resolved.cards.is_empty() {
            true => 1,
            false => DUELS_ON_A_CARD,
        };
        let contest = driver::contest(
            evaluator.as_ref(),
            &best.source,
            against.map(|known| known.source.as_str()),
            duels,
        );
        let mut contest = contest.await?;
        drop(waiting);
        if let (Some(foreign), true) = (&foreign, contest.won) {
            contest.why = format!(
                "it was confirmed; what was there was measured on {foreign}, and is replaced by `--force`"
            );
        }
        if contest.won {
            self.put(&best, &mut contest, known.as_ref())?;
        }
        let why = contest.why.clone();
        Ok(self.told(
            contest.won,
            why,
            Some(&best),
            there.as_ref(),
            Some(&contest),
        ))
    }

    /// Puts the kernel and its verdict in place. The verdict names the kernel's hash: one that lies beside another kernel, because
    /// something was killed in between, is seen to be none of that kernel's.
    fn put(
        &self,
        best: &BestOfRun,
        contest: &mut Contest,
        judged_against: Option<&BestKnown>,
    ) -> anyhow::Result<()> {
        let path = self.files.best_source();
        let now = self.files.best_known()?;
        if now.as_ref().map(|known| &known.source) != judged_against.map(|known| &known.source) {
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
        let whole = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let mut verdict = serde_json::to_value(&contest.challenger)?;
        verdict["promoted"] = json!({
            "kernel": Digest::of(&best.source),
            "run": whole.file_name().map(|name| name.to_string_lossy()),
            "step": best.step,
            "time": run::timestamp(run::now()),
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

    fn told(
        &self,
        promoted: bool,
        why: String,
        best: Option<&BestOfRun>,
        there: Option<&Known>,
        contest: Option<&Contest>,
    ) -> Told {
        let began_with = self.record.tasks.get(&self.task.name);
        let task_changed = began_with.is_some_and(|began| began.folder != self.task.digest);
        let facts = json!({
            "task": self.task.name,
            "promoted": promoted,
            "why": why,
            "run": self.directory.root(),
            "step": best.map(|best| best.step),
            "task_changed_since_the_run": task_changed,
            "kernel": self.files.best_source(),
            "there": there.map(|known| json!({"origin": known.origin, "kernel": known.kernel, "backend": known.backend, "device": known.device})),
            "duel": contest.and_then(|contest| contest.duel),
            "verdict": contest.map(|contest| &contest.challenger),
            "verdict_of_there": contest.and_then(|contest| contest.incumbent.as_ref()),
        });
        Told {
            promoted,
            why,
            facts,
        }
    }
}

/// The kernel that is there, and what its verdict says of where it was measured.
struct Known {
    origin: String,
    kernel: Digest,
    backend: Option<String>,
    device: Option<DeviceIdentity>,
}

impl Known {
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
    fn elsewhere(&self, backend: &str, here: &DeviceIdentity) -> Option<String> {
        let (there_by, there) = (self.backend.as_ref()?, self.device.as_ref()?);
        let is_here = there_by == backend && there.name == here.name && there.arch == here.arch;
        (!is_here).then(|| on(there_by, &there.name, &there.arch))
    }
}

fn on(backend: &str, name: &str, arch: &str) -> String {
    format!("{backend}, {name} ({arch})")
}

fn describe(task: &str, told: &Told) -> String {
    let facts = &told.facts;
    let mut text = match told.promoted {
        true => format!("{task}: promoted: {}\n", told.why),
        false => format!("{task}: not promoted: {}\n", told.why),
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
            on(&verdict.backend, &verdict.device.name, &verdict.device.arch)
        ))
    };
    if let Some(confirmed) = line(&facts["verdict"]) {
        text += &format!("  confirmed {confirmed}\n");
    }
    if let Some(origin) = facts["there"]["origin"].as_str() {
        let was = if told.promoted {
            "was there"
        } else {
            "is there "
        };
        text += &match line(&facts["verdict_of_there"]) {
            Some(judged) => format!("  {was} {origin}: {judged}\n"),
            None => format!("  {was} {origin}\n"),
        };
    }
    if told.promoted {
        let path = facts["kernel"].as_str().unwrap_or_default();
        text += &format!("  now in    {path}, its verdict beside it\n");
    }
    if facts["task_changed_since_the_run"] == json!(true) {
        text += "  note      the task has changed since the run; it was judged as it is now\n";
    }
    text
}
