//! `unsigned_index`: indices that are never negative are declared `unsigned`.

use tree_sitter::Node;

use super::nodes::{is_field, operator_of};
use super::scope::{Declaration, Scope};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::ArgumentHeader;
use crate::kernel::syntax::{descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Declares indices as `unsigned` that can never be negative.
///
/// ```text
/// const int row = blockIdx.x * 128 + threadIdx.x;  ->  const unsigned row = …;
/// ```
///
/// Legal for local integers that are set once from values that are never negative, and that are used only in indices,
/// comparisons and sums with other such values. All such variables of a function change together.
///
/// Faster because divisions and remainders by a constant take fewer instructions without a sign.
pub(super) struct UnsignedIndex;

/// Limit of the recursion through initializers.
const MAX_DEPTH: usize = 32;

impl Transformation for UnsignedIndex {
    fn name(&self) -> &'static str {
        "unsigned_index"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            if subject.hides_code(function.body) {
                continue;
            }
            let found: Vec<_> = scope
                .declarations
                .iter()
                .filter(|declaration| {
                    is_integer_set_once(&scope, declaration)
                        && is_never_negative(&scope, declaration, 0)
                        && is_made_of_indices(&scope, declaration, 0)
                        && scope
                            .uses(function.body, declaration.name)
                            .into_iter()
                            .all(|used| may_be_unsigned(&scope, used))
                })
                .collect();
            let Some(first) = found.first() else { continue };
            let mut edits = SourceEdits::new();
            for declaration in &found {
                if let Some(type_node) = declaration.node.child_by_field_name("type") {
                    edits.replace(type_node.byte_range(), "unsigned");
                }
            }
            let names: Vec<_> = found.iter().map(|declaration| declaration.name).collect();
            sites.push(RewriteSite {
                label: names.join(", "),
                line: line_of(first.node),
                edits,
            });
        }
        sites
    }
}

/// Whether a declaration is a local `int` that is set once and never subtracted from or negated.
fn is_integer_set_once<'t>(scope: &Scope<'t, '_>, declaration: &Declaration<'t, '_>) -> bool {
    let mut cursor = declaration.node.walk();
    let is_only_declarator = declaration
        .node
        .children_by_field_name("declarator", &mut cursor)
        .count()
        == 1;
    let is_local_integer = declaration.type_name == "int"
        && declaration.pointer_depth == 0
        && declaration.array_sizes.is_empty()
        && !declaration.is_reference
        && declaration.parameter_index.is_none();
    let is_in_block = declaration.node.kind() == "declaration"
        && declaration
            .node
            .parent()
            .is_some_and(|parent| parent.kind() == "compound_statement");
    is_only_declarator
        && is_local_integer
        && is_in_block
        && !scope.assigns_variable(scope.function.body, declaration.name)
        && !is_subtracted(scope, declaration.name)
}

/// Whether a name occurs in an operand of `-` or `~`.
fn is_subtracted(scope: &Scope<'_, '_>, name: &str) -> bool {
    scope.uses(scope.function.body, name).iter().any(|used| {
        std::iter::successors(used.parent(), Node::parent)
            .take_while(|around| around.kind().ends_with("_expression"))
            .any(|around| {
                matches!(around.kind(), "binary_expression" | "unary_expression")
                    && matches!(operator_of(around), "-" | "~")
            })
    })
}

fn is_never_negative<'t>(
    scope: &Scope<'t, '_>,
    declaration: &Declaration<'t, '_>,
    depth: usize,
) -> bool {
    declaration
        .initializer
        .is_some_and(|value| value_is_never_negative(scope, value, depth + 1))
}

/// Whether a value comes from the index of a thread or a block. Other integers are hardly ever divided.
fn is_made_of_indices<'t>(
    scope: &Scope<'t, '_>,
    declaration: &Declaration<'t, '_>,
    depth: usize,
) -> bool {
    depth < MAX_DEPTH
        && declaration.initializer.is_some_and(|value| {
            descendants(value).any(|node| {
                matches!(scope.text(node), "threadIdx" | "blockIdx")
                    || node.kind() == "identifier"
                        && scope
                            .lookup_node(node)
                            .is_some_and(|inner| is_made_of_indices(scope, inner, depth + 1))
            })
        })
}

/// Whether a parameter is a size in every launch: made of axes and tunables without a difference.
fn is_size(scope: &Scope<'_, '_>, declaration: &Declaration<'_, '_>) -> bool {
    let launches = scope.subject.launches_of(&scope.function);
    let arguments = launches.iter().map(|launch| {
        let launch = &scope.subject.header.launches[*launch];
        launch.arguments.get(declaration.parameter_index?)
    });
    !launches.is_empty()
        && !scope.assigns_variable(scope.function.body, declaration.name)
        && arguments.into_iter().all(|argument| match argument {
            Some(
                ArgumentHeader::I32(size) | ArgumentHeader::U32(size) | ArgumentHeader::I64(size),
            ) => !size.expression.text().contains('-'),
            _ => false,
        })
}

/// Whether a variable of a `for` loop only counts up.
fn counts_up<'t>(scope: &Scope<'t, '_>, declaration: &Declaration<'t, '_>, depth: usize) -> bool {
    let Some(counting) = declaration
        .node
        .parent()
        .filter(|parent| is_field(*parent, "initializer", declaration.node))
    else {
        return false;
    };
    let (Some(update), Some(body)) = (
        counting.child_by_field_name("update"),
        counting.child_by_field_name("body"),
    ) else {
        return false;
    };
    let grows = match (update.kind(), operator_of(update)) {
        ("update_expression", "++") => true,
        ("assignment_expression", "+=") => update
            .child_by_field_name("right")
            .is_some_and(|step| value_is_never_negative(scope, step, depth + 1)),
        _ => false,
    };
    grows && !scope.assigns_variable(body, declaration.name)
}

/// Whether the code around a use computes the same with an unsigned value.
fn may_be_unsigned<'t>(scope: &Scope<'t, '_>, used: Node<'t>) -> bool {
    let mut at = used;
    while let Some(parent) = at.parent() {
        let other_side = || {
            let side = if is_field(parent, "left", at) {
                "right"
            } else {
                "left"
            };
            parent.child_by_field_name(side)
        };
        let other_is = |holds: &dyn Fn(Node<'t>) -> bool| other_side().is_some_and(holds);
        match (parent.kind(), operator_of(parent)) {
            ("parenthesized_expression", _) => {}
            ("binary_expression", "+") if other_is(&|other| is_pointer(scope, other)) => {
                return true;
            }
            ("binary_expression", "+" | "*" | "/" | "%" | ">>") => {
                if !other_is(&|other| value_is_never_negative(scope, other, 0)) {
                    return false;
                }
            }
            ("binary_expression", "<" | "<=" | ">" | ">=" | "==" | "!=") => {
                return other_is(&|other| value_is_never_negative(scope, other, 0));
            }
            ("binary_expression", "&&" | "||") | ("subscript_argument_list", _) => return true,
            ("cast_expression", _) => return true,
            ("init_declarator", _) => return is_plain_number(scope, parent),
            ("assignment_expression", "=" | "+=") => {
                return is_field(parent, "right", at)
                    && parent.child_by_field_name("left").is_some_and(|left| {
                        scope
                            .type_of(left)
                            .is_some_and(|name| NUMBER_TYPES.contains(&name))
                    });
            }
            _ => return false,
        }
        at = parent;
    }
    false
}

/// Types to which an unsigned value converts like an equal signed one.
const NUMBER_TYPES: [&str; 7] = [
    "int",
    "unsigned",
    "unsigned int",
    "long long",
    "size_t",
    "float",
    "double",
];

/// Whether a declarator with a value declares a plain variable of such a type.
fn is_plain_number(scope: &Scope<'_, '_>, declarator: Node<'_>) -> bool {
    let is_plain = declarator
        .child_by_field_name("declarator")
        .is_some_and(|inner| inner.kind() == "identifier");
    let type_name = declarator
        .parent()
        .and_then(|declaration| declaration.child_by_field_name("type"))
        .map(|type_node| scope.text(type_node));
    is_plain && type_name.is_some_and(|name| NUMBER_TYPES.contains(&name))
}

fn is_pointer(scope: &Scope<'_, '_>, node: Node<'_>) -> bool {
    node.kind() == "identifier"
        && scope.lookup_node(node).is_some_and(|declaration| {
            declaration.pointer_depth > 0 || !declaration.array_sizes.is_empty()
        })
}

fn value_is_never_negative<'t>(scope: &Scope<'t, '_>, node: Node<'t>, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let of = |field: &str| {
        node.child_by_field_name(field)
            .is_some_and(|inner| value_is_never_negative(scope, inner, depth + 1))
    };
    match node.kind() {
        "field_expression" => node
            .child_by_field_name("argument")
            .is_some_and(|argument| {
                matches!(
                    scope.text(argument),
                    "threadIdx" | "blockIdx" | "blockDim" | "gridDim"
                )
            }),
        "identifier" => match scope.lookup_node(node) {
            Some(declaration) if declaration.parameter_index.is_some() => {
                is_size(scope, declaration)
            }
            Some(declaration) => {
                let is_steady = is_integer_set_once(scope, declaration)
                    || counts_up(scope, declaration, depth + 1);
                is_steady && is_never_negative(scope, declaration, depth + 1)
            }
            None => scope
                .subject
                .holds_at_all_points(&|evaluate| Some(evaluate(node)? >= 0)),
        },
        "parenthesized_expression" => named_children(node)
            .next()
            .is_some_and(|inner| value_is_never_negative(scope, inner, depth + 1)),
        "binary_expression" => {
            matches!(operator_of(node), "+" | "*" | "/" | "%" | ">>") && of("left") && of("right")
        }
        "number_literal" => scope
            .subject
            .constant_value(node)
            .is_some_and(|value| value >= 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn nonnegative_index_becomes_unsigned() {
        let body = "    const int row = blockIdx.x * 128 + threadIdx.x;\n    int head = row / 16;\n    int left = rows - 1;\n    int back = row % 4;\n    output[row] = x[head - back];\n";
        insta::assert_snapshot!(changes(&UnsignedIndex, body, "row"), @r#"
        -     const int row = blockIdx.x * 128 + threadIdx.x;
        +     const unsigned row = blockIdx.x * 128 + threadIdx.x;
        "#);
        assert_eq!(
            site_labels(
                &UnsignedIndex,
                "    int a = rows + 1;\n    int b = 3;\n    output[a] = x[b];\n"
            ),
            ""
        );
    }

    #[test]
    fn index_that_meets_negative_values_stays_signed() {
        for used in [
            "    for (int d = -2; d <= 2; d++) { if (row + d >= 0) output[row] = x[row + d]; }\n",
            "    int shift = rows - 9;\n    if (row > shift) output[row] = x[0];\n",
            "    auto back = row * 2;\n    output[back - 4] = x[0];\n",
            "    output[max(row, 0)] = x[0];\n",
            "    output[row] = rows > 1 ? row : -1;\n",
            "    int values[1] = {row};\n    output[0] = values[0];\n",
        ] {
            let body = format!("    const int row = blockIdx.x;\n{used}");
            assert_eq!(site_labels(&UnsignedIndex, &body), "", "{body}");
        }
    }
}
