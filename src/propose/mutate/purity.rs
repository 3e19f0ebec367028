//! Whether an expression only computes a value, so that it can be evaluated elsewhere, twice, or not at all.
//!
//! Calls count as pure if the function is a known library function, or a function of the file with a pure body.

use tree_sitter::Node;

use super::functions::is_pure_library_function;
use super::memory::{WriteTarget, write_target};
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
            is_pure_library_function(name) || is_pure_file_function(scope, name, 0)
        }
    }
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
    let is_template =
        children(function.node).any(|child| child.kind() == "template_parameter_list");
    if function.is_global || takes_reference || is_template {
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
