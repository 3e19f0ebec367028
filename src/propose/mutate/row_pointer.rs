//! `row_pointer`: moves the constant part of an index into a new pointer.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::loops::{insert_before_statement, is_block_statement};
use super::memory::memory_reads;
use super::nodes::{index_of, operands, operator_of};
use super::purity::is_pure;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, line_of, named_children};
use crate::propose::code_layout::indentation;
use crate::propose::source_edits::SourceEdits;

/// Declares a pointer to the start of a row, and indexes from there.
///
/// ```text
/// for (int i = 0; i < columns; i++) sum += x[row * columns + i];
/// ```
/// becomes
/// ```text
/// const float* x_row = x + row * columns;
/// for (int i = 0; i < columns; i++) sum += x_row[i];
/// ```
///
/// Legal for a pointer parameter and a product that starts the index, if neither changes in the function and the product is
/// pure and reads no memory.
///
/// Faster when the compiler computes the product again for every element, or runs out of registers for its parts.
pub(super) struct RowPointer;

/// An element `pointer[base + rest]`.
#[derive(Clone, Copy)]
struct RowAccess<'t> {
    pointer: Node<'t>,
    /// The first term of the index: a product.
    base: Node<'t>,
    rest: Node<'t>,
    element: Node<'t>,
}

impl Transformation for RowPointer {
    fn name(&self) -> &'static str {
        "row_pointer"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let mut rows: BTreeMap<(&str, String), Vec<RowAccess<'_>>> = BTreeMap::new();
            for node in
                descendants(function.body).filter(|node| node.kind() == "subscript_expression")
            {
                if let Some(access) = row_access(&scope, node) {
                    let base = collapse_white_space(subject.text(access.base));
                    rows.entry((subject.text(access.pointer), base))
                        .or_default()
                        .push(access);
                }
            }
            sites.extend(rows.into_iter().filter_map(|((pointer, base), accesses)| {
                declare_row(&scope, pointer, &base, &accesses)
            }));
        }
        sites
    }
}

/// The row pointer for all accesses with the same pointer and base.
fn declare_row<'t>(
    scope: &Scope<'t, '_>,
    pointer: &str,
    base: &str,
    accesses: &[RowAccess<'t>],
) -> Option<RewriteSite> {
    let subject = scope.subject;
    let body = scope.function.body;
    let first = accesses.first()?;
    // The pointer is declared before the first statement of the function that uses it.
    let front = statement_containing(body, first.element)?;
    let declaration = scope.lookup(pointer, first.element.start_byte())?;
    let is_known = accesses
        .iter()
        .all(|access| scope.resolves_same_before(access.base, front));
    let is_steady = !scope.assigns_variable(body, pointer)
        && descendants(first.base)
            .filter(|node| node.kind() == "identifier")
            .all(|node| !scope.assigns_variable(body, subject.text(node)));
    let is_plain = declaration.pointer_depth == 1 && !declaration.type_name.is_empty();
    let can_insert = is_block_statement(scope, front) && !subject.hides_code(body);
    if !is_known || !is_steady || !is_plain || !can_insert {
        return None;
    }
    let name = subject.fresh_name(&format!("{pointer}_row"));
    let qualifier = if declaration.is_const { "const " } else { "" };
    let indent = indentation(subject.source(), front.start_byte());
    let mut edits = SourceEdits::new();
    let declared = format!(
        "{indent}{qualifier}{}* {name} = {pointer} + {};\n",
        declaration.type_name,
        subject.text(first.base)
    );
    insert_before_statement(scope, front, &declared, &mut edits);
    for access in accesses {
        edits
            .replace(access.pointer.byte_range(), name.clone())
            .replace(access.base.start_byte()..access.rest.start_byte(), "");
    }
    Some(RewriteSite {
        label: format!("{pointer} + {base}"),
        line: line_of(first.element),
        edits,
    })
}

/// The parts of `p[base + rest]`, where `p` is a parameter and the base is a pure product that reads no memory.
fn row_access<'t>(scope: &Scope<'t, '_>, element: Node<'t>) -> Option<RowAccess<'t>> {
    let pointer = element
        .child_by_field_name("argument")
        .filter(|argument| argument.kind() == "identifier")?;
    let declaration = scope.lookup_node(pointer)?;
    let is_pointer = declaration.pointer_depth == 1
        && declaration.array_sizes.is_empty()
        && declaration.parameter_index.is_some();
    // Sums associate to the left: follow the left sides down to the first term.
    let (mut base, mut rest) = operands(index_of(element)?, "+")?;
    while let Some((left, right)) = operands(base, "+") {
        (base, rest) = (left, right);
    }
    // An unsigned difference wraps around, which a sum of pointers does not.
    let may_wrap = scope.type_of(rest) != Some("int")
        && descendants(rest).any(|node| matches!(operator_of(node), "-" | "~"));
    let is_fit = is_pointer
        && !may_wrap
        && operands(base, "*").is_some()
        && is_pure(scope, base)
        && memory_reads(scope, base).is_empty();
    is_fit.then_some(RowAccess {
        pointer,
        base,
        rest,
        element,
    })
}

/// The statement of a block that contains a node.
fn statement_containing<'t>(block: Node<'t>, node: Node<'t>) -> Option<Node<'t>> {
    named_children(block).find(|statement| contains(*statement, node))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUM_OF_ROW_AND_FIRST, changes, site_labels};
    use super::*;

    #[test]
    fn row_offset_becomes_a_pointer() {
        insta::assert_snapshot!(site_labels(&RowPointer, SUM_OF_ROW_AND_FIRST), @r#"
        output + row * columns (line 13)
        x + row * columns (line 13)
        "#);
        insta::assert_snapshot!(changes(&RowPointer, SUM_OF_ROW_AND_FIRST, "x + "), @r#"
        - #pragma unroll 2
        -     for (int i = 0; i < columns; i++) {
        -         output[row * columns + i] = x[row * columns + i] + x[i];
        +     const float* x_row = x + row * columns;
        + #pragma unroll 2
        +     for (int i = 0; i < columns; i++) {
        +         output[row * columns + i] = x_row[i] + x[i];
        "#);
    }
}
