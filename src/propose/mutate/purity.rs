//! Whether an expression only computes a value, so that it can be evaluated elsewhere, twice, or not at all.
//!
//! Calls count as pure if the function is a known library function, or a function of the file with a pure body.

use tree_sitter::Node;

use super::functions::is_pure_library_function;
use super::memory::{WriteTarget, memory_reads, write_target};
use super::nodes::{accesses_elements, operator_of};
use super::scope::Scope;
use crate::kernel::syntax::{children, descendants};

/// Limit on the depth of calls from one function of the file to another.
const MAX_CALL_DEPTH: usize = 8;

/// Whether an expression has no effect besides its value.
pub(super) fn is_pure<'t>(scope: &Scope<'t, '_>, expression: Node<'t>) -> bool {
    descendants(expression).all(|node| match node.kind() {
        "call_expression" => is_pure_call(scope, node),
        "assignment_expression"
        | "update_expression"
        | "lambda_expression"
        | "new_expression"
        | "delete_expression"
        | "gnu_asm_expression"
        | "comma_expression" => false,
        _ => true,
    })
}

/// Whether a call has no effect besides its value.
pub(super) fn is_pure_call<'t>(scope: &Scope<'t, '_>, call: Node<'t>) -> bool {
    let Some(function) = call.child_by_field_name("function") else {
        return false;
    };
    match function.kind() {
        "primitive_type" => true,
        "template_function" => function
            .child_by_field_name("name")
            .is_some_and(|name| scope.text(name).ends_with("_cast")),
        _ => {
            let name = scope.text(function);
            if is_defined_in_file(scope, name) {
                is_pure_file_function(scope, name, 0)
            } else {
                is_pure_library_function(name)
            }
        }
    }
}

/// Whether evaluating an expression where it was not evaluated before may fault: it reads memory or elements, divides integers,
/// or calls a function of the file that does.
pub(super) fn may_fault<'t>(scope: &Scope<'t, '_>, expression: Node<'t>) -> bool {
    if accesses_elements(expression) || !memory_reads(scope, expression).is_empty() {
        return true;
    }
    descendants(expression).any(|node| match node.kind() {
        "binary_expression" => {
            matches!(operator_of(node), "/" | "%")
                && !matches!(scope.type_of(node), Some("float" | "double"))
                && node
                    .child_by_field_name("right")
                    .and_then(|right| scope.subject.constant_value(right))
                    .is_none_or(|divisor| divisor == 0)
        }
        "call_expression" => node
            .child_by_field_name("function")
            .is_some_and(|function| is_defined_in_file(scope, scope.text(function))),
        _ => false,
    })
}

/// Whether an expression must be constant where it is: CUDA's functions are not.
pub(super) fn must_be_constant(scope: &Scope<'_, '_>, expression: Node<'_>) -> bool {
    std::iter::successors(expression.parent(), Node::parent)
        .take_while(|around| around.kind() != "compound_statement")
        .any(|around| match around.kind() {
            "static_assert_declaration" | "template_argument_list" | "array_declarator" => true,
            "declaration" => {
                children(around).any(|child| matches!(scope.text(child), "constexpr" | "static"))
            }
            _ => false,
        })
}

fn is_defined_in_file(scope: &Scope<'_, '_>, name: &str) -> bool {
    let syntax = &scope.subject.syntax;
    let mut functions = scope.subject.functions().into_iter();
    functions.any(|function| syntax.function_name(&function) == name)
}

/// Whether a function of the file only computes from its arguments, or only reads behind its pointers.
fn is_pure_file_function<'t>(scope: &Scope<'t, '_>, name: &str, depth: usize) -> bool {
    let mut defined = scope
        .subject
        .functions()
        .into_iter()
        .filter(|function| scope.subject.syntax.function_name(function) == name);
    let (Some(function), None, true) = (defined.next(), defined.next(), depth < MAX_CALL_DEPTH)
    else {
        return false;
    };
    let takes_reference =
        descendants(function.declarator).any(|node| node.kind() == "reference_declarator");
    let is_template = function
        .node
        .parent()
        .is_some_and(|parent| parent.kind() == "template_declaration");
    let reads_global_variable = descendants(function.body).any(|node| {
        node.kind() == "identifier" && scope.subject.is_global_variable(scope.text(node))
    });
    if function.is_global
        || takes_reference
        || is_template
        || reads_global_variable
        || scope.subject.hides_code(function.body)
    {
        return false;
    }
    let inner = Scope::new(scope.subject, function);
    let changes_variable = |lvalue: Option<Node<'_>>| {
        lvalue
            .is_some_and(|lvalue| matches!(write_target(&inner, lvalue), WriteTarget::Variable(_)))
    };
    descendants(function.body).all(|node| match node.kind() {
        "call_expression" => {
            let Some(function) = node.child_by_field_name("function") else {
                return false;
            };
            let called = scope.text(function);
            matches!(function.kind(), "primitive_type" | "template_function")
                || is_pure_library_function(called)
                || (called != name && is_pure_file_function(&inner, called, depth + 1))
        }
        "lambda_expression" | "gnu_asm_expression" | "goto_statement" => false,
        "assignment_expression" => changes_variable(node.child_by_field_name("left")),
        "update_expression" => changes_variable(node.child_by_field_name("argument")),
        _ => true,
    })
}
