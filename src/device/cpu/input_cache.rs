//! Random values that were drawn before: all arms of a pair ask for the same, and copying is cheaper than drawing.

use std::collections::VecDeque;

use crate::base::Digest;
use crate::device::numerics;
use crate::task::{DType, Distribution};

/// The most that is kept, in words of eight bytes: 256 MiB.
const MAX_WORDS: usize = 32 << 20;
/// Beyond this many of one size, the oldest makes room: fresh pages are dear, and what is old is not asked for again.
const MAX_ENTRIES_PER_SIZE: usize = 16;

/// The values of the latest fills, oldest first.
#[derive(Default)]
pub(super) struct InputCache {
    entries: VecDeque<(Digest, Vec<u64>)>,
    words: usize,
}

impl InputCache {
    /// `bytes` bytes of values; `row` is the length of the last axis.
    pub(super) fn values(
        &mut self,
        dtype: DType,
        bytes: usize,
        row: u64,
        distribution: &Distribution,
        seed: u64,
    ) -> &[u8] {
        let description = format!("{distribution:?} {dtype:?} {row} {bytes}");
        let key = Digest::of_parts([description.as_bytes(), &seed.to_le_bytes()]);
        let known = self.entries.iter().position(|(known, _)| *known == key);
        let index = known.unwrap_or_else(|| {
            let mut words = self.take_memory(bytes.div_ceil(8));
            let memory = &mut as_bytes_mut(&mut words)[..bytes];
            numerics::fill(dtype, memory, row, distribution, seed);
            self.words += words.len();
            self.entries.push_back((key, words));
            self.entries.len() - 1
        });
        &as_bytes_mut(&mut self.entries[index].1)[..bytes]
    }

    /// Memory for so many words, of the oldest values of that size where there are enough of them.
    fn take_memory(&mut self, words: usize) -> Vec<u64> {
        let of_this_size =
            || (self.entries.iter().enumerate()).filter(|(_, kept)| kept.1.len() == words);
        let is_full =
            self.words + words > MAX_WORDS || of_this_size().count() >= MAX_ENTRIES_PER_SIZE;
        let oldest = of_this_size().next().map(|(index, _)| index);
        if let Some((_, old)) = oldest
            .filter(|_| is_full)
            .and_then(|index| self.entries.remove(index))
        {
            self.words -= words;
            return old;
        }
        while self.words + words > MAX_WORDS {
            let Some((_, old)) = self.entries.pop_front() else {
                break;
            };
            self.words -= old.len();
        }
        vec![0; words]
    }
}

/// Words as bytes: elements of every type are aligned in them.
fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: the words' own memory; every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::DistributionKind;

    #[test]
    fn cached_values_equal_fresh_values_and_the_cache_is_bounded() {
        let distribution = Distribution::new(DistributionKind::Normal(1.0));
        let mut cache = InputCache::default();
        for seed in (0..50).chain(40..60) {
            for bytes in [4usize, 100, 4096] {
                let mut expected = vec![0u64; bytes.div_ceil(8)];
                let expected = &mut as_bytes_mut(&mut expected)[..bytes];
                numerics::fill(DType::Float32, expected, 1, &distribution, seed);
                let found = cache.values(DType::Float32, bytes, 1, &distribution, seed);
                assert_eq!(found, expected);
            }
        }
        assert!(cache.entries.len() <= 3 * MAX_ENTRIES_PER_SIZE);
        let words: usize = cache.entries.iter().map(|(_, words)| words.len()).sum();
        assert_eq!(cache.words, words);
        cache.values(DType::Float32, 8 * MAX_WORDS, 1, &distribution, 0);
        assert_eq!((cache.entries.len(), cache.words), (1, MAX_WORDS));
    }
}
