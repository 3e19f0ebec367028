//! The strongest baseline beside a kernel. Plain data; `baselines` finds it in a table.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::speedup::Speedup;

/// The strongest baseline of a table, beside a kernel that was not timed against it.
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
    /// The kernel's speedup over it: the quotient of the speedups of both over the task's baseline. The interval has the uncertainty of both.
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
