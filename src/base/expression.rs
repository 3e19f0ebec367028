//! Integer expressions over named values, as kernel headers and `task.yaml` write them.
//!
//! Grammar, loosest first: `or`, `and`, `not`, comparisons (`== != < <= > >=`), `+ -`, `* // %`, unary `-`, then integers, names,
//! parentheses and the calls `min max ceil_div next_pow2 if(c, a, b)`. Everything is a checked 64-bit integer; truth is 1 and 0.
//! Division and remainder round towards minus infinity, as in Python. Nothing here panics, whatever the text.

use std::fmt;

/// How deeply an expression may nest: far beyond any honest one, far below the stack.
const MAX_DEPTH: usize = 64;
/// How many operators an expression may hold: a chain of them nests as deeply as it is long.
const MAX_OPERATORS: usize = 512;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    root: ExpressionNode,
}

/// Why an expression could not be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// Byte offset in the expression's text where the trouble starts.
    pub offset: usize,
    pub message: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ExpressionError {}

#[derive(Clone, Debug, PartialEq)]
enum ExpressionNode {
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
enum BinaryOperator {
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
enum BuiltinFunction {
    Min,
    Max,
    CeilDiv,
    NextPow2,
    If,
}

const BUILTIN_FUNCTIONS: [(&str, BuiltinFunction, usize, usize); 5] = [
    ("min", BuiltinFunction::Min, 1, 16),
    ("max", BuiltinFunction::Max, 1, 16),
    ("ceil_div", BuiltinFunction::CeilDiv, 2, 2),
    ("next_pow2", BuiltinFunction::NextPow2, 1, 1),
    ("if", BuiltinFunction::If, 3, 3),
];

impl Expression {
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut parser = Parser {
            text,
            position: 0,
            depth: 0,
            operators: 0,
        };
        let root = parser.or()?;
        parser.skip_space();
        if parser.position < text.len() {
            return Err(parser.unexpected("an operator"));
        }
        Ok(Self {
            text: text.to_owned(),
            root,
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every name used, with its byte offset, in order of appearance.
    pub fn names(&self) -> Vec<(&str, usize)> {
        let mut names = Vec::new();
        collect_names(&self.root, &mut names);
        names
    }

    /// The value under a binding of names. Untaken branches of `if`, `and` and `or` are not evaluated.
    pub fn evaluate(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> Result<i64, ExpressionError> {
        evaluate_node(&self.root, value_of)
    }
}

/// Splits at top-level commas. Each part is trimmed and comes with its byte offset; an empty text has no parts.
/// Angle brackets do not nest: an argument such as `f<a, b>` belongs into a `kernel:` line, not into a list.
pub fn split_list(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, 0);
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push((start, &text[start..offset]));
                start = offset + 1;
            }
            _ => {}
        }
    }
    if start > 0 || !text.trim().is_empty() {
        parts.push((start, &text[start..]));
    }
    parts
        .into_iter()
        .map(|(offset, part)| (offset + (part.len() - part.trim_start().len()), part.trim()))
        .collect()
}

fn collect_names<'a>(node: &'a ExpressionNode, names: &mut Vec<(&'a str, usize)>) {
    match node {
        ExpressionNode::Integer(_) => {}
        ExpressionNode::Name(name, offset) => names.push((name, *offset)),
        ExpressionNode::Negate(inner, _) | ExpressionNode::Not(inner) => {
            collect_names(inner, names)
        }
        ExpressionNode::Binary(_, left, right, _) => {
            collect_names(left, names);
            collect_names(right, names);
        }
        ExpressionNode::Call(_, arguments, _) => arguments
            .iter()
            .for_each(|argument| collect_names(argument, names)),
    }
}

fn evaluate_node(
    node: &ExpressionNode,
    value_of: &dyn Fn(&str) -> Option<i64>,
) -> Result<i64, ExpressionError> {
    let fail = |offset: &usize, message: String| {
        Err(ExpressionError {
            offset: *offset,
            message,
        })
    };
    match node {
        ExpressionNode::Integer(value) => Ok(*value),
        ExpressionNode::Name(name, offset) => match value_of(name) {
            Some(value) => Ok(value),
            None => fail(offset, format!("unknown name `{name}`")),
        },
        ExpressionNode::Negate(inner, offset) => {
            match evaluate_node(inner, value_of)?.checked_neg() {
                Some(value) => Ok(value),
                None => fail(offset, "the value does not fit 64 bits".to_owned()),
            }
        }
        ExpressionNode::Not(inner) => Ok(i64::from(evaluate_node(inner, value_of)? == 0)),
        ExpressionNode::Binary(operation, left, right, offset) => {
            let left = evaluate_node(left, value_of)?;
            match (operation, left != 0) {
                (BinaryOperator::Or, true) => return Ok(1),
                (BinaryOperator::And, false) => return Ok(0),
                _ => {}
            }
            let right = evaluate_node(right, value_of)?;
            if right == 0
                && matches!(
                    operation,
                    BinaryOperator::Divide | BinaryOperator::Remainder
                )
            {
                return fail(offset, "division by zero".to_owned());
            }
            match apply_operator(*operation, left, right) {
                Some(value) => Ok(value),
                None => fail(offset, "the value does not fit 64 bits".to_owned()),
            }
        }
        ExpressionNode::Call(BuiltinFunction::If, arguments, _) => {
            let taken = if evaluate_node(&arguments[0], value_of)? != 0 {
                1
            } else {
                2
            };
            evaluate_node(&arguments[taken], value_of)
        }
        ExpressionNode::Call(function, arguments, offset) => {
            let values = arguments
                .iter()
                .map(|argument| evaluate_node(argument, value_of))
                .collect::<Result<Vec<_>, _>>()?;
            match call_builtin(*function, &values) {
                Ok(value) => Ok(value),
                Err(message) => fail(offset, message.to_owned()),
            }
        }
    }
}

fn apply_operator(operation: BinaryOperator, left: i64, right: i64) -> Option<i64> {
    Some(match operation {
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
    let too_large = "the value does not fit 64 bits";
    match (function, values) {
        (BuiltinFunction::Min, values) => values.iter().copied().min().ok_or("`min` of nothing"),
        (BuiltinFunction::Max, values) => values.iter().copied().max().ok_or("`max` of nothing"),
        (BuiltinFunction::CeilDiv, [_, 0]) => Err("division by zero"),
        (BuiltinFunction::CeilDiv, [left, right]) => left
            .checked_neg()
            .and_then(|negated| floor_div(negated, *right))
            .and_then(i64::checked_neg)
            .ok_or(too_large),
        (BuiltinFunction::NextPow2, [value]) => u64::try_from((*value).max(1))
            .ok()
            .and_then(u64::checked_next_power_of_two)
            .and_then(|power| i64::try_from(power).ok())
            .ok_or(too_large),
        _ => Err("wrong number of arguments"),
    }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
    operators: usize,
}

type ParseResult = Result<ExpressionNode, ExpressionError>;

impl<'a> Parser<'a> {
    fn or(&mut self) -> ParseResult {
        self.binary_keywords("or", BinaryOperator::Or, Self::and)
    }

    fn and(&mut self) -> ParseResult {
        self.binary_keywords("and", BinaryOperator::And, Self::not)
    }

    fn binary_keywords(
        &mut self,
        word: &str,
        operation: BinaryOperator,
        next: fn(&mut Self) -> ParseResult,
    ) -> ParseResult {
        let mut left = next(self)?;
        loop {
            let offset = self.position;
            if self.peek_word() != Some(word) {
                return Ok(left);
            }
            self.skip_space();
            self.count_operator()?;
            self.position += word.len();
            left = ExpressionNode::Binary(operation, Box::new(left), Box::new(next(self)?), offset);
        }
    }

    fn not(&mut self) -> ParseResult {
        if self.peek_word() == Some("not") {
            self.skip_space();
            self.position += "not".len();
            return self.nested(|parser| Ok(ExpressionNode::Not(Box::new(parser.not()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> ParseResult {
        self.binary_symbols(
            &[
                ("==", BinaryOperator::Equal),
                ("!=", BinaryOperator::NotEqual),
                ("<=", BinaryOperator::LessEqual),
                (">=", BinaryOperator::GreaterEqual),
                ("<", BinaryOperator::Less),
                (">", BinaryOperator::Greater),
            ],
            Self::sum,
        )
    }

    fn sum(&mut self) -> ParseResult {
        self.binary_symbols(
            &[("+", BinaryOperator::Add), ("-", BinaryOperator::Subtract)],
            Self::product,
        )
    }

    fn product(&mut self) -> ParseResult {
        self.binary_symbols(
            &[
                ("*", BinaryOperator::Multiply),
                ("//", BinaryOperator::Divide),
                ("%", BinaryOperator::Remainder),
            ],
            Self::unary,
        )
    }

    fn binary_symbols(
        &mut self,
        symbols: &[(&str, BinaryOperator)],
        next: fn(&mut Self) -> ParseResult,
    ) -> ParseResult {
        let mut left = next(self)?;
        loop {
            self.skip_space();
            let rest = &self.text[self.position..];
            let Some((symbol, operation)) =
                symbols.iter().find(|(symbol, _)| rest.starts_with(symbol))
            else {
                if rest.starts_with('/') && !rest.starts_with("//") {
                    return Err(self.error(
                        "`/` is not an operator here: `//` divides integers, rounding down",
                    ));
                }
                return Ok(left);
            };
            let offset = self.position;
            self.count_operator()?;
            self.position += symbol.len();
            left =
                ExpressionNode::Binary(*operation, Box::new(left), Box::new(next(self)?), offset);
        }
    }

    fn unary(&mut self) -> ParseResult {
        self.skip_space();
        let offset = self.position;
        if self.text[offset..].starts_with('-') {
            self.position += 1;
            return self
                .nested(|parser| Ok(ExpressionNode::Negate(Box::new(parser.unary()?), offset)));
        }
        self.atom()
    }

    fn atom(&mut self) -> ParseResult {
        self.skip_space();
        let offset = self.position;
        let rest = &self.text[offset..];
        if rest.starts_with('(') {
            self.position += 1;
            let inner = self.nested(Self::or)?;
            self.expect(')')?;
            return Ok(inner);
        }
        if rest.starts_with(|first: char| first.is_ascii_digit()) {
            let length = rest
                .find(|letter: char| !letter.is_ascii_alphanumeric())
                .unwrap_or(rest.len());
            self.position += length;
            return rest[..length]
                .parse()
                .map(ExpressionNode::Integer)
                .map_err(|_| ExpressionError {
                    offset,
                    message: format!("`{}` is not a 64-bit integer", &rest[..length]),
                });
        }
        let Some(name) = self.peek_word() else {
            return Err(self.unexpected("a number, a name or `(`"));
        };
        if ["and", "or", "not"].contains(&name) {
            return Err(self.unexpected("a number, a name or `(`"));
        }
        self.position += name.len();
        self.skip_space();
        if !self.text[self.position..].starts_with('(') {
            return Ok(ExpressionNode::Name(name.to_owned(), offset));
        }
        self.position += 1;
        self.nested(|parser| parser.call(name, offset))
    }

    fn call(&mut self, name: &str, offset: usize) -> ParseResult {
        let Some((_, function, least, most)) =
            BUILTIN_FUNCTIONS.iter().find(|(known, ..)| *known == name)
        else {
            let known = BUILTIN_FUNCTIONS.map(|(known, ..)| known).join("`, `");
            return Err(ExpressionError {
                offset,
                message: format!("unknown function `{name}`: there are `{known}`"),
            });
        };
        let mut arguments = Vec::new();
        loop {
            arguments.push(self.or()?);
            self.skip_space();
            if !self.text[self.position..].starts_with(',') {
                break;
            }
            self.position += 1;
        }
        self.expect(')')?;
        if arguments.len() < *least || arguments.len() > *most {
            let wanted = if least == most {
                format!("{least}")
            } else {
                format!("{least} to {most}")
            };
            return Err(ExpressionError {
                offset,
                message: format!("`{name}` takes {wanted} arguments, not {}", arguments.len()),
            });
        }
        Ok(ExpressionNode::Call(*function, arguments, offset))
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Self) -> ParseResult) -> ParseResult {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("the expression nests too deeply"));
        }
        let node = inner(self);
        self.depth -= 1;
        node
    }

    fn count_operator(&mut self) -> Result<(), ExpressionError> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return Err(self.error("the expression has too many operators"));
        }
        Ok(())
    }

    fn peek_word(&self) -> Option<&'a str> {
        let rest = self.text[self.position..].trim_start();
        let is_start = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
        let length = rest
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
            .unwrap_or(rest.len());
        rest.starts_with(is_start).then(|| &rest[..length])
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.position..];
        self.position += rest.len() - rest.trim_start().len();
    }

    fn expect(&mut self, wanted: char) -> Result<(), ExpressionError> {
        self.skip_space();
        if self.text[self.position..].starts_with(wanted) {
            self.position += wanted.len_utf8();
            return Ok(());
        }
        Err(self.unexpected(&format!("`{wanted}`")))
    }

    fn unexpected(&self, wanted: &str) -> ExpressionError {
        match self.text[self.position..].chars().next() {
            Some(found) => self.error(&format!("expected {wanted}, found `{found}`")),
            None => self.error(&format!("expected {wanted}, found the end")),
        }
    }

    fn error(&self, message: &str) -> ExpressionError {
        ExpressionError {
            offset: self.position,
            message: message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<i64, String> {
        let names = |name: &str| match name {
            "batch" => Some(4),
            "rows" => Some(10),
            _ => None,
        };
        Expression::parse(text)
            .and_then(|expression| expression.evaluate(&names))
            .map_err(|error| format!("{}: {error}", error.offset))
    }

    #[test]
    fn header_expressions_are_evaluated() {
        for (text, expected) in [
            ("batch * rows", 40),
            ("2 + 3 * 4", 14),
            ("(2 + 3) * 4", 20),
            ("rows // (2 * batch)", 1),
            ("-7 // 2", -4),
            ("-7 % 3", 2),
            ("ceil_div(rows, batch)", 3),
            ("next_pow2(rows)", 16),
            ("if(batch <= 4 and not rows == 3, min(batch, 2), 1 // 0)", 2),
            ("batch == 4 or 1 // 0 == 1", 1),
            ("max(1, batch, rows)", 10),
            ("1 - - 1", 2),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_byte_and_the_cause() {
        for (text, error) in [
            (
                "batch / 2",
                "6: `/` is not an operator here: `//` divides integers, rounding down",
            ),
            ("batch * ros", "8: unknown name `ros`"),
            ("1 // 0", "2: division by zero"),
            (
                "9223372036854775807 + 1",
                "20: the value does not fit 64 bits",
            ),
            ("12ab", "0: `12ab` is not a 64-bit integer"),
            ("ceil_div(1)", "0: `ceil_div` takes 2 arguments, not 1"),
            (
                "round(1)",
                "0: unknown function `round`: there are `min`, `max`, `ceil_div`, `next_pow2`, `if`",
            ),
            ("(1", "2: expected `)`, found the end"),
            ("1 é", "2: expected an operator, found `é`"),
            ("", "0: expected a number, a name or `(`, found the end"),
        ] {
            assert_eq!(value(text), Err(error.to_owned()), "{text}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
        assert!(value(&"-".repeat(100_000)).is_err());
        assert_eq!(value(&vec!["1"; 500].join(" + ")), Ok(500));
        for operator in ["+", "*", " or ", " and ", "<"] {
            let chain = vec!["1"; 1_000_000].join(operator);
            let error = value(&chain).unwrap_err();
            assert!(error.contains("too many operators"), "{error}");
        }
    }

    #[test]
    fn lists_are_split_at_top_level_commas_only() {
        assert_eq!(
            split_list(" a, min(b, c) ,d"),
            [(1, "a"), (4, "min(b, c)"), (15, "d")]
        );
        assert_eq!(split_list("  "), []);
        assert_eq!(split_list("a,"), [(0, "a"), (2, "")]);
    }
}
