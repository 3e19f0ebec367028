//! An earlier run as a model: the reply to the same task, step and ask, with its outcome and its usage.
//!
//! Reads that run's journals and `response.md`s, and writes nothing there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::models::ModelSettings;
use super::{Attempt, AttemptFuture, Provider, Reply, Request, RequestOrigin};
use crate::base::{Failure, files};
use crate::event::{Replied, ReplyOutcome};

/// Replies by step and ask.
type RepliesByRequest = HashMap<(u64, u32), Replied>;

/// Replies of an earlier run.
pub(super) struct ReplayProvider {
    from: PathBuf,
    /// The tasks that were asked about; each journal is read once.
    tasks: Mutex<HashMap<String, Result<Arc<RepliesByRequest>, String>>>,
}

impl ReplayProvider {
    pub(super) fn open(model: &ModelSettings) -> Result<Self, Failure> {
        let from = model.from.clone().unwrap_or_default();
        if !from.join("run.yaml").is_file() {
            return Err(Failure::usage(format!(
                "`{}`, which `{}` is to replay, is not a run: it has no run.yaml",
                from.display(),
                model.name
            ))
            .hint("name the directory of a run in `from`"));
        }
        Ok(Self {
            from,
            tasks: Mutex::default(),
        })
    }

    fn reply(&self, place: &RequestOrigin) -> Result<Reply, String> {
        let journal = self.from.join(&place.task).join("events.jsonl");
        let known = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            let known = tasks.entry(place.task.clone());
            known
                .or_insert_with(|| read_replies(&journal).map(Arc::new))
                .clone()?
        };
        let replied = known.get(&(place.step, place.ask)).ok_or_else(|| {
            format!(
                "`{}` has no reply for step {} ask {}",
                journal.display(),
                place.step,
                place.ask
            )
        })?;
        let text = match replied.response {
            None => String::new(),
            Some(digest) => {
                let folder = self.from.join(&place.task).join("steps");
                let folder = folder.join(format!("{:06}/ask-{}", place.step, place.ask));
                let path = folder.join("response.md");
                files::read_recorded(&path, digest, "reply").map_err(|error| {
                    match error.downcast::<Failure>() {
                        Ok(failure) => failure.message,
                        Err(error) => format!("{error:#}"),
                    }
                })?
            }
        };
        Ok(Reply {
            usage: replied.usage,
            detail: replied.detail.clone(),
            is_billable: !matches!(
                replied.outcome,
                ReplyOutcome::TurnedAway | ReplyOutcome::Fatal
            ),
            ..Reply::new(replied.outcome, text)
        })
    }
}

fn read_replies(journal: &Path) -> Result<RepliesByRequest, String> {
    let text = std::fs::read_to_string(journal)
        .map_err(|error| format!("`{}` cannot be read: {error}", journal.display()))?;
    #[derive(Deserialize)]
    struct EventHead {
        event: String,
    }
    let mut replies = RepliesByRequest::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // What does not end was torn off when the run was killed.
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        let bad = |error| format!("`{}`, line {}: {error}", journal.display(), index + 1);
        let head: EventHead = serde_json::from_str(line).map_err(bad)?;
        if head.event == "replied" {
            let replied: Replied = serde_json::from_str(line).map_err(bad)?;
            replies.insert((replied.step, replied.ask), replied);
        }
    }
    Ok(replies)
}

impl Provider for ReplayProvider {
    fn send<'a>(&'a self, _request: &'a Request, place: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(async {
            Attempt::Ended(self.reply(place).unwrap_or_else(|words| {
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .with_detail(words)
                    .not_billed()
            }))
        })
    }
}
