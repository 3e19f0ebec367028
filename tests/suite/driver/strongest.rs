//! The best kernel of a run is timed against the strongest baselines that work here, and every place that reports it says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kforge::base::Digest;
use kforge::driver::RunOptions;
use kforge::event::{Event, StopReason};
use kforge::verdict::{BaselineEntry, Speedup, SpeedupOrigin, Yardstick};
use kforge::worker::{Contenders, JobKind, JobOutcome, StrongestOutcome};
use serde_json::Value;

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, beside, judges, options, step_options,
};
use crate::driver::{events, run};

/// A run of `softmax` whose best kernel can be timed against `library`.
fn with_library(directory: &Path, steps: u64) -> RunOptions {
    let contenders = Contenders {
        python: Some(["BASELINES = {}".to_owned(), "baselines.py".to_owned()]),
        order: vec!["library".to_owned()],
        workloads: vec!["r64c257".to_owned()],
        ..Contenders::default()
    };
    let mut options = options(directory, &["softmax"], steps);
    options.contenders = [("softmax".to_owned(), Arc::new(contenders))].into();
    options
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The steps that were timed against the strongest baselines, in the order of the journal.
fn compared(directory: &Path) -> Vec<u64> {
    let steps = events(directory, "softmax").into_iter();
    let steps = steps.filter_map(|event| match event {
        Event::StrongestCompared(compared) => Some(compared.step),
        _ => None,
    });
    steps.collect()
}

#[test]
fn pairs_with_the_strongest_baseline_are_recorded_and_reported() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let ended = run(with_library(&directory, 30), &judges(Duration::ZERO)).unwrap();
    let task = &ended.tasks[0];
    let best = task.best().unwrap();
    assert_eq!(compared(&directory), [best.step]);

    let [strongest] = &task.progress.strongest[..] else {
        panic!("{:?}", task.progress.strongest);
    };
    assert_eq!(strongest.name, "library");
    assert_eq!(strongest.origin, SpeedupOrigin::Pairs);
    let summary = json(&directory.join("summary.json"));
    let found = &summary["tasks"][0];
    let headline = found["headline"].as_str().unwrap();
    let over = format!(
        "x [{:.3}, {:.3}]",
        strongest.speedup.ci95[0], strongest.speedup.ci95[1]
    );
    assert!(headline.contains(&over), "{headline}");
    assert!(headline.contains("`library 1.2`"), "{headline}");
    assert_eq!(found["best"]["strongest"][0]["origin"], "pairs");
    let kept = json(&directory.join("softmax/best.json"));
    assert_eq!(kept["strongest"]["name"], "library");
    assert_eq!(kept["strongest"]["origin"], "pairs");
    assert_eq!(
        found["time"]["strongest"].as_f64().map(|one| one >= 0.0),
        Some(true)
    );

    // Resumed without new steps, the run has nothing left to do.
    let again = run(with_library(&directory, 30), &judges(Duration::ZERO)).unwrap();
    assert!(again.tasks[0].did_nothing);
    assert_eq!(compared(&directory), [best.step]);
}

#[test]
fn slower_kernel_says_so_in_its_first_line() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let slower = |job: &kforge::worker::Job| {
        let JobKind::CompareStrongest(contenders) = &job.kind else {
            return Ok(None);
        };
        Ok(Some(JobOutcome::Strongest(Box::new(beside(
            0.5, contenders,
        )))))
    };
    let judges = ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            intercept: Some(Box::new(slower)),
            ..ScriptedJudge::default()
        })
    }));
    run(with_library(&directory, 30), &judges).unwrap();
    let summary = json(&directory.join("summary.json"));
    let headline = summary["tasks"][0]["headline"].as_str().unwrap();
    let expected = "but slower than `library 1.2`: 0.500x [0.499, 0.500] over it, in pairs";
    assert!(headline.contains(expected), "{headline}");
}

#[test]
fn baselines_that_do_not_work_are_recorded_and_claim_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            intercept: Some(Box::new(|job| {
                let outcome = StrongestOutcome {
                    reason: Some("the file fails".to_owned()),
                    ..StrongestOutcome::default()
                };
                let is_compared = matches!(job.kind, JobKind::CompareStrongest(_));
                let outcome = JobOutcome::Strongest(Box::new(outcome));
                Ok(is_compared.then_some(outcome))
            })),
            ..ScriptedJudge::default()
        })
    }));
    let ended = run(with_library(&directory, 30), &judges).unwrap();
    assert_eq!(ended.tasks[0].progress.strongest, []);
    assert_eq!(compared(&directory).len(), 1);
    let again = run(with_library(&directory, 30), &judges).unwrap();
    assert!(again.tasks[0].did_nothing);
}

/// A yardstick that is twice as fast as the task's baseline, on every workload of the scripted judge.
fn twice_as_fast() -> Yardstick {
    let twice = Speedup {
        geomean: 2.0,
        ci95: [2.0, 2.0],
    };
    Yardstick {
        name: "library".to_owned(),
        entry: BaselineEntry {
            deviation: None,
            name: "library".to_owned(),
            kind: "python".to_owned(),
            versions: Default::default(),
            launch: None,
            reason: None,
            kernel_speedup: None,
            speedup: Some(twice),
            workloads: Vec::new(),
        },
        measured: "2026".to_owned(),
        figures: Digest::of("figures"),
        speedup: twice,
        workloads: Default::default(),
    }
}

#[test]
fn a_target_over_a_library_is_another_target_over_the_baseline() {
    const STEPS: u64 = 300;
    let root = tempfile::tempdir().unwrap();
    let (plain, over) = (root.path().join("plain"), root.path().join("over"));
    let with_target = |directory: &Path, target: f64| {
        let mut options = step_options(directory, STEPS);
        options.search.target_speedup = Some(target);
        options
    };
    let over_library = || {
        let mut options = with_target(&over, 1.2);
        options.yardsticks = [("softmax".to_owned(), twice_as_fast())].into();
        options
    };
    let plainly = run(with_target(&plain, 2.4), &judges(Duration::ZERO)).unwrap();
    assert_eq!(plainly.tasks[0].stop_reason(), Some(StopReason::Target));
    let ended = run(over_library(), &judges(Duration::ZERO)).unwrap();
    let task = &ended.tasks[0];
    assert_eq!(task.stop_reason(), Some(StopReason::Target));
    let made = task.progress.steps;
    assert!(made < STEPS, "{made}");
    assert_eq!(plainly.tasks[0].progress.steps, made);
    let [one, other] =
        [&plain, &over].map(|run| std::fs::read_to_string(run.join("softmax/best.cu")).unwrap());
    assert_eq!(one, other);
    // Derived, because the library was not timed.
    let best = task.best().unwrap();
    let beside = task.progress.yardstick.clone().unwrap();
    assert_eq!(beside.origin, SpeedupOrigin::Derived);
    assert!((beside.speedup.geomean - best.speedup.geomean / 2.0).abs() < 1e-9);
    // The command that continues the run names a target over the library that no kernel has.
    let command = ended.continuation().command(Path::new("out"));
    let (_, target) = command.split_once("search.target_speedup=").unwrap();
    let target: f64 = target.split_whitespace().next().unwrap().parse().unwrap();
    let highest = best.speedup.ci95[1] / 2.0;
    assert!(target > 1.2 && target < 3.0 * highest, "{command}");
    // A resume decides the same.
    let journal = events(&over, "softmax");
    let again = run(over_library(), &judges(Duration::ZERO)).unwrap();
    assert_eq!(again.tasks[0].stop_reason(), Some(StopReason::Target));
    assert_eq!(events(&over, "softmax"), journal);
}
