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
}

impl StrongestBaseline {
    /// `torch 2.11.0`.
    pub(crate) fn label(&self) -> String {
        label(&self.name, &self.versions)
    }
}

/// The name with the version of the package that it is named after.
pub(super) fn label(name: &str, versions: &IndexMap<String, String>) -> String {
    let mut packages = versions.keys().filter(|package| *package != "source");
    match packages.find(|package| name.starts_with(package.as_str())) {
        Some(package) => format!("{name} {}", versions[package]),
        None => name.to_owned(),
    }
}
