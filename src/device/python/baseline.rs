//! A baseline in Python bound to one case: its inputs in shared memory, and samples that the Python process times.
//!
//! It takes the place of the opponent's bound kernel, so it gets the same fresh inputs as the kernel that it is timed against. A baseline is
//! trusted like the oracle: nothing watches what it does to its memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::baseline_layout::{Described, Layout};
use super::device_fill::{DeviceFills, FilledInput, PendingFills};
use super::device_kernel::handles;
use super::interpreter;
use super::process::{CallFailed, PythonProcess, PythonProgram};
use crate::device::aligned::AlignedBytes;
use crate::device::memory::copy_bytes;
use crate::device::{
    BoundKernel, BufferAccess, BufferChecks, BufferContent, Cache, Device, ExchangedBuffers,
    ExpectedOutput, ExpectedValues, KernelEvidence, LaunchOutcome, Launching, LockFile,
    OutputComparison, PersistentState, Poison, PoisonCount, Refusal, TimedLaunching, Transfer,
    TransferDirection, Upload, numerics,
};
use crate::kernel::Scalars;
use crate::kernel::plan::LaunchPlan;
use crate::task::{DType, Definition, Distribution, Task, Tolerance};
use crate::verdict::Status;

/// How long a baseline may take to be made and compiled for some shapes.
const PREPARE_DEADLINE: Duration = Duration::from_secs(300);
/// What a sample may take besides its launches: to pass the inputs on, and to capture a graph.
const SAMPLE_OVERHEAD: Duration = Duration::from_secs(60);

/// The baselines of a task that are written in Python.
pub(crate) struct PythonBaselines {
    process: Rc<RefCell<PythonProcess>>,
    definition: Definition,
    upload: Upload,
    device_fills: Rc<DeviceFills>,
    facts: Rc<RefCell<BaselineFacts>>,
}

/// What is known about the baseline that was opened last, and about all.
#[derive(Default)]
struct BaselineFacts {
    /// By package.
    versions: IndexMap<String, String>,
    launch: Option<String>,
    /// Baselines that cannot be captured in a CUDA graph.
    without_graph: BTreeSet<String>,
    /// Whether this machine has refused to let kforge map memory of the process.
    keeps_memory: bool,
}

/// A baseline cannot be used here, for example because its package is not installed.
pub(crate) struct UnavailableBaseline(pub(crate) String);

impl PythonBaselines {
    /// Starts Python and runs the source (text and file name), which must define `BASELINES`. On a GPU, PyTorch uses that of the device.
    ///
    /// # Errors
    /// `Failure::environment` if Python or PyTorch is not installed; `Failure::reference` if the source fails.
    pub(crate) fn start(
        task: &Task,
        source: [String; 2],
        device: &dyn Device,
    ) -> anyhow::Result<Self> {
        let subject = format!("the file of Python baselines of task `{}`", task.name);
        let interpreter = interpreter::find(&subject)?;
        let program = PythonProgram {
            script: concat!(
                include_str!("device_memory.py"),
                include_str!("baseline.py")
            ),
            source,
            subject,
        };
        let process = PythonProcess::start(&interpreter, program, device.identity().uuid)?;
        Ok(Self {
            process: Rc::new(RefCell::new(process)),
            definition: task.definition.clone(),
            upload: device.upload(),
            device_fills: Rc::new(DeviceFills::new(device, &task.definition)?),
            facts: Rc::default(),
        })
    }

    /// The names of the baselines, in the order of the source.
    pub(crate) fn names(&self) -> Vec<String> {
        let process = self.process.borrow();
        let names = process.greeted().get("names").cloned().unwrap_or_default();
        serde_json::from_value(names).unwrap_or_default()
    }

    /// The versions of the packages that the baseline of the last `open` uses.
    pub(crate) fn versions(&self) -> IndexMap<String, String> {
        self.facts.borrow().versions.clone()
    }

    /// How the baseline of the last `open` is launched: `graph`, `launches` or `call`. `None` until it was.
    pub(crate) fn launch(&self) -> Option<String> {
        self.facts.borrow().launch.clone()
    }

    /// The outputs of the last launch in buffers of the device, copied within its memory. `None` if they have to pass through the host: the
    /// device is the host, or the machine does not let kforge map memory of the process.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn outputs_on_device(
        &self,
        device: &dyn Device,
        plan: &LaunchPlan,
    ) -> anyhow::Result<Option<Box<dyn ExchangedBuffers>>> {
        if self.facts.borrow().keeps_memory {
            return Ok(None);
        }
        let Some(mut buffers) = device.open_buffers(plan, 1)? else {
            return Ok(None);
        };
        match self.take_outputs(buffers.as_mut(), plan) {
            Ok(()) => Ok(Some(buffers)),
            Err(error) => {
                tracing::warn!(
                    "outputs of baselines pass through the host, which takes longer: memory of the GPU cannot be shared with Python ({error:#})"
                );
                self.facts.borrow_mut().keeps_memory = true;
                Ok(None)
            }
        }
    }

    fn take_outputs(
        &self,
        buffers: &mut dyn ExchangedBuffers,
        plan: &LaunchPlan,
    ) -> anyhow::Result<()> {
        let answer =
            (self.process.borrow_mut()).request(&json!({"share": true}), SAMPLE_OVERHEAD)?;
        let answer = answer.map_err(|CallFailed(reason)| anyhow::anyhow!("{reason}"))?;
        let memory = handles(answer.get("handles"), plan.outputs.len())?;
        buffers.check_memory(memory.first().context("a plan without outputs")?)?;
        let transfers = plan.outputs.iter().zip(memory);
        let transfers: Vec<Transfer> = transfers
            .map(|(buffer, memory)| Transfer {
                buffer: *buffer,
                memory,
                direction: TransferDirection::FromProcess,
            })
            .collect();
        buffers.exchange(0, &transfers)
    }

    /// Binds a baseline to the buffers of a plan, in `copies` copies. Inputs without a shape have the values of `scalars`.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(crate) fn open(
        &self,
        name: &str,
        (plan, scalars): (&LaunchPlan, &Scalars),
        copies: usize,
        cache: Cache,
    ) -> anyhow::Result<Result<Box<dyn BoundKernel>, UnavailableBaseline>> {
        let layout = Layout::new(&self.definition, plan, scalars, copies);
        let mut baseline = TimedPython {
            process: Rc::clone(&self.process),
            upload: Rc::clone(&self.upload),
            device_fills: Rc::clone(&self.device_fills),
            facts: Rc::clone(&self.facts),
            name: name.to_owned(),
            cache,
            layout,
            filled: IndexMap::new(),
            pending_fills: PendingFills::default(),
            changed: BTreeSet::new(),
            is_prepared: false,
            is_collected: Cell::new(false),
            copy_numbers: (0..copies as u32).collect(),
            launched_copies: Vec::new(),
        };
        self.facts.borrow_mut().launch = None;
        Ok(match baseline.open()? {
            Ok(()) => Ok(Box::new(baseline)),
            Err(CallFailed(reason)) => Err(UnavailableBaseline(first_line(&reason))),
        })
    }
}

/// The first line of an error; the log follows it.
fn first_line(reason: &str) -> String {
    reason.lines().next().unwrap_or_default().to_owned()
}

/// What an input holds.
#[derive(Clone, Debug)]
enum Filling {
    Random {
        distribution: Distribution,
        seed: u64,
    },
    Bytes(Vec<u8>),
}

impl Filling {
    /// Writes the input of a copy. `row`: length of the last axis.
    fn write_to(
        &self,
        memory: &mut [u8],
        dtype: DType,
        row: u64,
        copy_number: u32,
    ) -> anyhow::Result<()> {
        match self {
            Self::Random { distribution, seed } => {
                let seed = numerics::seed_of_copy(*seed, copy_number);
                numerics::fill(dtype, memory, row, distribution, seed);
                Ok(())
            }
            Self::Bytes(bytes) => copy_bytes(bytes, memory),
        }
    }
}

/// A baseline in Python, bound to the inputs of one case.
struct TimedPython {
    process: Rc<RefCell<PythonProcess>>,
    upload: Upload,
    device_fills: Rc<DeviceFills>,
    facts: Rc<RefCell<BaselineFacts>>,
    name: String,
    cache: Cache,
    layout: Layout,
    /// What each input was filled with last, by buffer: for a process that has to be started again.
    filled: IndexMap<usize, Filling>,
    /// What the GPU fills before the next sample.
    pending_fills: PendingFills,
    /// The places of the inputs that were filled in the shared memory since the last sample.
    changed: BTreeSet<usize>,
    /// Whether the function is compiled.
    is_prepared: bool,
    /// Whether the outputs of the last sample are in the shared memory.
    is_collected: Cell<bool>,
    copy_numbers: Vec<u32>,
    launched_copies: Vec<u32>,
}

type Answer = Result<Map<String, Value>, CallFailed>;

impl TimedPython {
    fn open(&mut self) -> anyhow::Result<Result<(), CallFailed>> {
        let mut process = self.process.borrow_mut();
        process.ensure_running()?;
        let length = process.reserve(self.layout.bytes)?;
        let has_graph = !self.facts.borrow().without_graph.contains(&self.name);
        let request = json!({
            "open": self.name,
            "length": length,
            "copies": self.copy_numbers.len(),
            "cache": self.cache,
            "graph": has_graph,
            "inputs": self.layout.inputs,
            "outputs": self.layout.outputs,
        });
        let answer = match process.request(&request, PREPARE_DEADLINE)? {
            Ok(answer) => answer,
            Err(failed) => return Ok(Err(failed)),
        };
        let versions = answer.get("versions").cloned().unwrap_or_default();
        self.facts.borrow_mut().versions =
            serde_json::from_value(versions).context("Python's versions cannot be read")?;
        self.is_prepared = false;
        Ok(Ok(()))
    }

    /// Compiles the function. One that cannot be captured in a graph may leave PyTorch unable to use the GPU, so another process is started
    /// for it.
    /// `lock`: the timing lock's file, if the process is to share it while something is launched; otherwise the caller holds the lock.
    fn prepare(&mut self, lock: Option<&Path>) -> anyhow::Result<Result<(), CallFailed>> {
        for _ in 0..2 {
            let (changed, fills) = (&self.changed, self.pending_fills.all());
            let request =
                json!({"prepare": true, "changed": changed, "fills": fills, "lock": lock});
            let answer = self.request(&request, PREPARE_DEADLINE)?;
            let answer = match answer {
                Ok(answer) => answer,
                Err(failed) => return Ok(Err(failed)),
            };
            let Some(reason) = answer.get("no_graph") else {
                let launch = answer.get("launch").and_then(Value::as_str);
                self.facts.borrow_mut().launch = launch.map(str::to_owned);
                self.is_prepared = true;
                return Ok(Ok(()));
            };
            let name = &self.name;
            tracing::info!("`{name}` is not captured in a CUDA graph: {reason}");
            self.facts
                .borrow_mut()
                .without_graph
                .insert(self.name.clone());
            self.process.borrow_mut().end();
            if let Err(failed) = self.open()? {
                return Ok(Err(failed));
            }
            for (buffer, filling) in self.filled.clone() {
                self.fill(buffer, filling)?;
            }
        }
        bail!("a baseline without a graph was captured in a graph")
    }

    fn request(&self, request: &Value, deadline: Duration) -> anyhow::Result<Answer> {
        self.process.borrow_mut().request(request, deadline)
    }

    /// Fills all copies of an input: on the GPU before the next sample, or here.
    fn fill(&mut self, buffer: usize, filling: Filling) -> anyhow::Result<()> {
        match self.device_fill(buffer, &filling)? {
            Some(request) => self.pending_fills.add(request),
            None => self.fill_here(buffer, &filling)?,
        }
        self.filled.insert(buffer, filling);
        Ok(())
    }

    /// The request that has the GPU fill an input; `None` if the host has to.
    fn device_fill(&self, buffer: usize, filling: &Filling) -> anyhow::Result<Option<Value>> {
        let Filling::Random { distribution, seed } = filling else {
            return Ok(None);
        };
        let described = self.described(buffer)?;
        let position = self.layout.input_positions.get(&buffer);
        let input = FilledInput {
            position: *position.context("only inputs are filled")?,
            dtype: described.dtype,
            row: described.row,
            elements: described.elements,
            copy_numbers: &self.copy_numbers,
        };
        Ok(self.device_fills.request(input, distribution, *seed))
    }

    /// Fills all copies of an input in the shared memory, several at once.
    fn fill_here(&mut self, buffer: usize, filling: &Filling) -> anyhow::Result<()> {
        let described = self.described(buffer)?;
        let offsets = self.layout.input_offsets.get(&buffer);
        let offsets = offsets.context("only inputs are filled")?;
        let bytes = described.elements * described.dtype.bytes();
        let copies: Vec<(u32, u64)> = (self.copy_numbers.iter().copied())
            .zip(offsets.iter().copied())
            .collect();
        let process = self.process.borrow();
        let (shared, next) = (process.memory()?, AtomicUsize::new(0));
        let (dtype, row) = (described.dtype, described.row);
        let work = || -> anyhow::Result<()> {
            let mut memory = AlignedBytes::zeroed(bytes as usize);
            while let Some((number, offset)) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
                filling.write_to(memory.as_mut_slice(), dtype, row, *number)?;
                (shared.write_all_at(memory.as_slice(), *offset))
                    .context("failed to pass the inputs on")?;
            }
            Ok(())
        };
        // A single copy is filled by several threads already.
        let threads = numerics::threads_for(bytes.saturating_mul(copies.len() as u64));
        let threads = threads.min(copies.len());
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let results = others.into_iter().map(|other| match other.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.fold(own, |all, one| all.and(one))
        })?;
        drop(process);
        let position = self.layout.input_positions.get(&buffer);
        (self.changed).insert(*position.context("only inputs are filled")?);
        Ok(())
    }

    fn described(&self, buffer: usize) -> anyhow::Result<&Described> {
        self.layout.buffers.get(buffer).context("no such buffer")
    }

    fn sample(
        &mut self,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<Result<Duration, CallFailed>> {
        if !self.is_prepared
            && let Err(failed) = self.prepare(None)?
        {
            return Ok(Err(failed));
        }
        let (changed, fills) = (&self.changed, self.pending_fills.all());
        let request = json!({"sample": runs.max(1), "changed": changed, "fills": fills});
        let deadline = deadline.saturating_mul(runs.max(1) as u32) + SAMPLE_OVERHEAD;
        let answer = match self.request(&request, deadline)? {
            Ok(answer) => answer,
            Err(failed) => return Ok(Err(failed)),
        };
        self.changed.clear();
        self.pending_fills.clear();
        self.is_collected.set(false);
        let copies = answer.get("copies").cloned().unwrap_or_default();
        self.launched_copies = serde_json::from_value(copies).context("Python's copies")?;
        let seconds = answer.get("seconds").and_then(Value::as_f64);
        let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        let seconds = seconds.context("Python's clock returned no time")?;
        Ok(Ok(Duration::from_secs_f64(seconds / runs.max(1) as f64)))
    }

    /// Has the outputs of the last call of the last sample written to the shared memory, unless they are there.
    fn collect(&self) -> anyhow::Result<Result<(), CallFailed>> {
        if self.is_collected.get() {
            return Ok(Ok(()));
        }
        let answer = self.request(&json!({"collect": true}), SAMPLE_OVERHEAD)?;
        self.is_collected.set(answer.is_ok());
        Ok(answer.map(|_| ()))
    }

    /// The values of an output after the last call of the last sample.
    fn output(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        if let Err(CallFailed(reason)) = self.collect()? {
            bail!("{}", first_line(&reason));
        }
        let offset = self.layout.output_offsets.get(&buffer);
        let offset = *offset.context("only outputs are read")?;
        let elements = self.described(buffer)?.elements as usize;
        let mut bytes = vec![0; elements * 8];
        self.process.borrow().read(offset, &mut bytes)?;
        let (values, _) = bytes.as_chunks::<8>();
        Ok(values
            .iter()
            .map(|value| f64::from_le_bytes(*value))
            .collect())
    }

    /// The values of an output in its own dtype.
    fn output_memory(&self, buffer: usize) -> anyhow::Result<(DType, AlignedBytes)> {
        let (dtype, values) = (self.described(buffer)?.dtype, self.output(buffer)?);
        let mut memory = AlignedBytes::zeroed(values.len() * dtype.bytes() as usize);
        numerics::store(dtype, &values, memory.as_mut_slice());
        Ok((dtype, memory))
    }
}

impl BufferAccess for TimedPython {
    /// Outputs are Python's own, so poison is not written.
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        match content {
            BufferContent::Random { distribution, seed } => {
                let (distribution, seed) = ((*distribution).clone(), *seed);
                self.fill(buffer, Filling::Random { distribution, seed })
            }
            BufferContent::Bytes(bytes) => self.fill(buffer, Filling::Bytes(bytes.to_vec())),
            BufferContent::Poison(_) => Ok(()),
            BufferContent::Values(_) => bail!("a baseline in Python gets no values as numbers"),
        }
    }

    fn hash(&self, buffer: usize) -> anyhow::Result<u64> {
        Ok(numerics::hash(self.output_memory(buffer)?.1.as_slice()))
    }

    fn hash_copies(&self, buffer: usize, _copies: &[u32]) -> anyhow::Result<u64> {
        self.hash(buffer)
    }

    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        self.output(buffer)
    }

    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>> {
        Ok(self.output_memory(buffer)?.1.as_slice().to_vec())
    }
}

impl BufferChecks for TimedPython {
    fn guard_damage(&self, _buffer: usize) -> anyhow::Result<Option<i64>> {
        Ok(None)
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        let (dtype, memory) = self.output_memory(buffer)?;
        Ok(numerics::count_unwritten(dtype, memory.as_slice(), poison))
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        let values = self.output(buffer)?;
        Ok(ExpectedOutput {
            first_not_finite: numerics::first_not_finite(&values),
            values: (self.upload)(vec![values])?,
        })
    }

    fn compare(
        &self,
        buffer: usize,
        _copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        let (dtype, memory) = self.output_memory(buffer)?;
        let ExpectedValues::Host(expected) = expected else {
            bail!("expected values on a GPU cannot be compared with those of Python");
        };
        Ok(numerics::compare(
            dtype,
            memory.as_slice(),
            expected,
            tolerance,
        ))
    }
}

impl Launching for TimedPython {
    /// Runs the function once. Outputs that are not what the definition says are a fault; their values are not read, which takes long if
    /// there are many.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        let outcome = self.launch_sample(1, deadline)?;
        if matches!(outcome, LaunchOutcome::Fault(_)) {
            return Ok(outcome);
        }
        let checked = self.request(&json!({"check": true}), SAMPLE_OVERHEAD)?;
        Ok(match checked {
            Ok(_) => outcome,
            Err(CallFailed(reason)) => fault(&reason),
        })
    }
}

fn fault(reason: &str) -> LaunchOutcome {
    LaunchOutcome::Fault(Refusal::new(Status::Crashed, first_line(reason)))
}

impl TimedLaunching for TimedPython {
    fn copy_count(&self) -> usize {
        self.copy_numbers.len()
    }

    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        if copies.len() != self.copy_numbers.len() {
            bail!("another number of copies");
        }
        self.copy_numbers = copies.to_vec();
        Ok(())
    }

    fn launch_sample(&mut self, runs: usize, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        Ok(match self.sample(runs, deadline)? {
            Ok(time) => LaunchOutcome::Finished { time },
            Err(CallFailed(reason)) => fault(&reason),
        })
    }

    fn launched_copies(&self) -> &[u32] {
        &self.launched_copies
    }

    fn prepare_beside_timings(&mut self, lock: &LockFile) -> anyhow::Result<LaunchOutcome> {
        Ok(match self.prepare(Some(&lock.path))? {
            Ok(()) => LaunchOutcome::Finished {
                time: Duration::ZERO,
            },
            Err(CallFailed(reason)) => fault(&reason),
        })
    }
}

impl KernelEvidence for TimedPython {
    fn printed(&self) -> String {
        String::new()
    }

    fn persistent_state(&self) -> PersistentState {
        PersistentState::Unchanged
    }
}
