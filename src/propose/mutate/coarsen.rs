//! `coarsen`: each thread block does the work of several.

use tree_sitter::Node;

use super::nodes::{accesses_elements, operands};
use super::purity::{is_pure, may_fault};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::LaunchHeader;
use crate::kernel::syntax::{
    FunctionNode, contains, descendants, enclosing, line_of, named_children,
};
use crate::propose::code_layout::{body_range, indent_following_lines, indentation};
use crate::propose::header_text;
use crate::propose::source_edits::SourceEdits;

/// Puts the body into a loop over several blocks' work, and launches fewer blocks. The number is a new tunable.
///
/// ```text
/// int row = blockIdx.x * blockDim.x + threadIdx.x;
/// if (row >= rows) return;
/// output[row] = x[row];
/// ```
/// becomes
/// ```text
/// for (int turn = 0; turn < BLOCKS; ++turn) {
///     int row = (blockIdx.x * BLOCKS + turn) * blockDim.x + threadIdx.x;
///     if (row >= rows) continue;
///     output[row] = x[row];
/// }
/// ```
///
/// Legal for a one-dimensional grid if the body uses `blockIdx.x` once, in an index that is compared with a bound before anything
/// is accessed, so that surplus threads return (the grid is rounded up). The body must return from no loop and change no
/// parameter. Nothing may depend on the number of blocks or on other threads: no `gridDim`, barrier, shared memory or lambda.
///
/// Faster when launching blocks costs more than their work, or when the turns let the compiler reuse or overlap loads.
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

fn coarsen_function<'t>(scope: &Scope<'t, '_>) -> Option<RewriteSite> {
    let subject = scope.subject;
    let body = scope.function.body;
    let [launch] = subject.launches_of(&scope.function)[..] else {
        return None;
    };
    let launch = subject.header.launches.get(launch)?;
    let returns: Vec<_> = descendants(body)
        .filter(|node| node.kind() == "return_statement")
        .collect();
    let blocks: Vec<_> = descendants(body)
        .filter(|node| node.kind() == "field_expression" && subject.text(*node) == "blockIdx.x")
        .collect();
    let [block] = &blocks[..] else { return None };
    let surplus_returns = tests_block_first(scope, *block);
    if !surplus_returns
        || !is_independent(scope)
        || !leaves_early(scope, &returns)
        || changes_parameter(scope)
    {
        return None;
    }
    let name = subject.fresh_name("BLOCKS");
    let turn = subject.fresh_name("turn");
    let mut edits = SourceEdits::new();
    edits.replace(
        block.byte_range(),
        format!("(blockIdx.x * {name} + {turn})"),
    );
    for leave in &returns {
        edits.replace(leave.byte_range(), "continue;");
    }
    let edits = loop_over_turns(scope, launch, &edits, &name, &turn)?;
    Some(RewriteSite {
        label: format!(
            "{} by {name}",
            subject.syntax.function_name(&scope.function)
        ),
        line: line_of(scope.function.declarator),
        edits,
    })
}

/// Whether a block shares nothing between its threads, and has no control flow that a loop would change.
fn is_independent(scope: &Scope<'_, '_>) -> bool {
    descendants(scope.function.body).all(|node| {
        let text = || scope.text(node);
        match node.kind() {
            "call_expression" => {
                !text().starts_with("__sync") && !calls_block_function(scope, node)
            }
            "type_qualifier" => text() != "__shared__",
            "identifier" | "field_identifier" => !matches!(text(), "gridDim" | "sync"),
            "namespace_identifier"
            | "lambda_expression"
            | "goto_statement"
            | "gnu_asm_expression" => false,
            _ => true,
        }
    }) && !scope.subject.hides_code(scope.function.body)
}

/// Whether a call runs a function of the file that depends on the block, for example because it has a barrier.
fn calls_block_function(scope: &Scope<'_, '_>, call: Node<'_>) -> bool {
    let syntax = &scope.subject.syntax;
    let called = call
        .child_by_field_name("function")
        .map_or("", |function| scope.text(function));
    let called = called.split('<').next().unwrap_or_default();
    let is_device = |function: &FunctionNode<'_>| !function.is_global;
    let mut device_functions = scope.subject.functions().into_iter().filter(is_device);
    // Any of them may call the others.
    let depends = |function: FunctionNode<'_>| {
        descendants(function.node).any(|node| {
            let text = scope.text(node);
            node.child_count() == 0
                && (matches!(text, "blockIdx" | "gridDim" | "__shared__" | "asm" | "sync")
                    || text.starts_with("__sync"))
        })
    };
    let is_defined = scope
        .subject
        .functions()
        .iter()
        .any(|function| syntax.function_name(function) == called);
    is_defined && device_functions.any(depends)
}

/// Whether an `if (index >= bound) return;` on an index made from the block comes before any access to memory.
fn tests_block_first<'t>(scope: &Scope<'t, '_>, block: Node<'t>) -> bool {
    let holds_block = |node: Node<'t>| {
        contains(node, block)
            || node.kind() == "identifier"
                && scope
                    .lookup_node(node)
                    .and_then(|declaration| declaration.initializer)
                    .is_some_and(|initializer| contains(initializer, block))
    };
    for statement in named_children(scope.function.body) {
        match statement.kind() {
            "declaration" if is_pure(scope, statement) && !may_fault(scope, statement) => {}
            "if_statement" => {
                let leaves = statement
                    .child_by_field_name("consequence")
                    .is_some_and(|then| {
                        descendants(then).any(|node| node.kind() == "return_statement")
                            && !accesses_elements(then)
                    });
                let comparison = statement
                    .child_by_field_name("condition")
                    .and_then(|condition| named_children(condition).next())
                    .and_then(|condition| operands(condition, ">="));
                return leaves
                    && comparison.is_some_and(|(index, bound)| {
                        holds_block(index) && !may_fault(scope, bound)
                    });
            }
            _ => return false,
        }
    }
    false
}

/// Whether the first `return` belongs to an `if` of the body itself, and none is inside a loop.
fn leaves_early<'t>(scope: &Scope<'t, '_>, returns: &[Node<'t>]) -> bool {
    let is_tested = returns.first().is_some_and(|first| {
        enclosing(*first, &["if_statement"])
            .and_then(|test| test.parent())
            .is_some_and(|parent| parent.id() == scope.function.body.id())
    });
    let loops = ["for_statement", "while_statement", "do_statement"];
    is_tested
        && returns
            .iter()
            .all(|leave| enclosing(*leave, &loops).is_none())
}

/// Whether the body assigns a parameter, which the next turn would see changed.
fn changes_parameter(scope: &Scope<'_, '_>) -> bool {
    scope
        .declarations
        .iter()
        .filter(|declaration| declaration.parameter_index.is_some())
        .any(|declaration| scope.assigns_variable(scope.function.body, declaration.name))
}

/// Edits that put the edited body into the loop, shrink the grid and declare the tunable.
fn loop_over_turns(
    scope: &Scope<'_, '_>,
    launch: &LaunchHeader,
    body_edits: &SourceEdits,
    name: &str,
    turn: &str,
) -> Option<SourceEdits> {
    let subject = scope.subject;
    let source = subject.source();
    let body = scope.function.body;
    let grid = header_text::launch_value_range(source, launch.line, "grid")
        .filter(|_| launch.grid.len() == 1)?;
    let first: Node<'_> = named_children(body).next()?;
    let indent = indentation(source, first.start_byte());
    let range = body_range(&subject.syntax, body);
    let text = indent_following_lines(&body_edits.apply_within(source, range.clone())?);
    let mut edits = SourceEdits::new();
    edits.replace_by_lines(
        source,
        range,
        &format!("{indent}for (int {turn} = 0; {turn} < {name}; ++{turn}) {{\n{indent}    {text}\n{indent}}}"),
    );
    let blocks = launch.grid.first()?.expression.text();
    let blocks = format!("ceil_div({blocks}, {name})");
    let blocks = header_text::replacement_value(source, &grid, &blocks);
    edits.replace(grid, blocks);
    header_text::add_tunable(source, name, &[2, 1, 4, 8], &mut edits)?;
    Some(edits)
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
