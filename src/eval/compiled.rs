//! Judging up to compilation: header, source, every variant's machine code. Runs nothing, and needs no device.

use std::time::Instant;

use crate::device::Compiled;
use crate::device::cpu::sandbox_support;
use crate::device::cuda::compiler::Compiler;
use crate::kernel::Kernel;
use crate::task::Task;
use crate::verdict::{
    CompiledOnly, CompiledVariant, DeviceIdentity, Evidence, SCHEMA, Seconds, Status,
};

/// Compiles a kernel under every set of values that its header can put in force; the first that is refused is told.
///
/// # Errors
/// Where the compiler itself does not work.
pub(crate) fn compile_only(
    compiler: &Compiler,
    task: &Task,
    name: &str,
    source: &str,
) -> anyhow::Result<CompiledOnly> {
    let begun = Instant::now();
    let mut found = CompiledOnly {
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
        seconds: Seconds::default(),
    };
    let kernel = match Kernel::parse(source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => {
            found.status = Some(Status::Rejected);
            found.reason = Some(format!("header, {error}"));
            found.evidence = Some(Evidence {
                line: Some(error.line),
                ..Evidence::default()
            });
            return Ok(found);
        }
    };
    let variants = (0..kernel.header.variants.len()).map(Some);
    let variants: Vec<_> = std::iter::once(None).chain(variants).collect();
    let units: Vec<_> = (variants.iter())
        .map(|variant| kernel.translation_unit(task, &kernel.tunable_values(*variant), false))
        .collect();
    for (variant, compiled) in variants.into_iter().zip(compiler.compile_all(&units)?) {
        match compiled {
            Compiled::Ready(program) => found.variants.push(CompiledVariant {
                variant,
                tunables: kernel.tunable_values(variant),
                resources: program.resources,
                features: program.features,
                log: program.log,
            }),
            Compiled::Refused(refusal) => {
                found.status = Some(refusal.status);
                found.reason = Some(match variant {
                    Some(index) => format!("variant {index}: {}", refusal.reason),
                    None => refusal.reason,
                });
                found.evidence = Some(*refusal.evidence);
                break;
            }
        }
    }
    found.compiled = found.status.is_none();
    found.seconds.compile = begun.elapsed().as_secs_f64();
    Ok(found)
}
