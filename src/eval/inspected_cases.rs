//! Chooses the cases that the bounds and race builds run on.
//!
//! Runs nothing itself.

use super::case::Case;
use super::context::JudgeContext;
use crate::kernel::Kernel;

/// Maximum size of a hidden case that is inspected, unless all hidden cases are larger.
const SMALL_BYTES: u64 = 1 << 20;

/// One case of each shape. The hidden cases of a confirmation are many, and regimes hardly change what these builds find.
pub(super) fn one_case_per_shape(cases: &[Case]) -> Vec<&Case> {
    let mut chosen: Vec<&Case> = Vec::new();
    for case in cases {
        if chosen.iter().all(|known| known.binding != case.binding) {
            chosen.push(case);
        }
    }
    chosen
}

/// The smallest case for each variant, a workload if there is one; then the smallest hidden shape, and the largest hidden shape
/// that is still small. Code for the ends of rows and for vector accesses runs in one of them.
pub(super) fn smallest_cases<'c>(
    context: &JudgeContext<'_>,
    kernel: &Kernel,
    cases: &'c [Case],
) -> Vec<&'c Case> {
    let mut sized: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let bound = context.bind(kernel, case).ok()?;
            Some((bound.bytes(), bound.variant, case))
        })
        .collect();
    sized.sort_by_key(|(bytes, ..)| *bytes);
    let mut variants = Vec::new();
    let mut chosen: Vec<&Case> = Vec::new();
    let (hidden, visible): (Vec<_>, Vec<_>) = sized.into_iter().partition(|(.., case)| case.hidden);
    for (_, variant, case) in visible.iter().chain(&hidden) {
        if !variants.contains(variant) {
            variants.push(*variant);
            chosen.push(*case);
        }
    }
    let drawn = || hidden.iter().filter(|(.., case)| case.is_drawn);
    let ends = [
        drawn().next(),
        drawn().rfind(|(bytes, ..)| *bytes <= SMALL_BYTES),
    ];
    for (.., case) in ends.into_iter().flatten() {
        if !chosen.iter().any(|other| std::ptr::eq(*other, *case)) {
            chosen.push(*case);
        }
    }
    chosen
}
