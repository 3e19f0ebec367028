//! The three protocols, streamed and whole: what the server receives, and how its replies are read.

use kforge::event::{ReplyOutcome, Usage};
use kforge::llm::PromptPart;
use serde_json::{Value, json};

use crate::llm::requests::PROTOCOLS;
use crate::llm::server::{Server, ServerAction};
use crate::llm::{ask, ask_with, client, request};

/// The events of a reply, as a server of the protocol writes them.
pub(crate) fn events(protocol: &str, pieces: &[&str], ends: &str) -> Vec<String> {
    let named = |value: Value| {
        let name = value["type"].as_str().unwrap_or_default().to_owned();
        format!("event: {name}\ndata: {value}\n\n")
    };
    match protocol {
        "anthropic" => {
            let mut all = vec![
                named(
                    json!({"type": "message_start", "message": {"model": "served", "usage": {
                    "input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 1}}}),
                ),
                named(
                    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
                ),
                named(
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
                ),
                named(
                    json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
                ),
                named(json!({"type": "ping"})),
            ];
            for piece in pieces {
                all.push(named(json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": piece}})));
            }
            all.push(named(json!({"type": "message_delta", "delta": {"stop_reason": ends}, "usage": {"output_tokens": 40}})));
            all.push(named(json!({"type": "message_stop"})));
            all
        }
        "openai" => {
            let line = |value: Value| format!("data: {value}\n\n");
            let mut all = vec![line(
                json!({"model": "served", "choices": [{"delta": {"role": "assistant", "content": null}}]}),
            )];
            for piece in pieces {
                all.push(line(json!({"model": "served", "choices": [{"delta": {"content": piece}, "finish_reason": null}], "usage": null})));
            }
            all.push(line(
                json!({"choices": [{"delta": {}, "finish_reason": ends}]}),
            ));
            all.push(line(json!({"choices": [], "usage": chat_usage()})));
            all.push("data: [DONE]\n\n".to_owned());
            all
        }
        _ => {
            let mut all = vec![named(
                json!({"type": "response.created", "response": {"status": "in_progress"}}),
            )];
            for piece in pieces {
                all.push(named(
                    json!({"type": "response.output_text.delta", "delta": piece}),
                ));
            }
            let response = responses_whole(&pieces.concat(), ends);
            let kind = format!("response.{}", response["status"].as_str().unwrap());
            all.push(named(json!({"type": kind, "response": response})));
            all
        }
    }
}

fn chat_usage() -> Value {
    json!({"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 30}, "completion_tokens_details": {"reasoning_tokens": 15}})
}

fn responses_whole(text: &str, ends: &str) -> Value {
    let (status, details) = match ends {
        "completed" => ("completed", Value::Null),
        reason => ("incomplete", json!({"reason": reason})),
    };
    json!({"model": "served", "status": status, "incomplete_details": details, "error": null,
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content": [{"type": "output_text", "text": text}]}],
        "usage": {"input_tokens": 60, "input_tokens_details": {"cached_tokens": 30}, "output_tokens": 40,
            "output_tokens_details": {"reasoning_tokens": 15}}})
}

fn whole(protocol: &str, text: &str, ends: &str) -> Value {
    match protocol {
        "anthropic" => json!({"type": "message", "model": "served", "stop_reason": ends,
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
            "usage": {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 40}}),
        "openai" => json!({"model": "served", "usage": chat_usage(),
            "choices": [{"message": {"role": "assistant", "content": text, "refusal": null}, "finish_reason": ends}]}),
        _ => responses_whole(text, ends),
    }
}

/// A model that waits longer than a busy machine makes it wait.
pub(crate) fn one_model(protocol: &str, url: &str, more: &str) -> String {
    one_model_within((30, 90), protocol, url, more)
}

/// A model that may be silent for the first number of seconds. A request may take the second number of seconds.
pub(crate) fn one_model_within(
    (idle, timeout): (u32, u32),
    protocol: &str,
    url: &str,
    more: &str,
) -> String {
    format!(
        "models: [{{provider: {protocol}, model: m-1, base_url: \"{url}\"{more}}}]\nidle_seconds: {idle}\ntimeout_seconds: {timeout}\n"
    )
}

#[test]
fn streamed_and_whole_replies_agree() {
    for (protocol, ends, path) in PROTOCOLS {
        for streamed in [true, false] {
            let server = Server::start(move |_, seen| {
                assert_eq!(seen.json()["stream"], json!(streamed));
                match streamed {
                    true => ServerAction::events(&events(
                        protocol,
                        &["__glo", "bal__", " void ünter"],
                        ends,
                    )),
                    false => {
                        ServerAction::json(200, whole(protocol, "__global__ void ünter", ends))
                    }
                }
            });
            let client = client(&one_model(
                protocol,
                &server.url,
                &format!(", stream: {streamed}"),
            ));
            let reply = ask(&client);
            assert_eq!(
                reply.outcome,
                ReplyOutcome::Complete,
                "{protocol}: {reply:?}"
            );
            assert_eq!(reply.text, "__global__ void ünter");
            let expected = match protocol {
                "anthropic" => Usage {
                    input: 10,
                    cached: 30,
                    cache_write: 20,
                    output: 40,
                    reasoning: 0,
                },
                _ => Usage {
                    input: 30,
                    cached: 30,
                    cache_write: 0,
                    output: 40,
                    reasoning: 15,
                },
            };
            assert_eq!(reply.usage, Some(expected), "{protocol} {streamed}");
            assert_eq!(
                (reply.tries, reply.served_by.as_deref(), reply.detail),
                (1, Some("served"), None)
            );
            let seen = server.seen();
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].path, path);
            assert_eq!(seen[0].header("authorization"), None);
            assert_eq!(seen[0].header("x-api-key"), None);
        }
    }
}

#[test]
fn texts_are_sent_unchanged_and_stable_part_is_cached() {
    for (protocol, ends, _) in PROTOCOLS {
        let server =
            Server::start(move |_, _| ServerAction::events(&events(protocol, &["x"], ends)));
        ask(&client(&one_model(protocol, &server.url, "")));
        let body = server.seen()[0].json();
        let joined = "The task: \"softmax\",\nüber alles.\n";
        match protocol {
            "anthropic" => assert_eq!(
                body,
                json!({"model": "m-1", "max_tokens": 1000, "stream": true, "system": "You write kernels.",
                    "messages": [{"role": "user", "content": [
                        {"type": "text", "text": "The task: \"softmax\",\n", "cache_control": {"type": "ephemeral"}},
                        {"type": "text", "text": "über alles.\n"}]}]})
            ),
            "openai" => assert_eq!(
                body,
                json!({"model": "m-1", "max_completion_tokens": 1000, "stream": true, "stream_options": {"include_usage": true},
                    "messages": [{"role": "system", "content": "You write kernels."}, {"role": "user", "content": joined}]})
            ),
            _ => assert_eq!(
                body,
                json!({"model": "m-1", "max_output_tokens": 1000, "stream": true, "store": false,
                    "instructions": "You write kernels.", "input": joined})
            ),
        }
    }
}

#[test]
fn at_most_four_cache_breakpoints_are_set() {
    let server =
        Server::start(|_, _| ServerAction::events(&events("anthropic", &["x"], "end_turn")));
    let mut request = request();
    request.parts = vec![
        PromptPart {
            text: "part".to_owned(),
            cache_here: true
        };
        6
    ];
    request.parts.push(PromptPart::default());
    for cache in [true, false] {
        ask_with(
            &client(&one_model(
                "anthropic",
                &server.url,
                &format!(", cache: {cache}"),
            )),
            &request,
        );
    }
    let marks: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| {
            let body = seen.json();
            let blocks = body["messages"][0]["content"].as_array().unwrap().clone();
            assert_eq!(blocks.len(), 6, "a part without text is left out");
            blocks
                .iter()
                .filter(|block| block.get("cache_control").is_some())
                .count()
        })
        .collect();
    assert_eq!(marks, [4, 0]);
}

/// Every sampling setting, on each protocol that has it.
#[test]
fn every_sampling_setting_reaches_the_wire() {
    let all = ", temperature: 0.25, top_p: 0.5, top_k: 40, effort: high";
    let expected = [
        (
            "anthropic",
            ", thinking_tokens: 500, stop: [END], version: 2024-10-01, headers: {anthropic-beta: some}",
            json!({"temperature": 0.25, "top_p": 0.5, "top_k": 40, "output_config": {"effort": "high"},
                "thinking": {"type": "enabled", "budget_tokens": 500}, "stop_sequences": ["END"], "max_tokens": 1000}),
        ),
        (
            "openai",
            ", seed: 3, stop: [END, STOP], extra: {metadata: {a: 1}, stream_options: null}",
            json!({"temperature": 0.25, "top_p": 0.5, "top_k": 40, "reasoning_effort": "high", "seed": 3, "stop": ["END", "STOP"],
                "metadata": {"a": 1}, "max_completion_tokens": 1000}),
        ),
        (
            "openai",
            ", thinking_tokens: 500, fields: {max_output_tokens: max_tokens, effort: reasoning.effort, thinking_tokens: reasoning.max_tokens}, extra: {reasoning: {exclude: true}}",
            json!({"temperature": 0.25, "max_tokens": 1000, "max_completion_tokens": null,
                "reasoning": {"effort": "high", "max_tokens": 500, "exclude": true}}),
        ),
        (
            "responses",
            ", fields: {seed: seed}, seed: 9",
            json!({"temperature": 0.25, "top_p": 0.5, "top_k": 40, "reasoning": {"effort": "high"}, "seed": 9, "max_output_tokens": 1000}),
        ),
        (
            "together",
            "",
            json!({"max_tokens": 1000, "reasoning_effort": "high"}),
        ),
        (
            "openrouter",
            ", thinking_tokens: 500",
            json!({"reasoning": {"effort": "high", "max_tokens": 500}}),
        ),
    ];
    for (provider, more, expected) in expected {
        let server = Server::start(|_, _| ServerAction::status(400, &[]));
        ask(&client(&one_model(
            provider,
            &server.url,
            &format!("{all}{more}"),
        )));
        let seen = server.seen();
        let body = seen[0].json();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(
                body.get(key).unwrap_or(&Value::Null),
                value,
                "{provider}: {key} in {body}"
            );
        }
        if more.contains("stream_options") {
            assert_eq!(body.get("stream_options"), None);
        }
        if provider == "anthropic" {
            assert_eq!(seen[0].header("anthropic-version"), Some("2024-10-01"));
            assert_eq!(seen[0].header("anthropic-beta"), Some("some"));
        }
    }
}

#[test]
fn global_settings_override_model_settings() {
    let server = Server::start(|_, _| ServerAction::status(400, &[]));
    let yaml = one_model(
        "openai",
        &server.url,
        ", temperature: 0.25, top_p: 0.5, effort: low",
    );
    ask(&client(&format!(
        "{yaml}temperature: 1.5\neffort: high\ntop_k: 3\n"
    )));
    let body = server.seen()[0].json();
    assert_eq!(
        [&body["temperature"], &body["top_p"], &body["top_k"]],
        [&json!(1.5), &json!(0.5), &json!(3)]
    );
    assert_eq!(body["reasoning_effort"], json!("high"));
}

#[test]
fn finish_reasons_map_to_outcomes() {
    let cases = [
        ("anthropic", "end_turn", "", ReplyOutcome::Empty),
        ("anthropic", "max_tokens", "half", ReplyOutcome::Truncated),
        ("anthropic", "max_tokens", "", ReplyOutcome::Truncated),
        (
            "anthropic",
            "model_context_window_exceeded",
            "half",
            ReplyOutcome::Truncated,
        ),
        ("anthropic", "refusal", "", ReplyOutcome::Refused),
        ("anthropic", "tool_use", "text", ReplyOutcome::Malformed),
        ("openai", "length", "half", ReplyOutcome::Truncated),
        ("openai", "content_filter", "half", ReplyOutcome::Refused),
        ("openai", "stop", " \n", ReplyOutcome::Empty),
        ("openai", "tool_calls", "", ReplyOutcome::Malformed),
        (
            "responses",
            "max_output_tokens",
            "half",
            ReplyOutcome::Truncated,
        ),
        ("responses", "content_filter", "half", ReplyOutcome::Refused),
        ("responses", "completed", "", ReplyOutcome::Empty),
        ("responses", "something", "x", ReplyOutcome::Malformed),
    ];
    for (protocol, ends, text, outcome) in cases {
        for streamed in [true, false] {
            let server = Server::start(move |_, _| match streamed {
                true => ServerAction::events(&events(protocol, &[text], ends)),
                false => ServerAction::json(200, whole(protocol, text, ends)),
            });
            let reply = ask(&client(&one_model(
                protocol,
                &server.url,
                &format!(", stream: {streamed}"),
            )));
            // Without a text the thoughts are kept. Those of a reply that was cut are marked.
            let kept = match (protocol, outcome) {
                ("anthropic", ReplyOutcome::Empty) if text.is_empty() => "hm",
                ("anthropic", _) if text.is_empty() => "<think>\nhm",
                _ => text,
            };
            assert_eq!(
                (reply.outcome, reply.text.as_str()),
                (outcome, kept),
                "{protocol} {ends} {streamed}: {reply:?}"
            );
            assert!(reply.usage.is_some() && reply.is_billable);
        }
    }
}

#[test]
fn protocol_refusals_are_refused() {
    let refused = [
        ("openai", vec![
            "data: {\"choices\":[{\"delta\":{\"refusal\":\"I will \"}}]}\n\n".to_owned(),
            "data: {\"choices\":[{\"delta\":{\"refusal\":\"not\"}}]}\n\n".to_owned(),
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ]),
        ("responses", vec![
            "data: {\"type\":\"response.refusal.delta\",\"delta\":\"I will not\"}\n\n".to_owned(),
            "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[]}}\n\n".to_owned(),
        ]),
    ];
    for (protocol, events) in refused {
        let server = Server::start(move |_, _| ServerAction::events(&events));
        let reply = ask(&client(&one_model(protocol, &server.url, "")));
        assert_eq!(
            (reply.outcome, reply.detail.as_deref()),
            (ReplyOutcome::Refused, Some("I will not"))
        );
        assert_eq!(reply.usage, None, "missing usage is not invented");
    }
}

#[test]
fn usage_variants_count_the_larger_total() {
    for (usage, expected) in [
        (
            json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 150}),
            Some(Usage {
                input: 100,
                output: 50,
                reasoning: 30,
                ..Usage::default()
            }),
        ),
        (
            json!({"prompt_tokens": 100, "completion_tokens": 20, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}),
            Some(Usage {
                input: 36,
                cached: 64,
                output: 20,
                ..Usage::default()
            }),
        ),
        (json!({"prompt_tokens": 100}), None),
        (Value::Null, None),
    ] {
        let body = json!({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "finish_reason": "STOP"}], "usage": usage});
        let server = Server::start(move |_, _| ServerAction::json(200, body.clone()));
        let reply = ask(&client(&one_model("openai", &server.url, "")));
        assert_eq!(
            (reply.outcome, reply.text.as_str(), reply.usage),
            (ReplyOutcome::Complete, "ab", expected)
        );
    }
}
