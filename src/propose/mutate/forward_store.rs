//! `forward_store`: replaces a load of an element that was just stored by the stored value.

use tree_sitter::Node;

use super::effects::Effects;
use super::loops::is_block_statement;
use super::nodes::operator_of;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::values::{is_plain_assignment, is_reusable_value};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::code_layout::indentation;
use crate::propose::source_edits::SourceEdits;

/// Uses a stored value directly in later statements of the block, instead of loading it.
///
/// ```text
/// output[i] += 2.0f * x[i];
/// sum += output[i];
/// ```
/// becomes
/// ```text
/// const float output_value = output[i] + 2.0f * x[i];
/// output[i] = output_value;
/// sum += output_value;
/// ```
///
/// Legal for reads of an element with the same text, up to the first statement that may change the element.
///
/// Faster because a load from memory becomes a register.
pub(super) struct ForwardStore;

impl Transformation for ForwardStore {
    fn name(&self) -> &'static str {
        "forward_store"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for statement in descendants(function.body).filter(|node| is_plain_assignment(*node)) {
                sites.extend(forward_stored_value(&scope, statement));
            }
        }
        sites
    }
}

/// Forwards the value of `p[i] = value;`.
fn forward_stored_value<'t>(scope: &Scope<'t, '_>, statement: Node<'t>) -> Option<RewriteSite> {
    let assignment = named_children(statement).next()?;
    let target = assignment.child_by_field_name("left")?;
    let argument = target.child_by_field_name("argument").filter(|argument| {
        target.kind() == "subscript_expression" && argument.kind() == "identifier"
    })?;
    scope
        .lookup_node(argument)
        .filter(|declaration| declaration.pointer_depth > 0 || declaration.is_shared)?;
    let type_name = scope.type_of(target)?;
    let reads = later_reads(scope, statement, target)?;
    if reads.is_empty() {
        return None;
    }
    let value = stored_value(scope, assignment)?;
    let name = scope
        .subject
        .fresh_name(&format!("{}_value", scope.suggest_name(target)));
    let indent = indentation(scope.subject.source(), statement.start_byte());
    let mut edits = SourceEdits::new();
    edits.replace(
        statement.byte_range(),
        format!(
            "const {type_name} {name} = {value};\n{indent}{} = {name};",
            scope.text(target)
        ),
    );
    for read in &reads {
        edits.replace(read.byte_range(), name.clone());
    }
    Some(RewriteSite {
        label: collapse_white_space(scope.text(target)),
        line: line_of(statement),
        edits,
    })
}

/// The reads of `target` in later statements of the block, before it may change; `None` if the statement is in no block.
fn later_reads<'t>(
    scope: &Scope<'t, '_>,
    statement: Node<'t>,
    target: Node<'t>,
) -> Option<Vec<Node<'t>>> {
    let block = statement
        .parent()
        .filter(|_| is_block_statement(scope, statement))?;
    let text = collapse_white_space(scope.text(target));
    let mut reads = Vec::new();
    for later in named_children(block)
        .skip_while(|other| other.id() != statement.id())
        .skip(1)
    {
        let effects = Effects::of(scope, later);
        let changes = effects.may_change(scope, target);
        // A plain assignment reads its operands before it changes anything.
        let reads_first = is_plain_assignment(later) && !effects.is_opaque;
        if changes && !reads_first {
            break;
        }
        reads.extend(descendants(later).filter(|node| {
            is_reusable_value(scope, *node)
                && collapse_white_space(scope.text(*node)) == text
                && scope.resolves_same_before(*node, statement)
        }));
        if changes {
            break;
        }
    }
    Some(reads)
}

/// The value that an assignment stores: `target + value` for `target += value`.
///
/// `None` for types whose sum may have no type or two.
fn stored_value<'t>(scope: &Scope<'t, '_>, assignment: Node<'t>) -> Option<String> {
    let target = assignment.child_by_field_name("left")?;
    let value = assignment.child_by_field_name("right")?;
    let text = scope.text(value);
    let operator = operator_of(assignment).trim_end_matches('=');
    match operator {
        "" => Some(text.to_owned()),
        "+" | "-" | "*" | "/" => {
            let types = [scope.type_of(target)?, scope.type_of(value)?];
            let are_arithmetic = types
                .iter()
                .all(|name| matches!(*name, "float" | "double" | "int" | "unsigned"));
            if types[0] != types[1] && !are_arithmetic {
                return None;
            }
            let is_simple = matches!(
                value.kind(),
                "identifier"
                    | "number_literal"
                    | "call_expression"
                    | "parenthesized_expression"
                    | "subscript_expression"
            );
            let is_added_term = value.kind() == "binary_expression" && operator == "+";
            let operand = if is_simple || is_added_term {
                text.to_owned()
            } else {
                format!("({text})")
            };
            Some(format!("{} {operator} {operand}", scope.text(target)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::changes;
    use super::*;

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
}
