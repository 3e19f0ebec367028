//! Judges kernels with the kforge program, in batches, several programs at once. Collects status, speedup and time of each.
//!
//! Uses the program as its users do, so a kernel that breaks a worker breaks what it would break for them. Decides nothing about
//! faults; `report` does.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sketch::{Backend, Computation};

/// Kernels that one program judges.
const BATCH: usize = 20;
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
    /// The kernel that its speed is measured against; the task's baseline if there is none.
    pub(crate) baseline: Option<String>,
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
    /// Further arguments of `kforge eval`.
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

impl Runner {
    pub(crate) fn new(backend: Backend, programs: usize, arguments: Vec<String>) -> Self {
        Self {
            backend,
            programs,
            arguments,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Judges all kernels. Returns the verdicts by name. `progress` is called after each batch with what is judged so far.
    pub(crate) fn judge(
        &self,
        jobs: &[Job],
        progress: impl Fn(&BTreeMap<String, Judged>) + Sync,
    ) -> BTreeMap<String, Judged> {
        let mut by_task = BTreeMap::<Computation, Vec<&Job>>::new();
        for job in jobs {
            by_task.entry(job.computation).or_default().push(job);
        }
        let batches = by_task
            .into_values()
            .flat_map(|jobs| jobs.chunks(BATCH).map(<[_]>::to_vec).collect::<Vec<_>>());
        let run = |number, batch: &Vec<&Job>| self.run_program(number, batch);
        in_parallel(self.programs, batches.collect(), run, progress)
    }

    /// Times kernels against their own baselines, each by a program of its own. What was not timed is tried again.
    pub(crate) fn compare(
        &self,
        jobs: &[Job],
        progress: impl Fn(&BTreeMap<String, Judged>) + Sync,
    ) -> BTreeMap<String, Judged> {
        // On a CPU one at a time: the programs would disturb each other.
        let programs = match self.backend {
            Backend::Cpu => 1,
            Backend::Cuda => self.programs,
        };
        let run = |number, job: &&Job| {
            let mut judged = self.run_program(number, &[*job]);
            for _ in 0..MAX_REPEATS {
                if judged[&job.name].status != "inconclusive" {
                    break;
                }
                judged = self.run_program(number, &[*job]);
            }
            judged
        };
        in_parallel(programs, jobs.iter().collect(), run, progress)
    }

    fn run_program(&self, number: usize, jobs: &[&Job]) -> BTreeMap<String, Judged> {
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
        command.args(&files);
        if let Some(baseline) = &jobs[0].baseline {
            let file = folder.join("baseline.cu");
            std::fs::write(&file, baseline).unwrap();
            command.arg("--baseline").arg(file);
        }
        let [on_cpu, on_gpu] = COMPARISON_SECONDS;
        match (self.backend, jobs[0].baseline.is_some()) {
            (Backend::Cpu, true) => command.args(["--seconds", on_cpu]),
            (Backend::Cpu, false) => &mut command,
            (Backend::Cuda, true) => command.args(["--seconds", on_gpu]),
            (Backend::Cuda, false) => command
                .args(["--seconds", GPU_JUDGEMENT_SECONDS])
                .args(["--precision", GPU_JUDGEMENT_PRECISION]),
        };
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

/// Does all work on some threads. Returns all results together.
fn in_parallel<W: Send>(
    threads: usize,
    work: VecDeque<W>,
    run: impl Fn(usize, &W) -> BTreeMap<String, Judged> + Sync,
    progress: impl Fn(&BTreeMap<String, Judged>) + Sync,
) -> BTreeMap<String, Judged> {
    let queue = Mutex::new(work);
    let all = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for number in 0..threads {
            let (queue, all, run, progress) = (&queue, &all, &run, &progress);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(work) = next else { return };
                    let judged = run(number, &work);
                    let mut all = all.lock().unwrap();
                    all.extend(judged);
                    progress(&all);
                }
            });
        }
    });
    all.into_inner().unwrap()
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
