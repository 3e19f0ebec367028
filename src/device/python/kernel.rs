//! A Python reference bound to one case: buffers in host memory, a launch that asks the Python process.
//!
//! It replaces the oracle's bound kernel, so it fills its inputs as every device does. Only an oracle is bound here: a launch has no time,
//! and nothing watches what it does to its inputs.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::process::{CallFailed, PythonProcess};
use crate::device::aligned::AlignedBytes;
use crate::device::memory::copy_bytes;
use crate::device::{
    BufferAccess, BufferChecks, BufferContent, ExpectedOutput, ExpectedValues, KernelEvidence,
    LaunchOutcome, Launching, OutputComparison, PersistentState, Poison, PoisonCount, Refusal,
    TimedLaunching, Upload, numerics,
};
use crate::kernel::Scalars;
use crate::kernel::plan::{BufferRole, LaunchPlan};
use crate::task::{DType, Definition, Tolerance};
use crate::verdict::Status;

/// Alignment of the tensors in the shared memory.
const ALIGNMENT: u64 = 64;

/// What one call is asked, without the length of the memory: see `reference.py`.
pub(super) struct Call {
    request: Value,
    /// Buffer and offset of each input with a shape.
    inputs: Vec<(usize, u64)>,
    /// Buffer and offset of each output.
    outputs: Vec<(usize, u64)>,
}

impl Call {
    pub(super) fn new(definition: &Definition, plan: &LaunchPlan, scalars: &Scalars) -> Self {
        let mut end = 0;
        let mut place = |buffer: usize| {
            let offset = end;
            end = (offset + plan.buffers[buffer].bytes()).next_multiple_of(ALIGNMENT);
            offset
        };
        let index_of = |name: &str, is_wanted: fn(BufferRole) -> bool| {
            let mut buffers = plan.buffers.iter();
            buffers.position(|buffer| buffer.name == name && is_wanted(buffer.role))
        };
        let is_input = |role| matches!(role, BufferRole::Input | BufferRole::InPlace);
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut arguments = Vec::new();
        for (name, tensor) in &definition.inputs {
            arguments.push(match (index_of(name, is_input), scalars.get(name)) {
                (Some(buffer), _) => {
                    let offset = place(buffer);
                    let place = inputs.len();
                    inputs.push((buffer, offset));
                    let buffer = &plan.buffers[buffer];
                    json!({
                        "name": name, "dtype": buffer.dtype.to_string(), "shape": buffer.shape,
                        "offset": offset, "bytes": buffer.bytes(), "place": place,
                    })
                }
                (None, Some(value)) => {
                    json!({"name": name, "scalar": scalar(tensor.dtype, *value)})
                }
                (None, None) => json!({"name": name}),
            });
        }
        let mut results = Vec::new();
        for &buffer in &plan.outputs {
            let offset = place(buffer);
            let place = inputs.len() + outputs.len();
            outputs.push((buffer, offset));
            let Some(described) = plan.buffers.get(buffer) else {
                continue;
            };
            results.push(json!({
                "name": described.name, "dtype": described.dtype.to_string(), "shape": described.shape,
                "offset": offset, "place": place,
            }));
        }
        Self {
            request: json!({"inputs": arguments, "outputs": results}),
            inputs,
            outputs,
        }
    }

    /// The buffers with inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = usize> {
        self.inputs.iter().map(|(buffer, _)| *buffer)
    }

    /// The buffers of the call, inputs before outputs: the places that the entries of the request name.
    pub(super) fn buffers(&self) -> impl Iterator<Item = usize> {
        self.inputs()
            .chain(self.outputs.iter().map(|(buffer, _)| *buffer))
    }

    /// The request for a call whose tensors are in memory of the process on a GPU.
    pub(super) fn on_device(&self) -> Value {
        let mut request = self.request.clone();
        request["on_device"] = json!(true);
        request
    }
}

/// A scalar as the Python number that its dtype is.
pub(super) fn scalar(dtype: DType, value: f64) -> Value {
    match dtype {
        DType::Bool => json!(value != 0.0),
        DType::Int64 | DType::Int32 | DType::Int16 | DType::Int8 => json!(value as i64),
        _ => json!(numerics::round_to_dtype(dtype, &[value])[0]),
    }
}

/// One buffer in host memory.
struct HostBuffer {
    dtype: DType,
    /// Length of the last axis.
    row: u64,
    copies: Vec<AlignedBytes>,
}

/// The reference with the buffers of one case.
pub(super) struct PythonKernel {
    process: Rc<RefCell<PythonProcess>>,
    upload: Upload,
    call: Call,
    buffers: Vec<HostBuffer>,
    /// The number of each copy, from which its inputs are drawn.
    copy_numbers: Vec<u32>,
}

impl PythonKernel {
    pub(super) fn new(
        process: Rc<RefCell<PythonProcess>>,
        upload: Upload,
        call: Call,
        plan: &LaunchPlan,
        copies: usize,
    ) -> Self {
        let buffers = plan.buffers.iter().map(|buffer| HostBuffer {
            dtype: buffer.dtype,
            row: buffer.shape.last().copied().unwrap_or(1),
            copies: (0..copies)
                .map(|_| AlignedBytes::zeroed(buffer.bytes() as usize))
                .collect(),
        });
        Self {
            process,
            upload,
            call,
            buffers: buffers.collect(),
            copy_numbers: (0..copies as u32).collect(),
        }
    }

    fn buffer(&self, buffer: usize) -> anyhow::Result<&HostBuffer> {
        self.buffers.get(buffer).context("no such buffer")
    }

    fn first_copy(&self, buffer: usize) -> anyhow::Result<(DType, &[u8])> {
        let buffer = self.buffer(buffer)?;
        let memory = buffer.copies.first().context("a buffer without a copy")?;
        Ok((buffer.dtype, memory.as_slice()))
    }

    /// Computes the outputs of one copy.
    fn run_copy(
        &mut self,
        copy: usize,
        deadline: Duration,
    ) -> anyhow::Result<Result<(), CallFailed>> {
        let data = |(buffer, offset): &(usize, u64)| {
            (*offset, self.buffers[*buffer].copies[copy].as_slice())
        };
        let inputs: Vec<_> = self.call.inputs.iter().map(data).collect();
        let outputs = self.call.outputs.iter().map(data);
        let outputs: Vec<_> = outputs
            .map(|(offset, memory)| (offset, memory.len() as u64))
            .collect();
        let mut process = self.process.borrow_mut();
        let called = process.call(self.call.request.clone(), &inputs, &outputs, deadline)?;
        let results = match called {
            Ok(results) => results,
            Err(failed) => return Ok(Err(failed)),
        };
        for ((buffer, _), result) in self.call.outputs.iter().zip(results) {
            let memory = self.buffers[*buffer].copies[copy].as_mut_slice();
            memory.copy_from_slice(&result);
        }
        Ok(Ok(()))
    }
}

impl BufferAccess for PythonKernel {
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        let numbers = self.copy_numbers.clone();
        let HostBuffer { dtype, row, copies } =
            self.buffers.get_mut(buffer).context("no such buffer")?;
        for (number, memory) in numbers.into_iter().zip(copies) {
            let memory = memory.as_mut_slice();
            match content {
                BufferContent::Random { distribution, seed } => {
                    let seed = numerics::seed_of_copy(*seed, number);
                    numerics::fill(*dtype, memory, *row, distribution, seed);
                }
                BufferContent::Values(values) => {
                    if values.len() as u64 * dtype.bytes() != memory.len() as u64 {
                        bail!("{} values for {} bytes", values.len(), memory.len());
                    }
                    numerics::store(*dtype, values, memory);
                }
                BufferContent::Bytes(bytes) => copy_bytes(bytes, memory)?,
                BufferContent::Poison(pattern) => numerics::poison(*dtype, memory, *pattern),
            }
        }
        Ok(())
    }

    /// As a GPU computes it: the judge compares the inputs of a candidate there with those of its oracle here.
    fn hash(&self, buffer: usize) -> anyhow::Result<u64> {
        let copies = self.buffer(buffer)?.copies.iter();
        let hashes: Vec<u64> = copies.map(|one| numerics::hash(one.as_slice())).collect();
        Ok(numerics::combine_hashes(&hashes))
    }

    fn hash_copies(&self, buffer: usize, copies: &[u32]) -> anyhow::Result<u64> {
        let all = &self.buffer(buffer)?.copies;
        let hashes = copies.iter().map(|copy| {
            let memory = all.get(*copy as usize).context("no such copy")?;
            Ok(numerics::hash(memory.as_slice()))
        });
        let hashes: anyhow::Result<Vec<u64>> = hashes.collect();
        Ok(numerics::combine_hashes(&hashes?))
    }

    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        let (dtype, memory) = self.first_copy(buffer)?;
        Ok(numerics::values(dtype, memory))
    }

    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>> {
        Ok(self.first_copy(buffer)?.1.to_vec())
    }
}

impl BufferChecks for PythonKernel {
    /// There are no guard zones: the process writes through this module.
    fn guard_damage(&self, _buffer: usize) -> anyhow::Result<Option<i64>> {
        Ok(None)
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        let HostBuffer { dtype, copies, .. } = self.buffer(buffer)?;
        let mut found = PoisonCount::default();
        for memory in copies {
            let one = numerics::count_unwritten(*dtype, memory.as_slice(), poison);
            found.count += one.count;
            found.first = found.first.or(one.first);
        }
        Ok(found)
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        let HostBuffer { dtype, copies, .. } = self.buffer(buffer)?;
        let copies: Vec<Vec<f64>> = (copies.iter())
            .map(|memory| numerics::values(*dtype, memory.as_slice()))
            .collect();
        let first_not_finite =
            (copies.iter()).find_map(|values| numerics::first_not_finite(values));
        Ok(ExpectedOutput {
            values: (self.upload)(copies)?,
            first_not_finite,
        })
    }

    fn compare(
        &self,
        buffer: usize,
        _copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        let (dtype, memory) = self.first_copy(buffer)?;
        let ExpectedValues::Host(expected) = expected else {
            bail!("expected values on another device cannot be compared here");
        };
        Ok(numerics::compare(dtype, memory, expected, tolerance))
    }
}

impl Launching for PythonKernel {
    /// Computes the outputs of all copies. The time is zero: an oracle is never timed.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        for copy in 0..self.copy_numbers.len() {
            if let Err(CallFailed(reason)) = self.run_copy(copy, deadline)? {
                let refusal = Refusal::new(Status::Crashed, reason);
                return Ok(LaunchOutcome::Fault(refusal));
            }
        }
        Ok(LaunchOutcome::Finished {
            time: Duration::ZERO,
        })
    }
}

impl TimedLaunching for PythonKernel {
    fn copy_count(&self) -> usize {
        self.copy_numbers.len()
    }

    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        if copies.len() != self.copy_numbers.len() {
            bail!(
                "{} numbers for {} copies",
                copies.len(),
                self.copy_numbers.len()
            );
        }
        self.copy_numbers = copies.to_vec();
        Ok(())
    }
}

impl KernelEvidence for PythonKernel {
    fn printed(&self) -> String {
        String::new()
    }

    fn persistent_state(&self) -> PersistentState {
        PersistentState::Unchanged
    }
}
