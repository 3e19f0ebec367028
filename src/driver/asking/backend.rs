//! The interface between the driver and models: what turns a brief into a prompt, and replies into a candidate.
//!
//! `template_backend` implements it; tests bring their own. Holds no state of a run.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::event::{Brief, Cost, EditCounts, FailedReason, Operator, ReplyOutcome};
use crate::llm::{Reply, Request, RequestOrigin, RequestOutcome};
use crate::propose::Candidate;
use crate::propose::prompt::{Feedback, HistoryEntry, KernelLabel};
use crate::search::ModelPool;
use crate::task::Task;

/// Renders prompts, sends requests and parses replies.
///
/// `render` and `parse` are pure: the same step gives the same prompt, and the same replies give the same result. So a
/// resumed run makes lost results again from what is on disk, and pays for no reply twice.
pub trait ModelBackend: Send + Sync {
    /// Makes the next request of a step.
    ///
    /// # Errors
    /// If a template fails, or the brief does not ask a model.
    fn render(&self, step: &ModelStep) -> anyhow::Result<PreparedRequest>;

    /// Sends a request and waits for its end. Dropping the future cancels the request.
    fn send<'a>(
        &'a self,
        request: &'a PreparedRequest,
        origin: &'a RequestOrigin,
    ) -> ReplyFuture<'a>;

    /// Parses all replies of a step.
    fn parse(&self, step: &ModelStep) -> ParsedReplies;

    /// The cost of a reply.
    fn cost(&self, request: &PreparedRequest, reply: &Reply) -> Cost;

    /// The models and strategy cards that a search of this task may choose from.
    fn model_pool(&self, task: &Task) -> ModelPool;

    /// Whether the model is a mailbox: a request that was sent once waits for its reply permanently, and is not sent again after
    /// a kill.
    fn is_mailbox(&self, model: &str) -> bool;

    /// Whether this process may end before the run does, because it does not wait for the replies of a mailbox.
    fn may_leave_requests(&self) -> bool {
        false
    }

    /// The directory of the run whose replies all models repeat, if they do.
    fn replayed_run(&self) -> Option<PathBuf> {
        None
    }

    /// One line for each waiting request: model, reason and remaining time.
    fn waiting_lines(&self) -> Vec<String>;
}

/// A request in progress.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = RequestOutcome> + Send + 'a>>;

/// Everything that the prompt of a step, or the result of its replies, depends on.
#[derive(Clone, Debug)]
pub struct ModelStep {
    pub task: Arc<Task>,
    pub brief: Brief,
    pub parents: Vec<RunKernel>,
    /// Other kernels to show. Empty if replies are parsed.
    pub context: Vec<(KernelLabel, RunKernel)>,
    /// Earlier steps to mention. Empty if replies are parsed.
    pub history: Vec<HistoryEntry>,
    /// The replies of this step so far, in order.
    pub earlier_replies: Vec<EarlierReply>,
}

/// A kernel of the run, as a prompt shows it.
#[derive(Clone, Debug)]
pub struct RunKernel {
    pub step: u64,
    pub operator: Operator,
    pub source: Arc<str>,
    /// `None` if it was not judged.
    pub feedback: Option<Arc<Feedback>>,
}

/// A reply of a step that is still open.
#[derive(Clone, Debug)]
pub struct EarlierReply {
    pub outcome: ReplyOutcome,
    pub text: Arc<str>,
    /// What went wrong, in the server's words.
    pub detail: Option<Arc<str>>,
}

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct PreparedRequest {
    /// Name of the model in the config.
    pub model: String,
    pub request: Request,
    /// The whole prompt as one text: the contents of `prompt.md`.
    pub document: String,
    /// The most that the request can cost.
    pub worst_case: Cost,
    /// Version of the templates.
    pub prompts_version: String,
    /// One line for each part of the prompt that did not fit.
    pub left_out: Vec<String>,
}

/// The result of all replies of a step.
#[derive(Clone, Debug)]
pub struct ParsedReplies {
    pub outcome: RepliesOutcome,
    /// The trace of the last reply that has one, verbatim.
    pub trace: Option<String>,
    /// The edits of all replies and the faults in them, as JSON.
    pub edits_json: Option<String>,
    pub edits: EditCounts,
    /// Relative change of the run time that the model expects against the first parent: -0.2 for 20 % less time.
    pub expected: Option<f64>,
}

/// What follows from the replies of a step.
#[derive(Clone, Debug)]
pub enum RepliesOutcome {
    Candidate(Candidate),
    Failed(FailedReason, String),
    /// The step sends one more request.
    AskAgain,
}
