//! What the names in a function stand for: declarations, types, and the memory that pointers lead to.
//!
//! Knows only what the file spells; what it does not know it calls unknown, and transformations stay away from it.

use std::ops::Range;

use tree_sitter::Node;

use super::subject::Subject;
use crate::kernel::syntax::{
    FunctionNode, children, contains, descendants, enclosing, named_children,
};

/// How far expressions and pointers are followed.
const MAX_DEPTH: usize = 64;

/// A function with its declarations.
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
    pub pointer_depth: usize,
    /// Array sizes, the outermost first.
    pub array_sizes: Vec<Node<'t>>,
    pub is_const: bool,
    pub is_restrict: bool,
    pub is_reference: bool,
    pub is_shared: bool,
    /// The place in the parameter list.
    pub parameter_index: Option<usize>,
    pub initializer: Option<Node<'t>>,
    /// The whole declaration or parameter.
    pub node: Node<'t>,
    /// The identifier.
    pub identifier: Node<'t>,
    /// Where the name is visible.
    pub visible_range: Range<usize>,
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
            let kinds = ["declaration", "parameter_declaration", "for_range_loop"];
            if !kinds.contains(&node.kind()) {
                continue;
            }
            let around = [
                "compound_statement",
                "for_statement",
                "if_statement",
                "while_statement",
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

    fn declare(
        &mut self,
        node: Node<'t>,
        declarator: Node<'t>,
        parameter: Option<usize>,
        end: usize,
    ) {
        let text = |node: Node<'_>| self.subject.text(node);
        let qualifies = |word: &str| {
            children(node).any(|child| child.kind() == "type_qualifier" && text(child) == word)
        };
        let mut declared = Declaration {
            name: "",
            type_name: node.child_by_field_name("type").map_or("", text),
            pointer_depth: 0,
            array_sizes: Vec::new(),
            is_const: qualifies("const") || qualifies("constexpr"),
            is_restrict: false,
            is_reference: false,
            is_shared: qualifies("__shared__"),
            parameter_index: parameter,
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
                    declared.pointer_depth += 1;
                    declared.is_restrict |=
                        children(at).any(|child| text(child).starts_with("__restrict"));
                }
                "array_declarator" if parameter.is_some() => declared.pointer_depth += 1,
                "array_declarator" => {
                    // The tree holds the last size outermost.
                    if let Some(size) = at.child_by_field_name("size") {
                        declared.array_sizes.insert(0, size);
                    } else {
                        declared.pointer_depth += 1;
                    }
                }
                "reference_declarator" => declared.is_reference = true,
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
        declared.name = text(at);
        declared.identifier = at;
        self.declarations.push(declared);
    }

    pub(super) fn text(&self, node: Node<'_>) -> &'a str {
        self.subject.text(node)
    }

    /// What a name stands for at a place: the innermost declaration that is visible there.
    pub(super) fn lookup(&self, name: &str, at: usize) -> Option<&Declaration<'t, 'a>> {
        self.declarations
            .iter()
            .filter(|declared| declared.name == name && declared.visible_range.contains(&at))
            .min_by_key(|declared| declared.visible_range.len())
    }

    pub(super) fn lookup_node(&self, identifier: Node<'_>) -> Option<&Declaration<'t, 'a>> {
        self.lookup(self.text(identifier), identifier.start_byte())
    }

    /// The parameter of a name, where nothing shadows it.
    pub(super) fn unshadowed_parameter(&self, name: &str) -> Option<&Declaration<'t, 'a>> {
        let mut same = self
            .declarations
            .iter()
            .filter(|declared| declared.name == name);
        same.next()
            .filter(|first| first.parameter_index.is_some() && same.next().is_none())
    }

    /// Every use of a name within a node.
    pub(super) fn uses(&self, within: Node<'t>, name: &str) -> Vec<Node<'t>> {
        descendants(within)
            .filter(|node| node.kind() == "identifier" && self.text(*node) == name)
            .collect()
    }

    /// The type of an expression's value, without qualifiers; `None` where it is not known or no plain value.
    pub(super) fn type_of(&self, node: Node<'t>) -> Option<&'a str> {
        self.type_at_depth(node, 0)
    }

    fn type_at_depth(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        let of = |field: &str| self.type_at_depth(node.child_by_field_name(field)?, depth + 1);
        let inner = |node: Node<'t>| self.type_at_depth(named_children(node).next()?, depth + 1);
        match node.kind() {
            "number_literal" => Some(literal_type(self.text(node))),
            "true" | "false" => Some("bool"),
            "identifier" => match self.lookup_node(node) {
                Some(declared)
                    if declared.pointer_depth == 0 && declared.array_sizes.is_empty() =>
                {
                    match declared.type_name {
                        "auto" => self.type_at_depth(declared.initializer?, depth + 1),
                        kind => Some(kind),
                    }
                }
                Some(_) => None,
                None => self
                    .subject
                    .is_named_constant(self.text(node))
                    .then_some("int")
                    .or_else(|| self.subject.constant_value(node).map(|_| "int")),
            },
            "subscript_expression" => {
                self.element_type(node.child_by_field_name("argument")?, depth + 1)
            }
            "field_expression" => {
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
                    structure => self.field_type(structure, field),
                }
            }
            "call_expression" => self.call_type(node, depth),
            "cast_expression" => self.cast_type(node.child_by_field_name("type")?),
            "parenthesized_expression" => inner(node),
            "unary_expression" => match node.child_by_field_name("operator")?.kind() {
                "!" => Some("bool"),
                _ => of("argument"),
            },
            "binary_expression" => match node.child_by_field_name("operator")?.kind() {
                "<" | "<=" | ">" | ">=" | "==" | "!=" | "&&" | "||" => Some("bool"),
                _ => arithmetic_type(of("left")?, of("right")?),
            },
            "conditional_expression" => arithmetic_type(of("consequence")?, of("alternative")?),
            "assignment_expression" => of("left"),
            "update_expression" => of("argument"),
            _ => None,
        }
    }

    fn call_type(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        let function = node.child_by_field_name("function")?;
        let arguments: Vec<_> = named_children(node.child_by_field_name("arguments")?).collect();
        let first = || self.type_at_depth(*arguments.first()?, depth + 1);
        match function.kind() {
            "primitive_type" => return Some(self.text(function)),
            "template_function" => {
                let name = self.text(function.child_by_field_name("name")?);
                let target = named_children(function.child_by_field_name("arguments")?).next()?;
                return if name.ends_with("_cast") {
                    self.cast_type(target)
                } else {
                    None
                };
            }
            _ => {}
        }
        let name = self.text(function);
        if let Some(defined) = self
            .subject
            .functions()
            .into_iter()
            .find(|defined| self.subject.syntax.function_name(defined) == name)
        {
            let is_plain = defined
                .node
                .child_by_field_name("declarator")
                .is_some_and(|declarator| declarator.kind() == "function_declarator");
            return is_plain.then(|| {
                defined
                    .node
                    .child_by_field_name("type")
                    .map(|kind| self.text(kind))
            })?;
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
            "__bfloat162float" | "__half2float" | "__low2float" | "__high2float" => Some("float"),
            "__float2bfloat16" | "__float2bfloat16_rn" => Some("__nv_bfloat16"),
            "__float2half" | "__float2half_rn" => Some("__half"),
            "__bfloat1622float2" | "__half22float2" | "make_float2" => Some("float2"),
            "make_float4" => Some("float4"),
            "__floats2bfloat162_rn" | "__float22bfloat162_rn" => Some("__nv_bfloat162"),
            "max" | "min" | "abs" => first(),
            _ if super::effects::is_float_function(name) => Some("float"),
            _ => None,
        }
    }

    /// The type of what a pointer or an array leads to in one step.
    pub(super) fn element_type(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        match node.kind() {
            "identifier" => {
                let declared = self.lookup_node(node)?;
                (declared.pointer_depth + declared.array_sizes.len() == 1
                    && declared.type_name != "auto")
                    .then_some(declared.type_name)
            }
            "subscript_expression" => {
                // An array of two dimensions.
                let argument = node
                    .child_by_field_name("argument")
                    .filter(|argument| argument.kind() == "identifier")?;
                let declared = self.lookup_node(argument)?;
                (declared.pointer_depth + declared.array_sizes.len() == 2)
                    .then_some(declared.type_name)
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
                    .then(|| self.cast_element_type(target))?
            }
            "binary_expression" => {
                let side =
                    |field: &str| self.element_type(node.child_by_field_name(field)?, depth + 1);
                side("left").or_else(|| side("right"))
            }
            _ => None,
        }
    }

    fn cast_type(&self, descriptor: Node<'t>) -> Option<&'a str> {
        let is_plain = descriptor.child_by_field_name("declarator").is_none();
        is_plain.then(|| {
            descriptor
                .child_by_field_name("type")
                .map(|kind| self.text(kind))
        })?
    }

    fn cast_element_type(&self, descriptor: Node<'t>) -> Option<&'a str> {
        let declarator = descriptor.child_by_field_name("declarator")?;
        let is_pointer = declarator.kind() == "abstract_pointer_declarator"
            && declarator.child_by_field_name("declarator").is_none();
        is_pointer.then(|| {
            descriptor
                .child_by_field_name("type")
                .map(|kind| self.text(kind))
        })?
    }

    fn field_type(&self, structure: &str, field: &str) -> Option<&'a str> {
        let named = |node: Node<'_>, name: &str| {
            node.child_by_field_name("name")
                .is_some_and(|own| self.text(own) == name)
        };
        let definition = descendants(self.subject.syntax.root())
            .find(|node| node.kind() == "struct_specifier" && named(*node, structure))?;
        named_children(definition.child_by_field_name("body")?)
            .filter(|member| member.kind() == "field_declaration")
            .find(|member| {
                let mut cursor = member.walk();
                member
                    .children_by_field_name("declarator", &mut cursor)
                    .any(|declarator| self.text(declarator) == field)
            })
            .and_then(|member| member.child_by_field_name("type"))
            .map(|kind| self.text(kind))
    }

    /// What memory an lvalue or a pointer leads to: the name of a parameter or of an array, through local pointers; `None` if unknown.
    pub(super) fn memory_root(&self, node: Node<'t>) -> Option<&'a str> {
        self.memory_root_at_depth(node, 0)
    }

    fn memory_root_at_depth(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        let of =
            |field: &str| self.memory_root_at_depth(node.child_by_field_name(field)?, depth + 1);
        match node.kind() {
            "identifier" => {
                let declared = self.lookup_node(node)?;
                if declared.is_reference {
                    None
                } else if declared.pointer_depth > 0
                    && declared.parameter_index.is_none()
                    && declared.array_sizes.is_empty()
                {
                    // A local pointer leads where its initialiser does, if it is never moved elsewhere.
                    let is_moved =
                        super::effects::assigns_variable(self, self.function.body, declared.name);
                    if is_moved {
                        None
                    } else {
                        self.memory_root_at_depth(declared.initializer?, depth + 1)
                    }
                } else {
                    Some(declared.name)
                }
            }
            "subscript_expression" | "field_expression" | "pointer_expression" => of("argument"),
            "parenthesized_expression" => {
                self.memory_root_at_depth(named_children(node).next()?, depth + 1)
            }
            "cast_expression" => of("value"),
            "call_expression" => {
                let function = node
                    .child_by_field_name("function")
                    .filter(|function| function.kind() == "template_function")?;
                let is_cast = self
                    .text(function.child_by_field_name("name")?)
                    .ends_with("_cast");
                let argument = named_children(node.child_by_field_name("arguments")?).next()?;
                is_cast.then(|| self.memory_root_at_depth(argument, depth + 1))?
            }
            "binary_expression" => of("left").or_else(|| of("right")),
            _ => None,
        }
    }

    /// Whether two roots may be the same memory.
    pub(super) fn may_alias(&self, left: Option<&str>, right: Option<&str>) -> bool {
        let (Some(left), Some(right)) = (left, right) else {
            return true;
        };
        if left == right {
            return true;
        }
        match (
            self.unshadowed_parameter(left),
            self.unshadowed_parameter(right),
        ) {
            (Some(left), Some(right)) => match (left.parameter_index, right.parameter_index) {
                (Some(first), Some(second)) if self.function.is_global => self
                    .subject
                    .parameters_may_alias(&self.function, first, second),
                _ => !(left.is_restrict && right.is_restrict),
            },
            // Arrays of the function are nobody else's, unless a name stands for two of them.
            _ => [left, right].iter().any(|name| {
                self.declarations
                    .iter()
                    .filter(|declared| declared.name == *name)
                    .count()
                    == 0
            }),
        }
    }

    /// Whether all names in an expression mean the same in front of `region` as within it.
    pub(super) fn resolves_same_before(&self, expression: Node<'t>, region: Node<'t>) -> bool {
        descendants(expression)
            .filter(|node| node.kind() == "identifier")
            .all(|node| {
                let name = self.text(node);
                match self.lookup_node(node) {
                    None => true,
                    Some(declared) => {
                        declared.identifier.start_byte() < region.start_byte()
                            && self
                                .lookup(name, region.start_byte())
                                .is_some_and(|outside| {
                                    outside.identifier.id() == declared.identifier.id()
                                })
                    }
                }
            })
    }

    /// A name for the value of an expression, made from the last name in it.
    pub(super) fn suggest_name(&self, expression: Node<'t>) -> String {
        let names: Vec<_> = descendants(expression)
            .filter(|node| node.kind() == "identifier")
            .map(|node| self.text(node))
            .collect();
        let last = match expression.kind() {
            // The array says more than the index.
            "subscript_expression" => names.first(),
            "call_expression" => names.get(1).or(names.last()),
            _ => names.last(),
        };
        last.map_or("value".to_owned(), |name| {
            name.to_lowercase().trim_matches('_').to_owned()
        })
    }

    /// Whether a node lies where it is executed whenever `region` is: under no condition and in no loop of its own.
    pub(super) fn is_unconditional(&self, node: Node<'t>, region: Node<'t>) -> bool {
        let mut at = node;
        while at.id() != region.id() {
            let Some(parent) = at.parent() else {
                return false;
            };
            if !contains(region, parent) {
                return true;
            }
            let field = |name: &str| {
                parent
                    .child_by_field_name(name)
                    .is_some_and(|child| child.id() == at.id())
            };
            let is_conditional = match parent.kind() {
                "if_statement" | "conditional_expression" | "while_statement" => {
                    !field("condition")
                }
                "for_statement" => parent.id() != region.id() && !field("initializer"),
                "binary_expression" => {
                    let operator = parent
                        .child_by_field_name("operator")
                        .map_or("", |operator| operator.kind());
                    matches!(operator, "&&" | "||") && field("right")
                }
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

fn literal_type(text: &str) -> &'static str {
    let text = text.trim_start_matches(['-', '+']);
    if text.starts_with("0x") || text.starts_with("0X") {
        return if text.ends_with(['u', 'U']) {
            "unsigned"
        } else {
            "int"
        };
    }
    if text.contains(['.', 'e', 'E']) {
        return if text.ends_with(['f', 'F']) {
            "float"
        } else {
            "double"
        };
    }
    match text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '\'') {
        "" => "int",
        "u" | "U" => "unsigned",
        _ => "long long",
    }
}

/// The type that arithmetic on two values gives.
fn arithmetic_type<'a>(left: &'a str, right: &'a str) -> Option<&'a str> {
    const ORDER: [&str; 10] = [
        "bool",
        "char",
        "short",
        "int",
        "unsigned",
        "unsigned int",
        "long long",
        "size_t",
        "float",
        "double",
    ];
    if left == right {
        return Some(if matches!(left, "bool" | "char" | "short") {
            "int"
        } else {
            left
        });
    }
    let rank = |kind: &str| ORDER.iter().position(|other| *other == kind);
    let (first, second) = (rank(left)?, rank(right)?);
    Some(match first.max(second) {
        0..=3 => "int",
        _ if first > second => left,
        _ => right,
    })
}
