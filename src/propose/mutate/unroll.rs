//! `unroll`: adds, changes or removes the `#pragma unroll` before a loop.

use tree_sitter::Node;

use super::loops::{CountingLoop, has_other_pragma, unroll_pragma_before};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Changes how far the compiler unrolls a loop.
///
/// ```text
/// for (int i = 0; i < columns; ++i) output[i] = x[i];
/// ```
/// becomes
/// ```text
/// #pragma unroll 4
/// for (int i = 0; i < columns; ++i) output[i] = x[i];
/// ```
///
/// Always legal: a pragma does not change what the loop computes. Offered for every `for` loop of up to `MAX_LOOP_NODES` nodes.
///
/// More unrolling overlaps the loads of several iterations and saves branches. Less unrolling saves registers and
/// instruction cache.
pub(super) struct Unroll;

/// Maximum size of a loop to unroll further, in syntax nodes.
const MAX_LOOP_NODES: usize = 600;

impl Transformation for Unroll {
    fn name(&self) -> &'static str {
        "unroll"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body).filter(|node| {
                node.kind() == "for_statement"
                    && node.descendant_count() <= MAX_LOOP_NODES
                    && can_have_pragma(&scope, *node)
            }) {
                let pragma = unroll_pragma_before(&scope, node);
                let now = pragma.map(|pragma| subject.text(pragma).trim());
                sites.extend(
                    wanted_pragmas(&scope, node, now.is_some())
                        .into_iter()
                        .filter(|wanted| wanted.as_deref() != now)
                        .map(|wanted| set_pragma(&scope, node, pragma, wanted.as_deref())),
                );
            }
        }
        sites
    }
}

/// Whether a pragma can be put before a loop: it is a statement of a block, or the whole body of another loop, and has no other
/// pragma.
fn can_have_pragma<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let is_own_statement = node.parent().is_some_and(|parent| {
        matches!(
            parent.kind(),
            "compound_statement" | "for_statement" | "while_statement"
        )
    });
    is_own_statement && !has_other_pragma(scope, node)
}

/// The pragmas to try; `None` removes the pragma.
fn wanted_pragmas<'t>(
    scope: &Scope<'t, '_>,
    node: Node<'t>,
    has_pragma: bool,
) -> Vec<Option<String>> {
    let trips =
        CountingLoop::of(scope, node).and_then(|counting_loop| counting_loop.trip_count(scope));
    let mut wanted: Vec<Option<String>> = [2, 4, 8]
        .iter()
        .filter(|count| trips.is_none_or(|trips| trips > **count))
        .map(|count| Some(format!("#pragma unroll {count}")))
        .collect();
    // Full unrolling only for short loops.
    if trips.is_some_and(|trips| (2..=64).contains(&trips)) {
        wanted.push(Some("#pragma unroll".to_owned()));
    }
    if has_pragma {
        wanted.push(Some("#pragma unroll 1".to_owned()));
        wanted.push(None);
    }
    wanted
}

/// Replaces the loop's pragma by another one, or by none.
fn set_pragma<'t>(
    scope: &Scope<'t, '_>,
    node: Node<'t>,
    pragma: Option<Node<'t>>,
    wanted: Option<&str>,
) -> RewriteSite {
    let text = wanted.map_or(String::new(), |wanted| format!("{wanted}\n"));
    let mut edits = SourceEdits::new();
    match pragma {
        Some(pragma) => edits.replace(pragma.byte_range(), text),
        None => edits.insert_lines(scope.subject.source(), node.start_byte(), &text),
    };
    let factor = wanted.map(|wanted| wanted.trim_start_matches("#pragma unroll").trim());
    let label = match factor {
        None => "no pragma",
        Some("") => "all",
        Some(factor) => factor,
    };
    RewriteSite {
        label: label.to_owned(),
        line: line_of(node),
        edits,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    const BODY: &str = "    for (int i = 0; i < columns; ++i) output[i] = x[i];\n#pragma unroll 4\n    for (int i = 0; i < 16; ++i) output[i] += 1.0f;\n";

    #[test]
    fn unroll_pragmas_are_added_changed_and_removed() {
        insta::assert_snapshot!(site_labels(&Unroll, BODY), @r#"
        2 (line 9)
        4 (line 9)
        8 (line 9)
        2 (line 11)
        8 (line 11)
        all (line 11)
        1 (line 11)
        no pragma (line 11)
        "#);
        insta::assert_snapshot!(changes(&Unroll, BODY, "2 (line 9)"), @r#"+ #pragma unroll 2"#);
        insta::assert_snapshot!(changes(&Unroll, BODY, "no pragma"), @r#"- #pragma unroll 4"#);
    }
}
