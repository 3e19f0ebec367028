//! The stages that run on all cases of a candidate: checking, explaining a failed check, and timing.
//!
//! Each writes its results into the verdict and returns the first finding. `judge` calls them in order.

use super::case::{Case, derive_seed};
use super::check::{self, RowOfCases};
use super::compiled_kernel::CompiledKernel;
use super::context::JudgeContext;
use super::features;
use super::finding::{Finding, JudgeError, JudgeResult};
use super::inspection::{self, InspectionInput};
use super::kernel_set::TimedPair;
use super::measure::{self, Measurement};
use super::stage_times::Phase;
use crate::verdict::{Evidence, Status, Verdict};

/// A candidate in the middle of its judgement.
pub(super) struct JudgedKernel<'c> {
    pub(super) compiled: &'c CompiledKernel,
    pub(super) cases: &'c [Case],
    /// Seed of the judgement.
    pub(super) seed: u64,
}

impl JudgedKernel<'_> {
    pub(super) fn inspection(&self, is_correct: bool) -> InspectionInput<'_> {
        InspectionInput {
            kernel: &self.compiled.kernel,
            cases: self.cases,
            seed: self.seed,
            is_correct,
        }
    }
}

/// Checks the candidate on all cases, and adds an entry for each to the verdict.
pub(super) fn check_all(
    context: &JudgeContext<'_>,
    candidate: &JudgedKernel<'_>,
    verdict: &mut Verdict,
) -> JudgeResult<()> {
    let _phase = context.times.phase(Phase::Check);
    let _lock = context.timing_lock.shared()?;
    let mut hidden = RowOfCases::new(context, candidate.compiled);
    for (index, case) in candidate.cases.iter().enumerate() {
        let kernel = &candidate.compiled.kernel;
        let variant = kernel.variant_for(&case.binding, &context.limits);
        let mut entry = check::blank_entry(case, variant.unwrap_or_default());
        let seed = |round: u32| derive_seed(candidate.seed, "check", index * 1000 + round as usize);
        // One round for a hidden case: there are many, and each is different.
        let checked = if case.hidden {
            hidden.check(case, seed(0))
        } else {
            let seeds: Vec<_> = (0..context.options.profile.rounds).map(seed).collect();
            check::check_case(context, candidate.compiled, case, &seeds)
        };
        let accuracy = match checked {
            Ok(accuracy) => accuracy,
            Err(error) => {
                let mut finding = error.into_finding()?;
                finding.case = Some(case.id.clone());
                entry.status = finding.status;
                verdict.workloads.push(entry);
                return Err(finding.into());
            }
        };
        if let Some(resources) = &accuracy.resources {
            verdict.resources = resources.clone();
        }
        accuracy.write_to(&mut entry);
        entry.status = Status::Passed;
        verdict.workloads.push(entry);
    }
    Ok(())
}

/// Inspects a kernel that failed a check. Returns the finding of the inspection if it has at least the same precedence: it names
/// the cause. Otherwise returns the original finding.
pub(super) fn explain(
    context: &JudgeContext<'_>,
    candidate: &JudgedKernel<'_>,
    finding: Finding,
    verdict: &mut Verdict,
) -> anyhow::Result<Finding> {
    let mut cases = candidate.cases.iter();
    let failed = cases.find(|case| finding.case.as_deref() == Some(&case.id));
    let Some(failed) = failed.filter(|_| inspection::can_explain(finding.status)) else {
        return Ok(finding);
    };
    let mut input = candidate.inspection(false);
    input.cases = std::slice::from_ref(failed);
    let inspection = inspection::inspect(context, input, verdict)?;
    Ok(match inspection.finding {
        Some(cause) if cause.status <= finding.status => cause,
        _ => finding,
    })
}

/// Times the candidate on all visible cases and writes the results into the verdict.
pub(super) fn measure_all(
    context: &JudgeContext<'_>,
    candidate: &JudgedKernel<'_>,
    verdict: &mut Verdict,
) -> JudgeResult<()> {
    let mut estimates = Vec::new();
    let mut variances = Vec::new();
    let mut shares = Vec::new();
    let cases = candidate.cases.iter().enumerate();
    for (index, case) in cases.filter(|(_, case)| !case.hidden) {
        let contest = TimedPair {
            candidate: candidate.compiled,
            opponent: None,
            case,
        };
        let seed = derive_seed(candidate.seed, "measure", index);
        let measured = measure::measure(context, contest, seed)
            .and_then(|measurement| check_floor(measurement, case));
        let measurement = match measured {
            Ok(measurement) => measurement,
            Err(error) => {
                let mut finding = error.into_finding()?;
                finding.case = Some(case.id.clone());
                verdict.workloads[index].status = finding.status;
                return Err(finding.into());
            }
        };
        shares.push(measurement.checked_share);
        if measurement.runs_apart {
            verdict.notes.push(format!(
                "workload `{}`: each sample is one launch, because a kernel is faster in a row of its own launches than separate launches explain",
                case.id
            ));
        }
        verdict.voided_blocks += measurement.voided_blocks;
        variances.push(measurement.candidate.std / measurement.candidate.median);
        measurement.write_to(&mut verdict.workloads[index]);
        estimates.push(measurement.estimate);
    }
    verdict.checked_share = Some(shares.iter().sum::<f64>() / shares.len().max(1) as f64);
    verdict.speedup = measure::combine(&estimates);
    if verdict.speedup.is_none() {
        return Err(anyhow::anyhow!("no workload was measured").into());
    }
    features::add_timing_features(verdict, &variances);
    verdict.status = Status::Passed;
    Ok(())
}

/// Checks that a time is not below the physical floor.
fn check_floor(measurement: Measurement, case: &Case) -> JudgeResult<Measurement> {
    let time = measurement.candidate.median;
    match measurement.floor {
        Some(floor) if time < floor.physical_us => {
            let reason = format!(
                "workload `{}`: {time:.2} us is below the floor: the device cannot move the data and do the arithmetic in this time",
                case.id
            );
            let finding = Finding::new(Status::Suspicious, reason, Evidence::default());
            Err(JudgeError::Finding(finding))
        }
        _ => Ok(measurement),
    }
}
