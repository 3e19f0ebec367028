//! `kforge eval --grid`: measures every point of a kernel's tunables, for a file that Kernel Tuner reads.
//!
//! From arguments to a job for `measure_points`, and from its end to a summary. Measures nothing itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use indexmap::IndexMap;

use super::exit::Exit;
use super::measure_points::{MeasuringEnd, PointsJob, measure_points};
use super::output::{Format, print, print_json};
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, RandomStream, random};
use crate::config::ResolvedConfig;
use crate::device::{Cache, cpu};
use crate::eval::{JudgeOptions, POINT_CHECKS, SpaceSettings, SpaceWorkloads};
use crate::kernel::{Kernel, SpacePoints};
use crate::report;
use crate::run::{SpaceFile, SpaceHeader, SpaceIdentity};
use crate::task::{Profile, Task, TaskFiles, WorkloadChoice};
use crate::worker::{PoolOptions, Profiling};

/// The most points of a space: more than a device measures in a day.
const MAX_POINTS: u64 = 1_000_000;
/// The fewest samples that have a 95 % interval of the median.
const MIN_SAMPLES: u64 = 6;

/// Arguments of `kforge eval` that only `--grid` uses.
#[derive(Debug, clap::Args)]
pub(super) struct GridArgs {
    /// Measure every combination of the header's tunables with a short check and a short timing. Nothing is confirmed.
    #[arg(long, requires = "output", conflicts_with_all = ["compile_only", "counters", "device_sanitize", "sanitize", "screen", "timings", "seconds", "precision"])]
    pub(super) grid: bool,
    /// File for the points: a cache file of Kernel Tuner. NAME.t4.json next to it has them as T4. An existing file is continued.
    #[arg(long, value_name = "NAME.json", requires = "grid")]
    pub(super) output: Option<PathBuf>,
    /// Measure at most this many points, chosen at random by the seed. Default: all.
    #[arg(long, value_name = "NUMBER", requires = "grid", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Samples of each workload at each point.
    #[arg(long, value_name = "NUMBER", requires = "grid", default_value_t = 7, value_parser = clap::value_parser!(u64).range(MIN_SAMPLES..=1000))]
    samples: u64,
    /// Workloads to time, by id, with commas. Default: the profile's.
    #[arg(long, value_name = "IDS", requires = "grid", value_delimiter = ',')]
    workloads: Vec<String>,
}

impl GridArgs {
    /// Replaces the workloads of a profile by those of `--workloads`.
    pub(super) fn choose_workloads(
        &self,
        task: &Task,
        profile: &mut Profile,
    ) -> Result<(), Failure> {
        let known = || task.workloads.iter().map(|workload| workload.id.as_str());
        for id in &self.workloads {
            if !known().any(|one| one == id) {
                return Err(
                    Failure::usage(format!("task `{}` has no workload `{id}`", task.name))
                        .hint(did_you_mean(id, known())),
                );
            }
        }
        if !self.workloads.is_empty() {
            profile.workloads = WorkloadChoice::Named(self.workloads.clone());
        }
        Ok(())
    }
}

/// What `eval` has read for a grid.
pub(super) struct GridInput<'a> {
    pub(super) arguments: &'a GridArgs,
    pub(super) resolved: &'a ResolvedConfig,
    pub(super) files: TaskFiles,
    pub(super) task: Task,
    pub(super) options: JudgeOptions,
    /// Path and source.
    pub(super) kernel: (String, String),
    pub(super) seed: Option<u64>,
    pub(super) format: Format,
}

/// Measures the points that the file does not have yet.
pub(super) fn run(input: GridInput<'_>) -> anyhow::Result<Exit> {
    let (path, source) = &input.kernel;
    let kernel =
        Kernel::parse(source, &input.task.definition).map_err(|error| error.into_failure(path))?;
    if !kernel.header.variants.is_empty() {
        return Err(Failure::usage(format!(
            "`{path}` has `variants`, which replace the values of a point on some workloads"
        ))
        .hint("leave `variants` out of the header")
        .into());
    }
    let output = input.arguments.output.clone();
    let output = output.context("`--grid` needs `--output`")?;
    if output
        .extension()
        .is_none_or(|extension| extension != "json")
    {
        return Err(Failure::usage(format!(
            "`--output {}`: expected a name that ends in `.json`",
            output.display()
        ))
        .into());
    }
    let recorded_seed = SpaceFile::recorded_seed(&output)?;
    let seed = (input.seed.or(recorded_seed)).unwrap_or_else(random::fresh_seed);
    let points = points(&kernel, seed, input.arguments.limit)?;
    let header = space_header(&input, &kernel, seed)?;
    let file = SpaceFile::open(&output, header)?;
    let total = points.len() as u64;
    let left: Vec<_> = points
        .into_iter()
        .filter(|point| !file.has(point))
        .collect();
    let mut job = job(input, kernel, file, left, seed);
    let end = measure_points(&mut job, total);
    finish(job, end, &output)
}

/// The points to measure, in a random order that the seed decides: a drift of the device then looks like noise.
fn points(
    kernel: &Kernel,
    seed: u64,
    limit: Option<u64>,
) -> Result<Vec<IndexMap<String, i64>>, Failure> {
    let space = kernel.header.tunables.clone();
    let points = SpacePoints::new(&space);
    let count = points.count().filter(|count| *count <= MAX_POINTS);
    let count = count.ok_or_else(|| {
        Failure::usage(format!(
            "the tunables have more than {MAX_POINTS} combinations"
        ))
        .hint("list fewer values in `tunables`")
    })?;
    let mut order: Vec<u64> = (0..count).collect();
    RandomStream::new(seed, "grid", 0).shuffle(&mut order);
    let limit = limit.unwrap_or(count).min(count) as usize;
    order.truncate(limit);
    Ok(order
        .into_iter()
        .map(|number| points.point(number))
        .collect())
}

fn space_header(input: &GridInput<'_>, kernel: &Kernel, seed: u64) -> anyhow::Result<SpaceHeader> {
    let (task, resolved) = (&input.task, input.resolved);
    let device = resolved.gpus.first().cloned();
    let device = device.unwrap_or_else(cpu::identity);
    let workloads = task.selected_workloads(&input.options.profile);
    let first = workloads.first().context("no workload is timed")?;
    let path = Path::new(&input.kernel.0);
    let name = path.file_stem().unwrap_or_default();
    let (baseline, baseline_source) = task.baseline();
    let cache = match (device.cores, input.options.cache) {
        // As in a verdict: filling the inputs leaves them in the caches.
        (Some(_), _) => "warm",
        (None, Cache::Cold) => "cold",
        (None, Cache::Hot) => "hot",
    };
    Ok(SpaceHeader {
        device: device.name,
        kernel: name.to_string_lossy().into_owned(),
        problem_size: first.binding.axes.values().copied().collect(),
        tunables: kernel.header.tunables.clone(),
        identity: SpaceIdentity {
            task: task.name.clone(),
            task_digest: task.digest,
            family: kernel.family(),
            baseline: format!("{baseline} {}", Digest::of(baseline_source)),
            arch: device.arch,
            cache: cache.to_owned(),
            workloads: workloads
                .iter()
                .map(|workload| workload.id.clone())
                .collect(),
            samples: input.arguments.samples as usize,
            seed,
            checked: POINT_CHECKS.to_owned(),
        },
    })
}

fn job(
    input: GridInput<'_>,
    kernel: Kernel,
    file: SpaceFile,
    left: Vec<IndexMap<String, i64>>,
    seed: u64,
) -> PointsJob {
    let gpus = input.resolved.gpus.clone();
    let workloads = input.task.selected_workloads(&input.options.profile).len();
    PointsJob {
        settings: SpaceSettings {
            seed,
            samples: input.arguments.samples as usize,
            workloads: SpaceWorkloads::All,
        },
        pool: PoolOptions {
            files: input.files,
            options: input.options,
            workloads,
            gpus,
            screen: false,
            profiling: Profiling {
                counters: false,
                sanitize: false,
            },
        },
        task: Arc::new(input.task),
        kernel,
        file,
        left,
        format: input.format,
        reasons: IndexMap::new(),
    }
}

/// Completes the files, also after an interruption or an error, and prints what they have.
fn finish(
    job: PointsJob,
    end: anyhow::Result<MeasuringEnd>,
    output: &Path,
) -> anyhow::Result<Exit> {
    let PointsJob {
        file,
        format,
        reasons,
        ..
    } = job;
    let tally = file.tally().clone();
    let t4 = file.close()?;
    let end = end?;
    match format {
        Format::Human => {
            let mut text = report::describe_space(&tally, &reasons);
            text += &format!("{}: cache file of Kernel Tuner\n", output.display());
            text += &format!("{}: T4\n", t4.display());
            print(&text)?;
        }
        Format::Json => print_json(&report::space_json(&tally, &reasons))?,
        Format::Jsonl => {}
    }
    Ok(match end {
        MeasuringEnd::Interrupted => Exit::Interrupted,
        MeasuringEnd::All if tally.measured > 0 => Exit::Done,
        MeasuringEnd::All => Exit::NoResult,
    })
}
