//! Two bounds on the speed of a GPU: its measured peak rates, and the physical limits of its hardware.
//!
//! The rates are measured by the kernels in `peaks.cu` and `peak_warp_groups.cu` once for each GPU and driver, and cached on disk. The roofline of a verdict
//! uses them. A time below the physical limit is `suspicious`: the kernel cannot have computed the result. Never decides that
//! itself: `eval` does.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use serde::{Deserialize, Serialize};

use super::compiler::Compiler;
use super::gpu::{Gpu, call};
use super::gpu_context::GpuContext;
use super::harness_kernels::arguments;
use super::loaded_module::LoadedModule;
use super::memory::Region;
use crate::base::files;
use crate::device::{CompulsoryWork, Floor};
use crate::verdict::DeviceIdentity;

const SOURCE: &str = include_str!("peaks.cu");
/// Products of warp groups, which one architecture has.
const WARP_GROUPS_SOURCE: &str = include_str!("peak_warp_groups.cu");
const WARP_GROUPS_ARCH: &str = "sm_90a";
const THREADS: u32 = 256;
/// Bytes that one bandwidth measurement moves: many times the size of a cache.
const BANDWIDTH_TEST_BYTES: u64 = 1 << 30;
/// Iterations of the arithmetic kernels' main loop.
const ROUNDS: u32 = 2000;
/// Launches of each kernel; the fastest one counts.
const REPEATS: usize = 5;
/// Tolerance for errors of the clock: the reported physical limit is this share of the computed one.
const CLOCK_ERROR_ALLOWANCE: f64 = 0.95;

/// Rates of a GPU, measured or physical.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PeakRates {
    /// Bytes of device memory per second. Measured for reading and for copying; the faster one counts.
    bytes: f64,
    /// Float32 operations per second; a multiply-add counts as two.
    float: f64,
    /// Bfloat16 operations per second on the tensor cores. Measured with `mma.sync`, which all GPUs since sm_80 have, and on sm_90 with
    /// `wgmma` too; the faster one counts.
    tensor: f64,
}

/// The contents of a cache file: the rates of a GPU, and properties that can be read only while the GPU is open.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct CachedPeaks {
    #[serde(flatten)]
    peaks: PeakRates,
    multiprocessors: u32,
    cache_bytes: u64,
}

/// The measurements of a GPU and its properties, from the cache, for `device::facts`.
#[derive(Clone, Copy, Debug)]
pub(in crate::device) struct MeasuredFacts {
    pub(in crate::device) multiprocessors: u32,
    pub(in crate::device) cache_bytes: u64,
    /// Bytes per second.
    pub(in crate::device) bandwidth: f64,
    /// Float32 operations per second.
    pub(in crate::device) float_rate: f64,
    /// Bfloat16 operations per second on the tensor cores.
    pub(in crate::device) tensor_rate: f64,
}

/// Loads the cached measurements of a GPU; `None` if it was never measured with this driver.
pub(in crate::device) fn load_measured(identity: &DeviceIdentity) -> Option<MeasuredFacts> {
    let cached = load_cached(&cache_path(identity)?)?;
    Some(MeasuredFacts {
        multiprocessors: cached.multiprocessors,
        cache_bytes: cached.cache_bytes,
        bandwidth: cached.peaks.bytes,
        float_rate: cached.peaks.float,
        tensor_rate: cached.peaks.tensor,
    })
}

/// The measured rates and the physical limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roofline {
    measured: PeakRates,
    bound: PeakRates,
    cache_bytes: f64,
}

impl Roofline {
    /// Loads the rates from the cache, or measures and caches them.
    pub(super) fn load_or_measure(
        context: &Rc<GpuContext>,
        compiler: &Compiler,
    ) -> anyhow::Result<Self> {
        let gpu = &context.gpu;
        let path = cache_path(&gpu.identity());
        let measured = match path.as_deref().and_then(load_cached) {
            Some(cached) => cached.peaks,
            None => {
                let peaks = measure(context, compiler)?;
                let cached = CachedPeaks {
                    peaks,
                    multiprocessors: gpu.sm_count,
                    cache_bytes: gpu.cache_bytes,
                };
                // If this fails, the next process measures again.
                if let Some(path) = path
                    && let Ok(text) = serde_json::to_string(&cached)
                {
                    let _ = files::replace(&path, text.as_bytes());
                }
                peaks
            }
        };
        Ok(Self {
            measured,
            bound: physical_bound(gpu)?,
            cache_bytes: gpu.cache_bytes as f64,
        })
    }

    /// The least time for some work, by the measured rates and by the physical limits.
    ///
    /// The physical limit always assumes tensor cores, because a kernel can split float32 values into narrower parts without losing
    /// accuracy.
    pub(super) fn floor(&self, work: CompulsoryWork) -> Floor {
        // Cached bytes need no memory traffic. All runs of a sample share the cache, so each run gets an equal part of it.
        let cached = self.cache_bytes / work.runs.max(1) as f64;
        let uncached = (work.bytes - cached).max(0.0);
        let of = |peaks: &PeakRates, on_tensor_cores: bool| {
            let rate = if on_tensor_cores {
                peaks.tensor
            } else {
                peaks.float
            };
            (uncached / peaks.bytes).max(work.operations / rate) * 1e6
        };
        Floor {
            measured_us: of(&self.measured, work.on_tensor_cores),
            physical_us: of(&self.bound, true) * CLOCK_ERROR_ALLOWANCE,
        }
    }
}

/// The cache file of a GPU; `None` if the GPU cannot be identified.
fn cache_path(identity: &DeviceIdentity) -> Option<PathBuf> {
    let (uuid, driver) = (identity.uuid.as_deref()?, identity.driver.as_deref()?);
    Some(crate::device::cache::folder().join(format!("rates-{uuid}-{driver}.json")))
}

fn load_cached(path: &Path) -> Option<CachedPeaks> {
    let text = std::fs::read_to_string(path).ok()?;
    let cached: CachedPeaks = serde_json::from_str(&text).ok()?;
    let is_valid = |rate: f64| rate.is_finite() && rate > 0.0;
    let PeakRates {
        bytes,
        float,
        tensor,
    } = cached.peaks;
    (is_valid(bytes) && is_valid(float) && is_valid(tensor)).then_some(cached)
}

fn measure(context: &Rc<GpuContext>, compiler: &Compiler) -> anyhow::Result<PeakRates> {
    let gpu = &context.gpu;
    let names = ["peak_read", "peak_copy", "peak_float", "peak_tensor"];
    let program = compiler.compile_harness("peaks", SOURCE, &[], &names)?;
    let module = LoadedModule::load(gpu, &std::fs::read(&program.image)?)?;
    let functions = program
        .entries
        .iter()
        .map(|entry| module.function(&entry.name));
    let functions = functions.collect::<anyhow::Result<Vec<_>>>()?;
    let warp_groups = warp_group_products(gpu, compiler)?;
    let region = Region::new(gpu, BANDWIDTH_TEST_BYTES, false)?;
    let (blocks, threads) = (gpu.sm_count * 8, THREADS);
    let (mut from, mut into) = (region.start(), region.start() + BANDWIDTH_TEST_BYTES / 2);
    let (mut groups, mut half) = (BANDWIDTH_TEST_BYTES / 16, BANDWIDTH_TEST_BYTES / 32);
    let (mut rounds, mut seed, mut number) = (ROUNDS, 0.5f32, 0x3f80_3f80u32);
    let mut sink = region.start();
    let launch = |function, arguments: &mut [*mut std::ffi::c_void]| -> anyhow::Result<f64> {
        let clock = context.clock.borrow();
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            clock.record_start()?;
            call!(cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                gpu.stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut()
            ))?;
            clock.record_end()?;
            gpu.synchronize()?;
            best = best.min(clock.elapsed()?.as_secs_f64());
        }
        anyhow::ensure!(best > 0.0, "the device clock returned a time of 0");
        Ok(best)
    };
    call!(cuMemsetD32Async(
        region.start(),
        0x3f80_3f80,
        (BANDWIDTH_TEST_BYTES / 4) as usize,
        gpu.stream
    ))?;
    let read = launch(functions[0], arguments!(from, groups, sink))?;
    let copied = launch(functions[1], arguments!(from, into, half))?;
    let float = launch(functions[2], arguments!(rounds, seed, sink))?;
    let tensor = launch(functions[3], arguments!(rounds, number, sink))?;
    let all_threads = f64::from(blocks * threads);
    let products = all_threads * f64::from(ROUNDS) * 8.0;
    let mut tensor_rate = products / 32.0 * (16.0 * 8.0 * 16.0 * 2.0) / tensor;
    if let Some((_module, function)) = warp_groups {
        let seconds = launch(function, arguments!(rounds, number, sink))?;
        let rate = products / 128.0 * (64.0 * 256.0 * 16.0 * 2.0) / seconds;
        tracing::debug!(
            "tensor cores: {:.1} TFLOP/s with mma.sync, {:.1} TFLOP/s with wgmma",
            tensor_rate * 1e-12,
            rate * 1e-12
        );
        tensor_rate = tensor_rate.max(rate);
    }
    Ok(PeakRates {
        bytes: BANDWIDTH_TEST_BYTES as f64 / read.min(copied),
        float: all_threads * f64::from(ROUNDS) * 64.0 * 2.0 / float,
        tensor: tensor_rate,
    })
}

/// The kernel that measures products of warp groups, and its module. `None` on a GPU without them.
fn warp_group_products(
    gpu: &Rc<Gpu>,
    compiler: &Compiler,
) -> anyhow::Result<Option<(LoadedModule, sys::CUfunction)>> {
    if !WARP_GROUPS_ARCH.starts_with(&gpu.identity().arch) {
        return Ok(None);
    }
    let program = compiler.compile_harness_for(
        WARP_GROUPS_ARCH,
        "peak_warp_groups",
        WARP_GROUPS_SOURCE,
        &[],
        &["peak_warp_groups"],
    )?;
    let module = LoadedModule::load(gpu, &std::fs::read(&program.image)?)?;
    let entry = program.entries.first();
    let function = module.function(entry.map_or("", |entry| &entry.name))?;
    Ok(Some((module, function)))
}

/// The physical limits: the clocks and the bus width that the driver reports, times the rates of the architecture.
///
/// The table has the highest dense rates of each major architecture per clock and multiprocessor: float32 multiply-adds, and
/// bfloat16 operations on the tensor cores. Sources: CUDA programming guide, table of arithmetic instructions; NVIDIA's
/// architecture white papers.
fn physical_bound(gpu: &Gpu) -> anyhow::Result<PeakRates> {
    let of = |attribute| -> anyhow::Result<f64> {
        let mut value = 0;
        call!(cuDeviceGetAttribute(&raw mut value, attribute, gpu.device))?;
        Ok(f64::from(value))
    };
    let memory_clock = of(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * 1e3;
    let width = of(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
    let clock = of(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * 1e3;
    let major = of(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
    // Newer architectures get a limit that no known GPU reaches.
    let (float, tensor) = match major {
        ..=7 => (128.0, 1024.0),
        8 => (128.0, 2048.0),
        9 => (128.0, 4096.0),
        _ => (256.0, 16_384.0),
    };
    let multiprocessors = f64::from(gpu.sm_count);
    // A driver that reports no clock gives no limit.
    let known = |rate: f64| if rate > 0.0 { rate } else { f64::INFINITY };
    Ok(PeakRates {
        bytes: known(memory_clock * 2.0 * width),
        float: known(multiprocessors * clock * float * 2.0),
        tensor: known(multiprocessors * clock * tensor),
    })
}
