//! Binds a kernel to a workload: chooses the variant, evaluates every expression of the header, and checks sizes and limits.
//!
//! The results are plain data in `plan`. Nothing is compiled, allocated or launched here.

use indexmap::IndexMap;

mod buffers;
mod launches;
mod names;
mod target;
mod tensor_maps;

pub(super) use launches::MAX_BLOCK_THREADS;
pub use target::{BindError, BindFault, DeviceLimits, LaunchTarget, Scalars};

use super::plan::{EntryPoint, LaunchPlan, TranslationUnit};
use super::{Kernel, syntax};
use crate::task::{Binding, Task};
use launches::argument_type;
use names::Names;

impl Kernel {
    /// The index of the variant that applies to a workload: the first whose condition holds. `None` if none applies.
    pub fn variant_for(
        &self,
        binding: &Binding,
        limits: &DeviceLimits,
    ) -> Result<Option<usize>, BindError> {
        let names = Names {
            binding,
            values: &self.point(),
            limits,
        };
        for (index, variant) in self.header.variants.iter().enumerate() {
            if names.evaluate(&variant.when)? != 0 {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Checks that the constraints of the header hold on a workload.
    pub(crate) fn check_constraints(
        &self,
        binding: &Binding,
        values: &IndexMap<String, i64>,
        limits: &DeviceLimits,
    ) -> Result<(), BindError> {
        let names = Names {
            binding,
            values,
            limits,
        };
        for constraint in &self.header.constraints {
            if names.evaluate(constraint)? == 0 {
                let expression = &constraint.expression;
                return Err(BindError {
                    fault: BindFault::Rejected,
                    line: constraint.line,
                    message: format!(
                        "constraint `{}` does not hold: {}",
                        expression.text(),
                        names.describe(expression)
                    ),
                });
            }
        }
        Ok(())
    }

    /// The tunable values of a variant, or those without a variant.
    pub fn tunable_values(&self, variant: Option<usize>) -> IndexMap<String, i64> {
        let mut values = self.point();
        if let Some(variant) = variant.and_then(|index| self.header.variants.get(index)) {
            let set = variant.values.iter();
            values.extend(set.map(|(name, value)| (name.clone(), *value)));
        }
        values
    }

    /// The translation unit for some tunable values. `is_oracle`: the outputs are `double`, whatever their dtype.
    pub fn translation_unit(
        &self,
        task: &Task,
        values: &IndexMap<String, i64>,
        is_oracle: bool,
    ) -> TranslationUnit {
        let entry_points = self.header.launches.iter().map(|launch| EntryPoint {
            expression: launch.kernel.clone(),
            arguments: launch
                .arguments
                .iter()
                .map(|argument| argument_type(&self.header, task, argument, is_oracle))
                .collect(),
            argument_names: launch.argument_texts.clone(),
            line: launch.line,
        });
        let constants = task
            .definition
            .constants()
            .map(|(name, value)| (name.to_uppercase(), value));
        TranslationUnit {
            source: self.text.clone(),
            constants: constants
                .filter(|(name, _)| !syntax::declares_at_namespace_scope(&self.text, name))
                .collect(),
            macros: values
                .iter()
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
            entry_points: entry_points.collect(),
            fast_math: self.header.compile.fast_math,
            max_registers: self.header.compile.max_registers,
            arch: self.header.compile.arch.clone(),
        }
    }

    /// The launch plan of one workload for some tunable values.
    pub fn launch_plan(
        &self,
        target: &LaunchTarget<'_>,
        values: &IndexMap<String, i64>,
    ) -> Result<LaunchPlan, BindError> {
        let names = Names {
            binding: target.binding,
            values,
            limits: target.limits,
        };
        let buffers = buffers::bind(&self.header, target, &names)?;
        let definition = &target.task.definition;
        let outputs = definition
            .outputs
            .keys()
            .filter_map(|output| target.buffer_index(&buffers, output))
            .collect();
        let mut launches = launches::bind(&self.header, target, &names, &buffers)?;
        let tensor_maps = tensor_maps::bind(&self.header, target, &names, &buffers, &mut launches)?;
        Ok(LaunchPlan {
            buffers,
            launches,
            outputs,
            tensor_maps,
        })
    }
}
