//! `kforge eval` gives every fixture kernel its expected status, with a real compiler and real processes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::program::{fixture, json, kforge, root};

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

/// A folder with a shipped task that times its first workload only. Two hidden shapes take the place of the others: they are checked as
/// well, and most of the time of a judgement is that of timing.
fn timed_once(task: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(task);
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(root().join("tasks").join(task))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let path = own.join("task.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, rest) = text.split_once("  quick: {workloads: [").unwrap();
    let (workloads, rest) = rest.split_once("], hidden_shapes: 1, ").unwrap();
    let (first, _) = workloads.split_once(',').unwrap();
    let changed = format!("{start}  quick: {{workloads: [{first}], hidden_shapes: 2, {rest}");
    std::fs::write(&path, changed).unwrap();
    folder
}

/// Judges kernels with the timing lock of a folder: other tests need not wait, and a wide interval needs no quiet machine.
fn eval(task: &str, files: &[String]) -> Vec<Value> {
    let locks = tempfile::tempdir().unwrap();
    let output = kforge(["eval", task, "--format", "json", "--profile", "quick"])
        .args(COARSE)
        .args(files)
        .env("KFORGE_LOCK_DIR", locks.path())
        .output()
        .unwrap();
    json(&output)
}

/// An inconclusive kernel is correct, and the machine was too busy to time it: it is judged again.
fn conclusive(task: &str, file: &str, mut verdict: Value) -> Value {
    for _ in 0..5 {
        if verdict["status"] != "inconclusive" {
            break;
        }
        verdict = eval(task, &[file.to_owned()]).remove(0);
    }
    verdict
}

/// Whether a verdict is the one that the table expects.
fn is_expected(row: &FixtureRow, verdict: &Value) -> bool {
    let evidence = &verdict["evidence"];
    // A race has two accesses. The schedule decides which of them comes second.
    let lines = [&evidence["line"], &evidence["other"]["line"]].map(Value::as_u64);
    let timed = verdict["speedup"]["geomean"]
        .as_f64()
        .is_some_and(|speedup| speedup > 0.0);
    verdict["status"] == row.status.as_str()
        && (row.line.is_none() || lines.contains(&row.line))
        && timed == (row.status == "passed")
}

/// Judges the fixtures of a task that have one of the statuses: part `part` of `parts` of them, counted from 1.
fn judge(task: &str, statuses: &[&str], (part, parts): (usize, usize)) {
    let folder = fixture("kernels");
    let mut rows = read_table(&folder).remove(task).unwrap();
    rows.retain(|row| statuses.contains(&row.status.as_str()));
    let rows: Vec<_> = rows.into_iter().skip(part - 1).step_by(parts).collect();
    let files: Vec<_> = rows
        .iter()
        .map(|row| folder.join(&row.file).display().to_string())
        .collect();
    // A kernel that does not pass is hardly timed. The shipped workloads may be what shows its fault.
    let shorter = statuses.contains(&"passed").then(|| timed_once(task));
    let task = match &shorter {
        Some(folder) => &folder.path().join(task).display().to_string(),
        None => task,
    };
    let mut wrong = Vec::new();
    for round in 0..rounds() {
        let verdicts = eval(task, &files);
        assert_eq!(verdicts.len(), rows.len(), "one verdict for each kernel");
        for ((row, file), verdict) in rows.iter().zip(&files).zip(verdicts) {
            let verdict = conclusive(task, file, verdict);
            if !is_expected(row, &verdict) {
                wrong.push(format!("round {round}: expected {row:?}: {verdict:#}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Declares one test for each group of fixtures, so that they run on all cores, and the table of all groups.
macro_rules! groups {
    ($($test:ident: $task:literal, [$($status:literal),+], $part:literal of $parts:literal;)+) => {
        const GROUPS: &[(&str, &[&str], usize)] = &[$(($task, &[$($status),+], $parts)),+];
        $(
            #[test]
            fn $test() {
                judge($task, &[$($status),+], ($part, $parts));
            }
        )+
    };
}

groups! {
    softmax_kernels_that_pass_1: "softmax", ["passed"], 1 of 3;
    softmax_kernels_that_pass_2: "softmax", ["passed"], 2 of 3;
    softmax_kernels_that_pass_3: "softmax", ["passed"], 3 of 3;
    gdn_decode_kernels_that_pass: "gdn_decode", ["passed"], 1 of 1;
    gdn_decode_kernels_with_wrong_output: "gdn_decode", ["wrong_output"], 1 of 1;
    rmsnorm_kernels_that_pass: "rmsnorm", ["passed"], 1 of 1;
    softmax_kernels_that_crash: "softmax", ["crashed", "sync_error", "misaligned", "timed_out", "limit_exceeded", "launch_error"], 1 of 1;
    softmax_kernels_with_hidden_faults: "softmax", ["race", "undefined_behavior", "uninitialized_read"], 1 of 1;
    softmax_kernels_with_wrong_output: "softmax", ["wrong_output", "output_unwritten"], 1 of 1;
    softmax_kernels_with_memory_faults: "softmax", ["out_of_bounds", "stateful", "input_mutated"], 1 of 1;
    softmax_kernels_that_are_refused: "softmax", ["compile_error", "rejected", "unsupported"], 1 of 1;
    rmsnorm_kernels_with_faults: "rmsnorm", ["output_unwritten", "race", "wrong_output"], 1 of 1;
}

#[test]
fn printed_text_is_part_of_the_evidence() {
    let file = fixture("kernels/wrong_output_printed.cu");
    let verdicts = eval("softmax", &[file.display().to_string()]);
    let log = verdicts[0]["evidence"]["log"].as_str().unwrap_or_default();
    assert!(log.starts_with("the sum of row 0 has "), "{verdicts:#?}");
}

#[test]
fn wrong_result_on_other_inputs_is_not_blamed_on_the_schedule() {
    // With this seed the kernel is right on the inputs of the check, and wrong on those of the inspection.
    let file = fixture("kernels/cheat_skips_zeros.cu")
        .display()
        .to_string();
    let output = kforge([
        "eval",
        "softmax",
        &file,
        "--format",
        "json",
        "--profile",
        "quick",
    ])
    .args(COARSE)
    .args(["--seed", "5691231758778028411"])
    .output()
    .unwrap();
    let verdicts: Vec<Value> = json(&output);
    let reason = verdicts[0]["reason"].as_str().unwrap_or_default();
    assert_eq!(verdicts[0]["status"], "wrong_output", "{reason}");
}

#[test]
fn every_fixture_is_in_one_group() {
    for (task, rows) in read_table(&fixture("kernels")) {
        for row in rows {
            let groups = GROUPS
                .iter()
                .filter(|(of, statuses, _)| *of == task && statuses.contains(&row.status.as_str()));
            let parts: Vec<_> = groups.map(|(.., parts)| *parts).collect();
            // As many tests as the group has parts.
            assert!(parts.first() == Some(&parts.len()), "{task}: {row:?}");
        }
    }
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
    let page = std::fs::read_to_string(root().join("docs/trust.md")).unwrap();
    for file in listed.iter().filter(|file| file.starts_with("known_")) {
        assert!(
            page.contains(&format!("`{file}`")),
            "{file} is not on the page of what the judge cannot see"
        );
    }
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            name == "expected.tsv" || listed.contains(&name.as_str()),
            "{name} is not in the table"
        );
    }
}
