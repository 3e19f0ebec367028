//! Machinery that breaks: the judge, the oracle, the disk.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kforge::base::Failure;
use kforge::event::{Event, FailedReason};
use kforge::verdict::Status;
use kforge::worker::{Job, JobKind, Outcome};

use crate::scripted::{ScriptedJudge, ScriptedJudges, judges, options, verdict};
use crate::{events, run, state, surround};

/// Judges that fail as `fault` says.
fn faulty(
    fault: impl Fn(&Job) -> anyhow::Result<Option<Outcome>> + Send + Sync + Copy + 'static,
) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            before: Some(Box::new(fault)),
            ..ScriptedJudge::default()
        })
    }))
}

#[test]
fn a_failed_reference_ends_its_task_and_no_other() {
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
fn a_judge_that_fails_now_and_then_is_asked_again() {
    let root = tempfile::tempdir().unwrap();
    let (plain, troubled) = (root.path().join("plain"), root.path().join("troubled"));
    run(options(&plain, &["softmax"], 30), &judges(Duration::ZERO)).unwrap();
    // Twice of three times each: once without a word, once with a verdict that says so.
    let judges = faulty(|job| {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        if job.step != 9 && job.step != 1 {
            return Ok(None);
        }
        match CALLS.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => anyhow::bail!("a worker ended without an answer"),
            1 if !matches!(job.kind, JobKind::Duel { .. }) => {
                let mut verdict = verdict(&job.source, 1, false);
                verdict.status = Status::HarnessError;
                verdict.speedup = None;
                verdict.reason = Some("no memory".to_owned());
                Ok(Some(Outcome::Verdict {
                    verdict: Box::new(verdict),
                    compile_log: String::new(),
                    report: None,
                }))
            }
            _ => Ok(None),
        }
    });
    // One at a time, so that the calls come in this order.
    let mut troubled_options = options(&troubled, &["softmax"], 30);
    troubled_options.in_flight = 1;
    run(troubled_options, &judges).unwrap();
    assert_eq!(
        state(&troubled, "softmax", 30),
        state(&plain, "softmax", 30)
    );
}

#[test]
fn a_kernel_that_cannot_be_judged_does_not_hold_up_the_others() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = faulty(|job| match job.step {
        9 => anyhow::bail!("a worker ended without an answer"),
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
    assert_eq!(
        closed.detail.as_deref(),
        Some("a worker ended without an answer")
    );
}

#[test]
fn a_kernel_that_does_not_pass_again_is_not_shown_as_the_best() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = faulty(|job| {
        if !matches!(job.kind, JobKind::Confirm) {
            return Ok(None);
        }
        let mut verdict = verdict(&job.source, 1, false);
        verdict.status = Status::Race;
        verdict.speedup = None;
        Ok(Some(Outcome::Verdict {
            verdict: Box::new(verdict),
            compile_log: String::new(),
            report: None,
        }))
    });
    let ended = run(options(&directory, &["softmax"], 12), &judges).unwrap();
    assert!(ended.tasks[0].progress.passed > 0 && ended.tasks[0].best().is_none());
    for name in ["best.cu", "best.json"] {
        assert!(!directory.join("softmax").join(name).exists(), "{name}");
    }
}

#[test]
fn a_judge_that_always_fails_ends_the_run_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (plain, troubled) = (root.path().join("plain"), root.path().join("troubled"));
    let error = run(
        options(&troubled, &["softmax"], 30),
        &faulty(|_| anyhow::bail!("gone")),
    )
    .unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "the judge failed for 5 steps in a row: gone"
    );
    assert!(
        events(&troubled, "softmax")
            .iter()
            .all(|event| !matches!(event, Event::Judged(_)))
    );
    run(
        options(&troubled, &["softmax"], 30),
        &judges(Duration::ZERO),
    )
    .unwrap();
    run(options(&plain, &["softmax"], 30), &judges(Duration::ZERO)).unwrap();
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_a_run_that_can_be_resumed() {
    const STEPS: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let (plain, starved) = (root.path().join("plain"), root.path().join("starved"));
    // No file may grow beyond 64 blocks: the journal comes to that within a few steps.
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --ignored --exact driver_process";
    command
        .arg("-c")
        .arg(script)
        .arg(std::env::current_exe().unwrap());
    surround(&mut command, &starved, STEPS, Duration::ZERO);
    assert!(command.status().unwrap().success());
    let error = std::fs::read_to_string(starved.with_extension("error")).unwrap();
    assert!(
        error.contains("softmax/events.jsonl`: file too large"),
        "{error}"
    );
    assert!(error.contains("hint: free some space"), "{error}");
    assert!(lines(&starved.join("softmax/events.jsonl")) > 10);

    run(
        options(&starved, &["softmax"], STEPS),
        &judges(Duration::ZERO),
    )
    .unwrap();
    run(
        options(&plain, &["softmax"], STEPS),
        &judges(Duration::ZERO),
    )
    .unwrap();
    assert_eq!(
        state(&starved, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}
