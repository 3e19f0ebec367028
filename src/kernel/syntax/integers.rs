//! Evaluates the constant integer expressions of a source.
//!
//! Knows literals, names, operators, casts and `sizeof`; everything else has no value. Overflow has no value either.

use std::cell::Cell;
use std::collections::HashMap;

use tree_sitter::Node;

use super::types::{builtin_type_bytes, declared_type_bytes};
use super::{Syntax, children, descendants, named_children};

/// How deeply an expression may nest, names included.
const MAX_EVALUATION_DEPTH: usize = 64;

/// Maximum number of nodes that one evaluator visits. Without it, a chain of constants in which each uses the next constant twice would
/// take exponential time.
const MAX_NODES: u32 = 100_000;

impl Syntax<'_> {
    /// The value of an integer expression. `value_of` gives the values of names that are not constants of the file.
    pub fn evaluate_integer(
        &self,
        node: Node<'_>,
        value_of: &dyn Fn(&str) -> Option<i64>,
    ) -> Option<i64> {
        IntegerEvaluator::new(self, value_of).evaluate(node, 0)
    }
}

/// Evaluates integer expressions over given names and the file's own constants.
pub(super) struct IntegerEvaluator<'a, 's> {
    syntax: &'a Syntax<'s>,
    value_of: &'a dyn Fn(&str) -> Option<i64>,
    /// The values of `constexpr` and `const` declarations at namespace scope, by name.
    constants: HashMap<&'s str, Node<'a>>,
    /// How many nodes were evaluated so far.
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

    /// The value of an expression. `depth` counts the nesting, through names too.
    pub(super) fn evaluate(&self, node: Node<'_>, depth: usize) -> Option<i64> {
        self.nodes.set(self.nodes.get() + 1);
        if depth > MAX_EVALUATION_DEPTH || self.nodes.get() > MAX_NODES {
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
                let target = self.syntax.text(field("type")?);
                is_integer_type(target).then(|| value("value"))?
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
                let operator = self.syntax.text(field("operator")?);
                apply_operator(operator, value("left")?, value("right")?)
            }
            _ => None,
        }
    }

    /// The number of elements that a declarator declares: the product of its array sizes.
    pub(super) fn element_count(&self, declarator: Node<'_>) -> Option<u64> {
        let mut elements = 1u64;
        let mut node = declarator;
        for _ in 0..MAX_EVALUATION_DEPTH {
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

    /// The size in bytes of a structure of the file whose fields all have built-in types. Padding between fields is ignored.
    pub(super) fn structure_bytes(&self, name: &str) -> Option<u64> {
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

/// Whether a cast to this type keeps an integer as it is.
fn is_integer_type(name: &str) -> bool {
    let is_name_letter = |letter: char| letter.is_alphanumeric() || letter == ' ' || letter == '_';
    name.chars().all(is_name_letter) && !matches!(name, "float" | "double" | "bool")
}

fn apply_operator(operator: &str, left: i64, right: i64) -> Option<i64> {
    match operator {
        "+" => left.checked_add(right),
        "-" => left.checked_sub(right),
        "*" => left.checked_mul(right),
        "/" => left.checked_div(right),
        "%" => left.checked_rem(right),
        "<<" => {
            let bits = u32::try_from(right).ok().filter(|bits| *bits < 62)?;
            left.checked_mul(1i64.checked_shl(bits)?)
        }
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

/// Parses an integer literal of C++: decimal, hexadecimal, binary or octal, with digit separators and suffixes.
fn parse_integer_literal(text: &str) -> Option<i64> {
    let text = text.replace('\'', "").to_ascii_lowercase();
    // In the grammar, a sign before a literal is part of it.
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
