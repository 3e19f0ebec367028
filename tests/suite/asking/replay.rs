//! A run that replays another: the same answers in the same order lead to the same search.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kforge::base::{RandomStream, random};
use kforge::event::Event;
use kforge::search::{FoldOrder, SearchUpdate};
use serde_json::json;

use crate::asking::model::{complete_reply, delayed, document, reply_to};
use crate::asking::run_log::{RequestLog, events};
use crate::asking::scenario::Scenario;
use crate::llm::server::Server;

const STEPS: u64 = 80;

/// A server whose replies take up to 60 ms, one in ten of them 400 ms.
fn server(seed: u64) -> Server {
    Server::start(move |number, seen| {
        let mut random = RandomStream::new(seed, "delay", number as u64);
        let seconds = match random.below(10) {
            0 => 0.4,
            _ => 0.06 * random.uniform(),
        };
        let reply = complete_reply(seen, &reply_to(&document(seen), number));
        delayed(reply, Duration::from_secs_f64(seconds))
    })
}

/// A run with models and own operators, in which answers and verdicts arrive in any order.
fn record(directory: &Path, order: FoldOrder) -> Scenario {
    let seed = random::fresh_seed();
    println!("seed {seed}");
    let server = server(seed);
    let scenario = Scenario {
        max_judging_ms: 20,
        operators: json!({"propose": 1, "edit": 2, "crossover": 0.5, "repair": 1, "autotune": 1, "mutate": 1, "recombine": 0.3}),
        order,
        ..Scenario::new(&server.url, STEPS)
    };
    scenario.finish_all_steps(directory);
    scenario
}

/// The same scenario with a model that repeats the replies of a run, and a judge with other delays.
fn replay_of(scenario: &Scenario, run: &Path) -> Scenario {
    let models = json!([{"provider": "replay", "name": "local", "from": run}]);
    Scenario {
        max_judging_ms: 8,
        ..scenario.clone()
    }
    .with_llm(json!({"models": models}))
}

/// The events that lead to the state of a search, in their order, and that state.
fn state(scenario: &Scenario, directory: &Path) -> String {
    let mut search = scenario.search(directory);
    let mut text = String::new();
    for event in events(directory) {
        for update in search.tell(&event) {
            assert!(!matches!(update, SearchUpdate::Diverged(_)), "{update:?}");
            text += &format!("{update:?}\n");
        }
        if let Event::Asked(brief) = event {
            text += &format!("{brief:?}\n");
        }
    }
    let elites = search.archive().elites();
    text + &format!("{elites:#?}\n{:#?}", search.counts())
}

/// The briefs and updates in an order that does not depend on the moment in which a brief was written.
fn sorted(state: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = state.lines().collect();
    lines.sort_unstable();
    lines
}

/// The updates of the fold, in their order.
fn folded(state: &str) -> Vec<&str> {
    let lines = state.lines();
    lines.filter(|line| line.starts_with("Folded")).collect()
}

fn assert_replayed(scenario: &Scenario, first: &Path, again: &Path) {
    let (first, again) = (state(scenario, first), state(scenario, again));
    assert_eq!(folded(&again), folded(&first));
    assert_eq!(sorted(&again), sorted(&first));
}

#[test]
fn replay_reaches_the_same_state_and_counts_the_recorded_costs() {
    let root = tempfile::tempdir().unwrap();
    for order in [FoldOrder::Journal, FoldOrder::Step] {
        let first = root.path().join(format!("{order:?}"));
        let scenario = record(&first, order);
        let replay = replay_of(&scenario, &first);
        for number in 0..2 {
            let again = root.path().join(format!("{order:?}-{number}"));
            replay.finish_all_steps(&again);
            assert_replayed(&scenario, &first, &again);
            let [spent, recorded] =
                [&again, &first].map(|directory| RequestLog::read(directory).spent());
            assert_eq!(spent, recorded);
            assert!(recorded.nano_usd.is_some_and(|amount| amount > 0));
        }
    }
}

#[test]
fn killed_replay_reaches_the_same_state() {
    let root = tempfile::tempdir().unwrap();
    let first = root.path().join("first");
    let scenario = record(&first, FoldOrder::Journal);
    let replay = replay_of(&scenario, &first);
    let again = root.path().join("again");
    let mut random = RandomStream::new(random::fresh_seed(), "kill", 0);
    let mut kills = 0;
    loop {
        let mut child = replay
            .process(&again)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let kill_at = Instant::now() + Duration::from_secs_f64(0.2 + 0.8 * random.uniform());
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= kill_at && kills < 6 {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    println!("{kills} kills");
    assert_replayed(&scenario, &first, &again);
}

#[test]
fn results_without_a_turn_come_last() {
    let root = tempfile::tempdir().unwrap();
    let first = root.path().join("first");
    let scenario = record(&first, FoldOrder::Journal);
    // The last verdicts get another step: now their turns never come, and the verdicts of a replay have none.
    let journal = first.join("softmax/events.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let mut changed = text.clone();
    for step in STEPS - 3..=STEPS {
        let verdict = |step| format!("\"step\":{step},\"event\":\"judged\"");
        changed = changed.replace(&verdict(step), &verdict(1000 + step));
    }
    assert_ne!(text, changed);
    std::fs::write(&journal, changed).unwrap();
    let again = root.path().join("again");
    replay_of(&scenario, &first).finish_all_steps(&again);
    state(&scenario, &again);
}
