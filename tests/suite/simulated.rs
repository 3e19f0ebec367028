//! The simulation of `benches/search`: it repeats, keeps its own rules, and reads and writes recorded spaces.

#[path = "../../benches/search/simulation/mod.rs"]
#[expect(dead_code, reason = "the bench uses the rest")]
mod simulation;

use kforge::search::{OperatorWeights, SearchSettings};
use simulation::landscape::Landscape;
use simulation::machine::{CARD, CARD_WITH_MODELS, CARD_WITH_STRAGGLERS, Machine, SHARED_CPU};
use simulation::record::RunRecord;
use simulation::recorded::Recorded;
use simulation::simulator::{Limits, Simulator};
use simulation::space::Invalidity;
use simulation::strategies::{ElitePool, MapElites, MuPlusLambda, RandomSearch, Setup};
use simulation::strategy::Strategy;
use simulation::{kernel_tuner, t4, terrains};

const SECONDS: f64 = 600.0;

fn setup(landscape: &dyn Landscape, machine: &Machine, seed: u64) -> Setup {
    Setup {
        seed,
        window: 8,
        starts: landscape.starts().len() as u64,
        models: machine.models.map_or(&[], |models| models.names),
    }
}

fn weights(machine: &Machine) -> OperatorWeights {
    let defaults = OperatorWeights::default();
    match machine.models {
        Some(_) => defaults,
        None => OperatorWeights {
            propose: 0.0,
            edit: 0.0,
            crossover: 0.0,
            repair: 0.0,
            ..defaults
        },
    }
}

/// The strategies of the bench.
fn strategies(setup: Setup, weights: &OperatorWeights) -> [Box<dyn Strategy>; 4] {
    let settings = SearchSettings {
        operators: weights.clone(),
        ..SearchSettings::default()
    };
    [
        Box::new(MapElites::new(&settings, &setup, true)),
        Box::new(RandomSearch::new(setup, weights)),
        Box::new(MuPlusLambda::new(setup, weights)),
        Box::new(ElitePool::new(setup, weights)),
    ]
}

fn simulate(
    landscape: &dyn Landscape,
    machine: &Machine,
    strategy: &mut dyn Strategy,
    seed: u64,
) -> RunRecord {
    let limits = Limits {
        seconds: SECONDS,
        steps: 150,
        window: 8,
    };
    Simulator::new(landscape, machine, strategy, limits, seed).run()
}

#[test]
fn same_seed_gives_the_same_search() {
    let landscape = terrains::ideas(3);
    let run = |which: usize, seed| {
        let setup = setup(&landscape, &CARD_WITH_MODELS, seed);
        let mut all = strategies(setup, &weights(&CARD_WITH_MODELS));
        simulate(&landscape, &CARD_WITH_MODELS, all[which].as_mut(), seed)
    };
    for which in 0..4 {
        assert_eq!(run(which, 7), run(which, 7), "strategy {which}");
        assert_ne!(run(which, 7), run(which, 8), "strategy {which}");
    }
}

#[test]
fn counts_add_up_and_no_kernel_is_faster_than_the_optimum() {
    for (name, landscape, machine) in [
        ("stairs", terrains::stairs(1), CARD),
        ("trap", terrains::trap(1), CARD),
        ("coupled", terrains::coupled(1), SHARED_CPU),
        ("ideas", terrains::ideas(1), CARD_WITH_MODELS),
        ("tuning", terrains::tuning(1), CARD),
    ] {
        let setup = setup(&landscape, &machine, 1);
        for mut strategy in strategies(setup, &weights(&machine)) {
            let record = simulate(&landscape, &machine, strategy.as_mut(), 1);
            let proposals = record.duplicates + record.without_candidate;
            let ended = record.judged + record.rejected + proposals;
            assert_eq!(record.steps, ended, "{name}");
            assert!(record.judged > 5, "{name}: {record:?}");
            assert!(record.busy() <= 1.0, "{name}: {}", record.busy());
            assert!(record.duel_seconds <= record.device_seconds, "{name}");
            let best = record.bests.last().expect("something passed");
            assert!(best.speedup > 1.0, "{name}: {best:?}");
            for best in &record.bests {
                assert!(
                    best.speedup <= record.optimum * (1.0 + 1e-9),
                    "{name}: {best:?}"
                );
            }
        }
    }
}

/// All four requests soon wait for an answer that takes 20 minutes. The card has other work meanwhile.
#[test]
fn stragglers_do_not_idle_the_card() {
    let machine = CARD_WITH_STRAGGLERS;
    for seed in 0..5 {
        let landscape = terrains::stairs(seed);
        let setup = Setup {
            window: 14,
            ..setup(&landscape, &machine, seed)
        };
        let mut strategy = MapElites::new(&SearchSettings::default(), &setup, true);
        let limits = Limits {
            seconds: 1200.0,
            steps: u64::MAX - 1,
            window: setup.window,
        };
        let record = Simulator::new(&landscape, &machine, &mut strategy, limits, seed).run();
        assert!(record.busy() >= 0.95, "seed {seed}: {}", record.busy());
    }
}

#[test]
fn stragglers_take_the_configured_time() {
    let models = CARD_WITH_MODELS.models.unwrap();
    let mut dice = simulation::dice::Dice::new(&[1]);
    let answers: Vec<f64> = (0..10_000).map(|_| models.answer(&mut dice)).collect();
    let slow = answers.iter().filter(|seconds| **seconds >= 900.0).count();
    assert!((450..550).contains(&slow), "{slow} of 10,000");
}

/// 3 x 2 points: one violates a constraint, one does not compile, one is missing.
const CACHE: &str = r#"{"device_name": "NVIDIA H200", "kernel_name": "sum", "problem_size": [4096, 1],
"tune_params_keys": ["block_size_x", "UNROLL"], "tune_params": {"block_size_x": [64, 32, 128], "UNROLL": [1, 2]}, "objective": "time",
"cache": {
"64,1": {"block_size_x": 64, "UNROLL": 1, "time": 2.0, "times": [2.0, 2.5], "compile_time": 150.5, "verification_time": 0,
         "benchmark_time": 40.0, "strategy_time": 0, "framework_time": 1.5, "timestamp": "2026-11-29 10:00:00+00:00"},
"64,2": {"block_size_x": 64, "UNROLL": 2, "time": 4.0, "compile_time": 150.0, "benchmark_time": 60.0, "timestamp": ""},
"32,1": {"block_size_x": 32, "UNROLL": 1, "time": "CompilationFailedConfig", "compile_time": 90.0, "timestamp": ""},
"32,2": {"block_size_x": 32, "UNROLL": 2, "__error__": "InvalidConfig", "timestamp": ""},
"128,1": {"block_size_x": 128, "UNROLL": 1, "time": 1.0, "compile_time": 140.0, "benchmark_time": 30.0, "timestamp": ""},"#;

#[test]
fn cache_files_of_kernel_tuner_are_read_and_written() {
    let space = kernel_tuner::read(CACHE).expect("an open file is complete up to its last line");
    assert_eq!(space.device, "NVIDIA H200");
    assert_eq!(space.points.len(), 5);
    assert_eq!(space.points[0].time, Ok(2.0));
    assert_eq!(space.points[0].times, [2.0, 2.5]);
    assert_eq!(space.points[2].time, Err(Invalidity::Compile));
    assert_eq!(space.points[3].time, Err(Invalidity::Constraints));
    let written = kernel_tuner::write(&space).unwrap();
    assert_eq!(kernel_tuner::read(&written).unwrap(), space);
    // The schema demands these of every entry.
    let file: serde_json::Value = serde_json::from_str(&written).unwrap();
    let entry = &file["cache"]["128,1"];
    for key in [
        "time",
        "compile_time",
        "verification_time",
        "benchmark_time",
        "strategy_time",
        "framework_time",
        "timestamp",
    ] {
        assert!(!entry[key].is_null(), "`{key}` is missing: {entry}");
    }
}

#[test]
fn t4_files_are_read_and_written() {
    let space = kernel_tuner::read(CACHE).unwrap();
    let through = t4::read(&t4::write(&space).unwrap()).unwrap();
    // T4 has no list of values: they come back in ascending order.
    assert_eq!(through.tunables["block_size_x"], [32, 64, 128]);
    assert_eq!(through.device, space.device);
    for (one, other) in space.points.iter().zip(&through.points) {
        assert_eq!(space.configuration(one), through.configuration(other));
        let same = simulation::space::RecordedPoint {
            indices: one.indices.clone(),
            ..other.clone()
        };
        assert_eq!(*one, same);
    }
    let again = t4::read(&t4::write(&through).unwrap()).unwrap();
    assert_eq!(again, through);
}

#[test]
fn damaged_spaces_are_refused_with_their_place() {
    for (text, message) in [
        ("{", "not a cache file of Kernel Tuner"),
        (
            r#"{"tune_params_keys": [], "tune_params": {}}"#,
            "no `cache`",
        ),
        (
            r#"{"tune_params_keys": ["A"], "tune_params": {"A": [1]}, "cache": {"2": {"A": 2, "time": 1.0}}}"#,
            "`cache`, `2`: `A` has no declared value `2`",
        ),
        (
            r#"{"tune_params_keys": ["A"], "tune_params": {"A": [1]}, "cache": {"1": {"A": 1}}}"#,
            "`cache`, `1`: no `time`",
        ),
    ] {
        let error = kernel_tuner::read(text).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
}

#[test]
fn recorded_space_is_searched_to_its_fastest_point() {
    let space = kernel_tuner::read(CACHE).unwrap();
    let landscape = Recorded::new(&space, 0).unwrap();
    let weights = OperatorWeights {
        mutate: 0.0,
        recombine: 0.0,
        ..weights(&CARD)
    };
    for mut strategy in strategies(setup(&landscape, &CARD, 1), &weights) {
        let record = simulate(&landscape, &CARD, strategy.as_mut(), 1);
        // The search measured every point; the fastest is known to it.
        assert_eq!(record.final_share(), 1.0, "{record:?}");
        assert!(record.seconds < 60.0, "{record:?}");
    }
}
