//! Opens kernels for a case: a candidate, the oracle or the baseline, or the two kernels of a timing.
//!
//! A candidate that the device refuses is a finding; a reference that it refuses is an error. Launches nothing.

use super::anchor::{AnchorRatio, OpponentFailed};
use super::case::Case;
use super::case_kernel::CaseKernel;
use super::compiled_kernel::{CompiledKernel, Reference};
use super::context::JudgeContext;
use super::finding::{Finding, JudgeError, JudgeResult};
use crate::base::Failure;
use crate::device::{
    Cache, Opened, Program, Purpose, PythonBaselines, PythonOracle, Refusal, UnavailableBaseline,
};
use crate::kernel::Kernel;
use crate::kernel::plan::LaunchPlan;

/// The stage in which a kernel is loaded and bound to its buffers: on the CPU, a process is started.
const START_STAGE: &str = "start";

/// Two kernels that are timed against each other on a case.
#[derive(Clone, Copy)]
pub(super) struct TimedPair<'c> {
    pub(super) candidate: &'c CompiledKernel,
    pub(super) opponent: Opponent<'c>,
    pub(super) case: &'c Case,
}

/// What a candidate is timed against.
#[derive(Clone, Copy)]
pub(super) enum Opponent<'c> {
    Baseline,
    /// Another candidate that has passed.
    Kernel(&'c CompiledKernel),
    /// A kernel in the place of the baseline.
    Anchor(&'c CompiledKernel, AnchorRatio),
    /// A baseline in Python.
    Python(&'c PythonOpponent<'c>),
}

/// A baseline in Python.
pub(super) struct PythonOpponent<'c> {
    pub(super) baselines: &'c PythonBaselines,
    pub(super) name: &'c str,
    /// A kernel without code, whose launch plan has the buffers of the task.
    pub(super) buffers: &'c Kernel,
}

impl Opponent<'_> {
    /// How fast the anchor is; `None` if there is no anchor.
    pub(super) fn anchor_ratio(&self) -> Option<AnchorRatio> {
        match self {
            Self::Anchor(_, ratio) => Some(*ratio),
            Self::Baseline | Self::Kernel(_) | Self::Python(_) => None,
        }
    }

    /// Whether it is a kernel of the device: only then are outputs compared with its, and its memory exchanged with the candidate's.
    pub(super) fn is_kernel(&self) -> bool {
        !matches!(self, Self::Python(_))
    }
}

/// A kernel that can be opened for a case.
struct UnopenedKernel<'c> {
    program: &'c Program,
    plan: LaunchPlan,
}

impl<'c> UnopenedKernel<'c> {
    fn candidate(
        context: &JudgeContext<'_>,
        candidate: &'c CompiledKernel,
        case: &Case,
    ) -> JudgeResult<Self> {
        let bound = context.bind(&candidate.kernel, case)?;
        Ok(Self {
            program: candidate.program(&bound.values)?,
            plan: bound.plan,
        })
    }

    fn reference(
        context: &'c JudgeContext<'_>,
        reference: Reference,
        case: &Case,
    ) -> anyhow::Result<Self> {
        let broken = |reason: String| does_not_run(context, reference, case, &reason);
        let compiled = context.reference(reference);
        let bound = match reference {
            Reference::Oracle => context.bind_oracle(&compiled.kernel, case),
            Reference::Baseline => context.bind(&compiled.kernel, case),
        };
        let bound = bound.map_err(|error| broken(error.to_string()))?;
        let program = compiled
            .program(&bound.values)
            .map_err(|error| broken(error.to_string()))?;
        Ok(Self {
            program,
            plan: bound.plan,
        })
    }

    /// The opened kernel. The error is the device's refusal.
    fn with_opened(
        self,
        context: &JudgeContext<'_>,
        case: &Case,
        opened: Opened,
    ) -> Result<CaseKernel, Refusal> {
        match opened {
            Opened::Ready(kernel) => Ok(CaseKernel::new(context, case, kernel, self.plan)),
            Opened::Refused(refusal) => Err(refusal),
        }
    }
}

fn refused(case: &Case, refusal: Refusal) -> Finding {
    Finding::from(refusal).in_case(&case.id)
}

/// A finding about an anchor is not a finding about the candidate.
pub(super) fn as_opponent_failure(error: JudgeError) -> JudgeError {
    match error.into_finding() {
        Ok(finding) => OpponentFailed(finding.reason).into(),
        Err(error) => error.into(),
    }
}

fn does_not_run(
    context: &JudgeContext<'_>,
    reference: Reference,
    case: &Case,
    reason: &str,
) -> Failure {
    Failure::reference(format!(
        "the {} of task `{}` does not run on `{}`: {reason}",
        reference.name(),
        context.task.name,
        case.id
    ))
}

impl CaseKernel {
    pub(super) fn open_candidate(
        context: &JudgeContext<'_>,
        candidate: &CompiledKernel,
        case: &Case,
        purpose: Purpose,
    ) -> JudgeResult<Self> {
        let unopened = UnopenedKernel::candidate(context, candidate, case)?;
        let _stage = context.times.stage(START_STAGE);
        let opened = (context.device).open(unopened.program, &unopened.plan, purpose)?;
        let opened = unopened.with_opened(context, case, opened);
        Ok(opened.map_err(|refusal| refused(case, refusal))?)
    }

    /// Opens the oracle or the baseline.
    ///
    /// # Errors
    /// `Failure::reference` if it does not run on the case.
    pub(super) fn open_reference(
        context: &JudgeContext<'_>,
        reference: Reference,
        case: &Case,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        if let (Reference::Oracle, Some(oracle)) = (reference, &context.python_oracle) {
            return Self::open_python(context, oracle, case, purpose);
        }
        let unopened = UnopenedKernel::reference(context, reference, case)?;
        let _stage = context.times.stage(START_STAGE);
        let opened = (context.device).open(unopened.program, &unopened.plan, purpose)?;
        let opened = unopened.with_opened(context, case, opened);
        Ok(opened.map_err(|refusal| does_not_run(context, reference, case, &refusal.reason))?)
    }

    /// Binds an oracle in Python to a case.
    fn open_python(
        context: &JudgeContext<'_>,
        oracle: &PythonOracle,
        case: &Case,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let bound = context.bind_oracle(&context.oracle.kernel, case);
        let plan = bound
            .map_err(|error| does_not_run(context, Reference::Oracle, case, &error.to_string()))?
            .plan;
        let copies = match purpose {
            Purpose::Expect { copies } => copies,
            Purpose::Check { .. } | Purpose::Time { .. } | Purpose::Probe => 1,
        };
        let scalars = case.scalars(context.task);
        let kernel = oracle.open(context.device, &plan, &scalars, copies)?;
        Ok(Self::new(context, case, kernel, plan))
    }

    /// Binds a baseline in Python to a case.
    ///
    /// # Errors
    /// [`OpponentFailed`] if it is not available here, or does not take these inputs.
    pub(super) fn open_python_baseline(
        context: &JudgeContext<'_>,
        opponent: &PythonOpponent<'_>,
        case: &Case,
        (copies, cache): (usize, Cache),
    ) -> JudgeResult<Self> {
        let bound = context.bind(opponent.buffers, case);
        let plan = bound
            .map_err(|error| OpponentFailed(error.to_string()))?
            .plan;
        let scalars = case.scalars(context.task);
        let _stage = context.times.stage(START_STAGE);
        let opened = (opponent.baselines).open(opponent.name, (&plan, &scalars), copies, cache)?;
        match opened {
            Ok(kernel) => Ok(Self::new(context, case, kernel, plan)),
            Err(UnavailableBaseline(reason)) => Err(OpponentFailed(reason).into()),
        }
    }

    /// Opens a candidate and its opponent, at the same time if the device can.
    pub(super) fn open_timed(
        context: &JudgeContext<'_>,
        TimedPair {
            candidate,
            opponent,
            case,
        }: TimedPair<'_>,
        purpose: Purpose,
    ) -> JudgeResult<[Self; 2]> {
        if let Opponent::Python(opponent) = opponent {
            let (copies, cache) = match purpose {
                Purpose::Time { copies, cache } => (copies, cache.unwrap_or_default()),
                Purpose::Expect { .. } | Purpose::Check { .. } | Purpose::Probe => {
                    return Err(anyhow::anyhow!("a baseline in Python is only timed").into());
                }
            };
            let candidate = Self::open_candidate(context, candidate, case, purpose)?;
            let opponent = Self::open_python_baseline(context, opponent, case, (copies, cache))?;
            return Ok([candidate, opponent]);
        }
        let baseline = Reference::Baseline;
        let unopened = UnopenedKernel::candidate(context, candidate, case)?;
        let unopened_opponent = match opponent {
            Opponent::Baseline => UnopenedKernel::reference(context, baseline, case)?,
            Opponent::Kernel(kernel) => UnopenedKernel::candidate(context, kernel, case)?,
            Opponent::Anchor(kernel, _) => {
                let anchor = UnopenedKernel::candidate(context, kernel, case);
                anchor.map_err(as_opponent_failure)?
            }
            Opponent::Python(_) => return Err(anyhow::anyhow!("it has no program").into()),
        };
        let _stage = context.times.stage(START_STAGE);
        let pair = [&unopened, &unopened_opponent].map(|kernel| (kernel.program, &kernel.plan));
        let [opened, opened_opponent] = context.device.open_pair(pair, purpose)?;
        let candidate = unopened.with_opened(context, case, opened);
        let candidate = candidate.map_err(|refusal| refused(case, refusal))?;
        let result = unopened_opponent.with_opened(context, case, opened_opponent);
        let opponent = match opponent {
            Opponent::Baseline => {
                result.map_err(|refusal| does_not_run(context, baseline, case, &refusal.reason))?
            }
            Opponent::Kernel(_) => result.map_err(|refusal| refused(case, refusal))?,
            Opponent::Anchor(..) | Opponent::Python(_) => {
                result.map_err(|refusal| OpponentFailed(refusal.reason))?
            }
        };
        Ok([candidate, opponent])
    }
}
