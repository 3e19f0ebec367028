//! The result of a step's replies: a candidate, a failure, or one more request.
//!
//! Pure: the same replies always give the same result. `propose::reply` reads the text; the rules here say what follows from it.

use std::sync::Arc;

use serde_json::json;

use super::backend::{EarlierReply, ModelStep, ParsedReplies, RepliesOutcome};
use crate::base::text::collapse_white_space;
use crate::event::{EditCounts, FailedReason, ReplyOutcome};
use crate::propose::Candidate;
use crate::propose::reply::{self, AppliedEdits, Edit, ParsedReply, ReplyContent};

/// Number of lost or malformed replies after which a step fails.
const MAX_LOST_REPLIES: usize = 3;

/// Number of truncated or empty replies after which a step fails.
const MAX_BAD_REPLIES: usize = 2;

/// Longest description of a change in the journal, in characters.
const MAX_DETAIL_CHARS: usize = 240;

/// Longest part of a reply without a kernel that the model is shown again, in characters.
const MAX_SENT_BACK_CHARS: usize = 8000;

/// Longest description of why a step has no candidate, in characters. It quotes the server.
const MAX_REASON_CHARS: usize = 500;

/// Parses all replies of a step, in order; the last one decides. `max_edits`: maximum number of edits in a reply.
pub fn parse_replies(step: &ModelStep, max_edits: usize) -> ParsedReplies {
    let mut parser = RepliesParser {
        step,
        max_edits,
        edits: EditCounts::default(),
        attempts: Vec::new(),
        sent_back: 0,
    };
    let no_reply = RepliesOutcome::Failed(FailedReason::NoReply, "there is no reply".to_owned());
    let mut parsed = ParsedReplies {
        outcome: no_reply,
        trace: None,
        edits_json: None,
        edits: EditCounts::default(),
        expected: None,
    };
    for earlier in &step.earlier_replies {
        let usable = usable_reply(earlier);
        let trace = match &usable {
            Some(reply) => reply.trace.clone(),
            None => reply::parse_reply(&earlier.text, false).trace,
        };
        if let Some(trace) = &trace {
            parsed.trace = Some(trace.verbatim.clone());
            parsed.expected = trace.expected_percent.map(|percent| percent / 100.0);
        }
        parsed.outcome = match &usable {
            Some(reply) => parser.complete_reply(reply),
            None => parser.incomplete_reply(earlier),
        };
    }
    parsed.edits = parser.edits;
    if !parser.attempts.is_empty() {
        parsed.edits_json = serde_json::to_string_pretty(&parser.attempts).ok();
    }
    parsed
}

/// The usable part of a reply: all of a complete reply; of an incomplete reply the parts that are certainly whole.
fn usable_reply(earlier: &EarlierReply) -> Option<ParsedReply> {
    match earlier.outcome {
        ReplyOutcome::Complete => Some(reply::parse_reply(&earlier.text, true)),
        // The server counts the whole reply as thinking.
        ReplyOutcome::Empty if !earlier.text.trim().is_empty() => {
            let reply = reply::parse_reply(&earlier.text, true);
            matches!(
                reply.content,
                ReplyContent::Code(_) | ReplyContent::Edits(_)
            )
            .then_some(reply)
        }
        ReplyOutcome::Malformed | ReplyOutcome::Lost => reply::parse_finished_kernel(&earlier.text),
        _ => None,
    }
}

/// What was wrong with the last reply of a step, if the model gets one more request because of it.
pub(super) fn reply_to_send_back(step: &ModelStep, max_edits: usize) -> Option<SentBackReply> {
    let last = step.earlier_replies.last()?;
    let reply = usable_reply(last)?;
    let (message, had_edits) = match &reply.content {
        ReplyContent::Edits(edits) => {
            let parent = step.parents.first()?;
            match reply::apply_edits(&parent.source, edits, max_edits) {
                AppliedEdits::Missed { faults } => (reply::describe_faults(&faults), true),
                AppliedEdits::Changed { .. } | AppliedEdits::NoOp => return None,
            }
        }
        ReplyContent::Unusable(why) => (why.clone(), false),
        ReplyContent::Truncated => (CUT_OFF_CODE.to_owned(), false),
        ReplyContent::Code(_) | ReplyContent::NoValidEdit => return None,
    };
    let text = if had_edits {
        last.text.clone()
    } else {
        cut_text(&last.text)
    };
    Some(SentBackReply {
        text,
        message,
        had_edits,
    })
}

/// The start of a text. Without a kernel in it, the rest is not needed.
fn cut_text(text: &Arc<str>) -> Arc<str> {
    match text.char_indices().nth(MAX_SENT_BACK_CHARS) {
        Some((end, _)) => format!("{}\n…", &text[..end]).into(),
        None => text.clone(),
    }
}

/// A reply without a candidate that the next request shows to the model.
pub(super) struct SentBackReply {
    pub(super) text: Arc<str>,
    pub(super) message: String,
    /// It had edits, which could not be applied.
    pub(super) had_edits: bool,
}

/// The message about a kernel that stops in the middle although the reply is complete.
const CUT_OFF_CODE: &str =
    "the last code block is not closed, and its braces are open: the kernel is cut off";

/// What the replies parsed so far contained.
struct RepliesParser<'s> {
    step: &'s ModelStep,
    max_edits: usize,
    edits: EditCounts,
    /// The edits of each reply, with their repairs or faults.
    attempts: Vec<serde_json::Value>,
    /// Number of replies that were sent back: with an edit that matched no place or several, or without code.
    sent_back: usize,
}

impl RepliesParser<'_> {
    /// The outcome of a reply that was cut off, refused or lost.
    fn incomplete_reply(&self, reply: &EarlierReply) -> RepliesOutcome {
        use ReplyOutcome::{
            Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated, TurnedAway,
        };
        let with_detail = |text: &str| match &reply.detail {
            Some(detail) => shorten(&format!("{text}: {detail}"), MAX_REASON_CHARS),
            None => text.to_owned(),
        };
        match reply.outcome {
            Truncated => self.ask_again(
                MAX_BAD_REPLIES,
                &[Truncated],
                FailedReason::Truncated,
                &with_detail("the reply reached its token limit twice"),
            ),
            Empty => self.ask_again(
                MAX_BAD_REPLIES,
                &[Empty],
                FailedReason::NoReply,
                &with_detail("the reply was empty twice"),
            ),
            Malformed | Lost => self.ask_again(
                MAX_LOST_REPLIES,
                &[Malformed, Lost],
                FailedReason::NoReply,
                &with_detail("the reply was lost three times"),
            ),
            Refused => failed(
                FailedReason::Refused,
                &with_detail("the model refused to answer"),
            ),
            TurnedAway | Fatal | Complete => {
                failed(FailedReason::NoReply, &with_detail("no model answers"))
            }
        }
    }

    /// Sends a reply back to the model, once for each step. The second time the step fails.
    fn send_back(&mut self, reason: FailedReason, detail: &str) -> RepliesOutcome {
        self.sent_back += 1;
        if self.sent_back == 1 {
            return RepliesOutcome::AskAgain;
        }
        failed(reason, &shorten(detail, MAX_DETAIL_CHARS))
    }

    /// Sends another request while the step has fewer than `max` replies with one of these outcomes.
    fn ask_again(
        &self,
        max: usize,
        outcomes: &[ReplyOutcome],
        reason: FailedReason,
        detail: &str,
    ) -> RepliesOutcome {
        let replies = self.step.earlier_replies.iter();
        let count = replies
            .filter(|reply| outcomes.contains(&reply.outcome))
            .count();
        if count < max {
            RepliesOutcome::AskAgain
        } else {
            failed(reason, detail)
        }
    }

    /// The outcome of a complete reply.
    fn complete_reply(&mut self, reply: &ParsedReply) -> RepliesOutcome {
        let change = reply.trace.as_ref();
        let change = change.map(|trace| shorten(&trace.change, MAX_DETAIL_CHARS));
        let change = change.filter(|text| !text.is_empty());
        match &reply.content {
            ReplyContent::Code(source) => {
                let mut parents = self.step.parents.iter();
                if parents.any(|parent| *parent.source == **source) {
                    return failed(FailedReason::NoOp, "the kernel is unchanged");
                }
                self.candidate(source.clone(), change, "written")
            }
            ReplyContent::Edits(edits) => self.edited(edits, change),
            ReplyContent::NoValidEdit => {
                failed(FailedReason::NoOp, "the model says that no edit helps")
            }
            ReplyContent::Unusable(why) => self.send_back(FailedReason::NoCode, why),
            ReplyContent::Truncated => self.send_back(FailedReason::Truncated, CUT_OFF_CODE),
        }
    }

    /// Applies edits to the first parent. A reply with a miss is sent back once.
    fn edited(&mut self, edits: &[Edit], change: Option<String>) -> RepliesOutcome {
        let Some(parent) = self.step.parents.first() else {
            return failed(
                FailedReason::NoCode,
                "the reply edits a kernel that does not exist",
            );
        };
        self.edits.asked += saturating(edits.len());
        match reply::apply_edits(&parent.source, edits, self.max_edits) {
            AppliedEdits::Changed { source, repairs } => {
                self.edits.repaired += saturating(repairs.len());
                self.attempts
                    .push(json!({"edits": edits, "repaired": repairs}));
                self.candidate(source, change, "edited")
            }
            AppliedEdits::Missed { faults } => {
                self.edits.missed += saturating(faults.len());
                self.attempts
                    .push(json!({"edits": edits, "faults": faults}));
                let message = reply::describe_faults(&faults);
                self.send_back(FailedReason::EditMissed, &message)
            }
            AppliedEdits::NoOp => {
                self.attempts.push(json!({"edits": edits}));
                failed(FailedReason::NoOp, "the edits change nothing")
            }
        }
    }

    fn candidate(
        &self,
        source: String,
        change: Option<String>,
        default_detail: &str,
    ) -> RepliesOutcome {
        let detail = change.unwrap_or_else(|| default_detail.to_owned());
        RepliesOutcome::Candidate(Candidate::from_source(source, detail, &self.step.task))
    }
}

fn failed(reason: FailedReason, detail: &str) -> RepliesOutcome {
    RepliesOutcome::Failed(reason, detail.to_owned())
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The text on one line, cut to a number of characters.
fn shorten(text: &str, max_chars: usize) -> String {
    let line = collapse_white_space(text);
    let mut short: String = line.chars().take(max_chars).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}
