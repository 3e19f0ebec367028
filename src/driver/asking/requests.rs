//! All exchanges of a task with models: their stages, their budget, and why no more requests are sent.
//!
//! `advance` and `replies` have the methods that move an exchange to its next stage. Only `ModelRequests` charges the budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::backend::{EarlierReply, ModelBackend};
use super::exchange::{Exchange, ExchangeStage, RecordedRequests};
use super::feedback_log::FeedbackLog;
use super::task_parts::TaskParts;
use crate::base::Failure;
use crate::base::files::read_recorded;
use crate::driver::options::ModelOptions;
use crate::event::{Cost, Event};
use crate::llm::{Budget, BudgetLimits};

/// The exchanges of one task with models.
pub(in crate::driver) struct ModelRequests<'a> {
    pub(super) backend: Arc<dyn ModelBackend>,
    pub(super) budget: &'a mut Budget,
    /// Maximum number of requests in progress, those to mailboxes not counted.
    concurrency: usize,
    /// Maximum number of earlier steps that a prompt mentions.
    pub(super) max_history: u64,
    pub(super) feedback: FeedbackLog,
    /// By step.
    pub(super) exchanges: BTreeMap<u64, Exchange>,
    /// Number of steps in a row that ended without any reply.
    pub(super) unanswered_in_a_row: u32,
    /// Why no more requests are sent.
    pub(super) fatal: Option<Failure>,
}

impl<'a> ModelRequests<'a> {
    pub(in crate::driver) fn new(
        options: &ModelOptions,
        budget: &'a mut Budget,
        feedback: FeedbackLog,
        max_history: u64,
    ) -> Self {
        Self {
            backend: options.backend.clone(),
            budget,
            concurrency: options.concurrency.max(1),
            max_history,
            feedback,
            exchanges: BTreeMap::new(),
            unanswered_in_a_row: 0,
            fatal: None,
        }
    }

    /// Restores the exchange of a step from the journal. Does nothing for a step that is not open.
    ///
    /// # Errors
    /// If a reply on disk differs from the hash in the journal.
    pub(in crate::driver) fn restore(
        &mut self,
        step: u64,
        recorded: RecordedRequests,
        parts: &mut TaskParts<'_>,
    ) -> Result<()> {
        let Some(brief) = parts.briefs.get(step) else {
            return Ok(());
        };
        let model = brief.model.as_ref().map(|model| model.name.as_str());
        let mut exchange = Exchange::new(model.is_some_and(|model| self.backend.is_mailbox(model)));
        for reply in recorded.replies {
            let text = match reply.response {
                Some(digest) => {
                    let path = parts.writer.directory().response(step, reply.ask);
                    read_recorded(&path, digest, "reply")?
                }
                None => String::new(),
            };
            exchange.earlier_replies.push(EarlierReply {
                outcome: reply.outcome,
                text: text.into(),
                detail: reply.detail.map(Into::into),
            });
            exchange.stage = ExchangeStage::Replied;
        }
        if let Some(sent) = recorded.sent {
            exchange.stage = ExchangeStage::ToRender;
            if self.backend.is_mailbox(&sent.model) {
                // The journals count it as lost at its worst case, but it still waits for its reply.
                self.budget.undo_spent(&sent.reserved);
                exchange.in_mailbox = Some(sent);
            }
        }
        parts.briefs.start(step);
        self.exchanges.insert(step, exchange);
        Ok(())
    }

    /// Adds an event to the feedback for later prompts.
    pub(in crate::driver) fn note_event(&mut self, event: &Event) {
        self.feedback.note(event);
    }

    /// Cost so far, over all tasks of the run.
    pub(in crate::driver) fn spent(&self) -> Cost {
        self.budget.spent()
    }

    /// One line for each waiting request.
    pub(in crate::driver) fn waiting_lines(&self) -> Vec<String> {
        self.backend.waiting_lines()
    }

    /// Forgets all exchanges: the search has ended without them.
    pub(in crate::driver) fn clear(&mut self) {
        self.exchanges.clear();
    }

    /// Whether a rendered request does not fit into the budget, and no exchange in progress can free a reservation.
    pub(in crate::driver) fn is_out_of_budget(&self) -> bool {
        let is_in_progress = |stage| {
            matches!(
                stage,
                ExchangeStage::Sending | ExchangeStage::Parsing | ExchangeStage::Rendering
            )
        };
        let mut stages = self.exchanges.values().map(|exchange| exchange.stage);
        !stages.clone().any(is_in_progress)
            && stages.any(|stage| stage == ExchangeStage::AwaitingBudget)
    }

    /// The limits of the budget that forbid the next request, raised so that it fits. `highest`: the highest reservation so far.
    /// `None` if a request fits.
    pub(in crate::driver) fn limits_to_continue(
        &self,
        highest: Option<Cost>,
    ) -> Option<BudgetLimits> {
        let blocked = self
            .exchanges
            .values()
            .filter(|exchange| exchange.stage == ExchangeStage::AwaitingBudget);
        let requests = blocked.filter_map(|exchange| exchange.request.as_ref());
        let costs = requests.map(|request| request.worst_case).chain(highest);
        let cost = costs.reduce(|one, other| one.max_of_each(&other))?;
        self.budget.limits_to_fit(&cost)
    }

    /// Step and number of each request whose reply a mailbox does not have yet.
    pub(in crate::driver) fn awaited_replies(&self) -> Vec<(u64, u32)> {
        let awaited = self
            .exchanges
            .iter()
            .filter(|(_, exchange)| exchange.stage == ExchangeStage::AwaitingMailbox);
        awaited
            .map(|(step, exchange)| (*step, exchange.ask()))
            .collect()
    }

    /// Whether this process may end before the run does, because it does not wait for the replies of a mailbox.
    pub(in crate::driver) fn may_leave_requests(&self) -> bool {
        self.backend.may_leave_requests()
    }

    /// Whether a mailbox has no reply yet, and this process does not wait for it.
    pub(in crate::driver) fn awaits_mailbox(&self) -> bool {
        let mut exchanges = self.exchanges.values();
        exchanges.any(|exchange| exchange.stage == ExchangeStage::AwaitingMailbox)
    }

    /// Whether a request is in progress that is not in a mailbox.
    pub(in crate::driver) fn is_sending_outside_mailboxes(&self) -> bool {
        self.sending().any(|exchange| !exchange.is_mailbox)
    }

    /// Whether all work in progress is requests in mailboxes. `running`: the number of pieces of work in progress.
    pub(in crate::driver) fn has_only_mailbox_requests(&self, running: usize) -> bool {
        let sending = self.sending().count();
        sending > 0 && sending == running && !self.is_sending_outside_mailboxes()
    }

    /// Whether no more requests are sent because of a fatal failure.
    pub(in crate::driver) fn has_fatal(&self) -> bool {
        self.fatal.is_some()
    }

    /// Takes the failure that ends the run.
    pub(in crate::driver) fn take_fatal(&mut self) -> Option<Failure> {
        self.fatal.take()
    }

    /// Whether another request may be in progress. Requests to mailboxes always may.
    pub(super) fn has_room(&self, step: u64) -> bool {
        let is_mailbox = self
            .exchanges
            .get(&step)
            .map(|exchange| exchange.is_mailbox);
        let occupies_slot = |exchange: &&Exchange| {
            let stage = exchange.stage;
            !exchange.is_mailbox
                && matches!(
                    stage,
                    ExchangeStage::Rendering
                        | ExchangeStage::AwaitingBudget
                        | ExchangeStage::Sending
                )
        };
        is_mailbox == Some(true)
            || self.exchanges.values().filter(occupies_slot).count() < self.concurrency
    }

    /// Whether the run is about to end, so that a reply would not be used.
    pub(super) fn sends_no_more(&self, parts: &TaskParts<'_>) -> bool {
        self.has_fatal() || parts.is_stopped || parts.search.stop_reason().is_some()
    }

    pub(super) fn exchange_mut(&mut self, step: u64) -> Result<&mut Exchange> {
        self.exchanges
            .get_mut(&step)
            .with_context(|| format!("step {step} is over, but a request of it is in progress"))
    }

    fn sending(&self) -> impl Iterator<Item = &Exchange> {
        let exchanges = self.exchanges.values();
        exchanges.filter(|exchange| exchange.stage == ExchangeStage::Sending)
    }
}
