//! Tests of `search.islands`: who may be a parent where, what migrates and restarts, and that a kill or a changed device loses nothing.

use std::collections::BTreeSet;

use super::*;

const BUSY: Schedule = Schedule {
    in_flight: 4,
    arrival_seed: 5,
    fault_rate: 0.1,
};

const COUNT: u64 = 3;

fn with_islands(migrate_every: u64, restart_after: u64) -> SearchSettings {
    SearchSettings {
        islands: IslandSettings {
            count: COUNT,
            migrate_every,
            restart_after,
        },
        ..settings()
    }
}

/// Islands that exchange kernels and restart often.
fn lively() -> SearchSettings {
    with_islands(5, 12)
}

fn run_of(settings: &SearchSettings, steps: u64, arrival_seed: u64) -> ScriptedRun {
    let mut run = ScriptedRun::new(settings, steps);
    let schedule = Schedule {
        arrival_seed,
        ..BUSY
    };
    run.run_until(schedule, usize::MAX);
    run
}

/// The steps whose kernels an island has by its own steps: made there, or found again there.
fn own_kernels(run: &ScriptedRun, island: u32) -> BTreeSet<u64> {
    let steps = 1..=run.search.folded();
    let records = steps.filter_map(|step| Some((step, run.search.record(step)?)));
    let own = records.filter(|(_, record)| record.island.is_none_or(|own| own == island));
    own.map(|(step, record)| match record.outcome {
        StepOutcome::Duplicate { of } => of,
        _ => step,
    })
    .collect()
}

fn parents_of(run: &ScriptedRun, island: u32) -> BTreeSet<u64> {
    let briefs = run.briefs.values();
    let own = briefs.filter(|brief| brief.island == Some(island));
    own.flat_map(|brief| brief.parents.clone()).collect()
}

#[test]
fn a_replay_reaches_the_same_islands_and_a_kill_loses_nothing() {
    let lively = lively();
    let replayed = |journal: &[Event]| ScriptedRun::new(&lively, 150).resumed(journal);
    let (mut migrants, mut restarts) = (0, 0);
    for seed in 0..5 {
        let run = run_of(&lively, 150, seed);
        assert_eq!(run.search.folded(), 150);
        let again = replayed(&run.journal);
        assert_eq!(again.state(), run.state());
        assert_eq!(again.search.islands, run.search.islands);
        let islands = run.search.islands().iter();
        migrants += islands.clone().map(|one| one.migrants).sum::<u64>();
        restarts += islands.map(|one| one.restarts).sum::<u64>();
        for cut in (0..run.journal.len()).step_by(61) {
            let mut resumed = replayed(&run.journal[..cut]);
            resumed.run_until(BUSY, usize::MAX);
            assert_eq!(resumed.search.folded(), 150);
            let again = replayed(&resumed.journal);
            assert_eq!(again.search.islands, resumed.search.islands);
        }
    }
    assert!(migrants > 3 && restarts > 3, "{migrants}, {restarts}");
}

#[test]
fn steps_go_to_each_island_in_turn_and_starting_kernels_to_none() {
    let run = run_of(&lively(), 60, 1);
    let islands: Vec<_> = run.briefs.values().map(|brief| brief.island).collect();
    assert_eq!(islands[..2], [None, None]);
    let count = |number| islands.iter().filter(|one| **one == Some(number)).count();
    let counts: Vec<_> = (1..=COUNT as u32).map(count).collect();
    assert!(counts.iter().all(|count| *count >= 15), "{counts:?}");
    let steps = run.search.islands().iter().map(|island| island.steps);
    assert_eq!(steps.sum::<u64>(), run.search.folded() - 2);
    // One search without islands has none.
    let run = run_of(&settings(), 60, 1);
    assert!(run.search.islands().is_empty());
    assert!(run.briefs.values().all(|brief| brief.island.is_none()));
}

#[test]
fn parents_come_from_the_own_island_unless_they_migrate() {
    let from_others = |settings: &SearchSettings| -> usize {
        let of_seed = |seed| {
            let run = run_of(settings, 100, seed);
            let foreign = (1..=COUNT as u32).map(|island| {
                let own = own_kernels(&run, island);
                parents_of(&run, island).difference(&own).count()
            });
            foreign.sum::<usize>()
        };
        (0..6).map(of_seed).sum()
    };
    assert_eq!(from_others(&with_islands(u64::MAX, u64::MAX)), 0);
    assert!(from_others(&with_islands(5, u64::MAX)) > 0, "none migrated");
    assert!(
        from_others(&with_islands(u64::MAX, 12)) > 0,
        "none restarted"
    );
}

#[test]
fn a_candidate_must_beat_the_kernels_of_its_own_island_only() {
    let known = IndexMap::from([("block_threads".to_owned(), 64.0)]);
    let mut run = ScriptedRun::new(&with_islands(u64::MAX, u64::MAX), 90);
    run.run_until(BUSY, 200);
    let bar = |incumbents: Option<Incumbents>| incumbents.and_then(|one| one.bar(&known));
    let best = bar(run.search.incumbents()).unwrap();
    let bars: Vec<f64> = run
        .search
        .planned()
        .iter()
        .filter_map(|brief| bar(run.search.incumbents_of(brief.step)))
        .collect();
    assert!(bars.iter().all(|bar| *bar <= best), "{bars:?}, {best}");
    assert!(bars.iter().any(|bar| *bar < best), "{bars:?}, {best}");
}

#[test]
fn context_and_kernels_to_repair_come_from_the_own_island() {
    let islands = with_islands(u64::MAX, u64::MAX);
    let mut run = ScriptedRun::new(&islands, 10_000);
    let search = Search::new(&islands, 42, 8, 10_000, &starts());
    run.search = search.with_models(ModelPool {
        models: vec![("model".to_owned(), 1.0)],
        cards: Vec::new(),
    });
    run.run_until(BUSY, 600);
    let mut shown = 0;
    for brief in run.briefs.values() {
        let (Some(island), Some(model)) = (brief.island, &brief.model) else {
            continue;
        };
        let context = &model.context;
        let lists = [&context.elites, &context.different, &context.recent];
        let lists = lists.into_iter().chain([&context.failures, &brief.parents]);
        let own = own_kernels(&run, island);
        for step in lists.flatten() {
            assert!(own.contains(step), "{brief:?} has {step} of another island");
            shown += 1;
        }
    }
    assert!(shown > 100, "{shown}");
}

#[test]
fn no_island_keeps_a_figure_of_another_device() {
    let mut run = ScriptedRun::new(&lively(), 200);
    run.run_until(BUSY, 250);
    let before = run.search.folded();
    run.search.forget_figures();
    let elites: Vec<u64> = run
        .search
        .archive()
        .elites()
        .iter()
        .map(|one| one.step)
        .collect();
    for island in run.search.islands() {
        let own = island.archive.elites();
        assert!(!own.is_empty() && own.iter().all(|one| elites.contains(&one.step)));
    }
    // Twice as fast now.
    for step in &elites {
        let mut verdict = ScriptedRun::judge(&run.source(*step));
        if let Some(speedup) = &mut verdict.speedup {
            speedup.geomean *= 2.0;
            speedup.ci95 = speedup.ci95.map(|end| 2.0 * end);
        }
        run.tell(Event::Judged(Judged {
            step: *step,
            verdict,
        }));
    }
    for island in run.search.islands() {
        for elite in island
            .archive
            .elites()
            .iter()
            .filter(|one| one.step <= before)
        {
            let old = ScriptedRun::judge(&run.source(elite.step)).speedup.unwrap();
            assert_eq!(elite.speedup.geomean, 2.0 * old.geomean);
        }
    }
}
