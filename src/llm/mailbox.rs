//! A person or another agent as a model. The prompt is in the step's `ask-N` folder; the reply is expected there as `response.md`.
//!
//! A reply is best written elsewhere and renamed to `response.md`. A file written in place is read once it has not changed for a
//! second, so that a half-written reply is not taken. This module never writes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin};
use crate::event::ReplyOutcome;

/// How often the folder is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long a file must be unmodified before it is read.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Takes replies from files.
pub(super) struct MailboxProvider {
    waits_for_reply: bool,
}

/// The state of a `response.md`.
enum ResponseFile {
    Missing,
    /// Still being written.
    Unsettled,
    Complete(std::io::Result<Vec<u8>>),
}

impl MailboxProvider {
    /// With `waits_for_reply` false, a request without a reply ends as pending.
    pub(super) fn new(waits_for_reply: bool) -> Self {
        Self { waits_for_reply }
    }

    async fn wait_for_reply(&self, request: &Request, origin: &RequestOrigin) -> Attempt {
        let path = origin.folder.join("response.md");
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
    // A modification time in the future counts as settled.
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
    if is_same || contents.is_err() {
        ResponseFile::Complete(contents)
    } else {
        ResponseFile::Unsettled
    }
}

fn reply_from_file(contents: std::io::Result<Vec<u8>>, request: &Request) -> Reply {
    let bytes = match contents {
        Ok(bytes) => bytes,
        Err(error) => {
            let detail = format!("cannot read `response.md`: {error}");
            return Reply::new(ReplyOutcome::Fatal, String::new())
                .with_detail(detail)
                .not_billed();
        }
    };
    let is_too_long = bytes.len() as u64 > request.max_output;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            return Reply::new(ReplyOutcome::Malformed, text).with_detail("the reply is not UTF-8");
        }
    };
    if is_too_long {
        let max = usize::try_from(request.max_output).unwrap_or(usize::MAX);
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end));
        return Reply::new(ReplyOutcome::Truncated, text[..end.unwrap_or(0)].to_owned())
            .with_detail(format!("the reply is longer than {max} bytes"));
    }
    if text.trim().is_empty() {
        Reply::new(ReplyOutcome::Empty, text)
    } else {
        Reply::new(ReplyOutcome::Complete, text)
    }
}

impl Provider for MailboxProvider {
    fn send<'a>(&'a self, request: &'a Request, origin: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(self.wait_for_reply(request, origin))
    }
}
