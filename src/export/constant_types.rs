//! The types of the numbers that a launch passes without a type, such as `1e-5`: forms that pass bytes must know them.
//!
//! Reads them from the parameters of the kernel in its source, where these name a built-in type. Anything else is refused: the header
//! can say the type.

use super::plan::HostPlan;
use super::refusal::refuse_line;
use crate::base::Failure;
use crate::kernel::syntax::{FunctionNode, Syntax, children};
use crate::kernel::{ArgumentHeader, Constant, LaunchHeader};

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberType {
    /// An integer of at most 8 bytes, a pointer or a truth value.
    Word,
    Float32,
    Float64,
}

/// The types of the constants of all launches, one list for each launch with one place for each argument. Arguments that have a type
/// of their own are words here.
///
/// # Errors
/// A usage failure if a parameter's type cannot be read.
pub(super) fn constant_types(plan: &HostPlan<'_>) -> Result<Vec<Vec<NumberType>>, Failure> {
    let syntax = Syntax::parse(&plan.kernel.text);
    let functions = syntax.functions();
    let launches = plan.kernel.header.launches.iter();
    launches
        .map(|launch| types_of_launch(&syntax, &functions, launch))
        .collect()
}

fn types_of_launch(
    syntax: &Syntax<'_>,
    functions: &[FunctionNode<'_>],
    launch: &LaunchHeader,
) -> Result<Vec<NumberType>, Failure> {
    let name = launch.kernel.split('<').next().unwrap_or_default();
    let name = name.rsplit("::").next().unwrap_or_default().trim();
    let mut kernels = functions
        .iter()
        .filter(|function| function.is_global && syntax.function_name(function) == name);
    // Of two functions with one name it is not known which one is launched.
    let kernel = kernels.next().filter(|_| kernels.next().is_none());
    let parameters = kernel.map_or_else(Vec::new, |kernel| parameter_types(syntax, kernel));
    let arguments = launch.arguments.iter().zip(&launch.argument_texts);
    arguments
        .enumerate()
        .map(|(index, (argument, text))| {
            let ArgumentHeader::Constant(Constant::Integer(_) | Constant::Float(_)) = argument
            else {
                return Ok(NumberType::Word);
            };
            let known = parameters.get(index).copied().flatten();
            known.ok_or_else(|| {
                refuse_line(
                    launch.line,
                    format!(
                        "argument {} (`{text}`): the type of the kernel's parameter cannot be read from the source",
                        index + 1
                    ),
                )
                .hint(format!("write the type, such as `f32({text})` or `i32({text})`"))
            })
        })
        .collect()
}

/// The types of a function's parameters; `None` where a parameter has another type than a built-in number.
fn parameter_types(syntax: &Syntax<'_>, kernel: &FunctionNode<'_>) -> Vec<Option<NumberType>> {
    let list = kernel.declarator.child_by_field_name("parameters");
    let parameters = list.into_iter().flat_map(children);
    let parameters = parameters.filter(|node| {
        ["parameter_declaration", "optional_parameter_declaration"].contains(&node.kind())
    });
    parameters
        .map(|parameter| {
            // A pointer or an array has a declarator around its name.
            let declarator = parameter.child_by_field_name("declarator");
            let is_plain = declarator.is_none_or(|name| name.kind() == "identifier");
            let text = syntax.text(parameter.child_by_field_name("type")?);
            is_plain.then(|| number_type(text)).flatten()
        })
        .collect()
}

fn number_type(name: &str) -> Option<NumberType> {
    let is_integer = name
        .split_whitespace()
        .all(|word| INTEGER_WORDS.contains(&word));
    match name {
        "float" => Some(NumberType::Float32),
        "double" => Some(NumberType::Float64),
        _ if is_integer && !name.is_empty() => Some(NumberType::Word),
        _ => None,
    }
}

/// The words of built-in integer types, and the integer types of the standard headers.
const INTEGER_WORDS: [&str; 16] = [
    "bool", "char", "short", "int", "long", "signed", "unsigned", "size_t", "int8_t", "int16_t",
    "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t",
];
