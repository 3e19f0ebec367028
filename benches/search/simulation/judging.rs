//! The simulated judge: what comes of a judgement or a duel, and what it takes.
//!
//! Decides everything when the work starts. `simulator` lets the time pass.

use kforge::event::{Dueled, EvaluationSeconds, Event, Failed, FailedReason, Judged};
use kforge::event::{Proposed, TriedPoint, TriedPoints};
use kforge::search::DuelRequest;
use kforge::verdict::{Duel, Speedup, Status, Timing};

use super::dice::Dice;
use super::landscape::{Kernel, Landscape, Truth};
use super::machine::{JudgementCosts, Machine, Measurement};
use super::strategy::Strategy;
use super::verdicts::{Figures, verdict};

/// A judgement or a duel, with its outcome.
pub(crate) struct Job {
    pub(crate) event: Event,
    /// Seconds before it needs the device, and on it.
    pub(crate) host: f64,
    pub(crate) device: f64,
    pub(crate) kind: JobKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    Judgement,
    /// A judgement that ended early.
    Dismissal,
    /// It violates a constraint, which is known before it is judged.
    Rejection,
    Duel,
    /// Trials of some points. The event is the proposal with its fastest point.
    Trials,
}

/// Points that compile at the same time, next to the device.
const COMPILED_AT_ONCE: usize = 2;

/// Judges the kernels of one search.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'s> {
    pub(crate) landscape: &'s dyn Landscape,
    pub(crate) machine: &'s Machine,
    pub(crate) seed: u64,
}

impl Judge<'_> {
    /// Judges a candidate against what the strategy knows now.
    pub(crate) fn judge(&self, step: u64, kernel: &Kernel, strategy: &dyn Strategy) -> Job {
        let truth = self.landscape.truth(kernel);
        let costs = self.costs_of(&truth);
        let judged = |figures| {
            Event::Judged(Judged {
                step,
                verdict: verdict(&truth, figures),
            })
        };
        let mut dice = Dice::new(&[self.seed, 43, step]);
        let device = match truth.status {
            Status::Passed => return self.judge_correct(step, &truth, strategy),
            Status::Rejected => {
                return Job {
                    host: 0.0,
                    device: 0.0,
                    kind: JobKind::Rejection,
                    ..job(judged(None), costs, 0.0)
                };
            }
            Status::CompileError => 0.0,
            Status::LaunchError => costs.first_check,
            _ => dice.between(costs.first_check, costs.check),
        };
        job(judged(None), costs, device)
    }

    /// Judges a candidate that is correct.
    fn judge_correct(&self, step: u64, truth: &Truth, strategy: &dyn Strategy) -> Job {
        let costs = self.costs_of(truth);
        let known = strategy.known_code(step);
        if let Some(known) = known.iter().find(|known| known.code == truth.code) {
            let same = Failed {
                of: Some(known.step),
                code: Some(truth.code),
                ..failed(step, FailedReason::Duplicate)
            };
            return job(Event::Failed(same), costs, 0.0);
        }
        let mut dice = Dice::new(&[self.seed, 43, step]);
        let bar = strategy.bar(step, &truth.features).map(f64::ln);
        let measured = self.machine.measure(truth.speedup.ln(), bar, &mut dice);
        let (checks, timing, kind) = if measured.dismissed {
            (costs.first_check, Timing::Dismissed, JobKind::Dismissal)
        } else {
            (costs.check, Timing::Full, JobKind::Judgement)
        };
        let figures = Figures {
            speedup: Speedup {
                geomean: measured.estimate.exp(),
                ci95: interval(&measured),
            },
            timing,
        };
        let event = Event::Judged(Judged {
            step,
            verdict: verdict(truth, Some(figures)),
        });
        Job {
            kind,
            ..job(event, costs, checks + measured.part * costs.timing)
        }
    }

    /// Times the two kernels of a request against each other: the challenger's first.
    pub(crate) fn duel(&self, request: DuelRequest, kernels: [Kernel; 2]) -> Job {
        let DuelRequest { step, against } = request;
        let truths = kernels.map(|kernel| self.landscape.truth(&kernel));
        let costs = self.costs_of(&truths[0]);
        let [challenger, incumbent] = truths.map(|truth| truth.speedup.ln());
        let mut dice = Dice::new(&[self.seed, 44, step, against]);
        let measured =
            self.machine
                .measure_part(self.machine.duel, challenger - incumbent, None, &mut dice);
        let event = Event::Dueled(Dueled {
            step,
            against,
            duel: Some(Duel {
                ratio: measured.estimate.exp(),
                ci95: interval(&measured),
            }),
            seconds: None,
        });
        Job {
            kind: JobKind::Duel,
            ..job(
                event,
                costs,
                costs.first_check + self.machine.duel * costs.timing,
            )
        }
    }

    /// Tries a kernel at several points: `kernels` are those of the points, the first is the proposal's own. Chooses the fastest.
    pub(crate) fn try_points(&self, mut proposed: Proposed, kernels: &[Kernel]) -> (Job, Kernel) {
        let mut dice = Dice::new(&[self.seed, 45, proposed.step]);
        let costs = self.machine.costs;
        let mut device = 0.0;
        let mut points = Vec::new();
        for kernel in kernels {
            let truth = self.landscape.truth(kernel);
            let error = self.machine.noise.of_trial() * dice.normal();
            let passed = truth.status == Status::Passed;
            device += match truth.status {
                Status::Rejected => 0.0,
                Status::CompileError => costs.compile,
                _ => costs.compile + costs.trial,
            };
            points.push(TriedPoint {
                point: self.landscape.values(kernel),
                microseconds: passed.then(|| (error - truth.speedup.ln()).exp()),
                status: truth.status,
            });
        }
        let tried = TriedPoints {
            points,
            seconds: EvaluationSeconds {
                wall: device,
                device,
            },
        };
        let fastest = tried.fastest().map(|fastest| fastest.point.clone());
        let point = fastest.unwrap_or_else(|| proposed.point.clone());
        let chosen = kernels
            .iter()
            .find(|kernel| self.landscape.values(kernel) == point);
        let kernel = chosen.copied().unwrap_or_default();
        proposed.kernel = kernel.digest();
        proposed.point = point;
        proposed.tried = Some(tried);
        let job = Job {
            event: Event::Proposed(proposed),
            host: costs.host * kernels.len().div_ceil(COMPILED_AT_ONCE) as f64,
            device,
            kind: JobKind::Trials,
        };
        (job, kernel)
    }

    fn costs_of(&self, truth: &Truth) -> JudgementCosts {
        let costs = self.machine.costs;
        truth.recorded.map_or(costs, |recorded| JudgementCosts {
            host: recorded.compile,
            timing: recorded.timing,
            ..costs
        })
    }
}

/// A step that ended without a candidate.
pub(crate) fn failed(step: u64, reason: FailedReason) -> Failed {
    Failed {
        step,
        reason,
        of: None,
        detail: None,
        kernel: None,
        code: None,
        seconds: None,
        edits: Default::default(),
    }
}

/// `device`: seconds on the device, without compilation.
fn job(mut event: Event, costs: JudgementCosts, device: f64) -> Job {
    if let Event::Judged(judged) = &mut event {
        judged.verdict.seconds.device = costs.compile + device;
    }
    Job {
        event,
        host: costs.host,
        device: costs.compile + device,
        kind: JobKind::Judgement,
    }
}

/// The 95 % interval of a ratio.
fn interval(measured: &Measurement) -> [f64; 2] {
    [-1.0, 1.0].map(|side| (measured.estimate + side * measured.half_width).exp())
}
