//! A recorded space: every point of a kernel's tunables with what was measured there.
//!
//! `kernel_tuner` and `t4` read and write its files; `recorded` replays it as a landscape. Measures nothing.

use anyhow::{Context, Result, ensure};
use indexmap::IndexMap;
use serde_json::Value;

use super::landscape::MAX_TUNABLES;

/// Why a point has no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalidity {
    /// It violates a constraint.
    Constraints,
    Compile,
    Runtime,
    Timeout,
    Correctness,
}

/// What was measured at a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecordedPoint {
    /// For each tunable, the index of its value.
    pub(crate) indices: Vec<u16>,
    /// Milliseconds of the kernel, or why there are none.
    pub(crate) time: Result<f64, Invalidity>,
    /// Milliseconds of each repeat.
    pub(crate) times: Vec<f64>,
    /// Milliseconds that the measurement took.
    pub(crate) compile: f64,
    pub(crate) verification: f64,
    pub(crate) benchmark: f64,
    pub(crate) framework: f64,
    pub(crate) strategy: f64,
    pub(crate) timestamp: String,
}

/// All points of one kernel on one device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecordedSpace {
    pub(crate) device: String,
    pub(crate) kernel: String,
    /// As the file has it: a list of sizes, a number or a text.
    pub(crate) problem_size: Value,
    pub(crate) tunables: IndexMap<String, Vec<Value>>,
    pub(crate) points: Vec<RecordedPoint>,
}

impl RecordedSpace {
    /// The values of a point's tunables.
    pub(crate) fn configuration(&self, point: &RecordedPoint) -> IndexMap<String, Value> {
        let named = self.tunables.iter().zip(&point.indices);
        named
            .map(|((name, values), index)| (name.clone(), values[usize::from(*index)].clone()))
            .collect()
    }

    /// The indices of a configuration. `at`: where it is, for messages.
    pub(crate) fn indices_of(
        tunables: &IndexMap<String, Vec<Value>>,
        configuration: &serde_json::Map<String, Value>,
        at: &str,
    ) -> Result<Vec<u16>> {
        ensure!(
            tunables.len() <= MAX_TUNABLES,
            "{at}: {} tunables, at most {MAX_TUNABLES} are supported",
            tunables.len()
        );
        let index = |(name, values): (&String, &Vec<Value>)| {
            let value = configuration.get(name);
            let value = value.with_context(|| format!("{at}: no value of `{name}`"))?;
            let index = values.iter().position(|one| one == value);
            let index =
                index.with_context(|| format!("{at}: `{name}` has no declared value `{value}`"))?;
            Ok(u16::try_from(index)?)
        };
        tunables.iter().map(index).collect()
    }
}
