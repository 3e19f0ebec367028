//! `kforge eval`: the form of verdicts, interruption, workers that die.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::program::{CommandResult, SOFTMAX_KERNEL, Workspace, slowdown, worker_processes};

/// Fields that every verdict has, whatever its status.
const FIELDS: [&str; 21] = [
    "schema",
    "task",
    "kernel",
    "backend",
    "status",
    "reason",
    "confirmed",
    "device",
    "sandbox",
    "tunables",
    "cache",
    "checked_share",
    "voided_blocks",
    "seeds",
    "baseline",
    "speedup",
    "workloads",
    "resources",
    "features",
    "evidence",
    "seconds",
];

/// Timing that a busy machine can finish: a wide interval will do.
const COARSE: [&str; 4] = ["--precision", "0.9", "--seconds", "20"];

fn verdicts(result: &CommandResult) -> Vec<serde_json::Value> {
    serde_json::from_str(&result.stdout).unwrap()
}

/// The kernel with zeros as its output.
fn zeros() -> String {
    SOFTMAX_KERNEL.replace("expf(row[i] - top) / sum;\n", "0.0f;\n")
}

#[test]
fn verdicts_have_the_documented_fields() {
    let folder = Workspace::with_small_task();
    let correct = folder.write("correct.cu", SOFTMAX_KERNEL);
    let zeros = folder.write("zeros.cu", &zeros());
    let arguments = ["eval", "softmax", &correct, &zeros, "--format", "json"];
    let result = folder.run(&[&arguments[..], &COARSE].concat());
    assert_eq!(result.code, 5, "{}", result.stderr);
    let verdicts = verdicts(&result);
    let status = |index: usize| verdicts[index]["status"].as_str();
    assert_eq!(
        (status(0), status(1)),
        (Some("passed"), Some("wrong_output"))
    );
    for field in FIELDS {
        assert!(
            verdicts.iter().all(|verdict| verdict.get(field).is_some()),
            "`{field}` is missing"
        );
    }
    assert!(
        verdicts[1]["speedup"].is_null(),
        "only a passed verdict has a speedup"
    );
    let evidence = &verdicts[1]["evidence"];
    assert!(
        evidence["seed"].is_string() && evidence["index"].is_u64() && evidence["expected"].is_f64(),
        "{evidence}"
    );
    let workload = &verdicts[0]["workloads"][0];
    assert!(
        workload["candidate_us"]["n"].as_u64().unwrap() >= 20
            && workload["ci95"][0].is_f64()
            && workload["floor_us"].is_null(),
        "{workload}"
    );
}

#[test]
fn the_seed_of_a_verdict_reproduces_its_fault() {
    let folder = Workspace::with_small_task();
    let zeros = folder.write("zeros.cu", &zeros());
    let arguments = ["eval", "softmax", &zeros, "--format", "json"];
    let first = verdicts(&folder.run(&arguments));
    let seed = first[0]["seeds"][0].to_string();
    let second = verdicts(&folder.run(&[&arguments[..], &["--seed", &seed]].concat()));
    for key in ["seed", "index", "expected", "found"] {
        let found = |verdicts: &[serde_json::Value]| verdicts[0]["evidence"][key].clone();
        assert!(!found(&first).is_null(), "{key}");
        assert_eq!(found(&first), found(&second), "{key}");
    }
}

/// Another process that holds the timing lock most of the time, until it is dropped.
struct BusyLock {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BusyLock {
    fn start(folder: &Path) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (until, folder) = (Arc::clone(&ends), folder.to_owned());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                let mut entries = std::fs::read_dir(&folder).unwrap().flatten();
                let lock = entries.find(|entry| entry.path().extension() == Some("lock".as_ref()));
                let file = lock.map(|entry| File::options().write(true).open(entry.path()));
                if let Some(file) = file {
                    let file = file.unwrap();
                    file.lock().unwrap();
                    // Longer on a busy machine, where this thread gets the lock less often.
                    std::thread::sleep(Duration::from_secs_f64(0.1 * slowdown()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for BusyLock {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn parts_add_up_to_the_stages_and_waiting_for_locks_is_apart() {
    let folder = Workspace::with_small_task();
    let kernel = folder.write("correct.cu", SOFTMAX_KERNEL);
    let busy = BusyLock::start(folder.locks());
    let arguments = ["eval", "softmax", &kernel, "--format", "json"];
    let result = folder.run(&[&arguments[..], &COARSE].concat());
    drop(busy);
    let seconds = &verdicts(&result)[0]["seconds"];
    let parts = seconds["parts"].as_object().unwrap();
    let waits = parts["wait for locks"].as_f64().unwrap();
    assert!(waits > 0.05, "{seconds}");
    for (stage, prefix) in [
        ("check", "check "),
        ("inspect", "inspect "),
        ("measure", "timing "),
    ] {
        let of_stage = parts.iter().filter(|(name, _)| name.starts_with(prefix));
        let mut sum: f64 = of_stage.map(|(_, part)| part.as_f64().unwrap()).sum();
        if stage == "inspect" {
            let builds = ["compile bounds", "compile race"];
            let builds = builds.map(|name| parts.get(name).and_then(|part| part.as_f64()));
            sum += builds.into_iter().flatten().sum::<f64>();
            // The fast build of the candidate is taken from the cache.
            sum += 0.01;
        }
        let stage = seconds[stage].as_f64().unwrap();
        assert!(
            (sum - stage).abs() < 0.02 * slowdown() + 0.02 * stage,
            "{prefix}: {sum}, {seconds}"
        );
    }
    let text = folder.run(&[&arguments[..3], &["--timings"], &COARSE].concat());
    for word in [
        "timings ",
        " seconds ",
        "timing start",
        "timing launch",
        "total ",
    ] {
        assert!(text.stdout.contains(word), "{word}: {}", text.stdout);
    }
}

/// Kernel and status of each verdict.
fn statuses(result: &CommandResult) -> Vec<(String, String)> {
    let text = |verdict: &serde_json::Value, key: &str| verdict[key].as_str().unwrap().to_owned();
    let verdicts = verdicts(result).into_iter();
    verdicts
        .map(|verdict| (text(&verdict, "kernel"), text(&verdict, "status")))
        .collect()
}

#[test]
fn harness_error_of_one_kernel_keeps_the_verdicts_of_the_others() {
    let folder = Workspace::with_small_task();
    folder.write("first.cu", SOFTMAX_KERNEL);
    folder.write(
        "second.cu",
        &SOFTMAX_KERNEL.replace("(row[i] - top) / sum", "(row[i] - top)"),
    );
    let arguments = [
        "eval",
        "softmax",
        "first.cu",
        "second.cu",
        "--backend",
        "cpu",
    ];
    let child = folder
        .command(&[&arguments[..], &["--format", "json"]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Kill both workers that get the first kernel, before they can reply.
    let mut killed = Vec::new();
    let started = std::time::Instant::now();
    while killed.len() < 2 {
        assert!(started.elapsed().as_secs() < 600, "no worker was started");
        let is_new = |process: &u32| !killed.contains(process);
        if let Some(worker) = worker_processes(child.id()).into_iter().find(is_new) {
            // SAFETY: its parent has not waited for it, so the number still belongs to it.
            unsafe { libc::kill(worker as i32, libc::SIGKILL) };
            killed.push(worker);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let result = CommandResult::of(&child.wait_with_output().unwrap());
    result.assert_exit(1, &["`first.cu` was not judged: a worker ended"]);
    let statuses = statuses(&result);
    assert_eq!(
        statuses[0],
        ("first.cu".to_owned(), "harness_error".to_owned())
    );
    assert_eq!(
        statuses[1],
        ("second.cu".to_owned(), "wrong_output".to_owned())
    );
}

#[test]
fn interrupted_eval_prints_finished_verdicts() {
    let folder = Workspace::with_small_task();
    let wrong = SOFTMAX_KERNEL.replace("(row[i] - top) / sum", "(row[i] - top)");
    folder.write("wrong.cu", &wrong);
    let stuck = "    for (volatile int i = 0; row[0] == row[0]; i = 0) {}\n    float top";
    folder.write("stuck.cu", &SOFTMAX_KERNEL.replace("    float top", stuck));
    let cache = folder.path().join("cache");
    let start = |kernels: &[&str]| {
        let arguments = ["eval", "softmax", "--backend", "cpu", "--format", "json"];
        folder
            .command(&[&arguments[..], &["--launch-seconds", "600"], kernels].concat())
            .env("KFORGE_CACHE_DIR", &cache)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let programs = || {
        let entries = std::fs::read_dir(cache.join("programs")).unwrap();
        entries.count()
    };
    let alone = start(&["wrong.cu"]).wait_with_output().unwrap();
    assert_eq!(CommandResult::of(&alone).code, 5);
    let before = programs();
    let child = start(&["wrong.cu", "stuck.cu"]);
    let started = std::time::Instant::now();
    // The second kernel is compiled only after the first is judged.
    while programs() == before {
        assert!(started.elapsed().as_secs() < 600, "nothing was compiled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: the child has not been waited for, so the number still belongs to it.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let result = CommandResult::of(&child.wait_with_output().unwrap());
    assert_eq!(result.code, 130, "{}", result.stderr);
    let known = ("wrong.cu".to_owned(), "wrong_output".to_owned());
    assert_eq!(statuses(&result), [known]);
}
