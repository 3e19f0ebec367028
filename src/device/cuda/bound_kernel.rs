//! A kernel bound to its buffers on a GPU: opens it, runs it once or as a timed sample, and restores its variables.
//!
//! The judge's access to the buffers is in `buffers`. The contents of buffers stay on the GPU; only results of checks reach the
//! host. Never decides how many copies or runs a sample has.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::buffer_copies::CopyNumbers;
use super::clock::{Graph, WaitResult};
use super::gpu::{self, call, kernel_error};
use super::gpu_context::GpuContext;
use super::layout::KernelMemory;
use super::loaded_module::LoadedModule;
use super::memory::DeviceBuffer;
use super::module_variables::{self, ModuleVariables};
use super::prepared_plan::PreparedPlan;
use crate::device::refusal::{DeviceError, Refusal};
use crate::device::{
    BoundKernel, Cache, KernelEvidence, LaunchOutcome, Launching, PersistentState, Program,
    Purpose, Timing,
};
use crate::kernel::plan::Plan;
use crate::verdict::{Resources, Status};

/// A kernel on a GPU, bound to its own buffers.
pub(super) struct CudaBoundKernel {
    pub(super) context: Rc<GpuContext>,
    pub(super) plan: Plan,
    pub(super) memory: KernelMemory,
    prepared: PreparedPlan,
    variables: ModuleVariables,
    resources: Resources,
    purpose: Purpose,
    pub(super) copy_numbers: CopyNumbers,
    /// The copies that the last launch used, in its order.
    pub(super) launched_copies: Vec<u32>,
    /// By the id of the placement and the number of runs.
    samples: HashMap<(u64, usize), RecordedSample>,
    launches: u64,
    /// The first variable that a launch changed, and the number of that launch.
    changed_variable: Option<(String, u64)>,
    /// By buffer, since the last launch; `None`: not checked yet.
    pub(super) guard_damage: RefCell<Option<Vec<Option<i64>>>>,
    /// Address tables for operations on some of the copies.
    pub(super) selection_tables: [DeviceBuffer; 2],
}

/// Several runs as one CUDA graph.
struct RecordedSample {
    /// The copies in launch order.
    copies: Vec<u32>,
    graph: Graph,
}

impl CudaBoundKernel {
    /// Loads a program and allocates its buffers. A refusal if the device cannot hold or launch it.
    pub(super) fn open(
        context: &Rc<GpuContext>,
        program: &Program,
        plan: &Plan,
        purpose: Purpose,
    ) -> Result<Self, DeviceError> {
        let gpu = &context.gpu;
        let image = std::fs::read(&program.image)
            .with_context(|| format!("failed to read `{}`", program.image.display()))?;
        refuse_large_variables(&image)?;
        let memory = match KernelMemory::new(gpu, plan, purpose) {
            Err(error) if error.is_out_of_memory() => {
                let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
                let reason = format!("the buffers need {} MiB: {error}", bytes >> 20);
                return Err(Refusal::new(Status::LimitExceeded, reason).into());
            }
            memory => memory?,
        };
        let module = LoadedModule::load(gpu, &image).map_err(kernel_error)?;
        let variables = ModuleVariables::find(gpu, &module, &image)?;
        let mut prepared = PreparedPlan::prepare(gpu, module, program, plan)?;
        prepared.encode_tensor_maps(plan, &memory)?;
        for (zones, count) in memory.zones() {
            context.harness.write_guard_zones(zones, count)?;
        }
        let table_bytes = memory.copies() as usize * 8;
        Ok(Self {
            context: Rc::clone(context),
            plan: plan.clone(),
            resources: prepared.resources(&program.resources),
            prepared,
            variables,
            purpose,
            copy_numbers: CopyNumbers::default(),
            launched_copies: Vec::new(),
            samples: HashMap::new(),
            launches: 0,
            changed_variable: None,
            guard_damage: RefCell::new(None),
            selection_tables: [
                DeviceBuffer::new(gpu, table_bytes)?,
                DeviceBuffer::new(gpu, table_bytes)?,
            ],
            memory,
        })
    }

    pub(super) fn ensure_usable(&self) -> anyhow::Result<()> {
        if self.context.gpu.is_broken() {
            bail!("the GPU is unusable after a fault");
        }
        Ok(())
    }

    /// The copies that the next sample uses, in order.
    fn launch_order(&self, runs: usize) -> Vec<u32> {
        let order = &self.memory.data.order;
        order[..runs.clamp(1, order.len())].to_vec()
    }

    /// Queues everything for one sample: cleaning, cache state, and the runs between the clock's events.
    fn queue_sample(&mut self, runs: usize) -> Result<(), DeviceError> {
        let cache = match self.purpose {
            Purpose::Probe => return self.queue_probe(),
            Purpose::Check { .. } => None,
            Purpose::Time { cache, .. } => cache,
        };
        let is_hot = cache == Some(Cache::Hot);
        // A single run is shorter without a graph.
        let uses_graph = runs > 1;
        if uses_graph {
            self.record_sample(runs, is_hot)?;
        }
        let context = Rc::clone(&self.context);
        let mut clock = context.clock.borrow_mut();
        context.harness.scrub_shared()?;
        match cache {
            Some(Cache::Cold) => clock.flush_cache(&context.harness)?,
            // An untimed run on the same data.
            Some(Cache::Hot) => self.prepared.queue(&self.memory, 0).map_err(kernel_error)?,
            None => {}
        }
        let key = (self.memory.data.id, runs);
        let sample = self.samples.get(&key).filter(|_| uses_graph);
        self.launched_copies = match sample {
            Some(sample) => sample.copies.clone(),
            None if is_hot => vec![0],
            None => self.launch_order(1),
        };
        clock.record_start().map_err(kernel_error)?;
        let queued = match sample {
            Some(sample) => sample.graph.launch(),
            None => self.prepared.queue(&self.memory, self.launched_copies[0]),
        };
        queued.map_err(kernel_error)?;
        clock.record_end().map_err(kernel_error)
    }

    /// Queues one run between marks that a profiler understands. Without a profiler they have no effect.
    fn queue_probe(&mut self) -> Result<(), DeviceError> {
        self.launched_copies = vec![0];
        let clock = self.context.clock.borrow();
        clock.record_start().map_err(kernel_error)?;
        let _ = call!(cuProfilerStart());
        let queued = self.prepared.queue(&self.memory, 0);
        let _ = call!(cuProfilerStop());
        queued.map_err(kernel_error)?;
        clock.record_end().map_err(kernel_error)
    }

    /// Records a graph of several runs, each on another copy; with hot caches, all on the first copy.
    fn record_sample(&mut self, runs: usize, is_hot: bool) -> Result<(), DeviceError> {
        let key = (self.memory.data.id, runs);
        if self.samples.contains_key(&key) {
            return Ok(());
        }
        let copies = if is_hot {
            vec![0]
        } else {
            self.launch_order(runs)
        };
        let graph = Graph::record(&self.context.gpu, || {
            (copies.iter().cycle().take(runs))
                .try_for_each(|copy| self.prepared.queue(&self.memory, *copy))
        });
        let graph = graph.map_err(kernel_error)?;
        self.samples.insert(key, RecordedSample { copies, graph });
        Ok(())
    }

    /// Marks the GPU as unusable and reports the fault with what the kernel printed.
    fn launch_fault(&self, mut refusal: Refusal) -> LaunchOutcome {
        self.context.gpu.mark_broken();
        refusal.evidence.log = self.context.take_output();
        LaunchOutcome::Fault(refusal)
    }

    /// Waits for a queued sample. Returns the fault that ended it, if any.
    fn wait_for_sample(&self, deadline: Duration) -> anyhow::Result<Option<Refusal>> {
        match self.context.clock.borrow().wait(deadline) {
            WaitResult::Done => Ok(None),
            WaitResult::TimedOut => {
                let seconds = deadline.as_secs_f64();
                let reason = format!("a launch did not end within {seconds:.1} s");
                Ok(Some(Refusal::new(Status::TimedOut, reason)))
            }
            WaitResult::Fault(code) => match gpu::kernel_fault(code) {
                Some((status, reason)) => Ok(Some(Refusal::new(status, reason))),
                None => {
                    self.context.gpu.mark_broken();
                    gpu::checked("a launch", code)?;
                    bail!("a launch failed without an error code")
                }
            },
        }
    }
}

/// Refuses a program whose variables are too large to compare after every sample.
fn refuse_large_variables(image: &[u8]) -> Result<(), DeviceError> {
    let bytes = module_variables::variable_bytes(image)?;
    if bytes <= module_variables::MAX_VARIABLE_BYTES {
        return Ok(());
    }
    let reason = format!(
        "the kernel's `__device__` variables take {} MiB: the limit is {} MiB; use `scratch` in the header for memory of one launch",
        bytes >> 20,
        module_variables::MAX_VARIABLE_BYTES >> 20
    );
    Err(Refusal::new(Status::LimitExceeded, reason).into())
}

impl Launching for CudaBoundKernel {
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.launch_sample(1, deadline)
    }
}

impl Timing for CudaBoundKernel {
    fn copy_count(&self) -> usize {
        self.memory.copies() as usize
    }

    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        if copies.len() > CopyNumbers::MAX || copies.len() != self.copy_count() {
            bail!(
                "cannot bind {} copies: the kernel has {}, and at most {} can be bound",
                copies.len(),
                self.copy_count(),
                CopyNumbers::MAX
            );
        }
        self.copy_numbers = CopyNumbers::new(copies);
        Ok(())
    }

    fn swap_placement(&mut self, other: &mut dyn BoundKernel) -> anyhow::Result<()> {
        let other: &mut dyn Any = other;
        let Some(other) = other.downcast_mut::<Self>() else {
            bail!("kernels on two devices cannot swap their placement");
        };
        if !self.memory.is_compatible_with(&other.memory) {
            bail!("kernels of two tasks cannot swap their placement");
        }
        std::mem::swap(&mut self.memory.data, &mut other.memory.data);
        for kernel in [self, other] {
            *kernel.guard_damage.borrow_mut() = None;
            let encoded = kernel
                .prepared
                .encode_tensor_maps(&kernel.plan, &kernel.memory);
            encoded.map_err(DeviceError::into_broken)?;
        }
        Ok(())
    }

    fn launch_sample(&mut self, runs: usize, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.ensure_usable()?;
        // After this, every error belongs to the kernel.
        self.context.gpu.synchronize()?;
        *self.guard_damage.borrow_mut() = None;
        self.launches += 1;
        match self.queue_sample(runs) {
            Ok(()) => {}
            Err(DeviceError::Refused(refusal)) => return Ok(self.launch_fault(refusal)),
            Err(DeviceError::Broken(error)) => return Err(error),
        }
        if let Some(refusal) = self.wait_for_sample(deadline)? {
            return Ok(self.launch_fault(refusal));
        }
        let total = self.context.clock.borrow().elapsed()?;
        if let Some(variable) = self.variables.restore()? {
            let launch = self.launches;
            self.changed_variable.get_or_insert((variable, launch));
        }
        Ok(LaunchOutcome::Finished {
            time: total.div_f64(runs.max(1) as f64),
        })
    }

    fn launched_copies(&self) -> &[u32] {
        &self.launched_copies
    }
}

impl KernelEvidence for CudaBoundKernel {
    fn printed(&self) -> String {
        self.context.take_output().unwrap_or_default()
    }

    fn persistent_state(&self) -> PersistentState {
        match &self.changed_variable {
            Some((variable, launch)) => PersistentState::Changed {
                variable: format!("`{variable}`"),
                launch: *launch,
            },
            None if self.variables.has_hidden() => PersistentState::Unknown,
            None => PersistentState::Unchanged,
        }
    }

    fn resources(&self) -> Option<Resources> {
        Some(self.resources.clone())
    }
}
