//! `split_accumulator`: one sum becomes several that do not wait for each other. `strip_mine`: a loop in steps of a few.
//!
//! Both keep the order of all that a body does; only what is summed up is summed up in another order.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{contains, descendants, line_of, named_children};
use crate::propose::source_edits::indent_following_lines;

pub(super) struct SplitAccumulator;
pub(super) struct StripMine;

const SPLIT_COUNTS: [i64; 4] = [4, 8, 16, 32];
const STRIP_LENGTHS: [i64; 4] = [2, 4, 8, 16];

/// Bodies with more nodes than these would become hard to read.
const MAX_BODY_NODES: usize = 400;

/// A variable that a loop only adds to, or only takes the larger or smaller with.
struct Accumulator<'t, 'a> {
    name: &'a str,
    type_name: &'a str,
    /// `fmaxf` and the like; `None` is a sum.
    combining_function: Option<&'a str>,
    uses: Vec<Node<'t>>,
}

impl Transformation for SplitAccumulator {
    fn name(&self) -> &'static str {
        "split_accumulator"
    }

    fn weight(&self) -> f64 {
        4.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|found| can_be_strip_mined(&scope, found))
                .map(|found| (found, find_accumulators(&scope, &found)))
                .filter(|(_, accumulators)| !accumulators.is_empty())
                .collect();
            for count in SPLIT_COUNTS {
                let every: Vec<_> = loops
                    .iter()
                    .enumerate()
                    // As many as the loop has iterations would leave no loop.
                    .filter(|(_, (found, _))| may_have_two_strips(&scope, found, count))
                    .filter_map(|(index, (found, accumulators))| {
                        let names: Vec<_> = accumulators.iter().map(|sum| sum.name).collect();
                        let what = format!("{} x{count}", names.join(", "));
                        let text = split_into_strips(&scope, found, accumulators, count, index)?;
                        let edits = found.replace_with(&scope, &text);
                        Some(RewriteSite {
                            label: what,
                            line: line_of(found.node),
                            edits,
                        })
                    })
                    .collect();
                let all = RewriteSite::combined(&every, format!("all sums x{count}"));
                places.extend(every);
                places.extend(all);
            }
        }
        places
    }
}

impl Transformation for StripMine {
    fn name(&self) -> &'static str {
        "strip_mine"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for found in CountingLoop::all_in(&scope)
                .iter()
                .filter(|found| can_be_strip_mined(&scope, found))
            {
                for count in STRIP_LENGTHS {
                    if found
                        .trip_count(&scope)
                        .is_some_and(|trips| trips < 2 * count)
                    {
                        continue;
                    }
                    let what = format!("{} by {count}", found.variable);
                    let text = split_into_strips(&scope, found, &[], count, 0);
                    places.extend(text.map(|text| RewriteSite {
                        label: what,
                        line: line_of(found.node),
                        edits: found.replace_with(&scope, &text),
                    }));
                }
            }
        }
        places
    }
}

/// A loop that can be written as a loop over strips.
fn can_be_strip_mined(scope: &Scope<'_, '_>, found: &CountingLoop<'_, '_>) -> bool {
    let is_innermost = descendants(found.body).all(|node| node.kind() != "for_statement");
    found.is_in_block()
        && is_innermost
        && found.body.descendant_count() <= MAX_BODY_NODES
        && !Effects::of(scope, found.body).jumps
}

/// Whether at least two strips fit, as far as is known.
fn may_have_two_strips(scope: &Scope<'_, '_>, found: &CountingLoop<'_, '_>, count: i64) -> bool {
    found
        .trip_count(scope)
        .is_none_or(|trips| trips >= 2 * count)
}

/// The variables that a loop accumulates in, each used for nothing else in the body.
fn find_accumulators<'t, 'a>(
    scope: &Scope<'t, 'a>,
    found: &CountingLoop<'t, 'a>,
) -> Vec<Accumulator<'t, 'a>> {
    let mut accumulators: Vec<Accumulator<'t, 'a>> = Vec::new();
    for node in descendants(found.body).filter(|node| node.kind() == "assignment_expression") {
        let Some(name) = node
            .child_by_field_name("left")
            .filter(|left| left.kind() == "identifier")
            .map(|left| scope.text(left))
        else {
            continue;
        };
        if accumulators.iter().any(|known| known.name == name) {
            continue;
        }
        let uses = scope.uses(found.body, name);
        let ways: Vec<_> = uses
            .iter()
            .map(|used| accumulation_kind(scope, *used, name))
            .collect();
        let Some(Some(function)) = ways.first().copied() else {
            continue;
        };
        let declared = scope.lookup(name, found.node.start_byte());
        let Some(declared) = declared.filter(|declared| {
            declared.pointer_depth == 0
                && declared.array_sizes.is_empty()
                && !declared.is_reference
                && !declared.is_shared
        }) else {
            continue;
        };
        let is_number = matches!(declared.type_name, "float" | "double" | "int" | "unsigned");
        if is_number && ways.iter().all(|way| *way == Some(function)) {
            accumulators.push(Accumulator {
                name,
                type_name: declared.type_name,
                combining_function: function,
                uses,
            });
        }
    }
    accumulators
}

/// How a use of a variable accumulates: `Some(None)` in a sum, `Some(Some(function))` through a function, `None` not at all.
fn accumulation_kind<'a>(
    scope: &Scope<'_, 'a>,
    used: Node<'_>,
    name: &str,
) -> Option<Option<&'a str>> {
    let assignment = std::iter::successors(used.parent(), Node::parent)
        .find(|around| around.kind() == "assignment_expression")?;
    let left = assignment
        .child_by_field_name("left")
        .filter(|left| scope.text(*left) == name)?;
    let right = assignment.child_by_field_name("right")?;
    if assignment.parent()?.kind() != "expression_statement" {
        return None;
    }
    match assignment.child_by_field_name("operator")?.kind() {
        "+=" | "-=" => (left.id() == used.id()).then_some(None),
        "=" => {
            let own: Vec<_> = descendants(right)
                .filter(|node| node.kind() == "identifier" && scope.text(*node) == name)
                .collect();
            let [own] = own.as_slice() else { return None };
            if !(contains(left, used) || own.id() == used.id())
                || own.parent()?.id() != right.id() && own.parent()?.parent()?.id() != right.id()
            {
                return None;
            }
            match right.kind() {
                "binary_expression"
                    if own.parent()?.id() == right.id()
                        && right.child_by_field_name("operator")?.kind() == "+" =>
                {
                    Some(None)
                }
                "call_expression" => {
                    let function = scope.text(right.child_by_field_name("function")?);
                    let arguments = right.child_by_field_name("arguments")?;
                    if own.parent()?.id() != arguments.id() {
                        return None;
                    }
                    match function {
                        "fmaxf" | "fminf" | "max" | "min" => Some(Some(function)),
                        // fmaf(a, b, sum)
                        "fmaf" | "__fmaf_rn" => named_children(arguments)
                            .last()
                            .filter(|last| last.id() == own.id())
                            .map(|_| None),
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The loop in strips of `count`, each place of a strip with accumulators of its own.
fn split_into_strips<'t>(
    scope: &Scope<'t, '_>,
    found: &CountingLoop<'t, '_>,
    accumulators: &[Accumulator<'t, '_>],
    count: i64,
    index: usize,
) -> Option<String> {
    let subject = scope.subject;
    let indent = found.indent(scope);
    let part = subject.fresh_name("part");
    let step = found.step_text(scope);
    let step = if step
        .chars()
        .all(|letter| letter.is_alphanumeric() || letter == '_')
    {
        step.to_owned()
    } else {
        format!("({step})")
    };
    let (sum, stride) = match step.as_str() {
        "1" => (format!("{} + {part}", found.variable), count.to_string()),
        _ => (
            format!("{} + {part} * {step}", found.variable),
            format!("{count} * {step}"),
        ),
    };
    let mut edits = found.replace_variable(scope, &sum);
    let mut before = String::new();
    let mut after = String::new();
    let parts_head =
        format!("#pragma unroll\n{indent}for (int {part} = 0; {part} < {count}; ++{part})");
    for accumulator in accumulators {
        let (name, kind) = (accumulator.name, accumulator.type_name);
        let parts = subject.fresh_name(&format!("{name}_parts"));
        for used in &accumulator.uses {
            edits.replace(used.byte_range(), format!("{parts}[{part}]"));
        }
        let (declared, collected) = match accumulator.combining_function {
            None => (
                format!("{indent}{kind} {parts}[{count}] = {{}};\n"),
                format!("{name} += {parts}[{part}];"),
            ),
            Some(function) => (
                format!(
                    "{indent}{kind} {parts}[{count}];\n{parts_head} {parts}[{part}] = {name};\n"
                ),
                format!("{name} = {function}({name}, {parts}[{part}]);"),
            ),
        };
        before.push_str(&declared);
        after.extend(["\n", &parts_head, " ", &collected]);
    }
    let (start, bound) = (scope.text(found.start), scope.text(found.bound));
    let mut main_bound = bound.to_owned();
    let mut rest = String::new();
    if !found.has_trip_multiple_of(scope, count) {
        // What does not fill a strip is left to a loop like the one before.
        // Loops of one block that are split together need names of their own.
        let whole = subject.fresh_name(&match index {
            0 => "whole".to_owned(),
            _ => format!("whole_{}", index + 1),
        });
        let signed = |node: Node<'t>| {
            let text = scope.text(node);
            match scope.type_of(node) {
                Some("int")
                    if matches!(
                        node.kind(),
                        "identifier" | "number_literal" | "call_expression"
                    ) =>
                {
                    text.to_owned()
                }
                Some("int") => format!("({text})"),
                _ if node.kind() == "field_expression" => format!("(int){text}"),
                _ => format!("(int)({text})"),
            }
        };
        let stride = if stride.contains('*') {
            format!("({stride})")
        } else {
            stride.clone()
        };
        let value = match start {
            "0" => format!("{} / {stride} * {stride}", signed(found.bound)),
            _ => format!(
                "{0} + ({1} - {0}) / {stride} * {stride}",
                signed(found.start),
                signed(found.bound)
            ),
        };
        before = format!("{indent}const int {whole} = {value};\n{before}");
        main_bound = whole.clone();
        let original = found.body_text(scope, &super::SourceEdits::new())?;
        rest = format!(
            "\n{indent}{} {{\n{indent}    {original}\n{indent}}}",
            found.header_with(&whole, bound, found.step_text(scope))
        );
    }
    let body = indent_following_lines(&found.body_text(scope, &edits)?);
    Some(format!(
        "{before}{pragma}{indent}{head} {{\n#pragma unroll\n{indent}    for (int {part} = 0; {part} < {count}; ++{part}) {{\n{indent}        {body}\n{indent}    }}\n{indent}}}{rest}{after}",
        pragma = found.pragma_line(scope),
        head = found.header_with(start, &main_bound, &stride),
    ))
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
