//! Edits that have no place, edits that change nothing, and what the summary says of both.

use std::collections::HashMap;

use kforge::event::{Event, FailedReason};
use serde_json::Value;

use crate::model::{
    asks_for_edits, complete_reply, document, edit_block, parent_source, reply_to, trace_block,
};
use crate::run_log::{RequestLog, events, summary};
use crate::scenario::{Scenario, prompt_digest};
use crate::server::Server;

const MISSED: &str = "# Your reply to this could not be applied";

/// Of the first tries at edits every fifth misses and hits in its second, every fifth misses twice, every fifth changes nothing,
/// and every fifth hits only without its trailing white space.
fn scripted_reply(number: usize, document: &str) -> String {
    if !asks_for_edits(document) {
        return reply_to(document, number);
    }
    let kernel = parent_source(document);
    let line = kernel
        .lines()
        .find(|line| line.contains("__global__"))
        .unwrap();
    let miss = edit_block("    this_line_is_nowhere();", "    nor_is_this();");
    let is_second = document.contains(MISSED);
    // A second try shows by the first which of them it is.
    let kind = match is_second {
        true => document
            .rfind("kind ")
            .map(|at| document[at + 5..].chars().next().unwrap()),
        false => char::from_digit(u32::try_from(number % 5).unwrap(), 10),
    };
    let kind = kind.unwrap();
    let body = match (kind, is_second) {
        ('0', false) | ('1', _) => miss,
        ('2', _) => edit_block(line, line),
        ('3', _) => {
            let edits = crate::model::block_size_edits(&kernel, number);
            edits
                .iter()
                .map(|(old, new)| edit_block(&format!("{old}   "), new))
                .collect()
        }
        _ => {
            return reply_to(document, number)
                .replace("block size", &format!("kind {kind} block size"));
        }
    };
    trace_block(&format!("kind {kind}")) + &body
}

#[test]
fn missed_edits_are_retried_once_and_counted() {
    const STEPS: u64 = 90;
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(|number, seen| {
        complete_reply(seen, &scripted_reply(number, &document(seen)))
    });
    Scenario::new(&server.url, STEPS).finish_all_steps(root.path());
    let asked = RequestLog::read(root.path());
    asked.assert_files_match_journal(root.path());
    let documents: HashMap<_, _> = server
        .seen()
        .iter()
        .map(|seen| (prompt_digest(seen), document(seen)))
        .collect();

    // Second questions, and only those, tell what was wrong with the first reply, with that reply.
    let mut told = 0;
    for sent in &asked.sent {
        let document = &documents[&sent.prompt];
        assert_eq!(
            document.contains(MISSED),
            sent.ask == 2,
            "step {} ask {}",
            sent.step,
            sent.ask
        );
        assert!(sent.ask <= 2, "a miss is told once");
        if sent.ask == 2 {
            told += 1;
            for words in [
                "None of your edits was made",
                "does not occur in the kernel",
                "this_line_is_nowhere",
            ] {
                assert!(
                    document.contains(words),
                    "no `{words}` in the second question"
                );
            }
        }
    }
    assert!(told > 5, "{told} misses");

    let all = events(root.path());
    let ended_as = |reason| {
        let failed = asked.failed.iter().filter(|failed| failed.reason == reason);
        failed.map(|failed| failed.step).collect::<Vec<_>>()
    };
    let judged: Vec<u64> = all
        .iter()
        .filter_map(|event| match event {
            Event::Judged(judged) => Some(judged.step),
            _ => None,
        })
        .collect();
    let (no_ops, missed) = (
        ended_as(FailedReason::NoOp),
        ended_as(FailedReason::EditMissed),
    );
    assert!(
        no_ops.len() > 3 && missed.len() > 1,
        "{no_ops:?} {missed:?}"
    );
    for step in no_ops.iter().chain(&missed) {
        assert!(!judged.contains(step), "step {step} has nothing to judge");
    }
    // A miss that is mended in the second try is a kernel like any other, and its step says what happened.
    let second_tries = asked
        .sent
        .iter()
        .filter(|sent| sent.ask == 2)
        .map(|sent| sent.step);
    let mended: Vec<u64> = second_tries.filter(|step| !missed.contains(step)).collect();
    assert!(!mended.is_empty());
    for step in &mended {
        let text = std::fs::read_to_string(
            root.path()
                .join(format!("softmax/steps/{step:06}/edits.json")),
        )
        .unwrap();
        let tried: Value = serde_json::from_str(&text).unwrap();
        assert!(
            !tried[0]["faults"].as_array().unwrap().is_empty(),
            "{tried}"
        );
        assert!(
            tried[1]["edits"].is_array() && tried[1]["faults"].is_null(),
            "{tried}"
        );
    }
    assert_rates(&summary(root.path())["tasks"][0], &all, &asked);
}

/// The summary's rates, counted again from the journal.
fn assert_rates(task: &Value, all: &[Event], asked: &RequestLog) {
    let (mut steps, mut no_ops, mut misses, mut repaired, mut edits) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let by_model: HashMap<u64, ()> = asked.sent.iter().map(|sent| (sent.step, ())).collect();
    let mut speedups = HashMap::new();
    let mut expected = HashMap::new();
    let mut errors = Vec::new();
    let mut count = |edits_of: &kforge::event::EditCounts| {
        edits += f64::from(edits_of.asked);
        repaired += f64::from(edits_of.repaired);
    };
    for event in all {
        let step = event.step().unwrap_or(0);
        match event {
            Event::Failed(failed) if by_model.contains_key(&step) => {
                steps += 1.0;
                no_ops += f64::from(u8::from(failed.reason == FailedReason::NoOp));
                misses += f64::from(u8::from(failed.reason == FailedReason::EditMissed));
                count(&failed.edits);
            }
            Event::Proposed(proposed) if by_model.contains_key(&step) => {
                steps += 1.0;
                count(&proposed.edits);
                if let Some(percent) = proposed.expected {
                    assert_eq!(percent, -0.05);
                    expected.insert(step, proposed.parents[0]);
                }
            }
            Event::Judged(judged) => {
                if let Some(speedup) = judged.verdict.speedup {
                    speedups.insert(step, speedup.geomean);
                    if let Some(before) =
                        expected.get(&step).and_then(|parent| speedups.get(parent))
                    {
                        let change: f64 = before / speedup.geomean - 1.0;
                        errors.push((-0.05 - change).abs() * 100.0);
                    }
                }
            }
            _ => {}
        }
    }
    assert!(repaired > 0.0, "some edits were repaired");
    let near = |told: &Value, counted: f64| {
        let told = told.as_f64().unwrap();
        assert!(
            (told - counted).abs() < 1e-9,
            "{told} is told, {counted} counted"
        );
    };
    let versions = task["prompts"].as_object().unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(
        versions.keys().next(),
        asked.sent.first().map(|sent| &sent.prompts)
    );
    for fared in [&task["models"]["local"], versions.values().next().unwrap()] {
        near(&fared["steps"], steps);
        near(&fared["no_op_rate"], no_ops / steps);
        near(&fared["miss_rate"], misses / steps);
        near(&fared["repair_rate"], repaired / edits);
        near(&fared["asked"], asked.sent.len() as f64);
        near(&fared["judgement"]["n"], errors.len() as f64);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let told = fared["judgement"]["mean_error_percent"].as_f64().unwrap();
        assert!((told - mean).abs() < 1e-6, "{told} {mean}");
    }
}
