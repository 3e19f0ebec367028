//! The order in which the rewrite sites of a kernel are tried: a seeded, weighted shuffle, drawn one site at a time.
//!
//! The same seed and kernel always give the same order. Finds the sites of a transformation when it is first drawn, and not before.

use super::kernel_sites::{KernelSites, SiteId};
use super::list::transformations;
use crate::base::{Digest, RandomStream};

/// Draws every site of one kernel once.
pub(super) struct SiteOrder {
    stream: RandomStream,
    /// The sites of each transformation that are left; `None` if the transformation was not drawn yet.
    left: Vec<Option<SitesLeft>>,
}

/// The sites of a transformation that were not drawn.
struct SitesLeft {
    total: usize,
    sites: Vec<usize>,
}

impl SiteOrder {
    pub(super) fn new(source: &str, seed: u64) -> Self {
        let digest = Digest::of_parts([&seed.to_le_bytes()[..], source.as_bytes()]);
        Self {
            stream: RandomStream::new(digest.low64(), "mutate", 0),
            left: transformations().iter().map(|_| None).collect(),
        }
    }

    /// The next site. `sites`: those of the kernel of this order. `factor`: of the weight of the transformation with a name.
    pub(super) fn next(
        &mut self,
        sites: &KernelSites<'_>,
        factor: impl Fn(&str) -> f64,
    ) -> Option<SiteId> {
        loop {
            let weights: Vec<f64> = (self.left.iter().zip(transformations()))
                .map(|(left, transformation)| {
                    let share = left.as_ref().map_or(1.0, SitesLeft::share);
                    transformation.weight() * factor(transformation.name()) * share
                })
                .collect();
            let transformation = self.stream.weighted_index(&weights)?;
            let left = self.left[transformation]
                .get_or_insert_with(|| SitesLeft::all(sites.count(transformation)));
            if !left.sites.is_empty() {
                let drawn = self.stream.below(left.sites.len());
                let site = left.sites.swap_remove(drawn);
                return Some(SiteId {
                    transformation,
                    site,
                });
            }
        }
    }
}

impl SitesLeft {
    fn all(total: usize) -> Self {
        Self {
            total,
            sites: (0..total).collect(),
        }
    }

    /// The sites of a transformation share its weight, so that one with many sites does not crowd out the others.
    fn share(&self) -> f64 {
        self.sites.len() as f64 / self.total.max(1) as f64
    }
}
