//! Where and how a run was made, and the commands that reproduce it.
//!
//! Pure, from the record of the run.

use std::path::Path;

use serde::Serialize;

use super::answer::device_text;
use super::figures;
use crate::base::text::shell_quote;
use crate::history::RunHistory;
use crate::report::{Continuation, pluralize};

/// A command and what it does.
#[derive(Debug, Serialize)]
pub(super) struct Command {
    pub(super) command: String,
    pub(super) purpose: String,
}

/// The environment of a run, as rows of names and values.
pub(super) fn facts(run: &RunHistory) -> Vec<(&'static str, String)> {
    let record = &run.record;
    let mut facts = vec![
        ("device", device_text(&record.device)),
        ("backend", record.backend.clone()),
        ("host", record.host.clone()),
        ("kforge", record.kforge.clone()),
        ("seed", record.seed.to_string()),
        ("window", pluralize(record.window, "step")),
    ];
    facts.extend(
        record
            .device
            .driver
            .clone()
            .map(|driver| ("driver", driver)),
    );
    facts.extend(record.prompts.clone().map(|version| ("prompts", version)));
    for (name, task) in &record.tasks {
        facts.push((
            "task",
            format!("{name}: folder {}, oracle {}", task.folder, task.oracle),
        ));
    }
    for (number, session) in (1..).zip(&run.sessions) {
        facts.push((
            "session",
            format!(
                "{number}: kforge {} on {}, {} judged at a time",
                session.kforge, session.host, session.in_flight
            ),
        ));
    }
    let seconds = run.tasks.iter().map(|task| task.seconds).sum();
    facts.push(("time of work", figures::duration(seconds)));
    facts.push(("started", run.started.clone()));
    facts.push(("last event", run.last_event.clone()));
    facts
}

/// The commands that judge the result again, make the run again, and continue it.
pub(super) fn commands(run: &RunHistory) -> Vec<Command> {
    let directory = run.directory.as_path();
    let mut commands = Vec::new();
    for task in &run.tasks {
        let Some(step) = task.leading_step() else {
            continue;
        };
        let kernel = match task.best() {
            Some(_) => task.folder.best_source(),
            None => task.folder.source(step),
        };
        commands.push(Command {
            command: format!("kforge eval {} {}", quote(&task.name), shell_quote(&kernel)),
            purpose: "judge the kernel again".to_owned(),
        });
    }
    let names: Vec<_> = run.record.tasks.keys().map(|name| quote(name)).collect();
    let has_config = "the settings that differ from the defaults are below";
    commands.push(Command {
        command: format!(
            "kforge evolve {} --seed {} --backend {}",
            names.join(" "),
            run.record.seed,
            run.record.backend
        ),
        purpose: format!("search again with the same seed; {has_config}"),
    });
    commands.push(Command {
        command: Continuation::default().command(directory),
        purpose: "continue the run".to_owned(),
    });
    commands
}

fn quote(name: &str) -> String {
    shell_quote(Path::new(name))
}
