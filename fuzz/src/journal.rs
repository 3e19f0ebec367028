//! Checks journals as a crash, a full disk or a person may leave them.

use std::path::Path;

use kforge::event::{Event, RunEvent};
use kforge::run::{Journal, JournalLine};

pub fn journal(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for journals");
    check_journal::<Event>(input, &folder.path().join("task"));
    check_journal::<RunEvent>(input, &folder.path().join("run"));
}

fn check_journal<L: JournalLine + Clone + PartialEq + std::fmt::Debug>(
    input: &[u8],
    folder: &Path,
) {
    std::fs::create_dir(folder).expect("a folder");
    let path = folder.join("events.jsonl");
    std::fs::write(&path, input).expect("a journal");
    let (events, mut journal) = match open::<L>(&path) {
        Ok(opened) => opened,
        Err(message) => {
            assert_eq!(
                std::fs::read(&path).expect("the journal exists"),
                input,
                "a refused journal was changed"
            );
            super::assert_location(
                &message,
                &path.display().to_string(),
                &String::from_utf8_lossy(input),
            );
            return;
        }
    };
    // Only the last line may be dropped, and a copy of it is kept.
    let remaining = std::fs::read(&path).expect("the journal exists");
    let torn = input
        .strip_prefix(remaining.as_slice())
        .expect("only the end may be dropped");
    assert!(
        !torn.contains(&b'\n') || torn.ends_with(b"\n") && !torn[..torn.len() - 1].contains(&b'\n')
    );
    let copy = folder.join(format!("events.jsonl.torn-{}", events.len() + 1));
    assert_eq!(copy.exists(), !torn.is_empty());
    if !torn.is_empty() {
        assert_eq!(std::fs::read(copy).expect("the copy"), torn);
    }
    assert_eq!(journal.is_empty(), events.is_empty());
    // The events that were read can be appended again.
    for event in &events {
        journal
            .append(event)
            .expect("an event that was read can be written");
    }
    journal.sync().expect("a journal on disk");
    drop(journal);
    let (again, _) = open::<L>(&path).expect("a journal that was appended to");
    assert_eq!(again.len(), 2 * events.len());
    assert_eq!(again[..events.len()], events[..]);
    assert_eq!(again[events.len()..], events[..], "an event changed");
}

fn open<L: JournalLine>(path: &Path) -> Result<(Vec<L>, Journal), String> {
    let mut events = Vec::new();
    let journal = Journal::open(path, |_, event: L| {
        events.push(event);
        Ok(())
    });
    journal
        .map(|journal| (events, journal))
        .map_err(|error| error.to_string())
}
