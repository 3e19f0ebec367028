//! A kernel bound to one case: opened on the device, reset with fresh inputs, launched, and checked for forbidden side effects.
//!
//! Each check returns `Ok`, or a finding about the kernel as the error. Does not compute expected values: `kernel_set` asks the
//! oracle.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::case::{Case, derive_seed};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeResult};
use super::stage_times::{OpenStage, StageTimes};
use super::stored_values::StoredValues;
use crate::base::Failure;
use crate::device::{
    BoundKernel, BufferContent, ErasedMemory, ExpectedValues, LaunchOutcome, Mismatch,
    OutputComparison, PersistentState, Poison, Purpose,
};
use crate::kernel::plan::{Buffer, BufferRole, LaunchPlan};
use crate::task::{Distribution, StoredTensor, Tolerance};
use crate::verdict::{Evidence, Status};

/// For the oracle on one copy of the data.
pub(super) const EXPECT_PURPOSE: Purpose = Purpose::Expect { copies: 1 };

/// Rows of a stored tensor that can be the first. Fewer would repeat often.
const MIN_ROWS: u64 = 256;

/// Where the values of an input come from.
enum InputValues {
    Drawn(Distribution),
    /// A file, and what was read from it.
    Stored(StoredInput),
}

struct StoredInput {
    tensor: Arc<StoredTensor>,
    read: Option<Rc<Vec<u8>>>,
    /// Whether its rows begin at another row for each seed.
    turns: bool,
}

/// A kernel bound to the buffers of a case.
pub(super) struct CaseKernel {
    pub(super) kernel: Box<dyn BoundKernel>,
    pub(super) plan: LaunchPlan,
    /// The input buffers with the source of their values, in the order of the definition.
    inputs: Vec<(usize, InputValues)>,
    stored: StoredValues,
    times: StageTimes,
    /// Whether its launches as an oracle have ended well so far.
    pub(super) is_usable: bool,
}

impl CaseKernel {
    pub(super) fn new(
        context: &JudgeContext<'_>,
        case: &Case,
        kernel: Box<dyn BoundKernel>,
        plan: LaunchPlan,
    ) -> Self {
        let mut bound = Self {
            kernel,
            plan,
            inputs: Vec::new(),
            stored: context.stored.clone(),
            times: context.times.clone(),
            is_usable: true,
        };
        bound.use_distributions(context, case);
        bound
    }

    /// Fills the inputs from now on as in this case, which has the same launch plan.
    pub(super) fn use_distributions(&mut self, context: &JudgeContext<'_>, case: &Case) {
        let is_input = |role: BufferRole| matches!(role, BufferRole::Input | BufferRole::InPlace);
        let buffers = self.plan.buffers.iter().enumerate();
        self.inputs = buffers
            .filter(|(_, buffer)| is_input(buffer.role))
            .map(|(index, buffer)| {
                let values = match case.stored(context.task, &buffer.name) {
                    Some(tensor) => InputValues::Stored(StoredInput {
                        tensor: Arc::clone(tensor),
                        read: None,
                        turns: false,
                    }),
                    None => InputValues::Drawn(case.distribution(context.task, &buffer.name)),
                };
                (index, values)
            })
            .collect();
    }

    /// If every seed gives the same inputs, lets the rows of the stored ones begin at another row for each seed from now on, so that the
    /// outputs of one launch are never those of another. Only inputs that a regime of the task redraws: of others it is not known whether
    /// their order matters.
    pub(super) fn turn_stored_inputs(&mut self, context: &JudgeContext<'_>, case: &Case) {
        let task = context.task;
        if !case.is_stored(task) {
            return;
        }
        for (buffer, values) in &mut self.inputs {
            let buffer = &self.plan.buffers[*buffer];
            if let InputValues::Stored(input) = values {
                input.turns = buffer.dtype.is_float() && task.regimes_redraw(&buffer.name);
            }
        }
    }

    /// Fills the inputs from a seed, poisons outputs and scratch, and renews the guard zones.
    pub(super) fn reset_buffers(&mut self, seed: u64, poison: Poison) -> anyhow::Result<()> {
        let _stage = self.times.stage("fill");
        self.fill_inputs(seed)?;
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if matches!(buffer.role, BufferRole::Output | BufferRole::Scratch { .. }) {
                self.kernel.write(index, &BufferContent::Poison(poison))?;
            }
        }
        Ok(())
    }

    /// Fills the inputs only. The same seed gives every kernel of the task the same data. Stored values are the same for every seed,
    /// except after `turn_stored_inputs`.
    pub(super) fn fill_inputs(&mut self, seed: u64) -> anyhow::Result<()> {
        let _stage = self.times.stage("fill");
        let turn = derive_seed(seed, "first row", 0);
        for (order, (buffer, values)) in self.inputs.iter_mut().enumerate() {
            let seed = derive_seed(seed, "input", order);
            let turned;
            let content = match values {
                InputValues::Drawn(distribution) => BufferContent::Random { distribution, seed },
                InputValues::Stored(StoredInput {
                    tensor,
                    read,
                    turns,
                }) => {
                    let values = match read {
                        Some(values) => values,
                        None => read.insert(self.stored.get(tensor)?),
                    };
                    if *turns {
                        turned = turn_rows(values, &self.plan.buffers[*buffer].shape, turn);
                        BufferContent::Bytes(&turned)
                    } else {
                        BufferContent::Bytes(values)
                    }
                }
            };
            self.kernel.write(*buffer, &content)?;
        }
        Ok(())
    }

    pub(super) fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        let started = Instant::now();
        let outcome = self.kernel.launch(deadline)?;
        let host = self.kernel.host_times();
        (self.times).add_launch(&outcome, 1, started.elapsed(), host);
        Ok(outcome)
    }

    /// Runs the plan `runs` times, as one sample.
    pub(super) fn launch_sample(
        &mut self,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<LaunchOutcome> {
        let started = Instant::now();
        let outcome = self.kernel.launch_sample(runs, deadline)?;
        let host = self.kernel.host_times();
        (self.times).add_launch(&outcome, runs, started.elapsed(), host);
        Ok(outcome)
    }

    /// Runs the plan `runs` times, as one sample in which nothing that a run leaves in this memory reaches the next one. See
    /// `TimedLaunching::launch_erased`.
    pub(super) fn launch_erased(
        &mut self,
        memory: ErasedMemory,
        runs: usize,
        deadline: Duration,
    ) -> anyhow::Result<Option<LaunchOutcome>> {
        let started = Instant::now();
        let outcome = self.kernel.launch_erased(memory, runs, deadline)?;
        if let Some(outcome) = &outcome {
            (self.times).add_launch(outcome, runs, started.elapsed(), &[]);
        }
        Ok(outcome)
    }

    /// Launches the oracle on its current inputs and returns its outputs. `seed`: the inputs' seed, for errors.
    pub(super) fn oracle_outputs(
        &mut self,
        seed: u64,
        deadline: Duration,
    ) -> anyhow::Result<Vec<ExpectedValues>> {
        let copies = self.kernel.copy_count();
        self.is_usable = false;
        let _stage = self.times.stage("oracle");
        if let LaunchOutcome::Fault(refusal) = self.kernel.launch_sample(copies, deadline)? {
            let reason = format!("the oracle failed: {}", refusal.reason);
            return Err(Failure::reference(reason).into());
        }
        self.is_usable = true;
        let mut outputs = Vec::new();
        for buffer in &self.plan.outputs {
            let output = self.kernel.expected_output(*buffer)?;
            if let Some(index) = output.first_not_finite {
                let name = &self.plan.buffers[*buffer].name;
                return Err(Failure::reference(format!(
                    "the oracle's output `{name}` is not finite at element {index}, seed {seed}"
                ))
                .into());
            }
            outputs.push(output.values);
        }
        Ok(outputs)
    }

    /// Like `oracle_outputs`, as numbers. Only for a device that is the host.
    pub(super) fn oracle_values(
        &mut self,
        seed: u64,
        deadline: Duration,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let outputs = self.oracle_outputs(seed, deadline)?.into_iter();
        let values = outputs.map(|expected| match expected {
            ExpectedValues::Host(values) => Ok(values),
            ExpectedValues::OnDevice(_) => {
                anyhow::bail!("the oracle's outputs are not in host memory")
            }
        });
        values.collect()
    }

    /// The elements of a buffer.
    pub(super) fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        self.kernel.values(buffer)
    }

    /// Indices of the input buffers.
    pub(super) fn input_buffers(&self) -> Vec<usize> {
        self.inputs.iter().map(|(buffer, _)| *buffer).collect()
    }

    /// Bytes of all buffers of one copy.
    pub(super) fn buffer_bytes(&self) -> u64 {
        self.plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
    }

    /// Bytes of the inputs and outputs of one copy. They do not depend on the kernel.
    pub(super) fn data_bytes(&self) -> u64 {
        let buffers = self.plan.buffers.iter();
        let data = buffers.filter(|buffer| !matches!(buffer.role, BufferRole::Scratch { .. }));
        data.map(|buffer| buffer.bytes()).sum()
    }

    /// Hashes of all outputs, in the order of the definition.
    pub(super) fn output_hashes(&self) -> anyhow::Result<Vec<u64>> {
        let outputs = self.plan.outputs.iter();
        outputs.map(|buffer| self.kernel.hash(*buffer)).collect()
    }

    /// Compares all outputs of some copies with the expected values. The first output that fails is a finding.
    pub(super) fn compare(
        &self,
        tolerances: &[(String, Tolerance)],
        expected: &[ExpectedValues],
        copies: &[u32],
        seed: u64,
    ) -> JudgeResult<Vec<OutputComparison>> {
        let _stage = self.times.stage("compare");
        let mut comparisons = Vec::new();
        for ((buffer, expected), (name, tolerance)) in
            self.plan.outputs.iter().zip(expected).zip(tolerances)
        {
            let comparison = (self.kernel).compare(*buffer, copies, expected, *tolerance)?;
            let Some(first) = comparison.first else {
                comparisons.push(comparison);
                continue;
            };
            let reason = outside_tolerance(name, &comparison, &first);
            let evidence = Evidence {
                seed: Some(seed),
                index: Some(first.index),
                expected: Some(first.expected),
                found: Some(first.found.to_string()),
                ..self.evidence_about(name)
            };
            return Err(Finding::new(Status::WrongOutput, reason, evidence).into());
        }
        Ok(comparisons)
    }

    /// How all outputs of some copies compare with the expected values, by name.
    pub(super) fn comparisons(
        &self,
        tolerances: &[(String, Tolerance)],
        expected: &[ExpectedValues],
        copies: &[u32],
    ) -> anyhow::Result<Vec<(String, OutputComparison)>> {
        let _stage = self.times.stage("compare");
        let outputs = self.plan.outputs.iter().zip(expected).zip(tolerances);
        let compared = outputs.map(|((buffer, expected), (name, tolerance))| {
            let comparison = (self.kernel).compare(*buffer, copies, expected, *tolerance)?;
            Ok((name.clone(), comparison))
        });
        compared.collect()
    }

    /// Evidence that names a tensor and contains what the kernel has printed.
    pub(super) fn evidence_about(&self, tensor: &str) -> Evidence {
        Evidence {
            tensor: Some(tensor.to_owned()),
            log: Some(self.kernel.printed()).filter(|text| !text.is_empty()),
            ..Evidence::default()
        }
    }

    pub(super) fn buffers_with(&self, role: BufferRole) -> impl Iterator<Item = (usize, &Buffer)> {
        let buffers = self.plan.buffers.iter().enumerate();
        buffers.filter(move |(_, buffer)| buffer.role == role)
    }

    /// Hashes of all inputs that the kernel must not write, by buffer.
    pub(super) fn input_hashes(&self) -> anyhow::Result<Vec<(usize, u64)>> {
        let _stage = self.times.stage("compare inputs");
        let inputs = self.buffers_with(BufferRole::Input);
        let inputs: Vec<usize> = inputs.map(|(index, _)| index).collect();
        let hashes = self.kernel.hash_all(&inputs, None)?;
        Ok(inputs.into_iter().zip(hashes).collect())
    }

    /// Like `input_hashes`, by the inputs' names.
    pub(super) fn input_hashes_by_name(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let hashes = self.input_hashes()?.into_iter();
        Ok(hashes
            .map(|(index, hash)| (self.plan.buffers[index].name.clone(), hash))
            .collect())
    }

    /// Checks that the inputs of some copies are unchanged. `untouched`: the correct hashes by name.
    pub(super) fn check_inputs_unchanged(
        &self,
        untouched: &[(String, u64)],
        copies: &[u32],
    ) -> JudgeResult<()> {
        let _stage = self.times.stage("compare inputs");
        let inputs = self.buffers_with(BufferRole::Input);
        let (inputs, expected): (Vec<usize>, Vec<u64>) = inputs
            .filter_map(|(index, buffer)| {
                let known = untouched.iter().find(|(name, _)| *name == buffer.name);
                known.map(|(_, hash)| (index, *hash))
            })
            .unzip();
        let found = self.kernel.hash_all(&inputs, Some(copies))?;
        for ((index, expected), found) in inputs.iter().zip(expected).zip(found) {
            if found != expected {
                return Err(input_mutated(&self.plan.buffers[*index].name).into());
            }
        }
        Ok(())
    }

    /// Checks that nothing was written that must not be: the guard zones, and the inputs against their earlier hashes.
    pub(super) fn check_guards(&self, hashes: &[(usize, u64)]) -> JudgeResult<()> {
        let _stage = self.times.stage("compare inputs");
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if let Some(offset) = self.kernel.guard_damage(index)? {
                let name = &buffer.name;
                let reason = if offset < 0 {
                    format!("a write {} bytes before the start of `{name}`", -offset)
                } else {
                    format!("a write {offset} bytes past the end of `{name}`")
                };
                let evidence = self.evidence_about(name);
                return Err(Finding::new(Status::OutOfBounds, reason, evidence).into());
            }
        }
        let buffers: Vec<usize> = hashes.iter().map(|(index, _)| *index).collect();
        let after = self.kernel.hash_all(&buffers, None)?;
        for ((index, before), after) in hashes.iter().zip(after) {
            if after != *before {
                return Err(input_mutated(&self.plan.buffers[*index].name).into());
            }
        }
        Ok(())
    }

    /// Starts a stage of the judgement.
    pub(super) fn stage(&self, name: &'static str) -> OpenStage {
        self.times.stage(name)
    }

    /// Checks that no launch left something behind.
    pub(super) fn check_state(&self) -> JudgeResult<()> {
        let (variable, launch) = match self.kernel.persistent_state() {
            PersistentState::Changed { variable, launch } => (variable, launch),
            PersistentState::Unchanged => return Ok(()),
        };
        let reason = format!(
            "launch {launch} left {variable} changed, so the next launch could read it; use `scratch` in the header for memory within a launch"
        );
        let evidence = Evidence {
            variable: Some(variable.trim_matches('`').to_owned()),
            ..Evidence::default()
        };
        Err(Finding::new(Status::Stateful, reason, evidence).into())
    }

    /// Checks that the last sample, whose buffers were filled from these values, wrote only to its own copies: not to outputs, scratch, or
    /// inputs that may be overwritten, of launches that it left out. Fills the inputs again.
    pub(super) fn check_other_copies(&mut self, seed: u64, poison: Poison) -> JudgeResult<()> {
        let times = self.times.clone();
        let _stage = times.stage("look for poison");
        let written = |name: &str, what: &str| {
            let reason =
                format!("`{name}`: {what} written in copies that this launch does not use");
            Finding::new(Status::OutOfBounds, reason, tensor_evidence(name))
        };
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if matches!(buffer.role, BufferRole::Output | BufferRole::Scratch { .. }) {
                let count = self.kernel.written_in_idle_copies(index, poison)?.count;
                if count > 0 {
                    let what = format!("{count} elements were");
                    return Err(written(&buffer.name, &what).into());
                }
            }
        }
        let in_place: Vec<usize> = (self.buffers_with(BufferRole::InPlace))
            .map(|(index, _)| index)
            .collect();
        if in_place.is_empty() {
            return Ok(());
        }
        let launched = self.kernel.launched_copies();
        let copies = 0..self.kernel.copy_count() as u32;
        let idle: Vec<u32> = copies.filter(|copy| !launched.contains(copy)).collect();
        let found = self.kernel.hash_all(&in_place, Some(&idle))?;
        self.fill_inputs(seed)?;
        let filled = self.kernel.hash_all(&in_place, Some(&idle))?;
        match (in_place.iter().zip(found))
            .zip(filled)
            .find(|((_, found), filled)| found != filled)
        {
            Some(((index, _), _)) => Err(written(&self.plan.buffers[*index].name, "it was").into()),
            None => Ok(()),
        }
    }
}

/// The values of a tensor that begin at another row. A row is as long as it can be if there shall be many of them: so a tensor
/// has at least [`MIN_ROWS`] rows, or its rows are elements. All tensors of a case begin at the same share of their rows.
fn turn_rows(values: &[u8], shape: &[u64], turn: u64) -> Vec<u8> {
    let mut rows = 1;
    for size in shape {
        if rows < MIN_ROWS {
            rows *= size;
        }
    }
    let rows = rows.max(1);
    let first = (u128::from(turn) * u128::from(rows)) >> 64;
    let row_bytes = values.len() / rows as usize;
    let (end, start) = values.split_at(first as usize * row_bytes);
    [start, end].concat()
}

/// How an output is outside its tolerance. `first`: the first element that is.
pub(super) fn outside_tolerance(
    output: &str,
    comparison: &OutputComparison,
    first: &Mismatch,
) -> String {
    let share = comparison.failed as f64 / comparison.elements as f64 * 100.0;
    format!(
        "output `{output}`: {} of {} elements ({share:.2} %) are outside the tolerance; element {}: expected {:.6e}, found {:.6e}",
        comparison.failed, comparison.elements, first.index, first.expected, first.found
    )
}

fn input_mutated(input: &str) -> Finding {
    Finding::new(
        Status::InputMutated,
        format!("input `{input}` was written"),
        tensor_evidence(input),
    )
}

pub(super) fn tensor_evidence(tensor: &str) -> Evidence {
    Evidence {
        tensor: Some(tensor.to_owned()),
        ..Evidence::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{MIN_ROWS, turn_rows};

    #[test]
    fn rows_keep_their_order_and_begin_anywhere() {
        let values: Vec<u8> = (0..6).collect();
        assert_eq!(turn_rows(&values, &[6], 0), values);
        assert_eq!(turn_rows(&values, &[6], u64::MAX), [5, 0, 1, 2, 3, 4]);
        // Few rows, so the elements turn.
        assert_eq!(
            turn_rows(&values, &[2, 3], u64::MAX / 2),
            [2, 3, 4, 5, 0, 1]
        );
        for shape in [&[][..], &[1]] {
            assert_eq!(turn_rows(&[7], shape, u64::MAX), [7]);
        }
        assert!(turn_rows(&[], &[0, 4], 7).is_empty());
    }

    #[test]
    fn many_rows_stay_whole() {
        let values: Vec<u8> = (0..MIN_ROWS).flat_map(|row| [row as u8, 200]).collect();
        let turned = turn_rows(&values, &[MIN_ROWS, 2], u64::MAX / 3);
        assert!(turned != values && turned.iter().skip(1).step_by(2).all(|value| *value == 200));
    }
}
