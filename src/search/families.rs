//! Families of candidates that differ only in the values of their tunables: which points were tried, and which is the fastest.
//!
//! `choose_untried_point` never returns a point that was tried before. Knows the values of tunables only, never a source.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::base::{Digest, RandomStream};

/// The tunables of a family with their allowed values, ascending. Families share it, because a mutation rarely changes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TunableSpace(Vec<(String, Vec<i64>)>);

/// How often a point is drawn at random before the space is searched in full.
const MAX_DRAWS: usize = 32;

/// A space of up to this many points is searched in full for an untried one.
const MAX_LISTED_POINTS: u64 = 1 << 16;

/// A tunable point: for each tunable, the index of its value.
type PointIndices = Box<[usize]>;

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
    spaces: HashSet<Arc<TunableSpace>>,
    /// Family and encoded point, see `TunableSpace::encode`.
    tried: HashSet<(u32, u64)>,
}

impl Families {
    /// Adds a candidate to its family, and returns the family's number.
    pub(super) fn add_member(
        &mut self,
        digest: Digest,
        space: &IndexMap<String, Vec<i64>>,
        point: &IndexMap<String, i64>,
    ) -> u32 {
        let number = match self.by_digest.get(&digest) {
            Some(number) => *number,
            None => {
                let number = self.families.len() as u32;
                let space = TunableSpace::from_declared(space);
                let space = self
                    .spaces
                    .get(&space)
                    .cloned()
                    .unwrap_or_else(|| Arc::new(space));
                self.spaces.insert(Arc::clone(&space));
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
        let Some(indices) = family.space.indices_of(point) else {
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
            for (tunable, (_, values)) in space.0.iter().enumerate() {
                for index in (0..values.len()).filter(|index| *index != indices[tunable]) {
                    let mut neighbour = indices.clone();
                    neighbour[tunable] = index;
                    if is_free(&neighbour) {
                        neighbours.push(neighbour);
                    }
                }
            }
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

impl TunableSpace {
    fn from_declared(declared: &IndexMap<String, Vec<i64>>) -> Self {
        let sorted = declared.iter().map(|(name, values)| {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            (name.clone(), values)
        });
        Self(sorted.filter(|(_, values)| !values.is_empty()).collect())
    }

    /// The number of points; `u64::MAX` if there are more.
    fn size(&self) -> u64 {
        self.0.iter().fold(1, |size: u64, (_, values)| {
            size.saturating_mul(values.len() as u64)
        })
    }

    /// A number for the point. It is unique if the space has at most 2^64 points; in a larger space two points may share a number,
    /// and one of them is then never tried.
    fn encode(&self, indices: &[usize]) -> u64 {
        let digits = self.0.iter().zip(indices);
        digits.fold(0, |code: u64, ((_, values), index)| {
            code.wrapping_mul(values.len() as u64)
                .wrapping_add(*index as u64)
        })
    }

    /// `None` if a tunable is missing or its value is not declared.
    fn indices_of(&self, point: &IndexMap<String, i64>) -> Option<PointIndices> {
        self.0
            .iter()
            .map(|(name, values)| {
                point
                    .get(name)
                    .and_then(|value| values.binary_search(value).ok())
            })
            .collect()
    }

    fn point(&self, indices: &[usize]) -> IndexMap<String, i64> {
        self.0
            .iter()
            .zip(indices)
            .map(|((name, values), index)| (name.clone(), values[*index]))
            .collect()
    }

    /// Draws a free point. In a space of more than `MAX_LISTED_POINTS` points it may miss the last few.
    fn draw_free(
        &self,
        stream: &mut RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) -> Option<PointIndices> {
        for _ in 0..MAX_DRAWS {
            let indices: PointIndices = self
                .0
                .iter()
                .map(|(_, values)| stream.below(values.len()))
                .collect();
            if is_free(&indices) {
                return Some(indices);
            }
        }
        let size = self.size();
        if size > MAX_LISTED_POINTS {
            return None;
        }
        let start = stream.below(size as usize) as u64;
        (0..size)
            .map(|offset| self.decode((start + offset) % size))
            .find(|indices| is_free(indices))
    }

    /// The point with this number, in a space of at most `MAX_LISTED_POINTS` points.
    fn decode(&self, code: u64) -> PointIndices {
        let mut rest = code;
        let mut indices: PointIndices = vec![0; self.0.len()].into();
        for (index, (_, values)) in indices.iter_mut().zip(&self.0).rev() {
            *index = (rest % values.len() as u64) as usize;
            rest /= values.len() as u64;
        }
        indices
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
        let family = families.add_member(Digest::of("family"), &space(), &point(4, 1));
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
    fn moves_start_from_the_fastest_member() {
        let mut families = Families::default();
        let family = families.add_member(Digest::of("family"), &space(), &point(4, 1));
        families.record_speedup(family, &point(4, 1), 1, 1.0);
        families.add_member(Digest::of("family"), &space(), &point(8, 4));
        families.record_speedup(family, &point(8, 4), 2, 1.5);
        families.add_member(Digest::of("family"), &space(), &point(1, 1));
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
        let family = families.add_member(Digest::of("plain"), &IndexMap::new(), &IndexMap::new());
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
        let family = families.add_member(Digest::of("wide"), &wide, &IndexMap::new());
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
