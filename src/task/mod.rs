//! Tasks: a definition, its workloads and kforge's settings for them (tolerances, regimes, baselines, profiles).
//!
//! `find` finds a task folder and `files` reads it, `load` parses its files; `check` validates its parts against each other. This module never compiles or runs
//! a kernel; `eval` does.

use indexmap::IndexMap;

use crate::base::expression::Expression;
use crate::base::{Digest, Failure};

mod baselines;
mod best;
mod check;
mod check_constants;
mod constraints;
mod dataset;
mod defaults;
mod definition;
mod definition_reader;
mod distribution;
mod draft;
mod dtype;
mod files;
mod find;
mod foreign;
mod kernel_tuner;
mod load;
mod problems;
mod regimes;
mod schema;
mod settings;
mod settings_reader;
mod shipped_twin;
mod stored_tensor;
mod workload;

pub(crate) use best::BestKnown;
pub(crate) use dataset::{Dataset, DatasetTask, dataset_names, use_dataset};
pub use definition::{AxisKind, Binding, Definition, DefinitionAxis, Tensor};
pub use distribution::{CumulativeTotal, Distribution, DistributionKind, Norm};
pub(crate) use draft::{
    AxisSpec, DRAFT_MARK, Signature, TaskDraft, TensorSpec, draft_from_signature, draft_task,
    example_task, usual_tolerance,
};
pub use dtype::DType;
pub use files::{TaskFiles, embedded_lists, embedded_names};
pub use find::local_names;
pub(crate) use foreign::{ForeignInput, ForeignOracle, ForeignOutput, ForeignTask};
pub(crate) use kernel_tuner::{TuningProblem, TuningTask, fastest_configuration};
pub(crate) use schema::task_schema;
pub use settings::Tolerance;
pub(crate) use settings::{
    MIN_BLOCKS, PrecisionCheck, Profile, Regime, RegimeChoice, TaskSettings, WorkloadChoice,
};
pub use stored_tensor::StoredTensor;
pub use workload::{InputSource, Workload};

/// The `oracle` of a task that is judged by the `reference` of its definition.
pub(crate) const REFERENCE_ORACLE: &str = "reference";

/// A definition, its workloads and kforge's settings, validated against each other.
#[derive(Clone, Debug)]
pub struct Task {
    /// Name of the task folder, such as `gdn_decode`.
    pub name: String,
    pub definition: Definition,
    pub workloads: Vec<Workload>,
    pub settings: TaskSettings,
    /// Text of the oracle: a kernel file, or Python.
    pub oracle: String,
    /// Text of every baseline and starting kernel, by file name.
    pub kernels: IndexMap<String, String>,
    /// Compulsory memory traffic in bytes, reads plus writes.
    pub bytes: Expression,
    /// Number of arithmetic operations.
    pub flops: Expression,
    /// The axes that are computed from variable axes: the `derived` ones of `task.yaml`, and the `expr` axes of the definition.
    pub derived: IndexMap<String, Expression>,
    /// Hash of every file of the task folder and every kernel that it names.
    pub digest: Digest,
}

impl Task {
    /// File name and text of the first baseline, which speed is measured against.
    pub fn baseline(&self) -> (&str, &str) {
        let file = self
            .settings
            .baselines
            .values()
            .next()
            .map_or("", |baseline| baseline.kernel.as_str());
        (file, self.kernels.get(file).map_or("", String::as_str))
    }

    /// Refuses a task whose oracle or baseline is still the draft that kforge wrote: its outputs would be zeros.
    pub(crate) fn check_is_written(&self) -> Result<(), Failure> {
        let (baseline, text) = self.baseline();
        let sources = [
            (self.settings.oracle.as_str(), self.oracle.as_str()),
            (baseline, text),
        ];
        let drafts = sources.iter().filter(|(_, text)| text.contains(DRAFT_MARK));
        let drafts: Vec<String> = drafts.map(|(file, _)| format!("`{file}`")).collect();
        if drafts.is_empty() {
            return Ok(());
        }
        let task = &self.name;
        Err(Failure::reference(format!(
            "task `{task}`: still a draft, which writes zeros: {}",
            drafts.join(" and ")
        ))
        .hint(format!(
            "write the computation there, and delete the line with `{DRAFT_MARK}`; `kforge tasks check {task}` then tests it"
        )))
    }

    /// Whether the oracle is Python: the definition's `reference`, or a file.
    pub fn has_python_oracle(&self) -> bool {
        let oracle = &self.settings.oracle;
        oracle == REFERENCE_ORACLE || oracle.ends_with(".py")
    }

    /// File name and text of the starting kernels, in order.
    pub fn starting_kernels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings
            .start
            .iter()
            .filter_map(|file| self.kernels.get_key_value(file))
            .map(|(file, text)| (file.as_str(), text.as_str()))
    }

    /// Adds warm starts (name and text) before the task's own starting kernels, or in place of them if `replace` is true. The
    /// task's digest does not change.
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

    /// Whether a regime gives this input other values.
    pub(crate) fn regimes_redraw(&self, input: &str) -> bool {
        self.regimes()
            .values()
            .any(|regime| regime.contains_key(input))
    }

    /// The input regimes, by name.
    pub(crate) fn regimes(&self) -> IndexMap<String, Regime> {
        regimes::task_regimes(&self.settings, &self.definition, &self.workloads)
    }

    /// The value that an input has in every element with the usual distributions: the workload's or, without one, the task's.
    pub(crate) fn usual_value(&self, input: &str) -> Option<f64> {
        regimes::usual_value(input, &self.settings, &self.definition, &self.workloads)
    }

    /// Sizes of the derived axes for the given sizes of the other variable axes.
    pub(crate) fn derive_axes(&self, axes: &IndexMap<String, i64>) -> IndexMap<String, i64> {
        let mut sizes = IndexMap::new();
        // The `expr` axes may depend on each other in any order.
        for _ in 0..=self.definition.axes.len() {
            let before = sizes.len();
            for (axis, size) in &self.derived {
                let value = size.evaluate(&|name| {
                    let constant = self.definition.axes.get(name).and_then(|axis| axis.value);
                    let known = axes.get(name).or_else(|| sizes.get(name));
                    known.copied().or(constant)
                });
                sizes.extend(value.ok().map(|value| (axis.clone(), value)));
            }
            if sizes.len() == before {
                break;
            }
        }
        sizes
    }

    /// The workloads of a profile, in the order of `workloads.jsonl`.
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
