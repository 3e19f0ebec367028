//! An earlier run as a model: its reply to the same task, step and ask, with the recorded outcome, usage and cost.
//!
//! Reads that run's journals and `response.md` files, and never writes there. It does not compare prompts, and answers at once:
//! `driver::replay_turns` holds each answer until its turn.

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

/// Repeats the replies of an earlier run.
pub(super) struct ReplayProvider {
    from: PathBuf,
    /// By task. Each journal is read once, at the first request.
    tasks: Mutex<HashMap<String, Result<Arc<RepliesByRequest>, String>>>,
}

impl ReplayProvider {
    pub(super) fn open(model: &ModelSettings) -> Result<Self, Failure> {
        let from = model.from.clone().unwrap_or_default();
        if !from.join("run.yaml").is_file() {
            return Err(Failure::usage(format!(
                "`from` of model `{}` is not a run directory: `{}` has no run.yaml",
                model.name,
                from.display()
            ))
            .hint("name the directory of an earlier run"));
        }
        Ok(Self {
            from,
            tasks: Mutex::default(),
        })
    }

    fn reply(&self, origin: &RequestOrigin) -> Result<Reply, String> {
        let journal = self.from.join(&origin.task).join("events.jsonl");
        let replies = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            let replies = tasks.entry(origin.task.clone());
            replies
                .or_insert_with(|| read_replies(&journal).map(Arc::new))
                .clone()?
        };
        let replied = replies.get(&(origin.step, origin.ask)).ok_or_else(|| {
            format!(
                "`{}` has no reply to step {}, ask {}",
                journal.display(),
                origin.step,
                origin.ask
            )
        })?;
        let text = match replied.response {
            None => String::new(),
            Some(digest) => {
                let folder = self.from.join(&origin.task).join("steps");
                let folder = folder.join(format!("{:06}/ask-{}", origin.step, origin.ask));
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
            recorded_cost: Some(replied.cost_in_tokens()),
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
        .map_err(|error| format!("cannot read `{}`: {error}", journal.display()))?;
    #[derive(Deserialize)]
    struct EventHead {
        event: String,
    }
    let mut replies = RepliesByRequest::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // A line without an end was cut off when the run was killed.
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
    fn send<'a>(&'a self, _request: &'a Request, origin: &'a RequestOrigin) -> AttemptFuture<'a> {
        Box::pin(async {
            Attempt::Ended(self.reply(origin).unwrap_or_else(|why| {
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .with_detail(why)
                    .not_billed()
            }))
        })
    }
}
