//! The live view of a task: a block of lines that fits the size of a terminal.
//!
//! Pure. `progress_view` and `kforge watch` fill in the figures and show the lines.

use std::time::Duration;

use console::truncate_str;

use super::headline::{provisional, with_interval};
use super::progress::{BestCandidate, Standing};
use super::terminal_block::TerminalSize;
use super::text::{duration_text, wrap};
use crate::event::Cost;

/// Where the text of a line starts.
const LABEL_COLUMNS: usize = 11;

/// The most columns that a block uses. Longer lines are hard to read.
const MAX_COLUMNS: usize = 100;

/// The most columns of the course of the best.
const MAX_COURSE_COLUMNS: usize = 40;

/// Without an event for this time, the view says so.
const QUIET: Duration = Duration::from_secs(60);

/// What the view shows of a task.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveTask {
    pub(crate) task: String,
    /// What it does, such as `confirming 1 of 3`. Empty while it searches.
    pub(crate) doing: String,
    pub(crate) steps: u64,
    pub(crate) total: u64,
    /// The remaining time.
    pub(crate) left: Option<Duration>,
    pub(crate) best: Option<BestCandidate>,
    /// Name of the baseline. Empty if it is unknown.
    pub(crate) baseline: String,
    /// The fastest speedup of the search after each step.
    pub(crate) course: Vec<f32>,
    /// Filled cells of the archive, and all cells.
    pub(crate) cells: (usize, usize),
    /// From 0 to 1.
    pub(crate) validity: Option<f64>,
    pub(crate) steps_per_minute: Option<f64>,
    /// `None` if the run has no models.
    pub(crate) spent: Option<Cost>,
    /// The share of their time in which the workers hold the device, from 0 to 1, and the number of workers.
    pub(crate) device: Option<(f64, usize)>,
    /// Device seconds spent, and their budget.
    pub(crate) device_budget: Option<(f64, f64)>,
    /// What it waits for.
    pub(crate) waits: Vec<String>,
    /// The time since the last event, while a process works on the task.
    pub(crate) quiet: Option<Duration>,
}

/// A line of the block before it is fitted.
struct Row {
    label: &'static str,
    text: String,
    style: RowStyle,
    /// Rows with a higher rank are left out first where the terminal is low.
    rank: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RowStyle {
    Title,
    Plain,
    /// A confirmed gain.
    Good,
    /// Something that a person should look at.
    Notice,
}

/// The lines of a task's block. `has_colour`: with escape codes for colours. No line is wider than the terminal less one column, and there
/// is room for a line below.
pub(crate) fn live_block(task: &LiveTask, size: TerminalSize, has_colour: bool) -> Vec<String> {
    let columns = size.columns.saturating_sub(1).clamp(1, MAX_COLUMNS);
    let max_lines = size.rows.saturating_sub(1).max(1);
    let mut rows = rows(task, columns);
    let mut lines = fit(&rows, columns, has_colour);
    while lines.len() > max_lines && rows.len() > 1 {
        let last = rows.iter().map(|row| row.rank).max();
        rows.retain(|row| Some(row.rank) != last);
        lines = fit(&rows, columns, has_colour);
    }
    lines.truncate(max_lines);
    lines
}

/// The state of a task in one line, for output that is no terminal.
pub(crate) fn live_line(task: &LiveTask) -> String {
    let mut parts = vec![title(task), best_text(task)];
    let search = search_text(task);
    parts.extend((!search.is_empty()).then_some(search));
    parts.extend(task.spent.and_then(spent_text));
    let mut line = parts.join(", ");
    if let Some(waiting) = waiting_text(task) {
        let colon = if is_quiet(task) { "" } else { "waiting for " };
        line += &format!("; {colon}{waiting}");
    }
    line
}

fn rows(task: &LiveTask, columns: usize) -> Vec<Row> {
    let row = |label, text, style, rank| Row {
        label,
        text,
        style,
        rank,
    };
    let best_style = match task.best {
        Some(best) if best.standing == Standing::Faster => RowStyle::Good,
        _ => RowStyle::Plain,
    };
    let mut rows = vec![
        row("", title(task), RowStyle::Title, 0),
        row("best", best_text(task), best_style, 1),
    ];
    let room = columns.saturating_sub(LABEL_COLUMNS + " ~0.00x to ~0.00x".len());
    let course = course_text(&task.course, room.min(MAX_COURSE_COLUMNS));
    rows.extend(course.map(|text| row("course", text, RowStyle::Plain, 6)));
    rows.push(row("search", search_text(task), RowStyle::Plain, 3));
    let spent = task.spent.and_then(spent_text);
    rows.extend(spent.map(|text| row("models", text, RowStyle::Plain, 4)));
    rows.extend(device_text(task).map(|text| row("device", text, RowStyle::Plain, 5)));
    let waiting_style = if is_quiet(task) {
        RowStyle::Notice
    } else {
        RowStyle::Plain
    };
    rows.extend(waiting_text(task).map(|text| row("waiting", text, waiting_style, 2)));
    rows
}

/// Every row as one or more lines.
fn fit(rows: &[Row], columns: usize, has_colour: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        let (indent, label) = match row.label {
            "" => (2, String::new()),
            label => (LABEL_COLUMNS, format!("  {label:<9}")),
        };
        let start = if row.label.is_empty() { 0 } else { indent };
        let wrapped = wrap(&row.text, columns, indent.min(columns / 2));
        for (index, line) in wrapped.lines().enumerate() {
            let text = line.trim_start();
            let line = match index {
                0 if start == 0 => text.to_owned(),
                0 => format!("{label}{text}"),
                _ => format!("{:indent$}{text}", ""),
            };
            let line = truncate_str(&line, columns, "…").into_owned();
            lines.push(if has_colour {
                painted(&line, row.style, index == 0 && start > 0)
            } else {
                line
            });
        }
    }
    lines
}

/// A line with its colour. `has_label`: its first columns are a label.
fn painted(line: &str, style: RowStyle, has_label: bool) -> String {
    let style = match style {
        RowStyle::Title => console::Style::new().bold(),
        RowStyle::Plain => console::Style::new(),
        RowStyle::Good => console::Style::new().green(),
        RowStyle::Notice => console::Style::new().yellow(),
    }
    .force_styling(true);
    let dim = console::Style::new().dim().force_styling(true);
    match line.split_at_checked(LABEL_COLUMNS) {
        Some((label, text)) if has_label => {
            format!("{}{}", dim.apply_to(label), style.apply_to(text))
        }
        _ => style.apply_to(line).to_string(),
    }
}

fn title(task: &LiveTask) -> String {
    let mut title = format!("{}: step {}/{}", task.task, task.steps, task.total);
    if !task.doing.is_empty() {
        title += &format!(", {}", task.doing);
    }
    if let Some(left) = task.left {
        title += &format!(", {} left", duration_text(left.as_secs_f64()));
    }
    title
}

fn best_text(task: &LiveTask) -> String {
    let Some(best) = &task.best else {
        return "none passed yet".to_owned();
    };
    let speedup = &best.speedup;
    let figure = if best.standing.is_confirmed() {
        with_interval(speedup)
    } else {
        let [low, high] = speedup.ci95;
        format!("{} [{low:.2}, {high:.2}]", provisional(speedup.geomean))
    };
    let against = match task.baseline.as_str() {
        "" => String::new(),
        name => format!(" against {name}"),
    };
    let note = match best.standing {
        Standing::Faster => ", confirmed",
        Standing::NotClear => ", confirmed as not clearly faster",
        Standing::Slower => ", confirmed as slower",
        Standing::TooNoisy => ", too noisy to confirm",
        Standing::Provisional => "",
    };
    format!("{figure}{against} (step {}){note}", best.step)
}

fn search_text(task: &LiveTask) -> String {
    let (filled, all) = task.cells;
    // Candidates without a number for an axis have cells of their own.
    let mut parts = vec![format!("{filled} of {} cells", all.max(filled))];
    let validity = task.validity;
    parts.extend(validity.map(|share| format!("{:.0} % valid", share * 100.0)));
    let rate = task.steps_per_minute;
    parts.extend(rate.map(|rate| format!("{rate:.1} steps/min")));
    parts.join(", ")
}

/// Dollars and tokens. `None` if nothing was spent.
fn spent_text(spent: Cost) -> Option<String> {
    if spent.tokens == 0 {
        return None;
    }
    let about = if spent.estimated { "about " } else { "" };
    let tokens = format!("{about}{} tokens", spent.tokens);
    Some(match spent.nano_usd {
        Some(nano) => format!("${:.4}, {tokens}", nano as f64 / 1e9),
        None => format!("{tokens}, price unknown"),
    })
}

fn device_text(task: &LiveTask) -> Option<String> {
    let share = task.device.map(|(share, workers)| {
        let whose = match workers {
            1 => "the worker's time".to_owned(),
            workers => format!("the time of {workers} workers"),
        };
        format!("held for {:.0} % of {whose}", share * 100.0)
    });
    let budget = task
        .device_budget
        .map(|(spent, budget)| format!("{spent:.0} of {budget:.0} s spent"));
    let parts: Vec<_> = share.into_iter().chain(budget).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn is_quiet(task: &LiveTask) -> bool {
    task.quiet.is_some_and(|quiet| quiet >= QUIET)
}

/// `anthropic for 34 s (2 requests)`, after a long silence `no event for 12 min 00 s; waiting for anthropic for …`.
fn waiting_text(task: &LiveTask) -> Option<String> {
    let waits = (!task.waits.is_empty()).then(|| task.waits.join("; "));
    let Some(quiet) = task.quiet.filter(|_| is_quiet(task)) else {
        return waits;
    };
    let quiet = format!("no event for {}", duration_text(quiet.as_secs_f64()));
    Some(match waits {
        Some(waits) => format!("{quiet}; waiting for {waits}"),
        None => quiet,
    })
}

/// The course of the best in at most `columns` bars, with its first and last figure. `None` if it has not changed.
fn course_text(course: &[f32], columns: usize) -> Option<String> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (first, last) = (*course.first()?, *course.last()?);
    if columns < 2 || first >= last || first <= 0.0 {
        return None;
    }
    let count = course.len().min(columns);
    let bars = (0..count).map(|bar| {
        // The best never falls, so the last value of a bar is its highest.
        let index = (bar + 1) * course.len() / count - 1;
        let height = (course[index] / first).ln() / (last / first).ln();
        BARS[((height * 7.0).round() as usize).min(7)]
    });
    let bars: String = bars.collect();
    let [first, last] = [first, last].map(|figure| provisional(f64::from(figure)));
    Some(format!("{bars} {first} to {last}"))
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;

    use super::*;
    use crate::verdict::Speedup;

    fn sample() -> LiveTask {
        LiveTask {
            task: "softmax".to_owned(),
            steps: 34,
            total: 60,
            left: Some(Duration::from_secs(125)),
            best: Some(BestCandidate {
                step: 21,
                speedup: Speedup {
                    geomean: 2.41,
                    ci95: [2.33, 2.5],
                },
                standing: Standing::Provisional,
            }),
            baseline: "naive.cu".to_owned(),
            course: vec![1.0, 1.0, 1.5, 1.5, 2.0, 2.41, 2.41, 2.41],
            cells: (12, 48),
            validity: Some(0.714),
            steps_per_minute: Some(16.44),
            spent: Some(Cost {
                tokens: 120_345,
                nano_usd: Some(431_200_000),
                ..Cost::default()
            }),
            device: Some((0.69, 2)),
            device_budget: Some((124.4, 300.0)),
            waits: vec![
                "anthropic for 34 s (2 requests)".to_owned(),
                "verdicts for 12 s (8 candidates)".to_owned(),
            ],
            ..LiveTask::default()
        }
    }

    fn block(task: &LiveTask, columns: usize, rows: usize) -> String {
        let lines = live_block(task, TerminalSize { columns, rows }, false);
        lines.join("\n")
    }

    #[test]
    fn block_at_80_columns() {
        assert_eq!(
            block(&sample(), 80, 24),
            "\
softmax: step 34/60, 2 min 05 s left
  best     ~2.41x [2.33, 2.50] against naive.cu (step 21)
  course   ▁▁▄▄▇███ ~1.00x to ~2.41x
  search   12 of 48 cells, 71 % valid, 16.4 steps/min
  models   $0.4312, 120345 tokens
  device   held for 69 % of the time of 2 workers, 124 of 300 s spent
  waiting  anthropic for 34 s (2 requests); verdicts for 12 s (8 candidates)"
        );
    }

    #[test]
    fn block_at_40_columns_wraps_between_words() {
        assert_eq!(
            block(&sample(), 40, 24),
            "\
softmax: step 34/60, 2 min 05 s left
  best     ~2.41x [2.33, 2.50] against
           naive.cu (step 21)
  course   ▁▁▄▄▇███ ~1.00x to ~2.41x
  search   12 of 48 cells, 71 % valid,
           16.4 steps/min
  models   $0.4312, 120345 tokens
  device   held for 69 % of the time of
           2 workers, 124 of 300 s
           spent
  waiting  anthropic for 34 s (2
           requests); verdicts for 12 s
           (8 candidates)"
        );
    }

    #[test]
    fn block_fits_every_terminal() {
        let mut task = sample();
        task.task = "作業_with_a_long_name_that_no_terminal_of_few_columns_shows".to_owned();
        task.quiet = Some(Duration::from_secs(754));
        for columns in [1, 2, 5, 12, 20, 40, 79, 80, 200] {
            for rows in [1, 2, 5, 10, 24] {
                let size = TerminalSize { columns, rows };
                for has_colour in [false, true] {
                    let lines = live_block(&task, size, has_colour);
                    assert!((1..=rows.max(2) - 1).contains(&lines.len()), "{size:?}");
                    for line in lines {
                        let width = measure_text_width(&line);
                        assert!(width < columns.max(2), "{width} at {size:?}: {line}");
                    }
                }
            }
        }
        // What matters most is left on a low terminal.
        let low = block(&sample(), 80, 4);
        assert!(low.contains("best") && low.contains("waiting"), "{low}");
    }

    #[test]
    fn silence_is_reported_with_what_is_waited_for() {
        let mut task = sample();
        task.waits = vec!["anthropic for 12 min 30 s (1 request)".to_owned()];
        task.quiet = Some(Duration::from_secs(59));
        assert!(!block(&task, 80, 24).contains("no event"));
        task.quiet = Some(Duration::from_secs(750));
        let shown = block(&task, 100, 24);
        assert!(
            shown.ends_with(
                "waiting  no event for 12 min 30 s; waiting for anthropic for 12 min 30 s (1 request)"
            ),
            "{shown}"
        );
        assert_eq!(
            live_line(&task),
            "softmax: step 34/60, 2 min 05 s left, ~2.41x [2.33, 2.50] against naive.cu (step 21), 12 of 48 cells, 71 % valid, \
             16.4 steps/min, $0.4312, 120345 tokens; no event for 12 min 30 s; waiting for anthropic for 12 min 30 s (1 request)"
        );
    }

    #[test]
    fn colours_add_nothing_but_escape_codes() {
        let size = TerminalSize {
            columns: 80,
            rows: 24,
        };
        let painted = live_block(&sample(), size, true).join("\n");
        assert!(painted.contains("\x1b[1m"));
        assert_eq!(
            console::strip_ansi_codes(&painted),
            block(&sample(), 80, 24)
        );
    }

    #[test]
    fn course_is_scaled_and_has_at_most_its_columns() {
        let course: Vec<f32> = (0..1000).map(|step| 1.0 + step as f32 / 999.0).collect();
        let text = course_text(&course, 8).unwrap();
        assert_eq!(text, "▂▃▄▅▆▇▇█ ~1.00x to ~2.00x");
        assert_eq!(course_text(&[1.5, 1.5], 8), None);
        assert_eq!(course_text(&[], 8), None);
    }
}
