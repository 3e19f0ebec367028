//! Runs with models, from outside: real journals, and real requests to a server in the test process. A scripted judge is used where
//! only the driver matters, and the program itself where its judge or its output matters.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::Path;

mod budget;
mod edits;
mod faults;
mod keys;
mod kills;
mod mailbox;
pub(crate) mod model;
mod near_copies;
pub(crate) mod program;
mod replay;
pub(crate) mod run_log;
pub(crate) mod scenario;
mod servers;
mod settings;

/// Not a test: the process that the tests kill. Starts or resumes the run that its environment describes.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn asking_process() {
    let directory = std::env::var(scenario::DIRECTORY).unwrap();
    let text = std::env::var(scenario::SCENARIO).unwrap();
    let scenario: scenario::Scenario = serde_json::from_str(&text).unwrap();
    scenario.run(Path::new(&directory)).unwrap();
}
