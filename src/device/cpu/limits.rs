//! Limits of the CPU device: refuses plans that the control page or the machine's memory cannot hold.
//!
//! Limits of a single launch, such as threads per block, are checked by the runtime.

use super::control_page::{MAX_ARGUMENTS, MAX_BUFFERS, MAX_LAUNCHES};
use crate::device::{Build, Refusal};
use crate::kernel::plan::LaunchPlan;
use crate::verdict::Status;

/// A refusal if the plan exceeds a limit.
pub(super) fn refuse_excess(plan: &LaunchPlan) -> Option<Refusal> {
    let reason = excess_of_counts(plan).or_else(|| excess_of_memory(plan))?;
    Some(Refusal {
        status: Status::LimitExceeded,
        reason,
        evidence: Box::default(),
    })
}

/// The memory that a build needs to inspect a kernel, in addition to the plan's buffers. The race build needs twenty bytes for
/// every byte of a buffer, mostly for the latest accesses.
pub(super) fn inspection_bytes(build: Build, plan: &LaunchPlan) -> u64 {
    let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
    match build {
        Build::Fast => 0,
        Build::Bounds => 1 << 30,
        Build::Race => (2 << 30) + 20 * bytes,
    }
}

fn excess_of_counts(plan: &LaunchPlan) -> Option<String> {
    let arguments = plan.launches.iter().map(|launch| launch.arguments.len());
    let limits = [
        ("buffers", plan.buffers.len(), MAX_BUFFERS),
        ("launches", plan.launches.len(), MAX_LAUNCHES),
        ("arguments", arguments.sum(), MAX_ARGUMENTS),
    ];
    let (name, found, max) = limits.into_iter().find(|(_, found, max)| found > max)?;
    Some(format!(
        "{found} {name}: this backend supports at most {max}"
    ))
}

/// All buffers stay in memory while the kernel is bound, so they may use at most half of what is available.
fn excess_of_memory(plan: &LaunchPlan) -> Option<String> {
    let bytes = plan.buffers.iter().try_fold(0u64, |sum, buffer| {
        let mut sizes = buffer.shape.iter();
        let elements = sizes.try_fold(1u64, |product, size| product.checked_mul(*size))?;
        sum.checked_add(elements.checked_mul(buffer.dtype.bytes())?)
    });
    let max = available_bytes() / 2;
    if bytes.is_some_and(|bytes| bytes <= max) {
        return None;
    }
    let needed = bytes.map_or("more than 2^64 bytes".to_owned(), |bytes| {
        format!("{} MiB", bytes >> 20)
    });
    let max = max >> 20;
    Some(format!(
        "the buffers need {needed} of memory: at most {max} MiB are available"
    ))
}

/// Memory that can be allocated without swapping; a large number if the system does not say.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.map_or(1 << 40, |kibibytes| kibibytes << 10)
}
