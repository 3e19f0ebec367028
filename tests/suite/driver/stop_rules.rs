//! Rules that end a search or a run by what was found: each is recorded, says how to continue, and decides the same on a resume.

use std::path::Path;
use std::time::Duration;

use kforge::event::{Event, StopReason};
use kforge::search::{SearchSettings, TasksTarget, WorkloadTarget};
use kforge::verdict::Verdict;
use kforge::worker::{JobKind, JobOutcome};

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, judges, options, step_options, verdict,
};
use crate::driver::{events, run, state};

const STEPS: u64 = 300;

/// Judges whose verdicts are changed before they are recorded.
fn changed(change: fn(&mut Verdict)) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                let confirmed = match job.kind {
                    JobKind::Judge => false,
                    JobKind::Confirm => true,
                    _ => {
                        return Ok(None);
                    }
                };
                let mut verdict = verdict(&job.source, 5, confirmed);
                change(&mut verdict);
                Ok(Some(JobOutcome::Verdict {
                    compile_log: String::new(),
                    report: None,
                    verdict: Box::new(verdict),
                }))
            })),
            ..ScriptedJudge::default()
        })
    }))
}

/// Runs a search that a rule ends. A resume changes nothing; one without the rule reaches the state of a run that never had it.
fn check_rule(
    judges: &ScriptedJudges,
    rule: fn(&mut SearchSettings),
    why: StopReason,
    lifted: &str,
) -> u64 {
    let root = tempfile::tempdir().unwrap();
    let (plain, stopped) = (root.path().join("plain"), root.path().join("stopped"));
    let with_rule = || {
        let mut options = step_options(&stopped, STEPS);
        rule(&mut options.search);
        options
    };
    let ended = run(with_rule(), judges).unwrap();
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(why));
    let made = task.progress.steps;
    assert!(made < STEPS, "{made}");
    let command = ended.continuation().command(Path::new("out"));
    assert!(command.contains(lifted), "{command}");
    let journal = events(&stopped, "softmax");
    let stops = journal.iter().filter_map(|event| match event {
        Event::Stopped(stopped) => Some((stopped.why, stopped.at)),
        _ => None,
    });
    assert_eq!(stops.collect::<Vec<_>>(), [(why, made)]);

    let no_judge = ScriptedJudges(Box::new(|_| panic!("the search has stopped")));
    let again = run(with_rule(), &no_judge).unwrap();
    assert_eq!(again.tasks[0].stop_reason(), Some(why));
    assert_eq!(events(&stopped, "softmax"), journal);

    run(step_options(&stopped, STEPS), judges).unwrap();
    run(step_options(&plain, STEPS), judges).unwrap();
    assert_eq!(
        state(&stopped, "softmax", STEPS),
        state(&plain, "softmax", STEPS)
    );
    made
}

#[test]
fn targets_of_workloads_end_the_search() {
    let rule = |search: &mut SearchSettings| {
        let target = |speedup, microseconds| WorkloadTarget {
            speedup,
            microseconds,
        };
        search.targets = [
            ("w0".to_owned(), target(Some(2.0), None)),
            ("w3".to_owned(), target(None, Some(4.0))),
        ]
        .into();
    };
    let why = StopReason::WorkloadTargets;
    let judges = judges(Duration::ZERO);
    check_rule(&judges, rule, why, "--set search.targets={}");
}

#[test]
fn a_share_of_the_roofline_ends_the_search() {
    let judges = changed(|verdict| {
        for workload in &mut verdict.workloads {
            // The fastest kernel that there can be has 3.5x.
            workload.roofline = workload.speedup.map(|speedup| speedup / 3.5);
        }
    });
    let rule = |search: &mut SearchSettings| search.target_roofline = Some(0.9);
    let lifted = "--set search.target_roofline=null";
    check_rule(&judges, rule, StopReason::Roofline, lifted);
}

#[test]
fn the_search_ends_when_no_measurable_gain_is_likely() {
    let rule = |search: &mut SearchSettings| search.stop_when_unlikely = Some(0.05);
    let lifted = "--set search.stop_when_unlikely=null";
    let why = StopReason::Unlikely;
    let made = check_rule(&judges(Duration::ZERO), rule, why, lifted);
    // Speedups are uniform between 0.5x and 3.5x with intervals of 3 %: the ten fastest of about a hundred are close enough.
    assert!(made > 60, "{made}");
}

#[test]
fn a_run_ends_when_enough_tasks_have_a_fast_kernel() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    const TASKS: [&str; 3] = ["softmax", "rmsnorm", "gelu"];
    let with_target = |share: Option<f64>| {
        let mut options = options(&directory, &TASKS, 40);
        options.search.target_tasks = share.map(|share| TasksTarget {
            speedup: 1.5,
            share,
        });
        options
    };
    let judges = judges(Duration::ZERO);
    let ended = run(with_target(Some(0.3)), &judges).unwrap();
    assert_eq!(ended.tasks.len(), 1);
    let left_out = ended.left_out.clone().unwrap();
    assert_eq!(left_out.tasks, ["rmsnorm", "gelu"]);
    assert_eq!((left_out.fast, left_out.of), (1, 3));
    let command = ended.continuation().command(Path::new("out"));
    assert!(
        command.contains("--set search.target_tasks=null"),
        "{command}"
    );
    let lines = || std::fs::read_to_string(directory.join("events.jsonl")).unwrap();
    let count = || lines().matches("\"event\":\"tasks_left_out\"").count();
    assert_eq!(count(), 1);
    let summary = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["figures"]["tasks"], 3);
    assert_eq!(summary["figures"]["fast_1.5"], 1.0 / 3.0);

    // Nothing is judged again, and nothing is recorded twice.
    let no_judge = ScriptedJudges(Box::new(|_| panic!("enough tasks are fast")));
    let again = run(with_target(Some(0.3)), &no_judge).unwrap();
    assert_eq!(again.left_out, ended.left_out);
    assert_eq!(count(), 1);

    // A higher share needs two of the three tasks.
    let two = run(with_target(Some(0.6)), &judges).unwrap();
    assert_eq!(two.tasks.len(), 2);
    assert_eq!(count(), 2);
    let all = run(with_target(None), &judges).unwrap();
    assert_eq!((all.tasks.len(), all.left_out), (3, None));
}

#[test]
fn a_gain_on_one_workload_and_a_loss_on_another_are_visible_and_steer_the_end() {
    // `w0` is timed as it is; on `w1` every kernel is as slow as it is fast on `w0`.
    let judges = changed(|verdict| {
        for workload in &mut verdict.workloads {
            if workload.id == "w1" {
                workload.speedup = workload.speedup.map(|speedup| 1.0 / speedup);
                workload.ci95 = workload.ci95.map(|[low, high]| [1.0 / high, 1.0 / low]);
            }
        }
    });
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    run(options(&directory, &["softmax"], 200), &judges).unwrap();
    let text = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let by_workload = &summary["tasks"][0]["by_workload"];
    let count = |workload: &str, what: &str| by_workload[workload][what].as_u64().unwrap();
    assert!(
        count("w0", "faster") > 5 && count("w0", "slower") > 5,
        "{by_workload:#}"
    );
    assert_eq!(count("w0", "faster"), count("w1", "slower"));
    assert_eq!(count("w0", "slower"), count("w1", "faster"));

    // No kernel can be fast on both, so the search does not end at 1.5x on one of them.
    let target = |workloads: &[&str]| -> Option<StopReason> {
        let directory = root.path().join(workloads.join("-"));
        let mut options = options(&directory, &["softmax"], 200);
        let fast = WorkloadTarget {
            speedup: Some(1.5),
            microseconds: None,
        };
        options.search.targets = workloads
            .iter()
            .map(|id| ((*id).to_owned(), fast))
            .collect();
        run(options, &judges).unwrap().tasks[0].stop_reason()
    };
    assert_eq!(target(&["w0"]), Some(StopReason::WorkloadTargets));
    assert_eq!(target(&["w0", "w1"]), Some(StopReason::Steps));
}

#[test]
fn the_confirmed_best_of_a_run_never_falls() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = judges(Duration::ZERO);
    let mut best = 0.0;
    for steps in [20, 40, 80, 160] {
        let ended = run(options(&directory, &["softmax"], steps), &judges).unwrap();
        let now = ended.tasks[0].best().unwrap().speedup.geomean;
        assert!(now >= best, "{now} after {best}");
        best = now;
    }
}
