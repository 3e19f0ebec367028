//! The lines of a task's journal, with the part of each verdict that a history keeps.
//!
//! Parses only. An event of a later version that has no meaning here is skipped, so its line is still counted.

use indexmap::IndexMap;
use serde::Deserialize;

use crate::event::{
    Compared, Confirmed, Dueled, EvaluationSeconds, Event, Failed, Proposed, Replied, Sent,
    Stopped, StrongestCompared,
};
use crate::report::{Activity, Improvement};
use crate::run::ParseLine;
use crate::verdict::{
    BaselineIdentity, DeviceIdentity, Seconds, Speedup, Status, Timing, VerdictSummary,
};

/// One line of a task's journal.
pub(super) enum HistoryLine {
    Asked(Box<crate::event::Brief>),
    Sent(Box<Sent>),
    Replied(Box<Replied>),
    Proposed(Box<Proposed>),
    Failed(Box<Failed>),
    Judged(Box<JudgedLine>),
    Dueled(Box<Dueled>),
    Confirmed(Box<Confirmed>),
    Compared(Box<Compared>),
    StrongestCompared(Box<StrongestCompared>),
    Stopped(Stopped),
    /// An event that this version does not know.
    Unknown,
}

/// A `judged` event.
#[derive(Deserialize)]
pub(super) struct JudgedLine {
    pub(super) step: u64,
    pub(super) verdict: JudgedVerdict,
}

/// The part of a verdict that a history keeps of every step.
#[derive(Deserialize)]
pub(super) struct JudgedVerdict {
    pub(super) status: Status,
    #[serde(default)]
    pub(super) reason: Option<String>,
    pub(super) speedup: Option<Speedup>,
    #[serde(default)]
    pub(super) timing: Option<Timing>,
    #[serde(default)]
    pub(super) not_done: Vec<String>,
    #[serde(default)]
    pub(super) features: IndexMap<String, f64>,
    #[serde(default)]
    pub(super) workloads: Vec<WorkloadFigure>,
    #[serde(default)]
    pub(super) seconds: Seconds,
    #[serde(default)]
    pub(super) baseline: Option<BaselineIdentity>,
    #[serde(default)]
    pub(super) device: Option<DeviceIdentity>,
}

/// The speedup on one workload. Hidden cases have none.
#[derive(Deserialize)]
pub(super) struct WorkloadFigure {
    pub(super) id: String,
    #[serde(default)]
    pub(super) hidden: bool,
    pub(super) speedup: Option<f64>,
}

impl HistoryLine {
    /// How long the work that the line reports has held the device, in seconds.
    pub(super) fn device_seconds(&self) -> f64 {
        let held = |seconds: &Option<EvaluationSeconds>| seconds.map_or(0.0, |one| one.device);
        match self {
            Self::Judged(judged) => judged.verdict.seconds.device,
            Self::Failed(failed) => held(&failed.seconds),
            Self::Proposed(proposed) => {
                let tried = proposed.tried.as_ref();
                tried.map_or(0.0, |tried| tried.seconds.device)
            }
            Self::Dueled(dueled) => held(&dueled.seconds),
            Self::Confirmed(confirmed) => held(&confirmed.seconds),
            Self::Compared(compared) => held(&compared.seconds),
            Self::StrongestCompared(compared) => held(&compared.seconds),
            _ => 0.0,
        }
    }

    /// Adds the line to what the task is doing. `now`: its time.
    pub(super) fn note(&self, activity: &mut Activity, now: u64) -> Option<Improvement> {
        activity.note_event(now);
        match self {
            Self::Sent(sent) => activity.request_sent(sent.step, sent.ask, &sent.model, now),
            Self::Replied(replied) => activity.request_ended(replied.step, replied.ask),
            Self::Proposed(proposed) => activity.candidate_made(proposed.step, now),
            Self::Stopped(_) => activity.judgements_ended(),
            Self::Failed(failed) => {
                return activity.step_ended(failed.step, None, self.device_seconds(), now);
            }
            Self::Judged(judged) => {
                let summary = judged.verdict.summary();
                let passed = summary.passed_speedup().filter(|_| !summary.is_dismissed());
                let speedup = passed.map(|speedup| speedup.geomean);
                return activity.step_ended(judged.step, speedup, self.device_seconds(), now);
            }
            _ => {}
        }
        None
    }
}

impl JudgedVerdict {
    /// The part that the search uses to accept a candidate. Without the workloads, which have other figures here.
    pub(super) fn summary(&self) -> VerdictSummary {
        VerdictSummary {
            status: self.status,
            confirmed: false,
            speedup: self.speedup,
            features: self.features.clone(),
            seconds: Seconds::default(),
            code: None,
            timing: self.timing,
            not_done: self.not_done.clone(),
            workloads: Vec::new(),
        }
    }
}

impl ParseLine for HistoryLine {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        if name == "judged" {
            return Some(serde_json::from_str(line).map(Self::Judged));
        }
        let Some(event) = Event::parse(name, line) else {
            return Some(Ok(Self::Unknown));
        };
        Some(event.map(|event| match event {
            Event::Asked(brief) => Self::Asked(Box::new(brief)),
            Event::Sent(sent) => Self::Sent(Box::new(sent)),
            Event::Replied(replied) => Self::Replied(Box::new(replied)),
            Event::Proposed(proposed) => Self::Proposed(Box::new(proposed)),
            Event::Failed(failed) => Self::Failed(Box::new(failed)),
            Event::Dueled(dueled) => Self::Dueled(Box::new(dueled)),
            Event::Confirmed(confirmed) => Self::Confirmed(Box::new(confirmed)),
            Event::Compared(compared) => Self::Compared(Box::new(compared)),
            Event::StrongestCompared(compared) => Self::StrongestCompared(Box::new(compared)),
            Event::Stopped(stopped) => Self::Stopped(stopped),
            Event::Judged(_) => Self::Unknown,
        }))
    }
}
