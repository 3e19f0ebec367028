//! A loss of power at any moment: every file is old or new, and the run resumes with all that was durable.
//!
//! A run is recorded, change by change. `DiskModel` then answers after each change what the disk may hold if the power fails: names
//! and contents that were not synced are there, partly there, or not there. The run is resumed from such states.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, Once};
use std::time::Duration;

use kforge::base::Digest;
use kforge::base::files::observe_changes;
use kforge::event::Event;
use kforge::run::{Journal, ParseLine, RunDirectory};
use kforge::search::FoldOrder;
use serde_json::Value;

use super::resume::folder_in_memory;
use super::scripted::{judges, step_options};
use super::{events, run, state};
use crate::asking::model::{complete_reply, document, reply_to};
use crate::asking::scenario::Scenario;
use crate::llm::server::Server;

mod disk_model;

use disk_model::{
    DiskModel, Fate, RecordedChange, Tree, file_name, read_tree, recorded, write_tree,
};

const STEPS: u64 = 10;

/// Number of states that are resumed, of those that differ. All if the environment variable `KFORGE_TEST_ALL` is set.
const RESUMED_STATES: usize = 40;

/// Number of random states after each change, besides the extreme ones.
const RANDOM_STATES: u64 = 4;

/// The folders that are recorded, each with its changes so far.
static RECORDINGS: Mutex<Vec<(PathBuf, Vec<RecordedChange>)>> = Mutex::new(Vec::new());

/// A run, every change that it made to its files, and its end.
struct RecordedRun {
    changes: Vec<RecordedChange>,
    /// Its files.
    tree: Tree,
    /// What every resumed run must come to.
    end: String,
}

impl RecordedRun {
    /// `run`: makes all steps in a run directory. `end`: describes its result.
    fn record(run: impl Fn(&Path), end: impl Fn(&Path) -> String) -> Self {
        static OBSERVED: Once = Once::new();
        OBSERVED.call_once(|| {
            observe_changes(|change| {
                for (root, changes) in &mut *RECORDINGS.lock().unwrap() {
                    changes.extend(recorded(change, root));
                }
            });
        });
        let root = folder_in_memory();
        let new = (root.path().to_owned(), Vec::new());
        RECORDINGS.lock().unwrap().push(new);
        let directory = root.path().join("run");
        run(&directory);
        let mut recordings = RECORDINGS.lock().unwrap();
        let own = recordings.iter().position(|(of, _)| of == root.path());
        let (_, changes) = recordings.swap_remove(own.unwrap());
        drop(recordings);
        let mut tree = read_tree(root.path());
        // Its contents matter only while its process lives.
        tree.remove(Path::new("run/lock"));
        Self {
            changes,
            tree,
            end: end(&directory),
        }
    }
}

/// A run without models. Recorded once for all tests.
static RECORDED_RUN: LazyLock<RecordedRun> = LazyLock::new(|| {
    // Two processes, so that the second also opens what the first has left.
    let in_two_parts = |directory: &Path| {
        for steps in [STEPS / 2, STEPS] {
            resume_without_models(directory, steps).unwrap();
        }
    };
    RecordedRun::record(in_two_parts, |directory| state(directory, "softmax", STEPS))
});

fn resume_without_models(directory: &Path, steps: u64) -> anyhow::Result<()> {
    // Only in step order does a resumed run come to the same end.
    let options = step_options(directory, steps);
    run(options, &judges(Duration::ZERO)).map(drop)
}

/// A model whose reply depends on the prompt alone, so that every run with it comes to the same end.
static SCENARIO: LazyLock<Scenario> = LazyLock::new(|| {
    let server = Server::start(|_, seen| {
        let prompt = document(seen);
        let mut hasher = DefaultHasher::new();
        prompt.hash(&mut hasher);
        complete_reply(seen, &reply_to(&prompt, hasher.finish() as usize % 1000))
    });
    Scenario {
        order: FoldOrder::Step,
        ..Scenario::new(&server.url, STEPS)
    }
});

/// A run in which nearly every step asks a model.
static RECORDED_MODEL_RUN: LazyLock<RecordedRun> = LazyLock::new(|| {
    RecordedRun::record(
        |directory| SCENARIO.run(directory).map(drop).unwrap(),
        kernels,
    )
});

/// All kernels of a run. Of two steps with the same kernel the one that is proposed later is the duplicate.
fn kernels(directory: &Path) -> String {
    let proposed = events(directory, "softmax").into_iter();
    let kernels = proposed.filter_map(|event| match event {
        Event::Proposed(proposed) => Some(format!("{:?}", proposed.kernel)),
        _ => None,
    });
    let kernels: BTreeSet<_> = kernels.collect();
    format!("{kernels:#?}")
}

/// A state to resume from.
struct LostState {
    moment: usize,
    tree: Tree,
    /// The lines of the task's journal that must survive.
    durable_journal: Vec<u8>,
}

const JOURNAL: &str = "run/softmax/events.jsonl";

/// A line of a journal of which only the head is parsed, as some readers do.
struct HeadOnly;

impl ParseLine for HeadOnly {
    fn parse(_: &str, _: &str) -> Option<serde_json::Result<Self>> {
        Some(Ok(Self))
    }
}

/// Every reader drops the torn end of a journal.
fn assert_journal_opens(tree: &Tree) {
    if let Some(Some(journal)) = tree.get(Path::new(JOURNAL)) {
        let root = folder_in_memory();
        let path = root.path().join("events.jsonl");
        std::fs::write(&path, journal).unwrap();
        Journal::open(&path, |_, HeadOnly| Ok(())).unwrap();
        std::fs::write(&path, journal).unwrap();
        Journal::open(&path, |_, _: Event| Ok(())).unwrap();
    }
}

/// A file that a line of the task's journal relies on, and that is not in the tree with the recorded contents.
fn missing_file(tree: &Tree) -> Option<PathBuf> {
    let journal = tree.get(Path::new(JOURNAL))?.as_ref()?;
    let task = RunDirectory::new("run")
        .task_for_reading("softmax")
        .unwrap();
    // The last line may be torn.
    let lines = journal.split_inclusive(|byte| *byte == b'\n');
    let lines = lines.map_while(|line| serde_json::from_slice::<Value>(line).ok());
    for line in lines {
        let (step, ask) = (line["step"].as_u64(), line["ask"].as_u64());
        let (step, ask) = (step.unwrap_or(0), ask.unwrap_or(0) as u32);
        let steps = task.journal().with_file_name("steps");
        let (path, digest) = match line["event"].as_str() {
            Some("proposed") => (steps.join(format!("{step:06}/kernel.cu")), &line["kernel"]),
            Some("sent") => (task.prompt(step, ask), &line["prompt"]),
            Some("replied") => (task.response(step, ask), &line["response"]),
            _ => continue,
        };
        let contents = tree.get(&path).and_then(Option::as_ref);
        let found = contents.map(|contents| serde_json::to_value(Digest::of(contents)).unwrap());
        if !digest.is_null() && found.as_ref() != Some(digest) {
            return Some(path);
        }
    }
    None
}

/// What a loss of power may leave after each of these changes, without repetitions.
///
/// # Errors
/// The path of a file that may be torn, or that a line of the journal relies on and that may be missing.
fn lost_states(
    disk: &mut DiskModel,
    changes: &[RecordedChange],
) -> Result<Vec<LostState>, PathBuf> {
    let mut seen = HashSet::new();
    let mut states = Vec::new();
    for (moment, change) in changes.iter().enumerate() {
        disk.apply(change);
        let first_seed = moment as u64 * RANDOM_STATES;
        let random = (first_seed..first_seed + RANDOM_STATES).map(Fate::Random);
        let extreme = [
            Fate::AllLost,
            Fate::AllKept,
            Fate::NamesKept,
            Fate::ContentsKept,
        ];
        for fate in extreme.into_iter().chain(random) {
            let tree = disk.tree(fate);
            let mut hasher = DefaultHasher::new();
            tree.hash(&mut hasher);
            if !seen.insert(hasher.finish()) {
                continue;
            }
            if let Some(torn) = disk.torn_file(&tree) {
                return Err(torn.to_owned());
            }
            if let Some(missing) = missing_file(&tree) {
                return Err(missing);
            }
            assert_journal_opens(&tree);
            states.push(LostState {
                moment,
                tree,
                durable_journal: disk.durable(Path::new(JOURNAL)).to_vec(),
            });
        }
    }
    Ok(states)
}

#[test]
fn power_loss_at_any_moment_leaves_whole_files_and_a_resumable_run() {
    let resume = |directory: &Path| resume_without_models(directory, STEPS);
    lose_power(&RECORDED_RUN, resume, |directory| {
        state(directory, "softmax", STEPS)
    });
}

#[test]
fn power_loss_at_any_moment_leaves_prompts_and_replies() {
    let resume = |directory: &Path| SCENARIO.run(directory).map(drop);
    lose_power(&RECORDED_MODEL_RUN, resume, kernels);
}

/// Resumes a run from what may be left of it after each of its changes.
fn lose_power(
    recorded: &RecordedRun,
    resume: impl Fn(&Path) -> anyhow::Result<()>,
    end: impl Fn(&Path) -> String,
) {
    let mut disk = DiskModel::new();
    let states = lost_states(&mut disk, &recorded.changes).unwrap();
    assert_end_is_durable(&disk, recorded);
    let every = match std::env::var_os("KFORGE_TEST_ALL") {
        Some(_) => 1,
        None => states.len().div_ceil(RESUMED_STATES),
    };
    let root = folder_in_memory();
    for lost in states.iter().step_by(every) {
        let folder = root.path().join("lost");
        write_tree(&lost.tree, &folder);
        let directory = folder.join("run");
        let moment = lost.moment;
        resume(&directory).unwrap_or_else(|error| panic!("after change {moment}: {error:?}"));
        assert_eq!(end(&directory), recorded.end, "after change {moment}");
        let resumed = std::fs::read(folder.join(JOURNAL)).unwrap();
        assert!(
            resumed.starts_with(&lost.durable_journal),
            "lines were lost after change {moment}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// Nothing bypasses the observer, and the end of a run is durable.
fn assert_end_is_durable(disk: &DiskModel, recorded: &RecordedRun) {
    assert!(
        disk.tree(Fate::AllKept) == recorded.tree,
        "a change was not recorded"
    );
    let is_copy = |path: &PathBuf| file_name(path) == "verdict.json";
    let mut durable = recorded.tree.clone();
    durable.retain(|path, _| !is_copy(path));
    let mut found = disk.tree(Fate::AllLost);
    found.retain(|path, contents| {
        let is_temporary = file_name(path).ends_with(".tmp");
        !(is_copy(path) || is_temporary && contents.is_some())
    });
    assert!(found == durable, "the end of a run is durable");
}

/// The path that the model finds if a run makes other changes than it should.
fn found_in(changes: &[RecordedChange]) -> PathBuf {
    lost_states(&mut DiskModel::new(), changes)
        .err()
        .expect("the model finds the fault")
}

#[test]
fn model_finds_files_that_are_renamed_before_they_are_synced() {
    // The same run in the wrong order: each file is renamed first, and synced under its new name.
    let mut wrong: Vec<RecordedChange> = Vec::new();
    for change in &RECORDED_RUN.changes {
        if let RecordedChange::Rename(from, to) = change {
            let is_sync = |other: &RecordedChange| matches!(other, RecordedChange::SyncFile(path) if path == from);
            let sync = wrong.iter().rposition(is_sync).unwrap();
            wrong.remove(sync);
            wrong.push(change.clone());
            wrong.push(RecordedChange::SyncFile(to.clone()));
        } else {
            wrong.push(change.clone());
        }
    }
    found_in(&wrong);
}

#[test]
fn model_finds_folders_that_are_not_synced() {
    // Without the syncs of the folders of steps, a journal line may be durable before the file that it names.
    let mut wrong = RECORDED_MODEL_RUN.changes.clone();
    wrong.retain(|change| {
        !matches!(change, RecordedChange::SyncFolder(path) if path.starts_with("run/softmax/steps"))
    });
    assert!(found_in(&wrong).starts_with("run/softmax/steps"));
}

#[test]
fn model_finds_journal_lines_that_are_written_before_their_files() {
    // Each line of the journal moves before the changes of its files, to the end of the line before it.
    let is_journal = |change: &RecordedChange| match change {
        RecordedChange::Append(path, _) | RecordedChange::SyncFile(path) => {
            path == Path::new(JOURNAL)
        }
        _ => false,
    };
    let mut wrong = Vec::new();
    let mut start = 0;
    for change in &RECORDED_MODEL_RUN.changes {
        if is_journal(change) {
            wrong.insert(start, change.clone());
            start += 1;
            if matches!(change, RecordedChange::SyncFile(_)) {
                start = wrong.len();
            }
        } else {
            wrong.push(change.clone());
            if matches!(change, RecordedChange::CreateFile(path) if path == Path::new(JOURNAL)) {
                start = wrong.len();
            }
        }
    }
    assert!(found_in(&wrong).starts_with("run/softmax/steps"));
}
