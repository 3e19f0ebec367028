//! Kills real runs at random instants and checks that nothing is left: no process, no temporary file, no lock. Killed runs are
//! resumed, and in a longer test they finish.
//!
//! This process adopts and reaps all orphans of the runs (`PR_SET_CHILD_SUBREAPER`), so none can hide, and no other test can be in
//! it. Settings, for a longer test or for a machine without cargo:
//!
//! - `KFORGE_TEST_KILLS`: number of kills (6). With it, the runs use a cache of their own, which is checked too.
//! - `KFORGE_TEST_KILL_SECONDS`: the latest instant of a kill, in seconds (1.5). Early instants are more frequent.
//! - `KFORGE_TEST_KILL_WAIT`: how long the remains may take to go, in seconds (60). They are usually gone in 0.1 s; a busy
//!   machine needs more.
//! - `KFORGE_TEST_KILL_TIME`: no run is killed after this many seconds (unlimited). The test ends as after its last kill.
//! - `KFORGE_TEST_SEED`: repeats the instants of an earlier test.
//! - `KFORGE_TEST_BACKEND`: `cpu` (default) or `cuda`.
//! - `KFORGE_TEST_BINARY`: the kforge program.

#![expect(clippy::print_stdout, reason = "prints what it counted")]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kforge::base::{RandomStream, random};

/// One in this many kills is of a run with an empty cache, so that it builds the runtime.
const COLD_SHARE: u64 = 10;
/// Kills of one run before it may finish.
const KILLS_PER_RUN: u64 = 50;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The process group of the main process.
    Group,
    Main,
    /// A worker; then the group.
    Worker,
    /// A worker and the main process at the same moment.
    MainAndWorker,
    /// A worker that is stopped when the group is killed.
    StoppedWorker,
}

const TARGETS: [Target; 5] = [
    Target::Group,
    Target::Main,
    Target::Worker,
    Target::MainAndWorker,
    Target::StoppedWorker,
];

/// A process as `/proc` describes it.
#[derive(Clone, Debug)]
struct Process {
    id: i32,
    parent: i32,
    state: String,
    command: String,
}

fn read_process(id: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.to_owned();
    let parent = fields.next()?.parse().ok()?;
    let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Process {
        id,
        parent,
        state,
        command: format!("{} {command}", &stat[..=stat.rfind(')')?]),
    })
}

/// The descendants of this process that have not been reaped.
fn descendants() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut others: Vec<_> = ids.filter_map(read_process).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![std::process::id() as i32];
    while let Some(parent) = parents.pop() {
        let (children, rest) = others.into_iter().partition(|one| one.parent == parent);
        others = rest;
        let children: Vec<Process> = children;
        parents.extend(children.iter().map(|child| child.id));
        found.extend(children);
    }
    found
}

/// Reaps the orphans that have ended.
fn reap_orphans() {
    // SAFETY: no status is written; every child of this process that is waited for elsewhere has been reaped.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

fn kill(id: i32, signal: i32) {
    // SAFETY: two numbers.
    unsafe {
        libc::kill(id, signal);
    }
}

/// Where the runs are, and what they may not leave behind.
struct Scene {
    folder: tempfile::TempDir,
    own_cache: bool,
    wait: Duration,
    /// The longest time that the remains of a kill took to go.
    slowest: Duration,
}

impl Scene {
    fn new(own_cache: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        std::fs::create_dir(folder.path().join("locks")).unwrap();
        Self {
            folder,
            own_cache,
            wait: Duration::from_secs_f64(setting("KFORGE_TEST_KILL_WAIT").unwrap_or(60.0)),
            slowest: Duration::ZERO,
        }
    }

    fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// The timing locks. They are the runs' own, so that a run does not spend its time before a kill waiting for another program.
    fn locks(&self) -> PathBuf {
        self.folder.path().join("locks")
    }

    fn cache(&self, is_cold: bool) -> PathBuf {
        self.folder
            .path()
            .join(if is_cold { "cold" } else { "cache" })
    }

    /// Starts or continues a run. `steps`: where it ends; a killed run must not reach it.
    fn command(&self, run: &str, steps: u64) -> Command {
        let program = std::env::var_os("KFORGE_TEST_BINARY");
        let mut command =
            Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_kforge").into()));
        let steps = steps.to_string();
        if self.folder.path().join(run).join("run.yaml").exists() {
            command.args(["resume", run, "--steps", &steps]);
        } else {
            let backend = setting::<String>("KFORGE_TEST_BACKEND");
            command
                .args(["evolve", "--config", "softmax.yaml", "--profile", "quick"])
                .args(["--backend", backend.as_deref().unwrap_or("cpu")])
                .args(["--set", "eval.seconds=0.1", "--set", "eval.precision=0.5"])
                .args(["--output", run, "--steps", &steps]);
        }
        command
            .current_dir(self.folder.path())
            .env("TMPDIR", self.temporary())
            .env("KFORGE_LOCK_DIR", self.locks())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        if self.own_cache {
            command.env("KFORGE_CACHE_DIR", self.cache(false));
        }
        for name in ["KFORGE_CONFIG", "KFORGE_OUTPUT", "KFORGE_BACKEND"] {
            command.env_remove(name);
        }
        command
    }

    /// Waits until the remains of a kill are gone. `main`: the main process, if it still runs; then only the orphans must go.
    fn assert_gone(&mut self, context: &str, main: Option<i32>) {
        let killed = Instant::now();
        loop {
            if main.is_none() {
                reap_orphans();
            }
            let own = std::process::id() as i32;
            let is_orphan = |process: &Process| process.parent == own && Some(process.id) != main;
            let mut left = descendants();
            match main {
                Some(_) => left.retain(|process| is_orphan(process) && process.state != "Z"),
                None => left.retain(|process| process.state != "Z"),
            }
            let files = match main {
                Some(_) => Vec::new(),
                None => file_names(&self.temporary()),
            };
            if left.is_empty() && files.is_empty() {
                self.slowest = self.slowest.max(killed.elapsed());
                return;
            }
            if killed.elapsed() > self.wait {
                left.iter()
                    .for_each(|process| kill(process.id, libc::SIGKILL));
                panic!("{context}: left are the processes {left:#?} and the files {files:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nothing holds the lock of a run, a device or the cache. A killed process whose threads the GPU's driver still ends looks like one that
    /// has ended, and holds its files a little longer.
    fn assert_unlocked(&self, context: &str, run: &str) {
        let mut locks = vec![self.folder.path().join(run).join("lock")];
        let devices = file_names(&self.locks()).into_iter();
        locks.extend(devices.map(|name| self.locks().join(name)));
        if self.own_cache {
            for cache in [self.cache(false), self.cache(true)] {
                let names = file_names(&cache).into_iter();
                let names = names.filter(|name| name.contains("lock"));
                locks.extend(names.map(|name| cache.join(name)));
            }
        }
        for path in locks {
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let begun = Instant::now();
            while file.try_lock().is_err() {
                assert!(
                    begun.elapsed() < self.wait,
                    "{context}: {path:?} is still locked"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Lets a killed run finish. The cache then has no unfinished files.
    fn finish(&mut self, context: &str, run: &str) {
        let mut child = self.command(run, 1).stderr(Stdio::piped()).spawn().unwrap();
        let mut messages = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut messages).unwrap();
        let status = child.wait().unwrap();
        // 5: no candidate passed, because the machine was too busy to time one.
        assert!(
            matches!(status.code(), Some(0 | 5)),
            "{context}: the run did not finish: {status}: {messages}"
        );
        self.assert_gone(context, None);
        if self.own_cache {
            let mut names = file_names(&self.cache(false));
            names.extend(file_names(&self.cache(false).join("programs")));
            let is_unfinished =
                |name: &String| name.starts_with("building-") || name.starts_with(".tmp");
            names.retain(is_unfinished);
            assert_eq!(names, [""; 0], "{context}");
            // The next start removes what a kill has left.
            let mut names = file_names(&self.cache(true));
            names.retain(is_unfinished);
            assert!(names.len() <= 1, "{context}: {names:?}");
        }
    }
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Files in `/dev/shm` that could be kforge's.
fn shared_memory() -> Vec<String> {
    let mut names = file_names(Path::new("/dev/shm"));
    names.retain(|name| name.contains("kforge"));
    names
}

/// Waits for an instant. Returns false if the child ended before.
fn wait_until(child: &mut Child, instant: Instant) -> bool {
    while Instant::now() < instant {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("a run ended before its kill with {status}");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.try_wait().unwrap().is_none()
}

/// Kills a run and waits for the main process. Returns what was killed: without a worker it is the main process alone.
fn kill_run(
    scene: &mut Scene,
    child: &mut Child,
    target: Target,
    pick: &mut RandomStream,
) -> Target {
    let main = child.id() as i32;
    let mut workers = descendants();
    workers.retain(|process| process.command.contains("__worker") && process.parent == main);
    let worker = (!workers.is_empty()).then(|| workers[pick.below(workers.len())].id);
    let killed = match (target, worker) {
        (Target::Group | Target::Main, _) | (_, Some(_)) => target,
        (_, None) => Target::Main,
    };
    match (killed, worker) {
        (Target::Worker, Some(worker)) => {
            kill(worker, libc::SIGKILL);
            scene.assert_gone("a killed worker", Some(main));
            kill(-main, libc::SIGKILL);
        }
        (Target::MainAndWorker, Some(worker)) => {
            kill(worker, libc::SIGKILL);
            kill(main, libc::SIGKILL);
        }
        (Target::StoppedWorker, Some(worker)) => {
            kill(worker, libc::SIGSTOP);
            kill(-main, libc::SIGKILL);
        }
        (Target::Main, _) => kill(main, libc::SIGKILL),
        _ => kill(-main, libc::SIGKILL),
    }
    child.wait().unwrap();
    killed
}

#[test]
fn killed_runs_leave_nothing_and_finish() {
    // SAFETY: plain numbers.
    let adopts = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(adopts, 0);
    let kills = setting("KFORGE_TEST_KILLS");
    let own_cache = kills.is_some();
    let kills = kills.unwrap_or(6);
    let latest: f64 = setting("KFORGE_TEST_KILL_SECONDS").unwrap_or(1.5);
    let time: f64 = setting("KFORGE_TEST_KILL_TIME").unwrap_or(f64::INFINITY);
    let started = Instant::now();
    let seed = setting("KFORGE_TEST_SEED").unwrap_or_else(random::fresh_seed);
    println!("KFORGE_TEST_SEED={seed}");
    let shared_before = shared_memory();
    let mut scene = Scene::new(own_cache);
    if own_cache {
        scene.finish("filling the cache", "first");
    }
    let mut stream = RandomStream::new(seed, "kill", 0);
    let (mut counts, mut at_work) = ([0u64; TARGETS.len()], 0);
    for number in 0..kills {
        let run = format!("run-{}", number / KILLS_PER_RUN);
        let target = TARGETS[stream.below(TARGETS.len())];
        // The square makes early instants more frequent.
        let seconds = latest * stream.uniform().powi(2);
        let context = format!("kill {number} of {target:?} after {seconds:.4} s");
        let mut command = scene.command(&run, 1_000_000);
        if own_cache && number % COLD_SHARE == 0 {
            command.env("KFORGE_CACHE_DIR", scene.cache(true));
        }
        let mut child = command.spawn().unwrap();
        let instant = Instant::now() + Duration::from_secs_f64(seconds);
        assert!(
            wait_until(&mut child, instant),
            "{context}: the run has ended"
        );
        // Workers and the guardian are children of the main process; compilers and candidates are children of workers.
        let (own, main) = (std::process::id() as i32, child.id() as i32);
        let mut running = descendants().into_iter();
        at_work += u64::from(running.any(|process| ![own, main].contains(&process.parent)));
        let killed = kill_run(&mut scene, &mut child, target, &mut stream);
        counts[TARGETS.iter().position(|one| *one == killed).unwrap()] += 1;
        scene.assert_gone(&context, None);
        scene.assert_unlocked(&context, &run);
        if (number + 1) % KILLS_PER_RUN == 0 {
            println!("{} kills", number + 1);
        }
        let is_last = number + 1 == kills || started.elapsed().as_secs_f64() > time;
        let ends_run = (number + 1) % KILLS_PER_RUN == 0 || is_last;
        // Takes long on a busy machine; each next kill resumes the run as well.
        if own_cache && ends_run {
            scene.finish(&context, &run);
        }
        if is_last {
            break;
        }
    }
    assert_eq!(shared_memory(), shared_before);
    let kills: u64 = counts.iter().sum();
    let counts: Vec<_> = TARGETS.iter().zip(counts).collect();
    println!(
        "{kills} kills: {counts:?}; {at_work} while a compiler or candidate ran; the remains were gone within {:.3} s",
        scene.slowest.as_secs_f64()
    );
}
