//! Tests of single steps with hand-written events: starting kernels, duplicates, duels, harness errors, confirmation.

use super::*;

/// A search whose events all come from the test.
fn manual_search() -> Search {
    Search::new(
        &SearchSettings {
            features: IndexMap::new(),
            ..SearchSettings::default()
        },
        7,
        4,
        100,
        &starts(),
    )
}

fn proposed(search: &Search, step: u64, text: &str) -> Event {
    let brief = search.ask(step).unwrap();
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
        parents: brief.parents,
        detail: text.to_owned(),
        family: Digest::of(format!("family of {text}")),
        point: IndexMap::new(),
        space: IndexMap::new(),
    })
}

fn judged(step: u64, speedup: f64) -> Event {
    Event::Judged(Judged {
        step,
        verdict: verdict(Status::Passed, Some(speedup), 0.1, 64.0),
    })
}

fn outcome(search: &Search, step: u64) -> StepOutcome {
    search.record(step).unwrap().outcome
}

#[test]
fn starting_kernels_come_first_and_are_the_first_parents() {
    let search = manual_search();
    let briefs: Vec<_> = (1..=4).map(|step| search.ask(step).unwrap()).collect();
    assert_eq!(briefs[0].start.as_deref(), Some("naive.cu"));
    assert_eq!(briefs[1].start.as_deref(), Some("better.cu"));
    assert!(
        briefs[2..]
            .iter()
            .all(|brief| brief.operator == Operator::Mutate && brief.parents[0] <= 2)
    );
    assert_eq!(search.ask(5), None);
    assert_eq!(search.ask(0), None);
}

#[test]
fn no_model_is_asked_before_all_starting_kernels_are_folded() {
    let model_pool = ModelPool {
        models: vec![("model".to_owned(), 1.0)],
        cards: Vec::new(),
    };
    let settings = SearchSettings {
        operators: OperatorWeights {
            mutate: 0.0,
            autotune: 0.0,
            recombine: 0.0,
            ..OperatorWeights::default()
        },
        features: IndexMap::new(),
        ..SearchSettings::default()
    };
    for mode in [SearchMode::Evolve, SearchMode::Tune] {
        let settings = SearchSettings {
            mode,
            ..settings.clone()
        };
        let search = Search::new(&settings, 7, 4, 100, &starts());
        let mut search = search.with_models(model_pool.clone());
        let planned =
            |search: &Search| (1..=100).filter(|step| search.ask(*step).is_some()).count();
        assert_eq!(planned(&search), 2, "only the starting kernels");
        let first = proposed(&search, 1, "a");
        search.tell(&first);
        search.tell(&judged(1, 1.5));
        assert_eq!(planned(&search), 1);
        let second = proposed(&search, 2, "b");
        search.tell(&second);
        search.tell(&judged(2, 1.2));
        assert_eq!(planned(&search), 4, "the whole window");
        for step in 3..=6 {
            let model = search.ask(step).unwrap().model.unwrap();
            assert_eq!(model.known, 2, "all starting kernels are judged");
        }
    }
}

#[test]
fn in_step_order_the_later_step_is_the_duplicate_even_if_it_arrived_first() {
    for later_first in [false, true] {
        let mut search = manual_search().with_order(FoldOrder::Step);
        let (first, second) = if later_first { (2, 1) } else { (1, 2) };
        search.tell(&proposed(&search, first, "same"));
        assert_eq!(search.step_of_kernel(&Digest::of("same")), Some(first));
        let kernel = Some(Digest::of("same"));
        search.tell(&Event::Failed(Failed {
            code: None,
            seconds: None,
            edits: Default::default(),
            step: second,
            reason: FailedReason::Duplicate,
            of: Some(first),
            detail: Some("same".to_owned()),
            kernel,
        }));
        search.tell(&judged(first, 1.5));
        assert_eq!(search.folded(), 2);
        assert_eq!(
            outcome(&search, 1),
            StepOutcome::Passed {
                speedup: 1.5,
                insert: ArchiveDecision::New
            }
        );
        assert_eq!(outcome(&search, 2), StepOutcome::Duplicate { of: 1 });
        assert_eq!(search.archive().elites()[0].step, 1);
        assert_eq!(search.source_step(1), first);
        assert_eq!(search.step_of_kernel(&Digest::of("same")), Some(1));
    }
}

#[test]
fn duplicates_that_point_at_each_other_do_not_hang() {
    let mut search = manual_search();
    for (step, of) in [(1, 2), (2, 1)] {
        search.tell(&Event::Failed(Failed {
            code: None,
            seconds: None,
            edits: Default::default(),
            step,
            reason: FailedReason::Duplicate,
            of: Some(of),
            detail: None,
            kernel: None,
        }));
    }
    assert_eq!(search.folded(), 2);
}

#[test]
fn overlapping_intervals_are_decided_only_by_a_duel() {
    for (low, winner) in [(1.01, 2), (1.0, 1), (0.9, 1)] {
        let mut search = manual_search();
        search.tell(&proposed(&search, 1, "a"));
        search.tell(&judged(1, 1.0));
        search.tell(&proposed(&search, 2, "b"));
        let wanted = DuelRequest {
            step: 2,
            against: 1,
        };
        assert_eq!(
            search.tell(&judged(2, 1.05)),
            vec![SearchUpdate::DuelWanted(wanted)]
        );
        search.tell(&proposed(&search, 3, "c"));
        assert_eq!((search.pending_duel(), search.folded()), (Some(wanted), 1));
        let duel = Some(Duel {
            ratio: low + 0.02,
            ci95: [low, low + 0.04],
        });
        // A duel against another kernel changes nothing.
        assert_eq!(
            search.tell(&Event::Dueled(Dueled {
                step: 2,
                against: 9,
                duel,
                seconds: None,
            })),
            vec![]
        );
        search.tell(&Event::Dueled(Dueled {
            step: 2,
            against: 1,
            duel,
            seconds: None,
        }));
        assert_eq!((search.pending_duel(), search.folded()), (None, 2));
        assert_eq!(search.best().unwrap().step, winner);
    }
}

#[test]
fn a_harness_error_keeps_the_step_open_until_it_is_closed() {
    let mut search = manual_search();
    search.tell(&proposed(&search, 1, "a"));
    let fault = Event::Judged(Judged {
        step: 1,
        verdict: verdict(Status::HarnessError, None, 0.0, 0.0),
    });
    assert_eq!(
        search.tell(&fault),
        vec![SearchUpdate::HarnessError { step: 1 }]
    );
    assert_eq!(
        search
            .unfinished()
            .map(|one| (one.step, one.proposed.is_some()))
            .collect::<Vec<_>>(),
        [(1, true)]
    );
    search.tell(&Event::Failed(Failed {
        code: None,
        seconds: None,
        edits: Default::default(),
        step: 1,
        reason: FailedReason::HarnessError,
        of: None,
        detail: None,
        kernel: None,
    }));
    assert_eq!(
        outcome(&search, 1),
        StepOutcome::Failed(FailedReason::HarnessError)
    );
    assert_eq!(search.counts().validity(), None);
}

#[test]
fn an_invalid_speedup_never_reaches_the_archive() {
    for speedup in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        let mut search = manual_search();
        search.tell(&proposed(&search, 1, "a"));
        search.tell(&judged(1, speedup));
        assert_eq!(
            outcome(&search, 1),
            StepOutcome::NotPassed(Status::Inconclusive)
        );
        assert_eq!(search.archive().filled_cells(), 0);
    }
}

#[test]
fn a_diverging_recorded_brief_is_reported_and_used() {
    let mut search = manual_search();
    let planned = search.ask(3).unwrap();
    let recorded = Brief {
        parents: vec![3 - planned.parents[0]],
        ..planned.clone()
    };
    let updates = search.tell(&Event::Asked(recorded.clone()));
    let [SearchUpdate::Diverged(divergence)] = updates.as_slice() else {
        panic!("{updates:?}")
    };
    assert!(
        divergence
            .to_string()
            .starts_with("step 3 was asked as `mutate` of step"),
        "{divergence}"
    );
    assert_eq!(search.ask(3), Some(recorded.clone()));
    assert_eq!(search.tell(&Event::Asked(recorded)), vec![]);
}

#[test]
fn the_best_is_the_fastest_confirmed_kernel() {
    let run = run_to_end(120, SEQUENTIAL);
    let mut search = run.search;
    let first = search.steps_to_confirm();
    assert_eq!(first.len(), 3);
    assert_eq!(
        first,
        search.archive().elites()[..3]
            .iter()
            .map(|elite| elite.step)
            .collect::<Vec<_>>()
    );
    let confirm = |step, speedup| {
        Event::Confirmed(Confirmed {
            step,
            verdict: verdict(
                if speedup > 0.0 {
                    Status::Passed
                } else {
                    Status::Race
                },
                (speedup > 0.0).then_some(speedup),
                0.01,
                64.0,
            ),
            seconds: None,
        })
    };
    let searched_figure = Some(search.archive().elites()[0].speedup);
    assert_eq!(
        search.tell(&confirm(first[0], 0.0)),
        vec![SearchUpdate::Confirmed {
            step: first[0],
            passed: false,
            searched: searched_figure,
        }]
    );
    search.tell(&confirm(first[1], 1.8));
    search.tell(&confirm(first[2], 2.1));
    assert_eq!(search.best_confirmed().unwrap().step, first[2]);
    assert_eq!(search.best().unwrap().step, first[1]);
    // One did not pass again, so a fourth is confirmed.
    assert_eq!(
        search.steps_to_confirm(),
        vec![search.archive().elites()[3].step]
    );
}

/// A confirmation that passed, with an interval of ± 1 %.
fn confirmed_with(step: u64, speedup: f64) -> Event {
    Event::Confirmed(Confirmed {
        step,
        verdict: verdict(Status::Passed, Some(speedup), 0.01, 64.0),
        seconds: None,
    })
}

#[test]
fn only_a_kernel_that_is_confirmed_faster_than_the_baseline_is_the_best() {
    let mut search = run_to_end(120, SEQUENTIAL).search;
    let steps = search.steps_to_confirm();
    for (step, speedup, best) in [
        (steps[0], 1.005, None),
        (steps[1], 0.083, None),
        (steps[2], 1.02, Some(steps[2])),
        (steps[0], 1.03, Some(steps[0])),
    ] {
        search.tell(&confirmed_with(step, speedup));
        let found = search.best_confirmed().map(|confirmed| confirmed.step);
        assert_eq!(found, best, "{speedup}");
    }
}

#[test]
fn the_baseline_itself_is_never_the_best() {
    let run = run_to_end(120, SEQUENTIAL);
    let step = run.search.steps_to_confirm()[0];
    let baseline = run.source(step).kernel();
    let mut search = run.search.with_baseline(baseline);
    search.tell(&confirmed_with(step, 2.0));
    assert!(search.is_baseline(step) && search.best_confirmed().is_none());
    let next = search.steps_to_confirm()[0];
    search.tell(&confirmed_with(next, 1.5));
    assert_eq!(search.best_confirmed().unwrap().step, next);
}

#[test]
fn a_surely_slower_elite_is_confirmed_only_if_there_is_no_faster_one() {
    let mut search = run_to_end(60, SEQUENTIAL).search;
    let steps = search.steps_to_confirm();
    assert!(steps.len() > 1);
    for step in &steps[1..] {
        search.tell(&judged(*step, 0.5));
    }
    let all: Vec<_> = search.archive().elites().to_vec();
    for elite in &all[1..] {
        search.tell(&judged(elite.step, 0.5));
    }
    assert_eq!(search.steps_to_confirm(), [steps[0]]);
    let refuted = Event::Confirmed(Confirmed {
        step: steps[0],
        verdict: verdict(Status::Race, None, 0.01, 64.0),
        seconds: None,
    });
    search.tell(&refuted);
    assert_eq!(search.steps_to_confirm().len(), 1, "something to report");
}

#[test]
fn an_inconclusive_confirmation_does_not_refute() {
    let mut search = run_to_end(120, SEQUENTIAL).search;
    let best = search.best().unwrap().step;
    let confirmed = |status| {
        Event::Confirmed(Confirmed {
            step: best,
            verdict: verdict(status, None, 0.0, 64.0),
            seconds: None,
        })
    };
    search.tell(&confirmed(Status::Inconclusive));
    assert_eq!(search.best().unwrap().step, best);
    assert!(search.best_confirmed().is_none());
    // Another elite is confirmed in its place, and it is not confirmed again.
    let elites = search.archive().elites()[1..4].iter();
    assert_eq!(
        search.steps_to_confirm(),
        elites.map(|elite| elite.step).collect::<Vec<_>>()
    );
    search.tell(&confirmed(Status::Race));
    assert_ne!(search.best().unwrap().step, best);
}

#[test]
fn a_remeasured_elite_moves_or_is_removed() {
    let mut search = run_to_end(60, SEQUENTIAL).search;
    let best = search.best().unwrap().step;
    let filled = search.archive().filled_cells();
    // So slow that another elite of the cell that it falls into is faster.
    let slow = [0.2, 0.6, 1.01, 2.01].into_iter().find(|speedup| {
        let Event::Judged(judged) = judged(best, *speedup) else {
            return false;
        };
        let cell =
            (search.archive).cell_of(&judged.verdict.features, &judged.verdict.speedup.unwrap());
        let mut elites = search.archive().elites().iter();
        elites.any(|elite| {
            elite.step != best && elite.cell == cell && elite.speedup.geomean > *speedup
        })
    });
    assert_eq!(
        search.tell(&judged(best, slow.unwrap())).first(),
        Some(&SearchUpdate::Remeasured {
            step: best,
            kept: false
        })
    );
    assert_ne!(search.best().unwrap().step, best);
    assert_eq!(search.archive().filled_cells(), filled - 1);
    let next = search.best().unwrap().step;
    assert_eq!(
        search.tell(&judged(next, 9.0)),
        vec![SearchUpdate::Remeasured {
            step: next,
            kept: true
        }]
    );
    assert_eq!(
        search
            .best()
            .map(|elite| (elite.step, elite.speedup.geomean)),
        Some((next, 9.0))
    );
}
