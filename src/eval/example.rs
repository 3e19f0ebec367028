//! One set of random inputs with the oracle's outputs, for a computation outside kforge to be compared with.

use super::case_kernel::{CaseKernel, UNTIMED};
use super::cases::Case;
use super::{Judge, JudgeOptions};
use crate::device::{Device, LaunchOutcome, Poison};
use crate::kernel::plan::Buffer;
use crate::kernel::{DeviceLimits, Scalars};
use crate::task::{Task, Workload};

/// The inputs of one launch and what the oracle makes of them.
pub struct OracleExample {
    pub scalars: Scalars,
    /// Every input with its memory, little-endian.
    pub inputs: Vec<(Buffer, Vec<u8>)>,
    /// Every output with its elements.
    pub outputs: Vec<(Buffer, Vec<f64>)>,
}

/// Runs the oracle on inputs from a seed: the same inputs that a candidate would be given under that seed.
pub fn oracle_example(
    device: &dyn Device,
    task: &Task,
    workload: &Workload,
    options: JudgeOptions,
    machine: DeviceLimits,
    seed: u64,
) -> anyhow::Result<OracleExample> {
    let deadline = std::time::Duration::from_secs_f64(options.launch_seconds);
    let mut judge = Judge::without_baseline_check(device, task, options, machine)?;
    let case = Case::of_workload(workload);
    judge.prepare_references(std::slice::from_ref(&case))?;
    let mut oracle = CaseKernel::open_reference(&judge, &judge.oracle, &case, true, UNTIMED)?;
    oracle.reset_buffers(seed, Poison::Nan)?;
    if let LaunchOutcome::Fault(refusal) = oracle.launch(deadline)? {
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
