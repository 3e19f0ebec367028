//! Every way in which a server can fail: the run continues or stops resumably, no request is repeated needlessly, and the costs are
//! right.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kforge::base::FailureKind;
use kforge::event::{FailedReason, Replied, ReplyOutcome};
use serde_json::{Value, json};

use crate::asking::model::{
    complete_reply, document, reply_to, reply_with_finish_reason, stream_events, usage, whole_reply,
};
use crate::asking::program::{ProgramFixture, openai_model};
use crate::asking::run_log::{RequestLog, ends_request, summary};
use crate::asking::scenario::{Scenario, model, prompt_digest};
use crate::llm::server::{SeenRequest, Server, ServerAction};

/// The 0-based index of the request that meets the fault.
const FAULTED_REQUEST: usize = 2;

const STEPS: u64 = 14;

/// How long the model may be silent. More than a busy machine makes it wait for an answer.
const IDLE_SECONDS: f64 = 4.0;
/// Longer than that.
const SILENCE: Duration = Duration::from_secs(12);

fn good_reply(number: usize, seen: &SeenRequest) -> ServerAction {
    complete_reply(seen, &reply_to(&document(seen), number))
}

/// The run of a scenario whose request `FAULTED_REQUEST` gets `fault`.
fn run_with_fault(
    directory: &Path,
    more: Value,
    fault: impl Fn(&SeenRequest) -> ServerAction + Send + Sync + 'static,
) -> (RequestLog, Vec<SeenRequest>) {
    let server = Server::start(move |number, seen| match number {
        FAULTED_REQUEST => fault(seen),
        _ => good_reply(number, seen),
    });
    let scenario = Scenario::with_models(json!([model(&server.url, more)]), STEPS)
        .with_llm(json!({"concurrency": 1, "idle_seconds": IDLE_SECONDS, "timeout_seconds": 90.0}));
    scenario.finish_all_steps(directory);
    let log = RequestLog::read(directory);
    let seen = server.seen();
    log.assert_files_match_journal(directory);
    assert_eq!(log.without_reply(), 0);
    let tries: usize = log
        .replied
        .iter()
        .map(|replied| replied.tries as usize)
        .sum();
    assert_eq!(tries, seen.len(), "requests that the journal does not have");
    let totals = summary(directory);
    assert_eq!(totals["spent"]["nano_usd"], log.spent().nano_usd.unwrap());
    assert_eq!(totals["spent"]["tokens"], log.spent().tokens);
    (log, seen)
}

/// The replies to the step whose request met the fault.
fn replies_to_faulted_step<'a>(log: &'a RequestLog, seen: &[SeenRequest]) -> Vec<&'a Replied> {
    // One request is in flight at a time, so the journal has them in the server's order. Several steps may have the same prompt.
    let sent = &log.sent[FAULTED_REQUEST];
    assert_eq!(sent.prompt, prompt_digest(&seen[FAULTED_REQUEST]));
    let replies = log
        .replied
        .iter()
        .filter(|replied| replied.step == sent.step);
    replies.collect()
}

/// The index of the second request of the step whose request met the fault.
fn index_of_retry(log: &RequestLog, seen: &[SeenRequest]) -> usize {
    let step = log.sent[FAULTED_REQUEST].step;
    let mut sent = log.sent.iter();
    let index = sent.position(|sent| (sent.step, sent.ask) == (step, 2));
    let index = index.expect("the request was sent again");
    assert_eq!(log.sent[index].prompt, prompt_digest(&seen[index]));
    index
}

fn outcomes(replies: &[&Replied]) -> Vec<ReplyOutcome> {
    replies.iter().map(|replied| replied.outcome).collect()
}

/// A reply with known usage costs exactly that.
fn assert_exact_cost(replied: &Replied, (input, output): (u64, u64)) {
    assert_eq!(replied.cost.tokens, input + output);
    assert_eq!(replied.cost.nano_usd, Some(3000 * input + 15_000 * output));
    assert!(!replied.cost.assumed);
}

/// A reply without usage costs the whole reservation.
fn assert_worst_case_cost(log: &RequestLog, replied: &Replied) {
    let mut sent = log.sent.iter();
    let sent = sent.find(|sent| (sent.step, sent.ask) == (replied.step, replied.ask));
    let reserved = sent.unwrap().reserved;
    assert_eq!(replied.cost.nano_usd, reserved.nano_usd);
    assert_eq!(replied.cost.tokens, reserved.tokens);
    assert!(replied.cost.assumed && replied.usage.is_none());
}

/// A time in HTTP's date format.
fn http_date(at: SystemTime) -> String {
    let output = std::process::Command::new("date")
        .env("LC_ALL", "C")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT", "-d"])
        .arg(format!(
            "@{}",
            at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        ))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn turned_away_request_retries_on_time_and_is_billed_once() {
    let in_three = || http_date(SystemTime::now() + Duration::from_secs(3));
    let faults: [(&str, f64, Fault); 5] = [
        (
            "429 in seconds",
            1.0,
            Box::new(|| ServerAction::status(429, &[("retry-after", "1")])),
        ),
        (
            "429 at a date",
            1.9,
            Box::new(move || ServerAction::status(429, &[("retry-after", &in_three())])),
        ),
        (
            "429 without a delay",
            0.37,
            Box::new(|| ServerAction::status(429, &[])),
        ),
        ("529", 0.37, Box::new(|| ServerAction::status(529, &[]))),
        ("500", 0.37, Box::new(|| ServerAction::status(500, &[]))),
    ];
    // At the same time, because they mostly wait.
    std::thread::scope(|scope| {
        for (name, least, fault) in faults {
            scope.spawn(move || assert_one_retry(name, least, fault));
        }
    });
}

type Fault = Box<dyn Fn() -> ServerAction + Send + Sync>;

/// Asserts that a request that meets `fault` is sent once more, after `least` seconds or more, and is billed once.
fn assert_one_retry(name: &str, least: f64, fault: Fault) {
    let root = tempfile::tempdir().unwrap();
    let (log, seen) = run_with_fault(root.path(), json!({}), move |_| fault());
    assert_eq!(
        seen[FAULTED_REQUEST].body,
        seen[FAULTED_REQUEST + 1].body,
        "{name}"
    );
    let pause = seen[FAULTED_REQUEST + 1].at - seen[FAULTED_REQUEST].at;
    assert!(
        pause.as_secs_f64() >= least && pause.as_secs_f64() < 60.0,
        "{name}: {pause:?}"
    );
    let replies = replies_to_faulted_step(&log, &seen);
    assert_eq!(outcomes(&replies), [ReplyOutcome::Complete], "{name}");
    assert_eq!(replies[0].tries, 2);
    let text = reply_to(&document(&seen[FAULTED_REQUEST + 1]), FAULTED_REQUEST + 1);
    assert_exact_cost(replies[0], usage(&seen[FAULTED_REQUEST + 1], &text));
}

#[test]
fn lost_reply_costs_the_worst_case_and_is_requested_once_more() {
    type Fault = fn(&SeenRequest) -> ServerAction;
    let cut: Fault = |seen| {
        let text = reply_to(&document(seen), FAULTED_REQUEST);
        let events = stream_events(seen, &text, "stop").into_iter().take(2);
        ServerAction::Events(events.map(|event| (Duration::ZERO, event)).collect(), false)
    };
    let stalls: Fault = |seen| {
        let text = reply_to(&document(seen), FAULTED_REQUEST);
        let mut events: Vec<_> = stream_events(seen, &text, "stop")
            .into_iter()
            .map(|event| (Duration::ZERO, event))
            .collect();
        events[1].0 = SILENCE;
        ServerAction::Events(events, true)
    };
    let malformed: Fault =
        |_| ServerAction::events(&["data: {\"choices\": [nonsense\n\n".to_owned()]);
    let nothing: Fault = |_| ServerAction::Silence(SILENCE);
    let faults = [
        ("a cut stream", cut, ReplyOutcome::Lost, true),
        (
            "a stall within the stream",
            stalls,
            ReplyOutcome::Lost,
            true,
        ),
        ("a stall before it", nothing, ReplyOutcome::Lost, false),
        ("malformed JSON", malformed, ReplyOutcome::Malformed, false),
    ];
    // At the same time, because they mostly wait.
    let assert_one_more = |(name, fault, outcome, keeps): (&str, Fault, ReplyOutcome, bool)| {
        let root = tempfile::tempdir().unwrap();
        let (log, seen) = run_with_fault(root.path(), json!({}), fault);
        let replies = replies_to_faulted_step(&log, &seen);
        assert_eq!(
            outcomes(&replies),
            [outcome, ReplyOutcome::Complete],
            "{name}"
        );
        assert_worst_case_cost(&log, replies[0]);
        assert_eq!(
            replies[0].response.is_some(),
            keeps,
            "{name}: the partial text is kept"
        );
        assert!(replies[0].detail.is_some());
        let again = index_of_retry(&log, &seen);
        let text = reply_to(&document(&seen[again]), again);
        assert_exact_cost(replies[1], usage(&seen[again], &text));
        assert!(
            log.proposed.contains(&replies[0].step)
                || log
                    .failed
                    .iter()
                    .any(|failed| failed.step == replies[0].step)
        );
    };
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || assert_one_more(fault));
        }
    });
}

#[test]
fn truncated_reply_is_billed_exactly_and_requested_with_a_doubled_cap() {
    const CUT: &str = "```cuda\n/* kforge";
    let root = tempfile::tempdir().unwrap();
    let (log, seen) = run_with_fault(root.path(), json!({}), |seen| {
        reply_with_finish_reason(seen, CUT, "length")
    });
    let replied = replies_to_faulted_step(&log, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Truncated, ReplyOutcome::Complete]
    );
    assert_exact_cost(replied[0], usage(&seen[FAULTED_REQUEST], CUT));
    // Reasoning may have used the whole cap: it is doubled once.
    let cap = |seen: &SeenRequest| seen.json()["max_completion_tokens"].as_u64().unwrap();
    assert_eq!(cap(&seen[FAULTED_REQUEST]), 4000);
    assert_eq!(cap(&seen[index_of_retry(&log, &seen)]), 8000);
    let doubled = seen.iter().filter(|seen| cap(seen) != 4000);
    assert_eq!(doubled.count(), 1);
    let folder = format!("softmax/steps/{:06}", replied[0].step);
    let kernel = std::fs::read_to_string(root.path().join(folder).join("kernel.cu")).unwrap();
    assert!(
        kernel.contains("__global__"),
        "a truncated reply never becomes a kernel"
    );
}

#[test]
fn refused_reply_is_billed_exactly_and_fails_the_step() {
    const REFUSAL: &str = "I would rather not.";
    let root = tempfile::tempdir().unwrap();
    let (log, seen) = run_with_fault(root.path(), json!({}), |seen| {
        reply_with_finish_reason(seen, REFUSAL, "content_filter")
    });
    let replied = replies_to_faulted_step(&log, &seen);
    assert_eq!(outcomes(&replied), [ReplyOutcome::Refused]);
    assert_exact_cost(replied[0], usage(&seen[FAULTED_REQUEST], REFUSAL));
    let mut failed = log.failed.iter();
    let failed = failed.find(|failed| failed.step == replied[0].step);
    assert_eq!(failed.unwrap().reason, FailedReason::Refused);
}

#[test]
fn empty_reply_is_billed_exactly_and_requested_again() {
    let root = tempfile::tempdir().unwrap();
    let (log, seen) = run_with_fault(root.path(), json!({}), |seen| {
        reply_with_finish_reason(seen, "", "stop")
    });
    let replied = replies_to_faulted_step(&log, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Empty, ReplyOutcome::Complete]
    );
    assert_exact_cost(replied[0], usage(&seen[FAULTED_REQUEST], ""));
}

#[test]
fn complete_reply_without_usage_costs_the_worst_case() {
    let root = tempfile::tempdir().unwrap();
    for stream in [false, true] {
        let directory = root.path().join(format!("stream-{stream}"));
        let (log, seen) = run_with_fault(&directory, json!({"stream": stream}), move |seen| {
            let text = reply_to(&document(seen), FAULTED_REQUEST);
            if stream {
                let mut events = stream_events(seen, &text, "stop");
                events.retain(|event| !event.contains("usage"));
                ServerAction::events(&events)
            } else {
                let mut body = whole_reply(seen, &text, "stop");
                body.as_object_mut().unwrap().remove("usage");
                ServerAction::json(200, body)
            }
        });
        let replied = replies_to_faulted_step(&log, &seen);
        assert_eq!(outcomes(&replied), [ReplyOutcome::Complete]);
        assert_worst_case_cost(&log, replied[0]);
    }
}

#[test]
fn permanent_error_stops_the_run_and_resume_continues() {
    let refused = json!({"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": "no such key"}});
    let no_funds = json!({"error": {"type": "insufficient_quota", "message": "you exceeded your current quota"}});
    for (status, body, message) in [
        (401, refused, "no such key"),
        (429, no_funds, "no funds left"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(move |number, seen| match number {
            FAULTED_REQUEST => ServerAction::json(status, body.clone()),
            // These are in flight when the other is refused.
            _ if number < 2 * FAULTED_REQUEST => {
                crate::asking::model::delayed(good_reply(number, seen), Duration::from_millis(300))
            }
            _ => good_reply(number, seen),
        });
        let scenario = Scenario::new(&server.url, STEPS);
        let failure = scenario.run_to_failure(root.path());
        assert_eq!(failure.kind, FailureKind::Environment, "{failure}");
        assert!(failure.to_string().contains(message) && failure.hint.unwrap().contains("resume"));
        let log = RequestLog::read(root.path());
        let (before, seen) = (log.replied.len(), server.seen().len());
        assert_eq!(before, seen, "replies to requests in flight are kept");
        let fatal: Vec<_> = log
            .replied
            .iter()
            .filter(|replied| !ends_request(replied))
            .collect();
        assert_eq!(fatal.len(), 1);
        assert_eq!((fatal[0].cost.nano_usd, fatal[0].cost.tokens), (Some(0), 0));
        scenario.finish_all_steps(root.path());
        let log = RequestLog::read(root.path());
        assert_eq!(log.replied.len(), server.seen().len());
        log.assert_files_match_journal(root.path());
        assert_eq!(log.without_reply(), 0);
    }
}

#[test]
fn program_reports_what_it_waits_for() {
    let fixture = ProgramFixture::new();
    let server = Server::start(|number, seen| match number {
        0 => ServerAction::status(429, &[("retry-after", "4")]),
        _ => good_reply(number, seen),
    });
    fixture.config(&(openai_model(&server.url, "") + "\n  concurrency: 1"));
    fixture
        .evolve(&["--steps", "5"])
        .assert_run_ended(&["softmax: waiting: local:", "status 429"]);
    let requests = server.seen();
    assert!(
        (requests[1].at - requests[0].at).as_secs_f64() >= 4.0,
        "no request is sent before the server's delay"
    );
}

#[test]
fn permanent_error_exits_3() {
    let fixture = ProgramFixture::new();
    static REFUSALS: AtomicU64 = AtomicU64::new(2);
    let server = Server::start(|number, seen| {
        let left = REFUSALS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        match left {
            Ok(_) if number > 0 => {
                ServerAction::json(401, json!({"error": {"message": "no such key"}}))
            }
            _ => good_reply(number, seen),
        }
    });
    fixture.config(&(openai_model(&server.url, "") + "\n  concurrency: 1"));
    let result = fixture.evolve(&["--steps", "8"]);
    result.assert_exit(3, &["status 401: no such key", "kforge resume"]);
    assert!(!result.stderr.contains("stack"), "{}", result.stderr);
    let result = fixture.resume(&[]);
    result.assert_run_ended(&[]);
    let log = RequestLog::read(&fixture.run_directory());
    assert_eq!(log.replied.len(), server.seen().len());
}
