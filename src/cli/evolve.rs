//! `kforge evolve`: from a run config to a finished run.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::{Exit, Format, print};
use crate::base::{Digest, Failure, yaml};
use crate::config::{self, Backend, Config, ProfileChoice, Resolved};
use crate::device::cpu;
use crate::driver::{self, Ended, Operators, Options, Start};
use crate::report::{self, Form, Sink, TaskResults};
use crate::run::{self, RECORD_SCHEMA, Record, RunDirectory, TaskRecord};
use crate::worker::Pools;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The run config: a file, or the name of one in `config/` or within the program.
    #[arg(
        long,
        value_name = "FILE",
        env = "KFORGE_CONFIG",
        required_unless_present = "resume"
    )]
    config: Option<String>,
    /// Go on with the run in this directory instead; the same as `kforge resume DIR`.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "output", "seed"])]
    resume: Option<PathBuf>,
    /// Where to put the run.
    #[arg(long, value_name = "DIR", env = "KFORGE_OUTPUT")]
    output: Option<PathBuf>,
    /// Seed of the search.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// What `evolve` and `resume` share.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Steps per task in all, also on resume.
    #[arg(long)]
    pub(super) steps: Option<u64>,
    /// How much judging to do.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "quick", "full"])]
    pub(super) profile: Option<String>,
    /// Which device judges.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", value_parser = ["auto", "cpu"])]
    pub(super) backend: Option<String>,
    /// Override any key of the config, such as `--set search.exploration=0.5`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// On resume, go on although the task, the config, kforge or the device has changed.
    #[arg(long)]
    pub(super) accept_changes: bool,
    /// Show what would run, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    if let Some(directory) = arguments.resume {
        return super::resume::go_on(directory, arguments.common);
    }
    let name = arguments.config.context("no config was named")?;
    let (text, origin) = config::find(&name)?;
    let typed: Config = yaml::read(&text, &origin)?;
    let mut config = apply(&typed, &arguments.common)?;
    config.output = arguments.output.or(config.output);
    config.seed = arguments.seed.or(config.seed);
    let stem = PathBuf::from(&name).file_stem().map_or_else(
        || "run".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let resolved = config::resolve(&config, &stem, &run::compact_timestamp(run::now()))?;
    begin(resolved, Start::New, &arguments.common)
}

/// The config under the flags that both commands know.
pub(super) fn apply(config: &Config, common: &Common) -> Result<Config, Failure> {
    let mut config = config::apply(config, &common.set)?;
    config.steps = common.steps.unwrap_or(config.steps);
    match common.profile.as_deref() {
        Some("quick") => config.profile = ProfileChoice::Quick,
        Some("full") => config.profile = ProfileChoice::Full,
        Some(_) => config.profile = ProfileChoice::Auto,
        None => {}
    }
    match common.backend.as_deref() {
        Some("cpu") => config.backend = Backend::Cpu,
        Some(_) => config.backend = Backend::Auto,
        None => {}
    }
    Ok(config)
}

/// Runs, or shows what would run.
pub(super) fn begin(resolved: Resolved, start: Start, common: &Common) -> anyhow::Result<Exit> {
    if common.dry_run {
        print(&plan(&resolved)?)?;
        return Ok(Exit::Done);
    }
    // Before a directory comes into being.
    cpu::find_compiler()?;
    let options = Options {
        directory: resolved.output.clone(),
        start,
        record: record(&resolved),
        tasks: resolved
            .tasks
            .iter()
            .map(|(_, task)| Arc::new(task.clone()))
            .collect(),
        search: resolved.search.clone(),
        steps: resolved.steps,
        in_flight: resolved.in_flight,
        budget: resolved.budget,
    };
    let pools = Pools {
        files: resolved
            .tasks
            .iter()
            .map(|(files, task)| (task.name.clone(), files.clone()))
            .collect(),
        profile: resolved.profile.clone(),
        launch_seconds: resolved.launch_seconds,
    };
    let mut sink = Sink::new(match common.format {
        Format::Human => Form::Human,
        Format::Json => Form::Quiet,
        Format::Jsonl => Form::Lines,
    });
    sink.say(&opening(&resolved));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let interrupt = driver::watch_signals()?;
        driver::run(
            options,
            Arc::new(Operators::new()?),
            &pools,
            &mut sink,
            interrupt,
        )
        .await
    });
    // Children of an interrupted run are killed as their handles go; nothing else needs to be waited for.
    runtime.shutdown_background();
    finish(&resolved, &ended?, &mut sink, common.format)
}

fn finish(
    resolved: &Resolved,
    ended: &Ended,
    sink: &mut Sink,
    format: Format,
) -> anyhow::Result<Exit> {
    sink.close();
    match format {
        Format::Human => {
            let tasks = ended.tasks.iter().map(|task| TaskResults {
                progress: task.progress.clone(),
                failure: task.failure.clone(),
            });
            print(&report::results(
                &RunDirectory::new(&resolved.output),
                &tasks.collect::<Vec<_>>(),
            )?)?;
        }
        Format::Json => {
            let path = RunDirectory::new(&resolved.output).summary();
            print(
                &std::fs::read_to_string(&path)
                    .with_context(|| format!("failed to read `{}`", path.display()))?,
            )?;
        }
        Format::Jsonl => {}
    }
    if ended.interrupted {
        sink.say(&format!(
            "interrupted; nothing is lost. To go on:\n\n    kforge resume {}\n",
            resolved.output.display()
        ));
        return Ok(Exit::Interrupted);
    }
    if let Some(failure) = ended.tasks.iter().find_map(|task| task.failure.as_ref()) {
        sink.say(&format!("error: {failure}"));
        return Ok(Exit::Reference);
    }
    Ok(if ended.tasks.iter().any(|task| task.best().is_none()) {
        Exit::NothingPassed
    } else {
        Exit::Done
    })
}

/// What the run's results depend on.
fn record(resolved: &Resolved) -> Record {
    let tasks = resolved.tasks.iter().map(|(_, task)| {
        let record = TaskRecord {
            folder: task.digest,
            oracle: Digest::of(&task.oracle),
            baseline: Digest::of(task.baseline().1),
        };
        (task.name.clone(), record)
    });
    Record {
        schema: RECORD_SCHEMA,
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        host: run::host_name(),
        seed: resolved.seed,
        window: resolved.window,
        backend: resolved.backend.clone(),
        device: cpu::identity(),
        tasks: tasks.collect(),
        config: resolved.record.clone(),
    }
}

/// What a person is told before a run begins.
fn opening(resolved: &Resolved) -> String {
    let mut text = String::new();
    for choice in &resolved.choices {
        text += &format!("{choice}\n");
    }
    let tasks: Vec<_> = resolved
        .tasks
        .iter()
        .map(|(_, task)| task.name.as_str())
        .collect();
    let budget = resolved.budget.map_or_else(String::new, |budget| {
        format!(", at most {:.0} s each", budget.as_secs_f64())
    });
    text + &format!(
        "{}: {} steps{budget}, seed {}, into {}",
        tasks.join(", "),
        resolved.steps,
        resolved.seed,
        resolved.output.display()
    )
}

/// `--dry-run`: the config with its decisions, and what it would work on.
fn plan(resolved: &Resolved) -> anyhow::Result<String> {
    let mut text = format!("{}\n\n", opening(resolved));
    for (files, task) in &resolved.tasks {
        let profile = task
            .settings
            .profiles
            .get(&resolved.profile)
            .context("the profile is gone")?;
        let workloads: Vec<_> = task
            .selected(profile)
            .into_iter()
            .map(|workload| workload.id.as_str())
            .collect();
        let starts: Vec<_> = task.starts().map(|(name, _)| name).collect();
        text += &format!(
            "{} ({})\n  workloads  {}\n  baseline   {}\n  starts     {}\n",
            task.name,
            files.origin,
            workloads.join(", "),
            task.baseline().0,
            starts.join(", ")
        );
    }
    Ok(text
        + "\n"
        + &serde_yaml::to_string(&resolved.record).context("the config cannot be shown")?)
}
