//! What is computed or loaded once instead of several times: `cache_in_register`, `forward_store` and `hoist`.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::{Effects, is_pure};
use super::loops::{CountingLoop, unroll_pragma_before};
use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, enclosing, line_of, named_children};
use crate::propose::source_edits::{SourceEdits, indentation, line_start};

pub(super) struct CacheInRegister;
pub(super) struct ForwardStore;
pub(super) struct Hoist;

impl Transformation for CacheInRegister {
    fn name(&self) -> &'static str {
        "cache_in_register"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for block in
                descendants(function.body).filter(|node| node.kind() == "compound_statement")
            {
                places.extend(cache_repeated_values(&scope, block));
            }
        }
        places
    }
}

/// The values that a block computes more than once, each with what computes it once.
fn cache_repeated_values<'t>(scope: &Scope<'t, '_>, block: Node<'t>) -> Vec<RewriteSite> {
    let mut groups: BTreeMap<String, Vec<Node<'t>>> = BTreeMap::new();
    for node in descendants(block) {
        if is_reusable_value(scope, node) {
            groups
                .entry(normalized_text(scope, node))
                .or_default()
                .push(node);
        }
    }
    // The largest expressions first, so that what lies within them is not offered apart.
    let mut groups: Vec<_> = groups
        .into_iter()
        .filter(|(_, members)| members.len() > 1)
        .collect();
    groups.sort_by_key(|(text, members)| (std::cmp::Reverse(text.len()), members[0].start_byte()));
    let mut taken: Vec<Node<'t>> = Vec::new();
    let mut places = Vec::new();
    for (_, members) in groups {
        let is_within = members
            .iter()
            .all(|member| taken.iter().any(|other| contains(*other, *member)));
        if is_within {
            continue;
        }
        if let Some(place) = compute_once(scope, block, &members) {
            taken.extend(&members);
            places.push(place);
        }
    }
    places.sort_by_key(|place| place.line);
    places
}

fn compute_once<'t>(
    scope: &Scope<'t, '_>,
    block: Node<'t>,
    members: &[Node<'t>],
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let statements: Vec<_> = named_children(block).collect();
    let holder = |member: &Node<'t>| {
        statements
            .iter()
            .position(|statement| contains(*statement, *member))
    };
    let first = members.iter().filter_map(holder).min()?;
    let last = members.iter().filter_map(holder).max()?;
    // A block further in is looked at by itself.
    if first == last
        && members.iter().all(|member| {
            enclosing(*member, &["compound_statement"])
                .is_none_or(|around| around.id() != block.id())
        })
    {
        return None;
    }
    let (expression, front) = (members[0], statements[first]);
    let kind = scope.type_of(expression)?;
    let reads = descendants(expression)
        .any(|node| matches!(node.kind(), "subscript_expression" | "pointer_expression"));
    let is_executed = members
        .iter()
        .any(|member| scope.is_unconditional(*member, block));
    if (reads && !is_executed)
        || !members
            .iter()
            .all(|member| scope.resolves_same_before(*member, front))
    {
        return None;
    }
    let is_steady = (first..=last).all(|index| {
        let statement = statements[index];
        let changes = Effects::of(scope, statement).may_change(scope, expression);
        // The last one may overwrite what it has read.
        !changes
            || (index == last
                && is_plain_assignment(statement)
                && !Effects::of(scope, statement).is_opaque)
    });
    if !is_steady {
        return None;
    }
    let name = subject.fresh_name(&format!("{}_value", scope.suggest_name(expression)));
    let mut edits = SourceEdits::new();
    edits.insert(
        insertion_point_before(scope, front),
        format!(
            "{}const {kind} {name} = {};\n",
            indentation(subject.source(), front.start_byte()),
            subject.text(expression)
        ),
    );
    for member in members {
        edits.replace(member.byte_range(), name.clone());
    }
    Some(RewriteSite {
        label: normalized_text(scope, expression),
        line: line_of(expression),
        edits,
    })
}

/// A pure expression worth a name: a load, or a call.
fn is_reusable_value<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let parent_is = |kind: &str, field: &str| {
        node.parent().is_some_and(|parent| {
            parent.kind() == kind
                && parent
                    .child_by_field_name(field)
                    .is_some_and(|child| child.id() == node.id())
        })
    };
    match node.kind() {
        "subscript_expression" => {
            let is_memory = node
                .child_by_field_name("argument")
                .is_some_and(|argument| argument.kind() == "identifier")
                && scope.memory_root(node).is_some_and(|root| {
                    scope
                        .lookup(root, node.start_byte())
                        .is_some_and(|declared| declared.pointer_depth > 0 || declared.is_shared)
                });
            let is_read = !parent_is("assignment_expression", "left")
                && !parent_is("update_expression", "argument")
                && !parent_is("pointer_expression", "argument")
                && !parent_is("field_expression", "argument")
                && !parent_is("subscript_expression", "argument");
            is_memory && is_read && is_pure(scope, node)
        }
        "call_expression" => {
            let is_function = node
                .child_by_field_name("function")
                .is_some_and(|function| function.kind() == "identifier");
            is_function && is_pure(scope, node)
        }
        _ => false,
    }
}

fn normalized_text<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> String {
    collapse_white_space(scope.text(node))
}

/// `x = …;`, `x += …;` with no other effect.
fn is_plain_assignment(statement: Node<'_>) -> bool {
    let mut changes = descendants(statement)
        .filter(|node| matches!(node.kind(), "assignment_expression" | "update_expression"));
    let first = changes.next();
    statement.kind() == "expression_statement"
        && changes.next().is_none()
        && first.is_some_and(|first| {
            first.kind() == "assignment_expression"
                && first
                    .parent()
                    .is_some_and(|parent| parent.id() == statement.id())
        })
}

/// Where a statement with its pragma begins: the begin of that line.
fn insertion_point_before<'t>(scope: &Scope<'t, '_>, statement: Node<'t>) -> usize {
    let start = unroll_pragma_before(scope, statement)
        .unwrap_or(statement)
        .start_byte();
    line_start(scope.subject.source(), start)
}

impl Transformation for ForwardStore {
    fn name(&self) -> &'static str {
        "forward_store"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for statement in descendants(function.body).filter(|node| is_plain_assignment(*node)) {
                places.extend(forward_stored_value(&scope, statement));
            }
        }
        places
    }
}

/// `p[i] = value;` followed by reads of `p[i]`: they take the value instead.
fn forward_stored_value<'t>(scope: &Scope<'t, '_>, statement: Node<'t>) -> Option<RewriteSite> {
    let subject = scope.subject;
    let block = statement
        .parent()
        .filter(|parent| parent.kind() == "compound_statement")?;
    let assignment = named_children(statement).next()?;
    let (target, value) = (
        assignment.child_by_field_name("left")?,
        assignment.child_by_field_name("right")?,
    );
    let argument = target.child_by_field_name("argument").filter(|argument| {
        target.kind() == "subscript_expression" && argument.kind() == "identifier"
    })?;
    scope
        .lookup_node(argument)
        .filter(|declared| declared.pointer_depth > 0 || declared.is_shared)?;
    let kind = scope.type_of(target)?;
    let operator = assignment.child_by_field_name("operator")?.kind();
    let text = normalized_text(scope, target);
    let mut reads = Vec::new();
    for later in named_children(block)
        .skip_while(|other| other.id() != statement.id())
        .skip(1)
    {
        let found: Vec<_> = descendants(later)
            .filter(|node| {
                is_reusable_value(scope, *node)
                    && normalized_text(scope, *node) == text
                    && scope.resolves_same_before(*node, statement)
            })
            .collect();
        let effects = Effects::of(scope, later);
        let changes = effects.may_change(scope, target);
        // A plain assignment reads before it changes.
        let reads_first = is_plain_assignment(later) && !effects.is_opaque;
        if changes && !reads_first {
            break;
        }
        reads.extend(found);
        if changes {
            break;
        }
    }
    if reads.is_empty() {
        return None;
    }
    let name = subject.fresh_name(&format!("{}_value", scope.suggest_name(target)));
    let value = match operator.trim_end_matches('=') {
        "" => subject.text(value).to_owned(),
        operator if matches!(operator, "+" | "-" | "*" | "/") => {
            let is_simple = matches!(
                value.kind(),
                "identifier"
                    | "number_literal"
                    | "call_expression"
                    | "parenthesized_expression"
                    | "subscript_expression"
            );
            let is_product = value.kind() == "binary_expression" && operator == "+";
            let value = subject.text(value);
            let value = if is_simple || is_product {
                value.to_owned()
            } else {
                format!("({value})")
            };
            format!("{} {operator} {value}", subject.text(target))
        }
        _ => return None,
    };
    let indent = indentation(subject.source(), statement.start_byte());
    let mut edits = SourceEdits::new();
    edits.replace(
        statement.byte_range(),
        format!(
            "const {kind} {name} = {value};\n{indent}{} = {name};",
            subject.text(target)
        ),
    );
    for read in &reads {
        edits.replace(read.byte_range(), name.clone());
    }
    Some(RewriteSite {
        label: text,
        line: line_of(statement),
        edits,
    })
}

impl Transformation for Hoist {
    fn name(&self) -> &'static str {
        "hoist"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for found in CountingLoop::all_in(&scope)
                .iter()
                .filter(|found| found.is_in_block())
            {
                places.extend(hoist_invariants(&scope, found));
            }
        }
        places
    }
}

/// What a loop computes anew in every iteration though it never changes.
fn hoist_invariants<'t>(scope: &Scope<'t, '_>, found: &CountingLoop<'t, '_>) -> Vec<RewriteSite> {
    let subject = scope.subject;
    let effects = Effects::of(scope, found.body);
    let runs = found.runs_at_least_once(scope);
    let mut groups: Vec<(String, Vec<Node<'t>>)> = Vec::new();
    let mut walk = descendants(found.body);
    while let Some(node) = walk.next() {
        if !is_worth_hoisting(scope, node) {
            continue;
        }
        let reads = descendants(node)
            .any(|node| matches!(node.kind(), "subscript_expression" | "pointer_expression"));
        let is_safe = !reads || (runs && scope.is_unconditional(node, found.body));
        let is_steady = is_safe
            && is_pure(scope, node)
            && scope.resolves_same_before(node, found.node)
            && !effects.may_change(scope, node);
        if !is_steady {
            continue;
        }
        walk.skip_children();
        let text = normalized_text(scope, node);
        match groups.iter_mut().find(|(known, _)| *known == text) {
            Some((_, members)) => members.push(node),
            None => groups.push((text, vec![node])),
        }
    }
    let mut places = Vec::new();
    for (text, members) in groups {
        let Some(kind) = scope.type_of(members[0]) else {
            continue;
        };
        let name = subject.fresh_name(&format!("{}_once", scope.suggest_name(members[0])));
        let mut edits = SourceEdits::new();
        edits.insert(
            found.insertion_point(scope),
            format!(
                "{}const {kind} {name} = {};\n",
                found.indent(scope),
                subject.text(members[0])
            ),
        );
        for member in &members {
            edits.replace(member.byte_range(), name.clone());
        }
        places.push(RewriteSite {
            label: text,
            line: line_of(members[0]),
            edits,
        });
    }
    places
}

/// Not a mere name, a literal, or what the compiler computes anyway.
fn is_worth_hoisting<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let is_operand = node.parent().is_some_and(|parent| {
        let is_target = parent.kind() == "assignment_expression"
            && parent
                .child_by_field_name("left")
                .is_some_and(|left| left.id() == node.id());
        !is_target && !matches!(parent.kind(), "pointer_expression" | "update_expression")
    });
    let is_candidate = match node.kind() {
        "call_expression" => node
            .child_by_field_name("function")
            .is_some_and(|function| function.kind() == "identifier"),
        "subscript_expression" => scope
            .lookup(
                scope.memory_root(node).unwrap_or_default(),
                node.start_byte(),
            )
            .is_some_and(|declared| declared.pointer_depth > 0 || declared.is_shared),
        "binary_expression" => node
            .child_by_field_name("operator")
            .is_some_and(|operator| matches!(operator.kind(), "*" | "/" | "%" | "+" | "-")),
        _ => false,
    };
    is_operand
        && is_candidate
        && scope.subject.constant_value(node).is_none()
        && scope
            .type_of(node)
            .is_some_and(|kind| !matches!(kind, "bool"))
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

    #[test]
    fn stored_value_is_forwarded_to_later_reads() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < columns; i++) {\n        output[i] += 2.0f * x[i];\n        sum += output[i] * output[i];\n    }\n";
        insta::assert_snapshot!(changes(&ForwardStore, body, "output[i]"), @r#"
        -         output[i] += 2.0f * x[i];
        -         sum += output[i] * output[i];
        +         const float output_value = output[i] + 2.0f * x[i];
        +         output[i] = output_value;
        +         sum += output_value * output_value;
        "#);
    }

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
