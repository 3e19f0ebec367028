//! `cache_in_register`: a value that a block computes several times is computed once.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::{insert_before_statement, is_block_statement};
use super::purity::may_fault;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::values::{is_plain_assignment, is_reusable_value};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, enclosing, line_of, named_children};
use crate::propose::code_layout::indentation;
use crate::propose::source_edits::SourceEdits;

/// Keeps a repeated load or call in a variable.
///
/// ```text
/// output[0] = sum + x[3];
/// output[1] = x[3];
/// ```
/// becomes
/// ```text
/// const float x_value = x[3];
/// output[0] = sum + x_value;
/// output[1] = x_value;
/// ```
///
/// Legal for a pure expression with the same text if nothing between the first and the last use may change it. An expression
/// that may fault, such as a load, must also be executed in any case.
///
/// Faster when the compiler cannot prove that the value stays the same, and so loads or computes it again.
pub(super) struct CacheInRegister;

impl Transformation for CacheInRegister {
    fn name(&self) -> &'static str {
        "cache_in_register"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for block in
                descendants(function.body).filter(|node| node.kind() == "compound_statement")
            {
                sites.extend(cache_repeated_values(&scope, block));
            }
        }
        sites
    }
}

/// One site for each value that a block computes more than once.
fn cache_repeated_values<'t>(scope: &Scope<'t, '_>, block: Node<'t>) -> Vec<RewriteSite> {
    let mut groups: BTreeMap<String, Vec<Node<'t>>> = BTreeMap::new();
    for node in descendants(block) {
        if is_reusable_value(scope, node) {
            groups
                .entry(collapse_white_space(scope.text(node)))
                .or_default()
                .push(node);
        }
    }
    // The longest expressions first, so that their parts are not offered separately.
    let mut groups: Vec<_> = groups
        .into_iter()
        .filter(|(_, members)| members.len() > 1)
        .collect();
    groups.sort_by_key(|(text, members)| (std::cmp::Reverse(text.len()), members[0].start_byte()));
    let mut taken: Vec<Node<'t>> = Vec::new();
    let mut sites = Vec::new();
    for (_, members) in groups {
        let is_part_of_taken = members
            .iter()
            .all(|member| taken.iter().any(|other| contains(*other, *member)));
        if is_part_of_taken {
            continue;
        }
        if let Some(site) = compute_once(scope, block, &members) {
            taken.extend(&members);
            sites.push(site);
        }
    }
    sites.sort_by_key(|site| site.line);
    sites
}

/// Computes the value of `members`, which have the same text, before the first statement that uses it.
fn compute_once<'t>(
    scope: &Scope<'t, '_>,
    block: Node<'t>,
    members: &[Node<'t>],
) -> Option<RewriteSite> {
    let statements: Vec<_> = named_children(block).collect();
    let position = |member: &Node<'t>| {
        statements
            .iter()
            .position(|statement| contains(*statement, *member))
    };
    let first = members.iter().filter_map(position).min()?;
    let last = members.iter().filter_map(position).max()?;
    let are_in_inner_blocks = members.iter().all(|member| {
        enclosing(*member, &["compound_statement"]).is_none_or(|around| around.id() != block.id())
    });
    // The inner block offers its own site.
    if first == last && are_in_inner_blocks {
        return None;
    }
    let (expression, front) = (members[0], statements[first]);
    if !is_block_statement(scope, front) {
        return None;
    }
    let type_name = scope.type_of(expression)?;
    let is_executed = members
        .iter()
        .any(|member| scope.is_unconditional(*member, block));
    let is_known = members
        .iter()
        .all(|member| scope.resolves_same_before(*member, front));
    if (may_fault(scope, expression) && !is_executed) || !is_known {
        return None;
    }
    let is_steady = (first..=last).all(|index| {
        let statement = statements[index];
        let effects = Effects::of(scope, statement);
        // The last statement may overwrite what it has just read.
        let reads_first = index == last && is_plain_assignment(statement) && !effects.is_opaque;
        reads_first || !effects.may_change(scope, expression)
    });
    if !is_steady {
        return None;
    }
    let name = scope
        .subject
        .fresh_name(&format!("{}_value", scope.suggest_name(expression)));
    let mut edits = SourceEdits::new();
    let indent = indentation(scope.subject.source(), front.start_byte());
    let declared = format!(
        "{indent}const {type_name} {name} = {};\n",
        scope.text(expression)
    );
    insert_before_statement(scope, front, &declared, &mut edits);
    for member in members {
        edits.replace(member.byte_range(), name.clone());
    }
    Some(RewriteSite {
        label: collapse_white_space(scope.text(expression)),
        line: line_of(expression),
        edits,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn repeated_value_is_computed_once() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < columns; i++) {\n        sum += expf(x[i]) * expf(x[i]) + x[2 * i];\n    }\n    output[0] = sum + x[3];\n    output[1] = x[3];\n";
        insta::assert_snapshot!(site_labels(&CacheInRegister, body), @r#"
        x[3] (line 13)
        expf(x[i]) (line 11)
        "#);
        insta::assert_snapshot!(changes(&CacheInRegister, body, "expf(x[i])"), @r#"
        -         sum += expf(x[i]) * expf(x[i]) + x[2 * i];
        +         const float x_value = expf(x[i]);
        +         sum += x_value * x_value + x[2 * i];
        "#);
        insta::assert_snapshot!(changes(&CacheInRegister, body, "x[3]"), @r#"
        -     output[0] = sum + x[3];
        -     output[1] = x[3];
        +     const float x_value = x[3];
        +     output[0] = sum + x_value;
        +     output[1] = x_value;
        "#);
    }

    #[test]
    fn values_that_may_change_are_not_cached() {
        for body in [
            "    float a = output[0];\n    output[1] = 2.0f;\n    float b = output[0];\n",
            "    int i = 0;\n    float a = x[i];\n    i++;\n    float b = x[i];\n",
            "    if (rows > 1) output[0] = x[1];\n    if (rows > 2) output[1] = x[1];\n",
            "    float a = output[0];\n    __syncthreads();\n    float b = output[0];\n",
        ] {
            assert_eq!(site_labels(&CacheInRegister, body), "", "{body}");
        }
    }
}
