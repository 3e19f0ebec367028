//! `kforge eval` gives every fixture kernel its expected status, with a real compiler and real processes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::program::{fixture, json, kforge};

/// How many times all fixtures are judged; `KFORGE_TEST_ROUNDS` sets more for a soak test.
fn rounds() -> usize {
    std::env::var("KFORGE_TEST_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(1)
}

/// A row of `expected.tsv`.
#[derive(Debug)]
struct FixtureRow {
    file: String,
    status: String,
    /// The line that the evidence must name.
    line: Option<u64>,
}

/// Reads the table of fixtures, by task.
fn read_table(folder: &Path) -> BTreeMap<String, Vec<FixtureRow>> {
    let text = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let mut tasks = BTreeMap::<_, Vec<_>>::new();
    for row in text
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
    {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, task, status, rest @ ..] = cells.as_slice() else {
            panic!("expected.tsv: expected at least 3 columns, found: {row}")
        };
        let line = rest.first().and_then(|line| line.trim().parse().ok());
        tasks
            .entry(task.trim().to_owned())
            .or_default()
            .push(FixtureRow {
                file: file.trim().to_owned(),
                status: status.trim().to_owned(),
                line,
            });
    }
    tasks
}

/// Timing that a busy machine can finish: a wide interval will do.
const COARSE: [&str; 4] = ["--precision", "0.5", "--seconds", "3"];

fn eval(task: &str, files: &[String]) -> Vec<Value> {
    let output = kforge(["eval", task, "--format", "json", "--profile", "quick"])
        .args(COARSE)
        .args(files)
        .output()
        .unwrap();
    json(&output)
}

#[test]
fn every_fixture_gets_its_expected_status() {
    let folder = fixture("kernels");
    let mut wrong = Vec::new();
    for round in 0..rounds() {
        for (task, fixtures) in read_table(&folder) {
            let files: Vec<_> = fixtures
                .iter()
                .map(|fixture| folder.join(&fixture.file).display().to_string())
                .collect();
            let verdicts = eval(&task, &files);
            assert_eq!(
                verdicts.len(),
                fixtures.len(),
                "{task}: one verdict for each kernel"
            );
            for (fixture, first) in fixtures.iter().zip(&verdicts) {
                // An inconclusive kernel is correct, and the machine was too busy to time it: judge it again.
                let mut verdict = first.clone();
                for _ in 0..5 {
                    if verdict["status"] != "inconclusive" {
                        break;
                    }
                    let file = folder.join(&fixture.file).display().to_string();
                    verdict = eval(&task, &[file])[0].clone();
                }
                // A race has two accesses. The schedule decides which of them comes second.
                let line = [
                    &verdict["evidence"]["line"],
                    &verdict["evidence"]["other"]["line"],
                ]
                .map(Value::as_u64);
                let passed = fixture.status == "passed";
                let timed = verdict["speedup"]["geomean"]
                    .as_f64()
                    .is_some_and(|speedup| speedup > 0.0);
                if verdict["status"] != fixture.status.as_str()
                    || (fixture.line.is_some() && !line.contains(&fixture.line))
                    || timed != passed
                {
                    wrong.push(format!(
                        "round {round}, {}: expected {}, line {:?}: {verdict:#}",
                        fixture.file, fixture.status, fixture.line
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn printed_text_is_part_of_the_evidence() {
    let file = fixture("kernels/wrong_output_printed.cu");
    let verdicts = eval("softmax", &[file.display().to_string()]);
    let log = verdicts[0]["evidence"]["log"].as_str().unwrap_or_default();
    assert!(log.starts_with("the sum of row 0 has "), "{verdicts:#?}");
}

#[test]
fn fixture_table_covers_every_status_and_file() {
    let folder = fixture("kernels");
    let fixtures: Vec<_> = read_table(&folder).into_values().flatten().collect();
    for status in [
        "passed",
        "rejected",
        "compile_error",
        "crashed",
        "timed_out",
        "wrong_output",
        "output_unwritten",
        "input_mutated",
        "out_of_bounds",
        "unsupported",
    ] {
        assert!(
            fixtures.iter().any(|fixture| fixture.status == status),
            "no fixture for {status}"
        );
    }
    assert!(
        fixtures
            .iter()
            .filter(|fixture| fixture.status == "passed")
            .count()
            >= 10
    );
    let listed: Vec<_> = fixtures
        .iter()
        .map(|fixture| fixture.file.as_str())
        .collect();
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            name == "expected.tsv" || listed.contains(&name.as_str()),
            "{name} is not in the table"
        );
    }
}
