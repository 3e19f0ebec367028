//! The macros of a kernel file, and where they or other directives make code do what the syntax tree does not show.
//!
//! Reads only the file. Macros of included headers count as ordinary names: CUDA's headers hide no control flow in them.

use std::collections::{HashMap, HashSet};

use tree_sitter::Node;

use super::functions::is_pure_library_function;
use crate::kernel::syntax::{Syntax, descendants};

/// The macros that a file defines.
#[derive(Debug, Default)]
pub(super) struct Macros<'a> {
    /// Macros that stand for more than a value computed from their arguments and constants.
    opaque: HashSet<&'a str>,
    has_functions: bool,
}

/// A `#define`, cut into words.
struct MacroDefinition<'a> {
    parameters: Vec<&'a str>,
    value: &'a str,
}

impl<'a> Macros<'a> {
    /// `is_constant`: whether a name is a tunable or a constant axis.
    pub(super) fn of(syntax: &Syntax<'a>, is_constant: &dyn Fn(&str) -> bool) -> Self {
        let mut definitions: HashMap<&'a str, Option<MacroDefinition<'a>>> = HashMap::new();
        let mut has_functions = false;
        for node in descendants(syntax.root()) {
            if !matches!(node.kind(), "preproc_def" | "preproc_function_def") {
                continue;
            }
            let text = |field: &str| {
                node.child_by_field_name(field)
                    .map_or("", |node| syntax.text(node))
            };
            has_functions |= node.kind() == "preproc_function_def";
            let definition = MacroDefinition {
                parameters: words(text("parameters")).collect(),
                value: text("value"),
            };
            // A name with several definitions can be any of them.
            definitions
                .entry(text("name"))
                .and_modify(|known| *known = None)
                .or_insert(Some(definition));
        }
        let mut macros = Self {
            opaque: definitions.keys().copied().collect(),
            has_functions,
        };
        // A macro is transparent once all macros in its value are.
        loop {
            let transparent: Vec<_> = definitions
                .iter()
                .filter(|(name, _)| macros.opaque.contains(*name))
                .filter(|(_, definition)| {
                    definition.as_ref().is_some_and(|definition| {
                        macros.is_value(definition, &definitions, is_constant)
                    })
                })
                .map(|(name, _)| *name)
                .collect();
            if transparent.is_empty() {
                return macros;
            }
            for name in transparent {
                macros.opaque.remove(name);
            }
        }
    }

    pub(super) fn has_functions(&self) -> bool {
        self.has_functions
    }

    /// Whether code contains a macro that may do anything, or a directive other than a pragma.
    pub(super) fn hide_code(&self, syntax: &Syntax<'_>, code: Node<'_>) -> bool {
        descendants(code).any(|node| match node.kind() {
            "preproc_call" => !syntax.text(node).trim_start().starts_with("#pragma"),
            kind if kind.starts_with("preproc_") => {
                !matches!(kind, "preproc_directive" | "preproc_arg")
            }
            _ => {
                !self.opaque.is_empty()
                    && node.child_count() == 0
                    && self.opaque.contains(syntax.text(node))
            }
        })
    }

    /// Whether a definition only computes a value from its parameters, constants, transparent macros and pure functions.
    fn is_value(
        &self,
        definition: &MacroDefinition<'a>,
        definitions: &HashMap<&'a str, Option<MacroDefinition<'a>>>,
        is_constant: &dyn Fn(&str) -> bool,
    ) -> bool {
        let value = definition.value;
        let comparisons = value
            .replace("==", "")
            .replace("!=", "")
            .replace("<=", "")
            .replace(">=", "");
        let changes = comparisons.contains(['=', ';', '{', '}', '#'])
            || value.contains("++")
            || value.contains("--");
        let is_known = |word: &str| {
            definition.parameters.contains(&word)
                || is_constant(word)
                || is_pure_library_function(word)
                || is_type_word(word)
                || definitions.contains_key(word) && !self.opaque.contains(word)
        };
        !changes && words(value).all(is_known)
    }
}

/// Whether a word names a type or a cast.
fn is_type_word(word: &str) -> bool {
    matches!(
        word,
        "int"
            | "unsigned"
            | "float"
            | "double"
            | "long"
            | "short"
            | "char"
            | "bool"
            | "size_t"
            | "const"
            | "sizeof"
            | "static_cast"
            | "reinterpret_cast"
            | "true"
            | "false"
            | "float2"
            | "float4"
            | "int2"
            | "int4"
            | "uint2"
            | "uint4"
            | "half"
            | "__half"
            | "half2"
            | "__half2"
    )
}

/// The names in a text. Numbers, also those with a suffix, are no names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '.')
        .flat_map(|word| {
            let is_number = word
                .trim_start_matches('.')
                .starts_with(|letter: char| letter.is_ascii_digit());
            let parts: Vec<_> = if is_number {
                Vec::new()
            } else {
                word.split('.').collect()
            };
            parts
        })
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_macros_that_compute_a_value_are_transparent() {
        let source = "#define N 4\n#define TWICE(a) ((a) * 2.0f * N)\n#define AT(j) x[row * n + (j)]\n#define ADD(v) sum += (v)\n\
            #define SQUARE(a) (TWICE(a) * a)\n#ifdef A\n#define MODE 1\n#else\n#define MODE 2\n#endif\n";
        let syntax = Syntax::parse(source);
        let macros = Macros::of(&syntax, &|_| false);
        let mut opaque: Vec<_> = macros.opaque.iter().copied().collect();
        opaque.sort_unstable();
        assert_eq!(opaque, ["ADD", "AT", "MODE"]);
        assert!(macros.has_functions());
    }

    #[test]
    fn directives_in_code_hide_code() {
        let hides = |body: &str| {
            let source = format!("__device__ void f(int n) {{\n{body}\n}}\n");
            let syntax = Syntax::parse(&source);
            Macros::default().hide_code(&syntax, syntax.root())
        };
        assert!(!hides("#pragma unroll\nfor (;;) n++;"));
        assert!(hides("#if A\nn++;\n#endif"));
        assert!(hides("#define X 1"));
    }
}
