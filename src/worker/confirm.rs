//! Several verdicts on one kernel, each from a fresh process, as one: the number that is reported.

use crate::base::statistics::{Estimate, mean_of_estimates};
use crate::verdict::{Speedup, Verdict};

/// One verdict from those of all processes. The first that did not pass stands for all.
///
/// The process is the top level of chance: the interval is that of the mean over processes, however narrow each one's own is.
pub(super) fn confirmed(verdicts: Vec<Verdict>) -> Verdict {
    if let Some(index) = verdicts.iter().position(|verdict| !verdict.passed()) {
        let mut verdicts = verdicts;
        return verdicts.swap_remove(index);
    }
    let mut whole = verdicts[0].clone();
    whole.confirmed = true;
    whole.seeds = verdicts
        .iter()
        .flat_map(|verdict| verdict.seeds.clone())
        .collect();
    whole.voided_blocks = verdicts.iter().map(|verdict| verdict.voided_blocks).sum();
    let shares: Vec<f64> = verdicts
        .iter()
        .filter_map(|verdict| verdict.checked_share)
        .collect();
    whole.checked_share =
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
    if verdicts.len() == 1 {
        return whole;
    }
    let all = |of: &dyn Fn(&Verdict) -> Option<Speedup>| -> Option<Speedup> {
        let estimates: Vec<Estimate> = (verdicts.iter())
            .filter_map(of)
            .map(|speedup| Estimate {
                estimate: speedup.geomean.ln(),
                low: speedup.ci95[0].ln(),
                high: speedup.ci95[1].ln(),
            })
            .collect();
        let mean = mean_of_estimates(&estimates)?;
        Some(Speedup {
            geomean: mean.estimate.exp(),
            ci95: [mean.low.exp(), mean.high.exp()],
        })
    };
    whole.speedup = all(&|verdict| verdict.speedup);
    for (index, workload) in whole.workloads.iter_mut().enumerate() {
        let speedup = all(&|verdict| {
            let workload = verdict.workloads.get(index)?;
            Some(Speedup {
                geomean: workload.speedup?,
                ci95: workload.ci95?,
            })
        });
        workload.speedup = speedup.map(|speedup| speedup.geomean);
        workload.ci95 = speedup.map(|speedup| speedup.ci95);
    }
    whole
}
