//! Element types, by the names that FlashInfer-Bench gives them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    Float64,
    Float32,
    Float16,
    #[serde(rename = "bfloat16")]
    BFloat16,
    #[serde(rename = "float8_e4m3fn")]
    Float8E4M3,
    #[serde(rename = "float8_e5m2")]
    Float8E5M2,
    Int64,
    Int32,
    Int16,
    Int8,
    Bool,
}

impl DType {
    /// The formats that hold less of a number: the next ones, from the finest.
    pub(crate) fn lower_precisions(self) -> &'static [DType] {
        match self {
            DType::Float64 => &[DType::Float32],
            DType::Float32 => &[DType::Float16, DType::BFloat16],
            DType::Float16 | DType::BFloat16 => &[DType::Float8E4M3],
            _ => &[],
        }
    }

    /// Size of one element in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            DType::Float64 | DType::Int64 => 8,
            DType::Float32 | DType::Int32 => 4,
            DType::Float16 | DType::BFloat16 | DType::Int16 => 2,
            DType::Float8E4M3 | DType::Float8E5M2 | DType::Int8 | DType::Bool => 1,
        }
    }

    /// The CUDA C++ type, as a kernel's parameter list spells it.
    pub(crate) fn cuda_type(self) -> &'static str {
        match self {
            DType::Float64 => "double",
            DType::Float32 => "float",
            DType::Float16 => "__half",
            DType::BFloat16 => "__nv_bfloat16",
            DType::Float8E4M3 => "__nv_fp8_e4m3",
            DType::Float8E5M2 => "__nv_fp8_e5m2",
            DType::Int64 => "long long",
            DType::Int32 => "int",
            DType::Int16 => "short",
            DType::Int8 => "signed char",
            DType::Bool => "bool",
        }
    }

    pub fn is_float(self) -> bool {
        !matches!(
            self,
            DType::Int64 | DType::Int32 | DType::Int16 | DType::Int8 | DType::Bool
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}
