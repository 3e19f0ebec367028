//! The names of the features that can be axes of the archive, and which of them a way of judging supplies.
//!
//! Computes no feature: the judge does.

/// The features that can be axes of the archive. Each is a number that the judge determines for a kernel: `docs/configuration.md`
/// has their units, `eval::features` and `device::cuda::ptx` their formulas.
pub const FEATURES: [&str; 24] = [
    "block_threads",
    "vector_bytes",
    "shared_bytes",
    "launches",
    "barriers",
    "speedup",
    "runtime_variance",
    "load_sectors",
    "store_sectors",
    "coalescing",
    "strided_share",
    "bank_conflicts",
    "bytes_ratio",
    "arithmetic_per_byte",
    "registers",
    "spill_bytes",
    "vector_load_bytes",
    "vector_store_bytes",
    "mma",
    "wgmma",
    "async_copies",
    "bulk_copies",
    "shuffles",
    "atomics",
];

/// Those that only an inspection on the CPU supplies: it counts memory accesses.
pub(super) const INSPECTED_FEATURES: [&str; 7] = [
    "load_sectors",
    "store_sectors",
    "coalescing",
    "strided_share",
    "bank_conflicts",
    "bytes_ratio",
    "arithmetic_per_byte",
];

/// Those that are counted in the code that is compiled for a GPU.
const GPU_CODE_FEATURES: [&str; 10] = [
    "registers",
    "spill_bytes",
    "vector_load_bytes",
    "vector_store_bytes",
    "mma",
    "wgmma",
    "async_copies",
    "bulk_copies",
    "shuffles",
    "atomics",
];

/// How kernels are judged, as far as it decides which features there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeatureSources {
    pub is_gpu: bool,
    /// Whether kernels are inspected on the CPU.
    pub inspects: bool,
}

impl FeatureSources {
    /// Why no kernel has this feature; `None` if kernels have it.
    pub(super) fn lacks(self, feature: &str) -> Option<&'static str> {
        if !self.inspects && INSPECTED_FEATURES.contains(&feature) {
            Some("memory accesses are counted on the CPU only; `eval.screen: cpu` does it")
        } else if !self.is_gpu && GPU_CODE_FEATURES.contains(&feature) {
            Some("it is counted in the code of a GPU")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_of_a_feature() {
        let mut listed = INSPECTED_FEATURES.iter().chain(&GPU_CODE_FEATURES);
        assert!(listed.all(|name| FEATURES.contains(name)));
    }
}
