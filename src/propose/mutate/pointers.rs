//! How pointers are declared and memory is reached: `restrict`, `ldg`, `streaming_store` and `row_pointer`.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::{Effects, WriteTarget, assigns_variable, is_pure, memory_reads, write_target};
use super::scope::{Declaration, Scope};
use super::{RewriteSite, Subject, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, line_of, named_children};
use crate::propose::source_edits::{SourceEdits, indentation, line_start};

pub(super) struct Restrict;
pub(super) struct Ldg;
pub(super) struct StreamingStore;
pub(super) struct RowPointer;

impl Transformation for Restrict {
    fn name(&self) -> &'static str {
        "restrict"
    }

    fn weight(&self) -> f64 {
        3.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let open: Vec<_> = scope
                .declarations
                .iter()
                .filter(|declared| can_be_restrict(&scope, declared))
                .collect();
            let groups: [(&str, Vec<&Declaration<'_, '_>>); 3] = [
                ("all pointers", open.clone()),
                (
                    "const pointers",
                    open.iter()
                        .copied()
                        .filter(|declared| declared.is_const)
                        .collect(),
                ),
                (
                    "pointers to results",
                    open.iter()
                        .copied()
                        .filter(|declared| !declared.is_const)
                        .collect(),
                ),
            ];
            for (what, group) in groups {
                if group.is_empty() || (what != "all pointers" && group.len() == open.len()) {
                    continue;
                }
                let mut edits = SourceEdits::new();
                for declared in &group {
                    edits.insert(declared.identifier.start_byte(), "__restrict__ ");
                    if can_be_const(&scope, declared) {
                        edits.insert(declared.node.start_byte(), "const ");
                    }
                }
                let what = format!("{what} of {}", subject.syntax.function_name(&function));
                places.push(RewriteSite {
                    label: what,
                    line: line_of(function.declarator),
                    edits,
                });
            }
        }
        places
    }
}

/// A pointer parameter that says nothing of other pointers, and shares its memory with no other in any launch.
fn can_be_restrict(scope: &Scope<'_, '_>, declared: &Declaration<'_, '_>) -> bool {
    let is_pointer = declared.parameter_index.is_some()
        && declared.pointer_depth == 1
        && !declared.is_restrict
        && !declared.is_reference;
    let written = declared
        .identifier
        .parent()
        .is_some_and(|parent| parent.kind() == "pointer_declarator");
    let others = scope.declarations.iter().filter(|other| {
        other.parameter_index.is_some() && other.pointer_depth > 0 && other.name != declared.name
    });
    is_pointer
        && written
        && scope.function.is_global
        && !others
            .into_iter()
            .any(|other| scope.may_alias(Some(declared.name), Some(other.name)))
}

/// A pointer that lacks `const`, and is used for nothing but reading elements.
fn can_be_const<'t>(scope: &Scope<'t, '_>, declared: &Declaration<'t, '_>) -> bool {
    !declared.is_const
        && scope
            .uses(scope.function.body, declared.name)
            .iter()
            .all(|used| {
                used.parent().is_some_and(|parent| {
                    parent.kind() == "subscript_expression" && !is_written(parent)
                })
            })
}

/// Whether an element is assigned, or its address taken.
fn is_written(element: Node<'_>) -> bool {
    element.parent().is_some_and(|parent| match parent.kind() {
        "assignment_expression" => parent
            .child_by_field_name("left")
            .is_some_and(|left| left.id() == element.id()),
        "update_expression" | "pointer_expression" => true,
        "field_expression" | "subscript_expression" => is_written(parent),
        _ => false,
    })
}

/// The elements `p[i]` that are read, by the parameter that they lie behind, where nothing is ever written behind it.
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
                argument.kind() == "identifier"
                    && scope
                        .lookup_node(argument)
                        .is_some_and(|declared| declared.pointer_depth == 1)
            });
        let is_parameter = scope
            .unshadowed_parameter(root)
            .is_some_and(|declared| declared.is_const);
        let is_constant = effects
            .stored
            .iter()
            .all(|stored| !scope.may_alias(Some(root), *stored));
        let is_loadable = scope
            .type_of(node)
            .is_some_and(|kind| CACHE_HINT_TYPES.contains(&kind));
        if is_pointer && is_parameter && is_constant && is_loadable {
            found.entry(root).or_default().push(node);
        }
    }
    found
}

/// Types that `__ldg` and its like take.
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

impl Transformation for Ldg {
    fn name(&self) -> &'static str {
        "ldg"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places: Vec<RewriteSite> = Vec::new();
        for function in subject
            .functions()
            .into_iter()
            .filter(|function| function.is_global)
        {
            let scope = Scope::new(subject, function);
            let mut all = SourceEdits::new();
            let found = constant_reads(&scope);
            for (root, nodes) in &found {
                let mut edits = SourceEdits::new();
                // An index may hold another load.
                for node in nodes {
                    edits
                        .insert(node.start_byte(), "__ldg(&")
                        .insert(node.end_byte(), ")");
                }
                all = all.merged_with(&edits);
                places.push(RewriteSite {
                    label: (*root).to_owned(),
                    line: line_of(nodes[0]),
                    edits,
                });
            }
            if found.len() > 1 {
                places.push(RewriteSite {
                    label: "all".to_owned(),
                    line: line_of(function.declarator),
                    edits: all,
                });
            }
        }
        places
    }
}

impl Transformation for StreamingStore {
    fn name(&self) -> &'static str {
        "streaming_store"
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
            let mut found: BTreeMap<&str, Vec<Node<'_>>> = BTreeMap::new();
            for node in
                descendants(function.body).filter(|node| node.kind() == "assignment_expression")
            {
                let Some(left) = node
                    .child_by_field_name("left")
                    .filter(|left| left.kind() == "subscript_expression")
                else {
                    continue;
                };
                let is_plain = node
                    .child_by_field_name("operator")
                    .is_some_and(|operator| operator.kind() == "=");
                let is_statement = node
                    .parent()
                    .is_some_and(|parent| parent.kind() == "expression_statement");
                let is_storable = scope
                    .type_of(left)
                    .is_some_and(|kind| CACHE_HINT_TYPES.contains(&kind));
                if let (WriteTarget::Memory(Some(root)), true) = (
                    write_target(&scope, left),
                    is_plain && is_statement && is_storable,
                ) && scope.unshadowed_parameter(root).is_some()
                {
                    found.entry(root).or_default().push(node);
                }
            }
            for (root, nodes) in found {
                // What is read again should stay in the cache.
                let is_read = descendants(function.body).any(|node| {
                    node.kind() == "subscript_expression"
                        && !nodes.iter().any(|store| {
                            store
                                .child_by_field_name("left")
                                .is_some_and(|left| left.id() == node.id())
                        })
                        && scope.memory_root(node) == Some(root)
                });
                if is_read {
                    continue;
                }
                let mut edits = SourceEdits::new();
                for node in &nodes {
                    if let (Some(left), Some(right)) = (
                        node.child_by_field_name("left"),
                        node.child_by_field_name("right"),
                    ) {
                        edits
                            .insert(left.start_byte(), "__stcs(&")
                            .replace(left.end_byte()..right.start_byte(), ", ")
                            .insert(right.end_byte(), ")");
                    }
                }
                places.push(RewriteSite {
                    label: root.to_owned(),
                    line: line_of(nodes[0]),
                    edits,
                });
            }
        }
        places
    }
}

impl Transformation for RowPointer {
    fn name(&self) -> &'static str {
        "row_pointer"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let mut rows: BTreeMap<(&str, String), Vec<(Node<'_>, Node<'_>)>> = BTreeMap::new();
            for node in
                descendants(function.body).filter(|node| node.kind() == "subscript_expression")
            {
                let Some((pointer, base, _)) = row_access(&scope, node) else {
                    continue;
                };
                let text = collapse_white_space(subject.text(base));
                rows.entry((subject.text(pointer), text))
                    .or_default()
                    .push((node, base));
            }
            for ((pointer, base), members) in rows {
                let (first, base_node) = members[0];
                let Some(front) = statement_containing(function.body, first) else {
                    continue;
                };
                let Some(declared) = scope.lookup(pointer, first.start_byte()) else {
                    continue;
                };
                // One statement of the function's own block comes before all of them, and knows all names.
                let is_known = members
                    .iter()
                    .all(|(_, base)| scope.resolves_same_before(*base, front));
                let is_steady = !assigns_variable(&scope, function.body, pointer)
                    && descendants(base_node)
                        .filter(|node| node.kind() == "identifier")
                        .all(|node| !assigns_variable(&scope, function.body, subject.text(node)));
                if !is_known || !is_steady || declared.pointer_depth != 1 {
                    continue;
                }
                let name = subject.fresh_name(&format!("{pointer}_row"));
                let qualifier = if declared.is_const { "const " } else { "" };
                let at = super::loops::unroll_pragma_before(&scope, front)
                    .unwrap_or(front)
                    .start_byte();
                let mut edits = SourceEdits::new();
                edits.insert(
                    line_start(subject.source(), at),
                    format!(
                        "{}{qualifier}{}* {name} = {pointer} + {base};\n",
                        indentation(subject.source(), front.start_byte()),
                        declared.type_name
                    ),
                );
                for (node, _) in &members {
                    if let Some((pointer, base, rest)) = row_access(&scope, *node) {
                        edits
                            .replace(pointer.byte_range(), name.clone())
                            .replace(base.start_byte()..rest.start_byte(), "");
                    }
                }
                places.push(RewriteSite {
                    label: format!("{pointer} + {base}"),
                    line: line_of(first),
                    edits,
                });
            }
        }
        places
    }
}

/// `p[base + rest]` with a product for a base: the pointer, the base and what is left of the index.
fn row_access<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<(Node<'t>, Node<'t>, Node<'t>)> {
    let pointer = node
        .child_by_field_name("argument")
        .filter(|argument| argument.kind() == "identifier")?;
    let declared = scope.lookup_node(pointer)?;
    let is_pointer = declared.pointer_depth == 1
        && declared.array_sizes.is_empty()
        && declared.parameter_index.is_some();
    let mut index = named_children(node.child_by_field_name("indices")?).next()?;
    let whole = index;
    // The leftmost term of a sum.
    loop {
        let is_sum = index.kind() == "binary_expression"
            && index.child_by_field_name("operator")?.kind() == "+";
        let left = index.child_by_field_name("left").filter(|_| is_sum)?;
        if left.kind() == "binary_expression" && left.child_by_field_name("operator")?.kind() == "+"
        {
            index = left;
            continue;
        }
        let right = index.child_by_field_name("right")?;
        let is_product = left.kind() == "binary_expression"
            && left.child_by_field_name("operator")?.kind() == "*";
        let is_fit = is_pointer
            && is_product
            && contains(whole, left)
            && is_pure(scope, left)
            && memory_reads(scope, left).is_empty();
        return is_fit.then_some((pointer, left, right));
    }
}

/// The statement of a block that a node lies in.
fn statement_containing<'t>(block: Node<'t>, node: Node<'t>) -> Option<Node<'t>> {
    named_children(block).find(|statement| contains(*statement, node))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, kernel, site_labels};
    use super::*;

    const BODY: &str = "    int row = blockIdx.x;\n    if (row >= rows) return;\n#pragma unroll 2\n    for (int i = 0; i < columns; i++) {\n        output[row * columns + i] = x[row * columns + i] + x[i];\n    }\n";

    #[test]
    fn restrict_marks_pointers_without_aliases() {
        insta::assert_snapshot!(site_labels(&Restrict, BODY), @r#"
        all pointers of softmax (line 8)
        const pointers of softmax (line 8)
        pointers to results of softmax (line 8)
        "#);
        insta::assert_snapshot!(changes(&Restrict, BODY, "all"), @r#"
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        + __global__ void softmax(const float* __restrict__ x, float* __restrict__ output, int rows, int columns) {
        "#);
        assert!(kernel(BODY).contains("const float* x"));
    }

    #[test]
    fn unwritten_memory_is_read_with_ldg() {
        insta::assert_snapshot!(site_labels(&Ldg, BODY), @r#"x (line 13)"#);
        insta::assert_snapshot!(changes(&Ldg, BODY, "x"), @r#"
        -         output[row * columns + i] = x[row * columns + i] + x[i];
        +         output[row * columns + i] = __ldg(&x[row * columns + i]) + __ldg(&x[i]);
        "#);
        assert_eq!(site_labels(&Ldg, "    output[0] += 1.0f;\n"), "");
    }

    #[test]
    fn write_only_results_use_streaming_stores() {
        insta::assert_snapshot!(changes(&StreamingStore, BODY, "output"), @r#"
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

    #[test]
    fn row_offset_becomes_a_pointer() {
        insta::assert_snapshot!(site_labels(&RowPointer, BODY), @r#"
        output + row * columns (line 13)
        x + row * columns (line 13)
        "#);
        insta::assert_snapshot!(changes(&RowPointer, BODY, "x + "), @r#"
        - #pragma unroll 2
        -     for (int i = 0; i < columns; i++) {
        -         output[row * columns + i] = x[row * columns + i] + x[i];
        +     const float* x_row = x + row * columns;
        + #pragma unroll 2
        +     for (int i = 0; i < columns; i++) {
        +         output[row * columns + i] = x_row[i] + x[i];
        "#);
    }
}
