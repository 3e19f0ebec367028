//! Runs the stages of a judgement after compilation, in one of two orders.
//!
//! Without incumbents: all checks, inspection, timing. With incumbents: the cheapest stages first, and only as many as are needed for a
//! candidate that cannot reach them. Both run the same checks with the same inputs; a finding ends a judgement in both. Writes into the
//! verdict what was not done.

use super::case_checks::CaseChecks;
use super::context::JudgeContext;
use super::finding::{Finding, JudgeError, JudgeResult};
use super::inspection;
use super::judged_kernel::JudgedKernel;
use super::measure::{EarlyLook, TimingLength};
use super::racing::{LookResult, Race};
use super::request::JudgeRequest;
use super::stage_times::Phase;
use super::timed_cases::TimedCases;
use crate::device::Build;
use crate::search::Incumbents;
use crate::verdict::{Dismissal, Status, Timing, Verdict};

/// In `not_done`: the inspection on the CPU.
const INSPECTED_BUILDS: &str = "bounds and race builds";
/// In `not_done`: the rest of the timing.
const FULL_TIMING: &str = "full timing";

/// Runs all stages that the candidate needs, and writes their results into the verdict.
///
/// # Errors
/// The first finding.
pub(super) fn run(
    context: &JudgeContext<'_>,
    candidate: &JudgedKernel<'_>,
    request: &JudgeRequest<'_>,
    verdict: &mut Verdict,
) -> JudgeResult<()> {
    let workloads = candidate.cases.iter().filter(|case| !case.hidden).count();
    let (length, anchor) = match request.incumbents {
        Some(_) => (TimingLength::Search { workloads }, request.anchor),
        None => (TimingLength::Profile, None),
    };
    let mut stages = Stages {
        context,
        candidate,
        checks: CaseChecks::new(context, candidate),
        timed: TimedCases::new(context, candidate, length, anchor),
        is_inspected: false,
    };
    let result = match request.incumbents {
        Some(incumbents) => stages.run_cheapest_first(incumbents, verdict),
        None => stages.run_all(verdict),
    };
    verdict.voided_blocks = stages.timed.voided_blocks();
    verdict.timed_against = stages.timed.timed_against();
    verdict.workloads = stages.checks.into_entries();
    result
}

/// The stages of one judgement.
struct Stages<'c, 'j> {
    context: &'c JudgeContext<'j>,
    candidate: &'c JudgedKernel<'c>,
    checks: CaseChecks<'c, 'j>,
    timed: TimedCases<'c, 'j>,
    is_inspected: bool,
}

impl Stages<'_, '_> {
    /// All stages. Inspection comes first, because it is cheaper than timing and its findings have a higher precedence.
    fn run_all(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        self.check(verdict, |checks, verdict| checks.check_rest(verdict))?;
        verdict.builds.push(Build::Fast.name().to_owned());
        if self.candidate.is_inspected {
            self.inspect(verdict)?;
        }
        self.time(verdict, |timed, checks| timed.time_in_full(None, checks))?;
        self.check(verdict, |checks, verdict| checks.check_again(verdict))?;
        self.timed.write_full(&mut self.checks, verdict)
    }

    /// The cheapest stages first, until the candidate has surely lost.
    fn run_cheapest_first(
        &mut self,
        incumbents: &Incumbents,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        self.check(verdict, |checks, verdict| checks.check_cheapest(verdict))?;
        self.check(verdict, |checks, verdict| checks.check_timed_once(verdict))?;
        let Some(bar) = incumbents.bar(&verdict.features) else {
            return self.run_all(verdict);
        };
        let is_steady = self.context.device.blocks_per_process().is_none();
        let looks: &[EarlyLook] = if is_steady {
            &[EarlyLook::First, EarlyLook::Second]
        } else {
            &[EarlyLook::First]
        };
        let mut race = Race::new(bar, self.timed.count(), looks.len() as u32);
        for look in looks {
            // What seems to reach the bar is timed in full in any case.
            if *look == EarlyLook::Second && self.timed.seems_to_reach(&race) {
                break;
            }
            let look_result = self.time(verdict, |timed, checks| {
                timed.early_look(*look, &mut race, checks)
            })?;
            if let LookResult::Dismissed(dismissal) = look_result {
                return self.dismiss(&race, dismissal, verdict);
            }
        }
        self.check(verdict, |checks, verdict| checks.check_rest(verdict))?;
        verdict.builds.push(Build::Fast.name().to_owned());
        // The inspected builds cost more than the rest of the timing, so they wait if the candidate seems to lose.
        if self.timed.seems_to_reach(&race) {
            self.inspect(verdict)?;
        }
        let look_result = self.time(verdict, |timed, checks| {
            timed.time_in_full(Some(&mut race), checks)
        })?;
        if let LookResult::Dismissed(dismissal) = look_result {
            return self.dismiss(&race, dismissal, verdict);
        }
        if !self.is_inspected && self.timed.speedup()?.ci95[1] >= bar {
            self.inspect(verdict)?;
        }
        self.check(verdict, |checks, verdict| checks.check_again(verdict))?;
        self.timed.write_full(&mut self.checks, verdict)?;
        verdict.not_done = self.builds_not_done();
        Ok(())
    }

    /// Runs a part of the checks. A finding is explained by inspection, if that can find its cause.
    fn check(
        &mut self,
        verdict: &mut Verdict,
        check: impl FnOnce(&mut CaseChecks<'_, '_>, &mut Verdict) -> JudgeResult<()>,
    ) -> JudgeResult<()> {
        let checked = {
            let _phase = self.context.times.phase(Phase::Check);
            check(&mut self.checks, verdict)
        };
        checked.or_else(|error| {
            let finding = error.into_finding()?;
            Err(explain(self.context, self.candidate, finding, verdict)?.into())
        })
    }

    /// Runs the inspected builds.
    fn inspect(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        self.is_inspected = true;
        let input = self.candidate.inspection(true);
        let inspection = inspection::inspect(self.context, input, verdict)?;
        if let Some(finding) = inspection.finding {
            return Err(finding.into());
        }
        if let Some(memory_use) = inspection.memory_use {
            memory_use.write_to(verdict);
        }
        Ok(())
    }

    /// Runs a part of the timing. After a finding here a candidate is inspected if it was not: a race has a higher precedence.
    fn time<T>(
        &mut self,
        verdict: &mut Verdict,
        time: impl FnOnce(&mut TimedCases<'_, '_>, &mut CaseChecks<'_, '_>) -> JudgeResult<T>,
    ) -> JudgeResult<T> {
        let result = {
            let _phase = self.context.times.phase(Phase::Timing);
            time(&mut self.timed, &mut self.checks)
        };
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let finding = error.into_finding()?;
        if self.candidate.is_inspected && !self.is_inspected {
            self.inspect(verdict)?;
        }
        if matches!(finding.status, Status::Inconclusive | Status::Suspicious) {
            verdict.timing = Some(Timing::Full);
        }
        self.timed.write_complete(&mut self.checks)?;
        Err(JudgeError::Finding(finding))
    }

    /// Ends the judgement of a candidate that cannot reach the bar.
    fn dismiss(
        &mut self,
        race: &Race,
        dismissal: Dismissal,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        self.timed
            .write_dismissed(race, dismissal, &mut self.checks, verdict)?;
        verdict.not_done = self.checks.not_done();
        verdict.not_done.extend(self.builds_not_done());
        verdict.not_done.push(FULL_TIMING.to_owned());
        Ok(())
    }

    fn builds_not_done(&self) -> Vec<String> {
        let builds = self.context.device.builds();
        let has_inspected_builds = builds.iter().any(|build| *build != Build::Fast);
        let is_missing = has_inspected_builds && !self.is_inspected;
        is_missing
            .then(|| INSPECTED_BUILDS.to_owned())
            .into_iter()
            .collect()
    }
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
