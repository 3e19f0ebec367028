//! The tree of an expression, and its evaluation.
//!
//! Recursive: the parser limits the depth of the tree.

use std::fmt;

const OVERFLOW: &str = "the value does not fit 64 bits";
const DIVISION_BY_ZERO: &str = "division by zero";

/// The reason why an expression could not be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// Where the error is, as a byte offset in the expression's text.
    pub offset: usize,
    pub message: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ExpressionError {}

impl ExpressionError {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
        }
    }
}

/// A node. Each `usize` is the byte offset at which an error of the node is reported.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ExpressionNode {
    Integer(i64),
    Name(String, usize),
    Negate(Box<ExpressionNode>, usize),
    Not(Box<ExpressionNode>),
    Binary(
        BinaryOperator,
        Box<ExpressionNode>,
        Box<ExpressionNode>,
        usize,
    ),
    Call(BuiltinFunction, Vec<ExpressionNode>, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinaryOperator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BuiltinFunction {
    Min,
    Max,
    CeilDiv,
    NextPow2,
    If,
}

impl ExpressionNode {
    /// Appends every name below this node, with its byte offset.
    pub(super) fn collect_names<'a>(&'a self, names: &mut Vec<(&'a str, usize)>) {
        match self {
            ExpressionNode::Integer(_) => {}
            ExpressionNode::Name(name, offset) => names.push((name, *offset)),
            ExpressionNode::Negate(inner, _) | ExpressionNode::Not(inner) => {
                inner.collect_names(names)
            }
            ExpressionNode::Binary(_, left, right, _) => {
                left.collect_names(names);
                right.collect_names(names);
            }
            ExpressionNode::Call(_, arguments, _) => arguments
                .iter()
                .for_each(|argument| argument.collect_names(names)),
        }
    }

    /// The value of this node. See [`Expression::evaluate`](super::Expression::evaluate).
    pub(super) fn evaluate(
        &self,
        value_of: &dyn Fn(&str) -> Option<i64>,
    ) -> Result<i64, ExpressionError> {
        match self {
            Self::Integer(value) => Ok(*value),
            Self::Name(name, offset) => value_of(name)
                .ok_or_else(|| ExpressionError::new(*offset, format!("unknown name `{name}`"))),
            Self::Negate(inner, offset) => inner
                .evaluate(value_of)?
                .checked_neg()
                .ok_or_else(|| ExpressionError::new(*offset, OVERFLOW)),
            Self::Not(inner) => Ok(i64::from(inner.evaluate(value_of)? == 0)),
            Self::Binary(operator, left, right, offset) => {
                let left = left.evaluate(value_of)?;
                match operator {
                    BinaryOperator::Or if left != 0 => return Ok(1),
                    BinaryOperator::And if left == 0 => return Ok(0),
                    _ => {}
                }
                let right = right.evaluate(value_of)?;
                let divides =
                    matches!(operator, BinaryOperator::Divide | BinaryOperator::Remainder);
                if right == 0 && divides {
                    return Err(ExpressionError::new(*offset, DIVISION_BY_ZERO));
                }
                apply_operator(*operator, left, right)
                    .ok_or_else(|| ExpressionError::new(*offset, OVERFLOW))
            }
            Self::Call(BuiltinFunction::If, arguments, _) => {
                let is_true = arguments[0].evaluate(value_of)? != 0;
                arguments[if is_true { 1 } else { 2 }].evaluate(value_of)
            }
            Self::Call(function, arguments, offset) => {
                let values = arguments
                    .iter()
                    .map(|argument| argument.evaluate(value_of))
                    .collect::<Result<Vec<_>, _>>()?;
                call_builtin(*function, &values)
                    .map_err(|message| ExpressionError::new(*offset, message))
            }
        }
    }
}

fn apply_operator(operator: BinaryOperator, left: i64, right: i64) -> Option<i64> {
    Some(match operator {
        BinaryOperator::Or | BinaryOperator::And => i64::from(right != 0),
        BinaryOperator::Equal => i64::from(left == right),
        BinaryOperator::NotEqual => i64::from(left != right),
        BinaryOperator::Less => i64::from(left < right),
        BinaryOperator::LessEqual => i64::from(left <= right),
        BinaryOperator::Greater => i64::from(left > right),
        BinaryOperator::GreaterEqual => i64::from(left >= right),
        BinaryOperator::Add => left.checked_add(right)?,
        BinaryOperator::Subtract => left.checked_sub(right)?,
        BinaryOperator::Multiply => left.checked_mul(right)?,
        BinaryOperator::Divide => floor_div(left, right)?,
        BinaryOperator::Remainder => {
            left.checked_sub(floor_div(left, right)?.checked_mul(right)?)?
        }
    })
}

fn floor_div(left: i64, right: i64) -> Option<i64> {
    let quotient = left.checked_div(right)?;
    let rounded_up = left.checked_rem(right)? != 0 && (left < 0) != (right < 0);
    Some(if rounded_up { quotient - 1 } else { quotient })
}

fn call_builtin(function: BuiltinFunction, values: &[i64]) -> Result<i64, &'static str> {
    match (function, values) {
        (BuiltinFunction::Min, values) => values.iter().copied().min().ok_or("`min` of nothing"),
        (BuiltinFunction::Max, values) => values.iter().copied().max().ok_or("`max` of nothing"),
        (BuiltinFunction::CeilDiv, [_, 0]) => Err(DIVISION_BY_ZERO),
        (BuiltinFunction::CeilDiv, [left, right]) => left
            .checked_neg()
            .and_then(|negated| floor_div(negated, *right))
            .and_then(i64::checked_neg)
            .ok_or(OVERFLOW),
        (BuiltinFunction::NextPow2, [value]) => u64::try_from((*value).max(1))
            .ok()
            .and_then(u64::checked_next_power_of_two)
            .and_then(|power| i64::try_from(power).ok())
            .ok_or(OVERFLOW),
        _ => Err("wrong number of arguments"),
    }
}
