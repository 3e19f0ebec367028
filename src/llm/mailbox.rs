//! A person or another agent as a model: the prompt lies in the step's `ask-N` folder, and the reply is awaited beside it as
//! `response.md`.
//!
//! Best renamed into place. A file that is written where it lies is taken once it has rested, so that no half of it is.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{Attempt, Place, Provider, Reply, Request, Sending};
use crate::event::ReplyOutcome;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// How long a file has to be left alone before it is taken to be whole.
const REST: Duration = Duration::from_secs(1);

/// Replies come as files.
pub(super) struct Mailbox {
    waits: bool,
}

/// What lies there.
enum Found {
    Nothing,
    /// Somebody is writing it.
    Unrested,
    Whole(std::io::Result<Vec<u8>>),
}

impl Mailbox {
    pub(super) fn new(waits: bool) -> Self {
        Self { waits }
    }

    async fn ask(&self, request: &Request, place: &Place) -> Attempt {
        let path = place.folder.join("response.md");
        loop {
            match look(&path) {
                Found::Nothing if !self.waits => return Attempt::Pending,
                Found::Nothing | Found::Unrested => sleep(EVERY).await,
                Found::Whole(contents) => return Attempt::Ended(reply(contents, request)),
            }
        }
    }
}

fn look(path: &Path) -> Found {
    let Ok(before) = std::fs::metadata(path) else {
        return Found::Nothing;
    };
    if before.len() == 0 || !before.is_file() {
        return Found::Nothing;
    }
    // A time in the future is no reason to wait for it.
    let is_fresh = |at: SystemTime| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age < REST)
    };
    if before.modified().is_ok_and(is_fresh) {
        return Found::Unrested;
    }
    let contents = std::fs::read(path);
    let is_same = contents
        .as_ref()
        .is_ok_and(|bytes| bytes.len() as u64 == before.len());
    match is_same || contents.is_err() {
        true => Found::Whole(contents),
        false => Found::Unrested,
    }
}

fn reply(contents: std::io::Result<Vec<u8>>, request: &Request) -> Reply {
    let bytes = match contents {
        Ok(bytes) => bytes,
        Err(error) => {
            let words = format!("`response.md` cannot be read: {error}");
            return Reply::new(ReplyOutcome::Fatal, String::new())
                .because(words)
                .unbilled();
        }
    };
    let is_long = bytes.len() as u64 > request.most_output;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            return Reply::new(ReplyOutcome::Malformed, text).because("the reply is not UTF-8");
        }
    };
    if is_long {
        let most = usize::try_from(request.most_output).unwrap_or(usize::MAX);
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        let end = end.unwrap_or(0);
        return Reply::new(ReplyOutcome::Truncated, text[..end].to_owned())
            .because(format!("the reply is longer than {most} bytes"));
    }
    match text.trim().is_empty() {
        true => Reply::new(ReplyOutcome::Empty, text),
        false => Reply::new(ReplyOutcome::Complete, text),
    }
}

impl Provider for Mailbox {
    fn send<'a>(&'a self, request: &'a Request, place: &'a Place) -> Sending<'a> {
        Box::pin(self.ask(request, place))
    }
}
