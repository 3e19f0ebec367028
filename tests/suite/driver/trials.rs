//! Points that are tried before a kernel is judged (`search.tune_first`): real operators and kernels, scripted trials and verdicts.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kforge::driver::{self, Operators, RunEnd, RunOptions};
use kforge::event::{Event, Operator, Proposed, TriedPoint};
use kforge::report::SilentObserver;
use kforge::worker::{Job, JobKind};
use tokio::sync::watch;

use crate::driver::scripted::{ScriptedJudge, ScriptedJudges, options};
use crate::driver::{events, state};

const STEPS: u64 = 40;
/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);
/// Points besides a kernel's own.
const POINTS: u64 = 3;

/// What happens when the points of a kernel are to be tried, and how long that takes.
type OnTrial = dyn Fn(&Job) -> anyhow::Result<Duration> + Send + Sync;

/// Runs, or resumes, until the receiver becomes true.
fn run(directory: &Path, on_trial: Arc<OnTrial>, interrupt: watch::Receiver<bool>) -> RunEnd {
    let options = options(directory, &["softmax"], STEPS);
    run_with(options, on_trial, Arc::new(|| ()), interrupt)
}

/// `on_judgement`: called when a kernel is to be judged.
fn run_with(
    mut options: RunOptions,
    on_trial: Arc<OnTrial>,
    on_judgement: Arc<dyn Fn() + Send + Sync>,
    interrupt: watch::Receiver<bool>,
) -> RunEnd {
    options.search.tune_first = Some(POINTS);
    options.record.config["search"] = serde_json::to_value(&options.search).unwrap();
    let judges = ScriptedJudges(Box::new(move |_| {
        let (on_trial, on_judgement) = (on_trial.clone(), on_judgement.clone());
        let pauses: Arc<Mutex<HashMap<u64, Duration>>> = Arc::default();
        let paused = pauses.clone();
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                match job.kind {
                    JobKind::Try { .. } => {
                        pauses.lock().unwrap().insert(job.step, on_trial(job)?);
                    }
                    JobKind::Judge => on_judgement(),
                    _ => {}
                }
                Ok(None)
            })),
            pause: Some(Box::new(move |job| {
                let pause = paused.lock().unwrap().remove(&job.step);
                pause.unwrap_or_default()
            })),
            ..ScriptedJudge::default()
        })
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let proposer = Arc::new(Operators::new(None).unwrap());
    let observer = &mut SilentObserver;
    let run = driver::run(options, proposer, &judges, observer, interrupt);
    runtime.block_on(run).unwrap()
}

fn proposals(directory: &Path) -> Vec<Proposed> {
    let events = events(directory, "softmax").into_iter();
    let proposed = events.filter_map(|event| match event {
        Event::Proposed(proposed) => Some(proposed),
        _ => None,
    });
    proposed.collect()
}

/// The sources of a job, the first of which is the kernel's own.
fn sources(job: &Job) -> Vec<Arc<str>> {
    let JobKind::Try { others } = &job.kind else {
        return Vec::new();
    };
    std::iter::once(&job.source)
        .chain(others)
        .cloned()
        .collect()
}

/// Checks what the journal says about trials: the fastest point is the candidate, and no point is tried twice.
fn check(directory: &Path) {
    let mut families = HashSet::new();
    let mut settled = HashMap::new();
    let mut trials = 0;
    for proposed in proposals(directory) {
        let key = |point: &indexmap::IndexMap<String, i64>| {
            let mut point: Vec<_> = point.clone().into_iter().collect();
            point.sort_unstable();
            (proposed.family, point)
        };
        let Some(tried) = &proposed.tried else {
            if proposed.operator == Operator::Autotune {
                let fate: Option<&(u64, TriedPoint)> = settled.get(&key(&proposed.point));
                assert!(fate.is_none(), "step {} repeats {fate:?}", proposed.step);
            }
            continue;
        };
        assert!(families.insert(proposed.family), "step {}", proposed.step);
        trials += 1;
        assert!(!matches!(
            proposed.operator,
            Operator::Start | Operator::Autotune
        ));
        assert!(tried.points.len() as u64 <= POINTS + 1);
        let own = &tried.points[0].point;
        let judged = tried.fastest().map_or(own, |fastest| &fastest.point);
        assert_eq!(&proposed.point, judged, "step {}", proposed.step);
        let fastest = tried.fastest().and_then(|fastest| fastest.microseconds);
        for one in &tried.points {
            let is_slower = one.microseconds.zip(fastest);
            if is_slower.is_none_or(|(time, fastest)| time > 1.05 * fastest) {
                settled.insert(key(&one.point), (proposed.step, one.clone()));
            }
        }
    }
    assert!(trials >= 5, "{trials}");
}

#[test]
fn the_fastest_of_the_tried_points_is_judged_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let log = jobs.clone();
    let on_trial = move |job: &Job| {
        log.lock().unwrap().push(job.clone());
        Ok(Duration::ZERO)
    };
    run(&directory, Arc::new(on_trial), driver::never_interrupted());
    check(&directory);
    state(&directory, "softmax", STEPS);
    for job in jobs.lock().unwrap().iter() {
        let sources: HashSet<_> = sources(job).into_iter().collect();
        assert!(
            (2..=POINTS as usize + 1).contains(&sources.len()),
            "{job:?}"
        );
    }
    let summary = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let spent = |event: Event| match event {
        Event::Proposed(proposed) => proposed.tried.map_or(0.0, |tried| tried.seconds.device),
        Event::Failed(failed) => failed.seconds.map_or(0.0, |seconds| seconds.device),
        Event::Judged(judged) => judged.verdict.seconds.device,
        Event::Dueled(dueled) => dueled.seconds.unwrap().device,
        Event::Confirmed(confirmed) => confirmed.seconds.unwrap().device,
        Event::Compared(compared) => compared.seconds.unwrap().device,
        _ => 0.0,
    };
    let device: f64 = events(&directory, "softmax").into_iter().map(spent).sum();
    let counted = summary["tasks"][0]["time"]["device"].as_f64().unwrap();
    assert!((counted - device).abs() < 1e-6, "{counted}, {device}");
}

#[test]
fn a_run_that_is_stopped_during_trials_tries_the_same_points_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let seen: Arc<Mutex<HashMap<u64, Vec<Arc<str>>>>> = Arc::default();
    let mut interrupted = 0;
    // The first stop is at the first trial, the next at the second of its process, and so on.
    for stop_at in 1.. {
        let (stop, interrupt) = watch::channel(false);
        let count = Mutex::new(0);
        let seen = seen.clone();
        let on_trial = move |job: &Job| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let mut seen = seen.lock().unwrap();
            let before = seen.entry(job.step).or_insert_with(|| sources(job));
            assert_eq!(*before, sources(job), "step {}", job.step);
            if *count == stop_at {
                stop.send_replace(true);
                return Ok(FOREVER);
            }
            Ok(Duration::ZERO)
        };
        let ended = run(&directory, Arc::new(on_trial), interrupt);
        if !ended.interrupted {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted >= 2, "{interrupted}");
    state(&directory, "softmax", STEPS);
    let asked = events(&directory, "softmax").into_iter();
    let asked: Vec<u64> = asked
        .filter(|event| matches!(event, Event::Asked(_)))
        .filter_map(|event| event.step())
        .collect();
    assert_eq!(asked.len(), asked.iter().collect::<HashSet<_>>().len());
}

#[test]
fn broken_trials_lose_no_kernel_and_are_not_repeated() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    let on_trial = move |_: &Job| {
        *counted.lock().unwrap() += 1;
        anyhow::bail!("the worker did not start")
    };
    run(&directory, Arc::new(on_trial), driver::never_interrupted());
    assert_eq!(*count.lock().unwrap(), 1);
    let proposals = proposals(&directory);
    assert!(proposals.iter().all(|proposed| proposed.tried.is_none()));
    state(&directory, "softmax", STEPS);
}

#[test]
fn points_are_tried_beside_the_judgements_of_a_gpu_and_instead_of_one_on_a_cpu() {
    const TRIAL: Duration = Duration::from_millis(60);
    for (backend, are_beside) in [("cuda", true), ("cpu", false)] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run");
        let mut options = options(&directory, &["softmax"], 12);
        options.record.backend = backend.to_owned();
        options.in_flight = 1;
        let until: Arc<Mutex<Option<Instant>>> = Arc::default();
        let (started, beside) = (until.clone(), Arc::new(AtomicBool::new(false)));
        let on_trial = move |_: &Job| {
            *started.lock().unwrap() = Some(Instant::now() + TRIAL);
            Ok(TRIAL)
        };
        let noted = beside.clone();
        let on_judgement = move || {
            let is_beside = until
                .lock()
                .unwrap()
                .is_some_and(|until| Instant::now() < until);
            noted.fetch_or(is_beside, Ordering::SeqCst);
        };
        run_with(
            options,
            Arc::new(on_trial),
            Arc::new(on_judgement),
            driver::never_interrupted(),
        );
        assert_eq!(beside.load(Ordering::SeqCst), are_beside, "{backend}");
    }
}
