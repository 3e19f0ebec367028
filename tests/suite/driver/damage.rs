//! Damaged numbers in a journal: an error that names the line, or a run that resumes; never a panic, and never much memory.

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

/// Not a test: the process with little memory that resumes every damaged run. Writes the damage to the file `at` before each.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn damage_process() {
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let judges = judges(Duration::ZERO);
    let whole = folder.join("whole");
    run(options(&whole, &["softmax"], STEPS), &judges).unwrap();
    let journals = ["events.jsonl", "softmax/events.jsonl"];
    let texts = journals.map(|name| std::fs::read_to_string(whole.join(name)).unwrap());
    let mut seen = std::collections::HashSet::new();
    let mut damages = 0;
    for (name, text) in journals.iter().zip(&texts) {
        for (index, line) in text.lines().enumerate() {
            for number in numbers(line) {
                if !seen.insert(key_of(line, number.start)) {
                    continue;
                }
                for damaged in DAMAGED {
                    damages += 1;
                    let mut lines: Vec<&str> = text.lines().collect();
                    let replaced =
                        format!("{}{damaged}{}", &line[..number.start], &line[number.end..]);
                    lines[index] = &replaced;
                    std::fs::write(folder.join("at"), &replaced).unwrap();
                    std::fs::write(whole.join(name), lines.join("\n") + "\n").unwrap();
                    let started = Instant::now();
                    let resumed = run(options(&whole, &["softmax"], STEPS), &judges);
                    assert!(
                        started.elapsed() < Duration::from_secs(10),
                        "slow: {replaced}"
                    );
                    if let Err(error) = resumed {
                        let failure = error.downcast_ref::<Failure>();
                        let failure = failure.unwrap_or_else(|| panic!("{error:?} for {replaced}"));
                        let place = format!("{name}:{}: ", index + 1);
                        assert!(
                            failure.message.contains(&place) && failure.hint.is_some(),
                            "{failure:?}"
                        );
                    }
                    for (name, text) in journals.iter().zip(&texts) {
                        std::fs::write(whole.join(name), text).unwrap();
                    }
                }
            }
        }
    }
    assert!(damages > 300, "{damages} damages");
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
