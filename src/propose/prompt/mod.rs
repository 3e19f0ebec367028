//! Prompts: the text that is sent to a model, made from the task, the device, the kernels, the history and the step's operator.
//!
//! Pure: the same `PromptInput` and [`Templates`] give the same prompt, so a request without a reply can be sent again after a
//! kill. Sends nothing and reads no reply (`llm` and `propose::reply` do). The part that is the same for all steps of a run comes
//! first, so that providers can cache it. Text from elsewhere is quoted (`quote`). A prompt never contains seeds, hidden shapes,
//! hidden input distributions or kforge's own faults (`feedback`).

mod change_text;
mod describe;
mod fault_text;
mod feedback;
mod feedback_text;
mod fill;
mod input;
mod numbers;
mod quote;
mod render;
mod template_check;
mod templates;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use change_text::{describe_failed_step, describe_trials};
pub(crate) use feedback::Feedback;
pub use input::{HistoryEntry, KernelLabel, Language, TimesToBeat};
pub(crate) use input::{PromptInput, RejectedReply, ShownKernel};
pub(crate) use render::render;
pub use templates::{Card, CardBackend, CardStage, ExampleKernel, Templates};
pub(crate) use text::{Prompt, estimate_tokens};
