//! Everything that a server can do wrong. Each fault gives one outcome and the right number of requests, and nothing hangs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kforge::event::{Cost, ReplyOutcome};
use serde_json::json;

use crate::llm::requests::PROTOCOLS;
use crate::llm::server::{Server, ServerAction};
use crate::llm::wire::{events, one_model, one_model_within};
use crate::llm::{ask, client, expect_reply, origin, request, runtime};

/// Acts as `first` for the first requests, then replies normally.
fn server_failing_first(
    times: usize,
    first: impl Fn() -> ServerAction + Send + Sync + 'static,
) -> Server {
    Server::start(move |number, _| match number < times {
        true => first(),
        false => ServerAction::events(&events("openai", &["well"], "stop")),
    })
}

/// An HTTP date, the given number of seconds from now.
fn http_date_in(seconds: u64) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "-R", "-d"])
        .arg(format!(
            "@{}",
            SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + seconds
        ))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .replace("+0000", "GMT")
}

#[test]
fn retry_waits_as_long_as_the_server_says() {
    let date = http_date_in(2);
    type Case = (u16, Vec<(&'static str, String)>, f64, f64);
    let cases: [Case; 7] = [
        (429, vec![("retry-after", date)], 0.8, 2.4),
        (429, vec![("retry-after", "1".to_owned())], 1.0, 1.4),
        (
            429,
            vec![
                ("retry-after-ms", "50".to_owned()),
                ("retry-after", "9".to_owned()),
            ],
            0.05,
            0.3,
        ),
        (529, vec![], 0.35, 0.8),
        (500, vec![], 0.35, 0.8),
        (503, vec![], 0.35, 0.8),
        (408, vec![("x-should-retry", "true".to_owned())], 0.35, 0.8),
    ];
    for (status, headers, least, most) in cases {
        let sent_headers = headers.clone();
        let server = server_failing_first(1, move || {
            ServerAction::Whole(
                status,
                sent_headers.clone(),
                b"{\"error\": \"later\"}".to_vec(),
            )
        });
        let reply = ask(&client(&one_model("openai", &server.url, "")));
        assert_eq!(
            (reply.outcome, reply.text.as_str(), reply.tries),
            (ReplyOutcome::Complete, "well", 2),
            "{status} {headers:?}"
        );
        let seen = server.seen();
        let waited = (seen[1].at - seen[0].at).as_secs_f64();
        assert_eq!(seen.len(), 2);
        assert!(
            (least..most).contains(&waited),
            "{status} {headers:?}: {waited} s"
        );
        assert_eq!(seen[0].body, seen[1].body);
        assert!(reply.seconds >= least);
    }
}

#[test]
fn exhausted_retries_cost_nothing() {
    let server = Server::start(|_, _| ServerAction::status(503, &[]));
    let client = client(
        &(one_model("openai", &server.url, ", price: {input: 1, output: 2}") + "retries: 2\n"),
    );
    let reply = ask(&client);
    assert_eq!(
        (reply.outcome, reply.tries, server.seen().len()),
        (ReplyOutcome::TurnedAway, 3, 3)
    );
    assert!(
        !reply.is_billable && reply.detail.as_deref().unwrap().contains("503"),
        "{reply:?}"
    );
    let reserved = client.worst_case("openai/m-1", &request());
    assert_eq!(
        client.cost("openai/m-1", &request(), &reserved, &reply),
        Cost {
            nano_usd: Some(0),
            ..Cost::default()
        }
    );
}

#[test]
fn retry_after_beyond_patience_ends_the_request() {
    let server = Server::start(|_, _| ServerAction::status(429, &[("retry-after", "3600")]));
    let started = Instant::now();
    let reply = ask(&client(&one_model("openai", &server.url, "")));
    assert_eq!((reply.outcome, reply.tries), (ReplyOutcome::TurnedAway, 1));
    assert_eq!(reply.retry_after, Some(Duration::from_secs(3600)));
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn permanent_errors_are_not_retried_and_give_a_hint() {
    let temperature = json!({"error": {"type": "invalid_request_error", "message": "Unsupported value: 'temperature' does not support 0.5 with this model."}});
    let cap = json!({"error": {"message": "Unsupported parameter: 'max_completion_tokens' is not known"}});
    let quota = json!({"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your current quota"}});
    let spend = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "This would exceed your organization's monthly spend limit"}});
    let plain = json!({"detail": "nope"});
    for (status, body, message) in [
        (
            400,
            temperature,
            "hint: the model does not accept `temperature`",
        ),
        (400, cap, "fields: {max_output_tokens: max_tokens}"),
        (429, quota, "the account has no funds left"),
        (429, spend, "the account has no funds left"),
        (
            401,
            plain.clone(),
            "name its environment variable in `key_env`",
        ),
        (402, plain.clone(), "status 402: nope"),
        (404, plain.clone(), "check that 127.0.0.1 has a model `m-1`"),
        (413, plain.clone(), "status 413: nope"),
        (302, plain.clone(), "put its URL into `base_url`"),
    ] {
        let server = Server::start(move |_, _| {
            let ServerAction::Whole(status, mut headers, body) =
                ServerAction::json(status, body.clone())
            else {
                unreachable!()
            };
            headers.push(("location", "http://127.0.0.1:1/v1".to_owned()));
            headers.push(("retry-after", "0".to_owned()));
            ServerAction::Whole(status, headers, body)
        });
        let reply = ask(&client(&one_model(
            "openai",
            &server.url,
            ", temperature: 0.5",
        )));
        let detail = reply.detail.unwrap();
        // A request without the field that the server rejects is worth one more try.
        let tries = if status == 400 { 2 } else { 1 };
        assert_eq!(
            (reply.outcome, server.seen().len()),
            (ReplyOutcome::Fatal, tries),
            "{status}: {detail}"
        );
        assert!(detail.contains(message) && !reply.is_billable, "{detail}");
    }
    let server = Server::start(|_, _| ServerAction::status(500, &[("x-should-retry", "false")]));
    let reply = ask(&client(&one_model("openai", &server.url, "")));
    assert_eq!(
        (reply.outcome, server.seen().len()),
        (ReplyOutcome::TurnedAway, 1),
        "the server forbids a retry"
    );
}

#[test]
fn lost_reply_keeps_its_text_and_is_not_retried() {
    // At the same time, because they mostly wait.
    std::thread::scope(|scope| {
        for (protocol, ends, _) in PROTOCOLS {
            scope.spawn(move || assert_lost_replies(protocol, ends));
        }
    });
}

fn assert_lost_replies(protocol: &str, ends: &str) {
    let all = events(protocol, &["half of ", "it"], ends);
    let end = all
        .iter()
        .position(|event| event.contains("\"it\""))
        .unwrap()
        + 1;
    let started: Vec<_> = all[..end]
        .iter()
        .map(|event| (Duration::ZERO, event.clone()))
        .collect();
    let mut stalled = started.clone();
    stalled.push((Duration::from_secs(8), "data: {}\n\n".to_owned()));
    let mut torn = started.clone();
    torn.push((Duration::ZERO, "data: {\"type\": \"ru".to_owned()));
    let mut dripping = started.clone();
    dripping.extend((0..20).map(|_| (Duration::from_millis(400), ": ping\n\n".to_owned())));
    for (name, events, ends, message) in [
        ("cut", started.clone(), false, "broke"),
        ("ended", started, true, "ended before the reply"),
        ("torn", torn, true, "ended before the reply"),
        ("stalled", stalled, true, "no data for 2 s"),
        ("dripping", dripping, true, "longer than 4 s"),
    ] {
        let server = Server::start(move |_, _| ServerAction::Events(events.clone(), ends));
        let client = client(&one_model_within(
            (2, 4),
            protocol,
            &server.url,
            ", price: {input: 1, output: 2}",
        ));
        let reply = ask(&client);
        assert_eq!(
            (reply.outcome, reply.text.as_str()),
            (ReplyOutcome::Lost, "half of it"),
            "{protocol} {name}: {reply:?}"
        );
        assert!(
            reply.detail.as_deref().unwrap().contains(message),
            "{name}: {:?}",
            reply.detail
        );
        assert_eq!(server.seen().len(), 1, "{protocol} {name}: sent twice");
        let model = format!("{protocol}/m-1");
        let reserved = client.worst_case(&model, &request());
        let cost = client.cost(&model, &request(), &reserved, &reply);
        assert_eq!(
            cost,
            Cost {
                assumed: true,
                ..reserved
            }
        );
    }
}

#[test]
fn usage_before_the_end_is_ignored() {
    let so_far = json!({"choices": [{"delta": {"content": "half"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}});
    for last in [
        "",
        "data: {oops}\n\n",
        "data: {\"error\": {\"message\": \"died\"}}\n\n",
    ] {
        let events = [format!("data: {so_far}\n\n"), format!("{last}: end\n\n")];
        let server = Server::start(move |_, _| ServerAction::events(&events));
        let reply = ask(&client(&one_model("openai", &server.url, "")));
        assert_ne!(reply.outcome, ReplyOutcome::Complete);
        assert_eq!((reply.usage, reply.is_billable), (None, true), "{reply:?}");
    }
}

#[test]
fn silence_before_the_first_byte_loses_the_reply() {
    for streamed in [true, false] {
        let server = Server::start(|_, _| ServerAction::Silence(Duration::from_secs(15)));
        let reply = ask(&client(&one_model_within(
            (1, 3),
            "openai",
            &server.url,
            &format!(", stream: {streamed}"),
        )));
        assert_eq!(
            (reply.outcome, server.seen().len()),
            (ReplyOutcome::Lost, 1)
        );
        // A stream may be silent for 1 s, a request may take 3 s, and the server would end after 15 s.
        let expected = if streamed { 0.99..2.9 } else { 2.99..14.0 };
        assert!(expected.contains(&reply.seconds), "{}", reply.seconds);
    }
    let server = Server::start(|_, _| ServerAction::Silence(Duration::ZERO));
    let reply = ask(&client(&one_model("openai", &server.url, "")));
    assert_eq!(
        (reply.outcome, server.seen().len()),
        (ReplyOutcome::Lost, 1),
        "{reply:?}"
    );
}

#[test]
fn complete_reply_survives_a_later_disconnect() {
    let all = events("openai", &["whole"], "stop");
    let cut: Vec<_> = all[..all.len() - 2]
        .iter()
        .map(|event| (Duration::ZERO, event.clone()))
        .collect();
    let server = Server::start(move |_, _| ServerAction::Events(cut.clone(), false));
    let reply = ask(&client(&one_model("openai", &server.url, "")));
    assert_eq!(
        (reply.outcome, reply.text.as_str(), reply.usage),
        (ReplyOutcome::Complete, "whole", None)
    );
}

#[test]
fn protocol_violations_are_malformed() {
    let garbage: Vec<(&str, ServerAction)> = vec![
        ("json", ServerAction::json(200, json!({"choices": "none"}))),
        ("empty", ServerAction::json(200, json!({"choices": []}))),
        (
            "event",
            ServerAction::events(&[
                "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n".to_owned(),
                "data: {oops}\n\n".to_owned(),
            ]),
        ),
        (
            "not json",
            ServerAction::Whole(
                200,
                vec![("content-type", "application/json".to_owned())],
                b"{\"choices\": [".to_vec(),
            ),
        ),
    ];
    for (name, act) in garbage {
        let act = std::sync::Mutex::new(Some(act));
        let server = Server::start(move |_, _| act.lock().unwrap().take().expect("one request"));
        let reply = ask(&client(&one_model("openai", &server.url, "")));
        assert_eq!(reply.outcome, ReplyOutcome::Malformed, "{name}: {reply:?}");
        assert!(reply.is_billable && reply.detail.is_some());
    }
}

#[test]
fn error_event_ends_the_stream() {
    let overloaded = "event: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\", \"message\": \"Overloaded\"}}\n\n";
    let mut all = events("anthropic", &["half"], "end_turn");
    all.truncate(6);
    all.push(overloaded.to_owned());
    let server = Server::start(move |_, _| ServerAction::events(&all));
    let reply = ask(&client(&one_model("anthropic", &server.url, "")));
    assert_eq!(
        (reply.outcome, reply.text.as_str()),
        (ReplyOutcome::Lost, "half")
    );
    assert_eq!(
        reply.detail.as_deref(),
        Some("overloaded_error: Overloaded")
    );
    for (protocol, event, outcome) in [
        (
            "openai",
            json!({"error": {"message": "no such model", "code": "model_not_found"}}),
            ReplyOutcome::Fatal,
        ),
        (
            "openai",
            json!({"error": {"message": "engine died", "code": 502}}),
            ReplyOutcome::TurnedAway,
        ),
        (
            "responses",
            json!({"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error", "message": "died"}}}),
            ReplyOutcome::TurnedAway,
        ),
        (
            "responses",
            json!({"type": "error", "code": "server_error", "message": "died"}),
            ReplyOutcome::TurnedAway,
        ),
    ] {
        let line = format!("data: {event}\n\n");
        let server = Server::start(move |_, _| ServerAction::events(std::slice::from_ref(&line)));
        let client = client(&(one_model(protocol, &server.url, "") + "retries: 0\n"));
        let reply = ask(&client);
        assert_eq!(
            (reply.outcome, server.seen().len()),
            (outcome, 1),
            "{reply:?}"
        );
        assert!(!reply.is_billable, "an error without output costs nothing");
    }
}

#[test]
fn unreachable_server_costs_nothing() {
    let reply = ask(&client(
        &(one_model("openai", "http://127.0.0.1:1/v1", "") + "retries: 1\n"),
    ));
    assert_eq!(
        (reply.outcome, reply.tries, reply.is_billable),
        (ReplyOutcome::TurnedAway, 2, false)
    );
    assert!(reply.detail.unwrap().contains("no connection to 127.0.0.1"));
}

#[test]
fn requests_share_slots_and_retry_after_and_report_waiting() {
    let server = Server::start(|number, _| match number {
        0 => ServerAction::status(429, &[("retry-after", "1")]),
        _ => {
            // The second request is in flight already. Its slot is not free before the server's delay is known.
            let pause = Duration::from_millis(if number == 1 { 500 } else { 20 });
            let events = events("openai", &["well"], "stop");
            ServerAction::Events(
                events.into_iter().map(|event| (pause, event)).collect(),
                true,
            )
        }
    });
    let client = Arc::new(client(
        &(one_model("openai", &server.url, "") + "concurrency: 2\n"),
    ));
    runtime().block_on(async {
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let client = Arc::clone(&client);
                tokio::spawn(async move { client.ask("openai/m-1", &request(), &origin()).await })
            })
            .collect();
        let waiting = async {
            while client.waiting_requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client.waiting_requests()
        };
        let waiting = tokio::time::timeout(Duration::from_secs(60), waiting);
        let waiting = waiting.await.expect("a request waits");
        assert!((1..=2).contains(&waiting.len()), "{waiting:?}");
        assert_eq!(
            (waiting[0].model.as_str(), waiting[0].step),
            ("openai/m-1", 7)
        );
        assert!(
            waiting[0].until.is_some() && waiting[0].why.contains("429"),
            "{waiting:?}"
        );
        for task in tasks {
            assert_eq!(
                expect_reply(task.await.unwrap()).outcome,
                ReplyOutcome::Complete
            );
        }
        assert_eq!(client.waiting_requests(), []);
    });
    let seen = server.seen();
    assert_eq!(seen.len(), 7);
    let early = seen[1..]
        .iter()
        .filter(|seen| (seen.at - server.seen()[0].at).as_secs_f64() < 0.99)
        .count();
    assert!(
        early <= 1,
        "{early} requests were sent before the server's delay"
    );
}

#[test]
fn dropped_request_frees_its_slot() {
    let server = Server::start(|number, _| match number {
        0 => ServerAction::Silence(Duration::from_secs(30)),
        _ => ServerAction::events(&events("openai", &["well"], "stop")),
    });
    let client = client(&(one_model("openai", &server.url, "") + "concurrency: 1\n"));
    runtime().block_on(async {
        let (request, place) = (request(), origin());
        let first = client.ask("openai/m-1", &request, &place);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), first)
                .await
                .is_err()
        );
        let second = client.ask("openai/m-1", &request, &place).await;
        assert_eq!(expect_reply(second).outcome, ReplyOutcome::Complete);
    });
}
