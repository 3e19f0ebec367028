//! The hashes of compiled code that a search has seen: a candidate that compiles to the code of a parent or of an elite is a duplicate.
//!
//! Remembers what verdicts say. Hashes nothing itself, and forgets nothing: the hash of a step is a few bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// The compiled code of a step that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCode {
    /// The hash in its verdict.
    pub code: Digest,
    pub step: u64,
}

/// The hashes of the steps whose last verdict is `passed`, if it has one.
#[derive(Debug, Default)]
pub(super) struct CodeLog(BTreeMap<u64, Digest>);

impl CodeLog {
    /// Records the last verdict of a step.
    pub(super) fn note(&mut self, step: u64, code: Option<Digest>) {
        match code {
            Some(code) => self.0.insert(step, code),
            None => self.0.remove(&step),
        };
    }

    pub(super) fn get(&self, step: u64) -> Option<Digest> {
        self.0.get(&step).copied()
    }
}
