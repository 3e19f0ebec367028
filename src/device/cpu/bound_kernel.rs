//! A kernel bound to its own process and memory.
//!
//! The judge fills, launches and checks; the process only computes. How a process ended is interpreted by `faults`; the layout of
//! the memory is in `layout`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::access_sites::access_sites;
use super::control_page::FaultKind;
use super::faults::{ProcessFailure, fault_refusal};
use super::input_cache::{InputCache, RandomFill};
use super::layout::{BufferLayout, lay_out_buffers};
use super::limits::{inspection_bytes, refuse_excess};
use super::line_table::LineTable;
use super::plan_encoding::encode_plan;
use super::process::{KernelProcess, ProcessEnd, ProcessTask};
use super::saved_variables::SavedVariables;
use super::shared_memory::SharedMemory;
use crate::device::{
    AccessSite, BufferAccess, BufferChecks, BufferContent, Build, Comparison, ExpectedOutput,
    ExpectedValues, KernelEvidence, LaunchOutcome, Launching, Opened, PersistentState, Poison,
    PoisonCount, Program, Refusal, Timing, numerics,
};
use crate::kernel::plan::Plan;
use crate::task::Tolerance;

/// How long a process may take to start, map its memory and stop itself.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What all kernels on this device share.
pub(super) struct KernelEnvironment<'a> {
    pub(super) threads: u32,
    /// The working folder of processes, which is empty.
    pub(super) folder: &'a Path,
    /// A program that runs without a kernel.
    pub(super) empty_program: &'a Path,
    pub(super) input_cache: Rc<RefCell<InputCache>>,
}

/// A bound kernel on the CPU.
pub(super) struct CpuBoundKernel {
    memory: SharedMemory,
    process: KernelProcess,
    layouts: Vec<BufferLayout>,
    executable: PathBuf,
    build: Build,
    input_cache: Rc<RefCell<InputCache>>,
    /// `None`: this system does not allow the judge to read another process's memory.
    saved_variables: Option<SavedVariables>,
    launch_count: u64,
    /// The first variable that a launch changed, and the number of that launch.
    first_change: Option<(String, u64)>,
}

impl CpuBoundKernel {
    pub(super) fn open(
        program: &Program,
        plan: &Plan,
        environment: KernelEnvironment<'_>,
    ) -> anyhow::Result<Opened> {
        if let Some(refusal) = refuse_excess(plan) {
            return Ok(Opened::Refused(refusal));
        }
        let (layouts, bytes) = lay_out_buffers(plan);
        let mut memory = SharedMemory::new(bytes)?;
        encode_plan(memory.control_mut(), plan, &layouts, environment.threads);
        memory.control_mut().seed = program.schedule;
        for layout in &layouts {
            layout.renew_guard_zones(memory.bytes_mut());
        }
        let task = ProcessTask {
            executable: &program.image,
            folder: environment.folder,
            threads: environment.threads,
            inspection_bytes: inspection_bytes(program.build, plan),
            deadline: START_DEADLINE,
        };
        let (process, end) = KernelProcess::spawn(&task, &memory)?;
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
                    executable: environment.empty_program,
                    ..task
                };
                confirm_broken_machine(&task, plan, &layouts, bytes, &refusal)?;
            }
            return Ok(Opened::Refused(refusal));
        }
        Ok(Opened::Ready(Box::new(Self {
            saved_variables: SavedVariables::open(&program.image, process.id())?,
            memory,
            process,
            layouts,
            executable: program.image.clone(),
            build: program.build,
            input_cache: environment.input_cache,
            launch_count: 0,
            first_change: None,
        })))
    }

    /// The layout and the contents of a buffer.
    fn data(&self, buffer: usize) -> anyhow::Result<(&BufferLayout, &[u8])> {
        let layout = self.layouts.get(buffer).context("no such buffer")?;
        Ok((layout, &self.memory.bytes()[layout.data.clone()]))
    }
}

/// For a process whose record blames the machine, which may be false: fails if a program without a kernel cannot start either.
/// `task` starts that program.
fn confirm_broken_machine(
    task: &ProcessTask<'_>,
    plan: &Plan,
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
                }));
            }
            BufferContent::Values(values) => {
                layout.check_length(values)?;
                numerics::store(layout.dtype, values, memory);
            }
            BufferContent::Poison(pattern) => numerics::poison(layout.dtype, memory, *pattern),
        }
        layout.renew_guard_zones(self.memory.bytes_mut());
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
        Ok(layout.guard_damage(self.memory.bytes()))
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
            bail!("expected values on another device cannot be compared here");
        };
        layout.check_length(expected)?;
        Ok(numerics::compare(layout.dtype, memory, expected, tolerance))
    }
}

impl Launching for CpuBoundKernel {
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
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
        if let Some(variables) = &mut self.saved_variables
            && let Some(name) = variables.restore(self.process.id())?
        {
            self.first_change.get_or_insert((name, self.launch_count));
        }
        Ok(LaunchOutcome::Finished { time })
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
            access_sites(self.memory.control(), &lines)
        })
    }
}
