//! An API key from the environment appears in the header that needs it, and nowhere else.

use std::process::Command;

use kforge::event::ReplyOutcome;
use kforge::llm::Client;
use serde_json::json;

use crate::llm::server::{Server, ServerAction};
use crate::llm::wire::{events, one_model};
use crate::llm::{ask, client, settings};

const KEY: &str = "sk-planted-0123456789abcdef";

/// Runs an ignored test of this file in a process with the key in its environment; returns its output.
fn with_key(test: &str) -> String {
    let result = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("PLANTED_API_KEY", KEY)
        .env("PLANTED_SECOND", KEY)
        .env("OPENAI_API_KEY", KEY)
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&result.stdout).into_owned()
        + &String::from_utf8_lossy(&result.stderr);
    assert!(
        result.status.success() && output.contains("1 passed"),
        "{output}"
    );
    output
}

#[test]
fn key_is_sent_and_never_logged() {
    let output = with_key("llm::keys::with_planted_key");
    assert!(
        output.contains("the log is at trace level") && output.contains("hyper"),
        "{output}"
    );
    assert!(
        !output.contains("planted-0123"),
        "the key was logged:\n{output}"
    );
}

#[test]
#[ignore = "run by `key_is_sent_and_never_logged`, with a key"]
fn with_planted_key() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::stderr)
        .init();
    tracing::trace!("the log is at trace level");
    for (protocol, header, value) in [
        ("anthropic", "x-api-key", KEY.to_owned()),
        ("openai", "authorization", format!("Bearer {KEY}")),
        ("responses", "authorization", format!("Bearer {KEY}")),
    ] {
        let server = Server::start(|number, seen| match number {
            // Real servers repeat the key in an error, in part or as a whole.
            0 => ServerAction::json(
                500,
                json!({"error": {"message": format!("Incorrect API key provided: {:?}", seen.headers)}}),
            ),
            1 => ServerAction::json(
                401,
                json!({"error": {"message": format!("Incorrect API key provided: {:?}", seen.headers)}}),
            ),
            _ => ServerAction::events(&events("openai", &[&format!("{:?}", seen.headers)], "stop")),
        });
        let more = ", key_env: PLANTED_API_KEY, headers: {X-Second: $PLANTED_SECOND}";
        let client = client(&one_model(protocol, &server.url, more));
        let reply = ask(&client);
        assert_eq!(reply.outcome, ReplyOutcome::Fatal);
        let detail = reply.detail.unwrap();
        assert!(
            detail.contains("***") && detail.contains("PLANTED_API_KEY"),
            "{detail}"
        );
        println!("{detail} {:?}", client.waiting_requests());
        let seen = server.seen();
        assert_eq!(seen[0].header(header), Some(value.as_str()));
        assert_eq!(seen[0].header("x-second"), Some(KEY));
        let body = String::from_utf8_lossy(&seen[0].body).into_owned();
        assert!(!body.contains(KEY));
        if protocol == "openai" {
            let reply = ask(&client);
            assert!(reply.text.contains("Bearer ***"), "{}", reply.text.len());
            println!("{reply:?}");
        }
    }
    let settings = settings("models: auto\n");
    println!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    assert_eq!(settings.resolved().unwrap().0, settings);
    assert_eq!(
        Client::open(&settings)
            .unwrap()
            .models()
            .next()
            .unwrap()
            .name,
        "openai/gpt-5"
    );
}

#[test]
fn command_receives_only_named_keys() {
    with_key("llm::keys::command_with_planted_key");
}

#[test]
#[ignore = "run by `command_receives_only_named_keys`, with a key"]
fn command_with_planted_key() {
    let env = |more: &str| {
        let yaml = format!("models: [{{provider: openai, model: m, base_url: 'http://127.0.0.1:1', key_env: PLANTED_API_KEY, headers: {{x: $PLANTED_SECOND}}}},
            {{provider: command, command: [env]{more}, max_output_tokens: 1000000}}]");
        let client = client(&yaml);
        let mut request = crate::llm::request();
        request.max_output = 1 << 20;
        crate::llm::expect_reply(crate::llm::runtime().block_on(client.ask(
            "command",
            &request,
            &crate::llm::origin(),
        )))
        .text
    };
    let variables = env("");
    assert!(
        variables.contains("PATH=") && !variables.contains("PLANTED") && !variables.contains(KEY),
        "a key was passed on"
    );
    let variables = env(", pass_env: [PLANTED_API_KEY]");
    assert!(
        variables.contains(&format!("PLANTED_API_KEY={KEY}"))
            && !variables.contains("PLANTED_SECOND")
    );
}

#[test]
fn missing_key_is_named() {
    let yaml = "models: [{provider: anthropic, model: m, key_env: NO_SUCH_API_KEY}]";
    let output = Client::open(&settings(yaml)).err().unwrap().to_string();
    assert!(
        output.contains("NO_SUCH_API_KEY is not set (needed by model `anthropic/m`)"),
        "{output}"
    );
}
