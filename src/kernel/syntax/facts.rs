//! Facts about a source that need no compiler: the axes of an archive are made from them.

use std::cell::Cell;
use std::collections::HashMap;

use tree_sitter::Node;

use super::{Syntax, children, descendants, named_children};

/// How deep an expression is followed, through names too.
const MAX_DEPTH: usize = 64;

/// How many nodes a source's expressions may take: constants that double each other would take for ever.
const MAX_NODES: u32 = 100_000;

/// What a source says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// The widest type that memory is accessed through: 4 for `float*`, 16 for `float4*`; 0 where none is known.
    pub vector_bytes: u32,
    /// Barriers of a whole block, as written.
    pub barriers: u32,
    /// Static shared memory; `None` where a size is not known.
    pub shared_bytes: Option<u64>,
    /// Loops that say how to be unrolled.
    pub unroll_pragmas: u32,
}

/// The facts of a source. `value_of`: constant axes in upper case and tunables in force.
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
                let points = node
                    .children_by_field_name("declarator", &mut cursor)
                    .any(is_pointer);
                if points && let Some(size) = declared_type_bytes(&syntax, node) {
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
                if pragma_text(&syntax, node).is_some_and(|words| words.starts_with("unroll")) =>
            {
                facts.unroll_pragmas += 1;
            }
            _ => {}
        }
    }
    facts
}

/// What a `#pragma` says.
pub(super) fn pragma_text<'s>(syntax: &Syntax<'s>, node: Node<'_>) -> Option<&'s str> {
    let directive = node.child_by_field_name("directive")?;
    let argument = node.child_by_field_name("argument")?;
    (syntax.text(directive) == "#pragma").then(|| syntax.text(argument).trim())
}

/// Whether a declarator is for a pointer, abstract ones and initialised ones included.
fn is_pointer(declarator: Node<'_>) -> bool {
    match declarator.kind() {
        "pointer_declarator" | "abstract_pointer_declarator" => true,
        "init_declarator" => declarator
            .child_by_field_name("declarator")
            .is_some_and(|inner| inner.kind() == "pointer_declarator"),
        _ => false,
    }
}

/// The size of the type that a declaration or a type descriptor begins with, if it is one that memory is accessed through.
fn declared_type_bytes(syntax: &Syntax<'_>, node: Node<'_>) -> Option<u32> {
    builtin_type_bytes(syntax.text(node.child_by_field_name("type")?))
}

/// The size of a type of the language or of CUDA, by its name without qualifiers.
pub(crate) fn builtin_type_bytes(name: &str) -> Option<u32> {
    const SCALARS: [(&str, u32); 12] = [
        ("longlong", 8),
        ("ulonglong", 8),
        ("double", 8),
        ("float", 4),
        ("ushort", 2),
        ("short", 2),
        ("uchar", 1),
        ("char", 1),
        ("ulong", 8),
        ("long", 8),
        ("uint", 4),
        ("int", 4),
    ];
    Some(match name {
        "bool" | "char" | "signed char" | "unsigned char" | "int8_t" | "uint8_t" => 1,
        "short" | "unsigned short" | "int16_t" | "uint16_t" | "__half" | "half"
        | "__nv_bfloat16" | "nv_bfloat16" => 2,
        "int" | "unsigned" | "unsigned int" | "float" | "int32_t" | "uint32_t" | "__half2"
        | "half2" | "__nv_bfloat162" | "nv_bfloat162" => 4,
        "long" | "unsigned long" | "long long" | "unsigned long long" | "double" | "int64_t"
        | "uint64_t" | "size_t" => 8,
        _ => {
            // `float4`, `uint2`, `longlong2`, …
            let lanes = name
                .chars()
                .last()?
                .to_digit(10)
                .filter(|lanes| (1..=4).contains(lanes))?;
            let scalar = &name[..name.len() - 1];
            SCALARS.iter().find(|(other, _)| *other == scalar)?.1 * lanes
        }
    })
}

fn is_static_shared(syntax: &Syntax<'_>, declaration: Node<'_>) -> bool {
    let is = |kind: &str, word: &str| {
        children(declaration).any(|child| child.kind() == kind && syntax.text(child) == word)
    };
    is("type_qualifier", "__shared__") && !is("storage_class_specifier", "extern")
}

/// The bytes of all declarators of a `__shared__` declaration.
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

/// Integer expressions over given names and the file's own constants.
pub(super) struct IntegerEvaluator<'a, 's> {
    syntax: &'a Syntax<'s>,
    value_of: &'a dyn Fn(&str) -> Option<i64>,
    /// `constexpr` and `const` at namespace scope, by name.
    constants: HashMap<&'s str, Node<'a>>,
    nodes: Cell<u32>,
}

impl<'a, 's> IntegerEvaluator<'a, 's> {
    pub(super) fn new(syntax: &'a Syntax<'s>, value_of: &'a dyn Fn(&str) -> Option<i64>) -> Self {
        let mut constants = HashMap::new();
        for declaration in children(syntax.root()).filter(|node| node.kind() == "declaration") {
            let is_constant = children(declaration).any(|child| {
                child.kind() == "type_qualifier"
                    && matches!(syntax.text(child), "constexpr" | "const")
            });
            let mut cursor = declaration.walk();
            for declarator in declaration
                .children_by_field_name("declarator", &mut cursor)
                .filter(|_| is_constant)
            {
                let name = declarator
                    .child_by_field_name("declarator")
                    .filter(|name| name.kind() == "identifier");
                if let (Some(name), Some(value)) = (name, declarator.child_by_field_name("value")) {
                    constants.insert(syntax.text(name), value);
                }
            }
        }
        Self {
            syntax,
            value_of,
            constants,
            nodes: Cell::new(0),
        }
    }

    pub(super) fn evaluate(&self, node: Node<'_>, depth: usize) -> Option<i64> {
        self.nodes.set(self.nodes.get() + 1);
        if depth > MAX_DEPTH || self.nodes.get() > MAX_NODES {
            return None;
        }
        let field = |name: &str| node.child_by_field_name(name);
        let value = |name: &str| self.evaluate(field(name)?, depth + 1);
        match node.kind() {
            "number_literal" => parse_integer_literal(self.syntax.text(node)),
            "true" => Some(1),
            "false" => Some(0),
            "identifier" => {
                let name = self.syntax.text(node);
                match self.constants.get(name) {
                    Some(constant) => self.evaluate(*constant, depth + 1),
                    None => (self.value_of)(name),
                }
            }
            "parenthesized_expression" | "initializer_list" => {
                self.evaluate(named_children(node).next()?, depth + 1)
            }
            "cast_expression" => {
                let is_integer = self
                    .syntax
                    .text(field("type")?)
                    .chars()
                    .all(|letter| letter.is_alphanumeric() || letter == ' ' || letter == '_')
                    && !matches!(
                        self.syntax.text(field("type")?),
                        "float" | "double" | "bool"
                    );
                is_integer.then(|| value("value"))?
            }
            "sizeof_expression" => {
                let kind = field("type")?;
                builtin_type_bytes(self.syntax.text(kind)).map(i64::from)
            }
            "unary_expression" => {
                let argument = value("argument")?;
                match self.syntax.text(field("operator")?) {
                    "-" => argument.checked_neg(),
                    "+" => Some(argument),
                    "!" => Some(i64::from(argument == 0)),
                    _ => None,
                }
            }
            "conditional_expression" => match value("condition")? {
                0 => value("alternative"),
                _ => value("consequence"),
            },
            "binary_expression" => {
                let (left, right) = (value("left")?, value("right")?);
                match self.syntax.text(field("operator")?) {
                    "+" => left.checked_add(right),
                    "-" => left.checked_sub(right),
                    "*" => left.checked_mul(right),
                    "/" => left.checked_div(right),
                    "%" => left.checked_rem(right),
                    "<<" => left.checked_mul(
                        1i64.checked_shl(u32::try_from(right).ok().filter(|bits| *bits < 62)?)?,
                    ),
                    ">>" => left.checked_shr(u32::try_from(right).ok()?),
                    "<" => Some(i64::from(left < right)),
                    "<=" => Some(i64::from(left <= right)),
                    ">" => Some(i64::from(left > right)),
                    ">=" => Some(i64::from(left >= right)),
                    "==" => Some(i64::from(left == right)),
                    "!=" => Some(i64::from(left != right)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// How many elements a declarator declares: the product of its array sizes.
    fn element_count(&self, declarator: Node<'_>) -> Option<u64> {
        let mut elements = 1u64;
        let mut node = declarator;
        for _ in 0..MAX_DEPTH {
            match node.kind() {
                "array_declarator" => {
                    let size = self.evaluate(node.child_by_field_name("size")?, 0)?;
                    elements = elements.checked_mul(u64::try_from(size).ok()?)?;
                    node = node.child_by_field_name("declarator")?;
                }
                "init_declarator" => node = node.child_by_field_name("declarator")?,
                "identifier" | "field_identifier" => return Some(elements),
                _ => return None,
            }
        }
        None
    }

    /// The size of a structure of the file whose fields are all built in; padding is left out of account where sizes are mixed.
    fn structure_bytes(&self, name: &str) -> Option<u64> {
        let named = |node: Node<'_>| {
            node.child_by_field_name("name")
                .is_some_and(|own| self.syntax.text(own) == name)
        };
        let structure = descendants(self.syntax.root()).find(|node| {
            node.kind() == "struct_specifier"
                && named(*node)
                && node.child_by_field_name("body").is_some()
        })?;
        let mut bytes = 0u64;
        for field in named_children(structure.child_by_field_name("body")?)
            .filter(|child| child.kind() == "field_declaration")
        {
            let element = u64::from(declared_type_bytes(self.syntax, field)?);
            let mut cursor = field.walk();
            for declarator in field.children_by_field_name("declarator", &mut cursor) {
                bytes = bytes.checked_add(element.checked_mul(self.element_count(declarator)?)?)?;
            }
        }
        Some(bytes)
    }
}

/// An integer literal of C++: decimal, hexadecimal, binary or octal, with digit separators and suffixes.
fn parse_integer_literal(text: &str) -> Option<i64> {
    let text = text.replace('\'', "").to_ascii_lowercase();
    // The grammar counts a sign in front of a literal as a part of it.
    if let Some(rest) = text.strip_prefix('-') {
        return parse_integer_literal(rest)?.checked_neg();
    }
    let digits = text
        .trim_start_matches('+')
        .trim_end_matches(['u', 'l', 'z']);
    match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => match digits.strip_prefix("0b") {
            Some(digits) => i64::from_str_radix(digits, 2).ok(),
            None if digits.len() > 1 && digits.starts_with('0') => {
                i64::from_str_radix(digits, 8).ok()
            }
            None => digits.parse().ok(),
        },
    }
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

    #[test]
    fn builtin_type_sizes_are_known() {
        let sizes = [
            "float",
            "float2",
            "uint4",
            "longlong2",
            "__nv_bfloat162",
            "unsigned long long",
            "uchar4",
            "Mine",
            "float9",
            "é",
        ]
        .map(builtin_type_bytes);
        assert_eq!(
            sizes,
            [
                Some(4),
                Some(8),
                Some(16),
                Some(16),
                Some(4),
                Some(8),
                Some(4),
                None,
                None,
                None
            ]
        );
    }

    #[test]
    fn integer_expressions_are_evaluated_as_in_cpp() {
        let value = |text: &str| {
            let source = format!(
                "constexpr int TWICE = 2 * HEAD_SIZE;\nconst int LOOP = LOOP + 1;\nint x = {text};"
            );
            let syntax = Syntax::parse(&source);
            let declaration = children(syntax.root()).last()?;
            let value = declaration
                .child_by_field_name("declarator")?
                .child_by_field_name("value")?;
            syntax.evaluate_integer(value, &value_of)
        };
        assert_eq!(value("TWICE / 3 % 7"), Some(85 % 7));
        assert_eq!(value("(ROWS << 2) - -0x10u"), Some(32));
        assert_eq!(value("ROWS > 3 ? 1'000 : 0"), Some(1000));
        assert_eq!(value("int(ROWS)"), None);
        assert_eq!(value("(int)sizeof(float)"), Some(4));
        assert_eq!(value("ROWS / 0"), None);
        assert_eq!(value("LOOP"), None);
        assert_eq!(value("1.5f"), None);
    }
}
