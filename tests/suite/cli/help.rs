//! Help texts: snapshots at 80 columns, examples and exit codes of every command.

use crate::program::{CommandResult, Workspace};

const COMMANDS: [&str; 31] = [
    "",
    "evolve",
    "tune",
    "resume",
    "watch",
    "eval",
    "report",
    "log",
    "runs",
    "compare",
    "baselines",
    "bench",
    "bench kernelbench",
    "promote",
    "export",
    "prompt",
    "tasks",
    "tasks list",
    "tasks show",
    "tasks check",
    "tasks import",
    "tasks import gpu-mode",
    "tasks import kernel-tuner",
    "tasks import kernelbench",
    "tasks import torch",
    "tasks new",
    "doctor",
    "init",
    "schema",
    "completions",
    "man",
];

fn help(command: &str) -> String {
    let mut arguments: Vec<_> = command.split_whitespace().collect();
    arguments.push("--help");
    let folder = Workspace::new();
    let mut command = folder.command(&arguments);
    let result = CommandResult::of(&command.env("COLUMNS", "80").output().unwrap());
    assert_eq!(result.code, 0, "{}", result.stderr);
    result.stdout
}

#[test]
fn help_matches_the_snapshots() {
    for command in COMMANDS {
        let name = format!("help {command}").trim().replace(' ', "_");
        insta::assert_snapshot!(name, help(command));
    }
}

#[test]
fn help_ends_with_examples_and_exit_codes() {
    for command in COMMANDS {
        let text = help(command);
        let (_, end) = text.split_once("\nExamples:\n").unwrap();
        let (examples, codes) = end.split_once("\nExit codes:\n").unwrap();
        let lines = examples
            .lines()
            .filter(|line| line.starts_with("  kforge "));
        assert!((2..=3).contains(&lines.count()), "{command}: {examples}");
        assert!(codes.contains("  0    "), "{command}: {codes}");
    }
}

#[test]
fn help_fits_into_80_columns() {
    for command in COMMANDS {
        for line in help(command).lines() {
            // Commands of examples stay on one line, so that they can be copied.
            let is_example = line.starts_with("  kforge ");
            assert!(
                line.chars().count() <= 80 || is_example,
                "{command}: {line}"
            );
        }
    }
}

#[test]
fn help_of_tune_has_no_flag_that_tuning_refuses() {
    assert!(help("evolve").contains("--no-model"));
    assert!(!help("tune").contains("--no-model"));
}
