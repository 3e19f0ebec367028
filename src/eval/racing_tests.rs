//! Simulated candidates near the bar, judged by the real decisions: how often a look dismisses a candidate that reaches the bar, how soon
//! it dismisses a slower candidate, and how often the interval of a dismissed candidate is right.

#![expect(
    clippy::print_stdout,
    reason = "the figures of a large run are results"
)]

use super::*;
use crate::base::RandomStream;
use crate::base::statistics::hodges_lehmann;
use crate::eval::simulated_machine::{KINDS, Noise, Simulation, candidates};

impl Simulation {
    fn reading(&self) -> Reading {
        Reading::of(&self.samples, self.anchor_error)
    }
}

/// The log speedup that a full timing finds on a machine with this noise if the kernels are equal.
fn centre(noise: Noise) -> f64 {
    let mut machine = Simulation::new(noise, 0.0, RandomStream::new(3, "centre", 0));
    machine.run_to(600, 2);
    let mirrored: Vec<f64> = (machine.samples.independent_ratios().iter())
        .map(|ratios| ratios[0])
        .collect();
    match noise {
        Noise::CandidateInterrupted | Noise::BaselineInterrupted => {
            hodges_lehmann(&mirrored).unwrap().estimate
        }
        _ => 0.0,
    }
}

/// Races one candidate as the judge does. Returns its last state, and the interval if it is dismissed.
fn race(noise: Noise, workloads: usize, log_speedup: f64, index: u64) -> (LookResult, [f64; 2]) {
    race_anchored(noise, workloads, log_speedup, 0.0, index)
}

/// Like `race`, with an anchor whose log speedup has this standard error.
fn race_anchored(
    noise: Noise,
    workloads: usize,
    log_speedup: f64,
    anchor_error: f64,
    index: u64,
) -> (LookResult, [f64; 2]) {
    let mut machines = machines(noise, workloads, log_speedup, index);
    if anchor_error > 0.0 {
        machines = (machines.into_iter())
            .map(|machine| machine.with_anchor(anchor_error))
            .collect();
    }
    race_machines(machines, &[FIRST_LOOK_BLOCKS])
}

/// Unused machines, one for each workload.
fn machines(noise: Noise, workloads: usize, log_speedup: f64, index: u64) -> Vec<Simulation> {
    let machines = (0..workloads as u64).map(|workload| {
        let stream = RandomStream::new(29 + workload, "racing", index);
        Simulation::new(noise, log_speedup, stream)
    });
    machines.collect()
}

/// Races one candidate on these machines, with these numbers of blocks at the early looks.
fn race_machines(mut machines: Vec<Simulation>, early_blocks: &[usize]) -> (LookResult, [f64; 2]) {
    let workloads = machines.len();
    let mut race = Race::new(1.0, workloads, early_blocks.len() as u32);
    let readings = |machines: &[Simulation]| -> Vec<Reading> {
        machines.iter().map(Simulation::reading).collect()
    };
    let mut look_result = LookResult::Open;
    for (look, blocks) in early_blocks.iter().enumerate() {
        let reaches = look > 0 && seems_to_reach(&readings(&machines), race.bar());
        if look_result == LookResult::Open && !reaches {
            for machine in &mut machines {
                machine.run_to(*blocks, 1);
            }
            look_result = race.look(&readings(&machines));
        }
    }
    for workload in 0..workloads {
        for blocks in LATER_LOOKS {
            if look_result == LookResult::Open {
                machines[workload].run_to(blocks, 2);
                look_result = race.look(&readings(&machines));
            }
        }
        if look_result == LookResult::Open {
            machines[workload].run_to(20, 2);
        }
    }
    let interval = race.interval(&readings(&machines)).unwrap();
    (look_result, [interval.low, interval.high])
}

/// The share of candidates that are dismissed, and of these the share at the first look.
fn dismissed(noise: Noise, log_speedup: f64, count: u64) -> [f64; 2] {
    let centre = centre(noise);
    let (mut all, mut first) = (0.0, 0.0);
    for index in 0..count {
        let workloads = [1, 2, 5][index as usize % 3];
        let (look_result, _) = race(noise, workloads, log_speedup - centre, index);
        if let LookResult::Dismissed(dismissal) = look_result {
            all += 1.0;
            first += f64::from(u8::from(dismissal.look == 1));
        }
    }
    [all / count as f64, first / f64::max(all, 1.0)]
}

#[test]
fn an_anchor_does_not_dismiss_more_candidates_that_reach_the_bar() {
    // Larger than the error of the samples, so that it decides.
    const ANCHOR_ERROR: f64 = 0.04;
    let count = candidates();
    let (mut dismissed, mut right) = (0.0, 0.0);
    for index in 0..count {
        let workloads = [1, 2, 5][index as usize % 3];
        let (look_result, _) = race_anchored(Noise::Quiet, workloads, 0.0, ANCHOR_ERROR, index);
        dismissed += f64::from(u8::from(look_result != LookResult::Open));
    }
    let share = dismissed / count as f64;
    println!(
        "{:.3} % of candidates at the bar are dismissed",
        share * 100.0
    );
    assert!(share < 0.01, "{share}");
    // A slow one is dismissed all the same, with an interval that is right.
    let slow = f64::ln(0.5);
    let mut found = 0.0;
    for index in 0..count / 10 {
        let (look_result, [low, high]) =
            race_anchored(Noise::Quiet, 2, slow, ANCHOR_ERROR, 7000 + index);
        if look_result != LookResult::Open {
            found += 1.0;
            right += f64::from(u8::from(low <= slow && slow <= high));
        }
    }
    assert!(found >= 0.9 * (count / 10) as f64, "{found}");
    assert!(right >= 0.95 * found, "{right} of {found}");
}

#[test]
fn candidates_that_reach_the_bar_are_rarely_dismissed() {
    let count = candidates();
    let mut total = 0.0;
    for noise in KINDS {
        let [share, _] = dismissed(noise, 0.0, count / KINDS.len() as u64);
        println!(
            "{noise:?}: {:.3} % of candidates at the bar are dismissed",
            share * 100.0
        );
        total += share / KINDS.len() as f64;
        assert!(share < 0.02, "{noise:?}: {share}");
    }
    assert!(total < 0.01, "{total}");
}

#[test]
fn fewer_blocks_dismiss_few_that_reach_the_bar_if_there_are_many_workloads() {
    let count = candidates();
    let mut total = 0.0;
    for noise in KINDS {
        let centre = centre(noise);
        let raced = |log_speedup: f64, first: u64, count: u64| {
            let results = (first..first + count).map(|index| {
                let workloads = [4, 7, 12][index as usize % 3];
                let machines = machines(noise, workloads, log_speedup - centre, index);
                let early = [steady_look_blocks(workloads), SECOND_LOOK_BLOCKS];
                race_machines(machines, &early).0
            });
            let dismissed = results.filter(|look_result| *look_result != LookResult::Open);
            dismissed.count() as f64 / count as f64
        };
        let share = raced(0.0, 0, count / KINDS.len() as u64);
        println!(
            "{noise:?}: {:.3} % of candidates at the bar are dismissed",
            share * 100.0
        );
        total += share / KINDS.len() as f64;
        assert!(share < 0.02, "{noise:?}: {share}");
        let slower = raced(f64::ln(0.7), 9000, count / 40);
        assert!(slower >= 0.95, "{noise:?}: {slower}");
    }
    assert!(total < 0.01, "{total}");
    assert!(steady_look_blocks(3) > steady_look_blocks(4));
}

#[test]
fn losers_are_dismissed_soon() {
    for noise in KINDS {
        for (speedup, least, least_first) in [(0.8, 0.6, 0.3), (0.5, 0.95, 0.75), (0.03, 1.0, 0.95)]
        {
            let [share, first] = dismissed(noise, f64::ln(speedup), candidates() / 20);
            println!(
                "{noise:?}, {speedup}: {share:.3} dismissed, {first:.3} of them at the first look"
            );
            assert!(
                share >= least && first >= least_first,
                "{noise:?}, {speedup}: {share}, {first}"
            );
        }
    }
}

#[test]
fn interval_of_a_dismissed_candidate_contains_its_speedup() {
    for noise in KINDS {
        let centre = centre(noise);
        let (mut dismissed, mut right) = (0.0, 0.0);
        for index in 0..candidates() / 10 {
            let workloads = [1, 2, 5][index as usize % 3];
            let speedup = f64::ln(0.7);
            let (look_result, [low, high]) = race(noise, workloads, speedup - centre, 7000 + index);
            if look_result != LookResult::Open {
                dismissed += 1.0;
                right += f64::from(u8::from(low <= speedup && speedup <= high));
            }
        }
        println!(
            "{noise:?}: {:.3} of {dismissed} intervals",
            right / dismissed
        );
        assert!(
            right / dismissed >= 0.95,
            "{noise:?}: {right} of {dismissed}"
        );
    }
}

#[test]
fn few_samples_decide_nothing() {
    let mut lone = Simulation::new(Noise::Quiet, -9.0, RandomStream::new(1, "lone", 0));
    lone.run_to(1, 1);
    let mut race = Race::new(1.0, 1, 1);
    assert_eq!(race.look(&[lone.reading()]), LookResult::Open);
    assert_eq!(race.interval(&[lone.reading()]), None);
    assert_eq!(Race::new(1.0, 0, 1).look(&[]), LookResult::Open);
    // A workload of which nothing is known leaves everything open.
    let mut known = Simulation::new(Noise::Quiet, -9.0, RandomStream::new(2, "known", 0));
    known.run_to(4, 1);
    assert_eq!(
        race.look(&[known.reading(), lone.reading()]),
        LookResult::Open
    );
}

#[test]
fn all_looks_spend_the_whole_probability() {
    for workloads in [1, 2, 7] {
        let mut race = Race::new(1.0, workloads, 2);
        let mut spent = 0.0;
        for _ in 0..race.looks {
            race.look += 1;
            spent += race.share();
        }
        assert!(
            (spent - 1.0).abs() < 1e-12,
            "{workloads} workloads: {spent}"
        );
    }
}
