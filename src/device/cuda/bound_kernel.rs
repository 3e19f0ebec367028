//! A kernel bound to its buffers on a GPU: opens it, runs it once or as a timed sample, and restores its variables.
//!
//! The judge's access to the buffers is in `buffers`. The contents of buffers stay on the GPU; only results of checks reach the
//! host. Never decides how many copies or runs a sample has.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::buffer_copies::CopyNumbers;
use super::clock::{Clock, Graph, WaitResult};
use super::gpu::{self, DriverError, call, kernel_error};
use super::gpu_context::GpuContext;
use super::harness_functions::MAX_LOCAL_BYTES;
use super::judge_memory::JudgeBuffer;
use super::layout::KernelMemory;
use super::loaded_module::LoadedModule;
use super::module_variables::{self, ModuleVariables};
use super::prepared_plan::PreparedPlan;
use crate::base::{RandomStream, random};
use crate::device::refusal::{DeviceError, Refusal};
use crate::device::{
    BoundKernel, Cache, ErasedMemory, KernelEvidence, LaunchOutcome, Launching, PersistentState,
    Poison, Program, Purpose, TimedLaunching,
};
use crate::kernel::plan::{BufferRole, LaunchPlan};
use crate::verdict::{Resources, Status};

/// At least what the host needs to queue a graph, and another launch.
const GRAPH_QUEUE_NANOSECONDS: u64 = 50_000;
const LAUNCH_QUEUE_NANOSECONDS: u64 = 5_000;

/// What a sample consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SampleContent {
    Runs,
    /// Runs, and between two of them the overwriting of what the first may have left.
    ErasedRuns(ErasedMemory),
    /// The overwriting of `ErasedRuns` alone.
    Erasures(ErasedMemory),
}

impl SampleContent {
    fn erased(self) -> Option<ErasedMemory> {
        match self {
            Self::Runs => None,
            Self::ErasedRuns(memory) | Self::Erasures(memory) => Some(memory),
        }
    }

    fn has_runs(self) -> bool {
        !matches!(self, Self::Erasures(_))
    }
}

/// A kernel on a GPU, bound to its own buffers.
pub(super) struct CudaBoundKernel {
    pub(super) context: Rc<GpuContext>,
    pub(super) plan: LaunchPlan,
    pub(super) memory: KernelMemory,
    prepared: PreparedPlan,
    variables: ModuleVariables,
    resources: Resources,
    purpose: Purpose,
    pub(super) copy_numbers: CopyNumbers,
    /// The copies that the last launch used, in ascending order.
    pub(super) launched_copies: Vec<u32>,
    /// The copy of the last run.
    last_copy: Option<u32>,
    /// The graph of the last sample. The next one gets new memory for its arguments while this one still has its own.
    graph: Option<Graph>,
    launches: u64,
    /// Where the host's time around the last launch went.
    parts: LaunchParts,
    /// The first variable that a launch changed, and the number of that launch.
    changed_variable: Option<(String, u64)>,
    /// By buffer, since the last launch; `None`: not checked yet.
    pub(super) guard_damage: RefCell<Option<Vec<Option<i64>>>>,
    /// Address tables for operations on some of the copies.
    pub(super) selection_tables: [JudgeBuffer; 2],
}

impl CudaBoundKernel {
    /// Loads a program and allocates its buffers. A refusal if the device cannot hold or launch it.
    pub(super) fn open(
        context: &Rc<GpuContext>,
        program: &Program,
        plan: &LaunchPlan,
        purpose: Purpose,
    ) -> Result<Self, DeviceError> {
        let gpu = &context.gpu;
        let image = std::fs::read(&program.image)
            .with_context(|| format!("failed to read `{}`", program.image.display()))?;
        refuse_large_variables(&image)?;
        let memory = match KernelMemory::new(&context.judge_memory, plan, purpose) {
            Err(error) if error.is_out_of_memory() => {
                let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
                let reason = format!("the buffers need {} MiB: {error}", bytes >> 20);
                return Err(Refusal::new(Status::LimitExceeded, reason).into());
            }
            memory => memory?,
        };
        context.register(&memory);
        let module = LoadedModule::load(gpu, &image).map_err(kernel_error)?;
        let found = ModuleVariables::find(&context.judge_memory, &module, &image)?;
        let mut prepared = PreparedPlan::prepare(gpu, module, program, plan)?;
        if matches!(purpose, Purpose::Check { .. } | Purpose::Time { .. }) {
            refuse_much_local_memory(prepared.local_bytes())?;
        }
        let variables = found.with_surroundings(prepared.local_bytes() > 0)?;
        prepared.encode_tensor_maps(plan, &memory)?;
        for zones in memory.zones() {
            context.harness.write_guard_zones(zones)?;
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
            last_copy: None,
            graph: None,
            launches: 0,
            parts: LaunchParts::start(),
            changed_variable: None,
            guard_damage: RefCell::new(None),
            selection_tables: [
                context.judge_memory.allocate(table_bytes)?,
                context.judge_memory.allocate(table_bytes)?,
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

    /// The copies of the next sample's runs, in order. The order is drawn for each sample, so a kernel cannot know which data
    /// comes next.
    fn draw_runs(&self, runs: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.memory.copies()).collect();
        RandomStream::new(random::fresh_seed(), "copies", 0).shuffle(&mut order);
        order.into_iter().cycle().take(runs.max(1)).collect()
    }

    /// Reads the inputs of these copies, so that the cache holds them. No launch of the kernel does it: a later one could find what that
    /// launch has left. The device waits first until the host has queued the whole sample: otherwise the clock would time the host.
    fn warm_inputs(&self, copies: &[u32]) -> anyhow::Result<()> {
        let buffers = self.plan.buffers.iter().enumerate();
        let inputs: Vec<_> = buffers
            .filter(|(_, buffer)| matches!(buffer.role, BufferRole::Input | BufferRole::InPlace))
            .collect();
        let launches = (inputs.len() * copies.len()) as u64;
        self.context
            .harness
            .wait(GRAPH_QUEUE_NANOSECONDS + launches * LAUNCH_QUEUE_NANOSECONDS)?;
        for (index, buffer) in inputs {
            for copy in copies {
                let start = self.memory.address(index, *copy);
                self.context.harness.warm(start, buffer.bytes())?;
            }
        }
        Ok(())
    }

    /// Queues everything for one sample: cleaning, cache state, and the runs between the clock's events.
    fn queue_sample(&mut self, runs: usize, content: SampleContent) -> Result<(), DeviceError> {
        let cache = match self.purpose {
            Purpose::Probe => return self.queue_probe(),
            Purpose::Expect { .. } => return self.queue_trusted(runs),
            Purpose::Check { .. } => None,
            Purpose::Time { cache, .. } => cache,
        };
        let context = Rc::clone(&self.context);
        let mut order = self.draw_runs(runs);
        let mut parts = LaunchParts::start();
        self.variables.hash_before(&context.harness)?;
        // A single run is shorter without a graph. Recording it takes about as long as the GPU needs to fill the buffers, so both go on at
        // the same time.
        let uses_graph = order.len() > 1 || self.prepared.overlaps();
        let recorded = (uses_graph.then(|| self.record(&order, content))).transpose();
        parts.end("graph");
        // What was queued before belongs to the judge. After this, every error belongs to the kernel.
        context.gpu.synchronize()?;
        let graph = recorded?;
        parts.end("wait for fills");
        let mut clock = context.clock.borrow_mut();
        let is_timed = matches!(self.purpose, Purpose::Time { .. });
        context.show_only(&self.memory, is_timed)?;
        if cache != Some(Cache::Cold) {
            clock.hide_flush_memory()?;
        }
        parts.end("hide");
        let local_bytes = self.prepared.local_bytes();
        if local_bytes > 0 {
            let scrubbed = context.harness.scrub_local(local_bytes);
            scrubbed.map_err(|error| scrub_error(error, local_bytes))?;
        }
        context.harness.scrub_shared()?;
        match cache {
            Some(Cache::Cold) => clock.flush_cache(&context.harness)?,
            Some(Cache::Hot) => self.warm_inputs(&order)?,
            None => {}
        }
        clock.record_start().map_err(kernel_error)?;
        let queued = match &graph {
            Some(graph) => graph.launch(),
            None => self.prepared.queue(&self.memory, order[0]),
        };
        queued.map_err(kernel_error)?;
        clock.record_end().map_err(kernel_error)?;
        self.last_copy = order.last().copied();
        order.sort_unstable();
        order.dedup();
        self.launched_copies = order;
        self.graph = graph;
        parts.end("queue");
        self.parts = parts;
        Ok(())
    }

    /// Queues one run between marks that a profiler understands. Without a profiler they have no effect.
    fn queue_probe(&mut self) -> Result<(), DeviceError> {
        self.context.gpu.synchronize()?;
        self.launched_copies = vec![0];
        let clock = self.context.clock.borrow();
        clock.record_start().map_err(kernel_error)?;
        let _ = call!(cuProfilerStart());
        let queued = self.prepared.queue(&self.memory, 0);
        let _ = call!(cuProfilerStop());
        queued.map_err(kernel_error)?;
        clock.record_end().map_err(kernel_error)
    }

    /// Queues runs of the oracle on its copies in order. It is trusted, so nothing is hidden from it or cleaned before it.
    fn queue_trusted(&mut self, runs: usize) -> Result<(), DeviceError> {
        self.context.gpu.synchronize()?;
        self.memory.show()?;
        let copies = 0..self.memory.copies();
        self.launched_copies = copies.take(runs.max(1)).collect();
        let clock = self.context.clock.borrow();
        clock.record_start().map_err(kernel_error)?;
        for copy in &self.launched_copies {
            let queued = self.prepared.queue(&self.memory, *copy);
            queued.map_err(kernel_error)?;
        }
        clock.record_end().map_err(kernel_error)
    }

    /// Records these runs as a graph.
    fn record(&self, runs: &[u32], content: SampleContent) -> Result<Graph, DeviceError> {
        Graph::record(&self.context.gpu, || {
            for (index, run) in runs.iter().enumerate() {
                if let (Some(memory), Some(before)) = (content.erased(), index.checked_sub(1)) {
                    self.queue_erasure(memory, runs[before])?;
                }
                if content.has_runs() {
                    let queued = self.prepared.queue(&self.memory, *run);
                    queued.map_err(kernel_error)?;
                }
            }
            Ok(())
        })
    }

    /// Queues the overwriting of what a run on this copy may have left in this memory for later ones.
    fn queue_erasure(&self, memory: ErasedMemory, copy: u32) -> anyhow::Result<()> {
        let harness = &self.context.harness;
        match memory {
            ErasedMemory::Buffers => {
                let buffers = self.plan.buffers.iter().enumerate();
                for (index, _) in buffers.filter(|(_, buffer)| buffer.role != BufferRole::Input) {
                    // Secret, like the content before the sample: a kernel that recognised the pattern could take it for a mark.
                    let seed = random::fresh_seed();
                    harness.poison(self.filled_copy(index, copy), Poison::Finite { seed })?;
                }
                Ok(())
            }
            ErasedMemory::OnChip => {
                let local_bytes = self.prepared.local_bytes();
                if local_bytes > 0 {
                    harness.scrub_local(local_bytes)?;
                }
                harness.scrub_shared()
            }
        }
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

/// The host's time around a launch, by what it did.
struct LaunchParts {
    since: Instant,
    times: Vec<(&'static str, Duration)>,
}

impl LaunchParts {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            times: Vec::new(),
        }
    }

    /// The next part starts now.
    fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// A part ends now, and the next one starts.
    fn end(&mut self, name: &'static str) {
        self.times.push((name, self.since.elapsed()));
        self.restart();
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

/// Refuses a kernel whose local memory is too large to overwrite before every sample.
fn refuse_much_local_memory(bytes: u64) -> Result<(), DeviceError> {
    if bytes <= MAX_LOCAL_BYTES {
        return Ok(());
    }
    let reason = format!(
        "a thread has {bytes} bytes of local memory: the limit is {MAX_LOCAL_BYTES}; use `scratch` in the header for large arrays"
    );
    Err(Refusal::new(Status::LimitExceeded, reason).into())
}

/// The error of the kernel that overwrites local memory. It needs about as much memory as the candidate, so there may be too little for it.
fn scrub_error(error: anyhow::Error, bytes: u64) -> DeviceError {
    let driver = error.downcast_ref::<DriverError>();
    if !driver.is_some_and(DriverError::is_out_of_memory) {
        return error.into();
    }
    let reason = format!(
        "a thread has {bytes} bytes of local memory: the GPU has too little memory for all its threads"
    );
    Refusal::new(Status::LimitExceeded, reason).into()
}

impl Launching for CudaBoundKernel {
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.launch_sample(1, deadline)
    }
}

impl TimedLaunching for CudaBoundKernel {
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
        self.launch_content(SampleContent::Runs, runs, deadline)
    }

    fn launch_erased(
        &mut self,
        memory: ErasedMemory,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<Option<LaunchOutcome>> {
        if runs < 2 {
            return Ok(None);
        }
        let erased = self.launch_content(SampleContent::ErasedRuns(memory), runs, deadline)?;
        let LaunchOutcome::Finished { time: all } = erased else {
            return Ok(Some(erased));
        };
        let erasures = self.launch_content(SampleContent::Erasures(memory), runs, deadline)?;
        let LaunchOutcome::Finished { time: overwriting } = erasures else {
            bail!("overwriting the memory of a kernel failed");
        };
        Ok(Some(LaunchOutcome::Finished {
            time: all.saturating_sub(overwriting),
        }))
    }

    fn launched_copies(&self) -> &[u32] {
        &self.launched_copies
    }

    fn last_copy(&self) -> Option<u32> {
        self.last_copy
    }

    fn host_times(&self) -> &[(&'static str, Duration)] {
        &self.parts.times
    }
}

impl CudaBoundKernel {
    /// Takes one sample. The time is that of one run.
    fn launch_content(
        &mut self,
        content: SampleContent,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<LaunchOutcome> {
        self.ensure_usable()?;
        self.parts = LaunchParts::start();
        *self.guard_damage.borrow_mut() = None;
        self.launches += 1;
        match self.queue_sample(runs, content) {
            Ok(()) => {}
            Err(DeviceError::Refused(refusal)) => return Ok(self.launch_fault(refusal)),
            Err(DeviceError::Broken(error)) => return Err(error),
        }
        if let Some(refusal) = self.wait_for_sample(deadline)? {
            return Ok(self.launch_fault(refusal));
        }
        let total = self.context.clock.borrow().elapsed()?;
        if self.prepared.keeps_lines() {
            Clock::reset_persisting_lines();
        }
        self.parts.restart();
        if !matches!(self.purpose, Purpose::Expect { .. })
            && let Some(variable) = self.variables.restore(&self.context.harness)?
        {
            let launch = self.launches;
            self.changed_variable.get_or_insert((variable, launch));
        }
        self.parts.end("restore");
        Ok(LaunchOutcome::Finished {
            time: total.div_f64(runs.max(1) as f64),
        })
    }
}

impl KernelEvidence for CudaBoundKernel {
    fn printed(&self) -> String {
        self.context.take_output().unwrap_or_default()
    }

    fn persistent_state(&self) -> PersistentState {
        match &self.changed_variable {
            Some((variable, launch)) => PersistentState::Changed {
                variable: variable.clone(),
                launch: *launch,
            },
            None => PersistentState::Unchanged,
        }
    }

    fn resources(&self) -> Option<Resources> {
        Some(self.resources.clone())
    }
}
