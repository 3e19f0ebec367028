//! `kforge evolve` and `kforge resume`: dry runs, locks, interruption, kills.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::program::{CommandResult, Workspace, worker_processes};

#[test]
fn dry_run_shows_choices_and_writes_nothing() {
    let folder = Workspace::new();
    let result = folder.run(&[
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--dry-run",
        "--set",
        "steps=7",
        "--seed",
        "3",
        "--set",
        "search.exploration=0.45",
    ]);
    assert_eq!(result.code, 0, "{}", result.stderr);
    for text in [
        "7 steps",
        "seed 3",
        "b1, b4",
        "naive.cu",
        "exploration: 0.45",
        "own operators",
    ] {
        assert!(
            result.stdout.contains(text),
            "`{text}` is missing:\n{}",
            result.stdout
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn run_is_locked_can_be_interrupted_and_resumed() {
    let folder = Workspace::with_small_task();
    let arguments = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--set",
        "tasks=[softmax]",
        "--output",
        "out",
        "--seed",
        "5",
        "--steps",
        "40",
        // A busy machine can finish this timing: a wide interval will do.
        "--set",
        "eval.precision=0.5",
        "--set",
        "eval.seconds=3",
        "--set=search.confirm=1",
    ];
    let child = folder
        .command(&arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let journal = folder.path().join("out/softmax/events.jsonl");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"judged\"")) {
        assert!(
            begun.elapsed().as_secs() < 600,
            "no verdict within two minutes"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    folder.run(&["resume", "out"]).assert_exit(2, &["out"]);
    // SAFETY: the child has not been waited for, so the number still belongs to it.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let result = CommandResult::of(&child.wait_with_output().unwrap());
    result.assert_exit(130, &["kforge resume out"]);
    // The first line of the results, and the kernel, say that nothing is confirmed.
    let first = result.stdout.lines().find(|line| !line.is_empty());
    let first = first.unwrap_or_default();
    assert!(
        first.starts_with("softmax: no kernel confirmed faster than the baseline (")
            && first.ends_with("interrupted)"),
        "{first}"
    );
    let best = folder.path().join("out/softmax/best.cu");
    if let Ok(source) = std::fs::read_to_string(&best) {
        assert!(source.contains("# UNCONFIRMED: ~"), "{source}");
        let verdict = folder.read("out/softmax/best.json");
        assert!(
            verdict.starts_with("{\n  \"unconfirmed\": \"~"),
            "{verdict}"
        );
    }
    let judged = || {
        std::fs::read_to_string(&journal)
            .unwrap()
            .matches("\"event\":\"judged\"")
            .count()
    };
    let before = judged();
    let result = folder.run(&["resume", "out", "--steps", "6", "--format", "json"]);
    result.assert_run_ended(&[]);
    let summary: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
    // The exit code, the summary and the files agree.
    let found = &summary["tasks"][0]["best"];
    assert_eq!(found.is_object(), result.code == 0, "{summary}");
    let low = found["speedup"]["ci95"][0].as_f64();
    assert_eq!(low.is_some_and(|low| low > 1.0), result.code == 0);
    let source = folder.read("out/softmax/best.cu");
    assert_eq!(source.contains("UNCONFIRMED"), result.code == 5, "{source}");
    assert!(judged() >= before);
    assert!(folder.path().join("out/softmax/best.cu").is_file());
    // All steps are done, and confirmed kernels are not confirmed again.
    let result = folder.run(&["resume", "out", "--steps", "6", "--counters"]);
    result.assert_run_ended(&[]);
    for text in [
        "nothing was left to do",
        "kforge eval softmax out/softmax/best.cu --counters",
    ] {
        assert!(result.stderr.contains(text), "{}", result.stderr);
    }
    folder
        .run(&["resume", "out", "--set", "search.exploration=0.9"])
        .assert_exit(2, &["exploration", "--accept-changes"]);
}

#[test]
fn workers_exit_when_the_driver_is_killed() {
    let folder = Workspace::with_small_task();
    let arguments = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--set",
        "tasks=[softmax]",
        "--backend",
        "cpu",
        "--output",
        "out",
        "--steps",
        "40",
        "--set",
        "eval.seconds=30",
    ];
    let mut child = folder
        .command(&arguments)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let journal = folder.path().join("out/softmax/events.jsonl");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"proposed\"")) {
        assert!(begun.elapsed().as_secs() < 600, "nothing was proposed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let workers = worker_processes(child.id());
    assert!(!workers.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = std::time::Instant::now();
    let is_there = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        status.is_ok_and(|text| !text.contains("State:\tZ"))
    };
    while workers.iter().any(is_there) {
        assert!(killed.elapsed().as_secs() < 30, "a worker still runs");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn stopped_worker_frees_its_slot_and_its_step_is_judged_again() {
    let folder = Workspace::new();
    let messages = folder.path().join("messages");
    let mut child = folder
        .command(&["evolve", "--config", "softmax.yaml", "--backend", "cpu"])
        .args(["--profile", "quick", "--output", "out", "--steps", "100000"])
        .args(["--set", "eval.seconds=0.1", "--set", "eval.precision=0.5"])
        .args(["--set", "budget.seconds=3600"])
        .stderr(std::fs::File::create(&messages).unwrap())
        .spawn()
        .unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let journal = folder.path().join("out/softmax/events.jsonl");
    let judged = || read(&journal).matches("\"event\":\"judged\"").count();
    let wait_for = |what: &str, seconds: u64, is_done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_done() {
            assert!(
                begun.elapsed().as_secs() < seconds,
                "{what}: not within {seconds} s: {}",
                read(&messages)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for("a kernel is proposed", 300, &|| {
        read(&journal).contains("\"proposed\"")
    });
    let workers = worker_processes(child.id());
    for worker in &workers {
        // SAFETY: two numbers.
        unsafe { libc::kill(*worker as i32, libc::SIGSTOP) };
    }
    wait_for("a stopped worker is noticed", 300, &|| {
        read(&messages).contains("no sign of life")
    });
    let before = judged();
    // Long only on a machine that is busy with other kernels.
    wait_for("a step is judged again", 300, &|| judged() > before);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(read(&messages).contains("the judge failed on step"));
}
