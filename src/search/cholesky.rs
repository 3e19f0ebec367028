//! The Cholesky factor of a covariance, and what is solved with it. `surrogate` uses it.
//!
//! Sums have a fixed order, so that every machine computes the same bits.

/// A lower triangular matrix, by rows: row i has i + 1 numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Factor(Vec<Vec<f64>>);

impl Factor {
    /// The factor of a matrix, given by its lower half. `None` if it has none.
    pub(super) fn of(matrix: Vec<Vec<f64>>) -> Option<Self> {
        let mut factor = Self(Vec::with_capacity(matrix.len()));
        for row in matrix {
            factor.append(row).then_some(())?;
        }
        Some(factor)
    }

    /// Adds a row of the matrix, up to its diagonal. Returns whether there is a factor; if not, nothing changes.
    pub(super) fn append(&mut self, mut row: Vec<f64>) -> bool {
        let last = self.0.len();
        for (column, earlier) in self.0.iter().enumerate() {
            let sum = dot(&row[..column], &earlier[..column]);
            row[column] = (row[column] - sum) / earlier[column];
        }
        let left = row[last] - dot(&row[..last], &row[..last]);
        if left.is_nan() || left <= 1e-12 {
            return false;
        }
        row[last] = left.sqrt();
        self.0.push(row);
        true
    }

    pub(super) fn row(&self, index: usize) -> &[f64] {
        &self.0[index]
    }

    /// The sum of the logarithms of the diagonal.
    pub(super) fn log_diagonal(&self) -> f64 {
        let rows = self.0.iter().enumerate();
        rows.map(|(index, row)| libm::log(row[index])).sum()
    }

    /// Solves factor x = `values`.
    pub(super) fn solve(&self, values: &[f64]) -> Vec<f64> {
        let mut solved: Vec<f64> = Vec::with_capacity(values.len());
        for (index, (row, value)) in self.0.iter().zip(values).enumerate() {
            let sum = dot(&row[..index], &solved);
            solved.push((value - sum) / row[index]);
        }
        solved
    }
}

/// The scalar product, in an order that the compiler may use vector instructions for.
pub(super) fn dot(one: &[f64], other: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (left, right) = (one.chunks_exact(4), other.chunks_exact(4));
    let tail = left.remainder().iter().zip(right.remainder());
    let tail: f64 = tail.map(|(one, other)| one * other).sum();
    for (one, other) in left.zip(right) {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum += one[index] * other[index];
        }
    }
    sums[0] + sums[1] + sums[2] + sums[3] + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_that_grows_is_the_factor_of_the_whole() {
        let matrix = vec![
            vec![4.0],
            vec![2.0, 5.0],
            vec![0.4, 1.0, 3.0],
            vec![0.8, 0.2, 0.6, 2.0],
        ];
        let whole = Factor::of(matrix.clone()).unwrap();
        let mut grown = Factor::of(matrix[..2].to_vec()).unwrap();
        assert!(grown.append(matrix[2].clone()) && grown.append(matrix[3].clone()));
        for (row, expected) in matrix.iter().enumerate() {
            for (column, value) in expected.iter().enumerate() {
                let product = dot(&grown.row(row)[..=column], &grown.row(column)[..=column]);
                assert!((product - value).abs() < 1e-12);
                assert_eq!(grown.row(row)[column], whole.row(row)[column]);
            }
        }
        let solved = grown.solve(&[2.0, 3.0, 1.0, 4.0]);
        let back = dot(grown.row(3), &solved);
        assert!((back - 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_row_that_makes_no_covariance_changes_nothing() {
        let mut factor = Factor::of(vec![vec![1.0]]).unwrap();
        assert!(!factor.append(vec![2.0, 1.0]));
        assert!(factor.append(vec![0.5, 1.0]));
    }
}
