//! kforge's own operators as a proposer: no model, no waiting.

use anyhow::Context;

use super::proposer::{BriefOutcome, Candidate, Parent, Proposer};
use crate::device::LockFile;
use crate::eval::TimingLock;
use crate::event::{Brief, Operator};
use crate::propose;
use crate::task::Task;

/// Starting kernels, `autotune`, `mutate` and `recombine`.
pub struct Operators {
    /// Where the device is the host, nothing is proposed while a launch is timed.
    timing_lock: Option<TimingLock>,
}

impl Operators {
    /// `lock`: the host's, where it is the device that judges.
    pub fn new(lock: Option<LockFile>) -> anyhow::Result<Self> {
        Ok(Self {
            timing_lock: lock.map(TimingLock::open).transpose()?,
        })
    }
}

impl Proposer for Operators {
    fn propose(
        &self,
        brief: &Brief,
        parents: &[Parent],
        task: &Task,
    ) -> anyhow::Result<BriefOutcome> {
        let _sharing = self
            .timing_lock
            .as_ref()
            .map(TimingLock::shared)
            .transpose()?;
        let start;
        let mut given: Vec<_> = parents
            .iter()
            .map(|parent| propose::Parent {
                step: parent.step,
                source: &parent.source,
            })
            .collect();
        if brief.operator == Operator::Start {
            let name = brief
                .start
                .as_deref()
                .context("a starting step names no kernel")?;
            start = task
                .kernels
                .get(name)
                .with_context(|| format!("task `{}` has no starting kernel `{name}`", task.name))?;
            given = vec![propose::Parent {
                step: brief.step,
                source: start,
            }];
        }
        let proposal = match propose::propose(brief, &given, task) {
            propose::Answer::Proposal(proposal) => proposal,
            propose::Answer::NoOp(reason) => return Ok(BriefOutcome::NoOp(reason)),
        };
        let candidate = Candidate::from_source(proposal.source, proposal.detail, task);
        Ok(BriefOutcome::Candidate(candidate))
    }
}
