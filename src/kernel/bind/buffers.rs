//! The buffers of a launch plan: inputs, outputs and scratch, in this order.

use super::names::Names;
use super::target::{BindError, BindFault, LaunchTarget};
use crate::kernel::header::{Header, ScratchHeader};
use crate::kernel::plan::{Buffer, BufferRole};
use crate::task::{DType, Tensor};

/// The most memory for the buffers of one kernel. A larger shape is refused here, before the operating system kills the process.
const MAX_BUFFER_BYTES: u64 = 16 << 30;
/// The same for an oracle, whose outputs are in double precision.
const MAX_ORACLE_BYTES: u64 = 2 * MAX_BUFFER_BYTES;

/// The buffers of a kernel. Inputs without a shape have none, and neither have outputs that overwrite an input.
pub(super) fn bind(
    header: &Header,
    target: &LaunchTarget<'_>,
    names: &Names<'_>,
) -> Result<Vec<Buffer>, BindError> {
    let task = target.task;
    let in_place = (!target.is_oracle).then_some(&task.settings.in_place);
    let is_overwritten =
        |input: &String| in_place.is_some_and(|pairs| pairs.values().any(|other| other == input));
    let mut buffers = Vec::new();
    for (name, tensor) in &task.definition.inputs {
        if tensor.shape.is_none() {
            continue;
        }
        let role = if is_overwritten(name) {
            BufferRole::InPlace
        } else {
            BufferRole::Input
        };
        buffers.push(Buffer {
            name: name.clone(),
            role,
            dtype: tensor.dtype,
            shape: tensor_shape(target, tensor)?,
        });
    }
    for (name, tensor) in &task.definition.outputs {
        if in_place.is_some_and(|pairs| pairs.contains_key(name)) {
            continue;
        }
        buffers.push(Buffer {
            name: name.clone(),
            role: BufferRole::Output,
            dtype: if target.is_oracle {
                DType::Float64
            } else {
                tensor.dtype
            },
            shape: tensor_shape(target, tensor)?,
        });
    }
    for (name, scratch) in &header.scratch {
        buffers.push(Buffer {
            name: name.clone(),
            role: BufferRole::Scratch { zero: scratch.zero },
            dtype: scratch.dtype,
            shape: scratch_shape(names, name, scratch)?,
        });
    }
    let max = if target.is_oracle {
        MAX_ORACLE_BYTES
    } else {
        MAX_BUFFER_BYTES
    };
    check_total(&buffers, max)?;
    Ok(buffers)
}

fn tensor_shape(target: &LaunchTarget<'_>, tensor: &Tensor) -> Result<Vec<u64>, BindError> {
    target
        .binding
        .shape(tensor)
        .map_err(|failure| too_large(failure.message))
}

fn scratch_shape(
    names: &Names<'_>,
    name: &str,
    scratch: &ScratchHeader,
) -> Result<Vec<u64>, BindError> {
    let size = |located| {
        let value = names.evaluate(located)?;
        let size = u64::try_from(value).ok().filter(|size| *size > 0);
        size.ok_or_else(|| BindError {
            fault: BindFault::Rejected,
            line: scratch.shape[0].line,
            message: format!("scratch `{name}`: a size is {value}, expected at least 1"),
        })
    };
    scratch.shape.iter().map(size).collect()
}

/// Sizes may be so large that their product does not fit 64 bits.
fn check_total(buffers: &[Buffer], max: u64) -> Result<(), BindError> {
    let total = buffers.iter().try_fold(0u64, |total, buffer| {
        let mut sizes = buffer.shape.iter();
        let bytes = sizes.try_fold(buffer.dtype.bytes(), |bytes, size| bytes.checked_mul(*size))?;
        total.checked_add(bytes)
    });
    if total.is_none_or(|total| total > max) {
        let max = max >> 30;
        return Err(too_large(format!("the buffers take more than {max} GiB")));
    }
    Ok(())
}

fn too_large(message: String) -> BindError {
    BindError {
        fault: BindFault::LimitExceeded,
        line: 1,
        message,
    }
}
