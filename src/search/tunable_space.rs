//! The space of a family's tunables: which points it has, which of them the rules of its kernel allow, and how far they are apart.
//!
//! Knows values and rules, never a source or a result. `families` chooses points.

use indexmap::IndexMap;

use crate::base::RandomStream;
use crate::kernel::PointRules;

/// How often a point is drawn at random before the space is searched in full.
const MAX_DRAWS: usize = 32;
/// A space of up to this many points is listed, so that it can be searched in full.
const MAX_LISTED_POINTS: u64 = 1 << 14;
/// The most levels of a tunable. One with more values has several values in a level.
const MAX_LEVELS: usize = 32;
/// Along a tunable with many values, neighbours are at most this many values away.
const MAX_NEIGHBOUR_DISTANCE: usize = 8;
/// Values that grow at least by this factor from the first to the last are compared by their ratio.
const WIDE_RANGE: f64 = 4.0;

/// A tunable point: for each tunable, the index of its value.
pub(super) type PointIndices = Box<[usize]>;

/// What a space consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SpaceKey {
    /// Names with their allowed values, ascending.
    tunables: Vec<(String, Vec<i64>)>,
    /// As in a `proposed` event.
    constraints: Vec<String>,
}

impl SpaceKey {
    pub(super) fn new(declared: &IndexMap<String, Vec<i64>>, constraints: &[String]) -> Self {
        let sorted = declared.iter().map(|(name, values)| {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            (name.clone(), values)
        });
        Self {
            tunables: sorted.filter(|(_, values)| !values.is_empty()).collect(),
            constraints: constraints.to_vec(),
        }
    }
}

/// The points of a space. Families share it, because a mutation rarely changes it.
#[derive(Debug)]
pub(super) struct TunableSpace {
    tunables: Vec<(String, Vec<i64>)>,
    rules: PointRules,
    /// The numbers of all allowed points, ascending. `None` if there are more than `MAX_LISTED_POINTS` combinations.
    allowed: Option<Vec<u32>>,
    /// For each tunable the position of each level, from 0 to 1.
    positions: Vec<Vec<f64>>,
}

impl TunableSpace {
    pub(super) fn new(key: &SpaceKey) -> Self {
        let positions = key.tunables.iter().map(|(_, values)| positions(values));
        let mut space = Self {
            tunables: key.tunables.clone(),
            rules: PointRules::of_texts(&key.constraints),
            allowed: None,
            positions: positions.collect(),
        };
        let combinations = space.combinations();
        if combinations <= MAX_LISTED_POINTS {
            let numbers = 0..combinations as u32;
            let allowed = numbers.filter(|number| space.allows(&space.decode(*number)));
            space.allowed = Some(allowed.collect());
        }
        space
    }

    /// The number of allowed points. Of a large space: of all points, and `u64::MAX` if there are more.
    pub(super) fn size(&self) -> u64 {
        let allowed = self.allowed.as_ref();
        allowed.map_or_else(|| self.combinations(), |allowed| allowed.len() as u64)
    }

    fn combinations(&self) -> u64 {
        self.tunables.iter().fold(1, |size: u64, (_, values)| {
            size.saturating_mul(values.len() as u64)
        })
    }

    /// For each tunable the position of each level, from 0 to 1. Values far apart in size are placed by their logarithm.
    pub(super) fn positions(&self) -> &[Vec<f64>] {
        &self.positions
    }

    /// For each tunable the level of a point's value.
    pub(super) fn levels(&self, indices: &[usize]) -> PointIndices {
        let tunables = self.tunables.iter().zip(indices);
        tunables
            .map(|((_, values), index)| index * values.len().min(MAX_LEVELS) / values.len())
            .collect()
    }

    /// A number for the point. It is unique if the space has at most 2^64 points; in a larger space two points may share a number,
    /// and one of them is then never tried.
    pub(super) fn encode(&self, indices: &[usize]) -> u64 {
        let digits = self.tunables.iter().zip(indices);
        digits.fold(0, |code: u64, ((_, values), index)| {
            code.wrapping_mul(values.len() as u64)
                .wrapping_add(*index as u64)
        })
    }

    /// `None` if a tunable is missing or its value is not declared.
    pub(super) fn indices_of(&self, point: &IndexMap<String, i64>) -> Option<PointIndices> {
        let index = |(name, values): &(String, Vec<i64>)| {
            let value = point.get(name)?;
            values.binary_search(value).ok()
        };
        self.tunables.iter().map(index).collect()
    }

    pub(super) fn point(&self, indices: &[usize]) -> IndexMap<String, i64> {
        self.tunables
            .iter()
            .zip(indices)
            .map(|((name, values), index)| (name.clone(), values[*index]))
            .collect()
    }

    /// Whether the rules of the kernel allow a point.
    pub(super) fn allows(&self, indices: &[usize]) -> bool {
        if let Some(allowed) = &self.allowed {
            let number = self.encode(indices) as u32;
            return allowed.binary_search(&number).is_ok();
        }
        self.rules.allow(&|name| {
            let mut tunables = self.tunables.iter().zip(indices);
            let ((_, values), index) = tunables.find(|((own, _), _)| own == name)?;
            values.get(*index).copied()
        })
    }

    /// The allowed points that differ from another in the value of one tunable. Along a long list only the next values count.
    pub(super) fn neighbours(&self, of: &[usize]) -> Vec<PointIndices> {
        let mut neighbours = Vec::new();
        for (tunable, (_, values)) in self.tunables.iter().enumerate() {
            let first = of[tunable].saturating_sub(MAX_NEIGHBOUR_DISTANCE);
            let last = (of[tunable] + MAX_NEIGHBOUR_DISTANCE).min(values.len() - 1);
            for index in (first..=last).filter(|index| *index != of[tunable]) {
                let mut neighbour: PointIndices = of.into();
                neighbour[tunable] = index;
                if self.allows(&neighbour) {
                    neighbours.push(neighbour);
                }
            }
        }
        neighbours
    }

    /// Draws a point, which may be one that is not allowed in a space that is not listed.
    pub(super) fn draw(&self, stream: &mut RandomStream) -> PointIndices {
        match &self.allowed {
            Some(allowed) if !allowed.is_empty() => {
                self.decode(allowed[stream.below(allowed.len())])
            }
            _ => {
                let values = self.tunables.iter();
                values
                    .map(|(_, values)| stream.below(values.len()))
                    .collect()
            }
        }
    }

    /// Draws a point with other values of one or two tunables: the next value, or any. It may be one that is not allowed, or the same.
    pub(super) fn draw_near(&self, point: &[usize], stream: &mut RandomStream) -> PointIndices {
        let mut drawn: PointIndices = point.into();
        for _ in 0..=stream.below(2) {
            let tunable = stream.below(self.tunables.len());
            let Some((_, values)) = self.tunables.get(tunable) else {
                break;
            };
            let index = &mut drawn[tunable];
            *index = match stream.below(4) {
                0 => index.saturating_sub(1),
                1 => (*index + 1).min(values.len() - 1),
                _ => stream.below(values.len()),
            };
        }
        drawn
    }

    /// Draws some allowed points. A point may be drawn twice. There are fewer if many points are not allowed.
    pub(super) fn draw_many(&self, count: usize, stream: &mut RandomStream) -> Vec<PointIndices> {
        let drawn = (0..count).map(|_| self.draw(stream));
        drawn.filter(|point| self.allows(point)).collect()
    }

    /// The sum of the distances between the positions of two points, given by their levels.
    pub(super) fn distance(&self, one: &[usize], other: &[usize]) -> f64 {
        let indices = one.iter().zip(other);
        let distances = self.positions.iter().zip(indices);
        distances
            .map(|(positions, (one, other))| (positions[*one] - positions[*other]).abs())
            .sum()
    }

    /// Draws an allowed point that is free. In a space that is not listed it may miss the last few.
    pub(super) fn draw_free(
        &self,
        stream: &mut RandomStream,
        is_free: impl Fn(&[usize]) -> bool,
    ) -> Option<PointIndices> {
        for _ in 0..MAX_DRAWS {
            let indices = self.draw(stream);
            if self.allows(&indices) && is_free(&indices) {
                return Some(indices);
            }
        }
        let allowed = self
            .allowed
            .as_ref()
            .filter(|allowed| !allowed.is_empty())?;
        let start = stream.below(allowed.len());
        let numbers = allowed[start..].iter().chain(&allowed[..start]);
        numbers
            .map(|number| self.decode(*number))
            .find(|indices| is_free(indices))
    }

    /// The point with this number, in a listed space.
    fn decode(&self, number: u32) -> PointIndices {
        let mut rest = number as usize;
        let mut indices: PointIndices = vec![0; self.tunables.len()].into();
        for (index, (_, values)) in indices.iter_mut().zip(&self.tunables).rev() {
            *index = rest % values.len();
            rest /= values.len();
        }
        indices
    }
}

/// The positions of the levels of a list. Half by rank and half by size, so that neither many close values nor one far one decides alone.
fn positions(values: &[i64]) -> Vec<f64> {
    let count = values.len();
    let levels = count.min(MAX_LEVELS);
    let values: Vec<i64> = (0..levels)
        .map(|level| values[(level * count).div_ceil(levels)])
        .collect();
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return Vec::new();
    };
    if first == last {
        return vec![0.0; values.len()];
    }
    let (first, last) = (*first as f64, *last as f64);
    let is_wide = first > 0.0 && last / first >= WIDE_RANGE;
    let size = |value: f64| if is_wide { libm::log(value) } else { value };
    let span = size(last) - size(first);
    let ranks = (values.len() - 1) as f64;
    let values = values.iter().enumerate();
    values
        .map(|(rank, value)| {
            0.5 * rank as f64 / ranks + 0.5 * (size(*value as f64) - size(first)) / span
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(constraints: &[&str]) -> TunableSpace {
        let declared = [
            ("ROWS".to_owned(), vec![4, 1, 2, 8]),
            ("WARPS".to_owned(), vec![1, 2, 4]),
        ];
        let constraints: Vec<_> = constraints.iter().map(|one| (*one).to_owned()).collect();
        TunableSpace::new(&SpaceKey::new(&declared.into(), &constraints))
    }

    #[test]
    fn a_point_that_breaks_a_constraint_is_neither_listed_nor_drawn_nor_a_neighbour() {
        let space = space(&["ROWS * WARPS <= 8", "ROWS != 1"]);
        assert_eq!(space.size(), 6);
        let product = |indices: &[usize]| {
            let point = space.point(indices);
            point["ROWS"] * point["WARPS"]
        };
        let mut stream = RandomStream::new(1, "test", 0);
        for _ in 0..100 {
            assert!(product(&space.draw(&mut stream)) <= 8);
        }
        let point = [("ROWS".to_owned(), 4), ("WARPS".to_owned(), 2)];
        let indices = space.indices_of(&point.into()).unwrap();
        let neighbours = space.neighbours(&indices);
        assert_eq!(neighbours.len(), 2, "ROWS=2 and WARPS=1: {neighbours:?}");
    }

    #[test]
    fn a_space_without_an_allowed_point_is_empty() {
        let space = space(&["ROWS > 100"]);
        assert_eq!(space.size(), 0);
        let mut stream = RandomStream::new(1, "test", 0);
        assert_eq!(space.draw_free(&mut stream, |_| true), None);
    }

    #[test]
    fn positions_go_from_0_to_1_by_rank_and_size() {
        let close = |values: &[i64], expected: &[f64]| {
            let found = positions(values);
            let pairs = found.iter().zip(expected);
            assert!(
                pairs.clone().all(|(one, other)| (one - other).abs() < 1e-9),
                "{values:?}: {found:?}"
            );
        };
        close(&[1, 2, 4, 8], &[0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
        close(&[0, 1, 4], &[0.0, 0.375, 1.0]);
        close(&[7], &[0.0]);
        let many: Vec<i64> = (0..1000).collect();
        assert_eq!(positions(&many).len(), MAX_LEVELS);
    }
}
