//! Oracles that stay open between cases and judgements, where opening one starts a process.
//!
//! Every launch of an oracle gets new inputs, and its memory is restored like a candidate's, so nothing of one judgement is left for the
//! next. Never holds a candidate. `open_oracle` takes oracles for a case and puts them back.

use std::cell::RefCell;
use std::rc::Rc;

use super::case::Case;
use crate::device::BoundKernel;
use crate::kernel::plan::Plan;
use crate::task::Task;

/// Maximum number of oracles that wait: those of the workloads and of a few hidden shapes.
const MAX_ORACLES: usize = 8;
/// Maximum size of their buffers together, in bytes.
const MAX_BYTES: u64 = 128 << 20;

/// Oracles that wait for their next case, the latest last. Each has one copy of its data.
#[derive(Clone, Default)]
pub(super) struct OraclePool(Rc<RefCell<Vec<WaitingOracle>>>);

/// An oracle and the case that it was opened for.
pub(super) struct WaitingOracle {
    pub(super) case: Case,
    pub(super) kernel: Box<dyn BoundKernel>,
    pub(super) plan: Plan,
}

impl WaitingOracle {
    fn bytes(&self) -> u64 {
        self.plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
    }
}

impl OraclePool {
    /// An oracle with the launch plan of the case, if one waits.
    pub(super) fn take(&self, case: &Case, task: &Task) -> Option<WaitingOracle> {
        let mut oracles = self.0.borrow_mut();
        let fits = |oracle: &WaitingOracle| oracle.case.has_launch_plan_of(case, task);
        let index = oracles.iter().position(fits)?;
        Some(oracles.remove(index))
    }

    /// Closes others if there are too many: of hidden shapes first, because the next judgement has other ones.
    pub(super) fn put_back(&self, oracle: WaitingOracle) {
        let mut oracles = self.0.borrow_mut();
        oracles.push(oracle);
        let bytes =
            |oracles: &[WaitingOracle]| oracles.iter().map(WaitingOracle::bytes).sum::<u64>();
        while oracles.len() > MAX_ORACLES || bytes(&oracles) > MAX_BYTES {
            let hidden = oracles.iter().position(|oracle| oracle.case.hidden);
            oracles.remove(hidden.unwrap_or(0));
        }
    }
}
