//! Small pieces of text that several reports share.

use crate::verdict::DeviceIdentity;

/// A count with its noun: `1 round`, `2 rounds`.
pub(crate) fn pluralize(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Every line of a text, indented by `spaces` and ended by a newline.
pub(super) fn indent(text: &str, spaces: usize) -> String {
    text.lines()
        .map(|line| format!("{:spaces$}{line}\n", ""))
        .collect()
}

/// The device that times were measured on. CPU times are marked as such wherever they are shown.
pub(super) fn device_note(device: &DeviceIdentity) -> String {
    match device.cores {
        Some(cores) => format!(
            "  times are CPU times on {} ({}): they rank kernels for this machine, not for a GPU\n",
            pluralize(u64::from(cores), "core"),
            device.name
        ),
        None => format!("  measured on {}\n", device.name),
    }
}
