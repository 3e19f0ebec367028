//! Oracles that stay open between cases and judgements, where opening one starts a process.
//!
//! An oracle is taken for a case and put back when it is dropped, so it serves one case at a time. Every launch of it gets new inputs,
//! and its memory is restored like a candidate's, so nothing of one judgement is left for the next.

use std::ops::{Deref, DerefMut};

use super::case::Case;
use super::case_kernel::CaseKernel;
use super::compiled_kernel::Reference;
use super::context::JudgeContext;
use super::oracle_pool::{OraclePool, WaitingOracle};
use crate::device::Purpose;

/// The oracle of a case.
pub(super) struct OpenOracle {
    case: Case,
    /// `None` only while this value is dropped.
    kernel: Option<CaseKernel>,
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
        let waiting = pool.as_ref().and_then(|pool| pool.take(context.task, case));
        let kernel = match waiting {
            Some(oracle) => CaseKernel::new(context, case, oracle.kernel, oracle.plan),
            None => {
                let purpose = Purpose::Expect { copies };
                CaseKernel::open_reference(context, Reference::Oracle, case, purpose)?
            }
        };
        Ok(Self {
            case: case.clone(),
            kernel: Some(kernel),
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
        if let (Some(pool), Some(kernel)) = (&self.pool, kernel) {
            pool.put_back(WaitingOracle {
                case: self.case.clone(),
                kernel: kernel.kernel,
                plan: kernel.plan,
            });
        }
    }
}
