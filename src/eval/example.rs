//! One set of random inputs with the oracle's outputs, to compare the oracle with an independent computation outside kforge.
//!
//! Runs the oracle only; judges nothing.

use super::case::Case;
use super::case_kernel::{CaseKernel, EXPECT_PURPOSE};
use super::compiled_kernel::Reference;
use super::context::{JudgeContext, JudgeOptions};
use crate::device::{Device, LaunchOutcome, Poison};
use crate::kernel::plan::Buffer;
use crate::kernel::{DeviceLimits, Scalars};
use crate::task::{Task, Workload};

/// Which inputs to generate: those that a candidate would get on this workload with this seed.
#[derive(Clone, Copy, Debug)]
pub struct ExampleRequest<'r> {
    pub workload: &'r Workload,
    pub seed: u64,
}

/// The inputs of one launch of the oracle, and its outputs.
pub struct OracleExample {
    pub scalars: Scalars,
    /// Every input with its memory, little-endian.
    pub inputs: Vec<(Buffer, Vec<u8>)>,
    /// Every output with its elements.
    pub outputs: Vec<(Buffer, Vec<f64>)>,
}

/// Generates inputs and runs the oracle on them.
///
/// # Errors
/// If the oracle does not compile or fails.
pub fn oracle_example(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    limits: DeviceLimits,
    request: ExampleRequest<'_>,
) -> anyhow::Result<OracleExample> {
    let mut context = JudgeContext::open(device, task, options, limits)?;
    let case = Case::of_workload(request.workload);
    context.prepare_references(std::slice::from_ref(&case))?;
    let mut oracle =
        CaseKernel::open_reference(&context, Reference::Oracle, &case, EXPECT_PURPOSE)?;
    oracle.reset_buffers(request.seed, Poison::Nan)?;
    if let LaunchOutcome::Fault(refusal) = oracle.launch(context.deadline())? {
        anyhow::bail!("the oracle failed: {}", refusal.reason);
    }
    let mut example = OracleExample {
        scalars: case.scalars(task),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    for (index, buffer) in oracle.plan.buffers.iter().enumerate() {
        if oracle.plan.outputs.contains(&index) {
            let values = oracle.kernel.values(index)?;
            example.outputs.push((buffer.clone(), values));
        } else {
            let bytes = oracle.kernel.bytes(index)?;
            example.inputs.push((buffer.clone(), bytes));
        }
    }
    Ok(example)
}
