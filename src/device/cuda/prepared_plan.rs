//! The launches of a kernel file on the device: limits checked first, attributes set, arguments laid out, queued as one unit.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};

use super::card::{DriverError, Gpu, call};
use super::harness_kernels::LoadedModule;
use super::layout::KernelMemory;
use crate::device::{Program, Refusal, numerics};
use crate::kernel::plan::{Argument, BufferRole, Launch, Plan, TensorMap};
use crate::task::DType;
use crate::verdict::{Resources, Status};

/// The largest cluster that any device of an architecture can take.
const MAX_PORTABLE_CLUSTER: u32 = 8;

/// A kernel's functions, ready to be launched on any copy of its buffers.
pub(super) struct PreparedPlan {
    card: Rc<Gpu>,
    _module: LoadedModule,
    launches: Vec<(sys::CUfunction, Launch)>,
    /// By the memory that they are for; of each copy.
    tensor_maps: HashMap<u64, Vec<Vec<sys::CUtensorMap>>>,
    /// Buffers that are cleared before every unit: index and bytes.
    zeroed: Vec<(usize, u64)>,
    /// The least share of a multiprocessor's warps that one of the launches can keep there.
    occupancy: Option<f64>,
}

impl PreparedPlan {
    /// A refusal where the device would not take one of the launches.
    pub(super) fn prepare(
        card: &Rc<Gpu>,
        module: LoadedModule,
        program: &Program,
        plan: &Plan,
    ) -> anyhow::Result<Result<Self, Refusal>> {
        let mut launches = Vec::new();
        let mut occupancy: Option<f64> = None;
        for launch in &plan.launches {
            let Some(name) = program.entries.get(launch.entry_point) else {
                anyhow::bail!("the compiled kernel has no entry {}", launch.entry_point);
            };
            let function = module.function(name)?;
            if let Err(reason) = configure_launch(card, function, launch)? {
                return Ok(Err(refusal(Status::LaunchError, reason)));
            }
            let share = launch_occupancy(card, function, launch)?;
            occupancy = Some(occupancy.map_or(share, |least| least.min(share)));
            launches.push((function, launch.clone()));
        }
        let zeroed = plan.buffers.iter().enumerate();
        let zeroed = zeroed
            .filter(|(_, buffer)| buffer.role == BufferRole::Scratch { zero: true })
            .map(|(index, buffer)| (index, buffer.bytes()));
        Ok(Ok(Self {
            card: Rc::clone(card),
            _module: module,
            launches,
            tensor_maps: HashMap::new(),
            zeroed: zeroed.collect(),
            occupancy,
        }))
    }

    /// Makes what depends on where the buffers lie. A refusal where the driver would not take it.
    pub(super) fn encode_tensor_maps(
        &mut self,
        plan: &Plan,
        memory: &KernelMemory,
    ) -> anyhow::Result<Result<(), Refusal>> {
        if plan.tensor_maps.is_empty() || self.tensor_maps.contains_key(&memory.data.id) {
            return Ok(Ok(()));
        }
        let mut maps = Vec::new();
        for copy in 0..memory.copies() {
            let mut of_copy = Vec::new();
            for map in &plan.tensor_maps {
                let dtype = plan.buffers[map.buffer].dtype;
                let address = memory.address_for_kernel(map.buffer, copy);
                match encode_tensor_map(map, dtype, address) {
                    Ok(map) => of_copy.push(map),
                    Err(error) => {
                        let name = &map.name;
                        let reason = format!("tensor map `{name}`: the driver refuses it: {error}");
                        return Ok(Err(refusal(Status::LaunchError, reason)));
                    }
                }
            }
            maps.push(of_copy);
        }
        self.tensor_maps.insert(memory.data.id, maps);
        Ok(Ok(()))
    }

    /// What the driver says of the code.
    pub(super) fn resources(&self, known: &Resources) -> Resources {
        Resources {
            occupancy: self.occupancy,
            ..known.clone()
        }
    }

    /// Queues the unit once, on one copy of the buffers.
    pub(super) fn queue(&self, memory: &KernelMemory, copy: u32) -> Result<(), DriverError> {
        for (buffer, bytes) in &self.zeroed {
            call!(cuMemsetD8Async(
                memory.address(*buffer, copy),
                0,
                *bytes as usize,
                self.card.stream
            ))?;
        }
        for (index, (function, launch)) in self.launches.iter().enumerate() {
            let arguments = launch.arguments.iter();
            let mut words: Vec<u64> = arguments
                .map(|argument| match argument {
                    Argument::Buffer(buffer) => memory.address_for_kernel(*buffer, copy),
                    Argument::TensorMap(_) => 0,
                    other => numerics::argument_word(*other),
                })
                .collect();
            let maps = self.tensor_maps.get(&memory.data.id);
            let maps = maps.and_then(|maps| maps.get(copy as usize));
            let mut pointers: Vec<*mut c_void> = Vec::with_capacity(words.len());
            for (word, argument) in words.iter_mut().zip(&launch.arguments) {
                let map = match argument {
                    Argument::TensorMap(map) => maps.and_then(|maps| maps.get(*map)),
                    _ => None,
                };
                pointers.push(match map {
                    Some(map) => ptr::from_ref(map).cast_mut().cast(),
                    None => ptr::from_mut(word).cast(),
                });
            }
            // What comes first must not begin before the unit before it has ended: only within a unit may launches overlap.
            let mut attributes = launch_attributes(launch, launch.overlap && index > 0);
            let configuration = launch_config(launch, self.card.stream, &mut attributes);
            call!(cuLaunchKernelEx(
                &raw const configuration,
                *function,
                pointers.as_mut_ptr(),
                ptr::null_mut()
            ))?;
        }
        Ok(())
    }
}

pub(super) fn refusal(status: Status, reason: impl Into<String>) -> Refusal {
    Refusal {
        status,
        reason: reason.into(),
        evidence: Box::default(),
    }
}

/// Sets what a launch needs, or says why the device does not take it.
fn configure_launch(
    card: &Gpu,
    function: sys::CUfunction,
    launch: &Launch,
) -> anyhow::Result<Result<(), String>> {
    let of = |attribute| -> Result<u32, DriverError> {
        let mut value = 0;
        call!(cuFuncGetAttribute(&raw mut value, attribute, function))?;
        Ok(value.unsigned_abs())
    };
    let threads: u32 = launch.block.iter().product();
    let most = of(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
    if threads > most {
        let registers = of(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?;
        return Ok(Err(format!(
            "a block of {threads} threads: the compiled kernel takes at most {most} (it uses {registers} registers a thread; a `__launch_bounds__` may say less)"
        )));
    }
    let own = of(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    if own + launch.shared > card.max_shared_bytes {
        return Ok(Err(format!(
            "{own} bytes of static and {} of dynamic shared memory: a block can have {}",
            launch.shared, card.max_shared_bytes
        )));
    }
    let mut settings = vec![(
        Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        launch.shared,
    )];
    let cluster: u32 = launch.cluster.map_or(1, |cluster| cluster.iter().product());
    if cluster > MAX_PORTABLE_CLUSTER {
        settings.push((
            Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
            1,
        ));
    }
    for (attribute, value) in settings {
        if let Err(error) = call!(cuFuncSetAttribute(function, attribute, value as i32)) {
            return Ok(Err(format!("the driver refuses the launch: {error}")));
        }
    }
    if let Some(cluster) = launch.cluster {
        if let Some(axis) = (0..3).find(|axis| !launch.grid[*axis].is_multiple_of(cluster[*axis])) {
            return Ok(Err(format!(
                "a grid of {} blocks along axis {axis} is not made of clusters of {}",
                launch.grid[axis], cluster[axis]
            )));
        }
        let mut attributes = launch_attributes(launch, false);
        let configuration = launch_config(launch, card.stream, &mut attributes);
        let mut clusters = 0;
        let asked = call!(cuOccupancyMaxActiveClusters(
            &raw mut clusters,
            function,
            &raw const configuration
        ));
        if asked.is_err() || clusters < 1 {
            return Ok(Err(format!(
                "a cluster of {} blocks does not fit on the device",
                cluster.iter().product::<u32>()
            )));
        }
    }
    if launch.cooperative {
        let blocks = resident_blocks(function, launch)? * card.sm_count;
        let wanted: u64 = launch.grid.iter().map(|size| u64::from(*size)).product();
        if wanted > u64::from(blocks) {
            return Ok(Err(format!(
                "a cooperative launch of {wanted} blocks: {blocks} fit on the device at once"
            )));
        }
    }
    Ok(Ok(()))
}

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

fn launch_occupancy(card: &Gpu, function: sys::CUfunction, launch: &Launch) -> anyhow::Result<f64> {
    let mut most = 0;
    call!(cuDeviceGetAttribute(
        &raw mut most,
        sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        card.device
    ))?;
    let threads = launch.block.iter().product::<u32>().next_multiple_of(32);
    Ok(f64::from(resident_blocks(function, launch)? * threads) / f64::from(most))
}

fn launch_attributes(launch: &Launch, overlap: bool) -> Vec<sys::CUlaunchAttribute> {
    let mut attributes = Vec::new();
    let mut add = |id, set: &dyn Fn(&mut sys::CUlaunchAttributeValue)| {
        // SAFETY: plain integers; zero is a value of each.
        let mut attribute: sys::CUlaunchAttribute = unsafe { MaybeUninit::zeroed().assume_init() };
        attribute.id = id;
        set(&mut attribute.value);
        attributes.push(attribute);
    };
    use sys::CUlaunchAttributeID as Id;
    if let Some([x, y, z]) = launch.cluster {
        add(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &|value| {
            // SAFETY: writing a field of a union of plain integers.
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

fn launch_config(
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

/// A tensor map for one copy of its buffer.
fn encode_tensor_map(
    map: &TensorMap,
    dtype: DType,
    address: sys::CUdeviceptr,
) -> Result<sys::CUtensorMap, DriverError> {
    use sys::CUtensorMapDataType as Kind;
    let kind = match dtype {
        DType::Float64 => Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        DType::Float32 => Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::Float16 => Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::BFloat16 => Kind::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::Int64 => Kind::CU_TENSOR_MAP_DATA_TYPE_INT64,
        DType::Int32 => Kind::CU_TENSOR_MAP_DATA_TYPE_INT32,
        DType::Int16 => Kind::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        DType::Float8E4M3 | DType::Float8E5M2 | DType::Int8 | DType::Bool => {
            Kind::CU_TENSOR_MAP_DATA_TYPE_UINT8
        }
    };
    use sys::CUtensorMapSwizzle as Swizzle;
    let swizzle = match map.swizzle {
        32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        _ => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    let steps = vec![1u32; map.dims.len()];
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::zeroed();
    call!(cuTensorMapEncodeTiled(
        encoded.as_mut_ptr(),
        kind,
        map.dims.len() as u32,
        address as *mut c_void,
        map.dims.as_ptr(),
        map.strides.as_ptr(),
        map.tile.as_ptr(),
        steps.as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    ))?;
    // SAFETY: the call succeeded, and before it all bytes were zero.
    Ok(unsafe { encoded.assume_init() })
}
