//! Round trips, torn lines and damage of journals.

use super::*;
use crate::base::{Digest, Failure};
use crate::event::{
    Brief, Dueled, Event, Failed, FailedReason, Operator, Proposed, RunEvent, StopReason, Stopped,
    TaskStarted,
};

fn events() -> Vec<Event> {
    vec![
        Event::Asked(Brief {
            model: None,
            step: 7,
            operator: Operator::Mutate,
            parents: vec![1, 2],
            seed: 9,
            island: None,
            start: None,
            point: None,
            attempt: 0,
            retired: Default::default(),
            weights: Vec::new(),
        }),
        Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step: 7,
            kernel: Digest::of("k"),
            operator: Operator::Mutate,
            parents: vec![1],
            detail: "a \"quoted\"\nline, and an event\":\"judged\"".to_owned(),
            family: Digest::of("f"),
            point: Default::default(),
            space: Default::default(),
        }),
        Event::Failed(Failed {
            code: None,
            seconds: None,
            edits: Default::default(),
            step: 8,
            reason: FailedReason::NoOp,
            of: None,
            detail: None,
            kernel: None,
        }),
        Event::Dueled(Dueled {
            step: 7,
            against: 1,
            duel: None,
            seconds: None,
        }),
        Event::Stopped(Stopped {
            why: StopReason::Steps,
            at: 8,
            limit: None,
        }),
    ]
}

fn write(path: &Path) {
    let mut journal = Journal::open::<Event>(path, |_, _| Ok(())).unwrap();
    for event in events() {
        journal.append(&event).unwrap();
    }
    journal.sync().unwrap();
}

fn read(path: &Path) -> Result<Vec<Event>> {
    let mut found = Vec::new();
    Journal::open::<Event>(path, |_, event| {
        found.push(event);
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn lines_have_the_documented_shape_and_round_trip() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    write(&path);
    assert_eq!(read(&path).unwrap(), events());
    let text = std::fs::read_to_string(&path).unwrap();
    for (line, event) in text.lines().zip(events()) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().take(5).cloned().collect();
        let expected: &[_] = match event {
            Event::Stopped(_) => &["schema", "seq", "time", "event", "why"],
            _ => &["schema", "seq", "time", "step", "event"],
        };
        assert_eq!(keys, expected, "{line}");
        assert_eq!(
            line.matches("\"step\":").count(),
            usize::from(event.step().is_some())
        );
        assert_eq!(value["event"], event.name());
    }
}

#[test]
fn line_head_keys_may_come_in_any_order() {
    let line = r#"{"event":"stopped","why":"steps","at":8,"time":"2024-03-01T00:00:00.000Z","seq":1,"schema":1}"#;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    std::fs::write(&path, format!("{line}\n")).unwrap();
    assert_eq!(read(&path).unwrap().len(), 1);
}

#[test]
fn cut_at_any_byte_loses_only_the_last_line() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    write(&path);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(read(&path).unwrap(), events()[..kept], "cut at {cut}");
        // A copy of the torn line is next to the journal, and the next line continues the numbers.
        let torn = whole[..cut].rsplit(|byte| *byte == b'\n').next().unwrap();
        let copy = root.path().join(format!("events.jsonl.torn-{}", kept + 1));
        assert_eq!(copy.exists(), !torn.is_empty());
        if copy.exists() {
            assert_eq!(std::fs::read(&copy).unwrap(), torn);
            std::fs::remove_file(copy).unwrap();
        }
        let mut journal = Journal::open::<Event>(&path, |_, _| Ok(())).unwrap();
        journal.append(&events()[0]).unwrap();
        journal.sync().unwrap();
        assert_eq!(read(&path).unwrap().len(), kept + 1);
    }
}

#[test]
fn damaged_line_is_an_error_with_its_number() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    write(&path);
    let whole = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"seq\":2", "\"seq\":3", ":2: line 2 has the number 3"),
        (
            "\"event\":\"failed\"",
            "\"event\":\"exploded\"",
            ":3: unknown event `exploded`",
        ),
        (
            "\"against\":1",
            "\"against\":\"one\"",
            ":4: not a journal line",
        ),
        (
            "{\"schema\":1,\"seq\":2",
            "\0\0\0",
            ":2: not a journal line",
        ),
        (
            "{\"schema\":1,\"seq\":2",
            "{\"schema\":2,\"seq\":{}",
            ":2: written by a newer kforge",
        ),
        (
            "\"why\":\"steps\"",
            "\"why\":\"boredom\"",
            ":5: not a journal line",
        ),
        (
            "{\"schema\":1,\"seq\":5",
            "{\"schema\":2,\"seq\":5",
            ":5: written by a newer kforge",
        ),
    ] {
        let damaged = whole.replacen(from, to, 1);
        assert_ne!(damaged, whole);
        std::fs::write(&path, &damaged).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.downcast_ref::<Failure>().is_some());
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            damaged,
            "nothing is changed"
        );
    }
}

#[test]
fn run_events_round_trip() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    let event = RunEvent::TaskStarted(TaskStarted {
        task: "softmax".to_owned(),
        lines: Some(7),
    });
    let mut journal = Journal::open::<RunEvent>(&path, |_, _| Ok(())).unwrap();
    journal.append(&event).unwrap();
    journal.sync().unwrap();
    let mut found = Vec::new();
    Journal::open(&path, |_, event: RunEvent| {
        found.push(event);
        Ok(())
    })
    .unwrap();
    assert_eq!(found, [event]);
}

#[test]
fn lines_are_written_byte_for_byte_as_documented() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    write(&path);
    let (kernel, family) = (Digest::of("k"), Digest::of("f"));
    let expected = [
        r#""step":7,"event":"asked","operator":"mutate","parents":[1,2],"seed":"9","attempt":0}"#
            .to_owned(),
        format!(
            r#""step":7,"event":"proposed","kernel":"{kernel}","operator":"mutate","parents":[1],"detail":"a \"quoted\"\nline, and an event\":\"judged\"","family":"{family}","point":{{}},"space":{{}}}}"#
        ),
        r#""step":8,"event":"failed","reason":"no_op"}"#.to_owned(),
        r#""step":7,"event":"dueled","against":1,"duel":null}"#.to_owned(),
        r#""event":"stopped","why":"steps","at":8}"#.to_owned(),
    ];
    let text = std::fs::read_to_string(&path).unwrap();
    for (number, (line, expected)) in (1..).zip(text.lines().zip(&expected)) {
        let head = format!("{{\"schema\":1,\"seq\":{number},\"time\":\"");
        let rest = line.strip_prefix(&head).unwrap();
        assert_eq!(&rest[24..], format!("\",{expected}"));
    }
}

#[test]
fn seed_may_be_a_number_as_older_versions_wrote_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("events.jsonl");
    write(&path);
    let read = || {
        let mut events: Vec<Event> = Vec::new();
        Journal::open(&path, |_, event| {
            events.push(event);
            Ok(())
        })
        .unwrap();
        events
    };
    let new = read();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""seed":"9""#));
    std::fs::write(&path, text.replace(r#""seed":"9""#, r#""seed":9"#)).unwrap();
    assert_eq!(read(), new);
}
