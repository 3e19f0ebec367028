//! Lists what two kernels do differently, each difference with the edits that take it over.

use std::ops::Range;

use indexmap::IndexMap;
use tree_sitter::Node;

use super::interface::Interface;
use super::runs::differing_runs;
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{FunctionNode, Syntax, children, descendants};
use crate::kernel::{Kernel, LaunchHeader, LocatedExpression, with_point};
use crate::propose::header_text;
use crate::propose::source_edits::SourceEdits;
use crate::task::Task;

/// Maximum number of differences. Further ones are ignored: a search would never try all their combinations.
const MAX_DIFFERENCES: usize = 24;

/// Maximum length of a function that is compared statement by statement.
const MAX_STATEMENTS: usize = 200;

/// One difference that a kernel can take over from the other one.
#[derive(Clone, Debug)]
pub(super) struct ParentDifference {
    /// What is taken over, for reports: `ROWS=2`, `function warp_sum`.
    pub label: String,
    /// Edits of the kernel that takes it over.
    pub edits: SourceEdits,
    /// What the statements that are replaced do, and what the new ones do. Empty if no statements are replaced.
    pub removed: Interface,
    pub added: Interface,
}

impl ParentDifference {
    fn replacement(label: String, range: Range<usize>, text: &str) -> Self {
        let mut edits = SourceEdits::new();
        edits.replace(range, text);
        Self::of_edits(label, edits)
    }

    fn of_edits(label: String, edits: SourceEdits) -> Self {
        Self {
            label,
            edits,
            removed: Interface::default(),
            added: Interface::default(),
        }
    }
}

/// What `base` can take over from `other`.
pub(super) fn parent_differences(base: &str, other: &str, task: &Task) -> Vec<ParentDifference> {
    let mut differences = Vec::new();
    let parse = |text: &str| Kernel::parse(text, &task.definition).ok();
    let kernels = parse(base).zip(parse(other));
    if let Some((base, other)) = &kernels {
        differences.extend(tunable_differences(base, other));
        differences.extend(variants_difference(base, other));
    }
    let (base, other) = (Syntax::parse(base), Syntax::parse(other));
    let kernels = kernels.as_ref().map(|(base, other)| (base, other));
    differences.extend(function_differences(&base, &other, kernels));
    differences.truncate(MAX_DIFFERENCES);
    differences
}

/// Tunables with another value, if the lists of `base` contain it.
fn tunable_differences(base: &Kernel, other: &Kernel) -> Vec<ParentDifference> {
    let own = base.point();
    let mut differences = Vec::new();
    for (name, value) in other.point() {
        if own.get(&name).is_none_or(|own| *own == value) {
            continue;
        }
        let point = IndexMap::from([(name.clone(), value)]);
        // `with_point` writes the whole file; only the list is taken, so that differences can be combined.
        let list = with_point(base, &point).and_then(|text| {
            let range = header_text::tunable_list_range(&text, &name)?;
            Some(text[range].trim().to_owned())
        });
        let range = header_text::tunable_list_range(&base.text, &name);
        if let (Some(list), Some(range)) = (list, range) {
            let label = format!("{name}={value}");
            let list = header_text::replacement_value(&base.text, &range, &list);
            differences.push(ParentDifference::replacement(label, range, &list));
        }
    }
    differences
}

/// Another `variants` section, or none.
fn variants_difference(base: &Kernel, other: &Kernel) -> Option<ParentDifference> {
    let range = header_text::section_range(&base.text, "variants");
    let own = range.clone().map(|range| &base.text[range]);
    let new = header_text::section_range(&other.text, "variants").map(|range| &other.text[range]);
    if own == new {
        return None;
    }
    let header_end = header_text::header_range(&base.text).end - 2;
    Some(ParentDifference::replacement(
        "variants".to_owned(),
        range.unwrap_or(header_end..header_end),
        new.unwrap_or_default(),
    ))
}

/// Edits that give the launches of a function the grid, the block and the shared memory that they have in the other kernel.
/// `None` if the two kernels launch it in different ways, so that no edit of a value helps.
fn launch_edits(base: &Kernel, other: &Kernel, function: &str) -> Option<SourceEdits> {
    let launches = |kernel: &Kernel| -> Vec<LaunchHeader> {
        let launches = kernel.header.launches.iter();
        let is_own = |launch: &&LaunchHeader| {
            launch.kernel.split('<').next().map(str::trim) == Some(function)
        };
        launches.filter(is_own).cloned().collect()
    };
    let (own, new) = (launches(base), launches(other));
    if own.len() != new.len() {
        return None;
    }
    let mut edits = SourceEdits::new();
    for (launch, twin) in own.iter().zip(&new) {
        if launch.kernel != twin.kernel {
            return None;
        }
        let (own, new) = (launch_values(launch), launch_values(twin));
        for ((key, own), (_, new)) in own.into_iter().zip(new) {
            match (own, new) {
                (Some(own), Some(new)) if own != new => {
                    let range = header_text::launch_value_range(&base.text, launch.line, key)?;
                    let value = header_text::replacement_value(&base.text, &range, &new);
                    edits.replace(range, value);
                }
                (Some(_), Some(_)) | (None, None) => {}
                _ => return None,
            }
        }
    }
    Some(edits)
}

/// The values of a launch that belong to the code of its kernel, by key, each as it is written on one line.
fn launch_values(launch: &LaunchHeader) -> [(&'static str, Option<String>); 3] {
    let shared = launch.shared.as_ref();
    [
        ("grid", Some(sizes_text(&launch.grid))),
        ("block", Some(sizes_text(&launch.block))),
        (
            "shared",
            shared.map(|shared| shared.expression.text().to_owned()),
        ),
    ]
}

/// A list of sizes as it is written on one line.
fn sizes_text(sizes: &[LocatedExpression]) -> String {
    let texts: Vec<_> = sizes.iter().map(|size| size.expression.text()).collect();
    texts.join(", ")
}

/// Functions with the same name in both kernels: device functions as a whole, kernels statement by statement.
///
/// A kernel that the two launch differently is taken over with its launch, because its code may rely on it.
fn function_differences(
    base: &Syntax<'_>,
    other: &Syntax<'_>,
    kernels: Option<(&Kernel, &Kernel)>,
) -> Vec<ParentDifference> {
    let others = other.functions();
    let mut differences = Vec::new();
    for function in base.functions() {
        let name = base.function_name(&function);
        let mut twins = others
            .iter()
            .filter(|twin| other.function_name(twin) == name);
        let (Some(twin), None) = (twins.next(), twins.next()) else {
            continue;
        };
        let pair = FunctionPair {
            base,
            function,
            other,
            twin: *twin,
        };
        let is_equal = normalized_text(base, function.node) == normalized_text(other, twin.node);
        let Some((own_kernel, other_kernel)) = kernels.filter(|_| function.is_global) else {
            if !is_equal {
                differences.extend(pair.differences());
            }
            continue;
        };
        let Some(mut launch) = launch_edits(own_kernel, other_kernel, name) else {
            continue;
        };
        match (launch.is_empty(), is_equal) {
            (true, true) => {}
            (true, false) => differences.extend(pair.differences()),
            (false, is_equal) => {
                let what = if is_equal {
                    "launch"
                } else {
                    "code and launch"
                };
                if !is_equal {
                    launch.replace(function.node.byte_range(), other.text(twin.node));
                }
                differences.push(ParentDifference::of_edits(
                    format!("the {what} of {name}"),
                    launch,
                ));
            }
        }
    }
    differences
}

/// Two functions with the same name and different texts.
struct FunctionPair<'t, 's> {
    base: &'t Syntax<'s>,
    function: FunctionNode<'t>,
    other: &'t Syntax<'s>,
    twin: FunctionNode<'t>,
}

impl FunctionPair<'_, '_> {
    fn differences(&self) -> Vec<ParentDifference> {
        let Self {
            base,
            function,
            other,
            twin,
        } = self;
        let name = base.function_name(function);
        let has_same_signature =
            normalized_text(base, function.declarator) == normalized_text(other, twin.declarator);
        if !function.is_global {
            return has_same_signature
                .then(|| {
                    ParentDifference::replacement(
                        format!("function {name}"),
                        function.node.byte_range(),
                        other.text(twin.node),
                    )
                })
                .into_iter()
                .collect();
        }
        // Statements can only be exchanged if both functions name their parameters alike.
        if parameter_names(base, function) != parameter_names(other, twin) {
            return Vec::new();
        }
        let mut differences = Vec::new();
        if !has_same_signature {
            differences.push(ParentDifference::replacement(
                format!("the parameters of {name}"),
                function.node.start_byte()..function.body.start_byte(),
                &other.source()[twin.node.start_byte()..twin.body.start_byte()],
            ));
        }
        differences.extend(self.statement_differences());
        differences
    }

    /// Every run of statements in which the two bodies differ.
    fn statement_differences(&self) -> Vec<ParentDifference> {
        let (own, new) = (statements(self.function.body), statements(self.twin.body));
        if own.len() > MAX_STATEMENTS || new.len() > MAX_STATEMENTS {
            return Vec::new();
        }
        let texts = |syntax: &Syntax<'_>, nodes: &[Node<'_>]| -> Vec<String> {
            nodes
                .iter()
                .map(|node| normalized_text(syntax, *node))
                .collect()
        };
        let runs = differing_runs(&texts(self.base, &own), &texts(self.other, &new));
        let own_parameters = parameter_names(self.base, &self.function);
        let new_parameters = parameter_names(self.other, &self.twin);
        runs.into_iter()
            .map(|(own_run, new_run)| {
                let removed = Interface::of(self.base, &own[own_run.clone()], &own_parameters);
                let added = Interface::of(self.other, &new[new_run.clone()], &new_parameters);
                let range = run_range(self.base, self.function.body, &own, own_run);
                let text =
                    &self.other.source()[run_range(self.other, self.twin.body, &new, new_run)];
                let line = self.base.source()[..range.start].matches('\n').count() + 1;
                ParentDifference {
                    removed,
                    added,
                    ..ParentDifference::replacement(
                        format!("the statements of line {line}"),
                        range,
                        text,
                    )
                }
            })
            .collect()
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

/// The statements and directives of a body, without comments.
fn statements(body: Node<'_>) -> Vec<Node<'_>> {
    children(body)
        .filter(|child| child.is_named() && child.kind() != "comment")
        .collect()
}

/// The bytes of a run of statements, from the end of the statement before it. An empty run is an insertion point.
///
/// The line breaks before the statements belong to the run, so that a directive keeps its own line.
fn run_range(
    syntax: &Syntax<'_>,
    body: Node<'_>,
    statements: &[Node<'_>],
    run: Range<usize>,
) -> Range<usize> {
    // The node of a directive includes its line break, which belongs to the next run.
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
