//! A mailbox: several open requests at once, across processes, and a replay of the whole run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kforge::base::Digest;
use kforge::event::{Event, StopReason};
use serde_json::{Value, json};

use crate::asking::model::reply_to;
use crate::asking::program::ProgramFixture;
use crate::asking::run_log::{RequestLog, events, summary};
use crate::asking::scenario::Scenario;

/// The folders of requests without a reply.
fn open_requests(directory: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for step in std::fs::read_dir(directory.join("softmax/steps")).unwrap() {
        for entry in std::fs::read_dir(step.unwrap().path()).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("prompt.md").exists() && !folder.join("response.md").exists() {
                open.push(folder);
            }
        }
    }
    open.sort();
    open
}

/// Writes a reply as documented: to another file, then renamed. Its time is old, so that it counts as complete.
fn put_reply(folder: &Path, text: &str) {
    let draft = folder.join("draft.md");
    std::fs::write(&draft, text).unwrap();
    let file = std::fs::File::options().write(true).open(&draft).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(5))
        .unwrap();
    std::fs::rename(draft, folder.join("response.md")).unwrap();
}

/// Replies to every open request; returns their number.
fn answer_all(directory: &Path, number: &mut usize) -> usize {
    let folders = open_requests(directory);
    for folder in &folders {
        let prompt = std::fs::read_to_string(folder.join("prompt.md")).unwrap();
        put_reply(folder, &reply_to(&prompt, *number));
        *number += 1;
    }
    folders.len()
}

/// The kernel hash of every step that has a kernel.
fn candidates(directory: &Path) -> BTreeMap<u64, Digest> {
    let kernel = |event: Event| match event {
        Event::Proposed(proposed) => Some((proposed.step, proposed.kernel)),
        Event::Failed(failed) => failed.kernel.map(|kernel| (failed.step, kernel)),
        _ => None,
    };
    events(directory).into_iter().filter_map(kernel).collect()
}

#[test]
fn mailbox_run_spans_processes_and_replays_identically() {
    const STEPS: u64 = 40;
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("mail");
    let scenario = Scenario::with_models(json!([{"provider": "mailbox"}]), STEPS)
        .with_llm(json!({"wait": false}));
    let (mut number, mut rounds, mut most) = (0, 0, 0);
    loop {
        let ended = scenario.run(&directory).unwrap();
        if !ended.waiting {
            assert_eq!(ended.tasks[0].stop_reason(), Some(StopReason::Steps));
            break;
        }
        rounds += 1;
        assert!(rounds < 40, "the run does not end");
        most = most.max(answer_all(&directory, &mut number));
    }
    assert!(most > 3, "at most {most} requests at once");
    let log = RequestLog::read(&directory);
    assert_eq!(
        log.sent.len(),
        number,
        "each request was sent once, over {rounds} processes"
    );
    assert_eq!(log.replied.len(), number);
    log.assert_files_match_journal(&directory);

    let again = root.path().join("again");
    let mut replay = Scenario::with_models(
        json!([{"provider": "replay", "name": "mailbox", "from": directory}]),
        STEPS,
    );
    replay.llm["concurrency"] = scenario.llm["concurrency"].clone();
    replay.finish_all_steps(&again);
    assert_eq!(candidates(&again), candidates(&directory));
    let replayed = RequestLog::read(&again);
    assert_eq!(replayed.replied.len(), log.replied.len());
    println!("{number} requests in {rounds} rounds, {most} at once");
}

#[test]
fn program_exits_6_until_replies_arrive() {
    let fixture = ProgramFixture::new();
    fixture.config("  models: [mailbox]");
    let result = fixture.evolve(&["--no-wait", "--steps", "9"]);
    result.assert_exit(
        6,
        &["waiting for replies", "response.md", "kforge resume run"],
    );
    let directory = fixture.run_directory();
    let path = directory.to_str().unwrap();
    let runs = fixture.run(&["runs", path, "--format=json"]);
    let runs: Value = serde_json::from_str(&runs.stdout).unwrap();
    assert_eq!(runs[0]["state"], "waiting for replies", "{runs}");
    let watched = fixture.run(&["watch", path, "--once"]);
    watched.assert_exit(7, &[]);
    let says = "the run waits for replies in its mailbox";
    assert!(watched.stdout.contains(says), "{}", watched.stdout);
    let first = open_requests(&directory);
    assert!(first.len() > 1, "several steps wait at once: {first:?}");
    let prompts = |folders: &[PathBuf]| -> Vec<String> {
        let read = |folder: &PathBuf| std::fs::read_to_string(folder.join("prompt.md")).unwrap();
        folders.iter().map(read).collect()
    };
    let before = prompts(&first);
    // Without replies the same requests wait, and no new one is sent.
    fixture.resume(&[]).assert_exit(6, &[]);
    assert_eq!(
        (prompts(&first), open_requests(&directory)),
        (before, first.clone())
    );
    assert_eq!(RequestLog::read(&directory).sent.len(), first.len());
    let (mut number, mut rounds) = (0, 0);
    let result = loop {
        answer_all(&directory, &mut number);
        let result = fixture.resume(&[]);
        rounds += 1;
        if result.code != 6 || rounds > 9 {
            break result;
        }
    };
    result.assert_run_ended(&[]);
    let log = RequestLog::read(&directory);
    assert_eq!((log.sent.len(), log.replied.len()), (number, number));
    assert_eq!(summary(&directory)["tasks"][0]["stopped"], "steps");
}

#[test]
fn waiting_run_takes_late_replies() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let scenario = Scenario::with_models(json!([{"provider": "mailbox"}]), 8);
    let postman = {
        let directory = directory.clone();
        std::thread::spawn(move || {
            let mut number = 0;
            let until = std::time::Instant::now() + Duration::from_secs(600);
            while std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(100));
                if directory.join("softmax/steps").exists() {
                    answer_all(&directory, &mut number);
                }
                let over = std::fs::read_to_string(directory.join("softmax/events.jsonl"));
                if over.is_ok_and(|text| text.contains("\"event\":\"stopped\"")) {
                    break;
                }
            }
            number
        })
    };
    scenario.finish_all_steps(&directory);
    assert_eq!(
        RequestLog::read(&directory).sent.len(),
        postman.join().unwrap()
    );
}

#[test]
fn missing_reply_does_not_outlast_the_time_budget() {
    let root = tempfile::tempdir().unwrap();
    let mut scenario = Scenario::with_models(json!([{"provider": "mailbox"}]), 30);
    // A busy machine needs a larger budget to come to the requests.
    let (seconds, directory) = [1.0, 5.0, 25.0]
        .map(|seconds| (seconds, root.path().join(format!("run-{seconds}"))))
        .into_iter()
        .find(|(seconds, directory)| {
            scenario.seconds = Some(*seconds);
            let end = scenario.finish(directory);
            assert_eq!(end.stop_reason(), Some(StopReason::Seconds));
            RequestLog::read(directory).sent.len() > 1
        })
        .expect("requests are sent");
    let log = RequestLog::read(&directory);
    assert!(log.replied.is_empty());
    // With more time the run continues with the same requests.
    answer_all(&directory, &mut 0);
    scenario.seconds = Some(3.0 * seconds);
    scenario.finish(&directory);
    assert_eq!(RequestLog::read(&directory).replied.len(), log.sent.len());
}
