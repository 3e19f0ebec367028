//! One kernel bound to its own memory on a GPU: the judge fills, launches and looks; nothing of it reaches the host but answers.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use cudarc::driver::sys::CUdeviceptr;

use super::captured_output::CapturedOutput;
use super::card::{DriverError, Gpu, call, kernel_fault};
use super::clock::{Clock, Graph, WaitResult};
use super::harness_kernels::{BufferCopies, CopyNumbers, HarnessKernels, LoadedModule};
use super::layout::KernelMemory;
use super::memory::{DeviceBuffer, copy_to_host};
use super::module_variables::{self, ModuleVariables};
use super::prepared_plan::{PreparedPlan, refusal};
use crate::device::{
    Answer, BoundKernel, BufferContent, Cache, Comparison, DeviceValues, ExpectedValues,
    LaunchOutcome, Opened, PersistentState, Poison, Program, Purpose, Question, numerics,
};
use crate::kernel::plan::Plan;
use crate::task::{DType, Tolerance};
use crate::verdict::{Resources, Status};

/// What all arms of a card share.
pub(super) struct GpuContext {
    pub(super) gpu: Rc<Gpu>,
    pub(super) harness: HarnessKernels,
    pub(super) clock: RefCell<Clock>,
    pub(super) captured_output: Option<CapturedOutput>,
}

/// An arm on a GPU.
pub(super) struct CudaBoundKernel {
    shared: Rc<GpuContext>,
    plan: Plan,
    memory: KernelMemory,
    prepared: PreparedPlan,
    variables: ModuleVariables,
    resources: Resources,
    purpose: Purpose,
    /// The numbers of the copies; none: 0, 1, 2, …
    copy_numbers: CopyNumbers,
    /// Copies that the last launch used, in its order.
    launched_copies: Vec<u32>,
    /// By the memory that is in use and the number of units: the copies in launch order, and the recording.
    graphs: HashMap<(u64, usize), (Vec<u32>, Graph)>,
    launches: u64,
    changed_variable: Option<(String, u64)>,
    /// Of each buffer, since the last launch; `None`: not looked yet.
    guard_damage: RefCell<Option<Vec<Option<i64>>>>,
    /// For questions about some copies only.
    selection_tables: [DeviceBuffer; 2],
}

impl CudaBoundKernel {
    pub(super) fn open(
        shared: &Rc<GpuContext>,
        program: &Program,
        plan: &Plan,
        purpose: Purpose,
    ) -> anyhow::Result<Opened> {
        let card = &shared.gpu;
        let image = std::fs::read(&program.image)
            .with_context(|| format!("failed to read `{}`", program.image.display()))?;
        let variables = module_variables::variable_bytes(&image)?;
        if variables > module_variables::MAX_VARIABLE_BYTES {
            let reason = format!(
                "the kernel's own variables take {} MiB: at most {} are accepted; `scratch` in the header gives memory for one launch",
                variables >> 20,
                module_variables::MAX_VARIABLE_BYTES >> 20
            );
            return Ok(Opened::Refused(refusal(Status::LimitExceeded, reason)));
        }
        let memory = match KernelMemory::new(card, plan, purpose) {
            Ok(memory) => memory,
            Err(error) if error.is_out_of_memory() => {
                let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
                let reason = format!("the buffers need {} MiB: {error}", bytes >> 20);
                return Ok(Opened::Refused(refusal(Status::LimitExceeded, reason)));
            }
            Err(error) => return Err(error.into()),
        };
        let module = match LoadedModule::load(card, &image) {
            Ok(module) => module,
            Err(error) => {
                return match kernel_fault(error.code) {
                    Some((status, reason)) => Ok(Opened::Refused(refusal(status, reason))),
                    None => Err(error.into()),
                };
            }
        };
        let variables = ModuleVariables::find(card, &module, &image)?;
        let mut unit = match PreparedPlan::prepare(card, module, program, plan)? {
            Ok(unit) => unit,
            Err(refusal) => return Ok(Opened::Refused(refusal)),
        };
        if let Err(refusal) = unit.encode_tensor_maps(plan, &memory)? {
            return Ok(Opened::Refused(refusal));
        }
        for (zones, count) in memory.zones() {
            shared.harness.write_guard_zones(zones, count)?;
        }
        let most = memory.copies() as usize * 8;
        Ok(Opened::Ready(Box::new(Self {
            shared: Rc::clone(shared),
            plan: plan.clone(),
            resources: unit.resources(&program.resources),
            prepared: unit,
            variables,
            purpose,
            copy_numbers: CopyNumbers::default(),
            launched_copies: Vec::new(),
            graphs: HashMap::new(),
            launches: 0,
            changed_variable: None,
            guard_damage: RefCell::new(None),
            selection_tables: [
                DeviceBuffer::new(card, most)?,
                DeviceBuffer::new(card, most)?,
            ],
            memory,
        })))
    }

    fn buffer_copies(&self, buffer: usize) -> anyhow::Result<BufferCopies> {
        if buffer >= self.plan.buffers.len() {
            bail!("no such buffer: {buffer}");
        }
        Ok(self.memory.buffer_copies(&self.plan, buffer))
    }

    /// The copies that the next sample is to use, in order.
    fn launch_order(&self, units: usize) -> Vec<u32> {
        let order = &self.memory.data.order;
        order[..units.clamp(1, order.len())].to_vec()
    }

    fn queue_sample(&mut self, units: usize) -> anyhow::Result<Result<(), DriverError>> {
        let shared = Rc::clone(&self.shared);
        let mut clock = shared.clock.borrow_mut();
        if self.purpose == Purpose::Probe {
            self.launched_copies = vec![0];
            let queued = clock
                .record_start()
                .and_then(|()| self.queue_for_profiler());
            return Ok(queued.and_then(|()| clock.record_end()));
        }
        let cache = match self.purpose {
            Purpose::Check { .. } | Purpose::Probe => None,
            Purpose::Time { cache, .. } => cache,
        };
        // A single launch is shorter without a graph around it.
        let recorded = (units > 1).then(|| self.record_graph(units, cache == Some(Cache::Hot)));
        let recorded = match recorded.transpose() {
            Ok(recorded) => recorded,
            Err(error) => return Ok(Err(error)),
        };
        shared.harness.scrub_shared()?;
        match cache {
            Some(Cache::Cold) => clock.flush_cache(&shared.harness)?,
            Some(Cache::Hot) => {
                if let Err(error) = self.prepared.queue(&self.memory, 0) {
                    return Ok(Err(error));
                }
            }
            None => {}
        }
        let key = (self.memory.data.id, units);
        let copies = match &recorded {
            Some(()) => self.graphs.get(&key).map(|(order, _)| order.clone()),
            None if cache == Some(Cache::Hot) => Some(vec![0]),
            None => Some(self.launch_order(1)),
        };
        self.launched_copies = copies.unwrap_or_default();
        let queued = clock
            .record_start()
            .and_then(|()| match self.graphs.get(&key) {
                Some((_, graph)) if recorded.is_some() => graph.launch(),
                _ => self.prepared.queue(&self.memory, self.launched_copies[0]),
            });
        Ok(queued.and_then(|()| clock.record_end()))
    }

    /// The unit alone, between marks that a profiler heeds; without one they mean nothing.
    fn queue_for_profiler(&self) -> Result<(), DriverError> {
        let _ = call!(cuProfilerStart());
        let queued = self.prepared.queue(&self.memory, 0);
        let _ = call!(cuProfilerStop());
        queued
    }

    /// Records so many units, each on another copy; where the cache is to be hot, all on the first.
    fn record_graph(&mut self, units: usize, hot: bool) -> Result<(), DriverError> {
        let key = (self.memory.data.id, units);
        if self.graphs.contains_key(&key) {
            return Ok(());
        }
        let order = if hot {
            vec![0]
        } else {
            self.launch_order(units)
        };
        let graph = Graph::record(&self.shared.gpu, || {
            (order.iter().cycle().take(units))
                .try_for_each(|copy| self.prepared.queue(&self.memory, *copy))
        })?;
        self.graphs.insert(key, (order, graph));
        Ok(())
    }

    fn launch_fault(&self, status: Status, reason: impl Into<String>) -> LaunchOutcome {
        self.shared.gpu.mark_broken();
        let mut refusal = refusal(status, reason);
        refusal.evidence.log = self
            .shared
            .captured_output
            .as_ref()
            .and_then(CapturedOutput::take);
        LaunchOutcome::Fault(refusal)
    }

    /// The same buffer in some of the copies, by way of a table of their addresses.
    fn selected_copies(
        &self,
        table: usize,
        buffer: usize,
        copies: &[u32],
    ) -> anyhow::Result<BufferCopies> {
        let all = self.buffer_copies(buffer)?;
        let addresses: Vec<CUdeviceptr> = (copies.iter())
            .map(|copy| self.memory.address(buffer, *copy))
            .collect();
        self.upload_addresses(table, &addresses)?;
        Ok(BufferCopies {
            table: self.selection_tables[table].address(),
            copies: copies.len() as u32,
            ..all
        })
    }

    fn upload_addresses(&self, table: usize, addresses: &[CUdeviceptr]) -> anyhow::Result<()> {
        if size_of_val(addresses) > self.selection_tables[table].bytes() {
            bail!("more copies than there are");
        }
        let into = self.selection_tables[table].address();
        Ok(super::memory::copy_to_device(
            &self.shared.gpu,
            into,
            addresses,
        )?)
    }

    fn compare(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &DeviceValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<Comparison> {
        if expected.addresses.len() != copies.len() {
            bail!("other copies than what they are compared with");
        }
        let found = self.selected_copies(0, buffer, copies)?;
        self.upload_addresses(1, &expected.addresses)?;
        let right = BufferCopies {
            table: self.selection_tables[1].address(),
            copies: found.copies,
            dtype: expected.dtype,
            elements: expected.elements,
        };
        let comparisons = self.shared.harness.compare(found, right, tolerance)?;
        let worst = (comparisons.iter()).position(|comparison| comparison.failed > 0);
        let mut whole = merge_comparisons(&comparisons);
        if let (Some(worst), Some((index, ..))) = (worst, whole.first) {
            let found = self.read_element(
                found.dtype,
                self.memory.address(buffer, copies[worst]),
                index,
            )?;
            let right = self.read_element(expected.dtype, expected.addresses[worst], index)?;
            whole.first = Some((index, right, found));
        }
        Ok(whole)
    }

    fn read_element(&self, dtype: DType, start: CUdeviceptr, index: u64) -> anyhow::Result<f64> {
        let mut word = [0u64; 1];
        let bytes = dtype.bytes() as usize;
        // SAFETY: the word's own memory, seen as bytes.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(word.as_mut_ptr().cast::<u8>(), bytes) };
        copy_to_host(&self.shared.gpu, start + index * dtype.bytes(), memory)?;
        Ok(numerics::values(dtype, memory)[0])
    }

    /// The first copy's memory.
    fn read_words(&self, buffer: usize) -> anyhow::Result<Vec<u64>> {
        let bytes = self.buffer_copies(buffer)?.bytes() as usize;
        let mut words = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: the words' own memory, seen as bytes.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), bytes) };
        copy_to_host(&self.shared.gpu, self.memory.address(buffer, 0), memory)?;
        Ok(words)
    }

    fn with_host_copy<T>(&self, buffer: usize, then: impl FnOnce(&[u8]) -> T) -> anyhow::Result<T> {
        let bytes = self.buffer_copies(buffer)?.bytes() as usize;
        let words = self.read_words(buffer)?;
        // SAFETY: as above.
        Ok(then(unsafe {
            std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), bytes)
        }))
    }
}

impl BoundKernel for CudaBoundKernel {
    fn copy_count(&self) -> usize {
        self.memory.copies() as usize
    }

    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        if copies.len() > HarnessKernels::MAX_COPIES || copies.len() != self.copy_count() {
            bail!("an arm cannot stand for that many copies");
        }
        self.copy_numbers = CopyNumbers::named(copies);
        Ok(())
    }

    fn swap_placement(&mut self, other: &mut dyn BoundKernel) -> anyhow::Result<()> {
        let other: &mut dyn Any = other;
        let Some(other) = other.downcast_mut::<Self>() else {
            bail!("arms of two devices cannot trade their memory");
        };
        if !self.memory.is_compatible_with(&other.memory) {
            bail!("arms of two tasks cannot trade their memory");
        }
        std::mem::swap(&mut self.memory.data, &mut other.memory.data);
        for arm in [self, other] {
            *arm.guard_damage.borrow_mut() = None;
            if let Err(refusal) = arm.prepared.encode_tensor_maps(&arm.plan, &arm.memory)? {
                bail!("{}", refusal.reason);
            }
        }
        Ok(())
    }

    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        let places = self.buffer_copies(buffer)?;
        let own = &self.shared.harness;
        match content {
            BufferContent::Random { distribution, seed } => {
                let row = self.plan.buffers[buffer].shape.last().copied().unwrap_or(1);
                own.fill(places, row, distribution, (*seed, self.copy_numbers))?;
            }
            BufferContent::Values(values) => {
                let mut words =
                    vec![0u64; (values.len() * places.dtype.bytes() as usize).div_ceil(8)];
                // SAFETY: the words' own memory, seen as bytes.
                let memory = unsafe {
                    std::slice::from_raw_parts_mut(
                        words.as_mut_ptr().cast::<u8>(),
                        values.len() * places.dtype.bytes() as usize,
                    )
                };
                if memory.len() as u64 != places.bytes() {
                    bail!("other values than the buffer has elements");
                }
                numerics::store(places.dtype, values, memory);
                for copy in 0..self.memory.copies() {
                    let into = self.memory.address(buffer, copy);
                    super::memory::copy_to_device(&self.shared.gpu, into, memory)?;
                }
            }
            BufferContent::Poison(pattern) => {
                own.poison(places, *pattern, self.copy_numbers)?;
            }
        }
        Ok(())
    }

    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.launch_sample(1, deadline)
    }

    fn launch_sample(&mut self, units: usize, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        if self.shared.gpu.is_broken() {
            bail!("the device was given up after a fault");
        }
        // What is found from here on is the kernel's doing.
        self.shared.gpu.synchronize()?;
        *self.guard_damage.borrow_mut() = None;
        self.launches += 1;
        if let Err(error) = self.queue_sample(units)? {
            return match kernel_fault(error.code) {
                Some((status, reason)) => Ok(self.launch_fault(status, reason)),
                None => Err(error.into()),
            };
        }
        let clock = self.shared.clock.borrow();
        match clock.wait(deadline) {
            WaitResult::Done => {}
            WaitResult::TimedOut => {
                let reason = format!(
                    "a launch did not end within {:.1} s",
                    deadline.as_secs_f64()
                );
                drop(clock);
                return Ok(self.launch_fault(Status::TimedOut, reason));
            }
            WaitResult::Fault(code) => {
                drop(clock);
                return match kernel_fault(code) {
                    Some((status, reason)) => Ok(self.launch_fault(status, reason)),
                    None => {
                        self.shared.gpu.mark_broken();
                        super::card::checked("a launch", code)?;
                        bail!("a launch failed without an error")
                    }
                };
            }
        }
        let time = clock.elapsed()?.div_f64(units.max(1) as f64);
        drop(clock);
        if let Some(variable) = self.variables.restore()? {
            let launch = self.launches;
            self.changed_variable.get_or_insert((variable, launch));
        }
        Ok(LaunchOutcome::Finished { time })
    }

    fn launched_copies(&self) -> &[u32] {
        &self.launched_copies
    }

    fn resources(&self) -> Option<Resources> {
        Some(self.resources.clone())
    }

    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer> {
        if self.shared.gpu.is_broken() {
            bail!("the device was given up after a fault");
        }
        let own = &self.shared.harness;
        Ok(match question {
            Question::Hash => Answer::Hash(combine_hashes(&own.hash(self.buffer_copies(buffer)?)?)),
            Question::HashOf(copies) => {
                let places = self.selected_copies(0, buffer, copies)?;
                Answer::Hash(combine_hashes(&own.hash(places)?))
            }
            Question::Guards => {
                let mut damages = self.guard_damage.borrow_mut();
                let damages = match damages.as_ref() {
                    Some(damages) => damages,
                    None => {
                        let mut nearest = vec![None; self.plan.buffers.len()];
                        for (zones, count) in self.memory.zones() {
                            let found = own.check_guard_zones(zones, count, nearest.len())?;
                            for (known, found) in nearest.iter_mut().zip(found) {
                                *known = known.or(found);
                            }
                        }
                        damages.insert(nearest)
                    }
                };
                Answer::Guards(damages.get(buffer).copied().flatten())
            }
            Question::Values => {
                let dtype = self.buffer_copies(buffer)?.dtype;
                Answer::Values(
                    self.with_host_copy(buffer, |memory| numerics::values(dtype, memory))?,
                )
            }
            Question::Bytes => Answer::Bytes(self.with_host_copy(buffer, <[u8]>::to_vec)?),
            Question::Compare {
                copies,
                expected,
                tolerance,
            } => Answer::Comparison(match expected {
                ExpectedValues::OnDevice(expected) => {
                    self.compare(buffer, copies, expected, *tolerance)?
                }
                ExpectedValues::Host(expected) => {
                    let dtype = self.buffer_copies(buffer)?.dtype;
                    self.with_host_copy(buffer, |memory| {
                        numerics::compare(dtype, memory, expected, *tolerance)
                    })?
                }
            }),
            Question::Expected => self.expected_values(buffer)?,
            Question::Unwritten(pattern) => {
                let counts = self.count_poison(buffer, *pattern, true)?;
                let (count, first) = counts;
                Answer::Unwritten { count, first }
            }
            Question::Untouched(pattern) => {
                let (count, first) = self.count_poison(buffer, *pattern, false)?;
                Answer::Unwritten { count, first }
            }
            Question::Printed => {
                let text = self
                    .shared
                    .captured_output
                    .as_ref()
                    .and_then(CapturedOutput::take);
                Answer::Printed(text.unwrap_or_default())
            }
            Question::Remembered => Answer::Remembered(match &self.changed_variable {
                Some((variable, launch)) => PersistentState::Changed {
                    variable: format!("`{variable}`"),
                    launch: *launch,
                },
                None if self.variables.has_hidden() => PersistentState::Unknown,
                None => PersistentState::Unchanged,
            }),
            Question::Accesses => bail!("a GPU does not count accesses"),
        })
    }
}

impl CudaBoundKernel {
    /// All copies of an output, as what others are compared with.
    fn expected_values(&self, buffer: usize) -> anyhow::Result<Answer> {
        let places = self.buffer_copies(buffer)?;
        let not_finite = match places.dtype {
            DType::Float64 => {
                let counts = self.shared.harness.not_finite(places)?;
                counts.into_iter().find_map(|(_, first)| first)
            }
            _ => None,
        };
        let copies = 0..self.memory.copies();
        let addresses = copies
            .map(|copy| self.memory.address(buffer, copy))
            .collect();
        let keeps: Rc<dyn Any> = Rc::clone(&self.memory.data) as Rc<dyn Any>;
        Ok(Answer::Expected {
            expected: ExpectedValues::OnDevice(DeviceValues {
                dtype: places.dtype,
                elements: places.elements,
                addresses,
                owner: keeps,
            }),
            not_finite,
        })
    }

    /// In the copies that ran, how many elements still hold their poison (`ran`); in the others, how many do not any more.
    fn count_poison(
        &self,
        buffer: usize,
        pattern: Poison,
        ran: bool,
    ) -> anyhow::Result<(u64, Option<u64>)> {
        let places = self.buffer_copies(buffer)?;
        let counts = (self.shared.harness).count_poison(places, pattern, self.copy_numbers, ran)?;
        let of_interest = counts
            .into_iter()
            .enumerate()
            .filter(|(copy, _)| self.launched_copies.contains(&(*copy as u32)) == ran);
        Ok(
            of_interest.fold((0, None), |(sum, first), (_, (count, of_copy))| {
                (sum + count, first.or(of_copy))
            }),
        )
    }
}

/// Several copies' hashes as one; of one copy its own, as on every device.
fn combine_hashes(hashes: &[u64]) -> u64 {
    let turned = (0..)
        .zip(hashes)
        .map(|(place, hash)| hash.rotate_left(place % 64));
    turned.fold(0, u64::wrapping_add)
}

/// Several copies as one tensor.
fn merge_comparisons(comparisons: &[Comparison]) -> Comparison {
    let most = |of: fn(&Comparison) -> f64| comparisons.iter().map(of).fold(0.0, f64::max);
    let mean: f64 = comparisons.iter().map(|one| one.mean_abs_error).sum();
    Comparison {
        elements: comparisons.iter().map(|one| one.elements).sum(),
        failed: comparisons.iter().map(|one| one.failed).sum(),
        first: comparisons.iter().find_map(|one| one.first),
        max_abs_error: most(|one| one.max_abs_error),
        max_rel_error: most(|one| one.max_rel_error),
        mean_abs_error: mean / comparisons.len().max(1) as f64,
        worst_ratio: most(|one| one.worst_ratio),
    }
}
