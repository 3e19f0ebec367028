//! A kernel with its programs: one for each set of tunable values that its variants select.
//!
//! Plain data. `context` compiles.

use std::collections::HashMap;

use anyhow::Context;
use indexmap::IndexMap;

use crate::base::Digest;
use crate::device::Program;
use crate::kernel::Kernel;

/// A kernel and its compiled programs.
pub(super) struct CompiledKernel {
    pub(super) kernel: Kernel,
    /// By tunable values; see [`values_key`].
    pub(super) programs: HashMap<Vec<i64>, Program>,
    /// Time that compilation took.
    pub(super) seconds: f64,
}

/// The anchor of a search as this process has compiled it.
pub(super) struct CompiledAnchor {
    /// The digest of its source.
    pub(super) source: Digest,
    /// `None` if it does not compile here.
    pub(super) kernel: Option<CompiledKernel>,
}

/// A kernel that candidates are judged against: the oracle or the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Oracle,
    Baseline,
}

impl Reference {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Baseline => "baseline",
        }
    }
}

impl CompiledKernel {
    pub(super) fn not_compiled(kernel: Kernel) -> Self {
        Self {
            kernel,
            programs: HashMap::new(),
            seconds: 0.0,
        }
    }

    /// The program for these tunable values.
    pub(super) fn program(&self, values: &IndexMap<String, i64>) -> anyhow::Result<&Program> {
        self.programs
            .get(&values_key(values))
            .context("the kernel was not compiled for these tunable values")
    }
}

/// The key of a program: the tunable values in the order of the header.
pub(super) fn values_key(values: &IndexMap<String, i64>) -> Vec<i64> {
    values.values().copied().collect()
}
