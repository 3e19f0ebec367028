//! Judges kernels with the kforge program, in batches, several programs at once. Collects status, speedup and time of each. What a batch
//! needs to have compared is compared next, so that a run that ends early has compared what it has judged. A twin is judged as soon as it
//! is needed, once per text.
//!
//! Uses the program as its users do, so a kernel that breaks a worker breaks what it would break for them. Decides nothing about
//! faults; `report` does.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sketch::{Backend, Computation, Setting};
use crate::stored;

/// Kernels that one program judges, on a CPU and on a GPU, where a program takes seconds to start.
const BATCH: [usize; 2] = [20, 40];
/// Kernels that one program compares on a GPU, each with its twin; and twins that one program judges.
const PAIRS: usize = 6;
/// What leaves no larger gain than this possible is not compared further, on a GPU and on a CPU, where programs disturb each other and
/// a trick saves nine tenths of a launch.
pub(crate) const CLEAR_GAIN: f64 = 1.15;
const CLEAR_GAIN_ON_BUSY_CPU: f64 = 1.3;
/// The part of the time limit in which batches of kernels begin. The rest is for comparisons of those that passed.
const JUDGING_SHARE: f64 = 0.85;
/// How long a thread without work waits for what other threads may find to compare.
const POLL: Duration = Duration::from_millis(20);
/// Limit for a batch: its programs end by themselves far earlier, unless kforge itself hangs.
const BATCH_LIMIT: Duration = Duration::from_secs(1200);
/// How often a comparison is repeated because the machine was too busy to time it.
const MAX_REPEATS: usize = 3;
/// Timing budget in seconds of a first judgement on a GPU, where few samples are enough. On a CPU it is the profile's.
const GPU_JUDGEMENT_SECONDS: &str = "0.1";
/// Half width at which such a timing stops. What passes is compared with its twin, so a wide interval will do.
const GPU_JUDGEMENT_PRECISION: &str = "0.2";
/// Timing budget of a comparison in seconds, on a CPU and on a GPU.
const COMPARISON_SECONDS: [&str; 2] = ["1", "0.4"];
/// Deadline of a launch in seconds, on a busy CPU and on a GPU. A launch takes far less than a hundredth of it, and a kernel that hangs all of it.
const LAUNCH_SECONDS: [&str; 2] = ["2", "0.2"];

/// A kernel to judge.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The name of its file, without an extension.
    pub(crate) name: String,
    pub(crate) computation: Computation,
    pub(crate) setting: Setting,
    pub(crate) source: String,
}

impl Job {
    /// Jobs of one kind can share a program.
    fn kind(&self) -> (Computation, Setting) {
        (self.computation, self.setting)
    }
}

/// A kernel that passed, and its twin, both in the form for comparisons.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) hostile: Job,
    pub(crate) twin: String,
}

/// Verdicts by name.
#[derive(Default)]
pub(crate) struct Results {
    /// Against the task's baseline.
    pub(crate) judged: BTreeMap<String, Judged>,
    /// Of hostile kernels, against their twins.
    pub(crate) compared: BTreeMap<String, Judged>,
}

/// What the judge found.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) status: String,
    pub(crate) reason: String,
    /// The interval of the speedup, if it passed.
    pub(crate) interval: Option<[f64; 2]>,
    /// Seconds of each stage.
    pub(crate) seconds: BTreeMap<String, f64>,
}

impl Judged {
    fn of(verdict: &Value) -> Self {
        let text = |key: &str| verdict[key].as_str().unwrap_or_default().to_owned();
        let bound = |end: usize| verdict["speedup"]["ci95"][end].as_f64();
        let seconds = verdict["seconds"].as_object().into_iter().flatten();
        Self {
            status: text("status"),
            reason: text("reason"),
            interval: bound(0).zip(bound(1)).map(|(low, high)| [low, high]),
            seconds: seconds
                .filter_map(|(stage, time)| Some((stage.clone(), time.as_f64()?)))
                .collect(),
        }
    }

    /// With the interval of its speedup over another kernel, from the speedups of both over one baseline.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let both = self.interval.zip(other.interval);
        Self {
            interval: both
                .map(|([low, high], [other_low, other_high])| [low / other_high, high / other_low]),
            ..self.clone()
        }
    }

    /// A verdict that never came counts as a fault of the judge.
    fn missing(reason: String) -> Self {
        Self {
            status: "harness_error".to_owned(),
            reason,
            interval: None,
            seconds: BTreeMap::new(),
        }
    }

    /// A comparison that the time limit has stopped.
    fn stopped() -> Self {
        Self {
            status: "inconclusive".to_owned(),
            ..Self::missing("stopped by the time limit".to_owned())
        }
    }

    pub(crate) fn total_seconds(&self) -> f64 {
        self.seconds.values().sum()
    }

    /// Whether it surely gains at most so much, or was caught.
    pub(crate) fn gains_at_most(&self, most: f64) -> bool {
        match self.interval {
            Some([_, high]) => high <= most,
            None => self.status != "passed" && self.status != "inconclusive",
        }
    }
}

/// How and where kernels are judged.
pub(crate) struct Runner {
    pub(crate) backend: Backend,
    /// Programs that run at once.
    pub(crate) programs: usize,
    /// GPUs that share the programs; empty: each program uses what it finds.
    devices: Vec<String>,
    /// Further arguments of `kforge eval`.
    arguments: Vec<String>,
    /// When programs are stopped and nothing begins any more.
    deadline: Option<Instant>,
    stored_tasks: OnceLock<PathBuf>,
    folder: tempfile::TempDir,
}

impl Runner {
    /// `programs`: on the CPU, or on each GPU that `CUDA_VISIBLE_DEVICES` names.
    /// `limit`: how long all that it does may take.
    pub(crate) fn new(
        backend: Backend,
        programs: usize,
        arguments: Vec<String>,
        limit: Option<Duration>,
    ) -> Self {
        let named = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let mut devices: Vec<_> = named
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        if devices.len() < 2 || backend == Backend::Cpu {
            devices.clear();
        }
        Self {
            backend,
            programs: programs * devices.len().max(1),
            devices,
            arguments,
            deadline: limit.map(|limit| Instant::now() + limit),
            stored_tasks: OnceLock::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn task_folder(&self, computation: Computation, setting: Setting) -> PathBuf {
        match setting {
            Setting::Usual | Setting::HotCaches => task_folder(computation),
            Setting::StoredInputs => self.stored_tasks().join(computation.name()),
        }
    }

    /// Tasks whose inputs are all in files.
    fn stored_tasks(&self) -> &Path {
        self.stored_tasks.get_or_init(|| {
            let folder = self.folder.path().join("stored");
            stored::write_tasks(&folder);
            folder
        })
    }

    /// Whether the time for everything is over.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Judges all kernels, and what `follow_up` asks for after each batch. No batch begins after `JUDGING_SHARE` of `limit`, and nothing after
    /// all of it. What the runner's own limit stops has no verdict. Returns the verdicts and the comparisons by name. `progress` gets all of them so far, whenever there are more.
    pub(crate) fn judge(
        &self,
        jobs: &[Job],
        limit: Option<Duration>,
        follow_up: impl Fn(&BTreeMap<String, Judged>) -> FollowUp + Sync,
        progress: impl Fn(&Results) + Sync,
    ) -> Results {
        let started = Instant::now();
        let left = || match limit {
            _ if self.is_over() => TimeLeft::Nothing,
            Some(limit) if started.elapsed() > limit => TimeLeft::Nothing,
            Some(limit) if started.elapsed() > limit.mul_f64(JUDGING_SHARE) => TimeLeft::ToCompare,
            _ => TimeLeft::Enough,
        };
        let work = Mutex::new(Work {
            batches: self.batches(jobs),
            ..Work::default()
        });
        // On a CPU programs disturb a comparison, so an unclear one is repeated alone.
        let alone = RwLock::new(());
        std::thread::scope(|scope| {
            for number in 0..self.programs {
                let (work, alone, follow_up, progress) = (&work, &alone, &follow_up, &progress);
                scope.spawn(move || {
                    loop {
                        let next = work.lock().unwrap().take(self.backend, left());
                        let mut done = Results::default();
                        match next {
                            Next::End => return,
                            Next::Wait => {
                                std::thread::sleep(POLL);
                                continue;
                            }
                            Next::Judge(batch) => {
                                let _shared = alone.read().unwrap();
                                let batch: Vec<_> = batch.iter().collect();
                                done.judged = self.run_program(number, &batch);
                            }
                            Next::Compare(comparisons) => {
                                done.compared = self.compare(number, &comparisons, alone);
                            }
                        }
                        let mut work = work.lock().unwrap();
                        work.results.judged.extend(done.judged);
                        work.results.compared.extend(done.compared);
                        let next = follow_up(&work.results.judged);
                        work.comparisons.extend(next.comparisons);
                        work.add_first(next.jobs);
                        work.running -= 1;
                        progress(&work.results);
                    }
                });
            }
        });
        work.into_inner().unwrap().results
    }

    /// Batches of kernels of one kind each. The first ones of all kinds come first.
    fn batches(&self, jobs: &[Job]) -> VecDeque<Vec<Job>> {
        let [on_cpu, on_gpu] = BATCH;
        let size = match self.backend {
            Backend::Cpu => on_cpu,
            Backend::Cuda => on_gpu,
        };
        let mut by_kind = BTreeMap::<_, Vec<Job>>::new();
        for job in jobs {
            by_kind.entry(job.kind()).or_default().push(job.clone());
        }
        let mut batches: Vec<_> = by_kind
            .values()
            .flat_map(|jobs| jobs.chunks(size).enumerate())
            .collect();
        batches.sort_by_key(|(number, _)| *number);
        batches.into_iter().map(|(_, jobs)| jobs.to_vec()).collect()
    }

    /// Compares kernels of one kind with their twins.
    fn compare(
        &self,
        number: usize,
        comparisons: &[Comparison],
        alone: &RwLock<()>,
    ) -> BTreeMap<String, Judged> {
        if self.backend == Backend::Cpu {
            let compare = |comparison: &Comparison| {
                let (name, first) = {
                    let _shared = alone.read().unwrap();
                    self.compare_once(number, comparison)
                };
                if first.gains_at_most(CLEAR_GAIN_ON_BUSY_CPU) {
                    return (name, first);
                }
                let _alone = alone.write().unwrap();
                self.compare_directly(number, comparison)
            };
            return comparisons.iter().map(compare).collect();
        }
        // Over the task's baseline, so that one program compares several pairs.
        let twin = |index: usize| format!("twin{index}");
        let jobs = comparisons.iter().enumerate().flat_map(|(index, pair)| {
            let twin = Job {
                name: twin(index),
                source: pair.twin.clone(),
                ..pair.hostile.clone()
            };
            [twin, pair.hostile.clone()]
        });
        let jobs: Vec<_> = jobs.collect();
        let jobs: Vec<_> = jobs.iter().collect();
        let judged = self.run_comparison(number, &jobs, None);
        let pairs = comparisons.iter().enumerate().map(|(index, pair)| {
            let name = &pair.hostile.name;
            let Some((hostile, of_twin)) = judged.get(name).zip(judged.get(&twin(index))) else {
                return (name.clone(), Judged::stopped());
            };
            let over_twin = hostile.over(of_twin);
            if over_twin.gains_at_most(CLEAR_GAIN) {
                (pair.hostile.name.clone(), over_twin)
            } else {
                self.compare_directly(number, pair)
            }
        });
        pairs.collect()
    }

    /// Times a kernel against its twin.
    fn compare_once(&self, number: usize, comparison: &Comparison) -> (String, Judged) {
        let name = &comparison.hostile.name;
        let jobs = [&comparison.hostile];
        let mut judged = self.run_comparison(number, &jobs, Some(&comparison.twin));
        (
            name.clone(),
            judged.remove(name).unwrap_or_else(Judged::stopped),
        )
    }

    /// Times a kernel against its twin. What was not timed is tried again.
    pub(crate) fn compare_directly(
        &self,
        number: usize,
        comparison: &Comparison,
    ) -> (String, Judged) {
        let run = || self.compare_once(number, comparison);
        let (name, mut judged) = run();
        for _ in 0..MAX_REPEATS {
            if judged.status != "inconclusive" || self.is_over() {
                break;
            }
            (_, judged) = run();
        }
        (name, judged)
    }

    fn run_program(&self, number: usize, jobs: &[&Job]) -> BTreeMap<String, Judged> {
        let timing: &[&str] = match self.backend {
            Backend::Cpu => &[],
            Backend::Cuda => &[
                "--seconds",
                GPU_JUDGEMENT_SECONDS,
                "--precision",
                GPU_JUDGEMENT_PRECISION,
            ],
        };
        self.run(number, jobs, None, timing)
    }

    /// `baseline`: the kernel that the speed is measured against; the task's baseline if there is none.
    fn run_comparison(
        &self,
        number: usize,
        jobs: &[&Job],
        baseline: Option<&str>,
    ) -> BTreeMap<String, Judged> {
        let [on_cpu, on_gpu] = COMPARISON_SECONDS;
        let seconds = match self.backend {
            Backend::Cpu => on_cpu,
            Backend::Cuda => on_gpu,
        };
        self.run(number, jobs, baseline, &["--seconds", seconds])
    }

    fn run(
        &self,
        number: usize,
        jobs: &[&Job],
        baseline: Option<&str>,
        timing: &[&str],
    ) -> BTreeMap<String, Judged> {
        if self.is_over() {
            return BTreeMap::new();
        }
        let started = Instant::now();
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let files: Vec<PathBuf> = jobs
            .iter()
            .map(|job| folder.join(format!("{}.cu", job.name)))
            .collect();
        for (file, job) in files.iter().zip(jobs) {
            std::fs::write(file, &job.source).unwrap();
        }
        let mut command = self.command(jobs[0].kind(), &folder);
        if let Some(device) = self.devices.get(number % self.devices.len().max(1)) {
            command.env("CUDA_VISIBLE_DEVICES", device);
        }
        command.args(timing).args(&files);
        if let Some(baseline) = baseline {
            let file = folder.join("baseline.cu");
            std::fs::write(&file, baseline).unwrap();
            command.arg("--baseline").arg(file);
        }
        let output = run_with_limit(command, &folder, self.deadline);
        let (text, errors, status) = output;
        let mut judged = BTreeMap::new();
        for line in text.lines() {
            let verdict: Value = serde_json::from_str(line).unwrap_or_default();
            let path = Path::new(verdict["kernel"].as_str().unwrap_or_default());
            if let Some(name) = path.file_stem() {
                judged.insert(name.to_string_lossy().into_owned(), Judged::of(&verdict));
            }
        }
        // What was not judged for lack of time is no fault.
        let unjudged = if self.is_over() { &[] } else { jobs };
        for job in unjudged {
            judged.entry(job.name.clone()).or_insert_with(|| {
                let last = errors.lines().last().unwrap_or_default();
                Judged::missing(format!(
                    "no verdict after {:.0} s: kforge ended with {status}: {last}",
                    started.elapsed().as_secs_f64()
                ))
            });
        }
        for file in &files {
            let _ = std::fs::remove_file(file);
        }
        judged
    }

    fn command(&self, (computation, setting): (Computation, Setting), folder: &Path) -> Command {
        let [on_cpu, on_gpu] = LAUNCH_SECONDS;
        let launch_seconds = match self.backend {
            Backend::Cpu => on_cpu,
            Backend::Cuda => on_gpu,
        };
        let mut command = Command::new(program());
        command
            .arg("eval")
            .arg(self.task_folder(computation, setting))
            .args(["--backend", self.backend.name(), "--profile", "quick"])
            .args(["--format", "jsonl", "--launch-seconds", launch_seconds])
            .args(&self.arguments)
            .env_remove("KFORGE_CONFIG")
            .env("NO_COLOR", "1");
        if setting == Setting::HotCaches {
            command.args(["--cache", "hot"]);
        }
        if self.backend == Backend::Cpu {
            // Each program times without waiting for the others: a trick saves far more time than they disturb. Hostile kernels
            // that are caught are not timed at all.
            command.env("KFORGE_LOCK_DIR", folder);
        }
        command
    }
}

/// What a batch needs next.
#[derive(Default)]
pub(crate) struct FollowUp {
    /// Kernels to judge.
    pub(crate) jobs: Vec<Job>,
    pub(crate) comparisons: Vec<Comparison>,
}

/// What is left to do, and what was found.
#[derive(Default)]
struct Work {
    batches: VecDeque<Vec<Job>>,
    /// Batches that comparisons need.
    needed: VecDeque<Vec<Job>>,
    comparisons: VecDeque<Comparison>,
    /// Batches and comparisons under way, which may lead to more.
    running: usize,
    results: Results,
}

/// What there is still time for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TimeLeft {
    Enough,
    /// For comparisons of what was judged.
    ToCompare,
    Nothing,
}

/// What a thread does next.
enum Next {
    /// Of one kind.
    Judge(Vec<Job>),
    /// Of one kind.
    Compare(Vec<Comparison>),
    Wait,
    End,
}

impl Work {
    /// Adds jobs that come before all others.
    fn add_first(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let same = |batch: &&mut Vec<Job>| batch[0].kind() == job.kind();
            match self.needed.iter_mut().find(same) {
                Some(batch) => batch.push(job),
                None => self.needed.push_back(vec![job]),
            }
        }
    }

    fn take(&mut self, backend: Backend, left: TimeLeft) -> Next {
        let most = match backend {
            Backend::Cpu => 1,
            Backend::Cuda => PAIRS,
        };
        if left != TimeLeft::Enough {
            self.batches.clear();
        }
        if left == TimeLeft::Nothing {
            self.needed.clear();
            self.comparisons.clear();
        }
        // What waits for few kernels waits for more of its kind, as long as there is other work.
        let is_last = self.batches.is_empty();
        if let Some(first) = self.comparisons.pop_front() {
            let mut taken = vec![first];
            let mut index = 0;
            while index < self.comparisons.len() && taken.len() < most {
                let kind = self.comparisons[index].hostile.kind();
                if kind == taken[0].hostile.kind() {
                    taken.extend(self.comparisons.remove(index));
                } else {
                    index += 1;
                }
            }
            if is_last || taken.len() == most {
                self.running += 1;
                return Next::Compare(taken);
            }
            for comparison in taken.into_iter().rev() {
                self.comparisons.push_front(comparison);
            }
        }
        let needed = self
            .needed
            .iter()
            .position(|batch| is_last || batch.len() >= PAIRS);
        let needed = needed.and_then(|index| self.needed.remove(index));
        match needed.or_else(|| self.batches.pop_front()) {
            Some(batch) => {
                self.running += 1;
                Next::Judge(batch)
            }
            None if self.running > 0 => Next::Wait,
            None => Next::End,
        }
    }
}

/// Output, errors and exit status of a command that is killed after the limit, or at the deadline.
fn run_with_limit(
    mut command: Command,
    folder: &Path,
    deadline: Option<Instant>,
) -> (String, String, String) {
    let create = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create("output"))
        .stderr(create("errors"))
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if started.elapsed() > BATCH_LIMIT
                || deadline.is_some_and(|deadline| Instant::now() >= deadline) =>
            {
                let _ = child.kill();
                let _ = child.wait();
                break "a limit".to_owned();
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let read = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (read("output"), read("errors"), status)
}

/// The program: that of this build, or `KFORGE_TEST_BINARY` on a machine without cargo.
fn program() -> PathBuf {
    std::env::var_os("KFORGE_TEST_BINARY")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_kforge").into())
        .into()
}

/// The folder of a task: below the repository's root, or below `KFORGE_TEST_ROOT`.
pub(crate) fn task_folder(computation: Computation) -> PathBuf {
    let root =
        std::env::var_os("KFORGE_TEST_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(root)
        .join("tests/fixtures/hostile/tasks")
        .join(computation.name())
}
