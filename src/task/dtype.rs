//! Element types of tensors, with the names that FlashInfer-Bench uses.
//!
//! Knows sizes and names only; `device::numerics` rounds and converts values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::text::quote_list;

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

/// Names of dtypes in other programs, and the dtype that each means.
const OTHER_NAMES: [(&str, &str); 17] = [
    ("double", "float64"),
    ("fp64", "float64"),
    ("f64", "float64"),
    ("float", "float32"),
    ("fp32", "float32"),
    ("f32", "float32"),
    ("half", "float16"),
    ("fp16", "float16"),
    ("f16", "float16"),
    ("bf16", "bfloat16"),
    ("fp8", "float8_e4m3fn"),
    ("fp8_e4m3", "float8_e4m3fn"),
    ("float8_e4m3", "float8_e4m3fn"),
    ("fp8_e5m2", "float8_e5m2"),
    ("long", "int64"),
    ("int", "int32"),
    ("i32", "int32"),
];

/// All dtypes, as `DType` is written in files. Only hints need the list.
const NAMES: [&str; 11] = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int32",
    "int16",
    "int8",
    "bool",
];

impl DType {
    /// The dtype of this name, or a hint.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        serde_json::from_value(serde_json::Value::from(name)).map_err(|_| Self::hint_for(name))
    }

    /// A hint for a name that is no dtype.
    pub(super) fn hint_for(name: &str) -> String {
        let plain = name.strip_prefix("torch.").unwrap_or(name).to_lowercase();
        let known = NAMES.iter().find(|known| **known == plain);
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == plain);
        match known.or(other.map(|(_, known)| known)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the dtypes are {}", quote_list(NAMES)),
        }
    }

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

    /// Whether elements are floating-point numbers.
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
