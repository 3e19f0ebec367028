//! How alike two sources are: the share of the runs of five tokens ("shingles") that they have in common.
//!
//! Keeps a part of each set of shingles that is enough for an estimate, and no source. Knows nothing of C++: the caller says what a token is.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Digest;

/// The tokens of one shingle.
const TOKENS: usize = 5;

/// How many hashes are kept. The standard error of the share is at most 0.05, and 0.02 where the share is 0.95.
const KEPT: usize = 128;

/// The hexadecimal digits of a hash.
const DIGITS: usize = 8;

/// The smallest hashes of the shingles of a source, ascending. Written as hexadecimal digits, eight for each hash.
///
/// Two sets are compared by the smallest hashes of their union: a fair sample of it (Broder, "On the resemblance and containment of
/// documents", 1997). Sources with fewer shingles than are kept are compared exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shingles(Vec<u32>);

impl Shingles {
    /// Those of a source with these tokens. A source with fewer tokens than a shingle has one shingle.
    pub fn of<'t>(tokens: impl IntoIterator<Item = &'t str>) -> Self {
        let tokens: Vec<&str> = tokens.into_iter().collect();
        let hash = |tokens: &[&str]| {
            let parts = tokens.iter().map(|token| token.as_bytes());
            Digest::of_parts(parts).low64() as u32
        };
        let hashes: BTreeSet<u32> = if tokens.len() < TOKENS {
            [hash(&tokens)].into()
        } else {
            tokens.windows(TOKENS).map(hash).collect()
        };
        Self(hashes.into_iter().take(KEPT).collect())
    }

    /// The share of all shingles of the two sources that both have, from 0 to 1: an estimate.
    pub fn similarity(&self, other: &Self) -> f64 {
        let (mut ones, mut others) = (self.0.as_slice(), other.0.as_slice());
        let (mut seen, mut common) = (0, 0);
        while seen < KEPT {
            match (ones.first(), others.first()) {
                (None, None) => break,
                (Some(one), Some(other)) if one == other => {
                    common += 1;
                    (ones, others) = (&ones[1..], &others[1..]);
                }
                (Some(one), Some(other)) if one > other => others = &others[1..],
                (Some(_), _) => ones = &ones[1..],
                (None, Some(_)) => others = &others[1..],
            }
            seen += 1;
        }
        f64::from(common) / f64::from(seen.max(1) as u32)
    }
}

impl Serialize for Shingles {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(DIGITS * self.0.len());
        for hash in &self.0 {
            let _ = write!(text, "{hash:08x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Shingles {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let invalid = || {
            D::Error::custom(format!(
                "not up to {KEPT} hashes in ascending order, of {DIGITS} hexadecimal digits each"
            ))
        };
        let chunks = text.as_bytes().chunks(DIGITS);
        let hash = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_whole = digits.len() == DIGITS;
            u32::from_str_radix(digits, 16).ok().filter(|_| is_whole)
        };
        let hashes: Option<Vec<u32>> = chunks.map(hash).collect();
        let hashes = hashes.ok_or_else(invalid)?;
        if hashes.len() > KEPT || !hashes.is_sorted_by(|one, next| one < next) {
            return Err(invalid());
        }
        Ok(Self(hashes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(numbers: impl Iterator<Item = u64>) -> Vec<String> {
        numbers.map(|number| format!("word{number}")).collect()
    }

    fn shingles(words: &[String]) -> Shingles {
        Shingles::of(words.iter().map(String::as_str))
    }

    /// The share without an estimate.
    fn exact(one: &[String], other: &[String]) -> f64 {
        let set = |words: &[String]| words.windows(TOKENS).map(<[_]>::to_vec).collect();
        let [one, other]: [BTreeSet<Vec<String>>; 2] = [set(one), set(other)];
        one.intersection(&other).count() as f64 / one.union(&other).count() as f64
    }

    #[test]
    fn the_estimate_is_close_to_the_share() {
        let whole = words(0..2000);
        let mut errors = Vec::new();
        for changed in [0, 1, 5, 20, 100, 400, 2000] {
            let mut other = whole.clone();
            for index in 0..changed {
                other[(index * 2000 / changed.max(1)) % 2000] = format!("other{index}");
            }
            let error = shingles(&whole).similarity(&shingles(&other)) - exact(&whole, &other);
            errors.push(error.abs());
        }
        assert!(errors.iter().all(|error| *error < 0.12), "{errors:?}");
        assert_eq!(errors[0], 0.0);
        assert_eq!(errors[6], 0.0);
    }

    #[test]
    fn short_sources_are_compared_exactly() {
        let [one, other] = [words(0..60), words(3..70)];
        let similarity = shingles(&one).similarity(&shingles(&other));
        assert_eq!(similarity, exact(&one, &other));
        assert_eq!(similarity, shingles(&other).similarity(&shingles(&one)));
        let tiny = shingles(&words(0..2));
        assert_eq!(tiny.similarity(&tiny), 1.0);
        assert_eq!(tiny.similarity(&shingles(&words(1..3))), 0.0);
    }

    #[test]
    fn only_possible_hashes_are_read() {
        let made = shingles(&words(0..500));
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(text.len(), KEPT * DIGITS + 2);
        assert_eq!(serde_json::from_str::<Shingles>(&text).unwrap(), made);
        let longer = format!("\"{}\"", "0".repeat(DIGITS * (KEPT + 1)));
        for wrong in [
            "\"0000000\"",
            "\"0000000g\"",
            "\"0000000200000001\"",
            &longer,
        ] {
            assert!(serde_json::from_str::<Shingles>(wrong).is_err(), "{wrong}");
        }
    }
}
