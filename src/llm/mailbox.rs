//! A person or another agent as a model: the prompt lies in the step's `ask-N` folder, and the reply is awaited beside it as
//! `response.md`.
//!
//! Best renamed into place. A file that is written where it lies is taken once it has rested, so that no half of it is.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin};
use crate::event::ReplyOutcome;

/// How often the folder is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long a file has to be left alone before it is taken to be whole.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Replies come as files.
pub(super) struct MailboxProvider {
    waits_for_reply: bool,
}

/// What lies there.
enum ResponseFile {
    Missing,
    /// Somebody is writing it.
    Unsettled,
    Complete(std::io::Result<Vec<u8>>),
}

impl MailboxProvider {
    pub(super) fn new(waits_for_reply: bool) -> Self {
        Self { waits_for_reply }
    }

    async fn wait_for_reply(&self, request: &Request, place: &RequestOrigin) -> Attempt {
        let path = place.folder.join("response.md");
        loop {
            match check_response_file(&path) {
                ResponseFile::Missing if !self.waits_for_reply => return Attempt::Pending,
                ResponseFile::Missing | ResponseFile::Unsettled => sleep(POLL_INTERVAL).await,
                ResponseFile::Complete(contents) => {
                    return Attempt::Ended(reply_from_file(contents, request));
                }
            }
        }
    }
}

fn check_response_file(path: &Path) -> ResponseFile {
    let Ok(before) = std::fs::metadata(path) else {
        return ResponseFile::Missing;
    };
    if before.len() == 0 || !before.is_file() {
        return ResponseFile::Missing;
    }
    // A time in the future is no reason to wait for it.
    let is_fresh = |at: SystemTime| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age < SETTLE_TIME)
    };
    if before.modified().is_ok_and(is_fresh) {
        return ResponseFile::Unsettled;
    }
    let contents = std::fs::read(path);
    let is_same = contents
        .as_ref()
        .is_ok_and(|bytes| bytes.len() as u64 == before.len());
    match is_same || contents.is_err() {
        true => ResponseFile::Complete(contents),
        false => ResponseFile::Unsettled,
    }
}

fn reply_from_file(contents: std::io::Result<Vec<u8>>, request: &Request) -> Reply {
    let bytes = match contents {
        Ok(bytes) => bytes,
        Err(error) => {
            let words = format!("`response.md` cannot be read: {error}");
            return Reply::new(ReplyOutcome::Fatal, String::new())
                .with_detail(words)
                .not_billed();
        }
    };
    let is_long = bytes.len() as u64 > request.max_output;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            return Reply::new(ReplyOutcome::Malformed, text).with_detail("the reply is not UTF-8");
        }
    };
    if is_long {
        let most = usize::try_from(request.max_output).unwrap_or(usize::MAX);
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        let end = end.unwrap_or(0);
        return Reply::new(ReplyOutcome::Truncated, text[..end].to_owned())
            .with_detail(format!("the reply is longer than {most} bytes"));
    }
    match text.trim().is_empty() {
        true => Reply::new(ReplyOutcome::Empty, text),
        false => Reply::new(ReplyOutcome::Complete, text),
    }
}

impl Provider for MailboxProvider {
    fn send<'a>(&'a self, request: &'a Request, place: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.wait_for_reply(request, place))
    }
}
