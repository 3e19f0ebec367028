//! Checks `mutate`, `recombine` and `autotune`: every child has a header that fits the task and differs from its parent.

use kforge::event::{Brief, Operator};
use kforge::kernel::syntax::Syntax;
use kforge::kernel::{Kernel, with_point};
use kforge::propose::{BriefOutcome, Parent, mutate as transform, propose};
use kforge::task::Task;

/// At most this many children are checked.
const MAX_CHILDREN: usize = 6;

pub fn mutate(input: &[u8]) {
    let text = super::lossy_text(input);
    for task in super::tasks() {
        let Ok(kernel) = Kernel::parse(&text, &task.definition) else {
            continue;
        };
        check_children(&text, task);
        let (_, partner) = task.starting_kernels().last().expect("a starting kernel");
        let parents = match super::hash(input) % 4 {
            0 => vec![text.as_ref(), partner],
            1 => vec![partner, text.as_ref()],
            _ => vec![text.as_ref()],
        };
        let operator = match (parents.as_slice(), super::hash(input) % 3) {
            ([_, _], _) => Operator::Recombine,
            (_, 0) => Operator::Autotune,
            _ => Operator::Mutate,
        };
        check_proposal(&kernel, &parents, operator, super::hash(input), task);
    }
}

fn check_proposal(kernel: &Kernel, parents: &[&str], operator: Operator, seed: u64, task: &Task) {
    let last = |(name, values): (String, Vec<i64>)| Some((name, *values.last()?));
    let point = kernel.space().into_iter().filter_map(last).collect();
    let brief = Brief {
        model: None,
        step: 7,
        operator,
        parents: (1..=parents.len() as u64).collect(),
        seed,
        island: None,
        start: None,
        point: Some(point),
        retired: Default::default(),
        weights: Vec::new(),
        attempt: seed % 4,
    };
    let parent = |(source, step): (&&str, u64)| Parent {
        step,
        source: (*source).into(),
    };
    let parents: Vec<_> = parents.iter().zip(1..).map(parent).collect();
    let answer = propose(&brief, &parents, task);
    if seed.is_multiple_of(16) {
        assert_eq!(
            answer,
            propose(&brief, &parents, task),
            "a second proposal differs"
        );
    }
    match answer {
        BriefOutcome::NoOp(reason) => assert!(!reason.is_empty()),
        BriefOutcome::Failed(..) => panic!("no model was asked"),
        BriefOutcome::Candidate(proposal) => {
            assert_fits(&proposal.source, task, &proposal.detail);
            if let (Operator::Autotune, Some(point)) = (operator, &brief.point) {
                assert_eq!(with_point(kernel, point), Some(proposal.source));
            }
        }
    }
}

fn check_children(text: &str, task: &Task) {
    for child in transform::children(text, task, super::hash(text.as_bytes())).take(MAX_CHILDREN) {
        assert_ne!(child.source, text);
        assert!(Syntax::parse(&child.source).is_sound(), "{}", child.detail);
        assert_fits(&child.source, task, &child.detail);
        let line = child
            .detail
            .rsplit_once("(line ")
            // A caveat may follow.
            .and_then(|(_, line)| line.strip_suffix(')')?.split(';').next());
        let line = line.and_then(|line| line.parse().ok());
        super::assert_line(line.expect("a line"), text, &child.detail);
    }
}

fn assert_fits(source: &str, task: &Task, detail: &str) {
    let parsed = Kernel::parse(source, &task.definition);
    assert!(
        parsed.is_ok(),
        "{detail}: {}\n{source}",
        parsed.unwrap_err()
    );
}
