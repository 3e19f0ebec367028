//! Servers as they are: errors with status 200, replies in a broken frame, text in unusual places, fields that a server rejects.

use std::time::Duration;

use kforge::event::{Cost, ReplyOutcome, Usage};
use kforge::llm::Reply;
use serde_json::{Value, json};

use crate::llm::requests::request;
use crate::llm::server::{SeenRequest, Server, ServerAction};
use crate::llm::wire::one_model;
use crate::llm::{ask, client};
use ReplyOutcome::{Fatal, Refused, TurnedAway};

/// A body with status 200 and this content type.
fn body(content_type: &str, text: impl Into<Vec<u8>>) -> ServerAction {
    let headers = vec![("content-type", content_type.to_owned())];
    ServerAction::Whole(200, headers, text.into())
}

/// A body that says it is an event stream.
fn stream(text: impl Into<Vec<u8>>) -> ServerAction {
    body("text/event-stream", text)
}

/// The reply of the only model of `provider`, and the requests. A server that refuses is asked twice.
fn ask_server(
    provider: &str,
    more: &str,
    act: impl Fn(usize, &SeenRequest) -> ServerAction + Send + Sync + 'static,
) -> (Reply, Vec<SeenRequest>) {
    let server = Server::start(act);
    let more = format!(", price: {{input: 1, output: 1}}{more}");
    let client = client(&(one_model(provider, &server.url, &more) + "retries: 1\n"));
    let reply = ask(&client);
    let name = format!("{provider}/m-1");
    let reserved = client.worst_case(&name, &request());
    let cost = client.cost(&name, &request(), &reserved, &reply);
    let nothing = Cost {
        tokens: 0,
        nano_usd: Some(0),
        assumed: false,
        estimated: false,
    };
    assert_eq!(cost == nothing, !reply.is_billable, "{reply:?} {cost:?}");
    (reply, server.seen())
}

/// A chunk of a stream, as an event.
fn chunk(value: Value) -> String {
    format!("data: {value}\n\n")
}

fn text_chunk(text: &str) -> String {
    chunk(json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

fn end_chunk() -> String {
    chunk(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const PAGE: &str = "<!DOCTYPE html><html><title>Sign in</title></html>";
const GATEWAY: &str = "\n<html><head><title>502 Bad Gateway</title></head></html>";

/// A body with status 200: provider, content type, text; then the outcome, and words of its detail.
type ErrorBody = (
    &'static str,
    &'static str,
    &'static str,
    ReplyOutcome,
    &'static str,
);

fn assert_costs_nothing(bodies: &[ErrorBody]) {
    std::thread::scope(|scope| {
        for (provider, content_type, text, outcome, words) in bodies.iter().copied() {
            scope.spawn(move || {
                let (reply, seen) = ask_server(provider, "", move |_, _| body(content_type, text));
                let detail = reply.detail.clone().unwrap_or_default();
                assert_eq!(reply.outcome, outcome, "{text}: {reply:?}");
                assert!(detail.contains(words), "{text}: {detail}");
                assert!(!reply.is_billable, "{text}");
                let tries = if outcome == TurnedAway { 2 } else { 1 };
                assert_eq!(
                    (seen.len(), reply.tries),
                    (tries, u32::try_from(tries).unwrap()),
                    "{text}"
                );
                if outcome != Refused {
                    assert!(detail.contains("requested: http://127.0.0.1:"), "{detail}");
                }
            });
        }
    });
}

#[test]
fn busy_server_with_status_200_costs_nothing() {
    assert_costs_nothing(&[
        (
            "openai",
            JSON,
            r#"{"error":{"message":"Rate limit reached for today","code":429}}"#,
            TurnedAway,
            "Rate limit reached for today",
        ),
        (
            "openai",
            EVENTS,
            "data: {\"error\":{\"message\":\"slow down\",\"code\":\"429\"}}\n\n",
            TurnedAway,
            "slow down",
        ),
        (
            "openai",
            EVENTS,
            r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#,
            TurnedAway,
            "slow down",
        ),
        (
            "openai",
            EVENTS,
            ": OPENROUTER PROCESSING\n\ndata: {\"error\":{\"code\":502,\"message\":\"Provider down\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n",
            TurnedAway,
            "Provider down",
        ),
        (
            "openai",
            EVENTS,
            "error: {\"code\":503,\"message\":\"Loading model\"}\n\n",
            TurnedAway,
            "Loading model",
        ),
        (
            "openai",
            JSON,
            r#"[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]"#,
            TurnedAway,
            "overloaded",
        ),
        (
            "anthropic",
            JSON,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            TurnedAway,
            "Overloaded",
        ),
    ]);
}

#[test]
fn refusal_with_status_200_costs_nothing() {
    assert_costs_nothing(&[
        (
            "openai",
            JSON,
            r#"{"error":"No such endpoint: POST /chat/completions"}"#,
            Fatal,
            "No such endpoint: POST /chat/completions",
        ),
        (
            "openai",
            JSON,
            r#"{"detail":"Not Found"}"#,
            Fatal,
            "Not Found",
        ),
        (
            "openai",
            JSON,
            r#"{"object":"error","message":"no such model","type":"NotFoundError","code":404}"#,
            Fatal,
            "no such model",
        ),
        (
            "openai",
            JSON,
            r#"{"error":{"code":"content_filter","message":"filtered"}}"#,
            Refused,
            "filtered",
        ),
        (
            "responses",
            JSON,
            r#"{"error":{"message":"invalid key","type":"authentication_error"}}"#,
            Fatal,
            "invalid key",
        ),
    ]);
}

#[test]
fn page_or_empty_body_with_status_200_costs_nothing() {
    assert_costs_nothing(&[
        (
            "openai",
            "text/html",
            PAGE,
            Fatal,
            "a web page: \"Sign in\"",
        ),
        ("openai", EVENTS, PAGE, Fatal, "a web page: \"Sign in\""),
        (
            "openai",
            "text/html",
            GATEWAY,
            TurnedAway,
            "502 Bad Gateway",
        ),
        (
            "openai",
            "text/plain",
            "no healthy upstream",
            TurnedAway,
            "no healthy upstream",
        ),
        ("openai", EVENTS, "", TurnedAway, "the body is empty"),
    ]);
}

#[test]
fn rate_limit_in_a_body_waits_as_the_body_says() {
    for text in [
        r#"{"error":{"message":"slow","code":429,"retry_after":1}}"#,
        r#"{"error":{"message":"Please try again in 1.0s.","code":429}}"#,
        r#"{"error":{"code":429,"message":"slow","details":[{"retryDelay":"1s"}]}}"#,
    ] {
        let (reply, seen) = ask_server("openai", "", move |number, _| match number {
            0 => body("application/json", text),
            _ => stream(text_chunk("well") + &end_chunk()),
        });
        assert_eq!((reply.outcome, reply.tries), (ReplyOutcome::Complete, 2));
        let waited = (seen[1].at - seen[0].at).as_secs_f64();
        assert!((0.99..1.5).contains(&waited), "{text}: {waited} s");
    }
}

#[test]
fn complete_text_in_a_broken_frame_is_used() {
    let usage = |count: Value| {
        chunk(
            json!({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": count, "total_tokens": null}}),
        )
    };
    let all = |usage: String| text_chunk("we") + &text_chunk("ll") + &end_chunk() + &usage;
    let counted = Some(Usage {
        input: 100,
        output: 100,
        ..Usage::default()
    });
    let bare = |text: &str| text.replace("data: ", "data:").replace('\n', "\r\n");
    let done = "data: [DONE]\n\n";
    let cases: Vec<(&str, String, Option<Usage>)> = vec![
        ("no finish reason", text_chunk("well") + done, None),
        ("floats", all(usage(json!(100.0))) + done, counted),
        ("strings", all(usage(json!("100"))) + done, counted),
        ("unknown counts", all(usage(json!({"n": 1}))) + done, None),
        ("no DONE", all(usage(json!(100))), counted),
        (
            "no last line end",
            all(usage(json!(100))).trim_end().to_owned(),
            counted,
        ),
        (
            "no space, CRLF",
            bare(&(all(usage(json!(100))) + done)),
            counted,
        ),
        (
            "BOM",
            format!("\u{feff}{}{done}", all(usage(json!(100)))),
            counted,
        ),
        (
            "comments",
            format!(
                ": OPENROUTER PROCESSING\n\n{}{done}",
                all(usage(json!(100)))
            ),
            counted,
        ),
        (
            "single line ends",
            all(usage(json!(100))).replace("\n\n", "\n") + done,
            counted,
        ),
        (
            "empty data",
            format!("data:\n\n{}", all(usage(json!(100)))),
            counted,
        ),
        (
            "garbage at the end",
            all(usage(json!(100))) + "data: {oops}\n\n",
            None,
        ),
        (
            "error at the end",
            all(String::new()) + &chunk(json!({"error": {"message": "late"}})),
            None,
        ),
        (
            "content filter chunk first",
            chunk(json!({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}))
                + &all(usage(json!(100))),
            counted,
        ),
    ];
    for (name, text, expected) in cases {
        for content_type in ["text/event-stream", "text/plain"] {
            let sent = text.clone();
            let (reply, seen) =
                ask_server("openai", "", move |_, _| body(content_type, sent.clone()));
            assert_eq!(
                (reply.outcome, reply.text.as_str(), reply.usage, seen.len()),
                (ReplyOutcome::Complete, "well", expected, 1),
                "{name} {content_type}: {reply:?}"
            );
        }
    }
}

#[test]
fn text_is_found_wherever_a_server_puts_it() {
    let message = |message: Value| json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    let parts = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "output_text", "text": "we"}, "ll"]);
    let wholes = [
        message(json!({"content": "well", "reasoning_content": "hm"})),
        message(
            json!({"content": "well", "reasoning": 7, "refusal": "", "audio": [], "error": {}}),
        ),
        message(json!({"content": parts})),
        message(json!({"content": [{"type": "text", "text": {"value": "well"}}]})),
        json!({"error": {}, "choices": [{"text": "well", "finish_reason": "STOP"}]}),
        json!({"choices": [{"message": {"content": "well"}, "finish_reason": null}]}),
        json!({"model": 7, "choices": [{"message": {"content": "well"}, "finish_reason": "eos_token", "logprobs": null}]}),
    ];
    for whole in wholes {
        // A whole reply to a request for a stream, and the other way around.
        for streamed in [true, false] {
            let text = if streamed {
                whole.to_string()
            } else {
                chunk(whole.clone())
            };
            let more = format!(", stream: {streamed}");
            let (reply, _) = ask_server("openai", &more, move |_, _| {
                body("application/json", text.clone())
            });
            assert_eq!(
                (reply.outcome, reply.text.as_str()),
                (ReplyOutcome::Complete, "well"),
                "{whole}: {reply:?}"
            );
        }
    }
}

#[test]
fn tool_calls_and_thoughts_are_not_lost() {
    let call = |text: &str| json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "write", "arguments": text}}]}}]});
    let end = chunk(json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}));
    let text = chunk(call("{\"code\": ")) + &chunk(call("\"x\"}")) + &end;
    let (reply, _) = ask_server("openai", "", move |_, _| stream(text.clone()));
    assert_eq!(
        (reply.outcome, reply.text.trim()),
        (ReplyOutcome::Complete, "```json\n{\"code\": \"x\"}\n```")
    );
    let whole = json!({"content": [{"type": "tool_use", "input": {"code": "x"}}], "stop_reason": "tool_use"});
    let (reply, _) = ask_server("anthropic", "", move |_, _| {
        ServerAction::json(200, whole.clone())
    });
    assert_eq!(
        (reply.outcome, reply.text.trim()),
        (ReplyOutcome::Complete, "```json\n{\"code\":\"x\"}\n```")
    );
    let thought = chunk(json!({"choices": [{"delta": {"reasoning_content": "all"}}]}));
    let text = thought.clone() + &end_chunk();
    let (reply, _) = ask_server("openai", "", move |_, _| stream(text.clone()));
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Empty, "all")
    );
    assert!(
        reply
            .detail
            .as_deref()
            .unwrap()
            .contains("the server counts it all as thinking"),
        "{reply:?}"
    );
    let length = chunk(json!({"choices": [{"delta": {}, "finish_reason": "length"}]}));
    let text = thought.clone() + &length;
    let (reply, _) = ask_server("openai", "", move |_, _| stream(text.clone()));
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Truncated, "<think>\nall")
    );
    assert!(reply.detail.unwrap().contains("max_output_tokens"));
}

#[test]
fn error_in_mid_stream_keeps_the_text_and_may_be_billed() {
    for error in [
        json!({"error": {"code": 502, "message": "Provider disconnected"}, "choices": [{"delta": {}, "finish_reason": "error"}]}),
        json!({"object": "error", "message": "Provider disconnected", "code": 500}),
        json!({"choices": [{"delta": {}, "error": {"message": "Provider disconnected"}}]}),
    ] {
        let text = text_chunk("half") + &chunk(error.clone());
        let (reply, seen) = ask_server("openai", "", move |_, _| stream(text.clone()));
        assert_eq!(
            (reply.outcome, reply.text.as_str(), seen.len()),
            (ReplyOutcome::Lost, "half", 1),
            "{error}: {reply:?}"
        );
        assert!(reply.is_billable && reply.detail.unwrap().contains("Provider disconnected"));
    }
    // A body that breaks off is kept as it came.
    let (reply, _) = ask_server("openai", "", |_, _| {
        body(
            "application/json",
            r#"{"choices": [{"message": {"content": "hal"#,
        )
    });
    assert_eq!(reply.outcome, ReplyOutcome::Malformed);
    assert!(reply.is_billable && reply.text.contains("hal"));
}

#[test]
fn rejected_optional_fields_are_left_out() {
    let fields = [
        "stream_options",
        "temperature",
        "top_p",
        "seed",
        "reasoning_effort",
        "stop",
    ];
    let more = ", temperature: 0.5, top_p: 0.9, seed: 3, effort: high, stop: [END]";
    let server = Server::start(move |_, seen| {
        let sent = seen.json();
        let rejected = fields.iter().find(|field| sent.get(**field).is_some());
        match rejected {
            Some(field) => ServerAction::json(
                422,
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]}),
            ),
            None if sent.get("max_tokens").is_none() => ServerAction::json(
                400,
                json!({"error": {"message": "Unsupported parameter: 'max_completion_tokens' is not supported with this model. Use 'max_tokens' instead."}}),
            ),
            None => stream(text_chunk("well") + &end_chunk()),
        }
    });
    let client = client(&one_model("openai", &server.url, more));
    let reply = ask(&client);
    assert_eq!(
        (reply.outcome, reply.text.as_str(), reply.tries),
        (ReplyOutcome::Complete, "well", 8)
    );
    // The next request knows what the server rejects.
    assert_eq!(ask(&client).tries, 1);
    let seen = server.seen();
    assert_eq!(seen.len(), 9);
    let last = seen[8].json();
    assert_eq!(last["max_tokens"], json!(1000));
    assert_eq!(last["messages"], seen[0].json()["messages"]);
    // Without the pauses between retries, which would take two minutes.
    assert!(seen[7].at - seen[0].at < Duration::from_secs(20));
}

#[test]
fn hints_follow_from_what_the_server_said() {
    let context = "This model's maximum context length is 8192 tokens. However, you requested 24000 tokens (8000 in the messages, 16000 in the completion).";
    let limit = "max_completion_tokens is too large: 16384. This model supports at most 4096 completion tokens";
    let cases: [(&str, u16, Value, &[&str]); 9] = [
        (
            "/v1",
            400,
            json!({"error": {"message": limit, "param": "max_completion_tokens"}}),
            &["set `max_output_tokens: 4096` for this model"],
        ),
        (
            "",
            404,
            json!({"detail": "Not Found"}),
            &[
                "is the path right? `base_url` ends in `/v1` for most servers",
                "/chat/completions)",
            ],
        ),
        (
            "/v1",
            404,
            json!({"detail": "Not Found"}),
            &[
                "check that 127.0.0.1 has a model `m-1`, and that `base_url` is right",
                "/v1/chat/completions)",
            ],
        ),
        (
            "/v1",
            404,
            json!({"error": {"message": "The model `m-1` does not exist", "code": "model_not_found"}}),
            &["hint: check that 127.0.0.1 has a model `m-1` (requested"],
        ),
        (
            "/v1/chat/completions",
            404,
            json!({"detail": "nope"}),
            &["/v1/chat/completions)"],
        ),
        (
            "/v1",
            400,
            json!({"error": {"message": context, "code": "context_length_exceeded"}}),
            &[
                "window is 8192 tokens, and the request needs 24000",
                "`context_tokens: 8192`",
                "`max_output_tokens`",
            ],
        ),
        (
            "/v1",
            401,
            json!({"error": {"message": "no"}}),
            &[
                "name its environment variable in `key_env`",
                "requested: http",
            ],
        ),
        (
            "/v1",
            200,
            json!({"error": {"message": context}}),
            &["window is 8192 tokens"],
        ),
        (
            "",
            200,
            json!({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
            &["`base_url` ends in `/v1`"],
        ),
    ];
    for (path, status, error, expected) in cases {
        let server = Server::start(move |_, _| ServerAction::json(status, error.clone()));
        let base = server.url.replace("/v1", path);
        let reply = ask(&client(&one_model("openai", &base, "")));
        let detail = reply.detail.unwrap();
        assert_eq!(reply.outcome, ReplyOutcome::Fatal, "{detail}");
        for words in expected {
            assert!(detail.contains(words), "no `{words}` in {detail}");
        }
        let asked = &server.seen()[0].path;
        assert!(!asked.contains("completions/chat"), "{asked}");
    }
}

#[test]
fn empty_lines_before_a_reply_take_no_memory() {
    // Servers keep a connection alive with them. Together these are longer than a reply may be.
    let (reply, _) = ask_server("openai", "", |_, _| {
        let mut text = "\n".repeat(70 << 20);
        text += &json!({
            "model": "m-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "a text"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        })
        .to_string();
        body("application/json", text)
    });
    assert_eq!(reply.outcome, ReplyOutcome::Complete, "{reply:?}");
    assert_eq!(reply.text, "a text");
}
