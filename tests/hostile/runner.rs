//! Judges kernels with the kforge program, in batches, several programs at once. Collects status, speedup and time of each. What a batch
//! needs to have compared is compared next, so that a run that ends early has compared what it has judged.
//!
//! Uses the program as its users do, so a kernel that breaks a worker breaks what it would break for them. Decides nothing about
//! faults; `report` does.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sketch::{Backend, Computation};

/// Kernels that one program judges, on a CPU and on a GPU, where a program takes seconds to start.
const BATCH: [usize; 2] = [20, 40];
/// Kernels that one program compares on a GPU, each with its twin.
const PAIRS: usize = 6;
/// Comparisons that wait on a CPU until no program judges.
const WAITING: usize = 8;
/// A comparison over a common baseline is repeated with the twin as the baseline if it leaves a larger gain than this possible.
const CLEAR_GAIN: f64 = 1.15;
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
/// Deadline of a launch in seconds. A launch takes far less than a thousandth of it.
const LAUNCH_SECONDS: &str = "2";

/// A kernel to judge.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The name of its file, without an extension.
    pub(crate) name: String,
    pub(crate) computation: Computation,
    pub(crate) source: String,
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
    /// Seconds of all stages.
    pub(crate) seconds: f64,
}

impl Judged {
    fn of(verdict: &Value) -> Self {
        let text = |key: &str| verdict[key].as_str().unwrap_or_default().to_owned();
        let bound = |end: usize| verdict["speedup"]["ci95"][end].as_f64();
        let seconds = verdict["seconds"].as_object();
        Self {
            status: text("status"),
            reason: text("reason"),
            interval: bound(0).zip(bound(1)).map(|(low, high)| [low, high]),
            seconds: seconds.map_or(0.0, |all| all.values().filter_map(Value::as_f64).sum()),
        }
    }

    /// With the interval of its speedup over another kernel, from the speedups of both over one baseline.
    fn over(&self, other: &Self) -> Self {
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
            seconds: 0.0,
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
    folder: tempfile::TempDir,
}

impl Runner {
    /// `programs`: on the CPU, or on each GPU that `CUDA_VISIBLE_DEVICES` names.
    pub(crate) fn new(backend: Backend, programs: usize, arguments: Vec<String>) -> Self {
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
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Judges all kernels, and compares what `to_compare` makes of each batch's verdicts. After `limit` no further batch begins; what was
    /// judged is still compared. Returns the verdicts and the comparisons by name. `progress` gets the number of both so far.
    pub(crate) fn judge(
        &self,
        jobs: &[Job],
        limit: Option<Duration>,
        to_compare: impl Fn(&BTreeMap<String, Judged>) -> Vec<Comparison> + Sync,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Results {
        let started = Instant::now();
        let is_over = || limit.is_some_and(|limit| started.elapsed() > limit);
        let work = Mutex::new(Work {
            batches: self.batches(jobs),
            ..Work::default()
        });
        // On a CPU programs would disturb a comparison, so it runs alone.
        let alone = RwLock::new(());
        std::thread::scope(|scope| {
            for number in 0..self.programs {
                let (work, alone, to_compare, progress) = (&work, &alone, &to_compare, &progress);
                scope.spawn(move || {
                    loop {
                        let next = work.lock().unwrap().take(self.backend, is_over());
                        let done = match next {
                            Next::End => return,
                            Next::Wait => {
                                std::thread::sleep(POLL);
                                continue;
                            }
                            Next::Judge(batch) => {
                                let _shared = alone.read().unwrap();
                                let judged = self.run_program(number, &batch);
                                Results {
                                    judged,
                                    ..Results::default()
                                }
                            }
                            Next::Compare(comparisons) => {
                                let _alone =
                                    (self.backend == Backend::Cpu).then(|| alone.write().unwrap());
                                Results {
                                    compared: self.compare(number, &comparisons),
                                    ..Results::default()
                                }
                            }
                        };
                        let mut work = work.lock().unwrap();
                        work.comparisons.extend(to_compare(&done.judged));
                        work.running -= 1;
                        work.results.judged.extend(done.judged);
                        work.results.compared.extend(done.compared);
                        progress(work.results.judged.len(), work.results.compared.len());
                    }
                });
            }
        });
        work.into_inner().unwrap().results
    }

    /// Batches of kernels of one task each. The first ones of all tasks come first.
    fn batches<'j>(&self, jobs: &'j [Job]) -> VecDeque<Vec<&'j Job>> {
        let [on_cpu, on_gpu] = BATCH;
        let size = match self.backend {
            Backend::Cpu => on_cpu,
            Backend::Cuda => on_gpu,
        };
        let mut by_task = BTreeMap::<Computation, Vec<&Job>>::new();
        for job in jobs {
            by_task.entry(job.computation).or_default().push(job);
        }
        let mut batches: Vec<_> = by_task
            .values()
            .flat_map(|jobs| jobs.chunks(size).enumerate())
            .collect();
        batches.sort_by_key(|(number, _)| *number);
        batches.into_iter().map(|(_, jobs)| jobs.to_vec()).collect()
    }

    /// Compares kernels of one task with their twins.
    fn compare(&self, number: usize, comparisons: &[Comparison]) -> BTreeMap<String, Judged> {
        if self.backend == Backend::Cpu {
            let direct = |comparison: &Comparison| self.compare_directly(number, comparison);
            return comparisons.iter().map(direct).collect();
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
            let hostile = &judged[&pair.hostile.name];
            let over_twin = hostile.over(&judged[&twin(index)]);
            let is_clear = match over_twin.interval {
                Some([_, high]) => high <= CLEAR_GAIN,
                None => hostile.status != "passed" && hostile.status != "inconclusive",
            };
            if is_clear {
                (pair.hostile.name.clone(), over_twin)
            } else {
                self.compare_directly(number, pair)
            }
        });
        pairs.collect()
    }

    /// Times a kernel against its twin. What was not timed is tried again.
    pub(crate) fn compare_directly(
        &self,
        number: usize,
        comparison: &Comparison,
    ) -> (String, Judged) {
        let name = &comparison.hostile.name;
        let run = || {
            let jobs = [&comparison.hostile];
            let mut judged = self.run_comparison(number, &jobs, Some(&comparison.twin));
            judged.remove(name).expect("a verdict of each kernel")
        };
        let mut judged = run();
        for _ in 0..MAX_REPEATS {
            if judged.status != "inconclusive" {
                break;
            }
            judged = run();
        }
        (name.clone(), judged)
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
        let mut command = self.command(jobs[0].computation, &folder);
        if let Some(device) = self.devices.get(number % self.devices.len().max(1)) {
            command.env("CUDA_VISIBLE_DEVICES", device);
        }
        command.args(timing).args(&files);
        if let Some(baseline) = baseline {
            let file = folder.join("baseline.cu");
            std::fs::write(&file, baseline).unwrap();
            command.arg("--baseline").arg(file);
        }
        let output = run_with_limit(command, &folder);
        let (text, errors, status) = output;
        let mut judged = BTreeMap::new();
        for line in text.lines() {
            let verdict: Value = serde_json::from_str(line).unwrap_or_default();
            let path = Path::new(verdict["kernel"].as_str().unwrap_or_default());
            if let Some(name) = path.file_stem() {
                judged.insert(name.to_string_lossy().into_owned(), Judged::of(&verdict));
            }
        }
        for job in jobs {
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

    fn command(&self, computation: Computation, folder: &Path) -> Command {
        let mut command = Command::new(program());
        command
            .arg("eval")
            .arg(task_folder(computation))
            .args(["--backend", self.backend.name(), "--profile", "quick"])
            .args(["--format", "jsonl", "--launch-seconds", LAUNCH_SECONDS])
            .args(&self.arguments)
            .env_remove("KFORGE_CONFIG")
            .env("NO_COLOR", "1");
        if self.backend == Backend::Cpu {
            // Each program times without waiting for the others: a trick saves far more time than they disturb. Hostile kernels
            // that are caught are not timed at all.
            command.env("KFORGE_LOCK_DIR", folder);
        }
        command
    }
}

/// What is left to do, and what was found.
#[derive(Default)]
struct Work<'j> {
    batches: VecDeque<Vec<&'j Job>>,
    comparisons: VecDeque<Comparison>,
    /// Batches and comparisons under way, which may lead to more.
    running: usize,
    results: Results,
}

/// What a thread does next.
enum Next<'j> {
    Judge(Vec<&'j Job>),
    /// Of one task.
    Compare(Vec<Comparison>),
    Wait,
    End,
}

impl<'j> Work<'j> {
    fn take(&mut self, backend: Backend, is_over: bool) -> Next<'j> {
        let is_last = is_over || self.batches.is_empty();
        // On a CPU a comparison waits for all programs, so several follow each other.
        let (most, least) = match backend {
            Backend::Cpu if is_last => (1, 1),
            Backend::Cpu => (1, WAITING),
            Backend::Cuda => (PAIRS, 1),
        };
        if self.comparisons.len() >= least
            && let Some(first) = self.comparisons.pop_front()
        {
            self.running += 1;
            let mut taken = vec![first];
            let mut index = 0;
            while index < self.comparisons.len() && taken.len() < most {
                let task = self.comparisons[index].hostile.computation;
                if task == taken[0].hostile.computation {
                    taken.extend(self.comparisons.remove(index));
                } else {
                    index += 1;
                }
            }
            return Next::Compare(taken);
        }
        if is_over {
            self.batches.clear();
        }
        match self.batches.pop_front() {
            Some(batch) => {
                self.running += 1;
                Next::Judge(batch)
            }
            None if self.running > 0 => Next::Wait,
            None => Next::End,
        }
    }
}

/// Output, errors and exit status of a command that is killed after the limit.
fn run_with_limit(mut command: Command, folder: &Path) -> (String, String, String) {
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
            None if started.elapsed() > BATCH_LIMIT => {
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
