//! Properties that must hold for every text that kforge reads: one check for each kind of text.
//!
//! The fuzzer calls the checks with generated inputs, and `tests/suite/seeds.rs` with the inputs in `seeds/`. A check that panics has found
//! a fault of kforge.

mod definition;
mod expression;
mod header;
mod journal;
mod mutate;
mod reply;
mod source;
mod syntax;
mod workload;
mod yaml;

use std::borrow::Cow;
use std::sync::OnceLock;

use kforge::task::{Task, TaskFiles, embedded_names};

pub use definition::definition;
pub use expression::expression;
pub use header::header;
pub use journal::journal;
pub use mutate::mutate;
pub use reply::reply;
pub use source::source;
pub use syntax::syntax;
pub use workload::workload;
pub use yaml::yaml;

/// Checks one input.
pub type Check = fn(&[u8]);

/// All checks, by the names of their targets.
pub const CHECKS: [(&str, Check); 10] = [
    ("header", header),
    ("expression", expression),
    ("yaml", yaml),
    ("definition", definition),
    ("workload", workload),
    ("source", source),
    ("syntax", syntax),
    ("mutate", mutate),
    ("journal", journal),
    ("reply", reply),
];

/// The input as text. Parsers get UTF-8 only, so invalid bytes are replaced first.
fn lossy_text(input: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// The tasks that come with kforge.
fn tasks() -> &'static [Task] {
    static TASKS: OnceLock<Vec<Task>> = OnceLock::new();
    TASKS.get_or_init(|| {
        let load = |name: &&str| TaskFiles::find(name).and_then(|files| files.load());
        let tasks = embedded_names().iter().map(load).collect::<Result<_, _>>();
        tasks.expect("the shipped tasks load")
    })
}

/// A number that depends on the input only (FNV-1a), for choices that the input does not make itself.
fn hash(input: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    input.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Asserts that the text has this line, so that a user can find it in an editor. The end of a text is in its last line.
fn assert_line(line: u32, text: &str, what: &dyn std::fmt::Display) {
    let lines = text.split('\n').count();
    assert!(
        (1..=lines).contains(&(line as usize)),
        "line {line} of {lines}: {what}"
    );
}

/// Asserts that a message starts with the file, and that a line number after it is one of the file's lines.
fn assert_location(message: &str, origin: &str, text: &str) {
    let rest = message
        .strip_prefix(origin)
        .and_then(|rest| rest.strip_prefix(':'));
    let rest =
        rest.unwrap_or_else(|| panic!("the message does not start with `{origin}`: {message}"));
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    if !number.is_empty() {
        assert_line(number.parse().expect("a line"), text, &message);
    }
}

/// As `assert_location`, for a message that may list several problems, each on a line of its own.
fn assert_locations(message: &str, origin: &str, text: &str) {
    if !message.contains(" problems in task `") {
        return assert_location(message, origin, text);
    }
    let listed = message.lines().filter_map(|line| line.strip_prefix("  "));
    let start = format!("{origin}:");
    let problems: Vec<_> = listed.filter(|line| line.starts_with(&start)).collect();
    assert!(problems.len() > 1, "fewer than two problems: {message}");
    for problem in problems {
        assert_location(problem, origin, text);
    }
}
