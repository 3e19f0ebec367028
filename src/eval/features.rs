//! What the archive's axes are made from: facts about the source, the launches, and the times.

use super::Judge;
use super::shapes::Case;
use crate::kernel::{Kernel, syntax};
use crate::verdict::Verdict;

/// Facts that are known before a launch. Launches are those of the first case.
pub(super) fn of_source(kernel: &Kernel, judge: &Judge<'_>, cases: &[Case], verdict: &mut Verdict) {
    let features = &mut verdict.features;
    let point = kernel.point();
    let axes = &judge.task.definition.axes;
    let facts = syntax::facts(&kernel.text, &|name| {
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
        .variant(&case.binding, &judge.machine)
        .unwrap_or_default();
    let plan = kernel.plan(
        judge.task,
        &case.binding,
        &kernel.values(variant),
        &case.scalars(judge.task),
        &judge.machine,
        false,
    );
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
pub(super) fn of_times(verdict: &mut Verdict, variances: &[f64]) {
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
