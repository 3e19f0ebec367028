//! What happened, one line each: the vocabulary of the journals (DESIGN section 7).
//!
//! The journal folded through `Search::tell` is the state of a search. Plain data; reading and writing lines is `run`'s.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::verdict::{Duel, Verdict};

mod ask;
mod run;

pub use ask::{Cost, Replied, ReplyOutcome, Sent, Usage};
pub use run::{
    Accepted, BestOfTask, Interrupted, RecordChange, RunEvent, SelfTested, Session, TaskEnded,
    TaskStarted,
};

/// The version of a journal line.
pub(crate) const SCHEMA: u32 = 1;

/// One event of a task's journal. Each variant's name in snake case is the line's `event`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A question was decided upon.
    Asked(Brief),
    /// A model was asked on behalf of a step.
    Sent(Sent),
    /// It answered, or will not.
    Replied(Replied),
    /// An answer to it: a candidate, its source durable in the step's folder.
    Proposed(Proposed),
    /// The step ended without a candidate.
    Failed(Failed),
    /// The candidate was judged.
    Judged(Judged),
    /// The candidate and the incumbent of its cell were timed against each other.
    Dueled(Dueled),
    /// A candidate was measured again with new seeds in fresh processes.
    Confirmed(Confirmed),
    /// The search of this task ended, or was told to.
    Stopped(Stopped),
}

/// What step to make, from what, and how: everything that a proposer may depend on. Pure: the same brief gives the same question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    pub step: u64,
    pub operator: Operator,
    /// Steps whose kernels the proposal is made from; empty for `start`.
    #[serde(default)]
    pub parents: Vec<u64>,
    /// Seeds every random choice of the proposer.
    pub seed: u64,
    /// `start`: the file name of the starting kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// `autotune`: the values to put in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<IndexMap<String, i64>>,
    /// `mutate` and `recombine`: how often this operator was asked of these parents before, so that no mutation is made twice.
    #[serde(default)]
    pub attempt: u64,
    /// What a model is asked, and which; `None` for kforge's own operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelBrief>,
}

/// What a model is asked beside its parents: everything else that the prompt depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelBrief {
    /// The model's name in the config.
    pub name: String,
    /// The strategy card to try, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// The last step that the prompt may speak of: those behind it may be over or not, by chance.
    pub known: u64,
    /// Steps whose kernels are shown, parents not among them. The prompt takes as many as fit.
    #[serde(default)]
    pub context: ContextKernels,
}

/// The kernels that a model is shown, each list most worthy first, no step in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContextKernels {
    /// The fastest elites.
    pub elites: Vec<u64>,
    /// Elites of other cells: other ways to do it.
    pub different: Vec<u64>,
    /// The last that passed.
    pub recent: Vec<u64>,
    /// The last that did not.
    pub failures: Vec<u64>,
}

/// How a candidate is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// A starting kernel of the task, as it is.
    Start,
    /// A move in the space of the declared tunables.
    Autotune,
    /// A transformation of the syntax tree.
    Mutate,
    /// Tunables and device functions of two parents.
    Recombine,
    /// A model writes a kernel anew.
    Propose,
    /// A model edits one by `str_replace`.
    Edit,
    /// A model makes one of two.
    Crossover,
    /// A model mends one that did not pass.
    Repair,
}

impl Operator {
    /// As the journal has it.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Start => "start",
            Operator::Autotune => "autotune",
            Operator::Mutate => "mutate",
            Operator::Recombine => "recombine",
            Operator::Propose => "propose",
            Operator::Edit => "edit",
            Operator::Crossover => "crossover",
            Operator::Repair => "repair",
        }
    }

    /// Whether a model is asked.
    pub fn asks_model(self) -> bool {
        matches!(
            self,
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair
        )
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    pub step: u64,
    /// Hash of `kernel.cu`, the source with its values written in force.
    pub kernel: Digest,
    pub operator: Operator,
    pub parents: Vec<u64>,
    /// What the operator did, for people and for credit: `unroll`, `ROWS=2`, …
    pub detail: String,
    /// Hash of the source without the values of its tunables: candidates of one family differ only in those.
    pub family: Digest,
    /// The values in force.
    #[serde(default)]
    pub point: IndexMap<String, i64>,
    /// The declared space: every tunable with its allowed values.
    #[serde(default)]
    pub space: IndexMap<String, Vec<i64>>,
    /// What the model expected: the candidate's time against its first parent's, less one; -0.2 for a fifth less time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Edits of this step that missed their place, and those that were put there all the same.
    #[serde(default, skip_serializing_if = "Edits::is_none")]
    pub edits: Edits,
}

/// How a step's `str_replace` edits fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edits {
    /// Edits in all replies of the step.
    pub asked: u32,
    /// Those that matched nothing, or several places.
    pub missed: u32,
    /// Those that matched but for white space, quotes or line ends, at one place only.
    pub repaired: u32,
}

impl Edits {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub step: u64,
    pub reason: FailedReason,
    /// `duplicate`: the step that has the same source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `duplicate`: the hash of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Digest>,
    #[serde(default, skip_serializing_if = "Edits::is_none")]
    pub edits: Edits,
}

/// Why a step ended without a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedReason {
    /// The model was asked, and did not answer.
    NoReply,
    /// It would not answer.
    Refused,
    /// Its reply ends before its end.
    Truncated,
    /// Its reply holds no kernel.
    NoCode,
    /// Its edits have no place in the kernel, or several.
    EditMissed,
    /// Nothing was changed, or the operator found nothing to change.
    NoOp,
    /// The source equals one already tried.
    Duplicate,
    /// kforge could not judge it, and gave up: the step is closed, so that the search goes on.
    HarnessError,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub step: u64,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dueled {
    /// The challenger.
    pub step: u64,
    /// The incumbent's step.
    pub against: u64,
    /// `None` where one of the two no longer passed.
    pub duel: Option<Duel>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    pub step: u64,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    pub why: StopReason,
    /// The last step that counts.
    pub at: u64,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// All the steps asked for were made.
    Steps,
    /// The wall time is spent.
    Seconds,
    /// The target speedup was reached.
    Target,
    /// No improvement for `search.patience` steps.
    Patience,
    /// Nothing is left to try.
    Exhausted,
    /// The next question to a model could cost more than is left.
    Budget,
}

impl Event {
    /// The name on the journal line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Event::Asked(_) => "asked",
            Event::Sent(_) => "sent",
            Event::Replied(_) => "replied",
            Event::Proposed(_) => "proposed",
            Event::Failed(_) => "failed",
            Event::Judged(_) => "judged",
            Event::Dueled(_) => "dueled",
            Event::Confirmed(_) => "confirmed",
            Event::Stopped(_) => "stopped",
        }
    }

    /// The step that the event belongs to, if it belongs to one.
    pub fn step(&self) -> Option<u64> {
        match self {
            Event::Asked(event) => Some(event.step),
            Event::Sent(event) => Some(event.step),
            Event::Replied(event) => Some(event.step),
            Event::Proposed(event) => Some(event.step),
            Event::Failed(event) => Some(event.step),
            Event::Judged(event) => Some(event.step),
            Event::Dueled(event) => Some(event.step),
            Event::Confirmed(event) => Some(event.step),
            Event::Stopped(_) => None,
        }
    }
}
