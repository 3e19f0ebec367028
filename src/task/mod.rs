//! Tasks: what is computed, on which shapes and inputs, how precisely, and against which baseline.
//!
//! Parses and checks; never compiles or runs anything, and never reads the clock.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::base::expression::Expression;

mod best;
mod check;
mod definition;
mod distribution;
mod dtype;
mod files;
mod regimes;
mod settings;
mod workload;

pub(crate) use best::BestKnown;
pub use definition::{AxisKind, Definition, DefinitionAxis, Tensor};
pub use distribution::{CumulativeTotal, Distribution, DistributionKind, Norm};
pub use dtype::DType;
pub use files::{TaskFiles, embedded_lists, embedded_names, local_names};
pub(crate) use regimes::Regime;
pub use settings::Tolerance;
pub(crate) use settings::{
    Baseline, MIN_BLOCKS, PrecisionCheck, Profile, RegimeChoice, TaskSettings, WorkloadChoice,
};
pub use workload::{InputSource, Workload};

/// A definition, its workloads and kforge's own settings, all checked against each other.
#[derive(Clone, Debug)]
pub struct Task {
    /// The task folder's name, e.g. `gdn_decode`.
    pub name: String,
    pub definition: Definition,
    pub workloads: Vec<Workload>,
    pub settings: TaskSettings,
    /// The text of the oracle's kernel file.
    pub oracle: String,
    /// The kernels that the settings name, by file name: baselines and starting kernels.
    pub kernels: IndexMap<String, String>,
    /// Compulsory bytes, reads plus writes.
    pub bytes: Expression,
    pub flops: Expression,
    /// The variable axes that follow from the others.
    pub derived: IndexMap<String, Expression>,
    /// Over every file of the task folder and every kernel that it names.
    pub digest: Digest,
}

/// One binding of all axes: constant ones and a workload's variable ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub axes: IndexMap<String, i64>,
}

impl Task {
    /// The file name and text of the baseline that speed is measured against.
    pub fn baseline(&self) -> (&str, &str) {
        let file = self
            .settings
            .baselines
            .values()
            .next()
            .map_or("", |baseline| baseline.kernel.as_str());
        (file, self.kernels.get(file).map_or("", String::as_str))
    }

    /// The starting kernels of a search, by file name, in order.
    pub fn starting_kernels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings
            .start
            .iter()
            .filter_map(|file| self.kernels.get_key_value(file))
            .map(|(file, text)| (file.as_str(), text.as_str()))
    }

    /// Lets a search begin from other kernels, named as they are: before the task's own, or `alone`. What the task is, and with it
    /// its digest, stays as it was.
    pub(crate) fn start_from(&mut self, kernels: Vec<(String, String)>, replace: bool) {
        if replace {
            self.settings.start.clear();
        }
        for (place, (name, text)) in kernels.into_iter().enumerate() {
            let place = place.min(self.settings.start.len());
            self.settings.start.insert(place, name.clone());
            self.kernels.insert(name, text);
        }
    }

    /// Other inputs than those that are timed, by name.
    pub(crate) fn regimes(&self) -> IndexMap<String, Regime> {
        regimes::task_regimes(&self.settings, &self.definition)
    }

    /// The axes that follow from others, under the given values of those.
    pub(crate) fn derive_axes(&self, axes: &IndexMap<String, i64>) -> IndexMap<String, i64> {
        let value = |name: &str| {
            let constant = self.definition.axes.get(name).and_then(|axis| axis.value);
            axes.get(name).copied().or(constant)
        };
        let sizes = self.derived.iter();
        sizes
            .filter_map(|(axis, size)| Some((axis.clone(), size.evaluate(&value).ok()?)))
            .collect()
    }

    /// The workloads that a profile selects, in the order of `workloads.jsonl`.
    pub fn selected_workloads(&self, profile: &Profile) -> Vec<&Workload> {
        match &profile.workloads {
            WorkloadChoice::All => self.workloads.iter().collect(),
            WorkloadChoice::Named(names) => self
                .workloads
                .iter()
                .filter(|workload| names.contains(&workload.id))
                .collect(),
        }
    }
}
