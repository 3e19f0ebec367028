//! The scenarios of the suite, and the strategies and settings that are compared on them.

use kforge::search::{
    IslandSettings, NearCopyAction, NearCopySettings, OperatorWeights, SearchSettings, Strategy,
};

use crate::simulation::landscape::Landscape;
use crate::simulation::machine::{
    CARD, CARD_WITH_A_WEAK_MODEL, CARD_WITH_MODELS, CARD_WITH_STRAGGLERS, Machine, SHARED_CPU,
};
use crate::simulation::record::RunRecord;
use crate::simulation::simulator::{Limits, Simulator};
use crate::simulation::strategies::{ElitePool, MapElites, MuPlusLambda, RandomSearch, Setup};
use crate::simulation::strategy::Strategy as Simulated;
use crate::simulation::terrains;

/// Added to the number of a run for the seed of its search, so that it differs from that of its landscape.
const SEARCH_SEED: u64 = 1_000_000;

/// A landscape on a machine, with a time.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// The landscape of a seed.
    pub(crate) landscape: Box<dyn Fn(u64) -> Box<dyn Landscape> + Sync>,
    pub(crate) machine: Machine,
    /// The operators that the landscape has.
    pub(crate) operators: OperatorWeights,
    pub(crate) minutes: f64,
    /// When the tables look: after these steps, and after these minutes.
    pub(crate) at_steps: [u64; 2],
    pub(crate) at_minutes: [f64; 2],
}

/// A strategy of the suite.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) make: Box<Make>,
}

type Make = dyn Fn(&Scenario, Setup) -> Box<dyn Simulated> + Sync;

impl Scenario {
    fn new<L: Landscape + 'static>(name: &str, landscape: fn(u64) -> L) -> Self {
        Self {
            name: name.to_owned(),
            landscape: Box::new(move |seed| Box::new(landscape(seed))),
            machine: CARD,
            operators: own_operators(),
            minutes: 15.0,
            at_steps: [100, 300],
            at_minutes: [5.0, 15.0],
        }
    }

    /// One search. The number is the seed of landscape, search and machine.
    pub(crate) fn run(&self, entry: &Entry, number: u64) -> RunRecord {
        let landscape = (self.landscape)(number);
        let setup = Setup {
            seed: SEARCH_SEED + number,
            window: self.machine.window(),
            starts: landscape.starts().len() as u64,
            models: self.machine.models.map_or(&[], |models| models.names),
        };
        let mut strategy = (entry.make)(self, setup);
        let limits = Limits {
            seconds: 60.0 * self.minutes,
            steps: u64::MAX - 1,
            window: setup.window,
        };
        let simulator = Simulator::new(
            landscape.as_ref(),
            &self.machine,
            strategy.as_mut(),
            limits,
            number,
        );
        simulator.run()
    }

    /// The settings of a run with default settings.
    fn settings(&self) -> SearchSettings {
        SearchSettings {
            operators: self.operators.clone(),
            ..SearchSettings::default()
        }
    }
}

/// The synthetic scenarios.
pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("stairs", terrains::stairs),
        Scenario::new("trap", terrains::trap),
        Scenario::new("coupled", terrains::coupled),
        Scenario {
            machine: CARD_WITH_MODELS,
            operators: OperatorWeights::default(),
            minutes: 120.0,
            at_minutes: [30.0, 120.0],
            ..Scenario::new("ideas", terrains::ideas)
        },
        Scenario {
            machine: CARD_WITH_A_WEAK_MODEL,
            operators: OperatorWeights::default(),
            minutes: 120.0,
            at_minutes: [30.0, 120.0],
            ..Scenario::new("ideas, two models", terrains::ideas)
        },
        Scenario::new("sites", terrains::sites),
        Scenario {
            machine: SHARED_CPU,
            minutes: 60.0,
            at_minutes: [15.0, 60.0],
            ..Scenario::new("sites on a CPU", terrains::sites)
        },
        Scenario {
            machine: CARD_WITH_STRAGGLERS,
            operators: OperatorWeights::default(),
            minutes: 30.0,
            at_minutes: [10.0, 30.0],
            ..Scenario::new("stragglers", terrains::stairs)
        },
        Scenario {
            machine: SHARED_CPU,
            minutes: 60.0,
            at_minutes: [15.0, 60.0],
            ..Scenario::new("stairs on a CPU", terrains::stairs)
        },
        Scenario {
            operators: autotune_alone(),
            at_steps: [50, 200],
            at_minutes: [2.0, 15.0],
            minutes: 15.0,
            ..Scenario::new("tuning", terrains::tuning)
        },
    ]
}

/// A scenario on a recorded space.
pub(crate) fn recorded(
    name: &str,
    landscape: impl Fn(u64) -> Box<dyn Landscape> + Sync + 'static,
) -> Scenario {
    Scenario {
        name: name.to_owned(),
        landscape: Box::new(landscape),
        machine: CARD,
        operators: autotune_alone(),
        minutes: 60.0,
        at_steps: [50, 200],
        at_minutes: [2.0, 60.0],
    }
}

/// kforge's search with default settings. All others are compared with it.
pub(crate) fn default_entry() -> Entry {
    Entry {
        name: "map_elites",
        make: Box::new(|scenario, setup| {
            Box::new(MapElites::new(&scenario.settings(), &setup, true))
        }),
    }
}

/// The controls.
pub(crate) fn controls() -> Vec<Entry> {
    vec![
        Entry {
            name: "random",
            make: Box::new(|scenario, setup| {
                Box::new(RandomSearch::new(setup, &scenario.operators))
            }),
        },
        Entry {
            name: "mu_plus_lambda",
            make: Box::new(|scenario, setup| {
                Box::new(MuPlusLambda::new(setup, &scenario.operators))
            }),
        },
        Entry {
            name: "elite_pool",
            make: Box::new(|scenario, setup| Box::new(ElitePool::new(setup, &scenario.operators))),
        },
    ]
}

/// `map_elites` with one setting changed at a time.
pub(crate) fn ablations() -> Vec<Entry> {
    vec![
        changed("exploration: 0", |settings| settings.exploration = 0.0),
        changed("exploration: 0.1", |settings| settings.exploration = 0.1),
        changed("exploration: 0.6", |settings| settings.exploration = 0.6),
        changed("exploration: 1", |settings| settings.exploration = 1.0),
        changed("learning: 0", |settings| settings.learning = 0.0),
        changed("learning: 1", |settings| settings.learning = 1.0),
        changed("features with speedup", |settings| {
            let edges = vec![0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];
            settings.features.insert("speedup".to_owned(), edges);
        }),
        changed("features without shared_bytes", |settings| {
            settings.features.shift_remove("shared_bytes");
        }),
        changed("features: {}", |settings| settings.features.clear()),
        changed("operators.autotune: 0.3", |settings| {
            settings.operators.autotune = 0.3;
        }),
        changed("operators.autotune: 3", |settings| {
            settings.operators.autotune = 3.0;
        }),
        changed("operators.recombine: 0", |settings| {
            settings.operators.recombine = 0.0;
        }),
        changed("operators.recombine: 1", |settings| {
            settings.operators.recombine = 1.0;
        }),
        changed("strategy: elite_pool", |settings| {
            settings.strategy = Strategy::ElitePool;
        }),
        changed("strategy: mu_plus_lambda", |settings| {
            settings.strategy = Strategy::MuPlusLambda;
        }),
        changed("strategy: beam", |settings| {
            settings.strategy = Strategy::Beam;
        }),
        changed("strategy: random", |settings| {
            settings.strategy = Strategy::Random;
        }),
        islands("islands: 2", 2, |_| {}),
        islands("islands: 4", 4, |_| {}),
        islands("islands: 8", 8, |_| {}),
        islands("islands: 4, migrate_every: 10", 4, |islands| {
            islands.migrate_every = 10;
        }),
        islands("islands: 4, no migration", 4, |islands| {
            islands.migrate_every = u64::MAX;
        }),
        islands("islands: 4, no restart", 4, |islands| {
            islands.restart_after = u64::MAX;
        }),
        near_copies("near_copies: down_weight", NearCopyAction::DownWeight, 0.97),
        near_copies(
            "near_copies: down_weight, 0.9",
            NearCopyAction::DownWeight,
            0.9,
        ),
        near_copies("near_copies: refuse", NearCopyAction::Refuse, 0.97),
        near_copies("near_copies: refuse, 0.9", NearCopyAction::Refuse, 0.9),
        changed("stop_when_unlikely: 0.05", |settings| {
            settings.stop_when_unlikely = Some(0.05);
        }),
        changed("stop_when_unlikely: 0.01", |settings| {
            settings.stop_when_unlikely = Some(0.01);
        }),
        changed("patience: 100", |settings| settings.patience = Some(100)),
        Entry {
            name: "known code is judged",
            make: Box::new(|scenario, setup| {
                let search = MapElites::new(&scenario.settings(), &setup, true);
                Box::new(search.without_known_code())
            }),
        },
        changed("tune_first: 2", |settings| settings.tune_first = Some(2)),
        changed("tune_first: 4", |settings| settings.tune_first = Some(4)),
        changed("tune_first: 8", |settings| settings.tune_first = Some(8)),
        changed("window: 1", |settings| settings.window = Some(1)),
        changed("window: 2", |settings| settings.window = Some(2)),
        changed("window: 3", |settings| settings.window = Some(3)),
        changed("window: 4", |settings| settings.window = Some(4)),
        changed("window: 32", |settings| settings.window = Some(32)),
        Entry {
            name: "eval.racing: false",
            make: Box::new(|scenario, setup| {
                Box::new(MapElites::new(&scenario.settings(), &setup, false))
            }),
        },
    ]
}

fn changed(name: &'static str, change: fn(&mut SearchSettings)) -> Entry {
    Entry {
        name,
        make: Box::new(move |scenario, setup| {
            let mut settings = scenario.settings();
            change(&mut settings);
            Box::new(MapElites::new(&settings, &setup, true))
        }),
    }
}

/// `map_elites` with islands.
fn islands(name: &'static str, count: u64, change: fn(&mut IslandSettings)) -> Entry {
    Entry {
        name,
        make: Box::new(move |scenario, setup| {
            let mut settings = scenario.settings();
            settings.islands.count = count;
            change(&mut settings.islands);
            Box::new(MapElites::new(&settings, &setup, true))
        }),
    }
}

/// `map_elites` that refuses near-copies, or draws them less often.
fn near_copies(name: &'static str, action: NearCopyAction, similarity: f64) -> Entry {
    Entry {
        name,
        make: Box::new(move |scenario, setup| {
            let mut settings = scenario.settings();
            settings.near_copies = NearCopySettings { action, similarity };
            Box::new(MapElites::new(&settings, &setup, true))
        }),
    }
}

fn own_operators() -> OperatorWeights {
    OperatorWeights {
        propose: 0.0,
        edit: 0.0,
        crossover: 0.0,
        repair: 0.0,
        ..OperatorWeights::default()
    }
}

fn autotune_alone() -> OperatorWeights {
    OperatorWeights {
        mutate: 0.0,
        recombine: 0.0,
        ..own_operators()
    }
}
