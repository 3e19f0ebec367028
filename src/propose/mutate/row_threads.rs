//! Kernels in which each thread computes one row: `int row = blockIdx.x * 128 + threadIdx.x; if (row >= rows) return;`.
//!
//! Finds the row, its guard and its launch, and gives each row to several threads. Knows nothing about what is computed.

use tree_sitter::Node;

use super::nodes::{operands, operator_of};
use super::scope::Scope;
use super::subject::Subject;
use crate::kernel::LaunchHeader;
use crate::kernel::syntax::{children, descendants, named_children};
use crate::propose::code_layout::indentation;
use crate::propose::header_text;
use crate::propose::source_edits::SourceEdits;

/// Names that depend on the thread.
const THREAD_NAMES: [&str; 5] = ["threadIdx", "blockIdx", "blockDim", "gridDim", "warpSize"];

/// A function whose threads compute one row each.
pub(super) struct RowThreads<'t> {
    launch: &'t LaunchHeader,
    /// The declaration of the row.
    pub declaration: Node<'t>,
    /// `blockIdx.x * 128 + threadIdx.x`.
    initializer: Node<'t>,
    /// The end of `if (row >= rows) return;`.
    pub guard_end: usize,
}

impl<'t> RowThreads<'t> {
    /// `None` if the function does anything else with the number of its thread, or returns anywhere else.
    pub(super) fn of(scope: &Scope<'t, '_>) -> Option<Self> {
        let subject = scope.subject;
        let [launch] = subject.launches_of(&scope.function)[..] else {
            return None;
        };
        let launch = &subject.header.launches[launch];
        let is_plain = launch.block.len() == 1
            && launch.grid.len() == 1
            && launch.shared.is_none()
            && launch.cluster.is_empty()
            && !launch.cooperative;
        if !is_plain || !keeps_thread_to_itself(scope) {
            return None;
        }
        let block = launch.block[0].expression.text();
        let (declaration, row, initializer) = named_children(scope.function.body)
            .find_map(|statement| row_declaration(scope, statement, block))?;
        let guard_end = guard_end(scope, row)?;
        let is_fixed = !scope.assigns_variable(scope.function.body, row);
        (is_fixed && uses_thread_only_in(scope, initializer)).then_some(Self {
            launch,
            declaration,
            initializer,
            guard_end,
        })
    }

    /// Edits that give each row to `lanes` adjacent threads, and declare the number of a thread among them as `lane`.
    ///
    /// `None` if a block does not hold whole rows, or if the header has another form.
    pub(super) fn share(
        &self,
        scope: &Scope<'t, '_>,
        lanes: i64,
        lane: &str,
    ) -> Option<SourceEdits> {
        let subject = scope.subject;
        let mut edits = self.share_grid(subject, lanes)?;
        self.keep_whole_rows(subject, lanes, &mut edits)?;
        let index = scope.text(self.initializer);
        edits.replace(
            self.initializer.byte_range(),
            format!("({index}) / {lanes}"),
        );
        let indent = indentation(subject.source(), self.declaration.start_byte());
        edits.insert(
            self.declaration.end_byte(),
            format!("\n{indent}const int {lane} = threadIdx.x % {lanes};"),
        );
        Some(edits)
    }

    /// `ceil_div(rows, 128)` becomes `ceil_div(32 * rows, 128)`.
    fn share_grid(&self, subject: &Subject<'_>, lanes: i64) -> Option<SourceEdits> {
        let grid = self.launch.grid[0].expression.text();
        let inner = grid.strip_prefix("ceil_div(")?.strip_suffix(')')?;
        let (rows, threads) = inner.rsplit_once(',')?;
        if threads.trim() != self.launch.block[0].expression.text() || !is_balanced(rows) {
            return None;
        }
        let is_product = |letter: char| letter.is_alphanumeric() || "_ *".contains(letter);
        let rows = match rows.trim() {
            rows if rows.chars().all(is_product) => rows.to_owned(),
            rows => format!("({rows})"),
        };
        let source = subject.source();
        let range = header_text::launch_value_range(source, self.launch.line, "grid")?;
        let grid = format!("ceil_div({lanes} * {rows}, {})", threads.trim());
        let grid = header_text::replacement_value(source, &range, &grid);
        let mut edits = SourceEdits::new();
        edits.replace(range, grid);
        Some(edits)
    }

    /// Leaves only block sizes that are multiples of `lanes`.
    fn keep_whole_rows(
        &self,
        subject: &Subject<'_>,
        lanes: i64,
        edits: &mut SourceEdits,
    ) -> Option<()> {
        let block = self.launch.block[0].expression.text();
        if let Ok(threads) = block.parse::<i64>() {
            return (threads % lanes == 0).then_some(());
        }
        let values = subject.header.tunables.get(block)?;
        let whole: Vec<_> = (values.iter())
            .filter(|threads| **threads % lanes == 0)
            .map(i64::to_string)
            .collect();
        if whole.is_empty() || !subject.header.variants.is_empty() {
            return None;
        }
        if whole.len() < values.len() {
            let source = subject.source();
            let range = header_text::tunable_list_range(source, block)?;
            let list = format!("[{}]", whole.join(", "));
            let list = header_text::replacement_value(source, &range, &list);
            edits.replace(range, list);
        }
        Some(())
    }
}

/// The declaration, the name and the initializer in `int row = blockIdx.x * block + threadIdx.x;`.
fn row_declaration<'t, 'a>(
    scope: &Scope<'t, 'a>,
    statement: Node<'t>,
    block: &str,
) -> Option<(Node<'t>, &'a str, Node<'t>)> {
    if statement.kind() != "declaration" {
        return None;
    }
    let mut cursor = statement.walk();
    let mut declarators = statement.children_by_field_name("declarator", &mut cursor);
    let (declarator, None) = (declarators.next()?, declarators.next()) else {
        return None;
    };
    let name = declarator
        .child_by_field_name("declarator")
        .filter(|name| name.kind() == "identifier")?;
    let initializer = declarator.child_by_field_name("value")?;
    let (first, thread) = operands(initializer, "+")?;
    let (number, size) = operands(first, "*")?;
    let is_block = |node: Node<'t>| {
        let text = scope.text(node);
        text == "blockIdx.x"
            || text.ends_with(")blockIdx.x")
            || text.ends_with(") blockIdx.x")
            || text.ends_with("_cast<long long>(blockIdx.x)")
    };
    let is_size = matches!(scope.text(size), "blockDim.x") || scope.text(size) == block;
    (is_block(number) && is_size && scope.text(thread) == "threadIdx.x").then_some((
        statement,
        scope.text(name),
        initializer,
    ))
}

/// The end of the function's only return, `if (row >= …) return;`.
fn guard_end(scope: &Scope<'_, '_>, row: &str) -> Option<usize> {
    let returns: Vec<_> = descendants(scope.function.body)
        .filter(|node| node.kind() == "return_statement")
        .collect();
    let [leave] = returns[..] else { return None };
    let mut guards = named_children(scope.function.body).filter(|statement| {
        statement.kind() == "if_statement"
            && statement.child_by_field_name("alternative").is_none()
            && statement.byte_range().contains(&leave.start_byte())
    });
    let guard = guards.next()?;
    // `( row >= rows )`
    let clause = guard.child_by_field_name("condition")?;
    let condition = clause
        .child_by_field_name("value")
        .or_else(|| named_children(clause).next())?;
    let is_guard = operator_of(condition) == ">="
        && (condition.child_by_field_name("left")).is_some_and(|left| scope.text(left) == row);
    is_guard.then(|| guard.end_byte())
}

/// Whether nothing but an expression depends on the number of a thread.
fn uses_thread_only_in(scope: &Scope<'_, '_>, expression: Node<'_>) -> bool {
    descendants(scope.function.body)
        .filter(|node| THREAD_NAMES.contains(&scope.text(*node)))
        .all(|node| expression.byte_range().contains(&node.start_byte()))
}

/// Whether a block shares no memory, and no function that is called depends on the thread.
fn keeps_thread_to_itself(scope: &Scope<'_, '_>) -> bool {
    let shares = |node: Node<'_>| {
        children(node).any(|child| scope.text(child) == "__shared__")
            || node.kind() == "goto_statement"
    };
    let is_thread_name = |node: Node<'_>| THREAD_NAMES.contains(&scope.text(node));
    let mut others = (scope.subject.functions().into_iter()).filter(|other| !other.is_global);
    !descendants(scope.function.body).any(shares)
        && !others.any(|other| descendants(other.node).any(is_thread_name))
}

/// Whether every parenthesis is closed.
fn is_balanced(text: &str) -> bool {
    let mut depth = 0;
    text.chars().all(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        depth >= 0
    }) && depth == 0
}
