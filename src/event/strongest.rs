//! The event of the best kernel that was timed against the strongest baselines, and what is known of them beside a kernel. Plain data.

use serde::{Deserialize, Serialize};

use super::seconds::EvaluationSeconds;
use crate::verdict::{BaselineEntry, StrongestBaseline, Verdict, fastest};

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
    /// The baseline over which the kernel's speedup is the smallest, among those whose outputs are within the task's tolerance. `None` if none
    /// was measured.
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
        let entries = self.entries.iter();
        let entries = entries.filter(|entry| entry.counts() && fits(entry));
        fastest(entries.filter_map(|entry| entry.in_pairs(&self.measured)))
    }

    /// The fastest of those that are faster than the kernel, if only on some workloads, but whose outputs are outside the tolerance.
    fn faster_outside(&self) -> Option<StrongestBaseline> {
        let entries = self.entries.iter();
        fastest(entries.filter_map(|entry| entry.outside_in_pairs(&self.measured)))
    }
}

/// What tables say of baselines beside a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DerivedBaselines<'a> {
    pub(crate) strongest: Option<&'a StrongestBaseline>,
    pub(crate) faster_outside: Option<&'a StrongestBaseline>,
}

impl<'a> DerivedBaselines<'a> {
    pub(crate) fn of(verdict: &'a Verdict) -> Self {
        Self {
            strongest: verdict.strongest.as_ref(),
            faster_outside: verdict.faster_outside.as_ref(),
        }
    }
}

/// The strongest baselines beside a kernel, the strongest first: those that it was timed against in pairs, and the one of a table if that is
/// stronger and was not timed here. Behind them the fastest that is faster but outside the task's tolerance, if there is one. Empty if none
/// is known.
pub(crate) fn strongest_known(
    derived: DerivedBaselines<'_>,
    compared: Option<&StrongestCompared>,
) -> Vec<StrongestBaseline> {
    let paired = compared.map_or_else(Vec::new, StrongestCompared::reported);
    let was_timed = |name: &str| {
        let mut entries = compared.iter().flat_map(|compared| &compared.entries);
        entries.any(|entry| entry.name == name && entry.kernel_speedup.is_some())
    };
    let stronger = derived.strongest.filter(|derived| {
        let is_stronger = paired
            .first()
            .is_none_or(|paired| derived.speedup.geomean < paired.speedup.geomean);
        is_stronger && !was_timed(&derived.name)
    });
    let outside = derived.faster_outside.filter(|one| !was_timed(&one.name));
    let outside_in_pairs = compared.and_then(StrongestCompared::faster_outside);
    let outside = fastest(outside.cloned().into_iter().chain(outside_in_pairs));
    let within = stronger.cloned().into_iter().chain(paired);
    within.chain(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Deviation, Speedup, SpeedupOrigin, within_tolerance};

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
            deviation: None,
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
            let known = strongest_known(DerivedBaselines::default(), Some(compared)).into_iter();
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
            let derived = DerivedBaselines {
                strongest: derived,
                faster_outside: None,
            };
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

    #[test]
    fn a_faster_baseline_outside_the_tolerance_comes_last() {
        let mut both = compared(&[("torch", Some(1.5)), ("half", Some(0.5))]);
        both.entries[1].deviation = Some(Deviation {
            share: 0.5,
            worst: 3.0,
        });
        let known = |compared: &StrongestCompared, derived: Option<&StrongestBaseline>| {
            let derived = DerivedBaselines {
                strongest: None,
                faster_outside: derived,
            };
            let known = strongest_known(derived, Some(compared));
            let within = within_tolerance(&known).map(|one| one.name.clone());
            let names: Vec<_> = known.into_iter().map(|one| one.name).collect();
            (names, within)
        };
        let torch = Some("torch".to_owned());
        let expected = (vec!["torch".to_owned(), "half".to_owned()], torch.clone());
        assert_eq!(known(&both, None), expected);
        // What was timed here replaces what a table says of it.
        let table = entry("half", Some(0.1)).in_pairs("2025").unwrap();
        assert_eq!(known(&both, Some(&table)), expected);
        both.entries[1].kernel_speedup = entry("half", Some(1.2)).kernel_speedup;
        assert_eq!(
            known(&both, Some(&table)),
            (vec!["torch".to_owned()], torch)
        );
        both.entries.remove(0);
        both.entries[0].kernel_speedup = entry("half", Some(0.5)).kernel_speedup;
        assert_eq!(known(&both, None), (vec!["half".to_owned()], None));
    }
}
