//! Damaged numbers in a journal: an error that names the line, or a run that resumes; never a panic, and never much memory.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kforge::base::Failure;

use super::resume::folder_in_memory;
use super::run;
use super::scripted::{judges, options};

const STEPS: u64 = 6;

/// What a number may have become.
const DAMAGED: [&str; 8] = [
    "18446744073709551615",
    "9223372036854775807",
    "1000000000000000000",
    "4294967295",
    "-1",
    "0",
    "1e999",
    "1e300",
];

/// One of this many damages is resumed from. All if the environment variable `KFORGE_TEST_ALL` is set. No divisor of the number of
/// damaged values, so that each of them occurs.
const SAMPLE: usize = 9;

/// Environment variable of the process that resumes damaged runs: the folder.
const FOLDER: &str = "KFORGE_TEST_DAMAGE";

/// The most address space of that process, in kB.
const MAX_KILOBYTES: u64 = 500_000;

/// The numbers of a line outside strings: where each starts and ends.
fn numbers(line: &str) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    let (mut is_string, mut is_escaped) = (false, false);
    for (at, letter) in line.char_indices() {
        if is_string {
            match letter {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => is_string = false,
                _ => {}
            }
        } else if letter == '"' {
            is_string = true;
        } else if letter.is_ascii_digit()
            || "+-.eE".contains(letter)
                && line[..at].ends_with(|c: char| c.is_ascii_digit() || "eE".contains(c))
        {
            match found.last_mut() {
                Some(last) if last.end == at => last.end = at + 1,
                _ => found.push(at..at + 1),
            }
        }
    }
    found
}

/// The event of a line and the text before a number, without values: the same for the same key of the same event.
fn key_of(line: &str, at: usize) -> String {
    let (_, event) = line.split_once("\"event\":\"").unwrap();
    let event = event.split('"').next().unwrap();
    let path: String = line[..at]
        .chars()
        .filter(|letter| !letter.is_ascii_digit())
        .collect();
    let start = path.len().saturating_sub(40);
    format!("{event} {}", path.chars().skip(start).collect::<String>())
}

/// The journals of a run.
const JOURNALS: [&str; 2] = ["events.jsonl", "softmax/events.jsonl"];

/// One number of one line of a journal, replaced.
struct Damage {
    journal: &'static str,
    /// From 1.
    number: usize,
    line: String,
    /// The whole journal.
    text: String,
}

/// Every kind of number of a journal, replaced by every damaged one.
fn damages(journal: &'static str, text: &str) -> Vec<Damage> {
    let mut seen = HashSet::new();
    let mut damages = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for range in numbers(line) {
            if !seen.insert(key_of(line, range.start)) {
                continue;
            }
            damages.extend(DAMAGED.map(|damaged| {
                let damaged = format!("{}{damaged}{}", &line[..range.start], &line[range.end..]);
                let mut lines: Vec<&str> = text.lines().collect();
                lines[index] = &damaged;
                Damage {
                    journal,
                    number: index + 1,
                    text: lines.join("\n") + "\n",
                    line: damaged,
                }
            }));
        }
    }
    damages
}

/// Not a test: the process with little memory that resumes every damaged run. Writes the line to the file `at` before each.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn damage_process() {
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let judges = judges(Duration::ZERO);
    let directory = folder.join("run");
    run(options(&directory, &["softmax"], STEPS), &judges).unwrap();
    let texts = JOURNALS.map(|name| {
        let text = std::fs::read_to_string(directory.join(name)).unwrap();
        (name, text)
    });
    let all: Vec<_> = texts
        .iter()
        .flat_map(|(name, text)| damages(name, text))
        .collect();
    assert!(all.len() > 300, "{} damages", all.len());
    let every = match std::env::var_os("KFORGE_TEST_ALL") {
        Some(_) => 1,
        None => SAMPLE,
    };
    for damage in all.iter().step_by(every) {
        for (name, text) in &texts {
            std::fs::write(directory.join(name), text).unwrap();
        }
        std::fs::write(directory.join(damage.journal), &damage.text).unwrap();
        std::fs::write(folder.join("at"), &damage.line).unwrap();
        let started = Instant::now();
        let resumed = run(options(&directory, &["softmax"], STEPS), &judges);
        assert!(started.elapsed() < Duration::from_secs(60), "slow");
        let Err(error) = resumed else { continue };
        let Some(failure) = error.downcast_ref::<Failure>() else {
            panic!("{error:?}");
        };
        let place = format!("{}:{}: ", damage.journal, damage.number);
        assert!(
            failure.message.contains(&place) && failure.hint.is_some(),
            "{failure:?}"
        );
    }
}

#[test]
fn damaged_number_ends_in_an_error_without_much_memory() {
    let root = folder_in_memory();
    let script =
        format!("ulimit -v {MAX_KILOBYTES}; exec \"$0\" --ignored --exact damage::damage_process");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, root.path())
        // Otherwise the allocator reserves 64 MB of address space for each thread.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let at = std::fs::read_to_string(root.path().join("at")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}{}\nat: {at}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
