//! Run directories that are in use, damaged, or hold another experiment.

use std::collections::BTreeSet;
use std::time::Duration;

use kforge::base::{Failure, FailureKind};
use kforge::driver::StartMode;
use kforge::event::{Event, Operator};

use crate::driver::faults::judges_that_fail_twice;
use crate::driver::scripted::{judges, options};
use crate::driver::{events, process, run};

#[test]
fn directory_in_use_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let mut child = process(&directory, 5000, Duration::from_millis(8))
        .spawn()
        .unwrap();
    while !directory.join("softmax/events.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    let error = run(
        options(&directory, &["softmax"], 10),
        &judges(Duration::ZERO),
    )
    .unwrap_err();
    let failure = error.downcast_ref::<Failure>().unwrap();
    assert_eq!(failure.kind, FailureKind::Usage);
    assert!(
        failure
            .message
            .contains(&format!("in use by process {}", child.id())),
        "{failure}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock ends with its process.
    run(
        options(&directory, &["softmax"], 10),
        &judges(Duration::ZERO),
    )
    .unwrap();
}

#[test]
fn changed_experiment_needs_accept_changes() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = judges(Duration::ZERO);
    run(options(&directory, &["softmax"], 30), &judges).unwrap();

    let changed = |accept_changes| {
        let mut options = options(&directory, &["softmax"], 40);
        options.search.exploration = 0.9;
        options.record.kforge = "0.0.1".to_owned();
        options.record.config["search"]["exploration"] = 0.9.into();
        options.start = StartMode::Resume { accept_changes };
        options
    };
    let error = run(changed(false), &judges).unwrap_err().to_string();
    assert!(
        error.contains("`kforge` was \"0.0.0\", is \"0.0.1\""),
        "{error}"
    );
    assert!(
        error.contains("`config.search.exploration` was 0.3, is 0.9"),
        "{error}"
    );
    assert!(error.contains("--accept-changes"), "{error}");
    assert!(!error.contains("steps"), "{error}");

    let before = events(&directory, "softmax");
    let ended = run(changed(true), &judges).unwrap();
    assert_eq!(ended.tasks[0].progress.steps, 40);
    let journal = std::fs::read_to_string(directory.join("events.jsonl")).unwrap();
    assert!(journal.contains("\"event\":\"accepted\""));
    // The elites are judged again before anything else.
    let after = events(&directory, "softmax");
    assert_eq!(after[..before.len()], before);
    let again = after[before.len()..]
        .iter()
        .take_while(|event| matches!(event, Event::Judged(_)))
        .count();
    assert!(again >= 3, "{again}");
    // From now on it is the same experiment.
    let mut same = changed(false);
    same.steps = 50;
    assert_eq!(run(same, &judges).unwrap().tasks[0].progress.steps, 50);
    let once_more = events(&directory, "softmax");
    assert!(
        !matches!(once_more[after.len()], Event::Judged(_)),
        "measured again only once"
    );
}

#[test]
fn rejudging_elites_is_retried() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    run(
        options(&directory, &["softmax"], 30),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let before = events(&directory, "softmax").len();
    // The search has stopped, so nothing else judges these steps.
    let mut changed = options(&directory, &["softmax"], 30);
    changed.record.kforge = "0.0.1".to_owned();
    changed.start = StartMode::Resume {
        accept_changes: true,
    };
    run(changed, &judges_that_fail_twice()).unwrap();
    let judged = |event: &&Event| matches!(event, Event::Judged(_));
    let again = events(&directory, "softmax");
    let again = again[before..].iter().filter(judged).count();
    assert!(again >= 3, "{again}");
}

#[test]
fn elites_are_judged_again_only_while_there_is_time() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = judges(Duration::ZERO);
    run(options(&directory, &["softmax"], 30), &judges).unwrap();
    let judged_again = |accept_changes, budget| {
        let before = events(&directory, "softmax").len();
        let mut changed = options(&directory, &["softmax"], 30);
        changed.record.kforge = "0.0.1".to_owned();
        changed.start = StartMode::Resume { accept_changes };
        changed.budget = budget;
        run(changed, &judges).unwrap();
        let after = events(&directory, "softmax");
        let judged = |event: &&Event| matches!(event, Event::Judged(_));
        after[before..].iter().filter(judged).count()
    };
    // The steps have taken longer than this.
    assert_eq!(judged_again(true, Some(Duration::from_millis(1))), 0);
    assert!(judged_again(false, None) >= 3);
    assert_eq!(judged_again(false, None), 0);
}

#[test]
fn after_a_change_of_device_only_new_figures_count() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = judges(Duration::ZERO);
    let summary = || -> serde_json::Value {
        let text = std::fs::read_to_string(directory.join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    run(options(&directory, &["softmax"], 60), &judges).unwrap();
    let before = events(&directory, "softmax").len();
    let old = summary()["tasks"][0].clone();

    let on_another = |accept_changes, steps| {
        let mut changed = options(&directory, &["softmax"], steps);
        changed.record.device.name = "another".to_owned();
        changed.start = StartMode::Resume { accept_changes };
        run(changed, &judges).unwrap()
    };
    on_another(true, 90);
    let journal = events(&directory, "softmax");
    let new: BTreeSet<u64> = (journal[before..].iter())
        .filter_map(|event| match event {
            Event::Judged(judged) if judged.verdict.passed() => Some(judged.step),
            _ => None,
        })
        .collect();
    let starts = journal.iter().filter(|event| {
        matches!(event, Event::Asked(brief) if brief.operator == Operator::Start && new.contains(&brief.step))
    });
    let task = summary()["tasks"][0].clone();
    assert_eq!(
        task["figures"]["passed"].as_u64().unwrap(),
        (new.len() - starts.count()) as u64,
        "{task:#}"
    );
    assert!(
        task["passed"].as_u64() > old["passed"].as_u64(),
        "all of them passed"
    );

    // A resume reads the same from the journal, and has nothing to do.
    on_another(false, 90);
    assert_eq!(events(&directory, "softmax"), journal);
    assert_eq!(summary()["tasks"][0]["figures"], task["figures"]);
}

#[test]
fn new_run_needs_a_free_directory_and_resume_an_existing_run() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let mut missing = options(&directory, &["softmax"], 5);
    missing.start = StartMode::Resume {
        accept_changes: false,
    };
    let error = run(missing, &judges(Duration::ZERO))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not a run"), "{error}");
    assert!(!directory.exists());
    run(
        options(&directory, &["softmax"], 5),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let mut new = options(&directory, &["softmax"], 5);
    new.start = StartMode::New;
    let error = run(new, &judges(Duration::ZERO)).unwrap_err().to_string();
    assert!(
        error.contains("already holds a run") && error.contains("kforge resume"),
        "{error}"
    );
}

#[test]
fn damaged_journal_is_an_error_with_its_line() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    run(
        options(&directory, &["softmax"], 10),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let path = directory.join("softmax/events.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"seq\":7,", "\"seq\":8,", "softmax/events.jsonl:7:"),
        (
            "{\"schema\":1,\"seq\":9,",
            "{\"schema\":2,\"seq\":9,",
            ":9: written by a newer kforge",
        ),
        (
            "\"operator\":\"start\"",
            "\"operator\":\"mutate\"",
            "would now be asked as `start`",
        ),
    ] {
        std::fs::write(&path, whole.replacen(from, to, 1)).unwrap();
        let error = run(
            options(&directory, &["softmax"], 12),
            &judges(Duration::ZERO),
        )
        .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(
            error.downcast_ref::<Failure>().unwrap().kind,
            FailureKind::Usage
        );
    }
    std::fs::write(&path, &whole).unwrap();
    run(
        options(&directory, &["softmax"], 12),
        &judges(Duration::ZERO),
    )
    .unwrap();
}
