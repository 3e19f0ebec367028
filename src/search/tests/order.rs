//! Whole runs: the same whatever comes first, cut anywhere, in time that does not grow.

use super::*;

#[test]
fn the_same_verdicts_in_any_order_give_the_same_questions_and_archive() {
    let reference = whole(150, ONE_BY_ONE);
    let expected = reference.state();
    // The world is rich enough to show something.
    assert!(
        expected.archive.filled() >= 5,
        "{} cells",
        expected.archive.filled()
    );
    let kinds = outcomes(&reference);
    assert!(
        kinds
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Duplicate { .. }))
    );
    assert!(
        kinds
            .iter()
            .any(|outcome| matches!(outcome, Outcome::NotPassed(_)))
    );
    assert!(kinds.iter().any(|outcome| matches!(
        outcome,
        Outcome::Passed {
            insert: Insert::Improved { .. },
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
        let run = whole(
            150,
            Manner {
                under_way: 4,
                order,
                faults: 0.1,
            },
        );
        assert_eq!(run.state(), expected, "order {order}");
        backwards += run.search.elsewhere.len();
    }
    assert!(
        backwards > 0,
        "no step ever took over the verdict of a later one"
    );
}

#[test]
fn a_journal_told_in_any_order_whatever_gives_the_same_state() {
    let reference = whole(
        80,
        Manner {
            under_way: 4,
            order: 5,
            faults: 0.1,
        },
    );
    for order in 0..40 {
        let mut journal = reference.journal.clone();
        Stream::new(order, "shuffle", 0).shuffle(&mut journal);
        let mut run = Run::new(&settings(), 80);
        run.briefs = reference.briefs.clone();
        for event in journal {
            run.tell(event);
        }
        assert_eq!(run.state(), reference.state(), "order {order}");
        assert!(
            !run.changes
                .iter()
                .any(|change| matches!(change, Change::Diverged(_)))
        );
    }
}

#[test]
fn a_run_cut_anywhere_and_resumed_comes_to_the_same() {
    let manner = Manner {
        under_way: 4,
        order: 9,
        faults: 0.1,
    };
    let reference = whole(60, manner);
    for cut in 0..reference.journal.len() {
        let mut run = Run::resume(&settings(), 60, &reference.journal[..cut]);
        run.go(
            Manner {
                order: cut as u64,
                ..manner
            },
            usize::MAX,
        );
        assert_eq!(run.state(), reference.state(), "cut behind event {cut}");
    }
}

#[test]
fn more_steps_later_ask_what_more_steps_at_once_would_have() {
    let expected = whole(90, ONE_BY_ONE).state();
    let manner = Manner {
        under_way: 4,
        order: 3,
        faults: 0.0,
    };
    let mut run = whole(40, manner);
    assert_eq!(
        (run.search.stop(), run.search.folded(), run.search.ask(41)),
        (Some(StopReason::Steps), 40, None)
    );
    assert_eq!(
        run.changes.last(),
        Some(&Change::Stopped {
            why: StopReason::Steps,
            at: 40
        })
    );
    run.tell(Event::Stopped(Stopped {
        why: StopReason::Steps,
        at: 40,
    }));
    let mut again = Run::resume(&settings(), 90, &run.journal);
    again.go(manner, usize::MAX);
    assert_eq!(again.state(), expected);
    // Confirming at the first end must not bear on what is asked behind it.
    for step in run.search.to_confirm() {
        run.tell(Event::Confirmed(Confirmed {
            step,
            verdict: verdict(Status::WrongOutput, None, 0.0, 0.0),
        }));
    }
    assert_eq!(run.search.set_steps(90), vec![]);
    run.go(manner, usize::MAX);
    assert_eq!(run.state(), expected);
}

#[test]
fn no_point_of_a_family_is_asked_for_twice() {
    let run = whole(
        400,
        Manner {
            under_way: 4,
            order: 1,
            faults: 0.0,
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
            "{brief:?} came again"
        );
    }
    assert!(asked > 50, "only {asked} points");
}

#[test]
fn a_world_with_nothing_left_ends_as_exhausted_at_a_fixed_step() {
    let small = |manner| {
        let mut run = Run::new(
            &Settings {
                operators: Weights {
                    propose: 0.0,
                    edit: 0.0,
                    crossover: 0.0,
                    repair: 0.0,
                    recombine: 0.0,
                    ..Weights::default()
                },
                ..settings()
            },
            100_000,
        );
        run.mutations = 1;
        run.go(manner, usize::MAX);
        run
    };
    let expected = small(ONE_BY_ONE);
    assert_eq!(expected.search.stop(), Some(StopReason::Exhausted));
    for order in 0..5 {
        assert_eq!(
            small(Manner {
                under_way: 4,
                order,
                faults: 0.0
            })
            .state(),
            expected.state()
        );
    }
    assert_eq!(
        Search::new(&settings(), 1, 4, 10, &[]).stop(),
        Some(StopReason::Exhausted)
    );
}

#[test]
fn with_autotune_alone_every_point_of_the_starting_kernels_is_tried() {
    let mut run = Run::new(
        &Settings {
            operators: Weights {
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
    run.go(
        Manner {
            under_way: 4,
            order: 2,
            faults: 0.0,
        },
        usize::MAX,
    );
    assert_eq!(run.search.stop(), Some(StopReason::Exhausted));
    assert_eq!(run.search.counts().judged, 24);
}

#[test]
fn patience_and_target_stop_at_the_same_step_whatever_is_under_way() {
    for (settings, why) in [
        (
            Settings {
                patience: Some(25),
                ..settings()
            },
            StopReason::Patience,
        ),
        (
            Settings {
                target_speedup: Some(1.9),
                ..settings()
            },
            StopReason::Target,
        ),
    ] {
        let stopped = |manner| {
            let mut run = Run::new(&settings, 5000);
            run.go(manner, usize::MAX);
            (run.search.stop(), run.state())
        };
        let expected = stopped(ONE_BY_ONE);
        assert_eq!(expected.0, Some(why));
        for order in 0..10 {
            assert_eq!(
                stopped(Manner {
                    under_way: 4,
                    order,
                    faults: 0.0
                }),
                expected
            );
        }
    }
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how long it takes is for people to read, and never asserted"
)]
fn a_hundred_thousand_steps_are_folded_in_time_that_does_not_grow() {
    let steps = 100_000;
    let mut run = Run::new(&Settings::default(), steps);
    let mut clock = std::time::Instant::now();
    for step in 1..=steps {
        let brief = run.search.ask(step).unwrap();
        run.search.tell(&Event::Asked(brief.clone()));
        run.search.tell(&Event::Proposed(Proposed {
            edits: Default::default(),
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
        let mut luck = Stream::new(step, "bench", 0);
        let mut verdict = verdict(
            Status::Passed,
            Some(0.5 + 10.0 * luck.unit()),
            0.001,
            1024.0 * luck.unit(),
        );
        verdict
            .features
            .insert("barriers".to_owned(), luck.below(8) as f64);
        verdict
            .features
            .insert("vector_bytes".to_owned(), luck.below(20) as f64);
        run.search.tell(&Event::Judged(Judged { step, verdict }));
        if let Some(request) = run.search.duel() {
            run.search.tell(&Event::Dueled(Dueled {
                step,
                against: request.against,
                duel: None,
            }));
        }
        if step % 20_000 == 0 {
            println!(
                "steps up to {step}: {:.1} µs each, {} cells",
                clock.elapsed().as_secs_f64() / 0.02,
                run.search.archive().filled()
            );
            clock = std::time::Instant::now();
        }
    }
    assert_eq!(
        (run.search.folded(), run.search.stop()),
        (steps, Some(StopReason::Steps))
    );
    assert_eq!(run.search.held.len(), 0);
}
