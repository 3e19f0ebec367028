//! One set of random inputs with the oracle's outputs, for a computation outside kforge to be compared with.

use super::bound::{Bound, UNTIMED};
use super::shapes::Case;
use super::{Judge, Options};
use crate::device::{Answer, Device, Launched, Poison, Question};
use crate::kernel::plan::Buffer;
use crate::kernel::{Machine, Scalars};
use crate::task::{Task, Workload};

/// The inputs of one launch and what the oracle makes of them.
pub struct Example {
    pub scalars: Scalars,
    /// Every input with its memory, little-endian.
    pub inputs: Vec<(Buffer, Vec<u8>)>,
    /// Every output with its elements.
    pub outputs: Vec<(Buffer, Vec<f64>)>,
}

/// Runs the oracle on inputs from a seed: the same inputs that a candidate would be given under that seed.
pub fn example(
    device: &dyn Device,
    task: &Task,
    workload: &Workload,
    options: Options,
    machine: Machine,
    seed: u64,
) -> anyhow::Result<Example> {
    let deadline = std::time::Duration::from_secs_f64(options.launch_seconds);
    let mut judge = Judge::unchecked(device, task, options, machine)?;
    let case = Case::visible(workload);
    judge.prepare_references(std::slice::from_ref(&case))?;
    let mut oracle = Bound::open_reference(&judge, &judge.oracle, &case, true, UNTIMED)?;
    oracle.renew(seed, Poison::NotANumber)?;
    if let Launched::Fault(refusal) = oracle.launch(deadline)? {
        anyhow::bail!("the oracle failed: {}", refusal.reason);
    }
    let mut example = Example {
        scalars: case.scalars(task),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    for (index, buffer) in oracle.plan.buffers.iter().enumerate() {
        let is_output = oracle.plan.outputs.contains(&index);
        let question = if is_output {
            Question::Values
        } else {
            Question::Bytes
        };
        match oracle.arm.inspect(index, &question)? {
            Answer::Values(values) => example.outputs.push((buffer.clone(), values)),
            Answer::Bytes(bytes) => example.inputs.push((buffer.clone(), bytes)),
            _ => anyhow::bail!("the device showed nothing"),
        }
    }
    Ok(example)
}
