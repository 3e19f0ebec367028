//! `kforge eval`: the verdicts on some kernels, outside a search.

use anyhow::Context;

use super::{Exit, Format, print};
use crate::base::Failure;
use crate::config::{self, Config, ProfileChoice};
use crate::device::cpu;
use crate::kernel::Kernel;
use crate::report;
use crate::task::TaskFiles;
use crate::verdict::Verdict;
use crate::worker::Pool;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The task: its name or its folder.
    task: String,
    /// Kernel files.
    #[arg(required = true, value_name = "KERNEL")]
    kernels: Vec<String>,
    /// How much judging to do.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = ["auto", "quick", "full"])]
    profile: String,
    /// Deadline of one launch, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    launch_seconds: f64,
    /// Repeat an earlier judgement: the seed in its verdict.
    #[arg(long)]
    seed: Option<u64>,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let mut config = Config {
        tasks: vec![arguments.task.clone()],
        ..Config::default()
    };
    config.eval.launch_seconds = arguments.launch_seconds;
    config.profile = match arguments.profile.as_str() {
        "quick" => ProfileChoice::Quick,
        "full" => ProfileChoice::Full,
        _ => ProfileChoice::Auto,
    };
    config.check()?;
    let files = TaskFiles::find(&arguments.task)?;
    let task = files.load()?;
    let mut kernels = Vec::new();
    let mut mistakes = Vec::new();
    for path in &arguments.kernels {
        let source = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("failed to read the kernel `{path}`: {error}"))
        })?;
        if let Err(error) = Kernel::parse(&source, &task.definition) {
            mistakes.push(error.into_failure(path));
        }
        kernels.push((path.clone(), source));
    }
    cpu::find_compiler()?;
    let resolved = config::resolve(&config, "eval", "")?;
    let profile = task
        .settings
        .profiles
        .get(&resolved.profile)
        .context("the profile is gone")?;
    let options = crate::eval::Options {
        profile: profile.clone(),
        launch_seconds: arguments.launch_seconds,
    };
    let pool = Pool::new(files, options, task.selected(profile).len())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let seed = arguments.seed;
    let format = arguments.format;
    let verdicts: Vec<Verdict> = runtime.block_on(async {
        let mut verdicts = Vec::new();
        for (path, source) in &kernels {
            let verdict = pool
                .judge(path, source, seed)
                .await
                .with_context(|| format!("failed to judge `{path}`"))?;
            if format == Format::Jsonl {
                print(&format!("{}\n", serde_json::to_string(&verdict)?))?;
            }
            verdicts.push(*verdict);
        }
        anyhow::Ok(verdicts)
    })?;
    match format {
        Format::Human => print(&report::verdicts(&verdicts))?,
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&verdicts)?))?,
        Format::Jsonl => {}
    }
    // A header that is no header is a mistake of whoever typed it, though its verdict is data like any other.
    if let Some(mistake) = mistakes.into_iter().next() {
        return Err(mistake.into());
    }
    Ok(if verdicts.iter().all(Verdict::passed) {
        Exit::Done
    } else {
        Exit::NothingPassed
    })
}
