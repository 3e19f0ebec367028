//! The device's limits for a launch: checks them before anything runs, and builds the launch configuration for the driver.
//!
//! Launches nothing. A launch that the device does not accept is a refusal with a reason for the kernel's author.

use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};

use super::gpu::{DriverError, Gpu, call};
use crate::device::refusal::{DeviceError, Refusal};
use crate::kernel::plan::Launch;
use crate::verdict::Status;

/// The largest cluster that every device of an architecture supports.
const MAX_PORTABLE_CLUSTER: u32 = 8;

/// Checks the device's limits for a launch, and sets the function's attributes.
pub(super) fn check_launch(
    gpu: &Gpu,
    function: sys::CUfunction,
    launch: &Launch,
) -> Result<(), DeviceError> {
    check_block(gpu, function, launch)?;
    set_attributes(function, launch)?;
    if let Some(cluster) = launch.cluster {
        check_cluster(gpu, function, launch, cluster)?;
    }
    if launch.cooperative {
        check_cooperative(gpu, function, launch)?;
    }
    Ok(())
}

fn refused(reason: impl Into<String>) -> DeviceError {
    Refusal::new(Status::LaunchError, reason).into()
}

/// Threads and shared memory of a block.
fn check_block(gpu: &Gpu, function: sys::CUfunction, launch: &Launch) -> Result<(), DeviceError> {
    let of = |attribute| -> Result<u32, DriverError> {
        let mut value = 0;
        call!(cuFuncGetAttribute(&raw mut value, attribute, function))?;
        Ok(value.unsigned_abs())
    };
    let threads: u32 = launch.block.iter().product();
    let limit = of(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
    if threads > limit {
        let registers = of(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?;
        return Err(refused(format!(
            "a block of {threads} threads: the compiled kernel takes at most {limit} (it uses {registers} registers per thread; `__launch_bounds__` may set a lower limit)"
        )));
    }
    let static_bytes = of(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    if static_bytes + launch.shared > gpu.max_shared_bytes {
        return Err(refused(format!(
            "{static_bytes} bytes of static and {} bytes of dynamic shared memory: the limit per block is {}",
            launch.shared, gpu.max_shared_bytes
        )));
    }
    Ok(())
}

fn set_attributes(function: sys::CUfunction, launch: &Launch) -> Result<(), DeviceError> {
    let mut attributes = vec![(
        Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        launch.shared,
    )];
    let cluster: u32 = launch.cluster.map_or(1, |cluster| cluster.iter().product());
    if cluster > MAX_PORTABLE_CLUSTER {
        attributes.push((
            Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
            1,
        ));
    }
    for (attribute, value) in attributes {
        if let Err(error) = call!(cuFuncSetAttribute(function, attribute, value as i32)) {
            return Err(refused(format!("the driver refuses the launch: {error}")));
        }
    }
    Ok(())
}

fn check_cluster(
    gpu: &Gpu,
    function: sys::CUfunction,
    launch: &Launch,
    cluster: [u32; 3],
) -> Result<(), DeviceError> {
    if let Some(axis) = (0..3).find(|axis| !launch.grid[*axis].is_multiple_of(cluster[*axis])) {
        return Err(refused(format!(
            "the grid has {} blocks along axis {axis}, which is not a multiple of the cluster size {}",
            launch.grid[axis], cluster[axis]
        )));
    }
    let mut attributes = launch_attributes(launch, false);
    let config = launch_config(launch, gpu.stream, &mut attributes);
    let mut clusters = 0;
    let queried = call!(cuOccupancyMaxActiveClusters(
        &raw mut clusters,
        function,
        &raw const config
    ));
    if queried.is_err() || clusters < 1 {
        return Err(refused(format!(
            "a cluster of {} blocks does not fit on the device",
            cluster.iter().product::<u32>()
        )));
    }
    Ok(())
}

fn check_cooperative(
    gpu: &Gpu,
    function: sys::CUfunction,
    launch: &Launch,
) -> Result<(), DeviceError> {
    let resident = resident_blocks(function, launch)? * gpu.sm_count;
    let wanted: u64 = launch.grid.iter().map(|size| u64::from(*size)).product();
    if wanted > u64::from(resident) {
        return Err(refused(format!(
            "a cooperative launch of {wanted} blocks: only {resident} fit on the device at once"
        )));
    }
    Ok(())
}

/// How many blocks of a launch fit on one multiprocessor.
fn resident_blocks(function: sys::CUfunction, launch: &Launch) -> Result<u32, DriverError> {
    let threads: u32 = launch.block.iter().product();
    let mut blocks = 0;
    call!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &raw mut blocks,
        function,
        threads as i32,
        launch.shared as usize
    ))?;
    Ok(blocks.unsigned_abs())
}

/// Local memory of a thread, in bytes.
pub(super) fn local_memory(function: sys::CUfunction) -> Result<u64, DriverError> {
    let mut bytes = 0;
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
    call!(cuFuncGetAttribute(&raw mut bytes, attribute, function))?;
    Ok(u64::from(bytes.unsigned_abs()))
}

/// Resident threads of a launch, in whole warps, as a share of a multiprocessor's maximum.
pub(super) fn occupancy(
    gpu: &Gpu,
    function: sys::CUfunction,
    launch: &Launch,
) -> anyhow::Result<f64> {
    let mut limit = 0;
    call!(cuDeviceGetAttribute(
        &raw mut limit,
        sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        gpu.device
    ))?;
    let threads = launch.block.iter().product::<u32>().next_multiple_of(32);
    Ok(f64::from(resident_blocks(function, launch)? * threads) / f64::from(limit))
}

/// The launch attributes: cluster size, cooperative launch, programmatic dependent launch.
pub(super) fn launch_attributes(launch: &Launch, overlap: bool) -> Vec<sys::CUlaunchAttribute> {
    let mut attributes = Vec::new();
    let mut add = |id, set: &dyn Fn(&mut sys::CUlaunchAttributeValue)| {
        // SAFETY: integers, for which zero is valid.
        let mut attribute: sys::CUlaunchAttribute = unsafe { MaybeUninit::zeroed().assume_init() };
        attribute.id = id;
        set(&mut attribute.value);
        attributes.push(attribute);
    };
    use sys::CUlaunchAttributeID as Id;
    if let Some([x, y, z]) = launch.cluster {
        add(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &|value| {
            // SAFETY: writes a field of a union of integers.
            let cluster = unsafe { &mut value.clusterDim };
            (cluster.x, cluster.y, cluster.z) = (x, y, z);
        });
    }
    if launch.cooperative {
        add(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &|value| {
            value.cooperative = 1;
        });
    }
    if overlap {
        add(
            Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            &|value| value.programmaticStreamSerializationAllowed = 1,
        );
    }
    attributes
}

/// The launch configuration. It points to `attributes`.
pub(super) fn launch_config(
    launch: &Launch,
    stream: sys::CUstream,
    attributes: &mut [sys::CUlaunchAttribute],
) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: launch.grid[0],
        gridDimY: launch.grid[1],
        gridDimZ: launch.grid[2],
        blockDimX: launch.block[0],
        blockDimY: launch.block[1],
        blockDimZ: launch.block[2],
        sharedMemBytes: launch.shared,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    }
}
