//! Edits that do not match the kernel, edits that change nothing, duplicates, and the rates in the summary.

use std::collections::HashMap;
use std::path::Path;

use kforge::event::{Event, FailedReason};
use serde_json::{Value, json};

use crate::asking::model::{
    asks_for_edits, complete_reply, document, edit_block, parent_source, reply_to, trace_block,
};
use crate::asking::run_log::{RequestLog, events, summary};
use crate::asking::scenario::{Scenario, prompt_digest};
use crate::llm::server::Server;

const MISSED: &str = "# Your last reply could not be applied";

/// Edits of five kinds in turn: 0 misses and matches in the second try, 1 misses twice, 2 changes nothing, 3 matches only without
/// its trailing white space, 4 matches.
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
    // A second try repeats the kind of the first, whose trace the prompt shows.
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
            let edits = crate::asking::model::block_size_edits(&kernel, number);
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
    // kforge's own operators would take every step for which no model has room.
    let models_alone = json!({"propose": 4, "edit": 8, "crossover": 1, "repair": 2, "autotune": 0, "mutate": 0, "recombine": 0});
    let scenario = Scenario {
        operators: models_alone,
        ..Scenario::new(&server.url, STEPS)
    };
    scenario.finish_all_steps(root.path());
    let log = RequestLog::read(root.path());
    log.assert_files_match_journal(root.path());
    assert_second_requests(&server, &log);
    let all = events(root.path());
    assert_steps(root.path(), &all, &log);
    assert_rates(&summary(root.path())["tasks"][0], &all, &log);
}

/// The second request of a step, and no other, shows the first reply and what was wrong with it.
fn assert_second_requests(server: &Server, log: &RequestLog) {
    let seen = server.seen();
    let documents: HashMap<_, _> = seen
        .iter()
        .map(|seen| (prompt_digest(seen), document(seen)))
        .collect();
    let mut second_tries = 0;
    for sent in &log.sent {
        let document = &documents[&sent.prompt];
        let (step, ask) = (sent.step, sent.ask);
        assert_eq!(document.contains(MISSED), ask == 2, "step {step} ask {ask}");
        assert!(ask <= 2, "missed edits are reported once");
        if ask < 2 {
            continue;
        }
        second_tries += 1;
        for text in [
            "None of your edits was made",
            "does not occur in the kernel",
            "this_line_is_nowhere",
        ] {
            assert!(document.contains(text), "no `{text}` in the second prompt");
        }
    }
    assert!(second_tries > 5, "{second_tries} misses");
}

/// Steps without a candidate are not judged. Edits that match in the second try make a normal candidate.
fn assert_steps(directory: &Path, all: &[Event], log: &RequestLog) {
    let ended_as = |reason| {
        let failed = log.failed.iter().filter(|failed| failed.reason == reason);
        failed.map(|failed| failed.step).collect::<Vec<_>>()
    };
    let judged: Vec<u64> = all
        .iter()
        .filter_map(|event| match event {
            Event::Judged(judged) => Some(judged.step),
            _ => None,
        })
        .collect();
    let no_ops = ended_as(FailedReason::NoOp);
    let missed = ended_as(FailedReason::EditMissed);
    assert!(
        no_ops.len() > 3 && missed.len() > 1,
        "{no_ops:?} {missed:?}"
    );
    for step in no_ops.iter().chain(&missed) {
        assert!(!judged.contains(step), "step {step} has nothing to judge");
    }
    let second_tries = log.sent.iter().filter(|sent| sent.ask == 2);
    let second_tries = second_tries.map(|sent| sent.step);
    let repaired: Vec<u64> = second_tries.filter(|step| !missed.contains(step)).collect();
    assert!(!repaired.is_empty());
    for step in &repaired {
        // `edits.json` shows both tries.
        let path = format!("softmax/steps/{step:06}/edits.json");
        let text = std::fs::read_to_string(directory.join(path)).unwrap();
        let tries: Value = serde_json::from_str(&text).unwrap();
        let [first, second] = [&tries[0], &tries[1]];
        assert!(!first["faults"].as_array().unwrap().is_empty(), "{tries}");
        assert!(
            second["edits"].is_array() && second["faults"].is_null(),
            "{tries}"
        );
    }
}

#[test]
fn later_prompts_show_what_a_duplicate_changed() {
    let root = tempfile::tempdir().unwrap();
    // Every reply sets the same block size: most are duplicates or change nothing.
    let server = Server::start(|_, seen| complete_reply(seen, &reply_to(&document(seen), 5)));
    let mut scenario = Scenario::new(&server.url, 40);
    scenario.operators = json!({"propose": 1, "edit": 0, "crossover": 0, "repair": 0, "autotune": 0, "mutate": 0, "recombine": 0});
    scenario.finish_all_steps(root.path());
    let log = RequestLog::read(root.path());
    let is_duplicate = |failed: &kforge::event::Failed| failed.reason == FailedReason::Duplicate;
    assert!(log.failed.iter().any(is_duplicate), "{:?}", log.failed);
    let documents: Vec<String> = server.seen().iter().map(document).collect();
    let shown = "`block size 5`: the same code as step ";
    assert!(
        documents.iter().any(|document| document.contains(shown)),
        "{}",
        documents.last().unwrap()
    );
}

/// Compares the summary's rates with counts from the journal.
fn assert_rates(task: &Value, all: &[Event], log: &RequestLog) {
    let (mut steps, mut no_ops, mut misses, mut repaired, mut edits) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let by_model: HashMap<u64, ()> = log.sent.iter().map(|sent| (sent.step, ())).collect();
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
    let near = |reported: &Value, counted: f64| {
        let reported = reported.as_f64().unwrap();
        assert!(
            (reported - counted).abs() < 1e-9,
            "{reported} is reported, {counted} counted"
        );
    };
    let versions = task["prompts"].as_object().unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(
        versions.keys().next(),
        log.sent.first().map(|sent| &sent.prompts)
    );
    for stats in [&task["models"]["local"], versions.values().next().unwrap()] {
        near(&stats["steps"], steps);
        near(&stats["no_op_rate"], no_ops / steps);
        near(&stats["miss_rate"], misses / steps);
        near(&stats["repair_rate"], repaired / edits);
        near(&stats["asked"], log.sent.len() as f64);
        near(&stats["judgement"]["n"], errors.len() as f64);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let reported = stats["judgement"]["mean_error_percent"].as_f64().unwrap();
        assert!((reported - mean).abs() < 1e-6, "{reported} {mean}");
    }
}
