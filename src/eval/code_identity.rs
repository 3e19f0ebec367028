//! Whether two kernels do the same on a device: the hash of their compiled code and of what their headers launch.
//!
//! Kernels with the same hash always do the same. Two kernels that do the same may have different hashes.

use super::compiled_kernel::{CompiledKernel, values_key};
use crate::base::Digest;
use crate::device;

/// The hash of a compiled kernel. `None` if no case of this judgement needs one of its variants, or if a part cannot be read.
pub(super) fn code_identity(compiled: &CompiledKernel) -> Option<Digest> {
    let kernel = &compiled.kernel;
    let mut parts = vec![kernel.launch_identity()?.to_string()];
    let variants = (0..kernel.header.variants.len()).map(Some);
    for variant in variants.chain([None]) {
        let values = kernel.tunable_values(variant);
        // Another judgement may have a case that needs these values.
        let program = compiled.programs.get(&values_key(&values))?;
        parts.push(format!("{variant:?} {}", device::code_hash(program)?));
    }
    Some(Digest::of_parts(parts.iter().map(String::as_bytes)))
}
