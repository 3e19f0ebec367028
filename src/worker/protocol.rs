//! What driver and worker say to each other: one JSON document a line, the contents of files, never their paths.

use serde::{Deserialize, Serialize};

use crate::base::{Failure, FailureKind};
use crate::eval;
use crate::task::TaskFiles;
use crate::verdict::{DeviceIdentity, Duel, SelfTest, Verdict};

/// The version of these messages. Both ends are the same program, so a difference means that it was replaced while it ran.
pub(super) const PROTOCOL_VERSION: u32 = 2;

/// The first line to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: u32,
    pub(super) files: TaskFiles,
    pub(super) options: eval::JudgeOptions,
    /// Whether the first GPU that the worker sees judges; else its processor does.
    pub(super) on_card: bool,
    /// Whether a kernel for the GPU runs on the processor first.
    pub(super) screen: bool,
    /// Whether one workload shows that the baseline works, because another worker has seen it on all of them.
    pub(super) brief: bool,
}

/// A further line to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WorkerRequest {
    Judge {
        name: String,
        source: String,
        seed: Option<u64>,
    },
    Duel {
        challenger: String,
        incumbent: String,
    },
    /// The baseline against itself.
    SelfTest,
}

impl WorkerRequest {
    /// The same judgement on what an earlier one had drawn from its seed.
    pub(super) fn with_seed(&self, drawn: Option<u64>) -> Self {
        let mut request = self.clone();
        if let Self::Judge { seed, .. } = &mut request {
            *seed = seed.or(drawn);
        }
        request
    }
}

/// A line from a worker: one for the greeting, one for each request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WorkerResponse {
    Ready(DeviceIdentity),
    Verdict(Box<Verdict>),
    Duel(Option<Duel>),
    SelfTest(Vec<SelfTest>),
    /// A failure with a remedy, or broken machinery where `kind` is `None`.
    Failure(WireFailure),
}

/// A [`Failure`] on its way between processes.
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
