//! The result of a step's replies: a candidate, a failure, or one more request.
//!
//! Pure: the same replies always give the same result. `propose::reply` reads the text; the rules here say what follows from it.

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

/// Parses all replies of a step, in order; the last one decides. `max_edits`: maximum number of edits in a reply.
pub fn parse_replies(step: &ModelStep, max_edits: usize) -> ParsedReplies {
    let mut parser = RepliesParser {
        step,
        max_edits,
        edits: EditCounts::default(),
        attempts: Vec::new(),
        replies_with_misses: 0,
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
        let is_complete = earlier.outcome == ReplyOutcome::Complete;
        let reply = reply::parse_reply(&earlier.text, is_complete);
        if let Some(trace) = &reply.trace {
            parsed.trace = Some(trace.verbatim.clone());
            parsed.expected = trace.expected_percent.map(|percent| percent / 100.0);
        }
        parsed.outcome = if is_complete {
            parser.complete_reply(&reply)
        } else {
            parser.incomplete_reply(earlier)
        };
    }
    parsed.edits = parser.edits;
    if !parser.attempts.is_empty() {
        parsed.edits_json = serde_json::to_string_pretty(&parser.attempts).ok();
    }
    parsed
}

/// What the replies parsed so far contained.
struct RepliesParser<'s> {
    step: &'s ModelStep,
    max_edits: usize,
    edits: EditCounts,
    /// The edits of each reply, with their repairs or faults.
    attempts: Vec<serde_json::Value>,
    /// Number of replies with an edit that matched no place, or several.
    replies_with_misses: usize,
}

impl RepliesParser<'_> {
    /// The outcome of a reply that was cut off, refused or lost.
    fn incomplete_reply(&self, reply: &EarlierReply) -> RepliesOutcome {
        use ReplyOutcome::{
            Complete, Empty, Fatal, Lost, Malformed, Refused, Truncated, TurnedAway,
        };
        match reply.outcome {
            Truncated => self.ask_again(
                MAX_BAD_REPLIES,
                &[Truncated],
                FailedReason::Truncated,
                "the reply reached its token limit twice",
            ),
            Empty => self.ask_again(
                MAX_BAD_REPLIES,
                &[Empty],
                FailedReason::NoReply,
                "the reply was empty twice",
            ),
            Malformed | Lost => self.ask_again(
                MAX_LOST_REPLIES,
                &[Malformed, Lost],
                FailedReason::NoReply,
                "the reply was lost three times",
            ),
            Refused => failed(FailedReason::Refused, "the model refused to answer"),
            TurnedAway | Fatal | Complete => failed(FailedReason::NoReply, "no model answers"),
        }
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
        let change = reply.trace.as_ref().map(|trace| shorten(&trace.change));
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
            ReplyContent::Unusable(why) => failed(FailedReason::NoCode, &shorten(why)),
            ReplyContent::Truncated => failed(FailedReason::Truncated, "the reply is cut off"),
        }
    }

    /// Applies edits to the first parent. The first reply with a miss leads to another request.
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
                self.replies_with_misses += 1;
                if self.replies_with_misses == 1 {
                    return RepliesOutcome::AskAgain;
                }
                let message = reply::describe_faults(&faults);
                failed(FailedReason::EditMissed, &shorten(&message))
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

/// The text on one line, cut to `MAX_DETAIL_CHARS`.
fn shorten(text: &str) -> String {
    let line = collapse_white_space(text);
    let mut short: String = line.chars().take(MAX_DETAIL_CHARS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}
