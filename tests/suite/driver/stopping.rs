//! Ways to stop a run: signals, the time budget, a target speedup.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kforge::driver::{RunEnd, RunOptions};
use kforge::event::{Event, StopReason};
use kforge::report::Unmeasured;
use kforge::search::FoldOrder;
use kforge::worker::{Job, JobKind};
use tokio::sync::watch;

use crate::driver::scripted::{
    DEVICE_SECONDS, Pause, ScriptedJudge, ScriptedJudges, judges, options, run_until, step_options,
};
use crate::driver::{PROPOSER, events, process, run, state};

#[test]
fn interrupted_run_resumes_to_the_same_result() {
    const STEPS: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let (plain, stopped) = (root.path().join("plain"), root.path().join("stopped"));
    let judges = judges(Duration::from_millis(10));
    run(step_options(&plain, STEPS), &judges).unwrap();
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
        let ended = run_until(step_options(&stopped, STEPS), PROPOSER, &judges, soon).unwrap();
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
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.lines().count() >= 2) {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(2));
        }
        let signaled = Instant::now();
        let kill = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
        assert!(child.wait().unwrap().success(), "SIG{signal}");
        assert!(signaled.elapsed() < Duration::from_secs(60));
        let end = std::fs::read_to_string(directory.with_extension("error")).unwrap();
        assert_eq!(end, "interrupted");
        run(
            options(&directory, &["softmax"], 20),
            &judges(Duration::ZERO),
        )
        .unwrap();
    }
}

/// Budgets in milliseconds. A busy machine does little in the first, and then a test uses the next one.
const BUDGETS: [u64; 3] = [750, 4000, 16_000];

/// Starts runs, each in a folder of its own and with the next budget, until one has done what its test needs. Returns it with its folder
/// and budget.
fn with_sufficient_budget(
    root: &Path,
    start: impl Fn(&Path, u64) -> RunEnd,
    suffices: impl Fn(&RunEnd) -> bool,
) -> (PathBuf, u64, RunEnd) {
    let mut runs = BUDGETS.iter().map(|budget| {
        let directory = root.join(format!("run-{budget}"));
        let ended = start(&directory, *budget);
        (directory, *budget, ended)
    });
    runs.find(|(_, _, ended)| suffices(ended))
        .expect("one of the budgets suffices")
}

#[test]
fn time_budget_includes_earlier_processes() {
    const STEPS: u64 = 60;
    /// Where the search is still when its time is spent, however fast the machine is.
    const LAST_FAST_STEP: u64 = 20;
    let root = tempfile::tempdir().unwrap();
    let plain = root.path().join("plain");
    let fast = judges(Duration::ZERO);
    let slow = pausing(|job| match job.kind {
        JobKind::Judge if job.step > LAST_FAST_STEP => FOREVER,
        _ => Duration::ZERO,
    });
    run(step_options(&plain, STEPS), &fast).unwrap();
    let options = |directory: &Path, milliseconds| {
        let mut options = with_budget(directory, STEPS, milliseconds);
        options.record.order = FoldOrder::Step;
        options
    };
    let (timed, budget, ended) = with_sufficient_budget(
        root.path(),
        |directory, budget| run(options(directory, budget), &slow).unwrap(),
        |ended| ended.tasks[0].progress.steps > 3 && ended.tasks[0].best().is_some(),
    );
    let with_budget = |milliseconds| options(&timed, milliseconds);
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Seconds));
    assert!(task.progress.steps < STEPS);
    let before = events(&timed, "softmax");
    assert!(before.iter().any(
        |event| matches!(event, Event::Stopped(stopped) if stopped.why == StopReason::Seconds)
    ));

    // The same budget is already spent: nothing is judged.
    let no_judge = ScriptedJudges(Box::new(|_| panic!("the time is spent")));
    let again = run(with_budget(budget), &no_judge).unwrap();
    assert_eq!(again.tasks[0].stop_reason(), Some(StopReason::Seconds));
    assert_eq!(events(&timed, "softmax"), before);

    let more = run(with_budget(600_000), &fast).unwrap();
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

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// Judges whose jobs take up to 10 ms, and this much longer.
fn pausing(pause: impl Fn(&Job) -> Duration + Clone + Send + Sync + 'static) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        let pause: Box<Pause> = Box::new(pause.clone());
        Ok(ScriptedJudge {
            delay: Duration::from_millis(10),
            pause: Some(pause),
            ..ScriptedJudge::default()
        })
    }))
}

fn with_budget(directory: &Path, steps: u64, milliseconds: u64) -> RunOptions {
    let mut options = options(directory, &["softmax"], steps);
    options.budget = Some(Duration::from_millis(milliseconds));
    options.confirm_share = 0.5;
    options
}

fn count(directory: &Path, is_wanted: fn(&Event) -> bool) -> usize {
    let events = events(directory, "softmax");
    events.iter().filter(|event| is_wanted(event)).count()
}

#[test]
fn slow_confirmation_is_cancelled_with_the_budget_and_made_by_a_resume() {
    const STEPS: u64 = 400;
    let root = tempfile::tempdir().unwrap();
    let start = |directory: &Path, budget: u64| {
        let slow = pausing(move |job| match job.kind {
            JobKind::Confirm => {
                let limit = job.limit.expect("a confirmation has a limit");
                assert!(limit < Duration::from_millis(budget), "{limit:?}");
                FOREVER
            }
            _ => Duration::ZERO,
        });
        let started = Instant::now();
        let ended = run(with_budget(directory, STEPS, budget), &slow).unwrap();
        // The rest is for a machine that does something else.
        assert!(started.elapsed() < Duration::from_secs(60));
        ended
    };
    let (directory, budget, ended) = with_sufficient_budget(root.path(), start, |ended| {
        ended.tasks[0].progress.unmeasured.confirmation
    });
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Seconds));
    assert!(task.best().is_none());
    let missing = Unmeasured {
        confirmation: true,
        ..Unmeasured::default()
    };
    assert_eq!(task.progress.unmeasured, missing);
    let summary = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    assert!(summary.contains("\"why\": \"out_of_time\""), "{summary}");
    let more = ended.continuation().more_seconds;
    assert_eq!(more, Some(budget.div_ceil(1000)));
    let is_confirmed = |event: &Event| matches!(event, Event::Confirmed(_));
    assert_eq!(count(&directory, is_confirmed), 0);
    let judged = count(&directory, |event| matches!(event, Event::Judged(_)));

    // The time is spent, so the same budget does nothing.
    let no_judge = ScriptedJudges(Box::new(|_| panic!("the time is spent")));
    let again = run(with_budget(&directory, STEPS, budget), &no_judge).unwrap();
    assert!(again.tasks[0].did_nothing && again.tasks[0].best().is_none());

    let ended = run(
        with_budget(&directory, STEPS, 600_000),
        &judges(Duration::ZERO),
    )
    .unwrap();
    assert!(ended.tasks[0].best().is_some());
    assert_eq!(ended.tasks[0].progress.unmeasured, Unmeasured::default());
    assert!(count(&directory, is_confirmed) > 0);
    assert!(count(&directory, |event| matches!(event, Event::Judged(_))) > judged);
}

#[test]
fn judgement_that_does_not_fit_is_cancelled_and_made_by_a_resume() {
    const STEPS: u64 = 40;
    let root = tempfile::tempdir().unwrap();
    let plain = root.path().join("plain");
    let fast = judges(Duration::ZERO);
    run(step_options(&plain, STEPS), &fast).unwrap();
    let slow = pausing(|job| match job.kind {
        JobKind::Judge if job.step > 12 => FOREVER,
        _ => Duration::ZERO,
    });
    let start = |directory: &Path, budget: u64| {
        let mut options = with_budget(directory, STEPS, budget);
        options.record.order = FoldOrder::Step;
        let started = Instant::now();
        let ended = run(options, &slow).unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
        ended
    };
    let (directory, _, ended) = with_sufficient_budget(root.path(), start, |ended| {
        ended.tasks[0].best().is_some() && ended.tasks[0].progress.steps > 8
    });
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Seconds));
    let proposed = count(&directory, |event| matches!(event, Event::Proposed(_)));
    let judged = count(&directory, |event| matches!(event, Event::Judged(_)));
    assert!(
        proposed > judged,
        "{proposed} candidates, {judged} verdicts"
    );
    run(with_budget(&directory, STEPS, 600_000), &fast).unwrap();
    let judged = |directory: &Path| count(directory, |event| matches!(event, Event::Judged(_)));
    assert_eq!(judged(&directory), judged(&plain), "each is judged once");
    assert_eq!(
        state(&directory, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
}

#[test]
fn spent_device_time_ends_the_search_until_there_is_more() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let with_budget = |seconds| {
        let mut options = options(&directory, &["softmax"], 300);
        options.device_budget = Some(Duration::from_secs(seconds));
        options
    };
    let fast = judges(Duration::ZERO);
    let ended = run(with_budget(10), &fast).unwrap();
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::DeviceSeconds));
    assert!(task.best().is_some());
    let evaluations = count(&directory, |event| {
        matches!(
            event,
            Event::Judged(_) | Event::Dueled(_) | Event::Confirmed(_) | Event::Compared(_)
        )
    });
    let device = task.progress.time.device;
    assert_eq!(device, evaluations as f64 * DEVICE_SECONDS);
    assert!((8.0..=11.0).contains(&device), "{device}");
    assert_eq!(ended.continuation().more_device_seconds, Some(10));
    let before = events(&directory, "softmax");

    let no_judge = ScriptedJudges(Box::new(|_| panic!("the device time is spent")));
    let again = run(with_budget(10), &no_judge).unwrap();
    assert!(again.tasks[0].did_nothing);
    assert_eq!(again.tasks[0].progress.time.device, device);
    assert_eq!(events(&directory, "softmax"), before);

    let more = run(with_budget(1000), &fast).unwrap();
    assert_eq!(more.tasks[0].stop_reason(), Some(StopReason::Steps));
    assert!(more.tasks[0].progress.time.device > device);
}
