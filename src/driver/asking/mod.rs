//! Steps that ask a model: from the brief to a prompt on disk, to a reply on disk, to a candidate.
//!
//! `author` says what it takes to ask; `models` does it with templates and providers; `exchange` is the way of one step, which
//! the loop of the task walks in `steps`; `chronicle` is what prompts are told of earlier steps; `money` what asking has cost.

mod author;
mod chronicle;
mod exchange;
mod models;
mod money;
mod steps;

pub use author::{Author, Earlier, End, Kernel, Prepared, Question, Reading, Sending};
pub use models::{Device, Models, read as read_replies};

pub(super) use chronicle::Chronicle;
pub(super) use exchange::{Asking, Exchange, Past};
pub(super) use money::spent;
