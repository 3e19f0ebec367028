//! Judges the kernels of `fixtures/gpu` in searches, which dismiss a kernel early if it surely loses. Every kernel gets its expected status,
//! or it has passed so far and is dismissed: such a kernel is never kept. Without a GPU the test is ignored.

#![expect(clippy::print_stdout, reason = "the test reports its counts")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use kforge::verdict::Status;
use serde_json::Value;

use crate::gpu::{ExpectedVerdict, binary, device, fixture_folder, read_table};
use crate::harness::TestResult;

/// Runs a search that judges these kernels of one task as its starting kernels. The last verdict of each, in the order of `rows`.
fn judge_in_a_search(rows: &[ExpectedVerdict]) -> Vec<Option<Value>> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let task = fixture_folder().join("tasks").join(&rows[0].task);
    let kernels = rows.iter().map(|row| fixture_folder().join(&row.file));
    let config = serde_json::json!({
        "tasks": [task],
        "from": kernels.collect::<Vec<_>>(),
        // The starting kernels and nothing else.
        "steps": rows.len(),
        "search": {"confirm": 1},
        "eval": {"launch_seconds": 0.2},
    });
    std::fs::write(path("run.yaml"), config.to_string()).unwrap();
    let output = Command::new(binary())
        .args([
            "evolve",
            "--backend",
            "cuda",
            "--profile",
            "quick",
            "--config",
        ])
        .arg(path("run.yaml"))
        .arg("--output")
        .arg(path("run"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let journal = path("run").join(&rows[0].task).join("events.jsonl");
    let journal = std::fs::read_to_string(journal).unwrap_or_else(|error| {
        panic!("{}: {error}: {stderr}", rows[0].task);
    });
    let mut verdicts = vec![None; rows.len()];
    for line in journal.lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let step = event["step"].as_u64().unwrap_or(0) as usize;
        if event["event"] == "judged" && (1..=rows.len()).contains(&step) {
            verdicts[step - 1] = Some(event["verdict"].take());
        }
    }
    verdicts
}

/// What is wrong with a verdict; `None`: nothing.
fn mismatch(row: &ExpectedVerdict, verdict: Option<&Value>) -> Option<String> {
    let Some(verdict) = verdict else {
        return Some("it was not judged".to_owned());
    };
    let found: Option<Status> = serde_json::from_value(verdict["status"].clone()).ok();
    // Correct, but the machine was too busy to time it.
    let is_expected = found.is_some_and(|found| row.statuses.contains(&found))
        || found == Some(Status::Inconclusive);
    let is_dismissed = verdict["timing"] == "dismissed";
    if is_expected || (found == Some(Status::Passed) && is_dismissed) {
        return None;
    }
    Some(format!(
        "expected {:?}, found {} ({}): {}",
        row.statuses, verdict["status"], verdict["timing"], verdict["reason"]
    ))
}

fn racing_changes_no_status() -> TestResult {
    let _device = device()?;
    let mut groups = BTreeMap::<String, Vec<ExpectedVerdict>>::new();
    for row in read_table() {
        groups.entry(row.task.clone()).or_default().push(row);
    }
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    for rows in groups.values() {
        let verdicts = judge_in_a_search(rows);
        for (row, verdict) in rows.iter().zip(&verdicts) {
            let timing = verdict
                .as_ref()
                .and_then(|verdict| verdict["timing"].as_str());
            *counts
                .entry(match timing {
                    Some("dismissed") => "dismissed",
                    Some(_) => "timed in full",
                    None => "not timed",
                })
                .or_default() += 1;
            if let Some(mismatch) = mismatch(row, verdict.as_ref()) {
                wrong.push(format!("{}: {mismatch}", row.file));
            }
        }
    }
    println!("{counts:?}, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

crate::harness::tests!(racing_changes_no_status);
