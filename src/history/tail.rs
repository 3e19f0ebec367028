//! A journal that another process writes, read bit by bit.
//!
//! The disk may be a network disk, which shows a reader old lengths and times, an older copy of a file for a while, or zeros in place of
//! bytes that are still under way. So a look asks for bytes alone: for the last that were read, by which it knows the file, and for those
//! behind them. What a look finds wrong counts only if the next looks find it too. Nothing is locked, and no notice of a change is needed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::run::{Journal, JournalPosition, LineHead, ParseLine};

/// How many looks in a row must find the same thing wrong.
pub(super) const MAX_LOOKS: u32 = 3;

/// The most bytes by which a file is known.
const MAX_MARK_BYTES: u64 = 4096;

/// A journal that is read bit by bit.
#[derive(Default)]
pub(super) struct JournalTail {
    position: JournalPosition,
    /// The last bytes before the position.
    mark: Vec<u8>,
    /// For how many looks the file has not had these bytes there.
    unknown_looks: u32,
    damage: Option<Damage>,
}

/// What could not be read behind the position.
struct Damage {
    text: String,
    /// How many looks have found it.
    looks: u32,
}

/// What a look at a journal has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    None,
    New,
    /// It is another file than the one that was read: everything must be read again.
    Replaced,
}

impl JournalTail {
    /// Passes each new line to `visit`. A journal that does not exist, or cannot be opened now, has none.
    pub(super) fn read<L: ParseLine>(
        &mut self,
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L),
    ) -> Growth {
        let Ok(file) = File::open(path) else {
            return Growth::None;
        };
        match self.knows(&file) {
            Ok(true) => self.unknown_looks = 0,
            Ok(false) => {
                self.unknown_looks += 1;
                return if self.unknown_looks < MAX_LOOKS {
                    Growth::None
                } else {
                    Growth::Replaced
                };
            }
            Err(_) => return Growth::None,
        }
        let before = self.position;
        let read = Journal::read_new(path, &file, &mut self.position, |head, line: L| {
            visit(head, line);
            Ok(())
        });
        let last = self.damage.take();
        self.damage = read
            .err()
            .map(|error| Damage::new(format!("{error:#}"), last));
        if self.position == before {
            return Growth::None;
        }
        self.mark = mark(&file, self.position).unwrap_or_default();
        Growth::New
    }

    /// Whether the file still has what was read.
    fn knows(&self, file: &File) -> std::io::Result<bool> {
        match mark(file, self.position) {
            // Without a mark, which could not be read behind the last lines, its length must do.
            Ok(found) => Ok(self.mark.is_empty() || found == self.mark),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many lines were read.
    pub(super) fn lines(&self) -> u64 {
        self.position.lines()
    }

    /// What cannot be read, with its file and line. `is_last`: there will be no other look.
    pub(super) fn damage(&self, is_last: bool) -> Option<&str> {
        let damage = self.damage.as_ref()?;
        (is_last || damage.looks >= MAX_LOOKS).then_some(&damage.text)
    }
}

impl Damage {
    fn new(text: String, last: Option<Self>) -> Self {
        let looks = match last {
            Some(last) if last.text == text => last.looks + 1,
            _ => 1,
        };
        Self { text, looks }
    }
}

/// The last bytes before a position.
fn mark(file: &File, position: JournalPosition) -> std::io::Result<Vec<u8>> {
    let length = position.bytes().min(MAX_MARK_BYTES);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, position.bytes() - length)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Failed, FailedReason};
    use crate::history::line::HistoryLine;

    /// The bytes of a journal of some steps.
    fn journal(steps: u64, detail: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut journal = Journal::open(&path, |_, _: Event| Ok(())).unwrap();
        for step in 1..=steps {
            let failed = Failed::new(step, FailedReason::NoOp, detail.to_owned());
            journal.append(&Event::Failed(failed)).unwrap();
        }
        journal.sync().unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn what_is_wrong_for_a_moment_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let (whole, other) = (journal(5, "a"), journal(9, "another"));
        let mut tail = JournalTail::default();
        let mut lines = Vec::new();
        let mut look = |tail: &mut JournalTail, bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            tail.read(&path, |head, _: HistoryLine| lines.push(head.seq))
        };
        assert_eq!(look(&mut tail, &whole[..whole.len() / 2]), Growth::New);
        // Shorter for two looks, damaged for two, then as it was and longer.
        for bytes in [&whole[..10], b""] {
            assert_eq!(look(&mut tail, bytes), Growth::None);
        }
        let mut damaged = whole.clone();
        let start = whole[..whole.len() / 2]
            .iter()
            .rposition(|byte| *byte == b'\n');
        damaged[start.unwrap() + 20..whole.len() - 200].fill(0);
        for _ in 0..2 {
            look(&mut tail, &damaged);
            assert_eq!(tail.damage(false), None);
        }
        assert!(tail.damage(true).is_some());
        assert_eq!(look(&mut tail, &whole), Growth::New);
        assert_eq!(tail.damage(true), None);
        // Damage that stays is reported, and another journal is known as such although it is longer.
        let mut longer = whole.clone();
        longer.extend(b"{\"schema\":1,\"seq\":\"?\"}\n{}\n");
        for shown in [false, false, true] {
            assert_eq!(look(&mut tail, &longer), Growth::None);
            assert_eq!(tail.damage(false).is_some(), shown);
        }
        let growths = [0; 3].map(|_| look(&mut tail, &other));
        assert_eq!(growths, [Growth::None, Growth::None, Growth::Replaced]);
        assert_eq!((lines, tail.lines()), ((1..=5).collect(), 5));
    }
}
