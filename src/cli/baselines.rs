//! `kforge baselines`: times a kernel against all baselines of a task, and keeps a table for the device.
//!
//! From arguments to requests for a worker, and from its results to a table, a file and text. Times nothing itself.

use std::path::PathBuf;

use anyhow::Context;
use indexmap::IndexMap;

use super::execute::require_machine;
use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use super::run_args::parse_backend;
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, files};
use crate::config::{self, Config, ProfileChoice, ResolvedConfig};
use crate::device::{Cache, cpu};
use crate::driver;
use crate::eval::{BaselineOpponent, JudgeOptions};
use crate::report::{self, Spinner};
use crate::run;
use crate::task::{Task, TaskFiles};
use crate::verdict::{BaselineEntry, BaselineIdentity, BaselineTable, TABLE_SCHEMA, TimedKernel};
use crate::worker::{BaselineWorker, MeasuredBaseline, PoolOptions, Profiling, blank_entry};

/// Arguments of `kforge baselines`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct BaselinesArgs {
    /// Name or folder of the task.
    task: String,
    /// Kernel file to time against the baselines. Default: the best known kernel of the task, else its last starting kernel that works.
    kernel: Option<PathBuf>,
    /// Baselines to measure, by name, with commas. The others keep their figures in the table. Default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Python file with the baselines. Default: `kernels/TASK/baselines.py`.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Profile of the task: which workloads to time, and how precisely. `auto` is `quick` on a CPU and `full` on a GPU.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    profile: String,
    /// Device that measures. `auto` is `cuda` if a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    backend: String,
    /// GPU that measures: its index or name. Default: the first.
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// State of the GPU's caches when a launch is timed.
    #[arg(long, value_name = "STATE", default_value = "cold", value_parser = ["cold", "hot"])]
    cache: String,
    /// Timing budget for each workload, in seconds. Default: the profile's.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Deadline of one launch, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    launch_seconds: f64,
    /// Print the table and do not write it to its file.
    #[arg(long)]
    print_only: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Each baseline is timed in pairs with the kernel, as a candidate of a search is:
fresh inputs, cold caches on a GPU, the same device, nothing else timed
meanwhile. Python baselines come from `kernels/TASK/baselines.py` and need
PyTorch (`KFORGE_PYTHON`, `$VIRTUAL_ENV` or `python3`). The table is kept in
`kernels/TASK/baselines/DEVICE-PROFILE.json`.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge baselines gdn_decode", "all baselines of a task"),
            (
                "kforge baselines softmax my_kernel.cu --only torch --print-only",
                "one kernel against PyTorch",
            ),
        ],
        exit::BASELINES_CODES,
    )
}

pub(super) fn run(arguments: BaselinesArgs) -> anyhow::Result<Exit> {
    let mut session = prepare(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let measured = runtime.block_on(async {
        let mut interrupt = driver::watch_signals()?;
        tokio::select! {
            measured = session.measure() => measured.map(Some),
            _ = interrupt.wait_for(|is_interrupted| *is_interrupted) => Ok(None),
        }
    });
    runtime.shutdown_background();
    let Some(table) = measured? else {
        return Ok(Exit::Interrupted);
    };
    let has_python = table.entries.iter().any(|entry| entry.kind == "python");
    let mut measured = table
        .entries
        .iter()
        .filter(|entry| entry.kind == "python" || !has_python);
    let has_result = measured.any(|entry| entry.kernel_speedup.is_some());
    // A table without a figure does not replace one that has some.
    if has_result && !arguments.print_only {
        session.write(&table)?;
    }
    match arguments.format {
        Format::Human => print(&report::describe_baselines(&table))?,
        Format::Json => print_json(&table)?,
        Format::Jsonl => print_json_lines([&table])?,
    }
    Ok(if has_result {
        Exit::Done
    } else {
        Exit::NoResult
    })
}

/// Measures all baselines of a task for a run whose targets are over one of them, and writes the table as `kforge baselines` does.
///
/// # Errors
/// An environment failure if Python or PyTorch is not installed; a usage failure if the task has no baselines in Python.
pub(super) fn measure_for_run(
    resolved: &ResolvedConfig,
    files: &TaskFiles,
    task: &Task,
) -> anyhow::Result<BaselineTable> {
    let python = files.python_baselines()?;
    if python.is_none() && task.settings.baselines.len() < 2 {
        let (name, choice) = (&task.name, &resolved.baseline);
        let message = format!("`eval.baseline: {choice}`: task `{name}` has one baseline only");
        return Err(Failure::usage(message)
            .hint(format!(
                "write `kernels/{name}/baselines.py`: see docs/baselines.md"
            ))
            .into());
    }
    let profile = task.settings.profiles.get(&resolved.profile);
    let profile = profile.context("the task does not have the selected profile")?;
    let device = resolved.gpus.first().cloned().unwrap_or_else(cpu::identity);
    let own = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
    let starts: Vec<_> = task.starting_kernels().map(own).collect();
    let mut session = Session {
        resolved: resolved.clone(),
        files: files.clone(),
        options: JudgeOptions {
            profile: profile.clone(),
            launch_seconds: resolved.launch_seconds,
            thorough: false,
            cache: resolved.cache,
        },
        kernels: starts
            .into_iter()
            .rev()
            .chain([own(task.baseline())])
            .collect(),
        task: task.clone(),
        python,
        only: Vec::new(),
        table_path: files.baseline_table(&device.name, &resolved.profile),
        earlier: None,
    };
    tracing::info!("measuring the baselines of `{}` first", task.name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let table = runtime.block_on(session.measure())?;
    runtime.shutdown_background();
    session.write(&table)?;
    Ok(table)
}

/// What the arguments name, read and checked.
struct Session {
    resolved: ResolvedConfig,
    files: TaskFiles,
    task: Task,
    options: JudgeOptions,
    /// Names and sources of the kernels that may be timed; the first that works is.
    kernels: Vec<(String, String)>,
    /// Text and name of the Python file.
    python: Option<[String; 2]>,
    only: Vec<String>,
    table_path: PathBuf,
    earlier: Option<BaselineTable>,
}

fn prepare(arguments: &BaselinesArgs) -> anyhow::Result<Session> {
    let resolved = config::resolve(&baselines_config(arguments), "baselines", "")?;
    let files = TaskFiles::find(&arguments.task)?;
    let task = files.load()?;
    let python = match &arguments.python {
        Some(path) => Some([files::read(path)?, path.display().to_string()]),
        None => files.python_baselines()?,
    };
    let kernels = kernels_to_time(arguments, &files, &task)?;
    require_machine(&resolved)?;
    let profile = task.settings.profiles.get(&resolved.profile);
    let mut profile = profile
        .context("the task does not have the selected profile")?
        .clone();
    profile.seconds = arguments.seconds.unwrap_or(profile.seconds);
    let device = resolved.gpus.first().cloned().unwrap_or_else(cpu::identity);
    let earlier = files.read_baseline_table(&device.name, &resolved.profile)?;
    // A table of another version is not used.
    let earlier = earlier.and_then(|text| serde_json::from_str(&text).ok());
    Ok(Session {
        options: JudgeOptions {
            profile,
            launch_seconds: resolved.launch_seconds,
            thorough: false,
            cache: resolved.cache,
        },
        table_path: files.baseline_table(&device.name, &resolved.profile),
        resolved,
        files,
        task,
        kernels,
        python,
        only: arguments.only.clone(),
        earlier,
    })
}

/// The arguments as a run config of one task.
fn baselines_config(arguments: &BaselinesArgs) -> Config {
    let mut config = Config {
        tasks: vec![arguments.task.clone()],
        profile: ProfileChoice(arguments.profile.clone()),
        backend: parse_backend(&arguments.backend),
        ..Config::default()
    };
    let device = arguments.device.clone().unwrap_or_else(|| "0".to_owned());
    config.eval.launch_seconds = arguments.launch_seconds;
    config.eval.devices = config::DeviceChoice::Listed(vec![device]);
    config.eval.seconds = arguments.seconds;
    if arguments.cache == "hot" {
        config.eval.cache = Cache::Hot;
    }
    config
}

/// The named kernel; else the best known one and the starting kernels, the last first.
fn kernels_to_time(
    arguments: &BaselinesArgs,
    files: &TaskFiles,
    task: &Task,
) -> anyhow::Result<Vec<(String, String)>> {
    if let Some(path) = &arguments.kernel {
        return Ok(vec![(path.display().to_string(), files::read(path)?)]);
    }
    let own = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
    let mut kernels: Vec<(String, String)> = Vec::new();
    kernels.extend(
        files
            .best_known()?
            .map(|best| ("best.cu".to_owned(), best.source)),
    );
    let starts: Vec<_> = task.starting_kernels().map(own).collect();
    kernels.extend(starts.into_iter().rev());
    kernels.push(own(task.baseline()));
    Ok(kernels)
}

impl Session {
    async fn measure(&mut self) -> anyhow::Result<BaselineTable> {
        let spinner = Spinner::new();
        spinner.set_message(&format!("{}: starting a worker", self.task.name));
        let mut worker = BaselineWorker::start(self.pool(), false).await?;
        let names = match &self.python {
            Some(source) if self.needs_python() => worker.names(source.clone()).await?,
            _ => Vec::new(),
        };
        self.check_names(&names)?;
        let (kernel, first) = self.choose_kernel(&mut worker, &spinner).await?;
        let mut entries = vec![first];
        for (name, opponent) in self.opponents(&names) {
            let measured = if self.is_wanted(&name) {
                let blank = self.blank_entry(&name, &opponent);
                self.measure_one(&mut worker, &spinner, (&kernel, opponent), blank)
                    .await?
                    .entry
            } else {
                let mut earlier = self.earlier_entries(&kernel);
                match earlier.find(|entry| entry.name == name) {
                    Some(entry) => entry.clone(),
                    None => continue,
                }
            };
            entries.push(measured);
        }
        // Without Python, the names of its baselines are those of the table.
        if !self.needs_python() {
            let others = self.earlier_entries(&kernel);
            entries.extend(others.filter(|entry| entry.kind == "python").cloned());
        }
        let baseline = entries[0].clone();
        for entry in &mut entries {
            entry.summarize(Some(&baseline));
        }
        Ok(self.table(&kernel, entries))
    }

    /// The first kernel that works, and its times over the task's baseline.
    async fn choose_kernel(
        &self,
        worker: &mut BaselineWorker,
        spinner: &Spinner,
    ) -> anyhow::Result<((String, String), BaselineEntry)> {
        let mut reasons = Vec::new();
        let name = self.baseline_name();
        for kernel in &self.kernels {
            let blank = self.blank_entry(&name, &BaselineOpponent::Task);
            let of = (kernel, BaselineOpponent::Task);
            let measured = self.measure_one(worker, spinner, of, blank).await?;
            match measured.kernel_fault {
                None => return Ok((kernel.clone(), measured.entry)),
                Some(reason) => reasons.push(format!("`{}`: {reason}", kernel.0)),
            }
        }
        let reasons = reasons.join("\n");
        Err(Failure::reference(format!(
            "no kernel of task `{}` can be timed here:\n{reasons}",
            self.task.name
        ))
        .hint("name a kernel that `kforge eval` passes on this device")
        .into())
    }

    /// Times a kernel against one baseline on all workloads, until one fails.
    async fn measure_one(
        &self,
        worker: &mut BaselineWorker,
        spinner: &Spinner,
        (kernel, opponent): (&(String, String), BaselineOpponent),
        entry: BaselineEntry,
    ) -> anyhow::Result<MeasuredBaseline> {
        let workloads = self.task.selected_workloads(&self.options.profile);
        let workloads: Vec<String> = (workloads.iter())
            .map(|workload| workload.id.clone())
            .collect();
        let (task, name) = (&self.task.name, entry.name.clone());
        let show = |workload: &str| {
            spinner.set_message(&format!(
                "{task}: {} against {name} on {workload}",
                kernel.0
            ));
        };
        let of = (entry, &opponent);
        (worker.measure_all((&kernel.0, &kernel.1), of, &workloads, &show)).await
    }

    fn pool(&self) -> PoolOptions {
        PoolOptions {
            files: self.files.clone(),
            options: self.options.clone(),
            workloads: self.task.selected_workloads(&self.options.profile).len(),
            gpus: self.resolved.gpus.clone(),
            screen: false,
            profiling: Profiling {
                counters: false,
                sanitize: false,
            },
        }
    }

    /// The name of the task's baseline: that of its file.
    fn baseline_name(&self) -> String {
        self.task.baseline().0.to_owned()
    }

    /// The task's other baselines that are kernels, then those in Python.
    fn opponents(&self, python: &[String]) -> Vec<(String, BaselineOpponent)> {
        let others = self.task.settings.baselines.values().skip(1);
        let mut all: Vec<(String, BaselineOpponent)> = others
            .filter_map(|baseline| {
                let text = self.task.kernels.get(&baseline.kernel)?;
                Some((
                    baseline.kernel.clone(),
                    BaselineOpponent::Kernel(text.clone()),
                ))
            })
            .collect();
        for name in python {
            let source = self.python.clone().unwrap_or_default();
            let opponent = BaselineOpponent::Python {
                name: name.clone(),
                source,
            };
            all.push((name.clone(), opponent));
        }
        all
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    /// Whether a baseline in Python is to be measured.
    fn needs_python(&self) -> bool {
        let kernels = self.task.settings.baselines.values();
        let files: Vec<&str> = kernels.map(|baseline| baseline.kernel.as_str()).collect();
        self.only.is_empty() || !self.only.iter().all(|name| files.contains(&name.as_str()))
    }

    fn check_names(&self, python: &[String]) -> Result<(), Failure> {
        let mut known = vec![self.baseline_name()];
        known.extend(self.opponents(python).into_iter().map(|(name, _)| name));
        for name in &self.only {
            if !known.contains(name) {
                let task = &self.task.name;
                return Err(
                    Failure::usage(format!("task `{task}` has no baseline `{name}`"))
                        .hint(did_you_mean(name, known.iter().map(String::as_str))),
                );
            }
        }
        Ok(())
    }

    fn blank_entry(&self, name: &str, opponent: &BaselineOpponent) -> BaselineEntry {
        let source = match opponent {
            BaselineOpponent::Task => Some(self.task.baseline().1),
            BaselineOpponent::Kernel(source) => Some(source.as_str()),
            BaselineOpponent::Python { .. } => None,
        };
        blank_entry(name, source)
    }

    /// The baselines of the earlier table, if the same kernel was timed against them.
    fn earlier_entries(&self, kernel: &(String, String)) -> impl Iterator<Item = &BaselineEntry> {
        let is_comparable = |earlier: &&BaselineTable| {
            earlier.kernel.source == Digest::of(&kernel.1)
                && earlier.baseline == self.baseline_identity()
        };
        let earlier = self.earlier.as_ref().filter(is_comparable);
        earlier.into_iter().flat_map(|table| &table.entries)
    }

    fn baseline_identity(&self) -> BaselineIdentity {
        let digest = Digest::of(self.task.baseline().1).to_string();
        BaselineIdentity {
            name: self.baseline_name(),
            kind: "kernel".to_owned(),
            versions: IndexMap::from([("source".to_owned(), digest)]),
        }
    }

    fn table(&self, kernel: &(String, String), entries: Vec<BaselineEntry>) -> BaselineTable {
        let gpu = self.resolved.gpus.first().cloned();
        let cache = match (&gpu, self.options.cache) {
            (None, _) => "warm",
            (Some(_), Cache::Cold) => "cold",
            (Some(_), Cache::Hot) => "hot",
        };
        BaselineTable {
            schema: TABLE_SCHEMA,
            kforge: env!("CARGO_PKG_VERSION").to_owned(),
            time: run::timestamp(run::now_milliseconds()),
            task: self.task.name.clone(),
            backend: self.resolved.backend.clone(),
            device: gpu.unwrap_or_else(cpu::identity),
            cache: cache.to_owned(),
            profile: self.resolved.profile.clone(),
            baseline: self.baseline_identity(),
            kernel: TimedKernel {
                name: kernel.0.clone(),
                source: Digest::of(&kernel.1),
            },
            entries,
        }
    }

    fn write(&self, table: &BaselineTable) -> anyhow::Result<()> {
        let folder = self.table_path.parent().context("a table has a folder")?;
        files::create_folder_durably(folder)?;
        let text = format!("{}\n", serde_json::to_string_pretty(table)?);
        files::replace_durably(&self.table_path, text.as_bytes())
    }
}
