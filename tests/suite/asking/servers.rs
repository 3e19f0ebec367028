//! Runs against servers as they are: refusals with status 200, replies in a broken frame, replies without a kernel.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kforge::base::FailureKind;
use kforge::event::{Failed, FailedReason, Replied, ReplyOutcome};
use serde_json::{Value, json};

use crate::asking::model::{
    complete_reply, document, parent_source, reply_to, stream_events, trace_block,
};
use crate::asking::program::{ProgramFixture, openai_model};
use crate::asking::run_log::{RequestLog, summary};
use crate::asking::scenario::Scenario;
use crate::llm::server::{SeenRequest, Server, ServerAction};

const STEPS: u64 = 10;

/// A server that gives every request the same body with status 200.
fn server_of_body(content_type: &'static str, body: &'static str) -> Server {
    Server::start(move |_, _| {
        let headers = vec![("content-type", content_type.to_owned())];
        ServerAction::Whole(200, headers, body.into())
    })
}

/// Every step writes a new kernel: no edits, whose replies have no fence.
fn only_proposals(url: &str) -> Scenario {
    let mut scenario = Scenario::new(url, STEPS);
    scenario.operators = json!({"propose": 1, "edit": 0, "crossover": 0, "repair": 0, "autotune": 0, "mutate": 0, "recombine": 0});
    scenario
}

#[test]
fn refusal_with_status_200_ends_the_run_in_the_words_of_the_server() {
    let cases = [
        (
            "application/json",
            r#"{"error":{"message":"Rate limit reached for today","code":429}}"#,
            "status 200: 429: Rate limit reached for today",
            "when the model is available again",
        ),
        (
            "application/json",
            r#"{"error":"No such endpoint: POST /chat/completions"}"#,
            "No such endpoint: POST /chat/completions",
            "requested: http://127.0.0.1:",
        ),
        (
            "text/html",
            "<!DOCTYPE html><html><title>Sign in</title></html>",
            "a web page: \"Sign in\"",
            "`base_url`",
        ),
    ];
    let commands = ["tune", "evolve", "tune"];
    for ((content_type, body, words, advice), command) in cases.into_iter().zip(commands) {
        let fixture = ProgramFixture::new();
        let server = server_of_body(content_type, body);
        fixture.config(&(openai_model(&server.url, "") + "\n  retries: 1\n  concurrency: 1"));
        let result = fixture.run(&[command, "--config", "run.yaml", "--steps", "5"]);
        result.assert_exit(3, &[words, advice, "kforge resume"]);
        let directory = fixture.run_directory();
        let log = RequestLog::read(&directory);
        // A child of `mutate` may compile to known code.
        let mut failed = log.failed.iter();
        let is_own = |failed: &Failed| failed.reason == FailedReason::Duplicate;
        assert!(failed.all(is_own), "no step is lost: {:?}", log.failed);
        assert_eq!((log.spent().nano_usd, log.spent().tokens), (Some(0), 0));
        let summary = summary(&directory);
        let failure = summary["tasks"][0]["failure"].as_str().unwrap();
        assert!(failure.contains(words), "{failure}");
    }
}

/// The replies of a run whose server wraps every good reply in `frame`.
fn run_with_frame(
    directory: &Path,
    frame: impl Fn(&SeenRequest, &str) -> Vec<String> + Send + Sync + 'static,
) -> Vec<Replied> {
    let server = Server::start(move |number, seen| {
        let text = reply_to(&document(seen), number);
        ServerAction::events(&frame(seen, &text))
    });
    only_proposals(&server.url).finish_all_steps(directory);
    let log = RequestLog::read(directory);
    log.assert_files_match_journal(directory);
    assert!(log.sent.iter().all(|sent| sent.ask == 1), "asked once each");
    let taken = log.replied.iter();
    let taken = taken.filter(|replied| log.proposed.contains(&replied.step));
    // A few replies are the same as earlier ones.
    assert!(taken.count() >= 4, "{:?}", log.failed);
    log.replied
}

#[test]
fn whole_replies_in_a_broken_frame_become_candidates() {
    let without = |seen: &SeenRequest, text: &str, part: &str| {
        let mut events = stream_events(seen, text, "stop");
        events.retain(|event| !event.contains(part));
        events
    };
    let root = tempfile::tempdir().unwrap();
    let run = |name: &str, frame: fn(&SeenRequest, &str) -> Vec<String>| {
        run_with_frame(&root.path().join(name), frame)
    };
    let fence = run("fence", |seen, text| {
        let open = text.trim_end().strip_suffix("```").unwrap();
        stream_events(seen, open, "stop")
    });
    assert!(fence.iter().all(|replied| !replied.cost.assumed));
    run_with_frame(&root.path().join("finish"), move |seen, text| {
        without(seen, text, "\"stop\"")
    });
    let floats = run("floats", |seen, text| {
        let float = |event: String| {
            let counts = ["prompt_tokens", "completion_tokens"];
            let Some(data) = event
                .strip_prefix("data: {")
                .filter(|_| event.contains(counts[0]))
            else {
                return event;
            };
            let mut value: Value = serde_json::from_str(&format!("{{{}", data.trim_end())).unwrap();
            for name in counts {
                let count = value["usage"][name].as_f64().unwrap();
                value["usage"][name] = json!(count);
            }
            format!("data: {value}\n\n")
        };
        let events = stream_events(seen, text, "stop").into_iter();
        events.map(float).collect()
    });
    assert!(
        floats
            .iter()
            .all(|replied| replied.usage.is_some() && !replied.cost.assumed)
    );
    let thoughts = run("thoughts", |seen, text| {
        let events = stream_events(seen, text, "stop").into_iter();
        events
            .map(|event| event.replace("{\"content\":", "{\"reasoning_content\":"))
            .collect()
    });
    let note = thoughts[0].detail.as_deref().unwrap();
    assert!(
        note.contains("the server counts it all as thinking"),
        "{note}"
    );
    let tools = run("tools", |seen, text| {
        let (_, code) = text.split_once("```cuda\n").unwrap();
        let arguments =
            json!({"path": "kernel.cu", "file_text": code.split_once("```").unwrap().0});
        let call = json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": arguments.to_string()}}]}}]});
        let mut events = stream_events(seen, "", "tool_calls");
        events.insert(0, format!("data: {call}\n\n"));
        events
    });
    assert!(
        tools
            .iter()
            .all(|replied| replied.outcome == ReplyOutcome::Complete)
    );
    // The stream of every third reply dies after the kernel's closing fence. More of them would look like a server that is down.
    let count = AtomicUsize::new(0);
    let lost = run_with_frame(&root.path().join("lost"), move |seen, text| {
        let text = format!("{text}\nThis kernel is");
        let mut events = stream_events(seen, &text, "stop");
        if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
            events.retain(|event| event.contains("content"));
        }
        events
    });
    let lost = lost
        .iter()
        .filter(|replied| replied.outcome == ReplyOutcome::Lost);
    assert!(lost.count() >= 2);
}

#[test]
fn reply_without_code_is_sent_back_once() {
    const HEADING: &str = "# Your last reply could not be read";
    let root = tempfile::tempdir().unwrap();
    // Without a kernel: a good reply comes when it is sent back, except for every third request.
    let server = Server::start(|number, seen| {
        let document = document(seen);
        let good = reply_to(&document, number);
        let text = if document.contains(HEADING) && number % 3 > 0 {
            good
        } else if number.is_multiple_of(2) {
            format!("{}I would use a larger block.\n", trace_block("talk"))
        } else {
            let kernel = parent_source(&document);
            let cut = kernel.rfind('}').unwrap();
            format!("{}```cuda\n{}", trace_block("cut"), &kernel[..cut])
        };
        complete_reply(seen, &text)
    });
    only_proposals(&server.url).finish_all_steps(root.path());
    let log = RequestLog::read(root.path());
    let second = log.sent.iter().filter(|sent| sent.ask == 2);
    let second: Vec<u64> = second.map(|sent| sent.step).collect();
    assert!(second.len() >= 5 && log.sent.iter().all(|sent| sent.ask <= 2));
    for seen in server.seen() {
        let document = document(&seen);
        if document.contains(HEADING) {
            let shows_reply =
                document.contains("\"change\":\"talk\"") || document.contains("\"change\":\"cut\"");
            assert!(shows_reply, "{document}");
            let says_why = document.contains("neither a kernel nor edits")
                || document.contains("the kernel is cut off");
            assert!(says_why, "{document}");
        }
    }
    let taken = second.iter().filter(|step| log.proposed.contains(step));
    assert!(taken.count() > 0);
    let failed = log
        .failed
        .iter()
        .filter(|failed| second.contains(&failed.step));
    for failed in failed {
        assert!(
            matches!(
                failed.reason,
                FailedReason::NoCode
                    | FailedReason::Truncated
                    | FailedReason::Duplicate
                    | FailedReason::NoOp
            ),
            "{failed:?}"
        );
    }
}

#[test]
fn steps_without_a_reply_are_reported_in_the_words_of_the_server() {
    // The server fails after some text: the request may have been billed, so it is not a refusal.
    let half_then = |last: &'static str| {
        let half = "data: {\"choices\": [{\"delta\": {\"content\": \"half\"}}]}\n\n";
        Server::start(move |_, _| ServerAction::events(&[half.to_owned(), last.to_owned()]))
    };
    let server = half_then("data: {oops}\n\n");
    let root = tempfile::tempdir().unwrap();
    let failure = only_proposals(&server.url).run_to_failure(root.path());
    assert_eq!(failure.kind, FailureKind::Environment);
    for words in [
        "3 steps in a row got no reply",
        "the reply was lost three times: invalid event in the stream",
    ] {
        assert!(failure.message.contains(words), "{failure}");
    }
    let unanswered = &summary(root.path())["tasks"][0]["unanswered"][0];
    assert_eq!(unanswered["reason"], json!("no_reply"));
    // Steps in flight may follow the third.
    assert!(unanswered["steps"].as_u64().unwrap() >= 3);
    // With one step the run ends before three in a row.
    let server = half_then("data: {\"error\": {\"message\": \"GPU fell over\"}}\n\n");
    let fixture = ProgramFixture::new();
    fixture.config(&openai_model(&server.url, ""));
    let result = fixture.run(&["tune", "--config", "run.yaml", "--steps", "1"]);
    result.assert_exit(3, &["no model has replied", "GPU fell over"]);
    let shown = result
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(
        shown
            .contains("1 step got no reply; step 1: the reply was lost three times: GPU fell over"),
        "{shown}"
    );
    let folder = fixture.run_directory().join("softmax/steps/000001");
    for ask in 1..=3 {
        let path = folder.join(format!("ask-{ask}/response.md"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "half");
    }
}

#[test]
fn prompts_show_only_kernels_with_a_verdict() {
    let root = tempfile::tempdir().unwrap();
    let server =
        Server::start(|number, seen| complete_reply(seen, &reply_to(&document(seen), number)));
    let mut scenario = Scenario::new(&server.url, 20);
    scenario.max_judging_ms = 30;
    scenario.finish_all_steps(root.path());
    let seen = server.seen();
    assert!(seen.len() > 5);
    for seen in &seen {
        let document = document(seen).to_lowercase();
        assert!(!document.contains("not judged yet"), "{document}");
    }
}
