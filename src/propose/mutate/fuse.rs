//! `fuse`: two loops over the same range become one.

use tree_sitter::Node;

use super::effects::Effects;
use super::indices::index_grows_by_one;
use super::loops::CountingLoop;
use super::memory::{WriteTarget, memory_reads, write_target};
use super::nodes::{index_of, operator_of};
use super::purity::is_pure;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::code_layout::{
    head_range, indent_following_lines, indentation, without_spaces,
};
use crate::propose::source_edits::SourceEdits;

/// Fuses a loop with a later one of the same block.
///
/// ```text
/// for (int i = 0; i < n; i++) output[i] = 2.0f * x[i];
/// float sum = 0.0f;
/// for (int i = 0; i < n; i++) sum += output[i];
/// ```
/// becomes
/// ```text
/// float sum = 0.0f;
/// for (int i = 0; i < n; i++) {
///     output[i] = 2.0f * x[i];
///     sum += output[i];
/// }
/// ```
///
/// Legal for loops with the same variable and range that are never left early, if iteration `i` of the second loop needs only
/// iteration `i` of the first: no variable passes from one loop to the other, and memory that one writes is accessed by both
/// at the same index. Between the loops, only declarations that can move before the first one are allowed.
///
/// Faster because data stays in registers between the two bodies, and the loop overhead is paid once.
pub(super) struct Fuse;

impl Transformation for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops = CountingLoop::all_in(&scope);
            for (index, first) in loops.iter().enumerate() {
                sites.extend(
                    loops[index + 1..]
                        .iter()
                        .find_map(|second| LoopPair::new(&scope, first, second)?.fuse()),
                );
            }
        }
        sites
    }
}

/// Two loops of one block over the same range.
struct LoopPair<'s, 't, 'a> {
    scope: &'s Scope<'t, 'a>,
    block: Node<'t>,
    first: &'s CountingLoop<'t, 'a>,
    second: &'s CountingLoop<'t, 'a>,
    first_effects: Effects<'a>,
    second_effects: Effects<'a>,
    /// The statements between them.
    between: Vec<Node<'t>>,
}

impl<'s, 't, 'a> LoopPair<'s, 't, 'a> {
    fn new(
        scope: &'s Scope<'t, 'a>,
        first: &'s CountingLoop<'t, 'a>,
        second: &'s CountingLoop<'t, 'a>,
    ) -> Option<Self> {
        let block = first
            .node
            .parent()
            .filter(|block| block.kind() == "compound_statement")?;
        let means_the_same = [Some(second.start), Some(second.bound), second.step]
            .into_iter()
            .flatten()
            .all(|node| scope.resolves_same_before(node, first.node));
        if !first.has_same_iterations(scope, second)
            || !means_the_same
            || !first.is_in_block(scope)
            || !second.is_in_block(scope)
        {
            return None;
        }
        let between = named_children(block)
            .filter(|node| {
                first.node.end_byte() <= node.start_byte()
                    && node.end_byte() <= second.range_with_pragma().start
            })
            .collect();
        Some(Self {
            scope,
            block,
            first,
            second,
            first_effects: Effects::of(scope, first.body),
            second_effects: Effects::of(scope, second.body),
            between,
        })
    }

    /// The rewrite, if it is legal.
    fn fuse(&self) -> Option<RewriteSite> {
        let is_simple = |effects: &Effects<'_>| !effects.is_opaque && !effects.jumps;
        let is_legal = is_simple(&self.first_effects)
            && is_simple(&self.second_effects)
            && self.between_can_move()
            && !self.passes_variable(&self.first_effects, self.second)
            && !self.passes_variable(&self.second_effects, self.first)
            && self.touch_same_elements();
        if !is_legal {
            return None;
        }
        let (first, second) = (line_of(self.first.node), line_of(self.second.node));
        let mut edits = SourceEdits::new();
        edits.replace_by_lines(
            self.scope.subject.source(),
            self.first.range_with_pragma().start..self.second.node.end_byte(),
            &self.text()?,
        );
        Some(RewriteSite {
            label: format!("lines {first} and {second}"),
            line: first,
            edits,
        })
    }

    /// Whether the statements between the loops are declarations that do not depend on the first loop.
    fn between_can_move(&self) -> bool {
        self.between.iter().all(|node| {
            node.kind() == "declaration"
                && is_pure(self.scope, *node)
                && !self.first_effects.may_change(self.scope, *node)
                && !Effects::of(self.scope, *node).is_opaque
        })
    }

    /// Whether the other loop uses a variable from outside that these effects assign.
    fn passes_variable(&self, effects: &Effects<'a>, other: &CountingLoop<'t, 'a>) -> bool {
        effects.assigned.iter().any(|name| {
            let is_outer = self
                .scope
                .lookup(name, self.first.node.start_byte())
                .is_some();
            is_outer && !self.scope.uses(other.body, name).is_empty()
        })
    }

    /// Whether both loops access all memory that one of them writes and the other touches at one index, which differs in
    /// every iteration.
    fn touch_same_elements(&self) -> bool {
        let scope = self.scope;
        let shares = |effects: &Effects<'a>, other: &CountingLoop<'t, 'a>, others: &Effects<'a>| {
            let read = memory_reads(scope, other.body);
            effects.stored.iter().any(|root| {
                read.iter()
                    .chain(&others.stored)
                    .any(|touched| scope.may_alias(*root, *touched))
            })
        };
        if !shares(&self.first_effects, self.second, &self.second_effects)
            && !shares(&self.second_effects, self.first, &self.first_effects)
        {
            return true;
        }
        let Some(accesses) = self.accesses_to_written_memory() else {
            return false;
        };
        accesses.iter().all(|(root, text)| {
            accesses
                .iter()
                .all(|(other, same)| !scope.may_alias(*root, *other) || text == same)
        })
    }

    /// The root and the text of every access, in both loops, to memory that one of them writes.
    ///
    /// `None` if an access is not a subscript that grows by one with the loop variable, or its root is unknown.
    fn accesses_to_written_memory(&self) -> Option<Vec<(Option<&'a str>, String)>> {
        let scope = self.scope;
        let mut accesses = Vec::new();
        for counting_loop in [self.first, self.second] {
            for node in descendants(counting_loop.body) {
                let is_access = node.kind() == "subscript_expression"
                    || node.kind() == "pointer_expression" && operator_of(node) == "*";
                if !is_access {
                    continue;
                }
                let WriteTarget::Memory(root) = write_target(scope, node) else {
                    continue;
                };
                let is_written = self
                    .first_effects
                    .stored
                    .iter()
                    .chain(&self.second_effects.stored)
                    .any(|stored| scope.may_alias(*stored, root));
                if !is_written {
                    continue;
                }
                let index = index_of(node)
                    .filter(|index| index_grows_by_one(scope, *index, counting_loop.variable))?;
                let is_steady = descendants(index)
                    .filter(|name| {
                        name.kind() == "identifier" && scope.text(*name) != counting_loop.variable
                    })
                    .all(|name| scope.resolves_same_before(name, self.first.node));
                if !is_steady || root.is_none() {
                    return None;
                }
                accesses.push((root, without_spaces(scope.text(node))));
            }
        }
        Some(accesses)
    }

    /// The text of the fused loop, with the declarations that move before it.
    fn text(&self) -> Option<String> {
        let (scope, first) = (self.scope, self.first);
        let indent = first.indent(scope);
        let moved: String = self
            .between
            .iter()
            .map(|node| format!("{indent}{}\n", scope.text(*node)))
            .collect();
        let first_body = first.body_text(scope, &SourceEdits::new())?;
        let mut second_body = self.second.body_text(scope, &SourceEdits::new())?;
        if self.declare_same_name() {
            second_body = format!(
                "{{\n{indent}        {}\n{indent}    }}",
                indent_following_lines(&second_body)
            );
        }
        let source = scope.subject.source();
        let head = &source[head_range(first.node, first.body)?];
        let comments = self.comments_between();
        let pragma = first.pragma_line(scope);
        Some(format!(
            "{moved}{pragma}{indent}{head} {{\n{indent}    {first_body}\n{indent}    {comments}{second_body}\n{indent}}}"
        ))
    }

    /// Whether both bodies declare a name, so that the second needs a block of its own.
    fn declare_same_name(&self) -> bool {
        let names = |counting_loop: &CountingLoop<'t, 'a>| -> Vec<&str> {
            let body = counting_loop.body.byte_range();
            self.scope
                .declarations
                .iter()
                .filter(|declaration| body.contains(&declaration.identifier.start_byte()))
                .map(|declaration| declaration.name)
                .collect()
        };
        let second = names(self.second);
        names(self.first).iter().any(|name| second.contains(name))
    }

    /// The comments between the loops, each on a line of its own.
    fn comments_between(&self) -> String {
        let (from, to) = (self.first.node.end_byte(), self.second.node.start_byte());
        let indent = indentation(self.scope.subject.source(), to);
        descendants(self.block)
            .filter(|node| {
                node.kind() == "comment" && node.start_byte() >= from && node.end_byte() <= to
            })
            .map(|node| format!("{}\n{indent}    ", self.scope.text(node)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn adjacent_loops_over_one_range_fuse() {
        let body = "    const int row = blockIdx.x;\n    for (int i = 0; i < columns; i++) {\n        const float value = x[row * columns + i];\n        output[row * columns + i] = 2.0f * value;\n    }\n\n    // The sum.\n    float sum = 0.0f;\n#pragma unroll 2\n    for (int i = 0; i < columns; i++) {\n        const float value = output[row * columns + i];\n        sum += value;\n    }\n    output[0] = sum;\n";
        insta::assert_snapshot!(changes(&Fuse, body, "lines"), @r#"
        -     for (int i = 0; i < columns; i++) {
        -         const float value = x[row * columns + i];
        -         output[row * columns + i] = 2.0f * value;
        -     }
        - 
        -     // The sum.
        -     float sum = 0.0f;
        - #pragma unroll 2
        -     for (int i = 0; i < columns; i++) {
        -         const float value = output[row * columns + i];
        -         sum += value;
        +     float sum = 0.0f;
        +     for (int i = 0; i < columns; i++) {
        +         const float value = x[row * columns + i];
        +         output[row * columns + i] = 2.0f * value;
        +         // The sum.
        +         {
        +             const float value = output[row * columns + i];
        +             sum += value;
        +         }
        "#);
    }

    #[test]
    fn dependent_loops_do_not_fuse() {
        for body in [
            "    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) sum += x[i];\n    for (int i = 0; i < 64; i++) output[i] = sum;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[63 - i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 64; i++) output[64] += output[i];\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    for (int i = 0; i < 32; i++) output[i] += 1.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = x[i];\n    __syncthreads();\n    for (int i = 0; i < 64; i++) output[i] += 1.0f;\n",
        ] {
            assert_eq!(site_labels(&Fuse, body), "", "{body}");
        }
    }
}
