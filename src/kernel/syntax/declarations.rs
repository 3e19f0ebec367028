//! Finds declarations at namespace scope.

use tree_sitter::Node;

use super::{Syntax, children};

/// Whether the source declares a name in a scope where a constant before the source would clash with it: the outermost scope, or an
/// unnamed or inline namespace or an `extern "C"` block in it. A declaration in a named namespace shadows the constant.
pub fn declares_at_namespace_scope(source: &str, name: &str) -> bool {
    // Searching the text is much cheaper than parsing it.
    if !source.contains(name) {
        return false;
    }
    let syntax = Syntax::parse(source);
    let mut open = vec![syntax.root()];
    while let Some(node) = open.pop() {
        match node.kind() {
            "namespace_definition" => {
                let is_transparent = node.child_by_field_name("name").is_none()
                    || children(node).any(|child| child.kind() == "inline");
                if is_transparent {
                    open.extend(node.child_by_field_name("body"));
                }
            }
            "translation_unit"
            | "declaration_list"
            | "linkage_specification"
            | "template_declaration"
            | "preproc_if"
            | "preproc_ifdef"
            | "preproc_else"
            | "preproc_elif"
            | "enumerator_list"
            | "ERROR" => open.extend(children(node)),
            "declaration" | "function_definition" | "type_definition" => {
                let mut cursor = node.walk();
                let declares = node
                    .children_by_field_name("declarator", &mut cursor)
                    .any(|declarator| is_for_name(&syntax, declarator, name));
                if declares {
                    return true;
                }
                open.extend(node.child_by_field_name("type"));
            }
            "struct_specifier" | "class_specifier" | "union_specifier" | "enum_specifier" => {
                // Without a body, as in `struct S* p`, it declares no name that clashes with a constant.
                if let Some(body) = node.child_by_field_name("body") {
                    if node
                        .child_by_field_name("name")
                        .is_some_and(|own| syntax.text(own) == name)
                    {
                        return true;
                    }
                    if node.kind() == "enum_specifier" {
                        open.push(body);
                    }
                }
            }
            "alias_declaration" | "enumerator" | "preproc_def" | "preproc_function_def"
                if node
                    .child_by_field_name("name")
                    .is_some_and(|own| syntax.text(own) == name) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Whether a declarator declares this name, within pointers, arrays, initialisers and parameters.
fn is_for_name(syntax: &Syntax<'_>, declarator: Node<'_>, name: &str) -> bool {
    let mut node = declarator;
    loop {
        if matches!(node.kind(), "identifier" | "type_identifier") {
            return syntax.text(node) == name;
        }
        let inner = node
            .child_by_field_name("declarator")
            .or_else(|| match node.kind() {
                "reference_declarator" | "parenthesized_declarator" => children(node)
                    .find(|child| child.is_named() && child.kind() != "type_qualifier"),
                _ => None,
            });
        match inner {
            Some(inner) => node = inner,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespace_scope_declarations_are_found() {
        for declaring in [
            "constexpr int SIZE = 3;",
            "static const int A = 1, SIZE = 2;",
            "#define SIZE 3\n",
            "#ifndef X\nconst int SIZE = 3;\n#endif\n",
            "namespace { constexpr int SIZE = 3; }",
            "extern \"C\" { __device__ int SIZE[3]; }",
            "enum { OTHER, SIZE = 2 };",
            "enum SIZE { OTHER };",
            "using SIZE = int;",
            "typedef float SIZE;",
            "struct SIZE { int x; };",
            "template <int n> __device__ int SIZE(int x) { return x; }",
            "__device__ float* SIZE;",
            "__device__ int& SIZE = other;",
        ] {
            assert!(
                declares_at_namespace_scope(declaring, "SIZE"),
                "{declaring}"
            );
        }
        for other in [
            "",
            "// SIZE\n",
            "int x = SIZE;",
            "__global__ void f(int SIZE) { }",
            "__global__ void f() { constexpr int SIZE = 3; }",
            "namespace mine { constexpr int SIZE = 3; }",
            "struct S { int SIZE; };",
            "template <int SIZE> __global__ void f() {}",
            "constexpr int SIZES = 3;",
            "int f() { return SIZE",
        ] {
            assert!(!declares_at_namespace_scope(other, "SIZE"), "{other}");
        }
    }
}
