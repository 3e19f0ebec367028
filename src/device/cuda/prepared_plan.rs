//! A launch plan on the device: loads and configures its functions, encodes tensor maps, and queues all launches as one run.
//!
//! Never allocates or fills buffers, and never waits. `launch_limits` checks what the device accepts.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys;

use super::clock::StreamEvent;
use super::gpu::{DriverError, Gpu, call};
use super::launch_arguments::check_arguments;
use super::launch_limits::{
    check_launch, launch_attributes, launch_config, local_memory, occupancy,
};
use super::layout::KernelMemory;
use super::loaded_module::LoadedModule;
use crate::device::refusal::{DeviceError, Refusal};
use crate::device::{CompiledParameter, ParameterKind, Program, numerics};
use crate::kernel::plan::{Argument, BufferRole, Launch, LaunchPlan, TensorMap};
use crate::task::DType;
use crate::verdict::{Resources, Status};

/// Why a launch with `overlap` is refused.
const NEVER_WAITS: &str = "a launch with `overlap` never waits for the launch before it: call `cudaGridDependencySynchronize()` before the first use of its results, or leave out `overlap`";

/// A plan whose functions are loaded and configured, ready to run on any copy of the buffers.
pub(super) struct PreparedPlan {
    gpu: Rc<Gpu>,
    /// Keeps the functions loaded.
    _module: LoadedModule,
    launches: Vec<(sys::CUfunction, Launch)>,
    /// By the id of the placement: for each copy, the encoded tensor maps.
    tensor_maps: HashMap<u64, Vec<Vec<sys::CUtensorMap>>>,
    /// Buffers that are cleared before every run: index and size.
    zeroed: Vec<(usize, u64)>,
    /// For each launch that the next one may overlap: an event after it.
    joins: Vec<StreamEvent>,
    /// The lowest occupancy of all launches: resident warps as a share of the maximum.
    occupancy: Option<f64>,
    /// The most local memory of a thread, in bytes.
    local_bytes: u64,
    /// Whether a launch can ask the cache to keep lines longer than others.
    keeps_lines: bool,
}

impl PreparedPlan {
    /// Loads and configures all launches. A refusal if the device does not accept one of them.
    pub(super) fn prepare(
        gpu: &Rc<Gpu>,
        module: LoadedModule,
        program: &Program,
        plan: &LaunchPlan,
    ) -> Result<Self, DeviceError> {
        let mut launches = Vec::new();
        let mut lowest: Option<f64> = None;
        let (mut local_bytes, mut keeps_lines) = (0, false);
        for (index, launch) in plan.launches.iter().enumerate() {
            let entry = program.entries.get(launch.entry_point);
            let entry = entry.ok_or_else(|| {
                anyhow::anyhow!("the compiled kernel has no entry {}", launch.entry_point)
            })?;
            check_arguments(launch, entry)?;
            if launch.overlap && index > 0 && !entry.waits {
                return Err(Refusal::new(Status::Rejected, NEVER_WAITS).into());
            }
            let function = module.function(&entry.name)?;
            check_launch(gpu, function, launch)?;
            let occupancy = occupancy(gpu, function, launch)?;
            lowest = Some(lowest.map_or(occupancy, |lowest| lowest.min(occupancy)));
            local_bytes = local_bytes.max(local_memory(function)?);
            keeps_lines |= entry.keeps_lines;
            let mut launch = launch.clone();
            convert_numbers(&mut launch, &entry.parameters);
            launches.push((function, launch));
        }
        let zeroed = plan.buffers.iter().enumerate();
        let zeroed = zeroed
            .filter(|(_, buffer)| buffer.role == BufferRole::Scratch { zero: true })
            .map(|(index, buffer)| (index, buffer.bytes()));
        Ok(Self {
            gpu: Rc::clone(gpu),
            _module: module,
            joins: (launches.iter().skip(1))
                .filter(|(_, launch)| launch.overlap)
                .map(|_| StreamEvent::new(gpu))
                .collect::<Result<_, _>>()?,
            launches,
            tensor_maps: HashMap::new(),
            zeroed: zeroed.collect(),
            occupancy: lowest,
            local_bytes,
            keeps_lines,
        })
    }

    /// Encodes the tensor maps for a placement of the buffers. A refusal if the driver does not accept one of them.
    pub(super) fn encode_tensor_maps(
        &mut self,
        plan: &LaunchPlan,
        memory: &KernelMemory,
    ) -> Result<(), DeviceError> {
        if plan.tensor_maps.is_empty() || self.tensor_maps.contains_key(&memory.data.id) {
            return Ok(());
        }
        let mut all = Vec::new();
        for copy in 0..memory.copies() {
            let mut of_copy = Vec::new();
            for map in &plan.tensor_maps {
                let dtype = plan.buffers[map.buffer].dtype;
                let address = memory.address_for_kernel(map.buffer, copy);
                of_copy.push(encode_tensor_map(map, dtype, address).map_err(|error| {
                    let reason = format!("the driver refuses tensor map `{}`: {error}", map.name);
                    Refusal::new(Status::LaunchError, reason)
                })?);
            }
            all.push(of_copy);
        }
        self.tensor_maps.insert(memory.data.id, all);
        Ok(())
    }

    /// The compiler's resources, completed by the occupancy.
    pub(super) fn resources(&self, known: &Resources) -> Resources {
        Resources {
            occupancy: self.occupancy,
            ..known.clone()
        }
    }

    pub(super) fn local_bytes(&self) -> u64 {
        self.local_bytes
    }

    /// Whether a launch can ask the cache to keep lines longer than others.
    pub(super) fn keeps_lines(&self) -> bool {
        self.keeps_lines
    }

    /// Whether a launch may start before the one before it has ended. Such a plan must be recorded as a graph.
    pub(super) fn overlaps(&self) -> bool {
        !self.joins.is_empty()
    }

    /// Queues one run on a copy of the buffers.
    pub(super) fn queue(&self, memory: &KernelMemory, copy: u32) -> Result<(), DriverError> {
        for (buffer, bytes) in &self.zeroed {
            call!(cuMemsetD8Async(
                memory.address(*buffer, copy),
                0,
                *bytes as usize,
                self.gpu.stream
            ))?;
        }
        let mut joins = self.joins.iter();
        for (index, (function, launch)) in self.launches.iter().enumerate() {
            // Launches may overlap only within a run: the first one must not start before the previous run has ended.
            let overlap = launch.overlap && index > 0;
            if overlap && let Some(join) = joins.next() {
                join.record()?;
            }
            let launch = QueuedLaunch {
                function: *function,
                launch,
                overlap,
            };
            self.queue_launch(launch, memory, copy)?;
        }
        // A launch that does not wait for the one before it may end first. Nothing after this run starts before both have ended.
        self.joins.iter().try_for_each(StreamEvent::wait)
    }

    fn queue_launch(
        &self,
        queued: QueuedLaunch<'_>,
        memory: &KernelMemory,
        copy: u32,
    ) -> Result<(), DriverError> {
        let launch = queued.launch;
        let arguments = launch.arguments.iter();
        let mut words: Vec<u64> = arguments
            .map(|argument| match argument {
                Argument::Buffer(buffer) => memory.address_for_kernel(*buffer, copy),
                Argument::TensorMap(_) => 0,
                other => numerics::argument_word(*other),
            })
            .collect();
        let maps = self.tensor_maps.get(&memory.data.id);
        let map_of = |map: usize| maps?.get(copy as usize)?.get(map);
        let mut pointers: Vec<*mut c_void> = Vec::with_capacity(words.len());
        for (word, argument) in words.iter_mut().zip(&launch.arguments) {
            let map = match argument {
                Argument::TensorMap(map) => map_of(*map),
                _ => None,
            };
            pointers.push(match map {
                Some(map) => ptr::from_ref(map).cast_mut().cast(),
                None => ptr::from_mut(word).cast(),
            });
        }
        let mut attributes = launch_attributes(launch, queued.overlap);
        let config = launch_config(launch, self.gpu.stream, &mut attributes);
        call!(cuLaunchKernelEx(
            &raw const config,
            queued.function,
            pointers.as_mut_ptr(),
            ptr::null_mut()
        ))
    }
}

/// A launch of a run.
#[derive(Clone, Copy)]
struct QueuedLaunch<'l> {
    function: sys::CUfunction,
    launch: &'l Launch,
    overlap: bool,
}

/// Converts the numbers whose type the parameter decides, as C++ does: an integer for a `float` parameter, and so on.
fn convert_numbers(launch: &mut Launch, parameters: &[CompiledParameter]) {
    for (argument, parameter) in launch.arguments.iter_mut().zip(parameters) {
        let value = match *argument {
            Argument::Integer(value) => value as f64,
            Argument::Float(value) => value,
            _ => continue,
        };
        match parameter.kind {
            ParameterKind::Float32 => *argument = Argument::Scalar(DType::Float32, value),
            ParameterKind::Float64 => *argument = Argument::Scalar(DType::Float64, value),
            // A `float` that is constant for the grid is an array of bytes in the PTX.
            ParameterKind::Other if parameter.bytes == 4 => {
                if let Argument::Float(_) = *argument {
                    *argument = Argument::Scalar(DType::Float32, value);
                }
            }
            ParameterKind::Other => {}
        }
    }
}

/// Encodes a tensor map for one copy of its buffer.
fn encode_tensor_map(
    map: &TensorMap,
    dtype: DType,
    address: sys::CUdeviceptr,
) -> Result<sys::CUtensorMap, DriverError> {
    use sys::CUtensorMapDataType as Type;
    let data_type = match dtype {
        DType::Float64 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        DType::Float32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::Float16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::BFloat16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::Int64 => Type::CU_TENSOR_MAP_DATA_TYPE_INT64,
        DType::Int32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
        DType::Int16 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        DType::Float8E4M3 | DType::Float8E5M2 | DType::Int8 | DType::Bool => {
            Type::CU_TENSOR_MAP_DATA_TYPE_UINT8
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
        data_type,
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
    // SAFETY: the call succeeded, and all bytes were zero before it.
    Ok(unsafe { encoded.assume_init() })
}
