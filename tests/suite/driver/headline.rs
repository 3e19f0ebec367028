//! What a run reports as its best: only a kernel that is confirmed to be faster than the baseline. The confirmations are scripted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kforge::driver::{RunEnd, RunOptions};
use kforge::event::Event;
use kforge::report::Standing;
use kforge::verdict::{Duel, Speedup, Status};
use kforge::worker::{Job, JobKind, JobOutcome};
use serde_json::Value;
use tokio::sync::watch;

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, judges, options, run_until, task, verdict,
};
use crate::driver::{PROPOSER, events, run};

/// How a confirmation ends.
#[derive(Clone, Copy, Debug)]
enum Confirmation {
    /// Passed with this speedup, ± 1 %.
    Passed(f64),
    TooNoisy,
    Race,
}

/// Judges whose confirmations end as `confirm` says, which gets the number of the confirmation, from 0, and the search's speedup.
fn confirming(
    confirm: impl Fn(usize, f64) -> Confirmation + Send + Sync + Copy + 'static,
) -> ScriptedJudges {
    ScriptedJudges(Box::new(move |_| {
        let number = AtomicUsize::new(0);
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                if !matches!(job.kind, JobKind::Confirm) {
                    return Ok(None);
                }
                let number = number.fetch_add(1, Ordering::Relaxed);
                let searched = verdict(&job.source, 1, false).speedup.unwrap().geomean;
                Ok(Some(confirmed(job, confirm(number, searched))))
            })),
            ..ScriptedJudge::default()
        })
    }))
}

fn confirmed(job: &Job, end: Confirmation) -> JobOutcome {
    let mut verdict = verdict(&job.source, 1, true);
    verdict.confirmed = matches!(end, Confirmation::Passed(_));
    (verdict.status, verdict.speedup) = match end {
        Confirmation::Passed(geomean) => (
            Status::Passed,
            Some(Speedup {
                geomean,
                ci95: [geomean * 0.99, geomean * 1.01],
            }),
        ),
        Confirmation::TooNoisy => (Status::Inconclusive, None),
        Confirmation::Race => (Status::Race, None),
    };
    JobOutcome::Verdict {
        verdict: Box::new(verdict),
        compile_log: String::new(),
        report: None,
    }
}

fn softmax(directory: &Path, steps: u64) -> RunOptions {
    options(directory, &["softmax"], steps)
}

/// The entry of the only task in `summary.json`.
fn task_summary(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    summary["tasks"][0].clone()
}

fn best_json(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("softmax/best.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn standing(ended: &RunEnd) -> Standing {
    ended.tasks[0].progress.best.unwrap().standing
}

/// The number of confirmations in the journal.
fn confirmations(directory: &Path) -> usize {
    let events = events(directory, "softmax");
    let confirmed = |event: &&Event| matches!(event, Event::Confirmed(_));
    events.iter().filter(confirmed).count()
}

#[test]
fn slow_confirmed_kernel_is_not_the_best_of_faster_noisy_ones() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    // What was fast was too noisy, and something slow was confirmed.
    let judges = confirming(|number, _| match number {
        0 | 1 => Confirmation::TooNoisy,
        _ => Confirmation::Passed(0.083),
    });
    let ended = run(softmax(&directory, 30), &judges).unwrap();
    assert!(ended.tasks[0].best().is_none());
    assert_eq!(standing(&ended), Standing::TooNoisy);

    let summary = task_summary(&directory);
    assert_eq!(summary["best"], Value::Null);
    let unconfirmed = &summary["best_unconfirmed"];
    assert_eq!(unconfirmed["why"], "too_noisy", "{summary}");
    assert_eq!(unconfirmed["confirmed"], false);
    assert_eq!(unconfirmed["kernel"], "softmax/best.cu");
    assert!(unconfirmed["speedup"]["geomean"].as_f64().unwrap() > 1.5);
    let remedy = unconfirmed["remedy"].as_str().unwrap();
    for part in ["kforge resume", "eval.seconds=", "--accept-changes"] {
        assert!(remedy.contains(part), "{remedy}");
    }
    let headline = summary["headline"].as_str().unwrap();
    assert!(
        headline.starts_with("no kernel confirmed faster than the baseline (~")
            && headline.ends_with(": too noisy)"),
        "{headline}"
    );
    let best = best_json(&directory);
    let note = best["unconfirmed"].as_str().unwrap();
    assert!(note.ends_with("too noisy to confirm"), "{note}");
    assert_eq!(best["confirmed"], false);
    assert_eq!(
        best.as_object().unwrap().keys().next().unwrap(),
        "unconfirmed"
    );
    assert_eq!(summary["against_start"], Value::Null);
}

#[test]
fn confirmed_kernels_that_are_not_faster_are_no_result() {
    for (speedup, why, words) in [
        (0.7, "slower", "slower"),
        (1.005, "not_clear", "not clearly faster"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run");
        // A constant for each, because the judge is a plain function.
        let judges = match why {
            "slower" => confirming(|_, _| Confirmation::Passed(0.7)),
            _ => confirming(|_, _| Confirmation::Passed(1.005)),
        };
        let ended = run(softmax(&directory, 30), &judges).unwrap();
        assert!(ended.tasks[0].best().is_none(), "{why}");
        let unconfirmed = &task_summary(&directory)["best_unconfirmed"];
        assert_eq!(unconfirmed["why"], why);
        assert_eq!(unconfirmed["confirmed"], true);
        assert_eq!(unconfirmed["speedup"]["geomean"], speedup);
        let best = best_json(&directory);
        assert!(best["unconfirmed"].as_str().unwrap().contains(words));
        // `best.json` has the verdict of the confirmation, to which the figure belongs.
        assert_eq!(best["speedup"]["geomean"], speedup);
    }
}

#[test]
fn search_figure_does_not_rank_before_a_confirmed_one() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    // The search's favourite is slower than the second when both are confirmed, and the third is too noisy.
    let judges = confirming(|number, searched| match number {
        0 => Confirmation::Passed(1.2),
        1 => Confirmation::Passed(1.4),
        2 => Confirmation::TooNoisy,
        _ => Confirmation::Passed(searched),
    });
    let ended = run(softmax(&directory, 30), &judges).unwrap();
    let task = &ended.tasks[0];
    let elites = &task.results.elites;
    let confirmed: Vec<_> = elites
        .iter()
        .map_while(|elite| elite.confirmed)
        .map(|speedup| speedup.geomean)
        .collect();
    assert_eq!(confirmed.len(), 3);
    assert!(confirmed.is_sorted_by(|one, other| one >= other));
    let rest = &elites[confirmed.len()..];
    assert!(rest.iter().all(|elite| elite.confirmed.is_none()));
    assert!(rest.is_sorted_by(|one, other| one.measured.geomean >= other.measured.geomean));
    assert!(rest[0].too_noisy && rest[0].measured.geomean > confirmed[1]);
    assert_eq!(
        task.best().map(|best| best.speedup.geomean),
        Some(confirmed[0])
    );
    assert_eq!(best_json(&directory).get("unconfirmed"), None);
}

#[test]
fn surely_slower_kernel_is_not_confirmed_in_place_of_a_noisy_one() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = confirming(|_, searched| {
        assert!(searched > 0.97, "{searched} was confirmed");
        Confirmation::TooNoisy
    });
    run(softmax(&directory, 60), &judges).unwrap();
    assert!(confirmations(&directory) > 3);
}

#[test]
fn resume_tries_noisy_confirmations_again_until_one_is_faster() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    run(
        softmax(&directory, 30),
        &confirming(|_, _| Confirmation::TooNoisy),
    )
    .unwrap();
    let before = confirmations(&directory);
    let ended = run(
        softmax(&directory, 30),
        &confirming(|number, searched| match number {
            0 => Confirmation::Passed(searched),
            _ => Confirmation::TooNoisy,
        }),
    )
    .unwrap();
    assert!(ended.tasks[0].best().is_some());
    assert!(confirmations(&directory) > before);
    let summary = task_summary(&directory);
    assert_eq!(summary["best"]["confirmed"], true);
    assert_eq!(summary["best_unconfirmed"], Value::Null);
    // Now there is a result: nothing is left to do, although others are still too noisy.
    let no_judge = ScriptedJudges(Box::new(|_| panic!("the run is finished")));
    let ended = run(softmax(&directory, 30), &no_judge).unwrap();
    assert!(ended.tasks[0].did_nothing && ended.tasks[0].best().is_some());
}

#[test]
fn refuted_kernels_leave_no_best_file() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    run(
        softmax(&directory, 12),
        &confirming(|_, _| Confirmation::Race),
    )
    .unwrap();
    let summary = task_summary(&directory);
    assert_eq!(
        (&summary["best"], &summary["best_unconfirmed"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        summary["headline"],
        "no kernel confirmed faster than the baseline (nothing passed)"
    );
    assert!(!directory.join("softmax/best.cu").exists());
}

/// Interrupts a run as soon as an evaluation of this kind starts, which then never ends.
fn interrupt_at(directory: &Path, at: fn(&JobKind) -> bool) -> RunEnd {
    let (sender, receiver) = watch::channel(false);
    let sender = Arc::new(sender);
    let judges = ScriptedJudges(Box::new(move |_| {
        let sender = sender.clone();
        let judged = AtomicUsize::new(0);
        Ok(ScriptedJudge {
            // The signal arrives before the outcome.
            delay: Duration::from_millis(1),
            intercept: Some(Box::new(move |job| {
                let is_late = judged.fetch_add(1, Ordering::Relaxed) > 12;
                if is_late && at(&job.kind) {
                    sender.send_replace(true);
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(None)
            })),
            ..ScriptedJudge::default()
        })
    }));
    let ended = run_until(softmax(directory, 40), PROPOSER, &judges, || receiver).unwrap();
    assert!(ended.interrupted);
    ended
}

#[test]
fn interrupted_run_says_that_its_best_kernel_is_unconfirmed() {
    for at in [
        (|kind| matches!(kind, JobKind::Judge)) as fn(&JobKind) -> bool,
        |kind| matches!(kind, JobKind::Confirm),
    ] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run");
        let ended = interrupt_at(&directory, at);
        if ended.tasks[0].best().is_some() {
            // The outcome of the first confirmation arrived with the signal.
            continue;
        }
        let summary = task_summary(&directory);
        assert_eq!(summary["best"], Value::Null);
        assert_eq!(summary["best_unconfirmed"]["why"], "interrupted");
        assert!(
            summary["headline"]
                .as_str()
                .unwrap()
                .ends_with(": interrupted)")
        );
        let note = best_json(&directory)["unconfirmed"].clone();
        assert!(
            note.as_str().unwrap().ends_with("not measured again"),
            "{note}"
        );
        // A resume confirms it, and the note is gone.
        let ended = run(softmax(&directory, 40), &judges(Duration::ZERO)).unwrap();
        assert!(ended.tasks[0].best().is_some());
        assert_eq!(best_json(&directory).get("unconfirmed"), None);
    }
}

/// Judges that count the comparisons in `count`, and whose duels have this ratio.
fn comparing(count: &Arc<AtomicUsize>, ratio: Option<f64>) -> ScriptedJudges {
    let count = count.clone();
    ScriptedJudges(Box::new(move |_| {
        let count = count.clone();
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                let JobKind::Compare { against } = &job.kind else {
                    return Ok(None);
                };
                count.fetch_add(1, Ordering::Relaxed);
                assert_ne!(job.source, *against);
                Ok(Some(JobOutcome::Duel {
                    duel: ratio.map(|ratio| Duel {
                        ratio,
                        ci95: [ratio * 0.99, ratio * 1.01],
                    }),
                    device_seconds: 0.0,
                }))
            })),
            ..ScriptedJudge::default()
        })
    }))
}

#[test]
fn best_kernel_is_compared_with_the_best_starting_kernel_once() {
    for ratio in [Some(1.3), Some(0.9), None] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run");
        let count = Arc::new(AtomicUsize::new(0));
        let ended = run(softmax(&directory, 40), &comparing(&count, ratio)).unwrap();
        let best = ended.tasks[0].best().unwrap();
        let names: Vec<_> = task("softmax")
            .starting_kernels()
            .map(|(name, _)| name.to_owned())
            .collect();
        assert!(
            best.step > names.len() as u64,
            "the test needs a new kernel"
        );
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let compared = ended.tasks[0].progress.comparison.clone().unwrap();
        assert_eq!(compared.step, best.step);
        assert_eq!(compared.duel.map(|duel| duel.ratio), ratio);
        assert_eq!(compared.kernel, names[compared.against as usize - 1]);
        let fastest = ended.tasks[0].results.starts.iter().max_by(|one, other| {
            let speed = |start: &kforge::report::StartingKernelResult| {
                start.measured.map_or(0.0, |speedup| speedup.geomean)
            };
            speed(one).total_cmp(&speed(other))
        });
        assert_eq!(fastest.unwrap().step, compared.against);
        let summary = task_summary(&directory);
        assert_eq!(summary["against_start"]["step"], best.step);
        assert_eq!(summary["against_start"]["against"], compared.against);
        // Nothing is left to do, and the journal has the result.
        let again = run(softmax(&directory, 40), &comparing(&count, Some(9.0))).unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(again.tasks[0].progress.comparison, Some(compared));
    }
}

#[test]
fn starting_kernel_that_is_the_best_is_compared_with_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let count = Arc::new(AtomicUsize::new(0));
    let ended = run(softmax(&directory, 3), &comparing(&count, Some(1.0))).unwrap();
    assert!(ended.tasks[0].best().is_some_and(|best| best.step <= 3));
    assert_eq!(count.load(Ordering::Relaxed), 0);
    assert_eq!(task_summary(&directory)["against_start"], Value::Null);
}

#[test]
fn interrupted_comparison_is_made_by_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let ended = interrupt_at(&directory, |kind| matches!(kind, JobKind::Compare { .. }));
    assert!(ended.tasks[0].best().is_some(), "it was confirmed before");
    let before = confirmations(&directory);
    let ended = run(softmax(&directory, 40), &judges(Duration::ZERO)).unwrap();
    assert!(ended.tasks[0].progress.comparison.is_some());
    assert_eq!(confirmations(&directory), before);
}

#[test]
fn failed_comparison_does_not_fail_the_run() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let judges = ScriptedJudges(Box::new(|_| {
        Ok(ScriptedJudge {
            intercept: Some(Box::new(|job| match job.kind {
                JobKind::Compare { .. } => anyhow::bail!("the worker ended early"),
                _ => Ok(None),
            })),
            ..ScriptedJudge::default()
        })
    }));
    let ended = run(softmax(&directory, 40), &judges).unwrap();
    assert!(ended.tasks[0].best().is_some());
    assert_eq!(ended.tasks[0].progress.comparison, None);
}
