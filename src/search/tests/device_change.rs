//! A change of the device that the user has accepted: no figure of the old device takes part in any later decision.

use std::collections::BTreeSet;

use super::*;
use crate::base::RandomStream;

const BUSY: Schedule = Schedule {
    in_flight: 4,
    arrival_seed: 7,
    fault_rate: 0.1,
};

fn with_limits() -> SearchSettings {
    SearchSettings {
        patience: Some(60),
        stop_when_unlikely: Some(0.01),
        ..settings()
    }
}

/// A run whose device changes after about this many events, and which then judges its elites again; these elites, and the number of events
/// before the change.
fn changed(order: FoldOrder, events: usize) -> (ScriptedRun, BTreeSet<u64>, usize) {
    let mut run = ScriptedRun::in_order(order, &with_limits(), 120);
    run.run_until(BUSY, events);
    let before = run.journal.len();
    run.search.forget_figures();
    let elites: Vec<u64> = (run.search.archive().elites().iter())
        .map(|elite| elite.step)
        .collect();
    assert!(elites.len() > 1);
    for step in &elites {
        let verdict = ScriptedRun::judge(&run.source(*step));
        run.tell(Event::Judged(Judged {
            step: *step,
            verdict,
        }));
    }
    (run, elites.into_iter().collect(), before)
}

#[test]
fn no_figure_of_the_old_device_remains() {
    for order in [FoldOrder::Journal, FoldOrder::Step] {
        let mut run = ScriptedRun::in_order(order, &with_limits(), 120);
        run.run_until(BUSY, 150);
        let folded = run.search.folded();
        let old: Vec<u64> = (1..=folded)
            .filter(|step| run.search.record(*step).is_some())
            .collect();
        let passed = run.search.counts().passed;
        run.search.forget_figures();

        let search = &run.search;
        for step in old {
            let record = search.record(step).unwrap();
            assert!(
                !matches!(record.outcome, StepOutcome::Passed { .. }),
                "{record:?}"
            );
            if let Some(family) = record.family {
                let stream = &mut RandomStream::new(1, "test", step);
                let chosen = search.families.choose_untried_point(family, stream);
                assert!(chosen.is_none_or(|(_, fastest)| fastest.is_none()));
            }
        }
        assert_eq!(search.best_proven, None);
        assert_eq!(search.steps_without_gain(), 0);
        assert!(!search.front.is_gain_unlikely(0.99));
        assert_eq!(search.pending_duel(), None);
        assert_eq!(search.counts().passed, passed, "they passed all the same");
    }
}

#[test]
fn only_what_was_judged_on_the_new_device_has_a_figure() {
    for order in [FoldOrder::Journal, FoldOrder::Step] {
        let (mut run, judged_again, before) = changed(order, 150);
        let best = run.search.best_proven.unwrap().0;
        assert!(judged_again.contains(&best));
        run.run_until(BUSY, usize::MAX);
        let judged = run.journal[before..]
            .iter()
            .filter_map(|event| match event {
                Event::Judged(judged) => Some(judged.step),
                _ => None,
            });
        let judged: BTreeSet<u64> = judged.chain(judged_again).collect();
        let mut passed = 0;
        for step in 1..=run.search.folded() {
            let Some(record) = run.search.record(step) else {
                continue;
            };
            if matches!(record.outcome, StepOutcome::Passed { .. }) {
                passed += 1;
                let source = run.search.source_step(step);
                assert!(judged.contains(&step) || judged.contains(&source), "{step}");
            }
        }
        assert!(passed > 10, "{passed}");
    }
}

#[test]
fn a_resume_after_the_change_reaches_the_same_state() {
    let (mut run, _, before) = changed(FoldOrder::Journal, 150);
    run.run_until(BUSY, usize::MAX);
    let mut again = ScriptedRun::new(&with_limits(), 120);
    for (index, event) in run.journal.iter().enumerate() {
        if index == before {
            again.search.forget_figures();
        }
        if let Event::Asked(brief) = event {
            again.briefs.insert(brief.step, brief.clone());
        }
        again.tell(event.clone());
    }
    assert_eq!(again.state(), run.state());
}
