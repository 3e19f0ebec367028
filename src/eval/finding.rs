//! Why a judgement ends early: a finding about the candidate, or broken machinery.
//!
//! A finding is data for the verdict. Everything in `eval` that can produce one returns [`JudgeResult`], and `?` passes both
//! kinds on.

use crate::base::Failure;
use crate::device::{AbsentRead, Build, Refusal};
use crate::kernel::{BindError, BindFault, HeaderError};
use crate::verdict::{Evidence, Status};

/// Something that is wrong with a candidate.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) status: Status,
    /// One sentence for people and models.
    pub(super) reason: String,
    /// Boxed because it is large and mostly empty.
    pub(super) evidence: Box<Evidence>,
    /// Id of the case that showed it, if any.
    pub(super) case: Option<String>,
}

/// Why a judgement ends early.
#[derive(Debug)]
pub(super) enum JudgeError {
    /// The candidate's fault.
    Finding(Finding),
    /// The fault of kforge, of the machine, or of the task.
    Broken(anyhow::Error),
}

pub(super) type JudgeResult<T> = Result<T, JudgeError>;

impl Finding {
    pub(super) fn new(
        status: Status,
        reason: impl Into<String>,
        evidence: impl Into<Box<Evidence>>,
    ) -> Self {
        Self {
            status,
            reason: reason.into(),
            evidence: evidence.into(),
            case: None,
        }
    }

    /// Sets the case, unless the finding already has one.
    #[must_use]
    pub(super) fn in_case(mut self, id: &str) -> Self {
        self.case.get_or_insert_with(|| id.to_owned());
        self
    }
}

/// The finding about a kernel whose result depends on a lane that took no part in a shuffle.
pub(super) fn undefined_shuffle(read: &AbsentRead, build: Build, seed: u64) -> Finding {
    let line = read.line.map(|line| format!("line {line}: "));
    let why = if read.has_exited {
        "which has exited or never was"
    } else {
        "which its mask does not name"
    };
    let ([a, b, c], [x, y, z]) = (read.block, read.thread);
    let reason = format!(
        "{}a shuffle reads lane {}, {why}, and the result depends on its undefined value; block ({a}, {b}, {c}), thread ({x}, {y}, {z})",
        line.unwrap_or_default(),
        read.lane
    );
    let evidence = Evidence {
        line: read.line,
        block: Some(read.block),
        thread: Some(read.thread),
        build: Some(build.name().to_owned()),
        seed: Some(seed),
        ..Evidence::default()
    };
    Finding::new(Status::UndefinedBehavior, reason, evidence)
}

impl JudgeError {
    /// The finding. Broken machinery stays an error.
    pub(super) fn into_finding(self) -> anyhow::Result<Finding> {
        match self {
            Self::Finding(finding) => Ok(finding),
            Self::Broken(error) => Err(error),
        }
    }

    /// Changes a finding. Broken machinery stays as it is.
    #[must_use]
    pub(super) fn map_finding(self, change: impl FnOnce(Finding) -> Finding) -> Self {
        match self {
            Self::Finding(finding) => Self::Finding(change(finding)),
            Self::Broken(error) => Self::Broken(error),
        }
    }
}

impl From<Refusal> for Finding {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.reason, refusal.evidence)
    }
}

impl From<HeaderError> for Finding {
    fn from(error: HeaderError) -> Self {
        let evidence = Evidence {
            line: Some(error.line),
            ..Evidence::default()
        };
        Self::new(Status::Rejected, format!("header, {error}"), evidence)
    }
}

impl From<BindError> for Finding {
    fn from(error: BindError) -> Self {
        let status = match error.fault {
            BindFault::Rejected => Status::Rejected,
            BindFault::LaunchError => Status::LaunchError,
            BindFault::LimitExceeded => Status::LimitExceeded,
        };
        let evidence = Evidence {
            line: Some(error.line),
            ..Evidence::default()
        };
        Self::new(status, error.to_string(), evidence)
    }
}

impl From<Finding> for JudgeError {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

impl From<Refusal> for JudgeError {
    fn from(refusal: Refusal) -> Self {
        Self::Finding(refusal.into())
    }
}

impl From<HeaderError> for JudgeError {
    fn from(error: HeaderError) -> Self {
        Self::Finding(error.into())
    }
}

impl From<BindError> for JudgeError {
    fn from(error: BindError) -> Self {
        Self::Finding(error.into())
    }
}

impl From<anyhow::Error> for JudgeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Failure> for JudgeError {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_findings_become_values() {
        let bind_error = BindError {
            fault: BindFault::LimitExceeded,
            line: 4,
            message: "too much shared memory".to_owned(),
        };
        let finding = JudgeError::from(bind_error)
            .map_finding(|finding| finding.in_case("b1").in_case("b2"))
            .into_finding()
            .unwrap();
        assert_eq!(finding.status, Status::LimitExceeded);
        assert_eq!(finding.evidence.line, Some(4));
        assert_eq!(finding.case.as_deref(), Some("b1"), "the first case stays");
        let broken = JudgeError::from(anyhow::anyhow!("no device"));
        let error = broken
            .map_finding(|_| panic!("not a finding"))
            .into_finding();
        assert_eq!(error.unwrap_err().to_string(), "no device");
    }
}
