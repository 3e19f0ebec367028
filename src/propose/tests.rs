//! kforge's own operators over all shipped kernels.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use super::*;
use crate::base::{Digest, RandomStream};
use crate::kernel::syntax::Syntax;
use crate::task::{TaskFiles, embedded_names};

/// The seed of all briefs.
const SEED: u64 = 7;

fn shipped_tasks() -> Vec<Task> {
    let load = |name| TaskFiles::find(name).and_then(|files| files.load());
    embedded_names()
        .into_iter()
        .map(|name| load(name).expect("shipped tasks load"))
        .collect()
}

/// A starting kernel, and what single transformations make from it.
struct ShippedKernel {
    task: Task,
    file: String,
    source: String,
    children: Vec<mutate::Child>,
}

/// Every starting kernel of every shipped task. Made once: without optimization it takes most of the time of these tests.
static SHIPPED: LazyLock<Vec<ShippedKernel>> = LazyLock::new(|| {
    let tasks = shipped_tasks();
    let kernels_of = |task: &Task| {
        let kernel = |(file, source): (&str, &str)| ShippedKernel {
            task: task.clone(),
            file: file.to_owned(),
            source: source.to_owned(),
            children: mutate::children(source, task, SEED).collect(),
        };
        task.starting_kernels().map(kernel).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads = tasks.iter().map(|task| scope.spawn(|| kernels_of(task)));
        let threads: Vec<_> = threads.collect();
        let kernels = threads.into_iter().map(|thread| thread.join().unwrap());
        kernels.flatten().collect()
    })
});

fn brief(operator: Operator, attempt: u64) -> Brief {
    Brief {
        model: None,
        step: 1,
        operator,
        parents: vec![1, 2],
        seed: SEED,
        island: None,
        start: None,
        point: None,
        attempt,
        retired: BTreeMap::new(),
        weights: Vec::new(),
    }
}

fn propose_from(operator: Operator, attempt: u64, sources: &[&str], task: &Task) -> BriefOutcome {
    let parents: Vec<_> = sources
        .iter()
        .map(|source| Parent {
            step: 1,
            source: (*source).into(),
        })
        .collect();
    propose(&brief(operator, attempt), &parents, task)
}

#[test]
fn children_of_shipped_kernels_are_valid_and_distinct() {
    for ShippedKernel {
        task,
        file,
        source,
        children,
    } in &*SHIPPED
    {
        let used: HashSet<_> = children.iter().map(|child| child.transformation).collect();
        // A single pass over elements, or a kernel for tensor cores, leaves less to change.
        let is_narrow = task.name == "gelu" || source.contains("asm volatile");
        let min = if is_narrow { 5 } else { 8 };
        assert!(used.len() >= min, "{}, {file}: only {used:?}", task.name);
        let mut seen = HashSet::from([Digest::of(source)]);
        for child in children {
            let syntax = Syntax::parse(&child.source);
            assert!(
                syntax.is_sound(),
                "{file}: {}:\n{}",
                child.detail,
                child.source
            );
            assert_ne!(syntax.lexemes(), Vec::<&str>::new());
            assert!(
                seen.insert(Digest::of(&child.source)),
                "{file}: {} twice",
                child.detail
            );
        }
    }
}

#[test]
fn every_transformation_applies_to_some_shipped_kernel() {
    let all = mutate::transformations().iter();
    let all: HashSet<_> = all.map(|transformation| transformation.name()).collect();
    let children = SHIPPED.iter().flat_map(|kernel| &kernel.children);
    let used: HashSet<_> = children.map(|child| child.transformation).collect();
    assert_eq!(used, all);
}

#[test]
fn attempts_give_distinct_kernels_beyond_single_changes() {
    // Pairs of changes to the longest kernels take too long in a build without optimization.
    let short = SHIPPED.iter().filter(|kernel| kernel.source.len() < 6500);
    std::thread::scope(|scope| {
        for kernel in short {
            scope.spawn(|| assert_distinct_attempts(kernel));
        }
    });
}

fn assert_distinct_attempts(kernel: &ShippedKernel) {
    let ShippedKernel {
        task, file, source, ..
    } = kernel;
    let singles = kernel.children.len() as u64;
    let cache = MutationCache::default();
    let parent = [Parent {
        step: 1,
        source: source.as_str().into(),
    }];
    let mut seen = HashSet::from([identity::source_identity(source)]);
    for attempt in [
        0,
        singles / 2,
        singles - 1,
        singles,
        singles + 1,
        singles + 8,
    ] {
        let brief = brief(Operator::Mutate, attempt);
        let answer = propose_with(&cache, &brief, &parent, task);
        // All kernels before it are made again.
        if attempt == singles && source.len() < 2500 {
            assert_eq!(answer, propose(&brief, &parent, task));
        }
        let BriefOutcome::Candidate(proposal) = answer else {
            panic!("{file}: {attempt}: {answer:?}")
        };
        assert!(
            seen.insert(identity::source_identity(&proposal.source)),
            "{file}: {}",
            proposal.detail
        );
        assert_eq!(
            proposal.detail.contains(", then "),
            attempt >= singles,
            "{}",
            proposal.detail
        );
    }
}

#[test]
fn retired_transformations_are_left_out_and_the_others_keep_their_order() {
    let ShippedKernel {
        task,
        source,
        children: all,
        ..
    } = &SHIPPED[0];
    let since = 2;
    let retired_name = all[since..]
        .iter()
        .map(|child| child.transformation)
        .find(|name| {
            all.iter()
                .filter(|child| child.transformation == *name)
                .count()
                > 1
        })
        .expect("a transformation with several children");
    let retired = BTreeMap::from([(retired_name.to_owned(), since as u64)]);
    let expected: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(index, child)| *index < since || child.transformation != retired_name)
        .map(|(_, child)| child.detail.as_str())
        .collect();
    let cache = MutationCache::default();
    let detail_of = |attempt: usize| {
        let brief = Brief {
            retired: retired.clone(),
            ..brief(Operator::Mutate, attempt as u64)
        };
        let proposal = mutate::mutate(&brief, source, task, &cache);
        proposal.map(|proposal| proposal.detail).unwrap_or_default()
    };
    for (attempt, expected) in expected.iter().enumerate().take(12) {
        assert_eq!(detail_of(attempt), *expected);
    }
    // Nor are they one of two in sequence.
    let detail = detail_of(expected.len() + 3);
    assert!(
        detail.contains(", then ") && !detail.contains(retired_name),
        "{detail}"
    );
}

#[test]
fn recombine_joins_two_changes_of_one_kernel() {
    let mut tasks = HashSet::new();
    // The first kernel of each task.
    for ShippedKernel { task, children, .. } in
        (SHIPPED.iter()).filter(|kernel| tasks.insert(kernel.task.name.clone()))
    {
        let children: Vec<_> = children
            .iter()
            .filter(|child| matches!(child.transformation, "split_accumulator" | "restrict"))
            .collect();
        let child_by = |name: &str| {
            children
                .iter()
                .find(|child| child.transformation == name)
                .map_or("", |child| &child.source)
        };
        let pair = [child_by("split_accumulator"), child_by("restrict")];
        // A single pass over the elements has no sum to split.
        if pair[0].is_empty() && task.name == "gelu" {
            continue;
        }
        let has_both = (0..20)
            .map(|attempt| propose_from(Operator::Recombine, attempt, &pair, task))
            .any(|answer| match answer {
                BriefOutcome::Candidate(proposal) => {
                    proposal.source.contains("_parts[") && proposal.source.contains("__restrict__")
                }
                BriefOutcome::NoOp(_) | BriefOutcome::Failed(..) => false,
            });
        assert!(has_both, "{}", task.name);
    }
}

#[test]
fn autotune_sets_tunable_values() {
    let task = shipped_tasks()
        .into_iter()
        .find(|task| task.name == "gdn_decode")
        .expect("gdn_decode is shipped");
    let source = task.kernels.get("warp_rows.cu").expect("a starting kernel");
    let tune = |point: &[(&str, i64)]| {
        let point = point
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        let brief = Brief {
            point: Some(point),
            ..brief(Operator::Autotune, 0)
        };
        propose(
            &brief,
            &[Parent {
                step: 3,
                source: source.as_str().into(),
            }],
            &task,
        )
    };
    let BriefOutcome::Candidate(proposal) = tune(&[("ROWS", 2), ("WARPS", 4)]) else {
        panic!("no proposal")
    };
    assert_eq!(proposal.detail, "ROWS=2");
    assert!(proposal.source.contains("ROWS: [2, 1, 4, 8]"));
    assert!(matches!(tune(&[("ROWS", 4)]), BriefOutcome::NoOp(_)));
    assert!(matches!(tune(&[("ROWS", 3)]), BriefOutcome::NoOp(_)));
    assert!(matches!(tune(&[("OTHER", 3)]), BriefOutcome::NoOp(_)));
}

/// A copy of a kernel whose code, but not its header, is cut, loses a part, or has random characters in it.
fn break_code(text: &str, round: usize, stream: &mut RandomStream) -> String {
    let header = text.find("*/").unwrap_or_default() + 2;
    let mut bytes = text.as_bytes().to_vec();
    match round % 3 {
        0 => bytes.truncate(header + stream.below(bytes.len() - header)),
        1 => {
            let at = header + stream.below(bytes.len() - header);
            let end = (at + stream.below(40)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            for _ in 0..3 {
                let at = header + stream.below(bytes.len() - header);
                bytes[at] = b"(){}[];,*&<>=+-/#\"'a0 \n"[stream.below(23)];
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
#[expect(clippy::print_stdout, reason = "a failure shows the seed")]
fn operators_do_not_panic_on_broken_sources() {
    let seed = 11;
    println!("seed {seed}");
    let task = shipped_tasks().remove(0);
    let mut stream = RandomStream::new(seed, "garbage", 0);
    let texts: Vec<String> = task
        .starting_kernels()
        .map(|(_, source)| source.to_owned())
        .collect();
    for round in 0..60 {
        let text = &texts[round % texts.len()];
        let broken = break_code(text, round, &mut stream);
        for operator in [
            Operator::Start,
            Operator::Autotune,
            Operator::Mutate,
            Operator::Recombine,
        ] {
            let _ = propose_from(operator, round as u64 % 5, &[&broken, text], &task);
        }
    }
}

#[test]
fn sources_that_are_no_kernels_give_no_proposal() {
    let task = shipped_tasks().remove(0);
    for source in ["", "/* kforge\n*/", "*/", "/* kforge", "é"] {
        for operator in [Operator::Mutate, Operator::Recombine] {
            assert!(matches!(
                propose_from(operator, 0, &[source, source], &task),
                BriefOutcome::NoOp(_)
            ));
        }
    }
    assert!(matches!(
        propose_from(Operator::Mutate, 0, &[], &task),
        BriefOutcome::NoOp(_)
    ));
}
