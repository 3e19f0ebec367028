//! Tests of candidates that were dismissed, and of candidates that compile to known code.

use super::*;
use crate::search::Incumbents;

/// A verdict that says that the candidate is surely slower than an incumbent.
fn dismissed(speedup: f64) -> Verdict {
    Verdict {
        timing: Some(Timing::Dismissed),
        not_done: vec!["bounds and race builds".to_owned()],
        ..verdict(Status::Passed, Some(speedup), 0.4, 64.0)
    }
}

/// A search with one kind of kernels.
fn search_of_one_kind() -> Search {
    let settings = SearchSettings {
        features: IndexMap::new(),
        ..SearchSettings::default()
    };
    Search::new(&settings, 7, 4, 100, &starts())
}

/// Tells the search of a candidate with this verdict.
fn tell(search: &mut Search, step: u64, verdict: Verdict) -> Vec<SearchUpdate> {
    let brief = search.ask(step).unwrap();
    let text = format!("source of {step}");
    search.tell(&Event::Proposed(Proposed {
        form: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
        constraints: Vec::new(),
        expected: None,
        step,
        kernel: Digest::of(&text),
        operator: brief.operator,
        parents: brief.parents,
        detail: String::new(),
        family: Digest::of(format!("family of {step}")),
        point: IndexMap::new(),
        space: IndexMap::new(),
    }));
    search.tell(&Event::Judged(Judged { step, verdict }))
}

fn passed(speedup: f64) -> Verdict {
    verdict(Status::Passed, Some(speedup), 0.1, 64.0)
}

fn with_code(verdict: Verdict, code: &str) -> Verdict {
    Verdict {
        code: Some(Digest::of(code)),
        ..verdict
    }
}

fn outcome(search: &Search, step: u64) -> StepOutcome {
    search.record(step).unwrap().outcome
}

const DISMISSED: ArchiveDecision = ArchiveDecision::Dismissed;

#[test]
fn dismissed_candidate_passes_and_is_no_elite_and_no_parent() {
    let mut search = search_of_one_kind();
    tell(&mut search, 2, passed(2.0));
    let updates = tell(&mut search, 1, dismissed(0.05));
    assert!(updates.contains(&SearchUpdate::Folded {
        step: 1,
        outcome: StepOutcome::Passed {
            speedup: 0.05,
            insert: DISMISSED
        },
        cell: None,
    }));
    // A higher estimate gets no duel either: the interval is wide.
    tell(&mut search, 3, dismissed(2.1));
    assert_eq!(search.pending_duel(), None);
    assert_eq!(search.folded(), 3);
    let elites: Vec<_> = search.archive().elites().iter().map(|e| e.step).collect();
    assert_eq!(elites, [2]);
    let counts = search.counts();
    assert_eq!((counts.passed, counts.dismissed, counts.added), (3, 2, 1));
    assert_eq!(counts.validity(), Some(1.0));
    assert_eq!(search.steps_to_confirm(), [2]);
}

#[test]
fn incomplete_checks_alone_keep_a_candidate_out() {
    let mut search = search_of_one_kind();
    tell(&mut search, 1, passed(1.0));
    let unchecked = Verdict {
        timing: Some(Timing::Full),
        not_done: vec!["regimes".to_owned()],
        ..passed(3.0)
    };
    tell(&mut search, 2, unchecked.clone());
    assert!(!outcome(&search, 2).is_complete_pass());
    assert_eq!(search.best().unwrap().step, 1);
    // As a confirmation it is no figure, and no fault of the kernel.
    search.tell(&Event::Confirmed(Confirmed {
        step: 1,
        verdict: unchecked,
        seconds: None,
    }));
    let confirmation = search.confirmation(1).unwrap();
    assert_eq!(confirmation.speedup, None);
    assert!(!confirmation.refutes());
}

#[test]
fn dismissed_candidate_stays_out_when_the_incumbent_is_removed() {
    let mut search = search_of_one_kind();
    tell(&mut search, 1, passed(2.0));
    tell(&mut search, 2, dismissed(1.0));
    search.tell(&Event::Judged(Judged {
        step: 1,
        verdict: verdict(Status::WrongOutput, None, 0.0, 64.0),
    }));
    assert!(search.archive().elites().is_empty());
    tell(&mut search, 3, passed(0.5));
    assert_eq!(search.best().unwrap().step, 3);
}

#[test]
fn incumbents_are_elites_and_starting_kernels_that_wait_for_the_fold() {
    let bar = |incumbents: Option<Incumbents>| incumbents?.bar(&IndexMap::new());
    let mut search = search_of_one_kind().with_order(FoldOrder::Step);
    assert_eq!(search.incumbents(), None);
    // Another candidate may still lose to a candidate that arrives before its turn.
    tell(&mut search, 3, passed(5.0));
    tell(&mut search, 2, passed(2.0));
    assert_eq!(search.folded(), 0);
    assert_eq!(bar(search.incumbents()), Some(1.8));
    tell(&mut search, 1, dismissed(0.1));
    assert_eq!(search.folded(), 3);
    assert_eq!(bar(search.incumbents()), Some(4.5));
}

#[test]
fn failed_starting_kernels_leave_no_bar() {
    let mut search = search_of_one_kind();
    tell(&mut search, 2, verdict(Status::Race, None, 0.0, 64.0));
    assert_eq!(search.incumbents(), None);
    tell(
        &mut search,
        1,
        verdict(Status::WrongOutput, None, 0.0, 64.0),
    );
    assert_eq!(search.incumbents(), None);
    // Slower than the baseline, but the first that passes.
    tell(&mut search, 3, passed(0.25));
    assert_eq!(search.best().unwrap().step, 3);
    assert!(search.incumbents().is_some());
}

#[test]
fn code_of_parents_and_elites_must_not_be_repeated() {
    let mut search = search_of_one_kind();
    tell(&mut search, 1, with_code(passed(1.0), "a"));
    tell(&mut search, 2, with_code(passed(2.0), "b"));
    // Starting kernels are judged in any case.
    assert!(search.code_to_avoid(2).is_empty());
    let known = |step, code: &str| KnownCode {
        code: Digest::of(code),
        step,
    };
    assert_eq!(search.code_to_avoid(5), [known(2, "b")]);
    let brief = search.ask(3).unwrap();
    assert!(brief.parents[0] <= 2);
    tell(
        &mut search,
        3,
        with_code(verdict(Status::Race, None, 0.0, 64.0), "c"),
    );
    // Its own parent, which is no elite, and nothing that failed.
    search.tell(&Event::Proposed(Proposed {
        form: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
        constraints: Vec::new(),
        expected: None,
        step: 6,
        kernel: Digest::of("another"),
        operator: Operator::Mutate,
        parents: vec![1, 3],
        detail: String::new(),
        family: Digest::of("another"),
        point: IndexMap::new(),
        space: IndexMap::new(),
    }));
    assert_eq!(search.code_to_avoid(6), [known(1, "a"), known(2, "b")]);
}

#[test]
fn candidate_that_compiles_to_known_code_is_a_duplicate() {
    let mut search = search_of_one_kind();
    tell(&mut search, 1, passed(1.0));
    tell(&mut search, 2, passed(2.0));
    let brief = search.ask(3).unwrap();
    let proposed = |step, text: &str| {
        Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step,
            kernel: Digest::of(text),
            operator: brief.operator,
            parents: brief.parents.clone(),
            detail: "unroll 2".to_owned(),
            family: Digest::of(text),
            point: IndexMap::new(),
            space: IndexMap::new(),
        })
    };
    let failed = |step, of, kernel, code| {
        Event::Failed(Failed {
            of: Some(of),
            kernel,
            code,
            ..Failed::new(step, FailedReason::Duplicate, String::new())
        })
    };
    search.tell(&proposed(3, "unrolled"));
    assert_eq!(search.folded(), 2);
    search.tell(&failed(3, 2, None, Some(Digest::of("b"))));
    assert_eq!(outcome(&search, 3), StepOutcome::Duplicate { of: 2 });
    assert_eq!(&*search.record(3).unwrap().detail, "unroll 2");
    assert_eq!(search.unfinished().count(), 0);
    // The same source again: the driver names the step that proposed it.
    let kernel = Some(Digest::of("unrolled"));
    search.tell(&failed(4, 3, kernel, None));
    assert_eq!(outcome(&search, 4), StepOutcome::Duplicate { of: 3 });
    assert_eq!(search.counts().judged, 2);
}

#[test]
fn candidates_with_the_same_code_need_no_duel() {
    for (code, decided) in [("a", true), ("b", false)] {
        let mut search = search_of_one_kind();
        tell(&mut search, 1, with_code(passed(1.0), "a"));
        // Judged at the same time, so the judge could not know.
        tell(&mut search, 2, with_code(passed(1.05), code));
        assert_eq!(search.pending_duel().is_none(), decided);
        if decided {
            let insert = ArchiveDecision::NotAdded { behind: 1 };
            let speedup = 1.05;
            assert_eq!(outcome(&search, 2), StepOutcome::Passed { speedup, insert });
        }
    }
}

#[test]
fn dismissals_do_not_make_the_order_of_arrival_matter() {
    let run = |schedule| {
        let mut run = ScriptedRun::in_order(FoldOrder::Step, &settings(), 60);
        run.dismissals = 0.4;
        run.run_until(schedule, usize::MAX);
        run
    };
    let reference = run(SEQUENTIAL);
    let state = reference.state();
    let is_dismissed = |step: &u64| {
        let record = reference.search.record(*step).unwrap();
        matches!(record.outcome, StepOutcome::Passed { insert, .. } if insert == DISMISSED)
    };
    let all: Vec<u64> = (1..=60).filter(is_dismissed).collect();
    assert!(all.len() > 5, "{all:?}");
    for elite in reference.search.archive().elites() {
        assert!(!all.contains(&elite.step));
    }
    for brief in reference.briefs.values().filter(|brief| brief.step > 6) {
        let parents = &brief.parents;
        assert!(
            parents.iter().all(|parent| !all.contains(parent)),
            "{brief:?}"
        );
    }
    for arrival_seed in 1..6 {
        let schedule = Schedule {
            in_flight: 4,
            arrival_seed,
            fault_rate: 0.2,
        };
        let other = run(schedule);
        assert_eq!(other.state(), state);
        for cut in (0..other.journal.len()).step_by(17) {
            let resumed = ScriptedRun::in_order(FoldOrder::Step, &settings(), 60);
            let mut resumed = resumed.resumed(&other.journal[..cut]);
            resumed.dismissals = 0.4;
            resumed.run_until(schedule, usize::MAX);
            assert_eq!(resumed.state(), state, "cut at {cut}");
        }
    }
}
