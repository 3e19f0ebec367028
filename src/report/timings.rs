//! Where the seconds of a judgement went, as text: `kforge eval --timings`.
//!
//! Pure: from a verdict to text.

use crate::verdict::Verdict;

/// The parts of a judgement, the largest first, with their shares of the sum.
pub(crate) fn describe_timings(verdict: &Verdict) -> String {
    let parts = &verdict.seconds.parts;
    if parts.is_empty() {
        return "  timings: nothing took long enough to be measured\n".to_owned();
    }
    let total: f64 = parts.values().sum();
    let mut rows: Vec<_> = parts.iter().collect();
    rows.sort_by(|(_, first), (_, second)| second.total_cmp(first));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("  {:<width$} {:>9} {:>6}\n", "timings", "seconds", "share");
    for (name, seconds) in rows {
        let share = seconds / total * 100.0;
        text += &format!("  {name:<width$} {seconds:>9.3} {share:>4.0} %\n");
    }
    text += &format!("  {:<width$} {total:>9.3}\n", "total");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_the_largest_comes_first() {
        let mut verdict = Verdict::harness_error("softmax", "a.cu", "cpu", String::new());
        assert!(describe_timings(&verdict).contains("nothing took long enough"));
        let parts = [
            ("check fill", 0.25),
            ("inspect race, schedule 0", 1.5),
            ("wait for locks", 0.25),
        ];
        verdict.seconds.parts = (parts.into_iter())
            .map(|(name, seconds)| (name.to_owned(), seconds))
            .collect();
        insta::assert_snapshot!(describe_timings(&verdict), @r"
          timings                    seconds  share
          inspect race, schedule 0     1.500   75 %
          check fill                   0.250   12 %
          wait for locks               0.250   12 %
          total                        2.000
        ");
    }
}
