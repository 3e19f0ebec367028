//! What candidates are judged against, and what happens to those that are dismissed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kforge::base::Digest;
use kforge::event::{Event, FailedReason};
use kforge::search::KnownCode;
use kforge::verdict::{Timing, Verdict};
use kforge::worker::{Job, JobKind, JobOutcome};

use crate::driver::scripted::{
    ScriptedJudge, ScriptedJudges, options, step_options, task, verdict, with_few_cells,
};
use crate::driver::{events, run, state};

/// Every job of a run, in the order in which they started.
pub(super) type Jobs = Arc<Mutex<Vec<Job>>>;

/// A judge that answers jobs for candidates with `judge`, and the others by its script.
pub(super) fn judges(
    jobs: &Jobs,
    judge: impl Fn(&Job) -> Option<JobOutcome> + Send + Sync + Clone + 'static,
) -> ScriptedJudges {
    let jobs = jobs.clone();
    ScriptedJudges(Box::new(move |_| {
        let (jobs, judge) = (jobs.clone(), judge.clone());
        Ok(ScriptedJudge {
            delay: Duration::from_millis(2),
            intercept: Some(Box::new(move |job| {
                jobs.lock().unwrap().push(job.clone());
                let is_candidate = matches!(job.kind, JobKind::Judge);
                Ok(is_candidate.then(|| judge(job)).flatten())
            })),
            ..ScriptedJudge::default()
        })
    }))
}

pub(super) fn outcome(verdict: Verdict) -> JobOutcome {
    JobOutcome::Verdict {
        verdict: Box::new(verdict),
        compile_log: String::new(),
        report: None,
    }
}

/// The scripted verdict, dismissed if that of a starting kernel would be much faster.
fn dismissed_by_source(job: &Job) -> Option<JobOutcome> {
    let mut found = verdict(&job.source, 1, false);
    let is_slow = found.speedup.is_some_and(|speedup| speedup.geomean < 1.6);
    if !is_slow || job.step <= starts() {
        return None;
    }
    found.timing = Some(Timing::Dismissed);
    Some(outcome(found))
}

/// Whether the candidate must beat something.
fn has_bar(job: &Job) -> bool {
    let incumbents = job.rivals.incumbents.as_ref();
    incumbents.is_some_and(|incumbents| incumbents.bar(&Default::default()).is_some())
}

pub(super) fn starts() -> u64 {
    task("softmax").starting_kernels().count() as u64
}

fn dismissed_steps(directory: &Path) -> BTreeSet<u64> {
    let judged = events(directory, "softmax").into_iter();
    judged
        .filter_map(|event| match event {
            Event::Judged(judged) if judged.verdict.is_dismissed() => Some(judged.step),
            _ => None,
        })
        .collect()
}

#[test]
fn incumbents_travel_with_judgements_of_candidates_only() {
    let root = tempfile::tempdir().unwrap();
    for racing in [true, false] {
        let directory = root.path().join(format!("racing-{racing}"));
        let jobs = Jobs::default();
        let options = kforge::driver::RunOptions {
            racing,
            ..with_few_cells(options(&directory, &["softmax"], 100))
        };
        run(options, &judges(&jobs, |_| None)).unwrap();
        let jobs = jobs.lock().unwrap();
        let of_kind =
            |is_kind: fn(&JobKind) -> bool| jobs.iter().filter(move |job| is_kind(&job.kind));
        let candidates = || of_kind(|kind| matches!(kind, JobKind::Judge));
        let is_racing = |job: &&Job| job.rivals.incumbents.is_some();
        let with_incumbents = candidates().filter(|job| has_bar(job)).count();
        if racing {
            assert!(candidates().all(|job| is_racing(&job)));
            // All but the starting kernels that are judged before one has passed.
            assert_eq!(
                with_incumbents,
                candidates().count() - (starts() as usize - 1)
            );
        } else {
            assert_eq!(candidates().filter(is_racing).count(), 0);
        }
        for other in of_kind(|kind| !matches!(kind, JobKind::Judge)) {
            assert_eq!(other.rivals, Default::default(), "{:?}", other.kind);
        }
        assert!(of_kind(|kind| matches!(kind, JobKind::Duel { .. })).count() > 0);
        assert!(of_kind(|kind| matches!(kind, JobKind::Confirm)).count() > 0);
        assert!(of_kind(|kind| matches!(kind, JobKind::Compare { .. })).count() > 0);
    }
}

#[test]
fn naive_starting_kernel_waits_until_another_has_passed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let jobs = Jobs::default();
    run(
        options(&directory, &["softmax"], 12),
        &judges(&jobs, |_| None),
    )
    .unwrap();
    let jobs = jobs.lock().unwrap();
    // `naive.cu` is listed first. The others start together, and jobs that start together may come in any order.
    let mut first = [jobs[0].step, jobs[1].step];
    first.sort_unstable();
    assert_eq!(first, [2, 3]);
    let naive = jobs.iter().find(|job| job.step == 1);
    assert!(naive.is_some_and(has_bar));
}

#[test]
fn on_a_gpu_starting_kernels_race_as_soon_as_one_has_passed() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::default();
    let mut options = options(&root.path().join("run"), &["softmax"], 12);
    options.record.backend = "cuda".to_owned();
    run(options, &judges(&jobs, |_| None)).unwrap();
    let jobs = jobs.lock().unwrap();
    assert_eq!((jobs[0].step, has_bar(&jobs[0])), (3, false));
    // Both start when it has passed.
    for step in [1, 2] {
        let start = jobs.iter().find(|job| job.step == step);
        assert!(start.is_some_and(has_bar), "step {step}");
    }
}

#[test]
fn dismissed_candidates_have_no_children_duels_or_confirmations() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let jobs = Jobs::default();
    run(
        options(&directory, &["softmax"], 60),
        &judges(&jobs, dismissed_by_source),
    )
    .unwrap();
    let dismissed = dismissed_steps(&directory);
    assert!(dismissed.len() > 5, "{dismissed:?}");
    for event in events(&directory, "softmax") {
        match event {
            Event::Asked(brief) => assert!(
                brief
                    .parents
                    .iter()
                    .all(|parent| !dismissed.contains(parent)),
                "{brief:?}"
            ),
            Event::Dueled(dueled) => {
                assert!(!dismissed.contains(&dueled.step), "{dueled:?}");
                assert!(!dismissed.contains(&dueled.against), "{dueled:?}");
            }
            Event::Confirmed(confirmed) => assert!(!dismissed.contains(&confirmed.step)),
            _ => {}
        }
    }
    let summary = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["tasks"][0]["dismissed"], dismissed.len());
}

#[test]
fn run_with_dismissed_candidates_resumes_to_the_same_state() {
    const STEPS: u64 = 30;
    let root = crate::driver::resume::folder_in_memory();
    let whole = root.path().join("whole");
    let judge = || judges(&Jobs::default(), dismissed_by_source);
    run(step_options(&whole, STEPS), &judge()).unwrap();
    assert!(!dismissed_steps(&whole).is_empty());
    let expected = state(&whole, "softmax", STEPS);
    let journal = std::fs::read(whole.join("softmax/events.jsonl")).unwrap();
    let ends: Vec<_> = (1..=journal.len())
        .filter(|end| journal[end - 1] == b'\n')
        .collect();
    for end in ends.iter().step_by(9) {
        let copy = root.path().join("copy");
        crate::driver::resume::copy_folder(&whole, &copy);
        std::fs::write(copy.join("softmax/events.jsonl"), &journal[..*end]).unwrap();
        run(options(&copy, &["softmax"], STEPS), &judge()).unwrap();
        assert_eq!(state(&copy, "softmax", STEPS), expected, "cut at {end}");
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn candidate_that_compiles_to_known_code_ends_without_a_verdict() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let jobs = Jobs::default();
    // The code is the value of the first tunable: candidates with the same one are the same.
    let judge = |job: &Job| {
        let code = Digest::of(job.source.lines().nth(1).unwrap());
        let mut known = job.rivals.known_code.iter();
        if let Some(KnownCode { step, code }) = known.find(|known| known.code == code) {
            return Some(JobOutcome::SameCode {
                of: *step,
                code: *code,
                device_seconds: 0.25,
            });
        }
        let mut verdict = verdict(&job.source, 1, false);
        verdict.code = Some(code);
        Some(outcome(verdict))
    };
    run(options(&directory, &["softmax"], 40), &judges(&jobs, judge)).unwrap();
    let events = events(&directory, "softmax");
    let mut same = 0;
    for event in &events {
        let Event::Failed(failed) = event else {
            continue;
        };
        if failed.code.is_none() {
            continue;
        }
        same += 1;
        assert_eq!(failed.reason, FailedReason::Duplicate);
        assert!(failed.seconds.is_some_and(|took| took.device == 0.25));
        let of = failed.of.unwrap();
        assert!(of < failed.step);
        assert_eq!(
            failed.detail.as_deref(),
            Some(format!("compiles to the same code as step {of}").as_str())
        );
        let has_verdict =
            |event: &Event| matches!(event, Event::Judged(judged) if judged.step == failed.step);
        assert!(!events.iter().any(has_verdict));
        assert!(failed.step > starts(), "starting kernels are always judged");
    }
    assert!(same > 3, "{same}");
    // A resume folds it as the run did.
    let expected = state(&directory, "softmax", 40);
    run(options(&directory, &["softmax"], 40), &judges(&jobs, judge)).unwrap();
    assert_eq!(state(&directory, "softmax", 40), expected);
}
