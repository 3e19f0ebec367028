//! Whole loops rearranged: `fuse` makes one of two neighbours, `interchange` turns a nest inside out.

use tree_sitter::Node;

use super::effects::{Effects, WriteTarget, is_pure, memory_reads, write_target};
use super::loops::CountingLoop;
use super::scope::Scope;
use super::vectorize::index_grows_by_one;
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::{SourceEdits, indent_following_lines, indentation, line_start};

pub(super) struct Fuse;
pub(super) struct Interchange;

impl Transformation for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops = CountingLoop::all_in(&scope);
            for (index, first) in loops.iter().enumerate() {
                places.extend(
                    loops[index + 1..]
                        .iter()
                        .find_map(|second| fuse_loops(&scope, first, second)),
                );
            }
        }
        places
    }
}

/// Two loops as one: all that the second needs of the first is done in the same iteration.
fn fuse_loops<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    second: &CountingLoop<'t, 'a>,
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let block = first.node.parent().filter(|block| {
        block.kind() == "compound_statement"
            && second
                .node
                .parent()
                .is_some_and(|other| other.id() == block.id())
    })?;
    if first.variable != second.variable
        || first.variable_type != second.variable_type
        || !first.has_same_range(scope, second)
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
            first.node.end_byte() <= node.start_byte()
                && node.end_byte() <= second.range_with_pragma().start
        })
        .collect();
    let is_movable = between.iter().all(|node| {
        node.kind() == "declaration"
            && is_pure(scope, *node)
            && !before.may_change(scope, *node)
            && !Effects::of(scope, *node).is_opaque
    });
    let crosses = |effects: &Effects<'a>, other: &CountingLoop<'t, 'a>| {
        effects.assigned.iter().any(|name| {
            is_declared_before(scope, name, first.node) && !scope.uses(other.body, name).is_empty()
        })
    };
    if !is_quiet(&before)
        || !is_quiet(&after)
        || !is_movable
        || crosses(&before, second)
        || crosses(&after, first)
        || !touch_same_elements(scope, first, second, &before, &after)
    {
        return None;
    }
    let indent = first.indent(scope);
    let source = subject.source();
    let moved: String = between
        .iter()
        .map(|node| format!("{indent}{}\n", subject.text(*node)))
        .collect();
    let own = first.body_text(scope, &SourceEdits::new())?;
    let next = second.body_text(scope, &SourceEdits::new())?;
    let names = |found: &CountingLoop<'t, 'a>| {
        scope
            .declarations
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
        format!(
            "{{\n{indent}        {}\n{indent}    }}",
            indent_following_lines(&next)
        )
    } else {
        next
    };
    let head = &source[first.node.start_byte()..first.body.start_byte()].trim_end();
    let notes = comments_between(
        scope,
        block,
        first.node.end_byte(),
        second.node.start_byte(),
    );
    let pragma = first.pragma_line(scope);
    let mut edits = SourceEdits::new();
    edits.replace(
        first.insertion_point(scope)..second.node.end_byte(),
        format!("{moved}{pragma}{indent}{head} {{\n{indent}    {own}\n{indent}    {notes}{next}\n{indent}}}"),
    );
    Some(RewriteSite {
        label: format!("lines {} and {}", line_of(first.node), line_of(second.node)),
        line: line_of(first.node),
        edits,
    })
}

/// The comments of a block between two places, each on a line of its own.
fn comments_between(scope: &Scope<'_, '_>, block: Node<'_>, from: usize, to: usize) -> String {
    let indent = indentation(scope.subject.source(), to);
    descendants(block)
        .filter(|node| {
            node.kind() == "comment" && node.start_byte() >= from && node.end_byte() <= to
        })
        .map(|node| format!("{}\n{indent}    ", scope.text(node)))
        .collect()
}

/// Whether a name is declared outside of a node.
fn is_declared_before(scope: &Scope<'_, '_>, name: &str, node: Node<'_>) -> bool {
    scope.lookup(name, node.start_byte()).is_some()
}

/// Whether both loops reach all memory that one of them writes at the same index, another one in every iteration.
fn touch_same_elements<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    second: &CountingLoop<'t, 'a>,
    before: &Effects<'a>,
    after: &Effects<'a>,
) -> bool {
    let shared = |stored: &Effects<'a>, other: &CountingLoop<'t, 'a>, others: &Effects<'a>| {
        stored.stored.iter().any(|root| {
            let read = memory_reads(scope, other.body);
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
            let WriteTarget::Memory(root) = write_target(scope, node) else {
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
            let Some(index) =
                index.filter(|index| index_grows_by_one(scope, *index, found.variable))
            else {
                return false;
            };
            let steady = descendants(index)
                .filter(|name| name.kind() == "identifier" && scope.text(*name) != found.variable)
                .all(|name| scope.resolves_same_before(name, first.node));
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

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for outer in CountingLoop::all_in(&scope) {
                places.extend(interchange_loops(&scope, &outer));
            }
        }
        places
    }
}

fn interchange_loops<'t, 'a>(
    scope: &Scope<'t, 'a>,
    outer: &CountingLoop<'t, 'a>,
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let statements: Vec<_> = outer
        .statements()
        .into_iter()
        .filter(|node| node.kind() != "preproc_call")
        .collect();
    let [only] = statements[..] else { return None };
    let inner = CountingLoop::of(scope, only)?;
    let is_free = [Some(inner.start), Some(inner.bound), inner.step]
        .into_iter()
        .flatten()
        .all(|node| scope.uses(node, outer.variable).is_empty());
    let effects = Effects::of(scope, inner.body);
    // Sums may be made in any order; everything else has to be written once, to a place of its own.
    let is_sum = |name: &&str| {
        !is_declared_before(scope, name, outer.node)
            || scope
                .uses(inner.body, name)
                .into_iter()
                .all(is_target_of_add)
    };
    let is_read_back = effects.stored.iter().any(|stored| {
        memory_reads(scope, inner.body)
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
    let head = |found: &CountingLoop<'_, '_>| found.node.start_byte()..found.body.start_byte();
    let text =
        |found: &CountingLoop<'_, '_>| subject.source()[head(found)].trim_end().to_owned() + " ";
    let mut edits = SourceEdits::new();
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
    Some(RewriteSite {
        label: format!("{} and {}", outer.variable, inner.variable),
        line: line_of(outer.node),
        edits,
    })
}

/// Whether a use of a variable, or of an element of an array, is the left side of `+=`.
fn is_target_of_add(used: Node<'_>) -> bool {
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
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn adjacent_loops_over_one_range_fuse() {
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
    fn dependent_loops_do_not_fuse() {
        for body in [
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) sum += x[i];\n    for (int i = 0; i < 64; i++) output[i] = sum;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[63 - i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[64] += output[i];\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 32; i++) output[i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    __syncthreads();\n    for (int i = 0; i < 64; i++) output[i] += 1.0f;\n",
        ] {
            assert_eq!(site_labels(&Fuse, body), "", "{body}");
        }
    }

    #[test]
    fn nested_loops_are_interchanged() {
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
            site_labels(
                &Interchange,
                "    for (int i = 0; i < 64; i++) {\n        for (int k = 0; k < i; k++) output[i] = x[k];\n    }\n"
            ),
            ""
        );
    }
}
