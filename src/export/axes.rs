//! The sizes that a form reads from the shapes of its tensors, and the tensor that says which device is meant.

use super::refusal::refuse;
use super::view::{AxisView, PlanView};
use crate::base::Failure;

/// The axes whose sizes callers give.
///
/// # Errors
/// A usage failure if no input has the size in its shape.
pub(super) fn given_axes<'v>(view: &'v PlanView, form: &str) -> Result<Vec<&'v AxisView>, Failure> {
    let given: Vec<_> = view.axes.iter().filter(|axis| axis.is_given()).collect();
    match given.iter().find(|axis| axis.input_source.is_none()) {
        None => Ok(given),
        Some(axis) => Err(refuse(format!(
            "definition.json: axis `{}` is in no input's shape, and `{form}` reads sizes from shapes",
            axis.name
        ))
        .hint("export `c` or `standalone`")),
    }
}

/// The name of a tensor that is always there: its device is that of all.
///
/// # Errors
/// A usage failure if there is none.
pub(super) fn required_input<'v>(view: &'v PlanView, form: &str) -> Result<&'v str, Failure> {
    let mut tensors = view.tensors.iter();
    let required = tensors.find(|tensor| !tensor.is_output && !tensor.optional);
    required.map(|tensor| tensor.ident.as_str()).ok_or_else(|| {
        refuse(format!(
            "`{form}` needs an input tensor that is not optional"
        ))
    })
}
