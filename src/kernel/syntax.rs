//! The syntax tree of a kernel file: a thin, safe layer over the grammar, with what kforge asks of it.
//!
//! Reads any text without failing: what is no CUDA gives a tree that is not sound, and transformations leave it alone.
//! Never follows an include, and knows types only as far as the file spells them.

use tree_sitter::{Node, Parser, Tree, TreeCursor};

mod declarations;
mod facts;

pub use declarations::declares_at_namespace_scope;
pub(crate) use facts::builtin_type_bytes;
pub use facts::{SourceFacts, source_facts};

/// Deeper than any honest kernel, and shallow enough for what descends by recursion.
const MAX_DEPTH: u32 = 200;

/// A parsed source.
pub struct Syntax<'s> {
    source: &'s str,
    tree: Tree,
    is_sound: bool,
}

/// A function with a body.
#[derive(Clone, Copy, Debug)]
pub struct FunctionNode<'t> {
    pub node: Node<'t>,
    /// The node with the name, the parameters and what stands around them.
    pub declarator: Node<'t>,
    pub body: Node<'t>,
    /// Marked `__global__`.
    pub is_global: bool,
}

impl<'s> Syntax<'s> {
    /// Parses any text.
    ///
    /// # Panics
    /// Only where the grammar does not fit the parser, which no source can cause.
    pub fn parse(source: &'s str) -> Self {
        let mut parser = Parser::new();
        parser
            .set_language(&tree_sitter_cuda::LANGUAGE.into())
            .expect("the grammar and the parser are built for each other");
        let tree = parser
            .parse(source, None)
            .expect("a parser with a language and no deadline gives a tree");
        let is_sound = !tree.root_node().has_error() && is_shallow(tree.root_node());
        Self {
            source,
            tree,
            is_sound,
        }
    }

    pub(crate) fn source(&self) -> &'s str {
        self.source
    }

    pub fn root(&self) -> Node<'_> {
        self.tree.root_node()
    }

    /// Whether the whole text is CUDA C++ as the grammar knows it, and not nested beyond reason.
    pub fn is_sound(&self) -> bool {
        self.is_sound
    }

    pub(crate) fn text(&self, node: Node<'_>) -> &'s str {
        self.source.get(node.byte_range()).unwrap_or_default()
    }

    /// The functions with bodies at namespace scope, in order.
    pub fn functions(&self) -> Vec<FunctionNode<'_>> {
        if !self.is_sound {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut walk = descendants(self.root());
        while let Some(node) = walk.next() {
            match node.kind() {
                "function_definition" => {
                    found.push(node);
                    walk.skip_children();
                }
                "declaration" | "comment" | "field_declaration_list" => walk.skip_children(),
                _ => {}
            }
        }
        found
            .into_iter()
            .filter_map(|node| {
                let mut declarator = node.child_by_field_name("declarator")?;
                while declarator.kind() != "function_declarator" {
                    declarator = declarator.child_by_field_name("declarator")?;
                }
                Some(FunctionNode {
                    node,
                    declarator,
                    body: node
                        .child_by_field_name("body")
                        .filter(|body| body.kind() == "compound_statement")?,
                    is_global: children(node).any(|child| child.kind() == "__global__"),
                })
            })
            .collect()
    }

    /// The function's name without template arguments or scopes.
    pub fn function_name(&self, function: &FunctionNode<'_>) -> &'s str {
        function
            .declarator
            .child_by_field_name("declarator")
            .map_or("", |name| self.text(name))
    }

    /// The source as words, without comments, white space, and line structure: two sources with the same words are the same
    /// code. The header is a comment, and has to be compared apart.
    pub fn lexemes(&self) -> Vec<&'s str> {
        let mut words = Vec::new();
        let mut walk = descendants(self.root());
        while let Some(node) = walk.next() {
            if node.kind() == "comment" {
                walk.skip_children();
            } else if node.child_count() == 0 {
                // A directive's last leaf holds the rest of its line.
                words.extend(self.text(node).split_whitespace());
            }
        }
        words
    }

    /// The value of an integer expression, where names have the values that `value_of` gives, or the file's own constants.
    pub fn evaluate_integer(
        &self,
        node: Node<'_>,
        value_of: &dyn Fn(&str) -> Option<i64>,
    ) -> Option<i64> {
        facts::IntegerEvaluator::new(self, value_of).evaluate(node, 0)
    }
}

/// All nodes below and including one, parents before children.
pub fn descendants(node: Node<'_>) -> Descendants<'_> {
    Descendants {
        cursor: node.walk(),
        state: WalkState::Begin,
    }
}

/// The children in order, punctuation included.
pub(crate) fn children<'t>(node: Node<'t>) -> impl DoubleEndedIterator<Item = Node<'t>> {
    let mut cursor = node.walk();
    node.children(&mut cursor).collect::<Vec<_>>().into_iter()
}

/// The named children in order, without comments.
pub(crate) fn named_children<'t>(node: Node<'t>) -> impl DoubleEndedIterator<Item = Node<'t>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor)
        .filter(|child| child.kind() != "comment")
        .collect::<Vec<_>>()
        .into_iter()
}

/// The nearest node around this one of one of these kinds.
pub(crate) fn enclosing<'t>(node: Node<'t>, kinds: &[&str]) -> Option<Node<'t>> {
    std::iter::successors(node.parent(), Node::parent).find(|around| kinds.contains(&around.kind()))
}

/// Whether `inner` lies within `outer`, or is it.
pub(crate) fn contains(outer: Node<'_>, inner: Node<'_>) -> bool {
    outer.start_byte() <= inner.start_byte() && inner.end_byte() <= outer.end_byte()
}

/// The line of a node, counted from 1.
pub fn line_of(node: Node<'_>) -> usize {
    node.start_position().row + 1
}

/// A walk that holds no stack of its own, so that no text can exhaust one.
pub struct Descendants<'t> {
    cursor: TreeCursor<'t>,
    state: WalkState,
}

#[derive(PartialEq)]
enum WalkState {
    Begin,
    Descend,
    Skip,
    End,
}

impl Descendants<'_> {
    /// Leaves out what is below the node that came last.
    pub(crate) fn skip_children(&mut self) {
        if self.state == WalkState::Descend {
            self.state = WalkState::Skip;
        }
    }
}

impl<'t> Iterator for Descendants<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        let found = match self.state {
            WalkState::End => false,
            WalkState::Begin => true,
            WalkState::Descend if self.cursor.goto_first_child() => true,
            WalkState::Descend | WalkState::Skip => loop {
                if self.cursor.goto_next_sibling() {
                    break true;
                }
                if !self.cursor.goto_parent() {
                    break false;
                }
            },
        };
        self.state = if found {
            WalkState::Descend
        } else {
            WalkState::End
        };
        found.then(|| self.cursor.node())
    }
}

/// Whether the tree nests no deeper than recursion may follow.
fn is_shallow(root: Node<'_>) -> bool {
    let mut walk = descendants(root);
    while walk.next().is_some() {
        if walk.cursor.depth() > MAX_DEPTH {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/* kforge */\n#pragma once\ntemplate <int n> __device__ float f(float x) { return x; }\n\
         __global__ void __launch_bounds__(128) g(float* p) { p[0] = f<2>(1.0f); /* why */ }\n";

    #[test]
    fn functions_are_found_and_named() {
        let syntax = Syntax::parse(SOURCE);
        let functions: Vec<_> = syntax
            .functions()
            .iter()
            .map(|function| (syntax.function_name(function), function.is_global))
            .collect();
        assert_eq!(functions, [("f", false), ("g", true)]);
        assert_eq!(line_of(syntax.functions()[1].node), 4);
    }

    #[test]
    fn lexemes_ignore_comments_and_white_space() {
        let spaced = SOURCE
            .replace("/* why */", "\n\n // because\n")
            .replace("{ ", "{\n  ");
        assert_eq!(
            Syntax::parse(SOURCE).lexemes(),
            Syntax::parse(&spaced).lexemes()
        );
        let changed = SOURCE.replace("p[0]", "p[1]");
        assert_ne!(
            Syntax::parse(SOURCE).lexemes(),
            Syntax::parse(&changed).lexemes()
        );
    }

    #[test]
    fn any_text_parses_without_a_panic() {
        assert!(Syntax::parse(SOURCE).is_sound());
        for end in 0..SOURCE.len() {
            let _ = Syntax::parse(&SOURCE[..end]).lexemes();
        }
        let nested = format!("int x = {}1{};", "(".repeat(5000), ")".repeat(5000));
        let syntax = Syntax::parse(&nested);
        assert!(!syntax.is_sound() && syntax.functions().is_empty());
        assert!(!Syntax::parse("int ;;; }{ ü").is_sound());
    }
}
