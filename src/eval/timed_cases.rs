//! Times a candidate on all timed cases: a first look at all of them, then each in full, with a decision at every look.
//!
//! Writes times and speedups into the verdict. `measure` times one case, `racing` decides.

use anyhow::Context;

use super::anchor::anchor_ratios;
use super::case::{Case, derive_seed};
use super::case_checks::CaseChecks;
use super::context::JudgeContext;
use super::features;
use super::finding::{Finding, JudgeError, JudgeResult};
use super::judged_kernel::JudgedKernel;
use super::measure::{self, CaseTiming, EarlyLook, Measurement, TimingLength};
use super::opening::{Opponent, TimedPair};
use super::racing::{self, LookResult, Race, Reading};
use crate::search::Anchor;
use crate::verdict::{Dismissal, Evidence, Speedup, Status, TimedAgainst, Timing, Verdict};

/// The timings of all timed cases of a candidate.
pub(super) struct TimedCases<'c, 'j> {
    /// The timed cases by their indices among all cases.
    timings: Vec<(usize, CaseTiming<'c, 'j>)>,
    anchor: Option<TimedAgainst>,
}

impl<'c, 'j> TimedCases<'c, 'j> {
    pub(super) fn new(
        context: &'c JudgeContext<'j>,
        candidate: &JudgedKernel<'c>,
        length: TimingLength,
        anchor: Option<&Anchor>,
    ) -> Self {
        let cases = candidate.cases.iter().enumerate();
        let cases: Vec<_> = cases.filter(|(_, case)| !case.hidden).collect();
        let opponents = anchor.and_then(|anchor| opponents(context, anchor, &cases));
        let timings = cases.iter().enumerate().map(|(position, (index, case))| {
            let contest = TimedPair {
                candidate: candidate.compiled,
                opponent: (opponents.as_ref()).map_or(Opponent::Baseline, |all| all[position]),
                case,
            };
            let seed = derive_seed(candidate.seed, "measure", *index);
            (*index, CaseTiming::new(context, contest, seed, length))
        });
        Self {
            timings: timings.collect(),
            anchor: anchor.map(|anchor| TimedAgainst {
                step: anchor.step,
                kernel: anchor.kernel.clone(),
                speedup: anchor.speedup,
            }),
        }
    }

    /// The anchor, if a case was timed against it.
    pub(super) fn timed_against(&self) -> Option<TimedAgainst> {
        let mut timings = self.timings.iter();
        let is_used = timings.any(|(_, timing)| timing.is_timed_against_anchor());
        self.anchor.clone().filter(|_| is_used)
    }

    /// Number of timed cases.
    pub(super) fn count(&self) -> usize {
        self.timings.len()
    }

    fn readings(&self) -> Vec<Reading> {
        let timings = self.timings.iter();
        timings.map(|(_, timing)| timing.reading()).collect()
    }

    /// Takes a few samples of every case, then looks at all of them.
    pub(super) fn early_look(
        &mut self,
        look: EarlyLook,
        race: &mut Race,
        checks: &mut CaseChecks<'_, '_>,
    ) -> JudgeResult<LookResult> {
        for (index, timing) in &mut self.timings {
            let sampled = timing.sample_for_look(look);
            in_case(sampled, timing.case(), *index, checks)?;
        }
        Ok(race.look(&self.readings()))
    }

    /// Whether the candidate seems to reach the bar of its race.
    pub(super) fn seems_to_reach(&self, race: &Race) -> bool {
        racing::seems_to_reach(&self.readings(), race.bar())
    }

    /// Times every case in full. A candidate that races is dismissed at the first look that says so.
    pub(super) fn time_in_full(
        &mut self,
        mut race: Option<&mut Race>,
        checks: &mut CaseChecks<'_, '_>,
    ) -> JudgeResult<LookResult> {
        for position in 0..self.timings.len() {
            let mut readings = self.readings();
            let mut look_result = LookResult::Open;
            let (index, timing) = &mut self.timings[position];
            let sampled = timing.sample_in_full(&mut |reading| {
                let Some(race) = race.as_deref_mut() else {
                    return false;
                };
                readings[position] = reading;
                look_result = race.look(&readings);
                look_result != LookResult::Open
            });
            let is_complete = in_case(sampled, timing.case(), *index, checks)?;
            if !is_complete {
                return Ok(look_result);
            }
            // Decided at once: a candidate without a useful result here needs no other workload.
            let measured = timing.measurement();
            let measured = measured.and_then(|found| check_floor(&found, timing.case()));
            in_case(measured, timing.case(), *index, checks)?;
        }
        Ok(LookResult::Open)
    }

    /// The speedup of complete timings.
    ///
    /// # Errors
    /// A finding if an interval is useless.
    pub(super) fn speedup(&self) -> JudgeResult<Speedup> {
        let measurements = self.measurements()?;
        let estimates: Vec<_> = measurements.iter().map(|found| found.estimate).collect();
        let speedup = measure::combine(&estimates);
        Ok(speedup.context("no workload was measured")?)
    }

    fn measurements(&self) -> JudgeResult<Vec<Measurement>> {
        let timings = self.timings.iter();
        timings.map(|(_, timing)| timing.measurement()).collect()
    }

    pub(super) fn voided_blocks(&self) -> u64 {
        let timings = self.timings.iter();
        timings.map(|(_, timing)| timing.voided_blocks()).sum()
    }

    /// Writes the times of the cases that are complete, after a finding on another case.
    pub(super) fn write_complete(&self, checks: &mut CaseChecks<'_, '_>) -> anyhow::Result<()> {
        for (index, timing) in &self.timings {
            let entry = checks.entry_mut(*index)?;
            if entry.status == Status::Passed
                && timing.is_complete()
                && let Ok(measurement) = timing.measurement()
            {
                measurement.write_to(entry);
            }
        }
        Ok(())
    }

    /// Writes the result of complete timings.
    pub(super) fn write_full(
        &self,
        checks: &mut CaseChecks<'_, '_>,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        verdict.timing = Some(Timing::Full);
        verdict.speedup = Some(self.speedup()?);
        self.write_all(&self.measurements()?, checks, verdict)
    }

    /// Writes the result of a candidate that a look has dismissed.
    pub(super) fn write_dismissed(
        &self,
        race: &Race,
        dismissal: Dismissal,
        checks: &mut CaseChecks<'_, '_>,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        let readings = self.readings();
        let interval = |readings: &[Reading]| {
            let interval = race.interval(readings);
            interval.ok_or_else(|| anyhow::anyhow!("a dismissed kernel has no interval"))
        };
        let mut measurements = Vec::new();
        for ((_, timing), reading) in self.timings.iter().zip(&readings) {
            let interval = interval(std::slice::from_ref(reading))?;
            measurements.push(timing.early_measurement(interval)?);
        }
        verdict.timing = Some(Timing::Dismissed);
        verdict.dismissal = Some(dismissal);
        verdict.speedup = Some(measure::speedup(interval(&readings)?));
        self.write_all(&measurements, checks, verdict)
    }

    fn write_all(
        &self,
        measurements: &[Measurement],
        checks: &mut CaseChecks<'_, '_>,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        let mut variances = Vec::new();
        let mut shares = 0.0;
        for ((index, timing), measurement) in self.timings.iter().zip(measurements) {
            shares += timing.checked_share();
            checks.entry_mut(*index)?.runs_apart = timing.runs_apart();
            if timing.runs_apart() {
                verdict.notes.push(format!(
                    "workload `{}`: each sample is one launch, because a kernel is faster in a row of its own launches than separate launches explain",
                    timing.case().id
                ));
            }
            variances.push(measurement.candidate.std / measurement.candidate.median);
            measurement.write_to(checks.entry_mut(*index)?);
        }
        verdict.checked_share = Some(shares / self.timings.len().max(1) as f64);
        features::add_timing_features(verdict, &variances);
        verdict.status = Status::Passed;
        Ok(())
    }
}

/// The anchor as the opponent on each of these cases. `None` if it does not compile here, or was not timed on one of them.
fn opponents<'c>(
    context: &'c JudgeContext<'_>,
    anchor: &Anchor,
    cases: &[(usize, &Case)],
) -> Option<Vec<Opponent<'c>>> {
    let kernel = context.compiled_anchor()?;
    let cases: Vec<&Case> = cases.iter().map(|(_, case)| *case).collect();
    let Some(ratios) = anchor_ratios(anchor, &cases) else {
        let step = anchor.step;
        tracing::warn!(
            "step {step} was not timed on these workloads: candidates are timed against the baseline"
        );
        return None;
    };
    let opponents = ratios
        .into_iter()
        .map(|ratio| Opponent::Anchor(kernel, ratio));
    Some(opponents.collect())
}

/// Gives a finding the name of the case, and the case the finding's status.
fn in_case<T>(
    result: JudgeResult<T>,
    case: &Case,
    index: usize,
    checks: &mut CaseChecks<'_, '_>,
) -> JudgeResult<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => {
            let mut finding = error.into_finding()?;
            finding.case = Some(case.id.clone());
            checks.entry_mut(index)?.status = finding.status;
            Err(finding.into())
        }
    }
}

/// Checks that a time is not below the physical floor.
fn check_floor(measurement: &Measurement, case: &Case) -> JudgeResult<()> {
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
        _ => Ok(()),
    }
}
