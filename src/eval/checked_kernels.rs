//! Which kernels have passed their check on which workloads, so that a kernel that is timed against many baselines is checked once. Only
//! keeps it.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::base::Digest;

/// The kernels that one process has checked.
#[derive(Debug, Default)]
pub(super) struct CheckedKernels {
    /// Hash of the source, and id of the workload.
    passed: RefCell<HashSet<(Digest, String)>>,
}

impl CheckedKernels {
    pub(super) fn contain(&self, source: &str, workload: &str) -> bool {
        let key = (Digest::of(source), workload.to_owned());
        self.passed.borrow().contains(&key)
    }

    pub(super) fn insert(&self, source: &str, workload: &str) {
        let key = (Digest::of(source), workload.to_owned());
        self.passed.borrow_mut().insert(key);
    }
}
