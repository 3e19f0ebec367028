//! What a device needs to compile and to launch a kernel: plain data, every expression already evaluated.

use crate::task::DType;

/// One translation unit to compile: a kernel file under one set of tunable values.
#[derive(Clone, Debug, PartialEq)]
pub struct TranslationUnit {
    /// The whole kernel file, header comment included, so that line numbers are the file's own.
    pub source: String,
    /// Constant axes: name in upper case, value. Become `constexpr`, unless the source declares the name itself.
    pub constants: Vec<(String, i64)>,
    /// Tunables in force: become macros.
    pub macros: Vec<(String, i64)>,
    /// What the launches call, in the header's order.
    pub entry_points: Vec<EntryPoint>,
    pub fast_math: bool,
    pub max_registers: Option<u32>,
    /// `compile.arch` of the header, e.g. `sm_90a`.
    pub arch: Option<String>,
}

/// A `__global__` function as the header names it, with the types that will be passed.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryPoint {
    /// The C++ expression, e.g. `gdn_decode<ROWS>`.
    pub expression: String,
    pub arguments: Vec<ArgumentType>,
    /// Line of the launch in the kernel file, counted from 1.
    pub line: u32,
}

/// The C++ type of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentType {
    /// A pointer to the dtype. The oracle's outputs are `Pointer(DType::Float64)`.
    Pointer(DType),
    /// A scalar by value.
    Scalar(DType),
    I32,
    U32,
    I64,
    /// `const __grid_constant__ CUtensorMap`.
    TensorMap,
}

/// All launches and buffers of one workload, with every size known.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub buffers: Vec<Buffer>,
    /// In launch order; launches whose `when` is false are left out.
    pub launches: Vec<Launch>,
    /// The definition's outputs in order, each an index into `buffers`.
    pub outputs: Vec<usize>,
    pub tensor_maps: Vec<TensorMap>,
}

/// What a tensor map describes, with every size known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub name: String,
    /// Index into `Plan::buffers`.
    pub buffer: usize,
    /// In elements, innermost first.
    pub dims: Vec<u64>,
    /// In bytes, of all dims but the innermost.
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
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferRole {
    Input,
    Output,
    /// An input that the task lets an output overwrite: filled as an input, compared as an output.
    InPlace,
    /// Cleared inside the clock before every unit if `zero`, else poisoned outside it.
    Scratch {
        zero: bool,
    },
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into `Unit::entries`.
    pub entry_point: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub cluster: Option<[u32; 3]>,
    pub cooperative: bool,
    /// Programmatic dependent launch.
    pub overlap: bool,
    pub arguments: Vec<Argument>,
}

/// One argument's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer to the start of `Plan::buffers[index]`.
    Buffer(usize),
    /// `Plan::tensor_maps[index]`, by value.
    TensorMap(usize),
    /// An absent optional input.
    Null,
    /// A scalar in its dtype.
    Scalar(DType, f64),
    I32(i32),
    U32(u32),
    I64(i64),
}
