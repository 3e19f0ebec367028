//! What users of similar programs complain about: code length that counts as quality, parents of one kind alone, a best that falls.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const BUSY: Schedule = Schedule {
    in_flight: 4,
    arrival_seed: 3,
    fault_rate: 0.05,
};

#[test]
fn the_text_of_a_kernel_and_so_its_length_plays_no_part() {
    let run = run_to_end(150, BUSY);
    // The same run with other texts: every source has another hash, and so may have any length.
    let renamed = |digest: Digest| Digest::of(format!("a much longer text {digest}"));
    let mut other = ScriptedRun::new(&settings(), 150);
    for event in &run.journal {
        let mut event = event.clone();
        match &mut event {
            Event::Asked(brief) => {
                other.briefs.insert(brief.step, brief.clone());
            }
            Event::Proposed(proposed) => proposed.kernel = renamed(proposed.kernel),
            Event::Failed(failed) => failed.kernel = failed.kernel.map(renamed),
            _ => {}
        }
        other.tell(event);
    }
    let diverged = |one: &SearchUpdate| matches!(one, SearchUpdate::Diverged(_));
    assert!(!other.updates.iter().any(diverged));
    assert_eq!(other.state(), run.state());
    assert!(
        !FEATURES
            .iter()
            .any(|name| name.contains("length") || name.contains("lines"))
    );
}

#[test]
fn parents_come_from_several_cells_and_families() {
    let run = run_to_end(300, BUSY);
    let (mut families, mut cells) = (BTreeMap::new(), BTreeSet::new());
    let mut briefs = 0;
    let cell_of: BTreeMap<u64, _> = (run.updates.iter())
        .filter_map(|update| match update {
            SearchUpdate::Folded {
                step,
                cell: Some(cell),
                ..
            } => Some((*step, cell.clone())),
            _ => None,
        })
        .collect();
    for brief in run.briefs.values() {
        let Some(parent) = brief.parents.first() else {
            continue;
        };
        briefs += 1;
        cells.extend(cell_of.get(parent).cloned());
        let family = run.search.record(*parent).and_then(|record| record.family);
        *families.entry(family).or_insert(0) += 1;
    }
    assert!(cells.len() >= 4, "{} cells", cells.len());
    assert!(families.len() >= 8, "{} families", families.len());
    let most = families.values().max().copied().unwrap_or(0);
    assert!(
        2 * most < briefs,
        "{most} of {briefs} briefs have one family"
    );
}

#[test]
fn the_best_of_a_search_never_falls() {
    for arrival_seed in 0..8 {
        let run = run_to_end(
            150,
            Schedule {
                arrival_seed,
                ..BUSY
            },
        );
        let mut search = ScriptedRun::new(&settings(), 150).search;
        let mut best = 0.0;
        for event in &run.journal {
            search.tell(event);
            let now = search.best().map_or(0.0, |elite| elite.speedup.geomean);
            assert!(now >= best, "{now} after {best}");
            best = now;
        }
        assert!(best > 1.5, "{best}");
    }
}
