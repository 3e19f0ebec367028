//! Simulated duels, ended by the real rules: how often a challenger wins that is not faster, and how often one that is.

#![expect(
    clippy::print_stdout,
    reason = "the figures of a large run are results"
)]

use super::*;
use crate::eval::simulated_machine::{Noise, Simulation, candidates};
use crate::task::TaskFiles;

/// What disturbs a device that keeps its processes, both kernels alike.
const STEADY: [Noise; 6] = [
    Noise::Quiet,
    Noise::Interrupted,
    Noise::HeavyTailed,
    Noise::Drifting,
    Noise::UnequalCandidate,
    Noise::UnequalBaseline,
];

/// One duel: whether the challenger wins, and the blocks that it took.
fn duel(
    rule_for: impl Fn(usize) -> StoppingRule,
    noise: Noise,
    log_speedup: f64,
    index: u64,
) -> (bool, usize) {
    let workloads = [1, 2, 7][index as usize % 3];
    let rule = rule_for(workloads);
    let (mut estimates, mut blocks) = (Vec::new(), 0);
    for workload in 0..workloads {
        let stream = RandomStream::new(31 + workload as u64, "duel", index);
        let mut machine = Simulation::new(noise, log_speedup, stream);
        let end = loop {
            blocks += 1;
            machine.run_to(machine.samples.blocks() + 1, usize::MAX);
            if let Some(end) = machine.samples.check(&rule, 0.0) {
                break end;
            }
        };
        estimates.extend(end.estimate);
    }
    let speedup = combine(&estimates);
    (speedup.is_some_and(|found| found.ci95[0] > 1.0), blocks)
}

/// The figures of each kind of noise, each from a thread of its own.
fn on_all_cores(
    noises: [Noise; 6],
    figures_of: impl Fn(Noise) -> [f64; 2] + Sync,
) -> [(Noise, [f64; 2]); 6] {
    std::thread::scope(|scope| {
        let figures_of = &figures_of;
        let started = noises.map(|noise| (noise, scope.spawn(move || figures_of(noise))));
        started.map(|(noise, thread)| (noise, thread.join().unwrap()))
    })
}

#[test]
fn a_challenger_that_is_not_faster_rarely_wins_a_short_duel() {
    let task = TaskFiles::find("softmax").unwrap().load().unwrap();
    let profile = &task.settings.profiles["full"];
    // 2,000 of each kind, and long duels too, for the figures in `benches/results/search-gpu.md`.
    let is_large = candidates() > 2000;
    let count = candidates() / if is_large { 20 } else { 40 };
    for is_short in [true, false]
        .into_iter()
        .filter(|is_short| *is_short || is_large)
    {
        let rule_for = |workloads| {
            let length = match is_short {
                true => TimingLength::Search { workloads },
                false => TimingLength::Profile,
            };
            length.stopping_rule(profile, true)
        };
        let length = if is_short { "short" } else { "long" };
        let run = |noise, speedup: f64, first: u64| {
            let duels = (0..count).map(|index| duel(rule_for, noise, speedup.ln(), first + index));
            let (won, blocks) = duels.fold((0, 0), |(won, sum), (wins, blocks)| {
                (won + u64::from(wins), sum + blocks)
            });
            [won as f64, blocks as f64].map(|sum| sum / count as f64)
        };
        let figures_of = |noise| {
            let [equal, blocks] = run(noise, 1.0, 0);
            let [slightly, _] = run(noise, 0.995, 100_000);
            // Nothing is expected of a faster one: it is a figure of a large run.
            let faster = is_large.then(|| run(noise, 1.02, 200_000)[0]);
            println!(
                "{length}, {noise:?}: {blocks:.0} blocks; wins of an equal challenger {:.2} %, of one that is 0.5 % slower {:.2} %, of one \
                 that is 2 % faster {} %",
                100.0 * equal,
                100.0 * slightly,
                faster.map_or("?".to_owned(), |share| format!("{:.1}", 100.0 * share))
            );
            [equal, slightly]
        };
        let mut slower = 0.0;
        for (noise, [equal, slightly]) in on_all_cores(STEADY, figures_of) {
            assert!(equal < 0.05, "{length}, {noise:?}: {equal}");
            slower += slightly / STEADY.len() as f64;
        }
        assert!(slower < 0.01, "{length}: {slower}");
    }
}
