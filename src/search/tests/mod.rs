//! Tests of the search against scripted proposers and verdicts, with steps in flight that finish in any order.

mod device_change;
mod dismissed;
mod fairness;
mod islands;
mod journal_order;
mod near_copies;
mod order;
mod retire;
mod steps;
mod strategies;
mod tune;
mod tune_first;

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::ledger::ArchiveDecision;
use super::*;
use crate::base::{Digest, RandomStream};
use crate::event::{Confirmed, Dueled, Failed, FailedReason, Judged, Operator, Proposed, Stopped};
use crate::verdict::{DeviceIdentity, Duel, Resources, Seconds, Status, Timing, Verdict};

impl Search {
    /// The step that has this source, folded or not. A driver reports another proposal with the same source as a duplicate of it.
    fn step_of_kernel(&self, kernel: &Digest) -> Option<u64> {
        let is_pending = |pending: &PendingStep| {
            let proposed = pending.proposed.as_ref();
            proposed.is_some_and(|proposed| proposed.kernel == *kernel)
        };
        let in_pending = || self.pending.iter().find(|(_, pending)| is_pending(pending));
        self.ledger
            .step_of_kernel(kernel)
            .or_else(|| in_pending().map(|(step, _)| *step))
    }

    /// The briefs that are decided, and not folded.
    fn planned(&self) -> Vec<Brief> {
        let steps = 1..self.in_flight.next_step();
        let planned = steps.filter_map(|step| self.in_flight.get(step));
        planned.map(|planned| planned.brief.clone()).collect()
    }
}

/// A kernel of the scripted runs.
#[derive(Clone, Debug, PartialEq)]
struct ScriptedKernel {
    family: u64,
    point: IndexMap<String, i64>,
}

impl ScriptedKernel {
    fn kernel(&self) -> Digest {
        // The scripted verdicts follow from this text; another text makes runs with other cases.
        let Self { family, point } = self;
        Digest::of(format!("Source {{ family: {family}, point: {point:?} }}"))
    }

    /// A number from 0 to 1 that is fixed for this kernel and purpose.
    fn random_unit(&self, purpose: &str) -> f64 {
        RandomStream::new(self.kernel().low64(), purpose, 0).uniform()
    }
}

fn space() -> IndexMap<String, Vec<i64>> {
    [
        ("ROWS".to_owned(), vec![4, 1, 2, 8]),
        ("UNROLL".to_owned(), vec![1, 2, 4]),
    ]
    .into()
}

fn verdict(status: Status, speedup: Option<f64>, half: f64, threads: f64) -> Verdict {
    Verdict {
        accesses: Vec::new(),
        builds: Vec::new(),
        schema: 1,
        task: "toy".to_owned(),
        kernel: String::new(),
        backend: "scripted".to_owned(),
        status,
        reason: None,
        confirmed: false,
        device: DeviceIdentity::default(),
        sandbox: "none".to_owned(),
        tunables: IndexMap::new(),
        cache: "warm".to_owned(),
        state: None,
        precision: None,
        screen: None,
        checked_share: None,
        voided_blocks: 0,
        seeds: vec![],
        baseline: None,
        timing: None,
        dismissal: None,
        timed_against: None,
        strongest: None,
        faster_outside: None,
        code: None,
        not_done: Vec::new(),
        speedup: speedup.map(|geomean| Speedup {
            geomean,
            ci95: [geomean * (1.0 - half), geomean * (1.0 + half)],
        }),
        workloads: vec![],
        resources: Resources::default(),
        features: [
            ("block_threads".to_owned(), threads),
            ("barriers".to_owned(), 0.0),
        ]
        .into(),
        evidence: None,
        notes: Vec::new(),
        seconds: Seconds::default(),
    }
}

/// What may differ between two runs that must reach the same state.
#[derive(Clone, Copy)]
struct Schedule {
    /// Steps in flight at once.
    in_flight: u64,
    /// Seeds the order in which steps finish.
    arrival_seed: u64,
    /// The probability that a verdict is first a `harness_error`.
    fault_rate: f64,
}

const SEQUENTIAL: Schedule = Schedule {
    in_flight: 1,
    arrival_seed: 0,
    fault_rate: 0.0,
};

/// A scripted run: a search, its journal, and what a driver would know.
struct ScriptedRun {
    search: Search,
    journal: Vec<Event>,
    sources: BTreeMap<u64, ScriptedKernel>,
    /// Every brief that `ask` returned.
    briefs: BTreeMap<u64, Brief>,
    /// How many mutations each parent has.
    mutations: u64,
    /// The share of the candidates that pass and are dismissed, starting kernels aside.
    dismissals: f64,
    updates: Vec<SearchUpdate>,
}

fn starts() -> Vec<String> {
    ["naive.cu", "better.cu"].map(str::to_owned).into()
}

fn settings() -> SearchSettings {
    SearchSettings {
        features: [
            ("block_threads".to_owned(), vec![64.0, 128.0, 256.0]),
            ("speedup".to_owned(), vec![1.0, 2.0]),
        ]
        .into(),
        ..SearchSettings::default()
    }
}

impl ScriptedRun {
    fn new(settings: &SearchSettings, steps: u64) -> Self {
        Self::in_order(FoldOrder::Journal, settings, steps)
    }

    fn in_order(order: FoldOrder, settings: &SearchSettings, steps: u64) -> Self {
        let search = Search::new(settings, 42, 4, steps, &starts());
        Self {
            search: search.with_order(order),
            journal: vec![],
            sources: BTreeMap::new(),
            briefs: BTreeMap::new(),
            mutations: 12,
            dismissals: 0.0,
            updates: vec![],
        }
    }

    /// A run that starts from a journal, as a resumed run does.
    fn resumed(mut self, journal: &[Event]) -> Self {
        let run = &mut self;
        let mut pending = BTreeMap::new();
        for event in journal {
            if let Event::Asked(brief) = event {
                assert_eq!(
                    run.search.ask(brief.step).as_ref(),
                    Some(brief),
                    "the brief of step {}",
                    brief.step
                );
                pending.insert(brief.step, brief.clone());
                run.briefs.insert(brief.step, brief.clone());
            }
            if let Event::Proposed(_) | Event::Failed(_) = event
                && let Some(brief) = pending.get(&event.step().unwrap())
                && let Some(source) = run.propose(brief)
            {
                run.sources.insert(brief.step, source);
            }
            run.tell(event.clone());
        }
        self
    }

    fn tell(&mut self, event: Event) {
        let updates = self.search.tell(&event);
        self.updates.extend(updates);
        self.journal.push(event);
    }

    /// The scripted proposer.
    fn propose(&self, brief: &Brief) -> Option<ScriptedKernel> {
        let parent = |index: usize| self.source(brief.parents[index]);
        match brief.operator {
            Operator::Start => Some(Self::start(brief.step)),
            Operator::Autotune => brief
                .point
                .clone()
                .map(|point| ScriptedKernel { point, ..parent(0) }),
            Operator::Mutate if brief.attempt >= self.mutations => None,
            // Few families, so that different parents often lead to the same source.
            Operator::Mutate => Some(ScriptedKernel {
                family: (parent(0).family * 7 + brief.attempt * 13 + 5) % 97,
                ..parent(0)
            }),
            Operator::Recombine if brief.attempt > 0 || brief.parents.len() < 2 => None,
            Operator::Recombine => Some(ScriptedKernel {
                family: parent(0).family,
                point: parent(1).point,
            }),
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair => None,
        }
    }

    fn start(step: u64) -> ScriptedKernel {
        ScriptedKernel {
            family: step,
            point: [("ROWS".to_owned(), 4), ("UNROLL".to_owned(), 1)].into(),
        }
    }

    /// The source of a step. Starting kernels may be parents before they are proposed.
    fn source(&self, step: u64) -> ScriptedKernel {
        match self.sources.get(&step) {
            Some(source) => source.clone(),
            None if step <= starts().len() as u64 => Self::start(step),
            None => panic!("step {step} was made a parent before it had a source"),
        }
    }

    /// The scripted judge.
    fn judge(source: &ScriptedKernel) -> Verdict {
        if source.random_unit("valid") < 0.25 && source.family > 2 {
            return verdict(Status::WrongOutput, None, 0.0, 0.0);
        }
        let threads = [32.0, 64.0, 128.0, 256.0][(source.random_unit("threads") * 4.0) as usize];
        verdict(
            Status::Passed,
            Some(0.5 + 2.0 * source.random_unit("speed")),
            0.1,
            threads,
        )
    }

    fn judge_or_dismiss(&self, source: &ScriptedKernel) -> Verdict {
        let mut verdict = Self::judge(source);
        let is_dismissed = source.random_unit("dismissed") < self.dismissals;
        if verdict.passed() && is_dismissed && source.family > 2 {
            verdict.timing = Some(Timing::Dismissed);
        }
        verdict
    }

    fn duel(&self, request: DuelRequest) -> Event {
        let random_unit = RandomStream::new(
            self.source(request.step).kernel().low64()
                ^ self.source(request.against).kernel().low64(),
            "duel",
            0,
        )
        .uniform();
        let duel = Duel {
            ratio: 0.9 + random_unit * 0.3,
            ci95: [0.85 + random_unit * 0.3, 0.95 + random_unit * 0.3],
        };
        Event::Dueled(Dueled {
            step: request.step,
            against: request.against,
            duel: (random_unit > 0.1).then_some(duel),
            seconds: None,
        })
    }

    /// Runs until the search is over, or until the journal has this many events.
    fn run_until(&mut self, schedule: Schedule, events: usize) {
        let mut order = RandomStream::new(schedule.arrival_seed, "order", 0);
        let mut in_flight: Vec<Brief> = Vec::new();
        let unfinished: Vec<_> = self.search.unfinished().map(|one| one.step).collect();
        in_flight.extend(unfinished.iter().map(|step| self.briefs[step].clone()));
        let mut next = self.briefs.keys().last().map_or(1, |last| last + 1);
        while self.journal.len() < events {
            while (in_flight.len() as u64) < schedule.in_flight
                && let Some(brief) = self.search.ask(next)
            {
                for parent in &brief.parents {
                    let is_known = match self.search.order {
                        FoldOrder::Step => parent + 4 <= brief.step,
                        FoldOrder::Journal => self.search.record(*parent).is_some(),
                    };
                    let is_known = is_known || *parent <= 2;
                    assert!(is_known, "{brief:?} was decided too early");
                }
                self.briefs.insert(next, brief.clone());
                self.tell(Event::Asked(brief.clone()));
                in_flight.push(brief);
                next += 1;
            }
            if let Some(request) = self.search.pending_duel()
                && order.below(2) == 0
            {
                self.tell(self.duel(request));
                continue;
            }
            if in_flight.is_empty() {
                match self.search.pending_duel() {
                    Some(request) => self.tell(self.duel(request)),
                    None => break,
                }
                continue;
            }
            let index = order.below(in_flight.len());
            let brief = in_flight[index].clone();
            if self.advance_step(&brief, schedule, &mut order) {
                in_flight.swap_remove(index);
            }
        }
        assert!(
            self.journal.len() >= events || self.search.stop_reason().is_some(),
            "stuck after step {}",
            self.search.folded()
        );
        assert!(
            !self
                .updates
                .iter()
                .any(|change| matches!(change, SearchUpdate::Diverged(_)))
        );
    }

    /// Passes the next event of a step to the search. Returns whether it was the last.
    fn advance_step(
        &mut self,
        brief: &Brief,
        schedule: Schedule,
        order: &mut RandomStream,
    ) -> bool {
        let step = brief.step;
        if let Some(source) = self.sources.get(&step).cloned() {
            if order.uniform() < schedule.fault_rate {
                self.tell(Event::Judged(Judged {
                    step,
                    verdict: verdict(Status::HarnessError, None, 0.0, 0.0),
                }));
                return false;
            }
            self.tell(Event::Judged(Judged {
                step,
                verdict: self.judge_or_dismiss(&source),
            }));
            return true;
        }
        let fail = |reason, of, kernel: Option<Digest>| {
            Event::Failed(Failed {
                code: None,
                seconds: None,
                edits: Default::default(),
                step,
                reason,
                of,
                detail: kernel.map(|_| detail(brief)),
                kernel,
            })
        };
        let Some(source) = self.propose(brief) else {
            self.tell(fail(FailedReason::NoOp, None, None));
            return true;
        };
        self.sources.insert(step, source.clone());
        let kernel = source.kernel();
        if let Some(of) = self.search.step_of_kernel(&kernel) {
            self.tell(fail(FailedReason::Duplicate, Some(of), Some(kernel)));
            return true;
        }
        self.tell(Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step,
            kernel,
            operator: brief.operator,
            parents: brief.parents.clone(),
            detail: detail(brief),
            family: Digest::of(source.family.to_le_bytes()),
            point: source.point,
            space: space(),
        }));
        false
    }

    /// The state that follows from the events.
    fn state(&self) -> ComparableState {
        let search = &self.search;
        let is_folded = |brief: &&Brief| search.record(brief.step).is_some();
        ComparableState {
            briefs: self.briefs.values().filter(is_folded).cloned().collect(),
            records: (1..search.in_flight.next_step())
                .filter_map(|step| search.record(step).cloned())
                .collect(),
            archive: search.archive.clone(),
            counts: search.counts().clone(),
            stop: search.stop_reason(),
            next: search.planned(),
        }
    }
}

fn detail(brief: &Brief) -> String {
    format!("{:?} {}", brief.operator, brief.attempt)
}

#[derive(Debug, PartialEq)]
struct ComparableState {
    briefs: Vec<Brief>,
    records: Vec<StepRecord>,
    archive: Archive,
    counts: SearchCounts,
    stop: Option<StopReason>,
    next: Vec<Brief>,
}

fn run_to_end(steps: u64, schedule: Schedule) -> ScriptedRun {
    let mut run = ScriptedRun::new(&settings(), steps);
    run.run_until(schedule, usize::MAX);
    run
}

fn run_in_step_order(steps: u64, schedule: Schedule) -> ScriptedRun {
    let mut run = ScriptedRun::in_order(FoldOrder::Step, &settings(), steps);
    run.run_until(schedule, usize::MAX);
    run
}

fn outcomes(run: &ScriptedRun) -> Vec<StepOutcome> {
    (1..=run.search.folded())
        .map(|step| run.search.record(step).unwrap().outcome)
        .collect()
}
