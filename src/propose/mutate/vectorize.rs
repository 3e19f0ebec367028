//! `vectorize`: neighbouring elements are loaded and stored together, up to 16 bytes at once.
//!
//! The body stays as it is and runs once for each element of a small array; compilers keep such arrays in registers.

use tree_sitter::Node;

use super::effects::{Effects, WriteTarget, assigns_variable, is_pure, write_target};
use super::loops::CountingLoop;
use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{builtin_type_bytes, contains, descendants, line_of, named_children};
use crate::propose::source_edits::indent_following_lines;

pub(super) struct Vectorize;

const WIDTHS: [i64; 3] = [2, 4, 8];
const MAX_BODY_NODES: usize = 400;
const MAX_DEPTH: usize = 32;

/// All accesses of a body to one element `p[base + i]`.
struct VectorAccess<'t, 'a> {
    pointer: &'a str,
    type_name: &'a str,
    bytes: i64,
    is_const: bool,
    members: Vec<Node<'t>>,
    index: Node<'t>,
    is_read: bool,
    is_written: bool,
    /// The condition under which the element is there at all, as written in the body.
    guard: Option<String>,
}

impl Transformation for Vectorize {
    fn name(&self) -> &'static str {
        "vectorize"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let mut every = [(); WIDTHS.len()].map(|()| Vec::new());
            for found in CountingLoop::all_in(&scope) {
                let is_innermost =
                    descendants(found.body).all(|node| node.kind() != "for_statement");
                let effects = Effects::of(&scope, found.body);
                let is_fit = found.is_in_block()
                    && is_innermost
                    && found.step_text(&scope) == "1"
                    && found.body.descendant_count() <= MAX_BODY_NODES
                    && !effects.jumps
                    && !effects.is_opaque;
                if !is_fit {
                    continue;
                }
                for (width, every) in WIDTHS.into_iter().zip(&mut every) {
                    let starts_aligned = subject
                        .constant_value(found.start)
                        .is_some_and(|start| start % width == 0);
                    if !starts_aligned || !found.has_trip_multiple_of(&scope, width) {
                        continue;
                    }
                    let streams = vector_accesses(&scope, &found, width);
                    if streams.is_empty() {
                        continue;
                    }
                    let names: Vec<_> = streams.iter().map(|stream| stream.pointer).collect();
                    let what = format!("{} x{width}", names.join(", "));
                    let text = widen_loop(&scope, &found, &streams, width);
                    every.extend(text.map(|text| RewriteSite {
                        label: what,
                        line: line_of(found.node),
                        edits: found.replace_with(&scope, &text),
                    }));
                }
            }
            for (width, every) in WIDTHS.into_iter().zip(every) {
                let all = RewriteSite::combined(&every, format!("all loops x{width}"));
                places.extend(every);
                places.extend(all);
            }
        }
        places
    }
}

/// The elements of the body that can be reached in steps of `width`.
fn vector_accesses<'t, 'a>(
    scope: &Scope<'t, 'a>,
    found: &CountingLoop<'t, 'a>,
    width: i64,
) -> Vec<VectorAccess<'t, 'a>> {
    let accesses: Vec<_> = descendants(found.body)
        .filter(|node| is_memory_access(scope, *node))
        .collect();
    let mut streams: Vec<VectorAccess<'t, 'a>> = Vec::new();
    let mut texts: Vec<(&str, String)> = Vec::new();
    for node in &accesses {
        let Some((pointer, index)) = pointer_and_index(*node) else {
            continue;
        };
        let key = (
            scope.text(pointer),
            scope.text(index).split_whitespace().collect::<String>(),
        );
        if texts.contains(&key) {
            continue;
        }
        let members: Vec<_> = accesses
            .iter()
            .copied()
            .filter(|other| {
                pointer_and_index(*other).is_some_and(|(pointer, index)| {
                    scope.text(pointer) == key.0
                        && scope.text(index).split_whitespace().collect::<String>() == key.1
                })
            })
            .collect();
        texts.push(key);
        streams.extend(vector_access(
            scope, found, pointer, index, members, &accesses, width,
        ));
    }
    streams
}

fn vector_access<'t, 'a>(
    scope: &Scope<'t, 'a>,
    found: &CountingLoop<'t, 'a>,
    pointer: Node<'t>,
    index: Node<'t>,
    members: Vec<Node<'t>>,
    accesses: &[Node<'t>],
    width: i64,
) -> Option<VectorAccess<'t, 'a>> {
    let kind = scope.type_of(members[0])?;
    let bytes = i64::from(builtin_type_bytes(kind)?);
    let declared = scope.lookup_node(pointer)?;
    let is_narrow = matches!(bytes, 1 | 2 | 4) && width * bytes >= 4 && width * bytes <= 32;
    let is_aligned = index_grows_by_one(scope, index, found.variable)
        && is_multiple(scope, index, found.variable, width, 0)
        && is_aligned(scope, pointer, width, 0);
    let root = scope
        .memory_root(pointer)
        .filter(|root| scope.unshadowed_parameter(root).is_some())?;
    if !is_narrow
        || !is_aligned
        || assigns_variable(scope, found.body, declared.name)
        || !index_is_steady(scope, found, index)
    {
        return None;
    }
    let ways: Vec<_> = members.iter().map(|member| access_mode(*member)).collect();
    let is_written = ways.iter().any(|way| way.writes);
    // What is written first need not be loaded.
    let is_read = ways.first().is_some_and(|way| way.reads)
        || ways.iter().skip(1).any(|way| way.reads && !is_written);
    // No other access of the body may reach the same memory, if one of the two writes.
    let is_alone = accesses
        .iter()
        .filter(|other| !members.iter().any(|member| member.id() == other.id()))
        .all(|other| {
            let other_writes = access_mode(*other).writes;
            (!is_written && !other_writes)
                || !scope.may_alias(Some(root), scope.memory_root(*other))
        });
    if !is_alone {
        return None;
    }
    let is_sure = members
        .iter()
        .any(|member| scope.is_unconditional(*member, found.body));
    if is_written
        && !members
            .iter()
            .all(|member| scope.is_unconditional(*member, found.body))
    {
        return None;
    }
    let guard = if is_sure {
        None
    } else {
        Some(common_guard(scope, found, &members)?)
    };
    Some(VectorAccess {
        pointer: declared.name,
        type_name: kind,
        bytes,
        is_const: declared.is_const,
        members,
        index,
        is_read,
        is_written,
        guard,
    })
}

struct AccessMode {
    reads: bool,
    writes: bool,
}

/// How an element is used.
fn access_mode(element: Node<'_>) -> AccessMode {
    match element.parent().filter(|parent| {
        matches!(
            parent.kind(),
            "assignment_expression" | "update_expression" | "pointer_expression"
        )
    }) {
        Some(parent) if parent.kind() == "assignment_expression" => {
            let is_left = parent
                .child_by_field_name("left")
                .is_some_and(|left| left.id() == element.id());
            let is_plain = parent
                .child_by_field_name("operator")
                .is_some_and(|operator| operator.kind() == "=");
            AccessMode {
                reads: !is_left || !is_plain,
                writes: is_left,
            }
        }
        Some(_) => AccessMode {
            reads: true,
            writes: true,
        },
        None => AccessMode {
            reads: true,
            writes: false,
        },
    }
}

/// A subscript or an indirection that reaches memory behind a pointer.
fn is_memory_access<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let is_indirect = match node.kind() {
        "subscript_expression" => true,
        "pointer_expression" => node
            .child_by_field_name("operator")
            .is_some_and(|operator| operator.kind() == "*"),
        "field_expression" => node
            .child_by_field_name("operator")
            .is_some_and(|operator| operator.kind() == "->"),
        _ => false,
    };
    is_indirect && matches!(write_target(scope, node), WriteTarget::Memory(_))
}

/// The pointer and the index of `p[index]`.
fn pointer_and_index<'t>(node: Node<'t>) -> Option<(Node<'t>, Node<'t>)> {
    let pointer = node.child_by_field_name("argument").filter(|argument| {
        node.kind() == "subscript_expression" && argument.kind() == "identifier"
    })?;
    Some((
        pointer,
        named_children(node.child_by_field_name("indices")?).next()?,
    ))
}

/// Whether an index grows by one with the variable: the variable is a term of the sum, once.
pub(super) fn index_grows_by_one(scope: &Scope<'_, '_>, index: Node<'_>, variable: &str) -> bool {
    let uses: Vec<_> = descendants(index)
        .filter(|node| node.kind() == "identifier" && scope.text(*node) == variable)
        .collect();
    let [used] = uses.as_slice() else {
        return false;
    };
    let mut at = *used;
    while at.id() != index.id() {
        let Some(parent) = at.parent() else {
            return false;
        };
        let is_term = match parent.kind() {
            "parenthesized_expression" => true,
            "binary_expression" => match parent
                .child_by_field_name("operator")
                .map_or("", |operator| operator.kind())
            {
                "+" => true,
                "-" => parent
                    .child_by_field_name("left")
                    .is_some_and(|left| contains(left, *used)),
                _ => false,
            },
            _ => false,
        };
        if !is_term {
            return false;
        }
        at = parent;
    }
    true
}

/// Whether an integer expression is a multiple of `width` whenever the variable is.
fn is_multiple<'t>(
    scope: &Scope<'t, '_>,
    node: Node<'t>,
    variable: &str,
    width: i64,
    depth: usize,
) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let of = |field: &str| {
        node.child_by_field_name(field)
            .is_some_and(|inner| is_multiple(scope, inner, variable, width, depth + 1))
    };
    match node.kind() {
        "identifier" if scope.text(node) == variable => true,
        "identifier" => match scope.lookup_node(node) {
            None => scope
                .subject
                .holds_at_all_points(&|evaluate| Some(evaluate(node)? % width == 0)),
            Some(declared) => {
                let is_set_once = declared.parameter_index.is_none()
                    && !declared.is_reference
                    && !assigns_variable(scope, scope.function.body, declared.name);
                is_set_once
                    && declared
                        .initializer
                        .is_some_and(|value| is_multiple(scope, value, "", width, depth + 1))
            }
        },
        "parenthesized_expression" => named_children(node)
            .next()
            .is_some_and(|inner| is_multiple(scope, inner, variable, width, depth + 1)),
        "binary_expression" => match node
            .child_by_field_name("operator")
            .map_or("", |operator| operator.kind())
        {
            "+" | "-" => of("left") && of("right"),
            "*" => of("left") || of("right"),
            _ => false,
        },
        _ => scope
            .subject
            .holds_at_all_points(&|evaluate| Some(evaluate(node)? % width == 0)),
    }
}

/// Whether a pointer is a parameter, or a whole number of `width` elements away from one.
fn is_aligned<'t>(scope: &Scope<'t, '_>, pointer: Node<'t>, width: i64, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    match pointer.kind() {
        "identifier" => scope.lookup_node(pointer).is_some_and(|declared| {
            declared.pointer_depth == 1
                && !assigns_variable(scope, scope.function.body, declared.name)
                && match declared.parameter_index {
                    Some(_) => scope.function.is_global,
                    None => declared
                        .initializer
                        .is_some_and(|value| is_aligned(scope, value, width, depth + 1)),
                }
        }),
        "binary_expression"
            if pointer
                .child_by_field_name("operator")
                .is_some_and(|operator| operator.kind() == "+") =>
        {
            let (Some(left), Some(right)) = (
                pointer.child_by_field_name("left"),
                pointer.child_by_field_name("right"),
            ) else {
                return false;
            };
            is_aligned(scope, left, width, depth + 1)
                && is_multiple(scope, right, "", width, depth + 1)
        }
        "parenthesized_expression" => named_children(pointer)
            .next()
            .is_some_and(|inner| is_aligned(scope, inner, width, depth + 1)),
        _ => false,
    }
}

/// Whether all of an index but the variable means the same in front of the loop, and stays so.
fn index_is_steady<'t>(
    scope: &Scope<'t, '_>,
    found: &CountingLoop<'t, '_>,
    index: Node<'t>,
) -> bool {
    let effects = Effects::of(scope, found.body);
    descendants(index)
        .filter(|node| node.kind() == "identifier" && scope.text(*node) != found.variable)
        .all(|node| {
            scope.resolves_same_before(node, found.node) && !effects.may_change(scope, node)
        })
}

/// The condition that all members lie under, if it is one of `? :` that the loop does not change.
fn common_guard<'t>(
    scope: &Scope<'t, '_>,
    found: &CountingLoop<'t, '_>,
    members: &[Node<'t>],
) -> Option<String> {
    let effects = Effects::of(scope, found.body);
    let mut guards = members.iter().map(|member| {
        let choice = std::iter::successors(member.parent(), Node::parent)
            .find(|around| around.kind() == "conditional_expression")?;
        let condition = choice.child_by_field_name("condition")?;
        let is_steady = is_pure(scope, condition)
            && scope.resolves_same_before(condition, found.node)
            && !effects.may_change(scope, condition)
            && scope.is_unconditional(choice, found.body);
        let text = scope.text(condition);
        let in_consequence = choice
            .child_by_field_name("consequence")
            .is_some_and(|consequence| contains(consequence, *member));
        is_steady.then(|| {
            if in_consequence {
                text.to_owned()
            } else {
                negation(scope, condition)
            }
        })
    });
    let first = guards.next()??;
    guards
        .all(|guard| guard.as_deref() == Some(first.as_str()))
        .then_some(first)
}

fn negation(scope: &Scope<'_, '_>, condition: Node<'_>) -> String {
    let text = scope.text(condition);
    let operator = condition
        .child_by_field_name("operator")
        .filter(|_| condition.kind() == "binary_expression");
    match operator.map(|operator| (operator, operator.kind())) {
        Some((operator, "==" | "!=")) => {
            let at = operator.start_byte() - condition.start_byte();
            let other = if operator.kind() == "==" { "!=" } else { "==" };
            format!("{}{other}{}", &text[..at], &text[at + 2..])
        }
        _ => format!("!({text})"),
    }
}

/// The loop in steps of `width`, with wide loads before the body's elements and wide stores after them.
fn widen_loop(
    scope: &Scope<'_, '_>,
    found: &CountingLoop<'_, '_>,
    streams: &[VectorAccess<'_, '_>],
    width: i64,
) -> Option<String> {
    let subject = scope.subject;
    let indent = found.indent(scope);
    let lane = subject.fresh_name("lane");
    let mut edits = found.replace_variable(scope, &format!("{} + {lane}", found.variable));
    let (mut loads, mut stores) = (Vec::new(), Vec::new());
    for (position, stream) in streams.iter().enumerate() {
        let same = streams[..position]
            .iter()
            .filter(|other| other.pointer == stream.pointer)
            .count();
        let name = subject.fresh_name(&match same {
            0 => format!("{}_wide", stream.pointer),
            _ => format!("{}_wide_{}", stream.pointer, same + 1),
        });
        // The element's own edits give way to those of its index.
        for member in &stream.members {
            edits = edits.without_range(&member.byte_range());
            edits.replace(member.byte_range(), format!("{name}[{lane}]"));
        }
        let index = scope.text(stream.index);
        let total = width * stream.bytes;
        let vector = match (total.min(16), stream.type_name) {
            (16, "float") => "float4",
            (8, "float") => "float2",
            (16, _) => "uint4",
            (8, _) => "uint2",
            _ => "unsigned",
        };
        let (kind, condition) = (
            stream.type_name,
            stream
                .guard
                .as_ref()
                .map_or(String::new(), |guard| format!("if ({guard}) ")),
        );
        loads.push(format!(
            "alignas({}) {kind} {name}[{width}];",
            total.min(16)
        ));
        for part in 0..(total + 15) / 16 {
            let own = format!("reinterpret_cast<{vector}*>({name})[{part}]");
            let there = |qualifier: &str| {
                format!(
                    "reinterpret_cast<{qualifier}{vector}*>(&{}[{index}])[{part}]",
                    stream.pointer
                )
            };
            if stream.is_read {
                let qualifier = if stream.is_const { "const " } else { "" };
                loads.push(format!("{condition}{own} = {};", there(qualifier)));
            }
            if stream.is_written {
                stores.push(format!("{} = {own};", there("")));
            }
        }
    }
    let lines = |lines: &[String], before: &str, after: &str| {
        let lines = lines
            .iter()
            .map(|line| format!("{before}{indent}    {line}{after}"));
        lines.collect::<String>()
    };
    let (loads, stores) = (lines(&loads, "", "\n"), lines(&stores, "\n", ""));
    let body = indent_following_lines(&found.body_text(scope, &edits)?);
    Some(format!(
        "{pragma}{indent}{head} {{\n{loads}#pragma unroll\n{indent}    for (int {lane} = 0; {lane} < {width}; ++{lane}) {{\n{indent}        {body}\n{indent}    }}{stores}\n{indent}}}",
        pragma = found.pragma_line(scope),
        head = found.header_with(
            scope.text(found.start),
            scope.text(found.bound),
            &width.to_string()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn elements_are_loaded_and_stored_as_vectors() {
        let body = "    const int row = blockIdx.x;\n    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) {\n        const float value = x == nullptr ? 0.0f : x[row * 64 + i];\n        output[row * 64 + i] = value * i;\n        sum += output[row * 64 + i];\n    }\n";
        insta::assert_snapshot!(site_labels(&Vectorize, body), @r#"
        x, output x2 (line 11)
        x, output x4 (line 11)
        x, output x8 (line 11)
        "#);
        insta::assert_snapshot!(changes(&Vectorize, body, "x, output x4"), @r#"
        -     for (int i = 0; i < 64; i++) {
        -         const float value = x == nullptr ? 0.0f : x[row * 64 + i];
        -         output[row * 64 + i] = value * i;
        -         sum += output[row * 64 + i];
        +     for (int i = 0; i < 64; i += 4) {
        +         alignas(16) float x_wide[4];
        +         if (x != nullptr) reinterpret_cast<float4*>(x_wide)[0] = reinterpret_cast<const float4*>(&x[row * 64 + i])[0];
        +         alignas(16) float output_wide[4];
        + #pragma unroll
        +         for (int lane = 0; lane < 4; ++lane) {
        +             const float value = x == nullptr ? 0.0f : x_wide[lane];
        +             output_wide[lane] = value * (i + lane);
        +             sum += output_wide[lane];
        +         }
        +         reinterpret_cast<float4*>(&output[row * 64 + i])[0] = reinterpret_cast<float4*>(output_wide)[0];
        "#);
    }

    #[test]
    fn updated_elements_are_loaded_and_stored_back() {
        let body = "    float* out = output + blockIdx.x * 64;\n#pragma unroll 2\n    for (int i = 0; i < 64; i++) out[i] *= 2.0f;\n";
        insta::assert_snapshot!(changes(&Vectorize, body, "out x8"), @r#"
        -     for (int i = 0; i < 64; i++) out[i] *= 2.0f;
        +     for (int i = 0; i < 64; i += 8) {
        +         alignas(16) float out_wide[8];
        +         reinterpret_cast<float4*>(out_wide)[0] = reinterpret_cast<float4*>(&out[i])[0];
        +         reinterpret_cast<float4*>(out_wide)[1] = reinterpret_cast<float4*>(&out[i])[1];
        + #pragma unroll
        +         for (int lane = 0; lane < 8; ++lane) {
        +             out_wide[lane] *= 2.0f;
        +         }
        +         reinterpret_cast<float4*>(&out[i])[0] = reinterpret_cast<float4*>(out_wide)[0];
        +         reinterpret_cast<float4*>(&out[i])[1] = reinterpret_cast<float4*>(out_wide)[1];
        +     }
        "#);
    }

    #[test]
    fn unaligned_or_aliased_accesses_are_not_vectorized() {
        for body in [
            "    for (int i = 0; i < 64; i++) output[i + 1] = x[columns + i];\n",
            "    for (int i = 0; i < columns; i++) output[i] = x[i];\n",
            "    for (int i = 0; i < 64; i++) output[2 * i] = x[64 - i];\n",
            "    for (int i = 1; i < 65; i++) output[i] = 0.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = output[64 - i];\n",
            "    for (int i = 0; i < 64; i++) { if (rows > i) output[i] = 0.0f; }\n",
        ] {
            assert_eq!(site_labels(&Vectorize, body), "", "{body}");
        }
    }
}
