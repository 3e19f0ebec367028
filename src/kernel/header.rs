//! The types of a checked kernel header (`docs/kernel-files.md`). `header_reader` makes them.
//!
//! Plain data. All line numbers are those of the kernel file, counted from 1. Expressions are parsed and not evaluated.

use indexmap::IndexMap;
use serde::Deserialize;

use super::constants::Constant;
use crate::base::expression::Expression;
use crate::task::DType;

/// A header that fits its definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub launches: Vec<LaunchHeader>,
    /// The allowed values of each tunable. The first is used unless a variant sets another.
    pub tunables: IndexMap<String, Vec<i64>>,
    /// Where each tunable's list starts: line and column, both counted from 1.
    pub(super) tunable_locations: IndexMap<String, (u32, u32)>,
    /// A point for which one of them is 0 on a timed workload is not tried.
    pub constraints: Vec<LocatedExpression>,
    pub variants: Vec<Variant>,
    pub scratch: IndexMap<String, ScratchHeader>,
    pub tensor_maps: IndexMap<String, TensorMapHeader>,
    pub compile: CompileOptions,
    /// Oddities that change nothing, such as a value listed twice: for people and models.
    pub notes: Vec<String>,
}

/// One entry of `launch`.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchHeader {
    pub line: u32,
    /// A C++ expression that names a `__global__` function.
    pub kernel: String,
    /// One to three sizes.
    pub grid: Vec<LocatedExpression>,
    /// One to three sizes.
    pub block: Vec<LocatedExpression>,
    /// Dynamic shared memory in bytes.
    pub shared: Option<LocatedExpression>,
    /// Up to three sizes; empty without a cluster.
    pub cluster: Vec<LocatedExpression>,
    pub cooperative: bool,
    /// Whether the launch uses programmatic dependent launch.
    pub overlap: bool,
    pub when: Option<LocatedExpression>,
    pub arguments: Vec<ArgumentHeader>,
    /// The arguments as they are written.
    pub argument_texts: Vec<String>,
}

/// An expression and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct LocatedExpression {
    pub line: u32,
    pub expression: Expression,
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgumentHeader {
    /// The name of an input with a shape, of an output, or of scratch.
    Tensor(String),
    /// The name of an input without a shape; passed by value.
    Scalar(String),
    /// The name of a tensor map.
    TensorMap(String),
    I32(LocatedExpression),
    U32(LocatedExpression),
    I64(LocatedExpression),
    /// A whole number that fits 32 bits; the parameter decides the integer type. A bare axis, or an expression without a type.
    Integer(LocatedExpression),
    /// A number in a floating-point type, such as `f32(1e-5)`.
    Float(DType, FloatHeader),
    /// A constant whose type the parameter decides.
    Constant(Constant),
}

/// The value of a floating-point argument.
#[derive(Clone, Debug, PartialEq)]
pub enum FloatHeader {
    Number(f64),
    Expression(LocatedExpression),
}

/// Other tunable values for the workloads where a condition holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub when: LocatedExpression,
    pub values: IndexMap<String, i64>,
}

/// One entry of `scratch`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScratchHeader {
    pub dtype: DType,
    pub shape: Vec<LocatedExpression>,
    /// Whether it is cleared before every run. Otherwise it is poisoned.
    pub zero: bool,
}

/// One entry of `tensor_maps`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMapHeader {
    pub line: u32,
    /// The name of the tensor.
    pub of: String,
    /// In elements, innermost first.
    pub dims: Vec<LocatedExpression>,
    /// In bytes, for all dims but the innermost.
    pub strides: Vec<LocatedExpression>,
    /// The box, in elements.
    pub tile: Vec<LocatedExpression>,
    /// In bytes.
    pub swizzle: u32,
}

/// The `compile` section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompileOptions {
    #[serde(deserialize_with = "super::yaml_values::read_truth")]
    pub fast_math: bool,
    pub max_registers: Option<u32>,
    /// For example `sm_90a`.
    pub arch: Option<String>,
}
