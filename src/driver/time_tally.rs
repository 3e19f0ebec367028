//! What the time of a task was spent on, counted from the events of its journal: live, and when a run is resumed.
//!
//! Also says what a judgement, a confirmation and a comparison cost on this machine. Reads no clock.

use std::collections::HashMap;
use std::time::Duration;

use crate::event::{EvaluationSeconds, Event, ReplayedEvent};
use crate::report::TimeSpent;
use crate::verdict::{Seconds, Status};

/// What a confirmation costs before the first of a run was made, as a multiple of the kernel's judgement: all hidden cases are checked,
/// the inspection runs more schedules, and several processes time the kernel. Measured for `gdn_decode` on two idle cores: two processes
/// of a kernel whose judgement took 2.7 s took 10.3 s. On a GPU it is five judgements.
const CONFIRMATION_COST: f64 = 5.0;
/// What a comparison costs before the first was made, as a part of a confirmation: it only times.
const COMPARISON_COST: f64 = 0.5;

/// What timing a kernel against the strongest baseline costs before the first was made: Python and PyTorch start, which takes most of it.
const STRONGEST_COST: ExpectedTime = ExpectedTime {
    wall: Duration::from_secs(15),
    device: Duration::from_secs(2),
};

/// The time of a task by its use.
#[derive(Debug, Default)]
pub(super) struct TimeTally {
    /// The steps up to this one are starting kernels.
    starting_kernels: u64,
    spent: TimeSpent,
    judged: u64,
    judged_seconds: f64,
    /// What the judgements of the candidates that passed took, by step.
    passed: HashMap<u64, EvaluationSeconds>,
    confirmed: Total,
    compared: Total,
    beside_strongest: Total,
}

/// The sum of several evaluations.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u32,
    seconds: EvaluationSeconds,
}

impl Total {
    fn add(&mut self, seconds: EvaluationSeconds) {
        self.count += 1;
        self.seconds.wall += seconds.wall;
        self.seconds.device += seconds.device;
    }

    fn mean(&self) -> Option<ExpectedTime> {
        (self.count > 0).then(|| ExpectedTime::new(&self.seconds, 1.0 / f64::from(self.count)))
    }
}

/// What an evaluation is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExpectedTime {
    pub(super) wall: Duration,
    pub(super) device: Duration,
}

impl ExpectedTime {
    fn new(seconds: &EvaluationSeconds, factor: f64) -> Self {
        let duration = |seconds: f64| Duration::try_from_secs_f64(seconds * factor);
        Self {
            wall: duration(seconds.wall).unwrap_or_default(),
            device: duration(seconds.device).unwrap_or_default(),
        }
    }
}

impl TimeTally {
    /// `starting_kernels`: the number of steps that try a starting kernel.
    pub(super) fn new(starting_kernels: u64) -> Self {
        Self {
            starting_kernels,
            ..Self::default()
        }
    }

    pub(super) fn spent(&self) -> &TimeSpent {
        &self.spent
    }

    pub(super) fn count_event(&mut self, event: &Event) {
        match event {
            Event::Judged(judged) => {
                let verdict = &judged.verdict;
                self.count_verdict(judged.step, verdict.status, &verdict.seconds);
            }
            Event::Dueled(dueled) => {
                let seconds = dueled.seconds.unwrap_or_default();
                self.spent.duels += seconds.wall;
                self.spent.device += seconds.device;
            }
            Event::Confirmed(confirmed) => {
                let stages = &confirmed.verdict.seconds;
                // Journals of earlier versions have only the stages.
                let seconds = confirmed.seconds.unwrap_or(EvaluationSeconds {
                    wall: stages.total(),
                    device: stages.device,
                });
                self.confirmed.add(seconds);
                self.spent.confirmation += seconds.wall;
                self.spent.device += seconds.device;
            }
            Event::Compared(compared) => {
                let seconds = compared.seconds.unwrap_or_default();
                // Journals of earlier versions do not say what it took.
                if compared.seconds.is_some() {
                    self.compared.add(seconds);
                }
                self.spent.comparison += seconds.wall;
                self.spent.device += seconds.device;
            }
            Event::StrongestCompared(compared) => {
                let seconds = compared.seconds.unwrap_or_default();
                self.beside_strongest.add(seconds);
                self.spent.strongest += seconds.wall;
                self.spent.device += seconds.device;
            }
            Event::Failed(failed) => {
                self.spent.device += failed.seconds.unwrap_or_default().device;
            }
            Event::Proposed(proposed) => {
                let tried = proposed.tried.as_ref();
                let seconds = tried.map(|tried| tried.seconds).unwrap_or_default();
                self.spent.trials += seconds.wall;
                self.spent.device += seconds.device;
            }
            Event::Replied(replied) => self.spent.waiting_for_models += replied.seconds.max(0.0),
            Event::Asked(_) | Event::Sent(_) | Event::Stopped(_) => {}
        }
    }

    /// Like `count_event`, for an event of a journal that is read again.
    pub(super) fn count_replayed(&mut self, event: &ReplayedEvent) {
        match event {
            ReplayedEvent::Judged(judged) => {
                let verdict = &judged.verdict;
                self.count_verdict(judged.step, verdict.status, &verdict.seconds);
            }
            ReplayedEvent::Other(event) => self.count_event(event),
        }
    }

    pub(super) fn count_verdict(&mut self, step: u64, status: Status, seconds: &Seconds) {
        let total = seconds.total();
        // A judgement that ended in a harness error says nothing about how long a judgement takes.
        if status != Status::HarnessError {
            self.judged += 1;
            self.judged_seconds += total;
        }
        self.spent.device += seconds.device;
        if step <= self.starting_kernels {
            self.spent.starting_kernels += total;
        } else {
            self.spent.search.add(seconds);
        }
        if status == Status::Passed {
            let seconds = EvaluationSeconds {
                wall: total,
                device: seconds.device,
            };
            self.passed.insert(step, seconds);
        }
    }

    /// Device time so far.
    pub(super) fn device(&self) -> Duration {
        Duration::try_from_secs_f64(self.spent.device).unwrap_or_default()
    }

    /// What judging a candidate takes, on average. Zero before the first.
    pub(super) fn judgement(&self) -> Duration {
        let mean = self.judged_seconds / (self.judged.max(1) as f64);
        Duration::try_from_secs_f64(mean).unwrap_or_default()
    }

    /// Whether a confirmation has shown what one takes.
    pub(super) fn has_confirmed(&self) -> bool {
        self.confirmed.count > 0
    }

    /// What confirming this candidate is expected to take. Zero if nothing is known.
    pub(super) fn confirmation(&self, step: Option<u64>) -> ExpectedTime {
        if let Some(mean) = self.confirmed.mean() {
            return mean;
        }
        let judged = step.and_then(|step| self.passed.get(&step));
        judged.map_or_else(ExpectedTime::default, |judged| {
            ExpectedTime::new(judged, CONFIRMATION_COST)
        })
    }

    /// What timing a kernel against the strongest baselines is expected to take.
    pub(super) fn strongest(&self) -> ExpectedTime {
        self.beside_strongest.mean().unwrap_or(STRONGEST_COST)
    }

    /// What comparing this candidate with a starting kernel is expected to take. Zero if nothing is known.
    pub(super) fn comparison(&self, step: Option<u64>) -> ExpectedTime {
        self.compared.mean().unwrap_or_else(|| {
            let ExpectedTime { wall, device } = self.confirmation(step);
            ExpectedTime {
                wall: wall.mul_f64(COMPARISON_COST),
                device: device.mul_f64(COMPARISON_COST),
            }
        })
    }
}
