//! Removes each barrier of every correct kernel in turn, and checks that the race build reports what goes wrong.

use crate::harness::{Missing, TestResult};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{json, kforge, root};

/// Barriers that are not needed: file, line, reason.
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
        "honest_flags.cu",
        31,
        "each lane has waited for the flag itself",
    ),
    (
        "honest_work_queue.cu",
        37,
        "the next iteration starts with a barrier before it writes",
    ),
    (
        "streaming.cu",
        106,
        "it orders loads only and protects no memory",
    ),
];
const OWN_MEMORY: &str = "each instantiation has its own shared memory";

/// Barriers between atomic operations. Without them there is no data race, but another status.
const ATOMIC_ON_BOTH_SIDES: &[(&str, u32, &str)] = &[
    ("honest_scoped_atomics.cu", 25, "uninitialized_read"),
    ("honest_scoped_atomics.cu", 30, "wrong_output"),
];

/// A barrier that guards a store of a call's return value. The compiler does not instrument that store, so the missing barrier
/// may show as a different result under some schedule.
const UNINSTRUMENTED_STORE: (&str, u32) = ("honest_barrier.cu", 66);

/// Barriers at the top of a loop, which separate the reads of one iteration from the writes of the next: both are after it.
const LOOP_TOP_BARRIERS: &[(&str, u32)] = &[("tiles.cu", 48), ("recurrent.cu", 62)];

/// A barrier whose removal causes a race elsewhere: both of its own sides access a flag, which is allowed.
const FLAG_BARRIER: (&str, u32) = ("honest_flags.cu", 16);

/// A kernel without one of its barriers.
struct Removal {
    file: String,
    /// The line of the removed barrier.
    line: u32,
    text: String,
}

/// One copy of the source for each of its barriers, without that barrier. Line numbers do not change.
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

/// All correct fixtures and shipped kernels without one barrier each, by task.
fn honest_kernels_without_barriers(root: &Path) -> BTreeMap<String, Vec<Removal>> {
    let mut tasks = BTreeMap::<_, Vec<_>>::new();
    let mut add = |task: &str, path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        // A CPU cannot run inline PTX.
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
        if let [file, task, "passed", ..] = row.split('\t').collect::<Vec<_>>()[..]
            && !file.starts_with("known_")
        {
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

/// Timing that a busy machine can finish: a wide interval will do.
const COARSE: [&str; 4] = ["--precision", "0.5", "--seconds", "3"];

/// Judges kernels with lock files of their own: other tests need not wait, and a wide interval needs no quiet machine. `task`: a name or a
/// folder.
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

/// A copy of a shipped task without regimes, below `folder`. A missing barrier shows in the inspection, which draws no regime.
fn task_without_regimes(task: &str, folder: &Path) -> String {
    let copy = folder.join("tasks").join(task);
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(root().join("tasks").join(task))
        .unwrap()
        .flatten()
    {
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == "task.yaml" {
            let (start, rest) = text.split_once("\nregimes:\n").unwrap();
            let (_, end) = rest.split_once("\nhidden:\n").unwrap();
            text = format!("{start}\nregimes: {{}}\nhidden:\n{end}");
        }
        std::fs::write(copy.join(entry.file_name()), text).unwrap();
    }
    copy.display().to_string()
}

impl Removal {
    fn is_at(&self, (file, line): (&str, u32)) -> bool {
        self.file == file && self.line == line
    }

    /// Whether a verdict reports the missing barrier as it should.
    fn is_reported_by(&self, verdict: &Value) -> bool {
        let status = verdict["status"].as_str().unwrap_or_default();
        let is_redundant = (REDUNDANT.iter()).any(|(file, line, _)| self.is_at((file, *line)));
        if is_redundant {
            // Inconclusive: correct, but the machine was too busy to measure a time.
            return matches!(status, "passed" | "inconclusive");
        }
        let is_known = (ATOMIC_ON_BOTH_SIDES.iter())
            .any(|(file, line, known)| self.is_at((file, *line)) && *known == status);
        if is_known || (self.is_at(UNINSTRUMENTED_STORE) && status == "nondeterministic") {
            return true;
        }
        let lines = fault_lines(verdict);
        match status {
            // One access is before the barrier, the other after it. In a loop both may be before it.
            "race" => {
                let both = lines.iter().flatten().count() == 2;
                let is_before = |line: &&u64| **line <= u64::from(self.line);
                let is_exempt = self.is_at(FLAG_BARRIER)
                    || LOOP_TOP_BARRIERS.iter().any(|place| self.is_at(*place));
                both && (is_exempt || lines.iter().flatten().any(|line| is_before(&line)))
            }
            // A read after the barrier came before the write, before any two accesses raced.
            "uninitialized_read" => lines[0].is_some_and(|line| line > u64::from(self.line)),
            _ => false,
        }
    }
}

/// The lines of both accesses.
fn fault_lines(verdict: &Value) -> [Option<u64>; 2] {
    let evidence = &verdict["evidence"];
    [&evidence["line"], &evidence["other"]["line"]].map(Value::as_u64)
}

fn needed_barriers_of_softmax_kernels_1() -> TestResult {
    check_removals("softmax", |task, index| task == "softmax" && index % 2 == 0)
}

fn needed_barriers_of_softmax_kernels_2() -> TestResult {
    check_removals("softmax", |task, index| task == "softmax" && index % 2 == 1)
}

fn needed_barriers_of_other_kernels() -> TestResult {
    check_removals("another task", |task, _| task != "softmax")
}

/// Removes the chosen barriers of correct kernels: `is_chosen` gets the task and the number of the barrier in it. At least half of them must
/// be reported as races.
fn check_removals(what: &str, is_chosen: impl Fn(&str, usize) -> bool) -> TestResult {
    if Command::new("g++").arg("--version").output().is_err() {
        return Err(Missing::new("g++", "the race build needs g++"));
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut races, mut judged, mut wrong) = (0, 0, Vec::new());
    for (task, mut removals) in honest_kernels_without_barriers(root()) {
        let mut index = 0..;
        removals.retain(|_| is_chosen(&task, index.next().unwrap()));
        let write = |removal: &Removal| {
            let name = format!("{task}-{}-{}", removal.line, removal.file);
            let path = folder.path().join(name);
            std::fs::write(&path, &removal.text).unwrap();
            path.display().to_string()
        };
        let files: Vec<_> = removals.iter().map(write).collect();
        if files.is_empty() {
            continue;
        }
        let own_task = task_without_regimes(&task, folder.path());
        for (removal, verdict) in removals.iter().zip(eval(&own_task, &files)) {
            judged += 1;
            races += usize::from(verdict["status"] == "race");
            if !removal.is_reported_by(&verdict) {
                wrong.push(format!(
                    "{} without line {}: {}, lines {:?}, {}",
                    removal.file,
                    removal.line,
                    verdict["status"],
                    fault_lines(&verdict),
                    verdict["reason"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        judged >= 20 && 2 * races >= judged,
        "{races} races of {judged} kernels of {what}"
    );
    Ok(())
}

fn same_seed_finds_the_same_fault() -> TestResult {
    if Command::new("g++").arg("--version").output().is_err() {
        return Err(Missing::new("g++", "the race build needs g++"));
    }
    let fixtures = root().join("tests/fixtures/kernels");
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
    Ok(())
}

crate::harness::tests!(
    needed_barriers_of_softmax_kernels_1,
    needed_barriers_of_softmax_kernels_2,
    needed_barriers_of_other_kernels,
    same_seed_finds_the_same_fault,
);
