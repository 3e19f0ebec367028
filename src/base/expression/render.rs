//! Expressions as code of a language, for exported kernels.
//!
//! The text calls functions that check what [`Expression::evaluate`](super::Expression::evaluate) checks, and fail: `add`, `sub`, `mul`,
//! `neg`, `floor_div`, `floor_mod`, `ceil_div`, `next_pow2`, `minimum`, `maximum`. The exports define them. `and`, `or` and `if` leave out
//! what is not evaluated. Evaluates nothing.

use super::tree::{BinaryOperator, BuiltinFunction, ExpressionNode};

/// A language in which the host code of an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Cpp,
    Python,
    /// Functions that fail return a `Result`, so `?` follows each call.
    Rust,
}

impl Language {
    /// A 64-bit integer that is not negative.
    fn integer(self, value: i64) -> String {
        match self {
            Self::Cpp => format!("INT64_C({value})"),
            Self::Python => value.to_string(),
            Self::Rust => format!("{value}_i64"),
        }
    }

    /// A call of a function that may fail.
    pub(crate) fn call(self, function: &str, arguments: &str) -> String {
        let mark = if self == Self::Rust { "?" } else { "" };
        format!("{function}({arguments}){mark}")
    }

    /// One of two values.
    fn choose(self, condition: &str, yes: &str, no: &str) -> String {
        match self {
            Self::Cpp => format!("({condition} ? {yes} : {no})"),
            Self::Python => format!("({yes} if {condition} else {no})"),
            Self::Rust => format!("(if {condition} {{ {yes} }} else {{ {no} }})"),
        }
    }

    /// 1 or 0.
    fn truth(self, condition: &str) -> String {
        self.choose(condition, &self.integer(1), &self.integer(0))
    }

    fn either(self) -> &'static str {
        if self == Self::Python { "or" } else { "||" }
    }

    fn both(self) -> &'static str {
        if self == Self::Python { "and" } else { "&&" }
    }
}

/// The text of a node. `name_of` gives the text of each name.
pub(super) fn render(
    node: &ExpressionNode,
    language: Language,
    name_of: &dyn Fn(&str) -> String,
) -> String {
    let text = |node: &ExpressionNode| render(node, language, name_of);
    match node {
        ExpressionNode::Integer(value) => language.integer(*value),
        ExpressionNode::Name(name, _) => name_of(name),
        ExpressionNode::Negate(inner, _) => language.call("neg", &text(inner)),
        ExpressionNode::Not(inner) => language.truth(&format!("{} == 0", text(inner))),
        ExpressionNode::Binary(operator, left, right, _) => {
            binary(*operator, language, &text(left), &text(right))
        }
        ExpressionNode::Call(function, arguments, _) => {
            let arguments: Vec<String> = arguments.iter().map(text).collect();
            call(*function, language, arguments)
        }
    }
}

fn call(function: BuiltinFunction, language: Language, arguments: Vec<String>) -> String {
    // The smallest of several values, two at a time. These two never fail.
    let in_pairs = |name: &str, arguments: Vec<String>| {
        let joined = arguments.into_iter();
        let joined = joined.reduce(|left, right| format!("{name}({left}, {right})"));
        joined.unwrap_or_default()
    };
    match function {
        BuiltinFunction::Min => in_pairs("minimum", arguments),
        BuiltinFunction::Max => in_pairs("maximum", arguments),
        BuiltinFunction::CeilDiv => language.call("ceil_div", &arguments.join(", ")),
        BuiltinFunction::NextPow2 => language.call("next_pow2", &arguments.join(", ")),
        BuiltinFunction::If => {
            let [condition, yes, no] =
                [0, 1, 2].map(|index| arguments.get(index).cloned().unwrap_or_default());
            language.choose(&format!("{condition} != 0"), &yes, &no)
        }
    }
}

fn binary(operator: BinaryOperator, language: Language, left: &str, right: &str) -> String {
    let compared = |symbol: &str| language.truth(&format!("{left} {symbol} {right}"));
    let joined = |word: &str| language.truth(&format!("{left} != 0 {word} {right} != 0"));
    let called = |name: &str| language.call(name, &format!("{left}, {right}"));
    match operator {
        BinaryOperator::Or => joined(language.either()),
        BinaryOperator::And => joined(language.both()),
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
