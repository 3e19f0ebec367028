//! Tests of whole runs in journal order: the state follows from the journal, a kill changes nothing, and no step waits for another.

use std::collections::HashSet;

use super::*;

const BUSY: Schedule = Schedule {
    in_flight: 4,
    arrival_seed: 5,
    fault_rate: 0.1,
};

fn run_with_seed(steps: u64, arrival_seed: u64) -> ScriptedRun {
    let schedule = Schedule {
        arrival_seed,
        ..BUSY
    };
    run_to_end(steps, schedule)
}

/// A new search after the events of a journal.
fn replayed(journal: &[Event], steps: u64) -> ScriptedRun {
    ScriptedRun::new(&settings(), steps).resumed(journal)
}

#[test]
fn each_order_of_arrival_is_valid_and_its_journal_gives_its_state() {
    let runs: Vec<ScriptedRun> = (0..20).map(|seed| run_with_seed(150, seed)).collect();
    let mut duplicates_of_later = 0;
    for (seed, run) in runs.iter().enumerate() {
        assert_eq!(run.search.folded(), 150);
        assert!(run.search.archive.filled_cells() >= 5);
        assert_eq!(replayed(&run.journal, 150).state(), run.state());
        // The same answers in the same order: the same run.
        assert_eq!(run_with_seed(150, seed as u64).journal, run.journal);
        for step in 1..=150 {
            let outcome = run.search.record(step).unwrap().outcome;
            duplicates_of_later +=
                u64::from(matches!(outcome, StepOutcome::Duplicate { of } if of > step));
        }
    }
    assert_ne!(runs[0].state(), runs[1].state(), "the order counts");
    assert!(
        duplicates_of_later > 0,
        "no step was a duplicate of a later one that proposed first"
    );
}

#[test]
fn a_kill_after_any_event_loses_nothing() {
    let reference = run_with_seed(60, 9);
    let mut live = ScriptedRun::new(&settings(), 60);
    for (cut, event) in reference.journal.iter().enumerate() {
        // Briefs that are not durable yet are decided again, the same way.
        let briefs = |run: &ScriptedRun| (run.search.planned(), run.search.folded());
        let durable = &reference.journal[..cut];
        let is_asked = |event: &&Event| matches!(event, Event::Asked(_));
        let lost = durable.iter().rev().take_while(is_asked).count();
        let resumed = replayed(&durable[..cut - lost], 60);
        assert_eq!(briefs(&resumed), briefs(&live), "killed after event {cut}");
        if let Event::Asked(brief) = event {
            live.briefs.insert(brief.step, brief.clone());
        }
        live.tell(event.clone());
        if cut % 7 == 0 {
            // It goes on from there, with any order of the answers that are left.
            let mut resumed = replayed(durable, 60);
            resumed.run_until(BUSY, usize::MAX);
            assert_eq!(resumed.search.folded(), 60);
            assert_eq!(replayed(&resumed.journal, 60).state(), resumed.state());
        }
    }
    live.sources = reference.sources.clone();
    assert_eq!(live.state(), reference.state());
}

#[test]
fn steps_added_later_continue_the_same_run() {
    let mut run = run_with_seed(40, 3);
    assert_eq!(run.search.stop_reason(), Some(StopReason::Steps));
    assert_eq!(run.search.ask(41), None);
    run.tell(Event::Stopped(Stopped {
        why: StopReason::Steps,
        at: 40,
        limit: None,
    }));
    let mut again = replayed(&run.journal, 90);
    again.run_until(BUSY, usize::MAX);
    run.search.set_steps(90);
    run.run_until(BUSY, usize::MAX);
    assert_eq!(again.state(), run.state());
    assert_eq!(again.search.folded(), 90);
}

#[test]
fn limits_stop_the_search_and_a_journal_that_went_on_continues_past_them() {
    let with_patience = |patience| SearchSettings {
        patience,
        ..settings()
    };
    for seed in 0..10 {
        let schedule = Schedule {
            arrival_seed: seed,
            ..BUSY
        };
        let mut long = ScriptedRun::new(&with_patience(Some(40)), 5000);
        long.run_until(schedule, usize::MAX);
        assert_eq!(long.search.stop_reason(), Some(StopReason::Patience));
        assert_eq!(long.search.steps_without_gain(), 40);
        let stop = SearchUpdate::Stopped {
            why: StopReason::Patience,
            at: long.search.folded(),
        };
        assert!(long.updates.contains(&stop));
        // The user has lowered the limit since.
        let mut short = ScriptedRun::new(&with_patience(Some(15)), 5000);
        for event in &long.journal {
            short.tell(event.clone());
        }
        let diverged = |update: &SearchUpdate| matches!(update, SearchUpdate::Diverged(_));
        assert!(!short.updates.iter().any(diverged));
        // All but the last steps, which no brief needs.
        assert!(short.search.folded() + 4 >= long.search.folded());
        for record in short.state().records {
            let same = |other: &StepRecord| *other == record;
            assert!(long.state().records.iter().any(same), "{record:?}");
        }
    }
}

/// A search with models, and what a driver would know of it. Models answer only when the test says so.
struct ModelRun {
    run: ScriptedRun,
    next: u64,
}

impl ModelRun {
    fn new(window: u64) -> Self {
        let mut run = ScriptedRun::new(&settings(), 10_000);
        let search = Search::new(&settings(), 42, window, 10_000, &starts());
        run.search = search.with_models(ModelPool {
            models: vec![("model".to_owned(), 1.0)],
            cards: Vec::new(),
        });
        run.mutations = 1_000;
        Self { run, next: 1 }
    }

    /// Asks for new briefs, and finishes every step that asks no model. Returns how many steps that was.
    fn finish_own_steps(&mut self) -> usize {
        let mut order = RandomStream::new(1, "order", 0);
        let mut finished = 0;
        while let Some(brief) = self.run.search.ask(self.next) {
            self.next += 1;
            self.run.briefs.insert(brief.step, brief.clone());
            self.run.tell(Event::Asked(brief.clone()));
            if brief.operator.asks_model() {
                continue;
            }
            finished += 1;
            while !self.run.advance_step(&brief, SEQUENTIAL, &mut order) {}
            while let Some(request) = self.run.search.pending_duel() {
                self.run.tell(self.run.duel(request));
            }
            if finished > 2_000 {
                break;
            }
        }
        finished
    }
}

#[test]
fn a_model_that_does_not_answer_stops_nothing_else() {
    let mut run = ModelRun::new(8);
    // Far more steps than the window has, while four models think.
    let finished = run.finish_own_steps();
    assert!(finished > 100, "only {finished} steps");
    let waiting = |run: &ModelRun| -> Vec<u64> {
        let planned = run.run.search.planned();
        let asking = planned.iter().filter(|brief| brief.operator.asks_model());
        asking.map(|brief| brief.step).collect()
    };
    let before = waiting(&run);
    assert_eq!(before.len(), 4, "half of the window");
    // One of them answers at last, and only its own place becomes free.
    let failed = Failed::new(before[2], FailedReason::NoCode, String::new());
    run.run.tell(Event::Failed(failed));
    assert_eq!(
        run.run.search.record(before[2]).unwrap().position,
        finished as u64 + 1
    );
    run.finish_own_steps();
    let after = waiting(&run);
    assert_eq!(after.len(), 4);
    for step in before.iter().filter(|step| **step != before[2]) {
        assert!(after.contains(step));
    }
}

#[test]
fn with_models_alone_the_whole_window_asks_them() {
    let own = OperatorWeights {
        autotune: 0.0,
        mutate: 0.0,
        recombine: 0.0,
        ..OperatorWeights::default()
    };
    for (mode, operators, window, expected) in [
        (SearchMode::Evolve, own, 8, 8),
        (SearchMode::Tune, OperatorWeights::default(), 3, 3),
        (SearchMode::Evolve, OperatorWeights::default(), 9, 4),
        (SearchMode::Evolve, OperatorWeights::default(), 1, 1),
    ] {
        let settings = SearchSettings {
            mode,
            operators,
            ..settings()
        };
        let search = Search::new(&settings, 42, window, 100, &[]);
        let search = search.with_models(ModelPool {
            models: vec![("model".to_owned(), 1.0)],
            cards: Vec::new(),
        });
        // Without a starting kernel only models can make the first one.
        assert_eq!(search.planned().len(), expected, "{mode:?} {window}");
    }
}

/// Searches without starting kernels, whose models all get the same to do.
fn search_of_models(window: u64, cards: &[&str]) -> Search {
    let search = Search::new(&settings(), 42, window, 100, &[]);
    search.with_models(ModelPool {
        models: vec![("model".to_owned(), 1.0)],
        cards: cards.iter().map(|card| (*card).to_owned()).collect(),
    })
}

fn cards_of(search: &Search) -> Vec<Option<String>> {
    let steps = 1..=search.planned().len() as u64;
    let models = steps.filter_map(|step| search.ask(step)?.model);
    models.map(|model| model.card).collect()
}

#[test]
fn steps_that_ask_for_the_same_get_different_cards() {
    let cards = cards_of(&search_of_models(8, &["one", "two", "three", "four"]));
    let distinct: HashSet<_> = cards.iter().collect();
    assert_eq!((cards.len(), distinct.len()), (4, 4), "{cards:?}");
    // With more steps than cards, some have the same.
    let cards = cards_of(&search_of_models(8, &["one"]));
    assert_eq!(cards.len(), 4);
    assert!(cards.contains(&None) && cards.contains(&Some("one".to_owned())));
}

#[test]
fn a_recorded_card_of_an_earlier_version_is_used() {
    let mut search = search_of_models(8, &["one", "two", "three"]);
    let mut brief = search.ask(1).unwrap();
    brief.model.as_mut().unwrap().card = Some("no longer offered".to_owned());
    assert!(search.tell(&Event::Asked(brief.clone())).is_empty());
    assert_eq!(search.ask(1), Some(brief.clone()));
    // Anything else that differs is reported.
    let mut brief = search.ask(2).unwrap();
    brief.model.as_mut().unwrap().name = "another".to_owned();
    let updates = search.tell(&Event::Asked(brief));
    assert!(
        matches!(updates[..], [SearchUpdate::Diverged(_)]),
        "{updates:?}"
    );
}

#[test]
fn own_operators_without_work_wait_for_the_models() {
    let mut run = ModelRun::new(8);
    run.run.mutations = 1;
    let finished = run.finish_own_steps();
    assert!(finished < 2_000, "they go on although nothing is left");
    let search = &run.run.search;
    assert_eq!(search.stop_reason(), None);
    assert!(search.in_flight.asking_models() > 0);
    assert_eq!(search.in_flight.len(), search.in_flight.asking_models());
}

#[test]
fn a_duplicate_is_decided_by_the_journal() {
    let mut search = Search::new(&settings(), 7, 4, 100, &starts());
    let propose = |search: &mut Search, step: u64, text: &str| {
        let brief = search.ask(step).unwrap();
        search.tell(&Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step,
            kernel: Digest::of(text),
            operator: brief.operator,
            parents: brief.parents,
            detail: text.to_owned(),
            family: Digest::of(text),
            point: IndexMap::new(),
            space: IndexMap::new(),
        }))
    };
    propose(&mut search, 2, "same");
    // A second proposal of a source ends its step at once, whatever its number.
    propose(&mut search, 1, "same");
    let outcome = |search: &Search, step| search.record(step).map(|record| record.outcome);
    assert_eq!(outcome(&search, 1), Some(StepOutcome::Duplicate { of: 2 }));
    assert_eq!(outcome(&search, 2), None);
    let failed = Failed {
        of: Some(2),
        kernel: Some(Digest::of("same")),
        ..Failed::new(3, FailedReason::Duplicate, String::new())
    };
    search.tell(&Event::Failed(failed));
    assert_eq!(outcome(&search, 3), Some(StepOutcome::Duplicate { of: 2 }));
    let passed = verdict(Status::Passed, Some(2.0), 0.1, 64.0);
    search.tell(&Event::Judged(Judged {
        step: 2,
        verdict: passed,
    }));
    assert_eq!(search.archive().elites()[0].step, 2);
    assert_eq!((search.source_step(1), search.folded()), (1, 3));
}

#[test]
fn a_brief_that_this_search_would_not_decide_yet_is_reported_and_used() {
    let mut search = Search::new(&settings(), 7, 4, 100, &starts());
    let brief = Brief {
        step: 5,
        ..search.ask(4).unwrap()
    };
    let updates = search.tell(&Event::Asked(brief.clone()));
    let [SearchUpdate::Diverged(divergence)] = updates.as_slice() else {
        panic!("{updates:?}")
    };
    let text = divergence.to_string();
    assert!(text.ends_with("but would now not be asked yet"), "{text}");
    assert_eq!(search.ask(5), Some(brief));
}
