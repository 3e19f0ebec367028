//! The parser of expressions: recursive descent, one method for each level of the grammar.
//!
//! Limits the depth and the number of operators, so that neither parsing nor evaluating exhausts the stack.

use super::tree::{BinaryOperator, BuiltinFunction, ExpressionError, ExpressionNode};

/// How deeply an expression may nest: far more than a real one needs, far less than the stack allows.
const MAX_EXPRESSION_DEPTH: usize = 64;
/// How many operators an expression may have: a chain of n operators makes a tree of depth n.
const MAX_OPERATORS: usize = 512;

/// The callable functions: name, function, and the least and greatest number of arguments.
const BUILTIN_FUNCTIONS: [(&str, BuiltinFunction, usize, usize); 5] = [
    ("min", BuiltinFunction::Min, 1, 16),
    ("max", BuiltinFunction::Max, 1, 16),
    ("ceil_div", BuiltinFunction::CeilDiv, 2, 2),
    ("next_pow2", BuiltinFunction::NextPow2, 1, 1),
    ("if", BuiltinFunction::If, 3, 3),
];

type ParseResult = Result<ExpressionNode, ExpressionError>;

pub(super) struct ExpressionParser<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
    operators: usize,
}

impl<'a> ExpressionParser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            position: 0,
            depth: 0,
            operators: 0,
        }
    }

    /// Parses the whole text.
    pub(super) fn parse(mut self) -> ParseResult {
        let root = self.or()?;
        self.skip_space();
        if self.position < self.text.len() {
            return Err(self.unexpected("an operator"));
        }
        Ok(root)
    }

    fn or(&mut self) -> ParseResult {
        self.binary_keywords("or", BinaryOperator::Or, Self::and)
    }

    fn and(&mut self) -> ParseResult {
        self.binary_keywords("and", BinaryOperator::And, Self::not)
    }

    fn binary_keywords(
        &mut self,
        word: &str,
        operator: BinaryOperator,
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
            left = ExpressionNode::Binary(operator, Box::new(left), Box::new(next(self)?), offset);
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
                // As in C, where sizes are whole numbers.
                ("/", BinaryOperator::Divide),
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
            let Some((symbol, operator)) =
                symbols.iter().find(|(symbol, _)| rest.starts_with(symbol))
            else {
                return Ok(left);
            };
            let offset = self.position;
            self.count_operator()?;
            self.position += symbol.len();
            left = ExpressionNode::Binary(*operator, Box::new(left), Box::new(next(self)?), offset);
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
            return parse_integer(&rest[..length])
                .map(ExpressionNode::Integer)
                .ok_or_else(|| {
                    ExpressionError::new(
                        offset,
                        format!("`{}` is not a 64-bit integer", &rest[..length]),
                    )
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
        let Some((_, function, min, max)) =
            BUILTIN_FUNCTIONS.iter().find(|(known, ..)| *known == name)
        else {
            let known = BUILTIN_FUNCTIONS.map(|(known, ..)| known).join("`, `");
            return Err(ExpressionError::new(
                offset,
                format!("unknown function `{name}`: there are `{known}`"),
            ));
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
        if arguments.len() < *min || arguments.len() > *max {
            let wanted = if min == max {
                format!("{min}")
            } else {
                format!("{min} to {max}")
            };
            return Err(ExpressionError::new(
                offset,
                format!("`{name}` takes {wanted} arguments, not {}", arguments.len()),
            ));
        }
        Ok(ExpressionNode::Call(*function, arguments, offset))
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Self) -> ParseResult) -> ParseResult {
        self.depth += 1;
        if self.depth > MAX_EXPRESSION_DEPTH {
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
        ExpressionError::new(self.position, message)
    }
}

/// A whole number as C writes it: decimal or hexadecimal, with an optional suffix such as `u`.
fn parse_integer(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(['u', 'U', 'l', 'L']);
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}
