//! The oracle of a case, taken from the pool if one waits there, and put back when it is dropped.
//!
//! So an oracle serves one case at a time. Compares nothing.

use std::ops::{Deref, DerefMut};

use super::case::Case;
use super::case_kernel::CaseKernel;
use super::compiled_kernel::Reference;
use super::context::JudgeContext;
use super::oracle_pool::{OraclePool, WaitingOracle};
use crate::device::Purpose;

/// The oracle of a case.
pub(super) struct OpenOracle {
    /// `None` only while this is dropped.
    kernel: Option<CaseKernel>,
    /// The case that it was opened for. It has the same launch plan.
    case: Case,
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
        let waiting = pool.as_ref().and_then(|pool| pool.take(case, context.task));
        let (kernel, opened_for) = match waiting {
            Some(oracle) => {
                let kernel = CaseKernel::new(context, case, oracle.kernel, oracle.plan);
                (kernel, oracle.case)
            }
            None => {
                let purpose = Purpose::Time {
                    copies,
                    cache: None,
                };
                let kernel = CaseKernel::open_reference(context, Reference::Oracle, case, purpose)?;
                (kernel, case.clone())
            }
        };
        Ok(Self {
            kernel: Some(kernel),
            case: opened_for,
            pool,
        })
    }
}

const TAKEN: &str = "an oracle is put back only when it is dropped";

impl Deref for OpenOracle {
    type Target = CaseKernel;

    fn deref(&self) -> &CaseKernel {
        self.kernel.as_ref().expect(TAKEN)
    }
}

impl DerefMut for OpenOracle {
    fn deref_mut(&mut self) -> &mut CaseKernel {
        self.kernel.as_mut().expect(TAKEN)
    }
}

impl Drop for OpenOracle {
    fn drop(&mut self) {
        // An oracle whose launch has failed cannot be launched again.
        let kernel = self.kernel.take().filter(|kernel| kernel.is_usable);
        if let (Some(pool), Some(CaseKernel { kernel, plan, .. })) = (&self.pool, kernel) {
            let case = self.case.clone();
            pool.put_back(WaitingOracle { case, kernel, plan });
        }
    }
}
