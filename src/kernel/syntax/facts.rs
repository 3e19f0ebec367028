//! Facts about a source that need no compiler. Axes of the archive are made from them.

use tree_sitter::Node;

use super::integers::IntegerEvaluator;
use super::types::{builtin_type_bytes, declared_type_bytes};
use super::{Syntax, children, descendants};

/// Numbers that a source shows without being compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// The size in bytes of the widest built-in type that a pointer in the source points to: 4 for `float*`, 16 for `float4*`; 0 if
    /// there is none.
    pub vector_bytes: u32,
    /// The number of thread-block barriers in the text.
    pub barriers: u32,
    /// Static shared memory in bytes; `None` if a size cannot be evaluated.
    pub shared_bytes: Option<u64>,
    /// The number of `#pragma unroll` directives.
    pub unroll_pragmas: u32,
}

/// The facts of a source. `value_of` gives the values of constant axes (in upper case) and of tunables.
pub fn source_facts(source: &str, value_of: &dyn Fn(&str) -> Option<i64>) -> SourceFacts {
    let syntax = Syntax::parse(source);
    let integers = IntegerEvaluator::new(&syntax, value_of);
    let mut facts = SourceFacts {
        shared_bytes: Some(0),
        ..SourceFacts::default()
    };
    for node in descendants(syntax.root()) {
        match node.kind() {
            "parameter_declaration"
            | "optional_parameter_declaration"
            | "type_descriptor"
            | "declaration" => {
                let mut cursor = node.walk();
                let is_pointer_declaration = node
                    .children_by_field_name("declarator", &mut cursor)
                    .any(is_pointer);
                if is_pointer_declaration && let Some(size) = declared_type_bytes(&syntax, node) {
                    facts.vector_bytes = facts.vector_bytes.max(size);
                }
                if node.kind() == "declaration" && is_static_shared(&syntax, node) {
                    facts.shared_bytes = facts.shared_bytes.and_then(|bytes| {
                        bytes.checked_add(shared_bytes(&syntax, &integers, node)?)
                    });
                }
            }
            "call_expression" => {
                let called = node
                    .child_by_field_name("function")
                    .map_or("", |function| syntax.text(function));
                if called.starts_with("__syncthreads") || called.ends_with(".sync") {
                    facts.barriers += 1;
                }
            }
            "preproc_call"
                if pragma_text(&syntax, node).is_some_and(|text| text.starts_with("unroll")) =>
            {
                facts.unroll_pragmas += 1;
            }
            _ => {}
        }
    }
    facts
}

/// The text of a `#pragma` after the keyword.
fn pragma_text<'s>(syntax: &Syntax<'s>, node: Node<'_>) -> Option<&'s str> {
    let directive = node.child_by_field_name("directive")?;
    let argument = node.child_by_field_name("argument")?;
    (syntax.text(directive) == "#pragma").then(|| syntax.text(argument).trim())
}

/// Whether a declarator declares a pointer, with or without a name or an initialiser.
fn is_pointer(declarator: Node<'_>) -> bool {
    match declarator.kind() {
        "pointer_declarator" | "abstract_pointer_declarator" => true,
        "init_declarator" => declarator
            .child_by_field_name("declarator")
            .is_some_and(|inner| inner.kind() == "pointer_declarator"),
        _ => false,
    }
}

fn is_static_shared(syntax: &Syntax<'_>, declaration: Node<'_>) -> bool {
    let has = |kind: &str, word: &str| {
        children(declaration).any(|child| child.kind() == kind && syntax.text(child) == word)
    };
    has("type_qualifier", "__shared__") && !has("storage_class_specifier", "extern")
}

/// The size in bytes of all declarators of a `__shared__` declaration.
fn shared_bytes(
    syntax: &Syntax<'_>,
    integers: &IntegerEvaluator<'_, '_>,
    declaration: Node<'_>,
) -> Option<u64> {
    let kind = declaration.child_by_field_name("type")?;
    let element = match builtin_type_bytes(syntax.text(kind)) {
        Some(bytes) => u64::from(bytes),
        None => integers.structure_bytes(syntax.text(kind))?,
    };
    let mut cursor = declaration.walk();
    declaration
        .children_by_field_name("declarator", &mut cursor)
        .try_fold(0u64, |sum, declarator| {
            sum.checked_add(element.checked_mul(integers.element_count(declarator)?)?)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(name: &str) -> Option<i64> {
        match name {
            "HEAD_SIZE" => Some(128),
            "ROWS" => Some(4),
            _ => None,
        }
    }

    #[test]
    fn facts_are_read_from_a_kernel() {
        let source = "constexpr int WARPS = HEAD_SIZE / 32;\nstruct Pair { float a, b[2]; };\n\
            __global__ void f(const float4* x, __nv_bfloat16* y) {\n  __shared__ float s[ROWS][WARPS], t;\n  __shared__ Pair p[2];\n\
            extern __shared__ float dynamic[];\n  #pragma unroll 4\n  for (;;) {}\n  __syncthreads();\n}\n";
        assert_eq!(
            source_facts(source, &value_of),
            SourceFacts {
                vector_bytes: 16,
                barriers: 1,
                shared_bytes: Some(4 * 4 * 4 + 4 + 24),
                unroll_pragmas: 1
            }
        );
        let narrow = "__global__ void f(const __nv_bfloat16* x) { auto p = reinterpret_cast<const __nv_bfloat162*>(x); __shared__ float s[N]; }";
        assert_eq!(
            source_facts(narrow, &value_of),
            SourceFacts {
                vector_bytes: 4,
                shared_bytes: None,
                ..SourceFacts::default()
            }
        );
        assert_eq!(
            source_facts("}} ((", &value_of),
            SourceFacts {
                shared_bytes: Some(0),
                ..SourceFacts::default()
            }
        );
    }
}
