//! Finds elements of outputs that a kernel did not write: they still hold the poison from before the launch.
//!
//! One pattern alone proves nothing, because a kernel can compute the same bits. Nothing here launches a kernel.

use super::case_kernel::{CaseKernel, tensor_evidence};
use super::finding::{Finding, JudgeResult};
use crate::device::{Poison, numerics};
use crate::kernel::plan::BufferRole;
use crate::verdict::{Evidence, Status};

/// Maximum share of an output's elements that may equal their finite poison by chance. For an 8-bit type it is about one element in
/// sixteen, or one in eight if the type has two bits of mantissa.
const MAX_CHANCE_POISON: f64 = 0.25;

/// For each output, which of its elements hold their poison.
pub(super) type UnwrittenElements = Vec<Vec<bool>>;

impl CaseKernel {
    /// Checks that no output holds more of its finite poison than it can by chance, over all copies of the last launch.
    pub(super) fn check_mostly_written(&self, poison: Poison) -> JudgeResult<()> {
        let launched = self.kernel.launched_copies().len() as u64;
        for (index, buffer) in self.buffers_with(BufferRole::Output) {
            let count = self.kernel.unwritten(index, poison)?.count;
            let elements = buffer.elements() * launched;
            if count as f64 > MAX_CHANCE_POISON * elements as f64 {
                let reason = not_written(&buffer.name, count, elements);
                let evidence = tensor_evidence(&buffer.name);
                return Err(Finding::new(Status::OutputUnwritten, reason, evidence).into());
            }
        }
        Ok(())
    }

    /// Whether an output still holds its poison somewhere. An element can be correct and equal its poison by chance.
    pub(super) fn has_poison(&self, poison: Poison) -> anyhow::Result<bool> {
        let _stage = self.stage("look for poison");
        for (index, _) in self.buffers_with(BufferRole::Output) {
            if self.kernel.unwritten(index, poison)?.count > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// For each output, which elements of its first copy hold their poison.
    pub(super) fn unwritten_elements(&self, poison: Poison) -> anyhow::Result<UnwrittenElements> {
        let outputs = self.buffers_with(BufferRole::Output);
        outputs
            .map(|(index, buffer)| {
                let memory = self.kernel.bytes(index)?;
                Ok(numerics::unwritten_elements(buffer.dtype, &memory, poison))
            })
            .collect()
    }

    /// The finding about the first output with elements that held their poison in two launches, over different patterns.
    pub(super) fn always_unwritten(
        &self,
        first: &UnwrittenElements,
        second: &UnwrittenElements,
    ) -> Option<Finding> {
        let launches = first.iter().zip(second);
        let mut outputs = self.buffers_with(BufferRole::Output).zip(launches);
        outputs.find_map(|((_, buffer), (first, second))| {
            let both = first.iter().zip(second).enumerate();
            let mut unwritten = both.filter(|(_, (first, second))| **first && **second);
            let (index, _) = unwritten.next()?;
            let count = 1 + unwritten.count() as u64;
            let reason = not_written(&buffer.name, count, buffer.elements());
            let evidence = Evidence {
                index: Some(index as u64),
                ..self.evidence_about(&buffer.name)
            };
            Some(Finding::new(Status::OutputUnwritten, reason, evidence))
        })
    }
}

fn not_written(output: &str, count: u64, elements: u64) -> String {
    format!("output `{output}`: {count} of {elements} elements were not written")
}
