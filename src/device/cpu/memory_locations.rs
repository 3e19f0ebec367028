//! Finds the buffer that an address of a candidate's process is in or near.
//!
//! The process reports where it mapped its buffers; their sizes are the judge's own. The results are text and evidence, and never
//! the reason for a verdict.

use super::control_page::{ControlPage, GUARD_BYTES};
use super::layout::BufferLayout;

/// One element of a buffer.
pub(super) struct Element<'a> {
    pub(super) buffer: &'a str,
    pub(super) index: u64,
}

/// The element that contains an address.
pub(super) fn find_element<'a>(
    control: &ControlPage,
    layouts: &'a [BufferLayout],
    address: u64,
) -> Option<Element<'a>> {
    let slots = control.buffers.iter();
    layouts.iter().zip(slots).find_map(|(layout, slot)| {
        let offset = address.checked_sub(slot.address)?;
        (offset < layout.data.len() as u64).then(|| Element {
            buffer: &layout.name,
            index: offset / layout.dtype.bytes(),
        })
    })
}

/// The distance between an address and the buffer that it is just before or after, as text. `None` if it is within a buffer or
/// farther away than the unmapped guard around a mapping.
pub(super) fn describe_near_buffer(
    control: &ControlPage,
    layouts: &[BufferLayout],
    address: u64,
) -> Option<String> {
    let slots = control.buffers.iter();
    layouts.iter().zip(slots).find_map(|(layout, slot)| {
        let bytes = layout.data.len() as u64;
        let most_before = (layout.data.start - layout.mapping.start) as u64 + GUARD_BYTES;
        let most_after = (layout.mapping.end - layout.data.end) as u64 + GUARD_BYTES;
        let name = &layout.name;
        let start = slot.address;
        let end = start.checked_add(bytes)?;
        if address < start && start - address <= most_before {
            let distance = start - address;
            Some(format!("{distance} bytes before the start of `{name}`"))
        } else if address >= end && address - end < most_after {
            let distance = address - end;
            Some(format!("{distance} bytes past the end of `{name}`"))
        } else {
            None
        }
    })
}
