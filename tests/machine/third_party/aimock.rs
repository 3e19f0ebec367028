//! `@copilotkit/aimock` (command `llmock`): the three protocols, finish reasons, retries, broken streams.

use kforge::event::{Cost, ReplyOutcome, Usage};
use serde_json::{Value, json};

use crate::harness::{Missing, TestResult};
use crate::third_party::requests::{PROTOCOLS, ask, client, request};
use crate::third_party::servers::{ThirdPartyServer, install, start};

/// Its replies, by the name of the model.
fn fixtures() -> Value {
    let code = "__global__ void scale(float* x) { x[threadIdx.x] *= 2.0f; }";
    let usage = json!({"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200});
    let with =
        |model: &str, response: Value| json!({"match": {"model": model}, "response": response});
    let first = |model: &str, response: Value| json!({"match": {"model": model, "sequenceIndex": 0}, "response": response});
    let error = |status: u16, kind: &str| json!({"error": {"message": "not now", "type": kind}, "status": status});
    let mut limited = error(429, "rate_limit_error");
    limited["retryAfter"] = json!(1);
    let mut cut = with("cut", json!({"content": code}));
    cut["truncateAfterChunks"] = json!(4);
    let fine = json!({"content": code, "usage": usage});
    let broken = |model: &str, rates: Value| {
        let mut fixture = with(model, json!({"content": code}));
        fixture["chaos"] = rates;
        fixture
    };
    json!({"fixtures": [
        with("fine", fine.clone()),
        with("length", json!({"content": code, "finishReason": "length", "usage": usage})),
        with("empty", json!({"content": " ", "usage": usage})),
        first("limited", limited), with("limited", fine.clone()),
        first("failing", error(500, "server_error")), with("failing", fine.clone()),
        first("overloaded", error(529, "overloaded_error")), with("overloaded", fine),
        with("wrong", error(401, "authentication_error")),
        cut,
        broken("garbled", json!({"malformedRate": 1})),
        broken("severed", json!({"disconnectRate": 1})),
    ]})
}

fn server() -> Result<ThirdPartyServer, Missing> {
    let commands: &[&[&str]] = &[&[
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        ".",
        "@copilotkit/aimock@1.43.0",
    ]];
    let folder = install("aimock", commands)?;
    let files = [("fixtures.json", fixtures().to_string())];
    Ok(start(
        &folder,
        &files,
        &[],
        "/__aimock/journal",
        |port, settings| {
            let options = ["--log-level", "warn", "--chunk-size", "8", "-f"].map(str::to_owned);
            let mut argv = vec![
                "node_modules/.bin/llmock".to_owned(),
                "-p".to_owned(),
                port.to_string(),
            ];
            argv.extend(options);
            argv.push(format!("{settings}/fixtures.json"));
            argv
        },
    ))
}

/// How many requests named this model.
fn request_count(server: &ThirdPartyServer, model: &str) -> usize {
    let journal = server.json("GET", "/__aimock/journal", "");
    let entries = journal
        .as_array()
        .or_else(|| journal["entries"].as_array())
        .expect("a list")
        .clone();
    entries
        .iter()
        .filter(|entry| entry["body"]["model"] == model)
        .count()
}

fn yaml(server: &ThirdPartyServer, provider: &str, model: &str, stream: bool) -> String {
    format!(
        "models: [{{provider: {provider}, model: {model}, base_url: \"{}\", stream: {stream}, price: {{input: 3, output: 15}}}}]\ntimeout_seconds: 300\n",
        server.url("/v1")
    )
}

pub(crate) fn all_protocols_streamed_and_whole() -> TestResult {
    let server = server()?;
    let mut count = 0;
    for (provider, ..) in PROTOCOLS {
        for stream in [true, false] {
            let asker = client(&yaml(&server, provider, "fine", stream));
            let reply = ask(&asker);
            count += 1;
            assert_eq!(
                reply.outcome,
                ReplyOutcome::Complete,
                "{provider} {stream}: {reply:?}"
            );
            assert!(reply.text.starts_with("__global__ void scale") && reply.text.ends_with('}'));
            assert_eq!(
                reply.usage,
                Some(Usage {
                    input: 1000,
                    output: 200,
                    ..Usage::default()
                }),
                "{provider} {stream}"
            );
            let cost = asker.cost(
                &format!("{provider}/fine"),
                &request(),
                &Cost::default(),
                &reply,
            );
            assert_eq!(
                cost,
                Cost {
                    tokens: 1200,
                    nano_usd: Some(6_000_000),
                    ..Cost::default()
                }
            );
            assert_eq!(request_count(&server, "fine"), count);
            let cut = ask(&client(&yaml(&server, provider, "length", stream)));
            assert_eq!(
                cut.outcome,
                ReplyOutcome::Truncated,
                "{provider} {stream}: {cut:?}"
            );
            let empty = ask(&client(&yaml(&server, provider, "empty", stream)));
            assert_eq!(
                empty.outcome,
                ReplyOutcome::Empty,
                "{provider} {stream}: {empty:?}"
            );
        }
    }
    Ok(())
}

pub(crate) fn transient_errors_are_retried_and_permanent_ones_are_not() -> TestResult {
    let server = server()?;
    for (model, least) in [("limited", 1.0), ("failing", 0.35), ("overloaded", 0.35)] {
        let reply = ask(&client(&yaml(&server, "anthropic", model, true)));
        assert_eq!(
            (reply.outcome, reply.tries),
            (ReplyOutcome::Complete, 2),
            "{model}: {reply:?}"
        );
        assert!(
            (least..least + 1.0).contains(&reply.seconds),
            "{model}: {}",
            reply.seconds
        );
        assert_eq!(request_count(&server, model), 2);
    }
    let reply = ask(&client(&yaml(&server, "openai", "wrong", true)));
    assert_eq!(
        (reply.outcome, request_count(&server, "wrong")),
        (ReplyOutcome::Fatal, 1),
        "{reply:?}"
    );
    let reply = ask(&client(&yaml(&server, "openai", "no-such-model", true)));
    assert_eq!(reply.outcome, ReplyOutcome::Fatal, "{reply:?}");
    Ok(())
}

pub(crate) fn broken_streams_are_detected_and_not_retried() -> TestResult {
    let server = server()?;
    for (provider, ..) in PROTOCOLS {
        let before = request_count(&server, "cut");
        let reply = ask(&client(&yaml(&server, provider, "cut", true)));
        assert_eq!(reply.outcome, ReplyOutcome::Lost, "{provider}: {reply:?}");
        assert_eq!(request_count(&server, "cut") - before, 1);
        for (model, outcomes) in [
            ("garbled", [ReplyOutcome::Malformed, ReplyOutcome::Lost]),
            ("severed", [ReplyOutcome::Lost, ReplyOutcome::Lost]),
        ] {
            let before = request_count(&server, model);
            let reply = ask(&client(&yaml(&server, provider, model, true)));
            assert!(
                outcomes.contains(&reply.outcome),
                "{provider} {model}: {reply:?}"
            );
            assert_eq!(
                request_count(&server, model) - before,
                1,
                "{provider} {model}: {reply:?}"
            );
        }
    }
    Ok(())
}
