//! kforge's own operators as a proposer: no model, no waiting.

use anyhow::Context;

use super::proposer::{Answer, Candidate, Parent, Proposer};
use crate::device::Lock;
use crate::eval::Quiet;
use crate::event::{Brief, Operator};
use crate::propose;
use crate::task::Task;

/// Starting kernels, `autotune`, `mutate` and `recombine`.
pub struct Operators {
    /// Where the device is the host, nothing is proposed while a launch is timed.
    quiet: Option<Quiet>,
}

impl Operators {
    /// `lock`: the host's, where it is the device that judges.
    pub fn new(lock: Option<Lock>) -> anyhow::Result<Self> {
        Ok(Self {
            quiet: lock.map(Quiet::open).transpose()?,
        })
    }
}

impl Proposer for Operators {
    fn propose(&self, brief: &Brief, parents: &[Parent], task: &Task) -> anyhow::Result<Answer> {
        let _sharing = self.quiet.as_ref().map(Quiet::share).transpose()?;
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
            propose::Answer::NoOp(reason) => return Ok(Answer::NoOp(reason)),
        };
        let candidate = Candidate::of(proposal.source, proposal.detail, task);
        Ok(Answer::Candidate(candidate))
    }
}
