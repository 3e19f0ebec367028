//! What a task has found, in one line: its best kernel, or that there is none, with the best other figure and the reason.
//!
//! The only place that puts this into words, so that the table, `summary.json` and the files of the best kernel agree. Pure.

use serde::Serialize;

use super::continuation::Continuation;
use super::progress::{BestCandidate, EndOfWork, Progress, Standing};
use crate::verdict::{Speedup, StrongestBaseline};

/// The least timing budget that is suggested where noise is the problem, in seconds.
const MIN_SUGGESTED_SECONDS: f64 = 5.0;

/// How many times the present timing budget is suggested.
const SUGGESTED_FACTOR: f64 = 3.0;

/// Why no kernel of a task is confirmed to be faster than the baseline. Part of `summary.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WhyUnconfirmed {
    /// The run goes on; kernels are confirmed at its end.
    InProgress,
    Interrupted,
    /// The run waits for replies in a mailbox.
    Waiting,
    /// The run has failed.
    Failed,
    /// Correct, but not measured precisely enough.
    TooNoisy,
    /// The interval of the confirmation contains 1.
    NotClear,
    /// The whole interval of the confirmation is below 1.
    Slower,
    /// The time was spent before anything was confirmed to be faster.
    OutOfTime,
    /// The judge has failed each time.
    NotMeasured,
    NothingPassed,
}

impl Progress {
    /// Why there is no best kernel. `None` if there is one.
    pub(crate) fn why_unconfirmed(&self) -> Option<WhyUnconfirmed> {
        let ended = match self.end {
            None => WhyUnconfirmed::InProgress,
            Some(EndOfWork::Interrupted) => WhyUnconfirmed::Interrupted,
            Some(EndOfWork::Waiting) => WhyUnconfirmed::Waiting,
            Some(EndOfWork::Failed) => WhyUnconfirmed::Failed,
            Some(EndOfWork::Finished) if self.unmeasured.confirmation => WhyUnconfirmed::OutOfTime,
            Some(EndOfWork::Finished) => WhyUnconfirmed::NotMeasured,
        };
        let Some(best) = self.best else {
            return Some(match ended {
                WhyUnconfirmed::NotMeasured if self.inconclusive > 0 => WhyUnconfirmed::TooNoisy,
                WhyUnconfirmed::NotMeasured => WhyUnconfirmed::NothingPassed,
                other => other,
            });
        };
        match best.standing {
            Standing::Faster => None,
            Standing::NotClear => Some(WhyUnconfirmed::NotClear),
            Standing::Slower => Some(WhyUnconfirmed::Slower),
            Standing::TooNoisy => Some(WhyUnconfirmed::TooNoisy),
            Standing::Provisional => Some(ended),
        }
    }

    /// The first line about the task, without its name.
    pub(crate) fn headline(&self) -> String {
        let Some(why) = self.why_unconfirmed() else {
            return self.best.map_or_else(String::new, |best| {
                let missing = match self.unmeasured.strongest {
                    true => ", not timed in pairs with a library: no time was left",
                    false => "",
                };
                format!(
                    "best {} over `{}`{}{missing}, confirmed (step {})",
                    with_interval(&best.speedup),
                    self.baseline,
                    over_all_strongest(&self.strongest),
                    best.step
                )
            });
        };
        let brief = match (self.best, why) {
            (None, WhyUnconfirmed::InProgress) => "nothing passed yet".to_owned(),
            (None, WhyUnconfirmed::TooNoisy) => "too noisy to time".to_owned(),
            (None, why) => brief_reason(why).to_owned(),
            (Some(best), why) => format!("{}: {}", figure(&best), brief_reason(why)),
        };
        format!("no kernel confirmed faster than the baseline ({brief})")
    }

    /// Why there is no best kernel, as a sentence with the best other figure. `None` if there is one, or the headline says it all.
    pub(crate) fn unconfirmed_reason(&self) -> Option<String> {
        let why = self.why_unconfirmed()?;
        let Some(best) = self.best else {
            return (why == WhyUnconfirmed::TooNoisy).then(|| {
                "correct kernels could not be timed precisely enough, because this machine was too busy".to_owned()
            });
        };
        let (step, figure) = (best.step, figure(&best));
        let searched = format!("step {step} had {figure} in the search");
        let interval = with_interval(&best.speedup);
        Some(match why {
            WhyUnconfirmed::InProgress => format!("{searched}; it is confirmed at the end"),
            WhyUnconfirmed::Interrupted => {
                format!("{searched}, and the run was interrupted before it was confirmed")
            }
            WhyUnconfirmed::Waiting => {
                format!("{searched}; it is confirmed once the replies are there")
            }
            WhyUnconfirmed::Failed => {
                format!("{searched}, and the run failed before it was confirmed")
            }
            WhyUnconfirmed::TooNoisy => format!(
                "{searched} and was correct again, but this machine was too busy to confirm a figure"
            ),
            WhyUnconfirmed::NotClear => format!(
                "step {step} was confirmed with {interval}: the interval contains 1, so it may be slower"
            ),
            WhyUnconfirmed::Slower => format!("step {step} was confirmed with {interval}: slower"),
            WhyUnconfirmed::OutOfTime if self.confirm_share == 0.0 => {
                format!("{searched}; `budget.confirm_share` is 0, so nothing was confirmed")
            }
            WhyUnconfirmed::OutOfTime => {
                format!("{searched}, and no time was left to confirm it")
            }
            WhyUnconfirmed::NotMeasured | WhyUnconfirmed::NothingPassed => {
                format!("{searched}, and could not be measured again")
            }
        })
    }

    /// What the user can do to get a confirmed figure. `None` if only a faster kernel helps.
    pub(crate) fn unconfirmed_remedy(&self) -> Option<String> {
        // Only what measures again: more time, if it is spent.
        let more = Continuation {
            more_seconds: self.continuation.more_seconds,
            more_device_seconds: self.continuation.more_device_seconds,
            ..Continuation::default()
        };
        let command = more.command(&self.directory);
        let more_time = format!(
            "`{command} --set eval.seconds={} --accept-changes`",
            suggested_seconds(self.timing_seconds)
        );
        match self.why_unconfirmed()? {
            WhyUnconfirmed::TooNoisy if self.best.is_some() => Some(format!(
                "close other programs, then `{command}`; or allow more time for each kernel: {more_time}"
            )),
            WhyUnconfirmed::TooNoisy => Some(format!(
                "close other programs, or allow more time for each kernel, with a new run and `--set eval.seconds={}`",
                suggested_seconds(self.timing_seconds)
            )),
            WhyUnconfirmed::NotClear => Some(format!(
                "a quieter machine or more time narrows the interval: {more_time}"
            )),
            WhyUnconfirmed::NotMeasured => Some(format!("`{command}` tries again")),
            WhyUnconfirmed::OutOfTime if self.confirm_share == 0.0 => Some(format!(
                "`{command} --set budget.confirm_share=0.2` confirms it"
            )),
            WhyUnconfirmed::OutOfTime => Some(format!(
                "`{}` searches on and confirms",
                self.continuation.command(&self.directory)
            )),
            _ => None,
        }
    }
}

fn brief_reason(why: WhyUnconfirmed) -> &'static str {
    match why {
        WhyUnconfirmed::InProgress => "not confirmed yet",
        WhyUnconfirmed::Interrupted => "interrupted",
        WhyUnconfirmed::Waiting => "waiting for replies",
        WhyUnconfirmed::Failed => "the run failed",
        WhyUnconfirmed::TooNoisy => "too noisy",
        WhyUnconfirmed::NotClear => "unclear",
        WhyUnconfirmed::Slower => "slower",
        WhyUnconfirmed::OutOfTime => "not confirmed, the time was spent",
        WhyUnconfirmed::NotMeasured => "not measured again",
        WhyUnconfirmed::NothingPassed => "nothing passed",
    }
}

/// `1.927x`, or `~1.93x` if it is provisional.
pub(crate) fn figure(candidate: &BestCandidate) -> String {
    let speedup = candidate.speedup.geomean;
    if candidate.standing.is_confirmed() {
        format!("{speedup:.3}x")
    } else {
        provisional(speedup)
    }
}

/// `~1.93x`: a figure of the search.
pub(crate) fn provisional(speedup: f64) -> String {
    format!("~{speedup:.2}x")
}

/// `1.927x [1.885, 1.960]`
pub(crate) fn with_interval(speedup: &Speedup) -> String {
    let Speedup { geomean, ci95 } = speedup;
    format!("{geomean:.3}x [{:.3}, {:.3}]", ci95[0], ci95[1])
}

/// `, 1.160x [1.150, 1.170] over `torch 2.11.0` in pairs`, or that the kernel is slower, and whether the figure is derived. A baseline outside
/// the tolerance is called that.
pub(crate) fn over_strongest(strongest: &StrongestBaseline) -> String {
    let (figure, label) = (with_interval(&strongest.speedup), strongest.label());
    let origin = strongest.origin.in_words();
    if let Some(outside) = &strongest.outside {
        let faster = outside.in_words();
        return format!(", but `{label}` {faster}: {figure} over it, {origin}");
    }
    if strongest.speedup.is_slower() {
        format!(", but slower than `{label}`: {figure} over it, {origin}")
    } else {
        format!(", {figure} over `{label}` {origin}")
    }
}

/// The same for several baselines.
fn over_all_strongest(strongest: &[StrongestBaseline]) -> String {
    strongest.iter().map(over_strongest).collect()
}

/// The note in `best.cu` and `best.json` about a kernel that is not confirmed to be faster. `None` if the kernel is confirmed.
pub(crate) fn note_of_best(best: &BestCandidate) -> Option<String> {
    let figure = figure(best);
    Some(match best.standing {
        Standing::Faster => return None,
        Standing::NotClear => format!("{figure} when measured again, not clearly faster"),
        Standing::Slower => format!("{figure} when measured again, slower"),
        Standing::TooNoisy => format!("{figure} in the search, too noisy to confirm"),
        Standing::Provisional => format!("{figure} in the search, not measured again"),
    })
}

/// The timing budget to try where noise is the problem, in whole seconds.
pub(crate) fn suggested_seconds(present: f64) -> f64 {
    (present * SUGGESTED_FACTOR)
        .max(MIN_SUGGESTED_SECONDS)
        .ceil()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Deviation, FasterOutside, SpeedupOrigin};

    fn progress(standing: Standing, end: Option<EndOfWork>) -> Progress {
        Progress {
            task: "softmax".to_owned(),
            baseline: "naive".to_owned(),
            directory: "out".into(),
            timing_seconds: 0.3,
            end,
            best: Some(BestCandidate {
                step: 12,
                speedup: Speedup {
                    geomean: 1.694,
                    ci95: [1.5, 1.9],
                },
                standing,
            }),
            ..Progress::default()
        }
    }

    #[test]
    fn only_a_kernel_that_is_confirmed_faster_is_the_best() {
        use Standing::{Faster, NotClear, Provisional, Slower, TooNoisy};
        let finished = Some(EndOfWork::Finished);
        let found = progress(Faster, finished);
        assert_eq!(
            found.headline(),
            "best 1.694x [1.500, 1.900] over `naive`, confirmed (step 12)"
        );
        assert!(found.confirmed_best().is_some() && found.unconfirmed_remedy().is_none());
        let beside = |geomean: f64| Progress {
            strongest: vec![StrongestBaseline {
                name: "torch".to_owned(),
                kind: "python".to_owned(),
                versions: indexmap::IndexMap::from([("torch".to_owned(), "2.11.0".to_owned())]),
                launch: Some("graph".to_owned()),
                measured: "2026-11-30T08:00:00Z".to_owned(),
                origin: SpeedupOrigin::Pairs,
                speedup: Speedup {
                    geomean,
                    ci95: [geomean - 0.05, geomean + 0.05],
                },
                outside: None,
            }],
            ..found.clone()
        };
        assert_eq!(
            beside(1.16).headline(),
            "best 1.694x [1.500, 1.900] over `naive`, 1.160x [1.110, 1.210] over `torch 2.11.0` in pairs, confirmed (step 12)"
        );
        assert_eq!(
            beside(0.5).headline(),
            "best 1.694x [1.500, 1.900] over `naive`, but slower than `torch 2.11.0`: 0.500x [0.450, 0.550] over it, in pairs, confirmed (step 12)"
        );
        let mut outside = beside(0.62);
        outside.strongest[0].outside = Some(FasterOutside {
            deviation: Deviation {
                share: 0.013,
                worst: 2.1,
            },
            faster_on: 7,
            workloads: 12,
        });
        assert_eq!(
            outside.headline(),
            "best 1.694x [1.500, 1.900] over `naive`, but `torch 2.11.0` is faster on 7 of 12 workloads, with outputs outside the tolerance (1.3 % of the elements, the worst 2.1 times): 0.620x [0.570, 0.670] over it, in pairs, confirmed (step 12)"
        );
        let mut derived = beside(1.16);
        derived.strongest[0].origin = SpeedupOrigin::Derived;
        derived.unmeasured.strongest = true;
        assert_eq!(
            derived.headline(),
            "best 1.694x [1.500, 1.900] over `naive`, 1.160x [1.110, 1.210] over `torch 2.11.0` derived from a table, not timed in pairs with a library: no time was left, confirmed (step 12)"
        );
        for (standing, end, brief, remedy) in [
            (TooNoisy, finished, "~1.69x: too noisy", "kforge resume out"),
            (NotClear, finished, "1.694x: unclear", "eval.seconds=5"),
            (Slower, finished, "1.694x: slower", ""),
            (
                Provisional,
                finished,
                "~1.69x: not measured again",
                "resume",
            ),
            (Provisional, None, "~1.69x: not confirmed yet", ""),
            (
                Provisional,
                Some(EndOfWork::Interrupted),
                "~1.69x: interrupted",
                "",
            ),
            (
                Provisional,
                Some(EndOfWork::Waiting),
                "~1.69x: waiting for replies",
                "",
            ),
        ] {
            let progress = progress(standing, end);
            assert_eq!(
                progress.headline(),
                format!("no kernel confirmed faster than the baseline ({brief})")
            );
            assert!(progress.confirmed_best().is_none());
            let reason = progress.unconfirmed_reason().unwrap();
            assert!(reason.starts_with("step 12 "), "{reason}");
            match progress.unconfirmed_remedy() {
                Some(found) => assert!(!remedy.is_empty() && found.contains(remedy), "{found}"),
                None => assert_eq!(remedy, "", "{standing:?}"),
            }
        }
    }

    #[test]
    fn run_out_of_time_names_the_command_that_continues() {
        let mut found = progress(Standing::Provisional, Some(EndOfWork::Finished));
        found.unmeasured.confirmation = true;
        found.confirm_share = 0.2;
        found.continuation.more_seconds = Some(60);
        assert_eq!(
            found.headline(),
            "no kernel confirmed faster than the baseline (~1.69x: not confirmed, the time was spent)"
        );
        assert_eq!(
            found.unconfirmed_reason().unwrap(),
            "step 12 had ~1.69x in the search, and no time was left to confirm it"
        );
        assert_eq!(
            found.unconfirmed_remedy().unwrap(),
            "`kforge resume out --budget-seconds 60` searches on and confirms"
        );
        found.confirm_share = 0.0;
        let remedy = found.unconfirmed_remedy().unwrap();
        assert!(
            remedy.contains("--set budget.confirm_share=0.2"),
            "{remedy}"
        );
        // A plain resume could not measure again: the time is spent.
        let mut noisy = progress(Standing::TooNoisy, Some(EndOfWork::Finished));
        noisy.continuation.more_seconds = Some(60);
        let remedy = noisy.unconfirmed_remedy().unwrap();
        assert!(
            remedy.contains("`kforge resume out --budget-seconds 60`"),
            "{remedy}"
        );
    }

    #[test]
    fn a_run_without_a_passing_kernel_says_why() {
        let mut progress = Progress {
            end: Some(EndOfWork::Finished),
            ..Progress::default()
        };
        assert!(progress.headline().ends_with("(nothing passed)"));
        progress.inconclusive = 3;
        assert!(progress.headline().ends_with("(too noisy to time)"));
        let remedy = progress.unconfirmed_remedy().unwrap();
        assert!(remedy.contains("--set eval.seconds=5"), "{remedy}");
        progress.end = None;
        assert!(progress.headline().ends_with("(nothing passed yet)"));
    }

    #[test]
    fn suggested_time_is_longer_than_the_present_one() {
        assert_eq!([0.3, 3.0, 5.0].map(suggested_seconds), [5.0, 9.0, 15.0]);
    }
}
