//! Ways to stop a run: signals, the time budget, a target speedup.

use std::process::Command;
use std::time::{Duration, Instant};

use kforge::event::{Event, StopReason};
use tokio::sync::watch;

use crate::driver::scripted::{ScriptedJudges, judges, options, run_until};
use crate::driver::{PROPOSER, events, process, run, state};

#[test]
fn interrupted_run_resumes_to_the_same_result() {
    const STEPS: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let (plain, stopped) = (root.path().join("plain"), root.path().join("stopped"));
    let judges = judges(Duration::from_millis(10));
    run(options(&plain, &["softmax"], STEPS), &judges).unwrap();
    let mut interruptions = 0;
    loop {
        // The pause grows so that the run makes progress on a busy machine too.
        let pause = Duration::from_millis(60 + 10 * interruptions);
        let soon = || {
            let (sender, receiver) = watch::channel(false);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                sender.send(true).unwrap();
            });
            receiver
        };
        let ended = run_until(
            options(&stopped, &["softmax"], STEPS),
            PROPOSER,
            &judges,
            soon,
        )
        .unwrap();
        if !ended.interrupted {
            break;
        }
        interruptions += 1;
        assert_eq!(ended.tasks.len(), 1);
        assert!(interruptions < 100);
    }
    assert!(interruptions > 0);
    assert_eq!(
        state(&stopped, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
    let journal = std::fs::read_to_string(stopped.join("events.jsonl")).unwrap();
    assert_eq!(
        journal.matches("\"event\":\"interrupted\"").count() as u64,
        interruptions
    );
}

#[test]
fn signal_ends_the_run_without_waiting_for_the_judge() {
    for signal in ["INT", "TERM"] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run");
        // A verdict takes up to ten minutes.
        let mut child = process(&directory, 60, Duration::from_secs(600))
            .spawn()
            .unwrap();
        let log = directory.with_extension("log");
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.lines().count() >= 4) {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(2));
        }
        let signaled = Instant::now();
        let kill = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
        assert!(child.wait().unwrap().success());
        assert!(signaled.elapsed() < Duration::from_secs(5));
        let end = std::fs::read_to_string(directory.with_extension("error")).unwrap();
        assert_eq!(end, "interrupted");
        run(
            options(&directory, &["softmax"], 20),
            &judges(Duration::ZERO),
        )
        .unwrap();
    }
}

#[test]
fn time_budget_includes_earlier_processes() {
    const STEPS: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let (plain, timed) = (root.path().join("plain"), root.path().join("timed"));
    let slow = judges(Duration::from_millis(30));
    run(
        options(&plain, &["softmax"], STEPS),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let with_budget = |milliseconds| {
        let mut options = options(&timed, &["softmax"], STEPS);
        options.budget = Some(Duration::from_millis(milliseconds));
        options
    };
    let ended = run(with_budget(150), &slow).unwrap();
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Seconds));
    assert!(task.progress.steps > 3 && task.progress.steps < STEPS);
    assert!(task.best().is_some(), "the best kernel so far is confirmed");
    let before = events(&timed, "softmax");
    assert!(before.iter().any(
        |event| matches!(event, Event::Stopped(stopped) if stopped.why == StopReason::Seconds)
    ));

    // The same budget is already spent: nothing is judged.
    let no_judge = ScriptedJudges(Box::new(|_| panic!("the time is spent")));
    let again = run(with_budget(150), &no_judge).unwrap();
    assert_eq!(again.tasks[0].stop_reason(), Some(StopReason::Seconds));
    assert_eq!(events(&timed, "softmax"), before);

    let more = run(with_budget(600_000), &slow).unwrap();
    assert_eq!(more.tasks[0].stop_reason(), Some(StopReason::Steps));
    assert_eq!(
        state(&timed, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
}

#[test]
fn reached_target_ends_the_search_permanently() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let target = || {
        let mut options = options(&directory, &["softmax"], 1000);
        options.search.target_speedup = Some(2.5);
        options.in_flight = 8;
        options
    };
    let judges = judges(Duration::from_millis(2));
    let ended = run(target(), &judges).unwrap();
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Target));
    assert!(task.progress.steps < 1000);
    assert!(task.best().unwrap().speedup.ci95[0] >= 2.5);
    let journal = events(&directory, "softmax");
    let no_judge = ScriptedJudges(Box::new(|_| panic!("the target was reached")));
    assert_eq!(
        run(target(), &no_judge).unwrap().tasks[0].stop_reason(),
        Some(StopReason::Target)
    );
    assert_eq!(events(&directory, "softmax"), journal);
}
