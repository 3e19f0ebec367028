//! `lessons.md`: what it says is confirmed, and what a person has written stays.

use std::collections::BTreeMap;
use std::time::Duration;

use kforge::event::{Event, Operator};

use crate::driver::scripted::{judges, options};
use crate::driver::{events, run};

#[test]
fn lessons_name_confirmed_kernels_only_and_an_edited_file_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let path = directory.join("softmax/lessons.md");
    let judges = judges(Duration::ZERO);
    let search = |steps| run(options(&directory, &["softmax"], steps), &judges).unwrap();
    search(60);
    let text = std::fs::read_to_string(&path).unwrap();
    let journal = events(&directory, "softmax");
    let mut starts = Vec::new();
    let mut confirmed = BTreeMap::new();
    let mut details = BTreeMap::new();
    for event in &journal {
        match event {
            Event::Asked(brief) if brief.operator == Operator::Start => starts.push(brief.step),
            Event::Confirmed(one) => {
                confirmed.insert(one.step, one.verdict.speedup);
            }
            Event::Proposed(proposed) => {
                details.insert(proposed.step, proposed.detail.clone());
            }
            _ => {}
        }
    }
    confirmed.retain(|step, speedup| {
        !starts.contains(step) && speedup.is_some_and(|speedup| speedup.ci95[0] > 1.0)
    });
    assert!(!confirmed.is_empty());
    let headings: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("## "))
        .collect();
    assert_eq!(headings.len(), confirmed.len(), "{text}");
    for (step, speedup) in &confirmed {
        let figure = format!("## {:.2}x [", speedup.unwrap().geomean);
        let step_text = format!("(step {step})");
        let heading = headings.iter().find(|line| line.ends_with(&step_text));
        assert!(heading.unwrap().starts_with(&figure), "{text}");
        assert!(text.contains(&details[step]), "{text}");
    }
    // No figure of the search is in it.
    assert!(!text.contains('~'), "{text}");

    // kforge replaces its own text.
    search(90);
    assert!(path.exists());
    let mut edited = std::fs::read_to_string(&path).unwrap();
    edited.insert_str(0, "Blocks of 96 threads never helped.\n");
    std::fs::write(&path, &edited).unwrap();
    search(120);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), edited);
    // A resume that does nothing does not bring a deleted file back.
    std::fs::remove_file(&path).unwrap();
    search(120);
    assert!(!path.exists());
}
