//! `fast_math`: fast intrinsics, reciprocal square roots and fast divisions.

use tree_sitter::Node;

use super::nodes::{operands, operator_of};
use super::purity::must_be_constant;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Replaces a mathematical function or a division by a faster, less precise one.
///
/// ```text
/// expf(x)           ->  __expf(x)
/// log1pf(x)         ->  __logf(1.0f + x)
/// 1.0f / sqrtf(x)   ->  rsqrtf(x)
/// y / sqrtf(x)      ->  y * rsqrtf(x)
/// x / y             ->  __fdividef(x, y)
/// ```
///
/// Legal wherever the task's tolerance allows the lower precision, which the judge checks. A division by a constant is left
/// alone: the compiler already turns it into a multiplication.
///
/// Faster because the intrinsics use the special function unit instead of a sequence of instructions.
pub(super) struct FastMath;

/// Functions and their intrinsics.
const INTRINSICS: [(&str, &str); 9] = [
    ("expf", "__expf"),
    ("exp10f", "__exp10f"),
    ("logf", "__logf"),
    ("log2f", "__log2f"),
    ("log10f", "__log10f"),
    ("powf", "__powf"),
    ("sinf", "__sinf"),
    ("cosf", "__cosf"),
    ("tanf", "__tanf"),
];

impl Transformation for FastMath {
    fn caveat(&self) -> Option<&'static str> {
        Some("less precise")
    }

    fn name(&self) -> &'static str {
        "fast_math"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body).filter(|node| !must_be_constant(&scope, *node)) {
                let found = fast_intrinsic(&scope, node)
                    .or_else(|| reciprocal_root(&scope, node))
                    .or_else(|| fast_division(&scope, node));
                sites.extend(found.map(|(label, edits)| RewriteSite {
                    label,
                    line: line_of(node),
                    edits,
                }));
            }
        }
        // Also all calls of a function at once: one fast call among slow ones gains little.
        for (slow, fast) in INTRINSICS {
            let label = format!("{slow} -> {fast}");
            let mut same = sites.iter().filter(|site| site.label == label);
            if let Some(first) = same.next().cloned() {
                let all = same.fold(first.edits.clone(), |edits, site| {
                    edits.merged_with(&site.edits)
                });
                if all != first.edits {
                    sites.push(RewriteSite {
                        label: format!("{label} everywhere"),
                        edits: all,
                        ..first
                    });
                }
            }
        }
        sites
    }
}

/// A rewrite with its label.
type LabelledRewrite = Option<(String, SourceEdits)>;

/// `expf(x)` -> `__expf(x)`, `log1pf(x)` -> `__logf(1.0f + x)`.
fn fast_intrinsic<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> LabelledRewrite {
    let function = node
        .child_by_field_name("function")
        .filter(|_| node.kind() == "call_expression")?;
    let name = scope.text(function);
    let mut edits = SourceEdits::new();
    if name == "log1pf" {
        let argument = named_children(node.child_by_field_name("arguments")?).next()?;
        edits.replace(function.byte_range(), "__logf");
        let binds_tightly = match argument.kind() {
            "binary_expression" => matches!(operator_of(argument), "*" | "/"),
            kind => matches!(
                kind,
                "identifier"
                    | "number_literal"
                    | "call_expression"
                    | "subscript_expression"
                    | "field_expression"
                    | "parenthesized_expression"
            ),
        };
        if binds_tightly {
            edits.insert(argument.start_byte(), "1.0f + ");
        } else {
            edits
                .insert(argument.start_byte(), "1.0f + (")
                .insert(argument.end_byte(), ")");
        }
        return Some(("log1pf -> __logf".to_owned(), edits));
    }
    let (slow, fast) = INTRINSICS.iter().find(|(slow, _)| *slow == name)?;
    edits.replace(function.byte_range(), *fast);
    Some((format!("{slow} -> {fast}"), edits))
}

/// `1.0f / sqrtf(x)` -> `rsqrtf(x)`, `y / sqrtf(x)` -> `y * rsqrtf(x)`.
fn reciprocal_root<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> LabelledRewrite {
    let (left, right) = operands(node, "/")?;
    let function = right
        .child_by_field_name("function")
        .filter(|function| right.kind() == "call_expression" && scope.text(*function) == "sqrtf")?;
    let mut edits = SourceEdits::new();
    edits.replace(function.byte_range(), "rsqrtf");
    match scope.text(left) {
        "1.0f" | "1.f" => edits.replace(left.start_byte()..right.start_byte(), ""),
        _ => edits.replace(node.child_by_field_name("operator")?.byte_range(), "*"),
    };
    Some(("sqrtf -> rsqrtf".to_owned(), edits))
}

/// `x / y` -> `__fdividef(x, y)`.
fn fast_division<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> LabelledRewrite {
    let (left, right) = operands(node, "/")?;
    if right.kind() == "number_literal"
        || scope.subject.constant_value(right).is_some()
        || scope.type_of(node) != Some("float")
    {
        return None;
    }
    let without_parentheses = |node: Node<'t>| match node.kind() {
        "parenthesized_expression" => named_children(node)
            .next()
            .filter(|inner| inner.kind() != "comma_expression")
            .map_or(scope.text(node), |inner| scope.text(inner)),
        _ => scope.text(node),
    };
    let mut edits = SourceEdits::new();
    edits.replace(
        node.byte_range(),
        format!(
            "__fdividef({}, {})",
            without_parentheses(left),
            without_parentheses(right)
        ),
    );
    Some(("/ -> __fdividef".to_owned(), edits))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    const BODY: &str = "    float sum = expf(x[0]) + logf(x[1] / 2.0f) + log1pf(expf(x[2]));\n    output[0] = sum / sqrtf(x[3] + 1.0f) + 1.0f / sqrtf(x[4]) + (x[5] + 1.0f) / sum;\n";

    #[test]
    fn math_calls_become_intrinsics() {
        insta::assert_snapshot!(site_labels(&FastMath, BODY), @r#"
        expf -> __expf (line 9)
        logf -> __logf (line 9)
        log1pf -> __logf (line 9)
        expf -> __expf (line 9)
        sqrtf -> rsqrtf (line 10)
        sqrtf -> rsqrtf (line 10)
        / -> __fdividef (line 10)
        expf -> __expf everywhere (line 9)
        "#);
        insta::assert_snapshot!(changes(&FastMath, BODY, "expf -> __expf everywhere"), @r#"
        -     float sum = expf(x[0]) + logf(x[1] / 2.0f) + log1pf(expf(x[2]));
        +     float sum = __expf(x[0]) + logf(x[1] / 2.0f) + log1pf(__expf(x[2]));
        "#);
        insta::assert_snapshot!(changes(&FastMath, BODY, "log1pf"), @r#"
        -     float sum = expf(x[0]) + logf(x[1] / 2.0f) + log1pf(expf(x[2]));
        +     float sum = expf(x[0]) + logf(x[1] / 2.0f) + __logf(1.0f + expf(x[2]));
        "#);
        insta::assert_snapshot!(changes(&FastMath, BODY, "sqrtf"), @r#"
        -     output[0] = sum / sqrtf(x[3] + 1.0f) + 1.0f / sqrtf(x[4]) + (x[5] + 1.0f) / sum;
        +     output[0] = sum * rsqrtf(x[3] + 1.0f) + 1.0f / sqrtf(x[4]) + (x[5] + 1.0f) / sum;
        "#);
        insta::assert_snapshot!(changes(&FastMath, BODY, "/ -> __fdividef"), @r#"
        -     output[0] = sum / sqrtf(x[3] + 1.0f) + 1.0f / sqrtf(x[4]) + (x[5] + 1.0f) / sum;
        +     output[0] = sum / sqrtf(x[3] + 1.0f) + 1.0f / sqrtf(x[4]) + __fdividef(x[5] + 1.0f, sum);
        "#);
    }
}
