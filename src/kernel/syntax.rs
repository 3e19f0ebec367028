//! The syntax tree of a kernel file: a thin, safe layer over the tree-sitter grammar for CUDA.
//!
//! Parses any text. Text that is not CUDA gives a tree that is not sound, and transformations leave it alone. Follows no include,
//! and knows only the types that the file spells out. `facts` derives numbers from a tree, `integers` evaluates constants.

use tree_sitter::{Node, Parser, Tree, TreeCursor};

mod declarations;
mod facts;
mod integers;
mod types;

pub use declarations::declares_at_namespace_scope;
pub use facts::{SourceFacts, source_facts};
pub(crate) use types::builtin_type_bytes;

/// The deepest nesting of a sound tree: more than a real kernel has, and little enough for recursive functions.
const MAX_TREE_DEPTH: u32 = 200;

/// A source and its syntax tree.
pub struct Syntax<'s> {
    source: &'s str,
    tree: Tree,
    is_sound: bool,
}

/// A function with a body.
#[derive(Clone, Copy, Debug)]
pub struct FunctionNode<'t> {
    pub node: Node<'t>,
    /// The node with the name and the parameters.
    pub declarator: Node<'t>,
    pub body: Node<'t>,
    /// Whether it is marked `__global__`.
    pub is_global: bool,
}

impl<'s> Syntax<'s> {
    /// Parses any text.
    ///
    /// # Panics
    /// Only if the grammar does not fit the parser version. No source can cause it.
    pub fn parse(source: &'s str) -> Self {
        let mut parser = Parser::new();
        parser
            .set_language(&tree_sitter_cuda::LANGUAGE.into())
            .expect("the grammar fits the parser version");
        let tree = parser
            .parse(source, None)
            .expect("a parser with a language and without a timeout returns a tree");
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

    /// The root node.
    pub fn root(&self) -> Node<'_> {
        self.tree.root_node()
    }

    /// Whether the grammar accepts the whole text and its nesting is limited.
    pub fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// The source text of a node.
    pub(crate) fn text(&self, node: Node<'_>) -> &'s str {
        self.source.get(node.byte_range()).unwrap_or_default()
    }

    /// The functions with bodies at namespace scope, in order. Empty if the tree is not sound.
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

    /// The name of a function, without template arguments and scopes.
    pub fn function_name(&self, function: &FunctionNode<'_>) -> &'s str {
        function
            .declarator
            .child_by_field_name("declarator")
            .map_or("", |name| self.text(name))
    }

    /// The source without comments, white space and line structure. Two sources with the same lexemes are the same code. The header
    /// is a comment, so it must be compared separately.
    pub fn lexemes(&self) -> Vec<&'s str> {
        let mut lexemes = Vec::new();
        let mut walk = descendants(self.root());
        while let Some(node) = walk.next() {
            if node.kind() == "comment" {
                walk.skip_children();
            } else if node.child_count() == 0 {
                // The last leaf of a directive has the rest of its line.
                lexemes.extend(self.text(node).split_whitespace());
            }
        }
        lexemes
    }
}

/// A node and all nodes below it, parents before children.
pub fn descendants(node: Node<'_>) -> Descendants<'_> {
    Descendants {
        cursor: node.walk(),
        state: WalkState::Start,
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

/// The nearest ancestor of a node that has one of these kinds.
pub(crate) fn enclosing<'t>(node: Node<'t>, kinds: &[&str]) -> Option<Node<'t>> {
    std::iter::successors(node.parent(), Node::parent).find(|around| kinds.contains(&around.kind()))
}

/// Whether `inner` is within `outer` or is the same node.
pub(crate) fn contains(outer: Node<'_>, inner: Node<'_>) -> bool {
    outer.start_byte() <= inner.start_byte() && inner.end_byte() <= outer.end_byte()
}

/// The line of a node, counted from 1.
pub fn line_of(node: Node<'_>) -> usize {
    node.start_position().row + 1
}

/// The iterator of [`descendants`]. It is not recursive, so no text can exhaust the stack.
pub struct Descendants<'t> {
    cursor: TreeCursor<'t>,
    state: WalkState,
}

#[derive(PartialEq)]
enum WalkState {
    Start,
    Descend,
    Skip,
    End,
}

impl Descendants<'_> {
    /// Leaves out the nodes below the last node.
    pub(crate) fn skip_children(&mut self) {
        if self.state == WalkState::Descend {
            self.state = WalkState::Skip;
        }
    }
}

impl<'t> Iterator for Descendants<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        let has_next = match self.state {
            WalkState::End => false,
            WalkState::Start => true,
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
        self.state = if has_next {
            WalkState::Descend
        } else {
            WalkState::End
        };
        has_next.then(|| self.cursor.node())
    }
}

/// Whether recursive functions may walk the tree.
fn is_shallow(root: Node<'_>) -> bool {
    let mut walk = descendants(root);
    while walk.next().is_some() {
        if walk.cursor.depth() > MAX_TREE_DEPTH {
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
