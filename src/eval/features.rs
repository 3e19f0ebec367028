//! What the archive's axes are made from: facts about the source, the launches, and the times.

use std::collections::BTreeMap;

use super::Judge;
use super::cases::Case;
use crate::device::AccessSite;
use crate::kernel::{Kernel, LaunchTarget, syntax};
use crate::task::Task;
use crate::verdict::{AccessFigures, Verdict};

/// The most loads and stores that a verdict lists.
const MAX_ACCESSES: usize = 32;
/// Of this share of least sectors to touched ones on, an access is called coalesced.
const COALESCED_RATIO: f64 = 0.8;

/// How a kernel used memory in one launch of its unit.
#[derive(Clone, Debug)]
pub(super) struct MemoryUse {
    sites: Vec<AccessSite>,
    /// The task's compulsory bytes and its operations on the same case.
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

    /// Numbers for the archive's axes, and the list for a reader.
    pub(super) fn write_to(&self, verdict: &mut Verdict) {
        let (shared, global): (Vec<_>, Vec<_>) = self.sites.iter().partition(|site| site.shared);
        let total = |sites: &[&AccessSite], of: fn(&AccessSite) -> f64| -> f64 {
            sites.iter().map(|site| of(site)).sum()
        };
        let per_request = |sites: &[&AccessSite]| {
            let requests = total(sites, |site| site.requests as f64);
            (requests > 0.0).then(|| total(sites, |site| site.sectors as f64) / requests)
        };
        // What was looked at of each site stands for all of it.
        let whole = |site: &AccessSite| site.lanes / (site.lanes_seen.max(1)) as f64;
        let ratio = |sites: &[&AccessSite]| {
            let least: f64 = (sites.iter())
                .map(|site| site.min_sectors as f64 * whole(site))
                .sum();
            let touched: f64 = (sites.iter())
                .map(|site| site.sectors as f64 * whole(site))
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
            // The counts are the candidate's process' own: any number may be in them.
            if let Some(number) = number.filter(|number| number.is_finite()) {
                verdict.features.insert(name.to_owned(), number);
            }
        }
        verdict.accesses = self.access_figures();
    }

    /// One entry for each line and kind of access: unrolled copies are one.
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

/// Facts that are known before a launch. Launches are those of the first case.
pub(super) fn add_source_features(
    kernel: &Kernel,
    judge: &Judge<'_>,
    cases: &[Case],
    verdict: &mut Verdict,
) {
    let features = &mut verdict.features;
    let point = kernel.point();
    let axes = &judge.task.definition.axes;
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
    let Some(case) = cases.first() else { return };
    let variant = kernel
        .variant_for(&case.binding, &judge.limits)
        .unwrap_or_default();
    let target = LaunchTarget {
        task: judge.task,
        binding: &case.binding,
        scalars: &case.scalars(judge.task),
        limits: &judge.limits,
        is_oracle: false,
    };
    let plan = kernel.launch_plan(&target, &kernel.tunable_values(variant));
    let Ok(plan) = plan else { return };
    let threads = plan
        .launches
        .iter()
        .map(|launch| launch.block.iter().product::<u32>())
        .max()
        .unwrap_or(0);
    let dynamic = plan
        .launches
        .iter()
        .map(|launch| u64::from(launch.shared))
        .max()
        .unwrap_or(0);
    set("launches", plan.launches.len() as f64);
    set("block_threads", f64::from(threads));
    set(
        "shared_bytes",
        (dynamic + facts.shared_bytes.unwrap_or(0)) as f64,
    );
}

/// Facts from the clock: the speedup, and the candidate's standard deviation over its median, mean of all workloads.
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
