//! The search: decides a brief for every step, receives the events of steps, and keeps the fastest kernel of each kind.
//!
//! A pure state machine: it opens no file, reads no clock, uses no socket or thread, and stores no random generator. A live run
//! and a resume pass it the same events through `tell` and reach the same state.
//!
//! **The fold.** A step is folded once its events are complete: in the order in which the journal made them complete
//! ([`FoldOrder::Journal`]), so no step waits for another. Whenever a step has been folded, the window has room for another brief. It is
//! decided from exactly that state, and `ask` returns it; the first briefs are decided at the start. A brief that asks a model, and those
//! after it, wait until all starting kernels are folded, so that no model is asked about a kernel without a verdict. Steps that ask a model
//! take at most half of the window, so that kforge's own operators always have room. The state follows from the settings, the seed, the
//! starting kernels and the events in their order.
//!
//! Runs of earlier versions have [`FoldOrder::Step`]: steps are folded by their numbers, and the brief of step n is decided when step
//! n - window has been folded. There the state does not depend on the order of the events.
//!
//! **What completes a step**: a `failed` event; or a `proposed` and a `judged` event; or a `proposed` event alone, if a step before it
//! has the same source: the step is then a duplicate whatever other events say. Before it means in the journal, whatever the numbers of
//! the steps. In step order it means a smaller number: a `failed: duplicate` of a *later* step
//! takes over the verdict of that step, and the later step becomes the duplicate. A candidate whose compiled code is that of an earlier
//! step has a `proposed` event and a `failed: duplicate`. A `judged: harness_error` is not a result: the
//! step waits for another `judged` event, or for a `failed: harness_error` event, which closes the step permanently.
//!
//! **Dismissed candidates.** A judgement may end early if the candidate is surely slower than an incumbent, or leave checks undone that
//! only matter for a fast kernel. Such a candidate has passed, but it is no elite and no parent, and no prompt shows it. The incumbents
//! that the judge compares with ([`Search::incumbents`]) depend on which verdicts have arrived, so they do not belong to the state. The
//! verdict has the result.
//!
//! **Duels.** If a candidate has a better estimate than the elite of its cell, but the intervals overlap, the fold stops until a
//! `dueled` event has the result of timing both against each other. Steps that become complete meanwhile are folded after it.

use std::collections::{BTreeMap, VecDeque};

use crate::base::Digest;
use crate::event::{Brief, Event, StopReason, StrongestCompared};
use crate::verdict::{Duel, Speedup, Status, VerdictSummary};

mod anchor;
mod archive;
mod candidate_pool;
mod cholesky;
mod completion;
mod confirmation;
mod credit;
mod divergence;
mod families;
mod features;
mod fold;
mod front;
mod in_flight;
mod incumbents;
mod islands;
mod judging;
mod known_code;
mod ledger;
mod model_brief;
mod near_copies;
mod operator_weights;
mod order;
mod parent_pool;
mod pending;
mod planner;
mod point_choice;
mod point_table;
mod population;
mod predictions;
mod remeasure;
mod resolution;
mod results;
mod retirement;
mod settings;
mod stop_rules;
mod surrogate;
#[cfg(test)]
mod tests;
mod tunable_space;
mod tune_first;
mod updates;
mod view;
mod window;

pub use anchor::{Anchor, AnchorWorkload};
pub(crate) use archive::{Archive, ChallengeOutcome, Elite};
pub use features::FEATURES;
pub(crate) use features::FeatureSources;
pub use incumbents::Incumbents;
pub(crate) use islands::Island;
pub use islands::IslandSettings;
pub use known_code::KnownCode;
pub use ledger::{ArchiveDecision, StepOutcome};
pub(crate) use ledger::{OperatorCounts, SearchCounts, StepRecord};
pub use near_copies::{NearCopyAction, NearCopySettings};
pub use operator_weights::OperatorWeights;
pub use order::FoldOrder;
pub(crate) use results::{ResultCounts, Results};
pub use settings::{SearchMode, SearchSettings, Strategy, TasksTarget, WorkloadTarget};
pub(crate) use updates::{Confirmation, UnfinishedStep};
pub use updates::{DuelRequest, SearchUpdate};
pub use view::ModelPool;

use families::Families;
use front::Front;
use in_flight::StepsInFlight;
use islands::Islands;
use known_code::CodeLog;
use ledger::Ledger;
use near_copies::NearCopies;
use pending::PendingStep;
use planner::Planner;

/// The state of one task's search.
#[derive(Debug)]
pub struct Search {
    settings: SearchSettings,
    seed: u64,
    window: u64,
    order: FoldOrder,
    steps: u64,
    starting_kernels: Vec<String>,
    model_pool: ModelPool,
    /// The baseline's source. `None` if it is unknown.
    baseline: Option<Digest>,

    archive: Archive,
    islands: Islands,
    ledger: Ledger,
    families: Families,
    planner: Planner,
    in_flight: StepsInFlight,
    /// The events of steps that have not been folded.
    pending: BTreeMap<u64, PendingStep>,
    /// Only in journal order: the steps that are complete and not folded, in the order in which they became complete.
    complete: VecDeque<u64>,
    pending_duel: Option<DuelRequest>,
    /// Why the fold ended. `None` also if only the planned steps have run out.
    stopped: Option<StopReason>,
    /// The last kernel that was proven faster than the previous value of this field, and its speedup.
    best_proven: Option<(u64, Speedup)>,
    /// The number of folded steps at the last proven improvement, and at least when the last starting kernel was folded.
    last_gain: u64,
    /// The fastest kernels, for `search.stop_when_unlikely`.
    front: Front,
    /// The target that the step that is folded now has reached as an elite.
    reached: Option<StopReason>,
    /// Only used in step order: how many of the last folded steps, without a gap, had an exhausted brief and brought no candidate.
    exhausted_in_a_row: u64,
    confirmations: BTreeMap<u64, Confirmation>,
    /// Kernels that were timed against a starting kernel. `None`: without a result.
    comparisons: BTreeMap<DuelRequest, Option<Duel>>,
    /// The best kernels that were timed against the strongest baselines, by step.
    beside_strongest: BTreeMap<u64, StrongestCompared>,
    /// Steps whose source is in the folder of a later step that proposed it first, and that later step.
    source_steps: BTreeMap<u64, u64>,
    code_log: CodeLog,
    near_copies: NearCopies,
    results: Results,
    /// The starting kernels whose last verdict passed and was timed in full, and their speedups.
    start_speedups: BTreeMap<u64, f64>,
}

impl Search {
    /// A search without models, which uses kforge's own operators only, in journal order.
    ///
    /// `settings` must have passed `SearchSettings::check`. `window` is how many steps may be in flight, `steps` how many are
    /// planned; `starting_kernels` are file names.
    pub fn new(
        settings: &SearchSettings,
        seed: u64,
        window: u64,
        steps: u64,
        starting_kernels: &[String],
    ) -> Self {
        let archive = Archive::new(&settings.features);
        let mut search = Self {
            settings: settings.clone(),
            seed,
            window: window.max(1),
            order: FoldOrder::Journal,
            steps,
            starting_kernels: starting_kernels.to_vec(),
            model_pool: ModelPool::default(),
            baseline: None,
            islands: Islands::new(settings.islands, &archive),
            archive,
            ledger: Ledger::default(),
            families: Families::new(seed),
            planner: Planner::default(),
            in_flight: StepsInFlight::default(),
            pending: BTreeMap::new(),
            complete: VecDeque::new(),
            pending_duel: None,
            stopped: None,
            best_proven: None,
            last_gain: 0,
            front: Front::default(),
            reached: None,
            exhausted_in_a_row: 0,
            confirmations: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            beside_strongest: BTreeMap::new(),
            source_steps: BTreeMap::new(),
            code_log: CodeLog::default(),
            near_copies: NearCopies::default(),
            results: Results::default(),
            start_speedups: BTreeMap::new(),
        };
        search.plan_first_steps();
        search
    }

    /// The same search with models to choose from. Call it before the first `tell`.
    #[must_use]
    pub fn with_models(self, model_pool: ModelPool) -> Self {
        Self { model_pool, ..self }.planned_again()
    }

    /// The same search with another order of the fold. Call it before the first `tell`.
    #[must_use]
    pub fn with_order(self, order: FoldOrder) -> Self {
        Self { order, ..self }.planned_again()
    }

    fn planned_again(self) -> Self {
        let mut search = Self {
            families: Families::new(self.seed),
            planner: Planner::default(),
            in_flight: StepsInFlight::default(),
            stopped: None,
            ..self
        };
        search.plan_first_steps();
        search
    }

    /// The same search with a baseline: a candidate with its source is never the best kernel.
    #[must_use]
    pub(crate) fn with_baseline(self, baseline: Digest) -> Self {
        Self {
            baseline: Some(baseline),
            ..self
        }
    }

    /// The brief of a step. `None` for steps that are folded or not decided yet, and if the search is over.
    pub fn ask(&self, step: u64) -> Option<Brief> {
        if step > self.steps || self.stopped.is_some() {
            return None;
        }
        let planned = self.in_flight.get(step)?;
        Some(planned.brief.clone())
    }

    /// Applies an event; the only way to change the state besides `set_steps`. Folded steps do not change, except that an elite
    /// may be judged again.
    ///
    /// `stopped` events are ignored. Where and why a search ends is decided here; a stop because time ran out belongs to the
    /// driver, and a later run continues past it.
    pub fn tell(&mut self, event: &Event) -> Vec<SearchUpdate> {
        let mut updates = Vec::new();
        if let Event::Confirmed(confirmed) = event {
            self.record_confirmation(confirmed, &mut updates);
            return updates;
        }
        if let Event::Compared(compared) = event {
            self.record_comparison(compared);
            return updates;
        }
        if let Event::StrongestCompared(compared) = event {
            self.record_strongest(compared);
            return updates;
        }
        if let Event::Judged(judged) = event {
            return self.tell_judged(judged.step, &(&judged.verdict).into());
        }
        if let Some(step) = event.step().filter(|step| !self.ledger.contains(*step)) {
            self.store_event(step, event, &mut updates);
            self.queue_if_complete(step);
            self.advance(&mut updates);
        }
        updates
    }

    /// Applies a `judged` event, as `tell` does. A resume passes only the part of a verdict that a search needs.
    pub(crate) fn tell_judged(&mut self, step: u64, verdict: &VerdictSummary) -> Vec<SearchUpdate> {
        let mut updates = Vec::new();
        if verdict.status != Status::HarnessError {
            self.note_start_verdict(step, verdict);
        }
        if self.ledger.contains(step) {
            self.remeasure_elite(step, verdict, &mut updates);
        } else {
            self.store_verdict(step, verdict, &mut updates);
            self.queue_if_complete(step);
            self.advance(&mut updates);
        }
        updates
    }

    /// The duel that the fold is waiting for.
    pub fn pending_duel(&self) -> Option<DuelRequest> {
        self.pending_duel
    }

    /// Why the search is over; `None` while it is not. The folded steps are those that count.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stopped
            .or((self.folded() >= self.steps).then_some(StopReason::Steps))
    }

    /// The setting `search.patience`.
    pub(crate) fn patience(&self) -> Option<u64> {
        self.settings.patience
    }

    /// Whether an operator that asks a model has a weight.
    pub(crate) fn may_ask_models(&self) -> bool {
        let weights = &self.settings.operators;
        weights.propose + weights.edit + weights.crossover + weights.repair > 0.0
    }

    /// Changes how many steps are planned. The briefs are the same as those of a search with this many steps from the start.
    pub(crate) fn set_steps(&mut self, steps: u64) -> Vec<SearchUpdate> {
        self.steps = steps;
        let mut updates = Vec::new();
        self.advance(&mut updates);
        updates
    }

    /// The number of folded steps.
    pub fn folded(&self) -> u64 {
        self.ledger.folded()
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The islands in their order. Empty if the search has none.
    pub(crate) fn islands(&self) -> &[Island] {
        self.islands.all()
    }

    pub fn counts(&self) -> &SearchCounts {
        &self.ledger.counts
    }

    /// The steps that were folded first, at most `count` of them, the last of them first.
    pub(crate) fn latest_of(&self, count: u64) -> impl Iterator<Item = u64> {
        self.ledger.latest_of(count)
    }

    /// Children against their parents, over the folded steps.
    pub(crate) fn results(&self) -> &Results {
        &self.results
    }

    /// The record of a folded step.
    pub(crate) fn record(&self, step: u64) -> Option<&StepRecord> {
        self.ledger.get(step)
    }

    /// The number of starting kernels: the first steps try one each.
    pub(crate) fn starting_kernel_count(&self) -> u64 {
        self.starting_kernels.len() as u64
    }

    /// The name of the starting kernel that a step has tried.
    pub(crate) fn starting_kernel(&self, step: u64) -> Option<&str> {
        let index = usize::try_from(step.checked_sub(1)?).ok()?;
        self.starting_kernels.get(index).map(String::as_str)
    }

    /// The step whose folder has the source of `step`: the step itself, unless it took over the verdict of a later step.
    pub(crate) fn source_step(&self, step: u64) -> u64 {
        self.source_steps.get(&step).copied().unwrap_or(step)
    }

    /// The steps that have events but lack a proposal or a verdict, in order. A resumed run continues with them.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = UnfinishedStep<'_>> {
        self.pending.iter().filter_map(|(step, pending)| {
            let proposed = pending.proposed.as_ref();
            let is_duplicate = proposed
                .is_some_and(|proposed| self.ledger.step_of_kernel(&proposed.kernel).is_some());
            let is_finished = pending.failed.is_some()
                || pending.judged.is_some()
                || is_duplicate
                || pending.is_queued;
            (!is_finished).then_some(UnfinishedStep {
                step: *step,
                proposed,
            })
        })
    }
}
