//! Constants and casts in `args`: numbers, truth values, null pointers, and the names of limits as C and CUDA have them.
//!
//! Recognizes text only. `header_reader` decides what a name means, and the compiler whether a parameter accepts a constant.

use crate::task::DType;

/// A constant that a launch passes. The parameter decides its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Null,
}

/// A type that an argument is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CastType {
    I32,
    U32,
    I64,
    Bool,
    Float(DType),
}

/// An argument with an explicit type, such as `i32(rows)`, `(float)1e-5` or `static_cast<int>(rows)`.
pub(super) struct Cast<'a> {
    pub(super) kind: CastType,
    pub(super) inner: &'a str,
    /// Where `inner` starts in the argument, in bytes.
    pub(super) offset: usize,
}

/// Reads a constant: `1e-5`, `-1`, `0x10`, `1.0f`, `true`, `nullptr`, `FLT_MAX`, `-INFINITY`.
pub(super) fn parse_constant(text: &str) -> Option<Constant> {
    match text {
        "true" | "True" | "TRUE" => return Some(Constant::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Constant::Bool(false)),
        "nullptr" | "NULL" | "null" | "None" => return Some(Constant::Null),
        _ => {}
    }
    let (is_negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text.strip_prefix('+').unwrap_or(text).trim_start()),
    };
    let constant = named_constant(body).or_else(|| parse_number(body))?;
    Some(match constant {
        Constant::Integer(value) if is_negative => Constant::Integer(-value),
        Constant::Float(value) if is_negative => Constant::Float(-value),
        constant => constant,
    })
}

/// A constant without a sign, by the name that C, C++ or CUDA gives it.
fn named_constant(name: &str) -> Option<Constant> {
    use std::f64::consts;
    let name = name.strip_prefix("cuda::").unwrap_or(name);
    let name = name.strip_prefix("std::").unwrap_or(name);
    let float = match name {
        "INFINITY"
        | "inf"
        | "infinity"
        | "HUGE_VALF"
        | "CUDART_INF_F"
        | "numeric_limits<float>::infinity()"
        | "numeric_limits<double>::infinity()" => f64::INFINITY,
        "NAN" | "nan" | "NaN" | "CUDART_NAN_F" => f64::NAN,
        "FLT_MAX" | "numeric_limits<float>::max()" => f64::from(f32::MAX),
        "numeric_limits<float>::lowest()" => f64::from(f32::MIN),
        "FLT_MIN" | "numeric_limits<float>::min()" => f64::from(f32::MIN_POSITIVE),
        "FLT_EPSILON" | "numeric_limits<float>::epsilon()" => f64::from(f32::EPSILON),
        "DBL_MAX" | "numeric_limits<double>::max()" => f64::MAX,
        "DBL_MIN" | "numeric_limits<double>::min()" => f64::MIN_POSITIVE,
        "DBL_EPSILON" | "numeric_limits<double>::epsilon()" => f64::EPSILON,
        "M_PI" => consts::PI,
        "M_PI_2" => consts::FRAC_PI_2,
        "M_PI_4" => consts::FRAC_PI_4,
        "M_1_PI" => consts::FRAC_1_PI,
        "M_2_PI" => consts::FRAC_2_PI,
        "M_2_SQRTPI" => consts::FRAC_2_SQRT_PI,
        "M_SQRT2" => consts::SQRT_2,
        "M_SQRT1_2" => consts::FRAC_1_SQRT_2,
        "M_E" => consts::E,
        "M_LOG2E" => consts::LOG2_E,
        "M_LOG10E" => consts::LOG10_E,
        "M_LN2" => consts::LN_2,
        "M_LN10" => consts::LN_10,
        _ => {
            let integer = match name {
                "INT_MAX" | "INT32_MAX" | "numeric_limits<int>::max()" => i64::from(i32::MAX),
                "INT_MIN" | "INT32_MIN" | "numeric_limits<int>::min()" => i64::from(i32::MIN),
                "UINT_MAX" | "UINT32_MAX" => i64::from(u32::MAX),
                "LONG_MAX" | "LLONG_MAX" | "INT64_MAX" => i64::MAX,
                _ => return None,
            };
            return Some(Constant::Integer(integer));
        }
    };
    Some(Constant::Float(float))
}

/// A number without a sign, as C++ or Python write it.
fn parse_number(text: &str) -> Option<Constant> {
    if let Some(value) = parse_integer(text) {
        return Some(Constant::Integer(value));
    }
    let digits = text.replace('\'', "").to_ascii_lowercase();
    let (digits, is_single) = match digits.strip_suffix('f') {
        Some(digits) => (digits, true),
        None => (digits.strip_suffix('l').unwrap_or(&digits), false),
    };
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && digits.contains(|letter: char| letter.is_ascii_digit())
        && digits
            .chars()
            .all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | 'e' | '+' | '-'));
    if !is_number {
        return None;
    }
    // An integer that does not fit 64 bits is no floating-point number.
    if !is_single && digits.chars().all(|letter| letter.is_ascii_digit()) {
        return None;
    }
    let value = if is_single {
        f64::from(digits.parse::<f32>().ok()?)
    } else {
        digits.parse().ok()?
    };
    Some(Constant::Float(value))
}

/// A whole number without a sign: `16`, `0x10`, `1'000u`.
pub(super) fn parse_integer(text: &str) -> Option<i64> {
    let digits = text.replace(['\'', '_'], "").to_ascii_lowercase();
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some(digits) = digits.strip_prefix("0x") {
        return i64::from_str_radix(digits.trim_end_matches(['u', 'l']), 16).ok();
    }
    let digits = digits.trim_end_matches(['u', 'l']);
    digits
        .bytes()
        .all(|letter| letter.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Reads a cast in the form of a call, of C, or of `static_cast`.
pub(super) fn parse_cast(text: &str) -> Option<Cast<'_>> {
    let cast = |name: &str, inner: &'_ str| cast_type(name).map(|kind| (kind, inner.len()));
    let (kind, length) = if let Some(rest) = text.strip_prefix("static_cast<") {
        let (name, rest) = rest.split_once('>')?;
        cast(name, whole_parentheses(rest.trim_start())?)?
    } else if let Some(rest) = text.strip_prefix('(') {
        let (name, inner) = rest.split_once(')')?;
        let (kind, length) = cast(name, inner)?;
        return Some(Cast {
            kind,
            inner: inner.trim(),
            offset: text.len() - length + (inner.len() - inner.trim_start().len()),
        })
        .filter(|cast| !cast.inner.is_empty());
    } else {
        let open = text.find('(')?;
        cast(&text[..open], whole_parentheses(&text[open..])?)?
    };
    // `inner` ends before the last parenthesis.
    let start = text.len() - 1 - length;
    Some(Cast {
        kind,
        inner: &text[start..start + length],
        offset: start,
    })
}

/// The inside of a text that is one pair of parentheses.
fn whole_parentheses(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut depth = 0i32;
    let balanced = inner.chars().all(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth >= 0
    });
    (balanced && depth == 0).then_some(inner)
}

fn cast_type(name: &str) -> Option<CastType> {
    let words: Vec<_> = name
        .split_whitespace()
        .filter(|word| *word != "const")
        .collect();
    Some(match words.join(" ").as_str() {
        "i32" | "s32" | "int" | "int32" | "int32_t" | "signed int" => CastType::I32,
        "u32" | "uint" | "uint32" | "uint32_t" | "unsigned" | "unsigned int" => CastType::U32,
        "i64" | "s64" | "int64" | "int64_t" | "long" | "long int" | "long long"
        | "long long int" | "u64" | "uint64" | "uint64_t" | "size_t" | "std::size_t"
        | "unsigned long" | "unsigned long long" | "ptrdiff_t" => CastType::I64,
        "bool" => CastType::Bool,
        "f32" | "float" | "float32" => CastType::Float(DType::Float32),
        "f64" | "double" | "float64" => CastType::Float(DType::Float64),
        "f16" | "half" | "__half" | "float16" => CastType::Float(DType::Float16),
        "bf16" | "bfloat16" | "nv_bfloat16" | "__nv_bfloat16" => CastType::Float(DType::BFloat16),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_read_as_cpp_and_python_write_them() {
        for (text, expected) in [
            ("1", Some(Constant::Integer(1))),
            ("-1", Some(Constant::Integer(-1))),
            ("- 1", Some(Constant::Integer(-1))),
            ("0x10", Some(Constant::Integer(16))),
            ("16u", Some(Constant::Integer(16))),
            ("1'000LL", Some(Constant::Integer(1000))),
            ("1.0", Some(Constant::Float(1.0))),
            ("1.0f", Some(Constant::Float(1.0))),
            ("1f", Some(Constant::Float(1.0))),
            ("1.", Some(Constant::Float(1.0))),
            (".5F", Some(Constant::Float(0.5))),
            ("1e-5", Some(Constant::Float(1e-5))),
            ("1e-5f", Some(Constant::Float(f64::from(1e-5f32)))),
            ("-1E+5", Some(Constant::Float(-1e5))),
            ("INT_MAX", Some(Constant::Integer(2_147_483_647))),
            ("-FLT_MAX", Some(Constant::Float(-f64::from(f32::MAX)))),
            ("-INFINITY", Some(Constant::Float(f64::NEG_INFINITY))),
            (
                "std::numeric_limits<float>::infinity()",
                Some(Constant::Float(f64::INFINITY)),
            ),
            (
                "M_SQRT1_2",
                Some(Constant::Float(std::f64::consts::FRAC_1_SQRT_2)),
            ),
            ("true", Some(Constant::Bool(true))),
            ("False", Some(Constant::Bool(false))),
            ("nullptr", Some(Constant::Null)),
            ("NULL", Some(Constant::Null)),
            ("99999999999999999999", None),
            ("1e", None),
            ("-", None),
            ("", None),
            (".", None),
            ("e5", None),
            ("1.0.0", None),
            ("12ab", None),
            ("é", None),
            ("rows", None),
        ] {
            assert_eq!(parse_constant(text), expected, "{text}");
        }
        assert!(matches!(parse_constant("NAN"), Some(Constant::Float(value)) if value.is_nan()));
    }

    #[test]
    fn casts_are_recognized_in_every_form() {
        let cast = |text| parse_cast(text).map(|cast| (cast.kind, cast.inner, cast.offset));
        let single = CastType::Float(DType::Float32);
        for (text, expected) in [
            ("i32(rows * 2)", Some((CastType::I32, "rows * 2", 4))),
            ("(float)1e-5", Some((single, "1e-5", 7))),
            ("(float) 1e-5", Some((single, "1e-5", 8))),
            ("float(1e-5)", Some((single, "1e-5", 6))),
            ("static_cast<float>(1e-5)", Some((single, "1e-5", 19))),
            (
                "(long long)(rows * 2)",
                Some((CastType::I64, "(rows * 2)", 11)),
            ),
            ("unsigned int(rows)", Some((CastType::U32, "rows", 13))),
            ("(rows) * 2", None),
            ("i32(a) + i32(b)", None),
            ("i32(a", None),
            ("min(a, b)", None),
            ("(int)", None),
            ("(é)", None),
        ] {
            assert_eq!(cast(text), expected, "{text}");
        }
    }
}
