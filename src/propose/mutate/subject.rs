//! The kernel that transformations rewrite: its syntax tree, its header, and the values that its constants can have.
//!
//! Read-only. A transformation sees the source through a `Subject` and returns edits.

use std::cell::Cell;
use std::collections::HashSet;

use indexmap::IndexMap;
use tree_sitter::Node;

use super::macros::Macros;
use crate::kernel::syntax::{FunctionNode, Syntax, children, descendants};
use crate::kernel::{ArgumentHeader, Header, Kernel};
use crate::task::Task;

/// Maximum number of tunable points to evaluate. With more, no value that depends on a tunable counts as known.
const MAX_POINTS: usize = 512;

/// Evaluates an integer expression at one tunable point; `None` if the value is unknown.
type EvaluateAtPoint<'e> = dyn Fn(Node<'_>) -> Option<i64> + 'e;

/// The value of a name at one tunable point; `None` if it is unknown.
type ValueOfName<'v> = dyn Fn(&str) -> Option<i64> + 'v;

pub(crate) struct Subject<'a> {
    pub syntax: Syntax<'a>,
    pub header: Header,
    task: &'a Task,
    /// Every combination of tunable values: one empty point without tunables, no point above `MAX_POINTS`.
    points: Vec<IndexMap<String, i64>>,
    names: HashSet<&'a str>,
    macros: Macros<'a>,
    /// Constants of the file whose names a function declares again.
    shadowed: HashSet<&'a str>,
    /// Variables at namespace scope that are not constant.
    globals: HashSet<&'a str>,
}

impl<'a> Subject<'a> {
    /// `None` if the source is not a kernel of the task, or has syntax errors.
    pub(crate) fn new(source: &'a str, task: &'a Task) -> Option<Self> {
        let header = Kernel::parse(source, &task.definition).ok()?.header;
        let syntax = Syntax::parse(source);
        if !syntax.is_sound() {
            return None;
        }
        let names = descendants(syntax.root())
            .filter(|node| node.child_count() == 0)
            .map(|node| syntax.text(node))
            .collect();
        let points = tunable_points(&header);
        let mut subject = Self {
            syntax,
            header,
            task,
            points,
            names,
            macros: Macros::default(),
            shadowed: HashSet::new(),
            globals: HashSet::new(),
        };
        subject.macros = Macros::of(&subject.syntax, &|name| subject.is_named_constant(name));
        subject.shadowed = shadowed_constants(&subject.syntax);
        subject.globals = global_variables(&subject.syntax);
        Some(subject)
    }

    pub(crate) fn text(&self, node: Node<'_>) -> &'a str {
        self.syntax.text(node)
    }

    pub(crate) fn source(&self) -> &'a str {
        self.syntax.source()
    }

    /// Whether macros or directives make code do what its syntax tree does not show.
    pub(super) fn hides_code(&self, code: Node<'_>) -> bool {
        self.macros.hide_code(&self.syntax, code)
    }

    /// Whether the file defines macros with parameters.
    pub(super) fn has_macro_functions(&self) -> bool {
        self.macros.has_functions()
    }

    /// Whether a name is a variable of the file that may change.
    pub(super) fn is_global_variable(&self, name: &str) -> bool {
        self.globals.contains(name)
    }

    pub(crate) fn functions(&self) -> Vec<FunctionNode<'_>> {
        self.syntax.functions()
    }

    /// A name that the file does not use yet: `wish`, or `wish` with a number.
    pub(crate) fn fresh_name(&self, wish: &str) -> String {
        std::iter::once(wish.to_owned())
            .chain((2..).map(|number| format!("{wish}_{number}")))
            .find(|name| {
                !self.names.contains(name.as_str()) && !self.header.tunables.contains_key(name)
            })
            .unwrap_or_default()
    }

    /// Whether a condition holds for every combination of tunable values.
    ///
    /// The condition receives a function that evaluates expressions, and returns `None` if a value is unknown.
    pub(crate) fn holds_at_all_points(
        &self,
        holds: &dyn Fn(&EvaluateAtPoint<'_>) -> Option<bool>,
    ) -> bool {
        let mut points = self.points.iter();
        let uses_tunable = Cell::new(false);
        let holds_at = |point: &IndexMap<String, i64>| {
            let value_of = |name: &str| {
                let tunable = point.get(name).copied();
                uses_tunable.set(uses_tunable.get() || tunable.is_some());
                tunable.or_else(|| self.constant_axis(name))
            };
            holds(&|node| self.evaluate(node, &value_of)) == Some(true)
        };
        // If no tunable was read, the first point decides for all.
        points
            .next()
            .is_some_and(|first| holds_at(first) && (!uses_tunable.get() || points.all(holds_at)))
    }

    /// A value for every combination of tunable values. `None` if there are too many, or if one is unknown.
    ///
    /// `value_at` receives a function that knows the tunables and the constant axes.
    pub(super) fn at_all_points(
        &self,
        value_at: &dyn Fn(&ValueOfName<'_>) -> Option<i64>,
    ) -> Option<Vec<i64>> {
        let axes = &self.task.definition.axes;
        let values = self.points.iter().map(|point| {
            value_at(&|name| {
                let tunable = point.get(name).copied();
                tunable.or_else(|| axes.get(name).and_then(|axis| axis.value))
            })
        });
        let values: Vec<i64> = values.collect::<Option<_>>()?;
        (!values.is_empty()).then_some(values)
    }

    /// The value of an expression of the code for every combination of tunable values. `None` if one is unknown.
    pub(super) fn values_at_all_points(&self, node: Node<'_>) -> Option<Vec<i64>> {
        let values = self.points.iter().map(|point| {
            let value_of = |name: &str| {
                point
                    .get(name)
                    .copied()
                    .or_else(|| self.constant_axis(name))
            };
            self.evaluate(node, &value_of)
        });
        let values: Vec<i64> = values.collect::<Option<_>>()?;
        (!values.is_empty()).then_some(values)
    }

    /// The value of an expression, if it is known and the same for all tunable values.
    pub(crate) fn constant_value(&self, node: Node<'_>) -> Option<i64> {
        let point = self.points.first()?;
        let value = self.evaluate(node, &|name| {
            point
                .get(name)
                .copied()
                .or_else(|| self.constant_axis(name))
        })?;
        self.holds_at_all_points(&|evaluate| Some(evaluate(node)? == value))
            .then_some(value)
    }

    /// The value of an expression; `None` if a function declares one of its names again.
    fn evaluate(&self, node: Node<'_>, value_of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let is_shadowed = !self.shadowed.is_empty()
            && descendants(node).any(|inner| self.shadowed.contains(self.syntax.text(inner)));
        if is_shadowed {
            return None;
        }
        self.syntax.evaluate_integer(node, value_of)
    }

    /// The value of the constant axis whose upper-case name is `name`.
    pub(super) fn constant_axis(&self, name: &str) -> Option<i64> {
        let axes = &self.task.definition.axes;
        axes.iter()
            .find(|(axis, _)| axis.to_uppercase() == name)?
            .1
            .value
    }

    /// Whether `name` is a tunable or a constant axis.
    pub(crate) fn is_named_constant(&self, name: &str) -> bool {
        self.header.tunables.contains_key(name) || self.constant_axis(name).is_some()
    }

    /// The indices of the launches in the header that run a `__global__` function.
    pub(crate) fn launches_of(&self, function: &FunctionNode<'_>) -> Vec<usize> {
        let name = self.syntax.function_name(function);
        let launches = self.header.launches.iter().enumerate();
        launches
            .filter(|(_, launch)| {
                function.is_global
                    && launch
                        .kernel
                        .split('<')
                        .next()
                        .is_some_and(|called| called.trim() == name)
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether two parameters of a `__global__` function may point to the same memory in some launch.
    ///
    /// Different tensors do not share memory, except an output that the task updates in place. Anything unknown may alias.
    pub(crate) fn parameters_may_alias(
        &self,
        function: &FunctionNode<'_>,
        left: usize,
        right: usize,
    ) -> bool {
        let launches = self.launches_of(function);
        launches.is_empty()
            || launches.iter().any(|launch| {
                let arguments = &self.header.launches[*launch].arguments;
                match (arguments.get(left), arguments.get(right)) {
                    (Some(ArgumentHeader::Tensor(left)), Some(ArgumentHeader::Tensor(right))) => {
                        let in_place = &self.task.settings.in_place;
                        let owner = |name: &String| in_place.get(name).unwrap_or(name).clone();
                        owner(left) == owner(right)
                    }
                    _ => true,
                }
            })
    }
}

/// The names of namespace-scope constants that a parameter or a local variable has too.
fn shadowed_constants<'a>(syntax: &Syntax<'a>) -> HashSet<&'a str> {
    let outer: HashSet<_> = children(syntax.root())
        .filter(|node| node.kind() == "declaration")
        .flat_map(|node| declared_names(syntax, node))
        .collect();
    let mut shadowed = HashSet::new();
    for function in syntax.functions() {
        let declaring = descendants(function.node)
            .filter(|node| matches!(node.kind(), "declaration" | "parameter_declaration"));
        shadowed.extend(
            declaring
                .flat_map(|node| declared_names(syntax, node))
                .filter(|name| outer.contains(name)),
        );
    }
    shadowed
}

/// The names of variables at namespace scope without `const` or `constexpr`.
fn global_variables<'a>(syntax: &Syntax<'a>) -> HashSet<&'a str> {
    let mut globals = HashSet::new();
    let mut walk = descendants(syntax.root());
    while let Some(node) = walk.next() {
        match node.kind() {
            "function_definition" | "comment" | "field_declaration_list" => walk.skip_children(),
            "declaration" => {
                let is_constant = children(node).any(|child| {
                    matches!(syntax.text(child), "const" | "constexpr" | "__constant__")
                });
                if !is_constant {
                    globals.extend(declared_names(syntax, node));
                }
                walk.skip_children();
            }
            _ => {}
        }
    }
    globals
}

/// The names that a declaration or parameter declares.
fn declared_names<'a>(syntax: &Syntax<'a>, declaration: Node<'_>) -> Vec<&'a str> {
    let mut cursor = declaration.walk();
    declaration
        .children_by_field_name("declarator", &mut cursor)
        .filter_map(|declarator| {
            let mut at = declarator;
            while at.kind() != "identifier" {
                at = at.child_by_field_name("declarator").or_else(|| {
                    children(at).find(|child| {
                        child.kind() == "identifier" || child.kind().ends_with("declarator")
                    })
                })?;
            }
            Some(syntax.text(at))
        })
        .collect()
}

/// Every combination of the tunables' values; empty above `MAX_POINTS`.
fn tunable_points(header: &Header) -> Vec<IndexMap<String, i64>> {
    let mut points = vec![IndexMap::new()];
    for (name, values) in &header.tunables {
        if points.len() * values.len() > MAX_POINTS {
            return Vec::new();
        }
        points = points
            .iter()
            .flat_map(|point| {
                values.iter().map(|value| {
                    let mut point = point.clone();
                    point.insert(name.clone(), *value);
                    point
                })
            })
            .collect();
    }
    points
}
