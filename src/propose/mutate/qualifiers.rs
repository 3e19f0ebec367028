//! Small matters of how things are declared: `inlining` of device functions, `unsigned_index` for what is never negative.

use tree_sitter::Node;

use super::scope::{Declaration, Scope};
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{children, descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

pub(super) struct Inlining;
pub(super) struct UnsignedIndex;

const MAX_DEPTH: usize = 32;

impl Transformation for Inlining {
    fn name(&self) -> &'static str {
        "inlining"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject
            .functions()
            .into_iter()
            .filter(|function| !function.is_global)
        {
            let marks: Vec<_> = children(function.node)
                .take_while(|child| child.id() != function.declarator.id())
                .collect();
            let Some(device) = marks
                .iter()
                .find(|mark| subject.text(**mark) == "__device__")
            else {
                continue;
            };
            let is_mark = |mark: &Node<'_>| {
                matches!(
                    subject.text(*mark),
                    "inline" | "__forceinline__" | "__noinline__" | "__inline__"
                )
            };
            let now: Vec<_> = marks.iter().filter(|mark| is_mark(mark)).collect();
            for wish in ["__forceinline__", "__noinline__"] {
                if now.iter().any(|mark| subject.text(**mark) == wish) {
                    continue;
                }
                let mut edits = SourceEdits::new();
                edits.insert(device.end_byte(), format!(" {wish}"));
                for mark in &now {
                    // With the space behind it.
                    edits.replace(mark.start_byte()..mark.end_byte() + 1, "");
                }
                places.push(RewriteSite {
                    label: format!("{} {wish}", subject.syntax.function_name(&function)),
                    line: line_of(function.node),
                    edits,
                });
            }
        }
        places
    }
}

impl Transformation for UnsignedIndex {
    fn name(&self) -> &'static str {
        "unsigned_index"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let found: Vec<_> = scope
                .declarations
                .iter()
                .filter(|declared| {
                    is_integer_set_once(&scope, declared) && is_never_negative(&scope, declared, 0)
                })
                .collect();
            let Some(first) = found.first() else { continue };
            let mut edits = SourceEdits::new();
            for declared in &found {
                if let Some(kind) = declared.node.child_by_field_name("type") {
                    edits.replace(kind.byte_range(), "unsigned");
                }
            }
            let names: Vec<_> = found.iter().map(|declared| declared.name).collect();
            places.push(RewriteSite {
                label: names.join(", "),
                line: line_of(first.node),
                edits,
            });
        }
        places
    }
}

/// A local number, set once, that nothing is taken away from.
fn is_integer_set_once<'t>(scope: &Scope<'t, '_>, declared: &Declaration<'t, '_>) -> bool {
    let mut cursor = declared.node.walk();
    let is_alone = declared
        .node
        .children_by_field_name("declarator", &mut cursor)
        .count()
        == 1;
    let is_number = declared.type_name == "int"
        && declared.pointer_depth == 0
        && declared.array_sizes.is_empty()
        && !declared.is_reference
        && declared.parameter_index.is_none();
    let in_block = declared.node.kind() == "declaration"
        && declared
            .node
            .parent()
            .is_some_and(|parent| parent.kind() == "compound_statement");
    let is_subtracted = || {
        scope
            .uses(scope.function.body, declared.name)
            .iter()
            .any(|used| {
                std::iter::successors(used.parent(), Node::parent)
                    .take_while(|around| around.kind().ends_with("_expression"))
                    .any(|around| {
                        matches!(around.kind(), "binary_expression" | "unary_expression")
                            && around
                                .child_by_field_name("operator")
                                .is_some_and(|operator| matches!(operator.kind(), "-" | "~"))
                    })
            })
    };
    is_alone
        && is_number
        && in_block
        && !super::effects::assigns_variable(scope, scope.function.body, declared.name)
        && !is_subtracted()
}

fn is_never_negative<'t>(
    scope: &Scope<'t, '_>,
    declared: &Declaration<'t, '_>,
    depth: usize,
) -> bool {
    declared.initializer.is_some_and(|value| {
        value_is_never_negative(scope, value, depth + 1)
            && descendants(value).any(|node| node.kind() == "identifier")
    })
}

fn value_is_never_negative<'t>(scope: &Scope<'t, '_>, node: Node<'t>, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let of = |field: &str| {
        node.child_by_field_name(field)
            .is_some_and(|inner| value_is_never_negative(scope, inner, depth + 1))
    };
    match node.kind() {
        "field_expression" => node
            .child_by_field_name("argument")
            .is_some_and(|argument| {
                matches!(
                    scope.text(argument),
                    "threadIdx" | "blockIdx" | "blockDim" | "gridDim"
                )
            }),
        "identifier" => match scope.lookup_node(node) {
            Some(declared) => {
                is_integer_set_once(scope, declared)
                    && is_never_negative(scope, declared, depth + 1)
            }
            None => scope
                .subject
                .holds_at_all_points(&|evaluate| Some(evaluate(node)? >= 0)),
        },
        "parenthesized_expression" => named_children(node)
            .next()
            .is_some_and(|inner| value_is_never_negative(scope, inner, depth + 1)),
        "binary_expression" => {
            node.child_by_field_name("operator")
                .is_some_and(|operator| matches!(operator.kind(), "+" | "*" | "/" | "%" | ">>"))
                && of("left")
                && of("right")
        }
        "number_literal" => scope
            .subject
            .constant_value(node)
            .is_some_and(|value| value >= 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, changes_in_source, kernel, site_labels};
    use super::*;

    #[test]
    fn device_functions_get_inline_qualifiers() {
        let source = kernel("    output[0] = twice(x[0]);\n").replace(
            "__global__",
            "__device__ inline float twice(float a) { return a + a; }\n__global__",
        );
        insta::assert_snapshot!(changes_in_source(&Inlining, &source, "twice __force"), @r#"
        - __device__ inline float twice(float a) { return a + a; }
        + __device__ __forceinline__ float twice(float a) { return a + a; }
        "#);
        insta::assert_snapshot!(changes_in_source(&Inlining, &source, "twice __noinline__"), @r#"
        - __device__ inline float twice(float a) { return a + a; }
        + __device__ __noinline__ float twice(float a) { return a + a; }
        "#);
    }

    #[test]
    fn nonnegative_index_becomes_unsigned() {
        let body = "    const int row = blockIdx.x * 128 + threadIdx.x;\n    int head = row / 16;\n    int left = rows - 1;\n    int back = row % 4;\n    output[row] = x[head - back];\n";
        insta::assert_snapshot!(changes(&UnsignedIndex, body, "row"), @r#"
        -     const int row = blockIdx.x * 128 + threadIdx.x;
        +     const unsigned row = blockIdx.x * 128 + threadIdx.x;
        "#);
        assert_eq!(
            site_labels(
                &UnsignedIndex,
                "    int a = rows + 1;\n    int b = 3;\n    output[a] = x[b];\n"
            ),
            ""
        );
    }
}
