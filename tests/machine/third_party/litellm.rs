//! `litellm[proxy]`, a proxy for many models: its replies and its errors.

use kforge::event::ReplyOutcome;

use crate::harness::{Missing, TestResult};
use crate::third_party::requests::{ask, client};
use crate::third_party::servers::{ThirdPartyServer, install, start};

const CONFIG: &str = "model_list:
  - {model_name: fine, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: '__global__ void f() {}'}}
  - {model_name: limited, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: litellm.RateLimitError}}
  - {model_name: broken, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: litellm.InternalServerError}}
  - {model_name: long, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: litellm.ContextWindowExceededError}}
litellm_settings: {num_retries: 0}
general_settings: {dangerously_permit_weak_or_unset_master_key: true}
";

fn server() -> Result<ThirdPartyServer, Missing> {
    let commands: &[&[&str]] = &[
        &["python3", "-m", "venv", "venv"],
        &[
            "./venv/bin/python",
            "-m",
            "pip",
            "install",
            "-q",
            // Most of its thousands of files are never imported.
            "--no-compile",
            "litellm[proxy]==1.106.2",
        ],
    ];
    let folder = install("litellm", commands)?;
    let files = [("config.yaml", CONFIG.to_owned())];
    // Without a download: the package has the prices of all models too.
    let environment = [("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("NO_PROXY", "*")];
    Ok(start(
        &folder,
        &files,
        &environment,
        "/health/liveliness",
        |port, settings| {
            let config = format!("{settings}/config.yaml");
            let port = port.to_string();
            [
                "venv/bin/litellm",
                "--config",
                &config,
                "--host",
                "127.0.0.1",
                "--port",
                &port,
            ]
            .map(str::to_owned)
            .to_vec()
        },
    ))
}

pub(crate) fn proxy_replies_and_errors_are_understood() -> TestResult {
    let server = server()?;
    let yaml = |provider: &str, model: &str, stream: bool| {
        let url = server.url("/v1");
        format!(
            "models: [{{provider: {provider}, model: {model}, base_url: \"{url}\", stream: {stream}}}]\nretries: 1\ntimeout_seconds: 300\n"
        )
    };
    // Its mock of Messages does not stream although the request asks for it; its mock of Responses has no streams.
    for (provider, stream) in [
        ("openai", true),
        ("openai", false),
        ("anthropic", true),
        ("anthropic", false),
        ("responses", false),
    ] {
        let reply = ask(&client(&yaml(provider, "fine", stream)));
        assert_eq!(
            (reply.outcome, reply.text.as_str()),
            (ReplyOutcome::Complete, "__global__ void f() {}"),
            "{provider} {stream}: {reply:?}"
        );
        assert!(
            reply
                .usage
                .is_some_and(|usage| usage.input > 0 && usage.output > 0),
            "{provider} {stream}: {reply:?}"
        );
    }
    for (model, outcome, tries, message) in [
        ("limited", ReplyOutcome::TurnedAway, 2, "status 429"),
        ("broken", ReplyOutcome::TurnedAway, 2, "status 500"),
        ("long", ReplyOutcome::Fatal, 1, "ContextWindowExceeded"),
        ("unknown", ReplyOutcome::Fatal, 1, "unknown"),
    ] {
        let reply = ask(&client(&yaml("openai", model, true)));
        assert_eq!(
            (reply.outcome, reply.tries),
            (outcome, tries),
            "{model}: {reply:?}"
        );
        assert!(
            reply.detail.as_deref().unwrap().contains(message),
            "{reply:?}"
        );
        assert!(!reply.is_billable);
    }
    Ok(())
}
