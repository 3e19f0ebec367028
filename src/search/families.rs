//! Families of candidates that differ only in the values of their tunables: which points were tried, and which is the fastest.
//!
//! `choose_untried_point` never returns a point that was tried before or that breaks a rule of its kernel. Knows the values of tunables only,
//! never a source.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::tunable_space::{PointIndices, SpaceKey, TunableSpace};
use crate::base::{Digest, RandomStream};

#[derive(Debug)]
struct Family {
    space: Arc<TunableSpace>,
    /// How many of its points were tried.
    tried: u64,
    fastest: Option<FastestMember>,
}

/// The fastest member of a family that passed.
#[derive(Debug)]
struct FastestMember {
    step: u64,
    speedup: f64,
    indices: PointIndices,
}

/// All families seen so far. They are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Families {
    by_digest: HashMap<Digest, u32>,
    families: Vec<Family>,
    spaces: HashMap<SpaceKey, Arc<TunableSpace>>,
    /// Family and encoded point, see `TunableSpace::encode`.
    tried: HashSet<(u32, u64)>,
}

impl Families {
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
                });
                self.by_digest.insert(digest, number);
                number
            }
        };
        self.mark_tried(number, point);
        number
    }

    /// Marks a point as tried: it was in a brief, or a candidate has it.
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
        }
    }

    /// Records that the member at a point passed.
    pub(super) fn record_speedup(
        &mut self,
        number: u32,
        point: &IndexMap<String, i64>,
        step: u64,
        speedup: f64,
    ) {
        let Some(family) = self.families.get_mut(number as usize) else {
            return;
        };
        let fastest = family.fastest.as_ref();
        if fastest.is_none_or(|fastest| speedup > fastest.speedup) {
            let indices = family.space.indices_of(point);
            family.fastest = indices.map(|indices| FastestMember {
                step,
                speedup,
                indices,
            });
        }
    }

    /// Whether the family has a point that was not tried.
    pub(super) fn has_untried_points(&self, number: u32) -> bool {
        self.families
            .get(number as usize)
            .is_some_and(|family| family.tried < family.space.size())
    }

    /// An untried point, and the step of the fastest member, if one passed. The point differs from the fastest member's in one
    /// tunable; if all such points were tried, it is any untried point.
    pub(super) fn choose_untried_point(
        &self,
        number: u32,
        stream: &mut RandomStream,
    ) -> Option<(IndexMap<String, i64>, Option<u64>)> {
        let family = self.families.get(number as usize)?;
        let space = &family.space;
        let is_free = |indices: &[usize]| !self.tried.contains(&(number, space.encode(indices)));
        let fastest = family.fastest.as_ref();
        let mut neighbours = Vec::new();
        if let Some(FastestMember { indices, .. }) = fastest {
            neighbours = space.neighbours(indices);
            neighbours.retain(|neighbour| is_free(neighbour));
        }
        let indices = if neighbours.is_empty() {
            space.draw_free(stream, is_free)?
        } else {
            neighbours.swap_remove(stream.below(neighbours.len()))
        };
        let step = fastest.map(|fastest| fastest.step);
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
    fn every_point_is_chosen_once_and_single_changes_come_first() {
        let mut families = Families::default();
        let family = families.add_member(Digest::of("family"), &space(), &[], &point(4, 1));
        families.record_speedup(family, &point(4, 1), 1, 1.0);
        let mut seen = vec![point(4, 1)];
        for step in 0.. {
            let Some((chosen, from)) =
                families.choose_untried_point(family, &mut RandomStream::new(3, "test", step))
            else {
                break;
            };
            assert!(!seen.contains(&chosen), "{chosen:?} was chosen twice");
            assert_eq!(from, Some(1));
            let changed = usize::from(chosen["ROWS"] != 4) + usize::from(chosen["UNROLL"] != 1);
            assert_eq!(
                changed,
                if step < 5 { 1 } else { 2 },
                "step {step}: {chosen:?}"
            );
            families.mark_tried(family, &chosen);
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
        families.record_speedup(family, &point(4, 1), 1, 1.0);
        families.add_member(Digest::of("family"), &space(), &[], &point(8, 4));
        families.record_speedup(family, &point(8, 4), 2, 1.5);
        families.add_member(Digest::of("family"), &space(), &[], &point(1, 1));
        families.record_speedup(family, &point(1, 1), 3, 1.2);
        let (chosen, from) = families
            .choose_untried_point(family, &mut RandomStream::new(0, "test", 0))
            .unwrap();
        assert_eq!(from, Some(2));
        assert!(chosen["ROWS"] == 8 || chosen["UNROLL"] == 4, "{chosen:?}");
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
