//! Features: numbers that describe a kernel's source, launches, memory accesses and times. The archive chooses its axes among them.
//!
//! Only computes and writes them into the verdict. `device` counts accesses, and `kernel::syntax` reads the source.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::case::Case;
use super::context::JudgeContext;
use crate::device::{AccessSite, Program};
use crate::kernel::{Kernel, syntax};
use crate::task::Task;
use crate::verdict::{AccessFigures, Verdict};

/// Maximum number of loads and stores that a verdict lists.
const MAX_ACCESSES: usize = 32;
/// Minimum ratio of necessary sectors to touched sectors at which an access counts as coalesced.
const COALESCED_RATIO: f64 = 0.8;

/// How a kernel used memory in one run of its plan.
#[derive(Clone, Debug)]
pub(super) struct MemoryUse {
    sites: Vec<AccessSite>,
    /// The task's compulsory bytes and its number of operations on this case.
    compulsory_bytes: Option<f64>,
    operations: Option<f64>,
}

impl MemoryUse {
    pub(super) fn new(sites: Vec<AccessSite>, task: &Task, case: &Case) -> Self {
        let value_of = |name: &str| case.binding.axes.get(name).copied();
        let amount = |expression: &crate::base::expression::Expression| {
            expression
                .evaluate(&value_of)
                .ok()
                .map(|value| value as f64)
        };
        Self {
            sites,
            compulsory_bytes: amount(&task.bytes),
            operations: amount(&task.flops),
        }
    }

    /// Writes the features and the list of accesses into the verdict.
    pub(super) fn write_to(&self, verdict: &mut Verdict) {
        let (shared, global): (Vec<_>, Vec<_>) = self.sites.iter().partition(|site| site.shared);
        let total = |sites: &[&AccessSite], of: fn(&AccessSite) -> f64| -> f64 {
            sites.iter().map(|site| of(site)).sum()
        };
        let per_request = |sites: &[&AccessSite]| {
            let requests = total(sites, |site| site.requests as f64);
            (requests > 0.0).then(|| total(sites, |site| site.sectors as f64) / requests)
        };
        // Only a sample of each site's requests was counted: scale it to the whole launch.
        let scale = |site: &AccessSite| site.lanes / (site.lanes_seen.max(1)) as f64;
        let ratio = |sites: &[&AccessSite]| {
            let least: f64 = (sites.iter())
                .map(|site| site.min_sectors as f64 * scale(site))
                .sum();
            let touched: f64 = (sites.iter())
                .map(|site| site.sectors as f64 * scale(site))
                .sum();
            (touched > 0.0 && least > 0.0).then_some(least / touched)
        };
        let (stores, loads): (Vec<_>, Vec<_>) = global.iter().partition(|site| site.writes);
        let bytes = total(&global, |site| site.lanes * f64::from(site.bytes));
        let requests = total(&global, |site| site.requests as f64);
        let strided = total(&global, |site| site.strided as f64);
        let numbers = [
            ("load_sectors", per_request(&loads)),
            ("store_sectors", per_request(&stores)),
            ("coalescing", ratio(&global)),
            (
                "strided_share",
                (requests > 0.0).then_some(strided / requests),
            ),
            (
                "bank_conflicts",
                Some(ratio(&shared).map_or(1.0, |ratio| 1.0 / ratio)),
            ),
            (
                "bytes_ratio",
                (self.compulsory_bytes.filter(|least| *least > 0.0)).map(|least| bytes / least),
            ),
            (
                "arithmetic_per_byte",
                (self.operations.filter(|_| bytes > 0.0)).map(|operations| operations / bytes),
            ),
        ];
        for (name, number) in numbers {
            // The counts come from the candidate's process, so they can be any number.
            if let Some(number) = number.filter(|number| number.is_finite()) {
                verdict.features.insert(name.to_owned(), number);
            }
        }
        verdict.accesses = self.access_figures();
    }

    /// One entry per line and kind of access: the copies of an unrolled loop are merged.
    fn access_figures(&self) -> Vec<AccessFigures> {
        let mut lines: BTreeMap<_, Vec<&AccessSite>> = BTreeMap::new();
        for site in &self.sites {
            let Some(line) = site.line else { continue };
            let key = (line, site.writes, site.atomic, site.shared, site.bytes);
            lines.entry(key).or_default().push(site);
        }
        let mut figures: Vec<_> = (lines.into_iter())
            .map(|((line, writes, atomic, shared, bytes), sites)| {
                let sum =
                    |of: fn(&AccessSite) -> f64| -> f64 { sites.iter().map(|site| of(site)).sum() };
                let requests = sum(|site| site.requests as f64).max(1.0);
                let sectors = sum(|site| site.sectors as f64);
                let least = sum(|site| site.min_sectors as f64);
                let pattern = if least >= COALESCED_RATIO * sectors {
                    "coalesced"
                } else if sum(|site| site.strided as f64) > 0.5 * requests {
                    "strided"
                } else {
                    "random"
                };
                AccessFigures {
                    line,
                    access: match (atomic, writes) {
                        (true, _) => "atomic",
                        (false, true) => "store",
                        (false, false) => "load",
                    }
                    .to_owned(),
                    space: if shared { "shared" } else { "global" }.to_owned(),
                    bytes,
                    sectors_per_request: (!shared).then_some(sectors / requests),
                    bank_conflicts: shared.then_some(sectors / least.max(1.0)),
                    pattern: (!shared).then(|| pattern.to_owned()),
                    total_bytes: sum(|site| site.lanes * f64::from(site.bytes)),
                }
            })
            .collect();
        figures.sort_by(|a, b| b.total_bytes.total_cmp(&a.total_bytes));
        figures.truncate(MAX_ACCESSES);
        figures
    }
}

/// Adds the features of the compiled code. Variants have programs of their own: each feature is the largest of all, so that it does not
/// depend on their order.
pub(super) fn add_code_features<'p>(
    programs: impl Iterator<Item = &'p Program>,
    verdict: &mut Verdict,
) {
    let features = programs.flat_map(|program| &program.features);
    let mut largest = IndexMap::<&String, f64>::new();
    for (name, value) in features {
        let known = largest.entry(name).or_insert(*value);
        *known = known.max(*value);
    }
    let largest = largest.into_iter();
    verdict
        .features
        .extend(largest.map(|(name, value)| (name.clone(), value)));
}

/// Adds the features that are known before a launch. Features of launches are the largest over the timed shapes, which may use different
/// variants.
pub(super) fn add_source_features(
    kernel: &Kernel,
    context: &JudgeContext<'_>,
    cases: &[Case],
    verdict: &mut Verdict,
) {
    let features = &mut verdict.features;
    let point = kernel.point();
    let axes = &context.task.definition.axes;
    let facts = syntax::source_facts(&kernel.text, &|name| {
        let axis = || {
            axes.iter()
                .find(|(axis, _)| axis.to_uppercase() == name)?
                .1
                .value
        };
        point.get(name).copied().or_else(axis)
    });
    let mut set = |name: &str, value: f64| features.insert(name.to_owned(), value);
    set("vector_bytes", f64::from(facts.vector_bytes));
    set("barriers", f64::from(facts.barriers));
    let timed = cases.iter().filter(|case| !case.hidden);
    let plans: Vec<_> = timed
        .filter_map(|case| context.bind(kernel, case).ok())
        .map(|bound| bound.plan)
        .collect();
    if plans.is_empty() {
        return;
    }
    let launches = || plans.iter().flat_map(|plan| &plan.launches);
    let threads = launches().map(|launch| launch.block.iter().product::<u32>());
    let threads = threads.max().unwrap_or(0);
    let dynamic = launches().map(|launch| u64::from(launch.shared));
    let dynamic = dynamic.max().unwrap_or(0);
    let count = plans.iter().map(|plan| plan.launches.len()).max();
    set("launches", count.unwrap_or(0) as f64);
    set("block_threads", f64::from(threads));
    set(
        "shared_bytes",
        (dynamic + facts.shared_bytes.unwrap_or(0)) as f64,
    );
}

/// Adds the features of the times: the speedup, and the mean over all workloads of `variances` (standard deviation / median).
pub(super) fn add_timing_features(verdict: &mut Verdict, variances: &[f64]) {
    if let Some(speedup) = verdict.speedup {
        verdict
            .features
            .insert("speedup".to_owned(), speedup.geomean);
    }
    if !variances.is_empty() {
        let mean = variances.iter().sum::<f64>() / variances.len() as f64;
        verdict.features.insert("runtime_variance".to_owned(), mean);
    }
}
