//! Checks expressions: parsing, evaluation with extreme values, and splitting into lists.

use kforge::base::expression::{Expression, split_list};

const VALUES: [i64; 10] = [0, 1, -1, 2, 3, 7, 1024, -4096, i64::MAX, i64::MIN];

pub fn expression(input: &[u8]) {
    let text = super::lossy_text(input);
    check_lists(&text);
    let expression = match Expression::parse(&text) {
        Ok(expression) => expression,
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "{error:?}");
            assert!(!error.message.is_empty());
            return;
        }
    };
    assert_eq!(expression.text(), text);
    for (name, offset) in expression.names() {
        assert!(
            text[offset..].starts_with(name),
            "`{name}` is not at {offset}"
        );
    }
    // Parentheses around the whole change nothing. An expression of the greatest depth allows no more of them.
    let enclosed = Expression::parse(&format!("( {text} )")).ok();
    for seed in 0..VALUES.len() as u64 {
        let value_of = |name: &str| {
            let index = super::hash(name.as_bytes()).wrapping_add(seed) % VALUES.len() as u64;
            (name != "absent").then(|| VALUES[index as usize])
        };
        let value = expression.evaluate(&value_of);
        if let Err(error) = &value {
            assert!(text.is_char_boundary(error.offset), "{error:?}");
        }
        assert_eq!(
            value,
            expression.evaluate(&value_of),
            "a second evaluation differs"
        );
        if let Some(enclosed) = &enclosed {
            assert_eq!(value.ok(), enclosed.evaluate(&value_of).ok());
        }
    }
}

/// Every part is at its offset, and there is one more part than there are top-level commas.
fn check_lists(text: &str) {
    let parts = split_list(text);
    for (offset, part) in &parts {
        assert_eq!(&text[*offset..*offset + part.len()], *part);
        assert_eq!(part.trim(), *part);
    }
    let plain = !text.contains(['(', ')', '[', ']']);
    if plain && !text.trim().is_empty() {
        assert_eq!(parts.len(), text.matches(',').count() + 1);
    }
}
