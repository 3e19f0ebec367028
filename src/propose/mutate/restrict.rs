//! `restrict`: pointer parameters that share no memory are declared so.

use tree_sitter::Node;

use super::nodes::is_field;
use super::purity::is_pure_call;
use super::scope::{Declaration, Scope};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Adds `__restrict__` to the pointer parameters of a `__global__` function, and `const` where nothing is written.
///
/// ```text
/// __global__ void f(const float* x, float* output)
/// ```
/// becomes
/// ```text
/// __global__ void f(const float* __restrict__ x, float* __restrict__ output)
/// ```
///
/// Legal for a pointer that shares its memory with no other pointer parameter in any launch. The header names the tensors
/// that a launch passes, and the task names the outputs that are updated in place. Offered for all pointers together, and
/// for `const` and other pointers alone.
///
/// Faster because the compiler may reorder loads and stores, keep loaded values in registers, and use the read-only cache.
pub(super) struct Restrict;

impl Transformation for Restrict {
    fn name(&self) -> &'static str {
        "restrict"
    }

    fn weight(&self) -> f64 {
        3.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let pointers: Vec<_> = scope
                .declarations
                .iter()
                .filter(|declaration| can_be_restrict(&scope, declaration))
                .collect();
            let (constant, written): (Vec<_>, Vec<_>) = pointers
                .iter()
                .copied()
                .partition(|declaration| declaration.is_const);
            let total = pointers.len();
            let groups = [
                ("all pointers", pointers),
                ("const pointers", constant),
                ("pointers to results", written),
            ];
            for (group_name, group) in groups {
                let repeats_all = group_name != "all pointers" && group.len() == total;
                if group.is_empty() || repeats_all {
                    continue;
                }
                let function_name = subject.syntax.function_name(&function);
                sites.push(RewriteSite {
                    label: format!("{group_name} of {function_name}"),
                    line: line_of(function.declarator),
                    edits: add_restrict(&scope, &group),
                });
            }
        }
        sites
    }
}

fn add_restrict<'t>(scope: &Scope<'t, '_>, group: &[&Declaration<'t, '_>]) -> SourceEdits {
    let mut edits = SourceEdits::new();
    for declaration in group {
        edits.insert(declaration.identifier.start_byte(), "__restrict__ ");
        if can_be_const(scope, declaration) {
            edits.insert(declaration.node.start_byte(), "const ");
        }
    }
    edits
}

/// Whether a declaration is a plain pointer parameter without `__restrict__` that shares memory with no other in any launch.
fn can_be_restrict(scope: &Scope<'_, '_>, declaration: &Declaration<'_, '_>) -> bool {
    let is_pointer = declaration.parameter_index.is_some()
        && declaration.pointer_depth == 1
        && !declaration.is_restrict
        && !declaration.is_reference;
    let is_written_with_star = declaration
        .identifier
        .parent()
        .is_some_and(|parent| parent.kind() == "pointer_declarator");
    let mut others = scope.declarations.iter().filter(|other| {
        other.parameter_index.is_some() && other.pointer_depth > 0 && other.name != declaration.name
    });
    is_pointer
        && is_written_with_star
        && scope.function.is_global
        && !others.any(|other| scope.may_alias(Some(declaration.name), Some(other.name)))
}

/// Whether a pointer without `const` is used for nothing but reading elements.
fn can_be_const<'t>(scope: &Scope<'t, '_>, declaration: &Declaration<'t, '_>) -> bool {
    !declaration.is_const
        && is_named_once(scope)
        && !scope.subject.hides_code(scope.function.body)
        && scope
            .uses(scope.function.body, declaration.name)
            .iter()
            .all(|used| {
                used.parent().is_some_and(|parent| {
                    parent.kind() == "subscript_expression" && is_read_by_value(scope, parent)
                })
            })
}

/// Whether only its definition names the function, so that its type may change.
fn is_named_once(scope: &Scope<'_, '_>) -> bool {
    let name = scope.subject.syntax.function_name(&scope.function);
    descendants(scope.subject.syntax.root())
        .filter(|node| node.child_count() == 0 && scope.text(*node) == name)
        .count()
        == 1
}

/// Whether the code around an element only takes its value, so that the element may be `const`.
fn is_read_by_value<'t>(scope: &Scope<'t, '_>, element: Node<'t>) -> bool {
    let Some(parent) = element.parent() else {
        return false;
    };
    match parent.kind() {
        "binary_expression" | "unary_expression" | "cast_expression" => true,
        "subscript_argument_list" => true,
        "parenthesized_expression" | "field_expression" => is_read_by_value(scope, parent),
        "assignment_expression" => is_field(parent, "right", element),
        "init_declarator" => parent
            .child_by_field_name("declarator")
            .is_some_and(|declarator| declarator.kind() == "identifier"),
        "argument_list" => parent
            .parent()
            .is_some_and(|call| call.kind() == "call_expression" && is_pure_call(scope, call)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUM_OF_ROW_AND_FIRST, changes, kernel, site_labels};
    use super::*;

    #[test]
    fn restrict_marks_pointers_without_aliases() {
        insta::assert_snapshot!(site_labels(&Restrict, SUM_OF_ROW_AND_FIRST), @r#"
        all pointers of softmax (line 8)
        const pointers of softmax (line 8)
        pointers to results of softmax (line 8)
        "#);
        insta::assert_snapshot!(changes(&Restrict, SUM_OF_ROW_AND_FIRST, "all"), @r#"
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        + __global__ void softmax(const float* __restrict__ x, float* __restrict__ output, int rows, int columns) {
        "#);
        assert!(kernel(SUM_OF_ROW_AND_FIRST).contains("const float* x"));
    }

    #[test]
    fn element_that_an_object_refers_to_is_not_const() {
        let body = "    Reference<float> first(output[rows]);\n    first = x[0];\n";
        let all = changes(&Restrict, body, "all");
        assert!(
            all.contains("float* __restrict__ output")
                && !all.contains("const float* __restrict__ output"),
            "{all}"
        );
    }
}
