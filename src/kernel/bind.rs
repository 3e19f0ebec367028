//! From a header and a workload's axes to what a device compiles and launches, with every limit checked first.

use std::fmt;

use indexmap::IndexMap;

use super::header::{ArgumentHeader, LaunchHeader, LocatedExpression};
use super::plan::{
    Argument, ArgumentType, Buffer, BufferRole, EntryPoint, Launch, Plan, TensorMap,
    TranslationUnit,
};
use super::{Kernel, syntax};
use crate::task::{Binding, DType, Task};

/// The most memory that one arm may take, in bytes: beyond it a shape is refused rather than left to the system to kill.
const MAX_BUFFER_BYTES: u64 = 16 << 30;
/// Of a tensor map.
const MAX_TENSOR_MAP_DIMS: usize = 5;
const SWIZZLES: [u32; 4] = [0, 32, 64, 128];

/// What expressions may know about the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    pub sm_count: i64,
    /// The most shared memory that a block can have.
    pub max_shared_bytes: i64,
}

/// The values of scalar inputs, by name.
pub type Scalars = IndexMap<String, f64>;

/// Why a kernel cannot be launched on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError {
    pub fault: BindFault,
    pub line: u32,
    pub message: String,
}

/// What kind of fault it is; the judge's statuses have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindFault {
    /// The header makes no sense on this shape.
    Rejected,
    /// No device would take the launch.
    LaunchError,
    /// Too much memory.
    LimitExceeded,
}

impl fmt::Display for BindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.message)
    }
}

impl Kernel {
    /// The variant in force under a binding: the first whose condition holds.
    pub fn variant_for(
        &self,
        binding: &Binding,
        machine: &DeviceLimits,
    ) -> Result<Option<usize>, BindError> {
        let point = self.point();
        for (index, variant) in self.header.variants.iter().enumerate() {
            if evaluate(&variant.when, binding, &point, machine)? != 0 {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The tunables' values under a variant, or where none holds.
    pub fn tunable_values(&self, variant: Option<usize>) -> IndexMap<String, i64> {
        let mut values = self.point();
        if let Some(variant) = variant.and_then(|index| self.header.variants.get(index)) {
            values.extend(
                variant
                    .values
                    .iter()
                    .map(|(name, value)| (name.clone(), *value)),
            );
        }
        values
    }

    /// The translation unit under some values. `oracle`: outputs are `double` whatever their dtype.
    pub fn translation_unit(
        &self,
        task: &Task,
        values: &IndexMap<String, i64>,
        oracle: bool,
    ) -> TranslationUnit {
        let entries = self.header.launches.iter().map(|launch| EntryPoint {
            expression: launch.kernel.clone(),
            arguments: launch
                .arguments
                .iter()
                .map(|argument| self.argument_type(task, argument, oracle))
                .collect(),
            line: launch.line,
        });
        let constants = task
            .definition
            .constants()
            .map(|(name, value)| (name.to_uppercase(), value));
        TranslationUnit {
            source: self.text.clone(),
            constants: constants
                .filter(|(name, _)| !syntax::declares_at_namespace_scope(&self.text, name))
                .collect(),
            macros: values
                .iter()
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
            entry_points: entries.collect(),
            fast_math: self.header.compile.fast_math,
            max_registers: self.header.compile.max_registers,
            arch: self.header.compile.arch.clone(),
        }
    }

    /// Every buffer and every launch of one workload.
    pub fn launch_plan(
        &self,
        task: &Task,
        binding: &Binding,
        values: &IndexMap<String, i64>,
        scalars: &Scalars,
        machine: &DeviceLimits,
        oracle: bool,
    ) -> Result<Plan, BindError> {
        let buffers = self.bind_buffers(task, binding, values, machine, oracle)?;
        let index_of = |name: &str| buffers.iter().position(|buffer| buffer.name == name);
        let aliased = |output: &str| {
            if oracle {
                None
            } else {
                task.settings.in_place.get(output)
            }
        };
        let outputs = task
            .definition
            .outputs
            .keys()
            .filter_map(|output| index_of(aliased(output).unwrap_or(output)))
            .collect();
        let mut launches = Vec::new();
        for (entry, launch) in self.header.launches.iter().enumerate() {
            let value = |placed: &LocatedExpression| evaluate(placed, binding, values, machine);
            if let Some(when) = &launch.when
                && value(when)? == 0
            {
                continue;
            }
            let mut arguments = Vec::new();
            for argument in &launch.arguments {
                arguments.push(match argument {
                    ArgumentHeader::Tensor(name) => {
                        index_of(aliased(name).map_or(name.as_str(), String::as_str))
                            .map_or(Argument::Null, Argument::Buffer)
                    }
                    ArgumentHeader::Scalar(name) => {
                        let dtype = task
                            .definition
                            .inputs
                            .get(name)
                            .map_or(DType::Float32, |tensor| tensor.dtype);
                        Argument::Scalar(dtype, scalars.get(name).copied().unwrap_or_default())
                    }
                    ArgumentHeader::TensorMap(name) => {
                        Argument::TensorMap(self.header.tensor_maps.get_index_of(name).unwrap_or(0))
                    }
                    ArgumentHeader::I32(placed) => {
                        Argument::I32(fit_integer(value(placed)?, placed, "i32")?)
                    }
                    ArgumentHeader::U32(placed) => {
                        Argument::U32(fit_integer(value(placed)?, placed, "u32")?)
                    }
                    ArgumentHeader::I64(placed) => Argument::I64(value(placed)?),
                });
            }
            launches.push(bind_launch(launch, entry, arguments, &value, machine)?);
        }
        if launches.is_empty() {
            let line = self.header.launches.first().map_or(1, |launch| launch.line);
            return Err(BindError {
                fault: BindFault::Rejected,
                line,
                message: "no launch's `when` holds".to_owned(),
            });
        }
        let buffer_of = |name: &str| index_of(aliased(name).map_or(name, String::as_str));
        let tensor_maps = self.bind_tensor_maps(&buffers, &buffer_of, &|placed| {
            evaluate(placed, binding, values, machine)
        })?;
        Ok(Plan {
            buffers,
            launches,
            outputs,
            tensor_maps,
        })
    }

    fn bind_tensor_maps(
        &self,
        buffers: &[Buffer],
        buffer_of: &dyn Fn(&str) -> Option<usize>,
        value: &dyn Fn(&LocatedExpression) -> Result<i64, BindError>,
    ) -> Result<Vec<TensorMap>, BindError> {
        let mut maps = Vec::new();
        for (name, map) in &self.header.tensor_maps {
            let refuse = |message: String| BindError {
                fault: BindFault::LaunchError,
                line: map.line,
                message: format!("tensor map `{name}`: {message}"),
            };
            let sizes = |list: &[LocatedExpression], most: i64, what: &str| {
                let size = |placed| {
                    let size = value(placed)?;
                    match (1..=most).contains(&size) {
                        true => Ok(size as u64),
                        false => Err(refuse(format!(
                            "{what}: expected 1 to {most}, found {size}"
                        ))),
                    }
                };
                list.iter().map(size).collect::<Result<Vec<u64>, _>>()
            };
            // The driver reads as many sizes as there are dims, whatever the lists hold.
            let lengths = [map.dims.len(), map.strides.len() + 1, map.tile.len()];
            if lengths != [map.dims.len(); 3] || map.dims.len() > MAX_TENSOR_MAP_DIMS {
                let [dims, strides, tile] = [&map.dims, &map.strides, &map.tile].map(Vec::len);
                return Err(BindError {
                    fault: BindFault::Rejected,
                    ..refuse(format!(
                        "{dims} dims, {strides} strides and {tile} sizes of the box: expected 1 to {MAX_TENSOR_MAP_DIMS} dims, innermost first, a stride for each but the first, and a size of the box for each"
                    ))
                });
            }
            if !SWIZZLES.contains(&map.swizzle) {
                return Err(BindError {
                    fault: BindFault::Rejected,
                    ..refuse(format!(
                        "`swizzle`: expected 0, 32, 64 or 128, found {}",
                        map.swizzle
                    ))
                });
            }
            let buffer = buffer_of(&map.of);
            let buffer = buffer.ok_or_else(|| refuse(format!("`{}` is not there", map.of)))?;
            let dims = sizes(&map.dims, 1 << 32, "a dim")?;
            let strides = sizes(&map.strides, 1 << 40, "a stride")?;
            let tile = sizes(&map.tile, 256, "a size of the box")?;
            // All that the map can reach must be the buffer's: the hardware checks nothing else.
            let reach = dims.iter().skip(1).zip(&strides);
            let reach = reach.map(|(size, stride)| (size - 1).saturating_mul(*stride));
            let row = dims.first().copied().unwrap_or(1) * buffers[buffer].dtype.bytes();
            let reach = reach.fold(row, u64::saturating_add);
            let bytes = buffers[buffer].bytes();
            if reach > bytes {
                return Err(refuse(format!(
                    "it reaches {reach} bytes into `{}`, which has {bytes}",
                    map.of
                )));
            }
            maps.push(TensorMap {
                name: name.clone(),
                buffer,
                dims,
                strides,
                tile: tile.into_iter().map(|size| size as u32).collect(),
                swizzle: map.swizzle,
            });
        }
        Ok(maps)
    }

    fn bind_buffers(
        &self,
        task: &Task,
        binding: &Binding,
        values: &IndexMap<String, i64>,
        machine: &DeviceLimits,
        oracle: bool,
    ) -> Result<Vec<Buffer>, BindError> {
        let refuse = |line: u32, message: String| BindError {
            fault: BindFault::LimitExceeded,
            line,
            message,
        };
        let in_place = |input: &String| {
            !oracle
                && task
                    .settings
                    .in_place
                    .values()
                    .any(|aliased| aliased == input)
        };
        let mut buffers = Vec::new();
        for (name, tensor) in task
            .definition
            .inputs
            .iter()
            .filter(|(_, tensor)| tensor.shape.is_some())
        {
            let shape = binding
                .shape(tensor)
                .map_err(|failure| refuse(1, failure.message))?;
            let role = if in_place(name) {
                BufferRole::InPlace
            } else {
                BufferRole::Input
            };
            buffers.push(Buffer {
                name: name.clone(),
                role,
                dtype: tensor.dtype,
                shape,
            });
        }
        for (name, tensor) in &task.definition.outputs {
            if !oracle && task.settings.in_place.contains_key(name) {
                continue;
            }
            let shape = binding
                .shape(tensor)
                .map_err(|failure| refuse(1, failure.message))?;
            let dtype = if oracle { DType::Float64 } else { tensor.dtype };
            buffers.push(Buffer {
                name: name.clone(),
                role: BufferRole::Output,
                dtype,
                shape,
            });
        }
        for (name, scratch) in &self.header.scratch {
            let mut shape = Vec::new();
            for size in &scratch.shape {
                let value = evaluate(size, binding, values, machine)?;
                let size = u64::try_from(value).ok().filter(|size| *size > 0);
                shape.push(size.ok_or_else(|| BindError {
                    fault: BindFault::Rejected,
                    line: scratch.shape[0].line,
                    message: format!("scratch `{name}`: a size is {value}, expected at least 1"),
                })?);
            }
            buffers.push(Buffer {
                name: name.clone(),
                role: BufferRole::Scratch { zero: scratch.zero },
                dtype: scratch.dtype,
                shape,
            });
        }
        let total = buffers.iter().try_fold(0u64, |total, buffer| {
            let bytes = buffer
                .shape
                .iter()
                .try_fold(buffer.dtype.bytes(), |bytes, size| bytes.checked_mul(*size))?;
            total.checked_add(bytes)
        });
        if total.is_none_or(|total| total > MAX_BUFFER_BYTES) {
            return Err(refuse(
                1,
                format!("the buffers take more than {} GiB", MAX_BUFFER_BYTES >> 30),
            ));
        }
        Ok(buffers)
    }

    fn argument_type(&self, task: &Task, argument: &ArgumentHeader, oracle: bool) -> ArgumentType {
        let definition = &task.definition;
        match argument {
            ArgumentHeader::Tensor(name) => {
                let output = definition
                    .outputs
                    .get(name)
                    .map(|tensor| if oracle { DType::Float64 } else { tensor.dtype });
                let input = definition.inputs.get(name).map(|tensor| tensor.dtype);
                let scratch = self.header.scratch.get(name).map(|scratch| scratch.dtype);
                ArgumentType::Pointer(output.or(input).or(scratch).unwrap_or(DType::Float32))
            }
            ArgumentHeader::Scalar(name) => ArgumentType::Scalar(
                definition
                    .inputs
                    .get(name)
                    .map_or(DType::Float32, |tensor| tensor.dtype),
            ),
            ArgumentHeader::TensorMap(_) => ArgumentType::TensorMap,
            ArgumentHeader::I32(_) => ArgumentType::I32,
            ArgumentHeader::U32(_) => ArgumentType::U32,
            ArgumentHeader::I64(_) => ArgumentType::I64,
        }
    }
}

fn bind_launch(
    launch: &LaunchHeader,
    entry: usize,
    arguments: Vec<Argument>,
    value: &dyn Fn(&LocatedExpression) -> Result<i64, BindError>,
    machine: &DeviceLimits,
) -> Result<Launch, BindError> {
    let extent = |parts: &[LocatedExpression], limits: [i64; 3], name: &str| {
        let mut sizes = [1u32; 3];
        for (index, part) in parts.iter().take(3).enumerate() {
            let size = value(part)?;
            if size < 1 || size > limits[index] {
                let message = format!(
                    "`{name}`, size {}: expected 1 to {}, found {size}",
                    index + 1,
                    limits[index]
                );
                return Err(BindError {
                    fault: BindFault::LaunchError,
                    line: part.line,
                    message,
                });
            }
            sizes[index] = size as u32;
        }
        Ok(sizes)
    };
    // The limits of every architecture since sm_30.
    let grid = extent(&launch.grid, [i64::from(i32::MAX), 65_535, 65_535], "grid")?;
    let block = extent(&launch.block, [1024, 1024, 64], "block")?;
    let threads: u32 = block.iter().product();
    if threads > 1024 {
        let message = format!("a block of {threads} threads: expected at most 1024");
        return Err(BindError {
            fault: BindFault::LaunchError,
            line: launch.block[0].line,
            message,
        });
    }
    let shared = launch
        .shared
        .as_ref()
        .map(|shared| Ok((value(shared)?, shared.line)))
        .transpose()?;
    if let Some((bytes, line)) =
        shared.filter(|(bytes, _)| *bytes < 0 || *bytes > machine.max_shared_bytes)
    {
        let message = format!(
            "`shared`: expected 0 to {} bytes, found {bytes}",
            machine.max_shared_bytes
        );
        return Err(BindError {
            fault: BindFault::LaunchError,
            line,
            message,
        });
    }
    let cluster = if launch.cluster.is_empty() {
        None
    } else {
        Some(extent(&launch.cluster, [16, 16, 16], "cluster")?)
    };
    Ok(Launch {
        entry_point: entry,
        grid,
        block,
        shared: shared.map_or(0, |(bytes, _)| bytes as u32),
        cluster,
        cooperative: launch.cooperative,
        overlap: launch.overlap,
        arguments,
    })
}

fn evaluate(
    placed: &LocatedExpression,
    binding: &Binding,
    values: &IndexMap<String, i64>,
    machine: &DeviceLimits,
) -> Result<i64, BindError> {
    let value_of = |name: &str| match name {
        "sm_count" => Some(machine.sm_count),
        "max_shared_bytes" => Some(machine.max_shared_bytes),
        _ => values.get(name).or_else(|| binding.axes.get(name)).copied(),
    };
    placed
        .expression
        .evaluate(&value_of)
        .map_err(|error| BindError {
            fault: BindFault::Rejected,
            line: placed.line,
            message: format!("expression `{}`: {error}", placed.expression.text()),
        })
}

fn fit_integer<T: TryFrom<i64>>(
    value: i64,
    placed: &LocatedExpression,
    kind: &str,
) -> Result<T, BindError> {
    T::try_from(value).map_err(|_| BindError {
        fault: BindFault::LaunchError,
        line: placed.line,
        message: format!(
            "argument `{}` is {value}, which does not fit {kind}: use `i64(…)`",
            placed.expression.text()
        ),
    })
}
