//! Messages between the driver and a worker: one JSON document per line.
//!
//! Messages contain the contents of files, never paths. This module only defines the types; `child` sends and `server` receives
//! them.

use serde::{Deserialize, Serialize};

use super::Rivals;
use crate::base::{Failure, FailureKind};
use crate::eval::{self, Judgement, OpponentTimes};
use crate::task::TaskFiles;
use crate::verdict::{DeviceIdentity, Duel, SelfTest};

/// Version of the messages. Both ends are the same program; a difference means that the program was replaced while it ran.
pub(super) const PROTOCOL_VERSION: u32 = 12;

/// The first line to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: u32,
    pub(super) files: TaskFiles,
    pub(super) options: eval::JudgeOptions,
    /// Whether to judge on the first visible GPU; otherwise on the CPU.
    pub(super) on_gpu: bool,
    /// Whether a kernel runs on the CPU before it runs on the GPU.
    pub(super) screen: bool,
    /// Whether the baseline is checked on its smallest workload only, because another worker has checked it on all of them.
    pub(super) baseline_is_proven: bool,
    /// The worker measures the points of a recorded space; `None`: it judges kernels.
    #[serde(default)]
    pub(super) space: Option<eval::SpaceSettings>,
}

/// A later line to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WorkerRequest {
    Judge {
        name: String,
        source: String,
        /// Repeats an earlier judgement; `None`: draw a new seed.
        seed: Option<u64>,
        /// Whether to check a part of the hidden cases, or all for a confirmation.
        coverage: eval::Coverage,
        rivals: Box<Rivals>,
        /// What other workers of the device have found out about the opponents. The dispatcher adds it.
        #[serde(default)]
        opponents: OpponentTimes,
    },
    Duel {
        challenger: String,
        incumbent: String,
        purpose: eval::DuelPurpose,
    },
    /// Time the baseline against itself.
    SelfTest,
    /// Measure a point. This and the next request are for a worker that measures a recorded space.
    Point(eval::PointRequest),
    /// What all points of the space share.
    SpaceFacts,
    /// The names of the baselines in a Python file (text and file name).
    BaselineNames { source: [String; 2] },
    /// Have Python compile a baseline for a workload, while others may be timed.
    PrepareBaseline {
        workload: String,
        name: String,
        /// Text and file name.
        source: [String; 2],
    },
    /// Time a kernel against a baseline.
    MeasureBaseline(Box<eval::BaselineRequest>),
}

impl WorkerRequest {
    /// The same request with what is known about the opponents, for a candidate of a search. What is reported depends on nothing that
    /// another process has measured.
    pub(super) fn with_opponents(&self, known: OpponentTimes) -> Self {
        let mut request = self.clone();
        if let Self::Judge { opponents, .. } = &mut request
            && self.is_of_search()
        {
            *opponents = known;
        }
        request
    }

    /// Whether what it returns is only for a search: nothing of it is reported before it is confirmed.
    pub(super) fn is_of_search(&self) -> bool {
        match self {
            Self::Judge { rivals, .. } => rivals.incumbents.is_some(),
            Self::Duel { purpose, .. } => *purpose == eval::DuelPurpose::Search,
            _ => false,
        }
    }

    /// The same request with the seed of an earlier judgement, so that it uses the same inputs and hidden shapes.
    pub(super) fn with_seed(&self, drawn: Option<u64>) -> Self {
        let mut request = self.clone();
        if let Self::Judge { seed, rivals, .. } = &mut request {
            *seed = seed.or(drawn);
            // Other timings might dismiss the kernel before the case that is to be repeated.
            **rivals = Rivals::default();
        }
        request
    }
}

/// A line from a worker: one for the greeting and one for each request, and signs of life before each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WorkerResponse {
    /// A sign of life while the worker works.
    Alive {
        /// For how long it has completed nothing, except waits that have a limit.
        stalled_seconds: u64,
    },
    Ready(DeviceIdentity),
    Judged(Box<Judged>),
    Duel {
        duel: Option<Duel>,
        /// Device time in seconds, like `seconds.device` of a verdict.
        device_seconds: f64,
    },
    SelfTest(Vec<SelfTest>),
    Point(Box<eval::PointResult>),
    SpaceFacts(eval::SpaceFacts),
    BaselineNames(Vec<String>),
    /// Why the baseline could not be prepared, if that is so.
    Prepared(Option<String>),
    Baseline(Box<eval::BaselineResult>),
    Failure(WireFailure),
}

/// The response to `WorkerRequest::Judge`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Judged {
    pub(super) judgement: Judgement,
    /// What the worker knows about the opponents now.
    pub(super) opponents: OpponentTimes,
}

/// An error on its way between processes: a [`Failure`], or broken machinery if `kind` is `None`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WireFailure {
    kind: Option<WireFailureKind>,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireFailureKind {
    Usage,
    Environment,
    Reference,
}

impl WireFailure {
    pub(super) fn from_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Failure>() {
            Some(failure) => Self {
                kind: Some(match failure.kind {
                    FailureKind::Usage => WireFailureKind::Usage,
                    FailureKind::Environment => WireFailureKind::Environment,
                    FailureKind::Reference => WireFailureKind::Reference,
                }),
                message: failure.message.clone(),
                hint: failure.hint.clone(),
            },
            None => Self {
                kind: None,
                message: format!("{error:#}"),
                hint: None,
            },
        }
    }

    pub(super) fn into_error(self) -> anyhow::Error {
        let kind = match self.kind {
            Some(WireFailureKind::Usage) => FailureKind::Usage,
            Some(WireFailureKind::Environment) => FailureKind::Environment,
            Some(WireFailureKind::Reference) => FailureKind::Reference,
            None => return anyhow::anyhow!("{}", self.message),
        };
        Failure {
            kind,
            message: self.message,
            hint: self.hint,
        }
        .into()
    }
}
