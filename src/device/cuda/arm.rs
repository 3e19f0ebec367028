//! One kernel bound to its own memory on a GPU: the judge fills, launches and looks; nothing of it reaches the host but answers.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use cudarc::driver::sys::CUdeviceptr;

use super::card::{Card, DriverError, call, fault_of};
use super::clock::{Clock, Graph, Waited};
use super::memory::{Table, read};
use super::own::{Copies, Module, Own, Places};
use super::places::Memory;
use super::printed::Printed;
use super::state::{self, Variables};
use super::unit::{Unit, refusal};
use crate::device::{
    Answer, Arm, Cache, Comparison, Content, Expected, Launched, OnDevice, Opened, Poison, Program,
    Purpose, Question, Remembered, numerics,
};
use crate::kernel::plan::Plan;
use crate::task::{DType, Tolerance};
use crate::verdict::{Resources, Status};

/// What all arms of a card share.
pub(super) struct Shared {
    pub(super) card: Rc<Card>,
    pub(super) own: Own,
    pub(super) clock: RefCell<Clock>,
    pub(super) printed: Option<Printed>,
}

/// An arm on a GPU.
pub(super) struct CudaArm {
    shared: Rc<Shared>,
    plan: Plan,
    memory: Memory,
    unit: Unit,
    variables: Variables,
    resources: Resources,
    purpose: Purpose,
    /// The numbers of the copies; none: 0, 1, 2, …
    numbers: Copies,
    /// Copies that the last launch used, in its order.
    ran: Vec<u32>,
    /// By the memory that is in use and the number of units: the copies in launch order, and the recording.
    graphs: HashMap<(u64, usize), (Vec<u32>, Graph)>,
    launches: u64,
    changed: Option<(String, u64)>,
    /// Of each buffer, since the last launch; `None`: not looked yet.
    damages: RefCell<Option<Vec<Option<i64>>>>,
    /// For questions about some copies only.
    chosen: [Table; 2],
}

impl CudaArm {
    pub(super) fn open(
        shared: &Rc<Shared>,
        program: &Program,
        plan: &Plan,
        purpose: Purpose,
    ) -> anyhow::Result<Opened> {
        let card = &shared.card;
        let image = std::fs::read(&program.image)
            .with_context(|| format!("failed to read `{}`", program.image.display()))?;
        let variables = state::bytes_of(&image)?;
        if variables > state::MOST_BYTES {
            let reason = format!(
                "the kernel's own variables take {} MiB: at most {} are accepted; `scratch` in the header gives memory for one launch",
                variables >> 20,
                state::MOST_BYTES >> 20
            );
            return Ok(Opened::Refused(refusal(Status::LimitExceeded, reason)));
        }
        let memory = match Memory::new(card, plan, purpose) {
            Ok(memory) => memory,
            Err(error) if error.is_out_of_memory() => {
                let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
                let reason = format!("the buffers need {} MiB: {error}", bytes >> 20);
                return Ok(Opened::Refused(refusal(Status::LimitExceeded, reason)));
            }
            Err(error) => return Err(error.into()),
        };
        let module = match Module::load(card, &image) {
            Ok(module) => module,
            Err(error) => {
                return match fault_of(error.code) {
                    Some((status, reason)) => Ok(Opened::Refused(refusal(status, reason))),
                    None => Err(error.into()),
                };
            }
        };
        let variables = Variables::find(card, &module, &image)?;
        let mut unit = match Unit::prepare(card, module, program, plan)? {
            Ok(unit) => unit,
            Err(refusal) => return Ok(Opened::Refused(refusal)),
        };
        if let Err(refusal) = unit.settle(plan, &memory)? {
            return Ok(Opened::Refused(refusal));
        }
        for (zones, count) in memory.zones() {
            shared.own.renew_zones(zones, count)?;
        }
        let most = memory.copies() as usize * 8;
        Ok(Opened::Ready(Box::new(Self {
            shared: Rc::clone(shared),
            plan: plan.clone(),
            resources: unit.resources(&program.resources),
            unit,
            variables,
            purpose,
            numbers: Copies::default(),
            ran: Vec::new(),
            graphs: HashMap::new(),
            launches: 0,
            changed: None,
            damages: RefCell::new(None),
            chosen: [Table::new(card, most)?, Table::new(card, most)?],
            memory,
        })))
    }

    fn places(&self, buffer: usize) -> anyhow::Result<Places> {
        if buffer >= self.plan.buffers.len() {
            bail!("no such buffer: {buffer}");
        }
        Ok(self.memory.places(&self.plan, buffer))
    }

    /// The copies that the next sample is to use, in order.
    fn order(&self, units: usize) -> Vec<u32> {
        let order = &self.memory.data.order;
        order[..units.clamp(1, order.len())].to_vec()
    }

    fn queue_sample(&mut self, units: usize) -> anyhow::Result<Result<(), DriverError>> {
        let shared = Rc::clone(&self.shared);
        let mut clock = shared.clock.borrow_mut();
        if self.purpose == Purpose::Probe {
            self.ran = vec![0];
            let queued = clock.begin().and_then(|()| self.queue_for_profiler());
            return Ok(queued.and_then(|()| clock.end()));
        }
        let cache = match self.purpose {
            Purpose::Check { .. } | Purpose::Probe => None,
            Purpose::Time { cache, .. } => cache,
        };
        // A single launch is shorter without a graph around it.
        let recorded = (units > 1).then(|| self.record(units, cache == Some(Cache::Hot)));
        let recorded = match recorded.transpose() {
            Ok(recorded) => recorded,
            Err(error) => return Ok(Err(error)),
        };
        shared.own.scrub_shared()?;
        match cache {
            Some(Cache::Cold) => clock.flush(&shared.own)?,
            Some(Cache::Hot) => {
                if let Err(error) = self.unit.queue(&self.memory, 0) {
                    return Ok(Err(error));
                }
            }
            None => {}
        }
        let key = (self.memory.data.number, units);
        let copies = match &recorded {
            Some(()) => self.graphs.get(&key).map(|(order, _)| order.clone()),
            None if cache == Some(Cache::Hot) => Some(vec![0]),
            None => Some(self.order(1)),
        };
        self.ran = copies.unwrap_or_default();
        let queued = clock.begin().and_then(|()| match self.graphs.get(&key) {
            Some((_, graph)) if recorded.is_some() => graph.launch(),
            _ => self.unit.queue(&self.memory, self.ran[0]),
        });
        Ok(queued.and_then(|()| clock.end()))
    }

    /// The unit alone, between marks that a profiler heeds; without one they mean nothing.
    fn queue_for_profiler(&self) -> Result<(), DriverError> {
        let _ = call!(cuProfilerStart());
        let queued = self.unit.queue(&self.memory, 0);
        let _ = call!(cuProfilerStop());
        queued
    }

    /// Records so many units, each on another copy; where the cache is to be hot, all on the first.
    fn record(&mut self, units: usize, hot: bool) -> Result<(), DriverError> {
        let key = (self.memory.data.number, units);
        if self.graphs.contains_key(&key) {
            return Ok(());
        }
        let order = if hot { vec![0] } else { self.order(units) };
        let graph = Graph::record(&self.shared.card, || {
            (order.iter().cycle().take(units))
                .try_for_each(|copy| self.unit.queue(&self.memory, *copy))
        })?;
        self.graphs.insert(key, (order, graph));
        Ok(())
    }

    fn fault(&self, status: Status, reason: impl Into<String>) -> Launched {
        self.shared.card.give_up();
        let mut refusal = refusal(status, reason);
        refusal.evidence.log = self.shared.printed.as_ref().and_then(Printed::take);
        Launched::Fault(refusal)
    }

    /// The same buffer in some of the copies, by way of a table of their addresses.
    fn chosen(&self, table: usize, buffer: usize, copies: &[u32]) -> anyhow::Result<Places> {
        let all = self.places(buffer)?;
        let addresses: Vec<CUdeviceptr> = (copies.iter())
            .map(|copy| self.memory.address(buffer, *copy))
            .collect();
        self.upload(table, &addresses)?;
        Ok(Places {
            table: self.chosen[table].address(),
            copies: copies.len() as u32,
            ..all
        })
    }

    fn upload(&self, table: usize, addresses: &[CUdeviceptr]) -> anyhow::Result<()> {
        if size_of_val(addresses) > self.chosen[table].bytes() {
            bail!("more copies than there are");
        }
        let into = self.chosen[table].address();
        Ok(super::memory::write(&self.shared.card, into, addresses)?)
    }

    fn compare(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &OnDevice,
        tolerance: Tolerance,
    ) -> anyhow::Result<Comparison> {
        if expected.addresses.len() != copies.len() {
            bail!("other copies than what they are compared with");
        }
        let found = self.chosen(0, buffer, copies)?;
        self.upload(1, &expected.addresses)?;
        let right = Places {
            table: self.chosen[1].address(),
            copies: found.copies,
            dtype: expected.dtype,
            elements: expected.elements,
        };
        let comparisons = self.shared.own.compare(found, right, tolerance)?;
        let worst = (comparisons.iter()).position(|comparison| comparison.failed > 0);
        let mut whole = together(&comparisons);
        if let (Some(worst), Some((index, ..))) = (worst, whole.first) {
            let found = self.element(
                found.dtype,
                self.memory.address(buffer, copies[worst]),
                index,
            )?;
            let right = self.element(expected.dtype, expected.addresses[worst], index)?;
            whole.first = Some((index, right, found));
        }
        Ok(whole)
    }

    fn element(&self, dtype: DType, start: CUdeviceptr, index: u64) -> anyhow::Result<f64> {
        let mut word = [0u64; 1];
        let bytes = dtype.bytes() as usize;
        // SAFETY: the word's own memory, seen as bytes.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(word.as_mut_ptr().cast::<u8>(), bytes) };
        read(&self.shared.card, start + index * dtype.bytes(), memory)?;
        Ok(numerics::values(dtype, memory)[0])
    }

    /// The first copy's memory.
    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u64>> {
        let bytes = self.places(buffer)?.bytes() as usize;
        let mut words = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: the words' own memory, seen as bytes.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), bytes) };
        read(&self.shared.card, self.memory.address(buffer, 0), memory)?;
        Ok(words)
    }

    fn with_bytes<T>(&self, buffer: usize, then: impl FnOnce(&[u8]) -> T) -> anyhow::Result<T> {
        let bytes = self.places(buffer)?.bytes() as usize;
        let words = self.bytes(buffer)?;
        // SAFETY: as above.
        Ok(then(unsafe {
            std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), bytes)
        }))
    }
}

impl Arm for CudaArm {
    fn copies(&self) -> usize {
        self.memory.copies() as usize
    }

    fn stand_for(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        if copies.len() > Own::MOST_COPIES || copies.len() != self.copies() {
            bail!("an arm cannot stand for that many copies");
        }
        self.numbers = Copies::named(copies);
        Ok(())
    }

    fn trade(&mut self, other: &mut dyn Arm) -> anyhow::Result<()> {
        let other: &mut dyn Any = other;
        let Some(other) = other.downcast_mut::<Self>() else {
            bail!("arms of two devices cannot trade their memory");
        };
        if !self.memory.is_like(&other.memory) {
            bail!("arms of two tasks cannot trade their memory");
        }
        std::mem::swap(&mut self.memory.data, &mut other.memory.data);
        for arm in [self, other] {
            *arm.damages.borrow_mut() = None;
            if let Err(refusal) = arm.unit.settle(&arm.plan, &arm.memory)? {
                bail!("{}", refusal.reason);
            }
        }
        Ok(())
    }

    fn write(&mut self, buffer: usize, content: &Content<'_>) -> anyhow::Result<()> {
        let places = self.places(buffer)?;
        let own = &self.shared.own;
        match content {
            Content::Random { distribution, seed } => {
                let row = self.plan.buffers[buffer].shape.last().copied().unwrap_or(1);
                own.fill(places, row, distribution, (*seed, self.numbers))?;
            }
            Content::Values(values) => {
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
                    super::memory::write(&self.shared.card, into, memory)?;
                }
            }
            Content::Poison(pattern) => {
                own.poison(places, *pattern, self.numbers)?;
            }
        }
        Ok(())
    }

    fn launch(&mut self, deadline: Duration) -> anyhow::Result<Launched> {
        self.launch_many(1, deadline)
    }

    fn launch_many(&mut self, units: usize, deadline: Duration) -> anyhow::Result<Launched> {
        if self.shared.card.is_broken() {
            bail!("the device was given up after a fault");
        }
        // What is found from here on is the kernel's doing.
        self.shared.card.wait()?;
        *self.damages.borrow_mut() = None;
        self.launches += 1;
        if let Err(error) = self.queue_sample(units)? {
            return match fault_of(error.code) {
                Some((status, reason)) => Ok(self.fault(status, reason)),
                None => Err(error.into()),
            };
        }
        let clock = self.shared.clock.borrow();
        match clock.wait(deadline) {
            Waited::Done => {}
            Waited::TooLong => {
                let reason = format!(
                    "a launch did not end within {:.1} s",
                    deadline.as_secs_f64()
                );
                drop(clock);
                return Ok(self.fault(Status::TimedOut, reason));
            }
            Waited::Fault(code) => {
                drop(clock);
                return match fault_of(code) {
                    Some((status, reason)) => Ok(self.fault(status, reason)),
                    None => {
                        self.shared.card.give_up();
                        super::card::checked("a launch", code)?;
                        bail!("a launch failed without an error")
                    }
                };
            }
        }
        let time = clock.elapsed()?.div_f64(units.max(1) as f64);
        drop(clock);
        if let Some(variable) = self.variables.put_back()? {
            let launch = self.launches;
            self.changed.get_or_insert((variable, launch));
        }
        Ok(Launched::Finished { time })
    }

    fn ran(&self) -> &[u32] {
        &self.ran
    }

    fn resources(&self) -> Option<Resources> {
        Some(self.resources.clone())
    }

    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer> {
        if self.shared.card.is_broken() {
            bail!("the device was given up after a fault");
        }
        let own = &self.shared.own;
        Ok(match question {
            Question::Hash => Answer::Hash(together_hashed(&own.hash(self.places(buffer)?)?)),
            Question::HashOf(copies) => {
                let places = self.chosen(0, buffer, copies)?;
                Answer::Hash(together_hashed(&own.hash(places)?))
            }
            Question::Guards => {
                let mut damages = self.damages.borrow_mut();
                let damages = match damages.as_ref() {
                    Some(damages) => damages,
                    None => {
                        let mut nearest = vec![None; self.plan.buffers.len()];
                        for (zones, count) in self.memory.zones() {
                            let found = own.look_at_zones(zones, count, nearest.len())?;
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
                let dtype = self.places(buffer)?.dtype;
                Answer::Values(self.with_bytes(buffer, |memory| numerics::values(dtype, memory))?)
            }
            Question::Bytes => Answer::Bytes(self.with_bytes(buffer, <[u8]>::to_vec)?),
            Question::Compare {
                copies,
                expected,
                tolerance,
            } => Answer::Comparison(match expected {
                Expected::OnDevice(expected) => {
                    self.compare(buffer, copies, expected, *tolerance)?
                }
                Expected::Host(expected) => {
                    let dtype = self.places(buffer)?.dtype;
                    self.with_bytes(buffer, |memory| {
                        numerics::compare(dtype, memory, expected, *tolerance)
                    })?
                }
            }),
            Question::Expected => self.expected(buffer)?,
            Question::Unwritten(pattern) => {
                let counts = self.holding_poison(buffer, *pattern, true)?;
                let (count, first) = counts;
                Answer::Unwritten { count, first }
            }
            Question::Untouched(pattern) => {
                let (count, first) = self.holding_poison(buffer, *pattern, false)?;
                Answer::Unwritten { count, first }
            }
            Question::Printed => {
                let text = self.shared.printed.as_ref().and_then(Printed::take);
                Answer::Printed(text.unwrap_or_default())
            }
            Question::Remembered => Answer::Remembered(match &self.changed {
                Some((variable, launch)) => Remembered::Changed {
                    variable: format!("`{variable}`"),
                    launch: *launch,
                },
                None if self.variables.hidden() => Remembered::Unknown,
                None => Remembered::Nothing,
            }),
            Question::Accesses => bail!("a GPU does not count accesses"),
        })
    }
}

impl CudaArm {
    /// All copies of an output, as what others are compared with.
    fn expected(&self, buffer: usize) -> anyhow::Result<Answer> {
        let places = self.places(buffer)?;
        let not_finite = match places.dtype {
            DType::Float64 => {
                let counts = self.shared.own.not_finite(places)?;
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
            expected: Expected::OnDevice(OnDevice {
                dtype: places.dtype,
                elements: places.elements,
                addresses,
                keeps,
            }),
            not_finite,
        })
    }

    /// In the copies that ran, how many elements still hold their poison (`ran`); in the others, how many do not any more.
    fn holding_poison(
        &self,
        buffer: usize,
        pattern: Poison,
        ran: bool,
    ) -> anyhow::Result<(u64, Option<u64>)> {
        let places = self.places(buffer)?;
        let counts = (self.shared.own).count_poison(places, pattern, self.numbers, ran)?;
        let of_interest = counts
            .into_iter()
            .enumerate()
            .filter(|(copy, _)| self.ran.contains(&(*copy as u32)) == ran);
        Ok(
            of_interest.fold((0, None), |(sum, first), (_, (count, of_copy))| {
                (sum + count, first.or(of_copy))
            }),
        )
    }
}

/// Several copies' hashes as one; of one copy its own, as on every device.
fn together_hashed(hashes: &[u64]) -> u64 {
    let turned = (0..)
        .zip(hashes)
        .map(|(place, hash)| hash.rotate_left(place % 64));
    turned.fold(0, u64::wrapping_add)
}

/// Several copies as one tensor.
fn together(comparisons: &[Comparison]) -> Comparison {
    let most = |of: fn(&Comparison) -> f64| comparisons.iter().map(of).fold(0.0, f64::max);
    let mean: f64 = comparisons.iter().map(|one| one.mean_abs_error).sum();
    Comparison {
        elements: comparisons.iter().map(|one| one.elements).sum(),
        failed: comparisons.iter().map(|one| one.failed).sum(),
        first: comparisons.iter().find_map(|one| one.first),
        max_abs_error: most(|one| one.max_abs_error),
        max_rel_error: most(|one| one.max_rel_error),
        mean_abs_error: mean / comparisons.len().max(1) as f64,
        worst: most(|one| one.worst),
    }
}
