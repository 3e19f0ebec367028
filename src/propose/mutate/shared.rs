//! `cache_in_shared`: what every thread of a block reads is fetched by all of them together, into shared memory.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{builtin_type_bytes, children, descendants, line_of, named_children};
use crate::propose::source_edits::{SourceEdits, indentation, line_start};

pub(super) struct CacheInShared;

/// More would leave too little for other blocks.
const MAX_SHARED_BYTES: i64 = 16 * 1024;

impl Transformation for CacheInShared {
    fn name(&self) -> &'static str {
        "cache_in_shared"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject
            .functions()
            .into_iter()
            .filter(|function| function.is_global)
        {
            let scope = Scope::new(subject, function);
            let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for found in CountingLoop::all_in(&scope) {
                if found.step_text(&scope) != "1" || subject.text(found.start) != "0" {
                    continue;
                }
                for node in
                    descendants(found.body).filter(|node| node.kind() == "subscript_expression")
                {
                    if let Some((pointer, index)) = uniform_access(&scope, &found, node) {
                        let index: String = subject.text(index).split_whitespace().collect();
                        groups
                            .entry((pointer, index, subject.text(found.bound)))
                            .or_default()
                            .push((node, found));
                    }
                }
            }
            places.extend(
                groups
                    .into_iter()
                    .filter_map(|((pointer, _, bound), members)| {
                        fetch_into_shared(&scope, pointer, bound, &members)
                    }),
            );
        }
        places
    }
}

/// The pointer and the index of an element that does not depend on the thread: constants, the block, and the loop's variable.
fn uniform_access<'t, 'a>(
    scope: &Scope<'t, 'a>,
    found: &CountingLoop<'t, 'a>,
    node: Node<'t>,
) -> Option<(&'a str, Node<'t>)> {
    let pointer = node
        .child_by_field_name("argument")
        .filter(|argument| argument.kind() == "identifier")
        .map(|argument| scope.text(argument))?;
    let declared = scope
        .unshadowed_parameter(pointer)
        .filter(|declared| declared.pointer_depth == 1 && declared.is_const)?;
    let bytes = i64::from(builtin_type_bytes(declared.type_name)?);
    let index = named_children(node.child_by_field_name("indices")?).next()?;
    let is_known = descendants(index).all(|inner| match inner.kind() {
        "identifier" => {
            let name = scope.text(inner);
            name == found.variable
                || name == "blockIdx"
                || scope.lookup_node(inner).is_none() && scope.subject.is_named_constant(name)
        }
        "subscript_expression" | "call_expression" => false,
        _ => true,
    });
    let fits = scope.subject.holds_at_all_points(&|evaluate| {
        Some((1..=MAX_SHARED_BYTES / bytes).contains(&evaluate(found.bound)?))
    });
    let effects = Effects::of(scope, scope.function.body);
    let is_constant = effects
        .stored
        .iter()
        .all(|stored| !scope.may_alias(Some(pointer), *stored));
    (is_known
        && fits
        && is_constant
        && super::vectorize::index_grows_by_one(scope, index, found.variable))
    .then_some((pointer, index))
}

/// The function with the elements fetched first of all, before any thread can leave.
fn fetch_into_shared<'t>(
    scope: &Scope<'t, '_>,
    pointer: &str,
    bound: &str,
    members: &[(Node<'t>, CountingLoop<'t, '_>)],
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let launches = subject.launches_of(&scope.function);
    let dimensions: Vec<_> = launches
        .iter()
        .filter_map(|launch| subject.header.launches.get(*launch))
        .map(|launch| launch.block.len())
        .collect();
    let dimension = *dimensions
        .first()
        .filter(|first| dimensions.iter().all(|other| other == *first))?;
    let (thread, threads) = match dimension {
        1 => ("threadIdx.x", "blockDim.x"),
        2 => (
            "threadIdx.y * blockDim.x + threadIdx.x",
            "blockDim.x * blockDim.y",
        ),
        _ => return None,
    };
    let kind = scope.unshadowed_parameter(pointer)?.type_name;
    let (node, found) = members.first()?;
    let name = subject.fresh_name(&format!("{pointer}_shared"));
    let variable = found.variable;
    let first = children(scope.function.body).find(|child| child.is_named())?;
    let indent = indentation(subject.source(), first.start_byte());
    let element = subject.text(*node);
    let mut edits = SourceEdits::new();
    edits.insert(
        line_start(subject.source(), first.start_byte()).max(scope.function.body.start_byte() + 1),
        format!(
            "{indent}__shared__ {kind} {name}[{bound}];\n{indent}for (int {variable} = {thread}; {variable} < {bound}; {variable} += {threads}) {name}[{variable}] = {element};\n{indent}__syncthreads();\n\n"
        ),
    );
    for (member, found) in members {
        edits.replace(member.byte_range(), format!("{name}[{}]", found.variable));
    }
    Some(RewriteSite {
        label: collapse_white_space(&element),
        line: line_of(*node),
        edits,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn elements_read_by_all_threads_move_to_shared_memory() {
        let body = "    const int row = blockIdx.x * 128 + threadIdx.x;\n    if (row >= rows) return;\n    for (int i = 0; i < 64; i++) {\n        output[row * 64 + i] = x[blockIdx.x * 64 + i] * x[row * 64 + i];\n    }\n";
        insta::assert_snapshot!(site_labels(&CacheInShared, body), @r#"x[blockIdx.x * 64 + i] (line 12)"#);
        insta::assert_snapshot!(changes(&CacheInShared, body, "x[blockIdx.x"), @r#"
        -     const int row = blockIdx.x * 128 + threadIdx.x;
        -     if (row >= rows) return;
        -     for (int i = 0; i < 64; i++) {
        -         output[row * 64 + i] = x[blockIdx.x * 64 + i] * x[row * 64 + i];
        +     __shared__ float x_shared[64];
        +     for (int i = threadIdx.x; i < 64; i += blockDim.x) x_shared[i] = x[blockIdx.x * 64 + i];
        +     __syncthreads();
        + 
        +     const int row = blockIdx.x * 128 + threadIdx.x;
        +     if (row >= rows) return;
        +     for (int i = 0; i < 64; i++) {
        +         output[row * 64 + i] = x_shared[i] * x[row * 64 + i];
        "#);
        assert_eq!(
            site_labels(
                &CacheInShared,
                "    for (int i = 0; i < columns; i++) output[i] = x[i];\n"
            ),
            ""
        );
    }
}
