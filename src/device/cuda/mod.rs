//! CUDA GPUs as a device: NVRTC compiles in a child process without a GPU, and the driver launches in this process.
//!
//! A process judges one candidate: after a fault its context is lost, and only the end of the process stops a hanging kernel.
//! Never runs host code of a candidate.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod argument_addresses;
mod argument_memory;
mod bound_kernel;
mod buffer_copies;
mod buffers;
mod captured_output;
mod clock;
mod clock_monitor;
mod code_checks;
pub mod compiler;
mod cubin;
mod cubin_cache;
mod diagnostics;
mod exchange;
mod gpu;
mod gpu_context;
mod gpu_list;
mod harness_functions;
mod harness_kernels;
mod headers;
mod judge_memory;
mod launch_arguments;
mod launch_checks;
mod launch_limits;
mod layout;
mod loaded_module;
mod memory;
mod module_variables;
mod nvrtc;
mod nvrtc_process;
mod omitted_headers;
mod overlap;
mod peaks;
mod plain_source;
mod prepared_plan;
mod ptx;
mod ptx_rules;
mod ptx_tokens;
mod source;
mod source_checks;
mod toolkit;
mod toolkit_cache;
mod toolkit_search;
pub mod tools;
mod wire;

pub use gpu_list::{compute_process_count, list_gpus};
pub(crate) use nvrtc::serve as serve_nvrtc;
pub(crate) use nvrtc_process::COMMAND as NVRTC_COMMAND;
pub(crate) use omitted_headers::omitted_headers;
pub(super) use peaks::load_measured;
pub(crate) use plain_source::plain_source;

use super::bound_kernel::ExchangedBuffers;
use super::cpu::GpuMacros;
use super::interface::{
    Compile, CompulsoryWork, Device, Floor, Opened, Purpose, TimingProperties, Upload,
};
use super::lock::{LockFile, lock_folder};
use super::memory::{DeviceValues, ExpectedValues};
use super::program::{Build, Compiled, FillKernels, Program};
use crate::kernel::DeviceLimits;
use crate::kernel::plan::{LaunchPlan, TranslationUnit};
use crate::task::DType;
use crate::verdict::DeviceIdentity;

/// Target duration of a sample of many short runs; a sample has the number of runs that comes nearest. The cost of an event is negligible in
/// it.
const TARGET_SAMPLE_TIME: Duration = Duration::from_micros(250);
/// A run of at least this duration is a sample by itself.
const LONG_RUN: Duration = Duration::from_micros(150);
/// Limit for the total size of all copies of a kernel's data.
const MAX_COPIED_BYTES: u64 = 6 << 30;
const MAX_COPIES: usize = 256;
/// The data of one sample is this many times the cache's size.
const COPIES_TO_CACHE_RATIO: u64 = 4;
/// The cache is this many times as large as the data that is timed hot: its halves may each hold the same lines.
const CACHE_TO_HOT_DATA_RATIO: u64 = 3;

/// Measured by timing kernels of 2 to 3 us against themselves: every process adds a few cycles to each launch, for any placement.
const PROCESS_NOISE: Duration = Duration::from_nanos(5);

/// An opened GPU of this machine.
pub struct CudaDevice {
    context: Rc<gpu_context::GpuContext>,
    compiler: Rc<compiler::Compiler>,
    clock_monitor: Option<clock_monitor::ClockMonitor>,
    /// `None` if the GPU was opened for a tool.
    roofline: Option<peaks::Roofline>,
}

impl CudaDevice {
    /// Opens the GPU with this number among the GPUs visible to this process, and loads the harness kernels. `capture`: capture
    /// what kernels print, for verdicts; from then on nothing of this process reaches standard output. `program` is the path of kforge, for
    /// a caller that is another program.
    ///
    /// # Errors
    /// `Failure::environment` if there is no driver, no such GPU, or no NVRTC.
    pub fn open_with_program(
        program: PathBuf,
        ordinal: u32,
        capture: bool,
    ) -> anyhow::Result<Self> {
        Self::open_unmeasured(program, ordinal, capture)?.with_rates()
    }

    /// Like `open_with_program`, from kforge itself and without measuring rates: another process, or a tool that instruments every
    /// instruction, would distort them.
    ///
    /// # Errors
    /// See `open_with_program`.
    pub(crate) fn open_without_rates(ordinal: u32, capture: bool) -> anyhow::Result<Self> {
        Self::open_unmeasured(nvrtc_process::current_program()?, ordinal, capture)
    }

    /// Whether the GPU's rates were measured before with this driver, so that `with_rates` runs nothing on it.
    pub(crate) fn knows_rates(&self) -> bool {
        peaks::load_measured(&self.context.gpu.identity()).is_some()
    }

    /// Loads the measured rates of this GPU, or measures them if no process has.
    ///
    /// # Errors
    /// If the GPU fails while they are measured.
    pub(crate) fn with_rates(self) -> anyhow::Result<Self> {
        let roofline = peaks::Roofline::load_or_measure(&self.context, &self.compiler)?;
        Ok(Self {
            roofline: Some(roofline),
            ..self
        })
    }

    fn open_unmeasured(program: PathBuf, ordinal: u32, capture: bool) -> anyhow::Result<Self> {
        let nvml = clock_monitor::StartingNvml::start();
        let gpu = Rc::new(gpu::Gpu::open(ordinal)?);
        let identity = gpu.identity();
        let compiler = Rc::new(compiler::Compiler::open_with_program(
            program,
            &identity.arch,
        )?);
        let judge_memory = Rc::new(judge_memory::JudgeMemory::new(&gpu));
        let harness = harness_kernels::HarnessKernels::load(&judge_memory, &compiler)?;
        let clock = RefCell::new(clock::Clock::new(&gpu)?);
        let uuid = identity.uuid.as_deref().unwrap_or_default();
        let captured_output = capture.then(captured_output::CapturedOutput::start);
        Ok(Self {
            roofline: None,
            context: Rc::new(gpu_context::GpuContext {
                gpu,
                judge_memory,
                layouts: RefCell::default(),
                harness,
                clock,
                captured_output: captured_output.transpose()?,
            }),
            compiler,
            clock_monitor: clock_monitor::ClockMonitor::open(nvml, uuid),
        })
    }

    /// The limits that kernel files can use in expressions.
    pub(crate) fn device_limits(&self) -> DeviceLimits {
        DeviceLimits {
            sm_count: i64::from(self.context.gpu.sm_count),
            max_shared_bytes: i64::from(self.context.gpu.max_shared_bytes),
        }
    }

    /// The macros by which sources recognise this GPU and its compiler.
    ///
    /// # Errors
    /// See `Compiler::macros`.
    pub(crate) fn macros(&self) -> anyhow::Result<GpuMacros> {
        self.compiler.macros()
    }

    /// Whether a launch has faulted or did not end. This process then cannot judge any more.
    pub fn is_broken(&self) -> bool {
        self.context.gpu.is_broken()
    }
}

impl Device for CudaDevice {
    fn identity(&self) -> DeviceIdentity {
        self.context.gpu.identity()
    }

    fn sandbox_description(&self) -> String {
        let sandbox = if WRITES_CONFINED.load(Ordering::Relaxed) {
            "landlock (writes, network)"
        } else {
            "none"
        };
        if self.context.gpu.can_read_host_memory {
            format!("{sandbox}; device code may read the host's memory")
        } else {
            sandbox.to_owned()
        }
    }

    fn fill_kernels(&self, dtype: DType) -> anyhow::Result<Option<FillKernels>> {
        self.context.harness.fill_kernels(dtype).map(Some)
    }

    fn open_buffers(
        &self,
        plan: &LaunchPlan,
        copies: usize,
    ) -> anyhow::Result<Option<Box<dyn ExchangedBuffers>>> {
        // Any program will do: nothing is launched.
        let kernels = self.context.harness.fill_kernels(DType::Float32)?;
        let buffers = LaunchPlan {
            launches: Vec::new(),
            tensor_maps: Vec::new(),
            ..plan.clone()
        };
        let purpose = Purpose::Expect { copies };
        let opened =
            bound_kernel::CudaBoundKernel::open(&self.context, &kernels.program, &buffers, purpose);
        match opened {
            Ok(opened) => Ok(Some(Box::new(opened))),
            Err(error) => Err(error.into_broken().context("no buffers for the oracle")),
        }
    }

    /// The values lie in the judge's memory, which is hidden from candidates.
    fn upload(&self) -> Upload {
        let memory = Rc::clone(&self.context.judge_memory);
        Rc::new(move |copies| {
            let elements = copies.first().map_or(0, Vec::len) as u64;
            let buffers = copies.iter().map(|values| memory.allocate_with(values));
            let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
            let addresses = buffers
                .iter()
                .map(judge_memory::JudgeBuffer::address)
                .collect();
            Ok(ExpectedValues::OnDevice(DeviceValues {
                dtype: DType::Float64,
                elements,
                addresses,
                owner: Rc::new(buffers),
            }))
        })
    }

    fn open(
        &self,
        program: &Program,
        plan: &LaunchPlan,
        purpose: Purpose,
    ) -> anyhow::Result<Opened> {
        let kernel = bound_kernel::CudaBoundKernel::open(&self.context, program, plan, purpose);
        Opened::from_result(kernel)
    }
}

impl Compile for CudaDevice {
    fn builds(&self) -> &[Build] {
        &[Build::Fast]
    }

    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled> {
        anyhow::ensure!(build == Build::Fast, "a GPU runs only the fast build");
        self.compiler.compile(unit)
    }

    fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        self.compiler.compile_all(units)
    }
}

impl TimingProperties for CudaDevice {
    fn lock_file(&self) -> LockFile {
        lock_file(&self.identity())
    }

    fn blocks_per_process(&self) -> Option<usize> {
        None
    }

    fn timing_copies(&self, bytes: u64, time: Duration) -> usize {
        let bytes = bytes.max(1);
        // More data than the cache holds, unless the kernel is so slow that this does not matter.
        let by_cache = (COPIES_TO_CACHE_RATIO * self.context.gpu.cache_bytes).div_ceil(bytes);
        let limit = (MAX_COPIED_BYTES / bytes).clamp(1, MAX_COPIES as u64);
        match self.runs_per_sample(time) as u64 {
            1 => 1,
            runs => runs.max(by_cache.min(2 * runs)).min(limit) as usize,
        }
    }

    fn copies_in_cache(&self, bytes: u64) -> usize {
        let held = self.context.gpu.cache_bytes / CACHE_TO_HOT_DATA_RATIO / bytes.max(1);
        held.clamp(1, MAX_COPIES as u64) as usize
    }

    fn runs_per_sample(&self, time: Duration) -> usize {
        runs_of_target_time(time)
    }

    fn process_noise(&self) -> Duration {
        PROCESS_NOISE
    }

    fn disturbance(&self) -> Option<String> {
        self.clock_monitor.as_ref()?.disturbance()
    }

    fn floor(&self, work: CompulsoryWork) -> Option<Floor> {
        Some(self.roofline.as_ref()?.floor(work))
    }
}

/// The number of runs of about `time` that together take nearest to the target time of a sample.
fn runs_of_target_time(time: Duration) -> usize {
    if time >= LONG_RUN {
        return 1;
    }
    let time = time.max(Duration::from_nanos(500));
    let runs = TARGET_SAMPLE_TIME.as_secs_f64() / time.as_secs_f64();
    runs.round() as usize
}

/// Whether `confine_writes` has succeeded in this process.
static WRITES_CONFINED: AtomicBool = AtomicBool::new(false);

/// Prevents this process from using the network, and from writing anywhere but kforge's cache, the temporary folders, `/dev` and `/proc`.
///
/// Must be called before the driver starts its threads. `Device::sandbox_description` reports whether it succeeded.
pub(crate) fn confine_writes() -> anyhow::Result<()> {
    let cache = super::cache::folder();
    super::cache::create_folder(&cache)?;
    let writable = [
        cache,
        std::env::temp_dir(),
        lock_folder(),
        "/dev".into(),
        // The driver writes the names of its threads there.
        "/proc".into(),
    ];
    let is_confined = super::sandbox::confine_worker(&writable)?;
    WRITES_CONFINED.store(is_confined, Ordering::Relaxed);
    Ok(())
}

/// Starts the driver. This takes as long as creating a context, but does not disturb other processes that time on the GPU.
///
/// # Errors
/// `Failure::environment` if there is no driver.
pub(crate) fn start_driver() -> anyhow::Result<()> {
    gpu::init_driver()
}

/// The lock file of a GPU, the same for every user of the machine.
pub(crate) fn lock_file(identity: &DeviceIdentity) -> LockFile {
    let name = identity.uuid.as_deref().unwrap_or("GPU");
    LockFile {
        path: lock_folder().join(format!("kforge-{name}.lock")),
        is_host: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_short_runs_takes_about_the_target_time() {
        for microseconds in [1, 3, 20, 71, 84, 99, 101, 112, 149] {
            let time = Duration::from_micros(microseconds);
            let sample = time * runs_of_target_time(time) as u32;
            assert!(sample >= Duration::from_micros(200), "{time:?}: {sample:?}");
            assert!(sample <= Duration::from_micros(300), "{time:?}: {sample:?}");
        }
        assert_eq!(runs_of_target_time(LONG_RUN), 1);
        assert_eq!(runs_of_target_time(Duration::ZERO), 500);
    }
}
