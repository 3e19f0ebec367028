//! Oracles that stay open between cases and judgements, where opening one starts a process.
//!
//! An oracle is taken for a case and put back when it is dropped, so it serves one case at a time. Every launch of it gets new inputs,
//! and its memory is restored like a candidate's, so nothing of one judgement is left for the next. Never holds a candidate.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::case::Case;
use super::case_kernel::CaseKernel;
use super::compiled_kernel::Reference;
use super::context::JudgeContext;
use crate::device::Purpose;

/// Maximum number of oracles that wait: those of the workloads and of a few hidden shapes.
const MAX_ORACLES: usize = 8;
/// Maximum size of their buffers together, in bytes.
const MAX_BYTES: u64 = 128 << 20;

/// Oracles that wait for their next case, the latest last. Each has one copy of its data.
#[derive(Clone, Default)]
pub(super) struct OraclePool(Rc<RefCell<Vec<BoundOracle>>>);

/// An oracle and the case that it was opened for.
struct BoundOracle {
    case: Case,
    kernel: CaseKernel,
}

impl OraclePool {
    fn take(&self, context: &JudgeContext<'_>, case: &Case) -> Option<BoundOracle> {
        let mut oracles = self.0.borrow_mut();
        let fits = |oracle: &BoundOracle| oracle.case.has_launch_plan_of(case, context.task);
        let index = oracles.iter().position(fits)?;
        let mut oracle = oracles.remove(index);
        oracle.kernel.use_distributions(context, case);
        Some(oracle)
    }

    /// Closes others if there are too many: of hidden shapes first, because the next judgement has other ones.
    fn put_back(&self, oracle: BoundOracle) {
        let mut oracles = self.0.borrow_mut();
        oracles.push(oracle);
        let bytes = |oracle: &BoundOracle| oracle.kernel.buffer_bytes();
        while oracles.len() > MAX_ORACLES || oracles.iter().map(bytes).sum::<u64>() > MAX_BYTES {
            let hidden = oracles.iter().position(|oracle| oracle.case.hidden);
            oracles.remove(hidden.unwrap_or(0));
        }
    }
}

/// The oracle of a case.
pub(super) struct OpenOracle {
    /// `None` only while this is dropped.
    oracle: Option<BoundOracle>,
    pool: Option<OraclePool>,
}

impl OpenOracle {
    /// Opens the oracle over `copies` copies of its data, or takes it from the pool.
    ///
    /// # Errors
    /// `Failure::reference` if it does not run on the case.
    pub(super) fn open(
        context: &JudgeContext<'_>,
        case: &Case,
        copies: usize,
    ) -> anyhow::Result<Self> {
        let pool = context.oracle_pool.clone().filter(|_| copies == 1);
        let waiting = pool.as_ref().and_then(|pool| pool.take(context, case));
        let oracle = match waiting {
            Some(oracle) => oracle,
            None => {
                let purpose = Purpose::Expect { copies };
                BoundOracle {
                    case: case.clone(),
                    kernel: CaseKernel::open_reference(context, Reference::Oracle, case, purpose)?,
                }
            }
        };
        Ok(Self {
            oracle: Some(oracle),
            pool,
        })
    }
}

const TAKEN: &str = "an oracle is put back only when it is dropped";

impl Deref for OpenOracle {
    type Target = CaseKernel;

    fn deref(&self) -> &CaseKernel {
        &self.oracle.as_ref().expect(TAKEN).kernel
    }
}

impl DerefMut for OpenOracle {
    fn deref_mut(&mut self) -> &mut CaseKernel {
        &mut self.oracle.as_mut().expect(TAKEN).kernel
    }
}

impl Drop for OpenOracle {
    fn drop(&mut self) {
        // An oracle whose launch has failed cannot be launched again.
        let oracle = self.oracle.take().filter(|oracle| oracle.kernel.is_usable);
        if let (Some(pool), Some(oracle)) = (&self.pool, oracle) {
            pool.put_back(oracle);
        }
    }
}
