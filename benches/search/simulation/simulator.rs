//! Runs one search on a landscape and a simulated machine, as the driver does: several steps in flight, own operators and models next to
//! the judge, duels before candidates, and a clock that only work moves.
//!
//! Deterministic: the same landscape, machine, strategy and seed give the same run. Uses no thread and no clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use kforge::base::Digest;
use kforge::event::{Brief, Event, Failed, FailedReason, Operator, Proposed};

use super::dice::Dice;
use super::judging::{Job, JobKind, Judge, failed};
use super::landscape::{Kernel, Landscape, Proposal};
use super::machine::Machine;
use super::record::{Best, RunRecord};
use super::strategy::{Replacement, Strategy};

/// Microseconds.
type Instant = u64;

/// Where and how long a search runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Seconds of the simulated clock.
    pub(crate) seconds: f64,
    /// Steps that are asked at most.
    pub(crate) steps: u64,
    /// Steps in flight.
    pub(crate) window: u64,
}

/// Something that happens at an instant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The own operators have finished a batch of briefs.
    Made(Vec<u64>),
    /// A model has answered.
    Answered(u64),
    /// A job is compiled and needs the device next.
    Compiled(usize),
    /// A job has left the device.
    Measured(usize),
}

/// One simulated search.
pub(crate) struct Simulator<'s> {
    landscape: &'s dyn Landscape,
    machine: &'s Machine,
    strategy: &'s mut dyn Strategy,
    judge: Judge<'s>,
    limits: Limits,
    seed: u64,
    now: Instant,
    /// Orders what happens at the same instant.
    sequence: u64,
    happenings: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    next_step: u64,
    /// Steps without a candidate or a failure.
    open: BTreeMap<u64, Brief>,
    /// Briefs that wait for an own operator, and for a model.
    waiting: [VecDeque<u64>; 2],
    is_making: bool,
    requests: usize,
    kernels: HashMap<u64, Kernel>,
    /// The first step with each source.
    step_of: HashMap<Digest, u64>,
    unjudged: BTreeMap<u64, Kernel>,
    /// Proposals whose points are to be tried, with the kernels at all of them, and whether those of one are tried now.
    untried: BTreeMap<u64, (Proposed, Vec<Kernel>)>,
    is_trying: bool,
    jobs: Vec<Job>,
    judging: usize,
    is_dueling: bool,
    device_queue: VecDeque<usize>,
    is_device_busy: bool,
    record: RunRecord,
}

impl<'s> Simulator<'s> {
    pub(crate) fn new(
        landscape: &'s dyn Landscape,
        machine: &'s Machine,
        strategy: &'s mut dyn Strategy,
        limits: Limits,
        seed: u64,
    ) -> Self {
        Self {
            landscape,
            machine,
            strategy,
            judge: Judge {
                landscape,
                machine,
                seed,
            },
            limits,
            seed,
            now: 0,
            sequence: 0,
            happenings: BinaryHeap::new(),
            next_step: 1,
            open: BTreeMap::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            is_making: false,
            requests: 0,
            kernels: HashMap::new(),
            step_of: HashMap::new(),
            unjudged: BTreeMap::new(),
            untried: BTreeMap::new(),
            is_trying: false,
            jobs: Vec::new(),
            judging: 0,
            is_dueling: false,
            device_queue: VecDeque::new(),
            is_device_busy: false,
            record: RunRecord::default(),
        }
    }

    /// Runs until the time is over, the steps are made, or the strategy ends.
    pub(crate) fn run(mut self) -> RunRecord {
        let end = micros(self.limits.seconds);
        loop {
            self.start_work();
            let Some(Reverse((instant, _, happening))) = self.happenings.pop() else {
                break;
            };
            if instant > end {
                self.now = end;
                break;
            }
            self.now = instant;
            self.settle(happening);
            let has_ended = self.next_step > self.limits.steps && self.open_steps() == 0;
            if self.strategy.is_over() || has_ended {
                break;
            }
        }
        self.record.seconds = self.now as f64 / 1e6;
        self.record.optimum = self.landscape.optimum();
        self.record
    }

    /// Starts everything that can start now.
    fn start_work(&mut self) {
        self.ask();
        self.make();
        self.request();
        self.dispatch();
    }

    fn ask(&mut self) {
        while self.next_step <= self.limits.steps && self.open_steps() < self.limits.window {
            let Some(brief) = self.strategy.ask(self.next_step) else {
                return;
            };
            let step = brief.step;
            self.waiting[usize::from(brief.operator.asks_model())].push_back(step);
            self.open.insert(step, brief.clone());
            self.next_step += 1;
            self.tell(Event::Asked(brief));
        }
    }

    /// Steps that are asked and have no result.
    fn open_steps(&self) -> u64 {
        self.next_step - 1 - self.record.steps
    }

    /// Passes all briefs for own operators to the proposer.
    fn make(&mut self) {
        if self.is_making || self.waiting[0].is_empty() {
            return;
        }
        let batch: Vec<u64> = self.waiting[0].drain(..).collect();
        let seconds = self.machine.proposal * batch.len() as f64;
        self.is_making = true;
        self.happen(seconds, Happening::Made(batch));
    }

    fn request(&mut self) {
        let Some(models) = self.machine.models else {
            return;
        };
        while self.requests < models.concurrency
            && let Some(step) = self.waiting[1].pop_front()
        {
            self.requests += 1;
            let seconds = models.answer(&mut Dice::new(&[self.seed, 41, step]));
            self.happen(seconds, Happening::Answered(step));
        }
    }

    /// Fills the judge: a duel first, then starting kernels, then the candidates in step order.
    fn dispatch(&mut self) {
        while self.judging < self.machine.in_flight {
            let duel = self.strategy.pending_duel().filter(|_| !self.is_dueling);
            let job = if let Some(request) = duel {
                self.is_dueling = true;
                let kernels = [request.step, request.against];
                let kernels = kernels.map(|step| self.kernels.get(&step).copied());
                self.judge
                    .duel(request, kernels.map(Option::unwrap_or_default))
            } else if let Some(job) = self.next_trials() {
                job
            } else if let Some((step, kernel)) = self.next_candidate() {
                self.judge.judge(step, &kernel, self.strategy)
            } else {
                return;
            };
            self.judging += 1;
            let (index, host) = (self.jobs.len(), job.host);
            self.jobs.push(job);
            self.happen(host, Happening::Compiled(index));
        }
    }

    /// The trials of the first proposal that waits. One at a time.
    fn next_trials(&mut self) -> Option<Job> {
        if self.is_trying {
            return None;
        }
        let (step, (proposed, kernels)) = self.untried.pop_first()?;
        self.is_trying = true;
        let (job, kernel) = self.judge.try_points(proposed, &kernels);
        self.kernels.insert(step, kernel);
        Some(job)
    }

    /// The last starting kernel comes first and the baseline last, as in `driver::scheduler`.
    fn next_candidate(&mut self) -> Option<(u64, Kernel)> {
        let starts = self.landscape.starts().len() as u64;
        let start = self.unjudged.range(..=starts).next_back();
        match start.map(|(step, _)| *step) {
            Some(step) => self.unjudged.remove_entry(&step),
            None => self.unjudged.pop_first(),
        }
    }

    fn settle(&mut self, happening: Happening) {
        match happening {
            Happening::Made(steps) => {
                self.is_making = false;
                for step in steps {
                    self.propose(step);
                }
            }
            Happening::Answered(step) => {
                self.requests -= 1;
                self.propose(step);
            }
            Happening::Compiled(index) => {
                if self.jobs[index].device > 0.0 {
                    self.device_queue.push_back(index);
                    self.start_device();
                } else {
                    self.finish(index);
                }
            }
            Happening::Measured(index) => {
                self.is_device_busy = false;
                self.start_device();
                self.finish(index);
            }
        }
    }

    /// Gives the device to the next job. It serves one at a time.
    fn start_device(&mut self) {
        if self.is_device_busy {
            return;
        }
        let Some(index) = self.device_queue.pop_front() else {
            return;
        };
        let (seconds, kind) = (self.jobs[index].device, self.jobs[index].kind);
        self.is_device_busy = true;
        let left = self.limits.seconds - self.now as f64 / 1e6;
        let counted = seconds.min(left);
        self.record.device_seconds += counted;
        if kind == JobKind::Duel {
            self.record.duel_seconds += counted;
        }
        self.happen(seconds, Happening::Measured(index));
    }

    fn finish(&mut self, index: usize) {
        self.judging -= 1;
        let job = &self.jobs[index];
        let record = &mut self.record;
        match job.kind {
            JobKind::Judgement => record.judged += 1,
            JobKind::Dismissal => {
                record.judged += 1;
                record.dismissed += 1;
            }
            JobKind::Rejection => record.rejected += 1,
            JobKind::Duel => {
                self.is_dueling = false;
                record.duels += 1;
            }
            JobKind::Trials => {
                self.is_trying = false;
                let event = job.event.clone();
                if let Event::Proposed(proposed) = event {
                    self.accept(proposed);
                }
                return;
            }
        }
        record.steps += u64::from(job.kind != JobKind::Duel);
        let event = job.event.clone();
        self.tell(event);
    }

    /// Settles a proposal: a candidate, a duplicate, or a failure.
    fn propose(&mut self, step: u64) {
        let Some(brief) = self.open.remove(&step) else {
            return;
        };
        let proposal = self.proposal(&brief);
        let (kernel, detail) = match proposal {
            Proposal::Failed(reason) => return self.fail(failed(step, reason)),
            Proposal::Kernel { kernel, detail } => (kernel, detail),
        };
        self.kernels.insert(step, kernel);
        let proposed = Proposed {
            step,
            kernel: kernel.digest(),
            form: None,
            operator: brief.operator,
            parents: brief.parents,
            detail,
            family: kernel.family(),
            point: self.landscape.values(&kernel),
            space: self.landscape.tunables().clone(),
            constraints: Vec::new(),
            expected: None,
            edits: Default::default(),
            shingles: (self.strategy.compares_shingles()).then(|| kernel.shingles()),
            tried: None,
        };
        if self.step_of.contains_key(&proposed.kernel) {
            return self.accept(proposed);
        }
        if let Some(of) = self.strategy.near_copy_of(&proposed) {
            return self.fail(Failed {
                of: Some(of),
                detail: Some(proposed.detail),
                ..failed(step, FailedReason::NearCopy)
            });
        }
        let points = self.strategy.points_to_try(&proposed);
        let others = points.iter();
        let others = others.filter_map(|point| self.landscape.at_point(&kernel, point));
        let kernels: Vec<Kernel> = [kernel].into_iter().chain(others).collect();
        if kernels.len() > 1 {
            self.untried.insert(step, (proposed, kernels));
        } else {
            self.accept(proposed);
        }
    }

    /// Passes a candidate to the judge, unless it is known.
    fn accept(&mut self, proposed: Proposed) {
        let step = proposed.step;
        if let Some(earlier) = self.step_of.get(&proposed.kernel).copied() {
            return self.fail(Failed {
                of: Some(earlier),
                kernel: Some(proposed.kernel),
                detail: Some(proposed.detail),
                ..failed(step, FailedReason::Duplicate)
            });
        }
        self.step_of.insert(proposed.kernel, step);
        let kernel = self.kernels.get(&step).copied().unwrap_or_default();
        self.unjudged.insert(step, kernel);
        self.tell(Event::Proposed(proposed));
    }

    fn proposal(&self, brief: &Brief) -> Proposal {
        let parents = brief.parents.iter();
        let parents: Vec<Kernel> = parents
            .filter_map(|parent| self.kernels.get(parent).copied())
            .collect();
        match (brief.operator, parents.first()) {
            (Operator::Start, _) => {
                let index = (brief.step - 1) as usize;
                let start = self.landscape.starts().get(index).copied();
                start.map_or(Proposal::Failed(FailedReason::NoOp), |start| {
                    Proposal::new(start, "start")
                })
            }
            (Operator::Autotune, Some(parent)) => {
                let moved = brief.point.as_ref();
                let moved = moved.and_then(|point| self.landscape.at_point(parent, point));
                moved.map_or(Proposal::Failed(FailedReason::NoOp), |moved| {
                    Proposal::new(moved, "autotune")
                })
            }
            (operator, None) if !operator.asks_model() => Proposal::Failed(FailedReason::NoOp),
            _ => {
                let mut dice = Dice::new(&[self.seed, 42, brief.step]);
                self.landscape.propose(brief, &parents, &mut dice)
            }
        }
    }

    fn fail(&mut self, failed: Failed) {
        self.record.steps += 1;
        match failed.reason {
            FailedReason::Duplicate => self.record.duplicates += 1,
            _ => self.record.without_candidate += 1,
        }
        self.tell(Event::Failed(failed));
    }

    fn log_speed(&self, step: u64) -> f64 {
        let kernel = self.kernels.get(&step);
        kernel.map_or(0.0, |kernel| self.landscape.truth(kernel).speedup.ln())
    }

    fn tell(&mut self, event: Event) {
        for Replacement { step, over } in self.strategy.tell(&event) {
            let is_false = self.log_speed(step) < self.log_speed(over);
            self.record.replacements += 1;
            self.record.false_replacements += u64::from(is_false);
        }
        let best = self.strategy.best();
        if best == self.record.best_step {
            return;
        }
        let Some(step) = best else { return };
        let speedup = self.log_speed(step).exp();
        self.record.best_step = best;
        self.record.bests.push(Best {
            seconds: self.now as f64 / 1e6,
            steps: self.record.steps,
            judged: self.record.judged,
            speedup,
        });
    }

    fn happen(&mut self, seconds: f64, happening: Happening) {
        self.sequence += 1;
        let entry = (self.now + micros(seconds), self.sequence, happening);
        self.happenings.push(Reverse(entry));
    }
}

fn micros(seconds: f64) -> Instant {
    (seconds * 1e6).round() as Instant
}
