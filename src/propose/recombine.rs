//! `recombine`: what two kernels do differently, exchanged between them: values and variants, device functions, and the
//! statements of functions that both have.
//!
//! A child is one parent with some of its differences taken over from the other.

use std::collections::HashSet;
use std::ops::Range;

use tree_sitter::Node;

use super::Proposal;
use super::header_text;
use super::mutate::{kernel_identity, source_identity};
use super::source_edits::SourceEdits;
use crate::base::text::collapse_white_space;
use crate::base::{Digest, RandomStream};
use crate::kernel::syntax::{FunctionNode, Syntax, children, descendants};
use crate::kernel::{Kernel, with_point};
use crate::task::Task;

/// More differences than these are not combined: their subsets would never be gone through.
const MAX_DIFFERENCES: usize = 24;

/// Longer functions are compared no statement by statement.
const MAX_STATEMENTS: usize = 200;

/// One difference of the base that can be taken over from the other kernel.
#[derive(Clone, Debug)]
struct ParentDifference {
    label: String,
    edits: SourceEdits,
}

/// The `attempt`-th combination of two kernels.
pub(super) fn recombine(
    first: &str,
    second: &str,
    task: &Task,
    attempt: u64,
) -> Result<Proposal, String> {
    let seed = Digest::of_parts([first.as_bytes(), second.as_bytes()]).low64();
    let mut combinations = Vec::new();
    let sides = [(first, second, "first"), (second, first, "second")];
    let exchanges: Vec<_> = sides
        .iter()
        .map(|(base, other, _)| parent_differences(base, other, task))
        .collect();
    for (side, exchanges) in exchanges.iter().enumerate() {
        // By the size of the subset; all of them would give the other parent, more or less.
        for size in 1..=exchanges.len().min(3) {
            subsets(exchanges.len(), size, &mut |subset| {
                combinations.push((size, side, subset.to_vec()))
            });
        }
    }
    RandomStream::new(seed, "recombine", 0).shuffle(&mut combinations);
    combinations.sort_by_key(|(size, _, _)| *size);
    let mut seen = HashSet::from([source_identity(first), source_identity(second)]);
    let mut left = attempt;
    for (_, side, subset) in combinations {
        let (base, other, name) = sides[side];
        let chosen: Vec<_> = subset
            .iter()
            .map(|index| &exchanges[side][*index])
            .collect();
        let edits = chosen.iter().fold(SourceEdits::new(), |edits, exchange| {
            edits.merged_with(&exchange.edits)
        });
        let Some(child) = edits.apply(base) else {
            continue;
        };
        let is_new = kernel_identity(&child, task).is_some_and(|identity| {
            declares_every_name_once(&child, base, other) && seen.insert(identity)
        });
        if !is_new {
            continue;
        }
        if left == 0 {
            let what: Vec<_> = chosen
                .iter()
                .map(|exchange| exchange.label.as_str())
                .collect();
            return Ok(Proposal {
                source: child,
                detail: format!("{name} parent with {}", what.join(", ")),
            });
        }
        left -= 1;
    }
    Err(format!(
        "nothing is left to exchange after {attempt} attempts"
    ))
}

/// Calls back with every subset of `0..count` of one size.
fn subsets(count: usize, size: usize, found: &mut dyn FnMut(&[usize])) {
    fn extend_subset(
        from: usize,
        count: usize,
        size: usize,
        chosen: &mut Vec<usize>,
        found: &mut dyn FnMut(&[usize]),
    ) {
        if chosen.len() == size {
            return found(chosen);
        }
        for next in from..count {
            chosen.push(next);
            extend_subset(next + 1, count, size, chosen, found);
            chosen.pop();
        }
    }
    extend_subset(0, count, size, &mut Vec::new(), found);
}

/// What the base could take over from the other.
fn parent_differences(base: &str, other: &str, task: &Task) -> Vec<ParentDifference> {
    let mut exchanges = Vec::new();
    let parse = |text: &str| Kernel::parse(text, &task.definition).ok();
    if let (Some(base), Some(other)) = (parse(base), parse(other)) {
        header_differences(&base, &other, &mut exchanges);
    }
    let (base, other) = (Syntax::parse(base), Syntax::parse(other));
    function_differences(&base, &other, &mut exchanges);
    exchanges.truncate(MAX_DIFFERENCES);
    exchanges
}

fn header_differences(base: &Kernel, other: &Kernel, exchanges: &mut Vec<ParentDifference>) {
    let now = base.point();
    for (name, value) in other.point() {
        let point = indexmap::IndexMap::from([(name.clone(), value)]);
        if now.get(&name).is_none_or(|own| *own == value) {
            continue;
        }
        // The list is taken from the edited file, so that exchanges can be made together.
        let list = with_point(base, &point).and_then(|text| {
            header_text::tunable_list_range(&text, &name).map(|range| text[range].to_owned())
        });
        if let (Some(list), Some(range)) =
            (list, header_text::tunable_list_range(&base.text, &name))
        {
            let mut edits = SourceEdits::new();
            edits.replace(range, list);
            exchanges.push(ParentDifference {
                label: format!("{name}={value}"),
                edits,
            });
        }
    }
    let variants =
        header_text::section_range(&other.text, "variants").map(|range| &other.text[range]);
    let own = header_text::section_range(&base.text, "variants");
    if variants != own.clone().map(|range| &base.text[range]) {
        let mut edits = SourceEdits::new();
        match (own, variants) {
            (Some(own), variants) => edits.replace(own, variants.unwrap_or_default()),
            (None, variants) => edits.insert(
                header_text::header_range(&base.text).end - 2,
                variants.unwrap_or_default(),
            ),
        };
        exchanges.push(ParentDifference {
            label: "variants".to_owned(),
            edits,
        });
    }
    for launch in &base.header.launches {
        let Some(twin) = other
            .header
            .launches
            .iter()
            .find(|twin| twin.kernel == launch.kernel)
        else {
            continue;
        };
        let mut edits = SourceEdits::new();
        for key in ["grid", "block", "shared"] {
            let own = header_text::launch_value_range(&base.text, launch.line, key);
            let new = header_text::launch_value_range(&other.text, twin.line, key);
            if let (Some(own), Some(new)) = (own, new)
                && base.text[own.clone()] != other.text[new.clone()]
            {
                edits.replace(own, &other.text[new]);
            }
        }
        if !edits.is_empty() {
            exchanges.push(ParentDifference {
                label: format!("the launch of {}", launch.kernel),
                edits,
            });
        }
    }
}

/// Functions of the same name and parameters: device functions as a whole, others statement by statement.
fn function_differences(
    base: &Syntax<'_>,
    other: &Syntax<'_>,
    exchanges: &mut Vec<ParentDifference>,
) {
    let others = other.functions();
    for function in base.functions() {
        let name = base.function_name(&function);
        let mut twins = others
            .iter()
            .filter(|twin| other.function_name(twin) == name);
        let (Some(twin), None) = (twins.next(), twins.next()) else {
            continue;
        };
        if normalized_text(base, function.node) == normalized_text(other, twin.node) {
            continue;
        }
        let same_signature =
            normalized_text(base, function.declarator) == normalized_text(other, twin.declarator);
        if !function.is_global && same_signature {
            let mut edits = SourceEdits::new();
            edits.replace(function.node.byte_range(), other.text(twin.node));
            exchanges.push(ParentDifference {
                label: format!("function {name}"),
                edits,
            });
        }
        if normalized_text(base, function.declarator) != normalized_text(other, twin.declarator)
            && function.is_global
            && parameter_names(base, &function) == parameter_names(other, twin)
        {
            let mut edits = SourceEdits::new();
            edits.replace(
                function.node.start_byte()..function.body.start_byte(),
                other.source()[twin.node.start_byte()..twin.body.start_byte()].to_owned(),
            );
            exchanges.push(ParentDifference {
                label: format!("the parameters of {name}"),
                edits,
            });
        }
        if function.is_global && parameter_names(base, &function) == parameter_names(other, twin) {
            statement_differences(base, &function, other, twin, exchanges);
        }
    }
}

/// The names of a function's parameters, in order.
fn parameter_names<'s>(syntax: &Syntax<'s>, function: &FunctionNode<'_>) -> Vec<&'s str> {
    let parameters = function.declarator.child_by_field_name("parameters");
    parameters
        .into_iter()
        .flat_map(children)
        .filter(|parameter| parameter.kind().ends_with("parameter_declaration"))
        .filter_map(|parameter| {
            descendants(parameter)
                .filter(|node| node.kind() == "identifier")
                .last()
                .map(|name| syntax.text(name))
        })
        .collect()
}

fn normalized_text(syntax: &Syntax<'_>, node: Node<'_>) -> String {
    collapse_white_space(syntax.text(node))
}

/// Every run of statements in which two bodies differ.
fn statement_differences(
    base: &Syntax<'_>,
    function: &FunctionNode<'_>,
    other: &Syntax<'_>,
    twin: &FunctionNode<'_>,
    exchanges: &mut Vec<ParentDifference>,
) {
    let statements = |body| {
        children(body)
            .filter(|child: &Node<'_>| child.is_named() && child.kind() != "comment")
            .collect::<Vec<_>>()
    };
    let (own, new) = (statements(function.body), statements(twin.body));
    if own.len() > MAX_STATEMENTS || new.len() > MAX_STATEMENTS {
        return;
    }
    let own_words: Vec<_> = own
        .iter()
        .map(|node| normalized_text(base, *node))
        .collect();
    let new_words: Vec<_> = new
        .iter()
        .map(|node| normalized_text(other, *node))
        .collect();
    for (here, there) in differing_runs(&own_words, &new_words) {
        // Whole lines, so that directives keep theirs.
        let range = run_range(base, function.body, &own, here.clone());
        let text = &other.source()[run_range(other, twin.body, &new, there.clone())];
        let line = base.source()[..range.start].matches('\n').count() + 1;
        let mut edits = SourceEdits::new();
        edits.replace(range, text);
        let what = format!("the statements of line {line}");
        exchanges.push(ParentDifference { label: what, edits });
    }
}

/// The bytes from the end of the statement before a run to the end of the run.
fn run_range(
    syntax: &Syntax<'_>,
    body: Node<'_>,
    statements: &[Node<'_>],
    run: Range<usize>,
) -> Range<usize> {
    // A directive's node holds its line break, which belongs to what follows.
    let end_of = |node: Node<'_>| node.start_byte() + syntax.text(node).trim_end().len();
    let start = match run.start.checked_sub(1) {
        Some(before) => end_of(statements[before]),
        None => body.start_byte() + 1,
    };
    let end = run
        .end
        .checked_sub(1)
        .filter(|last| *last >= run.start)
        .map_or(start, |last| end_of(statements[last]));
    start..end
}

/// The runs in which two lists differ, by their longest common subsequence.
fn differing_runs(own: &[String], new: &[String]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut lengths = vec![vec![0usize; new.len() + 1]; own.len() + 1];
    for here in (0..own.len()).rev() {
        for there in (0..new.len()).rev() {
            lengths[here][there] = if own[here] == new[there] {
                lengths[here + 1][there + 1] + 1
            } else {
                lengths[here + 1][there].max(lengths[here][there + 1])
            };
        }
    }
    let mut runs = Vec::new();
    let (mut here, mut there) = (0, 0);
    while here < own.len() || there < new.len() {
        let (start, begin) = (here, there);
        while !(here < own.len() && there < new.len() && own[here] == new[there]) {
            if here == own.len() && there == new.len() {
                break;
            }
            if there == new.len()
                || (here < own.len() && lengths[here + 1][there] >= lengths[here][there + 1])
            {
                here += 1;
            } else {
                there += 1;
            }
        }
        if here > start || there > begin {
            runs.push((start..here, begin..there));
        }
        while here < own.len() && there < new.len() && own[here] == new[there] {
            here += 1;
            there += 1;
        }
    }
    runs
}

/// Whether every name that a parent declares somewhere is declared in the child wherever it is used there, and once.
fn declares_every_name_once(child: &str, first: &str, second: &str) -> bool {
    let declared_in_parents: HashSet<&str> = [first, second]
        .into_iter()
        .flat_map(|source| {
            visible_declarations(&Syntax::parse(source))
                .into_iter()
                .map(|(name, _)| name)
        })
        .collect();
    let syntax = Syntax::parse(child);
    let declared = visible_declarations(&syntax);
    let is_twice = declared.iter().enumerate().any(|(index, (name, visible))| {
        declared[..index]
            .iter()
            .any(|(other, seen)| other == name && seen.end == visible.end)
    });
    let is_known = |node: Node<'_>| {
        let name = syntax.text(node);
        !declared_in_parents.contains(name)
            || declared.iter().any(|(own, visible)| {
                *own == name && visible.start <= node.start_byte() && node.end_byte() <= visible.end
            })
    };
    let mut uses = syntax
        .functions()
        .into_iter()
        .flat_map(|function| descendants(function.body))
        .filter(|node| node.kind() == "identifier");
    !is_twice && uses.all(is_known)
}

/// The names that functions declare, parameters included, and where each is visible.
fn visible_declarations<'s>(syntax: &Syntax<'s>) -> Vec<(&'s str, Range<usize>)> {
    let mut declared = Vec::new();
    for function in syntax.functions() {
        for node in descendants(function.node) {
            let is_declaration = matches!(
                node.kind(),
                "declaration"
                    | "parameter_declaration"
                    | "optional_parameter_declaration"
                    | "for_range_loop"
            );
            if !is_declaration {
                continue;
            }
            let around = crate::kernel::syntax::enclosing(
                node,
                &[
                    "compound_statement",
                    "for_statement",
                    "if_statement",
                    "lambda_expression",
                ],
            );
            let end = around
                .map_or(function.node.end_byte(), |around| around.end_byte())
                .min(function.node.end_byte());
            let mut cursor = node.walk();
            for declarator in node.children_by_field_name("declarator", &mut cursor) {
                let mut at = Some(declarator);
                while let Some(inner) = at.filter(|inner| inner.kind() != "identifier") {
                    at = inner.child_by_field_name("declarator").or_else(|| {
                        children(inner).find(|child| {
                            child.kind() == "identifier" || child.kind().ends_with("declarator")
                        })
                    });
                }
                declared.extend(at.map(|name| (syntax.text(name), name.start_byte()..end)));
            }
        }
    }
    declared
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskFiles;

    fn kernel(tunable: &str, helper: &str, body: &str) -> String {
        format!(
            "/* kforge\nlaunch:\n  - kernel: softmax\n    grid: rows\n    block: ROWS\n    args: x, output, rows, columns\ntunables:\n  ROWS: {tunable}\n*/\n\
             __device__ float twice(float a) {{ {helper} }}\n\
             __global__ void softmax(const float* x, float* output, int rows, int columns) {{\n{body}}}\n"
        )
    }

    fn all_children(first: &str, second: &str) -> Vec<Proposal> {
        let task = TaskFiles::find("softmax")
            .and_then(|files| files.load())
            .expect("softmax is shipped");
        (0..)
            .map_while(|attempt| recombine(first, second, &task, attempt).ok())
            .collect()
    }

    #[test]
    fn each_difference_makes_a_child() {
        let first = kernel(
            "[1, 2]",
            "return a + a;",
            "    int i = blockIdx.x;\n    float sum = x[i];\n    output[i] = twice(sum);\n",
        );
        let second = kernel(
            "[2, 1]",
            "return 2.0f * a;",
            "    int i = blockIdx.x;\n    float sum = x[i] + 1.0f;\n#pragma unroll 2\n    for (;;) break;\n    output[i] = twice(sum);\n",
        );
        let children = all_children(&first, &second);
        let details: Vec<_> = children
            .iter()
            .map(|child| format!("{}\n", child.detail))
            .collect();
        insta::assert_snapshot!(details.concat(), @r#"
        second parent with the statements of line 12
        first parent with the statements of line 12
        second parent with ROWS=1
        second parent with function twice
        first parent with function twice
        first parent with ROWS=2
        "#);
        let with_loop = children
            .iter()
            .find(|child| child.detail.starts_with("first parent with the statements"));
        insta::assert_snapshot!(with_loop.map_or("", |child| &child.source), @r#"
        /* kforge
        launch:
          - kernel: softmax
            grid: rows
            block: ROWS
            args: x, output, rows, columns
        tunables:
          ROWS: [1, 2]
        */
        __device__ float twice(float a) { return a + a; }
        __global__ void softmax(const float* x, float* output, int rows, int columns) {
            int i = blockIdx.x;
            float sum = x[i] + 1.0f;
        #pragma unroll 2
            for (;;) break;
            output[i] = twice(sum);
        }
        "#);
    }

    #[test]
    fn children_with_undeclared_names_are_dropped() {
        let first = kernel(
            "[1]",
            "return a;",
            "    int i = 0;\n    float sum = x[i];\n    int rest = 0;\n    output[i] = sum;\n",
        );
        let second = kernel(
            "[1]",
            "return a;",
            "    int i = 0;\n    float other = x[i];\n    int rest = 0;\n    output[i] = other;\n",
        );
        // One statement alone would use a name that is not there.
        assert!(all_children(&first, &second).is_empty());
        assert!(all_children(&first, &first).is_empty());
        assert!(all_children("garbage", &second).is_empty());
    }
}
