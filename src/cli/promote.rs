//! `kforge promote`: replaces the best known kernel of a task (`kernels/TASK/best.cu`) with a run's best kernel if that is faster.
//!
//! This file finds the two kernels, prints the result (`promotion_result`) and replaces the files. It never compares kernels:
//! `driver::contest` does. No other code writes `kernels/TASK/best.cu`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;

use super::contenders::contenders;
use super::execute::{build_pools, require_machine};
use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use super::promotion_result::{CurrentBest, PromotionResult, describe_result, device_label};
use super::recorded::judging_config;
use super::run_args::parse_backend;
use super::yardstick::yardsticks;
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, files};
use crate::config::{self, ProfileChoice, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{self, Contest};
use crate::report::{Spinner, suggested_seconds};
use crate::run::{self, BestOfRun, RunDirectory, RunRecord};
use crate::task::{BestKnown, Task, TaskFiles};
use crate::verdict::{DeviceIdentity, Yardstick};
use crate::worker::{Contenders, EvaluatorFactory, WorkerPools};

/// Arguments of `kforge promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct PromoteArgs {
    /// The run's directory.
    #[arg(value_name = "RUN")]
    directory: PathBuf,
    /// Task whose kernel to promote. Repeatable. Default: all tasks of the run.
    #[arg(long, value_name = "TASK")]
    task: Vec<String>,
    /// Also replace a kernel that was measured on another backend or device. The two kernels are not compared.
    #[arg(long)]
    force: bool,
    /// Profile of the task: how much to check and to time. Default: the run's.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Device that judges. Default: the run's.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "cpu", "cuda"])]
    backend: Option<String>,
    /// Set any key of the run's config, e.g. `--set eval.seconds=3`. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
The run's best kernel is confirmed with new seeds in new processes, and timed
in pairs against the current best kernel if there is one. It is promoted if it
is faster than the baseline and than the current best kernel: both 95 %
intervals are above 1 as a whole. It is also timed in pairs with the strongest
baseline that works here, which it must beat if `eval.baseline` names it.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge promote outputs/first", "all tasks of a run"),
            (
                "kforge promote outputs/first --task softmax --set eval.seconds=3",
                "one task, timed more precisely",
            ),
        ],
        exit::PROMOTE_CODES,
    )
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
    let mut resolved = resolve_for_judging(&arguments, &record)?;
    require_machine(&resolved)?;
    let yardsticks = yardsticks(&mut resolved)?;
    let contenders = contenders(&resolved, &yardsticks);
    let pools = build_pools(&resolved);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut results = Vec::new();
    let all = PromotionOfRun {
        arguments: &arguments,
        resolved: &resolved,
        record: &record,
        directory: &directory,
        contenders: &contenders,
        yardsticks: &yardsticks,
    };
    let is_complete = runtime.block_on(all.promote_tasks(&pools, &mut results));
    runtime.shutdown_background();
    if arguments.format == Format::Json && (is_complete.is_ok() || !results.is_empty()) {
        print_json(&results.iter().map(|one| &one.facts).collect::<Vec<_>>())?;
    }
    let all_promoted = results.iter().all(|one| one.promoted);
    Ok(match (is_complete?, all_promoted) {
        (false, _) => Exit::Interrupted,
        (true, true) => Exit::Done,
        (true, false) => Exit::NoResult,
    })
}

/// A run and the arguments that say what to promote from it.
struct PromotionOfRun<'a> {
    arguments: &'a PromoteArgs,
    resolved: &'a ResolvedConfig,
    record: &'a RunRecord,
    directory: &'a RunDirectory,
    contenders: &'a HashMap<String, Arc<Contenders>>,
    yardsticks: &'a HashMap<String, Yardstick>,
}

impl PromotionOfRun<'_> {
    /// Promotes the kernels of the selected tasks in turn, and prints each result. `results` gets the finished tasks, also if an
    /// error follows. Returns false if it was interrupted.
    async fn promote_tasks(
        &self,
        pools: &WorkerPools,
        results: &mut Vec<PromotionResult>,
    ) -> anyhow::Result<bool> {
        let mut interrupt = driver::watch_signals()?;
        let named = &self.arguments.task;
        for (files, task) in &self.resolved.tasks {
            if !named.is_empty() && !named.contains(&task.name) {
                continue;
            }
            let promotion = TaskPromotion {
                resolved: self.resolved,
                record: self.record,
                directory: self.directory,
                files,
                task,
                force: self.arguments.force,
                contenders: self.contenders.get(&task.name),
                yardstick: self.yardsticks.get(&task.name),
            };
            let result = tokio::select! {
                result = promotion.promote(pools) => result?,
                _ = interrupt.wait_for(|is_interrupted| *is_interrupted) => return Ok(false),
            };
            match self.arguments.format {
                Format::Human => print(&describe_result(&task.name, &result))?,
                Format::Jsonl => print_json_lines([&result.facts])?,
                Format::Json => {}
            }
            results.push(result);
        }
        Ok(true)
    }
}

/// The run's config with the arguments applied, without what judging does not need.
fn resolve_for_judging(
    arguments: &PromoteArgs,
    record: &RunRecord,
) -> anyhow::Result<ResolvedConfig> {
    let mut config = judging_config(record, &arguments.directory)?;
    if let Some(name) = &arguments.profile {
        config.profile = ProfileChoice(name.clone());
    }
    if let Some(name) = &arguments.backend {
        config.backend = parse_backend(name);
    }
    let config = config::apply_overrides(&config, &arguments.set)?;
    Ok(config::resolve(&config, "promote", "")?)
}

/// The promotion of one task: the task, and what is needed to judge its kernel.
struct TaskPromotion<'a> {
    resolved: &'a ResolvedConfig,
    record: &'a RunRecord,
    directory: &'a RunDirectory,
    files: &'a TaskFiles,
    task: &'a Task,
    force: bool,
    /// The other baselines that the kernel is timed against, and the one that it must beat.
    contenders: Option<&'a Arc<Contenders>>,
    yardstick: Option<&'a Yardstick>,
}

/// What a promotion has found so far. `None` for what does not exist or was not reached.
#[derive(Clone, Copy, Default)]
struct PromotionState<'a> {
    best: Option<&'a BestOfRun>,
    current: Option<&'a CurrentBest>,
    contest: Option<&'a Contest>,
}

impl TaskPromotion<'_> {
    async fn promote(&self, pools: &WorkerPools) -> anyhow::Result<PromotionResult> {
        let name = &self.task.name;
        let baseline = Digest::of(self.task.baseline().1);
        let Some(best) = run::best_kernel(self.directory, name, baseline)? else {
            return Ok(self.refused(
                "no kernel of this run has passed",
                PromotionState::default(),
            ));
        };
        let known = self.files.best_known()?;
        let current = known.as_ref().map(CurrentBest::new);
        let found = PromotionState {
            best: Some(&best),
            current: current.as_ref(),
            contest: None,
        };
        let digest = Digest::of(&best.source);
        if current
            .as_ref()
            .is_some_and(|current| current.kernel == digest)
        {
            return Ok(self.refused("it is already the current best kernel", found));
        }
        if digest == baseline {
            return Ok(self.refused("it is the baseline itself", found));
        }
        let other_device = self.other_device(current.as_ref());
        if let (Some(other), false) = (&other_device, self.force) {
            let why = format!(
                "the current best was measured on {other}, and this is {}; `--force` replaces it",
                self.device_label()
            );
            return Ok(self.refused(&why, found));
        }
        let against = known.as_ref().filter(|_| other_device.is_none());
        let mut contest = self.contest(pools, &best, against).await?;
        if let (Some(other), true) = (&other_device, contest.won) {
            contest.why = format!(
                "it is confirmed faster than the baseline; the kernel that it replaces was measured on {other}"
            );
        }
        if contest.won {
            self.install(&best, &mut contest, known.as_ref())?;
        }
        let why = contest.why.clone();
        let found = PromotionState {
            contest: Some(&contest),
            ..found
        };
        Ok(self.result(contest.won, &why, found))
    }

    /// Confirms the run's best kernel and times it against the current one.
    async fn contest(
        &self,
        pools: &WorkerPools,
        best: &BestOfRun,
        against: Option<&BestKnown>,
    ) -> anyhow::Result<Contest> {
        let spinner = Spinner::new();
        spinner.set_message(&format!("{}: judging step {}", self.task.name, best.step));
        let evaluator = pools.open(self.task.clone().into()).await?;
        let against = against.map(|known| known.source.as_str());
        let contest = driver::contest(evaluator.as_ref(), &best.source, against).await?;
        spinner.set_message(&format!(
            "{}: timing the strongest baseline",
            self.task.name
        ));
        let (contenders, over) = (self.contenders.cloned(), self.yardstick);
        (contest.beside_strongest(evaluator.as_ref(), &best.source, contenders, over)).await
    }

    fn device(&self) -> DeviceIdentity {
        let gpu = self.resolved.gpus.first().cloned();
        gpu.unwrap_or_else(cpu::identity)
    }

    fn device_label(&self) -> String {
        let device = self.device();
        device_label(&self.resolved.backend, &device.name, &device.arch)
    }

    /// The device on which the current best kernel was measured, if it is known and another device judges now.
    fn other_device(&self, current: Option<&CurrentBest>) -> Option<String> {
        current?.other_device(&self.resolved.backend, &self.device())
    }

    /// Replaces `best.cu`, then `best.json`.
    ///
    /// The verdict contains the kernel's hash. So if kforge is killed between the two writes, the old verdict is not taken for a verdict of
    /// the new kernel.
    ///
    /// # Errors
    /// A usage failure if another process has replaced `best.cu` since `judged_against` was read.
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
                "`{}` was changed by another process while the kernels were compared",
                path.display()
            ))
            .hint("run `kforge promote` again")
            .into());
        }
        // The file is committed and shared, so it must not contain a path of this machine.
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
        files::create_folder_durably(&self.files.kernels_folder)?;
        files::replace_durably(&path, best.source.as_bytes())?;
        let text = format!("{}\n", serde_json::to_string_pretty(&verdict)?);
        files::replace_durably(&self.files.best_verdict(), text.as_bytes())
    }

    /// What to do if noise is the reason that nothing was promoted.
    fn remedy(&self, contest: Option<&Contest>) -> Option<String> {
        contest.filter(|contest| contest.too_noisy)?;
        let profile = self.task.settings.profiles.get(&self.resolved.profile);
        let seconds = suggested_seconds(profile.map_or(0.0, |profile| profile.seconds));
        Some(format!(
            "a quieter machine or more time narrows it: `--set eval.seconds={seconds}`"
        ))
    }

    fn refused(&self, why: &str, found: PromotionState<'_>) -> PromotionResult {
        self.result(false, why, found)
    }

    fn result(&self, promoted: bool, why: &str, found: PromotionState<'_>) -> PromotionResult {
        let recorded = self.record.tasks.get(&self.task.name);
        let task_changed = recorded.is_some_and(|recorded| recorded.folder != self.task.digest);
        let contest = found.contest;
        let current = found.current.map(|current| {
            json!({
                "origin": current.origin,
                "kernel": current.kernel,
                "backend": current.backend,
                "device": current.device,
            })
        });
        let facts = json!({
            "task": self.task.name,
            "promoted": promoted,
            "why": why,
            "run": self.directory.root(),
            "step": found.best.map(|best| best.step),
            "task_changed_since_the_run": task_changed,
            "kernel": self.files.best_source(),
            "there": current,
            "duel": contest.and_then(|contest| contest.duel),
            "strongest": contest.and_then(|contest| contest.challenger.strongest.as_ref()),
            "remedy": self.remedy(contest),
            "verdict": contest.map(|contest| &contest.challenger),
            "verdict_of_there": contest.and_then(|contest| contest.incumbent.as_ref()),
        });
        PromotionResult {
            promoted,
            why: why.to_owned(),
            facts,
        }
    }
}
