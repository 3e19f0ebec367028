//! `fma`: a multiplication and an addition as one operation.

use tree_sitter::Node;

use super::nodes::{operands, operator_of};
use super::purity::{is_pure, must_be_constant};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Replaces a `float` multiplication and addition by `fmaf`.
///
/// ```text
/// a * b + c       ->  fmaf(a, b, c)
/// sum += a * b    ->  sum = fmaf(a, b, sum)
/// ```
///
/// Legal for operands of type `float`. The result is rounded once instead of twice.
///
/// Faster where the compiler does not contract the two operations by itself, because one instruction does both.
pub(super) struct Fma;

impl Transformation for Fma {
    fn caveat(&self) -> Option<&'static str> {
        Some("rounds once instead of twice")
    }

    fn name(&self) -> &'static str {
        "fma"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body).filter(|node| !must_be_constant(&scope, *node)) {
                let text = fused_sum(&scope, node).or_else(|| fused_accumulation(&scope, node));
                sites.extend(text.map(|text| {
                    let mut edits = SourceEdits::new();
                    edits.replace(node.byte_range(), text);
                    RewriteSite {
                        label: collapse_white_space(subject.text(node)),
                        line: line_of(node),
                        edits,
                    }
                }));
            }
        }
        sites
    }
}

/// The factors of a product of type `float`.
fn float_product<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<(Node<'t>, Node<'t>)> {
    operands(node, "*").filter(|_| scope.type_of(node) == Some("float"))
}

/// The replacement of `a * b + c` or `c + a * b`.
fn fused_sum<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<String> {
    let (left, right) = operands(node, "+").filter(|_| scope.type_of(node) == Some("float"))?;
    let ((a, b), c) = match (float_product(scope, left), float_product(scope, right)) {
        (_, Some(factors)) => (factors, left),
        (Some(factors), None) => (factors, right),
        (None, None) => return None,
    };
    let text = |node| scope.text(node);
    Some(format!("fmaf({}, {}, {})", text(a), text(b), text(c)))
}

/// The replacement of `sum += a * b`.
fn fused_accumulation<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<String> {
    if node.kind() != "assignment_expression" || operator_of(node) != "+=" {
        return None;
    }
    let left = node.child_by_field_name("left")?;
    let right = node.child_by_field_name("right")?;
    let (a, b) = float_product(scope, right)
        .filter(|_| scope.type_of(left) == Some("float") && is_pure(scope, left))?;
    let (target, a, b) = (scope.text(left), scope.text(a), scope.text(b));
    Some(format!("{target} = fmaf({a}, {b}, {target})"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn products_and_sums_become_fmaf() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) sum += x[i] * x[i];\n    output[0] = 2.0f * sum + x[1] * 3.0f;\n";
        insta::assert_snapshot!(site_labels(&Fma, body), @r#"
        sum += x[i] * x[i] (line 10)
        2.0f * sum + x[1] * 3.0f (line 11)
        "#);
        insta::assert_snapshot!(changes(&Fma, body, "sum += "), @r#"
        -     for (int i = 0; i < 64; i++) sum += x[i] * x[i];
        +     for (int i = 0; i < 64; i++) sum = fmaf(x[i], x[i], sum);
        "#);
        insta::assert_snapshot!(changes(&Fma, body, "2.0f"), @r#"
        -     output[0] = 2.0f * sum + x[1] * 3.0f;
        +     output[0] = fmaf(x[1], 3.0f, 2.0f * sum);
        "#);
    }
}
