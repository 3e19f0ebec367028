//! What the judge is asked to judge, and what comes back.
//!
//! Plain data. `judge` does the work.

use serde::{Deserialize, Serialize};

use super::hidden::Coverage;
use crate::search::{Anchor, Incumbents, KnownCode};
use crate::verdict::Verdict;

/// What a duel is for: how long it takes on a device that keeps its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuelPurpose {
    /// To decide which of two kernels is an elite. As long as the timing of a candidate.
    Search,
    /// To report the ratio. As long as the profile says.
    Report,
}

/// A kernel to judge, and what may end its judgement early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JudgeRequest<'r> {
    /// For the verdict.
    pub(crate) name: &'r str,
    /// Text of the kernel file.
    pub(crate) source: &'r str,
    /// Repeats an earlier judgement; `None`: a new seed is drawn once the candidate is fixed.
    pub(crate) seed: Option<u64>,
    /// Whether to check a part of the hidden cases or all.
    pub(crate) coverage: Coverage,
    /// What the kernel must beat; `None`: it is judged completely.
    pub(crate) incumbents: Option<&'r Incumbents>,
    /// What it is timed against if there are incumbents; `None`: the baseline.
    pub(crate) anchor: Option<&'r Anchor>,
    /// A kernel that compiles to code among these is not judged.
    pub(crate) known_code: &'r [KnownCode],
}

impl<'r> JudgeRequest<'r> {
    /// A complete judgement with a new seed, on a part of the hidden cases.
    pub(crate) fn new(name: &'r str, source: &'r str) -> Self {
        Self {
            name,
            source,
            seed: None,
            coverage: Coverage::Part,
            incumbents: None,
            anchor: None,
            known_code: &[],
        }
    }
}

/// The result of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Judgement {
    Verdict(Box<Verdict>),
    /// The kernel compiles to this known code, so it was neither checked nor timed.
    SameCode {
        known: KnownCode,
        /// As `seconds.device` of a verdict.
        device_seconds: f64,
    },
}

impl Judgement {
    /// The verdict.
    ///
    /// # Errors
    /// If the kernel was not judged. Without known code that cannot happen.
    pub(crate) fn into_verdict(self) -> anyhow::Result<Box<Verdict>> {
        match self {
            Self::Verdict(verdict) => Ok(verdict),
            Self::SameCode { known, .. } => anyhow::bail!(
                "the kernel was not judged, because it compiles to the code of step {}",
                known.step
            ),
        }
    }
}
