//! The baseline that the targets of a search are over, if it is not the task's own (`eval.baseline`). Plain data, and arithmetic.

use indexmap::IndexMap;

use super::baselines::{BaselineEntry, BaselineTable, difference, log_of, speedup_of};
use super::speedup::Speedup;
use super::strongest::{SpeedupOrigin, StrongestBaseline};
use crate::base::Digest;

/// A baseline of a table, with its own speedups over the task's baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Yardstick {
    pub name: String,
    /// Its line of the table.
    pub entry: BaselineEntry,
    /// When the table was measured: RFC 3339.
    pub measured: String,
    /// Hash of the figures that it has from the table.
    pub figures: Digest,
    /// Its speedup over the task's baseline, over the timed workloads.
    pub speedup: Speedup,
    /// The same on each workload.
    pub workloads: IndexMap<String, Speedup>,
}

impl Yardstick {
    /// The name with its version.
    pub(crate) fn label(&self) -> String {
        self.entry.label()
    }

    /// The baseline of this name in a table, or its fastest. `None` if it was not measured on all of these workloads (ids), or if none is
    /// faster than the task's own.
    pub(crate) fn of(
        table: &BaselineTable,
        name: Option<&str>,
        workloads: &[String],
    ) -> Option<Self> {
        let mut fastest = table.fastest_on(workloads).into_iter();
        let (entry, speedup) = match name {
            Some(name) => fastest.find(|(entry, _)| entry.name == name)?,
            None => fastest.next().filter(|(_, one)| one.geomean > 1.0)?,
        };
        let base = table.entries.first()?;
        let on = |workload: &String| {
            let speedup = speedup_of(entry.log_over(base, workload)?);
            Some((workload.clone(), speedup))
        };
        let figures = serde_json::to_string(&(&table.time, &base.workloads, &entry)).ok()?;
        Some(Self {
            name: entry.name.clone(),
            entry: entry.clone(),
            measured: table.time.clone(),
            figures: Digest::of(figures),
            speedup,
            workloads: workloads.iter().filter_map(on).collect(),
        })
    }

    /// It beside a kernel with this speedup over the task's baseline: derived.
    pub(crate) fn beside(&self, over_baseline: &Speedup) -> StrongestBaseline {
        let own = &self.entry;
        let speedup = speedup_of(difference(log_of(over_baseline), log_of(&self.speedup)));
        own.beside(SpeedupOrigin::Derived, &self.measured, speedup)
    }

    /// The speedup over the task's baseline from which on a kernel surely has this one over the yardstick.
    pub(crate) fn over_baseline(&self, speedup: f64) -> f64 {
        speedup * self.speedup.ci95[1]
    }

    /// The same on a workload. A workload that it was not measured on has no such speedup.
    pub(crate) fn over_baseline_on(&self, workload: &str, speedup: f64) -> Option<f64> {
        let own = self.workloads.get(workload)?;
        Some(speedup * own.ci95[1])
    }
}
