//! What host code needs to launch a kernel: its programs, the sizes that a caller gives, and the tensors.
//!
//! Made from a kernel and its task alone. Evaluates no expression, because the sizes are known only to the caller of an export.

use indexmap::{IndexMap, IndexSet};

use super::refusal::refuse;
use crate::base::Failure;
use crate::base::expression::Expression;
use crate::kernel::plan::TranslationUnit;
use crate::kernel::{ArgumentHeader, FloatHeader, Kernel, LocatedExpression};
use crate::task::{AxisKind, Task, Tensor};

/// A kernel, its task, and what follows from both.
pub(super) struct HostPlan<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) task: &'a Task,
    /// What exported functions and files are called.
    pub(super) name: &'a str,
    /// All axes that the launches or the tensors need, in the definition's order; computed ones behind those that they need.
    pub(super) axes: Vec<Axis<'a>>,
    /// The programs that the variants need, each compiled apart.
    pub(super) programs: Vec<Program>,
    /// The program of each variant of the header.
    pub(super) variant_programs: Vec<usize>,
    /// The program where no variant applies.
    pub(super) default_program: usize,
}

/// An axis with a size.
pub(super) struct Axis<'a> {
    pub(super) name: &'a str,
    pub(super) size: AxisSize<'a>,
}

/// Where the size of an axis comes from.
pub(super) enum AxisSize<'a> {
    Constant(i64),
    /// The caller gives it.
    Given,
    Computed(&'a Expression),
}

/// The source with one choice of values for its tunables.
pub(super) struct Program {
    pub(super) values: IndexMap<String, i64>,
    pub(super) unit: TranslationUnit,
}

impl<'a> HostPlan<'a> {
    /// The plan of a kernel that fits its task.
    ///
    /// # Errors
    /// A usage failure if an axis depends on itself.
    pub(super) fn new(kernel: &'a Kernel, task: &'a Task, name: &'a str) -> Result<Self, Failure> {
        let mut programs: Vec<Program> = Vec::new();
        let mut program_of = |variant: Option<usize>| {
            let values = kernel.tunable_values(variant);
            let known = programs.iter().position(|known| known.values == values);
            known.unwrap_or_else(|| {
                let unit = kernel.translation_unit(task, &values, false);
                programs.push(Program { values, unit });
                programs.len() - 1
            })
        };
        let default_program = program_of(None);
        let variants = 0..kernel.header.variants.len();
        let variant_programs = variants.map(|index| program_of(Some(index))).collect();
        Ok(Self {
            kernel,
            task,
            name,
            axes: needed_axes(kernel, task)?,
            programs,
            variant_programs,
            default_program,
        })
    }

    /// The inputs with a shape, in the definition's order.
    pub(super) fn input_tensors(&self) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        let inputs = self.task.definition.inputs.iter();
        inputs
            .filter(|(_, tensor)| tensor.shape.is_some())
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The input whose memory an output overwrites.
    pub(super) fn overwritten_by(&self, output: &str) -> Option<&'a str> {
        let in_place = &self.task.settings.in_place;
        in_place.get(output).map(String::as_str)
    }

    /// The input or output with a dim of this axis from which a caller can read its size: its name and the dim. Optional inputs come
    /// last, because they may be absent.
    pub(super) fn size_source(&self, axis: &str, with_outputs: bool) -> Option<(&'a str, usize)> {
        let dim = |tensor: &Tensor| {
            let mut shape = tensor.shape.iter().flatten();
            shape.position(|name| name == axis)
        };
        let definition = &self.task.definition;
        let (optional, required): (Vec<_>, Vec<_>) = self
            .input_tensors()
            .partition(|(_, tensor)| tensor.optional);
        let outputs = definition.outputs.iter().filter(|_| with_outputs);
        let outputs = outputs.map(|(name, tensor)| (name.as_str(), tensor));
        let mut tensors = required.into_iter().chain(outputs).chain(optional);
        tensors.find_map(|(name, tensor)| Some((name, dim(tensor)?)))
    }
}

/// All expressions of a header that host code evaluates.
fn expressions(kernel: &Kernel) -> Vec<&LocatedExpression> {
    let header = &kernel.header;
    let mut found: Vec<&LocatedExpression> = Vec::new();
    for launch in &header.launches {
        found.extend(
            launch
                .grid
                .iter()
                .chain(&launch.block)
                .chain(&launch.cluster),
        );
        found.extend(launch.shared.iter().chain(&launch.when));
        found.extend(launch.arguments.iter().filter_map(argument_expression));
    }
    found.extend(header.variants.iter().map(|variant| &variant.when));
    let scratch = header.scratch.values();
    found.extend(scratch.flat_map(|scratch| &scratch.shape));
    for map in header.tensor_maps.values() {
        found.extend(map.dims.iter().chain(&map.strides).chain(&map.tile));
    }
    found
}

fn argument_expression(argument: &ArgumentHeader) -> Option<&LocatedExpression> {
    match argument {
        ArgumentHeader::I32(located)
        | ArgumentHeader::U32(located)
        | ArgumentHeader::I64(located)
        | ArgumentHeader::Integer(located)
        | ArgumentHeader::Float(_, FloatHeader::Expression(located)) => Some(located),
        _ => None,
    }
}

/// The axes of the tensors' shapes and of the header's expressions, and those that these are computed from.
fn needed_axes<'a>(kernel: &'a Kernel, task: &'a Task) -> Result<Vec<Axis<'a>>, Failure> {
    let definition = &task.definition;
    let tensors = definition
        .inputs
        .values()
        .chain(definition.outputs.values());
    let mut needed: IndexSet<&str> = tensors
        .flat_map(|tensor| tensor.shape.iter().flatten())
        .map(String::as_str)
        .collect();
    for located in expressions(kernel) {
        needed.extend(located.expression.names().iter().map(|(name, _)| *name));
    }
    let mut at = 0;
    while let Some(name) = needed.get_index(at).copied() {
        at += 1;
        let axis = definition.axes.get(name);
        let size = axis.filter(|axis| axis.kind == AxisKind::Expr);
        let size = size.and_then(|axis| axis.size.as_ref());
        needed.extend(
            size.iter()
                .flat_map(|size| size.names())
                .map(|(name, _)| name),
        );
    }
    let mut axes: Vec<Axis<'a>> = Vec::new();
    let mut computed: Vec<(&str, &Expression)> = Vec::new();
    for (name, axis) in &definition.axes {
        if !needed.contains(name.as_str()) {
            continue;
        }
        match (axis.kind, axis.value, &axis.size) {
            (AxisKind::Const, Some(value), _) => axes.push(Axis {
                name,
                size: AxisSize::Constant(value),
            }),
            (AxisKind::Expr, _, Some(size)) => computed.push((name, size)),
            _ => axes.push(Axis {
                name,
                size: AxisSize::Given,
            }),
        }
    }
    order_computed(&mut axes, computed)?;
    Ok(axes)
}

/// Adds the computed axes, each behind those that it is computed from.
fn order_computed<'a>(
    axes: &mut Vec<Axis<'a>>,
    mut computed: Vec<(&'a str, &'a Expression)>,
) -> Result<(), Failure> {
    while !computed.is_empty() {
        let before = computed.len();
        computed.retain(|(name, size)| {
            let is_known = |used: &str| axes.iter().any(|axis| axis.name == used);
            let is_ready = size.names().iter().all(|(used, _)| is_known(used));
            if is_ready {
                axes.push(Axis {
                    name,
                    size: AxisSize::Computed(size),
                });
            }
            !is_ready
        });
        if computed.len() == before {
            let (name, _) = computed[0];
            return Err(refuse(format!("axis `{name}` depends on itself")));
        }
    }
    Ok(())
}
