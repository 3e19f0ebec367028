//! The points of a space of tunables, in the order of their numbers.
//!
//! Pure arithmetic on lists of values: knows no constraint.

use indexmap::IndexMap;

/// Every combination of the values of some tunables. The last tunable changes fastest.
pub(crate) struct SpacePoints<'s>(&'s IndexMap<String, Vec<i64>>);

impl<'s> SpacePoints<'s> {
    pub(crate) fn new(space: &'s IndexMap<String, Vec<i64>>) -> Self {
        Self(space)
    }

    /// The number of points. `None` if it does not fit 64 bits.
    pub(crate) fn count(&self) -> Option<u64> {
        let sizes = self.0.values().map(|values| values.len() as u64);
        sizes.into_iter().try_fold(1, u64::checked_mul)
    }

    /// The point with a number below the count.
    pub(crate) fn point(&self, number: u64) -> IndexMap<String, i64> {
        let mut rest = number;
        let mut point = IndexMap::new();
        for (name, values) in self.0.iter().rev() {
            let size = values.len().max(1) as u64;
            let value = values.get((rest % size) as usize);
            point.extend(value.map(|value| (name.clone(), *value)));
            rest /= size;
        }
        point.reverse();
        point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(sizes: &[(&str, &[i64])]) -> IndexMap<String, Vec<i64>> {
        let named = sizes.iter();
        named
            .map(|(name, values)| ((*name).to_owned(), values.to_vec()))
            .collect()
    }

    #[test]
    fn every_point_has_one_number() {
        let space = space(&[("ROWS", &[1, 2, 4]), ("WARPS", &[3]), ("DEPTH", &[8, 16])]);
        let points = SpacePoints::new(&space);
        assert_eq!(points.count(), Some(6));
        let all: Vec<Vec<i64>> = (0..6)
            .map(|number| points.point(number).values().copied().collect())
            .collect();
        let expected = [
            [1, 3, 8],
            [1, 3, 16],
            [2, 3, 8],
            [2, 3, 16],
            [4, 3, 8],
            [4, 3, 16],
        ];
        assert_eq!(all, expected);
        let names: Vec<_> = points.point(0).into_keys().collect();
        assert_eq!(names, ["ROWS", "WARPS", "DEPTH"]);
    }

    #[test]
    fn a_kernel_without_tunables_has_one_point() {
        let empty = IndexMap::new();
        let points = SpacePoints::new(&empty);
        assert_eq!((points.count(), points.point(0).len()), (Some(1), 0));
        let values: Vec<i64> = (0..1000).collect();
        let large = space(
            &["AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "GGG"].map(|name| (name, &values[..])),
        );
        assert_eq!(SpacePoints::new(&large).count(), None);
    }
}
