//! Verdicts of simulated judgements: with what a search reads, and nothing else.

use indexmap::IndexMap;
use kforge::verdict::{DeviceIdentity, Resources, Seconds, Speedup, Timing, Verdict};

use super::landscape::Truth;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) speedup: Speedup,
    pub(crate) timing: Timing,
}

/// The verdict of a kernel; `figures` if it passed.
pub(crate) fn verdict(truth: &Truth, figures: Option<Figures>) -> Verdict {
    Verdict {
        schema: kforge::verdict::SCHEMA,
        task: String::new(),
        kernel: String::new(),
        backend: String::new(),
        status: truth.status,
        reason: None,
        confirmed: false,
        device: DeviceIdentity::default(),
        sandbox: String::new(),
        tunables: IndexMap::new(),
        cache: String::new(),
        precision: None,
        state: None,
        screen: None,
        checked_share: None,
        voided_blocks: 0,
        seeds: Vec::new(),
        baseline: None,
        code: figures.map(|_| truth.code),
        timing: figures.map(|figures| figures.timing),
        dismissal: None,
        timed_against: None,
        strongest: None,
        faster_outside: None,
        not_done: Vec::new(),
        speedup: figures.map(|figures| figures.speedup),
        workloads: Vec::new(),
        resources: Resources::default(),
        features: truth.features.clone(),
        accesses: Vec::new(),
        evidence: None,
        notes: Vec::new(),
        builds: Vec::new(),
        seconds: Seconds::default(),
    }
}
