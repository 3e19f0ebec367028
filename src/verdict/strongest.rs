//! The strongest baseline beside a kernel. Plain data; `baselines` finds it in a table or among baselines that were timed in pairs.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::speedup::Speedup;

/// How a speedup over a baseline was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeedupOrigin {
    /// The quotient of two speedups over the task's baseline: the kernel's, and the one that a table has. They were measured at different
    /// times.
    #[default]
    Derived,
    /// The kernel and the baseline were timed in pairs.
    Pairs,
}

impl SpeedupOrigin {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Derived => "derived from a table",
            Self::Pairs => "in pairs",
        }
    }
}

/// The strongest known baseline beside a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrongestBaseline {
    pub name: String,
    /// `kernel` or `python`.
    pub kind: String,
    #[serde(default)]
    pub versions: IndexMap<String, String>,
    /// How Python launches it: `graph`, `launches` or `call`.
    pub launch: Option<String>,
    /// When it was measured: RFC 3339.
    pub measured: String,
    /// How the speedup was found.
    #[serde(default)]
    pub origin: SpeedupOrigin,
    /// The kernel's speedup over it. If it is derived, the interval has the uncertainty of both speedups.
    pub speedup: Speedup,
    /// Set for a baseline whose outputs are outside the task's tolerance. It is shown if it is faster, and never counts as the strongest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<FasterOutside>,
}

/// A baseline in Python whose outputs are outside the task's tolerance, and that is faster than a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FasterOutside {
    pub deviation: Deviation,
    /// The number of timed workloads on which it is faster, by the whole interval.
    pub faster_on: u64,
    /// The number of timed workloads.
    pub workloads: u64,
}

impl FasterOutside {
    /// `is faster, with outputs outside the tolerance (1.3 % of the elements, the worst 2.1 times)`
    pub(crate) fn in_words(&self) -> String {
        let part = match self {
            Self {
                faster_on,
                workloads,
                ..
            } if faster_on < workloads => format!(" on {faster_on} of {workloads} workloads"),
            _ => String::new(),
        };
        let deviation = self.deviation.in_words();
        format!("is faster{part}, with outputs outside the tolerance ({deviation})")
    }
}

/// How far the outputs of a baseline are from those of the oracle, outside the task's tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deviation {
    /// The share of the elements that are outside, 0 to 1; of several outputs and workloads the largest.
    pub share: f64,
    /// The largest error, as a multiple of what the tolerance allows for that element.
    pub worst: f64,
}

impl Deviation {
    /// The larger of each of both.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self {
            share: self.share.max(other.share),
            worst: self.worst.max(other.worst),
        }
    }

    /// `1.3 % of the elements, the worst 2.1 times`
    pub(crate) fn in_words(&self) -> String {
        let percent = self.share * 100.0;
        let share = match percent {
            percent if percent >= 0.1 => format!("{percent:.1}"),
            percent if percent >= 0.001 => format!("{percent:.4}"),
            _ => "less than 0.001".to_owned(),
        };
        let worst = match self.worst {
            worst if worst < 10.0 => format!("{worst:.1}"),
            worst if worst < 1e6 => format!("{worst:.0}"),
            worst => format!("{worst:.0e}"),
        };
        format!("{share} % of the elements, the worst {worst} times")
    }
}

impl StrongestBaseline {
    /// `torch 2.11.0`.
    pub(crate) fn label(&self) -> String {
        label(&self.name, &self.versions)
    }
}

/// The strongest of these baselines whose outputs are within the task's tolerance.
pub(crate) fn within_tolerance(known: &[StrongestBaseline]) -> Option<&StrongestBaseline> {
    known.iter().find(|one| one.outside.is_none())
}

/// The name with the version of the package that it is named after.
pub(super) fn label(name: &str, versions: &IndexMap<String, String>) -> String {
    let mut packages = versions.keys().filter(|package| *package != "source");
    match packages.find(|package| name.starts_with(package.as_str())) {
        Some(package) => format!("{name} {}", versions[package]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_readable_whatever_their_size() {
        let words = |share, worst| Deviation { share, worst }.in_words();
        for (share, worst, expected) in [
            (0.013, 2.13, "1.3 % of the elements, the worst 2.1 times"),
            (1.0, 812.0, "100.0 % of the elements, the worst 812 times"),
            (
                0.000_031,
                1.01,
                "0.0031 % of the elements, the worst 1.0 times",
            ),
            (
                1e-9,
                3e9,
                "less than 0.001 % of the elements, the worst 3e9 times",
            ),
        ] {
            assert_eq!(words(share, worst), expected);
        }
    }
}
