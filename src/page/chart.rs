//! The progress of a search as a picture: speedup over steps, time or money, as inline SVG.
//!
//! Pure. Draws at two widths, because text in a picture shrinks with it. Figures of the search are dots and a line; confirmed ones
//! are diamonds of another colour.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::figures;
use crate::history::{Outcome, TaskHistory};
use crate::verdict::Speedup;

/// Space around the plot: left, right, top, bottom.
const MARGINS: [f64; 4] = [52.0, 14.0, 12.0, 40.0];

/// The most dots of a chart.
const MAX_DOTS: usize = 3000;

/// The horizontal axis of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HorizontalAxis {
    Steps,
    Seconds,
    Dollars,
}

/// A chart at both widths.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) label: &'static str,
    pub(super) wide: String,
    pub(super) narrow: String,
}

/// The charts of a task: steps and time, and dollars if any were spent. Empty if nothing passed.
pub(super) fn charts(task: &TaskHistory, prefix: &str, is_listed: &HashSet<u64>) -> Vec<Chart> {
    let mut axes = vec![
        (HorizontalAxis::Steps, "steps", "Steps"),
        (HorizontalAxis::Seconds, "seconds", "Time"),
    ];
    if task.dollars().is_some_and(|dollars| dollars > 0.0) {
        axes.push((HorizontalAxis::Dollars, "dollars", "Dollars"));
    }
    let drawn = axes.into_iter().filter_map(|(axis, id, label)| {
        let points = Points::of(task, axis)?;
        let draw = |width, height| points.draw(prefix, is_listed, (width, height));
        Some(Chart {
            id,
            label,
            wide: draw(860.0, 330.0),
            narrow: draw(380.0, 300.0),
        })
    });
    drawn.collect()
}

/// A figure with its place on the horizontal axis.
struct Point {
    x: f64,
    step: u64,
    speedup: Speedup,
}

/// What a chart shows.
struct Points {
    axis: HorizontalAxis,
    /// Candidates that passed.
    passed: Vec<Point>,
    /// Those that entered the archive, faster than all that had entered before. A candidate that lost its duel is none of them.
    best: Vec<Point>,
    confirmed: Vec<Point>,
    last_x: f64,
}

impl Points {
    fn of(task: &TaskHistory, axis: HorizontalAxis) -> Option<Self> {
        let place = |step: &crate::history::StepHistory| match axis {
            HorizontalAxis::Steps => step.step as f64,
            HorizontalAxis::Seconds => step.at_seconds,
            HorizontalAxis::Dollars => step.spent_nano_usd.map_or(0.0, |nano| nano as f64 / 1e9),
        };
        let mut passed = Vec::new();
        let mut entered = HashSet::new();
        for step in &task.steps {
            let speedup = step.speedup.filter(|_| {
                let refuted = task.confirmations.get(&step.step);
                step.outcome == Outcome::Passed && !refuted.is_some_and(|one| one.refutes())
            });
            if let Some(speedup) = speedup.filter(|one| one.geomean > 0.0) {
                if step.added {
                    entered.insert(step.step);
                }
                let (x, step) = (place(step), step.step);
                passed.push(Point { x, step, speedup });
            }
        }
        passed.sort_by(|one, other| one.x.total_cmp(&other.x));
        let mut best: Vec<Point> = Vec::new();
        for point in &passed {
            let fastest = best.last().map_or(0.0, |best| best.speedup.geomean);
            if entered.contains(&point.step) && point.speedup.geomean > fastest {
                best.push(Point { ..*point });
            }
        }
        let confirmed = task.confirmations.iter().filter_map(|(number, one)| {
            let (step, speedup) = (task.step(*number)?, one.speedup?);
            Some(Point {
                x: place(step),
                step: *number,
                speedup,
            })
        });
        let confirmed = confirmed.collect();
        let last_x = match axis {
            HorizontalAxis::Steps => task.steps.len() as f64,
            HorizontalAxis::Seconds => task
                .steps
                .iter()
                .map(|step| step.at_seconds)
                .fold(0.0, f64::max),
            HorizontalAxis::Dollars => task.dollars().unwrap_or(0.0),
        };
        (!passed.is_empty()).then_some(Self {
            axis,
            passed,
            best,
            confirmed,
            last_x,
        })
    }

    fn draw(&self, prefix: &str, is_listed: &HashSet<u64>, (width, height): (f64, f64)) -> String {
        let frame = Frame::new(self, width, height);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Speedup over {}\">",
            self.axis.name()
        );
        frame.draw_axes(&mut svg, self.axis);
        self.draw_dots(&mut svg, &frame);
        self.draw_best(&mut svg, &frame);
        for (class, points) in [("best", &self.best), ("confirmed", &self.confirmed)] {
            for point in points {
                self.draw_mark(&mut svg, &frame, (class, point), (prefix, is_listed));
            }
        }
        svg + "</svg>"
    }

    /// All figures of the search in one path. Those that fall on the same spot are drawn once; of very many, spots are larger.
    fn draw_dots(&self, svg: &mut String, frame: &Frame) {
        let places = self.passed.iter().map(|point| {
            let (x, y) = (frame.x(point.x), frame.y(point.speedup.geomean));
            (x.round() as i64, y.round() as i64)
        });
        let mut places: Vec<(i64, i64)> = places.collect();
        let mut spot = 1;
        loop {
            let mut seen = HashSet::new();
            places.retain(|(x, y)| seen.insert((x / spot, y / spot)));
            if places.len() <= MAX_DOTS {
                break;
            }
            spot *= 2;
        }
        let mut path = String::new();
        for (x, y) in places {
            let _ = write!(path, "M{x} {y}h0");
        }
        let _ = write!(svg, "<path class=\"dots\" d=\"{path}\"/>");
    }

    /// The fastest so far as a staircase, with the intervals of its steps as a band.
    fn draw_best(&self, svg: &mut String, frame: &Frame) {
        let Some(first) = self.best.first() else {
            return;
        };
        let edge = |value: &dyn Fn(&Speedup) -> f64| {
            let mut corners = vec![(frame.x(first.x), frame.y(value(&first.speedup)))];
            for point in &self.best[1..] {
                let (x, y) = (frame.x(point.x), frame.y(value(&point.speedup)));
                let before = corners.last().map_or(y, |corner| corner.1);
                corners.extend([(x, before), (x, y)]);
            }
            let last = corners.last().map_or(0.0, |corner| corner.1);
            corners.push((frame.x(self.last_x), last));
            corners
        };
        let text = |corners: &[(f64, f64)]| {
            let corners = corners.iter().map(|(x, y)| format!("{x:.1} {y:.1}"));
            corners.collect::<Vec<_>>().join("L")
        };
        let low = edge(&|speedup| speedup.ci95[0]);
        let mut high = edge(&|speedup| speedup.ci95[1]);
        high.reverse();
        let _ = write!(
            svg,
            "<path class=\"band\" d=\"M{}L{}Z\"/><path class=\"line\" d=\"M{}\"/>",
            text(&low),
            text(&high),
            text(&edge(&|speedup| speedup.geomean))
        );
    }

    /// A mark that opens its step.
    fn draw_mark(
        &self,
        svg: &mut String,
        frame: &Frame,
        (class, point): (&str, &Point),
        (prefix, is_listed): (&str, &HashSet<u64>),
    ) {
        let (x, y) = (frame.x(point.x), frame.y(point.speedup.geomean));
        let step = point.step;
        let (shape, figure) = if class == "confirmed" {
            let [low, high] = point.speedup.ci95.map(|end| frame.y(end));
            let shape = format!(
                "<path d=\"M{x:.1} {low:.1}V{high:.1}\"/><path class=\"mark\" d=\"M{x:.1} {:.1}l6 6l-6 6l-6 -6z\"/>",
                y - 6.0
            );
            let figure = figures::confirmed_speedup(&point.speedup);
            (shape, format!("step {step}: {figure}, confirmed"))
        } else {
            let shape = format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
            let figure = figures::provisional_speedup(&point.speedup);
            (shape, format!("step {step}: {figure}, of the search"))
        };
        let mark = format!("<g class=\"{class}\"><title>{figure}</title>{shape}</g>");
        if is_listed.contains(&step) {
            let _ = write!(
                svg,
                "<a href=\"#{prefix}-s{step}\" aria-label=\"{figure}\">{mark}</a>"
            );
        } else {
            svg.push_str(&mark);
        }
    }
}

impl HorizontalAxis {
    fn name(self) -> &'static str {
        match self {
            HorizontalAxis::Steps => "steps",
            HorizontalAxis::Seconds => "time of work",
            HorizontalAxis::Dollars => "dollars",
        }
    }

    /// A value of the axis as text.
    fn label(self, value: f64) -> String {
        match self {
            HorizontalAxis::Steps => figures::count(value as u64),
            HorizontalAxis::Seconds if value == 0.0 => "0".to_owned(),
            HorizontalAxis::Seconds => short_time(value),
            HorizontalAxis::Dollars => figures::dollars(value),
        }
    }
}

/// Seconds as a label of an axis: one unit.
fn short_time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        seconds if seconds < 180.0 => (seconds, "s"),
        seconds if seconds < 7200.0 => (seconds / 60.0, "min"),
        seconds => (seconds / 3600.0, "h"),
    };
    format!("{} {unit}", (value * 10.0).round() / 10.0)
}

/// From values to places in a picture. The vertical axis is logarithmic.
struct Frame {
    width: f64,
    height: f64,
    last_x: f64,
    /// Logarithms of the ends of the vertical axis.
    low: f64,
    high: f64,
}

impl Frame {
    fn new(points: &Points, width: f64, height: f64) -> Self {
        let estimates = points.passed.iter().map(|point| point.speedup.geomean.ln());
        // A few very slow candidates must not squeeze the rest.
        let mut estimates: Vec<f64> = estimates.collect();
        estimates.sort_by(f64::total_cmp);
        let slow = estimates.get(estimates.len() / 10).copied();
        let shown = points.best.iter().chain(&points.confirmed);
        let ends = shown.flat_map(|point| point.speedup.ci95).map(f64::ln);
        let ends = ends.filter(|end| end.is_finite()).chain(slow);
        let (low, high) = vertical_range(ends);
        let space = (high - low) * 0.06;
        Self {
            width,
            height,
            last_x: points.last_x.max(f64::MIN_POSITIVE),
            low: low - space,
            high: high + space,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let [left, right, ..] = MARGINS;
        left + value / self.last_x * (self.width - left - right)
    }

    /// Values outside the axis are drawn at its end.
    fn y(&self, value: f64) -> f64 {
        let [_, _, top, bottom] = MARGINS;
        let value = value.max(f64::MIN_POSITIVE).ln().clamp(self.low, self.high);
        let share = (value - self.low) / (self.high - self.low);
        self.height - bottom - share * (self.height - top - bottom)
    }

    fn draw_axes(&self, svg: &mut String, axis: HorizontalAxis) {
        let [left, right, _, bottom] = MARGINS;
        let (end, base) = (self.width - right, self.height - bottom);
        for value in self.speedup_ticks() {
            let (y, is_one) = (self.y(value), value == 1.0);
            let class = if is_one { "one" } else { "grid" };
            let _ = write!(
                svg,
                "<path class=\"{class}\" d=\"M{left} {y:.1}H{end}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}x</text>",
                left - 8.0,
                y + 4.0
            );
        }
        for value in linear_ticks(self.last_x, if self.width < 500.0 { 4 } else { 8 }) {
            let x = self.x(value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{x:.1} {base}v5\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                base + 18.0,
                axis.label(value)
            );
        }
        let where_baseline_is = match () {
            () if self.low > 0.0 => "1x, the baseline, is below this chart",
            () if self.high < 0.0 => "1x, the baseline, is above this chart",
            () => "",
        };
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{left}\" y=\"{}\">{where_baseline_is}</text>",
            self.height - 6.0
        );
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{end}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            self.height - 6.0,
            axis.name()
        );
    }

    /// Round speedups on the vertical axis, far enough from each other.
    fn speedup_ticks(&self) -> Vec<f64> {
        let mut candidates = Vec::new();
        for power in -4..6 {
            for digit in [
                1.0, 2.0, 5.0, 1.5, 3.0, 7.0, 1.2, 1.1, 1.4, 1.6, 1.8, 2.5, 4.0,
            ] {
                let value: f64 = digit * 10f64.powi(power);
                candidates.push((value * 1e6).round() / 1e6);
            }
        }
        candidates.sort_by_key(|value| *value != 1.0);
        // For a small part of the axis.
        let (first, last) = (self.low.exp(), self.high.exp());
        let distance = round_distance((last - first) / 8.0);
        let between =
            (0..=20).map(|index| ((first / distance).ceil() + f64::from(index)) * distance);
        candidates.extend(between.map(|value| (value * 1e6).round() / 1e6));
        let mut ticks: Vec<f64> = Vec::new();
        for value in candidates {
            let is_inside = (self.low..=self.high).contains(&value.ln());
            let is_far = |tick: &f64| (self.y(*tick) - self.y(value)).abs() >= 24.0;
            if is_inside && ticks.iter().all(is_far) {
                ticks.push(value);
            }
        }
        ticks
    }
}

/// The least height of a chart, as a logarithm: noise must not look like progress.
const MIN_HEIGHT: f64 = 0.2;

/// The ends of the vertical axis for logarithms of speedups. The baseline, at 0, is in the picture unless it is so far away that the
/// course of the search would be a flat line.
fn vertical_range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    let (low, high) = ends.unwrap_or((0.0, 0.0));
    let missing = (MIN_HEIGHT - (high - low)).max(0.0);
    let (low, high) = (low - missing / 2.0, high + missing / 2.0);
    let farthest = 2.0 * (high - low);
    match () {
        () if low > farthest || high < -farthest => (low, high),
        () => (low.min(0.0), high.max(0.0)),
    }
}

/// Round numbers from 0 to `last`, about `wanted` of them.
fn linear_ticks(last: f64, wanted: usize) -> Vec<f64> {
    let distance = round_distance(last / wanted as f64);
    (0..=wanted * 2)
        .map(|index| index as f64 * distance)
        .take_while(|value| *value <= last * 1.0001)
        .collect()
}

/// The least of 1, 2, 5, 10 times a power of ten that is not below a number.
fn round_distance(rough: f64) -> f64 {
    let unit = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * unit >= rough);
    factor.unwrap_or(10.0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baseline_is_shown_unless_it_would_flatten_the_search() {
        let range = |speedups: &[f64]| {
            let (low, high) = vertical_range(speedups.iter().map(|one| one.ln()));
            [low.exp(), high.exp()].map(|end| (end * 100.0).round() / 100.0)
        };
        assert_eq!(range(&[1.1, 2.0]), [1.0, 2.0]);
        assert_eq!(range(&[0.5, 0.7]), [0.5, 1.0]);
        assert_eq!(range(&[18.0, 25.0]), [18.0, 25.0]);
        assert_eq!(range(&[0.01, 0.02]), [0.01, 0.02]);
        // One figure: no range at all.
        assert_eq!(range(&[1.0]), [0.9, 1.11]);
        assert_eq!(range(&[20.0, 20.1]), [18.14, 22.16]);
        assert_eq!(range(&[]), [0.9, 1.11]);
    }

    #[test]
    fn ticks_are_round_and_cover_the_axis() {
        assert_eq!(
            linear_ticks(120.0, 8),
            [0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]
        );
        assert_eq!(linear_ticks(3.0, 8), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
        assert!(linear_ticks(1.0, 4).len() <= 6);
        assert_eq!(
            [90.0, 600.0, 9000.0].map(short_time),
            ["90 s", "10 min", "2.5 h"]
        );
    }
}
