//! Expressions as C++, for exported kernels.
//!
//! The text calls functions that check what [`Expression::evaluate`](super::Expression::evaluate) checks, and throw: `add`, `sub`, `mul`,
//! `neg`, `floor_div`, `floor_mod`, `ceil_div`, `next_pow2`, `minimum`, `maximum`. The exports define them. `and`, `or` and `if` leave out
//! what is not evaluated. Evaluates nothing.

use super::tree::{BinaryOperator, BuiltinFunction, ExpressionNode};

/// The C++ text of a node. `name_of` gives the text of each name.
pub(super) fn render(node: &ExpressionNode, name_of: &dyn Fn(&str) -> String) -> String {
    let text = |node: &ExpressionNode| render(node, name_of);
    match node {
        ExpressionNode::Integer(value) => format!("INT64_C({value})"),
        ExpressionNode::Name(name, _) => name_of(name),
        ExpressionNode::Negate(inner, _) => format!("neg({})", text(inner)),
        ExpressionNode::Not(inner) => truth(&format!("{} == 0", text(inner))),
        ExpressionNode::Binary(operator, left, right, _) => {
            binary(*operator, &text(left), &text(right))
        }
        ExpressionNode::Call(function, arguments, _) => {
            let arguments: Vec<String> = arguments.iter().map(text).collect();
            call(*function, arguments)
        }
    }
}

fn call(function: BuiltinFunction, arguments: Vec<String>) -> String {
    // The smallest of several values, two at a time.
    let in_pairs = |name: &str, arguments: Vec<String>| {
        let joined = arguments.into_iter();
        let joined = joined.reduce(|left, right| format!("{name}({left}, {right})"));
        joined.unwrap_or_default()
    };
    match function {
        BuiltinFunction::Min => in_pairs("minimum", arguments),
        BuiltinFunction::Max => in_pairs("maximum", arguments),
        BuiltinFunction::CeilDiv => format!("ceil_div({})", arguments.join(", ")),
        BuiltinFunction::NextPow2 => format!("next_pow2({})", arguments.join(", ")),
        BuiltinFunction::If => {
            let [condition, yes, no] =
                [0, 1, 2].map(|index| arguments.get(index).cloned().unwrap_or_default());
            format!("({condition} != 0 ? {yes} : {no})")
        }
    }
}

fn binary(operator: BinaryOperator, left: &str, right: &str) -> String {
    let compared = |symbol: &str| truth(&format!("{left} {symbol} {right}"));
    let called = |name: &str| format!("{name}({left}, {right})");
    match operator {
        BinaryOperator::Or => truth(&format!("{left} != 0 || {right} != 0")),
        BinaryOperator::And => truth(&format!("{left} != 0 && {right} != 0")),
        BinaryOperator::Equal => compared("=="),
        BinaryOperator::NotEqual => compared("!="),
        BinaryOperator::Less => compared("<"),
        BinaryOperator::LessEqual => compared("<="),
        BinaryOperator::Greater => compared(">"),
        BinaryOperator::GreaterEqual => compared(">="),
        BinaryOperator::Add => called("add"),
        BinaryOperator::Subtract => called("sub"),
        BinaryOperator::Multiply => called("mul"),
        BinaryOperator::Divide => called("floor_div"),
        BinaryOperator::Remainder => called("floor_mod"),
    }
}

/// 1 or 0.
fn truth(condition: &str) -> String {
    format!("({condition} ? INT64_C(1) : INT64_C(0))")
}
