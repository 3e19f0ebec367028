//! Whether one kernel may take another's place as the best that is known: both judged anew, timed in pairs against each other.
//!
//! Decides; reads and writes no file.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::base::statistics::{Estimate, mean_of_estimates};
use crate::verdict::{Duel, Status, Verdict};
use crate::worker::{Evaluator, Job, JobKind, JobOutcome};

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contest {
    pub won: bool,
    /// In words.
    pub why: String,
    /// The challenger's confirmation.
    pub challenger: Verdict,
    /// What became of the one that was there, where it was judged.
    pub incumbent: Option<Verdict>,
    /// Incumbent's time / challenger's time, over all duels.
    pub duel: Option<Duel>,
}

/// Confirms the challenger in fresh processes on new seeds, judges the incumbent anew, and times the two against each other, `duels`
/// times. The challenger wins if it was confirmed and the interval says that it is faster, or if nothing that passes is there.
///
/// # Errors
/// Broken machinery only: a kernel that fails has lost.
pub(crate) async fn contest(
    evaluator: &dyn Evaluator,
    challenger: &str,
    incumbent: Option<&str>,
    duels: usize,
) -> Result<Contest> {
    let (challenger, incumbent): (Arc<str>, Option<Arc<str>>) =
        (challenger.into(), incumbent.map(Into::into));
    let confirmed = verdict(evaluator, &challenger, JobKind::Confirm).await?;
    let mut contest = Contest {
        won: false,
        why: String::new(),
        challenger: confirmed,
        incumbent: None,
        duel: None,
    };
    if !contest.challenger.passed() {
        contest.why = format!("it was not confirmed: {}", status_text(&contest.challenger));
        return Ok(contest);
    }
    let Some(incumbent) = incumbent else {
        contest.won = true;
        contest.why = "it was confirmed, and nothing was there to beat".to_owned();
        return Ok(contest);
    };
    let mut judged = verdict(evaluator, &incumbent, JobKind::Judge).await?;
    if !judged.passed() {
        // It has passed before. Once may be the machine's fault.
        judged = verdict(evaluator, &incumbent, JobKind::Judge).await?;
    }
    let status = judged.status;
    let words = status_text(&judged);
    contest.incumbent = Some(judged);
    match status {
        // What could not be measured well enough may still be told apart in pairs.
        Status::Passed | Status::Inconclusive => {}
        Status::Unsupported => {
            contest.why = format!("what is there cannot run on this device: {words}");
            return Ok(contest);
        }
        _ => {
            contest.won = true;
            contest.why =
                format!("it was confirmed, and what was there does not pass any more: {words}");
            return Ok(contest);
        }
    }
    let mut fought = Vec::new();
    for _ in 0..duels.max(1) {
        let against = incumbent.clone();
        match evaluate(evaluator, &challenger, JobKind::Duel { against }).await? {
            JobOutcome::Duel(Some(duel)) => fought.push(duel),
            JobOutcome::Duel(None) => {
                contest.why =
                    "the two could not be timed against each other: one of them failed then"
                        .to_owned();
                return Ok(contest);
            }
            JobOutcome::Verdict { .. } => bail!("a duel was answered by a verdict"),
        }
    }
    let Some(duel) = combine_duels(&fought) else {
        bail!("the duels have no number");
    };
    contest.duel = Some(duel);
    contest.won = duel.ci95[0] > 1.0;
    let [low, high] = duel.ci95;
    let said = match (contest.won, high < 1.0) {
        (true, _) => "it is faster than what was there",
        (_, true) => "it is slower than what is there",
        _ => "its interval does not say that it is faster than what is there",
    };
    contest.why = format!("{said}: {:.3}x [{low:.3}, {high:.3}]", duel.ratio);
    Ok(contest)
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

async fn verdict(evaluator: &dyn Evaluator, source: &Arc<str>, kind: JobKind) -> Result<Verdict> {
    match evaluate(evaluator, source, kind).await? {
        JobOutcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => bail!(
            "a kernel was not judged: {}",
            verdict.reason.unwrap_or_default()
        ),
        JobOutcome::Verdict { verdict, .. } => Ok(*verdict),
        JobOutcome::Duel(_) => bail!("a judgement was answered by a duel"),
    }
}

fn status_text(verdict: &Verdict) -> String {
    let status = verdict.status;
    match verdict.reason.as_deref() {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_string(),
    }
}

/// One number from several duels: the process is the top level of chance.
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

    /// Answers by the text: a status each, and the ratio of every duel.
    struct Scripted {
        new: Status,
        old: Status,
        ratios: &'static [Option<f64>],
        duels_run: std::sync::Mutex<usize>,
    }

    impl Evaluator for Scripted {
        fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome> {
            let status = match &*job.source {
                "new" => self.new,
                _ => self.old,
            };
            let confirmed = matches!(job.kind, JobKind::Confirm);
            assert_eq!(confirmed, &*job.source == "new" && !is_duel(&job));
            let outcome = if is_duel(&job) {
                let mut fought = self.duels_run.lock().unwrap();
                let ratio = self.ratios[*fought % self.ratios.len()];
                *fought += 1;
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
        let scripted = Scripted {
            new,
            old: old.unwrap_or(Status::Passed),
            ratios,
            duels_run: Default::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(contest(&scripted, "new", old.map(|_| "old"), duels))
    }

    #[test]
    fn challenger_wins_only_if_confirmed_and_faster() {
        use Status::{HarnessError, Inconclusive, Passed, Race, Unsupported, WrongOutput};
        for (new, old, ratios, won, words) in [
            (Passed, None, &[][..], true, "nothing was there"),
            (WrongOutput, None, &[], false, "not confirmed: wrong_output"),
            (
                Inconclusive,
                Some(Race),
                &[],
                false,
                "not confirmed: inconclusive",
            ),
            (
                Passed,
                Some(Race),
                &[],
                true,
                "does not pass any more: race: of a test",
            ),
            (
                Passed,
                Some(Unsupported),
                &[],
                false,
                "cannot run on this device",
            ),
            (
                Passed,
                Some(Passed),
                &[Some(1.2)],
                true,
                "faster than what was there: 1.200x",
            ),
            (
                Passed,
                Some(Inconclusive),
                &[Some(1.2)],
                true,
                "faster than what was there",
            ),
            (Passed, Some(Passed), &[Some(1.005)], false, "does not say"),
            (
                Passed,
                Some(Passed),
                &[Some(0.8)],
                false,
                "slower than what is there",
            ),
            (Passed, Some(Passed), &[None], false, "could not be timed"),
        ] {
            let contest = contest_of(new, old, ratios, 1).unwrap();
            assert_eq!(contest.won, won, "{contest:?}");
            assert!(contest.why.contains(words), "{words}: {}", contest.why);
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
        // Each is sure of itself, and no two agree.
        let ratios = &[Some(1.5), Some(0.8), Some(1.6), Some(0.9)];
        let torn = contest_of(Status::Passed, both, ratios, 4).unwrap();
        assert!(!torn.won, "{torn:?}");
        assert!(torn.why.contains("does not say"), "{}", torn.why);
    }
}
