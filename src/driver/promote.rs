//! Whether a challenger may become the best known kernel of a task: it must be confirmed to be faster than the baseline, and than the
//! best known kernel if there is one. Both are judged again and timed against each other.
//!
//! Decides only. Reads and writes no file; `cli::promote` does.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::verdict::{Duel, DuelOutcome, Speedup, Status, Verdict};
use crate::worker::{Evaluator, Job, JobKind, JobOutcome, Rivals};

/// The result of a contest between a challenger and the best known kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contest {
    /// Whether the challenger becomes the best known kernel.
    pub won: bool,
    /// The reason, as a sentence fragment.
    pub why: String,
    /// Whether the challenger has not won because times varied too much: a quieter machine or more time could change that.
    pub too_noisy: bool,
    /// The confirmation of the challenger.
    pub challenger: Verdict,
    /// The verdict of the best known kernel, if it was judged.
    pub incumbent: Option<Verdict>,
    /// Incumbent's time / challenger's time.
    pub duel: Option<Duel>,
}

/// Confirms the challenger in fresh processes with new seeds, judges the incumbent again, and times the two against each other. The
/// challenger wins if the whole interval of its confirmation is above 1, and it is also faster than the incumbent by the interval of the
/// duel, or there is no incumbent that passes.
///
/// # Errors
/// Broken machinery only: a kernel that fails has lost.
pub(crate) async fn contest(
    evaluator: &dyn Evaluator,
    challenger: &str,
    incumbent: Option<&str>,
) -> Result<Contest> {
    let challenger: Arc<str> = challenger.into();
    let contest = Contest {
        won: false,
        why: String::new(),
        too_noisy: false,
        challenger: judge(evaluator, &challenger, JobKind::Confirm).await?,
        incumbent: None,
        duel: None,
    };
    let contest = match contest.against_baseline() {
        Ok(contest) => contest,
        Err(lost) => return Ok(*lost),
    };
    match incumbent {
        Some(incumbent) => {
            let incumbent: Arc<str> = incumbent.into();
            contest_incumbent(evaluator, contest, [&challenger, &incumbent]).await
        }
        None => Ok(contest.won(", and there is no current best")),
    }
}

/// The part of a contest against the incumbent. `kernels`: challenger and incumbent.
async fn contest_incumbent(
    evaluator: &dyn Evaluator,
    mut contest: Contest,
    kernels: [&Arc<str>; 2],
) -> Result<Contest> {
    let [challenger, incumbent] = kernels;
    let verdict = judge_incumbent(evaluator, incumbent).await?;
    let (status, text) = (verdict.status, status_text(&verdict));
    contest.incumbent = Some(verdict);
    match status {
        // An inconclusive kernel may still be precise enough in pairs.
        Status::Passed | Status::Inconclusive => {}
        Status::Unsupported => {
            let why = format!("the current best cannot run on this device: {text}");
            return Ok(contest.lost(why));
        }
        _ => return Ok(contest.won(&format!(", and the current best no longer passes: {text}"))),
    }
    match run_duel(evaluator, challenger, incumbent).await? {
        Some(duel) => Ok(contest.decided_by(duel)),
        None => {
            contest.too_noisy = true;
            let why = "it could not be timed against the current best: the times varied too much, or one of the two failed";
            Ok(contest.lost(why.to_owned()))
        }
    }
}

impl Contest {
    /// The contest, if the challenger is confirmed to be faster than the baseline. Otherwise the error is the contest that it has lost.
    fn against_baseline(mut self) -> Result<Self, Box<Self>> {
        let verdict = &self.challenger;
        let Some(speedup) = verdict.speedup.filter(|_| verdict.passed()) else {
            self.too_noisy = verdict.status == Status::Inconclusive;
            let why = format!("it was not confirmed: {}", status_text(verdict));
            return Err(Box::new(self.lost(why)));
        };
        if speedup.is_faster() {
            return Ok(self);
        }
        let over = self.over_baseline(&speedup);
        if speedup.is_slower() {
            let why = format!("it is slower than the baseline: {over}");
            return Err(Box::new(self.lost(why)));
        }
        self.too_noisy = true;
        let why = format!("it is not clearly faster than the baseline: {over}");
        Err(Box::new(self.lost(why)))
    }

    /// `1.010x [0.931, 1.116] over `naive``
    fn over_baseline(&self, speedup: &Speedup) -> String {
        let baseline = self.challenger.baseline.as_ref();
        let name = baseline.map_or("", |baseline| &baseline.name);
        let Speedup { geomean, ci95 } = speedup;
        format!(
            "{geomean:.3}x [{:.3}, {:.3}] over `{name}`",
            ci95[0], ci95[1]
        )
    }

    fn lost(self, why: String) -> Self {
        Self { why, ..self }
    }

    /// `and`: what follows after the comparison with the baseline.
    fn won(self, and: &str) -> Self {
        let why = format!("it is confirmed faster than the baseline{and}");
        Self {
            won: true,
            why,
            ..self
        }
    }

    fn decided_by(mut self, duel: Duel) -> Self {
        let (outcome, [low, high]) = (duel.outcome(), duel.ci95);
        let result = match outcome {
            DuelOutcome::Faster => "it is faster than the current best",
            DuelOutcome::Slower => "it is slower than the current best",
            DuelOutcome::Unclear => {
                "its interval does not show that it is faster than the current best"
            }
        };
        self.won = outcome == DuelOutcome::Faster;
        self.too_noisy = outcome == DuelOutcome::Unclear;
        self.why = format!("{result}: {:.3}x [{low:.3}, {high:.3}]", duel.ratio);
        self.duel = Some(duel);
        self
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

pub(super) async fn judge(
    evaluator: &dyn Evaluator,
    source: &Arc<str>,
    kind: JobKind,
) -> Result<Verdict> {
    match evaluate(evaluator, source, kind).await? {
        JobOutcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => bail!(
            "a kernel could not be judged: {}",
            verdict.reason.unwrap_or_default()
        ),
        JobOutcome::Verdict { verdict, .. } => Ok(*verdict),
        _ => bail!("the judge returned no verdict"),
    }
}

/// Times the two kernels against each other. `None` without a result.
pub(super) async fn run_duel(
    evaluator: &dyn Evaluator,
    challenger: &Arc<str>,
    incumbent: &Arc<str>,
) -> Result<Option<Duel>> {
    let against = incumbent.clone();
    match evaluate(evaluator, challenger, JobKind::Compare { against }).await? {
        JobOutcome::Duel { duel, .. } => Ok(duel),
        _ => bail!("the judge returned no duel"),
    }
}

pub(super) async fn evaluate(
    evaluator: &dyn Evaluator,
    source: &Arc<str>,
    kind: JobKind,
) -> Result<JobOutcome> {
    let job = Job {
        step: 0,
        source: source.clone(),
        kind,
        limit: None,
        rivals: Rivals::default(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::JobFuture;

    /// Judges by the text of a kernel: `new` and `old` have a status each. The confirmed interval of `new` and the ratio of the duel are
    /// fixed.
    struct ScriptedEvaluator {
        new: Status,
        old: Status,
        interval: [f64; 2],
        ratio: Option<f64>,
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
                JobOutcome::Duel {
                    duel: self.ratio.map(|ratio| Duel {
                        ratio,
                        ci95: [ratio * 0.99, ratio * 1.01],
                    }),
                    device_seconds: 0.0,
                }
            } else {
                let reason = "of a test".to_owned();
                let [low, high] = self.interval;
                let verdict = Verdict {
                    status,
                    confirmed,
                    speedup: (status == Status::Passed).then_some(Speedup {
                        geomean: (low * high).sqrt(),
                        ci95: self.interval,
                    }),
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
        matches!(job.kind, JobKind::Compare { .. })
    }

    fn contest_of(
        [new, old]: [Option<Status>; 2],
        interval: [f64; 2],
        ratio: Option<f64>,
    ) -> Result<Contest> {
        let evaluator = ScriptedEvaluator {
            new: new.unwrap(),
            old: old.unwrap_or(Status::Passed),
            interval,
            ratio,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(contest(&evaluator, "new", old.map(|_| "old")))
    }

    #[test]
    fn challenger_wins_only_if_confirmed_faster_than_baseline_and_incumbent() {
        use Status::{HarnessError, Inconclusive, Passed, Race, Unsupported, WrongOutput};
        const FASTER: [f64; 2] = [1.3, 1.5];
        const UNCLEAR: [f64; 2] = [0.931, 1.116];
        const SLOWER: [f64; 2] = [0.8, 0.9];
        let duel = Some(1.2);
        // New verdict and its interval, current best's verdict, duel, whether the new kernel wins, whether noise is the reason, and a part
        // of the reason.
        type PromotionCase = (
            (Status, [f64; 2]),
            Option<Status>,
            Option<f64>,
            bool,
            bool,
            &'static str,
        );
        #[rustfmt::skip]
        let cases: [PromotionCase; 14] = [
            ((Passed, FASTER), None, None, true, false, "faster than the baseline, and there is no current best"),
            ((Passed, UNCLEAR), None, None, false, true, "not clearly faster than the baseline: 1.019x [0.931, 1.116]"),
            ((Passed, SLOWER), None, None, false, false, "slower than the baseline: 0.849x"),
            ((Passed, [1.0, 1.1]), None, None, false, true, "not clearly faster"),
            ((WrongOutput, FASTER), None, None, false, false, "not confirmed: wrong_output"),
            ((Inconclusive, FASTER), Some(Race), None, false, true, "not confirmed: inconclusive"),
            ((Passed, FASTER), Some(Race), None, true, false, "no longer passes: race: of a test"),
            ((Passed, SLOWER), Some(Race), None, false, false, "slower than the baseline"),
            ((Passed, UNCLEAR), Some(Passed), duel, false, true, "not clearly faster than the baseline"),
            ((Passed, FASTER), Some(Unsupported), None, false, false, "cannot run on this device"),
            ((Passed, FASTER), Some(Passed), duel, true, false, "faster than the current best: 1.200x"),
            ((Passed, FASTER), Some(Inconclusive), duel, true, false, "faster than the current best"),
            ((Passed, FASTER), Some(Passed), Some(1.005), false, true, "does not show"),
            ((Passed, FASTER), Some(Passed), None, false, true, "could not be timed"),
        ];
        for ((new, interval), old, ratio, won, too_noisy, why) in cases {
            let contest = contest_of([Some(new), old], interval, ratio).unwrap();
            assert_eq!(
                (contest.won, contest.too_noisy),
                (won, too_noisy),
                "{contest:?}"
            );
            assert!(contest.why.contains(why), "{why}: {}", contest.why);
        }
        let slower = contest_of([Some(Passed); 2], FASTER, Some(0.8)).unwrap();
        assert!(!slower.won && slower.why.contains("slower than the current best"));
        assert!(contest_of([Some(HarnessError), None], FASTER, None).is_err());
        assert!(contest_of([Some(Passed), Some(HarnessError)], FASTER, None).is_err());
    }
}
