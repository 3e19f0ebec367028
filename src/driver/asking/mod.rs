//! Steps that ask a model: from the brief to a prompt on disk, to a reply on disk, to a candidate.
//!
//! `author` says what it takes to ask; `models` does it with templates and providers; `exchange` is the way of one step, which
//! the loop of the task walks in `steps`; `chronicle` is what prompts are told of earlier steps; `money` what asking has cost.

mod backend;
mod exchange;
mod feedback_log;
mod recorded_costs;
mod steps;
mod template_backend;

pub use backend::{
    EarlierReply, ModelBackend, ModelStep, ParsedReplies, PreparedRequest, RepliesOutcome,
    ReplyFuture, RunKernel,
};
pub use template_backend::{PromptDevice, TemplateBackend, parse_replies as read_replies};

pub(super) use exchange::{Exchange, ModelRequests, RecordedRequests};
pub(super) use feedback_log::FeedbackLog;
pub(super) use recorded_costs::recorded_costs;
