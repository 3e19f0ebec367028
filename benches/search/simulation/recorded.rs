//! A recorded space as a landscape: one kernel whose tunables are searched.
//!
//! A point that the file does not have violates a constraint: it is rejected before it is compiled.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use indexmap::IndexMap;
use kforge::event::{Brief, FailedReason};
use kforge::verdict::Status;
use serde_json::Value;

use super::dice::Dice;
use super::landscape::{
    Kernel, Landscape, MAX_TUNABLES, Proposal, RecordedSeconds, Truth, Tunables,
};
use super::space::{Invalidity, RecordedSpace};

/// What is known of a point.
#[derive(Clone, Copy)]
struct Known {
    time: Result<f64, Invalidity>,
    seconds: RecordedSeconds,
}

/// A recorded space that is searched from one of its points.
pub(crate) struct Recorded {
    tunables: Tunables,
    points: HashMap<[u16; MAX_TUNABLES], Known>,
    starts: Vec<Kernel>,
    /// Milliseconds of the starting kernel, and of the fastest point.
    baseline: f64,
    fastest: f64,
}

impl Recorded {
    /// The search starts from a valid point that the seed draws.
    pub(crate) fn new(space: &RecordedSpace, seed: u64) -> Result<Self> {
        let columns: Vec<Column> = space
            .tunables
            .values()
            .map(|values| Column::new(values))
            .collect();
        let mut points = HashMap::new();
        let mut valid = Vec::new();
        for recorded in &space.points {
            let mut point = [0; MAX_TUNABLES];
            for (index, from) in recorded.indices.iter().enumerate() {
                point[index] = columns[index].sorted[usize::from(*from)];
            }
            let known = Known {
                time: recorded.time,
                seconds: RecordedSeconds {
                    compile: recorded.compile / 1e3,
                    timing: recorded.benchmark / 1e3,
                },
            };
            points.insert(point, known);
            valid.extend(recorded.time.ok().map(|time| (point, time)));
        }
        ensure!(!valid.is_empty(), "no point of `{}` is valid", space.kernel);
        let (point, baseline) = valid[Dice::new(&[seed, 51]).below(valid.len())];
        let times = valid.iter().map(|(_, time)| *time);
        let named = space.tunables.keys().cloned();
        Ok(Self {
            tunables: named
                .zip(columns.into_iter().map(|one| one.values))
                .collect(),
            points,
            starts: vec![Kernel {
                point,
                ..Kernel::default()
            }],
            baseline,
            fastest: times.fold(f64::INFINITY, f64::min),
        })
    }

    /// The product of the block's sizes, if the names of the tunables say which they are.
    fn block_threads(&self, kernel: &Kernel) -> Option<f64> {
        let values = self.values(kernel);
        let sizes = values
            .iter()
            .filter(|(name, _)| name.to_lowercase().contains("block"));
        let sizes: Vec<f64> = sizes.map(|(_, value)| *value as f64).collect();
        (!sizes.is_empty()).then(|| sizes.iter().product())
    }
}

/// The values of one tunable as kforge has them: integers in ascending order.
struct Column {
    values: Vec<i64>,
    /// For each value of the file, its index in `values`.
    sorted: Vec<u16>,
}

impl Column {
    /// Values that are no integers are numbered.
    fn new(values: &[Value]) -> Self {
        let numbers: Option<Vec<i64>> = values.iter().map(Value::as_i64).collect();
        let numbers = numbers.unwrap_or_else(|| (0..values.len() as i64).collect());
        let mut ascending = numbers.clone();
        ascending.sort_unstable();
        ascending.dedup();
        let sorted = numbers
            .iter()
            .map(|number| ascending.partition_point(|one| one < number) as u16);
        Self {
            sorted: sorted.collect(),
            values: ascending,
        }
    }
}

impl Landscape for Recorded {
    fn starts(&self) -> &[Kernel] {
        &self.starts
    }

    fn tunables(&self) -> &Tunables {
        &self.tunables
    }

    fn propose(&self, _brief: &Brief, _parents: &[Kernel], _dice: &mut Dice) -> Proposal {
        Proposal::Failed(FailedReason::NoOp)
    }

    fn truth(&self, kernel: &Kernel) -> Truth {
        let known = self.points.get(&kernel.point);
        let (status, time) = match known.map(|known| known.time) {
            Some(Ok(time)) => (Status::Passed, time),
            None | Some(Err(Invalidity::Constraints)) => (Status::Rejected, f64::INFINITY),
            Some(Err(Invalidity::Compile)) => (Status::CompileError, f64::INFINITY),
            Some(Err(Invalidity::Runtime)) => (Status::LaunchError, f64::INFINITY),
            Some(Err(Invalidity::Timeout)) => (Status::TimedOut, f64::INFINITY),
            Some(Err(Invalidity::Correctness)) => (Status::WrongOutput, f64::INFINITY),
        };
        let threads = self.block_threads(kernel);
        let threads = threads.map(|threads| ("block_threads".to_owned(), threads));
        Truth {
            status,
            speedup: self.baseline / time,
            features: threads.into_iter().collect::<IndexMap<_, _>>(),
            code: kernel.digest(),
            recorded: known.map(|known| known.seconds),
        }
    }

    fn optimum(&self) -> f64 {
        self.baseline / self.fastest
    }
}
