//! `inlining` and `unsigned_index`: qualifiers of device functions, and types of indices.

use tree_sitter::Node;

use super::nodes::operator_of;
use super::scope::{Declaration, Scope};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{FunctionNode, children, descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Marks a device function to be inlined always or never.
///
/// ```text
/// __device__ float f(float a)  ->  __device__ __forceinline__ float f(float a)
/// ```
///
/// Always legal: inlining does not change results. Offers `__forceinline__` and `__noinline__`.
///
/// Inlining saves the call and exposes more to the optimizer; a call saves registers and instruction cache.
pub(super) struct Inlining;

/// Declares indices as `unsigned` that can never be negative.
///
/// ```text
/// const int row = blockIdx.x * 128 + threadIdx.x;  ->  const unsigned row = …;
/// ```
///
/// Legal for local integers that are set once from values that are never negative, and that no expression subtracts from or
/// negates. All such variables of a function change together.
///
/// Faster because divisions and remainders by a constant take fewer instructions without a sign.
pub(super) struct UnsignedIndex;

/// Limit of the recursion through initializers.
const MAX_DEPTH: usize = 32;

/// Qualifiers that the inlining qualifiers replace.
const INLINE_QUALIFIERS: [&str; 4] = ["inline", "__forceinline__", "__noinline__", "__inline__"];

impl Transformation for Inlining {
    fn name(&self) -> &'static str {
        "inlining"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        subject
            .functions()
            .iter()
            .filter(|function| !function.is_global)
            .flat_map(|function| set_inlining(subject, function))
            .collect()
    }
}

/// The inlining qualifiers that a device function does not have yet.
fn set_inlining(subject: &Subject<'_>, function: &FunctionNode<'_>) -> Vec<RewriteSite> {
    let qualifiers: Vec<_> = children(function.node)
        .take_while(|child| child.id() != function.declarator.id())
        .collect();
    let Some(device) = qualifiers
        .iter()
        .find(|qualifier| subject.text(**qualifier) == "__device__")
    else {
        return Vec::new();
    };
    // A function that calls itself cannot be inlined.
    let name = subject.syntax.function_name(function);
    let is_recursive = descendants(function.body)
        .any(|node| node.child_count() == 0 && subject.text(node) == name);
    if is_recursive {
        return Vec::new();
    }
    let current: Vec<_> = qualifiers
        .iter()
        .filter(|qualifier| INLINE_QUALIFIERS.contains(&subject.text(**qualifier)))
        .collect();
    let mut sites = Vec::new();
    for wanted in ["__forceinline__", "__noinline__"] {
        if current
            .iter()
            .any(|qualifier| subject.text(**qualifier) == wanted)
        {
            continue;
        }
        let mut edits = SourceEdits::new();
        edits.insert(device.end_byte(), format!(" {wanted}"));
        for qualifier in &current {
            // With the space after it.
            let has_space = subject.source()[qualifier.end_byte()..].starts_with(' ');
            let end = qualifier.end_byte() + usize::from(has_space);
            edits.replace(qualifier.start_byte()..end, "");
        }
        sites.push(RewriteSite {
            label: format!("{} {wanted}", subject.syntax.function_name(function)),
            line: line_of(function.node),
            edits,
        });
    }
    sites
}

impl Transformation for UnsignedIndex {
    fn name(&self) -> &'static str {
        "unsigned_index"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let found: Vec<_> = scope
                .declarations
                .iter()
                .filter(|declaration| {
                    is_integer_set_once(&scope, declaration)
                        && is_never_negative(&scope, declaration, 0)
                })
                .collect();
            let Some(first) = found.first() else { continue };
            let mut edits = SourceEdits::new();
            for declaration in &found {
                if let Some(type_node) = declaration.node.child_by_field_name("type") {
                    edits.replace(type_node.byte_range(), "unsigned");
                }
            }
            let names: Vec<_> = found.iter().map(|declaration| declaration.name).collect();
            sites.push(RewriteSite {
                label: names.join(", "),
                line: line_of(first.node),
                edits,
            });
        }
        sites
    }
}

/// Whether a declaration is a local `int` that is set once and never subtracted from or negated.
fn is_integer_set_once<'t>(scope: &Scope<'t, '_>, declaration: &Declaration<'t, '_>) -> bool {
    let mut cursor = declaration.node.walk();
    let is_only_declarator = declaration
        .node
        .children_by_field_name("declarator", &mut cursor)
        .count()
        == 1;
    let is_local_integer = declaration.type_name == "int"
        && declaration.pointer_depth == 0
        && declaration.array_sizes.is_empty()
        && !declaration.is_reference
        && declaration.parameter_index.is_none();
    let is_in_block = declaration.node.kind() == "declaration"
        && declaration
            .node
            .parent()
            .is_some_and(|parent| parent.kind() == "compound_statement");
    is_only_declarator
        && is_local_integer
        && is_in_block
        && !scope.assigns_variable(scope.function.body, declaration.name)
        && !is_subtracted(scope, declaration.name)
}

/// Whether a name occurs in an operand of `-` or `~`.
fn is_subtracted(scope: &Scope<'_, '_>, name: &str) -> bool {
    scope.uses(scope.function.body, name).iter().any(|used| {
        std::iter::successors(used.parent(), Node::parent)
            .take_while(|around| around.kind().ends_with("_expression"))
            .any(|around| {
                matches!(around.kind(), "binary_expression" | "unary_expression")
                    && matches!(operator_of(around), "-" | "~")
            })
    })
}

fn is_never_negative<'t>(
    scope: &Scope<'t, '_>,
    declaration: &Declaration<'t, '_>,
    depth: usize,
) -> bool {
    declaration.initializer.is_some_and(|value| {
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
            Some(declaration) => {
                is_integer_set_once(scope, declaration)
                    && is_never_negative(scope, declaration, depth + 1)
            }
            None => scope
                .subject
                .holds_at_all_points(&|evaluate| Some(evaluate(node)? >= 0)),
        },
        "parenthesized_expression" => named_children(node)
            .next()
            .is_some_and(|inner| value_is_never_negative(scope, inner, depth + 1)),
        "binary_expression" => {
            matches!(operator_of(node), "+" | "*" | "/" | "%" | ">>") && of("left") && of("right")
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
