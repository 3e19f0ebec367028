//! A host plan as the templates read it: names, types and expressions as code of a language.

use serde::Serialize;

use super::constant_types::{NumberType, constant_types};
use super::names::identifier;
use super::plan::{AxisSize, HostPlan};
use crate::base::Failure;
use crate::base::expression::{Expression, Language};
use crate::kernel::{
    ArgumentHeader, LaunchHeader, LocatedExpression, ScratchHeader, TensorMapHeader,
};
use crate::task::{DType, Tensor};

/// Everything that host code needs.
#[derive(Serialize)]
pub(super) struct PlanView {
    pub(super) name: String,
    pub(super) task: String,
    pub(super) definition: String,
    /// All axes, each behind those that it is computed from.
    pub(super) axes: Vec<AxisView>,
    pub(super) tensors: Vec<TensorView>,
    pub(super) scalars: Vec<ScalarView>,
    /// The definition's inputs and outputs in order, by name.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    /// The tunables' names.
    pub(super) tunables: Vec<String>,
    pub(super) programs: Vec<ProgramView>,
    pub(super) variants: Vec<VariantView>,
    pub(super) default_program: usize,
    pub(super) scratch: Vec<ScratchView>,
    pub(super) maps: Vec<MapView>,
    pub(super) launches: Vec<LaunchView>,
    pub(super) max_registers: Option<u32>,
    pub(super) fast_math: bool,
    /// The architecture that the header asks for.
    pub(super) arch: Option<String>,
}

#[derive(Serialize)]
pub(super) struct AxisView {
    pub(super) name: String,
    pub(super) ident: String,
    /// The size of a constant axis.
    pub(super) value: Option<i64>,
    /// The expression of a computed axis.
    pub(super) computed: Option<String>,
    /// Where bindings read the size: a tensor and its dim.
    pub(super) source: Option<(String, usize)>,
    /// The same among inputs alone.
    pub(super) input_source: Option<(String, usize)>,
}

impl AxisView {
    /// Whether callers give the size.
    pub(super) fn is_given(&self) -> bool {
        self.value.is_none() && self.computed.is_none()
    }
}

/// An input or output with memory of its own. An output that overwrites an input has none.
#[derive(Serialize)]
pub(super) struct TensorView {
    pub(super) name: String,
    pub(super) ident: String,
    pub(super) dtype: String,
    /// The C type of an element: an integer of the same size where C has no such type.
    pub(super) c_type: &'static str,
    pub(super) bytes: u64,
    /// The axes, as identifiers.
    pub(super) shape: Vec<String>,
    pub(super) optional: bool,
    pub(super) is_output: bool,
    /// Whether an output overwrites this input.
    pub(super) overwritten: bool,
}

#[derive(Serialize)]
pub(super) struct ScalarView {
    pub(super) name: String,
    pub(super) ident: String,
    pub(super) dtype: String,
    pub(super) c_type: &'static str,
    pub(super) is_float: bool,
    pub(super) optional: bool,
}

#[derive(Serialize)]
pub(super) struct ProgramView {
    /// The tunables' values, in the order of their names.
    pub(super) values: Vec<i64>,
}

#[derive(Serialize)]
pub(super) struct VariantView {
    pub(super) line: u32,
    pub(super) when: String,
    pub(super) program: usize,
}

#[derive(Serialize)]
pub(super) struct ScratchView {
    pub(super) name: String,
    pub(super) ident: String,
    pub(super) line: u32,
    pub(super) bytes: u64,
    pub(super) sizes: Vec<String>,
    pub(super) zero: bool,
}

#[derive(Serialize)]
pub(super) struct MapView {
    pub(super) name: String,
    pub(super) ident: String,
    pub(super) line: u32,
    /// The conditions of the launches that take the map. Empty: a launch without a condition takes it.
    pub(super) when: Vec<SizeView>,
    /// The pointer to the buffer.
    pub(super) buffer: String,
    /// Sizes of the buffer, whose product times `bytes` is its size in bytes.
    pub(super) sizes: Vec<String>,
    pub(super) bytes: u64,
    /// The name of the element type, as `CU_TENSOR_MAP_DATA_TYPE_…` ends.
    pub(super) data_type: &'static str,
    pub(super) dims: Vec<String>,
    pub(super) strides: Vec<String>,
    pub(super) tile: Vec<String>,
    pub(super) swizzle: u32,
}

#[derive(Serialize)]
pub(super) struct LaunchView {
    pub(super) line: u32,
    pub(super) kernel: String,
    pub(super) grid: Vec<SizeView>,
    pub(super) block: Vec<SizeView>,
    pub(super) shared: Option<SizeView>,
    pub(super) cluster: Vec<SizeView>,
    pub(super) cooperative: bool,
    pub(super) overlap: bool,
    pub(super) when: Option<SizeView>,
    pub(super) arguments: Vec<String>,
}

/// An expression with its line in the kernel file.
#[derive(Serialize)]
pub(super) struct SizeView {
    pub(super) line: u32,
    pub(super) value: String,
}

/// Makes the view of a plan.
pub(super) struct ViewMaker<'p, 'a> {
    pub(super) plan: &'p HostPlan<'a>,
    pub(super) language: Language,
    /// The types of the launches' constants.
    pub(super) constants: Vec<Vec<NumberType>>,
}

impl<'p, 'a> ViewMaker<'p, 'a> {
    /// For C++, where each kernel's parameters decide the types of constants.
    pub(super) fn cpp(plan: &'p HostPlan<'a>) -> Self {
        Self {
            plan,
            language: Language::Cpp,
            constants: Vec::new(),
        }
    }

    /// For a language that passes the bytes of arguments.
    ///
    /// # Errors
    /// A usage failure if the type of a constant cannot be read.
    pub(super) fn of_bytes(plan: &'p HostPlan<'a>, language: Language) -> Result<Self, Failure> {
        Ok(Self {
            plan,
            language,
            constants: constant_types(plan)?,
        })
    }
}

impl ViewMaker<'_, '_> {
    pub(super) fn view(&self) -> PlanView {
        let plan = self.plan;
        let header = &plan.kernel.header;
        let definition = &plan.task.definition;
        let names = |tensors: &indexmap::IndexMap<String, Tensor>| {
            tensors.keys().map(|name| identifier(name)).collect()
        };
        PlanView {
            name: plan.name.to_owned(),
            task: plan.task.name.clone(),
            definition: definition.name.clone(),
            axes: self.axes(),
            tensors: self.tensors(),
            scalars: self.scalars(),
            inputs: names(&definition.inputs),
            outputs: names(&definition.outputs),
            tunables: header.tunables.keys().cloned().collect(),
            programs: (plan.programs.iter())
                .map(|program| ProgramView {
                    values: program.values.values().copied().collect(),
                })
                .collect(),
            variants: (header.variants.iter().zip(&plan.variant_programs))
                .map(|(variant, program)| VariantView {
                    line: variant.when.line,
                    when: self.text(&variant.when.expression),
                    program: *program,
                })
                .collect(),
            default_program: plan.default_program,
            scratch: (header.scratch.iter())
                .map(|(name, scratch)| self.scratch(name, scratch))
                .collect(),
            maps: (header.tensor_maps.iter())
                .filter_map(|(name, map)| self.map(name, map))
                .collect(),
            launches: (header.launches.iter().enumerate())
                .map(|(index, launch)| self.launch(index, launch))
                .collect(),
            max_registers: header.compile.max_registers,
            fast_math: header.compile.fast_math,
            arch: header.compile.arch.clone(),
        }
    }

    /// An expression of the header or of an axis. Axes are fields of `s`, tunables of `t`, limits of the device of `d`.
    pub(super) fn text(&self, expression: &Expression) -> String {
        let tunables = &self.plan.kernel.header.tunables;
        expression.to_code(self.language, &|name| match name {
            "sm_count" | "max_shared_bytes" => format!("d.{name}"),
            _ if tunables.contains_key(name) => format!("t.{name}"),
            _ => format!("s.{}", identifier(name)),
        })
    }

    fn size(&self, located: &LocatedExpression) -> SizeView {
        SizeView {
            line: located.line,
            value: self.text(&located.expression),
        }
    }

    fn axes(&self) -> Vec<AxisView> {
        let source = |axis: &str, with_outputs: bool| {
            let (tensor, dim) = self.plan.size_source(axis, with_outputs)?;
            Some((identifier(tensor), dim))
        };
        let axes = self.plan.axes.iter();
        axes.map(|axis| AxisView {
            name: axis.name.to_owned(),
            ident: identifier(axis.name),
            value: match axis.size {
                AxisSize::Constant(value) => Some(value),
                _ => None,
            },
            computed: match axis.size {
                AxisSize::Computed(size) => Some(self.text(size)),
                _ => None,
            },
            source: source(axis.name, true),
            input_source: source(axis.name, false),
        })
        .collect()
    }

    fn tensors(&self) -> Vec<TensorView> {
        let plan = self.plan;
        let overwritten: Vec<&str> = (plan.task.definition.outputs.keys())
            .filter_map(|output| plan.overwritten_by(output))
            .collect();
        let view = |name: &str, tensor: &Tensor, is_output: bool| TensorView {
            name: name.to_owned(),
            ident: identifier(name),
            dtype: tensor.dtype.to_string(),
            c_type: c_type(tensor.dtype),
            bytes: tensor.dtype.bytes(),
            shape: (tensor.shape.iter().flatten())
                .map(|axis| identifier(axis))
                .collect(),
            optional: tensor.optional,
            is_output,
            overwritten: overwritten.contains(&name),
        };
        let inputs = plan.input_tensors();
        let inputs = inputs.map(|(name, tensor)| view(name, tensor, false));
        let outputs = plan.task.definition.outputs.iter();
        let outputs = outputs
            .filter(|(name, _)| plan.overwritten_by(name).is_none())
            .map(|(name, tensor)| view(name, tensor, true));
        inputs.chain(outputs).collect()
    }

    fn scalars(&self) -> Vec<ScalarView> {
        let inputs = self.plan.task.definition.inputs.iter();
        inputs
            .filter(|(_, tensor)| tensor.shape.is_none())
            .map(|(name, tensor)| ScalarView {
                name: name.clone(),
                ident: identifier(name),
                dtype: tensor.dtype.to_string(),
                c_type: scalar_type(tensor.dtype),
                is_float: tensor.dtype.is_float(),
                optional: tensor.optional,
            })
            .collect()
    }

    fn scratch(&self, name: &str, scratch: &ScratchHeader) -> ScratchView {
        ScratchView {
            name: name.to_owned(),
            ident: identifier(name),
            line: scratch.shape.first().map_or(1, |size| size.line),
            bytes: scratch.dtype.bytes(),
            sizes: (scratch.shape.iter())
                .map(|size| self.text(&size.expression))
                .collect(),
            zero: scratch.zero,
        }
    }

    /// A tensor map. `None` if no launch takes it.
    fn map(&self, name: &str, map: &TensorMapHeader) -> Option<MapView> {
        let header = &self.plan.kernel.header;
        let takes_it = |launch: &&LaunchHeader| {
            (launch.arguments.iter())
                .any(|one| matches!(one, ArgumentHeader::TensorMap(of) if of == name))
        };
        let takers: Vec<_> = header.launches.iter().filter(takes_it).collect();
        takers.first()?;
        let conditions = takers.iter().map(|launch| launch.when.as_ref());
        let conditions: Option<Vec<_>> = conditions.collect();
        let texts = |list: &[LocatedExpression]| -> Vec<String> {
            list.iter()
                .map(|size| self.text(&size.expression))
                .collect()
        };
        let definition = &self.plan.task.definition;
        let scratch = self.plan.kernel.header.scratch.get(&map.of);
        let tensor = definition.inputs.get(&map.of);
        let tensor = tensor.or_else(|| definition.outputs.get(&map.of));
        let dtype = scratch.map(|scratch| scratch.dtype);
        let dtype = dtype.or_else(|| tensor.map(|tensor| tensor.dtype));
        let dtype = dtype.unwrap_or(DType::Float32);
        let sizes = match (scratch, tensor) {
            (Some(scratch), _) => texts(&scratch.shape),
            (None, Some(tensor)) => (tensor.shape.iter().flatten())
                .map(|axis| format!("s.{}", identifier(axis)))
                .collect(),
            (None, None) => Vec::new(),
        };
        Some(MapView {
            name: name.to_owned(),
            ident: identifier(name),
            line: map.line,
            when: (conditions.iter().flatten())
                .map(|when| self.size(when))
                .collect(),
            buffer: self.pointer(&map.of),
            sizes,
            bytes: dtype.bytes(),
            data_type: map_type(dtype),
            dims: texts(&map.dims),
            strides: texts(&map.strides),
            tile: texts(&map.tile),
            swizzle: map.swizzle,
        })
    }

    /// The pointer to a tensor or scratch buffer.
    pub(super) fn pointer(&self, name: &str) -> String {
        if self.plan.kernel.header.scratch.contains_key(name) {
            return format!("scratch_{}", identifier(name));
        }
        let name = self.plan.overwritten_by(name).unwrap_or(name);
        format!("a.{}", identifier(name))
    }

    /// The type of a constant. C++ needs none.
    fn constant(&self, launch: usize, place: usize) -> NumberType {
        let types = self.constants.get(launch);
        let known = types.and_then(|types| types.get(place));
        known.copied().unwrap_or(NumberType::Word)
    }

    fn launch(&self, index: usize, launch: &LaunchHeader) -> LaunchView {
        let sizes = |list: &[LocatedExpression]| list.iter().map(|size| self.size(size)).collect();
        LaunchView {
            line: launch.line,
            kernel: launch.kernel.clone(),
            grid: sizes(&launch.grid),
            block: sizes(&launch.block),
            shared: launch.shared.as_ref().map(|shared| self.size(shared)),
            cluster: sizes(&launch.cluster),
            cooperative: launch.cooperative,
            overlap: launch.overlap,
            when: launch.when.as_ref().map(|when| self.size(when)),
            arguments: (launch.arguments.iter().enumerate())
                .map(|(place, argument)| self.argument(argument, self.constant(index, place)))
                .collect(),
        }
    }
}

/// The C type that points to elements of a dtype.
fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 => "double",
        DType::Float32 => "float",
        DType::Float16 | DType::BFloat16 => "uint16_t",
        DType::Float8E4M3 | DType::Float8E5M2 | DType::Bool => "uint8_t",
        DType::Int64 => "int64_t",
        DType::Int32 => "int32_t",
        DType::Int16 => "int16_t",
        DType::Int8 => "int8_t",
    }
}

/// The C type of a scalar by value. Small floating-point types are rounded from `float`.
fn scalar_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float16 | DType::BFloat16 | DType::Float8E4M3 | DType::Float8E5M2 => "float",
        other => c_type(other),
    }
}

fn map_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 => "FLOAT64",
        DType::Float32 => "FLOAT32",
        DType::Float16 => "FLOAT16",
        DType::BFloat16 => "BFLOAT16",
        DType::Int64 => "INT64",
        DType::Int32 => "INT32",
        DType::Int16 => "UINT16",
        DType::Float8E4M3 | DType::Float8E5M2 | DType::Int8 | DType::Bool => "UINT8",
    }
}
