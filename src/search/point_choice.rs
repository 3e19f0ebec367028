//! Chooses the point of a family that is tried next.
//!
//! The first few are spread over the space. Then the candidate with the highest score of the surrogate comes next (`candidate_pool`). While
//! nothing better is found, some points are spread again. The work is done when a result arrives; a choice only compares. Pure: all
//! randomness comes from the streams. Never chooses a point that is not free.

use super::candidate_pool::CandidatePool;
use super::surrogate::Surrogate;
use super::tunable_space::{PointIndices, TunableSpace};
use crate::base::RandomStream;

/// Results of a family before the surrogate decides.
const INITIAL_RESULTS: u64 = 10;
/// Points that are compared for one that is far from all others.
const SPREAD_DRAWS: usize = 32;
/// The fastest points whose neighbours are candidates.
const CENTRES: usize = 3;
/// Results without a better point after which the search of a family is stuck, and the share of points that are then spread.
const STUCK_AFTER: u64 = 16;
const SPREAD_SHARE: f64 = 0.15;
/// The most points that a new one is kept away from: the first of a family.
const MAX_VISITED: usize = 32;
/// The most points that are pending: more are in flight only if most end without a result.
const MAX_PENDING: usize = 32;

/// What is known of the points of a family.
#[derive(Debug, Default)]
pub(super) struct PointHistory {
    surrogate: Surrogate,
    candidates: CandidatePool,
    /// Points with a result.
    results: u64,
    /// Results since the fastest point.
    since_fastest: u64,
    /// The fastest points that passed, the fastest first.
    fastest: Vec<(f64, PointIndices)>,
    /// The levels of points that were tried, to spread others.
    visited: Vec<PointIndices>,
    /// The levels of points without a result.
    pending: Vec<PointIndices>,
}

impl PointHistory {
    /// A point is tried now.
    pub(super) fn note_tried(&mut self, space: &TunableSpace, point: &[usize]) {
        self.candidates.remove(space, point);
        let levels = space.levels(point);
        if self.pending.len() == MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(levels.clone());
        if self.visited.len() < MAX_VISITED {
            self.visited.push(levels);
        }
    }

    /// A point has a result: its speedup, or that it failed.
    pub(super) fn note_result(
        &mut self,
        space: &TunableSpace,
        point: &[usize],
        speedup: Option<f64>,
        stream: impl FnOnce() -> RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) {
        let levels = space.levels(point);
        self.pending.retain(|pending| *pending != levels);
        self.results += 1;
        self.since_fastest += 1;
        let mut is_centre = false;
        if let Some(speedup) = speedup {
            let rank = self
                .fastest
                .partition_point(|(faster, _)| *faster >= speedup);
            if rank == 0 {
                self.since_fastest = 0;
            }
            self.fastest.insert(rank, (speedup, point.into()));
            self.fastest.truncate(CENTRES);
            is_centre = rank < CENTRES;
        }
        let log_time = speedup.map(|speedup| -libm::log(speedup));
        let change = self.surrogate.add(space.positions(), levels, log_time);
        if self.results < INITIAL_RESULTS {
            return;
        }
        let centres: Vec<PointIndices> = if !self.candidates.is_made() {
            let centres = self.fastest.iter();
            centres.map(|(_, centre)| centre.clone()).collect()
        } else if is_centre {
            vec![point.into()]
        } else {
            Vec::new()
        };
        let model = (&self.surrogate, &change);
        (self.candidates).follow(model, space, &centres, &mut stream(), is_free);
    }

    /// A free point. `None` if there is none; in a space that is not listed it may miss the last few.
    pub(super) fn choose(
        &self,
        space: &TunableSpace,
        stream: &mut RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) -> Option<PointIndices> {
        let is_stuck = self.since_fastest > STUCK_AFTER && stream.uniform() < SPREAD_SHARE;
        let promising = if self.results < INITIAL_RESULTS || is_stuck {
            None
        } else {
            (self.candidates).best(&self.surrogate, &self.pending, &is_free)
        };
        promising
            .or_else(|| self.most_distant(space, stream, &is_free))
            .or_else(|| space.draw_free(stream, &is_free))
    }

    /// Of some random free points the one that is the farthest from all that were tried.
    fn most_distant(
        &self,
        space: &TunableSpace,
        stream: &mut RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) -> Option<PointIndices> {
        let mut drawn = space.draw_many(SPREAD_DRAWS, stream);
        drawn.retain(|point| is_free(point));
        let from_tried = |point: &[usize]| {
            let levels = space.levels(point);
            let distances = self
                .visited
                .iter()
                .map(|other| space.distance(&levels, other));
            distances.fold(f64::INFINITY, f64::min)
        };
        let distances: Vec<f64> = drawn.iter().map(|point| from_tried(point)).collect();
        let farthest =
            (0..drawn.len()).max_by(|one, other| distances[*one].total_cmp(&distances[*other]))?;
        Some(drawn.swap_remove(farthest))
    }
}
