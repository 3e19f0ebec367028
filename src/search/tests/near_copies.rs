//! Tests of `search.near_copies`: which kernels are refused, and how often a near-copy becomes a parent.

use super::*;
use crate::base::Shingles;

/// The shingles of a source of 100 tokens, `changed` of which differ from those of the version 0.
fn shingles(version: usize, changed: usize) -> Shingles {
    let tokens: Vec<String> = (0..100)
        .map(|token| {
            if token < changed {
                format!("{version} {token}")
            } else {
                token.to_string()
            }
        })
        .collect();
    Shingles::of(tokens.iter().map(String::as_str))
}

fn search(action: NearCopyAction) -> Search {
    let mut settings = SearchSettings {
        near_copies: NearCopySettings {
            action,
            similarity: 0.9,
        },
        exploration: 0.0,
        ..SearchSettings::default()
    };
    settings.operators.autotune = 0.0;
    settings.operators.recombine = 0.0;
    settings.check().unwrap();
    Search::new(&settings, 7, 1, 10_000, &["start.cu".to_owned()])
}

/// A proposal for the next step, with the shingles of this version.
fn proposal(search: &mut Search, (version, changed): (usize, usize)) -> Proposed {
    let brief = search.ask(search.folded() + 1).unwrap();
    search.tell(&Event::Asked(brief.clone()));
    Proposed {
        step: brief.step,
        kernel: Digest::of(format!("{version} {changed}")),
        form: None,
        operator: brief.operator,
        parents: brief.parents,
        detail: String::new(),
        family: Digest::of(format!("{version} {changed}")),
        point: IndexMap::new(),
        space: IndexMap::new(),
        constraints: Vec::new(),
        expected: None,
        edits: Default::default(),
        shingles: Some(shingles(version, changed)),
        tried: None,
    }
}

/// Lets a version pass with this speedup, in a cell of its own block size.
fn pass(search: &mut Search, version: (usize, usize), (speedup, threads): (f64, f64)) -> u64 {
    let proposed = proposal(search, version);
    let step = proposed.step;
    search.tell(&Event::Proposed(proposed));
    search.tell(&Event::Judged(Judged {
        step,
        verdict: verdict(Status::Passed, Some(speedup), 0.001, threads),
    }));
    step
}

#[test]
fn a_near_copy_of_a_model_is_refused_and_one_of_an_own_operator_is_not() {
    let mut search = search(NearCopyAction::Refuse);
    pass(&mut search, (0, 0), (1.0, 32.0));
    let other = pass(&mut search, (2, 60), (2.0, 64.0));
    let own = proposal(&mut search, (1, 1));
    assert_eq!(search.near_copy_of(&own), None);
    let model = |changed: (usize, usize)| Proposed {
        operator: Operator::Edit,
        family: Digest::of(format!("{} {}", changed.0, changed.1)),
        shingles: Some(shingles(changed.0, changed.1)),
        ..own.clone()
    };
    assert_eq!(search.near_copy_of(&model((1, 1))), Some(1));
    assert_eq!(search.near_copy_of(&model((2, 61))), Some(other));
    assert_eq!(search.near_copy_of(&model((1, 40))), None);
    // Another point of the same family.
    let point = Proposed {
        family: Digest::of("0 0"),
        ..model((0, 0))
    };
    assert_eq!(search.near_copy_of(&point), None);
    // A kernel that did not pass may be repaired by a small change.
    search.tell(&Event::Proposed(own.clone()));
    search.tell(&Event::Judged(Judged {
        step: 3,
        verdict: verdict(Status::WrongOutput, None, 0.0, 128.0),
    }));
    assert_eq!(search.near_copy_of(&model((1, 1))), Some(1));
}

#[test]
fn a_refused_step_ends_without_a_candidate() {
    let mut search = search(NearCopyAction::Refuse);
    pass(&mut search, (0, 0), (1.0, 32.0));
    let refused = proposal(&mut search, (1, 1));
    search.tell(&Event::Failed(Failed {
        of: Some(1),
        ..Failed::new(refused.step, FailedReason::NearCopy, String::new())
    }));
    let outcome = search.record(refused.step).unwrap().outcome;
    assert_eq!(outcome, StepOutcome::Failed(FailedReason::NearCopy));
    assert_eq!(search.counts().failed[&FailedReason::NearCopy], 1);
    assert!(search.ask(refused.step + 1).is_some());
}

/// How often each of the three elites is drawn: two near-copies, and a kernel of another kind that is the slowest.
fn parents_drawn(action: NearCopyAction) -> [u64; 3] {
    let mut search = search(action);
    let slowest = pass(&mut search, (3, 80), (1.0, 512.0));
    let copy = pass(&mut search, (1, 1), (1.5, 64.0));
    let fastest = pass(&mut search, (0, 0), (2.0, 32.0));
    let mut counts = BTreeMap::new();
    for step in 4..1004 {
        let brief = search.ask(step).unwrap();
        *counts.entry(brief.parents[0]).or_default() += 1;
        search.tell(&Event::Asked(brief));
        let failed = Failed::new(step, FailedReason::HarnessError, String::new());
        search.tell(&Event::Failed(failed));
    }
    [fastest, copy, slowest].map(|step| counts.remove(&step).unwrap_or(0))
}

#[test]
fn a_near_copy_of_a_faster_elite_is_drawn_less_often() {
    // 1, 1/4 and 1/9 of the weight.
    let [_, copy, slowest] = parents_drawn(NearCopyAction::Keep);
    assert!(
        copy > slowest && (140..230).contains(&copy),
        "{copy} {slowest}"
    );
    // The copy has a quarter of its weight: less than the kernel of another kind.
    let [fastest, copy, slowest] = parents_drawn(NearCopyAction::DownWeight);
    assert!(
        copy < slowest && (25..90).contains(&copy),
        "{copy} {slowest}"
    );
    assert!(fastest > 800, "{fastest}");
}
