//! `stage_in_local`: what one loop loads or computes and a later one needs again waits in an array of the thread.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::{Effects, is_pure};
use super::loops::CountingLoop;
use super::scope::Scope;
use super::vectorize::index_grows_by_one;
use super::{RewriteSite, Subject, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, line_of, named_children};
use crate::propose::source_edits::{SourceEdits, line_start};

pub(super) struct StageInLocal;

/// Longer arrays would not stay near the thread.
const MAX_ARRAY_LENGTH: i64 = 2048;

impl Transformation for StageInLocal {
    fn name(&self) -> &'static str {
        "stage_in_local"
    }

    fn weight(&self) -> f64 {
        3.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|found| can_fill_array(&scope, found))
                .collect();
            for (index, first) in loops.iter().enumerate() {
                let later: Vec<_> = loops[index + 1..]
                    .iter()
                    .filter(|other| has_same_iterations(&scope, first, other))
                    .collect();
                places.extend(stage_values(&scope, first, &later));
            }
            places.extend(stage_results(&scope, &loops));
        }
        places
    }
}

/// A loop that fills an array from its begin to its end.
fn can_fill_array(scope: &Scope<'_, '_>, found: &CountingLoop<'_, '_>) -> bool {
    let is_short = scope.subject.holds_at_all_points(&|evaluate| {
        Some((1..=MAX_ARRAY_LENGTH).contains(&evaluate(found.bound)?))
    });
    found.is_in_block()
        && is_short
        && found.step_text(scope) == "1"
        && scope.text(found.start) == "0"
        && !Effects::of(scope, found.body).jumps
}

/// A later loop of the same block over the same range, by the same name.
fn has_same_iterations(
    scope: &Scope<'_, '_>,
    first: &CountingLoop<'_, '_>,
    other: &CountingLoop<'_, '_>,
) -> bool {
    let block = |found: &CountingLoop<'_, '_>| found.node.parent().map(|parent| parent.id());
    first.variable == other.variable
        && first.variable_type == other.variable_type
        && first.has_same_range(scope, other)
        && block(first) == block(other)
}

/// Values that the first loop computes and later ones compute again.
fn stage_values<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    later: &[&CountingLoop<'t, 'a>],
) -> Vec<RewriteSite> {
    let subject = scope.subject;
    let mut places: Vec<RewriteSite> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    let mut walk = descendants(first.body);
    while let Some(node) = walk.next() {
        let text = normalized_text(scope, node);
        if !is_stageable_value(scope, first, node) || known.contains(&text) {
            continue;
        }
        let mut twins: Vec<Node<'t>> = Vec::new();
        for other in later {
            if !is_unchanged_between(scope, first, other, node) {
                break;
            }
            twins.extend(matching_expressions(scope, other, &text));
        }
        let Some(kind) = scope.type_of(node).filter(|_| !twins.is_empty()) else {
            continue;
        };
        walk.skip_children();
        let variable = first.variable;
        let name = subject.fresh_name(&format!("{}_kept", scope.suggest_name(node)));
        let indent = first.indent(scope);
        let mut edits = SourceEdits::new();
        edits.insert(
            first.insertion_point(scope),
            format!("{indent}{kind} {name}[{}];\n", subject.text(first.bound)),
        );
        let keep = format!("{name}[{variable}] = {};", subject.text(node));
        insert_at_body_start(first, &keep, indent, &mut edits);
        for member in matching_expressions(scope, first, &text)
            .into_iter()
            .chain(twins)
        {
            edits.replace(member.byte_range(), format!("{name}[{variable}]"));
        }
        known.push(text.clone());
        places.push(RewriteSite {
            label: text,
            line: line_of(node),
            edits,
        });
    }
    places
}

/// A value of every iteration that is worth keeping: it reads memory or calls a function, and is computed whatever happens.
fn is_stageable_value<'t>(
    scope: &Scope<'t, '_>,
    found: &CountingLoop<'t, '_>,
    node: Node<'t>,
) -> bool {
    let is_kind = match node.kind() {
        "conditional_expression" => true,
        "call_expression" => node
            .child_by_field_name("function")
            .is_some_and(|function| function.kind() == "identifier"),
        "subscript_expression" => !is_written(node),
        _ => false,
    };
    let reads = || descendants(node).any(|inner| inner.kind() == "subscript_expression");
    let own = || {
        descendants(node)
            .filter(|inner| inner.kind() == "identifier" && scope.text(*inner) != found.variable)
    };
    is_kind
        && reads()
        && !scope.uses(node, found.variable).is_empty()
        && own().all(|name| scope.resolves_same_before(name, found.node))
        && is_pure(scope, node)
        && scope.is_unconditional(node, found.body)
        && reads_known_memory(scope, node)
}

/// Whether what is read lies behind pointers, and not in an array of the thread already.
fn reads_known_memory<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    super::effects::memory_reads(scope, node)
        .iter()
        .any(Option::is_some)
}

/// Whether an element is written, or its address taken.
fn is_written(node: Node<'_>) -> bool {
    node.parent().is_some_and(|parent| match parent.kind() {
        "assignment_expression" => parent
            .child_by_field_name("left")
            .is_some_and(|left| left.id() == node.id()),
        "update_expression" | "pointer_expression" => true,
        _ => false,
    })
}

/// The expressions in a loop's body with the same text.
fn matching_expressions<'t>(
    scope: &Scope<'t, '_>,
    found: &CountingLoop<'t, '_>,
    text: &str,
) -> Vec<Node<'t>> {
    let mut members = Vec::new();
    let mut walk = descendants(found.body);
    while let Some(node) = walk.next() {
        if node.is_named()
            && normalized_text(scope, node) == text
            && !is_written(node)
            && node.kind().ends_with("_expression")
        {
            members.push(node);
            walk.skip_children();
        }
    }
    members
}

/// Whether nothing from the first loop to the later one changes what an expression reads, and its names mean the same in both.
fn is_unchanged_between<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    other: &CountingLoop<'t, 'a>,
    expression: Node<'t>,
) -> bool {
    let Some(block) = first.node.parent() else {
        return false;
    };
    let between = named_children(block).filter(|node| {
        first.node.start_byte() <= node.start_byte() && node.end_byte() <= other.node.end_byte()
    });
    let is_quiet = between.into_iter().all(|statement| {
        let mut effects = Effects::of(scope, statement);
        effects.assigned.remove(first.variable);
        !effects.may_change(scope, expression)
    });
    let names = descendants(expression)
        .filter(|node| node.kind() == "identifier" && scope.text(*node) != first.variable);
    is_quiet
        && names.into_iter().all(|name| {
            let text = scope.text(name);
            let at = |place: usize| {
                scope
                    .lookup(text, place)
                    .map(|declared| declared.identifier.id())
            };
            at(first.node.start_byte()) == at(other.node.start_byte())
        })
}

/// Puts a statement in front of all others of a loop's body.
fn insert_at_body_start(
    found: &CountingLoop<'_, '_>,
    statement: &str,
    indent: &str,
    edits: &mut SourceEdits,
) {
    if found.body.kind() == "compound_statement" {
        edits.insert(
            found.body.start_byte() + 1,
            format!("\n{indent}    {statement}"),
        );
    } else {
        edits.insert(
            found.body.start_byte(),
            format!("{{\n{indent}    {statement}\n{indent}    "),
        );
        edits.insert(found.body.end_byte(), format!("\n{indent}}}"));
    }
}

/// Results that are written, and read or changed again, by loops of one range: they reach memory when they are done.
fn stage_results<'t, 'a>(
    scope: &Scope<'t, 'a>,
    loops: &[CountingLoop<'t, 'a>],
) -> Vec<RewriteSite> {
    let subject = scope.subject;
    let mut groups: BTreeMap<&str, Vec<Node<'t>>> = BTreeMap::new();
    for node in
        descendants(scope.function.body).filter(|node| node.kind() == "subscript_expression")
    {
        let argument = node
            .child_by_field_name("argument")
            .filter(|argument| argument.kind() == "identifier");
        if let Some(name) = argument
            .map(|argument| scope.text(argument))
            .filter(|name| {
                scope
                    .unshadowed_parameter(name)
                    .is_some_and(|declared| declared.pointer_depth == 1 && !declared.is_const)
            })
        {
            groups.entry(name).or_default().push(node);
        }
    }
    let mut places = Vec::new();
    for (name, members) in groups {
        let text = normalized_text(scope, members[0]);
        let holder = |member: &Node<'t>| loops.iter().find(|found| contains(found.body, *member));
        let Some(first) = holder(&members[0]) else {
            continue;
        };
        let is_one = members.iter().all(|member| {
            normalized_text(scope, *member) == text
                && holder(member).is_some_and(|found| {
                    found.node.id() == first.node.id() || has_same_iterations(scope, first, found)
                })
        });
        // Every use of the pointer is one of these, and nothing else leads to its memory.
        let is_alone = scope.uses(scope.function.body, name).len() == members.len()
            && scope
                .declarations
                .iter()
                .filter(|other| {
                    other.parameter_index.is_some() && other.pointer_depth > 0 && other.name != name
                })
                .all(|other| !scope.may_alias(Some(name), Some(other.name)));
        let Some(index) = members[0]
            .child_by_field_name("indices")
            .and_then(|indices| named_children(indices).next())
        else {
            continue;
        };
        let is_set_first = members[0].parent().is_some_and(|parent| {
            parent.kind() == "assignment_expression"
                && parent
                    .child_by_field_name("operator")
                    .is_some_and(|operator| operator.kind() == "=")
                && is_written(members[0])
                && parent
                    .child_by_field_name("right")
                    .is_some_and(|right| !members.iter().any(|member| contains(right, *member)))
        });
        let last = members
            .iter()
            .rev()
            .find(|member| is_written(**member))
            .and_then(holder);
        let (Some(last), Some(kind)) = (last, scope.type_of(members[0])) else {
            continue;
        };
        let names = descendants(index)
            .filter(|node| node.kind() == "identifier" && scope.text(*node) != first.variable);
        let is_same_place = names.into_iter().all(|node| {
            let text = scope.text(node);
            scope.resolves_same_before(node, first.node)
                && scope
                    .lookup(text, node.start_byte())
                    .is_none_or(|declared| {
                        !super::effects::assigns_variable(scope, scope.function.body, declared.name)
                    })
        });
        let is_fit = is_one
            && is_alone
            && is_set_first
            && is_same_place
            && members.len() > 1
            && index_grows_by_one(scope, index, first.variable);
        // One loop alone keeps its values in registers.
        if !is_fit
            || !scope.is_unconditional(members[0], first.body)
            || members.iter().all(|member| contains(first.body, *member))
        {
            continue;
        }
        let local = subject.fresh_name(&format!("{name}_kept"));
        let (indent, variable) = (first.indent(scope), first.variable);
        let mut edits = SourceEdits::new();
        edits.insert(
            first.insertion_point(scope),
            format!("{indent}{kind} {local}[{}];\n", subject.text(first.bound)),
        );
        for member in &members {
            edits.replace(member.byte_range(), format!("{local}[{variable}]"));
        }
        let store = format!("{} = {local}[{variable}];", subject.text(members[0]));
        let inner = last.indent(scope);
        if last.body.kind() == "compound_statement" {
            let end = last.body.end_byte() - 1;
            edits.insert(
                line_start(subject.source(), end).max(last.body.start_byte() + 1),
                format!("{inner}    {store}\n"),
            );
        } else {
            edits
                .insert(last.body.start_byte(), format!("{{\n{inner}    "))
                .insert(
                    last.body.end_byte(),
                    format!("\n{inner}    {store}\n{inner}}}"),
                );
        }
        places.push(RewriteSite {
            label: text,
            line: line_of(members[0]),
            edits,
        });
    }
    places
}

fn normalized_text(scope: &Scope<'_, '_>, node: Node<'_>) -> String {
    collapse_white_space(scope.text(node))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn values_loaded_by_two_loops_are_staged() {
        let body = "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) {\n        sum += expf(x[i]);\n    }\n    for (int i = 0; i < 64; i++) output[i] = expf(x[i]) / sum;\n";
        insta::assert_snapshot!(site_labels(&StageInLocal, body), @r#"expf(x[i]) (line 11)"#);
        insta::assert_snapshot!(changes(&StageInLocal, body, "expf(x[i])"), @r#"
        -     for (int i = 0; i < 64; i++) {
        -         sum += expf(x[i]);
        -     }
        -     for (int i = 0; i < 64; i++) output[i] = expf(x[i]) / sum;
        +     float x_kept[64];
        +     for (int i = 0; i < 64; i++) {
        +         x_kept[i] = expf(x[i]);
        +         sum += x_kept[i];
        +     }
        +     for (int i = 0; i < 64; i++) output[i] = x_kept[i] / sum;
        "#);
    }

    #[test]
    fn results_are_stored_once_by_the_last_loop() {
        let body = "    const int row = blockIdx.x;\n    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) output[row * 64 + i] = expf(x[i]);\n    for (int i = 0; i < 64; i++) {\n        output[row * 64 + i] += 1.0f;\n    }\n    for (int i = 0; i < 64; i++) {\n        sum += output[row * 64 + i];\n    }\n";
        insta::assert_snapshot!(changes(&StageInLocal, body, "output[row * 64 + i]"), @r#"
        -     for (int i = 0; i < 64; i++) output[row * 64 + i] = expf(x[i]);
        -     for (int i = 0; i < 64; i++) {
        -         output[row * 64 + i] += 1.0f;
        -     }
        -     for (int i = 0; i < 64; i++) {
        -         sum += output[row * 64 + i];
        +     float output_kept[64];
        +     for (int i = 0; i < 64; i++) output_kept[i] = expf(x[i]);
        +     for (int i = 0; i < 64; i++) {
        +         output_kept[i] += 1.0f;
        +         output[row * 64 + i] = output_kept[i];
        +     }
        +     for (int i = 0; i < 64; i++) {
        +         sum += output_kept[i];
        "#);
    }

    #[test]
    fn changing_or_unbounded_values_are_not_staged() {
        for body in [
            "    for (int i = 0; i < columns; i++) output[i] = x[i];\n    for (int i = 0; i < columns; i++) output[i] = x[i];\n",
            "    int k = 0;\n    for (int i = 0; i < 64; i++) output[0] += x[i + k];\n    k++;\n    for (int i = 0; i < 64; i++) output[0] += x[i + k];\n",
            "    for (int i = 0; i < 64; i++) output[64 - i] = 1.0f;\n    for (int i = 0; i < 64; i++) output[i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) if (rows > i) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[i] += x[i];\n",
        ] {
            assert_eq!(site_labels(&StageInLocal, body), "", "{body}");
        }
    }
}
