//! Requests to models, against local servers: a scripted server for every fault, and third-party servers.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::PathBuf;
use std::time::Duration;

use kforge::llm::{Client, LlmSettings, PromptPart, Reply, Request, RequestOrigin, RequestOutcome};

mod faults;
mod keys;
mod programs;
mod server;
mod settings;
mod speed;
mod third_party;
mod wire;

/// Resolved settings from the YAML of a config's `llm` section.
fn settings(yaml: &str) -> LlmSettings {
    let typed: LlmSettings = serde_yaml::from_str(yaml).expect("the settings are valid YAML");
    typed.resolved().expect("the settings are valid").0
}

fn client(yaml: &str) -> Client {
    Client::open(&settings(yaml)).expect("the client opens")
}

fn request() -> Request {
    Request {
        system: "You write kernels.".to_owned(),
        parts: vec![
            PromptPart {
                text: "The task: \"softmax\",\n".to_owned(),
                cache_here: true,
            },
            PromptPart {
                text: "über alles.\n".to_owned(),
                cache_here: false,
            },
        ],
        max_output: 1000,
    }
}

fn origin() -> RequestOrigin {
    RequestOrigin {
        folder: PathBuf::from("nowhere"),
        task: "softmax".to_owned(),
        step: 7,
        ask: 1,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn expect_reply(outcome: RequestOutcome) -> Reply {
    match outcome {
        RequestOutcome::Reply(reply) => reply,
        RequestOutcome::Pending => panic!("no reply"),
    }
}

/// Sends a request to the only model, with a time limit.
fn ask(client: &Client) -> Reply {
    ask_with(client, &request())
}

fn ask_with(client: &Client, request: &Request) -> Reply {
    let model = client.models().next().unwrap().name.clone();
    let reply = async {
        let origin = origin();
        let outcome = client.ask(&model, request, &origin);
        tokio::time::timeout(Duration::from_secs(60), outcome).await
    };
    expect_reply(runtime().block_on(reply).expect("the request ends"))
}
