//! Broken machinery: the judge, the oracle, the disk.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kforge::base::Failure;
use kforge::event::{Event, FailedReason};
use kforge::verdict::Status;
use kforge::worker::{Job, JobKind, JobOutcome};

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, judges, options, step_options, verdict, with_few_cells,
};
use crate::driver::{STEP_ORDER, events, run, set_environment, state};

/// Judges whose jobs pass through `fault` first.
fn faulty_judges(
    fault: impl Fn(&Job) -> anyhow::Result<Option<JobOutcome>> + Send + Sync + Copy + 'static,
) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            intercept: Some(Box::new(fault)),
            ..ScriptedJudge::default()
        })
    }))
}

#[test]
fn failed_oracle_ends_only_its_own_task() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = ScriptedJudges(Box::new(|task| match task.name.as_str() {
        "softmax" => Err(Failure::reference("the oracle does not compile").into()),
        _ => Ok(ScriptedJudge::default()),
    }));
    let ended = run(options(&directory, &["softmax", "rmsnorm"], 12), &judges).unwrap();
    assert!(
        ended.tasks[0]
            .failure
            .as_deref()
            .unwrap()
            .contains("oracle")
    );
    assert!(ended.tasks[0].best().is_none());
    assert!(ended.tasks[1].failure.is_none() && ended.tasks[1].best().is_some());
    let summary = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["finished"], true);
    assert!(summary["tasks"][0]["failure"].is_string());
    assert_eq!(summary["tasks"][1]["steps"], 12);
    assert_eq!(summary["tasks"][1]["best"]["kernel"], "rmsnorm/best.cu");
}

#[test]
fn occasional_judge_failures_are_retried() {
    let root = tempfile::tempdir().unwrap();
    let (plain, faulty) = (root.path().join("plain"), root.path().join("faulty"));
    run(step_options(&plain, 30), &judges(Duration::ZERO)).unwrap();
    // Two of three tries fail: one with an error, one with a `harness_error` verdict.
    let judges = faulty_judges(|job| {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        if job.step != 9 && job.step != 1 {
            return Ok(None);
        }
        match CALLS.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => anyhow::bail!("the worker ended early"),
            1 if !matches!(job.kind, JobKind::Duel { .. }) => {
                let mut verdict = verdict(&job.source, 1, false);
                verdict.status = Status::HarnessError;
                verdict.speedup = None;
                verdict.reason = Some("no memory".to_owned());
                Ok(Some(JobOutcome::Verdict {
                    verdict: Box::new(verdict),
                    compile_log: String::new(),
                    report: None,
                }))
            }
            _ => Ok(None),
        }
    });
    // One kernel at a time, so that the calls come in this order.
    let mut faulty_options = step_options(&faulty, 30);
    faulty_options.in_flight = 1;
    run(faulty_options, &judges).unwrap();
    assert_eq!(state(&faulty, "softmax", 30), state(&plain, "softmax", 30));
}

/// Judges that fail twice on every job and then succeed.
pub(crate) fn judges_that_fail_twice() -> ScriptedJudges {
    ScriptedJudges(Box::new(|_| {
        let calls: Mutex<HashMap<String, u32>> = Mutex::default();
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                let mut calls = calls.lock().unwrap();
                // What the search has grows between two tries of a job.
                let key = format!("{} {:?}", job.step, job.kind);
                let calls = calls.entry(key).or_default();
                *calls += 1;
                anyhow::ensure!(*calls > 2, "the worker ended early");
                Ok(None)
            })),
            ..ScriptedJudge::default()
        })
    }))
}

#[test]
fn judging_dueling_and_confirming_are_retried_separately() {
    let root = tempfile::tempdir().unwrap();
    let (plain, faulty) = (root.path().join("plain"), root.path().join("faulty"));
    run(step_options(&plain, 30), &judges(Duration::ZERO)).unwrap();
    run(step_options(&faulty, 30), &judges_that_fail_twice()).unwrap();
    assert_eq!(state(&faulty, "softmax", 30), state(&plain, "softmax", 30));
    let confirmed = |directory: &Path| {
        let events = events(directory, "softmax").into_iter();
        let steps = events.filter_map(|event| match event {
            Event::Confirmed(confirmed) => Some(confirmed.step),
            _ => None,
        });
        steps.collect::<Vec<_>>()
    };
    assert_eq!(confirmed(&faulty), confirmed(&plain));
}

#[test]
fn kernel_that_cannot_be_judged_is_given_up() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = faulty_judges(|job| match job.step {
        9 => anyhow::bail!("the worker ended early"),
        _ => Ok(None),
    });
    let ended = run(options(&directory, &["softmax"], 30), &judges).unwrap();
    assert_eq!(ended.tasks[0].progress.steps, 30);
    let closed = events(&directory, "softmax")
        .into_iter()
        .find_map(|event| match event {
            Event::Failed(failed) if failed.step == 9 => Some(failed),
            _ => None,
        });
    let closed = closed.unwrap();
    assert_eq!(closed.reason, FailedReason::HarnessError);
    assert_eq!(closed.detail.as_deref(), Some("the worker ended early"));
}

/// Judges that give every confirmation this status.
fn confirming_with(status: Status) -> ScriptedJudges {
    faulty_judges(move |job| {
        if !matches!(job.kind, JobKind::Confirm) {
            return Ok(None);
        }
        let mut verdict = verdict(&job.source, 1, false);
        verdict.status = status;
        verdict.speedup = None;
        Ok(Some(JobOutcome::Verdict {
            verdict: Box::new(verdict),
            compile_log: String::new(),
            report: None,
        }))
    })
}

#[test]
fn refuted_kernel_is_not_reported_as_best() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let ended = run(
        options(&directory, &["softmax"], 12),
        &confirming_with(Status::Race),
    )
    .unwrap();
    assert!(ended.tasks[0].progress.passed > 0 && ended.tasks[0].best().is_none());
    for name in ["best.cu", "best.json"] {
        assert!(!directory.join("softmax").join(name).exists(), "{name}");
    }
}

#[test]
fn run_whose_judge_always_fails_ends_and_can_be_resumed() {
    let root = tempfile::tempdir().unwrap();
    let (plain, faulty) = (root.path().join("plain"), root.path().join("faulty"));
    let error = run(
        step_options(&faulty, 30),
        &faulty_judges(|_| anyhow::bail!("gone")),
    )
    .unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "the judge failed for 5 steps in a row: gone"
    );
    assert!(
        events(&faulty, "softmax")
            .iter()
            .all(|event| !matches!(event, Event::Judged(_)))
    );
    assert!(given_up(&faulty).is_empty());
    run(step_options(&faulty, 30), &judges(Duration::ZERO)).unwrap();
    run(step_options(&plain, 30), &judges(Duration::ZERO)).unwrap();
    assert_eq!(state(&faulty, "softmax", 30), state(&plain, "softmax", 30));
}

/// The steps that were given up.
fn given_up(directory: &Path) -> Vec<u64> {
    let events = events(directory, "softmax").into_iter();
    let steps = events.filter_map(|event| match event {
        Event::Failed(failed) if failed.reason == FailedReason::HarnessError => Some(failed.step),
        _ => None,
    });
    steps.collect()
}

#[test]
fn baseline_decides_whether_the_judge_or_the_kernel_is_at_fault() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("broken");
    // Too few steps in progress to end the run by their number.
    let narrow = |directory: &Path| {
        let mut options = options(directory, &["softmax"], 30);
        options.record.window = 2;
        options.in_flight = 1;
        options
    };
    let error = run(
        narrow(&directory),
        &faulty_judges(|_| anyhow::bail!("gone")),
    )
    .unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "the judge fails on the baseline too: gone"
    );
    assert!(given_up(&directory).is_empty());
    run(narrow(&directory), &judges(Duration::ZERO)).unwrap();
    assert!(given_up(&directory).is_empty());

    // The starting kernel and the last step cannot be judged, but the judge works.
    let directory = root.path().join("working");
    let judges = faulty_judges(|job| match job.step {
        1 | 30 => anyhow::bail!("the worker ended early"),
        _ => Ok(None),
    });
    let ended = run(narrow(&directory), &judges).unwrap();
    assert_eq!(ended.tasks[0].progress.steps, 30);
    assert_eq!(given_up(&directory), [1, 30]);
}

#[test]
fn duel_is_not_lost_when_the_judge_breaks() {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    let root = tempfile::tempdir().unwrap();
    let (plain, faulty) = (root.path().join("plain"), root.path().join("faulty"));
    run(
        with_few_cells(step_options(&plain, 60)),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let error = run(
        with_few_cells(step_options(&faulty, 60)),
        &faulty_judges(|job| {
            if matches!(job.kind, JobKind::Duel { .. }) {
                BROKEN.store(true, Ordering::Relaxed);
            }
            anyhow::ensure!(!BROKEN.load(Ordering::Relaxed), "gone");
            Ok(None)
        }),
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("the judge fail"), "{error:#}");
    let dueled = |event: &Event| matches!(event, Event::Dueled(_));
    assert!(!events(&faulty, "softmax").iter().any(dueled));
    assert!(given_up(&faulty).is_empty());
    run(
        with_few_cells(step_options(&faulty, 60)),
        &judges(Duration::ZERO),
    )
    .unwrap();
    assert_eq!(state(&faulty, "softmax", 60), state(&plain, "softmax", 60));
}

#[cfg(unix)]
#[test]
fn full_disk_leaves_a_resumable_run() {
    const STEPS: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let (plain, full) = (root.path().join("plain"), root.path().join("full"));
    // No file may grow beyond 64 blocks. The journal reaches that within a few steps.
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --ignored --exact driver::driver_process";
    command
        .arg("-c")
        .arg(script)
        .arg(std::env::current_exe().unwrap());
    set_environment(&mut command, &full, STEPS, Duration::ZERO);
    command.env(STEP_ORDER, "");
    assert!(command.status().unwrap().success());
    let error = std::fs::read_to_string(full.with_extension("error")).unwrap();
    assert!(
        error.contains("softmax/events.jsonl`: file too large"),
        "{error}"
    );
    assert!(error.contains("hint: free some space"), "{error}");
    assert!(lines(&full.join("softmax/events.jsonl")) > 10);

    run(step_options(&full, STEPS), &judges(Duration::ZERO)).unwrap();
    run(step_options(&plain, STEPS), &judges(Duration::ZERO)).unwrap();
    assert_eq!(
        state(&full, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}
