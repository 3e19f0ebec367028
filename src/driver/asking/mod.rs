//! Steps that ask a model: from the brief to a prompt on disk, to a reply on disk, to a candidate.
//!
//! - `backend`: the interface that renders prompts, sends requests and parses replies; `template_backend` implements it with
//!   templates and providers, and `parsing` reads replies.
//! - `exchange`: how far one step has come. `requests` owns all exchanges of a task and the budget, `advance` takes them from the
//!   brief to a sent request, `replies` from the reply to a proposal.
//! - `feedback_log`: what prompts say about earlier steps.
//! - `recorded_costs`: what requests have cost, read from the journals.
//!
//! Pure work (rendering and parsing) runs on its own threads. A file is durable before the journal line that names it, and
//! the line is durable before the step continues. So a resumed run never repeats a request whose reply it has.

mod advance;
mod backend;
mod exchange;
mod feedback_log;
mod parsing;
mod recorded_costs;
mod replies;
mod requests;
mod task_parts;
mod template_backend;

pub use backend::{
    EarlierReply, ModelBackend, ModelStep, ParsedReplies, PreparedRequest, RepliesOutcome,
    ReplyFuture, RunKernel,
};
pub use parsing::parse_replies;
pub use template_backend::{PromptDevice, TemplateBackend};

pub(super) use exchange::RecordedRequests;
pub(super) use feedback_log::FeedbackLog;
pub(super) use recorded_costs::recorded_costs;
pub(super) use replies::ModelProposal;
pub(super) use requests::ModelRequests;
pub(super) use task_parts::TaskParts;
