//! The points of a family that `autotune` compares: neighbours of the fastest points, and random ones.
//!
//! The pool is kept from result to result. Each result removes its worst candidates for some new random ones, so that good candidates stay
//! and their predictions need not be computed again. Pure: all randomness comes from the stream.

use super::point_table::PointTable;
use super::predictions::Predictions;
use super::surrogate::{ModelChange, Surrogate};
use super::tunable_space::{PointIndices, TunableSpace};
use crate::base::RandomStream;

/// Random candidates of a new pool, and how many are drawn after each result.
const FIRST_RANDOM: usize = 128;
const FRESH_RANDOM: usize = 16;
/// The most candidates before random ones are drawn.
const MAX_CANDIDATES: usize = 208;

/// Untried points with their predictions.
#[derive(Debug, Default)]
pub(super) struct CandidatePool {
    points: Vec<PointIndices>,
    /// `TunableSpace::encode` of each point.
    codes: Vec<u64>,
    levels: PointTable,
    predictions: Predictions,
    /// How much is to be gained by trying each.
    scores: Vec<f64>,
    is_made: bool,
}

impl CandidatePool {
    /// Whether it had a result to follow.
    pub(super) fn is_made(&self) -> bool {
        self.is_made
    }

    /// Follows a result. `centres`: fast points whose neighbours it does not have yet.
    pub(super) fn follow(
        &mut self,
        (surrogate, change): (&Surrogate, &ModelChange),
        space: &TunableSpace,
        centres: &[PointIndices],
        stream: &mut RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) {
        let Some(model) = surrogate.model() else {
            return;
        };
        self.predictions.follow(surrogate, change, &self.levels);
        self.scores = self.predictions.scores(model);
        self.remove_worst(self.points.len().saturating_sub(MAX_CANDIDATES));
        let random = if self.is_made {
            FRESH_RANDOM
        } else {
            FIRST_RANDOM
        };
        self.is_made = true;
        let mut new = centres
            .iter()
            .flat_map(|centre| space.neighbours(centre))
            .collect::<Vec<_>>();
        new.append(&mut space.draw_many(random, stream));
        let before = self.points.len();
        let mut levels = PointTable::default();
        for point in new {
            let code = space.encode(&point);
            if !self.codes.contains(&code) && is_free(&point) {
                levels.push(&space.levels(&point));
                self.codes.push(code);
                self.points.push(point);
            }
        }
        if self.points.len() > before {
            let predictions = Predictions::of(surrogate, &levels);
            self.scores.append(&mut predictions.scores(model));
            self.levels.append(&levels);
            self.predictions.append(predictions);
        }
    }

    /// Removes a point that is tried now.
    pub(super) fn remove(&mut self, space: &TunableSpace, point: &[usize]) {
        let code = space.encode(point);
        if let Some(index) = self.codes.iter().position(|other| *other == code) {
            self.swap_remove(index);
        }
    }

    /// The free candidate with the highest score. `pending`: the levels of points that are tried now; points like them gain less.
    pub(super) fn best(
        &self,
        surrogate: &Surrogate,
        pending: &[PointIndices],
        is_free: impl Fn(&[usize]) -> bool,
    ) -> Option<PointIndices> {
        let model = surrogate.model()?;
        let mut scores = self.scores.clone();
        if !pending.is_empty() {
            let mut unlike = vec![1.0; scores.len()];
            for point in pending {
                let alike = model.similarity.to_all(point, &self.levels);
                for (unlike, alike) in unlike.iter_mut().zip(alike) {
                    *unlike *= 1.0 - alike + 1e-6;
                }
            }
            for (score, unlike) in scores.iter_mut().zip(unlike) {
                *score += libm::log(unlike);
            }
        }
        let free = (0..scores.len()).filter(|index| is_free(&self.points[*index]));
        let best = free.max_by(|one, other| scores[*one].total_cmp(&scores[*other]))?;
        Some(self.points[best].clone())
    }

    fn remove_worst(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let mut order: Vec<usize> = (0..self.points.len()).collect();
        order.sort_by(|one, other| self.scores[*one].total_cmp(&self.scores[*other]));
        order.truncate(count);
        // From the back, so that the indices of the others stay.
        order.sort_unstable_by(|one, other| other.cmp(one));
        for index in order {
            self.swap_remove(index);
        }
    }

    fn swap_remove(&mut self, index: usize) {
        self.points.swap_remove(index);
        self.codes.swap_remove(index);
        self.levels.swap_remove(index);
        self.predictions.swap_remove(index);
        self.scores.swap_remove(index);
    }
}
