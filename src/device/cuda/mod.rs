//! GPUs that speak CUDA: NVRTC compiles in a process without a device, the driver launches in this one.
//!
//! A process judges one candidate: after a fault its context is lost, and after a hang only its end stops the kernel.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod arm;
mod card;
mod cards;
mod child;
mod clock;
pub mod compiler;
mod diagnostics;
mod headers;
mod health;
mod locate;
mod memory;
mod nvrtc;
mod own;
mod peaks;
mod places;
mod printed;
mod ptx;
mod refuse;
mod source;
mod state;
pub(crate) mod tools;
mod unit;
mod wire;

pub use cards::{cards, users};
pub(crate) use child::COMMAND as NVRTC_COMMAND;
pub(crate) use locate::Toolkit;
pub(crate) use nvrtc::serve as serve_nvrtc;
pub(super) use peaks::recall as recall_peaks;

use super::{Build, Compiled, Device, Floor, Lock, Opened, Program, Purpose};
use crate::kernel::Machine;
use crate::kernel::plan::{Plan, Unit};
use crate::verdict::DeviceIdentity;

/// A sample of many short launches takes about this long: what an event costs is then lost in it.
const SAMPLE: Duration = Duration::from_micros(250);
/// From this time on a launch is timed by itself.
const LONG: Duration = Duration::from_micros(150);
/// All copies of one arm's data together.
const MOST_COPIED_BYTES: u64 = 6 << 30;
const MOST_COPIES: usize = 256;
/// The data of one sample is so many times what the cache holds.
const CACHES: u64 = 4;

/// Measured with kernels of 2 to 3 us against themselves: a few cycles of every launch are the process', wherever its data lies.
const CHANCE: Duration = Duration::from_nanos(5);

/// A GPU of this machine.
pub struct CudaDevice {
    shared: Rc<arm::Shared>,
    compiler: Rc<compiler::Compiler>,
    health: Option<health::Health>,
    /// Not known where it is opened under a tool.
    rates: Option<peaks::Rates>,
}

impl CudaDevice {
    /// Opens the GPU with this number among those that the process sees, and loads the judge's own device code. `catch`: what
    /// kernels print goes into verdicts; nothing of this process reaches standard output from then on.
    ///
    /// # Errors
    /// `Failure::environment` where there is no driver, no such GPU, or no NVRTC.
    pub(crate) fn open(ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        Self::open_with(child::own_program()?, ordinal, catch)
    }

    /// As `open`, for who is not kforge's own program: `program` is.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(program: PathBuf, ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        let device = Self::unmeasured(program, ordinal, catch)?;
        Ok(Self {
            rates: Some(peaks::Rates::of(&device.shared, &device.compiler)?),
            ..device
        })
    }

    /// The same, and nothing is measured: under a tool that watches every instruction rates would be none of the card's.
    ///
    /// # Errors
    /// As `open`.
    pub(crate) fn open_for_tools(ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        Self::unmeasured(child::own_program()?, ordinal, catch)
    }

    fn unmeasured(program: PathBuf, ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        let card = Rc::new(card::Card::open(ordinal)?);
        let identity = card.identity();
        let compiler = Rc::new(compiler::Compiler::open_with(program, &identity.arch)?);
        let own = own::Own::load(&card, &compiler)?;
        let clock = RefCell::new(clock::Clock::new(&card)?);
        let health = health::Health::open(identity.uuid.as_deref().unwrap_or_default());
        let shared = Rc::new(arm::Shared {
            card,
            own,
            clock,
            printed: catch.then(printed::Printed::catch).transpose()?,
        });
        Ok(Self {
            rates: None,
            shared,
            compiler,
            health,
        })
    }

    /// What kernel files may ask of it.
    pub(crate) fn machine(&self) -> Machine {
        Machine {
            sm_count: i64::from(self.shared.card.sm_count),
            max_shared_bytes: i64::from(self.shared.card.max_shared_bytes),
        }
    }

    /// Whether a launch has faulted or did not end: this process can judge no more.
    pub fn is_broken(&self) -> bool {
        self.shared.card.is_broken()
    }
}

impl Device for CudaDevice {
    fn identity(&self) -> DeviceIdentity {
        self.shared.card.identity()
    }

    fn sandbox(&self) -> String {
        let held = match FENCED.load(Ordering::Relaxed) {
            true => "landlock (writes, network)",
            false => "none",
        };
        match self.shared.card.reads_host {
            true => format!("{held}; device code may read the host's memory"),
            false => held.to_owned(),
        }
    }

    fn builds(&self) -> &[Build] {
        &[Build::Fast]
    }

    fn compile(&self, unit: &Unit, build: Build) -> anyhow::Result<Compiled> {
        anyhow::ensure!(build == Build::Fast, "a GPU runs the fast build only");
        self.compiler.compile(unit)
    }

    fn compile_all(&self, units: &[Unit]) -> anyhow::Result<Vec<Compiled>> {
        self.compiler.compile_all(units)
    }

    fn open(&self, program: &Program, plan: &Plan, purpose: Purpose) -> anyhow::Result<Opened> {
        arm::CudaArm::open(&self.shared, program, plan, purpose)
    }

    fn copies(&self, bytes: u64, time: Duration) -> usize {
        let bytes = bytes.max(1);
        // More data than the cache keeps, unless a kernel is too slow for that to matter.
        let by_cache = (CACHES * self.shared.card.cache_bytes).div_ceil(bytes);
        let most = (MOST_COPIED_BYTES / bytes).clamp(1, MOST_COPIES as u64);
        match self.units(time) as u64 {
            1 => 1,
            units => units.max(by_cache.min(2 * units)).min(most) as usize,
        }
    }

    fn units(&self, time: Duration) -> usize {
        if time >= LONG {
            return 1;
        }
        let time = time.max(Duration::from_nanos(500));
        (SAMPLE.as_secs_f64() / time.as_secs_f64()).ceil() as usize
    }

    fn blocks_a_process(&self) -> Option<usize> {
        None
    }

    fn chance(&self) -> Duration {
        CHANCE
    }

    fn floor_us(&self, bytes: f64, operations: f64, units: usize, tensor: bool) -> Option<Floor> {
        Some(self.rates.as_ref()?.floor(bytes, operations, units, tensor))
    }

    fn disturbance(&self) -> Option<String> {
        self.health.as_ref()?.disturbance()
    }

    fn lock(&self) -> Lock {
        lock(&self.identity())
    }
}

/// Whether this process has been fenced in.
static FENCED: AtomicBool = AtomicBool::new(false);

/// Keeps this process from writing anywhere but in kforge's cache, the temporary folder and the devices, and from the network.
/// Before the driver starts its threads; what cannot be had is told by `Device::sandbox`.
pub(crate) fn fence() -> anyhow::Result<()> {
    let cache = super::cache::folder();
    super::cache::make(&cache)?;
    let places = [
        cache,
        std::env::temp_dir(),
        super::lock_folder(),
        "/dev".into(),
        // The driver names its threads there.
        "/proc".into(),
    ];
    FENCED.store(super::sandbox::fence(&places)?, Ordering::Relaxed);
    Ok(())
}

/// Starts the driver, which takes as long as making a context and disturbs nobody.
///
/// # Errors
/// `Failure::environment` where there is none.
pub(crate) fn start() -> anyhow::Result<()> {
    card::start()
}

/// The lock of a card, the same for every user of the machine.
pub(crate) fn lock(identity: &DeviceIdentity) -> Lock {
    let name = identity.uuid.as_deref().unwrap_or("GPU");
    Lock {
        path: super::lock_folder().join(format!("kforge-{name}.lock")),
        is_host: false,
    }
}
