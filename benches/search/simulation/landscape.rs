//! What a simulated search searches: kernels as points, what the operators make of them, and how fast they truly are.
//!
//! A landscape knows no noise, no cost and no clock; `machine` and `simulator` add those.

use indexmap::IndexMap;
use kforge::base::{Digest, Shingles};
use kforge::event::{Brief, FailedReason};
use kforge::verdict::Status;

use super::dice::Dice;

/// The most tunables of a landscape.
pub(crate) const MAX_TUNABLES: usize = 16;

/// A kernel: an algorithm, what was done to it, and the values of its tunables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub(crate) algorithm: u8,
    /// One bit for each transformation that was applied.
    pub(crate) features: u32,
    /// For each tunable, the index of its value.
    pub(crate) point: [u16; MAX_TUNABLES],
    /// 0: none. Otherwise it is no kernel that passes.
    pub(crate) fault: u8,
}

/// The parts of the code of an algorithm. Each transformation adds tokens to one part.
const PARTS: u32 = u32::BITS;
/// Tokens of a part, and those that a transformation adds to it.
const PART_TOKENS: u32 = 20;
const ADDED_TOKENS: u32 = 30;

impl Kernel {
    /// The shingles of an imagined source. Two algorithms have no shingle in common.
    pub(crate) fn shingles(&self) -> Shingles {
        let algorithm = self.algorithm;
        let mut tokens = Vec::new();
        for part in 0..PARTS {
            tokens.extend((0..PART_TOKENS).map(|token| format!("{algorithm} {part} {token}")));
            if self.has(1 << part) {
                tokens.extend((0..ADDED_TOKENS).map(|token| format!("{part} {token}")));
            }
        }
        Shingles::of(tokens.iter().map(String::as_str))
    }

    /// The hash of its source.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.bytes(&self.point))
    }

    /// The hash of its source without the values of its tunables.
    pub(crate) fn family(&self) -> Digest {
        Digest::of(self.bytes(&[]))
    }

    /// A number that follows from the kernel, to seed `Dice`.
    pub(crate) fn key(&self) -> u64 {
        self.digest().low64()
    }

    pub(crate) fn has(&self, features: u32) -> bool {
        self.features & features == features
    }

    fn bytes(&self, point: &[u16]) -> Vec<u8> {
        let mut bytes = vec![self.algorithm, self.fault];
        bytes.extend(self.features.to_le_bytes());
        bytes.extend(point.iter().flat_map(|index| index.to_le_bytes()));
        bytes
    }
}

/// The names of the tunables and their allowed values, in ascending order.
pub(crate) type Tunables = IndexMap<String, Vec<i64>>;

/// What a judge would find out about a kernel if there were no noise.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) status: Status,
    /// Against the first starting kernel.
    pub(crate) speedup: f64,
    /// What is known of a kernel once it is compiled.
    pub(crate) features: IndexMap<String, f64>,
    /// Equal for kernels that compile to the same code.
    pub(crate) code: Digest,
    /// What compiling and timing it took, if that was recorded: seconds. Otherwise the machine says it.
    pub(crate) recorded: Option<RecordedSeconds>,
}

/// Recorded seconds of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordedSeconds {
    pub(crate) compile: f64,
    pub(crate) timing: f64,
}

/// What an operator makes of a brief.
#[derive(Clone, Debug)]
pub(crate) enum Proposal {
    Kernel {
        kernel: Kernel,
        /// As in a `proposed` event: the name of the transformation comes first.
        detail: String,
    },
    Failed(FailedReason),
}

impl Proposal {
    pub(crate) fn new(kernel: Kernel, detail: impl Into<String>) -> Self {
        Self::Kernel {
            kernel,
            detail: detail.into(),
        }
    }
}

/// A space of kernels.
pub(crate) trait Landscape: Sync {
    /// The starting kernels. The first is the baseline.
    fn starts(&self) -> &[Kernel];

    fn tunables(&self) -> &Tunables;

    /// What the operator of the brief makes of these parents. `dice`: the luck of a model; kforge's own operators always give the same
    /// child at the same attempt.
    fn propose(&self, brief: &Brief, parents: &[Kernel], dice: &mut Dice) -> Proposal;

    fn truth(&self, kernel: &Kernel) -> Truth;

    /// The speedup of the fastest kernel that can be reached.
    fn optimum(&self) -> f64;

    /// The kernel with the values of a point instead of its own; `None` if a value is not declared.
    fn at_point(&self, kernel: &Kernel, point: &IndexMap<String, i64>) -> Option<Kernel> {
        let mut moved = *kernel;
        for (index, (name, values)) in self.tunables().iter().enumerate() {
            let value = point.get(name)?;
            moved.point[index] = values.iter().position(|one| one == value)? as u16;
        }
        Some(moved)
    }

    /// The values of a kernel's tunables.
    fn values(&self, kernel: &Kernel) -> IndexMap<String, i64> {
        let named = self.tunables().iter().enumerate();
        let value = |(index, (name, values)): (usize, (&String, &Vec<i64>))| {
            let value = values.get(usize::from(kernel.point[index])).copied();
            (name.clone(), value.unwrap_or(0))
        };
        named.map(value).collect()
    }
}
