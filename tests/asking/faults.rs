//! Every way in which a server can fail: the run goes on or stops resumable, nothing is asked twice, and the money is right.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kforge::base::FailureKind;
use kforge::event::{FailedReason, Replied, ReplyOutcome};
use serde_json::{Value, json};

use crate::model::{
    complete_reply, document, reply_to, reply_with_finish_reason, stream_events, usage, whole_reply,
};
use crate::program::{ProgramFixture, openai_model};
use crate::run_log::{RequestLog, ends_request, summary};
use crate::scenario::{Scenario, model, prompt_digest};
use crate::server::{SeenRequest, Server, ServerAction};

/// Which request meets the fault, counted from 0.
const FAULTED_REQUEST: usize = 2;

const STEPS: u64 = 14;

fn good_reply(number: usize, seen: &SeenRequest) -> ServerAction {
    complete_reply(seen, &reply_to(&document(seen), number))
}

/// The run of a scene whose request `HIT` is answered by `fault`.
fn run_with_fault(
    directory: &Path,
    more: Value,
    fault: impl Fn(&SeenRequest) -> ServerAction + Send + Sync + 'static,
) -> (RequestLog, Vec<SeenRequest>) {
    let server = Server::start(move |number, seen| match number {
        FAULTED_REQUEST => fault(seen),
        _ => good_reply(number, seen),
    });
    let scene = Scenario::with_models(json!([model(&server.url, more)]), STEPS)
        .with_llm(json!({"concurrency": 1, "idle_seconds": 1.0, "timeout_seconds": 20.0}));
    scene.finish_all_steps(directory);
    let asked = RequestLog::read(directory);
    let seen = server.seen();
    asked.assert_files_match_journal(directory);
    assert_eq!(asked.without_reply(), 0);
    let tries: usize = asked
        .replied
        .iter()
        .map(|replied| replied.tries as usize)
        .sum();
    assert_eq!(tries, seen.len(), "requests that nobody knows of");
    let told = summary(directory);
    assert_eq!(told["spent"]["nano_usd"], asked.spent().nano_usd.unwrap());
    assert_eq!(told["spent"]["tokens"], asked.spent().tokens);
    (asked, seen)
}

/// The replies to the step whose question met the fault.
fn replies_to_faulted_step<'a>(asked: &'a RequestLog, seen: &[SeenRequest]) -> Vec<&'a Replied> {
    let prompt = prompt_digest(&seen[FAULTED_REQUEST]);
    let sent = asked
        .sent
        .iter()
        .find(|sent| sent.prompt == prompt)
        .unwrap();
    let replies = asked
        .replied
        .iter()
        .filter(|replied| replied.step == sent.step);
    replies.collect()
}

/// The number of the next request with the same prompt as the one that met the fault.
fn index_of_retry(seen: &[SeenRequest]) -> usize {
    let prompt = prompt_digest(&seen[FAULTED_REQUEST]);
    let later =
        (FAULTED_REQUEST + 1..seen.len()).find(|index| prompt_digest(&seen[*index]) == prompt);
    later.expect("it was asked again")
}

fn outcomes(replies: &[&Replied]) -> Vec<ReplyOutcome> {
    replies.iter().map(|replied| replied.outcome).collect()
}

/// What a reply costs whose usage is known.
fn assert_exact_cost(replied: &Replied, (input, output): (u64, u64)) {
    assert_eq!(replied.cost.tokens, input + output);
    assert_eq!(replied.cost.nano_usd, Some(3000 * input + 15_000 * output));
    assert!(!replied.cost.assumed);
}

/// What a reply costs whose usage is not known: all that was set aside.
fn assert_worst_case_cost(asked: &RequestLog, replied: &Replied) {
    let mut sent = asked.sent.iter();
    let sent = sent.find(|sent| (sent.step, sent.ask) == (replied.step, replied.ask));
    let reserved = sent.unwrap().reserved;
    assert_eq!(replied.cost.nano_usd, reserved.nano_usd);
    assert_eq!(replied.cost.tokens, reserved.tokens);
    assert!(replied.cost.assumed && replied.usage.is_none());
}

/// HTTP's own way of writing a time.
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
    type Fault = Box<dyn Fn() -> ServerAction + Send + Sync>;
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
            "429 without a word",
            0.37,
            Box::new(|| ServerAction::status(429, &[])),
        ),
        ("529", 0.37, Box::new(|| ServerAction::status(529, &[]))),
        ("500", 0.37, Box::new(|| ServerAction::status(500, &[]))),
    ];
    for (name, least, fault) in faults {
        let root = tempfile::tempdir().unwrap();
        let (asked, seen) = run_with_fault(root.path(), json!({}), move |_| fault());
        assert_eq!(
            seen[FAULTED_REQUEST].body,
            seen[FAULTED_REQUEST + 1].body,
            "{name}"
        );
        let pause = seen[FAULTED_REQUEST + 1].at - seen[FAULTED_REQUEST].at;
        assert!(
            pause.as_secs_f64() >= least && pause.as_secs_f64() < 6.0,
            "{name}: {pause:?}"
        );
        let replies = replies_to_faulted_step(&asked, &seen);
        assert_eq!(outcomes(&replies), [ReplyOutcome::Complete], "{name}");
        assert_eq!(replies[0].tries, 2);
        let text = reply_to(&document(&seen[FAULTED_REQUEST + 1]), FAULTED_REQUEST + 1);
        assert_exact_cost(replies[0], usage(&seen[FAULTED_REQUEST + 1], &text));
    }
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
        events[1].0 = Duration::from_secs(4);
        ServerAction::Events(events, true)
    };
    let malformed: Fault =
        |_| ServerAction::events(&["data: {\"choices\": [nonsense\n\n".to_owned()]);
    let nothing: Fault = |_| ServerAction::Silence(Duration::from_secs(4));
    for (name, fault, outcome, keeps) in [
        ("a cut stream", cut, ReplyOutcome::Lost, true),
        (
            "a stall within the stream",
            stalls,
            ReplyOutcome::Lost,
            true,
        ),
        ("a stall before it", nothing, ReplyOutcome::Lost, false),
        ("malformed JSON", malformed, ReplyOutcome::Malformed, false),
    ] {
        let root = tempfile::tempdir().unwrap();
        let (asked, seen) = run_with_fault(root.path(), json!({}), fault);
        let replies = replies_to_faulted_step(&asked, &seen);
        assert_eq!(
            outcomes(&replies),
            [outcome, ReplyOutcome::Complete],
            "{name}"
        );
        assert_worst_case_cost(&asked, replies[0]);
        assert_eq!(
            replies[0].response.is_some(),
            keeps,
            "{name}: the part that came is kept"
        );
        assert!(replies[0].detail.is_some());
        let again = index_of_retry(&seen);
        let text = reply_to(&document(&seen[again]), again);
        assert_exact_cost(replies[1], usage(&seen[again], &text));
        assert!(
            asked.proposed.contains(&replies[0].step)
                || asked
                    .failed
                    .iter()
                    .any(|failed| failed.step == replies[0].step)
        );
    }
}

#[test]
fn unusable_complete_reply_is_billed_exactly() {
    let root = tempfile::tempdir().unwrap();
    // Reasoning took it all: the cap is doubled, once.
    let (asked, seen) = run_with_fault(&root.path().join("cut"), json!({}), |seen| {
        reply_with_finish_reason(seen, "```cuda\n/* kforge", "length")
    });
    let replied = replies_to_faulted_step(&asked, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Truncated, ReplyOutcome::Complete]
    );
    assert_exact_cost(
        replied[0],
        usage(&seen[FAULTED_REQUEST], "```cuda\n/* kforge"),
    );
    let cap = |seen: &SeenRequest| seen.json()["max_completion_tokens"].as_u64().unwrap();
    assert_eq!(
        (
            cap(&seen[FAULTED_REQUEST]),
            cap(&seen[index_of_retry(&seen)])
        ),
        (4000, 8000)
    );
    let doubled = seen.iter().filter(|seen| cap(seen) != 4000);
    assert_eq!(doubled.count(), 1);
    let folder = root
        .path()
        .join(format!("cut/softmax/steps/{:06}", replied[0].step));
    let kernel = std::fs::read_to_string(folder.join("kernel.cu")).unwrap();
    assert!(
        kernel.contains("__global__"),
        "what was cut was never a kernel"
    );

    let (asked, seen) = run_with_fault(&root.path().join("refused"), json!({}), |seen| {
        reply_with_finish_reason(seen, "I would rather not.", "content_filter")
    });
    let replied = replies_to_faulted_step(&asked, &seen);
    assert_eq!(outcomes(&replied), [ReplyOutcome::Refused]);
    assert_exact_cost(
        replied[0],
        usage(&seen[FAULTED_REQUEST], "I would rather not."),
    );
    let failed = asked
        .failed
        .iter()
        .find(|failed| failed.step == replied[0].step)
        .unwrap();
    assert_eq!(failed.reason, FailedReason::Refused);

    let (asked, seen) = run_with_fault(&root.path().join("empty"), json!({}), |seen| {
        reply_with_finish_reason(seen, "", "stop")
    });
    let replied = replies_to_faulted_step(&asked, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Empty, ReplyOutcome::Complete]
    );
    assert_exact_cost(replied[0], usage(&seen[FAULTED_REQUEST], ""));

    for stream in [false, true] {
        let directory = root.path().join(format!("uncounted-{stream}"));
        let (asked, seen) = run_with_fault(&directory, json!({"stream": stream}), move |seen| {
            let text = reply_to(&document(seen), FAULTED_REQUEST);
            let mut body = whole_reply(seen, &text, "stop");
            body.as_object_mut().unwrap().remove("usage");
            match stream {
                false => ServerAction::json(200, body),
                true => ServerAction::events(
                    &stream_events(seen, &text, "stop")
                        .into_iter()
                        .filter(|event| !event.contains("usage"))
                        .collect::<Vec<_>>(),
                ),
            }
        });
        let replied = replies_to_faulted_step(&asked, &seen);
        assert_eq!(outcomes(&replied), [ReplyOutcome::Complete]);
        assert_worst_case_cost(&asked, replied[0]);
    }
}

#[test]
fn permanent_error_stops_the_run_and_resume_continues() {
    let refused = json!({"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": "no such key"}});
    let no_money = json!({"error": {"type": "insufficient_quota", "message": "you exceeded your current quota"}});
    for (status, body, words) in [
        (401, refused, "no such key"),
        (429, no_money, "no money left"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(move |number, seen| match number {
            FAULTED_REQUEST => ServerAction::json(status, body.clone()),
            // These are under way when the other is refused.
            _ if number < 2 * FAULTED_REQUEST => {
                crate::model::delayed(good_reply(number, seen), Duration::from_millis(300))
            }
            _ => good_reply(number, seen),
        });
        let scene = Scenario::new(&server.url, STEPS);
        let failure = scene.run_to_failure(root.path());
        assert_eq!(failure.kind, FailureKind::Environment, "{failure}");
        assert!(failure.to_string().contains(words) && failure.hint.unwrap().contains("resume"));
        let asked = RequestLog::read(root.path());
        let (before, seen) = (asked.replied.len(), server.seen().len());
        assert_eq!(before, seen, "what was under way was paid for, and is kept");
        let fatal: Vec<_> = asked
            .replied
            .iter()
            .filter(|replied| !ends_request(replied))
            .collect();
        assert_eq!(fatal.len(), 1);
        assert_eq!((fatal[0].cost.nano_usd, fatal[0].cost.tokens), (Some(0), 0));
        scene.finish_all_steps(root.path());
        let asked = RequestLog::read(root.path());
        assert_eq!(asked.replied.len(), server.seen().len());
        asked.assert_files_match_journal(root.path());
        assert_eq!(asked.without_reply(), 0);
    }
}

#[test]
fn program_reports_what_it_waits_for() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    let server = Server::start(|number, seen| match number {
        0 => ServerAction::status(429, &[("retry-after", "4")]),
        _ => good_reply(number, seen),
    });
    shell.config(&(openai_model(&server.url, "") + "\n  concurrency: 1"));
    shell
        .evolve(&["--steps", "5"])
        .assert_exit(0, &["softmax: waiting: local:", "status 429"]);
    let requests = server.seen();
    assert!(
        (requests[1].at - requests[0].at).as_secs_f64() >= 4.0,
        "nobody comes sooner than the server said"
    );
}

#[test]
fn permanent_error_exits_3() {
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
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
    shell.config(&(openai_model(&server.url, "") + "\n  concurrency: 1"));
    let said = shell.evolve(&["--steps", "8"]);
    said.assert_exit(3, &["status 401: no such key", "kforge resume"]);
    assert!(!said.err.contains("stack"), "{}", said.err);
    let said = shell.resume(&[]);
    said.assert_exit(0, &[]);
    let asked = RequestLog::read(&shell.run_directory());
    assert_eq!(asked.replied.len(), server.seen().len());
}
