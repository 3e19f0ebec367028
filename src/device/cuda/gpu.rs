//! An opened GPU: its context, its stream, its properties, and the meaning of the driver's errors.
//!
//! After a fault or a launch that does not end, the driver is not called any more: the context is lost, and freeing memory could
//! block forever. The process then ends, which releases everything. Allocates nothing: `memory` does.

use std::cell::Cell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use crate::base::Failure;
use crate::device::refusal::{DeviceError, Refusal};
use crate::verdict::{DeviceIdentity, Status};

/// Size of the buffer for device `printf` between two launches. Output that does not fit is lost.
const PRINTF_BYTES: usize = 64 << 10;
/// The smallest device heap that the driver accepts. Kernels that allocate are also refused.
const MALLOC_HEAP_BYTES: usize = 1 << 12;

/// Calls a driver function and turns its error code into a `DriverError`.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: every pointer outlives the call. Handles come from the driver and are valid, because a broken GPU is not
        // called any more.
        $crate::device::cuda::gpu::checked(stringify!($function), unsafe { ::cudarc::driver::sys::$function($($argument),*) })
    };
}
pub(super) use call;

/// A failed call of the driver.
#[derive(Debug, thiserror::Error)]
#[error("{function}: {name}")]
pub(super) struct DriverError {
    function: &'static str,
    name: String,
    pub(super) code: CUresult,
}

pub(super) fn checked(function: &'static str, code: CUresult) -> Result<(), DriverError> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(DriverError {
        function,
        name: error_name(code),
        code,
    })
}

/// The driver's name of an error, in lower case and without its prefix.
fn error_name(code: CUresult) -> String {
    let mut name = ptr::null();
    // SAFETY: `name` receives a constant string of the driver, or stays null.
    let named = unsafe { sys::cuGetErrorName(code, &raw mut name) };
    if named != CUresult::CUDA_SUCCESS || name.is_null() {
        return format!("error {}", code as u32);
    }
    // SAFETY: a constant string that ends in a zero.
    let text = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let name = text.trim_start_matches("CUDA_ERROR_").replace('_', " ");
    name.to_lowercase()
}

/// An opened GPU.
pub(super) struct Gpu {
    pub(super) device: sys::CUdevice,
    pub(super) stream: sys::CUstream,
    pub(super) sm_count: u32,
    /// Limit of shared memory for one thread block.
    pub(super) max_shared_bytes: u32,
    pub(super) cache_bytes: u64,
    /// The unit of memory mapping in bytes.
    pub(super) granularity: u64,
    /// Whether device code can read the memory of this process.
    pub(super) can_read_host_memory: bool,
    identity: DeviceIdentity,
    broken: Cell<bool>,
}

impl Gpu {
    /// Opens the GPU with this number among the GPUs visible to this process.
    ///
    /// # Errors
    /// `Failure::environment` if there is no driver or no such GPU.
    pub(super) fn open(ordinal: u32) -> anyhow::Result<Self> {
        init_driver()?;
        let mut count = 0;
        call!(cuDeviceGetCount(&raw mut count))?;
        let count = count.unsigned_abs();
        if ordinal >= count {
            return Err(Failure::environment(format!(
                "no GPU {ordinal}: {count} GPUs are visible"
            ))
            .hint("run `kforge doctor` to list them")
            .into());
        }
        let mut device = 0;
        call!(cuDeviceGet(&raw mut device, ordinal as i32))?;
        let mut context = ptr::null_mut();
        call!(cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(cuCtxSetCurrent(context))?;
        for (limit, bytes) in [
            (sys::CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE, PRINTF_BYTES),
            (sys::CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE, MALLOC_HEAP_BYTES),
        ] {
            call!(cuCtxSetLimit(limit, bytes))?;
        }
        // A kernel cannot make cache lines persist. GPUs before Ampere do not have this limit.
        let _ = call!(cuCtxSetLimit(
            sys::CUlimit::CU_LIMIT_PERSISTING_L2_CACHE_SIZE,
            0
        ));
        let mut stream = ptr::null_mut();
        let non_blocking = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&raw mut stream, non_blocking))?;
        use sys::CUdevice_attribute as Attribute;
        let of = |attribute| read_attribute(device, attribute);
        Ok(Self {
            device,
            stream,
            sm_count: of(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            max_shared_bytes: of(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            cache_bytes: u64::from(of(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
            granularity: granularity(device)?,
            can_read_host_memory: of(Attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS)? != 0,
            identity: read_identity(device)?,
            broken: Cell::new(false),
        })
    }

    pub(super) fn identity(&self) -> DeviceIdentity {
        self.identity.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Marks the GPU as unusable: the driver must not be called any more.
    pub(super) fn mark_broken(&self) {
        self.broken.set(true);
    }

    /// Waits for everything that was queued.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        call!(cuStreamSynchronize(self.stream))
    }
}

/// The error of a machine without a CUDA driver.
pub(super) fn no_driver() -> Failure {
    Failure::environment("no CUDA driver: libcuda was not found")
        .hint("install the GPU's driver, or use `--backend cpu`")
}

/// Starts the driver in this process.
pub(super) fn init_driver() -> anyhow::Result<()> {
    // SAFETY: only searches for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(no_driver().into());
    }
    Ok(call!(cuInit(0)).map_err(|error| {
        Failure::environment(format!("the CUDA driver does not start: {error}"))
            .hint("check that `nvidia-smi` lists the GPUs")
    })?)
}

fn read_attribute(
    device: sys::CUdevice,
    attribute: sys::CUdevice_attribute,
) -> Result<u32, DriverError> {
    let mut value = 0;
    call!(cuDeviceGetAttribute(&raw mut value, attribute, device))?;
    Ok(value.unsigned_abs())
}

fn read_identity(device: sys::CUdevice) -> anyhow::Result<DeviceIdentity> {
    let mut name = [0; 128];
    call!(cuDeviceGetName(
        name.as_mut_ptr(),
        name.len() as i32,
        device
    ))?;
    let name = name.map(|letter| letter as u8);
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    use sys::CUdevice_attribute as Attribute;
    let major = read_attribute(
        device,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    )?;
    let minor = read_attribute(
        device,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )?;
    let mut uuid = MaybeUninit::uninit();
    call!(cuDeviceGetUuid_v2(uuid.as_mut_ptr(), device))?;
    // SAFETY: the call succeeded, so all sixteen bytes were written.
    let uuid: sys::CUuuid = unsafe { uuid.assume_init() };
    let digits: Vec<String> = (uuid.bytes.iter())
        .map(|byte| format!("{:02x}", *byte as u8))
        .collect();
    let part = |range: std::ops::Range<usize>| digits[range].concat();
    Ok(DeviceIdentity {
        name: name.to_string_lossy().into_owned(),
        arch: format!("sm_{major}{minor}"),
        uuid: Some(format!(
            "GPU-{}-{}-{}-{}-{}",
            part(0..4),
            part(4..6),
            part(6..8),
            part(8..10),
            part(10..16)
        )),
        driver: Some(driver_version()?),
        cores: None,
    })
}

/// The version of the kernel module, or else the newest CUDA version that the driver supports.
fn driver_version() -> anyhow::Result<String> {
    if let Ok(text) = std::fs::read_to_string("/sys/module/nvidia/version") {
        return Ok(text.trim().to_owned());
    }
    let mut version = 0;
    call!(cuDriverGetVersion(&raw mut version))?;
    Ok(format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
}

/// The properties of device memory that can be mapped.
pub(super) fn allocation_properties(device: sys::CUdevice) -> sys::CUmemAllocationProp {
    // SAFETY: integers and pointers, for which zero means "default".
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    properties
}

fn granularity(device: sys::CUdevice) -> anyhow::Result<u64> {
    let properties = allocation_properties(device);
    let mut bytes = 0;
    call!(cuMemGetAllocationGranularity(
        &raw mut bytes,
        &raw const properties,
        sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM,
    ))?;
    Ok(bytes as u64)
}

/// Status and reason for a driver error that a kernel caused. `None`: the error does not concern the kernel.
pub(super) fn kernel_fault(code: CUresult) -> Option<(Status, &'static str)> {
    use CUresult as Code;
    Some(match code {
        Code::CUDA_ERROR_ILLEGAL_ADDRESS => (
            Status::OutOfBounds,
            "an access outside the kernel's buffers, or a write to an input",
        ),
        Code::CUDA_ERROR_MISALIGNED_ADDRESS => {
            (Status::Misaligned, "an access at a misaligned address")
        }
        Code::CUDA_ERROR_INVALID_ADDRESS_SPACE => (
            Status::OutOfBounds,
            "an instruction for one memory space used an address of another",
        ),
        Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => (
            Status::LaunchError,
            "the launch needs more registers or shared memory than the device has",
        ),
        Code::CUDA_ERROR_INVALID_VALUE | Code::CUDA_ERROR_INVALID_CLUSTER_SIZE => (
            Status::LaunchError,
            "the driver refuses the launch: a size is outside its limits",
        ),
        Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE => (
            Status::LaunchError,
            "a cooperative launch has more blocks than fit on the device at once",
        ),
        Code::CUDA_ERROR_INVALID_IMAGE | Code::CUDA_ERROR_NO_BINARY_FOR_GPU => (
            Status::LaunchError,
            "the compiled kernel is for another device",
        ),
        Code::CUDA_ERROR_OUT_OF_MEMORY => (
            Status::LimitExceeded,
            "the variables or the threads' local arrays need more memory than the device has",
        ),
        Code::CUDA_ERROR_LAUNCH_TIMEOUT => (Status::TimedOut, "the driver ended the launch"),
        Code::CUDA_ERROR_ASSERT => (Status::Crashed, "an assertion in the kernel failed"),
        Code::CUDA_ERROR_HARDWARE_STACK_ERROR => (
            Status::Crashed,
            "the stack of a thread overflowed or was overwritten",
        ),
        Code::CUDA_ERROR_ILLEGAL_INSTRUCTION => (Status::Crashed, "an illegal instruction"),
        Code::CUDA_ERROR_INVALID_PC => (Status::Crashed, "a jump to an invalid address"),
        Code::CUDA_ERROR_LAUNCH_FAILED => (
            Status::Crashed,
            "a trap or another exception ended the kernel",
        ),
        _ => return None,
    })
}

/// The error of a call that a kernel can cause to fail: a refusal if the driver's error concerns the kernel.
pub(super) fn kernel_error(error: DriverError) -> DeviceError {
    match kernel_fault(error.code) {
        Some((status, reason)) => Refusal::new(status, reason).into(),
        None => error.into(),
    }
}

impl DriverError {
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}
