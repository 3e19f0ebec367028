//! What the search itself takes: the time of one ask and of what it is told about one step, after few and after many candidates.

use std::time::{Duration, Instant};

use indexmap::IndexMap;
use kforge::base::{Digest, RandomStream};
use kforge::event::{Brief, Dueled, Event, Judged, Proposed};
use kforge::search::{Search, SearchSettings};
use kforge::verdict::{Duel, Speedup, Status, Timing};

use crate::simulation::landscape::Truth;
use crate::simulation::verdicts::{Figures, verdict};

/// Over how many steps the time is averaged.
const MEASURED_STEPS: u64 = 1000;

const WINDOW: u64 = 6;

/// The mean time of a step at one number of candidates.
pub(crate) struct AskCost {
    pub(crate) candidates: u64,
    pub(crate) step: Duration,
    pub(crate) cells: usize,
}

/// Every candidate is a new kernel of any kind that passes, so that the archive fills.
pub(crate) fn measure(candidates: u64) -> AskCost {
    let settings = SearchSettings::default();
    let starts = ["naive.cu".to_owned()];
    let steps = candidates + MEASURED_STEPS;
    let mut search = Search::new(&settings, 1, WINDOW, steps, &starts);
    let mut spent = Duration::ZERO;
    for step in 1..=steps {
        let events = step_events(step);
        let began = Instant::now();
        let brief = search.ask(step);
        let Some(brief) = brief else { break };
        let proposed = proposed(&brief);
        let mut told = vec![Event::Asked(brief), proposed];
        told.extend(events);
        for event in &told {
            search.tell(event);
        }
        while let Some(request) = search.pending_duel() {
            search.tell(&Event::Dueled(Dueled {
                step: request.step,
                against: request.against,
                duel: Some(duel(request.step)),
                seconds: None,
            }));
        }
        if step > candidates {
            spent += began.elapsed();
        }
    }
    AskCost {
        candidates,
        step: spent / MEASURED_STEPS as u32,
        cells: search.archive().elites().len(),
    }
}

/// The events after the proposal.
fn step_events(step: u64) -> Vec<Event> {
    let mut random = RandomStream::new(5, "ask cost", step);
    let mut one_of = |values: &[f64]| values[random.below(values.len())];
    let features = IndexMap::from([
        (
            "block_threads".to_owned(),
            one_of(&[32.0, 64.0, 128.0, 256.0, 512.0]),
        ),
        ("vector_bytes".to_owned(), one_of(&[4.0, 8.0, 16.0])),
        ("barriers".to_owned(), one_of(&[0.0, 2.0, 6.0])),
        ("coalescing".to_owned(), one_of(&[0.1, 0.5, 0.9])),
    ]);
    let geomean = (3.0 * random.uniform()).exp() / 2.0;
    let truth = Truth {
        status: Status::Passed,
        speedup: geomean,
        features,
        code: Digest::of(step.to_le_bytes()),
        recorded: None,
    };
    let figures = Figures {
        speedup: Speedup {
            geomean,
            ci95: [geomean * 0.997, geomean * 1.003],
        },
        timing: Timing::Full,
    };
    vec![Event::Judged(Judged {
        step,
        verdict: verdict(&truth, Some(figures)),
    })]
}

fn proposed(brief: &Brief) -> Event {
    let values = vec![1, 2, 4, 8];
    Event::Proposed(Proposed {
        step: brief.step,
        kernel: Digest::of(brief.step.to_le_bytes()),
        form: None,
        operator: brief.operator,
        parents: brief.parents.clone(),
        detail: "unroll 4 (line 3)".to_owned(),
        family: Digest::of((brief.step / 4).to_le_bytes()),
        point: brief
            .point
            .clone()
            .unwrap_or_else(|| [("ROWS".to_owned(), 1)].into()),
        space: [("ROWS".to_owned(), values)].into(),
        constraints: Vec::new(),
        expected: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
    })
}

fn duel(step: u64) -> Duel {
    let ratio = if step.is_multiple_of(2) { 1.01 } else { 0.99 };
    Duel {
        ratio,
        ci95: [ratio - 0.003, ratio + 0.003],
    }
}
