//! Kernels of a model that are nearly a parent or an elite (`search.near_copies`).

use kforge::event::{Event, FailedReason};
use kforge::search::{NearCopyAction, NearCopySettings};
use serde_json::json;

use crate::asking::model::{complete_reply, document, parent_source, trace_block};
use crate::asking::run_log::{RequestLog, events, summary};
use crate::asking::scenario::Scenario;
use crate::llm::server::Server;

/// The kernel of the prompt with another function that it does not use. Every second reply adds a long one.
fn reply(number: usize, document: &str) -> String {
    let terms = if number.is_multiple_of(2) { 1 } else { 400 };
    let sum: Vec<String> = (0..terms)
        .map(|term| format!("value{term} * {number}"))
        .collect();
    let function = format!("__device__ float other() {{ return {}; }}", sum.join(" + "));
    let kernel = parent_source(document);
    let kernel = kernel.replacen("__global__", &format!("{function}\n__global__"), 1);
    format!(
        "{}\n```cuda\n{kernel}```\n",
        trace_block("another function")
    )
}

fn scenario(server: &Server, action: NearCopyAction) -> Scenario {
    Scenario {
        operators: json!({"propose": 1, "edit": 0, "crossover": 0, "repair": 0, "autotune": 0, "mutate": 0, "recombine": 0}),
        near_copies: NearCopySettings {
            action,
            similarity: 0.8,
        },
        ..Scenario::new(&server.url, 30)
    }
}

fn server() -> Server {
    Server::start(|number, seen| complete_reply(seen, &reply(number, &document(seen))))
}

#[test]
fn a_near_copy_is_refused_by_name_and_later_prompts_say_so() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    let scenario = scenario(&server, NearCopyAction::Refuse);
    scenario.finish_all_steps(root.path());
    let log = RequestLog::read(root.path());
    let refused: Vec<_> = (log.failed.iter())
        .filter(|failed| failed.reason == FailedReason::NearCopy)
        .collect();
    assert!(refused.len() > 3, "{:?}", log.failed);
    let all = events(root.path());
    let judged: Vec<u64> = (all.iter())
        .filter_map(|event| match event {
            Event::Judged(judged) => Some(judged.step),
            _ => None,
        })
        .collect();
    for failed in &refused {
        assert!(!judged.contains(&failed.step), "{failed:?}");
        assert!(
            failed.of.is_some_and(|of| judged.contains(&of)),
            "{failed:?}"
        );
    }
    // Those with a long function are no near-copies.
    assert!(judged.len() > 10, "{judged:?}");
    let proposed = all.iter().filter_map(|event| match event {
        Event::Proposed(proposed) => Some(proposed),
        _ => None,
    });
    assert!(proposed.clone().all(|proposed| proposed.shingles.is_some()));
    let counted = &summary(root.path())["tasks"][0]["by_failure"]["near_copy"];
    assert_eq!(counted.as_u64(), Some(refused.len() as u64));
    let documents: Vec<String> = server.seen().iter().map(document).collect();
    let shown = "`another function`: nearly the same code as step ";
    assert!(
        documents.iter().any(|document| document.contains(shown)),
        "{}",
        documents.last().unwrap()
    );
}

#[test]
fn by_default_near_copies_are_judged_and_nothing_is_recorded_of_them() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    scenario(&server, NearCopyAction::Keep).finish_all_steps(root.path());
    let all = events(root.path());
    for event in &all {
        match event {
            Event::Proposed(proposed) => assert_eq!(proposed.shingles, None),
            Event::Failed(failed) => assert_ne!(failed.reason, FailedReason::NearCopy),
            _ => {}
        }
    }
}
