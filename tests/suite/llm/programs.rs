//! The providers without a server: `command`, `mailbox` and `replay`.

use std::path::Path;
use std::time::{Duration, Instant};

use kforge::base::Digest;
use kforge::event::{Cost, Replied, ReplyOutcome, Usage};
use kforge::llm::{Client, Reply, RequestOrigin, RequestOutcome};

use crate::llm::{ask, ask_with, client, expect_reply, origin, request, runtime, settings};

fn command_client(script: &str, more: &str) -> Client {
    command_client_within(60, script, more)
}

/// The command may take this many seconds.
fn command_client_within(seconds: u32, script: &str, more: &str) -> Client {
    let script = serde_json::to_string(script).unwrap();
    client(&format!(
        "models: [{{provider: command, command: [sh, -c, {script}]{more}}}]\ntimeout_seconds: {seconds}\n"
    ))
}

/// The tokens that kforge estimates for a number of bytes.
fn tokens(bytes: usize) -> u64 {
    (bytes as f64 / 3.5).ceil() as u64
}

#[test]
fn command_reads_the_prompt_and_prints_the_reply() {
    let client = command_client("cat; echo said >&2", "");
    let reply = ask(&client);
    assert_eq!((reply.outcome, reply.usage), (ReplyOutcome::Complete, None));
    assert_eq!(
        reply.text,
        "You write kernels.\n\nThe task: \"softmax\",\nüber alles.\n"
    );
    let reserved = client.worst_case("command", &request());
    assert_eq!(
        reserved,
        Cost {
            tokens: tokens(request().bytes()) + tokens(1000),
            nano_usd: None,
            assumed: true,
            estimated: true,
        }
    );
    let cost = client.cost("command", &request(), &reserved, &reply);
    let estimate = tokens(request().bytes()) + tokens(reply.text.len());
    assert_eq!(
        (cost.tokens, cost.estimated, cost.assumed),
        (estimate, true, false)
    );
    assert!(cost.tokens < reserved.tokens);
}

#[test]
fn prompt_and_reply_may_exceed_a_pipe_buffer() {
    let mut request = request();
    request.parts[1].text = "0123456789abcde\n".repeat(50_000);
    request.max_output = 1 << 20;
    let reply = ask_with(
        &command_client("yes complaint | head -c 300000 >&2; cat", ""),
        &request,
    );
    assert_eq!(
        (reply.outcome, reply.text.len()),
        (ReplyOutcome::Complete, request.bytes() + 2)
    );
    let reply = ask_with(&command_client("echo deaf", ""), &request);
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Complete, "deaf\n")
    );
}

#[test]
fn failed_command_reports_why() {
    for (script, outcome, message) in [
        (
            "echo half; echo broken >&2; exit 3",
            ReplyOutcome::Lost,
            "exit status: 3: broken",
        ),
        ("exit 0", ReplyOutcome::Empty, "printed nothing"),
        ("printf '\\377'", ReplyOutcome::Malformed, "UTF-8"),
        ("kill -9 $$", ReplyOutcome::Lost, "signal: 9"),
        (
            "head -c 2000 /dev/zero | tr '\\0' x",
            ReplyOutcome::Truncated,
            "longer than 1000 bytes",
        ),
        ("yes", ReplyOutcome::Truncated, "longer than 1000 bytes"),
    ] {
        let reply = ask(&command_client(script, ""));
        assert_eq!(reply.outcome, outcome, "{script}: {reply:?}");
        assert!(
            reply.detail.as_deref().unwrap().contains(message),
            "{script}: {reply:?}"
        );
        assert!(reply.text.len() <= 1000);
    }
    let reply = ask(&client(
        "models: [{provider: command, command: [/no/such/program]}]",
    ));
    assert_eq!(
        (reply.outcome, reply.is_billable),
        (ReplyOutcome::Fatal, false)
    );
}

/// Whether a process with this number exists and is not a zombie.
fn is_running(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn timed_out_command_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("child");
    let script = format!(
        "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; echo half; wait",
        file.display()
    );
    let client = command_client_within(2, &script, "");
    let started = Instant::now();
    let reply = ask(&client);
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Lost, "half\n")
    );
    assert!(started.elapsed() < Duration::from_secs(60));
    let gone = |id: &str| {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !is_running(id)
        })
    };
    assert!(
        gone(&std::fs::read_to_string(&file).unwrap()),
        "the child outlived the request"
    );
    std::fs::remove_file(&file).unwrap();
    runtime().block_on(async {
        let (request, origin) = (request(), origin());
        let reply = client.ask("command", &request, &origin);
        let until = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! { _ = reply => panic!("the request ended"), () = until => {} }
    });
    assert!(
        gone(&std::fs::read_to_string(&file).unwrap()),
        "the child outlived the dropped request"
    );
}

fn origin_in(folder: &Path) -> RequestOrigin {
    RequestOrigin {
        folder: folder.to_owned(),
        ..origin()
    }
}

#[test]
fn mailbox_reply_is_taken_when_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("response.md");
    let client = client("models: [mailbox]\n");
    let origin = origin_in(folder.path());
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        std::thread::sleep(Duration::from_millis(300));
        let mut file = std::fs::File::create(path).unwrap();
        for _ in 0..4 {
            file.write_all(b"piece ").unwrap();
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    let reply = runtime().block_on(async {
        let request = request();
        let reply = client.ask("mailbox", &request, &origin);
        tokio::pin!(reply);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), &mut reply)
                .await
                .is_err()
        );
        let waiting = client.waiting_requests();
        assert_eq!((waiting.len(), waiting[0].until), (1, None));
        reply.await
    });
    writer.join().unwrap();
    let reply = expect_reply(reply);
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Complete, "piece piece piece piece ")
    );
    assert_eq!(client.waiting_requests(), []);
}

#[test]
fn mailbox_without_wait_returns_pending() {
    let folder = tempfile::tempdir().unwrap();
    let client = client("models: [mailbox]\nwait: false\nconcurrency: 1\n");
    let ask = || {
        runtime().block_on(async {
            client
                .ask("mailbox", &request(), &origin_in(folder.path()))
                .await
        })
    };
    assert_eq!(ask(), RequestOutcome::Pending);
    std::fs::write(folder.path().join("response.md"), "x".repeat(1001)).unwrap();
    let reply = expect_reply(ask());
    assert_eq!(
        (reply.outcome, reply.text.len()),
        (ReplyOutcome::Truncated, 1000)
    );
    std::fs::write(folder.path().join("response.md"), " \n").unwrap();
    assert_eq!(expect_reply(ask()).outcome, ReplyOutcome::Empty);
}

/// The usage of the recorded replies.
const USAGE: Usage = Usage {
    input: 5,
    cached: 0,
    cache_write: 0,
    output: 6,
    reasoning: 0,
};

/// A line of a journal.
fn replied_line(step: u64, ask: u32, outcome: ReplyOutcome, response: Option<Digest>) -> String {
    let event = Replied {
        step,
        ask,
        outcome,
        response,
        model: "m".to_owned(),
        usage: Some(USAGE),
        cost: Cost::default(),
        tries: 2,
        seconds: 1.5,
        detail: Some("why".to_owned()),
    };
    let mut line = serde_json::to_value(event).unwrap();
    // The head of a journal line writes the step.
    line["step"] = step.into();
    line["event"] = "replied".into();
    format!("{line}\n")
}

/// A run with a truncated reply to step 7 and a lost one to step 8. Its journal ends with a torn line.
fn recorded_run() -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("softmax/steps/000007/ask-1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(run.path().join("run.yaml"), "schema: 1\n").unwrap();
    std::fs::write(folder.join("response.md"), "the reply").unwrap();
    let digest = Digest::of("the reply");
    let journal = format!(
        "{{\"schema\":1,\"event\":\"asked\",\"step\":7}}\n{}{}{{\"event\":\"repl",
        replied_line(7, 1, ReplyOutcome::Truncated, Some(digest)),
        replied_line(8, 2, ReplyOutcome::Lost, None),
    );
    std::fs::write(run.path().join("softmax/events.jsonl"), journal).unwrap();
    run
}

fn replay_client(run: &Path) -> Client {
    client(&format!(
        "models: [{{provider: replay, name: m, from: \"{}\", price: {{input: 1, output: 2}}}}]\n",
        run.display()
    ))
}

fn replayed(client: &Client, step: u64, ask: u32) -> Reply {
    let origin = RequestOrigin {
        step,
        ask,
        ..origin()
    };
    expect_reply(runtime().block_on(client.ask("m", &request(), &origin)))
}

#[test]
fn replay_returns_recorded_replies() {
    let run = recorded_run();
    let client = replay_client(run.path());
    let reply = replayed(&client, 7, 1);
    assert_eq!(
        (reply.outcome, reply.text.as_str(), reply.usage),
        (ReplyOutcome::Truncated, "the reply", Some(USAGE))
    );
    assert_eq!(reply.detail.as_deref(), Some("why"));
    let cost = client.cost("m", &request(), &Cost::default(), &reply);
    assert_eq!(cost.nano_usd, Some(17_000));
    assert_eq!(replayed(&client, 8, 2).outcome, ReplyOutcome::Lost);
}

#[test]
fn replay_refuses_missing_and_changed_replies() {
    let run = recorded_run();
    let client = replay_client(run.path());
    let missing = replayed(&client, 9, 1);
    assert_eq!(missing.outcome, ReplyOutcome::Fatal);
    let detail = missing.detail.unwrap();
    assert!(detail.contains("no reply to step 9, ask 1"), "{detail}");
    let response = run.path().join("softmax/steps/000007/ask-1/response.md");
    std::fs::write(response, "another").unwrap();
    let detail = replayed(&client, 7, 1).detail.unwrap();
    assert!(
        detail.contains("not the reply that the journal names"),
        "{detail}"
    );
    let nowhere = Client::open(&settings("models: [{provider: replay, from: nowhere}]\n"));
    let error = nowhere.err().unwrap().to_string();
    assert!(
        error.contains("`from` of model `replay` is not a run directory: `nowhere`"),
        "{error}"
    );
}
