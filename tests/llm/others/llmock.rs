//! `llmock` from the Python index: faults of streams and of patience, and a verdict on the client.

use kforge::event::ReplyOutcome;
use serde_json::{Value, json};

use super::{Other, installed, start};
use crate::{ask, client};

/// Where each provider is.
const BASES: [(&str, &str); 3] = [
    ("openai", "/v1"),
    ("responses", "/v1"),
    ("anthropic", "/anthropic"),
];

fn server() -> Option<Other> {
    let install: &[&[&str]] = &[
        &["python3", "-m", "venv", "venv"],
        &[
            "./venv/bin/python",
            "-m",
            "pip",
            "install",
            "-q",
            "llmock==0.2.2",
        ],
    ];
    let folder = installed("llmock", install)?;
    Some(start(&folder, &[], &[], "/health", |port, _| {
        [
            "venv/bin/llmock",
            "serve",
            "--port",
            &port.to_string(),
            "--log-level",
            "warning",
        ]
        .map(str::to_owned)
        .to_vec()
    }))
}

/// What the client made of these faults, what the server says of it, and how often it was asked.
fn under(
    server: &Other,
    provider: &str,
    base: &str,
    behaviors: Value,
    more: &str,
) -> (kforge::llm::Reply, Value, usize) {
    server.json("POST", "/_llmock/reset", "{}");
    server.json(
        "POST",
        "/_llmock/scenario",
        &json!({"behaviors": behaviors}).to_string(),
    );
    let yaml = format!(
        "models: [{{provider: {provider}, model: m, base_url: \"{}\"}}]\nidle_seconds: 2\ntimeout_seconds: 20\n{more}",
        server.url(base)
    );
    let reply = ask(&client(&yaml));
    let seen = server.json("GET", "/_llmock/requests", "");
    let seen = seen
        .as_array()
        .or_else(|| seen["requests"].as_array())
        .expect("a list")
        .len();
    (reply, server.json("GET", "/_llmock/verdict", ""), seen)
}

/// The codes of all findings, for better or worse.
fn findings(verdict: &Value) -> String {
    verdict["findings"].to_string()
}

#[test]
fn patience_is_what_the_server_asks_for() {
    let Some(server) = server() else { return };
    for ((provider, base), status) in BASES.into_iter().zip([500, 503, 529]) {
        let faults = json!([{"type": "fail", "status": 429, "retry_after": 1, "times": 2}]);
        let (reply, verdict, seen) = under(&server, provider, base, faults, "");
        assert_eq!(
            (reply.outcome, reply.tries, seen),
            (ReplyOutcome::Complete, 3, 3),
            "{provider}: {reply:?}"
        );
        assert!(!reply.text.is_empty() && reply.usage.is_some(), "{reply:?}");
        assert_eq!(verdict["findings"], json!([]), "{provider}: {verdict}");
        let faults = json!([{"type": "fail", "status": status, "times": 2}]);
        let (reply, verdict, seen) = under(&server, provider, base, faults, "");
        assert_eq!(
            (reply.outcome, seen),
            (ReplyOutcome::Complete, 3),
            "{provider} {status}: {reply:?}"
        );
        assert_eq!(
            verdict["findings"],
            json!([]),
            "{provider} {status}: {verdict}"
        );
        for refused in [400, 401, 403, 404, 422] {
            let faults = json!([{"type": "fail", "status": refused, "times": null}]);
            let (reply, verdict, seen) = under(&server, provider, base, faults, "");
            assert_eq!(
                (reply.outcome, seen),
                (ReplyOutcome::Fatal, 1),
                "{provider} {refused}: {reply:?}"
            );
            assert!(
                !findings(&verdict).contains("retried_non_retryable"),
                "{verdict}"
            );
        }
    }
}

#[test]
fn faults_of_streams_are_all_seen() {
    let Some(server) = server() else { return };
    for (provider, base) in BASES {
        for (kind, outcome) in [
            ("disconnect", ReplyOutcome::Lost),
            ("truncate", ReplyOutcome::Lost),
            ("malformed", ReplyOutcome::Malformed),
            ("stall", ReplyOutcome::Lost),
        ] {
            let mut fault = json!({"type": "stream_fault", "kind": kind, "after_chunks": 3});
            if kind == "stall" {
                fault["stall_seconds"] = json!(6);
            }
            let faults = json!([fault]);
            let (reply, verdict, seen) = under(&server, provider, base, faults, "");
            assert_eq!(
                (reply.outcome, seen),
                (outcome, 1),
                "{provider} {kind}: {reply:?}"
            );
            let found = findings(&verdict);
            assert!(
                !found.contains("no_read_timeout") && !found.contains("malformed_chunk_ignored"),
                "{provider} {kind}: {verdict}"
            );
        }
    }
}
