//! Devices: compile a kernel, bind it to memory, launch it against a clock.
//!
//! A device never knows what is right: the oracle, the comparison's verdict and the statistics are `eval`'s.

use std::time::Duration;

use crate::kernel::plan::{Plan, Unit};
use crate::task::Distribution;
use crate::verdict::{DeviceIdentity, Evidence, Resources, Status};

pub mod cpu;
pub mod numerics;

/// Something that runs kernels. `Err` always means broken machinery, never a bad kernel.
pub trait Device {
    fn identity(&self) -> DeviceIdentity;

    /// What holds a candidate here, in the words of a verdict.
    fn sandbox(&self) -> String;

    /// Compiles one translation unit. A refusal by the compiler is a value.
    fn compile(&self, unit: &Unit) -> anyhow::Result<Compiled>;

    /// Loads a program and binds it to freshly allocated memory for one workload.
    /// A plan or a program that the device refuses is a value.
    fn open(&self, program: &Program, plan: &Plan) -> anyhow::Result<Opened>;
}

/// A device's answer to being asked to load a program.
pub enum Opened {
    Ready(Box<dyn Arm>),
    Refused(Refusal),
}

/// A compiler's answer.
#[derive(Debug)]
pub enum Compiled {
    Ready(Program),
    Refused(Refusal),
}

/// A compiled kernel, ready to be opened any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable (CPU) or the cubin (GPU).
    pub image: std::path::PathBuf,
    pub resources: Resources,
    /// Wall time of the compiler; about 0 where the cache had it.
    pub compile_seconds: f64,
    /// The compiler's warnings: untrusted text, capped.
    pub log: String,
}

/// Why a kernel does not run on this device: `unsupported`, `compile_error`, `compile_timeout`, `launch_error`, a fault, …
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: Status,
    /// One sentence for a person.
    pub reason: String,
    pub evidence: Evidence,
}

/// One kernel bound to its own memory: the candidate, the baseline, or the oracle, each in an arm of its own.
pub trait Arm {
    /// Fills a buffer. Outside the clock.
    fn write(&mut self, buffer: usize, content: &Content<'_>) -> anyhow::Result<()>;

    /// Runs all launches of the plan as one unit, and returns when the device has stopped.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<Launched>;

    /// Looks at a buffer. Outside the clock, and only between launches.
    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer>;
}

/// What to put into a buffer.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Random values: the same distribution, seed and shape give the same bits on every device.
    Random {
        distribution: &'a Distribution,
        seed: u64,
    },
    /// A pattern that no honest kernel leaves behind, to see which elements were written. The guard zones are renewed too.
    Poison(Poison),
}

/// Patterns for memory that a kernel has yet to write. An element equal to its poison under both was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// A NaN with a payload (all bits set for integers).
    NotANumber,
    /// Finite values drawn from a seed.
    Finite { seed: u64 },
}

/// What to ask of a buffer.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// A hash of the contents.
    Hash,
    /// Are the guard zones before and behind intact?
    Guards,
    /// The elements as double precision (the oracle's outputs).
    Values,
    /// The memory as it is, little-endian.
    Bytes,
    /// How do the elements compare with the expected ones?
    Compare {
        expected: &'a [f64],
        tolerance: crate::task::Tolerance,
    },
    /// How many elements still hold their poison?
    Unwritten(Poison),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Hash(u64),
    /// `None`: intact. Else how far behind the last element (positive, bytes) or before the first (negative) the damage lies.
    Guards(Option<i64>),
    Values(Vec<f64>),
    Bytes(Vec<u8>),
    Comparison(Comparison),
    /// Count of unwritten elements, and the index of the first.
    Unwritten {
        count: u64,
        first: Option<u64>,
    },
}

/// A tensor against its expected values, every element looked at, sums in a fixed order.
/// An element passes if |x - r| <= atol_rms * rms(r) + rtol * |r|; a non-finite x fails unless r is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub elements: u64,
    pub failed: u64,
    /// The first element that failed: flat index, expected, found.
    pub first: Option<(u64, f64, f64)>,
    pub max_abs_error: f64,
    /// Largest |x - r| / max(|r|, rms(r)).
    pub max_rel_error: f64,
    pub mean_abs_error: f64,
    /// The largest |x - r| / bound; infinite for a non-finite mismatch.
    pub worst: f64,
}

/// How a launch ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Launched {
    Finished {
        time: Duration,
    },
    /// The arm is dead: open a new one.
    Fault(Refusal),
}
