//! Reads the arguments of a launch: names, expressions, casts and constants.
//!
//! Names of the task come first, so an axis may have the name of a constant. The compiler checks types later.

use super::constants::{Cast, CastType, Constant, parse_cast, parse_constant};
use super::error::HeaderError;
use super::header::{ArgumentHeader, FloatHeader};
use super::header_lists::ListItem;
use super::header_reader::HeaderChecker;
use crate::base::expression::Expression;
use crate::task::DType;

impl HeaderChecker<'_> {
    pub(super) fn parse_argument(&self, item: &ListItem) -> Result<ArgumentHeader, HeaderError> {
        let text = item.text.as_str();
        if let Some(argument) = self.named_argument(item)? {
            return Ok(argument);
        }
        if let Some(constant) = parse_constant(text) {
            return Ok(ArgumentHeader::Constant(constant));
        }
        if let Some(cast) = parse_cast(text) {
            return self.parse_cast_argument(&cast, item);
        }
        for prefix in ["i32(", "u32(", "i64(", "f32(", "f64(", "f16(", "bf16("] {
            if text.starts_with(prefix) && !text.ends_with(')') {
                let message = format!("argument `{text}`: the parenthesis is not closed");
                return Err(HeaderError::new(item.line, message));
            }
        }
        let is_name_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if !text.is_empty() && text.chars().all(is_name_letter) && !self.is_number_name(text) {
            self.check_tensor_name(text, item.line)?;
        }
        self.parse_untyped(item)
    }

    /// A tensor, a scalar, a tensor map or an axis; `None` for any other text.
    fn named_argument(&self, item: &ListItem) -> Result<Option<ArgumentHeader>, HeaderError> {
        let name = item.text.as_str();
        let input = self.definition.inputs.get(name);
        Ok(Some(if input.is_some_and(|input| input.shape.is_none()) {
            ArgumentHeader::Scalar(name.to_owned())
        } else if (self.yaml.tensor_maps.as_ref()).is_some_and(|maps| maps.contains_key(name)) {
            ArgumentHeader::TensorMap(name.to_owned())
        } else if self.definition.axes.contains_key(name) {
            let axis = self.parse_expression(name, item.line, item.offset)?;
            ArgumentHeader::Integer(axis)
        } else if self.is_tensor(name) {
            ArgumentHeader::Tensor(name.to_owned())
        } else {
            return Ok(None);
        }))
    }

    /// Whether a name is that of a tunable or of a device limit.
    fn is_number_name(&self, name: &str) -> bool {
        self.tunables.contains_key(name) || super::header_reader::DEVICE_LIMIT_NAMES.contains(&name)
    }

    /// A whole-number expression without a type.
    fn parse_untyped(&self, item: &ListItem) -> Result<ArgumentHeader, HeaderError> {
        let text = item.text.as_str();
        if let Ok(expression) = Expression::parse(text) {
            let names = expression.names();
            if let Some((name, _)) = names.iter().find(|(name, _)| self.is_tensor(name)) {
                let message =
                    format!("argument `{text}`: the tensor `{name}` can only be passed whole");
                return Err(HeaderError::new(item.line, message)
                    .hint("pass its name, and compute the offset in the kernel"));
            }
        }
        let located = self
            .parse_expression(text, item.line, item.offset)
            .map_err(|error| {
                let hint = error.hint.clone();
                let message = format!("argument `{text}` is no name, constant or whole-number expression: {}", error.message);
                HeaderError::new(error.line, message).hint(hint.unwrap_or_else(|| {
                    "arguments are tensors, scalars and axes by name, expressions such as `i32(rows * 2)`, and constants such as `1e-5`, `true`, `nullptr`"
                        .to_owned()
                }))
            })?;
        Ok(ArgumentHeader::Integer(located))
    }

    fn parse_cast_argument(
        &self,
        cast: &Cast<'_>,
        item: &ListItem,
    ) -> Result<ArgumentHeader, HeaderError> {
        let expression = || self.parse_expression(cast.inner, item.line, item.offset + cast.offset);
        Ok(match cast.kind {
            CastType::I32 => ArgumentHeader::I32(expression()?),
            CastType::U32 => ArgumentHeader::U32(expression()?),
            CastType::I64 => ArgumentHeader::I64(expression()?),
            CastType::Bool => match parse_constant(cast.inner) {
                Some(Constant::Bool(value)) => ArgumentHeader::Constant(Constant::Bool(value)),
                Some(Constant::Integer(value)) => {
                    ArgumentHeader::Constant(Constant::Bool(value != 0))
                }
                _ => return Err(self.cast_error(item, "`bool(…)` takes `true` or `false`")),
            },
            CastType::Float(dtype) => self.parse_float_argument(dtype, cast, item)?,
        })
    }

    fn parse_float_argument(
        &self,
        dtype: DType,
        cast: &Cast<'_>,
        item: &ListItem,
    ) -> Result<ArgumentHeader, HeaderError> {
        let inner = cast.inner.trim();
        let value = match parse_constant(inner) {
            Some(Constant::Float(value)) => FloatHeader::Number(value),
            Some(Constant::Integer(value)) => FloatHeader::Number(value as f64),
            // A division of whole numbers would lose the fraction that was meant.
            None if !inner.contains(['/', '%', '.']) => FloatHeader::Expression(
                self.parse_expression(cast.inner, item.line, item.offset + cast.offset)?,
            ),
            _ => {
                return Err(self.cast_error(
                    item,
                    "expected a number such as `0.125`, or a whole-number expression without a division",
                ));
            }
        };
        Ok(ArgumentHeader::Float(dtype, value))
    }

    fn cast_error(&self, item: &ListItem, message: &str) -> HeaderError {
        HeaderError::new(item.line, format!("argument `{}`: {message}", item.text))
    }
}
