//! `llmock` from PyPI: stream faults, retries, and its verdict on the client.

use kforge::event::ReplyOutcome;
use kforge::llm::{Client, Reply};
use serde_json::{Value, json};

use crate::harness::{Missing, TestResult};
use crate::third_party::requests::{ask, client};
use crate::third_party::servers::{ThirdPartyServer, install, start};

/// The base path of each provider.
const BASES: [(&str, &str); 3] = [
    ("openai", "/v1"),
    ("responses", "/v1"),
    ("anthropic", "/anthropic"),
];

fn server() -> Result<ThirdPartyServer, Missing> {
    let commands: &[&[&str]] = &[
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
    let folder = install("llmock", commands)?;
    Ok(start(&folder, &[], &[], "/health", |port, _| {
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

/// A client of the server, with an idle timeout of two seconds.
fn client_for(server: &ThirdPartyServer, provider: &str, base: &str) -> Client {
    let url = server.url(base);
    client(&format!(
        "models: [{{provider: {provider}, model: m, base_url: \"{url}\"}}]\nidle_seconds: 2\ntimeout_seconds: 20\n"
    ))
}

/// The client's reply under these faults, the server's verdict, and the number of requests.
fn ask_with_faults(
    server: &ThirdPartyServer,
    provider: &str,
    base: &str,
    behaviors: Value,
) -> (Reply, Value, usize) {
    server.json("POST", "/_llmock/reset", "{}");
    server.json(
        "POST",
        "/_llmock/scenario",
        &json!({"behaviors": behaviors}).to_string(),
    );
    let reply = ask(&client_for(server, provider, base));
    let seen = server.json("GET", "/_llmock/requests", "");
    let seen = seen
        .as_array()
        .or_else(|| seen["requests"].as_array())
        .expect("a list")
        .len();
    (reply, server.json("GET", "/_llmock/verdict", ""), seen)
}

/// The verdict's complaints, except that requests follow each other at once, which is what these tests do.
fn findings(verdict: &Value) -> Vec<&str> {
    let findings = verdict["findings"].as_array().expect("a list");
    let codes = findings
        .iter()
        .filter_map(|finding| finding["code"].as_str());
    codes.filter(|code| *code != "no_backoff").collect()
}

pub(crate) fn retries_follow_the_servers_retry_after() -> TestResult {
    let server = server()?;
    for ((provider, base), status) in BASES.into_iter().zip([500, 503, 529]) {
        let faults = json!([{"type": "fail", "status": 429, "retry_after": 1, "times": 2}]);
        let (reply, verdict, seen) = ask_with_faults(&server, provider, base, faults);
        assert_eq!(
            (reply.outcome, reply.tries, seen),
            (ReplyOutcome::Complete, 3, 3),
            "{provider}: {reply:?}"
        );
        assert!(!reply.text.is_empty() && reply.usage.is_some(), "{reply:?}");
        assert_eq!(verdict["findings"], json!([]), "{provider}: {verdict}");
        let faults = json!([{"type": "fail", "status": status, "times": 2}]);
        let (reply, verdict, seen) = ask_with_faults(&server, provider, base, faults);
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
            let (reply, verdict, seen) = ask_with_faults(&server, provider, base, faults);
            assert_eq!(
                (reply.outcome, seen),
                (ReplyOutcome::Fatal, 1),
                "{provider} {refused}: {reply:?}"
            );
            assert!(findings(&verdict).is_empty(), "{verdict}");
        }
    }
    Ok(())
}

pub(crate) fn stream_faults_are_detected() -> TestResult {
    let server = server()?;
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
            let (reply, _, seen) = ask_with_faults(&server, provider, base, faults);
            assert_eq!(
                (reply.outcome, seen),
                (outcome, 1),
                "{provider} {kind}: {reply:?}"
            );
            // The search may send the step's request again. Then the server has no complaint either.
            let again = ask(&client_for(&server, provider, base));
            assert_eq!(again.outcome, ReplyOutcome::Complete, "{again:?}");
            let verdict = server.json("GET", "/_llmock/verdict", "");
            // The server may have sent all of a stream before the client, which stops at the malformed chunk, closes it.
            let mut findings = findings(&verdict);
            findings.retain(|code| *code != "malformed_chunk_ignored" || kind != "malformed");
            assert_eq!(findings, [""; 0], "{provider} {kind}: {verdict}");
        }
    }
    Ok(())
}
