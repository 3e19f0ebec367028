//! The turns of results in a run that replays another: a result waits until the replayed run had it.
//!
//! The search folds steps in the order in which they become complete, so the same answers and verdicts lead to the same briefs only in
//! the same order. Knows which proposals and verdicts came when, and at which points proposals were tried; holds results, and never changes
//! one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;

use anyhow::Result;

use super::asking::RepliesOutcome;
use super::fault_policy::harness_fault;
use super::running::{Evaluation, EvaluationPurpose, WorkResult};
use crate::base::Digest;
use crate::event::{EvaluationSeconds, Event, Proposed, ReplayedEvent, TriedPoints};
use crate::run::Journal;
use crate::verdict::Status;

/// A result that changes the state of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Turn {
    /// The candidate of a step, or why it has none.
    Proposal(u64),
    /// What the judge says about the candidate of a step.
    Verdict(u64),
}

/// The order of an earlier run's results, and the results that wait for their turn.
#[derive(Default)]
pub(super) struct ReplayTurns {
    /// The turns that have not come yet.
    turns: VecDeque<Turn>,
    held: Vec<(Turn, WorkResult)>,
    /// The family of each candidate whose points were tried, and what was found, by step.
    tried: HashMap<u64, (Digest, TriedPoints)>,
}

impl ReplayTurns {
    /// The turns of the journal `replayed` that the journal `own` does not have. A journal that does not exist has none.
    ///
    /// # Errors
    /// If a journal is damaged.
    pub(super) fn open(replayed: &Path, own: &Path) -> Result<Self> {
        let taken: HashSet<Turn> = read_turns(own, |_| ())?.into_iter().collect();
        let mut tried = HashMap::new();
        let mut turns = read_turns(replayed, |proposed| {
            let points = proposed.tried.clone();
            tried.extend(points.map(|points| (proposed.step, (proposed.family, points))));
        })?;
        turns.retain(|turn| !taken.contains(turn));
        Ok(Self {
            turns: turns.into(),
            held: Vec::new(),
            tried,
        })
    }

    /// What the replayed run found at the points of this step, if the proposal is of the same family. It costs nothing again.
    pub(super) fn tried(&self, step: u64, family: Digest) -> Option<TriedPoints> {
        let (recorded, tried) = self.tried.get(&step)?;
        (*recorded == family).then(|| TriedPoints {
            seconds: EvaluationSeconds::default(),
            ..tried.clone()
        })
    }

    /// Adds results, and returns those whose turn it is, in the order of their turns. Results without a turn of their own come at once,
    /// unless the replayed run would have had them later: proposals and verdicts.
    pub(super) fn take_due(&mut self, results: Vec<WorkResult>) -> Vec<WorkResult> {
        let mut due = Vec::new();
        for result in results.into_iter().flat_map(single_results) {
            match turn_of(&result) {
                Some(turn) => self.held.push((turn, result)),
                None => due.push(result),
            }
        }
        self.take_next(&mut due);
        due
    }

    /// Returns the next results although other turns come before theirs. For the moment when nothing else is in progress: this run
    /// will not have the results of those turns. Empty if none is held.
    pub(super) fn take_overdue(&mut self) -> Vec<WorkResult> {
        let is_held = |turn: &Turn| self.held.iter().any(|(held, _)| held == turn);
        let skipped = self.turns.iter().position(is_held);
        self.turns.drain(..skipped.unwrap_or(self.turns.len()));
        let mut due = Vec::new();
        self.take_next(&mut due);
        due
    }

    /// Returns all results, because the search has ended: those with a turn first.
    pub(super) fn take_all(&mut self) -> Vec<WorkResult> {
        let mut due = Vec::new();
        while !self.held.is_empty() {
            due.extend(self.take_overdue());
        }
        due
    }

    fn take_next(&mut self, due: &mut Vec<WorkResult>) {
        while let Some(next) = self.turns.front() {
            let Some(place) = self.held.iter().position(|(turn, _)| turn == next) else {
                return;
            };
            due.push(self.held.remove(place).1);
            self.turns.pop_front();
        }
        due.extend(self.held.drain(..).map(|(_, result)| result));
    }
}

/// The results of a batch of proposals, one by one.
fn single_results(result: WorkResult) -> Vec<WorkResult> {
    match result {
        WorkResult::Proposed(proposals) => proposals
            .into_iter()
            .map(|proposal| WorkResult::Proposed(vec![proposal]))
            .collect(),
        result => vec![result],
    }
}

/// The turn that a result takes. `None` if it does not change the state of the search.
fn turn_of(result: &WorkResult) -> Option<Turn> {
    match result {
        WorkResult::Proposed(proposals) => Some(Turn::Proposal(proposals.first()?.0)),
        WorkResult::Parsed(step, replies) => {
            let ends_step = !matches!(replies.outcome, RepliesOutcome::AskAgain);
            ends_step.then_some(Turn::Proposal(*step))
        }
        WorkResult::Evaluated(Evaluation {
            step,
            purpose: EvaluationPurpose::Judge,
            outcome: Ok(outcome),
            ..
        }) => harness_fault(outcome)
            .is_none()
            .then_some(Turn::Verdict(*step)),
        WorkResult::Evaluated(_) | WorkResult::Rendered(..) | WorkResult::Replied(..) => None,
    }
}

/// The turns of a journal, in its order. `note` gets every proposal.
fn read_turns(journal: &Path, mut note: impl FnMut(&Proposed)) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    let mut seen = HashSet::new();
    if !journal.exists() {
        return Ok(turns);
    }
    Journal::read(journal, |_, event: ReplayedEvent| {
        let turn = match event {
            ReplayedEvent::Judged(judged) => (judged.verdict.status != Status::HarnessError)
                .then_some(Turn::Verdict(judged.step)),
            ReplayedEvent::Other(event) => match *event {
                Event::Proposed(proposed) => {
                    note(&proposed);
                    Some(Turn::Proposal(proposed.step))
                }
                // A candidate that failed has a `proposed` event before.
                Event::Failed(failed) if seen.contains(&Turn::Proposal(failed.step)) => {
                    Some(Turn::Verdict(failed.step))
                }
                Event::Failed(failed) => Some(Turn::Proposal(failed.step)),
                _ => None,
            },
        };
        // An elite may have been judged again.
        turns.extend(turn.filter(|turn| seen.insert(*turn)));
        Ok(())
    })?;
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::BriefOutcome;

    fn proposed(steps: &[u64]) -> WorkResult {
        let proposals = steps.iter().map(|step| {
            let outcome = BriefOutcome::NoOp(String::new());
            (*step, Ok(outcome))
        });
        WorkResult::Proposed(proposals.collect())
    }

    fn steps(results: Vec<WorkResult>) -> Vec<u64> {
        let turns = results.iter().filter_map(turn_of);
        turns
            .map(|turn| match turn {
                Turn::Proposal(step) | Turn::Verdict(step) => step,
            })
            .collect()
    }

    fn turns(steps: &[u64]) -> ReplayTurns {
        ReplayTurns {
            turns: steps.iter().map(|step| Turn::Proposal(*step)).collect(),
            ..ReplayTurns::default()
        }
    }

    #[test]
    fn results_come_in_the_recorded_order() {
        let mut turns = turns(&[3, 1, 2]);
        assert_eq!(steps(turns.take_due(vec![proposed(&[1, 2])])), [0; 0]);
        assert_eq!(steps(turns.take_due(vec![proposed(&[3])])), [3, 1, 2]);
        // After the last turn nothing waits.
        assert_eq!(steps(turns.take_due(vec![proposed(&[9])])), [9]);
    }

    #[test]
    fn turn_that_never_comes_is_skipped_when_nothing_else_is_in_progress() {
        let mut turns = turns(&[4, 1, 5, 2]);
        assert_eq!(steps(turns.take_due(vec![proposed(&[2, 1])])), [0; 0]);
        assert_eq!(steps(turns.take_overdue()), [1]);
        assert_eq!(steps(turns.take_overdue()), [2]);
        assert_eq!(steps(turns.take_overdue()), [0; 0]);
    }

    #[test]
    fn results_without_a_turn_come_last() {
        let mut turns = turns(&[2, 1]);
        assert_eq!(steps(turns.take_due(vec![proposed(&[7, 2])])), [2]);
        assert_eq!(steps(turns.take_due(vec![proposed(&[1])])), [1, 7]);
    }

    #[test]
    fn all_results_come_at_the_end_of_the_search() {
        let mut turns = turns(&[4, 1, 5, 2]);
        turns.take_due(vec![proposed(&[7, 2, 1])]);
        assert_eq!(steps(turns.take_all()), [1, 2, 7]);
    }
}
