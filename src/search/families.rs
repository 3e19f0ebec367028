//! Families of candidates that differ only in the values of their tunables: which points were tried, and what was found there.
//!
//! `choose_untried_point` never returns a point that was tried before or that breaks a rule of its kernel. Knows the values of tunables only,
//! never a source.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::point_choice::PointHistory;
use super::tunable_space::{SpaceKey, TunableSpace};
use crate::base::{Digest, RandomStream};

#[derive(Debug)]
struct Family {
    space: Arc<TunableSpace>,
    /// How many of its points were tried.
    tried: u64,
    fastest: Option<FastestMember>,
    history: PointHistory,
}

/// The fastest member of a family that passed.
#[derive(Debug)]
struct FastestMember {
    step: u64,
    speedup: f64,
}

/// The result of the candidate at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PointResult {
    /// Its speedup.
    Passed(f64),
    /// It passed, but is surely slower than an incumbent: it cannot be a parent.
    Dismissed(f64),
    Failed,
}

/// All families seen so far. They are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Families {
    by_digest: HashMap<Digest, u32>,
    families: Vec<Family>,
    spaces: HashMap<SpaceKey, Arc<TunableSpace>>,
    /// Family and encoded point, see `TunableSpace::encode`.
    tried: HashSet<(u32, u64)>,
    /// The seed of the search.
    seed: u64,
}

impl Families {
    /// No families yet, in a search with this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Adds a candidate to its family, and returns the family's number.
    pub(super) fn add_member(
        &mut self,
        digest: Digest,
        space: &IndexMap<String, Vec<i64>>,
        constraints: &[String],
        point: &IndexMap<String, i64>,
    ) -> u32 {
        let number = match self.by_digest.get(&digest) {
            Some(number) => *number,
            None => {
                let number = self.families.len() as u32;
                let key = SpaceKey::new(space, constraints);
                let shared = self.spaces.entry(key);
                let space = shared.or_insert_with_key(|key| Arc::new(TunableSpace::new(key)));
                let space = Arc::clone(space);
                self.families.push(Family {
                    space,
                    tried: 0,
                    fastest: None,
                    history: PointHistory::default(),
                });
                self.by_digest.insert(digest, number);
                number
            }
        };
        self.mark_tried(number, point);
        number
    }

    /// The number of a family; `None` if no candidate of it was added.
    pub(super) fn number_of(&self, digest: &Digest) -> Option<u32> {
        self.by_digest.get(digest).copied()
    }

    /// Whether a candidate of the family was added.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.by_digest.contains_key(digest)
    }

    /// The space of a kernel that need not be in a family yet.
    pub(super) fn space_of(
        &self,
        space: &IndexMap<String, Vec<i64>>,
        constraints: &[String],
    ) -> Arc<TunableSpace> {
        let key = SpaceKey::new(space, constraints);
        let known = self.spaces.get(&key).cloned();
        known.unwrap_or_else(|| Arc::new(TunableSpace::new(&key)))
    }

    /// Marks a point as tried: it was in a brief, a candidate has it, or it was tried before a candidate was judged.
    pub(super) fn mark_tried(&mut self, number: u32, point: &IndexMap<String, i64>) {
        let Some(family) = self.families.get_mut(number as usize) else {
            return;
        };
        let indices = family.space.indices_of(point);
        let Some(indices) = indices.filter(|indices| family.space.allows(indices)) else {
            return;
        };
        if self.tried.insert((number, family.space.encode(&indices))) {
            family.tried += 1;
            family.history.note_tried(&family.space, &indices);
        }
    }

    /// Records the result of the candidate at a point.
    pub(super) fn record_result(
        &mut self,
        number: u32,
        point: &IndexMap<String, i64>,
        step: u64,
        result: PointResult,
    ) {
        let Some(family) = self.families.get_mut(number as usize) else {
            return;
        };
        let fastest = family.fastest.as_ref().map(|fastest| fastest.speedup);
        if let PointResult::Passed(speedup) = result
            && fastest.is_none_or(|fastest| speedup > fastest)
        {
            family.fastest = Some(FastestMember { step, speedup });
        }
        let speedup = match result {
            PointResult::Passed(speedup) | PointResult::Dismissed(speedup) => Some(speedup),
            PointResult::Failed => None,
        };
        let space = &family.space;
        let indices = space.indices_of(point);
        if let Some(indices) = indices.filter(|indices| space.allows(indices)) {
            let stream = || RandomStream::new(self.seed, "autotune candidates", step);
            let is_free =
                |indices: &[usize]| !self.tried.contains(&(number, space.encode(indices)));
            (family.history).note_result(space, &indices, speedup, stream, is_free);
        }
    }

    /// Forgets all results. The points stay tried: their kernels are known.
    pub(super) fn forget_results(&mut self) {
        for family in &mut self.families {
            family.fastest = None;
            family.history = PointHistory::default();
        }
    }

    /// Whether the family has a point that was not tried.
    pub(super) fn has_untried_points(&self, number: u32) -> bool {
        self.families
            .get(number as usize)
            .is_some_and(|family| family.tried < family.space.size())
    }

    /// An untried point that is likely to be fast, and the step of the fastest member, if one passed.
    pub(super) fn choose_untried_point(
        &self,
        number: u32,
        stream: &mut RandomStream,
    ) -> Option<(IndexMap<String, i64>, Option<u64>)> {
        let family = self.families.get(number as usize)?;
        let space = &family.space;
        let is_free = |indices: &[usize]| !self.tried.contains(&(number, space.encode(indices)));
        let indices = family.history.choose(space, stream, is_free)?;
        let step = family.fastest.as_ref().map(|fastest| fastest.step);
        Some((space.point(&indices), step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> IndexMap<String, Vec<i64>> {
        [
            ("ROWS".to_owned(), vec![4, 1, 2, 8]),
            ("UNROLL".to_owned(), vec![1, 2, 4]),
        ]
        .into()
    }

    fn point(rows: i64, unroll: i64) -> IndexMap<String, i64> {
        [("ROWS".to_owned(), rows), ("UNROLL".to_owned(), unroll)].into()
    }

    #[test]
    fn every_point_is_chosen_once() {
        let mut families = Families::default();
        let family = families.add_member(Digest::of("family"), &space(), &[], &point(4, 1));
        families.record_result(family, &point(4, 1), 1, PointResult::Passed(1.0));
        let mut seen = vec![point(4, 1)];
        for step in 0.. {
            let Some((chosen, from)) =
                families.choose_untried_point(family, &mut RandomStream::new(3, "test", step))
            else {
                break;
            };
            assert!(!seen.contains(&chosen), "{chosen:?} was chosen twice");
            assert_eq!(from, Some(1));
            families.mark_tried(family, &chosen);
            families.record_result(family, &chosen, 2 + step, PointResult::Dismissed(0.5));
            seen.push(chosen);
        }
        assert_eq!(seen.len(), 12);
        assert!(!families.has_untried_points(family));
    }

    #[test]
    fn points_that_break_a_constraint_are_not_chosen_and_not_missed() {
        let mut families = Families::default();
        let constraints = ["ROWS * UNROLL <= 8".to_owned()];
        let family =
            families.add_member(Digest::of("family"), &space(), &constraints, &point(8, 4));
        let mut chosen = Vec::new();
        for step in 0.. {
            let stream = &mut RandomStream::new(3, "test", step);
            let Some((point, _)) = families.choose_untried_point(family, stream) else {
                break;
            };
            assert!(point["ROWS"] * point["UNROLL"] <= 8, "{point:?}");
            families.mark_tried(family, &point);
            chosen.push(point);
        }
        assert_eq!(chosen.len(), 9);
        assert!(!families.has_untried_points(family));
    }

    #[test]
    fn moves_start_from_the_fastest_member() {
        let mut families = Families::default();
        let family = families.add_member(Digest::of("family"), &space(), &[], &point(4, 1));
        families.record_result(family, &point(4, 1), 1, PointResult::Passed(1.0));
        families.add_member(Digest::of("family"), &space(), &[], &point(8, 4));
        families.record_result(family, &point(8, 4), 2, PointResult::Passed(1.5));
        families.add_member(Digest::of("family"), &space(), &[], &point(1, 1));
        families.record_result(family, &point(1, 1), 3, PointResult::Passed(1.2));
        let (chosen, from) = families
            .choose_untried_point(family, &mut RandomStream::new(0, "test", 0))
            .unwrap();
        assert_eq!(from, Some(2));
        assert!(![point(4, 1), point(8, 4), point(1, 1)].contains(&chosen));
    }

    #[test]
    fn the_surrogate_finds_the_fastest_of_many_points_and_avoids_failures() {
        let names = ["ROWS", "WARPS", "UNROLL", "STAGES"];
        let space: IndexMap<_, _> = names
            .map(|name| (name.to_owned(), vec![1, 2, 4, 8, 16]))
            .into();
        // 625 points, one of which is the fastest. A quarter needs too many registers.
        let result = |point: &IndexMap<String, i64>| {
            let away = |name: &str, best: i32| (point[name].ilog2() as i32 - best).abs();
            if point["ROWS"] * point["UNROLL"] > 32 {
                return PointResult::Failed;
            }
            let distance = away("ROWS", 1) + 2 * away("WARPS", 3) + away("UNROLL", 2);
            PointResult::Passed(1.0 / f64::from(10 + distance + away("STAGES", 0)))
        };
        let mut counts = Vec::new();
        let mut failures = 0;
        for seed in 0..20 {
            let mut families = Families::default();
            let mut point: IndexMap<_, _> = names.map(|name| (name.to_owned(), 1)).into();
            let family = families.add_member(Digest::of("family"), &space, &[], &point);
            for step in 1.. {
                let found = result(&point);
                families.record_result(family, &point, step, found);
                // The first ten are spread over the space.
                failures += u64::from(step > 10 && found == PointResult::Failed);
                if found == PointResult::Passed(0.1) {
                    counts.push(step);
                    break;
                }
                let stream = &mut RandomStream::new(seed, "test", step);
                point = families.choose_untried_point(family, stream).unwrap().0;
                families.mark_tried(family, &point);
            }
        }
        counts.sort_unstable();
        // At random: 313 points, of which a quarter fails.
        assert!(counts[10] <= 40, "{counts:?}");
        let chosen = counts.iter().sum::<u64>() - 200;
        assert!(8 * failures < chosen, "{failures} of {chosen}");
    }

    #[test]
    fn a_family_without_tunables_has_nothing_to_choose() {
        let mut families = Families::default();
        let family =
            families.add_member(Digest::of("plain"), &IndexMap::new(), &[], &IndexMap::new());
        assert!(!families.has_untried_points(family));
        assert_eq!(
            families.choose_untried_point(family, &mut RandomStream::new(0, "test", 0)),
            None
        );
    }

    #[test]
    fn a_space_of_more_than_2_64_points_is_searched() {
        let wide: IndexMap<_, _> = (0..70)
            .map(|index| (format!("T{index}"), (0..9).collect()))
            .collect();
        let mut families = Families::default();
        let family = families.add_member(Digest::of("wide"), &wide, &[], &IndexMap::new());
        assert!(families.has_untried_points(family));
        assert_eq!(
            families
                .choose_untried_point(family, &mut RandomStream::new(0, "test", 0))
                .unwrap()
                .0
                .len(),
            70
        );
    }
}
