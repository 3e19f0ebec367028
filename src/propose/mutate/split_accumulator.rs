//! `split_accumulator` and `strip_mine`: loops rewritten in strips of a few iterations, with or without several accumulators.

use super::accumulator::{Accumulator, find_accumulators};
use super::loops::CountingLoop;
use super::scope::Scope;
use super::strips::{Strips, can_be_strip_mined, may_have_two_strips};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::line_of;
use crate::propose::header_text::add_tunable;
use crate::propose::source_edits::SourceEdits;

/// Splits one accumulator into several that do not depend on each other.
///
/// ```text
/// for (int i = 0; i < 64; i++) sum += x[i];
/// ```
/// becomes
/// ```text
/// float sum_parts[PARTS] = {};
/// for (int i = 0; i < 64; i += PARTS) {
/// #pragma unroll
///     for (int part = 0; part < PARTS; ++part) sum_parts[part] += x[i + part];
/// }
/// #pragma unroll
/// for (int part = 0; part < PARTS; ++part) sum += sum_parts[part];
/// ```
/// The number of parts is a new tunable, because the best one differs much from the others: `autotune` finds it. Each site starts with
/// another number.
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

/// A loop whose accumulators can be split.
struct SplitLoop<'t, 'a> {
    counting_loop: CountingLoop<'t, 'a>,
    accumulators: Vec<Accumulator<'t, 'a>>,
    /// Among the loops of the function.
    index: usize,
}

impl<'t> SplitLoop<'t, '_> {
    /// The site that splits this loop alone.
    fn site(&self, scope: &Scope<'t, '_>, count: i64) -> Option<RewriteSite> {
        let names: Vec<_> = self.accumulators.iter().map(|sum| sum.name).collect();
        let label = format!("{} x{count}", names.join(", "));
        split_site(scope, &[self], count, label)
    }
}

/// A site that splits loops into `count` parts each. The number becomes a tunable if the loops are long enough for others.
fn split_site<'t>(
    scope: &Scope<'t, '_>,
    loops: &[&SplitLoop<'t, '_>],
    count: i64,
    label: String,
) -> Option<RewriteSite> {
    let is_possible = |count: &i64| {
        // With as many parts as iterations, no loop would be left.
        (loops.iter()).all(|split| may_have_two_strips(scope, &split.counting_loop, *count))
    };
    let others = SPLIT_COUNTS.into_iter().filter(|other| *other != count);
    let counts: Vec<i64> = std::iter::once(count)
        .chain(others)
        .filter(is_possible)
        .collect();
    if counts.first() != Some(&count) {
        return None;
    }
    let mut declaration = SourceEdits::new();
    let name = scope.subject.fresh_name("PARTS");
    let source = scope.subject.source();
    let is_declared =
        counts.len() > 1 && add_tunable(source, &name, &counts, &mut declaration).is_some();
    let (count, counts, edits) = if is_declared {
        (name, counts, declaration)
    } else {
        (count.to_string(), vec![count], SourceEdits::new())
    };
    let edits = loops.iter().try_fold(edits, |edits, split| {
        let strips = Strips {
            scope,
            counting_loop: &split.counting_loop,
            accumulators: &split.accumulators,
            count: &count,
            counts: &counts,
            index: split.index,
        };
        let replaced = split.counting_loop.replace_with(scope, &strips.text()?);
        Some(edits.merged_with(&replaced))
    })?;
    Some(RewriteSite {
        label,
        line: line_of(loops.first()?.counting_loop.node),
        edits,
    })
}

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
                .enumerate()
                .map(|(index, (counting_loop, accumulators))| SplitLoop {
                    counting_loop,
                    accumulators,
                    index,
                })
                .collect();
            for count in SPLIT_COUNTS {
                let each =
                    (loops.iter()).filter_map(|split| Some((split, split.site(&scope, count)?)));
                let (able, each): (Vec<_>, Vec<_>) = each.unzip();
                sites.extend(each);
                if able.len() > 1 {
                    let label = format!("all sums x{count}");
                    sites.extend(split_site(&scope, &able, count, label));
                }
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
                        count: &count.to_string(),
                        counts: &[count],
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
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     float sum = 0.0f;
        -     for (int i = 0; i < 64; i++) {
        -         const float value = x[i];
        -         sum += value * value;
        -     }
        + tunables:
        +   PARTS: [4, 8, 16, 32]
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     float sum = 0.0f;
        +     float sum_parts[PARTS] = {};
        +     for (int i = 0; i < 64; i += PARTS) {
        + #pragma unroll
        +         for (int part = 0; part < PARTS; ++part) {
        +             const float value = x[i + part];
        +             sum_parts[part] += value * value;
        +         }
        +     }
        + #pragma unroll
        +     for (int part = 0; part < PARTS; ++part) sum += sum_parts[part];
        "#);
    }

    #[test]
    fn a_short_loop_has_no_tunable_number_of_parts() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < 10; i++) sum += x[i];\n    output[0] = sum;\n";
        insta::assert_snapshot!(site_labels(&SplitAccumulator, body), @"sum x4 (line 10)");
        let changed = changes(&SplitAccumulator, body, "sum x4");
        assert!(
            changed.contains("sum_parts[4]") && !changed.contains("PARTS"),
            "{changed}"
        );
    }

    #[test]
    fn all_sums_share_the_values_that_fit_the_shortest_loop() {
        let body = "    float sum = 0.0f, other = 0.0f;\n    for (int i = 0; i < 32; i++) sum += x[i];\n    for (int i = 0; i < columns; i++) other += x[i];\n    output[0] = sum + other;\n";
        let changed = changes(&SplitAccumulator, body, "all sums x8");
        assert!(changed.contains("+   PARTS: [8, 4, 16]\n"), "{changed}");
        assert_eq!(changed.matches("_parts[PARTS]").count(), 2, "{changed}");
        // Only the loop whose length is not known has a remainder.
        assert_eq!(changed.matches("/ PARTS * PARTS").count(), 1, "{changed}");
    }

    #[test]
    fn maximum_is_split_with_a_remainder_loop() {
        let body = "    float largest = x[0];\n#pragma unroll 2\n    for (int i = 1; i < columns; ++i) largest = fmaxf(largest, x[i] * 2.0f);\n    output[0] = largest;\n";
        insta::assert_snapshot!(changes(&SplitAccumulator, body, "largest x4"), @r#"
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     float largest = x[0];
        - #pragma unroll 2
        -     for (int i = 1; i < columns; ++i) largest = fmaxf(largest, x[i] * 2.0f);
        + tunables:
        +   PARTS: [4, 8, 16, 32]
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     float largest = x[0];
        +     const int whole = 1 + (columns - 1) / PARTS * PARTS;
        +     float largest_parts[PARTS];
        + #pragma unroll
        +     for (int part = 0; part < PARTS; ++part) largest_parts[part] = largest;
        + #pragma unroll 2
        +     for (int i = 1; i < whole; i += PARTS) {
        + #pragma unroll
        +         for (int part = 0; part < PARTS; ++part) {
        +             largest_parts[part] = fmaxf(largest_parts[part], x[i + part] * 2.0f);
        +         }
        +     }
        +     for (int i = whole; i < columns; ++i) {
        +         largest = fmaxf(largest, x[i] * 2.0f);
        +     }
        + #pragma unroll
        +     for (int part = 0; part < PARTS; ++part) largest = fmaxf(largest, largest_parts[part]);
        "#);
    }

    #[test]
    fn strided_loop_keeps_its_step() {
        let body = "    float sum = 0.0f;\n    for (int i = threadIdx.x; i < columns; i += 128) sum += x[i];\n    output[0] = sum;\n";
        insta::assert_snapshot!(changes(&SplitAccumulator, body, "sum x4"), @r#"
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     float sum = 0.0f;
        -     for (int i = threadIdx.x; i < columns; i += 128) sum += x[i];
        + tunables:
        +   PARTS: [4, 8, 16, 32]
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     float sum = 0.0f;
        +     const int whole = (int)threadIdx.x + (columns - (int)threadIdx.x) / (PARTS * 128) * (PARTS * 128);
        +     float sum_parts[PARTS] = {};
        +     for (int i = threadIdx.x; i < whole; i += PARTS * 128) {
        + #pragma unroll
        +         for (int part = 0; part < PARTS; ++part) {
        +             sum_parts[part] += x[i + part * 128];
        +         }
        +     }
        +     for (int i = whole; i < columns; i += 128) {
        +         sum += x[i];
        +     }
        + #pragma unroll
        +     for (int part = 0; part < PARTS; ++part) sum += sum_parts[part];
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
