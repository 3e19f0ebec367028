//! The names in one function: where each is declared, and which declaration a use refers to.
//!
//! Knows only what the kernel file declares. Names from included headers are unknown, and transformations leave code with
//! unknown names alone. `types` finds the type of an expression, `memory` the memory that a pointer leads to.

use std::ops::Range;

use tree_sitter::Node;

use super::nodes::{is_field, operator_of};
use super::subject::Subject;
use crate::kernel::syntax::{
    FunctionNode, children, contains, descendants, enclosing, named_children,
};

/// Limit of the recursion through nested expressions and the initializers of pointers.
pub(super) const MAX_DEPTH: usize = 64;

/// A function and its declarations.
pub(super) struct Scope<'t, 'a> {
    pub subject: &'t Subject<'a>,
    pub function: FunctionNode<'t>,
    pub declarations: Vec<Declaration<'t, 'a>>,
}

/// One declared name.
#[derive(Clone, Debug)]
pub(super) struct Declaration<'t, 'a> {
    pub name: &'a str,
    /// The type without qualifiers, pointers and array sizes.
    pub type_name: &'a str,
    /// The number of `*`. A parameter `p[]` counts as a pointer.
    pub pointer_depth: usize,
    /// The array sizes, outermost first.
    pub array_sizes: Vec<Node<'t>>,
    pub is_const: bool,
    pub is_restrict: bool,
    pub is_reference: bool,
    pub is_shared: bool,
    /// The index in the parameter list; `None` for a local name.
    pub parameter_index: Option<usize>,
    pub initializer: Option<Node<'t>>,
    /// The whole declaration or parameter.
    pub node: Node<'t>,
    pub identifier: Node<'t>,
    /// The bytes in which the name can be used.
    pub visible_range: Range<usize>,
}

impl Declaration<'_, '_> {
    /// Forgets the facts of the declaration, because the name may refer to anything.
    fn make_unknown(&mut self) {
        self.type_name = "";
        self.is_reference = true;
        self.initializer = None;
    }
}

/// Whether a declaration is between `#if` and `#endif`, so that another one may take its place.
fn is_conditional_code(node: Node<'_>) -> bool {
    std::iter::successors(node.parent(), Node::parent)
        .take_while(|around| around.kind() != "function_definition")
        .any(|around| around.kind().starts_with("preproc_"))
}

impl<'t, 'a> Scope<'t, 'a> {
    pub(super) fn new(subject: &'t Subject<'a>, function: FunctionNode<'t>) -> Self {
        let mut scope = Self {
            subject,
            function,
            declarations: Vec::new(),
        };
        let parameters = function.declarator.child_by_field_name("parameters");
        let parameters = parameters.into_iter().flat_map(named_children);
        for (index, parameter) in parameters.enumerate() {
            if let Some(declarator) = parameter.child_by_field_name("declarator") {
                scope.declare(parameter, declarator, Some(index), function.node.end_byte());
            }
        }
        for node in descendants(function.body) {
            let kinds = [
                "declaration",
                "parameter_declaration",
                "optional_parameter_declaration",
                "for_range_loop",
            ];
            if !kinds.contains(&node.kind()) {
                continue;
            }
            let around = [
                "compound_statement",
                "for_statement",
                "if_statement",
                "while_statement",
                "switch_statement",
                "lambda_expression",
            ];
            let end = if node.kind() == "for_range_loop" {
                node.end_byte()
            } else {
                enclosing(node, &around)
                    .map_or(function.node.end_byte(), |around| around.end_byte())
            };
            let mut cursor = node.walk();
            for declarator in node.children_by_field_name("declarator", &mut cursor) {
                scope.declare(node, declarator, None, end);
            }
        }
        scope
    }

    /// Adds the name of one declarator, visible up to byte `end`.
    fn declare(
        &mut self,
        node: Node<'t>,
        declarator: Node<'t>,
        parameter_index: Option<usize>,
        end: usize,
    ) {
        let text = |node: Node<'_>| self.subject.text(node);
        if declarator.kind() == "structured_binding_declarator"
            || named_children(declarator)
                .any(|child| child.kind() == "structured_binding_declarator")
        {
            self.declare_bindings(node, declarator, end);
            return;
        }
        let has_qualifier = |word: &str| {
            children(node).any(|child| child.kind() == "type_qualifier" && text(child) == word)
        };
        let mut declaration = Declaration {
            name: "",
            type_name: if has_qualifier("volatile") {
                ""
            } else {
                node.child_by_field_name("type")
                    .filter(|type_node| type_node.child_by_field_name("body").is_none())
                    .map_or("", text)
            },
            pointer_depth: 0,
            array_sizes: Vec::new(),
            is_const: has_qualifier("const") || has_qualifier("constexpr"),
            is_restrict: false,
            is_reference: false,
            is_shared: has_qualifier("__shared__"),
            parameter_index,
            initializer: declarator.child_by_field_name("value"),
            node,
            identifier: declarator,
            visible_range: declarator.start_byte()..end,
        };
        let mut at = declarator;
        loop {
            match at.kind() {
                "identifier" => break,
                "pointer_declarator" => {
                    declaration.pointer_depth += 1;
                    declaration.is_restrict |=
                        children(at).any(|child| text(child).starts_with("__restrict"));
                }
                "array_declarator" if parameter_index.is_some() => declaration.pointer_depth += 1,
                "array_declarator" => {
                    // In the tree, the last size is the outermost node.
                    if let Some(size) = at.child_by_field_name("size") {
                        declaration.array_sizes.insert(0, size);
                    } else {
                        declaration.pointer_depth += 1;
                    }
                }
                "reference_declarator" => declaration.is_reference = true,
                _ => {}
            }
            let inner = at.child_by_field_name("declarator").or_else(|| {
                named_children(at).find(|child| {
                    child.kind().ends_with("declarator") || child.kind() == "identifier"
                })
            });
            match inner {
                Some(inner) => at = inner,
                None => return,
            }
        }
        declaration.name = text(at);
        declaration.identifier = at;
        if is_conditional_code(node) {
            declaration.make_unknown();
        }
        self.declarations.push(declaration);
    }

    /// Adds the names of a structured binding. Nothing is known about them.
    fn declare_bindings(&mut self, node: Node<'t>, declarator: Node<'t>, end: usize) {
        for identifier in descendants(declarator)
            .filter(|inner| {
                inner.kind() == "identifier"
                    && inner
                        .parent()
                        .is_some_and(|parent| parent.kind() == "structured_binding_declarator")
            })
            .collect::<Vec<_>>()
        {
            let mut declaration = Declaration {
                name: self.subject.text(identifier),
                type_name: "",
                pointer_depth: 0,
                array_sizes: Vec::new(),
                is_const: false,
                is_restrict: false,
                is_reference: true,
                is_shared: false,
                parameter_index: None,
                initializer: None,
                node,
                identifier,
                visible_range: declarator.start_byte()..end,
            };
            declaration.make_unknown();
            self.declarations.push(declaration);
        }
    }

    pub(super) fn text(&self, node: Node<'_>) -> &'a str {
        self.subject.text(node)
    }

    /// The innermost declaration of `name` that is visible at byte `at`.
    pub(super) fn lookup(&self, name: &str, at: usize) -> Option<&Declaration<'t, 'a>> {
        self.declarations
            .iter()
            .filter(|declaration| {
                declaration.name == name && declaration.visible_range.contains(&at)
            })
            .min_by_key(|declaration| declaration.visible_range.len())
    }

    pub(super) fn lookup_node(&self, identifier: Node<'_>) -> Option<&Declaration<'t, 'a>> {
        self.lookup(self.text(identifier), identifier.start_byte())
    }

    /// The parameter called `name`, if the name is declared only once in the function.
    pub(super) fn unshadowed_parameter(&self, name: &str) -> Option<&Declaration<'t, 'a>> {
        let mut same = self
            .declarations
            .iter()
            .filter(|declaration| declaration.name == name);
        same.next()
            .filter(|first| first.parameter_index.is_some() && same.next().is_none())
    }

    /// Every use of `name` inside a node. The grammar reads `T object(name[i])` as the declaration of a function with a parameter of
    /// type `name`, so names of types count too: such a use is unlike all others, and sites that need to know it are left out.
    pub(super) fn uses(&self, within: Node<'t>, name: &str) -> Vec<Node<'t>> {
        descendants(within)
            .filter(|node| matches!(node.kind(), "identifier" | "type_identifier"))
            .filter(|node| self.text(*node) == name)
            .collect()
    }

    /// Whether `region` assigns the variable `name` itself, or takes its address. Writes through a pointer do not count.
    pub(super) fn assigns_variable(&self, region: Node<'t>, name: &str) -> bool {
        descendants(region).any(|node| {
            let changed = match node.kind() {
                "assignment_expression" => node.child_by_field_name("left"),
                "update_expression" => node.child_by_field_name("argument"),
                "pointer_expression" if operator_of(node) == "&" => {
                    node.child_by_field_name("argument")
                }
                _ => None,
            };
            changed
                .is_some_and(|changed| changed.kind() == "identifier" && self.text(changed) == name)
        })
    }

    /// Whether every name in `expression` refers to the same declaration just before `region`, so that the expression can
    /// move there.
    pub(super) fn resolves_same_before(&self, expression: Node<'t>, region: Node<'t>) -> bool {
        descendants(expression)
            .filter(|node| node.kind() == "identifier")
            .all(|node| {
                let name = self.text(node);
                match self.lookup_node(node) {
                    None => true,
                    Some(declaration) => {
                        declaration.identifier.start_byte() < region.start_byte()
                            && self
                                .lookup(name, region.start_byte())
                                .is_some_and(|outside| {
                                    outside.identifier.id() == declaration.identifier.id()
                                })
                    }
                }
            })
    }

    /// A lower-case name for the value of an expression, taken from a name inside it.
    pub(super) fn suggest_name(&self, expression: Node<'t>) -> String {
        let names: Vec<_> = descendants(expression)
            .filter(|node| node.kind() == "identifier")
            .map(|node| self.text(node))
            .collect();
        let chosen = match expression.kind() {
            // The array says more than its index.
            "subscript_expression" => names.first(),
            // The first argument says more than the function.
            "call_expression" => names.get(1).or(names.last()),
            _ => names.last(),
        };
        chosen.map_or("value".to_owned(), |name| {
            name.to_lowercase().trim_matches('_').to_owned()
        })
    }

    /// Whether `node` always executes when `region` does: under no condition and in no inner loop.
    pub(super) fn is_unconditional(&self, node: Node<'t>, region: Node<'t>) -> bool {
        let mut at = node;
        while at.id() != region.id() {
            let Some(parent) = at.parent() else {
                return false;
            };
            if !contains(region, parent) {
                return true;
            }
            let in_field = |field: &str| is_field(parent, field, at);
            let is_conditional = match parent.kind() {
                "if_statement" | "conditional_expression" | "while_statement" => {
                    !in_field("condition")
                }
                "for_statement" => parent.id() != region.id() && !in_field("initializer"),
                "binary_expression" => {
                    matches!(operator_of(parent), "&&" | "||") && in_field("right")
                }
                kind if kind.starts_with("preproc_") => true,
                "switch_statement" | "lambda_expression" | "for_range_loop" | "case_statement" => {
                    true
                }
                _ => false,
            };
            if is_conditional {
                return false;
            }
            at = parent;
        }
        true
    }
}
