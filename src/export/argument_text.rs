//! The arguments of launches as calls in a language of host code.
//!
//! Each is a call of a function that the templates of the language define: `pointer`, `int32`, `scalar_float32` and so on.

use super::constant_types::NumberType;
use super::names::{identifier, number};
use super::view::ViewMaker;
use crate::base::expression::Language;
use crate::kernel::{ArgumentHeader, Constant, FloatHeader, LocatedExpression};
use crate::task::DType;

impl ViewMaker<'_, '_> {
    /// The text of an argument. `kind`: the type of a constant, which only C++ reads from the kernel itself.
    pub(super) fn argument(&self, argument: &ArgumentHeader, kind: NumberType) -> String {
        let language = self.language;
        let fit = |function: &str, located: &LocatedExpression| {
            language.call(function, &self.text(&located.expression))
        };
        match argument {
            ArgumentHeader::Tensor(name) => format!("pointer({})", self.pointer(name)),
            ArgumentHeader::Scalar(name) => {
                let dtype = self.plan.task.definition.inputs.get(name);
                let dtype = dtype.map_or(DType::Float32, |tensor| tensor.dtype);
                format!("scalar_{dtype}(a.{})", identifier(name))
            }
            ArgumentHeader::TensorMap(name) => match language {
                Language::Rust => format!("tensor_map(&map_{})", identifier(name)),
                _ => format!("map_{}", identifier(name)),
            },
            ArgumentHeader::I32(located) => fit("int32", located),
            ArgumentHeader::U32(located) => fit("uint32", located),
            ArgumentHeader::I64(located) => format!("int64({})", self.text(&located.expression)),
            ArgumentHeader::Integer(located) => fit("integer", located),
            ArgumentHeader::Float(dtype, FloatHeader::Number(value)) => {
                format!("scalar_{dtype}({})", number(language, *value))
            }
            ArgumentHeader::Float(dtype, FloatHeader::Expression(located)) => {
                let value = self.text(&located.expression);
                let value = match language {
                    Language::Cpp => format!("static_cast<double>({value})"),
                    Language::Python => format!("float({value})"),
                    Language::Rust => format!("({value}) as f64"),
                };
                format!("scalar_{dtype}({value})")
            }
            ArgumentHeader::Constant(constant) => constant_text(*constant, kind, language),
        }
    }
}

fn constant_text(constant: Constant, kind: NumberType, language: Language) -> String {
    let value = match constant {
        Constant::Integer(value) => value as f64,
        Constant::Float(value) => value,
        Constant::Bool(value) => return format!("truth({})", u8::from(value)),
        Constant::Null => return "null()".to_owned(),
    };
    match (constant, kind) {
        (_, NumberType::Float32) => format!("scalar_float32({})", number(language, value)),
        (_, NumberType::Float64) => format!("scalar_float64({})", number(language, value)),
        (Constant::Integer(value), NumberType::Word) => {
            let value = match (language, value) {
                (Language::Cpp, i64::MIN) => "INT64_MIN".to_owned(),
                (Language::Rust, i64::MIN) => "i64::MIN".to_owned(),
                (Language::Cpp, value) => format!("INT64_C({value})"),
                (_, value) => value.to_string(),
            };
            format!("whole_constant({value})")
        }
        (_, NumberType::Word) => format!("float_constant({})", number(language, value)),
    }
}
