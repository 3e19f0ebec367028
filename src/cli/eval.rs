//! `kforge eval`: judges kernels outside a search, measures all points of one, or only compiles them.
//!
//! From arguments to a job for `judge_kernels` or `grid`, and from verdicts to an exit code. Judges nothing itself.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::dataset_arg::DatasetArg;
use super::execute::require_machine;
use super::exit::{self, Exit};
use super::grid::{self, GridArgs, GridInput};
use super::judge_kernels::{EvalJob, JudgingEnd, judge_and_print};
use super::output::{Format, print, print_json, print_json_lines};
use super::run_args::{parse_backend, parse_seed};
use crate::base::{Failure, files};
use crate::config::{self, Config, ProfileChoice, ResolvedConfig};
use crate::device::cuda::compiler::Compiler;
use crate::device::{Cache, cpu};
use crate::eval::{JudgeOptions, compile_only};
use crate::kernel::Kernel;
use crate::report;
use crate::task::{Task, TaskFiles};
use crate::verdict::{Status, Verdict};
use crate::worker::{self, Profiling, WorkerPool};

/// Arguments of `kforge eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct EvalArgs {
    /// Name or folder of the task.
    task: String,
    /// Kernel files.
    #[arg(required = true, value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Profile of the task: how much to check and to time. `auto` is `quick` on a CPU and `full` on a GPU.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    profile: String,
    /// Device that judges. `auto` is `cuda` if a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    backend: String,
    /// GPU that judges: its index or name. Default: the first.
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// State of the GPU's caches when a launch is timed.
    #[arg(long, value_name = "STATE", default_value = "cold", value_parser = ["cold", "hot"])]
    cache: String,
    /// Run the kernel on the CPU first, with tiny shapes and all builds, before it takes GPU time.
    #[arg(long, value_name = "DEVICE", value_parser = ["cpu"])]
    screen: Option<String>,
    /// Timing budget for each workload, in seconds. Default: the profile's.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Half width of the speedup's 95 % interval at which timing stops, as a fraction. Default: the profile's.
    #[arg(long, value_name = "FRACTION")]
    precision: Option<f64>,
    /// Baseline to compare with: the name of one of the task's baselines, or a kernel file. Default: the task's first.
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    #[command(flatten)]
    dataset: DatasetArg,
    /// Deadline of one launch, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    launch_seconds: f64,
    /// Fail unless the full sandbox is available.
    #[arg(long)]
    require_sandbox: bool,
    /// Seed from an earlier verdict, to repeat that judgement.
    #[arg(long, value_name = "NUMBER", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Inspect every workload and shape under many schedules: races, uninitialized reads, out-of-bounds accesses, undefined
    /// behaviour. Default: the smallest shapes.
    #[arg(long)]
    sanitize: bool,
    /// Read GPU counters with `ncu` once a kernel has passed. They never decide whether it passes.
    #[arg(long)]
    counters: bool,
    /// Save the report of `ncu` for its user interface. For one kernel.
    #[arg(long, value_name = "FILE", requires = "counters")]
    counters_report: Option<PathBuf>,
    /// Run the four checks of `compute-sanitizer` at the smallest hidden shapes once a kernel has passed.
    #[arg(long)]
    device_sanitize: bool,
    /// Print where the time of each judgement went. With `--format json` the figures are always there, as `seconds.parts`.
    #[arg(long, conflicts_with = "compile_only")]
    timings: bool,
    #[command(flatten)]
    grid: GridArgs,
    /// Compile for a GPU and run nothing; needs no GPU. A kernel that compiles has no status (`null`).
    #[arg(long)]
    compile_only: bool,
    /// Architecture to compile for.
    #[arg(
        long,
        value_name = "ARCH",
        default_value = "sm_90",
        requires = "compile_only"
    )]
    arch: String,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn help() -> String {
    exit::help(
        "",
        &[
            ("kforge eval softmax my_kernel.cu", "judge one kernel"),
            (
                "kforge eval softmax a.cu b.cu --baseline a.cu --format json",
                "compare two kernels, as JSON",
            ),
            (
                "kforge eval matmul my_kernel.cu --compile-only --arch sm_90a",
                "registers, spills and errors, without a GPU",
            ),
        ],
        exit::EVAL_CODES,
    )
}

pub(super) fn run(arguments: EvalArgs) -> anyhow::Result<Exit> {
    arguments.dataset.apply();
    if arguments.compile_only {
        return compile_kernels(&arguments);
    }
    if arguments.counters_report.is_some() && arguments.kernels.len() > 1 {
        return Err(one_kernel("--counters-report").into());
    }
    let input = prepare(&arguments)?;
    if arguments.grid.grid {
        measure_grid(&arguments, input)
    } else {
        judge_kernels(arguments, input)
    }
}

/// What the arguments name, read and checked.
struct EvalInput {
    resolved: ResolvedConfig,
    files: TaskFiles,
    task: Task,
    options: JudgeOptions,
    /// Paths with their sources.
    kernels: Vec<(String, String)>,
}

fn prepare(arguments: &EvalArgs) -> anyhow::Result<EvalInput> {
    let config = eval_config(arguments);
    let resolved = config::resolve(&config, "eval", "")?;
    ensure_gpu_judges(arguments, &resolved)?;
    let mut files = TaskFiles::find(&arguments.task)?;
    if let Some(baseline) = &arguments.baseline {
        files = files.with_baseline(baseline)?;
    }
    let task = files.load()?;
    let kernels = read_kernels(&arguments.kernels)?;
    require_machine(&resolved)?;
    let options = judge_options(arguments, &resolved, &task)?;
    Ok(EvalInput {
        resolved,
        files,
        task,
        options,
        kernels,
    })
}

/// `--grid`: measures every point of the kernel's tunables.
fn measure_grid(arguments: &EvalArgs, mut input: EvalInput) -> anyhow::Result<Exit> {
    let profile = &mut input.options.profile;
    arguments.grid.choose_workloads(&input.task, profile)?;
    let [kernel] = <[_; 1]>::try_from(input.kernels).map_err(|_| one_kernel("--grid"))?;
    grid::run(GridInput {
        arguments: &arguments.grid,
        resolved: &input.resolved,
        files: input.files,
        task: input.task,
        options: input.options,
        kernel,
        seed: arguments.seed,
        format: arguments.format,
    })
}

fn judge_kernels(arguments: EvalArgs, input: EvalInput) -> anyhow::Result<Exit> {
    let EvalInput {
        resolved,
        files,
        task,
        options,
        kernels,
    } = input;
    let wrong_header = has_wrong_header(&kernels, &task);
    let timing_seconds = options.profile.seconds;
    let job = Arc::new(EvalJob {
        pool: WorkerPool::new(worker::PoolOptions {
            files,
            workloads: task.selected_workloads(&options.profile).len(),
            options,
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
        profile: resolved.profile.clone(),
        timing_seconds,
        timings: arguments.timings,
        // On a CPU a second kernel would only wait for the timing lock.
        in_flight: if resolved.gpus.is_empty() {
            1
        } else {
            resolved.in_flight
        },
    });
    let (end, verdicts) = judge_and_print(&job)?;
    if end == JudgingEnd::Interrupted {
        return Ok(Exit::Interrupted);
    }
    exit_of_verdicts(&verdicts, wrong_header)
}

/// Refuses `--device` where the CPU judges.
fn ensure_gpu_judges(arguments: &EvalArgs, resolved: &ResolvedConfig) -> Result<(), Failure> {
    match &arguments.device {
        Some(device) if resolved.gpus.is_empty() => Err(Failure::usage(format!(
            "`--device {device}` names a GPU, and the CPU judges"
        ))
        .hint("leave `--device` out, or run `kforge doctor` to see why no GPU is used")),
        _ => Ok(()),
    }
}

fn one_kernel(flag: &str) -> Failure {
    Failure::usage(format!("`{flag}` takes one kernel, and several are named"))
        .hint("name one kernel")
}

/// The arguments as a run config of one task.
fn eval_config(arguments: &EvalArgs) -> Config {
    let mut config = Config {
        tasks: vec![arguments.task.clone()],
        profile: ProfileChoice(arguments.profile.clone()),
        backend: parse_backend(&arguments.backend),
        ..Config::default()
    };
    let device = arguments.device.clone().unwrap_or_else(|| "0".to_owned());
    let eval = &mut config.eval;
    eval.launch_seconds = arguments.launch_seconds;
    eval.devices = config::DeviceChoice::Listed(vec![device]);
    if arguments.cache == "hot" {
        eval.cache = Cache::Hot;
    }
    if arguments.screen.is_some() {
        eval.screen = config::ScreenChoice::Cpu;
    }
    eval.seconds = arguments.seconds;
    eval.precision = arguments.precision;
    eval.require_sandbox = arguments.require_sandbox;
    config
}

fn judge_options(
    arguments: &EvalArgs,
    resolved: &ResolvedConfig,
    task: &Task,
) -> anyhow::Result<JudgeOptions> {
    let profile = task.settings.profiles.get(&resolved.profile);
    let mut profile = profile
        .context("the task does not have the selected profile")?
        .clone();
    profile.seconds = arguments.seconds.unwrap_or(profile.seconds);
    profile.precision = arguments.precision.unwrap_or(profile.precision);
    Ok(JudgeOptions {
        profile,
        launch_seconds: resolved.launch_seconds,
        thorough: arguments.sanitize,
        cache: resolved.cache,
    })
}

/// The kernel files: paths with their sources.
fn read_kernels(paths: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let read = |path: &String| Ok((path.clone(), files::read(path.as_ref())?));
    paths.iter().map(read).collect()
}

/// Whether a header cannot be read. Its verdict says why; the exit code is that of a mistake of the user.
fn has_wrong_header(kernels: &[(String, String)], task: &Task) -> bool {
    let mut sources = kernels.iter().map(|(_, source)| source);
    sources.any(|source| Kernel::parse(source, &task.definition).is_err())
}

fn exit_of_verdicts(verdicts: &[Verdict], wrong_header: bool) -> anyhow::Result<Exit> {
    let mut all = verdicts.iter();
    if let Some(broken) = all.find(|verdict| verdict.status == Status::HarnessError) {
        let reason = broken.reason.as_deref().unwrap_or_default();
        anyhow::bail!("`{}` was not judged: {reason}", broken.kernel);
    }
    Ok(exit_of_results(
        wrong_header,
        verdicts.iter().all(Verdict::passed),
    ))
}

fn exit_of_results(wrong_header: bool, all_passed: bool) -> Exit {
    if wrong_header {
        Exit::Usage
    } else if all_passed {
        Exit::Done
    } else {
        Exit::NoResult
    }
}

/// `--compile-only`: prints what the compiler reports for each kernel.
fn compile_kernels(arguments: &EvalArgs) -> anyhow::Result<Exit> {
    let task = TaskFiles::find(&arguments.task)?.load()?;
    let kernels = read_kernels(&arguments.kernels)?;
    if arguments.require_sandbox {
        cpu::require_sandbox()?;
    }
    let compiler = Compiler::open(&arguments.arch)?;
    let mut results = Vec::new();
    for (path, source) in &kernels {
        let result = compile_only(&compiler, &task, path, source)
            .with_context(|| format!("failed to compile `{path}`"))?;
        match arguments.format {
            Format::Human => print(&report::describe_compiled(&result))?,
            Format::Jsonl => print_json_lines([&result])?,
            Format::Json => {}
        }
        results.push(result);
    }
    if arguments.format == Format::Json {
        print_json(&results)?;
    }
    Ok(exit_of_results(
        has_wrong_header(&kernels, &task),
        results.iter().all(|result| result.compiled),
    ))
}
