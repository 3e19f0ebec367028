//! The values of the names that expressions use.

use indexmap::IndexMap;

use super::target::{BindError, BindFault, DeviceLimits};
use crate::kernel::header::LocatedExpression;
use crate::task::Binding;

/// The values of device limits, tunables and axes.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) binding: &'a Binding,
    /// The tunables.
    pub(super) values: &'a IndexMap<String, i64>,
    pub(super) limits: &'a DeviceLimits,
}

impl Names<'_> {
    /// Evaluates an expression of the header.
    pub(super) fn evaluate(&self, located: &LocatedExpression) -> Result<i64, BindError> {
        let value_of = |name: &str| match name {
            "sm_count" => Some(self.limits.sm_count),
            "max_shared_bytes" => Some(self.limits.max_shared_bytes),
            _ => {
                let tunable = self.values.get(name);
                tunable.or_else(|| self.binding.axes.get(name)).copied()
            }
        };
        located
            .expression
            .evaluate(&value_of)
            .map_err(|error| BindError {
                fault: BindFault::Rejected,
                line: located.line,
                message: format!("expression `{}`: {error}", located.expression.text()),
            })
    }
}
