//! Tests of whole runs in step order: the same state in any order of arrival and after a kill at any point. And in both orders: nothing is
//! tried twice, the search ends, its state is bounded.

use super::*;

fn in_step_order(steps: u64) -> ScriptedRun {
    ScriptedRun::in_order(FoldOrder::Step, &settings(), steps)
}

#[test]
fn the_same_verdicts_in_any_order_give_the_same_briefs_and_archive() {
    let reference = run_in_step_order(150, SEQUENTIAL);
    let expected = reference.state();
    // The reference must have the cases that could go wrong.
    assert!(
        expected.archive.filled_cells() >= 5,
        "{} cells",
        expected.archive.filled_cells()
    );
    let kinds = outcomes(&reference);
    assert!(
        kinds
            .iter()
            .any(|outcome| matches!(outcome, StepOutcome::Duplicate { .. }))
    );
    assert!(
        kinds
            .iter()
            .any(|outcome| matches!(outcome, StepOutcome::NotPassed(_)))
    );
    assert!(kinds.iter().any(|outcome| matches!(
        outcome,
        StepOutcome::Passed {
            insert: ArchiveDecision::Improved { .. },
            ..
        }
    )));
    assert!(
        reference
            .journal
            .iter()
            .any(|event| matches!(event, Event::Dueled(_)))
    );
    let mut backwards = 0;
    for order in 0..60 {
        let run = run_in_step_order(
            150,
            Schedule {
                in_flight: 4,
                arrival_seed: order,
                fault_rate: 0.1,
            },
        );
        assert_eq!(run.state(), expected, "order {order}");
        backwards += run.search.source_steps.len();
    }
    assert!(
        backwards > 0,
        "no step ever took over the verdict of a later one"
    );
}

#[test]
fn a_journal_replayed_in_any_order_gives_the_same_state() {
    let reference = run_in_step_order(
        80,
        Schedule {
            in_flight: 4,
            arrival_seed: 5,
            fault_rate: 0.1,
        },
    );
    for order in 0..40 {
        let mut journal = reference.journal.clone();
        RandomStream::new(order, "shuffle", 0).shuffle(&mut journal);
        let mut run = in_step_order(80);
        run.briefs = reference.briefs.clone();
        for event in journal {
            run.tell(event);
        }
        assert_eq!(run.state(), reference.state(), "order {order}");
        assert!(
            !run.updates
                .iter()
                .any(|change| matches!(change, SearchUpdate::Diverged(_)))
        );
    }
}

#[test]
fn a_run_killed_after_any_event_resumes_to_the_same_state() {
    let schedule = Schedule {
        in_flight: 4,
        arrival_seed: 9,
        fault_rate: 0.1,
    };
    let reference = run_in_step_order(60, schedule);
    for cut in 0..reference.journal.len() {
        let mut run = in_step_order(60).resumed(&reference.journal[..cut]);
        run.run_until(
            Schedule {
                arrival_seed: cut as u64,
                ..schedule
            },
            usize::MAX,
        );
        assert_eq!(run.state(), reference.state(), "killed after event {cut}");
    }
}

#[test]
fn steps_added_later_get_the_same_briefs_as_steps_planned_at_once() {
    let expected = run_in_step_order(90, SEQUENTIAL).state();
    let schedule = Schedule {
        in_flight: 4,
        arrival_seed: 3,
        fault_rate: 0.0,
    };
    let mut run = run_in_step_order(40, schedule);
    assert_eq!(
        (
            run.search.stop_reason(),
            run.search.folded(),
            run.search.ask(41)
        ),
        (Some(StopReason::Steps), 40, None)
    );
    assert_eq!(
        run.updates.last(),
        Some(&SearchUpdate::Stopped {
            why: StopReason::Steps,
            at: 40
        })
    );
    run.tell(Event::Stopped(Stopped {
        why: StopReason::Steps,
        at: 40,
        limit: None,
    }));
    let mut again = in_step_order(90).resumed(&run.journal);
    again.run_until(schedule, usize::MAX);
    assert_eq!(again.state(), expected);
    // Confirmations at the first end must not affect later briefs.
    for step in run.search.steps_to_confirm() {
        run.tell(Event::Confirmed(Confirmed {
            step,
            verdict: verdict(Status::WrongOutput, None, 0.0, 0.0),
            seconds: None,
        }));
    }
    assert_eq!(run.search.set_steps(90), vec![]);
    run.run_until(schedule, usize::MAX);
    assert_eq!(run.state(), expected);
}

#[test]
fn no_point_of_a_family_is_tried_twice() {
    let run = run_in_step_order(
        400,
        Schedule {
            in_flight: 4,
            arrival_seed: 1,
            fault_rate: 0.0,
        },
    );
    let mut seen = std::collections::HashSet::new();
    let mut asked = 0;
    for brief in run
        .briefs
        .values()
        .filter(|brief| brief.operator == Operator::Autotune)
    {
        let Some(point) = &brief.point else { continue };
        asked += 1;
        assert!(
            seen.insert((run.source(brief.parents[0]).family, format!("{point:?}"))),
            "{brief:?} was tried twice"
        );
    }
    assert!(asked > 50, "only {asked} points");
}

#[test]
fn a_search_with_nothing_left_stops_as_exhausted() {
    let small = |order, schedule| {
        let mut run = ScriptedRun::in_order(
            order,
            &SearchSettings {
                operators: OperatorWeights {
                    propose: 0.0,
                    edit: 0.0,
                    crossover: 0.0,
                    repair: 0.0,
                    recombine: 0.0,
                    ..OperatorWeights::default()
                },
                ..settings()
            },
            100_000,
        );
        run.mutations = 1;
        run.run_until(schedule, usize::MAX);
        run
    };
    let expected = small(FoldOrder::Step, SEQUENTIAL);
    assert_eq!(expected.search.stop_reason(), Some(StopReason::Exhausted));
    for arrival_seed in 0..5 {
        let schedule = Schedule {
            in_flight: 4,
            arrival_seed,
            fault_rate: 0.0,
        };
        assert_eq!(small(FoldOrder::Step, schedule).state(), expected.state());
        let by_journal = small(FoldOrder::Journal, schedule).search;
        assert_eq!(by_journal.stop_reason(), Some(StopReason::Exhausted));
        // It ends when the last step in flight has brought nothing, without a step that tries nothing.
        assert!(by_journal.in_flight.is_empty());
    }
    assert_eq!(
        Search::new(&settings(), 1, 4, 10, &[]).stop_reason(),
        Some(StopReason::Exhausted)
    );
}

#[test]
fn autotune_alone_tries_every_point_of_the_starting_kernels() {
    let mut run = ScriptedRun::new(
        &SearchSettings {
            operators: OperatorWeights {
                propose: 0.0,
                edit: 0.0,
                crossover: 0.0,
                repair: 0.0,
                autotune: 1.0,
                mutate: 0.0,
                recombine: 0.0,
            },
            ..settings()
        },
        1000,
    );
    run.run_until(
        Schedule {
            in_flight: 4,
            arrival_seed: 2,
            fault_rate: 0.0,
        },
        usize::MAX,
    );
    assert_eq!(run.search.stop_reason(), Some(StopReason::Exhausted));
    assert_eq!(run.search.counts().judged, 24);
}

#[test]
fn patience_and_target_stop_at_the_same_step_in_any_arrival_order() {
    for (settings, why) in [
        (
            SearchSettings {
                patience: Some(25),
                ..settings()
            },
            StopReason::Patience,
        ),
        (
            SearchSettings {
                target_speedup: Some(1.9),
                ..settings()
            },
            StopReason::Target,
        ),
    ] {
        let stopped = |schedule| {
            let mut run = ScriptedRun::in_order(FoldOrder::Step, &settings, 5000);
            run.run_until(schedule, usize::MAX);
            (run.search.stop_reason(), run.state())
        };
        let expected = stopped(SEQUENTIAL);
        assert_eq!(expected.0, Some(why));
        for order in 0..10 {
            assert_eq!(
                stopped(Schedule {
                    in_flight: 4,
                    arrival_seed: order,
                    fault_rate: 0.0
                }),
                expected
            );
        }
    }
}

/// Folds one step that passes with random features, so that most cells get an elite.
fn fold_random_step(search: &mut Search, step: u64) {
    let brief = search.ask(step).unwrap();
    search.tell(&Event::Asked(brief.clone()));
    search.tell(&Event::Proposed(Proposed {
        form: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
        constraints: Vec::new(),
        expected: None,
        step,
        kernel: Digest::of(step.to_le_bytes()),
        operator: brief.operator,
        parents: brief.parents,
        detail: "unroll".to_owned(),
        family: Digest::of((step / 3).to_le_bytes()),
        point: brief
            .point
            .unwrap_or_else(|| [("ROWS".to_owned(), 4), ("UNROLL".to_owned(), 1)].into()),
        space: space(),
    }));
    let mut random = RandomStream::new(step, "bounded", 0);
    let mut verdict = verdict(
        Status::Passed,
        Some(0.5 + 10.0 * random.uniform()),
        0.001,
        1024.0 * random.uniform(),
    );
    for (feature, bound) in [("barriers", 8), ("vector_bytes", 20)] {
        let value = random.below(bound) as f64;
        verdict.features.insert(feature.to_owned(), value);
    }
    search.tell(&Event::Judged(Judged { step, verdict }));
    if let Some(request) = search.pending_duel() {
        search.tell(&Event::Dueled(Dueled {
            step,
            against: request.against,
            duel: None,
            seconds: None,
        }));
    }
}

/// The time of a step follows from the size of these collections, so they must not grow with the number of steps.
#[test]
fn state_of_the_search_is_bounded() {
    let steps = 20_000;
    let mut run = ScriptedRun::new(&SearchSettings::default(), steps);
    for step in 1..=steps {
        fold_random_step(&mut run.search, step);
        if step % 1000 != 0 {
            continue;
        }
        let search = &run.search;
        assert_eq!(search.folded(), step);
        assert!(search.pending.is_empty(), "after step {step}");
        assert_eq!(search.in_flight.len(), search.window);
        let cells = search.archive.axes().iter();
        let cells: usize = cells.map(|axis| axis.edges.len() + 2).product();
        let elites = search.archive.elites();
        assert!(elites.len() <= cells, "{} elites", elites.len());
    }
    assert_eq!(run.search.stop_reason(), Some(StopReason::Steps));
}
