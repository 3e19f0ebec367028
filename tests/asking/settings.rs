//! `evolve` and `tune` with models beside kforge's own operators, and every setting read off the wire.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::{complete_reply, document, reply_to};
use crate::program::{ProgramFixture, openai_model};
use crate::run_log::{RequestLog, summary};
use crate::server::Server;

fn server() -> Server {
    Server::start(|number, seen| complete_reply(seen, &reply_to(&document(seen), number)))
}

/// The fields of every request but the texts, which have to be the same each time.
fn request_fields(server: &Server) -> Value {
    let all: BTreeSet<String> = server
        .seen()
        .iter()
        .map(|seen| {
            let mut body = seen.json();
            body.as_object_mut().unwrap().remove("messages");
            body.to_string()
        })
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    serde_json::from_str(all.first().unwrap()).unwrap()
}

#[test]
fn search_mixes_models_with_own_operators_and_sends_configured_settings() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    let server = server();
    let sampling = ", temperature: 0.3, top_p: 0.9, top_k: 40, fields: {top_k: sampler.top_k}, effort: high, seed: 11, stop: [END], extra: {service_tier: flex}";
    shell.config(&openai_model(&server.url, sampling));
    let said = shell.evolve(&["--steps", "11"]);
    said.assert_exit(0, &[]);
    assert_eq!(
        request_fields(&server),
        json!({
            "model": "m", "stream_options": {"include_usage": true}, "max_completion_tokens": 4000, "temperature": 0.3,
            "top_p": 0.9, "sampler": {"top_k": 40}, "reasoning_effort": "high", "seed": 11, "stop": ["END"],
            "service_tier": "flex", "stream": true,
        })
    );
    let directory = shell.run_directory();
    let asked = RequestLog::read(&directory);
    assert_eq!(server.seen().len(), asked.replied.len());
    asked.assert_files_match_journal(&directory);
    let told = summary(&directory);
    let task = &told["tasks"][0];
    assert_eq!(
        (&task["steps"], &told["finished"]),
        (&json!(11), &json!(true))
    );
    let operators = task["by_operator"].as_object().unwrap();
    let count = |names: &[&str]| -> u64 {
        let steps = names.iter().filter_map(|name| operators.get(*name));
        steps.map(|counts| counts["steps"].as_u64().unwrap()).sum()
    };
    let by_models = count(&["propose", "edit", "crossover", "repair"]);
    assert!(
        by_models > 2 && count(&["mutate", "autotune"]) > 0,
        "{operators:?}"
    );
    assert_eq!(task["models"]["local"]["steps"], by_models);
    let fared = &task["models"]["local"];
    assert!(
        fared["passed"].as_u64().unwrap() * 2 > by_models,
        "most of what the model made passes: {fared}"
    );
    // What the model expected was kept beside what was measured.
    assert!(fared["judgement"]["n"].as_u64().unwrap() > 0, "{fared}");
    for step in asked.proposed {
        let folder = directory.join(format!("softmax/steps/{step:06}"));
        let is_asked = folder.join("ask-1").exists();
        assert_eq!(folder.join("trace.json").exists(), is_asked);
    }
}

#[test]
fn flags_override_config_and_tune_edits_one_kernel() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    let server = server();
    shell.config(&openai_model(
        &server.url,
        ", temperature: 0.3, stream: false, top_p: 0.9",
    ));
    let said = shell.evolve(&[
        "--steps",
        "6",
        "--set",
        "search.mode=tune",
        "--from",
        concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/softmax/rows.cu"),
        "--temperature",
        "0.7",
        "--top-p",
        "0.8",
        "--effort",
        "low",
        "--max-output-tokens",
        "3000",
    ]);
    said.assert_exit(0, &[]);
    assert_eq!(
        request_fields(&server),
        json!({
            "model": "m", "max_completion_tokens": 3000, "temperature": 0.7, "top_p": 0.8, "reasoning_effort": "low",
            "stream": false,
        })
    );
    let told = summary(&shell.run_directory());
    let operators = told["tasks"][0]["by_operator"].as_object().unwrap();
    let names: Vec<_> = operators.keys().map(String::as_str).collect();
    // On a busy machine nothing may be measured: then it is written anew, and never by kforge's own operators.
    let may = ["start", "edit", "propose", "repair"];
    assert!(
        names.contains(&"start") && names.iter().all(|name| may.contains(name)),
        "{operators:?}"
    );
    assert_eq!(
        server.seen().len(),
        5,
        "the steps behind the kernel that it began with"
    );
}

#[test]
fn unsupported_setting_is_refused_before_sending() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    let server = server();
    shell.config(&openai_model(&server.url, ""));
    let said = shell.evolve(&["--thinking-tokens", "100"]);
    said.assert_exit(2, &["thinking_tokens", "has no such setting", "fields"]);
    let said = shell.evolve(&["--temperature", "3"]);
    said.assert_exit(2, &["temperature", "from 0 to 2"]);
    assert!(server.seen().is_empty() && !shell.run_directory().exists());
}
