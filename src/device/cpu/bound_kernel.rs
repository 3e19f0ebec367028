//! A kernel bound to its own process and memory.
//!
//! The judge fills, launches and checks; the process only computes. How a process ended is interpreted by `faults`; the layout of
//! the memory is in `layout`.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::access_sites::access_sites;
use super::control_page::{ABSENT_EXITED, ControlPage, FaultKind, SEED_ABSENT_BIT};
use super::faults::{ProcessFailure, fault_refusal};
use super::input_cache::{InputCache, RandomFill};
use super::layout::{BufferLayout, fill_with_noise, lay_out_buffers};
use super::limits::{inspection_bytes, refuse_excess};
use super::line_table::LineTable;
use super::plan_encoding::encode_plan;
use super::process::{KernelProcess, ProcessEnd, ProcessTask};
use super::program_symbols::SymbolCache;
use super::saved_memory::{Leftover, SavedMemory};
use super::shared_memory::SharedMemory;
use crate::base::random::fresh_seed;
use crate::device::memory::copy_bytes;
use crate::device::sandbox::sandbox_support;
use crate::device::{
    AbsentRead, AccessSite, BufferAccess, BufferChecks, BufferContent, Build, ExpectedOutput,
    ExpectedValues, KernelEvidence, LaunchOutcome, Launching, Opened, OutputComparison,
    PersistentState, Poison, PoisonCount, Program, Refusal, TimedLaunching, numerics,
};
use crate::kernel::plan::LaunchPlan;
use crate::task::Tolerance;
use crate::verdict::Status;

/// How long a process may take to start, map its memory and stop itself.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What all kernels on this device share.
pub(super) struct KernelEnvironment<'a> {
    pub(super) threads: u32,
    /// Whether its threads sleep while they wait. For a process that is never timed and is trusted: others could learn from it what
    /// they are run for.
    pub(super) waits_asleep: bool,
    /// The working folder of processes, which is empty.
    pub(super) folder: &'a Path,
    /// A program that runs without a kernel.
    pub(super) empty_program: PathBuf,
    pub(super) input_cache: Rc<RefCell<InputCache>>,
    pub(super) symbols: Rc<RefCell<SymbolCache>>,
}

/// A bound kernel on the CPU.
pub(super) struct CpuBoundKernel {
    memory: SharedMemory,
    process: KernelProcess,
    layouts: Vec<BufferLayout>,
    executable: PathBuf,
    build: Build,
    input_cache: Rc<RefCell<InputCache>>,
    /// The key of the noise in the guard zones; new for every launch.
    guard_key: u64,
    /// `None` for the builds that run once.
    saved_memory: Option<SavedMemory>,
    launch_count: u64,
    /// What a launch changed first, and the number of that launch.
    first_change: Option<(String, u64)>,
}

/// A kernel whose process is starting.
pub(super) struct StartingKernel<'a> {
    program: &'a Program,
    plan: &'a LaunchPlan,
    environment: KernelEnvironment<'a>,
    layouts: Vec<BufferLayout>,
    bytes: usize,
    memory: SharedMemory,
    process: KernelProcess,
}

impl<'a> StartingKernel<'a> {
    /// Starts the process of a kernel. The inner result is an error if the kernel asks for too much.
    pub(super) fn begin(
        program: &'a Program,
        plan: &'a LaunchPlan,
        environment: KernelEnvironment<'a>,
    ) -> anyhow::Result<Result<Self, Refusal>> {
        if let Some(refusal) = refuse_excess(plan) {
            return Ok(Err(refusal));
        }
        let (layouts, bytes) = lay_out_buffers(plan);
        let mut memory = SharedMemory::new(bytes)?;
        encode_plan(memory.control_mut(), plan, &layouts, environment.threads);
        memory.control_mut().seed = program.schedule;
        memory.control_mut().waits_asleep = environment.waits_asleep.into();
        let process = KernelProcess::begin(&start_task(program, plan, &environment), &memory)?;
        Ok(Ok(Self {
            program,
            plan,
            environment,
            layouts,
            bytes,
            memory,
            process,
        }))
    }

    /// Waits until the process is ready for its first launch.
    pub(super) fn finish(self) -> anyhow::Result<Opened> {
        let Self {
            program,
            plan,
            environment,
            layouts,
            bytes,
            memory,
            mut process,
        } = self;
        let (end, _) = process.wait_for_stop(START_DEADLINE)?;
        if end != ProcessEnd::Stopped {
            // Constructors run before the first stop, so the candidate may be at fault.
            let refusal = fault_refusal(&ProcessFailure {
                end,
                control: memory.control(),
                layouts: &layouts,
                printed: process.printed(),
                build: program.build,
                executable: &program.image,
                activity: "the start of the process",
                deadline: START_DEADLINE,
            });
            if memory.control().fault.fault_kind() == Some(FaultKind::Protocol) {
                let task = ProcessTask {
                    executable: &environment.empty_program,
                    ..start_task(program, plan, &environment)
                };
                confirm_broken_machine(&task, plan, &layouts, bytes, &refusal)?;
            }
            return Ok(Opened::Refused(refusal));
        }
        (process.take_output()).context("failed to read what a candidate printed")?;
        let saved_memory = match program.build {
            Build::Fast => Some(SavedMemory::open(
                environment
                    .symbols
                    .borrow_mut()
                    .symbols_of(&program.image)?,
                process.id(),
                sandbox_support().seccomp,
            )?),
            Build::Bounds | Build::Race => None,
        };
        let mut kernel = CpuBoundKernel {
            saved_memory,
            memory,
            process,
            layouts,
            executable: program.image.clone(),
            build: program.build,
            input_cache: environment.input_cache,
            guard_key: 0,
            launch_count: 0,
            first_change: None,
        };
        kernel.renew_noise();
        Ok(Opened::Ready(Box::new(kernel)))
    }
}

fn start_task<'a>(
    program: &'a Program,
    plan: &LaunchPlan,
    environment: &KernelEnvironment<'a>,
) -> ProcessTask<'a> {
    ProcessTask {
        executable: &program.image,
        folder: environment.folder,
        threads: environment.threads,
        inspection_bytes: inspection_bytes(program.build, plan),
        deadline: START_DEADLINE,
    }
}

impl CpuBoundKernel {
    /// Fills the guard zones, and what is left of the control page's memory, with new noise.
    fn renew_noise(&mut self) {
        self.guard_key = fresh_seed();
        let memory = self.memory.bytes_mut();
        fill_with_noise(memory, control_slack(&self.layouts), self.guard_key);
        for layout in &self.layouts {
            layout.renew_guard_zones(memory, self.guard_key);
        }
    }

    /// Restores what the last launch changed outside of its buffers. An error of the kernel if that cannot be undone.
    fn undo_launch(&mut self, control: &[u8]) -> anyhow::Result<Option<Refusal>> {
        let Some(saved) = &self.saved_memory else {
            return Ok(None);
        };
        let mut change = match saved.restore()? {
            Leftover::Nothing => None,
            Leftover::Change(what) => Some(what),
            Leftover::Lasting(what) => {
                let launch = self.launch_count;
                let reason =
                    format!("launch {launch} left {what}, so the next launch could use it");
                return Ok(Some(Refusal::new(Status::Stateful, reason)));
            }
        };
        let memory = &mut self.memory.bytes_mut()[..control.len()];
        if memory != control {
            memory.copy_from_slice(control);
            change.get_or_insert_with(|| "the control page".to_owned());
        }
        if let Some(what) = change {
            let launch = self.launch_count;
            self.first_change.get_or_insert((what, launch));
        }
        Ok(None)
    }

    /// The layout and the contents of a buffer.
    fn data(&self, buffer: usize) -> anyhow::Result<(&BufferLayout, &[u8])> {
        let layout = self.layouts.get(buffer).context("no such buffer")?;
        Ok((layout, &self.memory.bytes()[layout.data.clone()]))
    }
}

/// The bytes between the control page and the first buffer.
fn control_slack(layouts: &[BufferLayout]) -> Range<usize> {
    let end = layouts.first().map(|layout| layout.mapping.start);
    size_of::<ControlPage>()..end.unwrap_or(size_of::<ControlPage>())
}

/// For a process whose record blames the machine, which may be false: fails if a program without a kernel cannot start either.
/// `task` starts that program.
fn confirm_broken_machine(
    task: &ProcessTask<'_>,
    plan: &LaunchPlan,
    layouts: &[BufferLayout],
    bytes: usize,
    refusal: &Refusal,
) -> anyhow::Result<()> {
    let mut memory = SharedMemory::new(bytes)?;
    encode_plan(memory.control_mut(), plan, layouts, task.threads);
    let (_, end) = KernelProcess::spawn(task, &memory)?;
    if end != ProcessEnd::Stopped {
        bail!("{}", refusal.reason);
    }
    Ok(())
}

impl BufferAccess for CpuBoundKernel {
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        let layout = self.layouts.get(buffer).context("no such buffer")?;
        let memory = &mut self.memory.bytes_mut()[layout.data.clone()];
        match content {
            BufferContent::Random { distribution, seed } => {
                let mut cache = self.input_cache.borrow_mut();
                memory.copy_from_slice(cache.values(&RandomFill {
                    dtype: layout.dtype,
                    bytes: memory.len(),
                    row_length: layout.row_length,
                    distribution,
                    seed: *seed,
                })?);
            }
            BufferContent::Values(values) => {
                layout.check_length(values)?;
                numerics::store(layout.dtype, values, memory);
            }
            BufferContent::Bytes(bytes) => copy_bytes(bytes, memory)?,
            BufferContent::Poison(pattern) => numerics::poison(layout.dtype, memory, *pattern),
        }
        layout.renew_guard_zones(self.memory.bytes_mut(), self.guard_key);
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
        Ok(layout.guard_damage(self.memory.bytes(), self.guard_key))
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        let (layout, memory) = self.data(buffer)?;
        Ok(numerics::count_unwritten(layout.dtype, memory, poison))
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        let values = self.values(buffer)?;
        Ok(ExpectedOutput {
            first_not_finite: numerics::first_not_finite(&values),
            values: ExpectedValues::Host(values),
        })
    }

    fn compare(
        &self,
        buffer: usize,
        _copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        let (layout, memory) = self.data(buffer)?;
        let ExpectedValues::Host(expected) = expected else {
            bail!("expected values on another device cannot be compared here");
        };
        layout.check_length(expected)?;
        Ok(numerics::compare(layout.dtype, memory, expected, tolerance))
    }
}

impl Launching for CpuBoundKernel {
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.renew_noise();
        if self.build == Build::Fast {
            // With another value in each launch, a result that depends on a lane that takes no part in a shuffle differs between launches.
            self.memory.control_mut().seed ^= SEED_ABSENT_BIT;
        }
        let control = self.memory.bytes()[..control_slack(&self.layouts).end].to_vec();
        let (end, time) = self.process.run_plan(deadline)?;
        if end != ProcessEnd::Stopped {
            return Ok(LaunchOutcome::Fault(fault_refusal(&ProcessFailure {
                end,
                control: self.memory.control(),
                layouts: &self.layouts,
                printed: self.process.printed(),
                build: self.build,
                executable: &self.executable,
                activity: "the launch",
                deadline,
            })));
        }
        self.launch_count += 1;
        let taken = self.process.take_output();
        taken.context("failed to read what a candidate printed")?;
        Ok(match self.undo_launch(&control)? {
            Some(refusal) => LaunchOutcome::Fault(refusal),
            None => LaunchOutcome::Finished { time },
        })
    }
}

/// There is one copy, and every sample is one run.
impl TimedLaunching for CpuBoundKernel {}

impl KernelEvidence for CpuBoundKernel {
    fn printed(&self) -> String {
        self.process.printed()
    }

    fn persistent_state(&self) -> PersistentState {
        match &self.first_change {
            Some((variable, launch)) => PersistentState::Changed {
                variable: variable.clone(),
                launch: *launch,
            },
            None => PersistentState::Unchanged,
        }
    }

    fn absent_read(&self) -> Option<AbsentRead> {
        let read = self.memory.control().absent_read;
        let is_present = self.build != Build::Fast && read.reason != 0;
        is_present.then(|| AbsentRead {
            line: LineTable::open(&self.executable).line_of(read.site),
            block: read.block,
            thread: read.thread,
            lane: read.lane,
            has_exited: read.reason == ABSENT_EXITED,
        })
    }

    fn accesses(&self) -> Option<Vec<AccessSite>> {
        (self.build == Build::Race).then(|| {
            let lines = LineTable::open(&self.executable);
            access_sites(self.memory.control(), &lines)
        })
    }
}
