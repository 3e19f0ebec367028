//! The least time that a device allows for a case, from the work that its task declares.
//!
//! Pure: measures nothing. Decides nothing either; `features` and the stages compare times with it.

use super::case::Case;
use super::context::JudgeContext;
use crate::base::expression::Expression;
use crate::device::{Cache, CompulsoryWork, Floor};
use crate::task::{DType, Tensor};

/// The least time that the device allows for a run of a case with cold caches; `None` if it is unknown or the caches are hot. `runs`:
/// per sample.
pub(super) fn cold_floor(context: &JudgeContext<'_>, case: &Case, runs: usize) -> Option<Floor> {
    if context.options.cache == Cache::Hot {
        return None;
    }
    let axis = |name: &str| case.binding.axes.get(name).copied();
    let amount = |expression: &Expression| Some(expression.evaluate(&axis).ok()? as f64);
    let (bytes, operations) = (amount(&context.task.bytes)?, amount(&context.task.flops)?);
    let definition = &context.task.definition;
    let tensors = || (definition.inputs.values()).chain(definition.outputs.values());
    let is_eight_bit = |tensor: &Tensor| tensor.dtype.bytes() == 1 && tensor.dtype != DType::Bool;
    let is_narrow = |tensor: &Tensor| tensor.dtype.is_float() && tensor.dtype.bytes() < 4;
    let uses_eight_bits = tensors().any(is_eight_bit);
    context.device.floor(CompulsoryWork {
        bytes,
        // Tensor cores do twice as many 8-bit operations as 16-bit operations.
        operations: if uses_eight_bits {
            operations / 2.0
        } else {
            operations
        },
        runs,
        on_tensor_cores: uses_eight_bits || tensors().any(is_narrow),
    })
}
