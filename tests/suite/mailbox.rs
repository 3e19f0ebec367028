//! A recorded search on a GPU whose model was a person with a mailbox (`tests/fixtures/mailbox`): parsing its replies again gives
//! the kernels that were judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kforge::driver::{EarlierReply, ModelStep, RepliesOutcome, RunKernel, parse_replies};
use kforge::event::{Brief, Event, FailedReason, Operator, ReplyOutcome};
use kforge::run::ParseLine;
use kforge::task::TaskFiles;

fn fixture(path: impl AsRef<Path>) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/mailbox").join(path)
}

fn text(path: impl AsRef<Path>) -> String {
    let path = fixture(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn recorded_mailbox_replies_give_the_judged_kernels() {
    let task = Arc::new(TaskFiles::find("gdn_decode").unwrap().load().unwrap());
    let mut briefs: BTreeMap<u64, Brief> = BTreeMap::new();
    let mut replies: BTreeMap<u64, Vec<(u32, ReplyOutcome)>> = BTreeMap::new();
    let (mut candidates, mut failures) = (0, Vec::new());
    for line in text("events.jsonl").lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = value["event"].as_str().unwrap();
        if !["asked", "replied", "proposed", "failed"].contains(&name) {
            continue;
        }
        let end = match Event::parse(name, line).unwrap().unwrap() {
            Event::Asked(brief) => {
                briefs.insert(brief.step, brief);
                continue;
            }
            Event::Replied(replied) => {
                let reply = (replied.ask, replied.outcome);
                replies.entry(replied.step).or_default().push(reply);
                continue;
            }
            Event::Proposed(proposed) => (proposed.step, None),
            Event::Failed(failed) => (failed.step, Some(failed.reason)),
            _ => continue,
        };
        let (step, failed) = end;
        let brief = briefs[&step].clone();
        if !brief.operator.asks_model() {
            assert_eq!(brief.operator, Operator::Start);
            continue;
        }
        let kernel = |step: &u64| RunKernel {
            step: *step,
            operator: Operator::Start,
            source: text(format!("kernels/{step:02}.cu")).into(),
            feedback: None,
        };
        let earlier = replies[&step].iter().map(|(ask, outcome)| EarlierReply {
            outcome: *outcome,
            text: text(format!("replies/{step:02}-{ask}.md")).into(),
            detail: None,
        });
        let model_step = ModelStep {
            task: task.clone(),
            parents: brief.parents.iter().map(kernel).collect(),
            context: Vec::new(),
            history: Vec::new(),
            earlier_replies: earlier.collect(),
            brief,
        };
        let parsed = parse_replies(&model_step, 2);
        assert!(
            parsed.trace.is_some() && parsed.expected.is_some(),
            "step {step}"
        );
        match (parsed.outcome, failed) {
            (RepliesOutcome::Candidate(candidate), None) => {
                let kernel = text(format!("kernels/{step:02}.cu"));
                assert_eq!(candidate.source, kernel, "step {step}");
                candidates += 1;
            }
            (RepliesOutcome::Failed(reason, _), Some(recorded)) => {
                assert_eq!(reason, recorded, "step {step}");
                failures.push((step, reason));
            }
            (outcome, recorded) => panic!("step {step}: {outcome:?} instead of {recorded:?}"),
        }
    }
    assert_eq!(candidates, 16);
    assert_eq!(failures, [(18, FailedReason::NoOp)]);
    // The second request of step 15 says that the edit of the first reply matched no place.
    assert_eq!(replies[&15].len(), 2);
    assert!(text("prompts/15-2.md").contains("None of your edits was made"));
}
