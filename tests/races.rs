//! Every barrier of every honest kernel, taken away in turn: what then races is named, with lines on both sides of where it was.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Barriers that can go without changing any result: file, line, why.
const REDUNDANT: &[(&str, u32, &str)] = &[
    ("honest_templates.cu", 42, OWN_MEMORY),
    ("honest_when.cu", 22, OWN_MEMORY),
    ("honest_partial_specialisation.cu", 65, OWN_MEMORY),
    (
        "honest_intrinsics.cu",
        27,
        "the end of a loop that only shuffles",
    ),
    (
        "honest_partial_specialisation.cu",
        65,
        "each instantiation has shared memory of its own",
    ),
    (
        "honest_flags.cu",
        31,
        "each lane has waited for the flag itself",
    ),
    (
        "honest_work_queue.cu",
        37,
        "the next turn begins with a barrier before it writes",
    ),
    (
        "streaming.cu",
        106,
        "it keeps loads above it, and guards no memory",
    ),
];
const OWN_MEMORY: &str = "each instantiation has shared memory of its own";

/// Where both sides are atomic: what goes wrong is no data race, and is told by another name.
const ATOMIC_ON_BOTH_SIDES: &[(&str, u32, &str)] = &[
    ("honest_scoped_atomics.cu", 25, "uninitialized_read"),
    ("honest_scoped_atomics.cu", 30, "wrong_output"),
];

/// Barriers between atomic operations: without them the result is wrong, and nothing races.
const WRONG_OUTPUT: (&str, u32) = ("honest_scoped_atomics.cu", 30);

/// At the top of a loop, where what it keeps apart lies behind it: the last turn's reads and this one's writes.
const LOOP_TOP_BARRIERS: &[(&str, u32)] = &[("tiles.cu", 48), ("recurrent.cu", 62)];

/// Where the race that is told is a consequence: the barrier's own two sides are a flag that all may touch.
const FLAG_BARRIER: (&str, u32) = ("honest_flags.cu", 16);

struct Removal {
    file: String,
    /// Of the barrier that is gone.
    line: u32,
    text: String,
}

/// The source once for each of its barriers, without it. Lines stay where they are.
fn remove_each_barrier(file: &str, text: &str) -> Vec<Removal> {
    let body = text.find("*/").unwrap_or(0);
    let mut found = Vec::new();
    for call in ["__syncthreads();", "__syncwarp();", ".sync();"] {
        for (start, _) in text.match_indices(call).filter(|(start, _)| *start > body) {
            let name = if call == ".sync();" {
                text[..start]
                    .rfind(|letter: char| !letter.is_alphanumeric() && letter != '_')
                    .map_or(0, |end| end + 1)
            } else {
                start
            };
            found.push(Removal {
                file: file.to_owned(),
                line: text[..start].matches('\n').count() as u32 + 1,
                text: format!("{};{}", &text[..name], &text[start + call.len()..]),
            });
        }
    }
    found
}

/// Honest fixtures and shipped kernels, by task.
fn honest_kernels_without_barriers(root: &Path) -> BTreeMap<String, Vec<Removal>> {
    let mut tasks = BTreeMap::<_, Vec<_>>::new();
    let mut add = |task: &str, path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        // What is written in PTX does not run on a CPU.
        if text.contains("asm volatile(") {
            return;
        }
        tasks
            .entry(task.to_owned())
            .or_default()
            .extend(remove_each_barrier(&name, &text));
    };
    let fixtures = root.join("tests/fixtures/kernels");
    let table = std::fs::read_to_string(fixtures.join("expected.tsv")).unwrap();
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        if let [file, task, "passed", ..] = row.split('\t').collect::<Vec<_>>()[..] {
            add(task, &fixtures.join(file));
        }
    }
    for task in std::fs::read_dir(root.join("kernels")).unwrap().flatten() {
        for kernel in std::fs::read_dir(task.path()).unwrap().flatten() {
            if kernel
                .path()
                .extension()
                .is_some_and(|extension| extension == "cu")
            {
                add(&task.file_name().to_string_lossy(), &kernel.path());
            }
        }
    }
    tasks
}

fn eval(task: &str, files: &[String]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_kforge"))
        .args(["eval", task, "--format", "json", "--profile", "quick"])
        .args(files)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{task}: {error}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

#[test]
fn removing_a_needed_barrier_is_detected() {
    if Command::new("g++").arg("--version").output().is_err() {
        println!("skipped: the race build needs g++");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut races, mut wrong) = (0, Vec::new());
    for (task, removals) in honest_kernels_without_barriers(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        let files: Vec<_> = removals
            .iter()
            .map(|removal| {
                let path = folder
                    .path()
                    .join(format!("{}-{}-{}", task, removal.line, removal.file));
                std::fs::write(&path, &removal.text).unwrap();
                path.display().to_string()
            })
            .collect();
        if files.is_empty() {
            continue;
        }
        for (removal, verdict) in removals.iter().zip(eval(&task, &files)) {
            let redundant = (REDUNDANT.iter())
                .any(|(file, line, _)| *file == removal.file && *line == removal.line);
            let status = verdict["status"].as_str().unwrap_or_default();
            let evidence = &verdict["evidence"];
            let lines = [&evidence["line"], &evidence["other"]["line"]].map(Value::as_u64);
            // A store of what a call returns is not announced; a schedule that makes it matter still tells.
            let place = (removal.file.as_str(), removal.line);
            let unseen = place == ("honest_barrier.cu", 66);
            let known = (removal.file.as_str(), removal.line, status);
            let right = match (redundant, status) {
                _ if ATOMIC_ON_BOTH_SIDES.contains(&known) => true,
                _ if unseen && status == "nondeterministic" => true,
                // Right, but a busy machine let no time be measured.
                (true, status) => matches!(status, "passed" | "inconclusive"),
                // One side is before the barrier, the other behind it; in a loop both may be before it.
                (false, "race") => {
                    let told = lines.iter().flatten();
                    let before = told
                        .filter(|line| **line <= u64::from(removal.line))
                        .count();
                    lines.iter().all(Option::is_some)
                        && (before > 0
                            || place == FLAG_BARRIER
                            || LOOP_TOP_BARRIERS.contains(&place))
                }
                // What the other side has not written yet was seen before any of it raced.
                (false, "uninitialized_read") => {
                    lines[0].is_some_and(|line| line > u64::from(removal.line))
                }
                (false, "wrong_output") => place == WRONG_OUTPUT,
                _ => false,
            };
            races += usize::from(status == "race");
            if !right {
                wrong.push(format!(
                    "{} without line {}: {status}, lines {lines:?}, {}",
                    removal.file, removal.line, verdict["reason"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(races >= 20, "{races} races");
}

#[test]
fn same_seed_finds_the_same_fault() {
    if Command::new("g++").arg("--version").output().is_err() {
        println!("skipped: the race build needs g++");
        return;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kernels");
    for (task, file) in [
        ("softmax", "race_counter.cu"),
        ("rmsnorm", "race_tree_barrier.cu"),
        ("softmax", "uninitialized_scratch.cu"),
        ("softmax", "undefined_division.cu"),
    ] {
        let file = fixtures.join(file).display().to_string();
        let again = |seed: &str| {
            let verdict = &eval(task, &["--seed".to_owned(), seed.to_owned(), file.clone()])[0];
            (
                verdict["status"].clone(),
                verdict["reason"].clone(),
                verdict["evidence"].clone(),
            )
        };
        for seed in ["1", "20211"] {
            let first = again(seed);
            assert_eq!(first, again(seed), "{file}");
            assert_ne!(first.0, "passed", "{file}");
        }
    }
}
