//! An API key from the environment reaches the server, and nothing else.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::asking::model::{complete_reply, document, reply_to};
use crate::asking::program::ProgramFixture;
use crate::asking::run_log::RequestLog;
use crate::llm::server::{Server, ServerAction};

const KEY: &str = "sk-planted-8f2c61d09be74a35";

#[test]
fn key_reaches_only_the_request_header() {
    let mut fixture = ProgramFixture::new();
    fixture.set("PLANTED_API_KEY", KEY);
    fixture.set("SECOND_COPY", KEY);
    fixture.set("HARMLESS", "plain");
    let server = Server::start(|number, seen| match number {
        // Some servers repeat the request in an error.
        0 => ServerAction::json(
            500,
            json!({"error": {"message": format!("wrong: {:?}", seen.headers)}}),
        ),
        1 => complete_reply(seen, &format!("You sent me {:?}", seen.headers)),
        _ => complete_reply(seen, &reply_to(&document(seen), number)),
    });
    let url = &server.url;
    // The other model is a program that prints its environment.
    fixture.config(&format!(
        "  models:\n  - {{name: local, provider: openai, model: m, base_url: '{url}', key_env: PLANTED_API_KEY, headers: {{X-Team: $SECOND_COPY}}}}\n  \
         - {{name: program, provider: command, command: [sh, -c, 'cat > /dev/null; env; echo \"<NO_VALID_EDIT/>\"']}}"
    ));
    let (stderr, children) = run_and_watch_children(&fixture);
    assert!(
        stderr.contains("TRACE") && stderr.contains("hyper"),
        "the log is at trace level"
    );
    assert!(!stderr.contains(KEY), "standard error contains the key");

    let seen = server.seen();
    assert!(seen.len() > 2);
    for seen in &seen {
        let authorization = format!("Bearer {KEY}");
        assert_eq!(seen.header("authorization"), Some(authorization.as_str()));
        assert_eq!(seen.header("x-team"), Some(KEY));
        let body = String::from_utf8_lossy(&seen.body);
        assert!(!body.contains(KEY), "a prompt contains the key");
    }
    assert_program_was_asked(&fixture);
    let mut files = 0;
    assert_no_key_below(fixture.path(), &mut files);
    assert!(files > 30, "{files} files");
    if cfg!(target_os = "linux") {
        assert!(children > 3, "{children} processes were checked");
    }
    let requests = seen.len();
    println!("{files} files, {children} child processes, {requests} requests");
}

/// Runs the program, and checks the environments of its children. Returns its standard error and the number of children.
fn run_and_watch_children(fixture: &ProgramFixture) -> (String, usize) {
    let path = fixture.path().join("stderr.log");
    let mut child = fixture
        .command(&["-vv", "evolve", "--config", "run.yaml", "--steps", "14"])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let mut children = HashSet::new();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        check_children_environments(child.id(), &mut children);
        std::thread::sleep(Duration::from_millis(5));
    };
    let stderr = std::fs::read_to_string(path).unwrap();
    let end = &stderr[stderr.len().saturating_sub(3000)..];
    assert!(matches!(status.code(), Some(0 | 5)), "{end}");
    (stderr, children.len())
}

/// The program has replied with its environment, which is not empty.
fn assert_program_was_asked(fixture: &ProgramFixture) {
    let log = RequestLog::read(&fixture.run_directory());
    let replies = log.replied.iter();
    let replies: Vec<_> = replies
        .filter(|replied| replied.model == "program")
        .collect();
    assert!(!replies.is_empty(), "the program got a request");
    for replied in replies {
        let path = format!(
            "softmax/steps/{:06}/ask-{}/response.md",
            replied.step, replied.ask
        );
        let text = std::fs::read_to_string(fixture.run_directory().join(path)).unwrap();
        assert!(text.contains("HARMLESS=plain"), "{text}");
    }
}

/// Whether bytes contain the key. A text is searched many times faster than windows of bytes in an unoptimised test, and the log at
/// trace level is long.
fn holds_key(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains(KEY)
}

fn assert_no_key_below(folder: &Path, files: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_no_key_below(&path, files);
        } else {
            *files += 1;
            let contents = std::fs::read(&path).unwrap();
            assert!(!holds_key(&contents), "`{}` holds the key", path.display());
        }
    }
}

/// Checks the environments of all descendants of a process, from `/proc`.
fn check_children_environments(parent: u32, checked: &mut HashSet<u32>) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
        return;
    };
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
        {
            let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
            let command = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            // Between fork and exec a child still has its parent's memory. The command line is read after the environment: if it is
            // still the parent's, so was the environment. It is empty if the child has ended in between, maybe before its exec.
            let parents = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
            let is_copy = command.is_empty() || command == parents;
            if !is_copy && !environment.is_empty() {
                let found = holds_key(&environment);
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                assert!(!found, "the child `{command}` received the key");
                checked.insert(child);
            }
            check_children_environments(child, checked);
        }
    }
}
