//! Asking models, against servers that run here: small ones of our own for every fault, and those of others.

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

/// Settings as a run config has them, with nothing left to decide.
fn settings(yaml: &str) -> LlmSettings {
    let typed: LlmSettings = serde_yaml::from_str(yaml).expect("the settings can be read");
    typed.resolved().expect("the settings mean something").0
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

fn expect_reply(answer: RequestOutcome) -> Reply {
    match answer {
        RequestOutcome::Reply(reply) => reply,
        RequestOutcome::Pending => panic!("nobody replied"),
    }
}

/// Asks the only model, and does not wait for ever.
fn ask(client: &Client) -> Reply {
    ask_with(client, &request())
}

fn ask_with(client: &Client, request: &Request) -> Reply {
    let model = client.models().next().unwrap().name.clone();
    let asked = async {
        let place = origin();
        let answer = client.ask(&model, request, &place);
        tokio::time::timeout(Duration::from_secs(60), answer).await
    };
    expect_reply(runtime().block_on(asked).expect("asking comes to an end"))
}
