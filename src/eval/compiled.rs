//! `kforge eval --compile-only`: compiles every variant of a kernel with NVRTC.
//!
//! Runs nothing and needs no GPU. The result is not a verdict.

use std::time::Instant;

use super::finding::Finding;
use crate::device::Compiled;
use crate::device::cpu::sandbox_support;
use crate::device::cuda::compiler::Compiler;
use crate::kernel::Kernel;
use crate::task::Task;
use crate::verdict::{CompiledOnly, CompiledVariant, DeviceIdentity, SCHEMA, Seconds};

/// Compiles a kernel under the tunable values of every variant. The first variant that is refused ends it.
///
/// # Errors
/// If the compiler itself does not work.
pub(crate) fn compile_only(
    compiler: &Compiler,
    task: &Task,
    name: &str,
    source: &str,
) -> anyhow::Result<CompiledOnly> {
    let started = Instant::now();
    let mut result = CompiledOnly {
        schema: SCHEMA,
        task: task.name.clone(),
        kernel: name.to_owned(),
        backend: "cuda".to_owned(),
        compiled: false,
        status: None,
        reason: None,
        device: DeviceIdentity {
            arch: compiler.arch().to_owned(),
            ..DeviceIdentity::default()
        },
        compiler: compiler.version(),
        sandbox: sandbox_support().describe().to_owned(),
        variants: Vec::new(),
        evidence: None,
        notes: Vec::new(),
        seconds: Seconds::default(),
    };
    let kernel = match Kernel::parse(source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => {
            let finding = Finding::from(error);
            result.status = Some(finding.status);
            result.reason = Some(finding.reason);
            result.evidence = Some(*finding.evidence);
            return Ok(result);
        }
    };
    result.notes.clone_from(&kernel.header.notes);
    let variants = (0..kernel.header.variants.len()).map(Some);
    let variants: Vec<_> = std::iter::once(None).chain(variants).collect();
    let units: Vec<_> = (variants.iter())
        .map(|variant| kernel.translation_unit(task, &kernel.tunable_values(*variant), false))
        .collect();
    for (variant, compiled) in variants.into_iter().zip(compiler.compile_all(&units)?) {
        match compiled {
            Compiled::Ready(program) => result.variants.push(CompiledVariant {
                variant,
                tunables: kernel.tunable_values(variant),
                resources: program.resources,
                features: program.features,
                log: program.log,
            }),
            Compiled::Refused(refusal) => {
                result.status = Some(refusal.status);
                result.reason = Some(match variant {
                    Some(index) => format!("variant {index}: {}", refusal.reason),
                    None => refusal.reason,
                });
                result.evidence = Some(*refusal.evidence);
                break;
            }
        }
    }
    result.compiled = result.status.is_none();
    result.seconds.compile = started.elapsed().as_secs_f64();
    Ok(result)
}
