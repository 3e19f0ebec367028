//! GPUs that speak CUDA: NVRTC compiles in a process without a device, the driver launches in this one.
//!
//! A process judges one candidate: after a fault its context is lost, and after a hang only its end stops the kernel.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod bound_kernel;
mod captured_output;
mod card;
mod cards;
mod clock;
mod clock_monitor;
pub mod compiler;
mod diagnostics;
mod harness_kernels;
mod headers;
mod layout;
mod memory;
mod module_variables;
mod nvrtc;
mod nvrtc_process;
mod peaks;
mod prepared_plan;
mod ptx;
mod refuse;
mod source;
mod toolkit;
pub(crate) mod tools;
mod wire;

pub use cards::{compute_process_count, list_gpus};
pub(crate) use nvrtc::serve as serve_nvrtc;
pub(crate) use nvrtc_process::COMMAND as NVRTC_COMMAND;
pub(super) use peaks::load_peaks_into as recall_peaks;

use super::{Build, Compiled, Device, Floor, LockFile, Opened, Program, Purpose};
use crate::kernel::DeviceLimits;
use crate::kernel::plan::{Plan, TranslationUnit};
use crate::verdict::DeviceIdentity;

/// A sample of many short launches takes about this long: what an event costs is then lost in it.
const TARGET_SAMPLE_TIME: Duration = Duration::from_micros(250);
/// From this time on a launch is timed by itself.
const LONG_LAUNCH: Duration = Duration::from_micros(150);
/// All copies of one arm's data together.
const MAX_COPIED_BYTES: u64 = 6 << 30;
const MAX_COPIES: usize = 256;
/// The data of one sample is so many times what the cache holds.
const COPIES_TO_CACHE_RATIO: u64 = 4;

/// Measured with kernels of 2 to 3 us against themselves: a few cycles of every launch are the process', wherever its data lies.
const PROCESS_NOISE: Duration = Duration::from_nanos(5);

/// A GPU of this machine.
pub struct CudaDevice {
    shared: Rc<bound_kernel::GpuContext>,
    compiler: Rc<compiler::Compiler>,
    clock_monitor: Option<clock_monitor::ClockMonitor>,
    /// Not known where it is opened under a tool.
    roofline: Option<peaks::Roofline>,
}

impl CudaDevice {
    /// Opens the GPU with this number among those that the process sees, and loads the judge's own device code. `catch`: what
    /// kernels print goes into verdicts; nothing of this process reaches standard output from then on.
    ///
    /// # Errors
    /// `Failure::environment` where there is no driver, no such GPU, or no NVRTC.
    pub(crate) fn open(ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        Self::open_with(nvrtc_process::current_program()?, ordinal, catch)
    }

    /// As `open`, for who is not kforge's own program: `program` is.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(program: PathBuf, ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        let device = Self::open_without_rates(program, ordinal, catch)?;
        Ok(Self {
            roofline: Some(peaks::Roofline::load_or_measure(
                &device.shared,
                &device.compiler,
            )?),
            ..device
        })
    }

    /// The same, and nothing is measured: under a tool that watches every instruction rates would be none of the card's.
    ///
    /// # Errors
    /// As `open`.
    pub(crate) fn open_for_tools(ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        Self::open_without_rates(nvrtc_process::current_program()?, ordinal, catch)
    }

    fn open_without_rates(program: PathBuf, ordinal: u32, catch: bool) -> anyhow::Result<Self> {
        let card = Rc::new(card::Gpu::open(ordinal)?);
        let identity = card.identity();
        let compiler = Rc::new(compiler::Compiler::open_with_program(
            program,
            &identity.arch,
        )?);
        let own = harness_kernels::HarnessKernels::load(&card, &compiler)?;
        let clock = RefCell::new(clock::Clock::new(&card)?);
        let health =
            clock_monitor::ClockMonitor::open(identity.uuid.as_deref().unwrap_or_default());
        let shared = Rc::new(bound_kernel::GpuContext {
            gpu: card,
            harness: own,
            clock,
            captured_output: catch
                .then(captured_output::CapturedOutput::start)
                .transpose()?,
        });
        Ok(Self {
            roofline: None,
            shared,
            compiler,
            clock_monitor: health,
        })
    }

    /// What kernel files may ask of it.
    pub(crate) fn device_limits(&self) -> DeviceLimits {
        DeviceLimits {
            sm_count: i64::from(self.shared.gpu.sm_count),
            max_shared_bytes: i64::from(self.shared.gpu.max_shared_bytes),
        }
    }

    /// Whether a launch has faulted or did not end: this process can judge no more.
    pub fn is_broken(&self) -> bool {
        self.shared.gpu.is_broken()
    }
}

impl Device for CudaDevice {
    fn identity(&self) -> DeviceIdentity {
        self.shared.gpu.identity()
    }

    fn sandbox_description(&self) -> String {
        let held = match WRITES_CONFINED.load(Ordering::Relaxed) {
            true => "landlock (writes, network)",
            false => "none",
        };
        match self.shared.gpu.can_read_host_memory {
            true => format!("{held}; device code may read the host's memory"),
            false => held.to_owned(),
        }
    }

    fn builds(&self) -> &[Build] {
        &[Build::Fast]
    }

    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled> {
        anyhow::ensure!(build == Build::Fast, "a GPU runs the fast build only");
        self.compiler.compile(unit)
    }

    fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        self.compiler.compile_all(units)
    }

    fn open(&self, program: &Program, plan: &Plan, purpose: Purpose) -> anyhow::Result<Opened> {
        bound_kernel::CudaBoundKernel::open(&self.shared, program, plan, purpose)
    }

    fn timing_copies(&self, bytes: u64, time: Duration) -> usize {
        let bytes = bytes.max(1);
        // More data than the cache keeps, unless a kernel is too slow for that to matter.
        let by_cache = (COPIES_TO_CACHE_RATIO * self.shared.gpu.cache_bytes).div_ceil(bytes);
        let most = (MAX_COPIED_BYTES / bytes).clamp(1, MAX_COPIES as u64);
        match self.runs_per_sample(time) as u64 {
            1 => 1,
            units => units.max(by_cache.min(2 * units)).min(most) as usize,
        }
    }

    fn runs_per_sample(&self, time: Duration) -> usize {
        if time >= LONG_LAUNCH {
            return 1;
        }
        let time = time.max(Duration::from_nanos(500));
        (TARGET_SAMPLE_TIME.as_secs_f64() / time.as_secs_f64()).ceil() as usize
    }

    fn blocks_per_process(&self) -> Option<usize> {
        None
    }

    fn process_noise(&self) -> Duration {
        PROCESS_NOISE
    }

    fn floor(&self, bytes: f64, operations: f64, units: usize, tensor: bool) -> Option<Floor> {
        Some(
            self.roofline
                .as_ref()?
                .floor(bytes, operations, units, tensor),
        )
    }

    fn disturbance(&self) -> Option<String> {
        self.clock_monitor.as_ref()?.disturbance()
    }

    fn lock_file(&self) -> LockFile {
        lock_file(&self.identity())
    }
}

/// Whether this process has been fenced in.
static WRITES_CONFINED: AtomicBool = AtomicBool::new(false);

/// Keeps this process from writing anywhere but in kforge's cache, the temporary folder and the devices, and from the network.
/// Before the driver starts its threads; what cannot be had is told by `Device::sandbox`.
pub(crate) fn confine_writes() -> anyhow::Result<()> {
    let cache = super::cache::folder();
    super::cache::create_folder(&cache)?;
    let places = [
        cache,
        std::env::temp_dir(),
        super::lock_folder(),
        "/dev".into(),
        // The driver names its threads there.
        "/proc".into(),
    ];
    WRITES_CONFINED.store(super::sandbox::confine_worker(&places)?, Ordering::Relaxed);
    Ok(())
}

/// Starts the driver, which takes as long as making a context and disturbs nobody.
///
/// # Errors
/// `Failure::environment` where there is none.
pub(crate) fn start_driver() -> anyhow::Result<()> {
    card::init_driver()
}

/// The lock of a card, the same for every user of the machine.
pub(crate) fn lock_file(identity: &DeviceIdentity) -> LockFile {
    let name = identity.uuid.as_deref().unwrap_or("GPU");
    LockFile {
        path: super::lock_folder().join(format!("kforge-{name}.lock")),
        is_host: false,
    }
}
