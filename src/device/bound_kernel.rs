//! The interface of a bound kernel: a compiled kernel, loaded on a device and bound to its own buffers.
//!
//! One small trait for each purpose. Every `Err` means broken machinery; what a kernel does wrong is a value.
//! All methods except the launches run outside the clock, and only between launches.

use std::any::Any;
use std::time::Duration;

use super::lock::LockFile;
use super::memory::{
    BufferContent, ExpectedOutput, ExpectedValues, OutputComparison, Poison, PoisonCount,
};
use super::refusal::Refusal;
use crate::task::Tolerance;
use crate::verdict::Resources;

/// A compiled kernel on a device, bound to its own buffers: the candidate, the baseline or the oracle.
///
/// `buffer` is always an index into `LaunchPlan::buffers`. A buffer may exist in several copies (see [`TimedLaunching`]).
pub trait BoundKernel:
    Any + BufferAccess + BufferChecks + Launching + TimedLaunching + KernelEvidence
{
}

impl<T: Any + BufferAccess + BufferChecks + Launching + TimedLaunching + KernelEvidence> BoundKernel
    for T
{
}

/// Buffers without a kernel, whose contents another process on the same GPU is given.
pub trait ExchangedBuffers: BoundKernel {
    /// Maps memory of another process for a moment.
    ///
    /// # Errors
    /// If the machine does not allow it.
    fn check_memory(&self, memory: &[u8; 64]) -> anyhow::Result<()>;

    /// Copies whole buffers, in one of their copies, to or from memory of another process, and waits for it.
    fn exchange(&mut self, copy: u32, transfers: &[Transfer]) -> anyhow::Result<()>;
}

/// A buffer and memory of another process on the same GPU, which is at least as long.
pub struct Transfer {
    pub buffer: usize,
    /// What `cuIpcGetMemHandle` has given the other process.
    pub memory: [u8; 64],
    pub direction: TransferDirection,
}

/// Where the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferDirection {
    ToProcess,
    FromProcess,
}

/// Writes and reads buffers.
pub trait BufferAccess {
    /// Fills all copies of a buffer and rewrites their guard zones.
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()>;

    /// A hash of all copies. The hash of a single copy is the same on every device.
    fn hash(&self, buffer: usize) -> anyhow::Result<u64>;

    /// A hash of these copies, in this order.
    fn hash_copies(&self, buffer: usize, copies: &[u32]) -> anyhow::Result<u64>;

    /// Hashes of several buffers, of these copies or of all. A device may answer faster than one buffer at a time.
    fn hash_all(&self, buffers: &[usize], copies: Option<&[u32]>) -> anyhow::Result<Vec<u64>> {
        let hash = |buffer: &usize| match copies {
            Some(copies) => self.hash_copies(*buffer, copies),
            None => self.hash(*buffer),
        };
        buffers.iter().map(hash).collect()
    }

    /// The elements of the first copy in double precision.
    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>>;

    /// The memory of the first copy, little-endian.
    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>>;
}

/// Checks what a launch did to the buffers.
pub trait BufferChecks {
    /// The damage to a buffer's guard zones that is nearest to its data: bytes past the end (0 or more) or before the start
    /// (negative). `None`: the zones are intact.
    fn guard_damage(&self, buffer: usize) -> anyhow::Result<Option<i64>>;

    /// Elements that still hold their poison, in the copies that the last launch used.
    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount>;

    /// Elements that no longer hold their poison, in the copies that the last launch did not use.
    fn written_in_idle_copies(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        let _ = (buffer, poison);
        Ok(PoisonCount::default())
    }

    /// All copies of an output, as expected values for another bound kernel.
    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput>;

    /// Compares these copies of a buffer with `expected`, which holds one copy for each.
    fn compare(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison>;
}

/// Where a run may leave something for later runs of its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasedMemory {
    /// Its outputs and scratch.
    Buffers,
    /// Shared memory, local memory and registers.
    OnChip,
}

/// Launches the plan.
pub trait Launching {
    /// Runs the plan once, and returns when the device has stopped. A run is all launches of the plan.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome>;
}

/// What timing adds to a launch. The defaults suit a device that keeps one copy of the data and times single runs.
pub trait TimedLaunching: Launching {
    /// The number of copies of the kernel's buffers.
    fn copy_count(&self) -> usize {
        1
    }

    /// Sets the numbers of this kernel's copies. A copy's number selects its random data. By default copy i has number i.
    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        let _ = copies;
        Ok(())
    }

    /// Swaps the memory of inputs and outputs with another kernel of the same device and task.
    ///
    /// Placement can change a time by several percent, so two kernels that are timed against each other use both placements.
    fn swap_placement(&mut self, other: &mut dyn BoundKernel) -> anyhow::Result<()> {
        let _ = other;
        Ok(())
    }

    /// Runs the plan `runs` times as one sample; with cold caches each run uses another copy. The time is that of one run.
    fn launch_sample(&mut self, runs: usize, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        let _ = runs;
        self.launch(deadline)
    }

    /// Runs the plan `runs` times as one sample, and overwrites between two runs what the first may have left for the second in some memory. So
    /// the outputs may be lost. The time is that of one run, without the overwriting. `None` if nothing outlives a run on this device
    /// anyway, or if there is one run.
    fn launch_erased(
        &mut self,
        memory: ErasedMemory,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<Option<LaunchOutcome>> {
        let _ = (memory, runs, deadline);
        Ok(None)
    }

    /// Does what the first launch does besides running the kernel, such as compiling it, while others may be timed on the device: whatever is
    /// launched holds this lock with others, so the caller must not hold it. By default there is nothing to do.
    fn prepare_beside_timings(&mut self, lock: &LockFile) -> anyhow::Result<LaunchOutcome> {
        let _ = lock;
        let time = Duration::ZERO;
        Ok(LaunchOutcome::Finished { time })
    }

    /// What the host did before and after the clock in the last launch, and for how long. What is not named is left out.
    fn host_times(&self) -> &[(&'static str, Duration)] {
        &[]
    }

    /// The copies that the last launch used.
    fn launched_copies(&self) -> &[u32] {
        &[0]
    }

    /// The copy that the last run of the last launch used.
    fn last_copy(&self) -> Option<u32> {
        self.launched_copies().last().copied()
    }
}

/// What a device knows about the kernel's behavior beyond its buffers.
pub trait KernelEvidence {
    /// What the kernel has printed since the last call: untrusted text, capped.
    fn printed(&self) -> String;

    /// Whether a launch left something behind in the kernel's own variables.
    fn persistent_state(&self) -> PersistentState;

    /// The first shuffle that read a lane which took no part. `None` unless this is a build that looks for it.
    fn absent_read(&self) -> Option<AbsentRead> {
        None
    }

    /// How the launches so far accessed memory. `None` unless this is the race build on a device that counts accesses.
    fn accesses(&self) -> Option<Vec<AccessSite>> {
        None
    }

    /// What the driver reports about the loaded code.
    fn resources(&self) -> Option<Resources> {
        None
    }
}

/// How a launch ended.
#[derive(Clone, Debug, PartialEq)]
pub enum LaunchOutcome {
    Finished {
        time: Duration,
    },
    /// The bound kernel cannot be used any more: open a new one.
    Fault(Refusal),
}

/// The state of a kernel's own variables after all launches so far. They are restored after each launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersistentState {
    Unchanged,
    /// The first variable that a launch changed, and the 1-based number of that launch.
    Changed {
        variable: String,
        launch: u64,
    },
}

/// A shuffle that read a lane which took no part in it. CUDA leaves the value undefined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentRead {
    /// Line of the kernel file, counted from 1; `None` if the compiler left no trace of it.
    pub line: Option<u32>,
    /// The block of the reading thread.
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// The lane that was read.
    pub lane: u32,
    /// Whether that lane has exited or never was; otherwise the mask does not name it.
    pub has_exited: bool,
}

/// How one load or store of a kernel accessed memory, as far as it was sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSite {
    /// Line of the kernel file, counted from 1; `None` if the compiler left no trace of it.
    pub line: Option<u32>,
    pub writes: bool,
    pub atomic: bool,
    /// Shared memory; otherwise global memory.
    pub shared: bool,
    /// Bytes that one thread accesses at once.
    pub bytes: u32,
    /// Accesses of single threads, scaled to the whole launch.
    pub lanes: f64,
    /// Sampled requests of whole warps.
    pub requests: u64,
    /// 32-byte sectors that these requests touched; in shared memory, passes over the banks.
    pub sectors: u64,
    /// Sectors that the same lanes would need if they were contiguous.
    pub min_sectors: u64,
    /// Requests whose lanes were at equal distances, but not contiguous.
    pub strided: u64,
    /// Lanes of the sampled requests.
    pub lanes_seen: u64,
}
