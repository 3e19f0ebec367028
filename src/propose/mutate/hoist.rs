//! `hoist`: loop-invariant expressions move in front of the loop.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::nodes::{is_field, operator_of};
use super::purity::{is_pure, may_fault};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::values::{is_memory_name, is_plain_call};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Computes a loop-invariant expression once, before the loop.
///
/// ```text
/// for (int i = 0; i < 64; i++) output[i] = x[i] * expf(x[64]);
/// ```
/// becomes
/// ```text
/// const float x_once = expf(x[64]);
/// for (int i = 0; i < 64; i++) output[i] = x[i] * x_once;
/// ```
///
/// Legal for a pure expression that the loop does not change. An expression that may fault, such as a load, must also be
/// executed in any case.
///
/// Faster when the compiler cannot prove that the expression is invariant, and computes it in every iteration.
pub(super) struct Hoist;

impl Transformation for Hoist {
    fn name(&self) -> &'static str {
        "hoist"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for counting_loop in CountingLoop::all_in(&scope)
                .iter()
                .filter(|counting_loop| counting_loop.is_in_block(&scope))
            {
                sites.extend(hoist_invariants(&scope, counting_loop));
            }
        }
        sites
    }
}

/// One site for each expression that the loop computes in every iteration with the same result.
fn hoist_invariants<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
) -> Vec<RewriteSite> {
    let mut sites = Vec::new();
    for (text, members) in invariants(scope, counting_loop) {
        let Some(type_name) = scope.type_of(members[0]) else {
            continue;
        };
        let name = scope
            .subject
            .fresh_name(&format!("{}_once", scope.suggest_name(members[0])));
        let mut edits = SourceEdits::new();
        let (indent, value) = (counting_loop.indent(scope), scope.text(members[0]));
        let declared = format!("{indent}const {type_name} {name} = {value};\n");
        counting_loop.insert_before(scope, &declared, &mut edits);
        for member in &members {
            edits.replace(member.byte_range(), name.clone());
        }
        sites.push(RewriteSite {
            label: text,
            line: line_of(members[0]),
            edits,
        });
    }
    sites
}

/// The largest invariant expressions of a loop, grouped by text, in order of their first use.
fn invariants<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
) -> Vec<(String, Vec<Node<'t>>)> {
    let effects = Effects::of(scope, counting_loop.body);
    let runs = counting_loop.runs_at_least_once(scope);
    let mut groups: Vec<(String, Vec<Node<'t>>)> = Vec::new();
    let mut walk = descendants(counting_loop.body);
    while let Some(node) = walk.next() {
        if !is_worth_hoisting(scope, node) {
            continue;
        }
        let is_safe =
            !may_fault(scope, node) || (runs && scope.is_unconditional(node, counting_loop.body));
        let is_steady = is_safe
            && is_pure(scope, node)
            && scope.resolves_same_before(node, counting_loop.node)
            && !effects.may_change(scope, node);
        if !is_steady {
            continue;
        }
        walk.skip_children();
        let text = collapse_white_space(scope.text(node));
        match groups.iter_mut().find(|(known, _)| *known == text) {
            Some((_, members)) => members.push(node),
            None => groups.push((text, vec![node])),
        }
    }
    groups
}

/// Whether an expression is a load, a call or arithmetic, and not a constant of the compiler.
fn is_worth_hoisting<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let is_operand = node.parent().is_some_and(|parent| {
        let is_target = parent.kind() == "assignment_expression" && is_field(parent, "left", node);
        !is_target && !matches!(parent.kind(), "pointer_expression" | "update_expression")
    });
    let is_candidate = match node.kind() {
        "call_expression" => is_plain_call(node),
        "subscript_expression" => {
            is_memory_name(scope, scope.memory_root(node).unwrap_or_default(), node)
        }
        "binary_expression" => matches!(operator_of(node), "*" | "/" | "%" | "+" | "-"),
        _ => false,
    };
    is_operand
        && is_candidate
        && scope.subject.constant_value(node).is_none()
        && scope
            .type_of(node)
            .is_some_and(|type_name| type_name != "bool")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn loop_invariants_are_hoisted() {
        let body = "    for (int i = 0; i < 64; i++) {\n        output[i] = x[i] * expf(x[64]) + (rows > 3 ? x[65] : x[rows * columns + i]);\n    }\n";
        insta::assert_snapshot!(site_labels(&Hoist, body), @r#"
        expf(x[64]) (line 10)
        rows * columns (line 10)
        "#);
        insta::assert_snapshot!(changes(&Hoist, body, "expf(x[64])"), @r#"
        -     for (int i = 0; i < 64; i++) {
        -         output[i] = x[i] * expf(x[64]) + (rows > 3 ? x[65] : x[rows * columns + i]);
        +     const float x_once = expf(x[64]);
        +     for (int i = 0; i < 64; i++) {
        +         output[i] = x[i] * x_once + (rows > 3 ? x[65] : x[rows * columns + i]);
        "#);
        // The output may be what is read.
        assert_eq!(
            site_labels(
                &Hoist,
                "    for (int i = 0; i < 64; i++) output[i] += output[64];\n"
            ),
            ""
        );
    }
}
