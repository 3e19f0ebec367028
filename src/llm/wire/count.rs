//! Token counts as servers write them: whole numbers, floats, strings of digits, `null`.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The value as a count; `None` if it is no count. A float is rounded. A negative number is no count.
pub(super) fn count_of(value: &Value) -> Option<u64> {
    let from_float = |number: f64| {
        // A cast of a float is saturating.
        (number.is_finite() && number >= 0.0).then(|| number.round() as u64)
    };
    match value {
        Value::Number(number) => number.as_u64().or_else(|| from_float(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| from_float(text.parse().ok()?))
        }
        _ => None,
    }
}

/// For `deserialize_with`: anything that is not a count is `None`, so that it cannot discard a reply.
pub(super) fn deserialize_count<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    Ok(count_of(&Value::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_read_in_every_notation() {
        for (value, expected) in [
            (json!(7), Some(7)),
            (json!(7.0), Some(7)),
            (json!(6.6), Some(7)),
            (json!("7"), Some(7)),
            (json!(" 7.0 "), Some(7)),
            (json!(1e30), Some(u64::MAX)),
            (json!(-1), None),
            (json!("many"), None),
            (json!("NaN"), None),
            (json!(null), None),
            (json!([7]), None),
        ] {
            assert_eq!(count_of(&value), expected, "{value}");
        }
    }
}
