//! kforge's own operators as a `Proposer`: starting kernels, `autotune`, `mutate` and `recombine`.
//!
//! Asks no model. Where the device is the host, it waits while a launch is timed.

use anyhow::Context;

use super::proposer::Proposer;
use crate::device::LockFile;
use crate::eval::TimingLock;
use crate::event::{Brief, Operator};
use crate::propose::{self, BriefOutcome, MutationCache, Parent};
use crate::task::Task;

/// Makes proposals with kforge's own operators.
pub struct Operators {
    /// Keeps proposals from disturbing a timed launch. `None` if the device is not the host.
    timing_lock: Option<TimingLock>,
    mutations: MutationCache,
}

impl Operators {
    /// `lock`: the host's timing lock, if kernels run on the host.
    pub fn new(lock: Option<LockFile>) -> anyhow::Result<Self> {
        Ok(Self {
            timing_lock: lock.map(TimingLock::open).transpose()?,
            mutations: MutationCache::default(),
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
        let _guard = self
            .timing_lock
            .as_ref()
            .map(TimingLock::shared)
            .transpose()?;
        if brief.operator != Operator::Start {
            return Ok(propose::propose_with(&self.mutations, brief, parents, task));
        }
        let start = starting_kernel(brief, task)?;
        Ok(propose::propose(brief, &[start], task))
    }
}

/// The kernel that a `start` brief names, as the parent of its step.
fn starting_kernel(brief: &Brief, task: &Task) -> anyhow::Result<Parent> {
    let name = brief.start.as_deref().with_context(|| {
        format!(
            "step {} starts from a kernel but does not name it",
            brief.step
        )
    })?;
    let source = task
        .kernels
        .get(name)
        .with_context(|| format!("task `{}` has no starting kernel `{name}`", task.name))?;
    Ok(Parent {
        step: brief.step,
        source: source.as_str().into(),
    })
}
