//! Devices: compile a kernel, bind it to memory, launch it against a clock.
//!
//! A device never knows what is right: the oracle, the comparison's verdict and the statistics are `eval`'s.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::kernel::plan::{Plan, TranslationUnit};
use crate::task::{DType, Distribution};
use crate::verdict::{DeviceIdentity, Evidence, Resources, Status};

mod cache;
mod compiler_log;
pub mod cpu;
pub mod cuda;
mod facts;
pub mod numerics;
mod sandbox;
mod watchdog;

pub(crate) use facts::DeviceFacts;

/// Something that runs kernels. `Err` always means broken machinery, never a bad kernel.
pub trait Device {
    fn identity(&self) -> DeviceIdentity;

    /// What holds a candidate here, in the words of a verdict.
    fn sandbox_description(&self) -> String;

    /// The builds that it can make here; `Build::Fast` always.
    fn builds(&self) -> &[Build];

    /// Compiles one translation unit. A refusal by the compiler is a value.
    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled>;

    /// Compiles several units in the fast build, at once where the device can; as many answers, in order, up to the first refusal.
    fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        let mut all = Vec::new();
        for unit in units {
            let compiled = self.compile(unit, Build::Fast)?;
            let refused = matches!(compiled, Compiled::Refused(_));
            all.push(compiled);
            if refused {
                break;
            }
        }
        Ok(all)
    }

    /// Compiles a unit in several builds, at once where the device can.
    fn compile_builds(
        &self,
        unit: &TranslationUnit,
        builds: &[Build],
    ) -> anyhow::Result<Vec<Compiled>> {
        let builds = builds.iter();
        builds.map(|build| self.compile(unit, *build)).collect()
    }

    /// Loads a program and binds it to freshly allocated memory for one workload.
    /// A plan or a program that the device refuses is a value.
    fn open(&self, program: &Program, plan: &Plan, purpose: Purpose) -> anyhow::Result<Opened>;

    /// In how many copies a kernel's data should lie, to time launches of about `time` over `bytes` of data together.
    fn timing_copies(&self, _bytes: u64, _time: Duration) -> usize {
        1
    }

    /// How many launches of about `time` are timed as one sample, where there are enough copies.
    fn runs_per_sample(&self, _time: Duration) -> usize {
        1
    }

    /// After how many blocks both arms begin anew in fresh processes or at fresh places; `None`: never within a judgement.
    fn blocks_per_process(&self) -> Option<usize>;

    /// By how much a launch can be longer or shorter for all of a process' life (standard deviation), such as where its code lies:
    /// what no number of samples averages away.
    fn process_noise(&self) -> Duration {
        Duration::ZERO
    }

    /// What holds the device's clock or caches back right now, such as heat; what was timed meanwhile is void.
    fn disturbance(&self) -> Option<String> {
        None
    }

    /// The file whose lock keeps others away while this device is timed.
    fn lock_file(&self) -> LockFile;

    /// The least time that the device allows, in microseconds, for so many compulsory bytes and operations from cold caches,
    /// where so many units are one sample; `tensor`: whether tensor cores may do the operations; `None` where the device's rates are not known.
    fn floor(&self, _bytes: f64, _operations: f64, _units: usize, _tensor: bool) -> Option<Floor> {
        None
    }
}

/// The least time for some work on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// By what was measured on the device.
    pub measured_us: f64,
    /// By what no device of the kind could do: whatever is faster was not computed.
    pub physical_us: f64,
}

/// What keeps others away while a device is timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFile {
    pub path: PathBuf,
    /// Whether the device is the host: then nothing else of kforge may run beside the clock, compilers neither.
    pub is_host: bool,
}

/// Where locks lie: the same folder for all processes of the machine. Batch systems give every job a temporary folder of its own,
/// and what is locked there is locked for nobody else.
fn lock_folder() -> std::path::PathBuf {
    // SAFETY: a constant string.
    let is_open = unsafe { libc::access(c"/tmp".as_ptr(), libc::W_OK | libc::X_OK) } == 0;
    match is_open {
        true => "/tmp".into(),
        false => std::env::temp_dir(),
    }
}

/// What an arm is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see whether it is right: every buffer begins or ends where memory does, if the device can.
    Check { edge: Edge },
    /// To be timed, over so many copies of its data; `cache`: what the clock begins with, `None` where no time is wanted.
    Time { copies: usize, cache: Option<Cache> },
    /// To be launched under a tool of the device's maker: every buffer is an allocation of its own and of its very size, and
    /// profilers are told where the launch begins and ends.
    Probe,
}

/// Where a buffer touches memory that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Start,
    End,
}

/// What a kernel finds in the device's caches when its clock starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nothing of its own.
    #[default]
    Cold,
    /// What a launch on the same data has left there.
    Hot,
}

/// Expected values of one output, wherever the device keeps them.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpectedValues {
    Host(Vec<f64>),
    OnDevice(DeviceValues),
}

impl ExpectedValues {
    /// Those of some of the copies, by their places among all.
    #[must_use]
    pub(crate) fn select_copies(&self, copies: &[usize]) -> Self {
        match self {
            Self::Host(values) => Self::Host(values.clone()),
            Self::OnDevice(all) => Self::OnDevice(DeviceValues {
                addresses: (copies.iter())
                    .filter_map(|copy| all.addresses.get(*copy).copied())
                    .collect(),
                ..all.clone()
            }),
        }
    }
}

/// Values in a device's memory, in one or several copies.
#[derive(Clone)]
pub struct DeviceValues {
    dtype: DType,
    elements: u64,
    addresses: Vec<u64>,
    /// What must live as long as the addresses are good.
    #[expect(dead_code, reason = "it is held, not looked at")]
    owner: Rc<dyn Any>,
}

/// How a kernel is built: to be fast, or to be looked into while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// What is checked against the oracle, and timed.
    Fast,
    /// Ends at an access out of bounds, a misaligned one, or what C++ leaves undefined.
    Bounds,
    /// Ends at a race or at a read of what nothing wrote, under one schedule out of many; counts how memory is accessed.
    Race,
}

impl Build {
    /// The word for it in verdicts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Bounds => "bounds",
            Self::Race => "race",
        }
    }
}

/// A device's answer to being asked to load a program.
pub enum Opened {
    Ready(Box<dyn BoundKernel>),
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
    /// Keeps the image from being removed meanwhile.
    pub lease: cache::CacheLease,
    pub build: Build,
    /// Of the race build: who runs next is drawn from this.
    pub schedule: u64,
    pub resources: Resources,
    /// Wall time of the compiler; about 0 where the cache had it.
    pub compile_seconds: f64,
    /// The compiler's warnings: untrusted text, capped.
    pub log: String,
    /// The names that the compiler gave to `Unit::entries` (CUDA; empty elsewhere).
    pub entries: Vec<String>,
    /// What the compiler's output says of the code, by name of feature: `vector_load_bytes`, `mma`, … (CUDA; empty elsewhere).
    pub features: IndexMap<String, f64>,
}

/// Why a kernel does not run on this device: `unsupported`, `compile_error`, `compile_timeout`, `launch_error`, a fault, …
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: Status,
    /// One sentence for a person.
    pub reason: String,
    /// Apart, because it is large and mostly empty.
    pub evidence: Box<Evidence>,
}

/// One kernel bound to its own memory: the candidate, the baseline, or the oracle, each in an arm of its own.
pub trait BoundKernel: Any {
    /// Fills a buffer. Outside the clock.
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()>;

    /// Runs all launches of the plan as one unit, and returns when the device has stopped.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome>;

    /// In how many copies its data lies.
    fn copy_count(&self) -> usize {
        1
    }

    /// Says which copies of the data this arm's own ones are: what is written next is theirs. Without it copy i is number i.
    fn bind_copies(&mut self, _copies: &[u32]) -> anyhow::Result<()> {
        Ok(())
    }

    /// Trades the memory of inputs and outputs with another arm of the same device and task: where data lies can move a time by
    /// percents, so each of two that are timed against each other has the one and then the other place.
    fn swap_placement(&mut self, _other: &mut dyn BoundKernel) -> anyhow::Result<()> {
        Ok(())
    }

    /// Runs the unit so many times as one sample, each on another copy where the caches are to be cold; the time is that of one.
    fn launch_sample(
        &mut self,
        _units: usize,
        deadline: Duration,
    ) -> anyhow::Result<LaunchOutcome> {
        self.launch(deadline)
    }

    /// The copies that the last launch has used.
    fn launched_copies(&self) -> &[u32] {
        &[0]
    }

    /// What the driver says of the loaded code; `None` where it says nothing.
    fn resources(&self) -> Option<Resources> {
        None
    }

    /// Looks at a buffer. Outside the clock, and only between launches.
    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer>;
}

/// What to put into a buffer.
#[derive(Clone, Copy, Debug)]
pub enum BufferContent<'a> {
    /// Random values: the same distribution, seed and shape give the same bits on every device.
    Random {
        distribution: &'a Distribution,
        seed: u64,
    },
    /// These, rounded to what the buffer holds.
    Values(&'a [f64]),
    /// A pattern that no honest kernel leaves behind, to see which elements were written. The guard zones are renewed too.
    Poison(Poison),
}

/// Patterns for memory that a kernel has yet to write. An element equal to its poison under both was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// A NaN with a payload (all bits set for integers).
    Nan,
    /// Finite values drawn from a seed.
    Finite { seed: u64 },
}

/// What to ask of a buffer.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// A hash of the contents.
    Hash,
    /// The same of some copies, in this order (`Answer::Hash`).
    HashOf(&'a [u32]),
    /// Are the guard zones before and behind intact?
    Guards,
    /// The elements as double precision (the oracle's outputs).
    Values,
    /// The memory as it is, little-endian.
    Bytes,
    /// The contents of every copy, to compare another arm's with (`Answer::Expected`).
    Expected,
    /// How do the elements of these copies compare with the expected ones, copy by copy?
    Compare {
        copies: &'a [u32],
        expected: &'a ExpectedValues,
        tolerance: crate::task::Tolerance,
    },
    /// In the copies that the last launch used, how many elements still hold their poison?
    Unwritten(Poison),
    /// In the copies that it did not use, how many elements do not hold it any more (`Answer::Unwritten`)?
    Untouched(Poison),
    /// What has the kernel printed so far, wherever? The buffer does not matter.
    Printed,
    /// Did a launch leave something behind in the kernel's own variables? Of no single buffer.
    Remembered,
    /// How did the launches since the arm was opened use memory, whatever the buffer? The race build knows.
    Accesses,
}

/// How one load or store of a kernel used memory, as far as it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSite {
    /// In the kernel file, counted from 1; `None` where the compiler left no trace of it.
    pub line: Option<u32>,
    pub writes: bool,
    pub atomic: bool,
    /// Shared memory, else global.
    pub shared: bool,
    /// Bytes that one thread accesses at once.
    pub bytes: u32,
    /// Accesses of single threads, scaled to the whole launch.
    pub lanes: f64,
    /// Requests of whole warps that were looked at, and the sectors of 32 bytes that they touched; in shared memory, the
    /// passes over its banks.
    pub requests: u64,
    pub sectors: u64,
    /// What as many lanes would need side by side.
    pub min_sectors: u64,
    /// Requests whose lanes lay at equal distances, other than side by side.
    pub strided: u64,
    /// Lanes of the requests that were looked at.
    pub lanes_seen: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Untrusted text, capped.
    Printed(String),
    Hash(u64),
    /// `None`: intact. Else how far behind the last element (positive, bytes) or before the first (negative) the damage lies.
    Guards(Option<i64>),
    Values(Vec<f64>),
    Bytes(Vec<u8>),
    Comparison(Comparison),
    Expected {
        expected: ExpectedValues,
        /// The first element that is no finite number.
        not_finite: Option<u64>,
    },
    Remembered(PersistentState),
    /// Count of unwritten elements, and the index of the first.
    Unwritten {
        count: u64,
        first: Option<u64>,
    },
    Accesses(Vec<AccessSite>),
}

impl PartialEq for DeviceValues {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.elements, &self.addresses)
            == (other.dtype, other.elements, &other.addresses)
    }
}

impl fmt::Debug for DeviceValues {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = self.addresses.len();
        write!(formatter, "{copies} × {} {}", self.elements, self.dtype)
    }
}

/// What a kernel's own variables were found to be after all launches so far. They are put back after each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersistentState {
    Unchanged,
    /// The variable that differed from what it was before the first launch, and the launch, counted from 1.
    Changed {
        variable: String,
        launch: u64,
    },
    /// This system does not let the judge look.
    Unknown,
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
    pub worst_ratio: f64,
}

/// How a launch ended.
#[derive(Clone, Debug, PartialEq)]
pub enum LaunchOutcome {
    Finished {
        time: Duration,
    },
    /// The arm is dead: open a new one.
    Fault(Refusal),
}
