//! Children against their parents: what each operator, transformation and strategy card made of a kernel, and on which workloads.
//!
//! The one place for such results: `credit` takes its gains from here, and the driver its summary. Only counts; decides nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::event::{Brief, Operator};
use crate::verdict::{Speedup, VerdictSummary};

/// Joins the details of two transformations in sequence.
const SEQUENCE: &str = ", then ";

/// The figures of a candidate that passed and was judged completely.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    speedup: Speedup,
    workloads: Box<[(Arc<str>, Speedup)]>,
}

/// Candidates against the fastest of their parents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ResultCounts {
    /// Candidates that were judged and had a parent, those that did not pass included.
    pub judged: u64,
    /// Those whose figures could be compared with a parent's: both passed and were judged completely.
    pub compared: u64,
    /// Surely faster and surely slower than the parent: their 95 % intervals do not overlap.
    pub faster: u64,
    pub slower: u64,
    /// The largest ratio of the speedups of child and parent, of those that are surely faster.
    pub best: Option<f64>,
    /// Sum of the logarithms of all ratios.
    log_ratios: f64,
    /// Device time of the judgements, in seconds.
    pub device_seconds: f64,
}

impl ResultCounts {
    /// The geometric mean of the ratios; `None` if nothing was compared.
    pub(crate) fn mean_ratio(&self) -> Option<f64> {
        (self.compared > 0).then(|| (self.log_ratios / self.compared as f64).exp())
    }

    fn add(&mut self, change: Option<Change>, device_seconds: f64) {
        self.judged += 1;
        self.device_seconds += device_seconds;
        let Some(change) = change else { return };
        self.compared += 1;
        self.faster += u64::from(change.is_faster);
        self.slower += u64::from(change.is_slower);
        self.log_ratios += change.ratio.ln();
        if change.is_faster {
            self.best = Some(
                self.best
                    .map_or(change.ratio, |best| best.max(change.ratio)),
            );
        }
    }
}

/// A child against a parent, on one workload or over all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    /// Speedup of the child / speedup of the parent.
    pub(super) ratio: f64,
    /// The logarithm of the ratio; 0 unless the child's whole interval is above the parent's estimate. Without this condition the noise of
    /// the figures would count as gains.
    pub(super) gain: f64,
    pub(super) is_faster: bool,
    pub(super) is_slower: bool,
}

impl Change {
    /// `None` if a figure is not usable.
    fn between(parent: Speedup, child: Speedup) -> Option<Self> {
        let ratio = child.geomean / parent.geomean;
        (ratio > 0.0 && ratio.is_finite()).then_some(Self {
            ratio,
            gain: if child.ci95[0] > parent.geomean {
                ratio.ln()
            } else {
                0.0
            },
            is_faster: child.ci95[0] > parent.ci95[1],
            is_slower: child.ci95[1] < parent.ci95[0],
        })
    }
}

/// All results of a search.
#[derive(Debug, Default)]
pub(crate) struct Results {
    figures: HashMap<u64, Figures>,
    /// Each workload name, shared by all figures.
    names: HashSet<Arc<str>>,
    by_operator: BTreeMap<Operator, ResultCounts>,
    by_transformation: BTreeMap<String, ResultCounts>,
    by_card: BTreeMap<String, ResultCounts>,
    by_workload: BTreeMap<Arc<str>, ResultCounts>,
}

impl Results {
    pub(crate) fn by_operator(&self) -> &BTreeMap<Operator, ResultCounts> {
        &self.by_operator
    }

    /// A child of two transformations counts for both.
    pub(crate) fn by_transformation(&self) -> &BTreeMap<String, ResultCounts> {
        &self.by_transformation
    }

    /// By strategy card, for steps that had one.
    pub(crate) fn by_card(&self) -> &BTreeMap<String, ResultCounts> {
        &self.by_card
    }

    /// Without device seconds: they belong to all workloads together.
    pub(crate) fn by_workload(&self) -> &BTreeMap<Arc<str>, ResultCounts> {
        &self.by_workload
    }

    /// The figures of a verdict with this speedup.
    pub(super) fn figures_of(&mut self, speedup: Speedup, verdict: &VerdictSummary) -> Figures {
        let workloads = verdict.workloads.iter();
        let workloads =
            workloads.map(|workload| (self.shared_name(&workload.id), workload.speedup));
        Figures {
            speedup,
            workloads: workloads.collect(),
        }
    }

    /// Replaces the figures of a step, or removes them.
    pub(super) fn set_figures(&mut self, step: u64, figures: Option<Figures>) {
        match figures {
            Some(figures) => self.figures.insert(step, figures),
            None => self.figures.remove(&step),
        };
    }

    /// Forgets the figures of all steps, so that no later child is compared with them. What was counted stays.
    pub(super) fn forget_figures(&mut self) {
        self.figures.clear();
    }

    /// Records a judged candidate. `figures`: `None` if it did not pass or was dismissed. Returns how it compares with the fastest of its
    /// parents, if both have figures.
    pub(super) fn record(
        &mut self,
        brief: &Brief,
        detail: &str,
        figures: Option<Figures>,
        device_seconds: f64,
    ) -> Option<Change> {
        self.set_figures(brief.step, figures);
        if brief.parents.is_empty() {
            return None;
        }
        let parents = brief.parents.iter();
        let parents = parents.filter_map(|parent| self.figures.get(parent));
        let parent = parents.max_by(|one, other| {
            let [one, other] = [one, other].map(|figures| figures.speedup.geomean);
            one.total_cmp(&other)
        });
        let pair = parent.zip(self.figures.get(&brief.step));
        let change =
            pair.and_then(|(parent, child)| Change::between(parent.speedup, child.speedup));
        if let Some((parent, child)) = pair {
            for (name, change) in changes_by_workload(parent, child) {
                let counts = self.by_workload.entry(name).or_default();
                counts.add(Some(change), 0.0);
            }
        }
        let operator = self.by_operator.entry(brief.operator).or_default();
        operator.add(change, device_seconds);
        if brief.operator == Operator::Mutate {
            for name in transformations_of(detail) {
                let counts = self.by_transformation.entry(name.to_owned()).or_default();
                counts.add(change, device_seconds);
            }
        }
        if let Some(card) = brief.model.as_ref().and_then(|model| model.card.as_ref()) {
            let counts = self.by_card.entry(card.clone()).or_default();
            counts.add(change, device_seconds);
        }
        change
    }

    fn shared_name(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.names.get(name) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = name.into();
        self.names.insert(Arc::clone(&shared));
        shared
    }
}

/// The transformations that a child of `mutate` was made by, from its detail: `unroll x4 (line 3), then fuse …`.
pub(super) fn transformations_of(detail: &str) -> impl Iterator<Item = &str> {
    let parts = detail.split(SEQUENCE);
    parts.filter_map(|part| part.split_whitespace().next())
}

/// The workloads that both were timed on.
fn changes_by_workload(parent: &Figures, child: &Figures) -> Vec<(Arc<str>, Change)> {
    let changes = child.workloads.iter().filter_map(|(name, speedup)| {
        let mut others = parent.workloads.iter();
        let (_, other) = others.find(|(other, _)| other == name)?;
        Some((Arc::clone(name), Change::between(*other, *speedup)?))
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(step: u64, operator: Operator, parents: &[u64]) -> Brief {
        Brief {
            step,
            operator,
            parents: parents.to_vec(),
            seed: 0,
            island: None,
            start: None,
            point: None,
            attempt: 0,
            retired: BTreeMap::new(),
            weights: Vec::new(),
            model: None,
        }
    }

    /// Figures with intervals of ±1 %.
    fn figures(speedups: [f64; 2]) -> Figures {
        let speedup = |geomean: f64| Speedup {
            geomean,
            ci95: [geomean * 0.99, geomean * 1.01],
        };
        let ids = ["small", "large"].into_iter().zip(speedups);
        Figures {
            speedup: speedup((speedups[0] * speedups[1]).sqrt()),
            workloads: ids
                .map(|(id, figure)| (id.into(), speedup(figure)))
                .collect(),
        }
    }

    #[test]
    fn gain_on_one_workload_and_loss_on_another_are_both_counted() {
        let mut results = Results::default();
        results.record(
            &brief(1, Operator::Start, &[]),
            "",
            Some(figures([1.0, 1.0])),
            1.0,
        );
        let child = brief(2, Operator::Mutate, &[1]);
        let detail = "unroll x4 (line 3), then fuse lines 4 and 6 (line 4)";
        let change = results.record(&child, detail, Some(figures([2.0, 0.5])), 3.0);
        assert_eq!(change.map(|change| change.ratio), Some(1.0));
        let workload = |name: &str| results.by_workload()[name];
        assert_eq!((workload("small").faster, workload("small").slower), (1, 0));
        assert_eq!((workload("large").faster, workload("large").slower), (0, 1));
        assert_eq!(workload("small").best, Some(2.0));
        let names: Vec<_> = results.by_transformation().keys().collect();
        assert_eq!(names, ["fuse", "unroll"]);
        let operator = results.by_operator()[&Operator::Mutate];
        assert_eq!(
            (operator.compared, operator.faster, operator.slower),
            (1, 0, 0)
        );
        assert_eq!(operator.device_seconds, 3.0);
    }

    #[test]
    fn the_fastest_parent_is_the_one_to_beat() {
        let mut results = Results::default();
        for (step, speedup) in [(1, 1.0), (2, 2.0)] {
            let start = brief(step, Operator::Start, &[]);
            results.record(&start, "", Some(figures([speedup; 2])), 0.0);
        }
        let child = brief(3, Operator::Recombine, &[1, 2]);
        let change = results
            .record(&child, "", Some(figures([1.5; 2])), 0.0)
            .unwrap();
        assert!(change.is_slower && !change.is_faster, "{change:?}");
        assert_eq!(change.ratio, 0.75);
        // A child without figures counts as judged.
        let failed = brief(4, Operator::Recombine, &[1, 2]);
        assert_eq!(results.record(&failed, "", None, 0.0), None);
        let counts = results.by_operator()[&Operator::Recombine];
        assert_eq!((counts.judged, counts.compared), (2, 1));
        assert_eq!(counts.mean_ratio(), Some(0.75));
    }
}
