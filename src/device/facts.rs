//! Facts about a device for prompts: the vendor's limits of its architecture, and the rates that were measured on it.
//!
//! Opens no device and measures nothing: `cuda::peaks` does both.

use serde::{Deserialize, Serialize};

use crate::verdict::DeviceIdentity;

/// What is known about a device. An unknown fact is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceFacts {
    pub name: String,
    pub arch: String,
    /// The cores that run thread blocks, if the device is a CPU.
    pub cores: Option<u32>,
    pub multiprocessors: Option<u32>,
    /// Size of the last-level cache.
    pub cache_bytes: Option<u64>,
    pub registers_a_multiprocessor: Option<u32>,
    pub threads_a_multiprocessor: Option<u32>,
    pub shared_bytes_a_multiprocessor: Option<u32>,
    /// Limit for one thread block.
    pub shared_bytes_a_block: Option<u32>,
    /// Measured bandwidth of device memory, reads and writes together.
    pub bytes_a_second: Option<f64>,
    /// Measured float32 operations; a multiply-add counts as two.
    pub float_a_second: Option<f64>,
    /// Measured bfloat16 operations on the tensor cores.
    pub tensor_a_second: Option<f64>,
}

impl DeviceFacts {
    /// Collects the facts from the identity, the vendor's tables, and the cached measurements of this GPU.
    pub(crate) fn for_device(identity: &DeviceIdentity) -> Self {
        let mut facts = Self {
            name: identity.name.clone(),
            arch: identity.arch.clone(),
            cores: identity.cores,
            ..Self::default()
        };
        if let Some((threads, shared)) = architecture_limits(&identity.arch) {
            facts.registers_a_multiprocessor = Some(64 << 10);
            facts.threads_a_multiprocessor = Some(threads);
            facts.shared_bytes_a_multiprocessor = Some(shared << 10);
            // Since Ampere, the system reserves 1 KiB for each block.
            let reserved = if facts.arch == "sm_75" { 0 } else { 1 };
            facts.shared_bytes_a_block = Some((shared - reserved) << 10);
        }
        if let Some(measured) = super::cuda::load_measured(identity) {
            facts.multiprocessors = Some(measured.multiprocessors);
            facts.cache_bytes = Some(measured.cache_bytes);
            facts.bytes_a_second = Some(measured.bandwidth);
            facts.float_a_second = Some(measured.float_rate);
            facts.tensor_a_second = Some(measured.tensor_rate);
        }
        facts
    }
}

/// Resident threads and KiB of shared memory of a multiprocessor (CUDA programming guide, table of technical specifications by
/// compute capability). All of these architectures have 64 Ki registers.
fn architecture_limits(arch: &str) -> Option<(u32, u32)> {
    let number = arch.strip_prefix("sm_")?;
    Some(match number.trim_end_matches(['a', 'f']) {
        "75" => (1024, 64),
        "80" => (2048, 164),
        "86" | "89" => (1536, 100),
        "87" => (1536, 164),
        "90" | "100" | "103" => (2048, 228),
        "120" | "121" => (1536, 100),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_architecture_has_no_limits() {
        let of = |arch: &str| {
            DeviceFacts::for_device(&DeviceIdentity {
                arch: arch.to_owned(),
                ..DeviceIdentity::default()
            })
        };
        assert_eq!(of("sm_90a").shared_bytes_a_block, Some(227 << 10));
        assert_eq!(of("sm_75").shared_bytes_a_block, Some(64 << 10));
        for arch in ["sm_12", "x86_64", "", "sm_"] {
            let facts = of(arch);
            assert_eq!(facts.threads_a_multiprocessor, None, "{arch}");
            assert_eq!(facts.multiprocessors, None, "{arch}");
        }
    }
}
