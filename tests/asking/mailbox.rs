//! Replies that somebody puts into a folder: several at once, across processes, and the whole run replayed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kforge::base::Digest;
use kforge::event::{Event, StopReason};
use serde_json::json;

use crate::model::reply_to;
use crate::program::ProgramFixture;
use crate::run_log::{RequestLog, events, summary};
use crate::scenario::Scenario;

/// The questions that nobody has replied to.
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

/// Puts a reply there as it is documented: as another file, then renamed. Written a while ago, so that it has rested.
fn put_reply(folder: &Path, text: &str) {
    let draft = folder.join("draft.md");
    std::fs::write(&draft, text).unwrap();
    let file = std::fs::File::options().write(true).open(&draft).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(5))
        .unwrap();
    std::fs::rename(draft, folder.join("response.md")).unwrap();
}

/// Answers every open question; how many there were.
fn answer_all(directory: &Path, number: &mut usize) -> usize {
    let folders = open_requests(directory);
    for folder in &folders {
        let prompt = std::fs::read_to_string(folder.join("prompt.md")).unwrap();
        put_reply(folder, &reply_to(&prompt, *number));
        *number += 1;
    }
    folders.len()
}

/// The kernel of every step that has one.
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
    let scene = Scenario::with_models(json!([{"provider": "mailbox"}]), STEPS)
        .with_llm(json!({"wait": false}));
    let (mut number, mut rounds, mut most) = (0, 0, 0);
    loop {
        let ended = scene.run(&directory).unwrap();
        if !ended.waiting {
            assert_eq!(ended.tasks[0].stop_reason(), Some(StopReason::Steps));
            break;
        }
        rounds += 1;
        assert!(rounds < 40, "it comes to no end");
        most = most.max(answer_all(&directory, &mut number));
    }
    assert!(most > 3, "at most {most} questions at once");
    let asked = RequestLog::read(&directory);
    assert_eq!(
        asked.sent.len(),
        number,
        "each question was sent once, over {rounds} processes"
    );
    assert_eq!(asked.replied.len(), number);
    asked.assert_files_match_journal(&directory);

    let again = root.path().join("again");
    let mut replay = Scenario::with_models(
        json!([{"provider": "replay", "name": "mailbox", "from": directory}]),
        STEPS,
    );
    replay.llm["concurrency"] = scene.llm["concurrency"].clone();
    replay.finish_all_steps(&again);
    assert_eq!(candidates(&again), candidates(&directory));
    let replayed = RequestLog::read(&again);
    assert_eq!(replayed.replied.len(), asked.replied.len());
    println!("{number} questions in {rounds} rounds, {most} at once");
}

#[test]
fn program_exits_6_until_replies_arrive() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    shell.config("  models: [mailbox]");
    let said = shell.evolve(&["--no-wait", "--steps", "9"]);
    said.assert_exit(
        6,
        &["waiting for replies", "response.md", "kforge resume run"],
    );
    let directory = shell.run_directory();
    let first = open_requests(&directory);
    assert!(first.len() > 1, "several steps wait at once: {first:?}");
    let prompts = |folders: &[PathBuf]| -> Vec<String> {
        let read = |folder: &PathBuf| std::fs::read_to_string(folder.join("prompt.md")).unwrap();
        folders.iter().map(read).collect()
    };
    let before = prompts(&first);
    // Nothing came: the same questions wait, and none is asked anew.
    shell.resume(&[]).assert_exit(6, &[]);
    assert_eq!(
        (prompts(&first), open_requests(&directory)),
        (before, first.clone())
    );
    assert_eq!(RequestLog::read(&directory).sent.len(), first.len());
    let (mut number, mut rounds) = (0, 0);
    let said = loop {
        answer_all(&directory, &mut number);
        let said = shell.resume(&[]);
        rounds += 1;
        if said.code != 6 || rounds > 9 {
            break said;
        }
    };
    said.assert_exit(0, &[]);
    let asked = RequestLog::read(&directory);
    assert_eq!((asked.sent.len(), asked.replied.len()), (number, number));
    assert_eq!(summary(&directory)["tasks"][0]["stopped"], "steps");
}

#[test]
fn waiting_run_takes_late_replies() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let scene = Scenario::with_models(json!([{"provider": "mailbox"}]), 8);
    let postman = {
        let directory = directory.clone();
        std::thread::spawn(move || {
            let mut number = 0;
            let until = std::time::Instant::now() + Duration::from_secs(60);
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
    scene.finish_all_steps(&directory);
    assert_eq!(
        RequestLog::read(&directory).sent.len(),
        postman.join().unwrap()
    );
}

#[test]
fn missing_reply_does_not_outlast_the_time_budget() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let mut scene = Scenario::with_models(json!([{"provider": "mailbox"}]), 30);
    scene.seconds = Some(1.0);
    let end = scene.finish(&directory);
    assert_eq!(end.stop_reason(), Some(StopReason::Seconds));
    let asked = RequestLog::read(&directory);
    assert!(asked.replied.is_empty() && asked.sent.len() > 1);
    // Whoever resumes with more time goes on with the same questions.
    answer_all(&directory, &mut 0);
    scene.seconds = Some(2.0);
    scene.finish(&directory);
    assert_eq!(RequestLog::read(&directory).replied.len(), asked.sent.len());
}
