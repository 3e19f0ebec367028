//! The driver from outside: real journals and processes, a scripted proposer and a scripted judge.

#![expect(clippy::print_stderr, reason = "random tests print their seed")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kforge::driver::{self, RunEnd, RunOptions};
use kforge::event::Event;
use kforge::run::{Journal, RunDirectory, RunRecord};
use kforge::search::{Search, SearchSettings, SearchUpdate};
use kforge::worker::{Job, JobKind};

mod anchor;
mod damage;
mod disk;
mod faults;
mod figures;
mod headline;
mod lessons;
mod power_loss;
mod racing;
mod refusals;
mod resume;
pub(crate) mod scripted;
mod stop_rules;
mod stopping;
mod strongest;
mod trials;

use scripted::{
    ScriptedJudge, ScriptedJudges, ScriptedProposer, options, run_until, step_options, task,
};

const DIRECTORY: &str = "KFORGE_TEST_DIRECTORY";
const STEPS: &str = "KFORGE_TEST_STEPS";
const DELAY: &str = "KFORGE_TEST_DELAY";
/// Set for a run in step order.
const STEP_ORDER: &str = "KFORGE_TEST_STEP_ORDER";

/// Not a test: the process that the tests kill, interrupt and run out of disk space. Starts or resumes a run.
/// Writes two files next to the run directory: `.log` with a line per job, and `.error` if the run does not end normally.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn driver_process() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    let judges = ScriptedJudges(Box::new({
        let directory = directory.to_owned();
        move |task| {
            let log = directory.with_extension("log");
            let journal = directory.join(&task.name).join("events.jsonl");
            Ok(ScriptedJudge {
                delay: Duration::from_millis(number(DELAY)),
                intercept: Some(Box::new(move |job| {
                    log_job(job, &log, &journal)?;
                    Ok(None)
                })),
                ..ScriptedJudge::default()
            })
        }
    }));
    let options = match std::env::var_os(STEP_ORDER) {
        Some(_) => step_options(directory, number(STEPS)),
        None => options(directory, &["softmax"], number(STEPS)),
    };
    let signals = || driver::watch_signals().unwrap();
    match run_until(options, PROPOSER, &judges, signals) {
        Ok(ended) if ended.interrupted => {
            std::fs::write(directory.with_extension("error"), "interrupted").unwrap();
        }
        Ok(_) => {}
        Err(error) => {
            std::fs::write(directory.with_extension("error"), format!("{error:?}")).unwrap();
        }
    }
}

/// Logs a job when it starts, with `again` if the journal already has its verdict.
fn log_job(job: &Job, log: &Path, journal: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    let (kind, event) = match &job.kind {
        JobKind::Judge => ("judge", "judged"),
        JobKind::Duel { .. } => ("duel", "dueled"),
        JobKind::Confirm => ("confirm", "confirmed"),
        JobKind::Try { .. } => ("try", "proposed"),
        JobKind::Compare { .. } => ("compare", "compared"),
        JobKind::CompareStrongest(_) => ("strongest", "strongest_compared"),
    };
    let line_start = format!("\"step\":{},\"event\":\"{event}\"", job.step);
    let is_recorded = std::fs::read_to_string(journal)?.contains(&line_start);
    let again = if is_recorded && kind != "duel" {
        " again"
    } else {
        ""
    };
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(log)?;
    Ok(file.write_all(format!("{kind} {}{again}\n", job.step).as_bytes())?)
}

/// A proposer that sometimes finds nothing, or a kernel that was found before.
const PROPOSER: ScriptedProposer = ScriptedProposer { always_new: false };

/// Runs to the end without an interrupt.
fn run(options: RunOptions, judges: &ScriptedJudges) -> anyhow::Result<RunEnd> {
    run_until(options, PROPOSER, judges, driver::never_interrupted)
}

/// The command that runs `driver_process`.
fn process(directory: &Path, steps: u64, delay: Duration) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "driver::driver_process"]);
    crate::program::heed_signals(&mut command);
    set_environment(&mut command, directory, steps, delay);
    command
}

fn set_environment(command: &mut Command, directory: &Path, steps: u64, delay: Duration) {
    command
        .env(DIRECTORY, directory)
        .env(STEPS, steps.to_string())
        .env(DELAY, delay.as_millis().to_string())
        .stdout(Stdio::null());
}

/// The events of a task, in the order of the journal.
pub(crate) fn events(directory: &Path, task: &str) -> Vec<Event> {
    let path = RunDirectory::new(directory)
        .task_for_reading(task)
        .unwrap()
        .journal();
    let mut events = Vec::new();
    Journal::open(&path, |_, event: Event| {
        events.push(event);
        Ok(())
    })
    .unwrap();
    events
}

/// The state of a run: its briefs by step, its archive, its best kernel. Fails unless the journal leads to each of its briefs. In step
/// order it is equal for equal runs at any speed.
pub(crate) fn state(directory: &Path, task_name: &str, steps: u64) -> String {
    let events = events(directory, task_name);
    let task = task(task_name);
    let starts: Vec<_> = task
        .starting_kernels()
        .map(|(name, _)| name.to_owned())
        .collect();
    let RunRecord {
        seed,
        window,
        order,
        ..
    } = options(directory, &[task_name], steps).record;
    let record = std::fs::read_to_string(directory.join("run.yaml")).unwrap();
    let record: serde_json::Value = serde_yaml::from_str(&record).unwrap();
    let settings: SearchSettings =
        serde_json::from_value(record["config"]["search"].clone()).unwrap();
    let search = Search::new(&settings, seed, window, steps, &starts);
    let mut search = search.with_order(order);
    let mut briefs = std::collections::BTreeMap::new();
    for event in &events {
        if let Event::Asked(brief) = event {
            let before = briefs.insert(brief.step, brief.clone());
            assert!(before.is_none(), "step {} was asked twice", brief.step);
        }
        for update in search.tell(event) {
            let diverged = matches!(update, SearchUpdate::Diverged(_));
            assert!(!diverged, "{}: {update:?}", directory.display());
        }
    }
    assert_eq!(search.folded(), steps);
    let elites: Vec<_> = search
        .archive()
        .elites()
        .iter()
        .map(|elite| (elite.step, &elite.cell, elite.speedup))
        .collect();
    let best = std::fs::read_to_string(directory.join(task_name).join("best.cu")).unwrap();
    format!("{briefs:#?}\n{elites:#?}\n{:#?}\n{best}", search.counts())
}
