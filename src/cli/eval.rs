//! `kforge eval`: the verdicts on some kernels, outside a search.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::evolve::parse_backend;
use super::{Exit, Format, print, print_json, print_json_lines};
use crate::base::{Failure, files};
use crate::config::{self, Config, ProfileChoice};
use crate::device::cuda::compiler::Compiler;
use crate::device::{Cache, cpu};
use crate::driver::watch_signals;
use crate::eval::compile_only;
use crate::kernel::Kernel;
use crate::report::{self, Spinner};
use crate::task::TaskFiles;
use crate::verdict::{Status, Verdict};
use crate::worker::{self, Profiling, WorkerPool};

#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct EvalArgs {
    /// The task: its name or its folder.
    task: String,
    /// Kernel files.
    #[arg(required = true, value_name = "KERNEL")]
    kernels: Vec<String>,
    /// How much judging to do: a profile of the task; `auto` is `quick` on a CPU and `full` on a GPU.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    profile: String,
    /// Which device judges; `auto` is CUDA where a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    backend: String,
    /// Which GPU judges: its number or its name. Default: the first.
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// What a kernel finds in a GPU's caches when it is timed.
    #[arg(long, value_name = "STATE", default_value = "cold", value_parser = ["cold", "hot"])]
    cache: String,
    /// Run the kernel on the CPU first, at tiny shapes and in all builds, before it costs time on a GPU.
    #[arg(long, value_name = "DEVICE", value_parser = ["cpu"])]
    screen: Option<String>,
    /// Timing budget for each workload, in seconds; the task's profile says it where it is not given.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Half width of the speedup's 95 % interval at which timing stops, as a fraction; the task's profile says it where it is not given.
    #[arg(long, value_name = "FRACTION")]
    precision: Option<f64>,
    /// What speed is measured against: a baseline that the task names, or a kernel file. Default: the task's first.
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Deadline of one launch, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    launch_seconds: f64,
    /// Refuse where candidates and compilers cannot be held by all that `kforge doctor` knows.
    #[arg(long)]
    require_sandbox: bool,
    /// Repeat an earlier judgement: a seed of its verdict.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Look into the kernel on every workload and shape and under many schedules: races, reads of nothing, accesses out of
    /// bounds, undefined behaviour. Without it, that is done on the smallest shapes.
    #[arg(long)]
    sanitize: bool,
    /// Once a kernel has passed, count what it does to the GPU with `ncu`, where that is installed and allowed. Never part of
    /// whether it passes or how fast it is.
    #[arg(long)]
    counters: bool,
    /// Keep the profiler's own report, for its window; of one kernel.
    #[arg(long, value_name = "FILE", requires = "counters")]
    counters_report: Option<PathBuf>,
    /// Once a kernel has passed, run it under `compute-sanitizer` at the smallest hidden shapes: accesses out of bounds, races,
    /// reads of nothing, bad barriers.
    #[arg(long)]
    device_sanitize: bool,
    /// Compile for a GPU and run nothing: what the compiler says, on a machine without a GPU too. A kernel that compiles has no
    /// status yet (`null`).
    #[arg(long)]
    compile_only: bool,
    /// What to compile for.
    #[arg(
        long,
        value_name = "ARCH",
        default_value = "sm_90",
        requires = "compile_only"
    )]
    arch: String,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What is judged, and how.
struct EvalJob {
    pool: WorkerPool,
    task: String,
    backend: String,
    /// Path and source.
    kernels: Vec<(String, String)>,
    seed: Option<u64>,
    counters_report: Option<PathBuf>,
    format: Format,
    /// Kernels with the judge at once.
    in_flight: usize,
}

pub(super) fn run(arguments: EvalArgs) -> anyhow::Result<Exit> {
    if arguments.compile_only {
        return compile_kernels(&arguments);
    }
    if arguments.counters_report.is_some() && arguments.kernels.len() > 1 {
        return Err(
            Failure::usage("`--counters-report`: there are several kernels and one file")
                .hint("name one kernel")
                .into(),
        );
    }
    let mut config = Config {
        tasks: vec![arguments.task.clone()],
        ..Config::default()
    };
    config.eval.launch_seconds = arguments.launch_seconds;
    config.profile = ProfileChoice(arguments.profile.clone());
    config.backend = parse_backend(&arguments.backend);
    let device = arguments.device.clone().unwrap_or_else(|| "0".to_owned());
    config.eval.devices = config::DeviceChoice::Listed(vec![device]);
    if arguments.cache == "hot" {
        config.eval.cache = Cache::Hot;
    }
    if arguments.screen.is_some() {
        config.eval.screen = config::ScreenChoice::Cpu;
    }
    config.eval.seconds = arguments.seconds;
    config.eval.precision = arguments.precision;
    let resolved = config::resolve(&config, "eval", "")?;
    if let (Some(device), true) = (&arguments.device, resolved.gpus.is_empty()) {
        return Err(
            Failure::usage(format!("`--device {device}`: the CPU judges, not a GPU"))
                .hint("leave `--device` out, or see by `kforge doctor` why there is no GPU")
                .into(),
        );
    }
    let mut task_files = TaskFiles::find(&arguments.task)?;
    if let Some(baseline) = &arguments.baseline {
        task_files = task_files.with_baseline(baseline)?;
    }
    let task = task_files.load()?;
    let mut kernels = Vec::new();
    let mut header_failure = None;
    for path in arguments.kernels {
        let source = files::read(path.as_ref())?;
        if let Err(error) = Kernel::parse(&source, &task.definition) {
            header_failure = header_failure.or(Some(error.into_failure(&path)));
        }
        kernels.push((path, source));
    }
    if resolved.gpus.is_empty() {
        cpu::find_compiler()?;
    }
    if arguments.require_sandbox {
        cpu::require_sandbox()?;
    }
    let named_profile = task.settings.profiles.get(&resolved.profile);
    let mut profile = named_profile.context("the profile is gone")?.clone();
    profile.seconds = config.eval.seconds.unwrap_or(profile.seconds);
    profile.precision = config.eval.precision.unwrap_or(profile.precision);
    let workloads = task.selected_workloads(&profile).len();
    let options = crate::eval::JudgeOptions {
        profile,
        launch_seconds: resolved.launch_seconds,
        thorough: arguments.sanitize,
        cache: resolved.cache,
    };
    let job = EvalJob {
        pool: WorkerPool::new(worker::PoolOptions {
            files: task_files,
            options,
            workloads,
            gpus: resolved.gpus.clone(),
            screen: resolved.screen,
            profiling: Profiling {
                counters: arguments.counters,
                sanitize: arguments.device_sanitize,
            },
        })?,
        task: task.name.clone(),
        backend: resolved.backend.clone(),
        kernels,
        seed: arguments.seed,
        counters_report: arguments.counters_report,
        format: arguments.format,
        // On a CPU one is judged at a time: a second would only wait for the clock.
        in_flight: match resolved.gpus.is_empty() {
            true => 1,
            false => resolved.in_flight,
        },
    };
    let order = Arc::new(job);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut verdicts = Vec::new();
    let judged =
        runtime.block_on(async { judge_all(&order, watch_signals()?, &mut verdicts).await });
    // Whoever waits for the card is not waited for.
    runtime.shutdown_background();
    // What is known is told, however it ended.
    if judged.is_ok() || !verdicts.is_empty() {
        match arguments.format {
            Format::Human => print(&report::timing_note(&verdicts))?,
            Format::Json => print_json(&verdicts)?,
            Format::Jsonl => {}
        }
    }
    if judged? == JudgingEnd::Interrupted {
        return Ok(Exit::Interrupted);
    }
    let mut broken = verdicts.iter();
    if let Some(broken) = broken.find(|verdict| verdict.status == Status::HarnessError) {
        let reason = broken.reason.as_deref().unwrap_or_default();
        anyhow::bail!("`{}` was not judged: {reason}", broken.kernel);
    }
    // A header that is no header is a mistake of whoever typed it, though its verdict is data like any other.
    match header_failure {
        Some(mistake) => Err(mistake.into()),
        None if verdicts.iter().all(Verdict::passed) => Ok(Exit::Done),
        None => Ok(Exit::NothingPassed),
    }
}

/// What the compiler says of each kernel.
fn compile_kernels(arguments: &EvalArgs) -> anyhow::Result<Exit> {
    let task = TaskFiles::find(&arguments.task)?.load()?;
    let mut kernels = Vec::new();
    for path in &arguments.kernels {
        kernels.push((path, files::read(path.as_ref())?));
    }
    if arguments.require_sandbox {
        cpu::require_sandbox()?;
    }
    let compiler = Compiler::open(&arguments.arch)?;
    let mut results = Vec::new();
    for (path, source) in &kernels {
        let found = compile_only(&compiler, &task, path, source)
            .with_context(|| format!("failed to compile `{path}`"))?;
        match arguments.format {
            Format::Human => print(&report::describe_compiled(&found))?,
            Format::Jsonl => print_json_lines([&found])?,
            Format::Json => {}
        }
        results.push(found);
    }
    if arguments.format == Format::Json {
        print_json(&results)?;
    }
    Ok(match results.iter().all(|found| found.compiled) {
        true => Exit::Done,
        false => Exit::NothingPassed,
    })
}

/// Writes the profiler's report where it was asked for. What was judged is told even where that fails.
fn save_profiler_report(job: &EvalJob, verdict: &mut Verdict, report: Option<Vec<u8>>) {
    let evidence = verdict.evidence.as_mut();
    let counters = evidence.and_then(|evidence| evidence.counters.as_mut());
    if let (Some(path), Some(report), Some(counters)) = (&job.counters_report, report, counters) {
        counters.report = Some(match files::replace(path, &report) {
            Ok(()) => {
                let size = report.len().div_ceil(1 << 10);
                format!("{} ({size} KiB)", path.display())
            }
            Err(error) => format!("not kept: {error:#}"),
        });
    }
}

/// How judging ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JudgingEnd {
    All,
    Interrupted,
}

/// In job; where a GPU judges, compilers work on the next ones meanwhile. `verdicts` has what is known, at any end.
async fn judge_all(
    job: &Arc<EvalJob>,
    mut interrupt: watch::Receiver<bool>,
    verdicts: &mut Vec<Verdict>,
) -> anyhow::Result<JudgingEnd> {
    let waiting = Spinner::new();
    let mut running = VecDeque::new();
    let mut next = 0;
    let count = job.kernels.len();
    for (index, (path, _)) in job.kernels.iter().enumerate() {
        while next < count && running.len() < job.in_flight {
            running.push_back(tokio::spawn(judge_one(Arc::clone(job), next)));
            next += 1;
        }
        waiting.set_message(&format!("judging {path} ({}/{count})", index + 1));
        let mut first = running
            .pop_front()
            .context("a kernel was not sent to be judged")?;
        let joined = tokio::select! {
            joined = &mut first => joined,
            _ = interrupt.wait_for(|told| *told) => {
                running.retain(JoinHandle::is_finished);
                for done in running {
                    emit_verdict(job, &waiting, verdict_or_harness_error(job, path, done.await)?, verdicts)?;
                }
                return Ok(JudgingEnd::Interrupted);
            }
        };
        emit_verdict(
            job,
            &waiting,
            verdict_or_harness_error(job, path, joined)?,
            verdicts,
        )?;
    }
    Ok(JudgingEnd::All)
}

async fn judge_one(job: Arc<EvalJob>, index: usize) -> anyhow::Result<Box<Verdict>> {
    let (path, source) = &job.kernels[index];
    let mut verdict = job.pool.judge(path, source, job.seed).await?;
    let report = job.pool.profile(&mut verdict, source).await;
    save_profiler_report(&job, &mut verdict, report);
    Ok(verdict)
}

/// What became of a kernel. Broken machinery is told of as a verdict, so that the others have theirs; what a person has to mend would
/// befall all of them.
fn verdict_or_harness_error(
    job: &EvalJob,
    path: &str,
    joined: Result<anyhow::Result<Box<Verdict>>, JoinError>,
) -> anyhow::Result<Verdict> {
    let error = match joined.context("judging a kernel panicked") {
        Ok(Ok(verdict)) => return Ok(*verdict),
        Ok(Err(error)) if error.is::<Failure>() => {
            return Err(error.context(format!("failed to judge `{path}`")));
        }
        Ok(Err(error)) | Err(error) => error,
    };
    let reason = format!("{error:#}");
    Ok(Verdict::harness_error(
        &job.task,
        path,
        &job.backend,
        reason,
    ))
}

fn emit_verdict(
    job: &EvalJob,
    waiting: &Spinner,
    verdict: Verdict,
    verdicts: &mut Vec<Verdict>,
) -> anyhow::Result<()> {
    match job.format {
        Format::Human => waiting.suspend(|| print(&report::describe_verdict(&verdict)))?,
        Format::Jsonl => waiting.suspend(|| print_json_lines([&verdict]))?,
        Format::Json => {}
    }
    verdicts.push(verdict);
    Ok(())
}
