//! How a run that has ended is continued: the command, with a flag for each limit that would stop it again at once.
//!
//! Plain data and its text. The driver finds out which limits are reached.

use std::collections::BTreeSet;
use std::path::Path;

use crate::base::text::shell_quote;

/// The flags that `kforge resume` needs. Without any, the command alone continues.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continuation {
    /// `--steps`: the total per task.
    pub steps: Option<u64>,
    /// `--budget-seconds`: what is added to the time budget.
    pub more_seconds: Option<u64>,
    /// `--budget-device-seconds`: what is added to the budget of device time.
    pub more_device_seconds: Option<u64>,
    /// `--budget-usd`, in billionths of a dollar.
    pub nano_usd: Option<u64>,
    /// `--budget-tokens`.
    pub tokens: Option<u64>,
    /// `search.patience`.
    pub patience: Option<u64>,
    /// `search.target_speedup`.
    pub target_speedup: Option<f64>,
    /// Other rules that have stopped the search, as `search.KEY=` with the value that switches them off.
    pub lifted: BTreeSet<&'static str>,
    /// kforge's own operators have nothing left to try: only a model can go on. Every machine has the mailbox.
    pub needs_model: bool,
    /// No operator may ask a model.
    pub needs_propose: bool,
    /// The task must change first.
    pub needs_change: bool,
}

impl Continuation {
    /// The flags that continue both.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self {
            steps: self.steps.max(other.steps),
            more_seconds: self.more_seconds.max(other.more_seconds),
            more_device_seconds: self.more_device_seconds.max(other.more_device_seconds),
            nano_usd: self.nano_usd.max(other.nano_usd),
            tokens: self.tokens.max(other.tokens),
            patience: self.patience.max(other.patience),
            target_speedup: match (self.target_speedup, other.target_speedup) {
                (Some(one), Some(other)) => Some(one.max(other)),
                (one, other) => one.or(other),
            },
            lifted: &self.lifted | &other.lifted,
            needs_model: self.needs_model || other.needs_model,
            needs_propose: self.needs_propose || other.needs_propose,
            needs_change: self.needs_change || other.needs_change,
        }
    }

    /// The command that continues the run in a directory.
    pub fn command(&self, directory: &Path) -> String {
        let mut command = format!("kforge resume {}", shell_quote(directory));
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                command += &format!(" {flag}{value}");
            }
        };
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        add("--steps ", number(self.steps));
        add("--budget-seconds ", number(self.more_seconds));
        add("--budget-device-seconds ", number(self.more_device_seconds));
        let usd = self.nano_usd.map(round_up);
        add(
            "--budget-usd ",
            usd.map(|nano| format!("{}", nano as f64 / 1e9)),
        );
        add("--budget-tokens ", number(self.tokens.map(round_up)));
        add("--set search.patience=", number(self.patience));
        let target = self.target_speedup.map(|target| format!("{target:.2}"));
        add("--set search.target_speedup=", target);
        for setting in &self.lifted {
            add("--set ", Some((*setting).to_owned()));
        }
        if self.needs_model {
            command += " --model mailbox";
        }
        if self.needs_propose {
            command += " --set search.operators.propose=1";
        }
        if self.needs_model || self.needs_propose || self.needs_change {
            command += " --accept-changes";
        }
        command
    }
}

/// Rounds up to two digits that are not zero.
fn round_up(number: u64) -> u64 {
    let mut unit: u64 = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number.div_ceil(unit).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_has_a_flag_for_each_limit() {
        let directory = Path::new("outputs/a run");
        assert_eq!(
            Continuation::default().command(directory),
            "kforge resume 'outputs/a run'"
        );
        let one = Continuation {
            steps: Some(80),
            nano_usd: Some(10_000_000_001),
            target_speedup: Some(2.0),
            ..Continuation::default()
        };
        let other = Continuation {
            steps: Some(40),
            more_seconds: Some(100),
            more_device_seconds: Some(50),
            tokens: Some(812_345),
            target_speedup: Some(2.5),
            lifted: ["search.target_roofline=null"].into(),
            needs_model: true,
            ..Continuation::default()
        };
        assert_eq!(
            one.merged(other).command(Path::new("out")),
            "kforge resume out --steps 80 --budget-seconds 100 --budget-device-seconds 50 --budget-usd 11 --budget-tokens 820000 \
             --set search.target_speedup=2.50 --set search.target_roofline=null --model mailbox --accept-changes"
        );
    }

    #[test]
    fn amounts_are_rounded_up() {
        let rounded = [0, 7, 99, 100, 101, 1_999, 123_456_789].map(round_up);
        assert_eq!(rounded, [0, 7, 99, 100, 110, 2_000, 130_000_000]);
        assert!(round_up(u64::MAX) == u64::MAX);
    }
}
