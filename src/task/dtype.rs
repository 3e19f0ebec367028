//! Element types of tensors, with the names that FlashInfer-Bench uses.
//!
//! Knows sizes and names only; `device::numerics` rounds and converts values.

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
    /// The next lower-precision floating-point formats, the most precise first; empty if there is none.
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

    /// The CUDA C++ type in a kernel's parameter list.
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
