//! What a device needs to compile and launch a kernel: translation units and launch plans.
//!
//! Plain data. Every expression of the header is already evaluated; `bind` does that.

use crate::task::DType;

/// The source of a kernel file for one set of tunable values, to be compiled at once.
#[derive(Clone, Debug, PartialEq)]
pub struct TranslationUnit {
    /// The whole kernel file, header comment included, so that the compiler's line numbers are those of the file.
    pub source: String,
    /// Constant axes: the name in upper case, and the value. Each becomes a `constexpr`, unless the source declares the name.
    pub constants: Vec<(String, i64)>,
    /// The tunables with their values. Each becomes a macro.
    pub macros: Vec<(String, i64)>,
    /// The functions that the launches call, in the header's order.
    pub entry_points: Vec<EntryPoint>,
    pub fast_math: bool,
    pub max_registers: Option<u32>,
    /// `compile.arch` of the header, such as `sm_90a`.
    pub arch: Option<String>,
}

/// A `__global__` function as the header names it, with the types of its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryPoint {
    /// The C++ expression, such as `gdn_decode<ROWS>`.
    pub expression: String,
    pub arguments: Vec<ArgumentType>,
    /// The arguments as the header writes them, for messages.
    pub argument_names: Vec<String>,
    /// The line of the launch in the kernel file, counted from 1.
    pub line: u32,
}

/// The C++ type of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentType {
    /// A pointer to elements of the dtype. The outputs of an oracle are `Pointer(DType::Float64)`.
    Pointer(DType),
    /// A scalar by value.
    Scalar(DType),
    I32,
    U32,
    I64,
    /// A whole number for an integer parameter of at least 4 bytes.
    Integer,
    /// A whole number for any parameter that can represent it.
    IntegerConstant(i64),
    /// A number for a `float` or a `double` parameter.
    FloatConstant,
    /// `true` or `false`, for a `bool` or an integer parameter.
    BoolConstant,
    /// A null pointer.
    Null,
    /// `const __grid_constant__ CUtensorMap`.
    TensorMap,
}

/// The launch plan of one workload: all launches and buffers, with every size known.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchPlan {
    pub buffers: Vec<Buffer>,
    /// In launch order, without launches whose `when` is false.
    pub launches: Vec<Launch>,
    /// The definition's outputs in order, as indices into `buffers`.
    pub outputs: Vec<usize>,
    pub tensor_maps: Vec<TensorMap>,
}

/// A tensor map with every size known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub name: String,
    /// Index into `LaunchPlan::buffers`.
    pub buffer: usize,
    /// In elements, innermost first.
    pub dims: Vec<u64>,
    /// In bytes, for all dims but the innermost.
    pub strides: Vec<u64>,
    /// The box, in elements.
    pub tile: Vec<u32>,
    /// In bytes: 0, 32, 64 or 128.
    pub swizzle: u32,
}

/// One allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    pub name: String,
    pub role: BufferRole,
    pub dtype: DType,
    /// Sizes of the axes, outermost first; empty for a single element.
    pub shape: Vec<u64>,
}

impl Buffer {
    /// The number of elements.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes()
    }
}

/// How the harness treats a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferRole {
    Input,
    Output,
    /// An input that an output overwrites, as the task's `in_place` says: filled as an input, compared as an output.
    InPlace,
    /// If `zero`, cleared before every run as part of the timed work; else poisoned before every run, untimed.
    Scratch {
        zero: bool,
    },
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into `TranslationUnit::entry_points`.
    pub entry_point: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub cluster: Option<[u32; 3]>,
    pub cooperative: bool,
    /// Whether the launch uses programmatic dependent launch.
    pub overlap: bool,
    pub arguments: Vec<Argument>,
}

/// The value of one argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer to the start of `LaunchPlan::buffers[index]`.
    Buffer(usize),
    /// `LaunchPlan::tensor_maps[index]`, by value.
    TensorMap(usize),
    /// A null pointer: an optional input that is absent, or `nullptr`.
    Null,
    /// A scalar in its dtype.
    Scalar(DType, f64),
    I32(i32),
    U32(u32),
    I64(i64),
    /// A whole number or a truth value. The parameter decides the type.
    Integer(i64),
    /// A number for a `float` or a `double` parameter, which decides the type.
    Float(f64),
}
