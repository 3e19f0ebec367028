//! What a GPU can do at most: measured once for each card and driver, and remembered; and what no card of its kind could.
//!
//! A roofline is a time over what was measured here; a time below what the hardware's own figures allow was not computed.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use serde::{Deserialize, Serialize};

use super::bound_kernel::GpuContext;
use super::card::{Gpu, call};
use super::compiler::Compiler;
use super::harness_kernels::{LoadedModule, arguments};
use super::memory::Region;
use crate::base::files;
use crate::device::{DeviceFacts, Floor};
use crate::verdict::DeviceIdentity;

const SOURCE: &str = include_str!("peaks.cu");
/// Moved by one measurement of bandwidth: many times what a cache holds.
const BANDWIDTH_TEST_BYTES: u64 = 1 << 30;
const ROUNDS: u32 = 2000;
const REPEATS: usize = 5;
/// A time this much below what the hardware allows is an error of a clock, not of physics.
const CLOCK_ERROR_ALLOWANCE: f64 = 0.95;

/// Rates of a card.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PeakRates {
    /// Bytes a second, read or written, whichever is more.
    bytes: f64,
    /// Multiplications and additions a second in float32.
    float: f64,
    /// The same on the tensor cores in bfloat16, by the instruction that all cards since sm_80 have.
    tensor: f64,
}

/// What is remembered of a card: its rates, and what only an open card tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct CachedPeaks {
    #[serde(flatten)]
    peaks: PeakRates,
    multiprocessors: u32,
    cache_bytes: u64,
}

/// Puts what is remembered of a card into its facts; leaves them as they are where nothing is.
pub(in crate::device) fn load_peaks_into(identity: &DeviceIdentity, facts: &mut DeviceFacts) {
    if let Some(known) = cache_path(identity).and_then(|path| load_cached(&path)) {
        facts.multiprocessors = Some(known.multiprocessors);
        facts.cache_bytes = Some(known.cache_bytes);
        facts.bytes_a_second = Some(known.peaks.bytes);
        facts.float_a_second = Some(known.peaks.float);
        facts.tensor_a_second = Some(known.peaks.tensor);
    }
}

/// The measured rates, and the bounds of the kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roofline {
    measured: PeakRates,
    bound: PeakRates,
    cache_bytes: f64,
}

impl Roofline {
    /// Remembered from an earlier process, or measured now.
    pub(super) fn load_or_measure(
        shared: &Rc<GpuContext>,
        compiler: &Compiler,
    ) -> anyhow::Result<Self> {
        let card = &shared.gpu;
        let path = cache_path(&card.identity());
        let measured = match path.as_deref().and_then(load_cached) {
            Some(known) => known.peaks,
            None => {
                let peaks = measure(shared, compiler)?;
                let known = CachedPeaks {
                    peaks,
                    multiprocessors: card.sm_count,
                    cache_bytes: card.cache_bytes,
                };
                // Whoever cannot write there measures again next time.
                if let Some(path) = path
                    && let Ok(text) = serde_json::to_string(&known)
                {
                    let _ = files::replace(&path, text.as_bytes());
                }
                peaks
            }
        };
        Ok(Self {
            measured,
            bound: physical_bound(card)?,
            cache_bytes: card.cache_bytes as f64,
        })
    }

    /// For so many compulsory bytes and operations, where so many launches share what the cache holds. `tensor`: whether the
    /// operations are meant for the tensor cores. What no card could do does not depend on that: a kernel can split float32 into
    /// narrower parts and be as exact.
    pub(super) fn floor(&self, bytes: f64, operations: f64, units: usize, tensor: bool) -> Floor {
        let beyond = (bytes - self.cache_bytes / units.max(1) as f64).max(0.0);
        let of = |peaks: &PeakRates, tensor: bool| {
            let rate = if tensor { peaks.tensor } else { peaks.float };
            (beyond / peaks.bytes).max(operations / rate) * 1e6
        };
        Floor {
            measured_us: of(&self.measured, tensor),
            physical_us: of(&self.bound, true) * CLOCK_ERROR_ALLOWANCE,
        }
    }
}

/// `None` where it cannot be told from others: what is remembered must be its own.
fn cache_path(identity: &DeviceIdentity) -> Option<PathBuf> {
    let (uuid, driver) = (identity.uuid.as_deref()?, identity.driver.as_deref()?);
    Some(crate::device::cache::folder().join(format!("peaks-{uuid}-{driver}.json")))
}

fn load_cached(path: &Path) -> Option<CachedPeaks> {
    let text = std::fs::read_to_string(path).ok()?;
    let known: CachedPeaks = serde_json::from_str(&text).ok()?;
    let sound = |rate: f64| rate.is_finite() && rate > 0.0;
    let PeakRates {
        bytes,
        float,
        tensor,
    } = known.peaks;
    (sound(bytes) && sound(float) && sound(tensor)).then_some(known)
}

fn measure(shared: &Rc<GpuContext>, compiler: &Compiler) -> anyhow::Result<PeakRates> {
    let card = &shared.gpu;
    let names = ["peak_read", "peak_copy", "peak_float", "peak_tensor"];
    let program = compiler.compile_harness("peaks", SOURCE, &[], &names)?;
    let module = LoadedModule::load(card, &std::fs::read(&program.image)?)?;
    let functions = program.entries.iter().map(|entry| module.function(entry));
    let functions = functions.collect::<anyhow::Result<Vec<_>>>()?;
    let region = Region::new(card, BANDWIDTH_TEST_BYTES, false)?;
    let (blocks, threads) = (card.sm_count * 8, 256);
    let (mut from, mut into) = (region.start(), region.start() + BANDWIDTH_TEST_BYTES / 2);
    let (mut groups, mut half) = (BANDWIDTH_TEST_BYTES / 16, BANDWIDTH_TEST_BYTES / 32);
    let (mut rounds, mut seed, mut number) = (ROUNDS, 0.5f32, 0x3f80_3f80u32);
    let mut sink = region.start();
    let launch = |which: usize, arguments: &mut [*mut std::ffi::c_void]| -> anyhow::Result<f64> {
        let clock = shared.clock.borrow();
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            clock.record_start()?;
            call!(cuLaunchKernel(
                functions[which],
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                card.stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut()
            ))?;
            clock.record_end()?;
            card.synchronize()?;
            best = best.min(clock.elapsed()?.as_secs_f64());
        }
        anyhow::ensure!(best > 0.0, "the card's clock gave a time of 0");
        Ok(best)
    };
    call!(cuMemsetD32Async(
        region.start(),
        0x3f80_3f80,
        (BANDWIDTH_TEST_BYTES / 4) as usize,
        card.stream
    ))?;
    let read = launch(0, arguments!(from, groups, sink))?;
    let copied = launch(1, arguments!(from, into, half))?;
    let float = launch(2, arguments!(rounds, seed, sink))?;
    let tensor = launch(3, arguments!(rounds, number, sink))?;
    let all_threads = f64::from(blocks * threads);
    let rounds = f64::from(ROUNDS);
    Ok(PeakRates {
        bytes: BANDWIDTH_TEST_BYTES as f64 / read.min(copied),
        float: all_threads * rounds * 64.0 * 2.0 / float,
        tensor: all_threads / 32.0 * rounds * 8.0 * (16.0 * 8.0 * 16.0 * 2.0) / tensor,
    })
}

/// From the clocks and widths that the driver tells, and dense rates a clock of each architecture: fused multiplications and
/// additions of float32, and operations of bfloat16 on the tensor cores, for one multiprocessor (CUDA programming guide, table
/// of arithmetic instructions; vendor's architecture papers).
fn physical_bound(card: &Gpu) -> anyhow::Result<PeakRates> {
    let of = |attribute| -> anyhow::Result<f64> {
        let mut value = 0;
        call!(cuDeviceGetAttribute(&raw mut value, attribute, card.device))?;
        Ok(f64::from(value))
    };
    let memory_clock = of(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * 1e3;
    let width = of(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
    let clock = of(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * 1e3;
    let major = of(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
    // What is not known yet gets a bound that nothing will reach.
    let (float, tensor) = match major {
        ..=7 => (128.0, 1024.0),
        8 => (128.0, 2048.0),
        9 => (128.0, 4096.0),
        _ => (256.0, 16_384.0),
    };
    let multiprocessors = f64::from(card.sm_count);
    // Where the driver does not tell a clock nothing is known to be impossible.
    let known = |rate: f64| if rate > 0.0 { rate } else { f64::INFINITY };
    Ok(PeakRates {
        bytes: known(memory_clock * 2.0 * width),
        float: known(multiprocessors * clock * float * 2.0),
        tensor: known(multiprocessors * clock * tensor),
    })
}
