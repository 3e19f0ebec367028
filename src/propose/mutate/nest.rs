//! Whole loops rearranged: `fuse` makes one of two neighbours, `interchange` turns a nest inside out.

use tree_sitter::Node;

use super::effects::{Effects, Target, is_pure, reads, target};
use super::loops::Loop;
use super::scope::Scope;
use super::vectorize::counts_by_one;
use super::{Place, Subject, Transformation};
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::edit::{Edits, deeper, indentation, line_start};

pub(super) struct Fuse;
pub(super) struct Interchange;

impl Transformation for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn places(&self, subject: &Subject<'_>) -> Vec<Place> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops = Loop::all(&scope);
            for (index, first) in loops.iter().enumerate() {
                places.extend(
                    loops[index + 1..]
                        .iter()
                        .find_map(|second| fused(&scope, first, second)),
                );
            }
        }
        places
    }
}

/// Two loops as one: all that the second needs of the first is done in the same iteration.
fn fused<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &Loop<'t, 'a>,
    second: &Loop<'t, 'a>,
) -> Option<Place> {
    let subject = scope.subject;
    let block = first.node.parent().filter(|block| {
        block.kind() == "compound_statement"
            && second
                .node
                .parent()
                .is_some_and(|other| other.id() == block.id())
    })?;
    if first.variable != second.variable
        || first.kind != second.kind
        || !first.same_range(scope, second)
    {
        return None;
    }
    let (before, after) = (
        Effects::of(scope, first.body),
        Effects::of(scope, second.body),
    );
    let is_quiet = |effects: &Effects<'_>| !effects.is_opaque && !effects.jumps;
    // What is declared in between moves to the front; it must not depend on the first loop, nor the first loop on it.
    let between: Vec<_> = named_children(block)
        .filter(|node| {
            first.node.end_byte() <= node.start_byte() && node.end_byte() <= second.range().start
        })
        .collect();
    let is_movable = between.iter().all(|node| {
        node.kind() == "declaration"
            && is_pure(scope, *node)
            && !before.may_change(scope, *node)
            && !Effects::of(scope, *node).is_opaque
    });
    let crosses = |effects: &Effects<'a>, other: &Loop<'t, 'a>| {
        effects.assigned.iter().any(|name| {
            is_outer(scope, name, first.node) && !scope.uses(other.body, name).is_empty()
        })
    };
    if !is_quiet(&before)
        || !is_quiet(&after)
        || !is_movable
        || crosses(&before, second)
        || crosses(&after, first)
        || !is_in_step(scope, first, second, &before, &after)
    {
        return None;
    }
    let indent = first.indent(scope);
    let source = subject.source();
    let moved: String = between
        .iter()
        .map(|node| format!("{indent}{}\n", subject.text(*node)))
        .collect();
    let own = first.body_text(scope, &Edits::new())?;
    let next = second.body_text(scope, &Edits::new())?;
    let names = |found: &Loop<'t, 'a>| {
        scope
            .declared
            .iter()
            .filter(|declared| {
                found
                    .body
                    .byte_range()
                    .contains(&declared.identifier.start_byte())
            })
            .map(|declared| declared.name)
            .collect::<Vec<_>>()
    };
    let clashes = names(first).iter().any(|name| names(second).contains(name));
    let next = if clashes {
        format!("{{\n{indent}        {}\n{indent}    }}", deeper(&next))
    } else {
        next
    };
    let head = &source[first.node.start_byte()..first.body.start_byte()].trim_end();
    let notes = comments(
        scope,
        block,
        first.node.end_byte(),
        second.node.start_byte(),
    );
    let pragma = first.pragma_line(scope);
    let mut edits = Edits::new();
    edits.replace(
        first.front(scope)..second.node.end_byte(),
        format!("{moved}{pragma}{indent}{head} {{\n{indent}    {own}\n{indent}    {notes}{next}\n{indent}}}"),
    );
    Some(Place {
        what: format!("lines {} and {}", line_of(first.node), line_of(second.node)),
        line: line_of(first.node),
        edits,
    })
}

/// The comments of a block between two places, each on a line of its own.
fn comments(scope: &Scope<'_, '_>, block: Node<'_>, from: usize, to: usize) -> String {
    let indent = indentation(scope.subject.source(), to);
    descendants(block)
        .filter(|node| {
            node.kind() == "comment" && node.start_byte() >= from && node.end_byte() <= to
        })
        .map(|node| format!("{}\n{indent}    ", scope.text(node)))
        .collect()
}

/// Whether a name is declared outside of a node.
fn is_outer(scope: &Scope<'_, '_>, name: &str, node: Node<'_>) -> bool {
    scope.lookup(name, node.start_byte()).is_some()
}

/// Whether both loops reach all memory that one of them writes at the same index, another one in every iteration.
fn is_in_step<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &Loop<'t, 'a>,
    second: &Loop<'t, 'a>,
    before: &Effects<'a>,
    after: &Effects<'a>,
) -> bool {
    let shared = |stored: &Effects<'a>, other: &Loop<'t, 'a>, others: &Effects<'a>| {
        stored.stored.iter().any(|root| {
            let read = reads(scope, other.body);
            read.iter()
                .chain(&others.stored)
                .any(|touched| scope.may_alias(*root, *touched))
        })
    };
    if !shared(before, second, after) && !shared(after, first, before) {
        return true;
    }
    // All accesses to what is written, in both loops, by root.
    let mut texts: Vec<(Option<&str>, String)> = Vec::new();
    for found in [first, second] {
        for node in descendants(found.body) {
            let is_access = matches!(node.kind(), "subscript_expression")
                || node.kind() == "pointer_expression"
                    && node
                        .child_by_field_name("operator")
                        .is_some_and(|operator| operator.kind() == "*");
            if !is_access {
                continue;
            }
            let Target::Memory(root) = target(scope, node) else {
                continue;
            };
            if !before
                .stored
                .iter()
                .chain(&after.stored)
                .any(|stored| scope.may_alias(*stored, root))
            {
                continue;
            }
            let index = node
                .child_by_field_name("indices")
                .and_then(|indices| named_children(indices).next());
            let Some(index) = index.filter(|index| counts_by_one(scope, *index, found.variable))
            else {
                return false;
            };
            let steady = descendants(index)
                .filter(|name| name.kind() == "identifier" && scope.text(*name) != found.variable)
                .all(|name| scope.is_outside(name, first.node));
            if !steady || root.is_none() {
                return false;
            }
            texts.push((root, scope.text(node).split_whitespace().collect()));
        }
    }
    texts.iter().all(|(root, text)| {
        texts
            .iter()
            .all(|(other, same)| !scope.may_alias(*root, *other) || text == same)
    })
}

impl Transformation for Interchange {
    fn name(&self) -> &'static str {
        "interchange"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn places(&self, subject: &Subject<'_>) -> Vec<Place> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for outer in Loop::all(&scope) {
                places.extend(interchanged(&scope, &outer));
            }
        }
        places
    }
}

fn interchanged<'t, 'a>(scope: &Scope<'t, 'a>, outer: &Loop<'t, 'a>) -> Option<Place> {
    let subject = scope.subject;
    let statements: Vec<_> = outer
        .statements()
        .into_iter()
        .filter(|node| node.kind() != "preproc_call")
        .collect();
    let [only] = statements[..] else { return None };
    let inner = Loop::of(scope, only)?;
    let is_free = [Some(inner.start), Some(inner.bound), inner.step]
        .into_iter()
        .flatten()
        .all(|node| scope.uses(node, outer.variable).is_empty());
    let effects = Effects::of(scope, inner.body);
    // Sums may be made in any order; everything else has to be written once, to a place of its own.
    let is_sum = |name: &&str| {
        !is_outer(scope, name, outer.node)
            || scope.uses(inner.body, name).into_iter().all(is_added_to)
    };
    let is_read_back = effects.stored.iter().any(|stored| {
        reads(scope, inner.body)
            .iter()
            .any(|read| scope.may_alias(*stored, *read))
    });
    if !is_free
        || effects.is_opaque
        || effects.jumps
        || is_read_back
        || !effects.assigned.iter().all(is_sum)
    {
        return None;
    }
    let head = |found: &Loop<'_, '_>| found.node.start_byte()..found.body.start_byte();
    let text = |found: &Loop<'_, '_>| subject.source()[head(found)].trim_end().to_owned() + " ";
    let mut edits = Edits::new();
    edits
        .replace(head(outer), text(&inner))
        .replace(head(&inner), text(outer));
    let (outer_pragma, inner_pragma) = (outer.pragma, inner.pragma);
    // A pragma belongs to its loop.
    if let Some(pragma) = outer_pragma {
        edits.replace(pragma.byte_range(), "").insert(
            line_start(subject.source(), inner.node.start_byte()),
            format!("{}\n", subject.text(pragma).trim_end()),
        );
    }
    if let Some(pragma) = inner_pragma {
        edits.replace(pragma.byte_range(), "").insert(
            line_start(subject.source(), outer.node.start_byte()),
            format!("{}\n", subject.text(pragma).trim_end()),
        );
    }
    Some(Place {
        what: format!("{} and {}", outer.variable, inner.variable),
        line: line_of(outer.node),
        edits,
    })
}

/// Whether a use of a variable, or of an element of an array, is the left side of `+=`.
fn is_added_to(used: Node<'_>) -> bool {
    let mut at = used;
    while let Some(parent) = at.parent() {
        let is_argument = parent
            .child_by_field_name("argument")
            .is_some_and(|argument| argument.id() == at.id());
        if parent.kind() == "subscript_expression" && is_argument {
            at = parent;
            continue;
        }
        let is = |field: &str, kind: &str| {
            parent
                .child_by_field_name(field)
                .is_some_and(|child| child.id() == at.id() || child.kind() == kind)
        };
        return parent.kind() == "assignment_expression" && is("left", "") && is("operator", "+=");
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, labels};
    use super::*;

    #[test]
    fn neighbours_over_one_range_become_one() {
        let body = "    const int row = blockIdx.x;\n    for (int i = 0; i < columns; i++) {\n        const float value = x[row * columns + i];\n        output[row * columns + i] = 2.0f * value;\n    }\n\n    // The sum.\n    float sum = 0.0f;\n#pragma unroll 2\n    for (int i = 0; i < columns; i++) {\n        const float value = output[row * columns + i];\n        sum += value;\n    }\n    output[0] = sum;\n";
        insta::assert_snapshot!(changes(&Fuse, body, "lines"), @r#"
        -     for (int i = 0; i < columns; i++) {
        -         const float value = x[row * columns + i];
        -         output[row * columns + i] = 2.0f * value;
        -     }
        - 
        -     // The sum.
        -     float sum = 0.0f;
        - #pragma unroll 2
        -     for (int i = 0; i < columns; i++) {
        -         const float value = output[row * columns + i];
        -         sum += value;
        +     float sum = 0.0f;
        +     for (int i = 0; i < columns; i++) {
        +         const float value = x[row * columns + i];
        +         output[row * columns + i] = 2.0f * value;
        +         // The sum.
        +         {
        +             const float value = output[row * columns + i];
        +             sum += value;
        +         }
        "#);
    }

    #[test]
    fn what_needs_the_whole_first_loop_stays_behind_it() {
        for body in [
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) sum += x[i];\n    for (int i = 0; i < 64; i++) output[i] = sum;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[63 - i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[64] += output[i];\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 32; i++) output[i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    __syncthreads();\n    for (int i = 0; i < 64; i++) output[i] += 1.0f;\n",
        ] {
            assert_eq!(labels(&Fuse, body), "", "{body}");
        }
    }

    #[test]
    fn a_nest_is_turned_inside_out() {
        let body = "    float sums[4] = {};\n    for (int i = 0; i < 64; i++) {\n#pragma unroll\n        for (int part = 0; part < 4; ++part) {\n            sums[part] += x[4 * i + part];\n        }\n    }\n";
        insta::assert_snapshot!(changes(&Interchange, body, "i and part"), @r#"
        -     for (int i = 0; i < 64; i++) {
        - #pragma unroll
        -         for (int part = 0; part < 4; ++part) {
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) {
        +         for (int i = 0; i < 64; i++) {
        "#);
        assert_eq!(
            labels(
                &Interchange,
                "    for (int i = 0; i < 64; i++) {\n        for (int k = 0; k < i; k++) output[i] = x[k];\n    }\n"
            ),
            ""
        );
    }
}
