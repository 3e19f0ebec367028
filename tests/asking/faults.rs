//! Every way in which a server can fail: the run goes on or stops resumable, nothing is asked twice, and the money is right.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kforge::base::Kind;
use kforge::event::{FailedReason, Replied, ReplyOutcome};
use serde_json::{Value, json};

use crate::journal::{Asked, counts, summary};
use crate::model::{answer, complete, document, ended, events, usage, whole};
use crate::scene::{Scene, model, prompt_of};
use crate::server::{Act, Seen, Server};
use crate::shell::{Shell, models};

/// Which request meets the fault, counted from 0.
const HIT: usize = 2;

const STEPS: u64 = 14;

fn good(number: usize, seen: &Seen) -> Act {
    complete(seen, &answer(&document(seen), number))
}

/// The run of a scene whose request `HIT` is answered by `fault`.
fn with_fault(
    directory: &Path,
    more: Value,
    fault: impl Fn(&Seen) -> Act + Send + Sync + 'static,
) -> (Asked, Vec<Seen>) {
    let server = Server::start(move |number, seen| match number {
        HIT => fault(seen),
        _ => good(number, seen),
    });
    let scene = Scene::of(json!([model(&server.url, more)]), STEPS)
        .with(json!({"concurrency": 1, "idle_seconds": 1.0, "timeout_seconds": 20.0}));
    scene.finish_all_steps(directory);
    let asked = Asked::of(directory);
    let seen = server.seen();
    asked.replies_are_kept(directory);
    assert_eq!(asked.unanswered(), 0);
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
fn replies<'a>(asked: &'a Asked, seen: &[Seen]) -> Vec<&'a Replied> {
    let prompt = prompt_of(&seen[HIT]);
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
fn again(seen: &[Seen]) -> usize {
    let prompt = prompt_of(&seen[HIT]);
    let later = (HIT + 1..seen.len()).find(|index| prompt_of(&seen[*index]) == prompt);
    later.expect("it was asked again")
}

fn outcomes(replies: &[&Replied]) -> Vec<ReplyOutcome> {
    replies.iter().map(|replied| replied.outcome).collect()
}

/// What a reply costs whose usage is known.
fn is_exact(replied: &Replied, (input, output): (u64, u64)) {
    assert_eq!(replied.cost.tokens, input + output);
    assert_eq!(replied.cost.nano_usd, Some(3000 * input + 15_000 * output));
    assert!(!replied.cost.assumed);
}

/// What a reply costs whose usage is not known: all that was set aside.
fn is_worst(asked: &Asked, replied: &Replied) {
    let mut sent = asked.sent.iter();
    let sent = sent.find(|sent| (sent.step, sent.ask) == (replied.step, replied.ask));
    let reserved = sent.unwrap().reserved;
    assert_eq!(replied.cost.nano_usd, reserved.nano_usd);
    assert_eq!(replied.cost.tokens, reserved.tokens);
    assert!(replied.cost.assumed && replied.usage.is_none());
}

/// HTTP's own way of writing a time.
fn date(at: SystemTime) -> String {
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
fn who_is_turned_away_comes_back_when_told_and_pays_once() {
    type Fault = Box<dyn Fn() -> Act + Send + Sync>;
    let in_three = || date(SystemTime::now() + Duration::from_secs(3));
    let faults: [(&str, f64, Fault); 5] = [
        (
            "429 in seconds",
            1.0,
            Box::new(|| Act::status(429, &[("retry-after", "1")])),
        ),
        (
            "429 at a date",
            1.9,
            Box::new(move || Act::status(429, &[("retry-after", &in_three())])),
        ),
        (
            "429 without a word",
            0.37,
            Box::new(|| Act::status(429, &[])),
        ),
        ("529", 0.37, Box::new(|| Act::status(529, &[]))),
        ("500", 0.37, Box::new(|| Act::status(500, &[]))),
    ];
    for (name, least, fault) in faults {
        let root = tempfile::tempdir().unwrap();
        let (asked, seen) = with_fault(root.path(), json!({}), move |_| fault());
        assert_eq!(seen[HIT].body, seen[HIT + 1].body, "{name}");
        let pause = seen[HIT + 1].at - seen[HIT].at;
        assert!(
            pause.as_secs_f64() >= least && pause.as_secs_f64() < 6.0,
            "{name}: {pause:?}"
        );
        let replies = replies(&asked, &seen);
        assert_eq!(outcomes(&replies), [ReplyOutcome::Complete], "{name}");
        assert_eq!(replies[0].tries, 2);
        let text = answer(&document(&seen[HIT + 1]), HIT + 1);
        is_exact(replies[0], usage(&seen[HIT + 1], &text));
    }
}

#[test]
fn what_was_lost_on_its_way_is_counted_at_its_worst_and_asked_once_more() {
    type Fault = fn(&Seen) -> Act;
    let cut: Fault = |seen| {
        let text = answer(&document(seen), HIT);
        let events = events(seen, &text, "stop").into_iter().take(2);
        Act::Events(events.map(|event| (Duration::ZERO, event)).collect(), false)
    };
    let stalls: Fault = |seen| {
        let text = answer(&document(seen), HIT);
        let mut events: Vec<_> = events(seen, &text, "stop")
            .into_iter()
            .map(|event| (Duration::ZERO, event))
            .collect();
        events[1].0 = Duration::from_secs(4);
        Act::Events(events, true)
    };
    let malformed: Fault = |_| Act::events(&["data: {\"choices\": [nonsense\n\n".to_owned()]);
    let nothing: Fault = |_| Act::Hang(Duration::from_secs(4));
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
        let (asked, seen) = with_fault(root.path(), json!({}), fault);
        let replies = replies(&asked, &seen);
        assert_eq!(
            outcomes(&replies),
            [outcome, ReplyOutcome::Complete],
            "{name}"
        );
        is_worst(&asked, replies[0]);
        assert_eq!(
            replies[0].response.is_some(),
            keeps,
            "{name}: the part that came is kept"
        );
        assert!(replies[0].detail.is_some());
        let again = again(&seen);
        let text = answer(&document(&seen[again]), again);
        is_exact(replies[1], usage(&seen[again], &text));
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
fn a_reply_that_came_whole_but_is_none_is_paid_to_the_token() {
    let root = tempfile::tempdir().unwrap();
    // Reasoning took it all: the cap is doubled, once.
    let (asked, seen) = with_fault(&root.path().join("cut"), json!({}), |seen| {
        ended(seen, "```cuda\n/* kforge", "length")
    });
    let replied = replies(&asked, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Truncated, ReplyOutcome::Complete]
    );
    is_exact(replied[0], usage(&seen[HIT], "```cuda\n/* kforge"));
    let cap = |seen: &Seen| seen.json()["max_completion_tokens"].as_u64().unwrap();
    assert_eq!((cap(&seen[HIT]), cap(&seen[again(&seen)])), (4000, 8000));
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

    let (asked, seen) = with_fault(&root.path().join("refused"), json!({}), |seen| {
        ended(seen, "I would rather not.", "content_filter")
    });
    let replied = replies(&asked, &seen);
    assert_eq!(outcomes(&replied), [ReplyOutcome::Refused]);
    is_exact(replied[0], usage(&seen[HIT], "I would rather not."));
    let failed = asked
        .failed
        .iter()
        .find(|failed| failed.step == replied[0].step)
        .unwrap();
    assert_eq!(failed.reason, FailedReason::Refused);

    let (asked, seen) = with_fault(&root.path().join("empty"), json!({}), |seen| {
        ended(seen, "", "stop")
    });
    let replied = replies(&asked, &seen);
    assert_eq!(
        outcomes(&replied),
        [ReplyOutcome::Empty, ReplyOutcome::Complete]
    );
    is_exact(replied[0], usage(&seen[HIT], ""));

    for stream in [false, true] {
        let directory = root.path().join(format!("uncounted-{stream}"));
        let (asked, seen) = with_fault(&directory, json!({"stream": stream}), move |seen| {
            let text = answer(&document(seen), HIT);
            let mut body = whole(seen, &text, "stop");
            body.as_object_mut().unwrap().remove("usage");
            match stream {
                false => Act::json(200, body),
                true => Act::events(
                    &events(seen, &text, "stop")
                        .into_iter()
                        .filter(|event| !event.contains("usage"))
                        .collect::<Vec<_>>(),
                ),
            }
        });
        let replied = replies(&asked, &seen);
        assert_eq!(outcomes(&replied), [ReplyOutcome::Complete]);
        is_worst(&asked, replied[0]);
    }
}

#[test]
fn what_no_patience_mends_stops_the_run_and_resume_goes_on() {
    let refused = json!({"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": "no such key"}});
    let no_money = json!({"error": {"type": "insufficient_quota", "message": "you exceeded your current quota"}});
    for (status, body, words) in [
        (401, refused, "no such key"),
        (429, no_money, "no money left"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(move |number, seen| match number {
            HIT => Act::json(status, body.clone()),
            // These are under way when the other is refused.
            _ if number < 2 * HIT => {
                crate::model::late(good(number, seen), Duration::from_millis(300))
            }
            _ => good(number, seen),
        });
        let scene = Scene::new(&server.url, STEPS);
        let failure = scene.fail(root.path());
        assert_eq!(failure.kind, Kind::Environment, "{failure}");
        assert!(failure.to_string().contains(words) && failure.hint.unwrap().contains("resume"));
        let asked = Asked::of(root.path());
        let (before, seen) = (asked.replied.len(), server.seen().len());
        assert_eq!(before, seen, "what was under way was paid for, and is kept");
        let fatal: Vec<_> = asked
            .replied
            .iter()
            .filter(|replied| !counts(replied))
            .collect();
        assert_eq!(fatal.len(), 1);
        assert_eq!((fatal[0].cost.nano_usd, fatal[0].cost.tokens), (Some(0), 0));
        scene.finish_all_steps(root.path());
        let asked = Asked::of(root.path());
        assert_eq!(asked.replied.len(), server.seen().len());
        asked.replies_are_kept(root.path());
        assert_eq!(asked.unanswered(), 0);
    }
}

#[test]
fn the_program_says_that_it_waits_and_for_what() {
    let Some(shell) = Shell::new() else { return };
    let server = Server::start(|number, seen| match number {
        0 => Act::status(429, &[("retry-after", "4")]),
        _ => good(number, seen),
    });
    shell.config(&(models(&server.url, "") + "\n  concurrency: 1"));
    shell
        .evolve(&["--steps", "5"])
        .ends(0, &["softmax: waiting: local:", "status 429"]);
    let requests = server.seen();
    assert!(
        (requests[1].at - requests[0].at).as_secs_f64() >= 4.0,
        "nobody comes sooner than the server said"
    );
}

#[test]
fn the_program_ends_with_3_where_only_a_person_can_help() {
    let Some(shell) = Shell::new() else { return };
    static REFUSALS: AtomicU64 = AtomicU64::new(2);
    let server = Server::start(|number, seen| {
        let left = REFUSALS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        match left {
            Ok(_) if number > 0 => Act::json(401, json!({"error": {"message": "no such key"}})),
            _ => good(number, seen),
        }
    });
    shell.config(&(models(&server.url, "") + "\n  concurrency: 1"));
    let said = shell.evolve(&["--steps", "8"]);
    said.ends(3, &["status 401: no such key", "kforge resume"]);
    assert!(!said.err.contains("stack"), "{}", said.err);
    let said = shell.resume(&[]);
    said.ends(0, &[]);
    let asked = Asked::of(&shell.run_directory());
    assert_eq!(asked.replied.len(), server.seen().len());
}
