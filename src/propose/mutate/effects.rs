//! What a piece of code may change, and whether an expression may be computed elsewhere or not at all.

use std::collections::BTreeSet;

use tree_sitter::Node;

use super::scope::Scope;
use crate::kernel::syntax::{children, descendants, named_children};

/// What executing a piece of code may change.
#[derive(Debug, Default)]
pub(super) struct Effects<'a> {
    /// Variables, arrays and structures of the function.
    pub assigned: BTreeSet<&'a str>,
    /// The memory behind pointers, by its root; `None` is unknown.
    pub stored: BTreeSet<Option<&'a str>>,
    /// Calls something that may change anything, or waits for other threads.
    pub is_opaque: bool,
    /// Leaves by `return`, `goto`, or a `break` that belongs to a loop around.
    pub jumps: bool,
}

/// Functions of CUDA and of C that only compute a `float` from their arguments.
const FLOAT_FUNCTIONS: [&str; 52] = [
    "expf",
    "exp2f",
    "exp10f",
    "expm1f",
    "logf",
    "log2f",
    "log10f",
    "log1pf",
    "sqrtf",
    "rsqrtf",
    "cbrtf",
    "powf",
    "sinf",
    "cosf",
    "tanf",
    "asinf",
    "acosf",
    "atanf",
    "atan2f",
    "sinhf",
    "coshf",
    "tanhf",
    "erff",
    "erfcf",
    "fabsf",
    "fmaxf",
    "fminf",
    "fmaf",
    "fmodf",
    "floorf",
    "ceilf",
    "roundf",
    "truncf",
    "rintf",
    "copysignf",
    "fdividef",
    "__fdividef",
    "__expf",
    "__exp10f",
    "__logf",
    "__log2f",
    "__log10f",
    "__powf",
    "__sinf",
    "__cosf",
    "__tanf",
    "__frcp_rn",
    "__fsqrt_rn",
    "__fmaf_rn",
    "__saturatef",
    "__int_as_float",
    "hypotf",
];

/// Other functions that only compute from their arguments, or from the memory that an argument points to.
const PURE_FUNCTIONS: [&str; 33] = [
    "max",
    "min",
    "abs",
    "sqrt",
    "exp",
    "log",
    "__ldg",
    "__ldcs",
    "__ldcg",
    "__bfloat162float",
    "__half2float",
    "__float2bfloat16",
    "__float2bfloat16_rn",
    "__float2half",
    "__float2half_rn",
    "__bfloat1622float2",
    "__half22float2",
    "__floats2bfloat162_rn",
    "__float22bfloat162_rn",
    "__floats2half2_rn",
    "__low2float",
    "__high2float",
    "make_float2",
    "make_float3",
    "make_float4",
    "make_int2",
    "make_int4",
    "make_uint2",
    "make_uint4",
    "__float_as_int",
    "__popc",
    "__clz",
    "__mul24",
];

pub(super) fn is_float_function(name: &str) -> bool {
    FLOAT_FUNCTIONS.contains(&name)
}

impl<'a> Effects<'a> {
    /// The effects of all that lies within a node.
    pub(super) fn of<'t>(scope: &Scope<'t, 'a>, region: Node<'t>) -> Self {
        let mut effects = Self::default();
        for node in descendants(region) {
            match node.kind() {
                "assignment_expression" => {
                    effects.record_change(scope, node.child_by_field_name("left"))
                }
                "update_expression" => {
                    effects.record_change(scope, node.child_by_field_name("argument"))
                }
                "call_expression" if !is_pure_call(scope, node) => effects.is_opaque = true,
                "lambda_expression" | "gnu_asm_expression" | "new_expression"
                | "delete_expression" | "for_range_loop" | "try_statement" => {
                    effects.is_opaque = true
                }
                "return_statement" | "goto_statement" => effects.jumps = true,
                "break_statement" | "continue_statement" => {
                    effects.jumps |= !stays_within(node, region);
                }
                "declaration" => {
                    let mut cursor = node.walk();
                    let refers =
                        node.children_by_field_name("declarator", &mut cursor)
                            .any(|declarator| {
                                descendants(declarator)
                                    .any(|inner| inner.kind() == "reference_declarator")
                            });
                    effects.is_opaque |= refers;
                }
                "pointer_expression"
                    if node
                        .child_by_field_name("operator")
                        .is_some_and(|operator| operator.kind() == "&") =>
                {
                    // The address of a variable may go anywhere; that of memory only to what reads it, or to an opaque call.
                    let argument = node
                        .child_by_field_name("argument")
                        .filter(|argument| argument.kind() == "identifier");
                    effects
                        .assigned
                        .extend(argument.map(|argument| scope.text(argument)));
                }
                _ => {}
            }
        }
        effects
    }

    fn record_change<'t>(&mut self, scope: &Scope<'t, 'a>, lvalue: Option<Node<'t>>) {
        let Some(lvalue) = lvalue else {
            self.is_opaque = true;
            return;
        };
        match write_target(scope, lvalue) {
            WriteTarget::Variable(name) => {
                self.assigned.insert(name);
            }
            WriteTarget::Memory(root) => {
                self.stored.insert(root);
            }
        }
    }

    /// Whether the value of an expression may differ before and after.
    pub(super) fn may_change<'t>(&self, scope: &Scope<'t, 'a>, expression: Node<'t>) -> bool {
        if self.is_opaque {
            return true;
        }
        let names = descendants(expression).filter(|node| node.kind() == "identifier");
        if names
            .into_iter()
            .any(|node| self.assigned.contains(scope.text(node)))
        {
            return true;
        }
        memory_reads(scope, expression).into_iter().any(|read| {
            self.stored
                .iter()
                .any(|stored| scope.may_alias(read, *stored))
        })
    }
}

/// What an lvalue changes.
pub(super) enum WriteTarget<'a> {
    Variable(&'a str),
    Memory(Option<&'a str>),
}

/// What assigning to an lvalue changes: a variable of the function, a part of one, or memory behind a pointer.
pub(super) fn write_target<'t, 'a>(scope: &Scope<'t, 'a>, lvalue: Node<'t>) -> WriteTarget<'a> {
    let mut at = lvalue;
    loop {
        let is_arrow = || {
            at.child_by_field_name("operator")
                .is_some_and(|operator| operator.kind() == "->")
        };
        let next = match at.kind() {
            "identifier" => {
                let declared = scope.lookup_node(at);
                return match declared {
                    Some(declared) if declared.is_reference => WriteTarget::Memory(None),
                    // The elements behind a pointer are memory, the pointer itself is a variable.
                    Some(declared) if declared.pointer_depth > 0 && at.id() != lvalue.id() => {
                        WriteTarget::Memory(scope.memory_root(at))
                    }
                    Some(declared) => WriteTarget::Variable(declared.name),
                    None => WriteTarget::Memory(None),
                };
            }
            "field_expression" if !is_arrow() => at.child_by_field_name("argument"),
            "subscript_expression" => at.child_by_field_name("argument"),
            "parenthesized_expression" => named_children(at).next(),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return WriteTarget::Memory(scope.memory_root(at)),
        }
    }
}

/// Whether a variable itself, not what it leads to, is assigned within a node.
pub(super) fn assigns_variable<'t>(scope: &Scope<'t, '_>, region: Node<'t>, name: &str) -> bool {
    descendants(region).any(|node| {
        let changed = match node.kind() {
            "assignment_expression" => node.child_by_field_name("left"),
            "update_expression" => node.child_by_field_name("argument"),
            "pointer_expression"
                if node
                    .child_by_field_name("operator")
                    .is_some_and(|operator| operator.kind() == "&") =>
            {
                node.child_by_field_name("argument")
            }
            _ => None,
        };
        changed.is_some_and(|changed| changed.kind() == "identifier" && scope.text(changed) == name)
    })
}

/// The memory that an expression reads through pointers, by root. Arrays of the function count as variables.
pub(super) fn memory_reads<'t, 'a>(
    scope: &Scope<'t, 'a>,
    expression: Node<'t>,
) -> BTreeSet<Option<&'a str>> {
    let mut roots = BTreeSet::new();
    for node in descendants(expression) {
        let is = |operator: &str| {
            node.child_by_field_name("operator")
                .is_some_and(|own| own.kind() == operator)
        };
        match node.kind() {
            "subscript_expression" => {
                if let WriteTarget::Memory(root) = write_target(scope, node) {
                    roots.insert(root);
                }
            }
            "pointer_expression" if is("*") => {
                roots.insert(scope.memory_root(node));
            }
            "field_expression" if is("->") => {
                roots.insert(scope.memory_root(node));
            }
            "call_expression" => {
                // A function may read behind the pointers that it is given.
                for argument in node
                    .child_by_field_name("arguments")
                    .into_iter()
                    .flat_map(named_children)
                {
                    if is_pointer_value(scope, argument) {
                        roots.insert(scope.memory_root(argument));
                    }
                }
            }
            _ => {}
        }
    }
    roots
}

/// Whether an expression's value is a pointer, as far as can be seen.
fn is_pointer_value<'t>(scope: &Scope<'t, '_>, expression: Node<'t>) -> bool {
    match expression.kind() {
        "pointer_expression" => expression
            .child_by_field_name("operator")
            .is_some_and(|operator| operator.kind() == "&"),
        "identifier" => scope
            .lookup_node(expression)
            .is_some_and(|declared| declared.pointer_depth > 0),
        "binary_expression" | "parenthesized_expression" | "cast_expression" => {
            named_children(expression).any(|child| is_pointer_value(scope, child))
        }
        _ => false,
    }
}

/// Whether an expression only computes: evaluating it elsewhere, twice, or not at all makes no difference but its value.
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

fn is_pure_call<'t>(scope: &Scope<'t, '_>, call: Node<'t>) -> bool {
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
            FLOAT_FUNCTIONS.contains(&name)
                || PURE_FUNCTIONS.contains(&name)
                || is_pure_file_function(scope, name, 0)
        }
    }
}

/// Whether a function of the file computes from plain values alone, or only reads behind its pointers.
fn is_pure_file_function<'t>(scope: &Scope<'t, '_>, name: &str, depth: usize) -> bool {
    let mut defined = scope
        .subject
        .functions()
        .into_iter()
        .filter(|function| scope.subject.syntax.function_name(function) == name);
    let (Some(function), None, true) = (defined.next(), defined.next(), depth < 8) else {
        return false;
    };
    let refers = descendants(function.declarator).any(|node| node.kind() == "reference_declarator");
    let inner = Scope::new(scope.subject, function);
    let quiet = descendants(function.body).all(|node| match node.kind() {
        "call_expression" => {
            let called = node
                .child_by_field_name("function")
                .map_or("", |function| scope.text(function));
            let is_plain = node
                .child_by_field_name("function")
                .is_some_and(|function| {
                    matches!(function.kind(), "primitive_type" | "template_function")
                });
            is_plain
                || FLOAT_FUNCTIONS.contains(&called)
                || PURE_FUNCTIONS.contains(&called)
                || (called != name && is_pure_file_function(&inner, called, depth + 1))
        }
        "lambda_expression" | "gnu_asm_expression" | "goto_statement" => false,
        "assignment_expression" => node
            .child_by_field_name("left")
            .is_some_and(|left| matches!(write_target(&inner, left), WriteTarget::Variable(_))),
        "update_expression" => node
            .child_by_field_name("argument")
            .is_some_and(|left| matches!(write_target(&inner, left), WriteTarget::Variable(_))),
        _ => true,
    });
    let no_templates =
        children(function.node).all(|child| child.kind() != "template_parameter_list");
    !function.is_global && !refers && no_templates && quiet
}

/// Whether a `break` or `continue` belongs to a loop within the region.
fn stays_within(jump: Node<'_>, region: Node<'_>) -> bool {
    let mut kinds = vec!["for_statement", "while_statement", "do_statement"];
    if jump.kind() == "break_statement" {
        kinds.push("switch_statement");
    }
    crate::kernel::syntax::enclosing(jump, &kinds)
        .is_some_and(|around| crate::kernel::syntax::contains(region, around))
}
