//! Keeps random input values: several kernels get the same values, and copying is cheaper than generating them again.
//!
//! The values are exactly those that `numerics::fill` generates.

use std::collections::VecDeque;

use crate::base::Digest;
use crate::device::numerics;
use crate::task::{DType, Distribution};

/// Maximum size of the cache, in words of eight bytes: 256 MiB.
const MAX_WORDS: usize = 32 << 20;
/// Above this number of entries of one size, the oldest is reused: new pages are expensive, and old values are not requested
/// again.
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
    entries: VecDeque<(Digest, Vec<u64>)>,
    words: usize,
}

impl InputCache {
    /// The values of a fill as bytes.
    pub(super) fn values(&mut self, fill: &RandomFill<'_>) -> &[u8] {
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
        let index = known.unwrap_or_else(|| {
            let mut words = self.take_memory(bytes.div_ceil(8));
            let memory = &mut as_bytes_mut(&mut words)[..bytes];
            numerics::fill(dtype, memory, row_length, distribution, seed);
            self.words += words.len();
            self.entries.push_back((key, words));
            self.entries.len() - 1
        });
        &as_bytes_mut(&mut self.entries[index].1)[..bytes]
    }

    /// Memory of this many words: that of the oldest entry of the same size if there are enough of them, else new memory.
    fn take_memory(&mut self, words: usize) -> Vec<u64> {
        let same_size =
            || (self.entries.iter().enumerate()).filter(|(_, entry)| entry.1.len() == words);
        let is_full = self.words + words > MAX_WORDS || same_size().count() >= MAX_ENTRIES_PER_SIZE;
        let oldest = same_size().next().map(|(index, _)| index);
        if let Some((_, memory)) = oldest
            .filter(|_| is_full)
            .and_then(|index| self.entries.remove(index))
        {
            self.words -= words;
            return memory;
        }
        while self.words + words > MAX_WORDS {
            let Some((_, removed)) = self.entries.pop_front() else {
                break;
            };
            self.words -= removed.len();
        }
        vec![0; words]
    }
}

/// Words as bytes. Words are aligned for elements of every type.
fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: the memory of the words; every bit pattern is valid for both types.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words)) }
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
                let mut expected = vec![0u64; bytes.div_ceil(8)];
                let expected = &mut as_bytes_mut(&mut expected)[..bytes];
                numerics::fill(DType::Float32, expected, 1, &distribution, seed);
                assert_eq!(cache.values(&fill(bytes, seed)), expected);
            }
        }
        assert!(cache.entries.len() <= 3 * MAX_ENTRIES_PER_SIZE);
        let words: usize = cache.entries.iter().map(|(_, words)| words.len()).sum();
        assert_eq!(cache.words, words);
        cache.values(&fill(8 * MAX_WORDS, 0));
        assert_eq!((cache.entries.len(), cache.words), (1, MAX_WORDS));
    }
}
