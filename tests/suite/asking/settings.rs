//! `evolve` and `tune` with models and kforge's own operators, and every setting as the server receives it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::asking::model::{complete_reply, document, reply_to};
use crate::asking::program::{ProgramFixture, openai_model};
use crate::asking::run_log::{RequestLog, summary};
use crate::llm::server::Server;

fn server() -> Server {
    Server::start(|number, seen| complete_reply(seen, &reply_to(&document(seen), number)))
}

/// The fields of the requests except the texts. They must be the same in every request.
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
    let fixture = ProgramFixture::new();
    let server = server();
    let sampling = ", temperature: 0.3, top_p: 0.9, top_k: 40, fields: {top_k: sampler.top_k}, effort: high, seed: 11, stop: [END], extra: {service_tier: flex}";
    fixture.config(&openai_model(&server.url, sampling));
    let result = fixture.evolve(&["--steps", "11"]);
    result.assert_run_ended(&[]);
    assert_eq!(
        request_fields(&server),
        json!({
            "model": "m", "stream_options": {"include_usage": true}, "max_completion_tokens": 4000, "temperature": 0.3,
            "top_p": 0.9, "sampler": {"top_k": 40}, "reasoning_effort": "high", "seed": 11, "stop": ["END"],
            "service_tier": "flex", "stream": true,
        })
    );
    let directory = fixture.run_directory();
    let log = RequestLog::read(&directory);
    assert_eq!(server.seen().len(), log.replied.len());
    log.assert_files_match_journal(&directory);
    let totals = summary(&directory);
    let task = &totals["tasks"][0];
    assert_eq!(
        (&task["steps"], &totals["finished"]),
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
    let children = |counts: &Value| counts["children"].as_u64().unwrap_or(0);
    assert!(
        operators.values().map(children).sum::<u64>() > 0,
        "{operators:?}"
    );
    let workloads = task["by_workload"].as_object().unwrap();
    assert!(!workloads.is_empty(), "{task}");
    for counts in workloads.values() {
        let [compared, faster, slower] =
            ["compared", "faster", "slower"].map(|key| counts[key].as_u64().unwrap());
        assert!(compared > 0 && faster + slower <= compared, "{counts}");
    }
    assert_eq!(task["models"]["local"]["steps"], by_models);
    let stats = &task["models"]["local"];
    assert!(
        stats["passed"].as_u64().unwrap() * 2 > by_models,
        "most of the model's kernels pass: {stats}"
    );
    // The expected change is compared with the measured one.
    assert!(stats["judgement"]["n"].as_u64().unwrap() > 0, "{stats}");
    for step in log.proposed {
        let folder = directory.join(format!("softmax/steps/{step:06}"));
        let is_asked = folder.join("ask-1").exists();
        assert_eq!(folder.join("trace.json").exists(), is_asked);
    }
}

#[test]
fn flags_override_config_and_tune_edits_one_kernel() {
    let fixture = ProgramFixture::new();
    let server = server();
    fixture.config(&openai_model(
        &server.url,
        ", temperature: 0.3, stream: false, top_p: 0.9",
    ));
    let result = fixture.evolve(&[
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
    result.assert_run_ended(&[]);
    assert_eq!(
        request_fields(&server),
        json!({
            "model": "m", "max_completion_tokens": 3000, "temperature": 0.7, "top_p": 0.8, "reasoning_effort": "low",
            "stream": false,
        })
    );
    let totals = summary(&fixture.run_directory());
    let operators = totals["tasks"][0]["by_operator"].as_object().unwrap();
    let names: Vec<_> = operators.keys().map(String::as_str).collect();
    // On a busy machine no kernel may pass. Then a new one is written, but never by kforge's own operators.
    let may = ["start", "edit", "propose", "repair"];
    assert!(
        names.contains(&"start") && names.iter().all(|name| may.contains(name)),
        "{operators:?}"
    );
    assert_eq!(
        server.seen().len(),
        5,
        "every step after the starting kernel"
    );
}

#[test]
fn unsupported_setting_is_refused_before_sending() {
    let fixture = ProgramFixture::new();
    let server = server();
    fixture.config(&openai_model(&server.url, ""));
    let result = fixture.evolve(&["--thinking-tokens", "100"]);
    result.assert_exit(2, &["thinking_tokens", "has no such setting", "fields"]);
    let result = fixture.evolve(&["--temperature", "3"]);
    result.assert_exit(2, &["temperature", "from 0 to 2"]);
    assert!(server.seen().is_empty() && !fixture.run_directory().exists());
}
