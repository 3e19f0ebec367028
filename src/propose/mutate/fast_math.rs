//! `fast_math`: the intrinsics with two underscores, reciprocal roots, and quick divisions.

use tree_sitter::Node;

use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

pub(super) struct FastMath;

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
    fn name(&self) -> &'static str {
        "fast_math"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body) {
                let found = fast_intrinsic(&scope, node)
                    .or_else(|| reciprocal_root(&scope, node))
                    .or_else(|| fast_division(&scope, node));
                places.extend(found.map(|(what, edits)| RewriteSite {
                    label: what,
                    line: line_of(node),
                    edits,
                }));
            }
        }
        // All calls at once, too: one fast exponential among slow ones gains little.
        for (slow, fast) in INTRINSICS {
            let what = format!("{slow} -> {fast}");
            let mut same = places.iter().filter(|place| place.label == what);
            if let Some(first) = same.next().cloned() {
                let all = same.fold(first.edits.clone(), |edits, place| {
                    edits.merged_with(&place.edits)
                });
                if all != first.edits {
                    places.push(RewriteSite {
                        label: format!("{what} everywhere"),
                        edits: all,
                        ..first
                    });
                }
            }
        }
        places
    }
}

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
        edits
            .replace(function.byte_range(), "__logf")
            .insert(argument.start_byte(), "1.0f + ");
        return Some(("log1pf -> __logf".to_owned(), edits));
    }
    let (slow, fast) = INTRINSICS.iter().find(|(slow, _)| *slow == name)?;
    edits.replace(function.byte_range(), *fast);
    Some((format!("{slow} -> {fast}"), edits))
}

/// `1.0f / sqrtf(x)` -> `rsqrtf(x)`, `y / sqrtf(x)` -> `y * rsqrtf(x)`.
fn reciprocal_root<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> LabelledRewrite {
    let (left, right) = quotient_operands(node)?;
    let function = right
        .child_by_field_name("function")
        .filter(|function| right.kind() == "call_expression" && scope.text(*function) == "sqrtf")?;
    let mut edits = SourceEdits::new();
    edits.replace(function.byte_range(), "rsqrtf");
    match scope.text(left) {
        "1.0f" | "1.f" => edits.replace(left.start_byte()..right.start_byte(), ""),
        _ => edits.replace(operator_of(node)?.byte_range(), "*"),
    };
    Some(("sqrtf -> rsqrtf".to_owned(), edits))
}

/// `x / y` -> `__fdividef(x, y)`.
fn fast_division<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> LabelledRewrite {
    let (left, right) = quotient_operands(node)?;
    // A division by a constant is a multiplication already.
    if right.kind() == "number_literal"
        || scope.subject.constant_value(right).is_some()
        || scope.type_of(node) != Some("float")
    {
        return None;
    }
    let strip = |node: Node<'t>| match node.kind() {
        "parenthesized_expression" => named_children(node)
            .next()
            .map_or("", |inner| scope.text(inner)),
        _ => scope.text(node),
    };
    let mut edits = SourceEdits::new();
    edits.replace(
        node.byte_range(),
        format!("__fdividef({}, {})", strip(left), strip(right)),
    );
    Some(("/ -> __fdividef".to_owned(), edits))
}

fn quotient_operands(node: Node<'_>) -> Option<(Node<'_>, Node<'_>)> {
    (node.kind() == "binary_expression" && operator_of(node)?.kind() == "/").then_some(())?;
    Some((
        node.child_by_field_name("left")?,
        node.child_by_field_name("right")?,
    ))
}

fn operator_of(node: Node<'_>) -> Option<Node<'_>> {
    node.child_by_field_name("operator")
}

/// `fma`: `a * b + c` as one operation, rounded once.
pub(super) struct Fma;

impl Transformation for Fma {
    fn name(&self) -> &'static str {
        "fma"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body) {
                let found = fused_sum(&scope, node).or_else(|| fused_accumulation(&scope, node));
                places.extend(found.map(|edits| RewriteSite {
                    label: collapse_white_space(subject.text(node)),
                    line: line_of(node),
                    edits,
                }));
            }
        }
        places
    }
}

/// The factors of a product of floats.
fn float_product<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<(Node<'t>, Node<'t>)> {
    (node.kind() == "binary_expression"
        && operator_of(node)?.kind() == "*"
        && scope.type_of(node) == Some("float"))
    .then_some(())?;
    Some((
        node.child_by_field_name("left")?,
        node.child_by_field_name("right")?,
    ))
}

/// `a * b + c` or `c + a * b`.
fn fused_sum<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<SourceEdits> {
    (node.kind() == "binary_expression"
        && operator_of(node)?.kind() == "+"
        && scope.type_of(node) == Some("float"))
    .then_some(())?;
    let (left, right) = (
        node.child_by_field_name("left")?,
        node.child_by_field_name("right")?,
    );
    let ((a, b), c) = match (float_product(scope, left), float_product(scope, right)) {
        (_, Some(factors)) => (factors, left),
        (Some(factors), None) => (factors, right),
        (None, None) => return None,
    };
    let mut edits = SourceEdits::new();
    edits.replace(
        node.byte_range(),
        format!(
            "fmaf({}, {}, {})",
            scope.text(a),
            scope.text(b),
            scope.text(c)
        ),
    );
    Some(edits)
}

/// `sum += a * b`.
fn fused_accumulation<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> Option<SourceEdits> {
    (node.kind() == "assignment_expression" && operator_of(node)?.kind() == "+=").then_some(())?;
    let (left, right) = (
        node.child_by_field_name("left")?,
        node.child_by_field_name("right")?,
    );
    let (a, b) = float_product(scope, right).filter(|_| scope.type_of(left) == Some("float"))?;
    let target = scope.text(left);
    let mut edits = SourceEdits::new();
    edits.replace(
        node.byte_range(),
        format!(
            "{target} = fmaf({}, {}, {target})",
            scope.text(a),
            scope.text(b)
        ),
    );
    Some(edits)
}

/// `reciprocal`: a division by what a loop does not change becomes a multiplication.
pub(super) struct Reciprocal;

impl Transformation for Reciprocal {
    fn name(&self) -> &'static str {
        "reciprocal"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for found in super::loops::CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|found| found.is_in_block())
            {
                let effects = super::effects::Effects::of(&scope, found.body);
                let mut known: Vec<&str> = Vec::new();
                for node in descendants(found.body) {
                    let Some((_, divisor)) =
                        quotient_operands(node).filter(|_| scope.type_of(node) == Some("float"))
                    else {
                        continue;
                    };
                    let text = subject.text(divisor);
                    let is_steady = scope.resolves_same_before(divisor, found.node)
                        && super::effects::is_pure(&scope, divisor)
                        && !effects.may_change(&scope, divisor);
                    if !is_steady
                        || divisor.kind() == "number_literal"
                        || known.contains(&text)
                        || scope.type_of(divisor) != Some("float")
                    {
                        continue;
                    }
                    known.push(text);
                    let name =
                        subject.fresh_name(&format!("inverse_{}", scope.suggest_name(divisor)));
                    let mut edits = SourceEdits::new();
                    let value = if matches!(
                        divisor.kind(),
                        "identifier" | "parenthesized_expression" | "call_expression"
                    ) {
                        text.to_owned()
                    } else {
                        format!("({text})")
                    };
                    edits.insert(
                        found.insertion_point(&scope),
                        format!(
                            "{}const float {name} = 1.0f / {value};\n",
                            found.indent(&scope)
                        ),
                    );
                    for other in descendants(found.body) {
                        if let Some((_, same)) = quotient_operands(other).filter(|(_, same)| {
                            subject.text(*same) == text && scope.type_of(other) == Some("float")
                        }) && let Some(operator) = operator_of(other)
                        {
                            edits
                                .replace(operator.byte_range(), "*")
                                .replace(same.byte_range(), name.clone());
                        }
                    }
                    places.push(RewriteSite {
                        label: format!("1 / {text}"),
                        line: line_of(node),
                        edits,
                    });
                }
            }
        }
        places
    }
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
