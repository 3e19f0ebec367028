//! Which points of a new kernel are tried before it is judged (`search.tune_first`), and what their times say about its family.
//!
//! A good idea often comes with a bad block size. So the first kernel of a family gets some other points near its own; the judge times them
//! briefly, and the fastest becomes the candidate of the step. Reads the fold and the proposals in flight. Times of trials are never
//! speedups of a candidate: they only tell points of one step apart.

use indexmap::IndexMap;

use super::Search;
use super::families::{Families, PointResult};
use super::tunable_space::{PointIndices, TunableSpace};
use crate::base::RandomStream;
use crate::event::{Operator, Proposed, TriedPoints};

/// How much slower than the fastest a point must be to count as tried. The samples of a trial do not tell closer points apart, so `autotune`
/// may try those again.
const CLEARLY_SLOWER: f64 = 1.05;
/// Draws for each point that is wanted.
const DRAWS: u64 = 20;

impl Search {
    /// The points that the kernel of a proposal gets besides its own. None if its family is known: `autotune` tries its points. The same
    /// proposal gets the same points, unless the family has become known since.
    pub fn points_to_try(&self, proposed: &Proposed) -> Vec<IndexMap<String, i64>> {
        let is_new_idea = !matches!(proposed.operator, Operator::Start | Operator::Autotune);
        let wanted = self.settings.tune_first.unwrap_or(0);
        if wanted == 0 || !is_new_idea || self.knows_family(proposed) {
            return Vec::new();
        }
        let Proposed {
            space, constraints, ..
        } = proposed;
        let space = self.families.space_of(space, constraints);
        let mut stream = RandomStream::new(self.seed, "tune first", proposed.step);
        let own = space.indices_of(&proposed.point);
        let points = draw_points(&space, own.as_deref(), wanted, &mut stream);
        points.iter().map(|point| space.point(point)).collect()
    }

    /// Whether another candidate of the family was folded, or is in flight.
    fn knows_family(&self, proposed: &Proposed) -> bool {
        let mut in_flight = self
            .pending
            .iter()
            .filter(|(step, _)| **step != proposed.step);
        let has_family = |other: &Proposed| other.family == proposed.family;
        self.families.knows(&proposed.family)
            || in_flight.any(|(_, pending)| pending.proposed.as_ref().is_some_and(has_family))
    }
}

/// Allowed points near a kernel's own: other values of one or two tunables, each the next one or any. Of a kernel whose own point is not
/// allowed: any points.
fn draw_points(
    space: &TunableSpace,
    own: Option<&[usize]>,
    wanted: u64,
    stream: &mut RandomStream,
) -> Vec<PointIndices> {
    let own = own.filter(|own| space.allows(own));
    let mut points: Vec<PointIndices> = Vec::new();
    for _ in 0..wanted.saturating_mul(DRAWS) {
        if points.len() as u64 >= wanted {
            break;
        }
        let point = match own {
            Some(own) => space.draw_near(own, stream),
            None => space.draw(stream),
        };
        let is_new = own != Some(&*point) && !points.contains(&point);
        if is_new && space.allows(&point) {
            points.push(point);
        }
    }
    points
}

/// Enters the tried points of a step into the family of its candidate. `speedup`: what the judge found for the candidate, if it passed.
pub(super) fn note_tried_points(
    families: &mut Families,
    family: u32,
    step: u64,
    (candidate, tried): (&IndexMap<String, i64>, &TriedPoints),
    speedup: Option<f64>,
) {
    let fastest = tried.fastest().and_then(|fastest| fastest.time());
    for other in tried
        .points
        .iter()
        .filter(|other| other.point != *candidate)
    {
        let slower = fastest
            .zip(other.time())
            .map(|(fastest, time)| time / fastest);
        if slower.is_some_and(|slower| slower < CLEARLY_SLOWER) {
            continue;
        }
        families.mark_tried(family, &other.point);
        let result = match (slower, speedup) {
            (None, _) => PointResult::Failed,
            // It has no step of its own, so it is no parent.
            (Some(slower), Some(speedup)) => PointResult::Dismissed(speedup / slower),
            (Some(_), None) => continue,
        };
        families.record_result(family, &other.point, step, result);
    }
}
