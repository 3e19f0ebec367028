//! The interface of a device: compile, open, and what the judge must know to time on it.
//!
//! `Err` always means broken machinery. A kernel that the device refuses is a value.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bound_kernel::{BoundKernel, ExchangedBuffers};
use super::lock::LockFile;
use super::memory::ExpectedValues;
use super::program::{Build, Compiled, FillKernels, Program};
use super::refusal::{DeviceError, Refusal};
use crate::kernel::plan::{LaunchPlan, TranslationUnit};
use crate::task::DType;
use crate::verdict::DeviceIdentity;

/// Something that runs kernels.
pub trait Device: Compile + TimingProperties {
    fn identity(&self) -> DeviceIdentity;

    /// What confines a candidate on this device, as verdicts name it.
    fn sandbox_description(&self) -> String;

    /// Whether a buffer can start or end next to unmapped memory, as [`Purpose::Check`] asks.
    fn has_edges(&self) -> bool {
        true
    }

    /// How this device takes expected values that were computed on the host. By default there is one copy, which stays there.
    fn upload(&self) -> Upload {
        Rc::new(|copies| {
            let first = copies.into_iter().next().unwrap_or_default();
            Ok(ExpectedValues::Host(first))
        })
    }

    /// The kernels that fill buffers of a dtype, for another process on the same device. `None`: only the host can fill its buffers.
    fn fill_kernels(&self, _dtype: DType) -> anyhow::Result<Option<FillKernels>> {
        Ok(None)
    }

    /// The buffers of a plan in `copies` copies, without a kernel, for another process on the same device. `None`: a process is given their
    /// contents by the host.
    fn open_buffers(
        &self,
        _plan: &LaunchPlan,
        _copies: usize,
    ) -> anyhow::Result<Option<Box<dyn ExchangedBuffers>>> {
        Ok(None)
    }

    /// Loads a program and binds it to newly allocated memory for one workload.
    fn open(
        &self,
        program: &Program,
        plan: &LaunchPlan,
        purpose: Purpose,
    ) -> anyhow::Result<Opened>;

    /// Like `open`, for two kernels, at the same time if the device can.
    fn open_pair(
        &self,
        [one, other]: [(&Program, &LaunchPlan); 2],
        purpose: Purpose,
    ) -> anyhow::Result<[Opened; 2]> {
        Ok([
            self.open(one.0, one.1, purpose)?,
            self.open(other.0, other.1, purpose)?,
        ])
    }
}

/// Turns the values of some copies of an output into what the bound kernels of a device compare with.
pub type Upload = Rc<dyn Fn(Vec<Vec<f64>>) -> anyhow::Result<ExpectedValues>>;

/// Compiles kernels for a device.
pub trait Compile {
    /// The builds that this device can make; always contains `Build::Fast`.
    fn builds(&self) -> &[Build];

    /// Compiles one translation unit.
    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled>;

    /// Compiles several units in the fast build, in parallel if the device can. Returns the results in order; they may end
    /// with the first refusal.
    fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        let mut all = Vec::new();
        for unit in units {
            let compiled = self.compile(unit, Build::Fast)?;
            let is_refused = matches!(compiled, Compiled::Refused(_));
            all.push(compiled);
            if is_refused {
                break;
            }
        }
        Ok(all)
    }

    /// Compiles a unit in several builds, in parallel if the device can.
    fn compile_builds(
        &self,
        unit: &TranslationUnit,
        builds: &[Build],
    ) -> anyhow::Result<Vec<Compiled>> {
        let builds = builds.iter();
        builds.map(|build| self.compile(unit, *build)).collect()
    }
}

/// How to time on a device. The defaults suit a device that times single runs on one copy of the data.
pub trait TimingProperties {
    /// The lock file that excludes other processes while this device is timed.
    fn lock_file(&self) -> LockFile;

    /// After how many timing blocks both kernels are opened again, in new processes; `None`: never within a judgement.
    fn blocks_per_process(&self) -> Option<usize>;

    /// How many copies of a kernel's data to allocate, to time runs of about `time` over `bytes` of data in total.
    fn timing_copies(&self, bytes: u64, time: Duration) -> usize {
        let _ = (bytes, time);
        1
    }

    /// How many copies of `bytes` bytes of data the device's cache surely holds at the same time; at least 1.
    fn copies_in_cache(&self, bytes: u64) -> usize {
        let _ = bytes;
        1
    }

    /// How many runs of about `time` form one sample, if there are enough copies.
    fn runs_per_sample(&self, time: Duration) -> usize {
        let _ = time;
        1
    }

    /// The standard deviation of the error that all samples of one process share, for example because of where its code was
    /// loaded. No number of samples averages it out.
    fn process_noise(&self) -> Duration {
        Duration::ZERO
    }

    /// What slows the device down right now, such as heat. Samples taken meanwhile are void.
    fn disturbance(&self) -> Option<String> {
        None
    }

    /// The least time that the device allows for some work; `None` if the device's rates are unknown.
    fn floor(&self, work: CompulsoryWork) -> Option<Floor> {
        let _ = work;
        None
    }
}

/// What a device returns when it is asked to load a program.
pub enum Opened {
    Ready(Box<dyn BoundKernel>),
    Refused(Refusal),
}

impl Opened {
    /// Turns a refusal into a value. An error remains only where the machinery is broken.
    pub(super) fn from_result<T: BoundKernel>(
        result: Result<T, DeviceError>,
    ) -> anyhow::Result<Self> {
        match result {
            Ok(kernel) => Ok(Self::Ready(Box::new(kernel))),
            Err(DeviceError::Refused(refusal)) => Ok(Self::Refused(refusal)),
            Err(DeviceError::Broken(error)) => Err(error),
        }
    }
}

/// The work that one run of a task cannot avoid, from cold caches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompulsoryWork {
    /// Bytes of device memory read or written.
    pub bytes: f64,
    pub operations: f64,
    /// Runs in one sample; they share what the cache holds.
    pub runs: usize,
    /// Whether tensor cores may do the operations.
    pub on_tensor_cores: bool,
}

/// The least time for some work on a device, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// By the rates that were measured on this device.
    pub measured_us: f64,
    /// By the limits of the hardware: a shorter time cannot come from computing the result.
    pub physical_us: f64,
}

/// Why a program is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To check its results. If the device can, every buffer starts or ends where mapped memory does.
    Check { edge: Edge },
    /// To time it, over this many copies of its data. `cache` is the state of the caches when the clock starts; `None` if no
    /// time is wanted.
    Time { copies: usize, cache: Option<Cache> },
    /// To compute expected values, for this many copies of the data. Only for the oracle, which is trusted: no memory is hidden from
    /// it, and its state is not watched.
    Expect { copies: usize },
    /// To launch it under a tool of the device's vendor. Every buffer is its own allocation of exactly its size, and the
    /// launch is marked for profilers.
    Probe,
}

/// Which end of a buffer is next to unmapped memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Start,
    End,
}

/// The contents of the device's caches when the clock starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nothing of the kernel's data.
    #[default]
    Cold,
    /// The kernel's inputs, as far as the cache holds them.
    Hot,
}
