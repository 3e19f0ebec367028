//! Random numbers: deterministic streams for everything that must repeat, and fresh seeds for what a candidate must not foresee.
//!
//! A stream is identified by (seed, purpose, index) and always gives the same numbers, so no generator state is ever saved.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::digest::Digest;

/// A deterministic stream of random numbers (ChaCha8). The same on every platform and in every version.
pub struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// The stream for one purpose (`"select"`, `"mutate"`, …) at one index (usually the step).
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let digest = Digest::of_parts([
            &seed.to_le_bytes()[..],
            purpose.as_bytes(),
            &index.to_le_bytes(),
        ]);
        Self(ChaCha8Rng::seed_from_u64(digest.low64()))
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of the multiplication is below 2^-32 for every bound below 2^32.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A uniform number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index drawn with a probability proportional to its weight. `None` if no weight is positive or the sum is not finite.
    pub(crate) fn weighted_index(&mut self, weights: &[f64]) -> Option<usize> {
        let total: f64 = weights.iter().filter(|weight| **weight > 0.0).sum();
        if !(total > 0.0 && total.is_finite()) {
            return None;
        }
        let mut left = self.uniform() * total;
        let mut last = None;
        for (index, weight) in weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0.0)
        {
            last = Some(index);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Shuffles in place (Fisher-Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A seed from the operating system's entropy, for what no candidate may foresee. The caller records it.
///
/// # Panics
/// If the operating system has no entropy source, which no supported system lacks.
pub fn fresh_seed() -> u64 {
    getrandom::u64().expect("the operating system provides entropy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_purpose_and_index() {
        let draw = |purpose, index| RandomStream::new(7, purpose, index).next_u64();
        assert_eq!(draw("select", 3), draw("select", 3));
        assert_ne!(draw("select", 3), draw("select", 4));
        assert_ne!(draw("select", 3), draw("mutate", 3));
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut stream = RandomStream::new(1, "test", 0);
        assert!((0..1000).all(|_| stream.below(3) < 3));
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.weighted_index(&[0.0, 2.0, 0.0]), Some(1));
        assert_eq!(stream.weighted_index(&[0.0, -1.0]), None);
        let mut items: Vec<_> = (0..20).collect();
        stream.shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
