//! One arm with its plan: opened for a case, given fresh inputs, launched, and looked at in every way that a judge needs.

use std::time::Duration;

use super::cases::Case;
use super::{CompiledKernel, Finding, Judge, ReferenceKernel};
use crate::base::Failure;
use crate::device::{
    BoundKernel, BufferContent, Comparison, ExpectedValues, LaunchOutcome, Opened, PersistentState,
    Poison, PoisonCount, Purpose,
};
use crate::kernel::LaunchTarget;
use crate::kernel::plan::{BufferRole, Plan};
use crate::task::{Distribution, Tolerance};
use crate::verdict::{Evidence, Status};

/// For an arm of which no time is wanted.
pub(super) const UNTIMED: Purpose = Purpose::Time {
    copies: 1,
    cache: None,
};

/// An eight-bit output is its poison by chance in one element of sixteen, or of eight where it has two bits of mantissa.
const MAX_CHANCE_POISON: f64 = 0.25;

/// An arm with what is needed to renew and to inspect it.
pub(super) struct CaseKernel {
    pub(super) kernel: Box<dyn BoundKernel>,
    pub(super) plan: Plan,
    /// The distribution of every input, by buffer.
    inputs: Vec<(usize, Distribution)>,
}

/// Whether the judge could look at a kernel's own variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateCoverage {
    Checked,
    Unchecked,
}

impl CaseKernel {
    pub(super) fn open_candidate(
        judge: &Judge<'_>,
        compilation: &CompiledKernel,
        case: &Case,
        purpose: Purpose,
    ) -> anyhow::Result<Result<Self, Finding>> {
        let kernel = &compilation.kernel;
        let bound = kernel
            .variant_for(&case.binding, &judge.limits)
            .and_then(|variant| {
                let values = kernel.tunable_values(variant);
                let target = LaunchTarget {
                    task: judge.task,
                    binding: &case.binding,
                    scalars: &case.scalars(judge.task),
                    limits: &judge.limits,
                    is_oracle: false,
                };
                let plan = kernel.launch_plan(&target, &values)?;
                Ok((values, plan))
            });
        let (values, plan) = match bound {
            Ok(bound) => bound,
            Err(error) => return Ok(Err(error.into())),
        };
        let program = compilation.program(&values)?;
        match judge.device.open(program, &plan, purpose)? {
            Opened::Ready(arm) => Ok(Ok(Self::new(judge, case, arm, plan))),
            Opened::Refused(refusal) => Ok(Err(Finding {
                refusal,
                case: Some(case.id.clone()),
            })),
        }
    }

    pub(super) fn open_reference(
        judge: &Judge<'_>,
        reference: &ReferenceKernel,
        case: &Case,
        oracle: bool,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let broken = |reason: String| {
            let name = if oracle { "oracle" } else { "baseline" };
            Failure::reference(format!(
                "the {name} of task `{}` does not run on `{}`: {reason}",
                judge.task.name, case.id
            ))
        };
        let variant = reference
            .kernel
            .variant_for(&case.binding, &judge.limits)
            .map_err(|error| broken(error.to_string()))?;
        let values = reference.kernel.tunable_values(variant);
        let target = LaunchTarget {
            task: judge.task,
            binding: &case.binding,
            scalars: &case.scalars(judge.task),
            limits: &judge.limits,
            is_oracle: oracle,
        };
        let plan = reference
            .kernel
            .launch_plan(&target, &values)
            .map_err(|error| broken(error.to_string()))?;
        let program = reference
            .programs
            .get(&super::values_key(&values))
            .ok_or_else(|| broken("it was not compiled".to_owned()))?;
        match judge.device.open(program, &plan, purpose)? {
            Opened::Ready(arm) => Ok(Self::new(judge, case, arm, plan)),
            Opened::Refused(refusal) => Err(broken(refusal.reason).into()),
        }
    }

    pub(super) fn new(
        judge: &Judge<'_>,
        case: &Case,
        kernel: Box<dyn BoundKernel>,
        plan: Plan,
    ) -> Self {
        let is_input = |role: BufferRole| matches!(role, BufferRole::Input | BufferRole::InPlace);
        let inputs = plan
            .buffers
            .iter()
            .enumerate()
            .filter(|(_, buffer)| is_input(buffer.role));
        let inputs = inputs
            .map(|(index, buffer)| (index, case.distribution(judge.task, &buffer.name)))
            .collect();
        Self {
            kernel,
            plan,
            inputs,
        }
    }

    /// Fresh inputs from a seed; outputs and scratch poisoned; guard zones renewed.
    pub(super) fn reset_buffers(&mut self, seed: u64, poison: Poison) -> anyhow::Result<()> {
        self.fill_inputs(seed)?;
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if matches!(buffer.role, BufferRole::Output | BufferRole::Scratch { .. }) {
                self.kernel.write(index, &BufferContent::Poison(poison))?;
            }
        }
        Ok(())
    }

    /// Fresh inputs alone.
    pub(super) fn fill_inputs(&mut self, seed: u64) -> anyhow::Result<()> {
        for (order, (buffer, distribution)) in self.inputs.iter().enumerate() {
            // The inputs of all arms come in the definition's order, so that the same seed gives all the same data.
            let seed = super::cases::derive_seed(seed, "input", order);
            self.kernel
                .write(*buffer, &BufferContent::Random { distribution, seed })?;
        }
        Ok(())
    }

    /// Launches the oracle on the inputs that are there, and gives its outputs.
    pub(super) fn oracle_outputs(
        &mut self,
        seed: u64,
        deadline: Duration,
    ) -> anyhow::Result<Vec<ExpectedValues>> {
        let copies = self.kernel.copy_count();
        if let LaunchOutcome::Fault(refusal) = self.kernel.launch_sample(copies, deadline)? {
            let reason = format!("the oracle failed: {}", refusal.reason);
            return Err(Failure::reference(reason).into());
        }
        let mut outputs = Vec::new();
        for buffer in &self.plan.outputs {
            let output = self.kernel.expected_output(*buffer)?;
            if let Some(index) = output.first_not_finite {
                let name = &self.plan.buffers[*buffer].name;
                return Err(Failure::reference(format!(
                    "the oracle's `{name}` is not finite at {index}, seed {seed}"
                ))
                .into());
            }
            outputs.push(output.values);
        }
        Ok(outputs)
    }

    /// The same as numbers, where the device is the host.
    pub(super) fn oracle_values(
        &mut self,
        seed: u64,
        deadline: Duration,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let outputs = self.oracle_outputs(seed, deadline)?.into_iter();
        let values = outputs.map(|expected| match expected {
            ExpectedValues::Host(values) => Ok(values),
            ExpectedValues::OnDevice(_) => anyhow::bail!("the values are on a device"),
        });
        values.collect()
    }

    /// The elements of a buffer.
    pub(super) fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        self.kernel.values(buffer)
    }

    /// The inputs with their distributions, by buffer.
    pub(super) fn inputs(&self) -> &[(usize, Distribution)] {
        &self.inputs
    }

    /// Compares all outputs; the first that fails is a finding.
    pub(super) fn compare(
        &self,
        tolerances: &[(String, Tolerance)],
        expected: &[ExpectedValues],
        copies: &[u32],
        seed: u64,
    ) -> anyhow::Result<Result<Vec<Comparison>, Finding>> {
        let mut comparisons = Vec::new();
        for ((buffer, expected), (name, tolerance)) in
            self.plan.outputs.iter().zip(expected).zip(tolerances)
        {
            let comparison = (self.kernel).compare(*buffer, copies, expected, *tolerance)?;
            if let Some(first) = comparison.first {
                let share = comparison.failed as f64 / comparison.elements as f64 * 100.0;
                let reason = format!(
                    "output `{name}`: {} of {} elements ({share:.2} %) are outside the tolerance; element {}: expected {:.6e}, found {:.6e}",
                    comparison.failed,
                    comparison.elements,
                    first.index,
                    first.expected,
                    first.found
                );
                let evidence = Evidence {
                    seed: Some(seed),
                    tensor: Some(name.clone()),
                    index: Some(first.index),
                    expected: Some(first.expected),
                    found: Some(first.found.to_string()),
                    log: self.printed_output(),
                    ..Evidence::default()
                };
                return Ok(Err(Finding::new(Status::WrongOutput, reason, evidence)));
            }
            comparisons.push(comparison);
        }
        Ok(Ok(comparisons))
    }

    pub(super) fn launch(&mut self, deadline: Duration) -> anyhow::Result<LaunchOutcome> {
        self.kernel.launch(deadline)
    }

    /// All buffers of one copy.
    pub(super) fn buffer_bytes(&self) -> u64 {
        self.plan.buffers.iter().map(|buffer| buffer.bytes()).sum()
    }

    /// The inputs and outputs among them, which do not depend on the kernel.
    pub(super) fn data_bytes(&self) -> u64 {
        let buffers = self.plan.buffers.iter();
        let data = buffers.filter(|buffer| !matches!(buffer.role, BufferRole::Scratch { .. }));
        data.map(|buffer| buffer.bytes()).sum()
    }

    /// What the kernel has printed, for whoever looks for its fault.
    fn printed_output(&self) -> Option<String> {
        Some(self.kernel.printed()).filter(|text| !text.is_empty())
    }

    /// Hashes of all inputs that nothing may write.
    pub(super) fn input_hashes(&self) -> anyhow::Result<Vec<(usize, u64)>> {
        let mut hashes = Vec::new();
        for (index, _) in self
            .plan
            .buffers
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.role == BufferRole::Input)
        {
            hashes.push((index, self.kernel.hash(index)?));
        }
        Ok(hashes)
    }

    /// The same by the inputs' names.
    pub(super) fn input_hashes_by_name(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let hashes = self.input_hashes()?.into_iter();
        Ok(hashes
            .map(|(index, hash)| (self.plan.buffers[index].name.clone(), hash))
            .collect())
    }

    /// Whether an input is not what it was, in these copies; `untouched`: the hashes by name.
    pub(super) fn check_inputs_unchanged(
        &self,
        untouched: &[(String, u64)],
        copies: &[u32],
    ) -> anyhow::Result<Option<Finding>> {
        let buffers = self.plan.buffers.iter().enumerate();
        for (index, buffer) in buffers.filter(|(_, buffer)| buffer.role == BufferRole::Input) {
            let Some((_, hash)) = untouched.iter().find(|(name, _)| *name == buffer.name) else {
                continue;
            };
            if self.kernel.hash_copies(index, copies)? != *hash {
                return Ok(Some(self.input_mutated(index)));
            }
        }
        Ok(None)
    }

    fn input_mutated(&self, buffer: usize) -> Finding {
        let name = &self.plan.buffers[buffer].name;
        let evidence = Evidence {
            tensor: Some(name.clone()),
            ..Evidence::default()
        };
        Finding::new(
            Status::InputMutated,
            format!("input `{name}` was written"),
            evidence,
        )
    }

    /// Whether anything was written that must not be: guard zones, and inputs against their earlier hashes.
    pub(super) fn check_guards(
        &self,
        hashes: &[(usize, u64)],
    ) -> anyhow::Result<Result<(), Finding>> {
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if let Some(offset) = self.kernel.guard_damage(index)? {
                let place = if offset < 0 {
                    format!("{} bytes before the start", -offset)
                } else {
                    format!("{offset} bytes past the end")
                };
                let evidence = Evidence {
                    tensor: Some(buffer.name.clone()),
                    log: self.printed_output(),
                    ..Evidence::default()
                };
                return Ok(Err(Finding::new(
                    Status::OutOfBounds,
                    format!("a write {place} of `{}`", buffer.name),
                    evidence,
                )));
            }
        }
        for (index, before) in hashes {
            if self.kernel.hash(*index)? != *before {
                return Ok(Err(self.input_mutated(*index)));
            }
        }
        Ok(Ok(()))
    }

    /// Whether a launch left something behind in the kernel's own variables.
    pub(super) fn check_state(&self) -> anyhow::Result<Result<StateCoverage, Finding>> {
        let (variable, launch) = match self.kernel.persistent_state() {
            PersistentState::Changed { variable, launch } => (variable, launch),
            PersistentState::Unchanged => return Ok(Ok(StateCoverage::Checked)),
            PersistentState::Unknown => return Ok(Ok(StateCoverage::Unchecked)),
        };
        let reason = format!(
            "launch {launch} left {variable} changed: what one launch writes there the next could read; `scratch` in the header gives memory for one"
        );
        let evidence = Evidence {
            variable: Some(variable.trim_matches('`').to_owned()),
            ..Evidence::default()
        };
        Ok(Err(Finding::new(Status::Stateful, reason, evidence)))
    }

    /// Whether a launch wrote to the outputs of copies that it was not made for.
    pub(super) fn check_other_copies(&self, poison: Poison) -> anyhow::Result<Option<Finding>> {
        let buffers = self.plan.buffers.iter().enumerate();
        for (index, buffer) in buffers.filter(|(_, buffer)| buffer.role == BufferRole::Output) {
            let count = self.kernel.written_in_idle_copies(index, poison)?.count;
            if count > 0 {
                let reason = format!(
                    "output `{}`: {count} elements were written of copies whose launch had yet to come",
                    buffer.name
                );
                let evidence = Evidence {
                    tensor: Some(buffer.name.clone()),
                    ..Evidence::default()
                };
                return Ok(Some(Finding::new(Status::OutOfBounds, reason, evidence)));
            }
        }
        Ok(None)
    }

    /// Whether so much of an output still holds its finite poison that it cannot be by chance, over all copies that were launched.
    pub(super) fn check_mostly_written(&self, poison: Poison) -> anyhow::Result<Option<Finding>> {
        let launched = self.kernel.launched_copies().len() as u64;
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if buffer.role != BufferRole::Output {
                continue;
            }
            let count = self.kernel.unwritten(index, poison)?.count;
            let elements = buffer.elements() * launched;
            if count as f64 > MAX_CHANCE_POISON * elements as f64 {
                let reason = format!(
                    "output `{}`: {count} of {elements} elements were not written",
                    buffer.name
                );
                let evidence = Evidence {
                    tensor: Some(buffer.name.clone()),
                    ..Evidence::default()
                };
                return Ok(Some(Finding::new(
                    Status::OutputUnwritten,
                    reason,
                    evidence,
                )));
            }
        }
        Ok(None)
    }

    /// Whether an output still holds its poison somewhere.
    pub(super) fn check_fully_written(&self, poison: Poison) -> anyhow::Result<Option<Finding>> {
        for (index, buffer) in self
            .plan
            .buffers
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.role == BufferRole::Output)
        {
            let PoisonCount { count, first } = self.kernel.unwritten(index, poison)?;
            if count > 0 {
                let reason = format!(
                    "output `{}`: {count} of {} elements were not written",
                    buffer.name,
                    buffer.elements()
                );
                let evidence = Evidence {
                    tensor: Some(buffer.name.clone()),
                    index: first,
                    log: self.printed_output(),
                    ..Evidence::default()
                };
                return Ok(Some(Finding::new(
                    Status::OutputUnwritten,
                    reason,
                    evidence,
                )));
            }
        }
        Ok(None)
    }
}
