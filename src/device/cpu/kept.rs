//! Random values that were drawn before: all arms of a pair ask for the same, and copying is cheaper than drawing.

use std::collections::VecDeque;

use crate::base::Digest;
use crate::device::numerics;
use crate::task::{DType, Distribution};

/// The most that is kept, in words of eight bytes: 256 MiB.
const MOST_WORDS: usize = 32 << 20;
/// Beyond this many of one size, the oldest makes room: fresh pages are dear, and what is old is not asked for again.
const MOST_OF_A_SIZE: usize = 16;

/// The values of the latest fills, oldest first.
#[derive(Default)]
pub(super) struct Kept {
    values: VecDeque<(Digest, Vec<u64>)>,
    words: usize,
}

impl Kept {
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
        let known = self.values.iter().position(|(known, _)| *known == key);
        let index = known.unwrap_or_else(|| {
            let mut words = self.room(bytes.div_ceil(8));
            let memory = &mut bytes_of(&mut words)[..bytes];
            numerics::fill(dtype, memory, row, distribution, seed);
            self.words += words.len();
            self.values.push_back((key, words));
            self.values.len() - 1
        });
        &bytes_of(&mut self.values[index].1)[..bytes]
    }

    /// Memory for so many words, of the oldest values of that size where there are enough of them.
    fn room(&mut self, words: usize) -> Vec<u64> {
        let of_this_size =
            || (self.values.iter().enumerate()).filter(|(_, kept)| kept.1.len() == words);
        let is_full = self.words + words > MOST_WORDS || of_this_size().count() >= MOST_OF_A_SIZE;
        let oldest = of_this_size().next().map(|(index, _)| index);
        if let Some((_, old)) = oldest
            .filter(|_| is_full)
            .and_then(|index| self.values.remove(index))
        {
            self.words -= words;
            return old;
        }
        while self.words + words > MOST_WORDS {
            let Some((_, old)) = self.values.pop_front() else {
                break;
            };
            self.words -= old.len();
        }
        vec![0; words]
    }
}

/// Words as bytes: elements of every type are aligned in them.
fn bytes_of(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: the words' own memory; every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Shape;

    #[test]
    fn what_is_kept_is_what_would_be_drawn_and_stays_bounded() {
        let distribution = Distribution::new(Shape::Normal(1.0));
        let mut kept = Kept::default();
        for seed in (0..50).chain(40..60) {
            for bytes in [4usize, 100, 4096] {
                let mut expected = vec![0u64; bytes.div_ceil(8)];
                let expected = &mut bytes_of(&mut expected)[..bytes];
                numerics::fill(DType::Float32, expected, 1, &distribution, seed);
                let found = kept.values(DType::Float32, bytes, 1, &distribution, seed);
                assert_eq!(found, expected);
            }
        }
        assert!(kept.values.len() <= 3 * MOST_OF_A_SIZE);
        let words: usize = kept.values.iter().map(|(_, words)| words.len()).sum();
        assert_eq!(kept.words, words);
        kept.values(DType::Float32, 8 * MOST_WORDS, 1, &distribution, 0);
        assert_eq!((kept.values.len(), kept.words), (1, MOST_WORDS));
    }
}
