//! The figures of `summary.json`, against counts made from the journal.

use std::time::Duration;

use kforge::event::{Event, FailedReason, Operator};
use kforge::verdict::Status;
use serde_json::Value;

use crate::driver::scripted::{judges, options};
use crate::driver::{events, run};

#[test]
fn figures_agree_with_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let ended = run(
        options(&directory, &["softmax"], 120),
        &judges(Duration::ZERO),
    )
    .unwrap();
    let events = events(&directory, "softmax");
    let starts: Vec<u64> = (events.iter())
        .filter_map(|event| match event {
            Event::Asked(brief) if brief.operator == Operator::Start => Some(brief.step),
            _ => None,
        })
        .collect();
    assert!(!starts.is_empty());
    let verdicts = events.iter().filter_map(|event| match event {
        Event::Judged(judged) if !starts.contains(&judged.step) => Some(&judged.verdict),
        _ => None,
    });
    let verdicts: Vec<_> = verdicts.collect();
    let passed = verdicts.iter().filter(|one| one.status == Status::Passed);
    let mut speedups: Vec<f64> = passed.map(|one| one.speedup.unwrap().geomean).collect();
    speedups.sort_unstable_by(f64::total_cmp);
    let no_ops = events.iter().filter(
        |event| matches!(event, Event::Failed(failed) if failed.reason == FailedReason::NoOp),
    );

    let text = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let figures = &summary["tasks"][0]["figures"];
    let attempts = verdicts.len() as f64;
    let above = |p: f64| speedups.iter().filter(|one| **one > p).count() as f64 / attempts;
    let logarithms: f64 = speedups.iter().map(|one| one.ln()).sum();
    let (low, high) = (speedups.len().div_ceil(2) - 1, speedups.len() / 2);
    let steps = ended.tasks[0].progress.steps as usize - starts.len();
    for (name, expected) in [
        ("attempts", attempts),
        ("passed", speedups.len() as f64),
        ("fast_0", above(0.0)),
        ("fast_1", above(1.0)),
        ("fast_1.5", above(1.5)),
        ("fast_2", above(2.0)),
        ("pass@1", above(0.0)),
        ("geometric_mean", (logarithms / speedups.len() as f64).exp()),
        ("median", f64::midpoint(speedups[low], speedups[high])),
        ("max", *speedups.last().unwrap()),
        ("no_op_rate", no_ops.count() as f64 / steps as f64),
    ] {
        let value = figures[name].as_f64().unwrap_or(f64::NAN);
        assert!(
            (value - expected).abs() < 1e-9,
            "{name}: {value}, {expected}"
        );
    }
    assert!(figures["pass@5"].as_f64() > figures["pass@1"].as_f64());
    // Some fail and some are slow, so the figures differ from each other.
    assert!(above(0.0) < 1.0 && above(1.0) < above(0.0) && above(2.0) < above(1.5));

    // The figures of the run are those of its confirmed best kernels.
    let best = ended.tasks[0].best().unwrap().speedup.geomean;
    assert_eq!(summary["figures"]["tasks"], 1);
    assert_eq!(summary["figures"]["max"], best);
    assert_eq!(summary["figures"]["fast_1"], 1.0);
}
