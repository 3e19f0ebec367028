//! Whoever stands between a brief and a kernel where a model is asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::driver::proposer::Candidate;
use crate::event::{Brief, Cost, Edits, FailedReason, Operator, ReplyOutcome};
use crate::llm::{Request, RequestOrigin, RequestOutcome};
use crate::propose::prompt::{Feedback, HistoryEntry, KernelLabel};
use crate::search::ModelPool;
use crate::task::Task;

/// Asks models. `render` and `read` are pure: the same question gives the same prompt, the same replies the same reading, so that
/// whatever is missing after a kill can be made again, and nothing is asked twice.
pub trait ModelBackend: Send + Sync {
    /// What to send.
    fn render(&self, question: &ModelStep) -> anyhow::Result<PreparedRequest>;

    /// Sends it, and waits for its end. Dropping the future gives up.
    fn send<'a>(
        &'a self,
        prepared: &'a PreparedRequest,
        place: &'a RequestOrigin,
    ) -> ReplyFuture<'a>;

    /// What the replies so far come to.
    fn parse(&self, question: &ModelStep) -> ParsedReplies;

    /// What a reply came to.
    fn cost(&self, prepared: &PreparedRequest, reply: &crate::llm::Reply) -> Cost;

    /// The models and the cards that the search chooses among.
    fn model_pool(&self) -> ModelPool;

    /// Whether a question that was sent once waits for its reply for good, and need not be sent again after a kill: a mailbox.
    fn is_mailbox(&self, model: &str) -> bool;

    /// Who waits, for what, and until when: one line each.
    fn waiting_lines(&self) -> Vec<String>;
}

/// A question under way.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = RequestOutcome> + Send + 'a>>;

/// All that a prompt and its reading depend on.
#[derive(Clone, Debug)]
pub struct ModelStep {
    pub task: Arc<Task>,
    pub brief: Brief,
    pub parents: Vec<RunKernel>,
    /// Empty where only replies are to be read.
    pub context: Vec<(KernelLabel, RunKernel)>,
    pub history: Vec<HistoryEntry>,
    /// The replies that this step already has, in order.
    pub earlier_replies: Vec<EarlierReply>,
}

/// A kernel of the run.
#[derive(Clone, Debug)]
pub struct RunKernel {
    pub step: u64,
    pub operator: Operator,
    pub source: Arc<str>,
    /// `None` where it was not judged.
    pub feedback: Option<Arc<Feedback>>,
}

/// A reply of the same step.
#[derive(Clone, Debug)]
pub struct EarlierReply {
    pub outcome: ReplyOutcome,
    pub text: Arc<str>,
}

/// A prompt, ready to be sent.
#[derive(Clone, Debug)]
pub struct PreparedRequest {
    /// The model's name in the config.
    pub model: String,
    pub request: Request,
    /// All of it as one text, as `prompt.md` keeps it.
    pub document: String,
    /// The most that it can cost.
    pub worst_case: Cost,
    /// The version of the templates.
    pub prompts_version: String,
    /// What did not fit, one line each.
    pub left_out: Vec<String>,
}

/// What replies come to.
#[derive(Clone, Debug)]
pub struct ParsedReplies {
    pub outcome: RepliesOutcome,
    /// The JSON before the code, as it came.
    pub trace: Option<String>,
    /// The edits, and what was wrong with them, as JSON.
    pub edits_json: Option<String>,
    pub edits: Edits,
    /// The candidate's time against its first parent's, less one, as the model expects it.
    pub expected: Option<f64>,
}

/// How the reading of a step's replies ends.
#[derive(Clone, Debug)]
pub enum RepliesOutcome {
    Candidate(Candidate),
    Failed(FailedReason, String),
    /// One more question in this step.
    AskAgain,
}
