//! The tables of a task's kernels: the best of each kind, the starting kernels, and the best one against the best starting kernel.
//!
//! Pure: from results to text. Decides no order: the driver has sorted the kernels.

use super::figure_columns::{
    ConfirmedColumn, NO_FIGURE, TOO_NOISY, search_columns, without_figures,
};
use super::progress::Comparison;
use super::task_results::{StartingKernelResult, TaskResults};
use super::text::{TERMINAL_WIDTH, pluralize, wrap, wrap_after_first};
use crate::verdict::{Duel, DuelOutcome, Speedup};

/// Where the text after a confirmed figure and its interval begins.
const FIGURES_WIDTH: usize = 33;

/// Maximum number of elites to list.
const MAX_LISTED: usize = 5;

/// The first elites with their files, and the number of the others. An elite is the fastest kernel of its cell.
pub(super) fn elites_table(results: &TaskResults) -> String {
    let mut text = format!(
        "\n  {:>2}  {:>9}  {:<14}  {:>7}  {:<13}  {:>5}  {}\n",
        "", "confirmed", "95 % interval", "search", "95 % interval", "step", "made by"
    );
    for (index, elite) in results.elites.iter().take(MAX_LISTED).enumerate() {
        let confirmed = ConfirmedColumn {
            speedup: elite.confirmed,
            otherwise: if elite.too_noisy {
                TOO_NOISY
            } else {
                NO_FIGURE
            },
        };
        text += &format!(
            "  {:>2}  {}  {}  {:>5}  {}\n",
            index + 1,
            confirmed.text(),
            search_columns(elite.measured),
            elite.step,
            elite.operator.name(),
        );
        text += &wrap(&elite.detail, TERMINAL_WIDTH, 6);
        text += &wrap_cell(&elite.cell);
        if !elite.not_done.is_empty() {
            let missing = elite.not_done.join(", ");
            let text_of = format!("confirmed without {missing}, because the time was short");
            text += &wrap(&text_of, TERMINAL_WIDTH, 6);
        }
        text += &format!("      {}\n", elite.source.display());
    }
    if results.elites.len() > MAX_LISTED {
        let more = results.elites.len() - MAX_LISTED;
        text += &format!("      and {more} more, each the fastest of its cell\n");
    }
    if results.refuted > 0 {
        let kernels = pluralize(results.refuted as u64, "kernel");
        text += &format!(
            "      {kernels} looked fast but did not pass when measured again: not listed\n"
        );
    }
    text
}

/// The description of a cell, wrapped between its axes.
fn wrap_cell(cell: &str) -> String {
    const NO_BREAK: &str = "\u{a0}";
    let whole_axes = cell
        .replace(' ', NO_BREAK)
        .replace(&format!(",{NO_BREAK}"), ", ");
    wrap(&whole_axes, TERMINAL_WIDTH, 6).replace(NO_BREAK, " ")
}

/// The starting kernels with their speedups, or why they have none.
pub(super) fn starting_kernels_table(starts: &[StartingKernelResult]) -> String {
    if starts.is_empty() {
        return String::new();
    }
    let rows = starts.iter().map(|start| {
        let confirmed = ConfirmedColumn {
            speedup: start.confirmed,
            otherwise: match start {
                start if start.too_noisy => TOO_NOISY,
                start if start.refuted => "failed",
                start if start.dismissed => "dismissed",
                _ => NO_FIGURE,
            },
        };
        let columns = match (start.measured, start.status) {
            (Some(speedup), _) => format!("{}  {}", confirmed.text(), search_columns(speedup)),
            (None, Some(status)) => without_figures(&status.to_string()),
            (None, None) => without_figures("not judged"),
        };
        format!("      {columns}  {:>5}  {}\n", start.step, start.name)
    });
    format!("\n  starting kernels\n{}", rows.collect::<String>())
}

/// The best kernel against the task's baseline and the strongest others. Empty if there is no best kernel, or nothing is known of others.
pub(super) fn baselines_text(results: &TaskResults) -> String {
    let progress = &results.progress;
    let Some(best) = progress.confirmed_best() else {
        return String::new();
    };
    if progress.strongest.is_empty() {
        return String::new();
    }
    let row = |speedup: Speedup, what: &str| {
        let columns = ConfirmedColumn {
            speedup: Some(speedup),
            otherwise: NO_FIGURE,
        };
        let row = format!("      {}  {what}", columns.text());
        // The figures stay in their columns; only the text is wrapped.
        let indent = row.len() - row.trim_start().len();
        wrap_after_first(&row, TERMINAL_WIDTH, FIGURES_WIDTH - indent)
    };
    let own = format!("over {}, confirmed", results.baseline);
    let mut text = "\n  the best kernel and the baselines\n".to_owned() + &row(best.speedup, &own);
    for strongest in &progress.strongest {
        let remark = match &strongest.outside {
            Some(outside) => format!(", which {}", outside.in_words()),
            None if strongest.speedup.is_slower() => ": slower".to_owned(),
            None => String::new(),
        };
        let label = strongest.label();
        let what = format!("over {label}, {}{remark}", strongest.origin.in_words());
        text += &row(strongest.speedup, &what);
    }
    text
}

/// The best kernel against the best starting kernel. Empty if there is no best kernel.
pub(super) fn comparison_text(results: &TaskResults) -> String {
    let Some(best) = results.progress.confirmed_best() else {
        return String::new();
    };
    let Some(comparison) = &results.progress.comparison else {
        if results.progress.unmeasured.comparison {
            let text = "no time was left to compare the best kernel with the best starting kernel";
            return format!("\n{}", wrap(text, TERMINAL_WIDTH, 2));
        }
        let mut starts = results.starts.iter();
        let start = starts.find(|start| start.step == best.step);
        return start.map_or_else(String::new, |start| {
            let text = format!("the best kernel is the starting kernel {}", start.name);
            format!("\n{}", wrap(&text, TERMINAL_WIDTH, 2))
        });
    };
    let Comparison {
        step,
        against,
        kernel,
        duel,
    } = comparison;
    let what = match duel.as_ref().map(Duel::outcome) {
        Some(DuelOutcome::Faster) => "is faster",
        Some(DuelOutcome::Slower) => "is slower",
        Some(DuelOutcome::Unclear) => "is not clearly faster",
        None => "failed, or the times varied too much",
    };
    let columns = ConfirmedColumn {
        speedup: duel.map(|duel| Speedup {
            geomean: duel.ratio,
            ci95: duel.ci95,
        }),
        otherwise: NO_FIGURE,
    };
    let row = format!("      {}  step {step} {what}", columns.text());
    format!(
        "\n{}{row}\n",
        wrap(
            &format!(
                "the best kernel against the best starting kernel, {kernel} (step {against}), in pairs"
            ),
            TERMINAL_WIDTH,
            2
        )
    )
}
