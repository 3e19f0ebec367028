//! `stage_in_local`: values that several loops need are kept in an array of the thread.
//!
//! This file stages values that are loaded or computed; `stage_results` stages results that are written.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::CountingLoop;
use super::memory::memory_reads;
use super::nodes::is_changed_directly;
use super::purity::is_pure;
use super::scope::Scope;
use super::stage_results::stage_results;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::values::is_plain_call;
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Keeps what one loop loads or computes in a local array, for later loops over the same range.
///
/// ```text
/// for (int i = 0; i < 64; i++) sum += expf(x[i]);
/// for (int i = 0; i < 64; i++) output[i] = expf(x[i]) / sum;
/// ```
/// becomes
/// ```text
/// float x_kept[64];
/// for (int i = 0; i < 64; i++) {
///     x_kept[i] = expf(x[i]);
///     sum += x_kept[i];
/// }
/// for (int i = 0; i < 64; i++) output[i] = x_kept[i] / sum;
/// ```
///
/// Legal for a pure expression that the first loop always evaluates, if nothing up to the later loop changes it. The loops
/// run from 0 to a bound of at most `MAX_ARRAY_LENGTH`. Results that several loops read and write are staged as well, and
/// stored to memory once.
///
/// Faster because the later loops read registers or local memory instead of repeating loads and calls.
pub(super) struct StageInLocal;

/// Maximum length of an array, in elements. Longer arrays fit neither into registers nor into the cache of a thread.
const MAX_ARRAY_LENGTH: i64 = 2048;

impl Transformation for StageInLocal {
    fn name(&self) -> &'static str {
        "stage_in_local"
    }

    fn weight(&self) -> f64 {
        3.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|counting_loop| can_fill_array(&scope, counting_loop))
                .collect();
            for (index, first) in loops.iter().enumerate() {
                let later: Vec<_> = loops[index + 1..]
                    .iter()
                    .filter(|other| first.has_same_iterations(&scope, other))
                    .collect();
                sites.extend(stage_values(&scope, first, &later));
            }
            sites.extend(stage_results(&scope, &loops));
        }
        sites
    }
}

/// Whether a loop visits every index of a short array in order, and is never left early.
fn can_fill_array(scope: &Scope<'_, '_>, counting_loop: &CountingLoop<'_, '_>) -> bool {
    let is_short = scope.subject.holds_at_all_points(&|evaluate| {
        Some((1..=MAX_ARRAY_LENGTH).contains(&evaluate(counting_loop.bound)?))
    });
    counting_loop.is_in_block(scope)
        && is_short
        && counting_loop.step_text(scope) == "1"
        && scope.text(counting_loop.start) == "0"
        && !Effects::of(scope, counting_loop.body).jumps
}

/// One site for each value that the first loop computes and later loops compute again.
fn stage_values<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    later: &[&CountingLoop<'t, 'a>],
) -> Vec<RewriteSite> {
    let mut sites: Vec<RewriteSite> = Vec::new();
    let mut known: Vec<String> = Vec::new();
    let mut walk = descendants(first.body);
    while let Some(node) = walk.next() {
        let text = collapse_white_space(scope.text(node));
        if !is_stageable_value(scope, first, node) || known.contains(&text) {
            continue;
        }
        let mut repeats: Vec<Node<'t>> = Vec::new();
        for other in later {
            if !is_unchanged_between(scope, first, other, node) {
                break;
            }
            repeats.extend(matching_expressions(scope, other, &text));
        }
        let Some(type_name) = scope.type_of(node).filter(|_| !repeats.is_empty()) else {
            continue;
        };
        walk.skip_children();
        let variable = first.variable;
        let name = scope
            .subject
            .fresh_name(&format!("{}_kept", scope.suggest_name(node)));
        let indent = first.indent(scope);
        let mut edits = SourceEdits::new();
        let declared = format!("{indent}{type_name} {name}[{}];\n", scope.text(first.bound));
        first.insert_before(scope, &declared, &mut edits);
        let keep = format!("{name}[{variable}] = {};", scope.text(node));
        insert_at_body_start(first, &keep, indent, &mut edits);
        for member in matching_expressions(scope, first, &text)
            .into_iter()
            .chain(repeats)
        {
            edits.replace(member.byte_range(), format!("{name}[{variable}]"));
        }
        known.push(text.clone());
        sites.push(RewriteSite {
            label: text,
            line: line_of(node),
            edits,
        });
    }
    sites
}

/// Whether every iteration of a loop evaluates an expression, and keeping its value saves a load or a call.
fn is_stageable_value<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
    node: Node<'t>,
) -> bool {
    let is_candidate = match node.kind() {
        "conditional_expression" => true,
        "call_expression" => is_plain_call(node),
        "subscript_expression" => !is_changed_directly(node),
        _ => false,
    };
    let has_subscript = || descendants(node).any(|inner| inner.kind() == "subscript_expression");
    let mut other_names = descendants(node).filter(|inner| {
        inner.kind() == "identifier" && scope.text(*inner) != counting_loop.variable
    });
    is_candidate
        && has_subscript()
        && !scope.uses(node, counting_loop.variable).is_empty()
        && other_names.all(|name| scope.resolves_same_before(name, counting_loop.node))
        && is_pure(scope, node)
        && scope.is_unconditional(node, counting_loop.body)
        && reads_known_memory(scope, node)
}

/// Whether an expression reads memory behind a known pointer. Arrays of the thread are not worth staging.
fn reads_known_memory<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    memory_reads(scope, node).iter().any(Option::is_some)
}

/// The expressions in a loop body with the given text that are read, not written.
fn matching_expressions<'t>(
    scope: &Scope<'t, '_>,
    counting_loop: &CountingLoop<'t, '_>,
    text: &str,
) -> Vec<Node<'t>> {
    let mut members = Vec::new();
    let mut walk = descendants(counting_loop.body);
    while let Some(node) = walk.next() {
        if node.is_named()
            && collapse_white_space(scope.text(node)) == text
            && !is_changed_directly(node)
            && node.kind().ends_with("_expression")
        {
            members.push(node);
            walk.skip_children();
        }
    }
    members
}

/// Whether nothing from the first loop to the end of the later one changes an expression, and its names mean the same in both.
fn is_unchanged_between<'t, 'a>(
    scope: &Scope<'t, 'a>,
    first: &CountingLoop<'t, 'a>,
    later: &CountingLoop<'t, 'a>,
    expression: Node<'t>,
) -> bool {
    let Some(block) = first.node.parent() else {
        return false;
    };
    let mut statements = named_children(block).filter(|node| {
        first.node.start_byte() <= node.start_byte() && node.end_byte() <= later.node.end_byte()
    });
    let is_steady = statements.all(|statement| {
        let mut effects = Effects::of(scope, statement);
        effects.assigned.remove(first.variable);
        !effects.may_change(scope, expression)
    });
    let mut names = descendants(expression)
        .filter(|node| node.kind() == "identifier" && scope.text(*node) != first.variable);
    is_steady
        && names.all(|name| {
            let declared_at = |place: usize| {
                scope
                    .lookup(scope.text(name), place)
                    .map(|declaration| declaration.identifier.id())
            };
            declared_at(first.node.start_byte()) == declared_at(later.node.start_byte())
        })
}

/// Inserts a statement before all others of a loop body.
fn insert_at_body_start(
    counting_loop: &CountingLoop<'_, '_>,
    statement: &str,
    indent: &str,
    edits: &mut SourceEdits,
) {
    if counting_loop.body.kind() == "compound_statement" {
        edits.insert(
            counting_loop.body.start_byte() + 1,
            format!("\n{indent}    {statement}"),
        );
    } else {
        edits.insert(
            counting_loop.body.start_byte(),
            format!("{{\n{indent}    {statement}\n{indent}    "),
        );
        edits.insert(counting_loop.body.end_byte(), format!("\n{indent}}}"));
    }
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
