//! A request, and clients that send it: for the suites that ask servers.

use std::path::PathBuf;
use std::time::Duration;

use kforge::llm::{Client, LlmSettings, PromptPart, Reply, Request, RequestOrigin, RequestOutcome};

/// Each protocol with its normal stop reason and its path.
pub(crate) const PROTOCOLS: [(&str, &str, &str); 3] = [
    ("anthropic", "end_turn", "/v1/messages"),
    ("openai", "stop", "/v1/chat/completions"),
    ("responses", "completed", "/v1/responses"),
];

/// Resolved settings from the YAML of a config's `llm` section.
pub(crate) fn settings(yaml: &str) -> LlmSettings {
    let typed: LlmSettings = serde_yaml::from_str(yaml).expect("the settings are valid YAML");
    typed.resolved().expect("the settings are valid").0
}

pub(crate) fn client(yaml: &str) -> Client {
    Client::open(&settings(yaml)).expect("the client opens")
}

pub(crate) fn request() -> Request {
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

pub(crate) fn origin() -> RequestOrigin {
    RequestOrigin {
        folder: PathBuf::from("nowhere"),
        task: "softmax".to_owned(),
        step: 7,
        ask: 1,
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) fn expect_reply(outcome: RequestOutcome) -> Reply {
    match outcome {
        RequestOutcome::Reply(reply) => reply,
        RequestOutcome::Pending => panic!("no reply"),
    }
}

/// Sends a request to the only model, with a time limit.
pub(crate) fn ask(client: &Client) -> Reply {
    ask_with(client, &request())
}

pub(crate) fn ask_with(client: &Client, request: &Request) -> Reply {
    let model = client.models().next().unwrap().name.clone();
    let reply = async {
        let origin = origin();
        let outcome = client.ask(&model, request, &origin);
        tokio::time::timeout(Duration::from_secs(60), outcome).await
    };
    expect_reply(runtime().block_on(reply).expect("the request ends"))
}
