//! `reciprocal`: divisions by a loop-invariant value become multiplications.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::nodes::operands;
use super::purity::{is_pure, may_fault};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Computes the reciprocal of a divisor once, before the loop.
///
/// ```text
/// for (int i = 0; i < columns; i++) output[i] = x[i] / sum;
/// ```
/// becomes
/// ```text
/// const float inverse_sum = 1.0f / sum;
/// for (int i = 0; i < columns; i++) output[i] = x[i] * inverse_sum;
/// ```
///
/// Legal if the divisor is a pure `float` expression that the loop does not change. A divisor that reads memory must also be
/// executed in any case. Results differ by rounding.
///
/// Faster because a multiplication is one instruction and a division is many.
pub(super) struct Reciprocal;

impl Transformation for Reciprocal {
    fn caveat(&self) -> Option<&'static str> {
        Some("rounds differently")
    }

    fn name(&self) -> &'static str {
        "reciprocal"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for counting_loop in CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|counting_loop| counting_loop.is_in_block(&scope))
            {
                sites.extend(invert_divisors(&scope, &counting_loop));
            }
        }
        sites
    }
}

/// One site for each divisor that the loop does not change.
fn invert_divisors<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
) -> Vec<RewriteSite> {
    let effects = Effects::of(scope, counting_loop.body);
    let runs = counting_loop.runs_at_least_once(scope);
    let is_float = |node: Node<'t>| scope.type_of(node) == Some("float");
    let mut known: Vec<&str> = Vec::new();
    let mut sites = Vec::new();
    for node in descendants(counting_loop.body) {
        let Some((_, divisor)) = operands(node, "/").filter(|_| is_float(node)) else {
            continue;
        };
        let text = scope.text(divisor);
        let is_executed = runs && scope.is_unconditional(divisor, counting_loop.body);
        let is_steady = (is_executed || !may_fault(scope, divisor))
            && scope.resolves_same_before(divisor, counting_loop.node)
            && is_pure(scope, divisor)
            && !effects.may_change(scope, divisor);
        if !is_steady
            || divisor.kind() == "number_literal"
            || known.contains(&text)
            || !is_float(divisor)
        {
            continue;
        }
        known.push(text);
        sites.push(RewriteSite {
            label: format!("1 / {text}"),
            line: line_of(node),
            edits: invert(scope, counting_loop, divisor),
        });
    }
    sites
}

/// Edits that replace every division of the loop by an expression with the text of `divisor`.
fn invert<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
    divisor: Node<'t>,
) -> SourceEdits {
    let text = scope.text(divisor);
    let name = scope
        .subject
        .fresh_name(&format!("inverse_{}", scope.suggest_name(divisor)));
    let binds_tightly = matches!(
        divisor.kind(),
        "identifier" | "parenthesized_expression" | "call_expression"
    );
    let value = if binds_tightly {
        text.to_owned()
    } else {
        format!("({text})")
    };
    let mut edits = SourceEdits::new();
    let indent = counting_loop.indent(scope);
    let declared = format!("{indent}const float {name} = 1.0f / {value};\n");
    counting_loop.insert_before(scope, &declared, &mut edits);
    for other in descendants(counting_loop.body) {
        if let Some((_, same)) = operands(other, "/")
            .filter(|(_, same)| scope.text(*same) == text && scope.type_of(other) == Some("float"))
            && let Some(operator) = other.child_by_field_name("operator")
        {
            edits
                .replace(operator.byte_range(), "*")
                .replace(same.byte_range(), name.clone());
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn loop_invariant_divisor_is_inverted_once() {
        let body = "    float sum = x[0];\n    for (int i = 0; i < columns; i++) {\n        output[i] = (x[i] - 1.0f) / sum + x[i] / (float)i;\n    }\n";
        insta::assert_snapshot!(site_labels(&Reciprocal, body), @r#"1 / sum (line 11)"#);
        insta::assert_snapshot!(changes(&Reciprocal, body, "1 / sum"), @r#"
        -     for (int i = 0; i < columns; i++) {
        -         output[i] = (x[i] - 1.0f) / sum + x[i] / (float)i;
        +     const float inverse_sum = 1.0f / sum;
        +     for (int i = 0; i < columns; i++) {
        +         output[i] = (x[i] - 1.0f) * inverse_sum + x[i] / (float)i;
        "#);
    }
}
