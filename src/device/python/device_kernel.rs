//! A PyTorch reference bound to one case on a GPU: buffers in the GPU's memory, and a launch that asks the Python process.
//!
//! Inputs and outputs go through memory of that process, from GPU memory to GPU memory. It takes the place of the oracle's bound kernel, so
//! its buffers are filled as those of a candidate. A launch has no time, and nothing watches what it does to its inputs.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::kernel::Call;
use super::process::{CallFailed, PythonProcess};
use crate::device::{
    BufferAccess, BufferChecks, BufferContent, ExchangedBuffers, ExpectedOutput, ExpectedValues,
    KernelEvidence, LaunchOutcome, Launching, OutputComparison, PersistentState, Poison,
    PoisonCount, Refusal, TimedLaunching, Transfer, TransferDirection,
};
use crate::task::Tolerance;
use crate::verdict::Status;

/// How long the process may take to reserve memory. The first time, PyTorch creates its context.
const SHARING_DEADLINE: Duration = Duration::from_secs(60);

/// The reference with the buffers of one case.
pub(super) struct DevicePythonKernel {
    process: Rc<RefCell<PythonProcess>>,
    buffers: Box<dyn ExchangedBuffers>,
    call: Call,
    /// Length of each buffer of the call, inputs before outputs.
    bytes: Vec<u64>,
}

impl DevicePythonKernel {
    /// `bytes`: the length of each buffer of the plan.
    pub(super) fn new(
        process: Rc<RefCell<PythonProcess>>,
        buffers: Box<dyn ExchangedBuffers>,
        call: Call,
        bytes: &[u64],
    ) -> Self {
        let bytes = call.buffers().filter_map(|buffer| bytes.get(buffer));
        Self {
            process,
            buffers,
            bytes: bytes.copied().collect(),
            call,
        }
    }

    /// Whether this machine lets kforge map memory of the process; some virtual machines do not.
    ///
    /// # Errors
    /// If it does not, with the driver's reason.
    pub(super) fn check_sharing(&self) -> anyhow::Result<()> {
        let reserved = json!({"reserve": [1]});
        let answer = (self.process.borrow_mut()).request(&reserved, SHARING_DEADLINE)?;
        let answer = answer.map_err(|CallFailed(reason)| anyhow::anyhow!("{reason}"))?;
        let memory = handles(answer.get("handles"), 1)?;
        self.buffers.check_memory(&memory[0])
    }

    /// Computes the outputs of one copy.
    fn run_copy(
        &mut self,
        copy: u32,
        deadline: Duration,
    ) -> anyhow::Result<Result<(), CallFailed>> {
        let inputs = self.call.inputs().count();
        let reserved = json!({"reserve": self.bytes});
        let answer = (self.process.borrow_mut()).request(&reserved, deadline)?;
        let memory = match answer {
            Ok(answer) => handles(answer.get("handles"), self.bytes.len())?,
            Err(failed) => return Ok(Err(failed)),
        };
        let transfers =
            (self.call.buffers().zip(memory).enumerate()).map(|(place, (buffer, memory))| {
                Transfer {
                    buffer,
                    memory,
                    direction: if place < inputs {
                        TransferDirection::ToProcess
                    } else {
                        TransferDirection::FromProcess
                    },
                }
            });
        let transfers: Vec<Transfer> = transfers.collect();
        let (inputs, outputs) = transfers.split_at(inputs);
        self.buffers.exchange(copy, inputs)?;
        let called = (self.process.borrow_mut()).request(&self.call.on_device(), deadline)?;
        if let Err(failed) = called {
            return Ok(Err(failed));
        }
        self.buffers.exchange(copy, outputs)?;
        Ok(Ok(()))
    }
}

/// The handles of `count` blocks of memory in an answer: a text of hexadecimal digits for each.
pub(super) fn handles(
    answer: Option<&serde_json::Value>,
    count: usize,
) -> anyhow::Result<Vec<[u8; 64]>> {
    let handle = |text: &serde_json::Value| {
        let digits = text.as_str()?.as_bytes();
        let mut handle = [0; 64];
        if digits.len() != 2 * handle.len() {
            return None;
        }
        for (byte, pair) in handle.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(handle)
    };
    let texts = answer.and_then(|answer| answer.as_array());
    let handles = texts.and_then(|texts| texts.iter().map(handle).collect::<Option<Vec<_>>>());
    handles
        .filter(|handles| handles.len() == count)
        .with_context(|| format!("Python has not reserved {count} blocks of memory"))
}

impl BufferAccess for DevicePythonKernel {
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        self.buffers.write(buffer, content)
    }

    fn hash(&self, buffer: usize) -> anyhow::Result<u64> {
        self.buffers.hash(buffer)
    }

    fn hash_copies(&self, buffer: usize, copies: &[u32]) -> anyhow::Result<u64> {
        self.buffers.hash_copies(buffer, copies)
    }

    fn hash_all(&self, buffers: &[usize], copies: Option<&[u32]>) -> anyhow::Result<Vec<u64>> {
        self.buffers.hash_all(buffers, copies)
    }

    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        self.buffers.values(buffer)
    }

    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>> {
        self.buffers.bytes(buffer)
    }
}

impl BufferChecks for DevicePythonKernel {
    /// Nothing but the judge writes to the buffers.
    fn guard_damage(&self, _buffer: usize) -> anyhow::Result<Option<i64>> {
        Ok(None)
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        self.buffers.unwritten(buffer, poison)
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        self.buffers.expected_output(buffer)
    }

    fn compare(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        self.buffers.compare(buffer, copies, expected, tolerance)
    }
}

impl Launching for DevicePythonKernel {
    /// Computes the outputs of all copies. The time is zero: an oracle is never timed.
    fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        for copy in 0..self.buffers.copy_count() as u32 {
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

impl TimedLaunching for DevicePythonKernel {
    fn copy_count(&self) -> usize {
        self.buffers.copy_count()
    }

    fn bind_copies(&mut self, copies: &[u32]) -> anyhow::Result<()> {
        self.buffers.bind_copies(copies)
    }

    fn launched_copies(&self) -> &[u32] {
        self.buffers.launched_copies()
    }
}

impl KernelEvidence for DevicePythonKernel {
    fn printed(&self) -> String {
        String::new()
    }

    fn persistent_state(&self) -> PersistentState {
        PersistentState::Unchanged
    }
}
