//! The event of the best kernel that was timed against the strongest baselines, and what is known of them beside a kernel. Plain data.

use serde::{Deserialize, Serialize};

use super::seconds::EvaluationSeconds;
use crate::verdict::{BaselineEntry, StrongestBaseline};

/// The best kernel beside other baselines than the task's: libraries in Python, and kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrongestCompared {
    /// Step of the best kernel. Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// The baselines that were tried. `speedup`, their own over the task's baseline, is `null`.
    pub entries: Vec<BaselineEntry>,
    /// Why nothing could be tried, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of fresh processes that timed what is reported of them.
    pub processes: u64,
    /// When they were measured: RFC 3339.
    pub measured: String,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<EvaluationSeconds>,
}

impl StrongestCompared {
    /// The baseline over which the kernel's speedup is the smallest. `None` if none was measured.
    pub fn strongest(&self) -> Option<StrongestBaseline> {
        self.strongest_of(|_| true)
    }

    /// The strongest, and the strongest in Python if that is another: libraries are what readers know.
    fn reported(&self) -> Vec<StrongestBaseline> {
        let strongest = self.strongest();
        let library = self.strongest_of(|entry| entry.kind == "python");
        let is_other = |library: &StrongestBaseline| {
            strongest
                .as_ref()
                .is_some_and(|strongest| strongest.name != library.name)
        };
        let library = library.filter(is_other);
        strongest.into_iter().chain(library).collect()
    }

    fn strongest_of(&self, fits: impl Fn(&BaselineEntry) -> bool) -> Option<StrongestBaseline> {
        let entries = self.entries.iter().filter(|entry| fits(entry));
        let measured = entries.filter_map(|entry| entry.in_pairs(&self.measured));
        measured.min_by(|one, other| {
            let [one, other] = [one, other].map(|found| found.speedup.geomean);
            one.total_cmp(&other)
        })
    }
}

/// The strongest baselines beside a kernel, the strongest first: those that it was timed against in pairs, and the one of a table if that is
/// stronger and was not timed here. Empty if none is known.
pub(crate) fn strongest_known(
    derived: Option<&StrongestBaseline>,
    compared: Option<&StrongestCompared>,
) -> Vec<StrongestBaseline> {
    let paired = compared.map_or_else(Vec::new, StrongestCompared::reported);
    let was_timed = |name: &str| {
        let mut entries = compared.iter().flat_map(|compared| &compared.entries);
        entries.any(|entry| entry.name == name && entry.kernel_speedup.is_some())
    };
    let derived = derived.filter(|derived| {
        let is_stronger = paired
            .first()
            .is_none_or(|paired| derived.speedup.geomean < paired.speedup.geomean);
        is_stronger && !was_timed(&derived.name)
    });
    derived.cloned().into_iter().chain(paired).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Speedup, SpeedupOrigin};

    fn entry(name: &str, speedup: Option<f64>) -> BaselineEntry {
        BaselineEntry {
            name: name.to_owned(),
            kind: "python".to_owned(),
            versions: Default::default(),
            launch: None,
            reason: speedup.is_none().then(|| "not installed".to_owned()),
            kernel_speedup: speedup.map(|geomean| Speedup {
                geomean,
                ci95: [geomean * 0.9, geomean * 1.1],
            }),
            speedup: None,
            workloads: Vec::new(),
        }
    }

    fn compared(entries: &[(&str, Option<f64>)]) -> StrongestCompared {
        let entries = entries.iter();
        StrongestCompared {
            step: 7,
            entries: entries
                .map(|(name, speedup)| entry(name, *speedup))
                .collect(),
            reason: None,
            processes: 1,
            measured: "2026".to_owned(),
            seconds: None,
        }
    }

    #[test]
    fn a_library_is_reported_beside_a_stronger_kernel() {
        let mut both = compared(&[
            ("torch", Some(1.5)),
            ("fast.cu", Some(1.2)),
            ("slow", Some(2.0)),
        ]);
        both.entries[1].kind = "kernel".to_owned();
        let names = |compared: &StrongestCompared| {
            let known = strongest_known(None, Some(compared)).into_iter();
            known.map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&both), ["fast.cu", "torch"]);
        both.entries[0].kernel_speedup = entry("torch", Some(1.1)).kernel_speedup;
        assert_eq!(names(&both), ["torch"]);
    }

    #[test]
    fn a_pair_replaces_what_a_table_says_of_the_same_baseline() {
        let derived = |name: &str, geomean: f64| StrongestBaseline {
            origin: SpeedupOrigin::Derived,
            ..entry(name, Some(geomean)).in_pairs("2025").unwrap()
        };
        let names = |derived: Option<&StrongestBaseline>, compared: Option<&StrongestCompared>| {
            let known = strongest_known(derived, compared).into_iter();
            known.map(|one| (one.name, one.origin)).collect::<Vec<_>>()
        };
        let of = |name: &str, origin| (name.to_owned(), origin);
        use SpeedupOrigin::{Derived, Pairs};
        let torch = compared(&[("torch", Some(1.5)), ("slow", Some(3.0)), ("fla", None)]);
        assert_eq!(names(None, None), []);
        assert_eq!(
            names(Some(&derived("fla", 0.8)), None),
            [of("fla", Derived)]
        );
        assert_eq!(names(None, Some(&torch)), [of("torch", Pairs)]);
        // The same baseline, however strong the table says that it is.
        let table = derived("torch", 0.8);
        assert_eq!(names(Some(&table), Some(&torch)), [of("torch", Pairs)]);
        // Another one that could not be timed here, and is stronger.
        let table = derived("fla", 0.8);
        let both = [of("fla", Derived), of("torch", Pairs)];
        assert_eq!(names(Some(&table), Some(&torch)), both);
        let table = derived("fla", 1.8);
        assert_eq!(names(Some(&table), Some(&torch)), [of("torch", Pairs)]);
        let failed = compared(&[("fla", None)]);
        assert_eq!(names(Some(&table), Some(&failed)), [of("fla", Derived)]);
    }
}
