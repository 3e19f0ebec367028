//! `split_accumulator` and `strip_mine`: loops rewritten in strips of a few iterations, with or without several accumulators.

use super::accumulator::find_accumulators;
use super::loops::CountingLoop;
use super::scope::Scope;
use super::strips::{Strips, can_be_strip_mined, may_have_two_strips};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::line_of;

/// Splits one accumulator into several that do not depend on each other.
///
/// ```text
/// for (int i = 0; i < 64; i++) sum += x[i];
/// ```
/// becomes
/// ```text
/// float sum_parts[4] = {};
/// for (int i = 0; i < 64; i += 4) {
/// #pragma unroll
///     for (int part = 0; part < 4; ++part) sum_parts[part] += x[i + part];
/// }
/// #pragma unroll
/// for (int part = 0; part < 4; ++part) sum += sum_parts[part];
/// ```
///
/// Legal for an innermost counting loop that is never left early, if the body only accumulates in the variable. Sums then
/// differ by rounding. A remainder loop handles a trip count that is not a known multiple of the number of parts.
///
/// Faster when the loop waits for the latency of the additions: the parts are independent, so that their additions overlap.
pub(super) struct SplitAccumulator;

/// Rewrites a loop as a loop over strips with an unrolled inner loop.
///
/// ```text
/// for (int i = 0; i < 64; i++) output[i] = x[i];
/// ```
/// becomes
/// ```text
/// for (int i = 0; i < 64; i += 8) {
/// #pragma unroll
///     for (int part = 0; part < 8; ++part) output[i + part] = x[i + part];
/// }
/// ```
///
/// Legal for an innermost counting loop that is never left early; the order of all iterations is kept.
///
/// Faster when it saves branches and lets the compiler overlap or combine the memory accesses of a strip.
pub(super) struct StripMine;

/// Numbers of parts to try.
const SPLIT_COUNTS: [i64; 4] = [4, 8, 16, 32];

/// Strip lengths to try, in iterations.
const STRIP_LENGTHS: [i64; 4] = [2, 4, 8, 16];

impl Transformation for SplitAccumulator {
    fn caveat(&self) -> Option<&'static str> {
        Some("sums in another order")
    }

    fn name(&self) -> &'static str {
        "split_accumulator"
    }

    fn weight(&self) -> f64 {
        4.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|counting_loop| can_be_strip_mined(&scope, counting_loop))
                .map(|counting_loop| (counting_loop, find_accumulators(&scope, &counting_loop)))
                .filter(|(_, accumulators)| !accumulators.is_empty())
                .collect();
            for count in SPLIT_COUNTS {
                let each: Vec<_> = loops
                    .iter()
                    .enumerate()
                    // With as many parts as iterations, no loop would be left.
                    .filter(|(_, (counting_loop, _))| {
                        may_have_two_strips(&scope, counting_loop, count)
                    })
                    .filter_map(|(index, (counting_loop, accumulators))| {
                        let names: Vec<_> = accumulators.iter().map(|sum| sum.name).collect();
                        let strips = Strips {
                            scope: &scope,
                            counting_loop,
                            accumulators,
                            count,
                            index,
                        };
                        Some(RewriteSite {
                            label: format!("{} x{count}", names.join(", ")),
                            line: line_of(counting_loop.node),
                            edits: counting_loop.replace_with(&scope, &strips.text()?),
                        })
                    })
                    .collect();
                let all = RewriteSite::combined(&each, format!("all sums x{count}"));
                sites.extend(each);
                sites.extend(all);
            }
        }
        sites
    }
}

impl Transformation for StripMine {
    fn name(&self) -> &'static str {
        "strip_mine"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for counting_loop in CountingLoop::all_in(&scope)
                .iter()
                .filter(|counting_loop| can_be_strip_mined(&scope, counting_loop))
            {
                for count in STRIP_LENGTHS {
                    if !may_have_two_strips(&scope, counting_loop, count) {
                        continue;
                    }
                    let strips = Strips {
                        scope: &scope,
                        counting_loop,
                        accumulators: &[],
                        count,
                        index: 0,
                    };
                    sites.extend(strips.text().map(|text| RewriteSite {
                        label: format!("{} by {count}", counting_loop.variable),
                        line: line_of(counting_loop.node),
                        edits: counting_loop.replace_with(&scope, &text),
                    }));
                }
            }
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn sum_with_known_trip_count_needs_no_remainder_loop() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) {\n        const float value = x[i];\n        sum += value * value;\n    }\n    output[0] = sum;\n";
        insta::assert_snapshot!(site_labels(&SplitAccumulator, body), @r#"
        sum x4 (line 10)
        sum x8 (line 10)
        sum x16 (line 10)
        sum x32 (line 10)
        "#);
        insta::assert_snapshot!(changes(&SplitAccumulator, body, "sum x4"), @r#"
        -     for (int i = 0; i < 64; i++) {
        -         const float value = x[i];
        -         sum += value * value;
        -     }
        +     float sum_parts[4] = {};
        +     for (int i = 0; i < 64; i += 4) {
        + #pragma unroll
        +         for (int part = 0; part < 4; ++part) {
        +             const float value = x[i + part];
        +             sum_parts[part] += value * value;
        +         }
        +     }
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) sum += sum_parts[part];
        "#);
    }

    #[test]
    fn maximum_is_split_with_a_remainder_loop() {
        let body = "    float largest = x[0];\n#pragma unroll 2\n    for (int i = 1; i < columns; ++i) largest = fmaxf(largest, x[i] * 2.0f);\n    output[0] = largest;\n";
        insta::assert_snapshot!(changes(&SplitAccumulator, body, "largest x4"), @r#"
        - #pragma unroll 2
        -     for (int i = 1; i < columns; ++i) largest = fmaxf(largest, x[i] * 2.0f);
        +     const int whole = 1 + (columns - 1) / 4 * 4;
        +     float largest_parts[4];
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) largest_parts[part] = largest;
        + #pragma unroll 2
        +     for (int i = 1; i < whole; i += 4) {
        + #pragma unroll
        +         for (int part = 0; part < 4; ++part) {
        +             largest_parts[part] = fmaxf(largest_parts[part], x[i + part] * 2.0f);
        +         }
        +     }
        +     for (int i = whole; i < columns; ++i) {
        +         largest = fmaxf(largest, x[i] * 2.0f);
        +     }
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) largest = fmaxf(largest, largest_parts[part]);
        "#);
    }

    #[test]
    fn strided_loop_keeps_its_step() {
        let body = "    float sum = 0.0f;\n    for (int i = threadIdx.x; i < columns; i += 128) sum += x[i];\n    output[0] = sum;\n";
        insta::assert_snapshot!(changes(&SplitAccumulator, body, "sum x4"), @r#"
        -     for (int i = threadIdx.x; i < columns; i += 128) sum += x[i];
        +     const int whole = (int)threadIdx.x + (columns - (int)threadIdx.x) / (4 * 128) * (4 * 128);
        +     float sum_parts[4] = {};
        +     for (int i = threadIdx.x; i < whole; i += 4 * 128) {
        + #pragma unroll
        +         for (int part = 0; part < 4; ++part) {
        +             sum_parts[part] += x[i + part * 128];
        +         }
        +     }
        +     for (int i = whole; i < columns; i += 128) {
        +         sum += x[i];
        +     }
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) sum += sum_parts[part];
        "#);
    }

    #[test]
    fn variables_with_other_uses_are_not_accumulators() {
        for body in [
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) { sum += x[i]; output[i] = sum; }\n",
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) { sum += x[i]; if (sum > 1.0f) break; }\n",
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) { sum = x[i] + sum * sum; }\n",
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) { sum = x[i]; }\n",
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) { sum += sum; }\n",
        ] {
            assert_eq!(site_labels(&SplitAccumulator, body), "", "{body}");
        }
    }

    #[test]
    fn strip_mine_adds_an_unrolled_inner_loop() {
        let body = "    for (int i = 0; i < 64; i++) output[2 * i] = x[i] * i;\n";
        insta::assert_snapshot!(changes(&StripMine, body, "i by 8"), @r#"
        -     for (int i = 0; i < 64; i++) output[2 * i] = x[i] * i;
        +     for (int i = 0; i < 64; i += 8) {
        + #pragma unroll
        +         for (int part = 0; part < 8; ++part) {
        +             output[2 * (i + part)] = x[i + part] * (i + part);
        +         }
        +     }
        "#);
    }
}
