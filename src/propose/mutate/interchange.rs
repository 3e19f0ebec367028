//! `interchange`: the two loops of a nest change places.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::memory::memory_reads;
use super::nodes::{is_field, operator_of};
use super::purity::may_fault;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::line_of;
use crate::propose::code_layout::head_range;
use crate::propose::source_edits::SourceEdits;

/// Exchanges an outer loop with the inner loop that is its only statement.
///
/// ```text
/// for (int i = 0; i < 64; i++)
///     for (int part = 0; part < 4; ++part) sums[part] += x[4 * i + part];
/// ```
/// becomes
/// ```text
/// for (int part = 0; part < 4; ++part)
///     for (int i = 0; i < 64; i++) sums[part] += x[4 * i + part];
/// ```
///
/// Legal if the range of the inner loop does not depend on the outer variable, the body is never left early, variables from
/// outside are only added to, and the body reads no memory that it writes. Sums differ by rounding. Elements are assumed to
/// be written once each, which the judge checks.
///
/// Faster when the new inner loop accesses memory in order, or keeps a value in a register.
pub(super) struct Interchange;

impl Transformation for Interchange {
    fn caveat(&self) -> Option<&'static str> {
        Some("sums in another order")
    }

    fn name(&self) -> &'static str {
        "interchange"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for outer in CountingLoop::all_in(&scope) {
                sites.extend(interchange_loops(&scope, &outer));
            }
        }
        sites
    }
}

fn interchange_loops<'t, 'a>(
    scope: &Scope<'t, 'a>,
    outer: &CountingLoop<'t, 'a>,
) -> Option<RewriteSite> {
    let statements: Vec<_> = outer
        .statements()
        .into_iter()
        .filter(|node| node.kind() != "preproc_call")
        .collect();
    let [only] = statements[..] else { return None };
    let inner = CountingLoop::of(scope, only)?;
    if !can_interchange(scope, outer, &inner) {
        return None;
    }
    let source = scope.subject.source();
    let head =
        |counting_loop: &CountingLoop<'t, 'a>| head_range(counting_loop.node, counting_loop.body);
    let (outer_head, inner_head) = (head(outer)?, head(&inner)?);
    let mut edits = SourceEdits::new();
    edits
        .replace(outer_head.clone(), &source[inner_head.clone()])
        .replace(inner_head, &source[outer_head]);
    // Each pragma moves with its loop.
    for (from, to) in [(outer, &inner), (&inner, outer)] {
        if let Some(pragma) = from.pragma {
            let line = format!("{}\n", scope.text(pragma).trim_end());
            edits.replace(pragma.byte_range(), "").insert_lines(
                source,
                to.node.start_byte(),
                &line,
            );
        }
    }
    Some(RewriteSite {
        label: format!("{} and {}", outer.variable, inner.variable),
        line: line_of(outer.node),
        edits,
    })
}

fn can_interchange<'t, 'a>(
    scope: &Scope<'t, 'a>,
    outer: &CountingLoop<'t, 'a>,
    inner: &CountingLoop<'t, 'a>,
) -> bool {
    let has_fixed_range = [Some(inner.start), Some(inner.bound), inner.step]
        .into_iter()
        .flatten()
        .all(|node| scope.uses(node, outer.variable).is_empty() && !may_fault(scope, node));
    let effects = Effects::of(scope, inner.body);
    // Sums can be made in any order.
    let is_local_or_sum = |name: &&str| {
        scope.lookup(name, outer.node.start_byte()).is_none()
            || scope
                .uses(inner.body, name)
                .into_iter()
                .all(is_target_of_add)
    };
    let read = memory_reads(scope, inner.body);
    let reads_what_it_writes = effects
        .stored
        .iter()
        .any(|stored| read.iter().any(|read| scope.may_alias(*stored, *read)));
    has_fixed_range
        && !effects.is_opaque
        && !effects.jumps
        && !reads_what_it_writes
        && effects.assigned.iter().all(is_local_or_sum)
}

/// Whether a variable, or the element of the array that it names, is the left side of `+=`.
fn is_target_of_add(used: Node<'_>) -> bool {
    let mut at = used;
    while let Some(parent) = at.parent() {
        if parent.kind() == "subscript_expression" && is_field(parent, "argument", at) {
            at = parent;
            continue;
        }
        return parent.kind() == "assignment_expression"
            && is_field(parent, "left", at)
            && operator_of(parent) == "+=";
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn nested_loops_are_interchanged() {
        let body = "    float sums[4] = {};\n    for (int i = 0; i < 64; i++) {\n#pragma unroll\n        for (int part = 0; part < 4; ++part) {\n            sums[part] += x[4 * i + part];\n        }\n    }\n";
        insta::assert_snapshot!(changes(&Interchange, body, "i and part"), @r#"
        -     for (int i = 0; i < 64; i++) {
        - #pragma unroll
        -         for (int part = 0; part < 4; ++part) {
        + #pragma unroll
        +     for (int part = 0; part < 4; ++part) {
        +         for (int i = 0; i < 64; i++) {
        "#);
        assert_eq!(
            site_labels(
                &Interchange,
                "    for (int i = 0; i < 64; i++) {\n        for (int k = 0; k < i; k++) output[i] = x[k];\n    }\n"
            ),
            ""
        );
    }
}
