//! The types of expressions, as far as the kernel file and a few CUDA functions show them.
//!
//! An unknown type is `None`, never a guess: transformations need a type to declare a new variable.

use tree_sitter::Node;

use super::functions::is_float_function;
use super::nodes::operator_of;
use super::scope::{MAX_DEPTH, Scope};
use crate::kernel::syntax::{
    FunctionNode, builtin_type_bytes, children, descendants, named_children,
};

impl<'t, 'a> Scope<'t, 'a> {
    /// The type of an expression without qualifiers; `None` if it is unknown, a pointer or an array.
    pub(super) fn type_of(&self, node: Node<'t>) -> Option<&'a str> {
        self.type_at_depth(node, 0).filter(|name| !name.is_empty())
    }

    fn type_at_depth(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        let of = |field: &str| self.type_at_depth(node.child_by_field_name(field)?, depth + 1);
        match node.kind() {
            "number_literal" => literal_type(self.text(node)),
            "true" | "false" => Some("bool"),
            "identifier" => self.name_type(node, depth),
            "subscript_expression" => {
                self.element_type(node.child_by_field_name("argument")?, depth + 1)
            }
            "field_expression" => self.member_type(node, depth),
            "call_expression" => self.call_type(node, depth),
            "cast_expression" => self.cast_type(node.child_by_field_name("type")?),
            "parenthesized_expression" => {
                self.type_at_depth(named_children(node).next()?, depth + 1)
            }
            "unary_expression" => match operator_of(node) {
                "!" => Some("bool"),
                _ => promoted(of("argument")?),
            },
            "binary_expression" => match operator_of(node) {
                "<" | "<=" | ">" | ">=" | "==" | "!=" | "&&" | "||" => Some("bool"),
                "<<" | ">>" => promoted(of("left")?),
                _ => arithmetic_type(of("left")?, of("right")?),
            },
            "conditional_expression" => {
                let (first, second) = (of("consequence")?, of("alternative")?);
                if first == second {
                    Some(first)
                } else {
                    arithmetic_type(first, second)
                }
            }
            "assignment_expression" => of("left"),
            "update_expression" => of("argument"),
            _ => None,
        }
    }

    fn name_type(&self, identifier: Node<'t>, depth: usize) -> Option<&'a str> {
        match self.lookup_node(identifier) {
            Some(declaration)
                if declaration.pointer_depth == 0 && declaration.array_sizes.is_empty() =>
            {
                match declaration.type_name {
                    "auto" => self.type_at_depth(declaration.initializer?, depth + 1),
                    type_name => Some(type_name),
                }
            }
            Some(_) => None,
            None => self.constant_type(identifier),
        }
    }

    /// The type of a tunable, an axis or a constant of the file.
    fn constant_type(&self, identifier: Node<'t>) -> Option<&'a str> {
        let name = self.text(identifier);
        if self.subject.is_named_constant(name) {
            return Some("int");
        }
        self.subject.constant_value(identifier)?;
        // A name without a declaration at namespace scope is a macro or an enumerator.
        let declaration = children(self.subject.syntax.root())
            .filter(|node| node.kind() == "declaration")
            .find(|node| descendants(*node).any(|inner| self.text(inner) == name));
        declaration
            .and_then(|node| node.child_by_field_name("type"))
            .map(|type_node| self.text(type_node))
            .filter(|type_name| RANKS.contains(type_name))
    }

    /// The type of `a.b` or `a->b`.
    fn member_type(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        let field = self.text(node.child_by_field_name("field")?);
        let argument = node.child_by_field_name("argument")?;
        if matches!(
            self.text(argument),
            "threadIdx" | "blockIdx" | "blockDim" | "gridDim"
        ) {
            return Some("unsigned");
        }
        match self.type_at_depth(argument, depth + 1)? {
            "float2" | "float3" | "float4" => Some("float"),
            "int2" | "int3" | "int4" => Some("int"),
            "uint2" | "uint3" | "uint4" => Some("unsigned"),
            structure => self.struct_member_type(structure, field),
        }
    }

    /// The type of a member of a struct that the file defines.
    fn struct_member_type(&self, structure: &str, field: &str) -> Option<&'a str> {
        let has_name = |node: Node<'_>, name: &str| {
            node.child_by_field_name("name")
                .is_some_and(|own| self.text(own) == name)
        };
        let definition = descendants(self.subject.syntax.root())
            .find(|node| node.kind() == "struct_specifier" && has_name(*node, structure))?;
        named_children(definition.child_by_field_name("body")?)
            .filter(|member| member.kind() == "field_declaration")
            .find(|member| {
                let mut cursor = member.walk();
                member
                    .children_by_field_name("declarator", &mut cursor)
                    .any(|declarator| self.text(declarator) == field)
            })
            .and_then(|member| member.child_by_field_name("type"))
            .map(|type_node| self.text(type_node))
            // Another type may be a parameter of a template.
            .filter(|type_name| builtin_type_bytes(type_name).is_some())
    }

    fn call_type(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        let function = node.child_by_field_name("function")?;
        let arguments: Vec<_> = named_children(node.child_by_field_name("arguments")?).collect();
        match function.kind() {
            "primitive_type" => return Some(self.text(function)),
            "template_function" => {
                let name = self.text(function.child_by_field_name("name")?);
                let target = named_children(function.child_by_field_name("arguments")?).next()?;
                return name
                    .ends_with("_cast")
                    .then(|| self.cast_type(target))
                    .flatten();
            }
            _ => {}
        }
        let name = self.text(function);
        let functions = self.subject.functions();
        let mut defined = functions
            .iter()
            .filter(|defined| self.subject.syntax.function_name(defined) == name);
        if let Some(first) = defined.next() {
            return self.return_type(first).filter(|_| defined.next().is_none());
        }
        match name {
            "__ldg" | "__ldcs" | "__ldcg" | "__ldca" => {
                let argument = *arguments.first()?;
                if argument.kind() == "pointer_expression" {
                    self.type_at_depth(argument.child_by_field_name("argument")?, depth + 1)
                } else {
                    self.element_type(argument, depth + 1)
                }
            }
            "abs" => promoted(self.type_at_depth(*arguments.first()?, depth + 1)?),
            "max" | "min" => {
                let [first, second] = arguments[..] else {
                    return None;
                };
                arithmetic_type(
                    self.type_at_depth(first, depth + 1)?,
                    self.type_at_depth(second, depth + 1)?,
                )
            }
            _ => library_function_type(name),
        }
    }

    /// The type of the values that a function of the file returns, if it is neither a pointer, a reference nor a template's.
    fn return_type(&self, function: &FunctionNode<'_>) -> Option<&'a str> {
        let returns_plain_value = function
            .node
            .child_by_field_name("declarator")
            .is_some_and(|declarator| declarator.kind() == "function_declarator");
        let is_template = function
            .node
            .parent()
            .is_some_and(|parent| parent.kind() == "template_declaration");
        let type_node = function.node.child_by_field_name("type")?;
        let type_name = self.text(type_node);
        (returns_plain_value && !is_template && !matches!(type_name, "auto" | "void"))
            .then_some(type_name)
    }

    /// The type of an element that a pointer or an array leads to in one step.
    pub(super) fn element_type(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        match node.kind() {
            "identifier" => {
                let declaration = self.lookup_node(node)?;
                (declaration.pointer_depth + declaration.array_sizes.len() == 1
                    && !matches!(declaration.type_name, "auto" | ""))
                .then_some(declaration.type_name)
            }
            "subscript_expression" => {
                // A row of a two-dimensional array.
                let argument = node
                    .child_by_field_name("argument")
                    .filter(|argument| argument.kind() == "identifier")?;
                let declaration = self.lookup_node(argument)?;
                (declaration.pointer_depth + declaration.array_sizes.len() == 2)
                    .then_some(declaration.type_name)
            }
            "parenthesized_expression" => {
                self.element_type(named_children(node).next()?, depth + 1)
            }
            "cast_expression" => self.cast_element_type(node.child_by_field_name("type")?),
            "call_expression" => {
                let function = node
                    .child_by_field_name("function")
                    .filter(|function| function.kind() == "template_function")?;
                let name = self.text(function.child_by_field_name("name")?);
                let target = named_children(function.child_by_field_name("arguments")?).next()?;
                name.ends_with("_cast")
                    .then(|| self.cast_element_type(target))
                    .flatten()
            }
            "binary_expression" => {
                let side =
                    |field: &str| self.element_type(node.child_by_field_name(field)?, depth + 1);
                side("left").or_else(|| side("right"))
            }
            _ => None,
        }
    }

    /// The type that a cast names, if it is not a pointer or a reference.
    fn cast_type(&self, descriptor: Node<'t>) -> Option<&'a str> {
        let is_plain = descriptor.child_by_field_name("declarator").is_none();
        let type_node = descriptor
            .child_by_field_name("type")
            .filter(|_| is_plain)?;
        Some(self.text(type_node))
    }

    /// The element type of the pointer type that a cast names.
    fn cast_element_type(&self, descriptor: Node<'t>) -> Option<&'a str> {
        let declarator = descriptor.child_by_field_name("declarator")?;
        let is_pointer = declarator.kind() == "abstract_pointer_declarator"
            && declarator.child_by_field_name("declarator").is_none();
        let type_node = descriptor
            .child_by_field_name("type")
            .filter(|_| is_pointer)?;
        Some(self.text(type_node))
    }
}

/// The type that a CUDA library function returns.
fn library_function_type(name: &str) -> Option<&'static str> {
    match name {
        "__bfloat162float" | "__half2float" | "__low2float" | "__high2float" => Some("float"),
        "__float2bfloat16" | "__float2bfloat16_rn" => Some("__nv_bfloat16"),
        "__float2half" | "__float2half_rn" => Some("__half"),
        "__bfloat1622float2" | "__half22float2" | "make_float2" => Some("float2"),
        "make_float4" => Some("float4"),
        "__floats2bfloat162_rn" | "__float22bfloat162_rn" => Some("__nv_bfloat162"),
        _ if is_float_function(name) => Some("float"),
        _ => None,
    }
}

/// The type of a number; `None` if it depends on the number's size.
fn literal_type(text: &str) -> Option<&'static str> {
    let text = text.trim_start_matches(['-', '+']);
    let is_hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let is_fraction = if is_hexadecimal {
        text.contains(['p', 'P'])
    } else {
        text.contains(['.', 'e', 'E'])
    };
    if is_fraction {
        return Some(if text.ends_with(['f', 'F']) {
            "float"
        } else {
            "double"
        });
    }
    let is_digit = |letter: char| {
        letter == '\''
            || letter.is_ascii_digit()
            || is_hexadecimal && (letter.is_ascii_hexdigit() || matches!(letter, 'x' | 'X'))
    };
    let digits = text.trim_end_matches(|letter| !is_digit(letter));
    let is_short = digits.len() < 10;
    match &text[digits.len()..] {
        "" if is_short => Some("int"),
        "u" | "U" if is_short => Some("unsigned"),
        "ll" | "LL" => Some("long long"),
        _ => None,
    }
}

/// Integer types that arithmetic turns into `int`.
const SMALL_INTEGERS: [&str; 11] = [
    "bool",
    "char",
    "signed char",
    "unsigned char",
    "short",
    "unsigned short",
    "int8_t",
    "uint8_t",
    "int16_t",
    "uint16_t",
    "int32_t",
];

/// C++'s conversion ranks, from the lowest to the highest.
const RANKS: [&str; 8] = [
    "int",
    "unsigned",
    "unsigned int",
    "long long",
    "size_t",
    "unsigned long long",
    "float",
    "double",
];

/// Other types whose arithmetic gives the same type.
const CLOSED_TYPES: [&str; 12] = [
    "long",
    "unsigned long",
    "int64_t",
    "uint32_t",
    "uint64_t",
    "__half",
    "half",
    "__half2",
    "half2",
    "__nv_bfloat16",
    "__nv_bfloat162",
    "nv_bfloat16",
];

/// The type of an operand after C++'s promotion of small integers; `None` if the type is unknown.
fn promoted(name: &str) -> Option<&str> {
    if SMALL_INTEGERS.contains(&name) {
        return Some("int");
    }
    (RANKS.contains(&name) || CLOSED_TYPES.contains(&name)).then_some(name)
}

/// The type of an arithmetic operation on two types, after C++'s promotions and conversions.
fn arithmetic_type<'a>(left: &'a str, right: &'a str) -> Option<&'a str> {
    let (left, right) = (promoted(left)?, promoted(right)?);
    if left == right {
        return Some(left);
    }
    let rank = |name: &str| RANKS.iter().position(|other| *other == name);
    Some(if rank(left)? > rank(right)? {
        left
    } else {
        right
    })
}
