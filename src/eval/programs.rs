//! Kernels with their programs: one for each set of values that is in force on some shape. Compiles, and opens nothing.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context;
use indexmap::IndexMap;

use super::cases::Case;
use super::{Finding, Judge};
use crate::base::Failure;
use crate::device::{Build, Compiled, Program};
use crate::kernel::Kernel;
use crate::task::Task;

/// A kernel of kforge's own or the user's, compiled under each set of values that it needs.
pub(super) struct ReferenceKernel {
    pub(super) kernel: Kernel,
    pub(super) programs: HashMap<Vec<i64>, Program>,
}

/// A kernel with its programs: one for each set of tunable values in force on some shape.
pub(super) struct CompiledKernel {
    pub(super) kernel: Kernel,
    pub(super) programs: HashMap<Vec<i64>, Program>,
    pub(super) seconds: f64,
}

impl Judge<'_> {
    /// Compiles a kernel under every set of values that is in force on some case.
    pub(super) fn compile(
        &self,
        kernel: Kernel,
        cases: &[Case],
    ) -> anyhow::Result<Result<CompiledKernel, Finding>> {
        let _sharing = self.timing_lock.host_work()?;
        let begun = Instant::now();
        let mut keys = Vec::new();
        let mut units = Vec::new();
        for case in cases {
            let values = match kernel.variant_for(&case.binding, &self.limits) {
                Ok(variant) => kernel.tunable_values(variant),
                Err(error) => return Ok(Err(error.into())),
            };
            let key = values_key(&values);
            if !keys.contains(&key) {
                keys.push(key);
                units.push(kernel.translation_unit(self.task, &values, false));
            }
        }
        let mut programs = HashMap::new();
        for (key, compiled) in keys.into_iter().zip(self.device.compile_all(&units)?) {
            match compiled {
                Compiled::Ready(program) => programs.insert(key, program),
                Compiled::Refused(refusal) => {
                    return Ok(Err(Finding {
                        refusal,
                        case: None,
                    }));
                }
            };
        }
        Ok(Ok(CompiledKernel {
            kernel,
            programs,
            seconds: begun.elapsed().as_secs_f64(),
        }))
    }

    /// Sees to it that oracle and baseline are compiled for every case.
    pub(super) fn prepare_references(&mut self, cases: &[Case]) -> anyhow::Result<()> {
        let _sharing = self.timing_lock.host_work()?;
        for (reference, name, is_oracle) in [
            (&mut self.oracle, "oracle", true),
            (&mut self.baseline, "baseline", false),
        ] {
            for case in cases {
                let task = &self.task.name;
                let broken = |reason: String| {
                    Failure::reference(format!(
                        "the {name} of task `{task}` does not work: {reason}"
                    ))
                };
                let variant = reference
                    .kernel
                    .variant_for(&case.binding, &self.limits)
                    .map_err(|error| broken(error.to_string()))?;
                let values = reference.kernel.tunable_values(variant);
                let key = values_key(&values);
                if reference.programs.contains_key(&key) {
                    continue;
                }
                match self.device.compile(
                    &reference
                        .kernel
                        .translation_unit(self.task, &values, is_oracle),
                    Build::Fast,
                )? {
                    Compiled::Ready(program) => reference.programs.insert(key, program),
                    Compiled::Refused(refusal) => {
                        let log = refusal.evidence.log.unwrap_or_default();
                        return Err(broken(format!("{}\n{log}", refusal.reason)).into());
                    }
                };
            }
        }
        Ok(())
    }
}

impl ReferenceKernel {
    pub(super) fn parse(text: &str, task: &Task, name: &str) -> anyhow::Result<Self> {
        let kernel = Kernel::parse(text, &task.definition).map_err(|error| {
            Failure::reference(format!("the {name} of task `{}`: {error}", task.name))
        })?;
        Ok(Self {
            kernel,
            programs: HashMap::new(),
        })
    }
}

impl CompiledKernel {
    pub(super) fn program(&self, values: &IndexMap<String, i64>) -> anyhow::Result<&Program> {
        self.programs
            .get(&values_key(values))
            .context("a kernel was opened under values that it was not compiled for")
    }
}

pub(super) fn values_key(values: &IndexMap<String, i64>) -> Vec<i64> {
    values.values().copied().collect()
}
