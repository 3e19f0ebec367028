//! A key that is planted in the environment reaches the server, and nothing else.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::model::{complete_reply, document, reply_to};
use crate::program::ProgramFixture;
use crate::run_log::RequestLog;
use crate::server::{Server, ServerAction};

const KEY: &str = "sk-planted-8f2c61d09be74a35";

#[test]
fn key_reaches_only_the_request_header() {
    let Some(mut shell) = ProgramFixture::new() else {
        return;
    };
    shell.set("PLANTED_API_KEY", KEY);
    shell.set("SECOND_COPY", KEY);
    shell.set("HARMLESS", "plain");
    let server = Server::start(|number, seen| match number {
        // As some servers do: what was sent is repeated in what went wrong.
        0 => ServerAction::json(
            500,
            json!({"error": {"message": format!("wrong: {:?}", seen.headers)}}),
        ),
        1 => complete_reply(seen, &format!("You sent me {:?}", seen.headers)),
        _ => complete_reply(seen, &reply_to(&document(seen), number)),
    });
    let url = &server.url;
    // The other model is a program that says what it was given.
    shell.config(&format!(
        "  models:\n  - {{name: local, provider: openai, model: m, base_url: '{url}', key_env: PLANTED_API_KEY, headers: {{X-Team: $SECOND_COPY}}}}\n  \
         - {{name: program, provider: command, command: [sh, -c, 'cat > /dev/null; env; echo \"<NO_VALID_EDIT/>\"']}}"
    ));
    let mut child = shell
        .command(&["-vv", "evolve", "--config", "run.yaml", "--steps", "14"])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(shell.path().join("stderr.log")).unwrap())
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
    let said = std::fs::read_to_string(shell.path().join("stderr.log")).unwrap();
    assert!(
        status.success(),
        "{}",
        &said[said.len().saturating_sub(3000)..]
    );
    assert!(
        said.contains("TRACE") && said.contains("hyper"),
        "the log is at trace level"
    );
    assert!(!said.contains(KEY), "standard error tells the key");

    let seen = server.seen();
    assert!(seen.len() > 2);
    for seen in &seen {
        assert_eq!(
            seen.header("authorization"),
            Some(format!("Bearer {KEY}").as_str())
        );
        assert_eq!(seen.header("x-team"), Some(KEY));
        assert!(
            !String::from_utf8_lossy(&seen.body).contains(KEY),
            "a prompt tells the key"
        );
    }
    let asked = RequestLog::read(&shell.run_directory());
    let programs = asked
        .replied
        .iter()
        .filter(|replied| replied.model == "program");
    let mut environments = 0;
    for replied in programs {
        let path = format!(
            "softmax/steps/{:06}/ask-{}/response.md",
            replied.step, replied.ask
        );
        let text = std::fs::read_to_string(shell.run_directory().join(path)).unwrap();
        assert!(text.contains("HARMLESS=plain"), "{text}");
        environments += 1;
    }
    assert!(environments > 0, "the program was asked");
    let mut files = 0;
    assert_no_key_below(shell.path(), &mut files);
    assert!(files > 30, "{files} files");
    if cfg!(target_os = "linux") {
        assert!(
            children.len() > 3,
            "{} processes were looked at",
            children.len()
        );
    }
    println!(
        "{files} files, {} child processes, {} requests",
        children.len(),
        seen.len()
    );
}

fn assert_no_key_below(folder: &Path, files: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_no_key_below(&path, files);
        } else {
            *files += 1;
            let text = std::fs::read(&path).unwrap();
            let found = text.windows(KEY.len()).any(|part| part == KEY.as_bytes());
            assert!(!found, "`{}` holds the key", path.display());
        }
    }
}

/// The environments of all that descend from this process, as the system tells them.
fn check_children_environments(parent: u32, looked_at: &mut HashSet<u32>) {
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
            // Between its birth and its own program a child still has its parent's memory.
            let is_copy = std::fs::read_link(format!("/proc/{child}/exe")).ok()
                == std::fs::read_link(format!("/proc/{parent}/exe")).ok()
                && std::fs::read(format!("/proc/{parent}/cmdline"))
                    .ok()
                    .as_ref()
                    == Some(&command);
            if !is_copy && !environment.is_empty() {
                let found = environment
                    .windows(KEY.len())
                    .any(|part| part == KEY.as_bytes());
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                assert!(!found, "the child `{command}` was given the key");
                looked_at.insert(child);
            }
            check_children_environments(child, looked_at);
        }
    }
}
