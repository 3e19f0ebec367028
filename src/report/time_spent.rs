//! What the time of a task was spent on, for `summary.json` and for the text at its end. Plain data and its text.

use serde::Serialize;

use super::text::wrap_after_first;
use crate::verdict::Seconds;

/// What the time of a task was spent on, over all processes, in seconds. Several workers work at once, so the sum may exceed the wall
/// time. Part of `summary.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TimeSpent {
    /// Judging the starting kernels.
    pub starting_kernels: f64,
    /// Judging all other candidates.
    pub search: StageSeconds,
    /// Trying points of new kernels before they are judged.
    pub trials: f64,
    /// Duels of candidates with incumbents.
    pub duels: f64,
    /// Confirmations, the start of their processes included.
    pub confirmation: f64,
    /// Comparing the best kernel with the best starting kernel.
    pub comparison: f64,
    /// Timing the best kernel against the strongest baselines.
    pub strongest: f64,
    /// The time from each request to a model to its reply.
    pub waiting_for_models: f64,
    /// Device time of all of them: how long workers held the device.
    pub device: f64,
}

/// The stages of judging candidates, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageSeconds {
    pub compile: f64,
    pub check: f64,
    pub inspect: f64,
    pub timing: f64,
    /// The CPU screen of a GPU run.
    pub screen: f64,
}

impl StageSeconds {
    pub(crate) fn add(&mut self, seconds: &Seconds) {
        self.compile += seconds.compile;
        self.check += seconds.check;
        self.inspect += seconds.inspect;
        self.timing += seconds.measure;
        self.screen += seconds.screen;
    }

    pub(crate) fn total(&self) -> f64 {
        self.compile + self.check + self.inspect + self.timing + self.screen
    }

    fn text(&self) -> String {
        let stages = [
            ("compile", self.compile),
            ("check", self.check),
            ("inspect", self.inspect),
            ("timing", self.timing),
            ("screen", self.screen),
        ];
        let shown = stages.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        let parts = shown.map(|(name, seconds)| format!("{name} {seconds:.1}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl TimeSpent {
    /// The table at the end of a task. Empty if nothing took time. `rate`: candidates a minute.
    pub(crate) fn table(&self, rate: Option<f64>, width: usize) -> String {
        let rows = [
            ("starting kernels", self.starting_kernels, String::new()),
            ("search", self.search.total(), self.search.text()),
            ("trials of points", self.trials, String::new()),
            ("duels", self.duels, String::new()),
            ("confirmation", self.confirmation, String::new()),
            ("comparison", self.comparison, String::new()),
            ("strongest baseline", self.strongest, String::new()),
            ("waiting for models", self.waiting_for_models, String::new()),
            ("device time", self.device, "part of the above".to_owned()),
        ];
        let shown = rows.into_iter().filter(|(_, seconds, _)| *seconds > 0.0);
        let lines = shown.map(|(name, seconds, note)| {
            let row = format!("      {name:<18}  {seconds:>7.1} s  {note}");
            // The name and the figure stay in their columns; only the note is wrapped.
            wrap_after_first(row.trim_end(), width, 31)
        });
        let lines = lines.collect::<String>();
        if lines.is_empty() {
            return String::new();
        }
        let rate = rate.map_or_else(String::new, |rate| {
            format!(" ({rate:.1} candidates a minute)")
        });
        format!("\n  time spent, over all workers{rate}\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_row_for_each_use_of_time() {
        let time = TimeSpent {
            starting_kernels: 12.34,
            search: StageSeconds {
                compile: 10.0,
                check: 20.0,
                inspect: 30.0,
                timing: 1040.5,
                screen: 0.0,
            },
            confirmation: 15.0,
            device: 1090.0,
            ..TimeSpent::default()
        };
        assert_eq!(
            time.table(Some(37.26), 80),
            "
  time spent, over all workers (37.3 candidates a minute)
      starting kernels       12.3 s
      search               1100.5 s  compile 10.0, check 20.0, inspect 30.0,
                                     timing 1040.5
      confirmation           15.0 s
      device time          1090.0 s  part of the above
"
        );
        assert_eq!(TimeSpent::default().table(None, 80), "");
    }
}
