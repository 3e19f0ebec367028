//! What a device has, for whoever writes kernels for it: what its maker says of the architecture, and what was measured here.
//!
//! Opens no device and starts nothing.

use serde::{Deserialize, Serialize};

use crate::verdict::DeviceIdentity;

/// What is known of a device; what is not is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceFacts {
    pub name: String,
    pub arch: String,
    /// Of a CPU: cores that blocks are spread over.
    pub cores: Option<u32>,
    pub multiprocessors: Option<u32>,
    /// The last-level cache.
    pub cache_bytes: Option<u64>,
    pub registers_a_multiprocessor: Option<u32>,
    pub threads_a_multiprocessor: Option<u32>,
    pub shared_bytes_a_multiprocessor: Option<u32>,
    /// The most that one block may ask for.
    pub shared_bytes_a_block: Option<u32>,
    /// Measured: bytes of the device's memory, read or written.
    pub bytes_a_second: Option<f64>,
    /// Measured: multiplications and additions in float32.
    pub float_a_second: Option<f64>,
    /// Measured: the same on the tensor cores in bfloat16, by `mma.sync`.
    pub tensor_a_second: Option<f64>,
}

impl DeviceFacts {
    /// From the identity, the maker's tables, and what an earlier measurement of this very card left behind.
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
            // Turing gives a block all of it; since then the system keeps 1 KiB of each block for itself.
            let kept = if facts.arch == "sm_75" { 0 } else { 1 };
            facts.shared_bytes_a_block = Some((shared - kept) << 10);
        }
        super::cuda::recall_peaks(identity, &mut facts);
        facts
    }
}

/// Threads that a multiprocessor can hold, and KiB of shared memory that it has (CUDA programming guide, table of technical
/// specifications by compute capability). All of these have 64 Ki registers.
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
