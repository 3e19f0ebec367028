//! The baseline that the targets of a task are over, if it is not the task's own (`eval.baseline`): the targets as the search counts them,
//! and the best kernel's speedup over it.
//!
//! The search counts speedups over the task's baseline. A table has the yardstick's own speedup over it, so a target over the yardstick is
//! another one over the task's baseline. Decides nothing else.

use crate::search::{Search, SearchSettings, WorkloadTarget};
use crate::verdict::{Speedup, StrongestBaseline, Yardstick};

/// The settings with all targets over the task's baseline. A search stops on the safe side: each target assumes the fastest yardstick that
/// the interval in the table allows. A target on a workload that the yardstick was not measured on cannot be reached.
pub(super) fn targets_over_baseline(settings: &SearchSettings, over: &Yardstick) -> SearchSettings {
    let targets = settings.targets.iter().map(|(workload, target)| {
        let speedup = target.speedup.map(|speedup| {
            let translated = over.over_baseline_on(workload, speedup);
            translated.unwrap_or(f64::INFINITY)
        });
        let target = WorkloadTarget { speedup, ..*target };
        (workload.clone(), target)
    });
    SearchSettings {
        targets: targets.collect(),
        target_speedup: (settings.target_speedup).map(|speedup| over.over_baseline(speedup)),
        ..settings.clone()
    }
}

/// The best kernel beside the yardstick: in pairs if the two were timed, else derived from its confirmed speedup.
pub(super) fn beside_yardstick(
    search: &Search,
    step: u64,
    confirmed: &Speedup,
    over: &Yardstick,
) -> StrongestBaseline {
    let in_pairs = search.beside_strongest(step).and_then(|compared| {
        let mut entries = compared.entries.iter();
        let entry = entries.find(|entry| entry.name == over.name)?;
        entry.in_pairs(&compared.measured)
    });
    in_pairs.unwrap_or_else(|| over.beside(confirmed))
}
