//! A proposer and a judge that need no compiler and no device: their results depend on the text of a kernel alone.
//! Driver, journals and search are the real ones. Shared with `benches/driver.rs`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::Result;
use indexmap::IndexMap;
use tokio::sync::watch;

use kforge::base::{Digest, RandomStream};
use kforge::driver::{self, Proposer, RunEnd, RunOptions, StartMode};
use kforge::event::{Brief, Operator};
use kforge::propose::{BriefOutcome, Candidate, Parent};
use kforge::report::{Observer, SilentObserver};
use kforge::run::{RECORD_SCHEMA, RunRecord, TaskRecord};
use kforge::search::{self, FoldOrder};
use kforge::task::{Task, TaskFiles};
use kforge::verdict::{
    AccessFigures, BaselineEntry, BaselineWorkload, DeviceIdentity, Duel, Resources, Seconds,
    Speedup, Status, TimeSummary, Verdict, WorkloadVerdict,
};
use kforge::worker::{
    Contenders, Evaluator, EvaluatorFactory, Job, JobFuture, JobKind, JobOutcome, PointTrial,
    StrongestOutcome, TrialOutcome,
};

/// Makes a few lines of text from a brief: a family, and the values of two tunables.
pub(crate) struct ScriptedProposer {
    /// Every proposal is a new kernel. Real operators also find nothing, or a kernel that was found before.
    pub(crate) always_new: bool,
}

impl Proposer for ScriptedProposer {
    fn propose(&self, brief: &Brief, parents: &[Parent], _task: &Task) -> Result<BriefOutcome> {
        let first = parents
            .first()
            .map(|parent| ScriptedKernel::read(&parent.source));
        let kernel = match (brief.operator, first) {
            (Operator::Start, _) => ScriptedKernel {
                family: Digest::of(brief.start.clone().unwrap_or_default()),
                values: [1, 1],
            },
            (Operator::Autotune, Some(parent)) => {
                let point = brief.point.clone().unwrap_or_default();
                ScriptedKernel {
                    family: parent.family,
                    values: NAMES.map(|name| point.get(name).copied().unwrap_or(1)),
                }
            }
            // The third attempt finds nothing, the fifth finds an earlier kernel: real operators do both.
            (Operator::Mutate, Some(_)) if brief.attempt % 8 == 2 && !self.always_new => {
                return Ok(BriefOutcome::NoOp("nothing left to change".to_owned()));
            }
            (Operator::Mutate | Operator::Recombine, Some(parent)) if self.always_new => {
                ScriptedKernel {
                    family: Digest::of(format!("{} {}", parent.family, brief.step)),
                    values: parent.values,
                }
            }
            (Operator::Mutate, Some(parent)) => {
                let attempt = match brief.attempt % 8 {
                    4 => 0,
                    _ => brief.attempt,
                };
                ScriptedKernel {
                    family: Digest::of(format!("{} {attempt}", parent.family)),
                    values: parent.values,
                }
            }
            (Operator::Recombine, Some(parent)) => ScriptedKernel {
                family: parent.family,
                values: parents.last().map_or(parent.values, |other| {
                    ScriptedKernel::read(&other.source).values
                }),
            },
            (operator, _) => {
                let reason = format!("no parent, or `{operator:?}` asks a model");
                return Ok(BriefOutcome::NoOp(reason));
            }
        };
        let named = |values: [i64; 2]| NAMES.map(str::to_owned).into_iter().zip(values);
        Ok(BriefOutcome::Candidate(Candidate {
            source: kernel.text(),
            detail: format!("{:?} {}", brief.operator, brief.attempt),
            family: kernel.family,
            point: named(kernel.values).collect(),
            space: NAMES.map(|name| (name.to_owned(), VALUES.to_vec())).into(),
        }))
    }
}

const NAMES: [&str; 2] = ["ROWS", "UNROLL"];
const VALUES: [i64; 4] = [1, 2, 4, 8];

struct ScriptedKernel {
    family: Digest,
    values: [i64; 2],
}

impl ScriptedKernel {
    fn text(&self) -> String {
        let [rows, unroll] = self.values;
        let family = serde_json::to_string(&self.family).unwrap();
        format!("// {family}\n// {rows}\n// {unroll}\n__global__ void kernel() {{}}\n")
    }

    fn read(text: &str) -> Self {
        let mut lines = text.lines().map(|line| line.trim_start_matches("// "));
        let mut line = || lines.next().unwrap_or_default();
        Self {
            family: serde_json::from_str(line()).unwrap(),
            values: [line().parse().unwrap(), line().parse().unwrap()],
        }
    }
}

/// Judges a kernel by the hash of its text.
#[derive(Default)]
pub(crate) struct ScriptedJudge {
    /// Maximum time of an evaluation. Each takes a random part of it.
    pub(crate) delay: Duration,
    /// Additional time of a job.
    pub(crate) pause: Option<Box<Pause>>,
    /// Verdicts have no workloads, so that their lines have only a few hundred bytes.
    pub(crate) without_workloads: bool,
    /// Size of a verdict on its journal line: more workloads are added, with all numbers of a real one, until it is reached. 0: five
    /// small workloads.
    pub(crate) verdict_bytes: usize,
    /// Called with every job before it is judged. An outcome that it returns replaces the verdict.
    pub(crate) intercept: Option<Box<Intercept>>,
}

pub(crate) type Pause = dyn Fn(&Job) -> Duration + Send + Sync;
pub(crate) type Intercept = dyn Fn(&Job) -> Result<Option<JobOutcome>> + Send + Sync;

/// Makes a judge for each task, or returns an error.
pub(crate) struct ScriptedJudges(pub(crate) Box<OpenJudge>);

type OpenJudge = dyn Fn(&Task) -> Result<ScriptedJudge> + Send + Sync;

impl EvaluatorFactory for ScriptedJudges {
    fn open(&self, task: Arc<Task>) -> JobFuture<'_, Arc<dyn Evaluator>> {
        let judge = (self.0)(&task);
        Box::pin(async move { judge.map(|judge| Arc::new(judge) as Arc<dyn Evaluator>) })
    }
}

impl Evaluator for ScriptedJudge {
    fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome> {
        Box::pin(async move {
            let intercepted = self.intercept.as_ref().map(|before| before(&job));
            if let Some(outcome) = intercepted.transpose()?.flatten() {
                return Ok(outcome);
            }
            if let Some(pause) = &self.pause {
                tokio::time::sleep(pause(&job)).await;
            }
            if !self.delay.is_zero() {
                let share = kforge::base::random::fresh_seed() % 1000;
                tokio::time::sleep(self.delay.mul_f64(share as f64 / 1000.0)).await;
            }
            Ok(match &job.kind {
                JobKind::Judge => self.outcome(&job.source, false),
                JobKind::Confirm => self.outcome(&job.source, true),
                JobKind::Try { others } => {
                    let sources = std::iter::once(&job.source).chain(others);
                    JobOutcome::Tried(TrialOutcome {
                        trials: sources.map(|source| trial(source)).collect(),
                        device_seconds: DEVICE_SECONDS,
                    })
                }
                JobKind::CompareStrongest(contenders) => {
                    JobOutcome::Strongest(Box::new(beside(speed(&job.source) / 2.0, contenders)))
                }
                JobKind::Duel { against } | JobKind::Compare { against } => {
                    let ratio = speed(&job.source) / speed(against);
                    JobOutcome::Duel {
                        duel: Some(Duel {
                            ratio,
                            ci95: [ratio * 0.999, ratio * 1.001],
                        }),
                        device_seconds: DEVICE_SECONDS,
                    }
                }
            })
        })
    }
}

/// A kernel with this speedup over the first contender.
pub(crate) fn beside(speedup: f64, contenders: &Contenders) -> StrongestOutcome {
    let workload = |id: &String| BaselineWorkload {
        deviation: None,
        id: id.clone(),
        axes: IndexMap::new(),
        baseline_us: 10.0 * speedup,
        kernel_us: 10.0,
        kernel_speedup: speedup,
        ci95: [speedup * 0.999, speedup * 1.001],
    };
    let entries = contenders.order.iter().take(1).map(|name| BaselineEntry {
        deviation: None,
        name: name.clone(),
        kind: "python".to_owned(),
        versions: IndexMap::from([(name.clone(), "1.2".to_owned())]),
        launch: Some("call".to_owned()),
        reason: None,
        kernel_speedup: Some(Speedup {
            geomean: speedup,
            ci95: [speedup * 0.999, speedup * 1.001],
        }),
        speedup: None,
        workloads: contenders.workloads.iter().map(workload).collect(),
    });
    StrongestOutcome {
        entries: entries.collect(),
        reason: None,
        processes: 1,
        device_seconds: DEVICE_SECONDS,
    }
}

impl ScriptedJudge {
    fn outcome(&self, source: &str, confirmed: bool) -> JobOutcome {
        let workloads = if self.without_workloads { 0 } else { 5 };
        let mut verdict = verdict(source, workloads, confirmed);
        if self.verdict_bytes > 0 {
            enlarge(&mut verdict, self.verdict_bytes);
        }
        JobOutcome::Verdict {
            compile_log: String::new(),
            report: None,
            verdict: Box::new(verdict),
        }
    }
}

/// Device time of every evaluation.
pub(crate) const DEVICE_SECONDS: f64 = 0.25;

/// What a short trial finds.
fn trial(source: &str) -> PointTrial {
    let verdict = verdict(source, 1, false);
    let times = verdict.workloads[0].candidate_us;
    PointTrial {
        status: verdict.status,
        microseconds: times.map(|times| times.median),
    }
}

/// True speedup of a kernel.
fn speed(source: &str) -> f64 {
    let mut stream = RandomStream::new(0, "speed", Digest::of(source).low64());
    0.5 + 3.0 * stream.uniform()
}

/// A verdict like that of a real judge.
pub(crate) fn verdict(source: &str, workloads: i64, confirmed: bool) -> Verdict {
    let mut stream = RandomStream::new(0, "verdict", Digest::of(source).low64());
    let start = source.ends_with("kernel() {}\n") && source.contains("\n// 1\n// 1\n");
    let status = match stream.below(10) {
        _ if start => Status::Passed,
        0 => Status::WrongOutput,
        1 => Status::CompileError,
        2 => Status::Crashed,
        _ => Status::Passed,
    };
    let geomean = speed(source);
    let ci95 = [geomean * 0.97, geomean * 1.03];
    let passed = status == Status::Passed;
    let times = passed.then_some(TimeSummary {
        median: 10.25 / geomean,
        mean: 10.5 / geomean,
        std: 0.125,
        min: 10.0 / geomean,
        max: 14.0 / geomean,
        n: 100,
    });
    let workload = |index: i64| WorkloadVerdict {
        id: format!("w{index}"),
        axes: [("batch_size".to_owned(), 1 << index)].into(),
        hidden: false,
        regime: None,
        variant: None,
        status,
        speedup: passed.then_some(geomean),
        ci95: passed.then_some(ci95),
        candidate_us: times,
        baseline_us: times,
        runs_apart: false,
        floor_us: None,
        roofline: None,
        max_abs_error: Some(1e-7),
        max_rel_error: Some(1e-5),
        mean_abs_error: Some(1e-9),
        tolerance_margin: Some(0.98),
    };
    let features: [(&str, &[f64]); 3] = [
        ("block_threads", &[32.0, 64.0, 128.0, 256.0]),
        ("vector_bytes", &[4.0, 8.0, 16.0]),
        ("barriers", &[0.0, 2.0, 8.0]),
    ];
    Verdict {
        accesses: Vec::new(),
        builds: Vec::new(),
        schema: kforge::verdict::SCHEMA,
        task: "softmax".to_owned(),
        kernel: String::new(),
        backend: "scripted".to_owned(),
        status,
        reason: (!passed).then(|| "scripted".to_owned()),
        confirmed: confirmed && passed,
        device: DeviceIdentity::default(),
        sandbox: "none".to_owned(),
        tunables: IndexMap::new(),
        cache: "warm".to_owned(),
        state: None,
        precision: None,
        screen: None,
        checked_share: Some(1.0),
        voided_blocks: 0,
        seeds: vec![1, 2],
        baseline: None,
        timing: None,
        dismissal: None,
        timed_against: None,
        strongest: None,
        faster_outside: None,
        code: None,
        not_done: Vec::new(),
        speedup: passed.then_some(Speedup { geomean, ci95 }),
        workloads: (0..workloads).map(workload).collect(),
        resources: Resources::default(),
        features: features
            .map(|(name, values)| (name.to_owned(), values[stream.below(values.len())]))
            .into(),
        evidence: None,
        notes: Vec::new(),
        seconds: Seconds {
            device: DEVICE_SECONDS,
            ..Seconds::default()
        },
    }
}

/// Adds what real verdicts have, and as many workloads as make a journal line of `bytes` bytes.
fn enlarge(verdict: &mut Verdict, bytes: usize) {
    let name = |letters: &str| letters.to_owned();
    verdict.device = DeviceIdentity {
        name: name("NVIDIA H200"),
        arch: name("sm_90"),
        uuid: Some(name("GPU-01234567-89ab-cdef-0123-456789abcdef")),
        driver: Some(name("580.65.06")),
        cores: None,
    };
    let mut random = RandomStream::new(0, "size", verdict.workloads.len() as u64);
    let mut number = || 100.0 * random.uniform();
    let access = |line: u32| AccessFigures {
        line,
        access: name("load"),
        space: name("global"),
        bytes: 4,
        sectors_per_request: Some(4.25),
        bank_conflicts: None,
        pattern: Some(name("coalesced")),
        total_bytes: 8_388_608.0,
    };
    verdict.accesses = (20..28).map(access).collect();
    let axes = [
        "batch_size",
        "seq_len",
        "num_q_heads",
        "num_k_heads",
        "head_size",
    ];
    let mut missing = bytes.saturating_sub(serialized_size(verdict));
    for index in 0.. {
        let mut times = || TimeSummary {
            median: number(),
            mean: number(),
            std: number(),
            min: number(),
            max: number(),
            n: 136,
        };
        let (candidate, baseline) = (times(), times());
        let workload = WorkloadVerdict {
            id: format!("batch {index}, long sequences"),
            axes: axes.map(|axis| (name(axis), 1 << (index % 20))).into(),
            hidden: false,
            regime: (index % 3 == 2).then(|| name("large_rows")),
            variant: Some(0),
            status: verdict.status,
            speedup: Some(candidate.median),
            ci95: Some([candidate.min, candidate.max]),
            candidate_us: Some(candidate),
            baseline_us: Some(baseline),
            runs_apart: false,
            floor_us: Some(number()),
            roofline: Some(number()),
            max_abs_error: Some(number()),
            max_rel_error: Some(number()),
            mean_abs_error: Some(number()),
            tolerance_margin: Some(number()),
        };
        let size = serialized_size(&workload);
        if size > missing {
            return;
        }
        missing -= size;
        verdict.workloads.push(workload);
    }
}

fn serialized_size(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).unwrap().len()
}

/// A shipped task. The scripted judge does not use it.
pub(crate) fn task(name: &str) -> Arc<Task> {
    static TASKS: LazyLock<Mutex<HashMap<String, Arc<Task>>>> = LazyLock::new(Mutex::default);
    let mut tasks = TASKS.lock().unwrap();
    let load = || Arc::new(TaskFiles::find(name).unwrap().load().unwrap());
    tasks.entry(name.to_owned()).or_insert_with(load).clone()
}

/// A run with four kernels in flight. A resume, in the order of the run, if the directory holds a run already.
pub(crate) fn options(directory: &Path, tasks: &[&str], steps: u64) -> RunOptions {
    let record = std::fs::read_to_string(directory.join("run.yaml"));
    let in_step_order = record.is_ok_and(|record| record.contains("\norder: step\n"));
    let order = match in_step_order {
        true => FoldOrder::Step,
        false => FoldOrder::Journal,
    };
    options_in(order, directory, tasks, steps)
}

/// The options of a new run in step order, as earlier versions made them. Two such runs with the same verdicts are equal.
pub(crate) fn step_options(directory: &Path, steps: u64) -> RunOptions {
    options_in(FoldOrder::Step, directory, &["softmax"], steps)
}

/// As `options`, in this order.
pub(crate) fn options_in(
    order: FoldOrder,
    directory: &Path,
    tasks: &[&str],
    steps: u64,
) -> RunOptions {
    let tasks: Vec<_> = tasks.iter().map(|name| task(name)).collect();
    let mut search = search::SearchSettings::default();
    // Kernels of one cell are about as fast as each other, so that there are duels.
    let edges = vec![0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];
    search.features.insert("speedup".to_owned(), edges);
    let resume = directory.join("run.yaml").exists();
    let records = tasks.iter().map(|task| {
        let record = TaskRecord {
            folder: task.digest,
            oracle: Digest::of(&task.oracle),
            baseline: Digest::of(task.baseline().1),
            from: Vec::new(),
            lessons: None,
            yardstick: None,
        };
        (task.name.clone(), record)
    });
    RunOptions {
        contenders: HashMap::new(),
        yardsticks: HashMap::new(),
        models: None,
        directory: directory.to_owned(),
        start: match resume {
            true => StartMode::Resume {
                accept_changes: false,
            },
            false => StartMode::New,
        },
        record: RunRecord {
            prompts: None,
            schema: RECORD_SCHEMA,
            kforge: "0.0.0".to_owned(),
            host: "scripted".to_owned(),
            seed: 7,
            window: 8,
            order,
            backend: "scripted".to_owned(),
            device: DeviceIdentity::default(),
            tasks: records.collect(),
            config: serde_json::json!({"steps": steps, "search": search}),
        },
        tasks,
        search,
        steps,
        in_flight: 4,
        racing: true,
        budget: None,
        device_budget: None,
        confirm_share: 0.2,
    }
}

/// These options with archive cells by speedup alone: there are few, so that there are duels.
pub(crate) fn with_few_cells(mut options: RunOptions) -> RunOptions {
    options
        .search
        .features
        .retain(|feature, _| feature == "speedup");
    options.record.config["search"] = serde_json::to_value(&options.search).unwrap();
    options
}

/// The same judge for every task. `delay`: maximum time of an evaluation.
pub(crate) fn judges(delay: Duration) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            delay,
            ..ScriptedJudge::default()
        })
    }))
}

/// Runs to the end, or until the receiver that `interrupt` makes inside the runtime becomes true.
pub(crate) fn run_until(
    options: RunOptions,
    proposer: ScriptedProposer,
    judges: &ScriptedJudges,
    interrupt: impl FnOnce() -> watch::Receiver<bool>,
) -> Result<RunEnd> {
    run_observed(options, proposer, judges, &mut SilentObserver, interrupt)
}

/// As `run_until`, with an observer.
pub(crate) fn run_observed(
    options: RunOptions,
    proposer: ScriptedProposer,
    judges: &ScriptedJudges,
    observer: &mut dyn Observer,
    interrupt: impl FnOnce() -> watch::Receiver<bool>,
) -> Result<RunEnd> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let interrupt = interrupt();
        driver::run(options, Arc::new(proposer), judges, observer, interrupt).await
    })
}
