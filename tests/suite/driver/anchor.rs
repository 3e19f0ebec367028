//! The starting kernel that candidates are timed against: which one, which jobs get it, and that a resume keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kforge::driver::{RunOptions, StartMode};
use kforge::event::Event;
use kforge::search::{Anchor, Incumbents};
use kforge::verdict::{Speedup, Status, Timing};
use kforge::worker::{Job, JobKind, JobOutcome};

use crate::driver::racing::{Jobs, judges, outcome, starts};
use crate::driver::scripted::{options, verdict};
use crate::driver::{events, run, state};

const STEPS: u64 = 30;

/// A starting kernel with this speedup and half width. All of them are of one kind, so that only the fastest is an elite.
fn start(job: &Job, speedup: f64, half_width: f64) -> Option<JobOutcome> {
    if job.step > starts() {
        return None;
    }
    let mut found = verdict(&job.source, 2, false);
    found.timing = Some(Timing::Full);
    found.features = [("block_threads", 64.0), ("vector_bytes", 4.0)]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    found.speedup = Some(Speedup {
        geomean: speedup,
        ci95: [
            speedup / f64::exp(half_width),
            speedup * f64::exp(half_width),
        ],
    });
    Some(outcome(found))
}

/// Starting kernels with 6x, 7x and 8x.
fn fast_starts(job: &Job) -> Option<JobOutcome> {
    start(job, 5.0 + job.step as f64, 0.005)
}

fn candidates(jobs: &Jobs) -> Vec<Job> {
    let jobs = jobs.lock().unwrap();
    let is_candidate = |job: &&Job| matches!(job.kind, JobKind::Judge) && job.step > starts();
    jobs.iter().filter(is_candidate).cloned().collect()
}

fn anchors(jobs: &Jobs) -> Vec<Option<Anchor>> {
    let jobs = candidates(jobs).into_iter();
    jobs.map(|job| job.rivals.anchor).collect()
}

#[test]
fn candidates_are_timed_against_the_fastest_starting_kernel() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::default();
    let options = options(&root.path().join("run"), &["softmax"], STEPS);
    let (name, _) = options.tasks[0].starting_kernels().last().unwrap();
    let name = name.to_owned();
    run(options, &judges(&jobs, fast_starts)).unwrap();
    let found = anchors(&jobs);
    let anchor = found.last().unwrap().clone().unwrap();
    assert_eq!((anchor.step, anchor.speedup), (3, 8.0));
    assert_eq!(anchor.kernel, name);
    let ids: Vec<_> = anchor.workloads.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["w0", "w1"]);
    // None only while a starting kernel is not folded.
    let first = found.iter().position(Option::is_some).unwrap();
    assert!(first <= 4 && found.len() > 10, "{first} of {}", found.len());
    assert!(
        found[first..]
            .iter()
            .all(|one| one.as_ref() == Some(&anchor))
    );
    for job in jobs.lock().unwrap().iter() {
        let is_start = matches!(job.kind, JobKind::Judge) && job.step <= starts();
        if job.step == 3 && is_start {
            assert_eq!(*job.source, *anchor.source);
        }
        if is_start || !matches!(job.kind, JobKind::Judge) {
            assert_eq!(job.rivals.anchor, None, "{:?} of {}", job.kind, job.step);
        }
    }
}

#[test]
fn resumed_run_has_the_same_anchor() {
    let root = crate::driver::resume::folder_in_memory();
    let whole = root.path().join("whole");
    let jobs = Jobs::default();
    run(
        options(&whole, &["softmax"], STEPS),
        &judges(&jobs, fast_starts),
    )
    .unwrap();
    let anchor = anchors(&jobs).pop().unwrap().unwrap();
    let journal = std::fs::read(whole.join("softmax/events.jsonl")).unwrap();
    let ends: Vec<_> = (1..=journal.len())
        .filter(|end| journal[end - 1] == b'\n')
        .collect();
    for end in ends.iter().step_by(11) {
        let copy = root.path().join("copy");
        crate::driver::resume::copy_folder(&whole, &copy);
        std::fs::write(copy.join("softmax/events.jsonl"), &journal[..*end]).unwrap();
        let judged = events(&copy, "softmax");
        let has_verdict = |step| {
            judged
                .iter()
                .any(|event| matches!(event, Event::Judged(judged) if judged.step == step))
        };
        let starts_are_judged = (1..=starts()).all(has_verdict);
        let jobs = Jobs::default();
        run(
            options(&copy, &["softmax"], STEPS),
            &judges(&jobs, fast_starts),
        )
        .unwrap();
        state(&copy, "softmax", STEPS);
        for found in anchors(&jobs) {
            assert!(found.is_some() || !starts_are_judged, "cut at {end}");
            assert!(found.is_none_or(|found| found == anchor), "cut at {end}");
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn without_a_fast_start_that_is_known_well_there_is_no_anchor() {
    let root = tempfile::tempdir().unwrap();
    let judge = |speedup: f64, half_width: f64| move |job: &Job| start(job, speedup, half_width);
    for (index, (speedup, half_width, racing, expected)) in [
        (3.1, 0.015, true, true),
        (3.1, 0.015, false, false),
        (2.9, 0.005, true, false),
        (8.0, 0.03, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let jobs = Jobs::default();
        let directory = root.path().join(format!("run-{index}"));
        let options = RunOptions {
            racing,
            ..options(&directory, &["softmax"], STEPS)
        };
        run(options, &judges(&jobs, judge(speedup, half_width))).unwrap();
        let has_anchor = anchors(&jobs).iter().any(Option::is_some);
        assert_eq!(has_anchor, expected, "{speedup} {half_width} {racing}");
    }
}

#[test]
fn candidate_is_judged_without_the_anchor_after_a_fault_of_the_judge() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let jobs = Jobs::default();
    let judge = |job: &Job| {
        if job.rivals.anchor.is_none() || !job.step.is_multiple_of(5) {
            return fast_starts(job);
        }
        let mut found = verdict(&job.source, 2, false);
        found.status = Status::HarnessError;
        found.speedup = None;
        Some(outcome(found))
    };
    run(
        options(&directory, &["softmax"], STEPS),
        &judges(&jobs, judge),
    )
    .unwrap();
    let candidates = candidates(&jobs);
    let mut faults = 0;
    for job in candidates.iter().filter(|job| job.rivals.anchor.is_some()) {
        let tries = candidates.iter().filter(|other| other.step == job.step);
        let anchored: Vec<_> = tries.map(|other| other.rivals.anchor.is_some()).collect();
        if job.step.is_multiple_of(5) {
            faults += 1;
            assert_eq!(anchored, [true, false], "step {}", job.step);
        } else {
            assert_eq!(anchored, [true], "step {}", job.step);
        }
    }
    assert!(faults > 1, "{faults}");
}

#[test]
fn timings_from_before_an_accepted_change_give_no_anchor() {
    let root = tempfile::tempdir().unwrap();
    // The fastest starting kernel is measured again, before all elites. The others are no elites, and keep their old figures.
    for (index, (again, expected)) in [(2.0, None), (9.5, Some(9.5))].into_iter().enumerate() {
        let directory = root.path().join(format!("run-{index}"));
        let first = Jobs::default();
        run(
            options(&directory, &["softmax"], STEPS),
            &judges(&first, fast_starts),
        )
        .unwrap();
        assert!(anchors(&first).iter().any(Option::is_some));
        for (steps, accept_changes) in [(STEPS + 30, true), (STEPS + 60, false)] {
            let jobs = Jobs::default();
            let mut changed = options(&directory, &["softmax"], steps);
            changed.record.kforge = "0.0.1".to_owned();
            changed.start = StartMode::Resume { accept_changes };
            run(changed, &judges(&jobs, move |job| start(job, again, 0.005))).unwrap();
            let found = anchors(&jobs);
            assert!(found.len() > 3, "{}", found.len());
            // It is timed against the baseline, alone, and the elites against it, as long as candidates are.
            if accept_changes {
                let jobs = jobs.lock().unwrap();
                assert_eq!((jobs[0].step, &jobs[0].rivals.anchor), (3, &None));
                let is_again = |job: &&Job| matches!(job.kind, JobKind::Judge) && job.step <= STEPS;
                let again: Vec<_> = jobs.iter().filter(is_again).collect();
                assert!(again.len() > 1, "{}", again.len());
                for job in &again[1..] {
                    let anchor = job.rivals.anchor.as_ref();
                    assert_eq!(anchor.map(|anchor| anchor.speedup), expected);
                    assert_eq!(job.rivals.incumbents, Some(Incumbents::default()));
                }
            } else {
                // One starting kernel is known on this device. The others are not judged for their old figures.
                let jobs = jobs.lock().unwrap();
                let mut judged = jobs.iter().filter(|job| matches!(job.kind, JobKind::Judge));
                assert!(judged.all(|job| job.step > STEPS));
            }
            let last = found.last().unwrap().as_ref();
            assert_eq!(last.map(|anchor| anchor.speedup), expected);
            let others = found.iter().flatten();
            assert!(others.into_iter().all(|anchor| Some(anchor) == last));
        }
    }
}

#[test]
fn elites_wait_for_the_starting_kernel_also_after_a_fault_of_the_judge() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let first = Jobs::default();
    run(
        options(&directory, &["softmax"], STEPS),
        &judges(&first, fast_starts),
    )
    .unwrap();
    let jobs = Jobs::default();
    let has_failed = Arc::new(AtomicBool::new(false));
    let judge = move |job: &Job| {
        if job.step != 3 || has_failed.swap(true, Ordering::Relaxed) {
            return fast_starts(job);
        }
        let mut found = verdict(&job.source, 2, false);
        found.status = Status::HarnessError;
        found.speedup = None;
        Some(outcome(found))
    };
    let mut changed = options(&directory, &["softmax"], STEPS + 10);
    changed.record.kforge = "0.0.1".to_owned();
    changed.start = StartMode::Resume {
        accept_changes: true,
    };
    run(changed, &judges(&jobs, judge)).unwrap();
    let jobs = jobs.lock().unwrap();
    let is_again = |job: &&Job| matches!(job.kind, JobKind::Judge) && job.step <= STEPS;
    let again: Vec<_> = jobs.iter().filter(is_again).collect();
    assert_eq!((again[0].step, again[1].step), (3, 3));
    assert!(again.len() > 2, "{}", again.len());
    let anchored = |job: &&Job| job.rivals.anchor.as_ref().is_some_and(|one| one.step == 3);
    assert!(again[2..].iter().all(anchored));
}

#[test]
fn slow_starting_kernel_is_not_judged_again_before_the_elites() {
    let root = tempfile::tempdir().unwrap();
    // A candidate is much faster than the starting kernels, and these are too slow to be an anchor on any device.
    for (index, (slow, expected)) in [(1.2, false), (2.0, true)].into_iter().enumerate() {
        let directory = root.path().join(format!("run-{index}"));
        let judge = move |job: &Job| {
            let candidate = Job {
                step: 1,
                ..job.clone()
            };
            start(job, slow, 0.005).or_else(|| start(&candidate, 5.0, 0.005))
        };
        run(
            options(&directory, &["softmax"], STEPS),
            &judges(&Jobs::default(), judge),
        )
        .unwrap();
        let jobs = Jobs::default();
        let mut changed = options(&directory, &["softmax"], STEPS + 10);
        changed.record.kforge = "0.0.1".to_owned();
        changed.start = StartMode::Resume {
            accept_changes: true,
        };
        run(changed, &judges(&jobs, judge)).unwrap();
        let jobs = jobs.lock().unwrap();
        assert_eq!(jobs[0].step <= starts(), expected, "{slow}");
        assert!(jobs.iter().any(|job| job.step > STEPS));
    }
}
