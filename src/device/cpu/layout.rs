//! Where the buffers of a plan are in the shared memory, and the guard zones around them.
//!
//! The memory starts with the control page. Each buffer has its own mapping, with a guard zone before and after its data
//! that a kernel must leave alone. Nothing here touches a process.

use std::ops::Range;

use anyhow::bail;

use super::control_page::ControlPage;
use crate::device::numerics;
use crate::kernel::plan::LaunchPlan;
use crate::task::DType;

/// Minimum size of the guard zones. Data starts at a multiple of 256 bytes.
const GUARD_ZONE_BYTES: usize = 256;

/// The position of one buffer in the shared memory.
pub(super) struct BufferLayout {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Length of the last axis.
    pub(super) row_length: u64,
    /// Bytes of the shared memory; the mapping includes both guard zones.
    pub(super) mapping: Range<usize>,
    pub(super) data: Range<usize>,
}

/// The layout of every buffer, and the total size of the memory in bytes.
pub(super) fn lay_out_buffers(plan: &LaunchPlan) -> (Vec<BufferLayout>, usize) {
    let page = page_bytes();
    let mut next = size_of::<ControlPage>().next_multiple_of(page);
    let mut layouts = Vec::new();
    for buffer in &plan.buffers {
        let bytes = buffer.bytes() as usize;
        let mapped = (GUARD_ZONE_BYTES + bytes + GUARD_ZONE_BYTES).next_multiple_of(page);
        let start = next + GUARD_ZONE_BYTES;
        layouts.push(BufferLayout {
            name: buffer.name.clone(),
            dtype: buffer.dtype,
            row_length: buffer.shape.last().copied().unwrap_or(1),
            mapping: next..next + mapped,
            data: start..start + bytes,
        });
        next += mapped;
    }
    (layouts, next)
}

fn page_bytes() -> usize {
    // SAFETY: no preconditions; the result is -1 if the system does not know.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).map_or(1 << 16, |bytes| bytes.max(4096))
}

impl BufferLayout {
    /// Fails unless there is one value for each element.
    pub(super) fn check_length(&self, values: &[f64]) -> anyhow::Result<()> {
        let (found, elements) = (
            values.len() as u64,
            self.data.len() as u64 / self.dtype.bytes(),
        );
        if found != elements {
            bail!(
                "{found} values for the {elements} elements of `{}`",
                self.name
            );
        }
        Ok(())
    }

    fn guard_zones(&self) -> [Range<usize>; 2] {
        [
            self.mapping.start..self.data.start,
            self.data.end..self.mapping.end,
        ]
    }

    /// Writes the guard pattern of a key to both guard zones. `memory` is the whole shared memory.
    pub(super) fn renew_guard_zones(&self, memory: &mut [u8], key: u64) {
        for zone in self.guard_zones() {
            fill_with_noise(memory, zone, key);
        }
    }

    /// The distance in bytes between the data and the nearest damage to a guard zone: positive after the last byte, negative
    /// before the first. Damage after the data is reported first.
    pub(super) fn guard_damage(&self, memory: &[u8], key: u64) -> Option<i64> {
        let [before, after] = self.guard_zones();
        let is_intact = |zone: &Range<usize>| has_noise(memory, zone.clone(), key);
        if is_intact(&before) && is_intact(&after) {
            return None;
        }
        let is_damaged = |(byte, position): &(&u8, usize)| **byte != noise_byte(key, *position);
        if let Some((_, position)) = memory[after.clone()].iter().zip(after).find(is_damaged) {
            return Some((position - self.data.end) as i64);
        }
        let mut zone = memory[before.clone()].iter().zip(before).rev();
        let (_, position) = zone.find(is_damaged)?;
        Some(position as i64 - self.data.start as i64)
    }
}

/// Fills a range of memory, which starts at a word, with bytes that cannot be predicted without the key.
pub(super) fn fill_with_noise(memory: &mut [u8], range: Range<usize>, key: u64) {
    let words = whole_words(&range);
    for position in (range.start..words.start).chain(words.end..range.end) {
        memory[position] = noise_byte(key, position);
    }
    if !words.is_empty() {
        let first = words.start / WORD_BYTES;
        numerics::fill_noise(&mut memory[words], first as u64, key);
    }
}

/// Whether a range of memory holds what `fill_with_noise` wrote.
fn has_noise(memory: &[u8], range: Range<usize>, key: u64) -> bool {
    let words = whole_words(&range);
    let mut ends = (range.start..words.start).chain(words.end..range.end);
    let first = words.start / WORD_BYTES;
    ends.all(|position| memory[position] == noise_byte(key, position))
        && (words.is_empty() || numerics::has_noise(&memory[words], first as u64, key))
}

const WORD_BYTES: usize = 8;

/// The largest part of a range that consists of whole words of the shared memory. Empty if there is none.
fn whole_words(range: &Range<usize>) -> Range<usize> {
    let start = range.start.next_multiple_of(WORD_BYTES).min(range.end);
    let end = range.end / WORD_BYTES * WORD_BYTES;
    start..end.max(start)
}

/// The byte at a position of the shared memory.
fn noise_byte(key: u64, position: usize) -> u8 {
    noise_word(key, position / WORD_BYTES).to_le_bytes()[position % WORD_BYTES]
}

/// The word with this index in the shared memory, for the ends of a zone: as `mix` in `numerics.h`, which fills whole words.
fn noise_word(key: u64, index: usize) -> u64 {
    let mut word = key.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::aligned::AlignedBytes;

    #[test]
    fn noise_by_words_is_noise_by_bytes_and_every_damage_is_found() {
        let key = 0x1234_5678_9abc_def0;
        for range in [3..3, 3..5, 5..11, 8..24, 1..40, 7..33] {
            let mut aligned = AlignedBytes::zeroed(48);
            let memory = aligned.as_mut_slice();
            fill_with_noise(memory, range.clone(), key);
            for (position, byte) in memory.iter().enumerate() {
                let expected = if range.contains(&position) {
                    noise_byte(key, position)
                } else {
                    0
                };
                assert_eq!(*byte, expected, "{range:?}, {position}");
            }
            assert!(has_noise(memory, range.clone(), key));
            for position in range.clone() {
                memory[position] ^= 1;
                assert!(
                    !has_noise(memory, range.clone(), key),
                    "{range:?}, {position}"
                );
                memory[position] ^= 1;
            }
        }
    }
}
