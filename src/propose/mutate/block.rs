//! `block_size` and `tunable`: launch parameters that are tried with other values.
//!
//! The header and the code change together. The judge checks whether the new size still launches.

use tree_sitter::Node;

use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::LaunchHeader;
use crate::kernel::syntax::{FunctionNode, descendants, source_facts};
use crate::propose::header_text;
use crate::propose::source_edits::SourceEdits;

/// Changes the number of threads per block, or makes it a tunable.
///
/// ```text
/// block: 128          int row = blockIdx.x * 128 + threadIdx.x;
/// ```
/// becomes
/// ```text
/// block: 256          int row = blockIdx.x * 256 + threadIdx.x;
/// ```
///
/// Legal if every number equal to the old size, in the launch's `grid` and `block` and in the function, means the threads of
/// a block. Sizes of private arrays are excluded; otherwise this is assumed, and the judge checks it. Not offered where another
/// number seems to follow from the size, such as half of it or the number of warps, or where the function does not name the size.
///
/// Larger blocks share more work and hide more latency; smaller ones waste less at the edges and leave more registers per
/// thread.
pub(super) struct BlockSize;

/// Adds a value at the front of a tunable's list: twice the largest or half the smallest value so far.
///
/// ```text
/// ROWS: [4, 2]
/// ```
/// becomes
/// ```text
/// ROWS: [8, 4, 2]
/// ```
///
/// Legal if the code works for any value of the tunable, which the judge checks. Not offered if an assertion, the size of an
/// array, the shared memory or the block would then not be valid, or if that is unknown.
///
/// May be faster because the best value is often just outside the list.
pub(super) struct ExtendTunable;

/// Block sizes to try, in threads.
const BLOCK_SIZES: [i64; 6] = [32, 64, 128, 256, 512, 1024];

/// Values of a new tunable for the block size, after the size so far.
const TUNABLE_SIZES: [i64; 4] = [32, 64, 128, 256];

/// The most threads of a block.
const MAX_THREADS: i64 = 1024;

/// The most static shared memory of a block, in bytes.
const MAX_STATIC_SHARED: u64 = 48 * 1024;

/// Smaller numbers in `block` are unlikely to be the number of threads along the main dimension.
const MIN_BLOCK_SIZE: i64 = 9;

impl Transformation for BlockSize {
    fn caveat(&self) -> Option<&'static str> {
        Some("assumes that the number counts threads")
    }

    fn name(&self) -> &'static str {
        "block_size"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        let functions = subject.functions();
        for (index, launch) in subject.header.launches.iter().enumerate() {
            let function = functions
                .iter()
                .find(|function| subject.launches_of(function) == [index]);
            let Some(function) = function.filter(|_| launch.shared.is_none()) else {
                continue;
            };
            let sizes = launch.block.iter().map(|size| size.expression.text());
            for size in sizes
                .filter_map(|text| text.parse::<i64>().ok())
                .filter(|size| *size >= MIN_BLOCK_SIZE)
                .filter(|size| names_its_size(subject, launch, function, *size))
            {
                sites.extend(block_sizes(subject, launch, function, size));
            }
        }
        sites
    }
}

/// The other sizes, and a tunable, for one dimension of a launch's block.
fn block_sizes(
    subject: &Subject<'_>,
    launch: &LaunchHeader,
    function: &FunctionNode<'_>,
    size: i64,
) -> Vec<RewriteSite> {
    let line = usize::try_from(launch.line).unwrap_or(1);
    let site = |label: String, edits: SourceEdits| RewriteSite { label, line, edits };
    let mut sites = Vec::new();
    let others: i64 = launch
        .block
        .iter()
        .filter_map(|other| other.expression.text().parse::<i64>().ok())
        .filter(|other| *other != size)
        .product();
    let fits = |new: &i64| *new != size && new.saturating_mul(others) <= MAX_THREADS;
    for new in BLOCK_SIZES.into_iter().filter(fits) {
        let edits = resize_block(subject, launch, function, size, &new.to_string());
        sites.extend(edits.map(|edits| site(format!("{size} -> {new}"), edits)));
    }
    let name = subject.fresh_name("BLOCK");
    let mut values = vec![size];
    values.extend(TUNABLE_SIZES.into_iter().filter(fits));
    let edits = resize_block(subject, launch, function, size, &name).and_then(|mut edits| {
        header_text::add_tunable(subject.source(), &name, &values, &mut edits)?;
        Some(edits)
    });
    sites.extend(edits.map(|edits| site(format!("{size} as {name}"), edits)));
    sites
}

/// Edits that replace the block size by `new`, wherever the launch and its function write it as a number.
fn resize_block(
    subject: &Subject<'_>,
    launch: &LaunchHeader,
    function: &FunctionNode<'_>,
    size: i64,
    new: &str,
) -> Option<SourceEdits> {
    let source = subject.source();
    let old = size.to_string();
    let mut edits = SourceEdits::new();
    for key in ["block", "grid"] {
        let range = header_text::launch_value_range(source, launch.line, key)?;
        for at in header_text::whole_word_positions(&source[range.clone()], &old) {
            edits.replace(range.start + at..range.start + at + old.len(), new);
        }
    }
    for literal in descendants(function.node).filter(|node| {
        node.kind() == "number_literal"
            && subject.text(*node) == old
            && !sizes_private_array(subject, *node)
    }) {
        edits.replace(literal.byte_range(), new);
    }
    Some(edits)
}

/// Whether a function names its block size wherever it depends on it, by `blockDim` or as a number: no other number of the
/// function, of a device function or of the grid seems to follow from the size.
fn names_its_size(
    subject: &Subject<'_>,
    launch: &LaunchHeader,
    function: &FunctionNode<'_>,
    size: i64,
) -> bool {
    let logarithm = i64::from(size.ilog2());
    let follows = |value: i64| {
        value > 1
            && [
                size / 32,
                size / 4,
                size / 2,
                size - 1,
                size + 1,
                size * 2,
                size * 4,
                logarithm,
            ]
            .contains(&value)
    };
    let is_number = |node: &Node<'_>| {
        node.kind() == "number_literal"
            || node.kind() == "identifier"
                && !subject.header.tunables.contains_key(subject.text(*node))
    };
    let mut numbers = subject.functions().into_iter().flat_map(|other| {
        let is_own = other.node.id() == function.node.id();
        descendants(other.node)
            .filter(is_number)
            .filter(move |_| is_own || !other.is_global)
            .map(move |node| (is_own, node))
    });
    let is_unrelated = |(is_own, node): (bool, Node<'_>)| {
        let Some(value) = subject.constant_value(node) else {
            return true;
        };
        // The size itself is replaced where it is a number of the function, and not an argument of a template.
        let is_template_argument = std::iter::successors(node.parent(), Node::parent)
            .take_while(|around| !around.kind().ends_with("_statement"))
            .any(|around| around.kind() == "template_argument_list");
        let is_replaced = is_own && node.kind() == "number_literal" && !is_template_argument;
        !follows(value) && (value != size || is_replaced)
    };
    let grid_is_unrelated = launch.grid.iter().all(|grid| {
        let mut words = grid
            .expression
            .text()
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        words.all(|word| !word.parse().is_ok_and(follows))
    });
    let names = |wanted: &str| {
        descendants(function.node)
            .any(|node| node.child_count() == 0 && subject.text(node) == wanted)
    };
    let old = size.to_string();
    grid_is_unrelated
        && !subject.hides_code(function.body)
        && numbers.all(is_unrelated)
        && (names("blockDim") || names(&old) || !names("threadIdx"))
}

/// Whether a number is the size of an array that is not shared, and so does not count threads.
fn sizes_private_array(subject: &Subject<'_>, literal: Node<'_>) -> bool {
    let declaration = std::iter::successors(literal.parent(), Node::parent)
        .find(|around| around.kind() == "declaration");
    let is_size = literal
        .parent()
        .is_some_and(|parent| parent.kind() == "array_declarator");
    is_size
        && declaration.is_some_and(|declaration| !subject.text(declaration).contains("__shared__"))
}

impl Transformation for ExtendTunable {
    fn caveat(&self) -> Option<&'static str> {
        Some("assumes that the code allows the value")
    }

    fn name(&self) -> &'static str {
        "tunable"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let source = subject.source();
        let mut sites = Vec::new();
        for (name, values) in &subject.header.tunables {
            let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else {
                continue;
            };
            let Some(range) = header_text::tunable_list_range(source, name) else {
                continue;
            };
            let beyond = [high.checked_mul(2), Some(low / 2)];
            for value in beyond
                .into_iter()
                .flatten()
                .filter(|value| *value > 0 && !values.contains(value))
                .filter(|value| allows_value(subject, name, *value))
            {
                let all: Vec<_> = std::iter::once(&value)
                    .chain(values)
                    .map(i64::to_string)
                    .collect();
                let list = format!("[{}]", all.join(", "));
                let mut edits = SourceEdits::new();
                let list = header_text::replacement_value(source, &range, &list);
                edits.replace(range.clone(), list);
                sites.push(RewriteSite {
                    label: format!("{name}={value}"),
                    line: source[..range.start].matches('\n').count() + 1,
                    edits,
                });
            }
        }
        sites
    }
}

/// Whether assertions, array sizes, shared memory and block sizes stay valid if a tunable gets a value.
fn allows_value(subject: &Subject<'_>, name: &str, value: i64) -> bool {
    let value_of = |other: &str| {
        if other == name {
            return Some(value);
        }
        let tunable = subject.header.tunables.get(other);
        tunable
            .and_then(|values| values.first().copied())
            .or_else(|| subject.constant_axis(other))
    };
    let evaluate = |node: Node<'_>| subject.syntax.evaluate_integer(node, &value_of);
    // Constants of the file may be computed from the tunable.
    let depends = |node: Node<'_>| {
        let own_value_of = |other: &str| value_of(other).filter(|_| other != name);
        subject
            .syntax
            .evaluate_integer(node, &own_value_of)
            .is_none()
    };
    let code_allows = descendants(subject.syntax.root()).all(|node| match node.kind() {
        "static_assert_declaration" => {
            node.child_by_field_name("condition")
                .is_some_and(|condition| {
                    !depends(condition) || evaluate(condition).is_some_and(|holds| holds != 0)
                })
        }
        "array_declarator" => node
            .child_by_field_name("size")
            .is_none_or(|size| !depends(size) || evaluate(size).is_none_or(|size| size > 0)),
        // A template may allow few values.
        "template_argument_list" => !descendants(node).any(|inner| subject.text(inner) == name),
        "preproc_if" | "preproc_elif" => {
            node.child_by_field_name("condition")
                .is_none_or(|condition| {
                    !descendants(condition).any(|inner| subject.text(inner) == name)
                })
        }
        _ => true,
    });
    let shared = source_facts(subject.source(), &value_of).shared_bytes;
    let blocks_allow = subject.header.launches.iter().all(|launch| {
        let sizes = launch
            .block
            .iter()
            .map(|size| size.expression.evaluate(&value_of));
        sizes
            .collect::<Result<Vec<_>, _>>()
            .is_ok_and(|sizes| (1..=MAX_THREADS).contains(&sizes.iter().product()))
    });
    code_allows && blocks_allow && shared.is_none_or(|bytes| bytes <= MAX_STATIC_SHARED)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes_in_source, kernel, site_labels};
    use super::*;

    fn source() -> String {
        kernel("    int row = blockIdx.x * 128 + threadIdx.x;\n    if (row < rows) output[row] = x[row];\n").replace("__global__ void", "__global__ void __launch_bounds__(128)")
    }

    #[test]
    fn block_size_changes_in_header_and_code() {
        insta::assert_snapshot!(changes_in_source(&BlockSize, &source(), "128 -> 256"), @r#"
        -     grid: ceil_div(rows, 128)
        -     block: 128
        -     args: x, output, rows, columns
        - */
        - __global__ void __launch_bounds__(128) softmax(const float* x, float* output, int rows, int columns) {
        -     int row = blockIdx.x * 128 + threadIdx.x;
        +     grid: ceil_div(rows, 256)
        +     block: 256
        +     args: x, output, rows, columns
        + */
        + __global__ void __launch_bounds__(256) softmax(const float* x, float* output, int rows, int columns) {
        +     int row = blockIdx.x * 256 + threadIdx.x;
        "#);
        insta::assert_snapshot!(changes_in_source(&BlockSize, &source(), "128 as BLOCK"), @r#"
        -     grid: ceil_div(rows, 128)
        -     block: 128
        -     args: x, output, rows, columns
        - */
        - __global__ void __launch_bounds__(128) softmax(const float* x, float* output, int rows, int columns) {
        -     int row = blockIdx.x * 128 + threadIdx.x;
        +     grid: ceil_div(rows, BLOCK)
        +     block: BLOCK
        +     args: x, output, rows, columns
        + tunables:
        +   BLOCK: [128, 32, 64, 256]
        + */
        + __global__ void __launch_bounds__(BLOCK) softmax(const float* x, float* output, int rows, int columns) {
        +     int row = blockIdx.x * BLOCK + threadIdx.x;
        "#);
    }

    #[test]
    fn tunable_list_extends_at_both_ends() {
        let source = source().replace("*/", "tunables:\n  ROWS: [4, 2]\n*/");
        insta::assert_snapshot!(changes_in_source(&ExtendTunable, &source, "ROWS=8"), @r#"
        -   ROWS: [4, 2]
        +   ROWS: [8, 4, 2]
        "#);
        insta::assert_snapshot!(changes_in_source(&ExtendTunable, &source, "ROWS=1"), @r#"
        -   ROWS: [4, 2]
        +   ROWS: [1, 4, 2]
        "#);
        assert_eq!(site_labels(&ExtendTunable, "    output[0] = x[0];\n"), "");
    }
}
