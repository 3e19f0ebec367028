//! Tests of `search.tune_first`: which points a new kernel gets, and what is known of its family afterwards.

use super::*;
use crate::event::{EvaluationSeconds, TriedPoint, TriedPoints};

fn point(rows: i64, unroll: i64) -> IndexMap<String, i64> {
    [("ROWS".to_owned(), rows), ("UNROLL".to_owned(), unroll)].into()
}

/// A search with this setting and this share of steps for `autotune`.
fn search(tune_first: u64, autotune: f64) -> Search {
    let mut settings = SearchSettings {
        features: IndexMap::new(),
        tune_first: Some(tune_first),
        ..SearchSettings::default()
    };
    settings.operators.autotune = autotune;
    Search::new(&settings, 7, 1, 100, &["start.cu".to_owned()])
}

/// The proposal for a brief, with a family of this name.
fn proposal(brief: &Brief, family: &str) -> Proposed {
    let point = brief.point.clone().unwrap_or_else(|| point(4, 1));
    Proposed {
        form: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
        constraints: vec!["ROWS * UNROLL <= 8".to_owned()],
        expected: None,
        step: brief.step,
        kernel: Digest::of(format!("{family} {point:?}")),
        operator: brief.operator,
        parents: brief.parents.clone(),
        detail: String::new(),
        family: Digest::of(family),
        point,
        space: space(),
    }
}

fn tried(times: &[(IndexMap<String, i64>, Option<f64>)]) -> TriedPoints {
    let points = times.iter().map(|(point, microseconds)| TriedPoint {
        point: point.clone(),
        microseconds: *microseconds,
        status: microseconds.map_or(Status::LaunchError, |_| Status::Passed),
    });
    TriedPoints {
        points: points.collect(),
        seconds: EvaluationSeconds::default(),
    }
}

fn judge(search: &mut Search, step: u64, speedup: f64) {
    search.tell(&Event::Judged(Judged {
        step,
        verdict: verdict(Status::Passed, Some(speedup), 0.01, 64.0),
    }));
}

/// The brief of a step, told to the search.
fn ask(search: &mut Search, step: u64) -> Brief {
    let brief = search.ask(step).unwrap();
    search.tell(&Event::Asked(brief.clone()));
    brief
}

#[test]
fn a_new_kernel_gets_other_allowed_points_and_a_known_family_gets_none() {
    let mut search = search(4, 0.0);
    let start = proposal(&ask(&mut search, 1), "start");
    assert!(search.points_to_try(&start).is_empty());
    search.tell(&Event::Proposed(start));
    judge(&mut search, 1, 1.0);
    let brief = ask(&mut search, 2);
    assert_eq!(brief.operator, Operator::Mutate);
    let idea = proposal(&brief, "idea");
    let points = search.points_to_try(&idea);
    assert_eq!(points.len(), 4);
    for (index, one) in points.iter().enumerate() {
        assert!(one["ROWS"] * one["UNROLL"] <= 8, "{one:?}");
        assert!(*one != idea.point && !points[..index].contains(one));
    }
    // The same proposal gets the same points, as after a kill.
    assert_eq!(search.points_to_try(&idea), points);
    let known = proposal(&brief, "start");
    assert!(search.points_to_try(&known).is_empty());
    // From its proposal on the family is known.
    search.tell(&Event::Proposed(idea.clone()));
    let twin = Proposed { step: 3, ..idea };
    assert!(search.points_to_try(&twin).is_empty());
}

#[test]
fn a_kernel_whose_own_point_is_not_allowed_gets_points_from_the_whole_space() {
    let mut search = search(3, 0.0);
    let start = proposal(&ask(&mut search, 1), "start");
    search.tell(&Event::Proposed(start));
    judge(&mut search, 1, 1.0);
    let idea = Proposed {
        point: point(8, 4),
        ..proposal(&ask(&mut search, 2), "idea")
    };
    let points = search.points_to_try(&idea);
    assert_eq!(points.len(), 3);
    assert!(points.iter().all(|one| one["ROWS"] * one["UNROLL"] <= 8));
}

/// A search whose second step has tried five points of its kernel and passed, and the points that `autotune` tries next.
fn tuned_after_trials() -> (Search, Vec<IndexMap<String, i64>>) {
    let mut search = search(4, 1e9);
    let start = Proposed {
        space: IndexMap::new(),
        point: IndexMap::new(),
        ..proposal(&ask(&mut search, 1), "start")
    };
    search.tell(&Event::Proposed(start));
    judge(&mut search, 1, 1.0);
    let brief = ask(&mut search, 2);
    let idea = Proposed {
        point: point(2, 2),
        tried: Some(tried(&[
            (point(4, 1), Some(20.0)),
            (point(8, 1), None),
            (point(2, 2), Some(10.0)),
            (point(2, 1), Some(10.2)),
            (point(1, 4), Some(11.0)),
        ])),
        ..proposal(&brief, "idea")
    };
    search.tell(&Event::Proposed(idea));
    judge(&mut search, 2, 3.0);
    let mut points = Vec::new();
    for step in 3..20 {
        let brief = ask(&mut search, step);
        if brief.operator != Operator::Autotune {
            break;
        }
        let again = proposal(&brief, "idea");
        points.push(again.point.clone());
        search.tell(&Event::Proposed(again));
        judge(&mut search, step, 1.5);
    }
    (search, points)
}

#[test]
fn autotune_passes_over_points_that_a_trial_has_settled() {
    let (search, points) = tuned_after_trials();
    for settled in [point(4, 1), point(8, 1), point(2, 2), point(1, 4)] {
        assert!(!points.contains(&settled), "{settled:?} in {points:?}");
    }
    // A trial does not tell points apart that are nearly as fast.
    assert!(points.contains(&point(2, 1)), "{points:?}");
    assert_eq!(points.len(), 5, "{points:?}");
    // A tried point is no candidate: nothing was reported of it.
    assert_eq!(search.best().unwrap().step, 2);
}

#[test]
fn the_same_events_lead_to_the_same_points() {
    let (one, points) = tuned_after_trials();
    let (other, again) = tuned_after_trials();
    assert_eq!(points, again);
    assert_eq!(
        format!("{:?}", one.archive().elites()),
        format!("{:?}", other.archive().elites())
    );
}

#[test]
fn the_time_of_a_trial_counts_only_if_it_passed() {
    let mut points = tried(&[(point(4, 1), Some(2.0)), (point(2, 1), Some(1.0))]);
    assert_eq!(points.fastest().unwrap().point, point(2, 1));
    points.points[1].status = Status::WrongOutput;
    assert_eq!(points.fastest().unwrap().point, point(4, 1));
    points.points[0].microseconds = Some(-1.0);
    assert_eq!(points.fastest(), None);
}
