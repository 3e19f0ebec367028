//! The values of the names that expressions use.

use indexmap::{IndexMap, IndexSet};

use super::target::{BindError, BindFault, DeviceLimits};
use crate::base::expression::Expression;
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
    fn value_of(&self, name: &str) -> Option<i64> {
        match name {
            "sm_count" => Some(self.limits.sm_count),
            "max_shared_bytes" => Some(self.limits.max_shared_bytes),
            _ => {
                let tunable = self.values.get(name);
                tunable.or_else(|| self.binding.axes.get(name)).copied()
            }
        }
    }

    /// The values of the names in an expression, for a message: `ROWS is 4, WARPS is 8`.
    pub(super) fn describe(&self, expression: &Expression) -> String {
        let names: IndexSet<_> = expression
            .names()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let values = names.into_iter().filter_map(|name| {
            let value = self.value_of(name)?;
            Some(format!("{name} is {value}"))
        });
        values.collect::<Vec<_>>().join(", ")
    }

    /// Evaluates an expression of the header.
    pub(super) fn evaluate(&self, located: &LocatedExpression) -> Result<i64, BindError> {
        located
            .expression
            .evaluate(&|name| self.value_of(name))
            .map_err(|error| BindError {
                fault: BindFault::Rejected,
                line: located.line,
                message: format!("expression `{}`: {error}", located.expression.text()),
            })
    }
}
