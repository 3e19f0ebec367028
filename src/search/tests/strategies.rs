//! Tests of `search.strategy`: each chooses the parents that it says, and reaches the same state after a kill.

use super::*;
use crate::search::settings::Strategy;

const WITHOUT_CELLS: [Strategy; 4] = [
    Strategy::ElitePool,
    Strategy::MuPlusLambda,
    Strategy::Beam,
    Strategy::Random,
];

fn settings_of(strategy: Strategy) -> SearchSettings {
    SearchSettings {
        strategy,
        ..settings()
    }
}

fn run_of(strategy: Strategy, schedule: Schedule) -> ScriptedRun {
    let mut run = new_run(strategy);
    run.run_until(schedule, usize::MAX);
    run
}

/// In step order, in which a killed run has but one way to go on.
fn new_run(strategy: Strategy) -> ScriptedRun {
    ScriptedRun::in_order(FoldOrder::Step, &settings_of(strategy), 80)
}

#[test]
fn a_killed_run_of_each_strategy_resumes_to_the_same_state() {
    let schedule = Schedule {
        in_flight: 4,
        arrival_seed: 9,
        fault_rate: 0.1,
    };
    for strategy in WITHOUT_CELLS {
        let reference = run_of(strategy, schedule);
        for cut in (0..reference.journal.len()).step_by(7) {
            let journal = &reference.journal[..cut];
            let mut run = new_run(strategy).resumed(journal);
            run.run_until(schedule, usize::MAX);
            assert_eq!(
                run.state(),
                reference.state(),
                "{strategy:?}, killed after {cut}"
            );
        }
    }
}

#[test]
fn strategies_have_parents_of_their_own() {
    let schedule = SEQUENTIAL;
    let parents = |strategy| -> Vec<u64> {
        let run = run_of(strategy, schedule);
        let briefs = run.briefs.values();
        briefs
            .filter_map(|brief| brief.parents.first().copied())
            .collect()
    };
    let all: Vec<_> = WITHOUT_CELLS
        .into_iter()
        .chain([Strategy::MapElites])
        .collect();
    for (index, one) in all.iter().enumerate() {
        for other in &all[..index] {
            assert_ne!(parents(*one), parents(*other), "{one:?} and {other:?}");
        }
    }
}

#[test]
fn parents_do_not_come_from_one_cell_or_family_alone() {
    let run = run_of(Strategy::MapElites, SEQUENTIAL);
    let parents: std::collections::BTreeSet<u64> = (run.briefs.values())
        .filter_map(|brief| brief.parents.first().copied())
        .collect();
    let families: std::collections::BTreeSet<_> = (parents.iter())
        .filter_map(|parent| run.search.ledger.family(*parent))
        .collect();
    assert!(
        parents.len() > 5 && families.len() > 3,
        "{parents:?}, {families:?}"
    );
}

/// A kernel slower than another of its kind may be a parent of these strategies, so it is judged to the end.
#[test]
fn without_cells_only_hopeless_kernels_are_dismissed() {
    let known = IndexMap::from([("block_threads".to_owned(), 64.0)]);
    for strategy in WITHOUT_CELLS {
        let run = run_of(strategy, SEQUENTIAL);
        let best = run.search.archive.elites()[0].speedup;
        let bar = run.search.incumbents().unwrap().bar(&known).unwrap();
        assert!(bar <= best.geomean / 4.0, "{strategy:?}: {bar} of {best:?}");
    }
}
