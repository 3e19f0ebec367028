//! Tests that transformations whose children do not compile are retired, the same way in a live and a resumed search.

use super::*;

/// A search that only mutates one starting kernel, and its journal.
struct MutatingRun {
    search: Search,
    journal: Vec<Event>,
}

impl MutatingRun {
    fn new() -> Self {
        let settings = SearchSettings {
            features: IndexMap::new(),
            operators: serde_json::from_value(serde_json::json!({"autotune": 0, "recombine": 0}))
                .unwrap(),
            ..SearchSettings::default()
        };
        let mut run = Self {
            search: Search::new(&settings, 7, 1, 100, &["naive.cu".to_owned()]),
            journal: Vec::new(),
        };
        run.finish_step(1, "naive.cu", Status::Passed);
        run
    }

    fn tell(&mut self, event: Event) {
        self.search.tell(&event);
        self.journal.push(event);
    }

    /// Proposes a kernel for a step and judges it.
    fn finish_step(&mut self, step: u64, detail: &str, status: Status) {
        let brief = self.search.ask(step).unwrap();
        self.tell(Event::Asked(brief.clone()));
        self.tell(Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step,
            kernel: Digest::of(format!("{detail} of step {step}")),
            operator: brief.operator,
            parents: brief.parents,
            detail: detail.to_owned(),
            family: Digest::of(format!("family of {detail} of step {step}")),
            point: IndexMap::new(),
            space: IndexMap::new(),
        }));
        // Slower than the first kernel, so that the first one stays the only parent.
        let speedup = (status == Status::Passed).then_some(if step == 1 { 2.0 } else { 1.0 });
        let verdict = verdict(status, speedup, 0.01, 64.0);
        self.tell(Event::Judged(Judged { step, verdict }));
    }

    fn retired(&self) -> Vec<(String, u64)> {
        let step = self.search.folded() + 1;
        let brief = self.search.ask(step).unwrap();
        assert_eq!(
            (brief.operator, &brief.parents[..]),
            (Operator::Mutate, &[1][..])
        );
        brief.retired.into_iter().collect()
    }
}

#[test]
fn two_compile_errors_retire_a_transformation_for_the_family() {
    let mut run = MutatingRun::new();
    run.finish_step(2, "split_accumulator sum x4 (line 9)", Status::CompileError);
    run.finish_step(3, "vectorize x x4 (line 9)", Status::CompileError);
    run.finish_step(4, "unroll 4 (line 9)", Status::Passed);
    run.finish_step(5, "split_accumulator sum x4 (line 12)", Status::WrongOutput);
    assert_eq!(run.retired(), []);
    run.finish_step(6, "split_accumulator sum x8 (line 9)", Status::CompileError);
    // Attempts 0 to 4 keep their numbers.
    assert_eq!(run.retired(), [("split_accumulator".to_owned(), 5)]);
    run.finish_step(7, "unroll 2 (line 9)", Status::Passed);
    run.finish_step(8, "vectorize x x8 (line 9)", Status::CompileError);
    let expected = [
        ("split_accumulator".to_owned(), 5),
        ("vectorize".to_owned(), 7),
    ];
    assert_eq!(run.retired(), expected);
}

#[test]
fn a_resumed_search_retires_the_same_transformations() {
    let mut run = MutatingRun::new();
    for step in 2..=9 {
        let status = if step % 2 == 0 {
            Status::CompileError
        } else {
            Status::Passed
        };
        run.finish_step(
            step,
            ["unroll 2", "hoist a", "fuse b"][step as usize % 3],
            status,
        );
    }
    let live = run.retired();
    assert!(!live.is_empty());
    let mut resumed = MutatingRun::new();
    for (index, event) in run.journal.iter().enumerate().skip(resumed.journal.len()) {
        let text = serde_json::to_string(event).unwrap();
        let updates = resumed.search.tell(event);
        let diverges = |update: &SearchUpdate| matches!(update, SearchUpdate::Diverged(_));
        assert!(!updates.iter().any(diverges), "event {index}: {text}");
    }
    assert_eq!(resumed.retired(), live);
}

#[test]
fn weights_follow_the_gains_and_change_no_earlier_attempt() {
    let mut run = MutatingRun::new();
    for step in 2..=12 {
        let brief = run.search.ask(step).unwrap();
        let attempts: Vec<u64> = brief.weights.iter().map(|one| one.attempt).collect();
        // Nothing is known at the first attempt. `hoist` comes from attempt 6 on, which counts from 8 on.
        let expected: &[u64] = match brief.attempt {
            0 => &[],
            1 => &[1],
            2..4 => &[1, 2],
            4..8 => &[1, 2, 4],
            _ => &[1, 2, 4, 8],
        };
        assert_eq!(attempts, expected, "{brief:?}");
        let detail = if step < 8 { "unroll 2" } else { "hoist a" };
        run.finish_step(step, detail, Status::Passed);
    }
    let brief = run.search.ask(13).unwrap();
    let last = brief.weights.last().unwrap();
    let [unroll, hoist] = ["unroll", "hoist"].map(|name| last.factors[name]);
    // Neither has gained anything. The one that cost less is tried more.
    assert!(unroll < hoist && hoist < 1.0, "{last:?}");
    let mut resumed = MutatingRun::new();
    for event in run.journal.iter().skip(resumed.journal.len()) {
        resumed.search.tell(event);
    }
    assert_eq!(resumed.search.ask(13).unwrap(), brief);
}

#[test]
fn attempts_on_one_parent_share_a_seed() {
    let mut run = MutatingRun::new();
    let mut seeds = Vec::new();
    for step in 2..=5 {
        seeds.push(run.search.ask(step).unwrap().seed);
        run.finish_step(step, "unroll 2 (line 9)", Status::Passed);
    }
    assert!(seeds.iter().all(|seed| *seed == seeds[0]), "{seeds:?}");
}

/// A journal as earlier versions wrote it: every step drew a seed of its own, for `mutate` too.
fn with_drawn_seeds(journal: &[Event], seed: u64) -> Vec<Event> {
    let drawn = |step: u64| RandomStream::new(seed, "ask", step).next_u64();
    let event = |event: &Event| match event {
        Event::Asked(brief) if brief.operator == Operator::Mutate => Event::Asked(Brief {
            seed: drawn(brief.step),
            ..brief.clone()
        }),
        other => other.clone(),
    };
    journal.iter().map(event).collect()
}

#[test]
fn a_search_goes_on_with_a_journal_whose_steps_drew_their_seeds() {
    let mut run = MutatingRun::new();
    for step in 2..=6 {
        run.finish_step(step, "unroll 2 (line 9)", Status::Passed);
    }
    let open = run.search.ask(7).unwrap();
    run.tell(Event::Asked(open));
    for (seed, is_known) in [(7, true), (8, false)] {
        let mut resumed = MutatingRun::new();
        let start = resumed.journal.len();
        let mut has_diverged = false;
        let journal = with_drawn_seeds(&run.journal, seed);
        for event in &journal[start..] {
            let updates = resumed.search.tell(event);
            let diverges = |update: &SearchUpdate| matches!(update, SearchUpdate::Diverged(_));
            has_diverged |= updates.iter().any(diverges);
        }
        assert_eq!(has_diverged, !is_known);
        // The brief of the open step stays as it was recorded; the attempts go on.
        let last = journal.last().map(|event| match event {
            Event::Asked(brief) => brief.clone(),
            other => panic!("{other:?}"),
        });
        let open = resumed.search.ask(7);
        assert_eq!(open, last);
        assert_eq!(open.map(|brief| brief.attempt), Some(5));
    }
}
