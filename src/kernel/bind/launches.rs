//! The launches of a plan, with their sizes and arguments.
//!
//! Checks the shared memory of the device, and the limits of every architecture since sm_30. The device checks the rest.

use super::names::Names;
use super::target::{BindError, BindFault, LaunchTarget};
use crate::kernel::constants::Constant;
use crate::kernel::header::{ArgumentHeader, FloatHeader, Header, LaunchHeader, LocatedExpression};
use crate::kernel::plan::{Argument, ArgumentType, Buffer, Launch};
use crate::task::{DType, Task};

const MAX_GRID: [i64; 3] = [i32::MAX as i64, 65_535, 65_535];
const MAX_BLOCK: [i64; 3] = [1024, 1024, 64];
/// The most threads of a block.
pub(in crate::kernel) const MAX_BLOCK_THREADS: u32 = 1024;
const MAX_CLUSTER: [i64; 3] = [16, 16, 16];

/// The launches whose `when` holds, in the header's order. At least one must be left.
pub(super) fn bind(
    header: &Header,
    target: &LaunchTarget<'_>,
    names: &Names<'_>,
    buffers: &[Buffer],
) -> Result<Vec<Launch>, BindError> {
    let mut launches = Vec::new();
    for (entry_point, launch) in header.launches.iter().enumerate() {
        if let Some(when) = &launch.when
            && names.evaluate(when)? == 0
        {
            continue;
        }
        let arguments = launch
            .arguments
            .iter()
            .map(|argument| bind_argument(header, argument, target, names, buffers))
            .collect::<Result<_, _>>()?;
        launches.push(bind_launch(launch, entry_point, arguments, names)?);
    }
    if launches.is_empty() {
        return Err(BindError {
            fault: BindFault::Rejected,
            line: header.launches.first().map_or(1, |launch| launch.line),
            message: "every launch is left out by its `when`".to_owned(),
        });
    }
    Ok(launches)
}

fn bind_launch(
    launch: &LaunchHeader,
    entry_point: usize,
    arguments: Vec<Argument>,
    names: &Names<'_>,
) -> Result<Launch, BindError> {
    let grid = bind_extent(&launch.grid, MAX_GRID, "grid", names)?;
    let block = bind_extent(&launch.block, MAX_BLOCK, "block", names)?;
    let threads: u32 = block.iter().product();
    if threads > MAX_BLOCK_THREADS {
        return Err(launch_error(
            launch.block[0].line,
            format!("a block of {threads} threads: expected at most {MAX_BLOCK_THREADS}"),
        ));
    }
    let shared = match &launch.shared {
        Some(shared) => bind_shared(shared, names)?,
        None => 0,
    };
    let cluster = if launch.cluster.is_empty() {
        None
    } else {
        Some(bind_extent(&launch.cluster, MAX_CLUSTER, "cluster", names)?)
    };
    Ok(Launch {
        entry_point,
        grid,
        block,
        shared,
        cluster,
        cooperative: launch.cooperative,
        overlap: launch.overlap,
        arguments,
    })
}

/// One to three sizes; missing ones are 1.
fn bind_extent(
    sizes: &[LocatedExpression],
    max: [i64; 3],
    key: &str,
    names: &Names<'_>,
) -> Result<[u32; 3], BindError> {
    let mut extent = [1u32; 3];
    for (index, (located, max)) in sizes.iter().zip(max).enumerate() {
        let size = names.evaluate(located)?;
        if size < 1 || size > max {
            let number = index + 1;
            return Err(launch_error(
                located.line,
                format!("`{key}`, size {number}: expected 1 to {max}, found {size}"),
            ));
        }
        extent[index] = size as u32;
    }
    Ok(extent)
}

/// The dynamic shared memory of a launch, in bytes.
fn bind_shared(shared: &LocatedExpression, names: &Names<'_>) -> Result<u32, BindError> {
    let bytes = names.evaluate(shared)?;
    let max = names.limits.max_shared_bytes;
    if bytes < 0 || bytes > max {
        return Err(launch_error(
            shared.line,
            format!("`shared`: expected 0 to {max} bytes, found {bytes}"),
        ));
    }
    Ok(bytes as u32)
}

fn bind_argument(
    header: &Header,
    argument: &ArgumentHeader,
    target: &LaunchTarget<'_>,
    names: &Names<'_>,
    buffers: &[Buffer],
) -> Result<Argument, BindError> {
    Ok(match argument {
        ArgumentHeader::Tensor(name) => target
            .buffer_index(buffers, name)
            .map_or(Argument::Null, Argument::Buffer),
        ArgumentHeader::Scalar(name) => {
            let value = target.scalars.get(name).copied().unwrap_or_default();
            Argument::Scalar(scalar_dtype(target.task, name), value)
        }
        ArgumentHeader::TensorMap(name) => {
            Argument::TensorMap(header.tensor_maps.get_index_of(name).unwrap_or(0))
        }
        ArgumentHeader::I32(located) => {
            Argument::I32(fit_integer(names.evaluate(located)?, located, "i32")?)
        }
        ArgumentHeader::U32(located) => {
            Argument::U32(fit_integer(names.evaluate(located)?, located, "u32")?)
        }
        ArgumentHeader::I64(located) => Argument::I64(names.evaluate(located)?),
        ArgumentHeader::Integer(located) => {
            let value: i32 = fit_integer(names.evaluate(located)?, located, "i32")?;
            Argument::Integer(i64::from(value))
        }
        ArgumentHeader::Float(dtype, FloatHeader::Number(value)) => {
            Argument::Scalar(*dtype, *value)
        }
        ArgumentHeader::Float(dtype, FloatHeader::Expression(located)) => {
            Argument::Scalar(*dtype, names.evaluate(located)? as f64)
        }
        ArgumentHeader::Constant(constant) => match *constant {
            Constant::Integer(value) => Argument::Integer(value),
            Constant::Float(value) => Argument::Float(value),
            Constant::Bool(value) => Argument::Integer(i64::from(value)),
            Constant::Null => Argument::Null,
        },
    })
}

/// The C++ type of an argument. `is_oracle`: outputs are `double`.
pub(super) fn argument_type(
    header: &Header,
    task: &Task,
    argument: &ArgumentHeader,
    is_oracle: bool,
) -> ArgumentType {
    match argument {
        ArgumentHeader::Tensor(name) => {
            let definition = &task.definition;
            let output = definition.outputs.get(name).map(|tensor| {
                if is_oracle {
                    DType::Float64
                } else {
                    tensor.dtype
                }
            });
            let input = definition.inputs.get(name).map(|tensor| tensor.dtype);
            let scratch = header.scratch.get(name).map(|scratch| scratch.dtype);
            ArgumentType::Pointer(output.or(input).or(scratch).unwrap_or(DType::Float32))
        }
        ArgumentHeader::Scalar(name) => ArgumentType::Scalar(scalar_dtype(task, name)),
        ArgumentHeader::TensorMap(_) => ArgumentType::TensorMap,
        ArgumentHeader::I32(_) => ArgumentType::I32,
        ArgumentHeader::U32(_) => ArgumentType::U32,
        ArgumentHeader::I64(_) => ArgumentType::I64,
        ArgumentHeader::Integer(_) => ArgumentType::Integer,
        ArgumentHeader::Float(dtype, _) => ArgumentType::Scalar(*dtype),
        ArgumentHeader::Constant(constant) => match *constant {
            Constant::Integer(value) => ArgumentType::IntegerConstant(value),
            Constant::Float(_) => ArgumentType::FloatConstant,
            Constant::Bool(_) => ArgumentType::BoolConstant,
            Constant::Null => ArgumentType::Null,
        },
    }
}

fn scalar_dtype(task: &Task, name: &str) -> DType {
    let input = task.definition.inputs.get(name);
    input.map_or(DType::Float32, |tensor| tensor.dtype)
}

fn fit_integer<T: TryFrom<i64>>(
    value: i64,
    located: &LocatedExpression,
    kind: &str,
) -> Result<T, BindError> {
    T::try_from(value).map_err(|_| {
        let text = located.expression.text();
        launch_error(
            located.line,
            format!("argument `{text}` is {value}, which does not fit {kind}: use `i64(…)`"),
        )
    })
}

fn launch_error(line: u32, message: String) -> BindError {
    BindError {
        fault: BindFault::LaunchError,
        line,
        message,
    }
}
