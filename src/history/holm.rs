//! Holm's correction of probabilities for several comparisons. Pure.

/// The corrected probabilities: the smallest is multiplied by the number of comparisons, the next by one less, and so on; never decreasing.
/// A comparison without a probability does not count. Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
pub(super) fn corrected(probabilities: &[Option<f64>]) -> Vec<Option<f64>> {
    let known = probabilities.iter().enumerate();
    let mut order: Vec<(usize, f64)> = known
        .filter_map(|(index, p)| Some((index, (*p)?)))
        .collect();
    order.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut all = vec![None; probabilities.len()];
    let mut least: f64 = 0.0;
    for (rank, (index, p)) in order.iter().enumerate() {
        least = least.max((p * (order.len() - rank) as f64).min(1.0));
        all[*index] = Some(least);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_are_multiplied_most() {
        let found = corrected(&[Some(0.03), None, Some(0.01), Some(0.04), Some(0.9)]);
        let expected = [Some(0.09), None, Some(0.04), Some(0.09), Some(0.9)];
        for (one, other) in found.iter().zip(expected) {
            assert_eq!(one.is_some(), other.is_some());
            assert!(
                (one.unwrap_or(0.0) - other.unwrap_or(0.0)).abs() < 1e-12,
                "{found:?}"
            );
        }
    }
}
