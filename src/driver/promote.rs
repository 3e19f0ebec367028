//! Whether a challenger may replace the best known kernel of a task: both are judged again and timed against each other.
//!
//! Decides only. Reads and writes no file; `cli::promote` does.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::base::statistics::{Estimate, mean_of_estimates};
use crate::verdict::{Duel, Status, Verdict};
use crate::worker::{Evaluator, Job, JobKind, JobOutcome};

/// The result of a contest between a challenger and the best known kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contest {
    /// Whether the challenger replaces the best known kernel.
    pub won: bool,
    /// The reason, as a sentence fragment.
    pub why: String,
    /// The confirmation of the challenger.
    pub challenger: Verdict,
    /// The verdict of the best known kernel, if it was judged.
    pub incumbent: Option<Verdict>,
    /// Incumbent's time / challenger's time, over all duels.
    pub duel: Option<Duel>,
}

/// Confirms the challenger in fresh processes with new seeds, judges the incumbent again, and times the two against each other
/// `duels` times. The challenger wins if it is confirmed and either faster by its interval, or there is no incumbent that passes.
///
/// # Errors
/// Broken machinery only: a kernel that fails has lost.
pub(crate) async fn contest(
    evaluator: &dyn Evaluator,
    challenger: &str,
    incumbent: Option<&str>,
    duels: usize,
) -> Result<Contest> {
    let challenger: Arc<str> = challenger.into();
    let mut contest = Contest {
        won: false,
        why: String::new(),
        challenger: judge(evaluator, &challenger, JobKind::Confirm).await?,
        incumbent: None,
        duel: None,
    };
    if !contest.challenger.passed() {
        let status = status_text(&contest.challenger);
        return Ok(contest.ends(false, format!("it was not confirmed: {status}")));
    }
    let Some(incumbent) = incumbent else {
        let why = "it was confirmed, and there is no current best";
        return Ok(contest.ends(true, why.to_owned()));
    };
    let incumbent: Arc<str> = incumbent.into();
    let verdict = judge_incumbent(evaluator, &incumbent).await?;
    let (status, text) = (verdict.status, status_text(&verdict));
    contest.incumbent = Some(verdict);
    match status {
        // An inconclusive kernel may still be precise enough in pairs.
        Status::Passed | Status::Inconclusive => {}
        Status::Unsupported => {
            let why = format!("the current best cannot run on this device: {text}");
            return Ok(contest.ends(false, why));
        }
        _ => {
            let why = format!("it was confirmed, and the current best no longer passes: {text}");
            return Ok(contest.ends(true, why));
        }
    }
    match run_duels(evaluator, &challenger, &incumbent, duels).await? {
        Some(duel) => Ok(contest.decided_by(duel)),
        None => {
            let why = "the two kernels could not be timed against each other: one of them failed";
            Ok(contest.ends(false, why.to_owned()))
        }
    }
}

impl Contest {
    fn ends(mut self, won: bool, why: String) -> Self {
        self.won = won;
        self.why = why;
        self
    }

    fn decided_by(mut self, duel: Duel) -> Self {
        let [low, high] = duel.ci95;
        let result = if low > 1.0 {
            "it is faster than the current best"
        } else if high < 1.0 {
            "it is slower than the current best"
        } else {
            "its interval does not show that it is faster than the current best"
        };
        self.duel = Some(duel);
        let why = format!("{result}: {:.3}x [{low:.3}, {high:.3}]", duel.ratio);
        self.ends(low > 1.0, why)
    }
}

/// Judges the incumbent, twice if it does not pass at first: it has passed before, so one failure may be the machine's fault.
async fn judge_incumbent(evaluator: &dyn Evaluator, incumbent: &Arc<str>) -> Result<Verdict> {
    let verdict = judge(evaluator, incumbent, JobKind::Judge).await?;
    if verdict.passed() {
        return Ok(verdict);
    }
    judge(evaluator, incumbent, JobKind::Judge).await
}

async fn judge(evaluator: &dyn Evaluator, source: &Arc<str>, kind: JobKind) -> Result<Verdict> {
    match evaluate(evaluator, source, kind).await? {
        JobOutcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => bail!(
            "a kernel could not be judged: {}",
            verdict.reason.unwrap_or_default()
        ),
        JobOutcome::Verdict { verdict, .. } => Ok(*verdict),
        JobOutcome::Duel(_) => bail!("the judge returned a duel instead of a verdict"),
    }
}

/// The combined result of several duels. `None` if one of the kernels failed.
async fn run_duels(
    evaluator: &dyn Evaluator,
    challenger: &Arc<str>,
    incumbent: &Arc<str>,
    duels: usize,
) -> Result<Option<Duel>> {
    let mut results = Vec::new();
    for _ in 0..duels.max(1) {
        let against = incumbent.clone();
        match evaluate(evaluator, challenger, JobKind::Duel { against }).await? {
            JobOutcome::Duel(Some(duel)) => results.push(duel),
            JobOutcome::Duel(None) => return Ok(None),
            JobOutcome::Verdict { .. } => bail!("the judge returned a verdict instead of a duel"),
        }
    }
    match combine_duels(&results) {
        Some(duel) => Ok(Some(duel)),
        None => bail!("the duels have no number"),
    }
}

async fn evaluate(
    evaluator: &dyn Evaluator,
    source: &Arc<str>,
    kind: JobKind,
) -> Result<JobOutcome> {
    let job = Job {
        step: 0,
        source: source.clone(),
        kind,
    };
    evaluator.evaluate(job).await
}

/// `race: two threads write …`
fn status_text(verdict: &Verdict) -> String {
    let status = verdict.status;
    match verdict.reason.as_deref() {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_string(),
    }
}

/// One ratio from several duels. Its interval includes the noise between processes.
fn combine_duels(duels: &[Duel]) -> Option<Duel> {
    if let [duel] = duels {
        return Some(*duel);
    }
    let estimates = duels.iter().map(|duel| Estimate {
        estimate: duel.ratio.ln(),
        low: duel.ci95[0].ln(),
        high: duel.ci95[1].ln(),
    });
    let mean = mean_of_estimates(&estimates.collect::<Vec<_>>())?;
    Some(Duel {
        ratio: mean.estimate.exp(),
        ci95: [mean.low.exp(), mean.high.exp()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::JobFuture;

    /// Judges by the text of a kernel: `new` and `old` have a status each, and each duel has the next ratio.
    struct ScriptedEvaluator {
        new: Status,
        old: Status,
        ratios: &'static [Option<f64>],
        duels_run: std::sync::Mutex<usize>,
    }

    impl Evaluator for ScriptedEvaluator {
        fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome> {
            let status = match &*job.source {
                "new" => self.new,
                _ => self.old,
            };
            let confirmed = matches!(job.kind, JobKind::Confirm);
            assert_eq!(confirmed, &*job.source == "new" && !is_duel(&job));
            let outcome = if is_duel(&job) {
                let mut duels_run = self.duels_run.lock().unwrap();
                let ratio = self.ratios[*duels_run % self.ratios.len()];
                *duels_run += 1;
                JobOutcome::Duel(ratio.map(|ratio| Duel {
                    ratio,
                    ci95: [ratio * 0.99, ratio * 1.01],
                }))
            } else {
                let reason = "of a test".to_owned();
                let verdict = Verdict {
                    status,
                    confirmed,
                    ..Verdict::harness_error("softmax", "", "cpu", reason)
                };
                JobOutcome::Verdict {
                    verdict: Box::new(verdict),
                    compile_log: String::new(),
                    report: None,
                }
            };
            Box::pin(async move { Ok(outcome) })
        }
    }

    fn is_duel(job: &Job) -> bool {
        matches!(job.kind, JobKind::Duel { .. })
    }

    fn contest_of(
        new: Status,
        old: Option<Status>,
        ratios: &'static [Option<f64>],
        duels: usize,
    ) -> Result<Contest> {
        let evaluator = ScriptedEvaluator {
            new,
            old: old.unwrap_or(Status::Passed),
            ratios,
            duels_run: Default::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(contest(&evaluator, "new", old.map(|_| "old"), duels))
    }

    #[test]
    fn challenger_wins_only_if_confirmed_and_faster() {
        use Status::{HarnessError, Inconclusive, Passed, Race, Unsupported, WrongOutput};
        let faster = &[Some(1.2)];
        // New verdict, current best's verdict, duels, whether the new kernel wins, and a part of the reason.
        type PromotionCase = (
            Status,
            Option<Status>,
            &'static [Option<f64>],
            bool,
            &'static str,
        );
        #[rustfmt::skip]
        let cases: [PromotionCase; 10] = [
            (Passed, None, &[], true, "there is no current best"),
            (WrongOutput, None, &[], false, "not confirmed: wrong_output"),
            (Inconclusive, Some(Race), &[], false, "not confirmed: inconclusive"),
            (Passed, Some(Race), &[], true, "no longer passes: race: of a test"),
            (Passed, Some(Unsupported), &[], false, "cannot run on this device"),
            (Passed, Some(Passed), faster, true, "faster than the current best: 1.200x"),
            (Passed, Some(Inconclusive), faster, true, "faster than the current best"),
            (Passed, Some(Passed), &[Some(1.005)], false, "does not show"),
            (Passed, Some(Passed), &[Some(0.8)], false, "slower than the current best"),
            (Passed, Some(Passed), &[None], false, "could not be timed"),
        ];
        for (new, old, ratios, won, why) in cases {
            let contest = contest_of(new, old, ratios, 1).unwrap();
            assert_eq!(contest.won, won, "{contest:?}");
            assert!(contest.why.contains(why), "{why}: {}", contest.why);
        }
        assert!(contest_of(HarnessError, None, &[], 1).is_err());
        assert!(contest_of(Passed, Some(HarnessError), &[], 1).is_err());
    }

    #[test]
    fn disagreeing_duels_do_not_promote() {
        let both = Some(Status::Passed);
        let agreed = contest_of(Status::Passed, both, &[Some(1.2), Some(1.21)], 4).unwrap();
        assert!(
            agreed.won && agreed.duel.unwrap().ci95[0] > 1.15,
            "{agreed:?}"
        );
        // Each interval is narrow, and no two agree.
        let ratios = &[Some(1.5), Some(0.8), Some(1.6), Some(0.9)];
        let torn = contest_of(Status::Passed, both, ratios, 4).unwrap();
        assert!(!torn.won, "{torn:?}");
        assert!(torn.why.contains("does not show"), "{}", torn.why);
    }
}
