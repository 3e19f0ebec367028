//! `cache_in_shared`: elements that every thread of a block reads are loaded once, into shared memory.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::Effects;
use super::indices::index_grows_by_one;
use super::loops::CountingLoop;
use super::nodes::pointer_and_index;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{builtin_type_bytes, children, descendants, enclosing, line_of};
use crate::propose::code_layout::{indentation, without_spaces};
use crate::propose::source_edits::SourceEdits;

/// Loads elements that do not depend on the thread into shared memory, all threads of the block together.
///
/// ```text
/// for (int i = 0; i < 64; i++) output[row * 64 + i] = x[blockIdx.x * 64 + i] * 2.0f;
/// ```
/// becomes
/// ```text
/// __shared__ float x_shared[64];
/// for (int i = threadIdx.x; i < 64; i += blockDim.x) x_shared[i] = x[blockIdx.x * 64 + i];
/// __syncthreads();
///
/// for (int i = 0; i < 64; i++) output[row * 64 + i] = x_shared[i] * 2.0f;
/// ```
///
/// Legal for memory behind a `const` pointer parameter that the function never writes, with an index made of constants,
/// `blockIdx` and the loop variable, and a loop from 0 to a bound of at most `MAX_SHARED_BYTES` bytes of elements. The loads
/// come first in the function, before any thread can return. If the index depends on the block, some thread of every block must
/// load the elements anyway.
///
/// Faster when all threads load the same elements from memory or from a cache that is too small.
pub(super) struct CacheInShared;

/// Maximum size of an array in bytes. A larger one would leave too little shared memory for other blocks of the multiprocessor.
const MAX_SHARED_BYTES: i64 = 16 * 1024;

/// A read of an element that does not depend on the thread, and the loop around it.
struct UniformRead<'t, 'a> {
    element: Node<'t>,
    counting_loop: CountingLoop<'t, 'a>,
}

impl Transformation for CacheInShared {
    fn name(&self) -> &'static str {
        "cache_in_shared"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject
            .functions()
            .into_iter()
            .filter(|function| function.is_global)
        {
            let scope = Scope::new(subject, function);
            if subject.hides_code(function.body) {
                continue;
            }
            let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for counting_loop in CountingLoop::all_in(&scope) {
                if counting_loop.step_text(&scope) != "1"
                    || subject.text(counting_loop.start) != "0"
                {
                    continue;
                }
                for element in descendants(counting_loop.body)
                    .filter(|node| node.kind() == "subscript_expression")
                {
                    if let Some((pointer, index)) = uniform_access(&scope, &counting_loop, element)
                    {
                        let index = without_spaces(subject.text(index));
                        groups
                            .entry((pointer, index, subject.text(counting_loop.bound)))
                            .or_default()
                            .push(UniformRead {
                                element,
                                counting_loop,
                            });
                    }
                }
            }
            sites.extend(
                groups.into_iter().filter_map(|((pointer, _, _), reads)| {
                    fetch_into_shared(&scope, pointer, &reads)
                }),
            );
        }
        sites
    }
}

/// The pointer and the index of an element that is the same for all threads of a block and that nothing writes.
fn uniform_access<'t, 'a>(
    scope: &Scope<'t, 'a>,
    counting_loop: &CountingLoop<'t, 'a>,
    element: Node<'t>,
) -> Option<(&'a str, Node<'t>)> {
    let (pointer, index) = pointer_and_index(element)?;
    let pointer = scope.text(pointer);
    let declaration = scope
        .unshadowed_parameter(pointer)
        .filter(|declaration| declaration.pointer_depth == 1 && declaration.is_const)?;
    let bytes = i64::from(builtin_type_bytes(declaration.type_name)?);
    let is_uniform = descendants(index).all(|inner| match inner.kind() {
        "identifier" => {
            let name = scope.text(inner);
            name == counting_loop.variable
                || name == "blockIdx"
                || scope.lookup_node(inner).is_none() && scope.subject.is_named_constant(name)
        }
        "subscript_expression" | "call_expression" => false,
        _ => true,
    });
    let fits = scope.subject.holds_at_all_points(&|evaluate| {
        Some((1..=MAX_SHARED_BYTES / bytes).contains(&evaluate(counting_loop.bound)?))
    });
    let is_never_written = Effects::of(scope, scope.function.body).never_write(scope, pointer);
    let depends_on_block = descendants(index).any(|inner| scope.text(inner) == "blockIdx");
    (is_uniform
        && (!depends_on_block || is_loaded_by_every_block(scope, element))
        && fits
        && is_never_written
        && index_grows_by_one(scope, index, counting_loop.variable))
    .then_some((pointer, index))
}

/// Whether some thread of every block loads an element: the load is under no condition, and only indices of threads decide which
/// threads return before it.
fn is_loaded_by_every_block<'t>(scope: &Scope<'t, '_>, element: Node<'t>) -> bool {
    let names_thread = |name: Node<'t>| {
        scope
            .lookup_node(name)
            .and_then(|declaration| declaration.initializer)
            .is_some_and(|initializer| {
                descendants(initializer).any(|inner| scope.text(inner) == "threadIdx")
            })
    };
    let only_threads_return = descendants(scope.function.body)
        .filter(|node| node.kind() == "return_statement")
        .all(|leave| {
            let condition = enclosing(leave, &["if_statement"])
                .and_then(|test| test.child_by_field_name("condition"));
            condition.is_some_and(|condition| descendants(condition).any(names_thread))
        });
    let is_in_loops_alone = std::iter::successors(element.parent(), Node::parent)
        .take_while(|around| around.id() != scope.function.body.id())
        .all(|around| {
            around.kind() == "for_statement" && {
                CountingLoop::of(scope, around)
                    .is_some_and(|counting_loop| counting_loop.runs_at_least_once(scope))
            } || !around.kind().ends_with("_statement")
                || matches!(around.kind(), "expression_statement" | "compound_statement")
        });
    only_threads_return && is_in_loops_alone
}

/// Loads the elements at the start of the function, and reads them from shared memory in the loops.
fn fetch_into_shared<'t>(
    scope: &Scope<'t, '_>,
    pointer: &str,
    reads: &[UniformRead<'t, '_>],
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let (thread, threads) = thread_index_and_count(scope)?;
    let type_name = scope.unshadowed_parameter(pointer)?.type_name;
    let UniformRead {
        element,
        counting_loop,
    } = reads.first()?;
    let name = subject.fresh_name(&format!("{pointer}_shared"));
    let (variable, bound) = (counting_loop.variable, scope.text(counting_loop.bound));
    let body = scope.function.body;
    let first = children(body).find(|child| child.is_named())?;
    let indent = indentation(subject.source(), first.start_byte());
    let text = subject.text(*element);
    let mut edits = SourceEdits::new();
    edits.insert_lines(
        subject.source(),
        first.start_byte(),
        &format!(
            "{indent}__shared__ {type_name} {name}[{bound}];\n{indent}for (int {variable} = {thread}; {variable} < {bound}; {variable} += {threads}) {name}[{variable}] = {text};\n{indent}__syncthreads();\n\n"
        ),
    );
    for read in reads {
        edits.replace(
            read.element.byte_range(),
            format!("{name}[{}]", read.counting_loop.variable),
        );
    }
    Some(RewriteSite {
        label: collapse_white_space(text),
        line: line_of(*element),
        edits,
    })
}

/// The linear index of a thread in its block, and the number of threads, if all launches have one or two block dimensions.
fn thread_index_and_count(scope: &Scope<'_, '_>) -> Option<(&'static str, &'static str)> {
    let dimensions: Vec<_> = scope
        .subject
        .launches_of(&scope.function)
        .iter()
        .filter_map(|launch| scope.subject.header.launches.get(*launch))
        .map(|launch| launch.block.len())
        .collect();
    let dimension = dimensions
        .first()
        .filter(|first| dimensions.iter().all(|other| other == *first))?;
    match dimension {
        1 => Some(("threadIdx.x", "blockDim.x")),
        2 => Some((
            "threadIdx.y * blockDim.x + threadIdx.x",
            "blockDim.x * blockDim.y",
        )),
        _ => None,
    }
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
