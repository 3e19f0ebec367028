//! The names in a source: where each is declared, where it is visible, and which declaration each use refers to.
//!
//! Reads syntax and changes nothing. Does not resolve members, namespaces, labels and names from included headers. `child_check`
//! compares the names of a child with those of its parents.

use std::collections::HashMap;
use std::ops::Range;

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, children, descendants, enclosing, named_children};

/// All declarations and uses of names in a source.
#[derive(Debug, Default)]
pub(super) struct SourceNames<'s> {
    source: &'s str,
    /// In order of position.
    pub declarations: Vec<NameDeclaration<'s>>,
    /// In order of position.
    pub uses: Vec<NameUse<'s>>,
    /// The declarations of each name.
    by_name: HashMap<&'s str, Vec<usize>>,
    /// Labels of `goto` and `switch`.
    labels: Vec<Label>,
    /// The bytes of lambdas.
    lambdas: Vec<Range<usize>>,
}

/// One declared name.
#[derive(Debug)]
pub(super) struct NameDeclaration<'s> {
    pub name: &'s str,
    /// The first byte of the name.
    pub at: usize,
    /// The bytes in which the name can be used.
    visible: Range<usize>,
    /// The bytes that say what kind of thing the name is, such as its type, without its value.
    signature: Range<usize>,
    /// Whether the name belongs to a function or a template.
    is_local: bool,
    /// Whether it is declared as a statement, so that a jump may pass over it.
    is_statement: bool,
}

/// A place to which code may jump.
#[derive(Debug)]
struct Label {
    at: usize,
    /// The bytes from which a jump may come.
    reach: Range<usize>,
}

/// One use of a name.
#[derive(Debug)]
pub(super) struct NameUse<'s> {
    pub name: &'s str,
    pub at: usize,
    /// The index of the declaration; `None` if the source does not declare the name.
    pub declaration: Option<usize>,
}

impl<'s> SourceNames<'s> {
    pub(super) fn of(syntax: &Syntax<'s>) -> Self {
        let mut names = Self {
            source: syntax.source(),
            ..Self::default()
        };
        let mut used = Vec::new();
        let mut walk = descendants(syntax.root());
        while let Some(node) = walk.next() {
            match node.kind() {
                "comment" => walk.skip_children(),
                "identifier" | "type_identifier" => used.push(node),
                "labeled_statement" => {
                    names.add_label(node, enclosing(node, &["function_definition"]));
                }
                "case_statement" => names.add_label(node, node.parent()),
                "lambda_expression" => names.lambdas.push(node.byte_range()),
                _ => {}
            }
            names.declare(syntax, node);
        }
        for (index, declaration) in names.declarations.iter().enumerate() {
            names
                .by_name
                .entry(declaration.name)
                .or_default()
                .push(index);
        }
        names.uses = used
            .into_iter()
            .filter(|node| !is_qualified(*node))
            .map(|node| {
                let (name, at) = (syntax.text(node), node.start_byte());
                NameUse {
                    name,
                    at,
                    declaration: names.resolve(name, at),
                }
            })
            .collect();
        names
    }

    /// The text of a declaration without its value, white space and `__restrict__`: two declarations with the same text declare
    /// the same kind of thing.
    pub(super) fn signature(&self, declaration: &NameDeclaration<'s>) -> String {
        let text = self
            .source
            .get(declaration.signature.clone())
            .unwrap_or_default();
        let text: String = text.split_whitespace().collect();
        text.replace("__restrict__", "")
    }

    /// Every declaration of a name.
    pub(super) fn declarations_of(&self, name: &str) -> impl Iterator<Item = &NameDeclaration<'s>> {
        let indices = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        indices.iter().map(|index| &self.declarations[*index])
    }

    /// Whether another declaration has the same name in the same scope.
    pub(super) fn is_declared_twice(&self, declaration: &NameDeclaration<'s>) -> bool {
        self.declarations_of(declaration.name).any(|other| {
            // What is visible up to the same byte is in the same scope.
            other.at != declaration.at
                && other.is_local == declaration.is_local
                && other.visible.end == declaration.visible.end
        })
    }

    /// Whether a jump to a label may pass over a declaration.
    pub(super) fn may_be_jumped_over(&self, declaration: &NameDeclaration<'s>) -> bool {
        declaration.is_statement
            && self.labels.iter().any(|label| {
                label.reach.contains(&declaration.at) && declaration.visible.contains(&label.at)
            })
    }

    /// Whether a use is in a lambda that does not contain the declaration, so that the lambda must capture the name.
    pub(super) fn needs_capture(
        &self,
        used: &NameUse<'s>,
        declaration: &NameDeclaration<'s>,
    ) -> bool {
        declaration.is_local
            && (self.lambdas.iter())
                .any(|lambda| lambda.contains(&used.at) && !lambda.contains(&declaration.at))
    }

    /// The innermost declaration of a name that is visible at a byte.
    fn resolve(&self, name: &str, at: usize) -> Option<usize> {
        let indices = self.by_name.get(name)?.iter().copied();
        indices
            .filter(|index| self.declarations[*index].visible.contains(&at))
            .min_by_key(|index| self.declarations[*index].visible.len())
    }

    /// Adds the names that a node declares itself.
    fn declare(&mut self, syntax: &Syntax<'s>, node: Node<'_>) {
        match node.kind() {
            "declaration"
            | "parameter_declaration"
            | "optional_parameter_declaration"
            | "for_range_loop" => {
                let mut cursor = node.walk();
                for declarator in node.children_by_field_name("declarator", &mut cursor) {
                    for name in declared_identifiers(declarator) {
                        // Without the value, which says nothing about the kind of the name.
                        let end = declarator
                            .child_by_field_name("value")
                            .map_or(declarator.end_byte(), |value| value.start_byte());
                        let first = node.child_by_field_name("type").map_or(node, |first| first);
                        let start = first.start_byte().min(declarator.start_byte());
                        // A declaration begins with words such as `static`, a loop with `for (`.
                        let start = if node.kind() == "for_range_loop" {
                            start
                        } else {
                            node.start_byte()
                        };
                        self.add(syntax, node, name, start..end.max(start));
                    }
                }
            }
            "function_definition" => {
                let body = node
                    .child_by_field_name("body")
                    .map_or(node.end_byte(), |body| body.start_byte());
                let name = node
                    .child_by_field_name("declarator")
                    .map(declared_identifiers);
                for name in name.into_iter().flatten() {
                    self.add(syntax, node, name, node.start_byte()..body);
                }
            }
            "struct_specifier" | "class_specifier" | "union_specifier" | "enum_specifier"
                if node.child_by_field_name("body").is_some() =>
            {
                let name = node.child_by_field_name("name");
                self.add_named(
                    syntax,
                    node,
                    name.filter(|name| name.kind() == "type_identifier"),
                );
            }
            "alias_declaration" | "enumerator" | "preproc_def" | "preproc_function_def" => {
                self.add_named(syntax, node, node.child_by_field_name("name"));
            }
            "type_definition" => {
                let name = descendants(node)
                    .filter(|inner| inner.kind() == "type_identifier")
                    .last();
                self.add_named(syntax, node, name);
            }
            "type_parameter_declaration" | "optional_type_parameter_declaration" => {
                let name = named_children(node).find(|inner| inner.kind() == "type_identifier");
                self.add_named(syntax, node, name);
            }
            "lambda_capture_initializer" => {
                self.add_named(syntax, node, node.child_by_field_name("left"));
            }
            _ => {}
        }
    }

    /// `around`: the code from which a jump to the label may come.
    fn add_label(&mut self, label: Node<'_>, around: Option<Node<'_>>) {
        self.labels.extend(around.map(|around| Label {
            at: label.start_byte(),
            reach: around.byte_range(),
        }));
    }

    fn add_named(&mut self, syntax: &Syntax<'s>, node: Node<'_>, name: Option<Node<'_>>) {
        if let Some(name) = name {
            self.add(syntax, node, name, node.byte_range());
        }
    }

    fn add(
        &mut self,
        syntax: &Syntax<'s>,
        node: Node<'_>,
        name: Node<'_>,
        signature: Range<usize>,
    ) {
        let scope = scope_of(node);
        let is_local = scope.is_some();
        let end = scope.map_or(syntax.source().len(), |scope| scope.end_byte());
        self.declarations.push(NameDeclaration {
            name: syntax.text(name),
            at: name.start_byte(),
            visible: name.start_byte()..end,
            signature,
            is_local,
            is_statement: node.kind() == "declaration"
                && node.parent().is_some_and(|parent| {
                    matches!(parent.kind(), "compound_statement" | "case_statement")
                }),
        });
    }
}

/// The node in which a declared name is visible; `None` for the whole file.
fn scope_of(declaration: Node<'_>) -> Option<Node<'_>> {
    let kinds: &[&str] = match declaration.kind() {
        // A macro does not end with its block.
        "preproc_def" | "preproc_function_def" => return None,
        // A function is visible after its own end.
        "function_definition" => &["field_declaration_list"],
        "enumerator" => &["compound_statement", "field_declaration_list"],
        _ => &[
            "compound_statement",
            "for_statement",
            "for_range_loop",
            "if_statement",
            "while_statement",
            "switch_statement",
            "lambda_expression",
            "function_definition",
            "template_declaration",
            "field_declaration_list",
        ],
    };
    if declaration.kind() == "for_range_loop" {
        return Some(declaration);
    }
    let is_parameter = declaration.kind().ends_with("parameter_declaration");
    if is_parameter && let Some(list) = enclosing(declaration, &["parameter_list"]) {
        // The parameters of a declared function are visible in their list alone.
        let owner = enclosing(
            list,
            &["function_definition", "lambda_expression", "declaration"],
        );
        return owner
            .filter(|owner| owner.kind() != "declaration")
            .or(Some(list));
    }
    enclosing(declaration, kinds)
}

/// The identifiers that a declarator such as `*name[4] = value` or `[a, b] = value` declares.
pub(super) fn declared_identifiers(declarator: Node<'_>) -> Vec<Node<'_>> {
    let mut at = declarator;
    loop {
        match at.kind() {
            "identifier" | "type_identifier" => return vec![at],
            "structured_binding_declarator" => {
                return named_children(at)
                    .filter(|child| child.kind() == "identifier")
                    .collect();
            }
            _ => {}
        }
        let inner = at.child_by_field_name("declarator").or_else(|| {
            children(at)
                .find(|child| child.kind() == "identifier" || child.kind().ends_with("declarator"))
        });
        match inner {
            Some(inner) => at = inner,
            None => return Vec::new(),
        }
    }
}

/// Whether a namespace or class is named before a name, so that the name is looked up there: `cg::thread_block`.
fn is_qualified(name: Node<'_>) -> bool {
    let mut at = name;
    while let Some(parent) = at.parent() {
        match parent.kind() {
            "qualified_identifier" => {
                return parent
                    .child_by_field_name("name")
                    .is_some_and(|own| own.id() == at.id());
            }
            "template_type" | "template_function"
                if parent
                    .child_by_field_name("name")
                    .is_some_and(|own| own.id() == at.id()) =>
            {
                at = parent;
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each use as `name@line of its declaration`, `?` if it has none.
    fn resolved(source: &str) -> String {
        let syntax = Syntax::parse(source);
        assert!(syntax.is_sound(), "{source}");
        let names = SourceNames::of(&syntax);
        let line = |at: usize| source[..at].matches('\n').count() + 1;
        names
            .uses
            .iter()
            .map(|used| match used.declaration {
                Some(index) => format!("{}@{} ", used.name, line(names.declarations[index].at)),
                None => format!("{}@? ", used.name),
            })
            .collect()
    }

    #[test]
    fn uses_refer_to_the_innermost_declaration() {
        let source = "int a;\n__device__ int f(int b) {\n  int a = b;\n  { float a = 1.0f;\n    b = a; }\n  return a + c;\n}\nint d = a + b + f(1);\n";
        assert_eq!(
            resolved(source),
            "a@1 f@2 b@2 a@3 b@2 a@4 b@2 a@4 a@3 c@? d@8 a@1 b@? f@2 "
        );
    }

    #[test]
    fn names_of_every_kind_of_declaration_are_known() {
        let source = "struct S { int x; };\nusing T = S;\ntypedef float Real;\nenum { LOW };\n#define TWO 2\n\
            template <typename U, int n>\n__device__ void f(U* p, S s) {\n  auto [a, b] = pair();\n  for (auto v : p) a = v;\n\
              if (int k = n; k) b = k + LOW + TWO;\n  auto g = [&](int z) { return z + s.x; };\n}\n";
        let uses = resolved(source);
        for expected in [
            "S@1", "U@6", "a@8", "v@9", "k@10", "n@6", "LOW@4", "TWO@5", "z@11", "s@7", "pair@?",
        ] {
            assert!(uses.contains(expected), "{expected} in {uses}");
        }
    }
}
