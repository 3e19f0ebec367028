//! Reads the journal of a task into its history, line by line.
//!
//! Never fails: what cannot be read is part of the history.

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;

use super::archive::ArchiveGrid;
use super::line::{HistoryLine, JudgedLine};
use super::run_log::TaskLog;
use super::step::{Outcome, StepHistory};
use super::task::{Confirmation, TaskHistory};
use crate::base::Digest;
use crate::event::{Brief, Failed, Proposed, Replied, Sent};
use crate::run::{Journal, LineHead, TaskDirectory, parse_timestamp};
use crate::search::FoldOrder;
use crate::verdict::{Duel, DuelOutcome, Status};

/// The longest reason that is kept of a step, in characters.
const MAX_REASON_CHARS: usize = 600;

/// The most steps that are read. Numbers of damaged lines could otherwise claim any amount of memory.
const MAX_STEPS: u64 = 2_000_000;

/// What the reader of a task must know.
pub(super) struct TaskParts {
    pub(super) folder: TaskDirectory,
    /// The axes of the archive.
    pub(super) axes: IndexMap<String, Vec<f64>>,
    pub(super) baseline: Option<Digest>,
    /// The order in which the search took the results of steps.
    pub(super) order: FoldOrder,
}

/// Reads the journal of a task. Without a journal the history is empty.
pub(super) fn read_task(name: &str, parts: TaskParts, log: &TaskLog) -> TaskHistory {
    let journal = parts.folder.journal();
    let mut reader = Reader::new(name, parts);
    if journal.is_file() {
        let read = Journal::read(&journal, |head, line: HistoryLine| {
            reader.apply(head, line, log);
            Ok(())
        });
        reader.task.damage = read.err().map(|error| format!("{error:#}"));
    }
    reader.finish()
}

/// Builds the history of a task line by line.
pub(super) struct Reader {
    task: TaskHistory,
    baseline: Option<Digest>,
    order: FoldOrder,
    /// The steps that ended, in the order of the journal. A step that was judged again is there more than once.
    ended: Vec<u64>,
    name_indices: HashMap<String, u32>,
    /// The last duel of each pair: challenger, incumbent.
    duels: HashMap<(u64, u64), Option<Duel>>,
    /// What requests without a reply may cost, by step and request.
    reserved: BTreeMap<(u64, u32), (u64, Option<u64>)>,
    is_price_known: bool,
    last_milliseconds: Option<u64>,
    /// How long judgements have held the device.
    device_seconds: f64,
}

impl Reader {
    pub(super) fn new(name: &str, parts: TaskParts) -> Self {
        Self {
            task: TaskHistory {
                name: name.to_owned(),
                grid: ArchiveGrid::new(&parts.axes),
                folder: parts.folder,
                steps: Vec::new(),
                names: Vec::new(),
                workloads: Vec::new(),
                confirmations: BTreeMap::new(),
                comparisons: Vec::new(),
                beside_strongest: BTreeMap::new(),
                stopped: None,
                baseline: None,
                device: None,
                self_tests: Vec::new(),
                baseline_step: None,
                tokens: 0,
                nano_usd: Some(0),
                seconds: 0.0,
                last_event: String::new(),
                damage: None,
            },
            baseline: parts.baseline,
            order: parts.order,
            ended: Vec::new(),
            name_indices: HashMap::new(),
            duels: HashMap::new(),
            reserved: BTreeMap::new(),
            is_price_known: true,
            last_milliseconds: None,
            device_seconds: 0.0,
        }
    }

    /// The history so far. The archive is that of the last `fill_archive`.
    pub(super) fn history(&self) -> &TaskHistory {
        &self.task
    }

    /// How long judgements have held the device, in seconds.
    pub(super) fn device_seconds(&self) -> f64 {
        self.device_seconds
    }

    /// Applies the next line of the journal. `log`: what the run's journal says of the task.
    pub(super) fn apply(&mut self, head: &LineHead<'_>, line: HistoryLine, log: &TaskLog) {
        self.note_time(head, &log.starts);
        self.device_seconds += line.device_seconds();
        let is_current = log.sessions.is_after_change(head.seq, head.time);
        match line {
            HistoryLine::Asked(brief) => self.asked(*brief),
            HistoryLine::Sent(sent) => self.sent(&sent),
            HistoryLine::Replied(replied) => self.replied(&replied),
            HistoryLine::Proposed(proposed) => self.proposed(*proposed),
            HistoryLine::Failed(failed) => self.failed(*failed),
            HistoryLine::Judged(judged) => self.judged(*judged),
            HistoryLine::Dueled(dueled) => {
                self.duels
                    .insert((dueled.step, dueled.against), dueled.duel);
            }
            // Confirmations from before an accepted change no longer count.
            HistoryLine::Confirmed(confirmed) if is_current => {
                let mut verdict = confirmed.verdict;
                if verdict.status != Status::HarnessError {
                    verdict.accesses.clear();
                    verdict.seeds.clear();
                    let confirmation = Confirmation::new(verdict);
                    self.task.confirmations.insert(confirmed.step, confirmation);
                }
            }
            HistoryLine::Compared(compared) if is_current => self.task.comparisons.push(*compared),
            HistoryLine::StrongestCompared(compared) if is_current => {
                (self.task.beside_strongest).insert(compared.step, *compared);
            }
            HistoryLine::Stopped(stopped) => self.task.stopped = Some(stopped),
            HistoryLine::Confirmed(_)
            | HistoryLine::Compared(_)
            | HistoryLine::StrongestCompared(_)
            | HistoryLine::Unknown => {}
        }
    }

    /// Adds the time since the last line, unless another session wrote that line. A clock that steps back adds nothing.
    fn note_time(&mut self, head: &LineHead<'_>, starts: &[u64]) {
        head.time.clone_into(&mut self.task.last_event);
        let Some(now) = parse_timestamp(head.time) else {
            return;
        };
        let is_new_session = starts.contains(&(head.seq - 1));
        if let (Some(last), false) = (self.last_milliseconds, is_new_session) {
            self.task.seconds += now.saturating_sub(last) as f64 / 1000.0;
        }
        self.last_milliseconds = Some(now);
    }

    /// A step, with the time of its last event. `None` for an impossible number.
    fn step(&mut self, step: u64) -> Option<&mut StepHistory> {
        if step == 0 || step > MAX_STEPS {
            return None;
        }
        let count = usize::try_from(step).ok()?;
        while self.task.steps.len() < count {
            let step = self.task.steps.len() as u64 + 1;
            self.task.steps.push(StepHistory {
                step,
                ..StepHistory::default()
            });
        }
        let (seconds, spent) = (self.task.seconds, self.task.nano_usd);
        let entry = self.task.steps.get_mut(count - 1)?;
        entry.at_seconds = seconds;
        entry.spent_nano_usd = spent;
        Some(entry)
    }

    fn name_index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.name_indices.get(name) {
            return *index;
        }
        let index = self.task.names.len() as u32;
        self.task.names.push(name.to_owned());
        self.name_indices.insert(name.to_owned(), index);
        index
    }

    fn asked(&mut self, brief: Brief) {
        let model = brief
            .model
            .as_ref()
            .map(|model| self.name_index(&model.name));
        let card = brief.model.as_ref().and_then(|model| model.card.clone());
        let card = card.map(|card| self.name_index(&card));
        let Some(step) = self.step(brief.step) else {
            return;
        };
        step.operator = Some(brief.operator);
        step.island = brief.island;
        step.parents = brief.parents.into();
        step.model = model;
        step.card = card;
        step.detail = brief.start.unwrap_or_default().into();
    }

    fn sent(&mut self, sent: &Sent) {
        let prompts = self.name_index(&sent.prompts);
        let reserved = (sent.reserved.tokens, sent.reserved.nano_usd);
        self.reserved.insert((sent.step, sent.ask), reserved);
        if let Some(step) = self.step(sent.step) {
            step.prompts = Some(prompts);
            step.requests += 1;
        }
    }

    fn replied(&mut self, replied: &Replied) {
        self.reserved.remove(&(replied.step, replied.ask));
        self.pay(replied.step, replied.cost.tokens, replied.cost.nano_usd);
    }

    fn pay(&mut self, step: u64, tokens: u64, nano_usd: Option<u64>) {
        self.is_price_known &= nano_usd.is_some() || tokens == 0;
        self.task.tokens = self.task.tokens.saturating_add(tokens);
        let nano = nano_usd.unwrap_or(0);
        let sum = self.task.nano_usd.map(|sum| sum.saturating_add(nano));
        self.task.nano_usd = sum.filter(|_| self.is_price_known);
        if let Some(step) = self.step(step) {
            step.tokens = step.tokens.saturating_add(tokens);
            step.nano_usd = step.nano_usd.saturating_add(nano);
        }
    }

    fn proposed(&mut self, proposed: Proposed) {
        if self.baseline == Some(proposed.kernel) && self.task.baseline_step.is_none() {
            self.task.baseline_step = Some(proposed.step);
        }
        let Some(step) = self.step(proposed.step) else {
            return;
        };
        step.operator = Some(proposed.operator);
        step.parents = proposed.parents.into();
        step.detail = shorten(&proposed.detail);
        step.kernel = Some(proposed.kernel);
        step.expected = proposed.expected.map(|expected| expected as f32);
    }

    fn failed(&mut self, failed: Failed) {
        self.ended.push(failed.step);
        let Some(step) = self.step(failed.step) else {
            return;
        };
        step.outcome = Outcome::Failed(failed.reason);
        step.reason = failed.detail.as_deref().map(shorten);
        step.duplicate_of = failed.of;
    }

    fn judged(&mut self, judged: JudgedLine) {
        let verdict = judged.verdict;
        let outcome = match verdict.status {
            Status::Passed if verdict.summary().is_dismissed() => Outcome::Dismissed,
            Status::Passed if verdict.speedup.is_none() => Outcome::NotPassed(Status::Inconclusive),
            Status::Passed => Outcome::Passed,
            status => Outcome::NotPassed(status),
        };
        if self.task.workloads.is_empty() {
            let timed = verdict.workloads.iter().filter(|one| !one.hidden);
            self.task.workloads = timed.map(|one| one.id.clone()).collect();
        }
        let on_workloads = self.task.workloads.iter().map(|id| {
            let mut found = verdict.workloads.iter();
            let found = found.find(|one| one.id == *id && !one.hidden);
            let speedup = found.and_then(|found| found.speedup);
            speedup.map_or(f32::NAN, |speedup| speedup as f32)
        });
        let on_workloads: Box<[f32]> = on_workloads.collect();
        if self.task.baseline.is_none() {
            self.task.baseline = verdict.baseline.clone();
        }
        if self.task.device.is_none() {
            self.task.device = verdict.device.clone();
        }
        if outcome == Outcome::Passed {
            self.task.grid.note(judged.step, &verdict.features);
        }
        if outcome != Outcome::NotPassed(Status::HarnessError) {
            self.ended.push(judged.step);
        }
        let Some(step) = self.step(judged.step) else {
            return;
        };
        step.outcome = outcome;
        step.reason = verdict.reason.as_deref().map(shorten);
        step.speedup = verdict.speedup.filter(|_| verdict.status == Status::Passed);
        step.on_workloads = on_workloads;
        step.judge_seconds = verdict.seconds.total() as f32;
    }

    /// The whole history, with what requests without a reply may cost.
    fn finish(mut self) -> TaskHistory {
        for ((step, _), (tokens, nano_usd)) in std::mem::take(&mut self.reserved) {
            self.pay(step, tokens, nano_usd);
        }
        self.fill_archive();
        self.task
    }

    /// Fills the archive as the search did, from its start.
    pub(super) fn fill_archive(&mut self) {
        let counted = self.counted_steps();
        self.task.grid.clear();
        for number in counted {
            let step = usize::try_from(number - 1).ok();
            let Some(step) = step.and_then(|index| self.task.steps.get_mut(index)) else {
                continue;
            };
            let Some(speedup) = step.speedup.filter(|_| step.outcome == Outcome::Passed) else {
                continue;
            };
            let duel = |against| {
                let duel: Option<&Option<Duel>> = self.duels.get(&(number, against));
                duel.copied()
                    .flatten()
                    .map(|duel| -> DuelOutcome { duel.outcome() })
            };
            step.added = self.task.grid.offer(number, speedup, duel);
        }
    }

    /// The steps whose results the search took, in its order. After a stop, steps in flight do not count.
    fn counted_steps(&self) -> Vec<u64> {
        let last = self.task.stopped.as_ref().map_or(u64::MAX, |stop| stop.at);
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let mut steps = match self.order {
            FoldOrder::Step => (1..=self.task.steps.len() as u64).collect(),
            FoldOrder::Journal => {
                let mut is_known = HashSet::new();
                let mut steps = self.ended.clone();
                steps.retain(|step| *step > 0 && is_known.insert(*step));
                steps
            }
        };
        steps.truncate(last);
        steps
    }
}

/// The start of an untrusted text.
fn shorten(text: &str) -> Box<str> {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}
