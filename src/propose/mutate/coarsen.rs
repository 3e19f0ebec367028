//! `coarsen`: each block does the work of several, one after the other; how many is a tunable.

use tree_sitter::Node;

use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{descendants, enclosing, line_of, named_children};
use crate::propose::header_text;
use crate::propose::source_edits::{
    SourceEdits, body_range, indent_following_lines, indentation, line_start,
};

pub(super) struct Coarsen;

impl Transformation for Coarsen {
    fn name(&self) -> &'static str {
        "coarsen"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        subject
            .functions()
            .into_iter()
            .filter(|function| function.is_global)
            .filter_map(|function| coarsen_function(&Scope::new(subject, function)))
            .collect()
    }
}

/// Puts the body into a loop over the blocks that this one stands for. A block beyond the last must find nothing to do by itself:
/// the body has to begin with a test that leaves it.
fn coarsen_function<'t>(scope: &Scope<'t, '_>) -> Option<RewriteSite> {
    let subject = scope.subject;
    let body = scope.function.body;
    let [launch] = subject.launches_of(&scope.function)[..] else {
        return None;
    };
    let launch = subject.header.launches.get(launch)?;
    let is_alone = descendants(body).all(|node| {
        let text = || subject.text(node);
        match node.kind() {
            // A barrier, and what one block shares with itself, would have to be thought over.
            "call_expression" => !text().starts_with("__sync"),
            "type_qualifier" => text() != "__shared__",
            "lambda_expression" | "goto_statement" => false,
            _ => true,
        }
    });
    let returns: Vec<_> = descendants(body)
        .filter(|node| node.kind() == "return_statement")
        .collect();
    let is_tested = returns.first().is_some_and(|first| {
        let test = enclosing(*first, &["if_statement"]);
        test.is_some_and(|test| test.parent().is_some_and(|parent| parent.id() == body.id()))
    });
    let leaves_loops = returns.iter().all(|leave| {
        enclosing(
            *leave,
            &["for_statement", "while_statement", "do_statement"],
        )
        .is_none()
    });
    let blocks: Vec<_> = descendants(body)
        .filter(|node| node.kind() == "field_expression" && subject.text(*node) == "blockIdx.x")
        .collect();
    let is_fit = is_alone && is_tested && leaves_loops && blocks.len() == 1;
    let grid = header_text::launch_value_range(subject.source(), launch.line, "grid")
        .filter(|_| is_fit && launch.grid.len() == 1)?;
    let name = subject.fresh_name("BLOCKS");
    let turn = subject.fresh_name("turn");
    let mut edits = SourceEdits::new();
    for block in &blocks {
        edits.replace(
            block.byte_range(),
            format!("(blockIdx.x * {name} + {turn})"),
        );
    }
    for leave in &returns {
        edits.replace(leave.byte_range(), "continue;");
    }
    // Parameters that are changed have to be the same in every turn.
    let parameters = scope
        .declarations
        .iter()
        .filter(|declared| declared.parameter_index.is_some());
    if parameters
        .into_iter()
        .any(|declared| super::effects::assigns_variable(scope, body, declared.name))
    {
        return None;
    }
    let first: Node<'_> = named_children(body).next()?;
    let indent = indentation(subject.source(), first.start_byte());
    let range = body_range(&subject.syntax, body);
    let text = edits.apply_within(subject.source(), range.clone())?;
    let mut whole = SourceEdits::new();
    whole.replace(
        line_start(subject.source(), range.start)..range.end,
        format!("{indent}for (int {turn} = 0; {turn} < {name}; ++{turn}) {{\n{indent}    {}\n{indent}}}", indent_following_lines(&text)),
    );
    let old = &subject.source()[grid.clone()];
    whole.replace(grid, format!("ceil_div({old}, {name})"));
    header_text::add_tunable(subject.source(), &name, &[2, 1, 4, 8], &mut whole)?;
    Some(RewriteSite {
        label: format!(
            "{} by {name}",
            subject.syntax.function_name(&scope.function)
        ),
        line: line_of(scope.function.declarator),
        edits: whole,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn one_block_does_the_work_of_several() {
        let body = "    int row = blockIdx.x * blockDim.x + threadIdx.x;\n    if (row >= rows) return;\n\n    output[row] = x[row];\n";
        insta::assert_snapshot!(changes(&Coarsen, body, "softmax"), @r#"
        -     grid: ceil_div(rows, 128)
        -     block: 128
        -     args: x, output, rows, columns
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     int row = blockIdx.x * blockDim.x + threadIdx.x;
        -     if (row >= rows) return;
        - 
        -     output[row] = x[row];
        +     grid: ceil_div(ceil_div(rows, 128), BLOCKS)
        +     block: 128
        +     args: x, output, rows, columns
        + tunables:
        +   BLOCKS: [2, 1, 4, 8]
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     for (int turn = 0; turn < BLOCKS; ++turn) {
        +         int row = (blockIdx.x * BLOCKS + turn) * blockDim.x + threadIdx.x;
        +         if (row >= rows) continue;
        + 
        +         output[row] = x[row];
        +     }
        "#);
    }

    #[test]
    fn kernels_with_barriers_or_without_early_exit_are_skipped() {
        for body in [
            "    output[blockIdx.x] = x[0];\n",
            "    if (blockIdx.x > rows) return;\n    __syncthreads();\n",
            "    if (blockIdx.x > rows) return;\n    output[blockIdx.x] = x[0];\n",
            "    for (int i = blockIdx.x; i < rows; i++) if (i > 3) return;\n",
        ] {
            assert_eq!(site_labels(&Coarsen, body), "", "{body}");
        }
    }
}
