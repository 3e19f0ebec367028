//! Families: candidates that differ only in the values of their tunables. Which points of a family were asked for, and which
//! is the best known.
//!
//! Invariant: `choose` never returns a point that was noted before. Knows nothing of sources, only of values.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::base::{Digest, Stream};

/// The tunables of a family with their allowed values, ascending. Shared, because a mutation rarely changes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Space(Vec<(String, Vec<i64>)>);

/// Up to this many points a family is searched from end to end for one that is left.
const LISTED: u64 = 1 << 16;

/// A point of a space: for each tunable, the index of its value.
type Place = Box<[usize]>;

#[derive(Debug)]
struct Family {
    space: Arc<Space>,
    /// How many of its points were noted.
    noted: u64,
    /// The fastest member that passed: its speedup, step and point.
    best: Option<(f64, u64, Place)>,
}

/// All families that were seen.
#[derive(Debug, Default)]
pub(super) struct Families {
    by_digest: HashMap<Digest, u32>,
    families: Vec<Family>,
    spaces: HashSet<Arc<Space>>,
    /// Family and point, see `Space::code`.
    noted: HashSet<(u32, u64)>,
}

impl Families {
    /// The family's number, and a note that it has a member at this point.
    pub(super) fn enter(
        &mut self,
        digest: Digest,
        space: &IndexMap<String, Vec<i64>>,
        point: &IndexMap<String, i64>,
    ) -> u32 {
        let number = match self.by_digest.get(&digest) {
            Some(number) => *number,
            None => {
                let number = self.families.len() as u32;
                let space = Space::of(space);
                let space = self
                    .spaces
                    .get(&space)
                    .cloned()
                    .unwrap_or_else(|| Arc::new(space));
                self.spaces.insert(Arc::clone(&space));
                self.families.push(Family {
                    space,
                    noted: 0,
                    best: None,
                });
                self.by_digest.insert(digest, number);
                number
            }
        };
        self.note(number, point);
        number
    }

    /// A point was asked for, or has a member.
    pub(super) fn note(&mut self, number: u32, point: &IndexMap<String, i64>) {
        let Some(family) = self.families.get_mut(number as usize) else {
            return;
        };
        let Some(place) = family.space.place(point) else {
            return;
        };
        if self.noted.insert((number, family.space.code(&place))) {
            family.noted += 1;
        }
    }

    /// A member passed.
    pub(super) fn credit(
        &mut self,
        number: u32,
        point: &IndexMap<String, i64>,
        step: u64,
        speedup: f64,
    ) {
        let Some(family) = self.families.get_mut(number as usize) else {
            return;
        };
        if family
            .best
            .as_ref()
            .is_none_or(|(best, ..)| speedup > *best)
        {
            family.best = family
                .space
                .place(point)
                .map(|place| (speedup, step, place));
        }
    }

    /// Whether a point is left that was not noted.
    pub(super) fn open(&self, number: u32) -> bool {
        self.families
            .get(number as usize)
            .is_some_and(|family| family.noted < family.space.size())
    }

    /// A point that was not noted: a move of one tunable from the best known point where one is left, else any.
    /// With it the step that has the best known point, to be the parent.
    pub(super) fn choose(
        &self,
        number: u32,
        stream: &mut Stream,
    ) -> Option<(IndexMap<String, i64>, Option<u64>)> {
        let family = self.families.get(number as usize)?;
        let space = &family.space;
        let free = |place: &[usize]| !self.noted.contains(&(number, space.code(place)));
        let best = family.best.as_ref();
        let mut moves = Vec::new();
        if let Some((_, _, place)) = best {
            for (axis, (_, values)) in space.0.iter().enumerate() {
                for index in (0..values.len()).filter(|index| *index != place[axis]) {
                    let mut moved = place.clone();
                    moved[axis] = index;
                    if free(&moved) {
                        moves.push(moved);
                    }
                }
            }
        }
        let place = if moves.is_empty() {
            space.draw(stream, free)?
        } else {
            moves.swap_remove(stream.below(moves.len()))
        };
        Some((space.point(&place), best.map(|(_, step, _)| *step)))
    }
}

impl Space {
    fn of(declared: &IndexMap<String, Vec<i64>>) -> Self {
        let sorted = declared.iter().map(|(name, values)| {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            (name.clone(), values)
        });
        Self(sorted.filter(|(_, values)| !values.is_empty()).collect())
    }

    /// How many points there are.
    fn size(&self) -> u64 {
        self.0.iter().fold(1, |size: u64, (_, values)| {
            size.saturating_mul(values.len() as u64)
        })
    }

    /// A number for the point: its own wherever the space has no more than 2^64 points. Beyond that two points may share one,
    /// and one of them is then never asked for.
    fn code(&self, place: &[usize]) -> u64 {
        let digits = self.0.iter().zip(place);
        digits.fold(0, |code: u64, ((_, values), index)| {
            code.wrapping_mul(values.len() as u64)
                .wrapping_add(*index as u64)
        })
    }

    /// `None` where a tunable is missing or its value is not declared.
    fn place(&self, point: &IndexMap<String, i64>) -> Option<Place> {
        self.0
            .iter()
            .map(|(name, values)| {
                point
                    .get(name)
                    .and_then(|value| values.binary_search(value).ok())
            })
            .collect()
    }

    fn point(&self, place: &[usize]) -> IndexMap<String, i64> {
        self.0
            .iter()
            .zip(place)
            .map(|((name, values), index)| (name.clone(), values[*index]))
            .collect()
    }

    /// Any point that is free. May miss the last few of a very large space, never of a small one.
    fn draw(&self, stream: &mut Stream, free: impl Fn(&[usize]) -> bool) -> Option<Place> {
        for _ in 0..32 {
            let place: Place = self
                .0
                .iter()
                .map(|(_, values)| stream.below(values.len()))
                .collect();
            if free(&place) {
                return Some(place);
            }
        }
        let size = self.size();
        if size > LISTED {
            return None;
        }
        let begin = stream.below(size as usize) as u64;
        (0..size)
            .map(|offset| self.nth((begin + offset) % size))
            .find(|place| free(place))
    }

    /// The point with this code, for spaces that are small.
    fn nth(&self, code: u64) -> Place {
        let mut rest = code;
        let mut place: Place = vec![0; self.0.len()].into();
        for (index, (_, values)) in place.iter_mut().zip(&self.0).rev() {
            *index = (rest % values.len() as u64) as usize;
            rest /= values.len() as u64;
        }
        place
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
    fn every_point_is_chosen_once_and_moves_of_one_come_first() {
        let mut families = Families::default();
        let family = families.enter(Digest::of("family"), &space(), &point(4, 1));
        families.credit(family, &point(4, 1), 1, 1.0);
        let mut seen = vec![point(4, 1)];
        for step in 0.. {
            let Some((chosen, from)) = families.choose(family, &mut Stream::new(3, "test", step))
            else {
                break;
            };
            assert!(!seen.contains(&chosen), "{chosen:?} twice");
            assert_eq!(from, Some(1));
            let changed = usize::from(chosen["ROWS"] != 4) + usize::from(chosen["UNROLL"] != 1);
            assert_eq!(
                changed,
                if step < 5 { 1 } else { 2 },
                "step {step}: {chosen:?}"
            );
            families.note(family, &chosen);
            seen.push(chosen);
        }
        assert_eq!(seen.len(), 12);
        assert!(!families.open(family));
    }

    #[test]
    fn moves_start_from_the_fastest_member() {
        let mut families = Families::default();
        let family = families.enter(Digest::of("family"), &space(), &point(4, 1));
        families.credit(family, &point(4, 1), 1, 1.0);
        families.enter(Digest::of("family"), &space(), &point(8, 4));
        families.credit(family, &point(8, 4), 2, 1.5);
        families.enter(Digest::of("family"), &space(), &point(1, 1));
        families.credit(family, &point(1, 1), 3, 1.2);
        let (chosen, from) = families
            .choose(family, &mut Stream::new(0, "test", 0))
            .unwrap();
        assert_eq!(from, Some(2));
        assert!(chosen["ROWS"] == 8 || chosen["UNROLL"] == 4, "{chosen:?}");
    }

    #[test]
    fn a_family_without_tunables_has_nothing_to_choose() {
        let mut families = Families::default();
        let family = families.enter(Digest::of("plain"), &IndexMap::new(), &IndexMap::new());
        assert!(!families.open(family));
        assert_eq!(
            families.choose(family, &mut Stream::new(0, "test", 0)),
            None
        );
    }

    #[test]
    fn a_space_too_large_to_count_is_no_trouble() {
        let wide: IndexMap<_, _> = (0..70)
            .map(|index| (format!("T{index}"), (0..9).collect()))
            .collect();
        let mut families = Families::default();
        let family = families.enter(Digest::of("wide"), &wide, &IndexMap::new());
        assert!(families.open(family));
        assert_eq!(
            families
                .choose(family, &mut Stream::new(0, "test", 0))
                .unwrap()
                .0
                .len(),
            70
        );
    }
}
