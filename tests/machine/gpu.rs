//! Judges the kernels of `fixtures/gpu`, which only a GPU can tell apart, with the kforge program: each gets its expected status, and
//! leaves the device usable. Without a GPU they are ignored.
//!
//! For a machine with a GPU and without cargo: `KFORGE_TEST_BINARY` is the program, `KFORGE_TEST_ROOT` the repository,
//! `KFORGE_TEST_ROUNDS` the number of rounds, and `KFORGE_TEST_ROUND_SECONDS` an optional limit for the duration of a round (150 on an
//! otherwise idle H100 or H200). If `CUDA_VISIBLE_DEVICES` names several GPUs, each gets programs of its own.

#![expect(
    clippy::print_stdout,
    reason = "each round reports its counts and times"
)]

use crate::harness::{Missing, TestResult, exclusive_gpu};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kforge::kernel::Kernel;
use kforge::task::TaskFiles;
use kforge::verdict::Status;
use serde_json::Value;

/// A hostile kernel may be at most this much faster than its honest twin. The bounds of both intervals are compared, and both kernels
/// are timed in pairs with the same baseline, so the load of the machine cancels out.
pub(crate) const MAX_GAIN_OVER_TWIN: f64 = 1.05;
/// Programs that judge at once on a GPU, each with three workers. More contexts on one GPU slow each other down: four programs took longer than one.
/// `KFORGE_TEST_PROGRAMS` sets another number.
const PROGRAMS: usize = 2;
/// Kernels that one program judges, one after the other.
const KERNELS_PER_PROGRAM: usize = 40;
/// Device memory that the driver may keep for itself, in MiB.
const MAX_DRIVER_MIB: u64 = 64;

/// A number from the environment.
pub(crate) fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) fn binary() -> PathBuf {
    std::env::var_os("KFORGE_TEST_BINARY")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_kforge").into())
        .into()
}

pub(crate) fn fixture_folder() -> PathBuf {
    let root = std::env::var_os("KFORGE_TEST_ROOT");
    let root = PathBuf::from(root.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()));
    root.join("tests/fixtures/gpu")
}

/// Exclusive use of the device.
pub(crate) fn device() -> Result<MutexGuard<'static, ()>, Missing> {
    use cudarc::driver::result;
    // SAFETY: only searches for the library.
    let present = unsafe { cudarc::driver::sys::is_culib_present() };
    let count = || {
        result::init().ok()?;
        result::device::get_count().ok()
    };
    if !present || count().is_none_or(|devices| devices < 1) {
        return Err(Missing::new("gpu", "no GPU"));
    }
    Ok(exclusive_gpu())
}

/// A row of `expected.tsv`.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedVerdict {
    pub(crate) file: String,
    pub(crate) task: String,
    /// The expected status, and others that are also acceptable.
    pub(crate) statuses: Vec<Status>,
    line: Option<u64>,
    /// The honest kernel that this hostile one must not beat, if it passes.
    twin: Option<String>,
}

impl ExpectedVerdict {
    fn is_honest(&self) -> bool {
        self.file.starts_with("honest_")
    }

    /// Whether it shows something that the judge cannot see. It passes and may gain.
    pub(crate) fn is_known_gap(&self) -> bool {
        self.file.starts_with("known_")
    }
}

pub(crate) fn read_table() -> Vec<ExpectedVerdict> {
    let text = std::fs::read_to_string(fixture_folder().join("expected.tsv")).unwrap();
    let rows = text
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'));
    let status = |name: &str| -> Status {
        serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("no status `{name}`"))
    };
    rows.map(|row| {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, task, first, also, line, twin] = cells.as_slice() else {
            panic!("a row of the table must have six cells: {row}")
        };
        let also = also.split(',').filter(|name| *name != "-");
        ExpectedVerdict {
            file: (*file).to_owned(),
            task: (*task).to_owned(),
            statuses: [*first].into_iter().chain(also).map(status).collect(),
            line: line.parse().ok(),
            twin: (*twin != "-").then(|| (*twin).to_owned()),
        }
    })
    .collect()
}

fn eval_command(task: &str, files: &[String], launch_seconds: &str) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("eval")
        .arg(fixture_folder().join("tasks").join(task))
        .args(["--backend", "cuda", "--profile", "quick"])
        .args(["--format", "json", "--launch-seconds", launch_seconds])
        .args(files.iter().map(|file| fixture_folder().join(file)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn parse_verdicts(task: &str, output: &std::process::Output, count: usize) -> Vec<Value> {
    let verdicts: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        panic!("{task}: {error}\n{out}\n{err}")
    });
    assert_eq!(verdicts.len(), count, "{task}: one verdict for each kernel");
    verdicts
}

fn judge(task: &str, files: &[String], options: &[&str]) -> Vec<Value> {
    judge_on(task, files, options, None)
}

/// `device`: the only one that the program may use; `None`: all that it finds.
fn judge_on(task: &str, files: &[String], options: &[&str], device: Option<&str>) -> Vec<Value> {
    let output = command_on(task, files, options, device).output().unwrap();
    parse_verdicts(task, &output, files.len())
}

fn command_on(task: &str, files: &[String], options: &[&str], device: Option<&str>) -> Command {
    let mut command = eval_command(task, files, "0.2");
    if let Some(device) = device {
        command.env("CUDA_VISIBLE_DEVICES", device);
    }
    command.args(options);
    command
}

fn status(verdict: &Value) -> Option<Status> {
    serde_json::from_value(verdict["status"].clone()).ok()
}

/// Timing of a kernel of which only the status counts: short.
const SHORT_TIMING: [&str; 2] = ["--seconds=0.1", "--precision=0.2"];

/// Judges kernels of one task in one command, so that each runs after the faults of those before it. Adds how the card was used to `card`.
fn judge_all(
    rows: &[ExpectedVerdict],
    options: &[&str],
    device: Option<&str>,
    card: &Mutex<CardUse>,
) -> Vec<(ExpectedVerdict, Value)> {
    let task = &rows[0].task;
    let files: Vec<_> = rows.iter().map(|row| row.file.clone()).collect();
    let mut command = command_on(task, &files, options, device);
    let output = command.env("KFORGE_LOG", LOCK_LOG).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    card.lock().unwrap().add(&log);
    let mut found = parse_verdicts(task, &output, files.len());
    for (row, verdict) in rows.iter().zip(&mut found) {
        // The kernel is correct, but the machine is too busy to time it: not a finding about the kernel.
        for _ in 0..3 {
            if status(verdict) != Some(Status::Inconclusive) {
                break;
            }
            let file = std::slice::from_ref(&row.file);
            *verdict = judge_on(task, file, options, device).remove(0);
        }
    }
    rows.iter().cloned().zip(found).collect()
}

/// Microseconds of the kernel over all timed workloads. If a kernel is timed one launch at a time, its ratio to a faster baseline is closer
/// to 1 than that of its twin, because both times then contain the cost of a start; but its time is not shorter.
fn kernel_time(verdict: &Value) -> f64 {
    let workloads = verdict["workloads"].as_array().into_iter().flatten();
    workloads
        .filter_map(|workload| workload["candidate_us"]["median"].as_f64())
        .sum()
}

/// Everything that is wrong with a verdict, one line for each.
fn mismatches(
    row: &ExpectedVerdict,
    verdict: &Value,
    all: &BTreeMap<String, Value>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = status(verdict);
    if !found.is_some_and(|found| row.statuses.contains(&found)) {
        let wanted: Vec<_> = row.statuses.iter().map(ToString::to_string).collect();
        wrong.push(format!(
            "expected {}, found {}",
            wanted.join(" or "),
            verdict["status"]
        ));
    }
    let passed = found == Some(Status::Passed);
    let geomean = verdict["speedup"]["geomean"].as_f64();
    if passed != geomean.is_some_and(|speedup| speedup > 0.0) {
        wrong.push(format!("the speedup is {geomean:?}"));
    }
    if verdict["backend"] != "cuda" {
        wrong.push(format!("the backend is {}", verdict["backend"]));
    }
    // The line is checked only for the expected status; another acceptable one need not know it.
    let first = found == row.statuses.first().copied();
    if first && row.line.is_some() && verdict["evidence"]["line"].as_u64() != row.line {
        let line = &verdict["evidence"]["line"];
        wrong.push(format!("expected line {:?}, found {line}", row.line));
    }
    if let (true, Some(twin)) = (passed, &row.twin) {
        let bound =
            |verdict: &Value, end: usize| verdict["speedup"]["ci95"][end].as_f64().unwrap_or(0.0);
        let twin_high = all.get(twin).map_or(0.0, |twin| bound(twin, 1));
        let is_faster = (all.get(twin)).is_none_or(|twin| kernel_time(verdict) < kernel_time(twin));
        if is_faster && bound(verdict, 0) > MAX_GAIN_OVER_TWIN * twin_high {
            wrong.push(format!(
                "gains on `{twin}`: at least {:.3} against at most {twin_high:.3}",
                bound(verdict, 0)
            ));
        }
    }
    // The contents of a file that the source includes must not appear in the verdict.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if passwd
        .lines()
        .next()
        .is_some_and(|line| verdict.to_string().contains(line))
    {
        wrong.push("the verdict contains text of `/etc/passwd`".to_owned());
    }
    wrong
}

/// Makes kforge log how long each process holds the timing lock, and how long workers take to start.
const LOCK_LOG: &str = "kforge::eval::timing_lock=debug,kforge::worker::server=debug";

/// How the processes of a round used the card: for each mode of the timing lock the number of times, and the seconds in which it was held
/// and waited for. Only `exclusively` and `shared` exclude each other.
#[derive(Default)]
struct CardUse {
    modes: BTreeMap<String, (u32, [f64; 2])>,
    /// Workers that have started.
    starts: u32,
    /// Seconds of all starts, by part.
    start_parts: BTreeMap<String, f64>,
}

impl CardUse {
    /// Reads a log with the lines of `LOCK_LOG`.
    fn add(&mut self, log: &str) {
        let seconds = |text: &str| {
            let (number, _) = text.split_once(" us")?;
            number.trim().parse::<f64>().ok().map(|us| us / 1e6)
        };
        for line in log.lines() {
            if let Some((_, parts)) = line.split_once("started: ") {
                self.starts += 1;
                for (part, took) in parts.split(", ").filter_map(|part| part.rsplit_once(' ')) {
                    *self.start_parts.entry(part.to_owned()).or_default() += debug_seconds(took);
                }
            }
            let Some((_, what)) = line.split_once("timing lock held ") else {
                continue;
            };
            let Some((mode, times)) = what.split_once(" for ") else {
                continue;
            };
            // "shared for setup" has the word too.
            let (mode, times) = match times.split_once(" for ") {
                Some((kind, times)) => (format!("{mode} for {kind}"), times),
                None => (mode.to_owned(), times),
            };
            let (count, [held, waited]) = self.modes.entry(mode).or_default();
            *count += 1;
            *held += seconds(times).unwrap_or(0.0);
            let wait = times.split_once("after a wait of ");
            *waited += wait.and_then(|(_, wait)| seconds(wait)).unwrap_or(0.0);
        }
    }

    fn describe(&self) -> String {
        let modes = self.modes.iter().map(|(mode, (count, [held, waited]))| {
            format!("{mode} {held:.1} s in {count} pieces after {waited:.1} s of waits")
        });
        format!(
            "{} workers started ({}); the card held {}",
            self.starts,
            (self.start_parts.iter())
                .map(|(part, seconds)| format!("{part} {seconds:.1} s"))
                .collect::<Vec<_>>()
                .join(", "),
            modes.collect::<Vec<_>>().join(", ")
        )
    }
}

/// Seconds of a duration as `Debug` writes it, such as `50.5us` or `1.2s`; 0 if it is none.
fn debug_seconds(text: &str) -> f64 {
    let units = [
        ("ns", 1e-9),
        ("\u{b5}s", 1e-6),
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
    ];
    let found = units.into_iter().find_map(|(unit, scale)| {
        let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
        Some(number * scale)
    });
    found.unwrap_or(0.0)
}

/// The results of several rounds.
#[derive(Default)]
struct Summary {
    wrong: Vec<String>,
    judged: usize,
    /// Kernels that got another acceptable status.
    by_other: Vec<String>,
    /// Seconds in total and by part, with the kernel.
    seconds: Vec<(f64, String, [f64; 3])>,
}

impl Summary {
    fn add_round(&mut self, round: u32, found: &[(ExpectedVerdict, Value)]) {
        let verdicts = found.iter();
        let all: BTreeMap<_, _> = verdicts
            .map(|(row, verdict)| (row.file.clone(), verdict.clone()))
            .collect();
        let mut parts = BTreeMap::new();
        for (row, verdict) in found {
            self.judged += 1;
            let spent = ["compile", "check", "measure"]
                .map(|part| verdict["seconds"][part].as_f64().unwrap_or(0.0));
            self.seconds
                .push((spent.iter().sum::<f64>(), row.file.clone(), spent));
            let of_verdict = verdict["seconds"]["parts"].as_object();
            for (part, seconds) in of_verdict.into_iter().flatten() {
                *parts.entry(part.clone()).or_default() += seconds.as_f64().unwrap_or(0.0);
            }
            let other = status(verdict).filter(|found| row.statuses[1..].contains(found));
            self.by_other
                .extend(other.map(|found| format!("{} ({found})", row.file)));
            for mismatch in mismatches(row, verdict, &all) {
                let text = format!(
                    "round {round}, {}: {mismatch}: {}",
                    row.file, verdict["reason"]
                );
                println!("{text}");
                self.wrong.push(text);
            }
        }
        let mut parts: Vec<(String, f64)> = parts.into_iter().collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let parts = parts.iter().take(20);
        let parts: Vec<_> = parts
            .map(|(part, seconds)| format!("{part} {seconds:.1}"))
            .collect();
        println!("round {round}, seconds of judgements: {}", parts.join(", "));
    }

    fn print(&mut self) {
        println!("{} judged, {} wrong", self.judged, self.wrong.len());
        println!("another acceptable status: {}", self.by_other.join(", "));
        self.seconds.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (sum, file, [compile, check, measure]) in self.seconds.iter().take(6) {
            println!("{sum:.2} s ({compile:.2} + {check:.2} + {measure:.2}): {file}");
        }
    }
}

/// Whether a kernel is timed in full: a hostile one that may pass, and its honest twin. Only their times tell whether the hostile one
/// gained. All others need only their status.
fn is_timed_in_full(row: &ExpectedVerdict, table: &[ExpectedVerdict]) -> bool {
    let is_twin = |other: &ExpectedVerdict| other.twin.as_ref() == Some(&row.file);
    row.twin.is_some() || table.iter().any(is_twin)
}

/// Kernels of one task that one program judges, with the options of their timing.
struct Group {
    rows: Vec<ExpectedVerdict>,
    options: &'static [&'static str],
}

/// A kernel that only burdens the compiler.
fn is_bomb(row: &ExpectedVerdict) -> bool {
    row.file.starts_with("bomb_")
}

impl Group {
    /// Whether its kernels never reach the GPU.
    fn only_compiles(&self) -> bool {
        self.rows.iter().all(is_bomb)
    }

    /// All kernels, in groups. What takes longest comes first, so that nothing long is left for the end: kernels that only burden the
    /// compiler, kernels that are timed in full, large groups.
    fn all(table: &[ExpectedVerdict]) -> Vec<Self> {
        let mut groups = BTreeMap::<_, Vec<ExpectedVerdict>>::new();
        for row in table {
            let kind = (is_bomb(row), is_timed_in_full(row, table));
            let group = groups.entry((kind, row.task.clone())).or_default();
            group.push(row.clone());
        }
        let parts = groups.iter().flat_map(|((kind, _), rows)| {
            let chunks = rows.chunks(KERNELS_PER_PROGRAM);
            chunks.map(move |rows| (*kind, rows.to_vec()))
        });
        let mut parts: Vec<_> = parts.collect();
        parts.sort_by_key(|(kind, rows)| std::cmp::Reverse((*kind, rows.len())));
        let group = |((_, in_full), rows): ((bool, bool), Vec<ExpectedVerdict>)| Self {
            rows,
            options: if in_full { &[] } else { &SHORT_TIMING },
        };
        parts.into_iter().map(group).collect()
    }
}

/// The devices that `CUDA_VISIBLE_DEVICES` names, if there are several: each gets programs of its own.
pub(crate) fn named_devices() -> Vec<String> {
    let named = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let devices: Vec<_> = named
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect();
    if devices.len() > 1 {
        devices
    } else {
        Vec::new()
    }
}

/// Judges all kernels once, a few groups at a time on each device, as several users of a GPU would. Timing locks keep them apart. What only
/// compiles takes no such place.
fn judge_round(round: u32, groups: &[Group]) -> Vec<(ExpectedVerdict, Value)> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let card = Mutex::new(CardUse::default());
    let judge = |group: &Group, device: Option<&str>| {
        let started = Instant::now();
        let judged = judge_all(&group.rows, group.options, device, &card);
        println!(
            "round {round}, {}: {} kernels in {:.1} s",
            group.rows[0].task,
            group.rows.len(),
            started.elapsed().as_secs_f64()
        );
        found.lock().unwrap().extend(judged);
    };
    let (compiled, launched): (Vec<_>, Vec<_>) =
        groups.iter().partition(|group| group.only_compiles());
    let judge_next = |device: Option<&str>| {
        while let Some(group) = launched.get(next.fetch_add(1, Ordering::Relaxed)) {
            judge(group, device);
        }
    };
    let devices = named_devices();
    let programs = setting("KFORGE_TEST_PROGRAMS").unwrap_or(PROGRAMS) * devices.len().max(1);
    std::thread::scope(|scope| {
        for group in compiled {
            scope.spawn(|| judge(group, devices.first().map(String::as_str)));
        }
        for program in 0..programs {
            let device = devices.get(program % devices.len().max(1));
            scope.spawn(move || judge_next(device.map(String::as_str)));
        }
    });
    println!("round {round}: {}", card.into_inner().unwrap().describe());
    found.into_inner().unwrap()
}

fn every_kernel_gets_its_expected_status() -> TestResult {
    let _device = device()?;
    let table = read_table();
    let groups = Group::all(&table);
    let limit: Option<f64> = setting("KFORGE_TEST_ROUND_SECONDS");
    let mut summary = Summary::default();
    for round in 0..setting("KFORGE_TEST_ROUNDS").unwrap_or(1) {
        let started = Instant::now();
        summary.add_round(round, &judge_round(round, &groups));
        let seconds = started.elapsed().as_secs_f64();
        println!("round {round}: {seconds:.1} s");
        assert!(
            limit.is_none_or(|limit| seconds <= limit),
            "round {round} took {seconds:.1} s"
        );
    }
    summary.print();
    assert!(summary.wrong.is_empty(), "{}", summary.wrong.join("\n"));
    Ok(())
}

/// With hot caches nothing but the inputs is there before a launch. A kernel that looks for its own earlier work must not gain by it.
fn hot_caches_spare_no_work() -> TestResult {
    let _device = device()?;
    let files: Vec<String> = [
        "honest_rest",
        "hot_mark",
        "hot_output",
        "hot_count",
        "carry_output",
        "carry_scratch",
        "stale_shared_array",
    ]
    .map(|name| format!("{name}.cu"))
    .to_vec();
    let mut command = eval_command("scale", &files, "0.2");
    let output = command.args(["--cache", "hot"]).output().unwrap();
    let verdicts = parse_verdicts("scale", &output, files.len());
    let bound = |index: usize, end: usize| verdicts[index]["speedup"]["ci95"][end].as_f64();
    let twin = bound(0, 1).unwrap_or_else(|| panic!("{}", verdicts[0]));
    for (index, file) in files.iter().enumerate().skip(1) {
        let fastest = bound(index, 0).unwrap_or(0.0);
        assert!(
            fastest <= MAX_GAIN_OVER_TWIN * twin,
            "{file}: at least {fastest:.3} against at most {twin:.3}"
        );
    }
    Ok(())
}

/// Used memory of the first device in MiB; `None` without `nvidia-smi`.
fn memory_used() -> Option<u64> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.trim().parse().ok()
}

/// Waits until the device's used memory is back at its earlier amount.
fn wait_for_memory_release(before: Option<u64>) {
    let Some(before) = before else {
        println!("no `nvidia-smi`: the device's memory is not checked");
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let used = memory_used().unwrap_or(u64::MAX);
        if used <= before + MAX_DRIVER_MIB {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{used} MiB are in use, {before} MiB were in use before"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn kernels_after_a_fault_or_hang_are_judged_normally() -> TestResult {
    let _device = device()?;
    let before = memory_used();
    let mut files = Vec::new();
    for hostile in [
        "fault_read",
        "hang_loop",
        "fault_misaligned_store",
        "fault_trap",
        "hang_barrier",
        "fault_stack",
    ] {
        files.extend([format!("{hostile}.cu"), "honest_plain.cu".to_owned()]);
    }
    let table = read_table();
    for (index, verdict) in judge("scale", &files, &[]).iter().enumerate() {
        let row = table.iter().find(|row| row.file == files[index]).unwrap();
        assert!(
            status(verdict).is_some_and(|found| row.statuses.contains(&found)),
            "{} as number {}: {verdict:#}",
            files[index],
            index + 1
        );
    }
    wait_for_memory_release(before);
    Ok(())
}

/// All descendants of a process.
fn descendants(process: u32) -> Vec<u32> {
    let parent = |process: u32| -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The program's name comes first, in parentheses, and may contain any text.
        let (_, rest) = text.rsplit_once(')')?;
        rest.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = vec![process];
    let mut seen = 0;
    while seen < found.len() {
        let above = found[seen];
        found.extend(numbers.iter().filter(|own| parent(**own) == Some(above)));
        seen += 1;
    }
    found.split_off(1)
}

fn kernels_after_a_killed_worker_are_judged_normally() -> TestResult {
    let _device = device()?;
    let before = memory_used();
    // The kernel hangs until the deadline, so the worker is killed during a launch.
    let files = ["hang_loop.cu", "honest_plain.cu"].map(str::to_owned);
    let child = eval_command("scale", &files, "8").spawn().unwrap();
    let is_worker = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/cmdline"))
            .is_ok_and(|words| words.split('\0').any(|word| word == "__worker"))
    };
    std::thread::sleep(Duration::from_secs(5));
    let workers: Vec<_> = descendants(child.id())
        .into_iter()
        .filter(is_worker)
        .collect();
    assert!(!workers.is_empty(), "no worker was found");
    for worker in &workers {
        // SAFETY: sends a signal to a descendant of this process; no memory is involved.
        unsafe { libc::kill(worker.cast_signed(), libc::SIGKILL) };
    }
    let output = child.wait_with_output().unwrap();
    let verdicts = parse_verdicts("scale", &output, 2);
    // The cause of the worker's end is unknown, so no kernel is blamed; or the kernel was judged again.
    let first = status(&verdicts[0]);
    assert!(
        [Some(Status::HarnessError), Some(Status::TimedOut)].contains(&first),
        "{:#}",
        verdicts[0]
    );
    assert_eq!(
        status(&verdicts[1]),
        Some(Status::Passed),
        "{:#}",
        verdicts[1]
    );
    wait_for_memory_release(before);
    let again = judge("scale", &["honest_plain.cu".to_owned()], &[]);
    assert_eq!(status(&again[0]), Some(Status::Passed), "{:#}", again[0]);
    Ok(())
}

fn table_is_complete_and_consistent() -> TestResult {
    let rows = read_table();
    let hostile = rows.iter().filter(|row| !row.is_honest());
    assert!(hostile.count() >= 150, "too few hostile kernels");
    let honest: Vec<_> = rows.iter().filter(|row| row.is_honest()).collect();
    assert!(honest.len() >= 95, "too few honest kernels");
    for row in &honest {
        assert_eq!(row.statuses, [Status::Passed], "{}", row.file);
    }
    for row in &rows {
        let path = fixture_folder().join(&row.file);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let task = TaskFiles::find(
            fixture_folder()
                .join("tasks")
                .join(&row.task)
                .to_str()
                .unwrap(),
        );
        let task = task.and_then(|files| files.load()).unwrap();
        Kernel::parse(&text, &task.definition)
            .unwrap_or_else(|error| panic!("{}: {error}", row.file));
        let (_, rest) = text.split_once("*/\n").unwrap();
        let what = format!("// {}: ", row.statuses[0]);
        assert!(rest.starts_with(&what), "{}: no `{what}`", row.file);
        // A hostile kernel that may pass needs a twin, to show that it gains nothing.
        let may_pass =
            !row.is_honest() && !row.is_known_gap() && row.statuses.contains(&Status::Passed);
        assert_eq!(may_pass, row.twin.is_some(), "{}", row.file);
        if let Some(twin) = &row.twin {
            let twin = honest.iter().find(|other| other.file == *twin);
            assert!(
                twin.is_some_and(|twin| twin.task == row.task),
                "{}: its twin is not an honest kernel of its task",
                row.file
            );
        }
    }
    let read = |file: &str| std::fs::read_to_string(fixture_folder().join(file)).unwrap();
    let page = read("../../../docs/trust.md");
    for row in rows.iter().filter(|row| row.is_known_gap()) {
        assert!(
            row.statuses[0] == Status::Passed && page.contains(&format!("`{}`", row.file)),
            "{} is not on the page of what the judge cannot see",
            row.file
        );
    }
    for entry in std::fs::read_dir(fixture_folder()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            !name.ends_with(".cu") || rows.iter().any(|row| row.file == name),
            "{name} is not in the table"
        );
    }
    let named: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.file).collect();
    assert_eq!(named.len(), rows.len(), "a kernel is in the table twice");
    Ok(())
}

fn fixture_tasks_are_admitted() -> TestResult {
    let has_compiler = ["c++", "g++", "clang++"].into_iter().any(|name| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    if !has_compiler {
        return Err(Missing::new("c++", "no C++ compiler"));
    }
    let tasks: Vec<_> = std::fs::read_dir(fixture_folder().join("tasks"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let output = Command::new(binary())
        .args(["tasks", "check", "--format", "json", "--profile", "quick"])
        .args(&tasks)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let admissions: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_eq!(admissions.len(), tasks.len());
    for admission in &admissions {
        assert_eq!(admission["admitted"], true, "{admission:#}");
    }
    Ok(())
}

fn use_of_the_card_is_read_from_the_log() -> TestResult {
    let mut card = CardUse::default();
    card.add(
        "2026-11-30T18:00:00Z DEBUG kforge::eval::timing_lock: timing lock held shared for setup for 25000 us after a wait of 500000 us
2026-11-30T18:00:00Z DEBUG kforge::eval::timing_lock: timing lock held exclusively for 250000 us after a wait of 40 us
2026-11-30T18:00:01Z DEBUG kforge::eval::timing_lock: timing lock held exclusively for 250000 us after a wait of 0 us
2026-11-30T18:00:01Z DEBUG kforge::worker::server: started: driver 49ms, wait for the lock 50us, device 173ms, references 4ms, baseline 16ms
3 of 40 judged",
    );
    assert_eq!(card.starts, 1);
    let parts = [
        ("driver", 0.049),
        ("wait for the lock", 50e-6),
        ("device", 0.173),
        ("references", 0.004),
        ("baseline", 0.016),
    ];
    assert_eq!(card.start_parts.len(), parts.len());
    for (part, seconds) in parts {
        let found = card.start_parts[part];
        assert!((found - seconds).abs() < 1e-9, "{part}: {found}");
    }
    let expected = [
        ("exclusively".to_owned(), (2, [0.5, 40e-6])),
        ("shared for setup".to_owned(), (1, [0.025, 0.5])),
    ];
    assert_eq!(card.modes, BTreeMap::from(expected));
    Ok(())
}

crate::harness::tests!(
    use_of_the_card_is_read_from_the_log,
    every_kernel_gets_its_expected_status,
    hot_caches_spare_no_work,
    kernels_after_a_fault_or_hang_are_judged_normally,
    kernels_after_a_killed_worker_are_judged_normally,
    table_is_complete_and_consistent,
    fixture_tasks_are_admitted,
);
