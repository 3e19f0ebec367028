//! Bound oracles that wait for their next case, where opening one starts a process.
//!
//! Only keeps them; `open_oracle` takes them and puts them back. Never holds a candidate.

use std::cell::RefCell;
use std::rc::Rc;

use super::case::Case;
use crate::device::BoundKernel;
use crate::kernel::plan::LaunchPlan;
use crate::task::Task;

/// Maximum number of oracles that wait: those of the workloads and of a few hidden shapes.
const MAX_ORACLES: usize = 8;
/// Maximum size of their buffers together, in bytes.
const MAX_POOL_BYTES: u64 = 128 << 20;

/// Oracles that wait for their next case, the latest last. Each has one copy of its data.
#[derive(Clone, Default)]
pub(super) struct OraclePool(Rc<RefCell<Vec<WaitingOracle>>>);

/// An oracle and the case that it was opened for.
pub(super) struct WaitingOracle {
    pub(super) case: Case,
    pub(super) kernel: Box<dyn BoundKernel>,
    pub(super) plan: LaunchPlan,
}

impl WaitingOracle {
    fn bytes(&self) -> u64 {
        self.plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
    }
}

impl OraclePool {
    /// Takes an oracle that fits a case.
    pub(super) fn take(&self, task: &Task, case: &Case) -> Option<WaitingOracle> {
        let mut oracles = self.0.borrow_mut();
        let fits = |oracle: &WaitingOracle| oracle.case.has_launch_plan_of(case, task);
        let index = oracles.iter().position(fits)?;
        Some(oracles.remove(index))
    }

    /// Closes others if there are too many: of hidden shapes first, because the next judgement has other ones.
    pub(super) fn put_back(&self, oracle: WaitingOracle) {
        let mut oracles = self.0.borrow_mut();
        oracles.push(oracle);
        while oracles.len() > MAX_ORACLES
            || oracles.iter().map(WaitingOracle::bytes).sum::<u64>() > MAX_POOL_BYTES
        {
            let hidden = oracles.iter().position(|oracle| oracle.case.hidden);
            oracles.remove(hidden.unwrap_or(0));
        }
    }
}
