//! The columns of a table that hold figures: speedups with their intervals, or why there is none.
//!
//! Text of fixed width. Knows nothing of the rows.

use crate::verdict::Speedup;

/// What a column of figures has where there is none.
pub(super) const NO_FIGURE: &str = "-";
/// What a column of figures has if a confirmation stayed too imprecise.
pub(super) const TOO_NOISY: &str = "too noisy";

/// The figure of a confirmation, or why there is none.
pub(super) struct ConfirmedColumn {
    pub(super) speedup: Option<Speedup>,
    pub(super) otherwise: &'static str,
}

impl ConfirmedColumn {
    pub(super) fn text(&self) -> String {
        let (figure, interval) = match &self.speedup {
            Some(speedup) => {
                let digits = digits_for(speedup, 3);
                (
                    format!("{:.digits$}x", speedup.geomean),
                    interval_text(speedup, digits),
                )
            }
            None => (self.otherwise.to_owned(), String::new()),
        };
        format!("{figure:>9}  {interval:<14}")
    }
}

/// The figure of the search: provisional, so with fewer digits.
pub(super) fn search_columns(speedup: Speedup) -> String {
    let digits = digits_for(&speedup, 2);
    let figure = format!("~{:.digits$}x", speedup.geomean);
    format!("{figure:>7}  {:<13}", interval_text(&speedup, digits))
}

/// `[1.885, 1.960]`
fn interval_text(speedup: &Speedup, digits: usize) -> String {
    let [low, high] = speedup.ci95;
    format!("[{low:.digits$}, {high:.digits$}]")
}

/// Digits after the point: this many below 10, and fewer above, so that a column keeps its width.
fn digits_for(speedup: &Speedup, digits: usize) -> usize {
    let limits = [10.0, 100.0].into_iter();
    let fewer = limits.filter(|limit| speedup.ci95[1] >= *limit).count();
    digits.saturating_sub(fewer)
}

/// A reason in place of all figures of a row.
pub(super) fn without_figures(reason: &str) -> String {
    format!("{NO_FIGURE:>9}  {reason:<38}")
}
