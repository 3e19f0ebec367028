//! Keeps random input values: several kernels get the same values, and copying is cheaper than generating them again.
//!
//! The values are exactly those that `numerics::fill` generates.

use std::collections::VecDeque;

use anyhow::Context;

use super::private_pages::PrivatePages;
use crate::base::Digest;
use crate::device::numerics;
use crate::task::{DType, Distribution};

/// Maximum size of the cache, in bytes.
const MAX_INPUT_BYTES: usize = 256 << 20;
/// The most entries of one size. Beyond that the oldest is reused: new pages are expensive, and old values are not requested again.
const MAX_ENTRIES_PER_SIZE: usize = 16;

/// Which values to generate.
pub(super) struct RandomFill<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: usize,
    /// Length of the last axis.
    pub(super) row_length: u64,
    pub(super) distribution: &'a Distribution,
    pub(super) seed: u64,
}

/// The values of the latest fills, oldest first.
#[derive(Default)]
pub(super) struct InputCache {
    entries: VecDeque<(Digest, PrivatePages)>,
    bytes: usize,
}

impl InputCache {
    /// The values of a fill as bytes.
    pub(super) fn values(&mut self, fill: &RandomFill<'_>) -> anyhow::Result<&[u8]> {
        let RandomFill {
            dtype,
            bytes,
            row_length,
            distribution,
            seed,
        } = *fill;
        let description = format!("{distribution:?} {dtype:?} {row_length} {bytes}");
        let key = Digest::of_parts([description.as_bytes(), &seed.to_le_bytes()]);
        let known = self.entries.iter().position(|(known, _)| *known == key);
        let index = match known {
            Some(index) => index,
            None => {
                let mut memory = self.take_memory(bytes.max(1))?;
                numerics::fill(
                    dtype,
                    &mut memory.bytes_mut()[..bytes],
                    row_length,
                    distribution,
                    seed,
                );
                self.bytes += memory.len();
                self.entries.push_back((key, memory));
                self.entries.len() - 1
            }
        };
        Ok(&self.entries[index].1.bytes()[..bytes])
    }

    /// Memory of this many bytes: that of the oldest entry of the same size if there are enough of them, else new memory.
    fn take_memory(&mut self, bytes: usize) -> anyhow::Result<PrivatePages> {
        let same_size =
            || (self.entries.iter().enumerate()).filter(|(_, entry)| entry.1.len() == bytes);
        let is_full =
            self.bytes + bytes > MAX_INPUT_BYTES || same_size().count() >= MAX_ENTRIES_PER_SIZE;
        let oldest = same_size().next().map(|(index, _)| index);
        if let Some((_, memory)) = oldest
            .filter(|_| is_full)
            .and_then(|index| self.entries.remove(index))
        {
            self.bytes -= bytes;
            return Ok(memory);
        }
        while self.bytes + bytes > MAX_INPUT_BYTES {
            let Some((_, removed)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= removed.len();
        }
        PrivatePages::new(bytes).context("failed to allocate memory for random inputs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::DistributionKind;

    #[test]
    fn cached_values_equal_fresh_values_and_the_cache_is_bounded() {
        let distribution = Distribution::new(DistributionKind::Normal(1.0));
        let fill = |bytes, seed| RandomFill {
            dtype: DType::Float32,
            bytes,
            row_length: 1,
            distribution: &distribution,
            seed,
        };
        let mut cache = InputCache::default();
        for seed in (0..50).chain(40..60) {
            for bytes in [4usize, 100, 4096] {
                let mut expected = PrivatePages::new(bytes).unwrap();
                numerics::fill(DType::Float32, expected.bytes_mut(), 1, &distribution, seed);
                assert_eq!(cache.values(&fill(bytes, seed)).unwrap(), expected.bytes());
            }
        }
        assert!(cache.entries.len() <= 3 * MAX_ENTRIES_PER_SIZE);
        let bytes: usize = cache.entries.iter().map(|(_, memory)| memory.len()).sum();
        assert_eq!(cache.bytes, bytes);
        cache.values(&fill(MAX_INPUT_BYTES, 0)).unwrap();
        assert_eq!((cache.entries.len(), cache.bytes), (1, MAX_INPUT_BYTES));
    }
}
