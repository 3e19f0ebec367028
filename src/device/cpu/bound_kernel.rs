//! One kernel in its own process with its own memory: the judge fills, launches and looks; the process only computes.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::control_page::{
    ACCESS_ATOMIC, ACCESS_SHARED, ACCESS_WRITE, ARGUMENT_BUFFER, ARGUMENT_BYTES, BUFFER_READ_ONLY,
    BUFFER_UNWRITTEN, BUFFER_ZERO, CONTROL_MAGIC, CONTROL_VERSION, ControlArgument, ControlLaunch,
    ControlPage, FAULT_PROTOCOL, MAX_ARGUMENTS, MAX_BUFFERS, MAX_LAUNCHES, MAX_SITES,
};
use super::faults::fault_refusal;
use super::input_cache::InputCache;
use super::line_table::LineTable;
use super::process::{KernelProcess, ProcessEnd, SharedMemory};
use super::saved_variables::SavedVariables;
use crate::device::{
    AccessSite, BufferAccess, BufferChecks, BufferContent, Build, Comparison, ExpectedOutput,
    ExpectedValues, KernelEvidence, LaunchOutcome, Launching, Opened, PersistentState, Poison,
    PoisonCount, Program, Refusal, Timing, numerics,
};
use crate::kernel::plan::{Argument, BufferRole, Plan};
use crate::task::{DType, Tolerance};
use crate::verdict::Status;

/// Bytes before and behind every buffer's data that a kernel must leave alone; the data starts at a multiple of 256.
const GUARD_ZONE_BYTES: usize = 256;
/// How long a process may take to start, map its memory and stop.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Where one buffer lies in the shared memory.
pub(super) struct BufferLayout {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Length of the last axis.
    row_length: u64,
    pub(super) mapping: std::ops::Range<usize>,
    pub(super) data: std::ops::Range<usize>,
}

/// An arm on the CPU.
pub(super) struct CpuBoundKernel {
    memory: SharedMemory,
    process: KernelProcess,
    layouts: Vec<BufferLayout>,
    executable: PathBuf,
    build: Build,
    input_cache: Rc<RefCell<InputCache>>,
    /// `None`: this system does not let the judge look.
    saved_variables: Option<SavedVariables>,
    launch_count: u64,
    /// The first variable that a launch has changed.
    first_change: Option<(String, u64)>,
}

impl CpuBoundKernel {
    pub(super) fn open(
        program: &Program,
        plan: &Plan,
        threads: u32,
        folder: &Path,
        empty_program: &Path,
        input_cache: Rc<RefCell<InputCache>>,
    ) -> anyhow::Result<Opened> {
        if let Some(refusal) = refuse_too_many(plan).or_else(|| refuse_too_large(plan)) {
            return Ok(Opened::Refused(refusal));
        }
        let (places, bytes) = lay_out_buffers(plan);
        let mut memory = SharedMemory::new(bytes)?;
        fill_control_page(&mut memory, plan, &places, threads);
        control_mut(&mut memory).seed = program.schedule;
        for place in &places {
            renew_guard_zones(&mut memory, place);
        }
        let (executable, build) = (program.image.clone(), program.build);
        let extra = inspection_bytes(build, plan);
        let (mut process, ended) = KernelProcess::spawn(
            &executable,
            &memory,
            folder,
            (threads, extra),
            START_DEADLINE,
        )?;
        match ended {
            ProcessEnd::Stopped => Ok(Opened::Ready(Box::new(Self {
                saved_variables: SavedVariables::open(&executable, process.id())?,
                launch_count: 0,
                first_change: None,
                memory,
                process,
                layouts: places,
                executable,
                build,
                input_cache,
            }))),
            other => {
                // Constructors run before the first stop; what they do is the candidate's own.
                let during = ("the start of the process", START_DEADLINE);
                let program = (build, executable.as_path());
                let refusal = fault_refusal(
                    control(&memory),
                    &places,
                    other,
                    &mut process,
                    program,
                    during,
                );
                // The record says that the machine lacks something, and may lie: a program that does nothing must find so too.
                if control(&memory).fault.kind == FAULT_PROTOCOL {
                    let mut memory = SharedMemory::new(bytes)?;
                    fill_control_page(&mut memory, plan, &places, threads);
                    let memory_of_its_own = (threads, extra);
                    let (_, ended) = KernelProcess::spawn(
                        empty_program,
                        &memory,
                        folder,
                        memory_of_its_own,
                        START_DEADLINE,
                    )?;
                    if ended != ProcessEnd::Stopped {
                        bail!("{}", refusal.reason)
                    }
                }
                Ok(Opened::Refused(refusal))
            }
        }
    }
}

impl BufferAccess for CpuBoundKernel {
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        let place = self.layouts.get(buffer).context("no such buffer")?;
        let memory = &mut self.memory.bytes_mut()[place.data.clone()];
        match content {
            BufferContent::Random { distribution, seed } => {
                let mut kept = self.input_cache.borrow_mut();
                memory.copy_from_slice(kept.values(
                    place.dtype,
                    memory.len(),
                    place.row_length,
                    distribution,
                    *seed,
                ));
            }
            BufferContent::Values(values) => {
                if values.len() as u64 * place.dtype.bytes() != memory.len() as u64 {
                    bail!(
                        "`{}` has another size than what is to be written",
                        place.name
                    );
                }
                numerics::store(place.dtype, values, memory);
            }
            BufferContent::Poison(pattern) => numerics::poison(place.dtype, memory, *pattern),
        }
        renew_guard_zones(&mut self.memory, place);
        Ok(())
    }

    fn hash(&self, buffer: usize) -> anyhow::Result<u64> {
        Ok(numerics::hash(self.data(buffer)?.1))
    }

    /// There is one copy.
    fn hash_copies(&self, buffer: usize, _copies: &[u32]) -> anyhow::Result<u64> {
        self.hash(buffer)
    }

    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        let (layout, memory) = self.data(buffer)?;
        Ok(numerics::values(layout.dtype, memory))
    }

    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>> {
        Ok(self.data(buffer)?.1.to_vec())
    }
}

impl BufferChecks for CpuBoundKernel {
    fn guard_damage(&self, buffer: usize) -> anyhow::Result<Option<i64>> {
        let (layout, _) = self.data(buffer)?;
        Ok(guard_damage(self.memory.bytes(), layout))
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        let (layout, memory) = self.data(buffer)?;
        Ok(numerics::count_unwritten(layout.dtype, memory, poison))
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        let values = self.values(buffer)?;
        let first_not_finite = values.iter().position(|value| !value.is_finite());
        Ok(ExpectedOutput {
            values: ExpectedValues::Host(values),
            first_not_finite: first_not_finite.map(|index| index as u64),
        })
    }

    fn compare(
        &self,
        buffer: usize,
        _copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<Comparison> {
        let (layout, memory) = self.data(buffer)?;
        let ExpectedValues::Host(expected) = expected else {
            bail!("values on another device cannot be compared with here");
        };
        if expected.len() as u64 * layout.dtype.bytes() != memory.len() as u64 {
            bail!(
                "`{}` has another size than what it is compared with",
                layout.name
            );
        }
        Ok(numerics::compare(layout.dtype, memory, expected, tolerance))
    }
}

impl Launching for CpuBoundKernel {
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        match self.process.run_plan(deadline)? {
            (ProcessEnd::Stopped, time) => {
                self.launch_count += 1;
                if let Some(state) = &mut self.saved_variables
                    && let Some(variable) = state.restore(self.process.id())?
                {
                    self.first_change
                        .get_or_insert((variable, self.launch_count));
                }
                Ok(LaunchOutcome::Finished { time })
            }
            (ended, _) => Ok(LaunchOutcome::Fault(fault_refusal(
                control(&self.memory),
                &self.layouts,
                ended,
                &mut self.process,
                (self.build, &self.executable),
                ("the launch", deadline),
            ))),
        }
    }
}

/// There is one copy, and every sample is one run.
impl Timing for CpuBoundKernel {}

impl KernelEvidence for CpuBoundKernel {
    fn printed(&self) -> String {
        self.process.printed()
    }

    fn persistent_state(&self) -> PersistentState {
        match (&self.first_change, &self.saved_variables) {
            (Some((variable, launch)), _) => PersistentState::Changed {
                variable: variable.clone(),
                launch: *launch,
            },
            (None, Some(_)) => PersistentState::Unchanged,
            (None, None) => PersistentState::Unknown,
        }
    }

    fn accesses(&self) -> Option<Vec<AccessSite>> {
        (self.build == Build::Race).then(|| {
            let lines = LineTable::open(&self.executable);
            access_sites(control(&self.memory), &lines)
        })
    }
}

impl CpuBoundKernel {
    /// Layout and contents of a buffer.
    fn data(&self, buffer: usize) -> anyhow::Result<(&BufferLayout, &[u8])> {
        let layout = self.layouts.get(buffer).context("no such buffer")?;
        Ok((layout, &self.memory.bytes()[layout.data.clone()]))
    }
}

/// Memory beyond its own that a build needs to look into a kernel: of every buffer sixteen times as much for the latest accesses.
fn inspection_bytes(build: Build, plan: &Plan) -> u64 {
    let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
    match build {
        Build::Fast => 0,
        Build::Bounds => 1 << 30,
        Build::Race => (2 << 30) + 20 * bytes,
    }
}

/// What the process counted: untrusted, so that every number may be anything.
fn access_sites(control: &ControlPage, lines: &LineTable) -> Vec<AccessSite> {
    let count = (control.site_count as usize).min(MAX_SITES);
    let scale = control.total_threads as f64 / control.sampled_threads.max(1) as f64;
    let sites = control.sites[..count].iter();
    sites
        .map(|site| AccessSite {
            line: lines.line_of(site.site),
            writes: site.flags & ACCESS_WRITE != 0,
            atomic: site.flags & ACCESS_ATOMIC != 0,
            shared: site.flags & ACCESS_SHARED != 0,
            bytes: site.bytes,
            lanes: site.lanes as f64 * scale,
            requests: site.requests,
            sectors: site.sectors,
            min_sectors: site.min_sectors,
            strided: site.strided,
            lanes_seen: site.sampled_lanes,
        })
        .collect()
}

fn refuse_too_many(plan: &Plan) -> Option<Refusal> {
    let arguments = plan
        .launches
        .iter()
        .map(|launch| launch.arguments.len())
        .sum::<usize>();
    let limits = [
        ("buffers", plan.buffers.len(), MAX_BUFFERS),
        ("launches", plan.launches.len(), MAX_LAUNCHES),
        ("arguments", arguments, MAX_ARGUMENTS),
    ];
    let (name, found, most) = limits.into_iter().find(|(_, found, most)| found > most)?;
    Some(Refusal {
        status: Status::LimitExceeded,
        reason: format!("{found} {name}: this backend takes at most {most}"),
        evidence: Box::default(),
    })
}

/// All of it is really there while the arm lives: what the machine does not have must not be asked for.
fn refuse_too_large(plan: &Plan) -> Option<Refusal> {
    let bytes = plan.buffers.iter().try_fold(0u64, |sum, buffer| {
        let mut sizes = buffer.shape.iter();
        let elements = sizes.try_fold(1u64, |product, size| product.checked_mul(*size))?;
        sum.checked_add(elements.checked_mul(buffer.dtype.bytes())?)
    });
    let most = available_bytes() / 2;
    if bytes.is_some_and(|bytes| bytes <= most) {
        return None;
    }
    let asked = bytes.map_or("more memory than can be counted".to_owned(), |bytes| {
        format!("{} MiB of memory", bytes >> 20)
    });
    Some(Refusal {
        status: Status::LimitExceeded,
        reason: format!(
            "the buffers need {asked}: {} MiB are there for them",
            most >> 20
        ),
        evidence: Box::default(),
    })
}

/// Memory that could be had without swapping; plenty where the system does not say.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.map_or(1 << 40, |kibibytes| kibibytes << 10)
}

/// Where everything lies behind the control page, and how much memory that takes.
fn lay_out_buffers(plan: &Plan) -> (Vec<BufferLayout>, usize) {
    let page = page_bytes();
    let mut next = size_of::<ControlPage>().next_multiple_of(page);
    let mut places = Vec::new();
    for buffer in &plan.buffers {
        let bytes = buffer.bytes() as usize;
        let mapped = (GUARD_ZONE_BYTES + bytes + GUARD_ZONE_BYTES).next_multiple_of(page);
        places.push(BufferLayout {
            name: buffer.name.clone(),
            dtype: buffer.dtype,
            row_length: buffer.shape.last().copied().unwrap_or(1),
            mapping: next..next + mapped,
            data: next + GUARD_ZONE_BYTES..next + GUARD_ZONE_BYTES + bytes,
        });
        next += mapped;
    }
    (places, next)
}

fn page_bytes() -> usize {
    // SAFETY: no preconditions; a machine without an answer gives -1.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).map_or(1 << 16, |bytes| bytes.max(4096))
}

fn control(memory: &SharedMemory) -> &ControlPage {
    // SAFETY: the memory begins page-aligned with a control page that is as long as the struct, whose fields are all plain
    // integers; the child is stopped or dead whenever this is looked at.
    unsafe { &*memory.bytes().as_ptr().cast::<ControlPage>() }
}

fn control_mut(memory: &mut SharedMemory) -> &mut ControlPage {
    // SAFETY: as above, and the memory is borrowed exclusively.
    unsafe { &mut *memory.bytes_mut().as_mut_ptr().cast::<ControlPage>() }
}

fn fill_control_page(
    memory: &mut SharedMemory,
    plan: &Plan,
    places: &[BufferLayout],
    threads: u32,
) {
    let control = control_mut(memory);
    control.magic = CONTROL_MAGIC;
    control.version = CONTROL_VERSION;
    control.threads = threads;
    control.buffer_count = places.len() as u32;
    control.launch_count = plan.launches.len() as u32;
    for ((slot, place), buffer) in control.buffers.iter_mut().zip(places).zip(&plan.buffers) {
        slot.file_offset = place.mapping.start as u64;
        slot.mapped_bytes = place.mapping.len() as u64;
        slot.data_offset = (place.data.start - place.mapping.start) as u64;
        slot.data_bytes = place.data.len() as u64;
        slot.flags = match buffer.role {
            BufferRole::Scratch { zero: true } => BUFFER_ZERO,
            BufferRole::Scratch { zero: false } | BufferRole::Output => BUFFER_UNWRITTEN,
            BufferRole::Input => BUFFER_READ_ONLY,
            BufferRole::InPlace => 0,
        };
    }
    let mut next = 0;
    for (slot, launch) in control.launches.iter_mut().zip(&plan.launches) {
        *slot = ControlLaunch {
            entry: launch.entry_point as u32,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared,
            first_argument: next as u32,
            argument_count: launch.arguments.len() as u32,
            flags: 0,
            reserved: 0,
        };
        for (slot, argument) in control.arguments[next..].iter_mut().zip(&launch.arguments) {
            *slot = match argument {
                Argument::Buffer(index) => ControlArgument {
                    kind: ARGUMENT_BUFFER,
                    buffer: *index as u32,
                    bytes: 0,
                },
                other => ControlArgument {
                    kind: ARGUMENT_BYTES,
                    buffer: 0,
                    bytes: numerics::argument_word(*other),
                },
            };
        }
        next += launch.arguments.len();
    }
    control.argument_count = next as u32;
}

/// The byte that belongs at a place in a guard zone.
fn guard_byte(position: usize) -> u8 {
    0xa5 ^ (position as u8).wrapping_mul(29)
}

fn guard_zones(place: &BufferLayout) -> [std::ops::Range<usize>; 2] {
    [
        place.mapping.start..place.data.start,
        place.data.end..place.mapping.end,
    ]
}

fn renew_guard_zones(memory: &mut SharedMemory, place: &BufferLayout) {
    let bytes = memory.bytes_mut();
    for zone in guard_zones(place) {
        for (byte, position) in bytes[zone.clone()].iter_mut().zip(zone) {
            *byte = guard_byte(position);
        }
    }
}

/// How far from the data the damage to a guard zone lies that is nearest to it.
fn guard_damage(bytes: &[u8], place: &BufferLayout) -> Option<i64> {
    let [before, behind] = guard_zones(place);
    let damaged = |(byte, position): &(&u8, usize)| **byte != guard_byte(*position);
    let after = bytes[behind.clone()].iter().zip(behind).find(damaged);
    let ahead = || bytes[before.clone()].iter().zip(before).rev().find(damaged);
    match after {
        Some((_, position)) => Some((position - place.data.end) as i64),
        None => ahead().map(|(_, position)| position as i64 - place.data.start as i64),
    }
}
