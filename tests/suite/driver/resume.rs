//! Nothing paid for is lost: a run that is killed, cut, resumed or extended ends like an undisturbed one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kforge::base::{Failure, RandomStream};
use kforge::event::Event;
use kforge::search::{FoldOrder, Strategy};

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, judges, options, options_in, step_options,
};
use crate::driver::{STEP_ORDER, events, process, run, state};

/// Maximum time of a scripted verdict in the processes that are killed.
const MAX_VERDICT_DELAY: Duration = Duration::from_millis(8);

#[test]
fn kills_do_not_change_the_result_in_step_order() {
    kill_often(15, |directory, steps| {
        let mut command = process(directory, steps, MAX_VERDICT_DELAY);
        command.env(STEP_ORDER, "");
        command
    });
}

#[test]
fn after_kills_the_journal_leads_to_every_brief() {
    kill_often(35, |directory, steps| {
        process(directory, steps, MAX_VERDICT_DELAY)
    });
}

/// Kills runs at random instants and resumes them. In step order their states are equal to that of a run without kills.
fn kill_often(wanted_kills: u64, process: impl Fn(&Path, u64) -> Command) {
    const STEPS: u64 = 120;
    let root = tempfile::tempdir().unwrap();
    let reference = root.path().join("reference");
    let start = Instant::now();
    assert!(process(&reference, STEPS).status().unwrap().success());
    let run_time = start.elapsed();
    let expected = state(&reference, "softmax", STEPS);
    let record = std::fs::read_to_string(reference.join("run.yaml")).unwrap();
    let in_step_order = record.contains("order: step");

    let seed = kforge::base::random::fresh_seed();
    eprintln!("seed of the kill times: {seed}");
    let mut stream = RandomStream::new(seed, "kill", 0);
    let mut kills = 0;
    let mut rounds = 0;
    while kills < wanted_kills {
        rounds += 1;
        let directory = root.path().join(format!("killed-{rounds}"));
        let mut killed_here = 0;
        loop {
            let mut child = process(&directory, STEPS).spawn().unwrap();
            let instant = Instant::now() + run_time.mul_f64(0.25 * stream.uniform());
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if Instant::now() >= instant && kills < wanted_kills {
                    break None;
                }
                std::thread::sleep(Duration::from_micros(200));
            };
            match ended {
                Some(status) => {
                    assert!(status.success());
                    break;
                }
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                    killed_here += 1;
                }
            }
        }
        let found = state(&directory, "softmax", STEPS);
        assert!(!in_step_order || found == expected, "{found}");
        assert_judged_once(&directory, killed_here);
    }
}

/// No step has two verdicts, and only steps that were being judged at a kill were judged again.
fn assert_judged_once(directory: &Path, kills: usize) {
    let mut judged = BTreeSet::new();
    let mut confirmed = BTreeSet::new();
    for event in events(directory, "softmax") {
        match event {
            Event::Judged(event) => assert!(judged.insert(event.step), "step {} twice", event.step),
            Event::Confirmed(event) => assert!(confirmed.insert(event.step)),
            _ => {}
        }
    }
    let log = std::fs::read_to_string(directory.with_extension("log")).unwrap();
    assert!(
        !log.contains("again"),
        "judged although the journal has the verdict: {log}"
    );
    let jobs = log
        .lines()
        .filter(|line| line.starts_with("judge "))
        .count();
    assert!(
        jobs >= judged.len() && jobs <= judged.len() + 4 * kills,
        "{jobs} jobs for {} verdicts, {kills} kills",
        judged.len()
    );
}

#[test]
fn journal_cut_anywhere_resumes_to_the_same_result_in_step_order() {
    const STEPS: u64 = 10;
    let root = folder_in_memory();
    let whole = root.path().join("whole");
    run(step_options(&whole, STEPS), &short_verdict_judges()).unwrap();
    let expected = state(&whole, "softmax", STEPS);
    let journal = std::fs::read(whole.join("softmax/events.jsonl")).unwrap();
    let ends: Vec<_> = (1..=journal.len())
        .filter(|end| journal[end - 1] == b'\n')
        .collect();
    // The last three records of the search itself. The `stopped` event and the confirmations follow.
    let text = String::from_utf8(journal.clone()).unwrap();
    let searched = text
        .lines()
        .filter(|line| line.contains("\"event\":\"judged\""))
        .count();
    assert!(searched > 3);
    let stopped = text
        .lines()
        .position(|line| line.contains("\"event\":\"stopped\""))
        .unwrap();
    let last = ends[ends.len() - 4]..=journal.len();
    let search_end = ends[stopped - 4]..ends[stopped - 1];
    let mut cuts: Vec<_> = last.chain(search_end).collect();
    assert!(cuts.len() > 2000);
    // A cut within a line loses that line wherever it is, which `run::journal` tests for every byte. A run is resumed from the first and
    // the last bytes of each line, and from some between them.
    if std::env::var_os("KFORGE_TEST_ALL").is_none() {
        let is_near_an_end = |cut: &usize| ends.iter().any(|end| end.abs_diff(*cut) <= 4);
        cuts.retain(|cut| is_near_an_end(cut) || cut.is_multiple_of(16));
    }
    std::thread::scope(|scope| {
        for (worker, cuts) in cuts.chunks(cuts.len().div_ceil(2)).enumerate() {
            let copy = root.path().join(format!("cut-{worker}"));
            let (whole, journal, expected) = (&whole, &journal, &expected);
            scope.spawn(move || {
                for cut in cuts {
                    copy_folder(whole, &copy);
                    std::fs::write(copy.join("softmax/events.jsonl"), &journal[..*cut]).unwrap();
                    run(options(&copy, &["softmax"], STEPS), &short_verdict_judges()).unwrap();
                    assert_eq!(state(&copy, "softmax", STEPS), *expected, "cut at {cut}");
                    std::fs::remove_dir_all(&copy).unwrap();
                }
            });
        }
    });
}

#[test]
fn journal_cut_after_any_line_leads_to_every_brief() {
    const STEPS: u64 = 40;
    let root = folder_in_memory();
    let whole = root.path().join("whole");
    let judges = judges(Duration::from_millis(2));
    run(options(&whole, &["softmax"], STEPS), &judges).unwrap();
    let expected = state(&whole, "softmax", STEPS);
    let journal = std::fs::read_to_string(whole.join("softmax/events.jsonl")).unwrap();
    let lines: Vec<_> = journal.split_inclusive('\n').collect();
    let stopped = lines
        .iter()
        .position(|line| line.contains("\"event\":\"stopped\""));
    let copy = root.path().join("cut");
    for cut in (0..=lines.len()).step_by(3) {
        copy_folder(&whole, &copy);
        let kept = lines[..cut].concat();
        std::fs::write(copy.join("softmax/events.jsonl"), &kept).unwrap();
        run(options(&copy, &["softmax"], STEPS), &judges).unwrap();
        let found = state(&copy, "softmax", STEPS);
        // Once every answer is in the journal, nothing is left to chance.
        assert!(Some(cut) < stopped || found == expected, "cut at {cut}");
        let resumed = std::fs::read_to_string(copy.join("softmax/events.jsonl")).unwrap();
        assert!(resumed.starts_with(&kept), "cut at {cut}");
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn run_of_an_earlier_version_stays_in_step_order() {
    let root = tempfile::tempdir().unwrap();
    let (whole, old) = (root.path().join("whole"), root.path().join("old"));
    let judges = judges(Duration::from_millis(2));
    run(step_options(&whole, 40), &judges).unwrap();
    run(step_options(&old, 25), &judges).unwrap();
    // Earlier versions recorded no order.
    let record = std::fs::read_to_string(old.join("run.yaml")).unwrap();
    let record = record.replace("order: step\n", "");
    std::fs::write(old.join("run.yaml"), record).unwrap();
    let error = run(
        options_in(FoldOrder::Journal, &old, &["softmax"], 40),
        &judges,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`order` was \"step\""), "{error}");
    run(step_options(&old, 40), &judges).unwrap();
    assert_eq!(state(&old, "softmax", 40), state(&whole, "softmax", 40));
    let record = std::fs::read_to_string(old.join("run.yaml")).unwrap();
    assert!(record.contains("order: step\n"), "{record}");
}

#[test]
fn every_strategy_and_islands_resume_to_the_same_result() {
    const STEPS: u64 = 40;
    let root = folder_in_memory();
    let with_strategy = |directory: &Path, (strategy, islands): (Strategy, usize)| {
        let mut options = step_options(directory, STEPS);
        options.search.strategy = strategy;
        options.search.islands.count = islands as u64;
        options.search.islands.migrate_every = 3;
        options.search.islands.restart_after = 6;
        options.record.config["search"] = serde_json::to_value(&options.search).unwrap();
        options
    };
    for strategy in [
        (Strategy::ElitePool, 1),
        (Strategy::MuPlusLambda, 1),
        (Strategy::Beam, 1),
        (Strategy::Random, 1),
        (Strategy::MapElites, 3),
    ] {
        let whole = root.path().join(format!("{strategy:?}"));
        run(with_strategy(&whole, strategy), &short_verdict_judges()).unwrap();
        let summary = std::fs::read_to_string(whole.join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        let islands = summary["tasks"][0]["islands"].as_array().cloned();
        let steps = |island: &serde_json::Value| island["steps"].as_u64();
        let islands: Vec<_> = islands.iter().flatten().filter_map(steps).collect();
        match strategy {
            (_, 1) => assert!(islands.is_empty()),
            (_, count) => assert_eq!(islands.len(), count),
        }
        let expected = state(&whole, "softmax", STEPS);
        let journal = std::fs::read_to_string(whole.join("softmax/events.jsonl")).unwrap();
        let lines: Vec<&str> = journal.split_inclusive('\n').collect();
        for part in 1..5 {
            let copy = root.path().join("cut");
            copy_folder(&whole, &copy);
            let kept = lines[..lines.len() * part / 5].concat();
            std::fs::write(copy.join("softmax/events.jsonl"), kept).unwrap();
            run(with_strategy(&copy, strategy), &short_verdict_judges()).unwrap();
            assert_eq!(
                state(&copy, "softmax", STEPS),
                expected,
                "{strategy:?}, part {part}"
            );
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
}

/// Judges with short verdicts, so that there are not too many places to cut.
fn short_verdict_judges() -> ScriptedJudges {
    ScriptedJudges(Box::new(|_| {
        Ok(ScriptedJudge {
            without_workloads: true,
            ..ScriptedJudge::default()
        })
    }))
}

/// A folder in memory if the system has one: thousands of runs would keep a disk busy for minutes.
pub(crate) fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn order_of_verdicts_does_not_change_the_briefs_in_step_order() {
    let root = tempfile::tempdir().unwrap();
    let states = [0, 3, 9].map(|milliseconds| {
        let directory = root.path().join(format!("{milliseconds}"));
        let delay = Duration::from_millis(milliseconds);
        run(step_options(&directory, 80), &judges(delay)).unwrap();
        state(&directory, "softmax", 80)
    });
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0], states[2]);
    // The run contains every kind of step.
    for word in [
        "Autotune",
        "Mutate",
        "Recombine",
        "NoOp",
        "Duplicate",
        "WrongOutput",
    ] {
        assert!(states[0].contains(word), "no {word}: {}", states[0]);
    }
}

#[test]
fn extended_run_equals_a_longer_run_in_step_order() {
    let root = tempfile::tempdir().unwrap();
    let (planned, extended) = (root.path().join("planned"), root.path().join("extended"));
    let judges = judges(Duration::from_millis(2));
    run(step_options(&planned, 40), &judges).unwrap();
    let first = run(step_options(&extended, 25), &judges).unwrap();
    assert_eq!(first.tasks[0].progress.steps, 25);
    let second = run(options(&extended, &["softmax"], 40), &judges).unwrap();
    assert_eq!(second.tasks[0].progress.steps, 40);
    assert_eq!(
        state(&extended, "softmax", 40),
        state(&planned, "softmax", 40)
    );
}

#[test]
fn resume_works_only_on_unfinished_tasks() {
    let root = tempfile::tempdir().unwrap();
    let halved = root.path().join("halved");
    let tasks = ["softmax", "rmsnorm"];
    // The compiler disappears during the second task.
    let failing = ScriptedJudges(Box::new(|task| {
        let second = task.name == "rmsnorm";
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| match job.step {
                15.. if second => Err(Failure::environment("the compiler is gone").into()),
                _ => Ok(None),
            })),
            ..ScriptedJudge::default()
        })
    }));
    let error = run(options(&halved, &tasks, 30), &failing).unwrap_err();
    assert_eq!(error.to_string(), "the compiler is gone");
    let finished = std::fs::read(halved.join("softmax/events.jsonl")).unwrap();
    let done = events(&halved, "rmsnorm");
    let judged = |event: &&Event| matches!(event, Event::Judged(_));
    assert!((5..15).contains(&done.iter().filter(judged).count()));

    let only_second = ScriptedJudges(Box::new(|task| {
        assert_eq!(task.name, "rmsnorm", "a finished task needs no judge");
        Ok(ScriptedJudge::default())
    }));
    let ended = run(options(&halved, &tasks, 30), &only_second).unwrap();
    assert_eq!(ended.tasks.len(), 2);
    let confirmed = |task: &kforge::driver::TaskEnd| task.best().is_some();
    assert!(ended.tasks.iter().all(confirmed));
    assert_eq!(
        std::fs::read(halved.join("softmax/events.jsonl")).unwrap(),
        finished
    );
    for task in tasks {
        state(&halved, task, 30);
    }
    // Both are finished: nothing is judged, and a smaller number of steps changes nothing.
    let no_judge = ScriptedJudges(Box::new(|task| panic!("{} is finished", task.name)));
    let ended = run(options(&halved, &tasks, 12), &no_judge).unwrap();
    assert!(ended.tasks.iter().all(|task| task.progress.steps == 30));
}
