//! `ldg`, `streaming_load` and `streaming_store`: loads through the read-only cache, and loads and stores that do not stay in the cache.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::Effects;
use super::memory::{WriteTarget, write_target};
use super::nodes::{is_field, is_written, operator_of};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Loads elements through the read-only data cache.
///
/// ```text
/// x[i]  ->  __ldg(&x[i])
/// ```
///
/// Legal for memory behind a `const` pointer parameter of a `__global__` function that nothing in the function writes.
///
/// Faster when the compiler cannot prove by itself that the memory is read-only.
pub(super) struct Ldg;

/// Stores results with a hint to evict them from the cache first.
///
/// ```text
/// output[i] = value;  ->  __stcs(&output[i], value);
/// ```
///
/// Legal for plain assignments to the memory of a parameter. Offered only where the function reads none of that memory.
///
/// Faster when the results would evict data from the cache that is still needed.
pub(super) struct StreamingStore;

/// Loads elements with a hint to evict them from the cache first.
///
/// ```text
/// x[i]  ->  __ldcs(&x[i])
/// ```
///
/// Legal where `__ldg` is. Offered for memory that only one expression of the function reads, because a second one should find it
/// in the cache.
///
/// Faster when data that is read once would evict data that is needed again.
pub(super) struct StreamingLoad;

/// Types that `__ldg`, `__ldcs` and `__stcs` accept.
const CACHE_HINT_TYPES: [&str; 16] = [
    "float",
    "double",
    "int",
    "unsigned",
    "unsigned int",
    "long long",
    "float2",
    "float4",
    "int2",
    "int4",
    "uint2",
    "uint4",
    "__nv_bfloat16",
    "__nv_bfloat162",
    "__half",
    "__half2",
];

/// Whether an element has a type that the cache hints accept.
fn has_cache_hint_type<'t>(scope: &Scope<'t, '_>, element: Node<'t>) -> bool {
    scope
        .type_of(element)
        .is_some_and(|type_name| CACHE_HINT_TYPES.contains(&type_name))
}

impl Transformation for Ldg {
    fn name(&self) -> &'static str {
        "ldg"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites: Vec<RewriteSite> = Vec::new();
        for function in subject
            .functions()
            .into_iter()
            .filter(|function| function.is_global)
        {
            let scope = Scope::new(subject, function);
            let mut all = SourceEdits::new();
            let found = constant_reads(&scope);
            for (root, nodes) in &found {
                let edits = load_with("__ldg", nodes);
                all = all.merged_with(&edits);
                sites.push(RewriteSite {
                    label: (*root).to_owned(),
                    line: line_of(nodes[0]),
                    edits,
                });
            }
            if found.len() > 1 {
                sites.push(RewriteSite {
                    label: "all".to_owned(),
                    line: line_of(function.declarator),
                    edits: all,
                });
            }
        }
        sites
    }
}

impl Transformation for StreamingLoad {
    fn name(&self) -> &'static str {
        "streaming_load"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in (subject.functions().into_iter()).filter(|function| function.is_global) {
            let scope = Scope::new(subject, function);
            let once = (constant_reads(&scope).into_iter())
                .filter(|(root, nodes)| nodes.len() == 1 && reads(&scope, root) == 1);
            let each: Vec<_> = once
                .map(|(root, nodes)| RewriteSite {
                    label: root.to_owned(),
                    line: line_of(nodes[0]),
                    edits: load_with("__ldcs", &nodes),
                })
                .collect();
            let all = RewriteSite::combined(&each, "all".to_owned());
            sites.extend(each);
            sites.extend(all);
        }
        sites
    }
}

/// Edits that load elements with a function.
fn load_with(function: &str, elements: &[Node<'_>]) -> SourceEdits {
    let mut edits = SourceEdits::new();
    // Insertions instead of replacements: an index may contain another load.
    for element in elements {
        edits
            .insert(element.start_byte(), format!("{function}(&"))
            .insert(element.end_byte(), ")");
    }
    edits
}

/// The number of expressions that may read the memory of a parameter, and of pointers to it that are passed on.
fn reads(scope: &Scope<'_, '_>, root: &str) -> usize {
    descendants(scope.function.body)
        .filter(|node| {
            let is_access = match node.kind() {
                "subscript_expression" => true,
                "pointer_expression" => operator_of(*node) == "*",
                "call_expression" => (node.child_by_field_name("arguments").into_iter())
                    .flat_map(named_children)
                    .any(|argument| {
                        argument.kind() != "subscript_expression"
                            && scope.type_of(argument).is_none()
                            && scope.memory_root(argument) == Some(root)
                            && !is_cast(scope, *node)
                    }),
                _ => false,
            };
            let is_own = node.kind() == "call_expression" || scope.memory_root(*node) == Some(root);
            is_access && is_own
        })
        .count()
}

/// Whether a call is a cast such as `reinterpret_cast<const float4*>(x)`.
fn is_cast(scope: &Scope<'_, '_>, call: Node<'_>) -> bool {
    (call.child_by_field_name("function"))
        .filter(|function| function.kind() == "template_function")
        .and_then(|function| function.child_by_field_name("name"))
        .is_some_and(|name| scope.text(name).ends_with("_cast"))
}

/// The elements `p[i]` that are read from memory that the function never writes, by the parameter that is their root.
fn constant_reads<'t, 'a>(scope: &Scope<'t, 'a>) -> BTreeMap<&'a str, Vec<Node<'t>>> {
    let effects = Effects::of(scope, scope.function.body);
    let mut found: BTreeMap<&str, Vec<Node<'_>>> = BTreeMap::new();
    for node in descendants(scope.function.body)
        .filter(|node| node.kind() == "subscript_expression" && !is_written(*node))
    {
        let Some(root) = scope.memory_root(node) else {
            continue;
        };
        let is_pointer = node
            .child_by_field_name("argument")
            .is_some_and(|argument| {
                is_cast(scope, argument)
                    || argument.kind() == "identifier"
                        && scope
                            .lookup_node(argument)
                            .is_some_and(|declaration| declaration.pointer_depth == 1)
            });
        let is_const_parameter = scope
            .unshadowed_parameter(root)
            .is_some_and(|declaration| declaration.is_const);
        let is_never_written = effects.never_write(scope, root);
        // A reference needs the element itself.
        let is_bound = node.parent().is_some_and(|parent| {
            parent.kind() == "for_range_loop"
                || parent
                    .child_by_field_name("declarator")
                    .is_some_and(|declarator| declarator.kind() == "reference_declarator")
        });
        if is_pointer
            && !is_bound
            && is_const_parameter
            && is_never_written
            && has_cache_hint_type(scope, node)
        {
            found.entry(root).or_default().push(node);
        }
    }
    found
}

impl Transformation for StreamingStore {
    fn name(&self) -> &'static str {
        "streaming_store"
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
            for (root, stores) in stores_by_root(&scope) {
                // Memory that is read should stay in the cache.
                if reads_besides_stores(&scope, root, &stores) {
                    continue;
                }
                let mut edits = SourceEdits::new();
                for store in &stores {
                    if let (Some(left), Some(right)) = (
                        store.child_by_field_name("left"),
                        store.child_by_field_name("right"),
                    ) {
                        edits
                            .insert(left.start_byte(), "__stcs(&")
                            .replace(left.end_byte()..right.start_byte(), ", ")
                            .insert(right.end_byte(), ")");
                    }
                }
                sites.push(RewriteSite {
                    label: root.to_owned(),
                    line: line_of(stores[0]),
                    edits,
                });
            }
        }
        sites
    }
}

/// The statements `p[i] = value;` by the parameter that is the root of their memory.
fn stores_by_root<'t, 'a>(scope: &Scope<'t, 'a>) -> BTreeMap<&'a str, Vec<Node<'t>>> {
    let mut found: BTreeMap<&str, Vec<Node<'_>>> = BTreeMap::new();
    let assignments =
        descendants(scope.function.body).filter(|node| node.kind() == "assignment_expression");
    for node in assignments {
        let Some(left) = node
            .child_by_field_name("left")
            .filter(|left| left.kind() == "subscript_expression")
        else {
            continue;
        };
        let is_statement = node
            .parent()
            .is_some_and(|parent| parent.kind() == "expression_statement");
        let is_list = node
            .child_by_field_name("right")
            .is_none_or(|right| right.kind() == "initializer_list");
        if operator_of(node) != "=" || !is_statement || is_list || !has_cache_hint_type(scope, left)
        {
            continue;
        }
        if let WriteTarget::Memory(Some(root)) = write_target(scope, left)
            && scope.unshadowed_parameter(root).is_some()
        {
            found.entry(root).or_default().push(node);
        }
    }
    found
}

/// Whether an element with this root occurs anywhere but on the left side of `stores`.
fn reads_besides_stores<'t>(scope: &Scope<'t, '_>, root: &str, stores: &[Node<'t>]) -> bool {
    descendants(scope.function.body).any(|node| {
        node.kind() == "subscript_expression"
            && !stores.iter().any(|store| is_field(*store, "left", node))
            && scope.memory_root(node) == Some(root)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUM_OF_ROW_AND_FIRST, changes, site_labels};
    use super::*;

    #[test]
    fn unwritten_memory_is_read_with_ldg() {
        insta::assert_snapshot!(site_labels(&Ldg, SUM_OF_ROW_AND_FIRST), @r#"x (line 13)"#);
        insta::assert_snapshot!(changes(&Ldg, SUM_OF_ROW_AND_FIRST, "x"), @r#"
        -         output[row * columns + i] = x[row * columns + i] + x[i];
        +         output[row * columns + i] = __ldg(&x[row * columns + i]) + __ldg(&x[i]);
        "#);
        assert_eq!(site_labels(&Ldg, "    output[0] += 1.0f;\n"), "");
    }

    #[test]
    fn memory_that_one_expression_reads_is_streamed() {
        let body = "    int row = blockIdx.x;\n    output[row] = x[row] * 2.0f;\n";
        insta::assert_snapshot!(changes(&StreamingLoad, body, "x"), @r#"
        -     output[row] = x[row] * 2.0f;
        +     output[row] = __ldcs(&x[row]) * 2.0f;
        "#);
        let wide = "    int row = blockIdx.x;\n    float4 four = reinterpret_cast<const float4*>(x)[row];\n    output[row] = four.x;\n";
        insta::assert_snapshot!(changes(&StreamingLoad, wide, "x"), @r#"
        -     float4 four = reinterpret_cast<const float4*>(x)[row];
        +     float4 four = __ldcs(&reinterpret_cast<const float4*>(x)[row]);
        "#);
        for twice in [
            SUM_OF_ROW_AND_FIRST,
            "    output[0] = x[0] + *x;\n",
            "    output[0] = x[0] + rows * atomicAdd(x + 1, 0.0f);\n",
            "    const float* in = x + 1;\n    output[0] = x[0] + in[1];\n",
        ] {
            assert_eq!(site_labels(&StreamingLoad, twice), "", "{twice}");
        }
    }

    #[test]
    fn write_only_results_use_streaming_stores() {
        insta::assert_snapshot!(changes(&StreamingStore, SUM_OF_ROW_AND_FIRST, "output"), @r#"
        -         output[row * columns + i] = x[row * columns + i] + x[i];
        +         __stcs(&output[row * columns + i], x[row * columns + i] + x[i]);
        "#);
        assert_eq!(
            site_labels(
                &StreamingStore,
                "    output[0] = x[0];\n    output[1] = output[0];\n"
            ),
            ""
        );
    }
}
